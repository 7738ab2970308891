"""Every surrogate and every divergence: its expected gradient over all sequences of a tiny language against
its own definition."""

import math
from collections.abc import Sequence
from dataclasses import replace

import enumerated as world
import numpy as np
import pytest
import torch
from definitions import DEFINITIONS, PENALTIES
from enumerated import LENGTHS, ROWS, SEQUENCES
from small_world import Spied
from torch import Tensor

from r1kit.config import ConfigError, R1kitError
from r1kit.train.advantages import AdvantageConfig, estimate, penalised
from r1kit.train.objectives import Predictions
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig, divergence, token_weights
from r1kit.train.surrogates import Surrogate
from r1kit.types import Row, Score

SURROGATES: tuple[Surrogate, ...] = Surrogate.__args__  # type: ignore[attr-defined]
EVERY = range(len(SEQUENCES))
OLD, REF = world.logits(0), world.logits(1)
MOVED = world.logits(2, near=OLD, distance=0.5)
ADVANTAGES_O = torch.randn(len(SEQUENCES), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
SHARES = {
    "sequence": torch.ones_like(LENGTHS),
    "rollout": 1 / LENGTHS,
    "constant": torch.full_like(LENGTHS, 1 / world.LONGEST),
}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def config(**keys: object) -> PolicyLossConfig:
    return PolicyLossConfig.parse(
        {"beta": 0.0, "epsilon": 0.2, "epsilon_high": 0.28, "cispo_max": 1.2} | keys, "loss"
    )


def gradient(
    loss: PolicyLossConfig,
    theta: Tensor,
    old: Tensor,
    advantages_O: Tensor = ADVANTAGES_O,
    share: str = "sequence",
) -> Tensor:
    """Of the loss over all sequences that ``old`` may sample, each rollout's tokens weighed as aggregation
    ``share`` weighs them."""
    weights_O = world.sequence_probabilities(old) * SHARES[share]
    return world.expected_gradient(
        PolicyLoss(loss), theta, world.batch_of(EVERY, old, REF, advantages_O[ROWS], weights_O[ROWS])
    )


def test_the_world_is_complete() -> None:
    assert len(set(SEQUENCES)) == 15 and float(world.sequence_probabilities(OLD).sum()) == pytest.approx(1)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_on_policy_every_surrogate_is_the_policy_gradient(surrogate: str, share: str) -> None:
    """E[share x A x grad log pi(o)]; with aggregation sequence that is the gradient of E[A] itself, here by
    differences."""
    found = gradient(config(surrogate=surrogate), OLD, OLD, share=share)
    theta = OLD.clone().requires_grad_()
    logprobs_O = world.row_sum(world.token_logprobs(theta))
    closed = torch.autograd.grad(
        (world.sequence_probabilities(OLD) * SHARES[share] * ADVANTAGES_O * logprobs_O).sum(), theta
    )[0]
    close(found, -closed)
    if share == "sequence":
        close(
            found, -world.differences(lambda at: float(world.sequence_probabilities(at) @ ADVANTAGES_O), OLD)
        )


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("surrogate", DEFINITIONS)
def test_off_policy_the_gradient_is_that_of_the_expected_definition(surrogate: str, penalty: str) -> None:
    keys, gain = DEFINITIONS[surrogate]
    penalty_keys, divergence_of = PENALTIES[penalty]
    then_O, ref_O, here_O = world.by_sequence(OLD), world.by_sequence(REF), world.by_sequence(MOVED)

    def expected_loss(theta: Tensor) -> float:
        total = 0.0
        for now, here, then, ref, advantage in zip(
            world.by_sequence(theta), here_O, then_O, ref_O, ADVANTAGES_O.tolist(), strict=True
        ):
            value = sum(gain(now, here, then, advantage)) - 0.3 * sum(
                divergence_of(*places) for places in zip(now, then, ref, strict=True)
            )
            total -= math.exp(sum(then)) * value / len(now)
        return total

    found = gradient(config(beta=0.3, **keys, **penalty_keys), MOVED, OLD, share="rollout")
    close(found, world.differences(expected_loss, MOVED))
    on_policy = gradient(config(beta=0.3, **keys, **penalty_keys), OLD, OLD, share="rollout")
    assert float((found - on_policy).abs().max()) > 1e-3  # the test is off policy indeed


@pytest.mark.parametrize("surrogate", ["cispo", "reinforce", "gspo_token"])
def test_where_a_gradient_is_stopped_the_rest_is_the_score_function_times_a_number(surrogate: str) -> None:
    """sum_o pi_old(o) sum_t coefficient_t A grad log pi(o_t), with grad log pi(o_t) = onehot - pi, row by row
    of the logits."""
    pi = MOVED.softmax(-1)
    expected = torch.zeros_like(MOVED)
    coefficients = []
    for sequence, now, then, advantage in zip(
        SEQUENCES, world.by_sequence(MOVED), world.by_sequence(OLD), ADVANTAGES_O.tolist(), strict=True
    ):
        mean_ratio = math.exp((sum(now) - sum(then)) / len(now))
        for t, token in enumerate(sequence):
            if surrogate == "cispo":
                coefficient = min(math.exp(now[t] - then[t]), 1.2)
            elif surrogate == "reinforce":
                coefficient = 1.0
            else:
                coefficient = (
                    mean_ratio if (mean_ratio <= 1.28 if advantage > 0 else mean_ratio >= 0.8) else 0.0
                )
            context = world.PREFIXES.index(sequence[:t])
            score = torch.eye(world.VOCABULARY, dtype=torch.float64)[token] - pi[context]
            expected[context] -= math.exp(sum(then)) * coefficient * advantage * score
            coefficients.append(coefficient)
    close(gradient(config(surrogate=surrogate), MOVED, OLD), expected)
    assert surrogate == "reinforce" or len(set(coefficients)) > 5


def test_gspo_token_is_gspo_where_a_rollouts_tokens_share_one_advantage() -> None:
    close(
        gradient(config(surrogate="gspo_token"), MOVED, OLD), gradient(config(surrogate="gspo"), MOVED, OLD)
    )


@pytest.mark.parametrize("surrogate", ["clip", "gspo", "gspo_token"])
def test_of_single_tokens_the_ratio_without_clip_is_the_exact_gradient_off_policy(surrogate: str) -> None:
    """E_old[rho A] = E_pi[A]: longer rollouts have it only as far as the prefixes' distribution has not
    moved."""
    single_O = (LENGTHS == 1).double() * ADVANTAGES_O  # only rollouts of one token are rewarded
    found = gradient(config(surrogate=surrogate, epsilon=1e6, epsilon_high=1e6), MOVED, OLD, single_O)
    close(found, -world.differences(lambda at: float(world.sequence_probabilities(at) @ single_O), MOVED))


def reached(theta: Tensor) -> Tensor:
    """How likely each prefix [7] is."""
    chances = theta.softmax(-1).tolist()
    return torch.tensor(
        [
            math.prod(chances[world.PREFIXES.index(p[:t])][p[t]] for t in range(len(p)))
            for p in world.PREFIXES
        ],
        dtype=torch.float64,
    )


def kl(first: Tensor, second: Tensor) -> Tensor:
    """KL [7] between next-token distributions, prefix by prefix."""
    return (first.softmax(-1) * (first.log_softmax(-1) - second.log_softmax(-1))).sum(-1)


def only_divergence(theta: Tensor, old: Tensor, **keys: object) -> Tensor:
    return gradient(config(beta=1.0, **keys), theta, old, torch.zeros_like(ADVANTAGES_O))


def test_on_policy_k2_has_the_gradient_of_the_reverse_divergence_and_k3_of_the_forward_one() -> None:
    """Token by token, where the prefixes stay as they were sampled."""
    seen_Z = reached(OLD)
    close(only_divergence(OLD, OLD, kl="k2"), world.differences(lambda at: float(seen_Z @ kl(at, REF)), OLD))
    close(only_divergence(OLD, OLD, kl="k3"), world.differences(lambda at: float(seen_Z @ kl(REF, at)), OLD))


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_with_the_importance_weight_the_gradient_is_the_reverse_divergences_also_off_policy(
    kind: str,
) -> None:
    for theta in (OLD, MOVED):
        found = only_divergence(theta, OLD, kl=kind, kl_unbiased=True)
        close(found, world.differences(lambda at: float(reached(OLD) @ kl(at, REF)), theta))


def test_without_it_no_divergence_in_the_loss_is_right_off_policy() -> None:
    exact = world.differences(lambda at: float(reached(OLD) @ kl(at, REF)), MOVED)
    for kind in ("k2", "k3"):
        assert float((only_divergence(MOVED, OLD, kl=kind) - exact).abs().max()) > 1e-2


def test_k1_in_the_loss_would_pull_nowhere() -> None:
    theta = OLD.clone().requires_grad_()
    weights_N = world.sequence_probabilities(OLD)[ROWS]
    logprobs_N = world.token_logprobs(theta)
    found = torch.autograd.grad(
        (divergence(world.token_logprobs(REF) - logprobs_N, "k1") * weights_N).sum(), theta
    )[0]
    close(found, torch.zeros_like(OLD))


def test_k2_and_k3_in_the_reward_would_lose_their_pull_near_the_reference() -> None:
    """E[D(o) grad log pi(o)] for one token: k3's is grad KL(pi || ref) - grad KL(ref || pi), both vanish
    faster than the divergence's own."""
    ref_V = REF[0]

    def as_reward(kind: str, theta_V: Tensor) -> Tensor:
        pi_V = theta_V.softmax(0)
        rewards_V = divergence(ref_V.log_softmax(0) - theta_V.log_softmax(0), kind)  # type: ignore[arg-type]
        return (pi_V * rewards_V) @ (torch.eye(3, dtype=torch.float64) - pi_V)

    def exact(theta_V: Tensor, forward: bool = False) -> Tensor:
        pair = (lambda at: (ref_V[None], at[None])) if forward else (lambda at: (at[None], ref_V[None]))
        return world.differences(lambda at: float(kl(*pair(at))), theta_V)

    far_V = OLD[0]
    close(as_reward("k1", far_V), exact(far_V))
    close(as_reward("k3", far_V), exact(far_V) - exact(far_V, forward=True))
    for kind in ("k2", "k3"):
        near, nearer = (
            float(as_reward(kind, at).norm() / as_reward("k1", at).norm())
            for at in (ref_V + 0.1 * far_V, ref_V + 0.01 * far_V)
        )
        assert nearer < 0.12 * near < 0.02


def test_k1_in_the_reward_is_the_gradient_of_the_whole_sequences_divergence() -> None:
    """With RLOO over all pairs of rollouts: E[r] - beta KL(pi || ref) of whole sequences, which no term in
    the loss gives."""
    beta, rewards_O = 0.3, ADVANTAGES_O
    p_O = world.sequence_probabilities(OLD)
    arrays_O = [[np.array(values) for values in world.by_sequence(theta)] for theta in (OLD, REF)]
    pairs = [(a, b) for a in range(len(SEQUENCES)) for b in range(len(SEQUENCES))]
    scores_PG = [[Score(float(rewards_O[a]), {}), Score(float(rewards_O[b]), {})] for a, b in pairs]
    old_PG, ref_PG = ([[arrays[a], arrays[b]] for a, b in pairs] for arrays in arrays_O)
    found_PG = estimate(penalised(scores_PG, old_PG, ref_PG, beta), AdvantageConfig(advantage="rloo"), {})
    expected_O = torch.zeros_like(
        rewards_O
    )  # the mean advantage of each sequence over what stands next to it
    for (a, b), found_G in zip(pairs, found_PG, strict=True):
        expected_O[a] += p_O[b] * float(found_G[0])
    keys = {"beta": beta, "kl": "k1", "kl_in": "reward", "surrogate": "reinforce"}

    def objective(at: Tensor) -> float:
        p = world.sequence_probabilities(at)
        return float(p @ (rewards_O - beta * (p.log() - world.sequence_probabilities(REF).log())))

    close(gradient(config(**keys), OLD, OLD, expected_O), -world.differences(objective, OLD))


def test_the_entropy_bonus_has_the_gradient_of_the_entropy_at_the_prefixes_seen() -> None:
    found = gradient(config(entropy_bonus=0.7), MOVED, OLD, torch.zeros_like(ADVANTAGES_O))

    def entropy(at: Tensor) -> float:
        return float(reached(OLD) @ torch.distributions.Categorical(logits=at).entropy())

    close(found, -0.7 * world.differences(entropy, MOVED))


def test_a_penalty_pulls_its_tokens_back_to_where_they_were_sampled() -> None:
    """sum_t penalty_t |log rho_t|, and nothing at all where the policy has not moved."""
    penalties_N = torch.rand(len(ROWS), dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weights_N, zeros_N = world.sequence_probabilities(OLD)[ROWS], torch.zeros(len(ROWS), dtype=torch.float64)
    batch = world.batch_of(EVERY, OLD, REF, zeros_N, weights_N, penalties_N)
    old_N = world.token_logprobs(OLD)

    def expected(at: Tensor) -> float:
        return float((weights_N * penalties_N * (world.token_logprobs(at) - old_N).abs()).sum())

    close(world.expected_gradient(PolicyLoss(config()), MOVED, batch), world.differences(expected, MOVED))
    close(world.expected_gradient(PolicyLoss(config()), OLD, batch), torch.zeros_like(OLD))


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_rollouts_loss_does_not_depend_on_its_neighbours(surrogate: str) -> None:
    """All rows in one batch, or each in a batch of its own, in another order, its tokens on a line of another
    length."""
    weights_N = (world.sequence_probabilities(OLD) / LENGTHS)[ROWS]
    whole = world.batch_of(EVERY, OLD, REF, ADVANTAGES_O[ROWS], weights_N)
    loss = PolicyLoss(config(surrogate=surrogate, beta=0.1))
    theta = MOVED.clone().requires_grad_()
    total = torch.zeros_like(theta)
    for row in reversed(range(len(SEQUENCES))):
        mine = row == ROWS
        alone = Batch(
            **{name: getattr(whole, name).flatten()[: len(ROWS)][mine][None] for name in Batch.__slots__}
        )
        logprobs_BT = world.token_logprobs(theta)[mine][None]
        total += torch.autograd.grad(
            loss(Predictions(logprobs_BT, torch.zeros_like(logprobs_BT)), alone)[0], theta
        )[0]
    torch.testing.assert_close(total, world.expected_gradient(loss, MOVED, whole), rtol=0, atol=1e-12)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_batch_that_trains_nothing_has_no_loss(surrogate: str) -> None:
    zeros_N = torch.zeros(len(ROWS), dtype=torch.float64)
    batch = world.batch_of(EVERY, OLD, REF, zeros_N, zeros_N)
    nothing = replace(
        batch, mask_BT=torch.zeros_like(batch.mask_BT), rows_BT=torch.full_like(batch.rows_BT, -1)
    )
    value, statistics = PolicyLoss(config(surrogate=surrogate, beta=0.1))(
        Predictions(batch.old_logprobs_BT, zeros_N.sum()), nothing
    )
    assert float(value) == 0 and all(float(number) == 0 for number in statistics.values())


def line(log_ratio: Sequence[float], advantage: Sequence[float]) -> tuple[Tensor, Batch]:
    """One rollout's tokens: log-probabilities now, -3 when they were sampled."""
    ratio_BT, advantages_BT = (
        torch.tensor([log_ratio], dtype=torch.float64),
        torch.tensor([advantage], dtype=torch.float64),
    )
    ones_BT, zeros_BT = torch.ones_like(ratio_BT), torch.zeros_like(ratio_BT)
    old_BT, none_BT = torch.full_like(ratio_BT, -3), zeros_BT.long()
    named = {
        "mask_BT": ones_BT.bool(),
        "rows_BT": none_BT,
        "weights_BT": ones_BT,
        "advantages_BT": advantages_BT,
        "penalties_BT": zeros_BT,
    }
    named |= {"old_logprobs_BT": old_BT, "ref_logprobs_BT": old_BT}
    return (ratio_BT - 3).requires_grad_(), Batch(
        **{name: named.get(name, none_BT) for name in Batch.__slots__}
    )


def test_the_clip_stops_the_gradient_only_where_the_ratio_went_too_far_the_favoured_way() -> None:
    moves, advantage = [0.5, 0.1, -0.1, -0.5, 0.5, -0.5], [1.0, 1.0, 1.0, 1.0, -1.0, -1.0]
    logprobs, batch = line(moves, advantage)
    value, statistics = PolicyLoss(config())(Predictions(logprobs, torch.ones_like(logprobs)), batch)
    value.backward()
    ratio = torch.tensor(moves, dtype=torch.float64).exp()
    assert logprobs.grad is not None
    torch.testing.assert_close(
        logprobs.grad[0],
        -ratio * torch.tensor(advantage, dtype=torch.float64) * torch.tensor([0.0, 1, 1, 1, 1, 0]),
    )
    assert float(value.detach()) == pytest.approx(
        -sum([1.28, float(ratio[1]), float(ratio[2]), float(ratio[3]), -float(ratio[4]), -0.8])
    )
    assert {name: float(number) for name, number in statistics.items()} == pytest.approx(
        {"tokens": 6, "entropy": 6, "kl_ref": 0, "clipped": 2, "gap": sum(abs(move) for move in moves)}
    )


@pytest.mark.parametrize(
    ("keys", "cut"),
    [
        ({"dual_clip": 1.6}, [1, 0, 0, 0, 1, 1]),
        ({"surrogate": "gmpo"}, [1, 0, 0, 0, 0, 1]),
        ({"surrogate": "cispo"}, [1, 0, 0, 0, 1, 0]),
        ({"surrogate": "sapo"}, [0] * 6),
        ({"surrogate": "gspo"}, [0] * 6),  # the mean log ratio is within the bounds
    ],
)
def test_what_was_cut_is_counted(keys: dict[str, object], cut: list[int]) -> None:
    logprobs, batch = line([0.5, 0.1, -0.1, -0.5, 0.5, -0.5], [1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    statistics = PolicyLoss(config(**keys))(Predictions(logprobs, torch.ones_like(logprobs)), batch)[1]
    assert float(statistics["clipped"]) == sum(cut)


def test_the_k3_estimate_is_never_negative_and_every_estimates_mean_is_the_divergence() -> None:
    generator = torch.Generator().manual_seed(2)
    policy_V, ref_V = (
        torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2)
    )
    exact = float((policy_V.exp() * (policy_V - ref_V)).sum())
    assert (
        bool((divergence(ref_V - policy_V, "k3") >= 0).all())
        and float(divergence(torch.zeros(()), "k3")) == 0
    )
    for kind in ("k1", "k3"):
        assert float((policy_V.exp() * divergence(ref_V - policy_V, kind)).sum()) == pytest.approx(exact)  # type: ignore[arg-type]
    near_V = (policy_V + 1e-3 * ref_V).log_softmax(0)  # k2's only to second order
    close_by = float((near_V.exp() * divergence(policy_V - near_V, "k2")).sum())
    assert close_by == pytest.approx(float((near_V.exp() * (near_V - policy_V)).sum()), rel=1e-2)


def test_each_aggregation_weighs_tokens_by_its_own_rule() -> None:
    lengths = [2, 3, 5]
    assert token_weights(lengths, "rollout", 10) == pytest.approx([1 / 6, 1 / 9, 1 / 15])
    assert token_weights(lengths, "token", 10) == pytest.approx([0.1] * 3)
    assert token_weights(lengths, "constant", 10) == pytest.approx([1 / 30] * 3)
    assert token_weights(lengths, "sequence", 10) == pytest.approx([1 / 3] * 3)
    assert token_weights(lengths, "prompt", 10, groups=[2, 1]) == pytest.approx([1 / 10, 1 / 10, 1 / 10])
    assert token_weights([1, 2, 9], "prompt", 10, groups=[2, 0, 1]) == pytest.approx([1 / 9, 1 / 9, 1 / 27])
    for kind in (
        "rollout",
        "token",
        "prompt",
    ):  # a mean: with advantage 1 everywhere the loss of an untouched policy is -1
        weights = token_weights(lengths, kind, 10, groups=[1, 2])  # type: ignore[arg-type]
        assert sum(w * n for w, n in zip(weights, lengths, strict=True)) == pytest.approx(1)
    with pytest.raises(R1kitError, match="size of every group"):
        token_weights(lengths, "prompt", 10)
    for kind in ("rollout", "token", "constant", "sequence", "prompt"):  # all filtered, or no rollout at all
        assert (
            all(math.isfinite(w) for w in token_weights([0, 0], kind, 10, groups=[2]))
            and token_weights([], kind, 10) == []
        )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kl": "k1"}, "no expected gradient on policy"),
        ({"kl_in": "reward"}, "k3 in the reward"),
        ({"kl_in": "reward", "kl": "k2"}, "k2 in the reward"),
        ({"kl_in": "reward", "kl": "k1", "kl_unbiased": True}, "unbiased as it is"),
        ({"kl": "k2", "kl_unbiased": True}, "right without a weight"),
        ({"dual_clip": 3.0, "surrogate": "sapo"}, "not that of sapo"),
        ({"dual_clip": 1.0}, "greater than 1"),
    ],
)
def test_what_would_teach_nothing_or_the_wrong_thing_is_refused(
    keys: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PolicyLossConfig.parse(keys, "loss")
    if "kl" in keys or "kl_in" in keys:
        PolicyLossConfig.parse(keys | {"beta": 0.0}, "loss")  # without a divergence it does not matter


def test_the_learner_gives_the_entropy_bonus_its_gradient() -> None:
    """The norm of the update's gradient, against plain autograd through the model, row by row."""
    spied = Spied()
    rows = [
        Row(
            np.arange(1, 1 + n, dtype=np.int32),
            np.arange(n) >= 3,
            weight,
            old_logprobs=np.zeros(n, dtype=np.float32),
        )
        for n, weight in ((9, 0.2), (6, 0.5))
    ]
    spied.model.zero_grad()
    total = torch.zeros(())
    for row in rows:
        ids = torch.from_numpy(row.token_ids[:-1].astype(np.int64))[None]
        logits_TV = spied.model.logits(spied.model(ids).hidden_BTD)[0][torch.from_numpy(row.mask[1:])]
        total = total - 0.7 * row.weight * torch.distributions.Categorical(logits=logits_TV).entropy().sum()
    gradients = torch.autograd.grad(
        total, [p for p in spied.model.parameters() if p.requires_grad], allow_unused=True
    )
    expected = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients if g is not None))
    metrics = spied.learner.update(rows, PolicyLoss(config(entropy_bonus=0.7)), 0.0)
    assert expected > 0 and metrics["grad_norm"] == pytest.approx(expected, rel=1e-4)
    assert metrics["loss"] == pytest.approx(float(total.detach()), rel=1e-5)
    assert spied.learner.update(rows, PolicyLoss(config()), 0.0)["grad_norm"] == 0
