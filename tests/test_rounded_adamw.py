"""AdamW with weights in bfloat16 and moments in 8 bits: rounding by its statistics, steps against PyTorch's
own AdamW in float32, and what is saved, shared and resumed."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import VOCABULARY, Spied, learner_config, model, model_directory, random_rows, same_weights
from torch import Tensor, nn

from r1kit.config import ConfigError
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.rounded_adamw import BLOCK, MEAN, ROOT, Codes, Moments, RoundedAdamW, round_weights
from r1kit.types import Row

SMALL = [("float32", "int8"), ("bfloat16", "float32"), ("bfloat16", "int8")]
BITS = 1 << 21


def config(weights: str = "float32", moments: str = "float32", **optimizer: Any) -> LearnerConfig:
    settings = OptimizerConfig(**{"moments": moments, "learning_rate": 1e-2, "grad_clip": 1e9, **optimizer})
    return learner_config().model_copy(
        update={"precision": "bfloat16", "weights": weights, "optimizer": settings}
    )


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(0, BITS, shape, dtype=torch.int32, generator=torch.Generator().manual_seed(seed))


def values_of(codes: Codes) -> list[float]:
    """What the codes stand for, by their definition: 2 ** bits steps an octave, the largest just below 2."""
    steps, found = 1 << codes.bits, []
    for code in range(1, codes.largest + 1):
        octave, step = divmod((1 << codes.bits) * 16 - codes.largest + code - 1, steps)
        found.append(2.0 ** (octave - 15) * (1 + step / steps))
    return [0.0, *found]


@pytest.mark.parametrize("codes", [MEAN, ROOT])
def test_magnitudes_are_equal_steps_in_every_octave(codes: Codes) -> None:
    found = codes.magnitudes(torch.device("cpu")).tolist()
    assert found == values_of(codes)
    assert all(b / a <= 1 + 2.0**-codes.bits for a, b in pairwise(found[1:]))
    assert found[-1] / found[1] > 2**15


@pytest.mark.parametrize("codes", [MEAN, ROOT])
def test_a_code_is_one_of_the_two_values_around_a_number_and_right_on_average(codes: Codes) -> None:
    values = torch.tensor(values_of(codes), dtype=torch.float64)
    x_1K = torch.rand(1, BLOCK, generator=torch.Generator().manual_seed(1)).pow(4) * 3e-5
    x_1K[0, :4] = torch.tensor([3e-5, 0.0, 1e-12, 3e-5 * 2.0**-15.5])  # largest, zero, far below, just below
    if codes.dtype == torch.int8:
        x_1K[0, 5::2] *= -1
    sums = torch.zeros(1, BLOCK, dtype=torch.float64)
    times = 3000
    for seed in range(times):
        kept, scale = codes.encode(x_1K, drawn((1, BLOCK), seed))
        found = codes.decode(kept, scale).double()
        sums += found
    assert kept.dtype == codes.dtype and scale.dtype == torch.float32
    scaled = x_1K.abs().double() / scale.double()[:, None]
    above = torch.bucketize(scaled, values).clamp(min=1, max=len(values) - 1)
    low, high = values[above - 1], values[above]
    last = found.abs() / scale.double()[:, None]
    near = torch.minimum((last - low).abs(), (last - high).abs())
    assert float((near / high).max()) < 1e-6
    width = (high - low) * scale.double()[:, None]
    assert float(((sums / times - x_1K).abs() / width).max()) < 5 * 0.5 / math.sqrt(times)
    assert float(found[0, 0]) == pytest.approx(3e-5, rel=1e-6) and float(found[0, 1]) == 0.0


def test_what_a_step_divides_by_is_never_rounded_to_zero() -> None:
    x_1K = torch.zeros(1, BLOCK)
    x_1K[0, 0], x_1K[0, 1] = 1.0, 1e-9
    plain, _ = ROOT.encode(x_1K, torch.full((1, BLOCK), BITS - 1, dtype=torch.int32))
    kept, scale = ROOT.encode(x_1K, torch.full((1, BLOCK), BITS - 1, dtype=torch.int32), never_zero=True)
    assert plain[0, :3].tolist() == [255, 0, 0] and kept[0, :3].tolist() == [255, 1, 0]
    blank, scale = MEAN.encode(torch.zeros(2, BLOCK), drawn((2, BLOCK), 0))
    assert not MEAN.decode(blank, scale).any()


def test_weights_are_rounded_to_a_neighbour_and_right_on_average() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4000, generator=generator) * torch.logspace(-20, 20, 4000)
    sums = torch.zeros(4000, dtype=torch.float64)
    times = 400
    for seed in range(times):
        found = round_weights(x, drawn((4000,), seed))
        sums += found.double()
    assert found.dtype == torch.bfloat16
    spacing = 2.0 ** (x.abs().double().log2().floor() - 7)
    assert float(((found.double() - x.double()).abs() / spacing).max()) < 1
    error = (sums / times - x.double()) / spacing
    assert float(error.abs().max()) < 6 * 0.5 / math.sqrt(times)
    assert abs(float(error.mean())) < 5 * 0.5 / math.sqrt(times * 4000)
    exact = x.bfloat16().float()
    assert torch.equal(round_weights(exact, drawn((4000,), 1)).float(), exact)


def steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, count: int) -> None:
    for step in range(count):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)) * 1e-2
        optimizer.step()


def test_without_rounding_it_is_pytorchs_adamw() -> None:
    start = torch.randn(70, 50, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    groups = [{"params": [ours], "weight_decay": 0.1}]
    steps(RoundedAdamW(groups, 1e-2, (0.9, 0.95), 1e-8, "float32"), ours, 8)
    steps(torch.optim.AdamW([theirs], 1e-2, (0.9, 0.95), 1e-8, 0.1), theirs, 8)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6)
    assert float((ours.detach() - start).abs().mean()) > 0.02


def test_small_moments_move_weights_nearly_as_exact_ones_do() -> None:
    start = torch.randn(3, 700, generator=torch.Generator().manual_seed(0))  # no multiple of a block
    found: dict[str, nn.Parameter] = {}
    kinds: list[Moments] = ["float32", "int8"]
    for moments in kinds:
        parameter = found[moments] = nn.Parameter(start.clone())
        optimizer = RoundedAdamW([{"params": [parameter]}], 1e-2, (0.9, 0.95), 1e-8, moments)
        steps(optimizer, parameter, 30)
    moved = found["float32"].detach() - start
    gap = found["int8"].detach() - found["float32"].detach()
    assert float(gap.square().mean().sqrt() / moved.square().mean().sqrt()) < 0.1
    assert float((gap * moved).sum() / moved.square().sum()) == pytest.approx(0.0, abs=0.005)
    kept = optimizer.state[parameter]
    assert sum(t.nbytes for n, t in kept.items() if n != "step") == 2 * (2100 + 4 * math.ceil(2100 / BLOCK))


def test_steps_too_small_for_bfloat16_are_kept_on_average() -> None:
    """100 steps of 1e-4 from 1: to the nearest bfloat16 none of them would be seen."""
    parameter = nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16))
    optimizer = RoundedAdamW([{"params": [parameter]}], 1e-4, (0.9, 0.95), 1e-8, "float32")
    for _ in range(100):
        parameter.grad = torch.ones(20_000)
        optimizer.step()
    assert float((torch.ones(1) - 1e-4).bfloat16()) == 1.0
    spread = math.sqrt(100 * 1e-4 * 2.0**-8)  # of one weight: 100 steps, up or down by 2 ** -8 below 1
    assert float(parameter.detach().float().mean()) == pytest.approx(0.99, abs=5 * spread / math.sqrt(20_000))


def losses(chosen: LearnerConfig) -> list[float]:
    learner = Learner(model(init_std=0.02), chosen)
    rows = random_rows(8, seed=1)
    return [learner.update(rows, CrossEntropy(), 1.0)["loss"] for _ in range(40)]


@pytest.fixture(scope="module")
def exact() -> list[float]:
    """The losses of a training in float32."""
    return losses(config())


@pytest.mark.parametrize(("weights", "moments"), SMALL)
def test_training_reaches_the_loss_of_float32(weights: str, moments: str, exact: list[float]) -> None:
    rounded = losses(config(weights, moments))
    assert exact[-1] < 0.25 * exact[0]
    assert rounded[0] == pytest.approx(exact[0], rel=0.01)
    assert sum(rounded[-5:]) == pytest.approx(sum(exact[-5:]), abs=0.03 * 5 * exact[0])


def test_matrices_are_kept_in_bfloat16_and_the_rest_in_float32() -> None:
    learner = Learner(model(), config("bfloat16", "int8"))
    learner.update(random_rows(4), CrossEntropy(), 1.0)
    for name, parameter in learner.model.named_parameters():
        small = parameter.ndim < 2 or name.endswith("gate.weight")
        assert parameter.dtype == (torch.float32 if small else torch.bfloat16), name
    assert {buffer.dtype for buffer in learner.model.buffers()} == {torch.float32}
    kept = [t for state in learner.optimizers[0].state.values() for n, t in state.items() if n != "step"]
    numbers = sum(parameter.numel() for parameter in learner.parameters)
    assert sum(tensor.nbytes for tensor in kept) < 2.1 * numbers


def test_gradients_of_bfloat16_weights_are_summed_in_float32() -> None:
    """The sum over many micro-batches: in bfloat16 it would lose what is small against it."""
    exact, rounded = Spied(config()), Spied(config("bfloat16"))
    rounded.model.load_state_dict(exact.model.state_dict())
    rows: list[Row] = random_rows(60, seed=2)
    for one in (exact, rounded):
        one.learner.update(rows, CrossEntropy(), 0.0)
    assert rounded.flat.dtype == torch.float32
    gap = (exact.flat - rounded.flat).norm() / exact.flat.norm()
    assert float(gap) < 0.02


@pytest.mark.parametrize(("weights", "moments"), SMALL)
def test_a_resumed_training_is_the_one_that_was_not_interrupted(
    weights: str, moments: str, tmp_path: Path
) -> None:
    straight, first = (Learner(model(), config(weights, moments)) for _ in range(2))
    for learner, count in ((straight, 5), (first, 2)):
        for step in range(count):
            learner.update(random_rows(6, seed=step), CrossEntropy(), 1.0)
    first.save(tmp_path, {"step": 2})
    second = Learner(model(seed=9), config(weights, moments))
    second.restore(tmp_path)
    for before, after in zip(first.optimizers, second.optimizers, strict=True):
        for old, new in zip(before.state.values(), after.state.values(), strict=True):
            assert {n: t.dtype for n, t in old.items()} == {n: t.dtype for n, t in new.items()}
    for step in range(2, 5):
        second.update(random_rows(6, seed=step), CrossEntropy(), 1.0)
    assert same_weights(second.model, straight.model)


@pytest.fixture(scope="module")
def runtimes() -> Iterator[list[LocalRuntime]]:
    """One of one process, one of two."""
    made = [LocalRuntime(LocalConfig(processes=processes)) for processes in (1, 2)]
    yield made
    for runtime in made:
        runtime.close()


@pytest.mark.parametrize(("weights", "moments"), SMALL)
def test_two_processes_learn_and_sample_from_one_copy(
    weights: str, moments: str, runtimes: list[LocalRuntime], tmp_path: Path
) -> None:
    folder = model_directory(tmp_path / "base")
    losses = []
    for runtime in runtimes:
        learner = runtime.learner(folder, config(weights, moments))
        metrics = [learner.update(random_rows(6, seed=step), CrossEntropy(), 1.0) for step in range(3)]
        losses.append(metrics[-1]["loss"])
        answers = runtime.everywhere("call", [(learner.handle, "logprobs", random_rows(2))] * runtime.size)
        runtime.release(learner)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert len(answers) == 2 and all((a == b).all() for a, b in zip(*answers, strict=True))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"weights": "bfloat16", "precision": "float32"}, "precision: bfloat16"),
        ({"weights": "bfloat16", "precision": "float32", "lora": {"rank": 2}}, "precision: bfloat16"),
        ({"weights": "bfloat16", "optimizer": {"kind": "muon"}}, "kind: adamw"),
        ({"optimizer": {"kind": "muon", "moments": "int8"}}, "kind: adamw"),
        ({"precision": "float64", "optimizer": {"moments": "int8"}}, "moments: float32"),
        ({"optimizer": {"moments": "int4"}}, "moments"),
    ],
)
def test_precisions_that_do_not_go_together_are_refused_with_the_fix(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LearnerConfig.parse(keys, "learner")


def test_precisions_that_go_together_are_taken() -> None:
    for keys in (
        {"weights": "bfloat16"},
        {"weights": "bfloat16", "lora": {"rank": 2}, "optimizer": {"kind": "muon"}},
        {"precision": "float32", "optimizer": {"moments": "int8"}},
    ):
        LearnerConfig.parse(keys, "learner")


def test_adapters_take_small_moments() -> None:
    chosen = LearnerConfig.parse(
        {"context": 64, "lines": 4, "lora": {"rank": 4}, "optimizer": {"moments": "int8"}}, "learner"
    )
    learner = Learner(model(), chosen)
    rows = random_rows(8, seed=1)
    losses = [learner.update(rows, CrossEntropy(), 10.0)["loss"] for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0] < VOCABULARY
    assert {t.dtype for s in learner.optimizers[0].state.values() for t in s.values()} == {
        torch.float32, torch.int8, torch.uint8,
    }  # fmt: skip
