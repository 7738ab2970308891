"""DeepSeek-V3.2's off-policy sequence mask (2512.02556, eq. 8-9): the engine's probability against the
current policy, at every update, on the policy term alone."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import Spied, full_logprobs, model, quiet_log, tokenizer
from torch import Tensor

from r1kit.chat import Chat
from r1kit.data.mixture import Mixture
from r1kit.engine.native import NativeEngine
from r1kit.rewards import WeightedReward
from r1kit.tasks import load_tasks
from r1kit.train.corrections import corrected
from r1kit.train.grpo import GRPO, GRPOConfig, recompute
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import Objective, Predictions
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.packing import Batch, pack
from r1kit.train.policy_loss import PolicyLoss
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Phase, Policy
from r1kit.types import Completion, Problem, Rollout, Row, Score

PROMPT = 3


def configured(**keys: object) -> GRPOConfig:
    return GRPOConfig.parse(
        {"correction": "sequence_mask", "beta": 0.0, "epsilon": 1e6, "max_tokens": 8} | keys, "grpo"
    )


def row(engine: Sequence[float], advantage: float, weight: float = 1.0) -> Row:
    """A row of a prompt and as many sampled tokens as there are log-probabilities."""
    length = PROMPT + len(engine)
    old_T = np.concatenate([np.zeros(PROMPT), engine]).astype(np.float32)
    return Row(
        np.arange(length, dtype=np.int32),
        np.arange(length) >= PROMPT,
        weight,
        advantage,
        old_T,
        ref_logprobs=np.where(np.arange(length) >= PROMPT, -2.0, 0.0).astype(np.float32),
    )


def slopes(rows: Sequence[Row], now: Sequence[Sequence[float]], config: GRPOConfig) -> list[np.ndarray]:
    """dL/dlog pi of each row's sampled tokens, all rows packed into one line with the shared prompt once."""
    (batch,) = pack(rows, 64, 4, share=True, joined=True)
    logprobs_BT = torch.zeros(batch.mask_BT.shape, dtype=torch.float64)
    for index, values in enumerate(now):
        logprobs_BT[(batch.rows_BT == index) & batch.mask_BT] = torch.tensor(values, dtype=torch.float64)
    logprobs_BT.requires_grad_()
    loss, _ = PolicyLoss(config)(Predictions(logprobs_BT, torch.zeros_like(logprobs_BT)), batch)
    (found_BT,) = torch.autograd.grad(loss, logprobs_BT)
    return [found_BT[(batch.rows_BT == index) & batch.mask_BT].numpy() for index in range(len(rows))]


@pytest.mark.parametrize("drift", [0.6, 1.0, 2.0, 0.4, -2.0])
def test_a_bad_rollout_that_the_current_policy_has_left_has_no_policy_gradient(drift: float) -> None:
    """The mean of log(mu / pi) is the drift; single tokens drift by twice as much or not at all. delta is
    0.5. Four rows in one line, so a mean over the wrong tokens would show."""
    engine = [[-1.0, -0.5], [-2.0, -1.0, -0.7, -3.0], [-1.0], [-0.1] * 6]
    steps = [[2 * drift, 0.0], [0.0, 2 * drift, 2 * drift, 0.0], [0.0], [drift] * 6]
    now = [(np.array(mu) - step).tolist() for mu, step in zip(engine, steps, strict=True)]
    bad = slopes([row(mu, -1.0) for mu in engine], now, configured())
    good = slopes([row(mu, 1.0) for mu in engine], now, configured())
    for index, (mu, pi) in enumerate(zip(engine, now, strict=True)):
        ratio_T = np.exp(np.array(pi) - np.array(mu))
        kept = index == 2 or drift <= 0.5  # the third row has not moved
        np.testing.assert_allclose(bad[index], ratio_T if kept else 0 * ratio_T, rtol=1e-6)
        np.testing.assert_allclose(good[index], -ratio_T, rtol=1e-6)


def test_a_token_that_overflows_in_a_masked_rollout_has_no_gradient_either() -> None:
    """Its own log ratio is +200, the mean of the rollout's is -50."""
    (found,) = slopes([row([-300.0, -0.5], -1.0)], [[-100.0, -300.5]], configured())
    assert found.tolist() == [0.0, 0.0]


def test_the_bound_is_delta_and_the_mean_is_over_the_rollouts_tokens() -> None:
    engine, now = [-1.0, -1.0], [-1.0 - 2 * 0.7, -1.0]  # the mean is 0.7
    for delta, masked in ((0.69, True), (0.71, False)):
        (found,) = slopes([row(engine, -1.0)], [now], configured(correction_delta=delta))
        assert (found == 0).tolist() == [masked, masked]


@pytest.mark.parametrize("extra", [{"beta": 0.1}, {"beta": 0.1, "kl_unbiased": True}])
def test_the_divergence_of_a_masked_rollout_keeps_its_gradient(extra: dict[str, object]) -> None:
    engine, now = [-1.0, -0.5], [-2.0, -2.0]
    (masked,) = slopes([row(engine, -1.0)], [now], configured(**extra))
    log_ref_T, ratio_T = -2.0 - np.array(now), np.exp(np.array(now) - np.array(engine))
    pull_T = -ratio_T * log_ref_T if "kl_unbiased" in extra else 1 - np.exp(log_ref_T)
    np.testing.assert_allclose(masked, 0.1 * pull_T, rtol=1e-6, atol=1e-12)
    near = [-1.3, -0.6]  # not masked: the policy term comes on top
    (kept,) = slopes([row(engine, -1.0)], [near], configured(**extra))
    ratio_T, log_ref_T = np.exp(np.array(near) - np.array(engine)), -2.0 - np.array(near)
    pull_T = -ratio_T * log_ref_T if "kl_unbiased" in extra else 1 - np.exp(log_ref_T)
    np.testing.assert_allclose(kept, ratio_T + 0.1 * pull_T, rtol=1e-6)


def test_the_kl_penalty_of_a_masked_rollout_stays_and_masked_tokens_are_counted_as_cut() -> None:
    (batch,) = pack([row([-1.0, -0.5], -1.0)], 16, 1)
    logprobs_BT = torch.where(batch.mask_BT, -2.0, 0.0).double().requires_grad_()
    penalised = Batch(
        **{
            name: torch.ones_like(batch.weights_BT) if name == "penalties_BT" else getattr(batch, name)
            for name in Batch.__slots__
        }
    )
    loss, statistics = PolicyLoss(configured())(
        Predictions(logprobs_BT, torch.zeros_like(logprobs_BT)), penalised
    )
    assert float(loss.detach()) == pytest.approx(1.0 + 1.5)  # |log ratio|, and no gain
    assert float(statistics["clipped"]) == 2


A_O = torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
PI_O = torch.tensor([0.1949, 0.1072, 0.6041, 0.0937], dtype=torch.float64)
MU_O = torch.tensor([0.3140, 0.1655, 0.3130, 0.2075], dtype=torch.float64)


def bandit_gradient(**keys: object) -> list[float]:
    """grad of E over o ~ mu of what r1kit learns from one token o, at theta = log pi, where pi is also the
    learner's policy before the phase's first update."""
    config = configured(**keys)
    theta = (PI_O / PI_O.sum()).log().requires_grad_()
    pi_O, mu_O = theta.detach().softmax(0), (MU_O / MU_O.sum()).tolist()
    rows = []
    for action, chance in enumerate(mu_O):
        sampled = row([math.log(chance)], float(A_O[action]), weight=chance)
        learner_T = np.concatenate([np.zeros(PROMPT), [math.log(float(pi_O[action]))]])
        rows.append(corrected(sampled, learner_T, config))
    (batch,) = pack(rows, 64, 4, share=True, joined=True)
    logprobs_BT = torch.zeros(batch.mask_BT.shape, dtype=torch.float64)
    for action in range(4):
        here_BT = (batch.rows_BT == action) & batch.mask_BT
        logprobs_BT = torch.where(here_BT, theta.log_softmax(0)[action], logprobs_BT)
    loss, _ = PolicyLoss(config)(Predictions(logprobs_BT, torch.zeros_like(logprobs_BT)), batch)
    return (-torch.autograd.grad(loss, theta)[0]).tolist()


def test_a_four_action_bandit_sampled_by_older_weights_has_the_true_gradient() -> None:
    """pi (A - E A) = (.128 -.144 .095 -.079). A correction that forgets mu gives (.275 -.187 .035 -.123)."""
    pi_O, mu_O = PI_O / PI_O.sum(), MU_O / MU_O.sum()
    true_O = pi_O * (A_O - pi_O @ A_O)
    assert true_O.tolist() == pytest.approx([0.128, -0.144, 0.095, -0.079], abs=5e-4)
    forgetful_O = mu_O * A_O - pi_O * (mu_O @ A_O)
    assert forgetful_O.tolist() == pytest.approx([0.275, -0.187, 0.035, -0.123], abs=5e-4)
    for correction in ("sequence_mask", "truncate", "sequence", "none"):
        found = bandit_gradient(correction=correction, correction_delta=1.0)
        assert found == pytest.approx(true_O.tolist(), abs=1e-6), correction
    # at delta 0.5 the last action is masked: log(mu / pi) = 0.79 and A < 0; the second is not, with 0.43
    kept_O = pi_O * A_O * torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert bandit_gradient() == pytest.approx((kept_O - pi_O * kept_O.sum()).tolist(), abs=1e-6)


def test_recompute_leaves_the_engines_log_probabilities_alone() -> None:
    """No forward pass, no replaced log-probabilities; with truncate there are both."""
    rollout = Rollout(
        Problem("p", "chain", "?", "1"),
        0,
        np.array([1, 2, 3], dtype=np.int32),
        Completion(np.array([5, 6], dtype=np.int32), np.array([-1.5, -1.0], dtype=np.float32), "stop"),
        "",
        None,
        None,
    )
    phase = Phase([[rollout]], [[Score(1.0, {})]], 1, 1)
    learner = Spied().learner
    policy = Policy(learner, NativeEngine(model(), [tokenizer().eos_id]), Chat(tokenizer()))
    assert recompute(policy, phase, configured()) == (phase, {})
    assert len(recompute(policy, phase, configured(correction="truncate"))[0].old_PG) == 1


class Watching(Learner):
    """A learner that computes by hand, before each update, the share of its tokens that the mask must
    stop."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.expected: list[float] = []

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> dict[str, float]:
        stopped = 0
        for one in rows:
            with torch.no_grad():
                now_T: Tensor = full_logprobs(self.model, one)
            assert one.old_logprobs is not None
            gap_T = (one.old_logprobs[1:] - now_T.numpy())[one.mask[1:]]
            stopped += len(gap_T) if float(gap_T.mean()) > 0.05 and float(one.advantage) < 0 else 0
        self.expected.append(stopped / sum(int(one.mask.sum()) for one in rows))
        return super().update(rows, objective, scale)


def test_the_mask_sees_what_earlier_updates_of_the_phase_have_moved(tmp_path: Path) -> None:
    """A real training of two phases with four updates each, and a clip that never binds: whatever is cut is
    masked. In the first update of a phase nothing has moved."""
    config = configured(
        steps=8, problems=2, group=4, updates_per_rollout=4, max_tokens=6, correction_delta=0.05
    )
    settings = LearnerConfig(
        context=96, lines=4, precision="float32", optimizer=OptimizerConfig(learning_rate=1e-2)
    )
    learner = Watching(model(init_std=0.05), settings)
    policy = Policy(learner, NativeEngine(learner.model, [tokenizer().eos_id]), Chat(tokenizer()))
    mixture = Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5)

    def even(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [float(np.mean(r.completion.token_ids % 2 == 0)) for r in rollouts]

    algorithm = GRPO(config, policy, [WeightedReward("even", 1.0, even)])
    train(algorithm, mixture, 7, quiet_log(tmp_path), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["policy/clipped"] for line in lines] == pytest.approx(learner.expected)
    assert learner.expected[0] == learner.expected[4] == 0
    assert sum(share > 0 for share in learner.expected) >= 3
