"""Optimizers against singular values and hand computation; schedules as numbers."""

import math

import pytest
import torch
from forked import Forked
from small_world import Spied, Summing, learner_config, model, random_rows
from torch import nn

from r1kit.config import ConfigError
from r1kit.model import fused
from r1kit.train import optimizers
from r1kit.train.objectives import CrossEntropy
from r1kit.train.optimizers import (
    Muon,
    OptimizerConfig,
    ScheduleConfig,
    build,
    orthogonalise,
    orthogonalise_all,
)


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8), (3, 10, 6), (2, 6, 10)])
def test_orthogonalise_keeps_the_singular_vectors_and_levels_the_values(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = u.mT @ orthogonalise(matrix) @ vh.mT  # diagonal, near the identity
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    large = values > 0.05 * values.max()
    assert bool((diagonal[large] > 0.6).all() and (diagonal < 1.3).all())
    off = found - torch.diag_embed(diagonal)
    assert float(off.abs().max()) < 0.06


def test_in_float32_the_last_bits_of_a_matrix_stay_small_and_in_bfloat16_they_do_not() -> None:
    """What another order of a sum does to Muon's update; the right values by the iteration in float64."""
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(64, 48, 48, generator=generator)
    other = matrix * (1 + 1e-7 * torch.randn(64, 48, 48, generator=generator).sign())
    assert not torch.equal(matrix, other)
    moved = {}
    for precision in (torch.float32, torch.bfloat16):
        one, two = (orthogonalise(some, precision=precision) for some in (matrix, other))
        moved[precision] = float((one - two).abs().max())
    assert 0 < moved[torch.float32] < 1e-4 and moved[torch.bfloat16] > 1e-3
    wanted = (matrix / (matrix.norm(dim=(1, 2), keepdim=True) + 1e-7)).double()
    for _ in range(5):
        gram = wanted @ wanted.mT
        wanted = 3.4445 * wanted + (-4.775 * gram + 2.0315 * gram @ gram) @ wanted
    torch.testing.assert_close(
        orthogonalise(matrix, precision=torch.float32), wanted.float(), atol=1e-4, rtol=0
    )


def test_a_batch_of_matrices_is_orthogonalised_one_by_one() -> None:
    batch = (
        torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1e-3, 1.0, 30.0, 1e4])[:, None, None]
    )
    for one, found in zip(batch, orthogonalise(batch), strict=True):
        torch.testing.assert_close(orthogonalise(one), found, atol=2e-2, rtol=0)
    assert not orthogonalise(torch.zeros(3, 4)).any()


def test_matrices_of_all_shapes_at_once_are_orthogonalised_one_by_one() -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = [(5, 9), (9, 5), (3, 9, 5), (4, 4), (2, 5, 9), (9, 5), (7, 2)]
    matrices = [torch.randn(*shape, generator=generator) for shape in shapes]
    for matrix, found in zip(matrices, orthogonalise_all(matrices), strict=True):
        torch.testing.assert_close(found, orthogonalise(matrix), atol=2e-2, rtol=0)
    assert orthogonalise_all([]) == []


def test_a_large_matrix_is_orthogonalised_by_pytorch_and_a_small_one_alike(monkeypatch) -> None:
    """Muon's own kernel takes matrices of up to SMALL numbers; the two ways differ by roundings."""
    batch = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(6))
    small = orthogonalise(batch)
    monkeypatch.setattr(optimizers, "SMALL", 24 * 40 - 1)
    monkeypatch.setattr(fused, "orthogonalise", None)  # not called
    torch.testing.assert_close(orthogonalise(batch), small, atol=2e-2, rtol=0)


def test_muon_moves_by_the_orthogonalised_nesterov_momentum() -> None:
    generator = torch.Generator().manual_seed(2)
    parameter = nn.Parameter(torch.randn(20, 5, generator=generator))
    start = parameter.detach().clone()
    first, second = (torch.randn(20, 5, generator=generator) for _ in range(2))
    optimizer = Muon([parameter], lr=0.1)
    scale = 0.1 * math.sqrt(20 / 5)
    parameter.grad = first
    optimizer.step()
    expected = start - scale * orthogonalise(0.05 * first + 0.95 * 0.05 * first)
    torch.testing.assert_close(parameter.detach(), expected)
    parameter.grad = second
    optimizer.step()
    momentum = 0.95 * 0.05 * first + 0.05 * second
    torch.testing.assert_close(
        parameter.detach(), expected - scale * orthogonalise(0.05 * second + 0.95 * momentum)
    )


def test_muons_weight_decay_shrinks_by_its_own_rate() -> None:
    def stepped(weight_decay: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(4)
        parameter = nn.Parameter(torch.randn(6, 4, generator=generator))
        parameter.grad = torch.randn(6, 4, generator=generator)
        Muon([parameter], lr=0.1, weight_decay=weight_decay).step()
        return parameter.detach()

    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(stepped(0.5), stepped(0.0) - 0.1 * 0.5 * start)
    hidden = build(model().named_parameters(), OptimizerConfig(kind="muon", weight_decay=0.1))[1]
    assert {group["weight_decay"] for group in hidden.param_groups} == {0.1}


def test_processes_that_share_muons_work_make_the_same_step_as_one() -> None:
    def parameters() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(3)
        made = [
            nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((6, 4), (2, 4, 4), (3, 9))
        ]
        for parameter in made:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        return made

    alone = parameters()
    Muon(alone, lr=0.1).step()
    parts: list[torch.Tensor] = []
    for rank in range(2):
        Muon(parameters(), lr=0.1, group=Summing(lambda flat: parts.append(flat) or flat, rank, 2)).step()  # type: ignore[func-returns-value]
    assert not (parts[0] * parts[1]).any()  # no matrix is done twice
    for rank in range(2):
        shared = parameters()
        Muon(shared, lr=0.1, group=Summing(lambda flat: parts[0] + parts[1], rank, 2)).step()
        assert all(torch.equal(p, q) for p, q in zip(shared, alone, strict=True))


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    network = model()
    names = {parameter: name for name, parameter in network.named_parameters()}
    adamw, muon = build(network.named_parameters(), OptimizerConfig(kind="muon"))
    hidden = {names[p] for group in muon.param_groups for p in group["params"]}
    rest = {names[p] for group in adamw.param_groups for p in group["params"]}
    assert hidden | rest == set(names.values()) and not hidden & rest
    assert all(
        part in " ".join(hidden)
        for part in ("self_attn", "experts.gate_proj", "shared_experts", "mlp.down_proj")
    )
    assert {"embed_tokens.weight", "norm.weight", "layers.1.mlp.gate.weight"} <= rest
    assert all(parameter.ndim >= 2 for parameter, name in names.items() if name in hidden)
    assert len(build(network.named_parameters(), OptimizerConfig(kind="adamw"))) == 1


def test_adamw_decays_matrices_only() -> None:
    network = nn.Linear(3, 2)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = build(network.named_parameters(), OptimizerConfig(learning_rate=0.1, weight_decay=0.5))[0]
    gradients = {"weight": torch.full((2, 3), 0.3), "bias": torch.tensor([0.3, -0.7])}
    for name, parameter in network.named_parameters():
        parameter.grad = gradients[name].clone()
    optimizer.step()
    # The first AdamW step is lr * sign(gradient); decay shrinks by lr * weight_decay.
    torch.testing.assert_close(network.weight.detach(), before["weight"] * (1 - 0.1 * 0.5) - 0.1)
    torch.testing.assert_close(network.bias.detach(), before["bias"] - 0.1 * torch.tensor([1.0, -1.0]))


def test_a_learners_updates_are_adamw_by_hand() -> None:
    """Five updates with clipping, decay and a schedule: m, v, their corrections and the decay written out
    (1711.05101, algorithm 2)."""
    config = OptimizerConfig(learning_rate=3e-3, beta1=0.8, beta2=0.9, weight_decay=0.2, grad_clip=0.05)
    spied = Spied(learner_config().model_copy(update={"precision": "float64", "optimizer": config}))
    schedule = ScheduleConfig(kind="cosine", warmup=2, final=0.1)
    weights = {name: p.detach().clone() for name, p in spied.model.named_parameters()}
    m, v = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    for step in range(5):
        metrics = spied.learner.update(random_rows(6, seed=step), CrossEntropy(), schedule.scale(step, 5))
        gradients = spied.gradients()
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
        assert norm > 0.05 and metrics["grad_norm"] == pytest.approx(norm)
        rate = (
            3e-3
            * [
                0.5,
                1.0,
                1.0,
                0.1 + 0.45 * (1 + math.cos(math.pi / 3)),
                0.1 + 0.45 * (1 + math.cos(2 * math.pi / 3)),
            ][step]
        )
        for name, weight in weights.items():
            gradient = gradients[name] * 0.05 / norm
            m[name] = 0.8 * m[name] + 0.2 * gradient
            v[name] = 0.9 * v[name] + 0.1 * gradient**2
            direction = (
                m[name] / (1 - 0.8 ** (step + 1)) / ((v[name] / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
            )
            weights[name] = weight - rate * direction - rate * 0.2 * weight * (weight.dim() > 1)
    for name, parameter in spied.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], atol=2e-7, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", -1.0), ("beta1", 1.0), ("beta2", 1.5), ("weight_decay", -0.1), ("grad_clip", 0.0)],
)
def test_settings_that_cannot_be_meant_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer: {key}: .*given: {value}"):
        OptimizerConfig.parse({key: value}, "optimizer")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleConfig(), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (ScheduleConfig(warmup=4), [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        (ScheduleConfig(kind="linear"), [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        (ScheduleConfig(kind="linear", warmup=2, final=0.2), [0.5, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]),
        (ScheduleConfig(kind="wsd", decay_share=0.4), [1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        (
            ScheduleConfig(kind="wsd", warmup=8, decay_share=0.4),
            [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 0.5],
        ),
        (
            ScheduleConfig(kind="wsd", decay_share=0.4, decay="cosine", final=0.1),
            [1] * 6 + [0.1 + 0.9 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)],
        ),
        (
            ScheduleConfig(kind="wsd", decay_share=0.4, decay="sqrt"),
            [1] * 6 + [1 - (i / 4) ** 0.5 for i in range(4)],
        ),
        (
            ScheduleConfig(kind="cosine", final=0.1),
            [0.1 + 0.9 * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)],
        ),
    ],
)
def test_schedules_have_these_values(schedule: ScheduleConfig, expected: list[float]) -> None:
    assert [schedule.scale(step, 10) for step in range(10)] == pytest.approx(expected)


def test_a_schedule_never_leaves_its_range_even_beyond_its_end() -> None:
    for kind in ("constant", "linear", "cosine", "wsd"):
        schedule = ScheduleConfig(kind=kind, warmup=3, final=0.1)
        assert all(0.1 <= schedule.scale(step, 7) <= 1.0 for step in range(20))
        assert 0 < schedule.scale(0, 1) <= 1.0


USE = """\
import sys, torch
from torch import nn
from r1kit.train.optimizers import OptimizerConfig, build
for kind in ("adamw", "muon"):
    for dtype in (torch.float32, torch.bfloat16)[: 1 + (kind == "adamw")]:
        layer = nn.Linear(4, 4, dtype=dtype)
        optimizers = build(layer.named_parameters(), OptimizerConfig(kind=kind))
        for parameter in layer.parameters():
            parameter.grad = torch.ones(parameter.shape)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.zero_grad()
print("torch._dynamo" in sys.modules)
torch.optim.AdamW(layer.parameters())
print("torch._dynamo" in sys.modules)
"""


def test_an_optimizer_imports_no_compiler_as_pytorchs_own_does(forked: Forked) -> None:
    done = forked.run("-c", USE)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_it_is_still_pytorchs_adamw() -> None:
    weights = [nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(1))) for _ in range(2)]
    (ours,) = build([("a.weight", weights[0])], OptimizerConfig(learning_rate=0.1, weight_decay=0.2))
    theirs = torch.optim.AdamW([weights[1]], 0.1, (0.9, 0.95), 1e-8, 0.2, fused=True)
    for step in range(5):
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
            optimizer.step()
            if step == 2:
                optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(*weights)
