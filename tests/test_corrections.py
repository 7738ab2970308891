"""Corrections against enumeration: what is sampled from another policy is learned as if it had been sampled
from this one."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from r1kit.config import ConfigError
from r1kit.train.corrections import CorrectionConfig, correct, corrected
from r1kit.types import Row

VOCABULARY, LENGTH = 3, 3
OUTCOMES = list(product(range(VOCABULARY), repeat=LENGTH))


def config(correction: str, **bounds: float) -> CorrectionConfig:
    return CorrectionConfig.parse({"correction": correction, **bounds}, "test")


def policy(seed: int, scale: float = 1.0) -> Tensor:
    """Logits [T, V, V] of the next token by place and token before."""
    return scale * torch.randn(
        LENGTH, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def token_logprobs(logits: Tensor, outcome: tuple[int, ...]) -> Tensor:
    before = (0, *outcome[:-1])
    return torch.stack([logits[t, before[t]].log_softmax(-1)[outcome[t]] for t in range(LENGTH)])


def rewards() -> np.ndarray:
    return np.random.default_rng(5).normal(size=len(OUTCOMES))


def on_policy_gradient(logits: Tensor) -> Tensor:
    """grad sum_o pi(o) R(o), by enumeration of all completions."""
    leaf = logits.clone().requires_grad_()
    value = torch.stack(
        [token_logprobs(leaf, o).sum().exp() * r for o, r in zip(OUTCOMES, rewards(), strict=True)]
    ).sum()
    return torch.autograd.grad(value, leaf)[0]


def corrected_gradient(logits: Tensor, engine: Tensor, settings: CorrectionConfig) -> Tensor:
    """E over o ~ mu of sum_t w_t R(o) grad log pi(o_t), by enumeration."""
    leaf, terms = logits.clone().requires_grad_(), []
    for outcome, reward in zip(OUTCOMES, rewards(), strict=True):
        ours, theirs = token_logprobs(leaf, outcome), token_logprobs(engine, outcome)
        weights = correct(ours.detach().numpy(), theirs.numpy(), settings)
        terms.append(theirs.sum().exp() * reward * (torch.from_numpy(weights).double() * ours).sum())
    return torch.autograd.grad(torch.stack(terms).sum(), leaf)[0]


def test_the_sequence_weight_makes_the_gradient_the_on_policy_one() -> None:
    ours, engine = policy(0), policy(1, 0.5)
    exact = on_policy_gradient(ours)
    found = corrected_gradient(ours, engine, config("sequence", correction_cap=1e9))
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=0)
    assert float((corrected_gradient(ours, engine, config("none")) - exact).abs().max()) > 0.01


def test_the_caps_leave_a_bias_that_shrinks_as_they_rise() -> None:
    ours, engine = policy(0), policy(1, 0.5)
    exact = on_policy_gradient(ours)
    errors = [
        float((corrected_gradient(ours, engine, config("sequence", correction_cap=cap)) - exact).norm())
        for cap in (0.5, 2.0, 8.0, 1e3)
    ]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.02 and errors[-1] < 1e-6


@pytest.mark.parametrize("correction", ["truncate", "mask", "sequence"])
def test_where_engine_and_learner_agree_no_correction_changes_anything(correction: str) -> None:
    logprobs_T = np.log(np.array([0.2, 0.9, 0.01]))
    assert correct(logprobs_T, logprobs_T, config(correction)).tolist() == [1.0, 1.0, 1.0]


def test_weights_are_those_of_a_hand_computation() -> None:
    old_T, rollout_T = (
        np.log([0.4, 0.1, 0.3, 0.2]),
        np.log([0.1, 0.4, 0.3, 0.1]),
    )  # ratios 4, 0.25, 1, 2: their product is 2
    assert correct(old_T, rollout_T, config("truncate", correction_cap=3.0)) == pytest.approx(
        [3.0, 0.25, 1.0, 2.0]
    )
    assert correct(old_T, rollout_T, config("mask", correction_high=2.001)) == pytest.approx(
        [0.0, 0.0, 1.0, 2.0]
    )
    assert correct(old_T, rollout_T, config("sequence", correction_cap=5.0)) == pytest.approx([2.0] * 4)
    assert correct(old_T, rollout_T, config("sequence", correction_cap=1.5)) == pytest.approx([1.5] * 4)


def test_the_mask_has_icepops_bounds() -> None:
    """0.5 and 5 (IcePop; verl's and TRL's tests have the same): on both sides of both."""
    ratios_T = np.array([0.499, 0.501, 1.0, 2.5, 4.99, 5.01])
    found = correct(np.log(ratios_T), np.zeros(6), config("mask"))
    assert found == pytest.approx([0.0, 0.501, 1.0, 2.5, 4.99, 0.0])


@pytest.mark.parametrize(
    ("correction", "expected"), [("truncate", [0.0, 2.0]), ("mask", [0.0, 0.0]), ("sequence", [0.0, 0.0])]
)
def test_impossible_and_overflowing_ratios_stay_finite(correction: str, expected: list[float]) -> None:
    assert (
        correct(np.array([-np.inf, 0.0]), np.array([-1.0, -800.0]), config(correction)).tolist() == expected
    )


@pytest.mark.parametrize(
    ("correction", "expected"), [("truncate", [0.0, 1.0]), ("mask", [0.0, 1.0]), ("sequence", [0.0, 0.0])]
)
def test_a_token_that_both_hold_for_impossible_has_weight_zero_and_never_nan(
    correction: str, expected: list[float]
) -> None:
    both, one = np.array([-np.inf, -1.0]), np.array([-np.inf, -1.0])
    assert correct(both, one, config(correction)).tolist() == expected


def test_a_corrected_row_weighs_its_sampled_tokens_only_and_is_old_to_the_learner() -> None:
    mask = np.array([False, False, True, True])
    engine_T, learner_T = (np.array([0, 0, *np.log(p)], dtype=np.float32) for p in ([0.1, 0.5], [0.2, 0.1]))
    row = Row(np.arange(4, dtype=np.int32), mask, 0.25, advantage=1.0, old_logprobs=engine_T)
    found = corrected(row, learner_T, config("truncate"))
    assert found.weight == pytest.approx([0.25, 0.25, 0.5, 0.05])
    assert found.old_logprobs == pytest.approx(learner_T)
    for weighs_nothing in ("none", "sequence_mask"):  # the engine's log-probabilities stay the old policy's
        assert corrected(row, learner_T - 3, config(weighs_nothing)) is row
    by_token = corrected(
        Row(row.token_ids, mask, np.full(4, 0.5), np.array([0, 0, -1.0, 1.0]), engine_T),
        learner_T,
        config("truncate"),
    )
    assert by_token.weight == pytest.approx([0.5, 0.5, 1.0, 0.1])


def test_bounds_that_leave_out_agreement_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"correction_low 1.5 .* leave out weight 1.*use low <= 1 <= high"):
        config("mask", correction_low=1.5)
