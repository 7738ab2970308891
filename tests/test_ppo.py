"""PPO against its definitions: GAE by brute force, the policy's gradient by enumeration of all sequences, the
critic's by finite differences."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_world import (
    KilledError,
    Mortal,
    Spied,
    assert_same_gradients,
    gradients_of,
    learner_config,
    model,
    quiet_log,
    random_rows,
    same_weights,
    tokenizer,
)
from torch import Tensor

from r1kit.chat import Chat
from r1kit.config import ConfigError
from r1kit.data.curriculum import CurriculumConfig
from r1kit.data.mixture import Mixture
from r1kit.engine.native import NativeEngine
from r1kit.rewards import WeightedReward
from r1kit.tasks import load_tasks
from r1kit.train import checkpoint
from r1kit.train.critic import Episode, ValueLoss, gae, token_rewards, whitened
from r1kit.train.learner import Learner
from r1kit.train.objectives import Predictions
from r1kit.train.policy_loss import PolicyLoss
from r1kit.train.ppo import PPO, PPOConfig, appraise, make_rows
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Phase, Policy
from r1kit.types import Completion, Problem, Rollout, Row, Score

# Generalised advantage estimation


def by_definition(
    rewards: Sequence[float], values: Sequence[float], gamma: float, gae_lambda: float
) -> list[float]:
    """The exponentially weighted mean of all k-step advantages, as 1506.02438 defines it before summing it up
    (eq. 11-16)."""
    steps, bootstrap = len(rewards), [*values, 0.0]
    found = []
    for t in range(steps):
        k_step = [
            sum(gamma**i * rewards[t + i] for i in range(k)) + gamma**k * bootstrap[t + k] - values[t]
            for k in range(1, steps - t + 1)
        ]
        weights = [(1 - gae_lambda) * gae_lambda ** (k - 1) for k in range(1, steps - t)] + [
            gae_lambda ** (steps - t - 1)
        ]
        found.append(sum(weight * advantage for weight, advantage in zip(weights, k_step, strict=True)))
    return found


@pytest.mark.parametrize(
    ("gamma", "gae_lambda"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (0.0, 0.7)]
)
def test_advantages_are_the_weighted_mean_of_all_k_step_advantages(gamma: float, gae_lambda: float) -> None:
    rng = np.random.default_rng(0)
    lengths = [1, 4, 7]
    rewards_RT, values_RT = np.zeros((3, 7)), np.zeros((3, 7))
    for row, length in enumerate(lengths):
        rewards_RT[row, :length], values_RT[row, :length] = rng.normal(size=(2, length))
    found_RT = gae(rewards_RT, values_RT, gamma, gae_lambda)
    for row, length in enumerate(lengths):
        expected = by_definition(
            rewards_RT[row, :length].tolist(), values_RT[row, :length].tolist(), gamma, gae_lambda
        )
        np.testing.assert_allclose(found_RT[row, :length], expected, rtol=1e-12, atol=1e-12)
        assert not found_RT[row, length:].any()


def test_lambda_one_is_return_minus_value_and_lambda_zero_the_temporal_difference() -> None:
    rewards_RT, values_RT = np.random.default_rng(1).normal(size=(2, 3, 5))
    returns_RT = np.stack([rewards_RT[:, t:].sum(1) for t in range(5)], 1)
    np.testing.assert_allclose(gae(rewards_RT, values_RT, 1.0, 1.0), returns_RT - values_RT, rtol=1e-12)
    following_RT = np.pad(values_RT[:, 1:], ((0, 0), (0, 1)))
    np.testing.assert_allclose(
        gae(rewards_RT, values_RT, 1.0, 0.0), rewards_RT + following_RT - values_RT, rtol=1e-12
    )


def test_whitening_is_over_the_tokens_of_the_update() -> None:
    found = whitened([np.array([1.0, 3.0]), np.array([5.0])])
    np.testing.assert_allclose(np.concatenate(found), (np.array([1.0, 3, 5]) - 3) / np.sqrt(8 / 3))
    assert not np.concatenate(whitened([np.array([2.0, 2.0])])).any()


# The policy's gradient, over all sequences of a vocabulary of three in which 0 ends a sequence

VOCABULARY, LONGEST = 3, 3


def sequences() -> Iterator[tuple[int, ...]]:
    for length in range(1, LONGEST + 1):
        for tokens in product(range(VOCABULARY), repeat=length):
            ended = tokens[-1] == 0
            if 0 not in tokens[:-1] and (ended or length == LONGEST):
                yield tokens


PREFIXES = sorted({tokens[:t] for tokens in sequences() for t in range(len(tokens))})


def logprobs_of(theta_ZV: Tensor, tokens: tuple[int, ...]) -> Tensor:
    return torch.stack(
        [theta_ZV[PREFIXES.index(tokens[:t])].log_softmax(0)[token] for t, token in enumerate(tokens)]
    )


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_expected_gradient_is_that_of_reward_minus_divergence_whatever_the_critic_says(
    beta: float,
) -> None:
    """At lambda 1 values are a baseline: E[loss gradient] = -grad (E[r] - beta KL(pi || pi_ref)), by
    enumeration, in float64."""
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    theta_ZV = normal(len(PREFIXES), VOCABULARY).requires_grad_()
    reference_ZV, values_Z = normal(len(PREFIXES), VOCABULARY), normal(len(PREFIXES)).numpy()
    scores = {tokens: float(normal(1)) for tokens in sequences()}
    assert sum(
        float(logprobs_of(theta_ZV, tokens).sum().exp().detach()) for tokens in scores
    ) == pytest.approx(1.0)

    objective = torch.zeros((), dtype=torch.float64)
    expected_loss = torch.zeros((), dtype=torch.float64)
    for tokens, score in scores.items():
        logprobs_T, reference_T = logprobs_of(theta_ZV, tokens), logprobs_of(reference_ZV, tokens)
        probability = logprobs_T.sum().exp()
        objective = objective + probability * (score - beta * (logprobs_T.sum() - reference_T.sum()))
        old_T = logprobs_T.detach()
        values_T = np.array([values_Z[PREFIXES.index(tokens[:t])] for t in range(len(tokens))])
        rewards_T = token_rewards(score, (old_T - reference_T).numpy(), beta)
        advantages_BT = torch.from_numpy(gae(rewards_T[None], values_T[None], 1.0, 1.0))
        mask_BT = torch.ones_like(advantages_BT, dtype=torch.bool)
        batch = SimpleNamespace(
            mask_BT=mask_BT, advantages_BT=advantages_BT, old_logprobs_BT=old_T[None],
            ref_logprobs_BT=reference_T[None], weights_BT=torch.full_like(advantages_BT,
            float(probability.detach())), penalties_BT=torch.zeros_like(advantages_BT),
            rows_BT=torch.zeros_like(mask_BT, dtype=torch.long),
        )  # fmt: skip
        loss = PolicyLoss(PPOConfig(beta=beta))
        expected_loss = (
            expected_loss + loss(Predictions(logprobs_T[None], torch.zeros_like(advantages_BT)), batch)[0]
        )  # type: ignore[arg-type]
    found, wanted = (
        torch.autograd.grad(expected_loss, theta_ZV, retain_graph=True)[0],
        torch.autograd.grad(-objective, theta_ZV)[0],
    )
    assert float(wanted.abs().max()) > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


# The critic's loss


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_critics_gradient_equals_finite_differences(clip: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    normal = lambda: torch.randn(3, 6, generator=generator, dtype=torch.float64)  # noqa: E731
    mask = torch.rand(3, 6, generator=generator) < 0.7
    batch = SimpleNamespace(
        mask_BT=mask, weights_BT=normal().abs(), advantages_BT=normal(), old_logprobs_BT=normal()
    )
    values = (batch.old_logprobs_BT + 0.5 * normal()).requires_grad_()
    loss = lambda found: ValueLoss(clip)(Predictions(found, found, found), batch)[0]  # type: ignore[arg-type] # noqa: E731
    assert torch.autograd.gradcheck(loss, values)


def test_the_clip_only_ever_makes_the_critics_loss_larger() -> None:
    one = torch.ones(1, 4, dtype=torch.float64)
    batch = SimpleNamespace(
        mask_BT=one > 0,
        weights_BT=one,
        advantages_BT=0 * one,
        old_logprobs_BT=torch.tensor([[1.0, 1, -1, 1]]),
    )
    values = torch.tensor([[1.1, 0.5, -0.5, 1.6]], dtype=torch.float64)
    loss, statistics = ValueLoss(0.2)(Predictions(values, values, values), batch)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(0.5 * (1.1**2 + 0.8**2 + 0.8**2 + 1.6**2))
    assert float(statistics["value_clipped"]) == 2 and float(statistics["squares"]) == pytest.approx(
        1.21 + 0.25 + 0.25 + 2.56
    )


def test_the_critics_update_has_the_gradient_of_the_loss_at_the_values_before_each_token() -> None:
    spied = Spied(learner_config(context=48, lines=2), scalar_head=True)
    rows, loss = random_rows(7), torch.zeros(())
    for row in rows:
        tokens_BT = torch.from_numpy(row.token_ids.astype(np.int64))[None]
        values_T = spied.model.values(spied.model(tokens_BT[:, :-1]).hidden_BTD)[0]
        assert isinstance(row.weight, float) and isinstance(row.advantage, float)
        loss = (
            loss + 0.5 * row.weight * ((values_T - row.advantage) ** 2)[torch.from_numpy(row.mask[1:])].sum()
        )
    expected = gradients_of(spied.model, loss)
    metrics = spied.learner.update(rows, ValueLoss(None), 1.0)
    assert_same_gradients(spied.gradients(), expected)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


# From rollouts to rows

CHAT = Chat(tokenizer())


def rollout(length: int, index: int = 0) -> Rollout:
    prompt = Problem("p", "chain", "?", "1")
    completion = Completion(
        np.arange(10, 10 + length, dtype=np.int32), np.linspace(-1, -2, length).astype(np.float32), "stop"
    )
    return Rollout(prompt, index, np.array([1, 2, 3], dtype=np.int32), completion, "", None, None)


class Scripted:
    """A learner that says given numbers, entry t after reading token t."""

    def __init__(self, after: float) -> None:
        self.after = after

    def values(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return [
            np.append(self.after + np.arange(len(row.token_ids) - 1), 0).astype(np.float32) for row in rows
        ]

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return [np.where(row.mask, -3.0, 0.0).astype(np.float32) for row in rows]


def appraised(config: PPOConfig) -> list[list[Episode]]:
    groups = [[rollout(2), rollout(4, 1)], [rollout(3), rollout(1, 1)]]
    scores = [[Score(1.0, {}), Score(float("nan"), {})], [Score(0.0, {}), Score(2.0, {})]]
    policy = Policy(None, None, CHAT, Scripted(0.0) if config.beta else None)  # type: ignore[arg-type]
    return appraise(policy, Scripted(0.1), Phase(groups, scores, 2, 1), config)  # type: ignore[arg-type]


def test_each_sampled_token_has_the_value_before_it_and_what_our_failure_touched_is_left_out() -> None:
    first, second = appraised(PPOConfig(beta=0.5))
    assert [len(first), len(second)] == [1, 2] and second[1].rollout.index == 1
    np.testing.assert_allclose(
        first[0].values_T, [2.1, 3.1], rtol=1e-6
    )  # after the last of three prompt tokens, and after one more
    np.testing.assert_allclose(first[0].divergence_T, [2.0, 1.0], rtol=1e-6)
    returns_T = [1.0 - 0.5 * 3.0, 1.0 - 0.5 * 1.0]
    np.testing.assert_allclose(first[0].returns_T, returns_T, atol=1e-6)
    np.testing.assert_allclose(first[0].advantages_T, np.array(returns_T) - [2.1, 3.1], rtol=1e-6)
    in_loss = appraised(PPOConfig(beta=0.5, kl="k3", kl_in="loss"))[0][0]
    np.testing.assert_allclose(in_loss.returns_T, [1.0, 1.0], atol=1e-6)
    assert in_loss.reference is not None and appraised(PPOConfig(beta=0.0))[0][0].reference is None


def test_rows_carry_advantages_and_returns_where_the_tokens_are() -> None:
    part = [episode for group in appraised(PPOConfig(beta=0.0)) for episode in group]
    policy_rows, critic_rows = make_rows(part, PPOConfig(beta=0.0, whiten=False))
    assert [row.weight for row in policy_rows] == pytest.approx([1 / 6] * 3)
    for episode, ours, critics in zip(part, policy_rows, critic_rows, strict=True):
        np.testing.assert_allclose(ours.advantage, [0, 0, 0, *episode.advantages_T], rtol=1e-6)
        np.testing.assert_allclose(critics.advantage, [0, 0, 0, *episode.returns_T], atol=1e-6)
        assert critics.old_logprobs is not None and ours.old_logprobs is not None
        np.testing.assert_allclose(critics.old_logprobs, [0, 0, 0, *episode.values_T], rtol=1e-6)
        np.testing.assert_array_equal(ours.old_logprobs[3:], episode.rollout.completion.logprobs)
    white, _ = make_rows(part, PPOConfig(beta=0.0))
    tokens = np.concatenate([np.asarray(row.advantage)[3:] for row in white])
    assert abs(tokens.mean()) < 1e-6 and tokens.std() == pytest.approx(1.0, rel=1e-5)
    assert make_rows([], PPOConfig()) == ([], [])


# The loop


def even_ids(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(np.mean(r.completion.token_ids % 2 == 0)) for r in rollouts]


def even_start(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(r.completion.token_ids[0] % 2 == 0) for r in rollouts]


class MortalSaver(Mortal):
    dies_saving = -1

    def save(self, directory: Path, progress: object, *rest: object) -> None:
        if progress["step"] == self.dies_saving:  # type: ignore[index]
            raise KilledError
        super().save(directory, progress, *rest)  # type: ignore[arg-type]


def run_training(
    config: PPOConfig, out: Path, dies_at: int = -1, dies_saving: int = -1
) -> tuple[Mortal, Learner]:
    out.mkdir(exist_ok=True)
    settings = learner_config(context=96, learning_rate=1e-2)
    learner, critic = (
        MortalSaver(model(init_std=0.05), settings),
        Learner(model(init_std=0.05, scalar_head=True), settings),
    )
    learner.dies_at, learner.dies_saving = dies_at, dies_saving
    engine = NativeEngine(learner.model, [tokenizer().eos_id])
    reference = Learner(model(init_std=0.05), settings) if config.beta else None
    mixture = Mixture(
        load_tasks({"chain": {"weight": 1, "size": 8 if config.curriculum else 40}}),
        "train",
        5,
        curriculum=config.curriculum,
    )
    reward = (
        WeightedReward("accuracy", 1.0, even_start)
        if config.curriculum
        else WeightedReward("even", 1.0, even_ids)
    )
    algorithm = PPO(config, Policy(learner, engine, CHAT, reference), [reward], critic)
    train(algorithm, mixture, 7, quiet_log(out), out)
    return learner, critic


@pytest.mark.slow
@pytest.mark.parametrize(
    "curriculum", [None, CurriculumConfig(easy=0.6, hard=0.0, rest=1)], ids=["all problems", "a curriculum"]
)
@pytest.mark.parametrize(
    "killed", [{"dies_at": 5}, {"dies_saving": 6}], ids=["in an update", "before a save"]
)
def test_policy_and_critic_that_were_killed_continue_bit_for_bit(
    killed: dict[str, int], curriculum: CurriculumConfig | None, tmp_path: Path
) -> None:
    shape = {
        "problems": 2,
        "group": 3,
        "max_tokens": 6,
        "updates_per_rollout": 2,
        "reference_refresh": 4,
        "save_every": 1,
    }
    config = PPOConfig(steps=8, beta=0.1, gae_lambda=0.9, curriculum=curriculum, **shape)
    straight = run_training(config, tmp_path / "a")
    with pytest.raises(KilledError):
        run_training(config, tmp_path / "b", **killed)
    assert checkpoint.progress_of(tmp_path / "b")["step"] == 4
    resumed = run_training(config, tmp_path / "b")
    for one, other in zip(straight, resumed, strict=True):
        assert same_weights(one.model, other.model) and one.version == other.version == 8
    checkpoint.discard(tmp_path / "b")
    assert not [
        folder for folder in (tmp_path / "b").iterdir() if folder.is_dir() and folder.name != "samples"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("gae_lambda", [1.0, 0.95])
def test_what_is_rewarded_becomes_more_frequent_and_the_critic_foresees_it(
    gae_lambda: float, tmp_path: Path
) -> None:
    config = PPOConfig(
        steps=18,
        problems=4,
        group=8,
        updates_per_rollout=1,
        max_tokens=4,
        beta=0.0,
        gae_lambda=gae_lambda,
        reference_refresh=0,
    )
    run_training(config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rewards, losses = (
        [float(line.split(f'"{name}": ')[1].split(",")[0]) for line in lines]
        for name in ("reward/mean", "critic/loss")
    )
    assert len(rewards) == 18 and np.mean(rewards[:2]) < 0.65 < 0.8 < np.mean(rewards[-2:])
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:2])


def test_a_reference_cannot_change_within_a_phase_and_a_group_of_one_is_enough() -> None:
    with pytest.raises(
        ConfigError, match=r"ppo: .*reference_refresh: .*no multiple of updates_per_rollout 16"
    ):
        PPOConfig.parse({"reference_refresh": 100}, "ppo")
    assert PPOConfig(group=1).gae_lambda == 1.0


def test_an_empty_completion_has_no_token_to_reward() -> None:
    assert token_rewards(1.0, np.zeros(0), 0.1).tolist() == []
    assert token_rewards(1.0, np.array([0.5]), 0.1).tolist() == pytest.approx([0.95])
