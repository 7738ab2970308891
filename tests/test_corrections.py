"""Corrections against enumeration: what is sampled from another policy is learned as if it had been sampled
from this one."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from small_world import model, tokenizer
from torch import Tensor

from r1kit.chat import Chat
from r1kit.config import ConfigError
from r1kit.engine.native import NativeEngine
from r1kit.train.advantage_rows import policy_row
from r1kit.train.corrections import CorrectionConfig, correct, corrected
from r1kit.train.grpo import GRPO, GRPOConfig
from r1kit.train.learner import Learner, LearnerConfig, Metrics
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.packing import pack
from r1kit.train.policy_loss import on_policy
from r1kit.train.rollouts import Phase, Policy
from r1kit.types import Completion, Problem, Rollout, Row, Score

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


CORRECTED = [
    {"correction": "truncate", "correction_cap": 1.3},
    {"correction": "mask", "correction_low": 0.8, "correction_high": 1.5},
    {"correction": "sequence", "correction_cap": 1.3},
]


def phase_of(prompts: int, group: int) -> Phase:
    """Rollouts of drawn tokens. The engine's log-probabilities differ by up to 0.8 from those of a model that
    holds all tokens for equally likely, which new weights almost do."""
    drawn, even = np.random.default_rng(3), -np.log(model().config.vocab_size)
    groups = [
        [
            Rollout(
                Problem(f"p{prompt}", "chain", "?", "1"),
                index,
                np.array([1, 2 + prompt, 4], dtype=np.int32),
                Completion(
                    drawn.integers(5, 20, size).astype(np.int32),
                    (even + drawn.uniform(-0.8, 0.8, size)).astype(np.float32),
                    "stop",
                ),
                "",
                None,
                None,
            )
            for index, size in enumerate(drawn.integers(2, 7, group))
        ]
        for prompt in range(prompts)
    ]
    scores = [[Score(float(index % 2), {}) for index in range(group)] for _ in range(prompts)]
    return Phase(groups, scores, prompts, 1)


def updated(settings: GRPOConfig, before: bool) -> tuple[Metrics, dict[str, Tensor], list[str]]:
    """One update of a small learner: its metrics, its weights, and what the learner was asked. ``before``:
    the log-probabilities are computed by a pass of their own, whatever the settings say."""
    learner, phase, asked = Counting(), phase_of(2, 4), list[str]()
    learner.asked = asked
    policy = Policy(learner, NativeEngine(learner.model, [tokenizer().eos_id]), Chat(tokenizer()))
    algorithm = GRPO(settings, policy, [])
    if before:
        rows = [policy_row(rollout) for group in phase.groups for rollout in group]
        found = iter(learner.logprobs(rows))
        phase = replace(phase, old_PG=[[next(found) for _ in group] for group in phase.groups])
        elsewhere = settings.model_copy(update={"updates_per_rollout": 2})
        metrics = replace(algorithm, config=elsewhere).learn(phase, 0, 1)
    else:
        (part,), _ = algorithm.prepare(phase, [range(len(phase.groups))])
        metrics = algorithm.learn(part, 0, 1)
    return metrics, {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}, asked


class Counting(Learner):
    """A learner that notes the passes of ``logprobs``."""

    asked: list[str]

    def __init__(self) -> None:
        super().__init__(model(), LearnerConfig(context=32, lines=4, optimizer=OptimizerConfig(kind="adamw")))

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        self.asked.append("logprobs")
        return super().logprobs(rows)


@pytest.mark.parametrize("keys", CORRECTED, ids=[str(keys["correction"]) for keys in CORRECTED])
def test_one_update_for_a_phase_weighs_in_its_own_pass_and_is_the_same_update(
    keys: dict[str, object],
) -> None:
    settings = GRPOConfig.parse({"beta": 0.0, "updates_per_rollout": 1, "max_tokens": 8, **keys}, "grpo")
    plain = GRPOConfig.parse({"beta": 0.0, "updates_per_rollout": 1, "max_tokens": 8}, "grpo")
    (found, weights, asked), (expected, theirs, _) = updated(settings, False), updated(settings, True)
    assert asked == []
    for name in ("policy/loss", "optim/grad_norm"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-5)
    assert found["policy/clipped"] == 0  # the ratio pi / pi_old is 1
    assert found["sampling/logp_gap_mean"] > 0.1  # of the engine, which is far off here
    uncorrected, unweighed, _ = updated(plain, False)
    assert abs(uncorrected["optim/grad_norm"] / found["optim/grad_norm"] - 1) > 0.02
    assert any(not torch.equal(tensor, unweighed[name]) for name, tensor in weights.items())


@pytest.mark.parametrize(
    "keys",
    [{"updates_per_rollout": 2}, {"updates_per_rollout": 1, "beta": 0.1, "kl": "k1", "kl_in": "reward"}],
)
def test_where_the_policy_moves_or_a_reward_needs_it_a_pass_comes_first(keys: dict[str, object]) -> None:
    settings = GRPOConfig.parse({"correction": "truncate", "beta": 0.0, "max_tokens": 8, **keys}, "grpo")
    assert settings.weighs_in_loss is None and settings.weighs_tokens
    learner, asked = Counting(), list[str]()
    learner.asked = asked
    policy = Policy(learner, NativeEngine(learner.model, [tokenizer().eos_id]), Chat(tokenizer()))
    parts, metrics = GRPO(settings, policy, []).prepare(phase_of(2, 4), [[0], [1]])
    assert asked == ["logprobs"] and "sampling/logp_gap_mean" in metrics
    assert [len(part.old_PG) for part in parts] == [1, 1]


@pytest.mark.parametrize("keys", CORRECTED, ids=[str(keys["correction"]) for keys in CORRECTED])
def test_the_weights_of_packed_rows_are_those_of_each_row(keys: dict[str, object]) -> None:
    """Three rows in one line. One token is impossible for the learner, and one row is the same for both."""
    settings, drawn = CorrectionConfig.parse(keys, "test"), np.random.default_rng(0)
    engines = [drawn.normal(-1, 0.3, size) for size in (4, 3, 5)]
    learners = [engine + drawn.normal(0, 0.3, len(engine)) for engine in engines]
    learners[0][2], learners[1][:] = -np.inf, engines[1]
    rows = [
        Row(
            np.arange(2 + len(engine), dtype=np.int32),
            np.arange(2 + len(engine)) >= 2,
            0.5,
            1.0,
            np.concatenate([[0.0, 0.0], engine]).astype(np.float32),
        )
        for engine in engines
    ]
    (batch,) = pack(rows, 32, 1)
    old_BT = torch.zeros(batch.mask_BT.shape)
    for index, learner_T in enumerate(learners):
        old_BT[(batch.rows_BT == index) & batch.mask_BT] = torch.tensor(learner_T, dtype=torch.float32)
    found = on_policy(old_BT, batch, settings)
    assert torch.equal(found.old_logprobs_BT, old_BT)
    for index, (engine, learner_T) in enumerate(zip(engines, learners, strict=True)):
        weights = found.weights_BT[(batch.rows_BT == index) & batch.mask_BT]
        assert weights.numpy() == pytest.approx(0.5 * correct(learner_T, engine, settings), abs=1e-6)


def test_bounds_that_leave_out_agreement_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"correction_low 1.5 .* leave out weight 1.*use low <= 1 <= high"):
        config("mask", correction_low=1.5)
