"""Advantages by hand, and against the exact gradients that they estimate, by going through every group that
can be drawn."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from definitions import by_counts

from r1kit.config import R1kitError
from r1kit.train.advantages import AdvantageConfig, Estimator, advantages, estimate, penalised
from r1kit.types import Score

NAN = float("nan")
ESTIMATORS: tuple[Estimator, ...] = Estimator.__args__  # type: ignore[attr-defined]


def scores(rewards_PG: Sequence[Sequence[float]]) -> list[list[Score]]:
    return [
        [Score(reward, {"accuracy": None if math.isnan(reward) else reward}) for reward in rewards_G]
        for rewards_G in rewards_PG
    ]


def found(rewards_PG: Sequence[Sequence[float]], estimator: str, pass_k: int = 2) -> list[list[float]]:
    config = AdvantageConfig(advantage=estimator, pass_k=pass_k)  # type: ignore[arg-type]
    arrays = estimate(scores(rewards_PG), config, {"accuracy": 1.0})
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays)
    return [array.tolist() for array in arrays]


@pytest.mark.parametrize(
    ("rewards", "estimator", "expected"),
    [
        ([1, 0, 0, 1], "group_mean", [0.5, -0.5, -0.5, 0.5]),
        ([1, 0, 0, 0], "group_mean", [0.75, -0.25, -0.25, -0.25]),
        ([1, 0, 0, 0], "group_std", [1.5, -0.5, -0.5, -0.5]),  # the unbiased deviation of these is 0.5
        ([3, 1], "group_std", [2**-0.5, -(2**-0.5)]),
        ([2, 2, 2], "group_std", [0, 0, 0]),
        ([0.1 + 0.2, 0.3], "group_mean", [2.7e-17, -2.7e-17]),
        ([1, NAN, 0], "group_mean", [0.5, 0, -0.5]),
        ([1, NAN, 1], "group_std", [0, 0, 0]),
        ([1, NAN], "group_std", [0, 0]),
        ([NAN, NAN], "group_mean", [0, 0]),
        ([1, 0, 0, 0], "rloo", [1, -1 / 3, -1 / 3, -1 / 3]),
        ([5, 3], "rloo", [2, -2]),
        ([6, NAN, 3, 0], "rloo", [4.5, 0, 0, -4.5]),
        ([1, 0, 0, 0], "maxrl", [3, -1, -1, -1]),
        ([1, 1, 1, 0], "maxrl", [1 / 3, 1 / 3, 1 / 3, -1]),
        # C(4,2) = 6 pairs, 3 without the winner: m = 1/2, sd = 1/2; a loser is in 3 pairs of which 1 passes:
        # (1/3 - 1/2) / (1/2)
        ([1, 0, 0, 0], "pass_at_k", [1, -1 / 3, -1 / 3, -1 / 3]),
        # one pair of 6 fails: m = 5/6, sd = sqrt(5)/6; a loser is in 3 pairs of which 2 pass: (2/3 - 5/6) /
        # sd
        ([2, 2, 0, 0], "pass_at_k", [5**-0.5, 5**-0.5, -(5**-0.5), -(5**-0.5)]),
        ([1, 1, 1, 0], "pass_at_k", [0, 0, 0, 0]),  # every pair passes
    ],
)
def test_advantages_are_these(rewards: list[float], estimator: Estimator, expected: list[float]) -> None:
    computed = advantages(np.array(rewards), estimator, pass_k=2)
    np.testing.assert_allclose(computed, expected, rtol=3e-4, atol=1e-16)
    assert computed.dtype == np.float32
    assert found([rewards], estimator) == [computed.tolist()]  # a group alone is an update of one


def test_those_that_look_at_the_whole_update_are_these() -> None:
    """Two groups: [1, 0, 0, 0] and [1, 1]; six rewards with mean 1/2 and sum of squares about it 6/4."""
    rewards_PG = [[1, 0, 0, 0], [1, 1]]
    spread = math.sqrt(1.5 / 5)
    expected: dict[str, list[list[float]]] = {
        "batch_std": [[0.75 / spread, *[-0.25 / spread] * 3], [0, 0]],
        "reinforce_pp": [[0.5 / spread, *[-0.5 / spread] * 3], [0.5 / spread] * 2],
    }
    centred = math.sqrt((0.75**2 + 3 * 0.25**2) / 5)
    expected["reinforce_pp_baseline"] = [[0.75 / centred, *[-0.25 / centred] * 3], [0, 0]]
    sums = math.sqrt((1.5**2 + 3 * 0.5**2) / 5)
    expected["gdpo"] = [[1.5 / sums, *[-0.5 / sums] * 3], [0, 0]]
    for estimator, values_PG in expected.items():
        for computed, values in zip(found(rewards_PG, estimator), values_PG, strict=True):
            np.testing.assert_allclose(computed, values, rtol=3e-4)


def test_gdpo_weighs_each_reward_where_their_sums_are_equal() -> None:
    """(accuracy, format): of [(1,0), (0,1), (0,1), (0,1)] the sums are equal, yet with weights 2 and 1 the
    first is the better rollout. In-group: accuracy [1.5, -.5, -.5, -.5], format [-1.5, .5, .5, .5]; weighted
    sum [1.5, -.5, -.5, -.5]; over the update its std is 1."""
    group = [
        Score(0.0, {"accuracy": a, "format": f}) for a, f in ((1.0, 0.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    ]
    config = AdvantageConfig(advantage="gdpo")
    np.testing.assert_allclose(
        estimate([group], config, {"accuracy": 2.0, "format": 1.0})[0], [1.5, -0.5, -0.5, -0.5], rtol=5e-4
    )
    assert not estimate([group], AdvantageConfig(), {})[0].any()
    with pytest.raises(R1kitError, match=r"needs the weight of reward 'format'.*accuracy"):
        estimate([group], config, {"accuracy": 1.0})


def test_gdpo_leaves_out_what_does_not_apply_and_what_failed() -> None:
    """helpful applies to two rollouts only; the fourth failed, so that its parts count nowhere."""
    parts = [(1.0, None), (0.0, 3.0), (0.0, 1.0), (1.0, 9.0)]
    group = [
        Score(total, {"accuracy": a, "helpful": h})
        for total, (a, h) in zip((1.0, 3.0, 1.0, NAN), parts, strict=True)
    ]
    third = math.sqrt(1 / 3)  # of accuracy [1, 0, 0]: std = sqrt(1/3); of helpful [3, 1]: std = sqrt(2)
    sums = np.array([(2 / 3) / third, (-1 / 3) / third + 2**-0.5, (-1 / 3) / third - 2**-0.5])
    computed = estimate([group], AdvantageConfig(advantage="gdpo"), {"accuracy": 1.0, "helpful": 1.0})[0]
    np.testing.assert_allclose(computed, [*(sums / sums.std(ddof=1)), 0.0], rtol=5e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_lone_winner_stays_the_winner(estimator: str) -> None:
    """Also with groups that are solved, hopeless, unjudged or empty."""
    for others in ([], [[1, 1, 1, 1]], [[0, 0, 0, 0], [NAN, NAN, NAN, NAN]], [[], [1, 0, 1, NAN]]):
        lone = found([[1, 0, 0, 0], *others], estimator)[0]
        assert lone[0] > 0.1 and lone[1] == lone[2] == lone[3] < 0
        assert lone[0] >= 1.99 * -lone[1] or estimator == "reinforce_pp"


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_where_no_rollout_is_better_no_advantage_is_given(estimator: str) -> None:
    assert found([], estimator) == []
    assert found([[]], estimator) == [[]]
    assert found([[0.1 + 0.2]], estimator) == [[0]]
    assert found([[1, 1, 1], [1, 1, 1]], estimator) == [[0, 0, 0], [0, 0, 0]]
    assert found([[0.1] * 7], estimator) == [[0] * 7]  # whose mean is not 0.1 in floating point
    assert found([[0, 0], []], estimator) == [[0, 0], []]
    assert found([[NAN, NAN], [NAN]], estimator) == [[0, 0], [0]]
    assert found([[NAN, 1, NAN]], estimator) == [[0, 0, 0]]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_reward_that_failed_takes_no_part(estimator: str) -> None:
    whole = found([[1, 0, 0, 1], [0, 0, 1, 0]], estimator)
    torn = found([[1, NAN, 0, 0, 1], [0, 0, 1, 0, NAN]], estimator)
    assert torn == [[whole[0][0], 0, *whole[0][1:]], [*whole[1], 0]]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_group_of_one_is_compared_only_where_the_comparison_goes_beyond_groups(estimator: str) -> None:
    ones = found([[1], [0], [0]], estimator)
    if estimator == "reinforce_pp":  # mean 1/3, unbiased deviation sqrt(1/3)
        np.testing.assert_allclose(
            np.concatenate(ones), np.array([2, -1, -1]) / 3 / math.sqrt(1 / 3), rtol=3e-4
        )
    else:
        assert ones == [[0], [0], [0]]


def test_rewards_that_an_estimator_cannot_use_are_refused() -> None:
    with pytest.raises(R1kitError, match=r"none may be negative; one is -0\.5"):
        advantages(np.array([1.0, -0.5]), "maxrl")
    with pytest.raises(R1kitError, match="over all groups of an update"):
        advantages(np.array([0.0, 1.0]), "batch_std")


# The gradient of an expectation over a policy with four outcomes, softmax of theta: row o of SCORES is grad
# log pi(o).
PI = np.exp(THETA := np.array([0.3, -0.4, 0.9, 0.1])) / np.exp(THETA).sum()
SCORES = np.eye(4) - PI


def expected_gradient(
    rewards_V: np.ndarray, group: int, rule: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """E[mean_i A_i grad log pi(o_i)] over all groups of that size, each with its probability."""
    total = np.zeros(4)
    for outcomes in itertools.product(range(4), repeat=group):
        drawn = list(outcomes)
        total += PI[drawn].prod() * (rule(rewards_V[drawn])[:, None] * SCORES[drawn]).mean(0)
    return total


def exact_gradient(objective: Callable[[np.ndarray], float]) -> np.ndarray:
    """Central differences of objective(pi) by theta."""

    def at(theta: np.ndarray) -> float:
        return objective(np.exp(theta) / np.exp(theta).sum())

    steps = 1e-5 * np.eye(4)
    return np.array([(at(THETA + step) - at(THETA - step)) / 2e-5 for step in steps])


def double(estimator: Estimator, k: int = 2) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rewards_G: advantages(rewards_G, estimator, k).astype(np.float64)


@pytest.mark.parametrize("group", [2, 3])
def test_rloo_is_the_policy_gradient_and_group_mean_g_minus_1_over_g_of_it(group: int) -> None:
    rewards_V = np.array([1.0, 0.25, -0.5, 2.0])
    exact = exact_gradient(lambda pi: float(pi @ rewards_V))
    np.testing.assert_allclose(expected_gradient(rewards_V, group, double("rloo")), exact, atol=1e-6)
    np.testing.assert_allclose(
        expected_gradient(rewards_V, group, double("group_mean")), exact * (group - 1) / group, atol=1e-6
    )


@pytest.mark.parametrize("group", [2, 3, 4])
def test_maxrl_is_the_gradient_of_the_truncated_log_of_the_chance_to_be_right(group: int) -> None:
    """sum_{k<G} of grad pass@k / k, the Maclaurin series of grad log p cut after G-1 terms: grad log p as G
    grows."""
    rewards_V = np.array([0.0, 1.0, 0.0, 1.0])
    truncated = exact_gradient(lambda pi: sum((1 - (1 - pi @ rewards_V) ** k) / k for k in range(1, group)))
    np.testing.assert_allclose(expected_gradient(rewards_V, group, double("maxrl")), truncated, atol=1e-6)


@pytest.mark.parametrize(("group", "k"), [(3, 2), (4, 2), (4, 3), (5, 3)])
def test_pass_at_k_points_along_the_gradient_of_the_exact_pass_at_k(group: int, k: int) -> None:
    """Without the division by the sets' std it is (1/k - 1/G) of that gradient; with it the scale differs,
    the direction does not."""
    rewards_V = np.array([0.0, 1.0, 0.0, 1.0])
    exact = exact_gradient(lambda pi: float(1 - (1 - pi @ rewards_V) ** k))

    def undivided(rewards_G: np.ndarray) -> np.ndarray:
        m = 1 - math.comb(int((rewards_G == 0).sum()), k) / math.comb(group, k)
        return double("pass_at_k", k)(rewards_G) * math.sqrt(m * (1 - m))

    np.testing.assert_allclose(
        expected_gradient(rewards_V, group, undivided), exact * (1 / k - 1 / group), atol=1e-6
    )
    divided = expected_gradient(rewards_V, group, double("pass_at_k", k))
    assert divided @ exact == pytest.approx(np.linalg.norm(divided) * np.linalg.norm(exact), rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimators_expected_gradient_is_the_sum_over_how_many_were_right(estimator: Estimator) -> None:
    """Two problems, of chances p and q to be right, two rollouts each. All 256 updates, one by one, against
    sum over counts of Bin(c; p) Bin(d; q) [c A_right grad log p + (2-c) A_wrong grad log (1-p)] / 4."""
    first, second = np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 0.0])
    walked = np.zeros(4)
    for outcomes in itertools.product(range(4), repeat=4):
        a, b = list(outcomes[:2]), list(outcomes[2:])
        chance = PI[a].prod() * PI[b].prod()
        walked += (
            chance
            * (
                np.array(found([first[a].tolist(), second[b].tolist()], estimator, pass_k=1)[0])[:, None]
                * SCORES[a]
            ).sum(0)
            / 4
        )
    p, q = PI @ first, PI @ second
    slope = exact_gradient(lambda pi: float(pi @ first))
    counted = np.zeros(4)
    for c, d in itertools.product(range(3), repeat=2):
        right, wrong = by_counts(estimator, c, 2 - c, d, groups=2, k=1)
        chance = math.comb(2, c) * p**c * (1 - p) ** (2 - c) * math.comb(2, d) * q**d * (1 - q) ** (2 - d)
        counted += chance * (c * right * slope / p - (2 - c) * wrong * slope / (1 - p)) / 4
    assert np.abs(counted).max() > 1e-2
    np.testing.assert_allclose(walked, counted, atol=1e-6)


@pytest.mark.parametrize(
    "rewards", [[0, 1, 0, 0, 1, 0], [0.3, 1.1, 0.3, -0.5, 2.0, 0.1], [0.1, 1.1, 0, 0, 0, 0.1]]
)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_over_all_subsets_of_k(rewards: list[float], k: int) -> None:
    rewards_G = np.array(rewards)
    subsets = list(itertools.combinations(range(6), k))
    best = np.array([rewards_G[list(subset)].max() for subset in subsets])
    if np.ptp(best) == 0:  # as where two of six are right and k = 5
        assert not advantages(rewards_G, "pass_at_k", k).any()
        return
    with_i = np.array([best[[i in subset for subset in subsets]].mean() for i in range(6)])
    np.testing.assert_allclose(
        advantages(rewards_G, "pass_at_k", k), (with_i - best.mean()) / best.std(), rtol=1e-6, atol=1e-7
    )


def test_a_penalty_is_taken_off_the_reward_and_nothing_else() -> None:
    old_PG = [[np.array([-1.0, -2.0], dtype=np.float32), np.array([-0.5], dtype=np.float32)]]
    references_PG = [[np.array([-1.5, -1.0], dtype=np.float32), np.array([-2.5], dtype=np.float32)]]
    first, second = penalised(scores([[1.0, NAN]]), old_PG, references_PG, 0.1)[0]
    assert first.total == pytest.approx(1.0 - 0.1 * (0.5 - 1.0)) and first.parts == {"accuracy": 1.0}
    assert math.isnan(second.total)
