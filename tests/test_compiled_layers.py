"""Layers and the head's passes as torch.compile sees them: the same numbers, traced as one graph. The
compiler itself is that of a GPU (tests/test_on_gpu.py); here the traced operations run as they are."""

from itertools import product

import pytest
import torch
from small_world import Spied, assert_same_gradients, learner_config, model, random_rows

from r1kit.config import ConfigError
from r1kit.model import fused
from r1kit.model.compiled_layers import compile_layers, compiler_of
from r1kit.train.learner import Learner
from r1kit.train.lm_head import normalise, overwritten_by_slopes, slopes_in_one_pass
from r1kit.train.objectives import CrossEntropy


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("usable", "normable"):
        monkeypatch.setattr(fused, name, lambda *_: False)


@pytest.mark.parametrize(
    ("with_entropy", "with_logprob", "with_temperature"), list(product((True, False), repeat=3))
)
def test_slopes_in_one_pass_are_those_of_autograd(
    with_entropy: bool, with_logprob: bool, with_temperature: bool
) -> None:
    if not (with_entropy or with_logprob):
        return
    torch.manual_seed(0)
    scaled_NV = torch.randn(7, 11, dtype=torch.float64)
    temperature_N = torch.rand(7, dtype=torch.float64) + 0.5 if with_temperature else None
    targets_N = torch.randint(0, 11, (7,))
    of_logprob_N, of_entropy_N = torch.randn(2, 7, dtype=torch.float64)
    logits_NV = scaled_NV.clone().requires_grad_()
    divided_NV = logits_NV if temperature_N is None else logits_NV / temperature_N[:, None]
    log_NV = divided_NV.log_softmax(-1)
    loss = torch.zeros((), dtype=torch.float64)
    if with_logprob:
        loss = loss + (log_NV.gather(1, targets_N[:, None])[:, 0] * of_logprob_N).sum()
    if with_entropy:
        loss = loss - ((log_NV.exp() * log_NV).sum(-1) * of_entropy_N).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    inner_NV = divided_NV.detach()
    normaliser_N, _, entropy_N = normalise(inner_NV, targets_N, True)
    assert entropy_N is not None
    given = (
        targets_N, normaliser_N, entropy_N, of_logprob_N if with_logprob else None,
        of_entropy_N if with_entropy else None, temperature_N,
    )  # fmt: skip
    traced = torch.compile(slopes_in_one_pass, backend="aot_eager", dynamic=True, fullgraph=True)
    torch.testing.assert_close(traced(inner_NV, *given, torch.float64), logits_NV.grad)
    torch.testing.assert_close(overwritten_by_slopes(inner_NV.clone(), *given), logits_NV.grad)


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize(("preset", "precision"), [("nano", "bfloat16"), ("student", "float32")])
def test_a_gradient_through_traced_layers_is_that_of_plain_ones(preset: str, precision: str) -> None:
    found = []
    config = learner_config().model_copy(update={"precision": precision})
    for traced in (False, True):
        spied = Spied(config, preset=preset)
        if traced:
            compile_layers(spied.model, "aot_eager", dynamic=True)
        for seed in (0, 1):  # other shapes
            spied.learner.update(random_rows(9, seed), CrossEntropy(), 0.0)
        found.append(spied.gradients())
    assert_same_gradients(found[0], found[1], 1e-5 if precision == "float32" else 0.01)


def test_a_processor_has_no_compiler_and_a_learner_says_so() -> None:
    assert compiler_of(torch.device("cpu")) is None
    config = learner_config().model_copy(update={"compiled": True})
    with pytest.raises(
        ConfigError, match=r"learner\.compiled: true needs a GPU .* runs on cpu; remove the key"
    ):
        Learner(model(preset="student"), config)


def test_experts_are_compiled_in_bfloat16_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1kit.train.learner.compiler_of", lambda _: "aot_eager")
    config = learner_config().model_copy(update={"compiled": True})
    with pytest.raises(ConfigError, match="experts are compiled with precision: bfloat16 only"):
        Learner(model(), config)
    Learner(model(preset="student"), config)
    Learner(model(), config.model_copy(update={"precision": "bfloat16"}))
