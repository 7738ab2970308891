"""Which tokens learn, by hand and by brute force."""

import numpy as np
import pytest

from r1kit.config import R1kitError
from r1kit.train.token_selection import TokensConfig, choose, covariances, drawn_between, highest, top_entropy

RNG = np.random.default_rng(0)
LENGTHS = (40, 1, 25, 0, 60)
LOGPROBS = [-RNG.exponential(2.0, size=n).astype(np.float32) for n in LENGTHS]
ENTROPIES = [RNG.exponential(1.0, size=n).astype(np.float32) for n in LENGTHS]
ADVANTAGES = [1.5, -0.5, 0.0, 2.0, -1.0]


def test_all_tokens_learn_unless_a_rule_says_otherwise() -> None:
    chosen = choose(TokensConfig(), LOGPROBS, ADVANTAGES, (), 0)
    assert (
        [len(learns_T) for learns_T in chosen.learns]
        == list(LENGTHS)
        == [len(penalties_T) for penalties_T in chosen.penalties]
    )
    assert all(learns_T.all() for learns_T in chosen.learns) and not any(
        penalties_T.any() for penalties_T in chosen.penalties
    )


def test_the_forks_are_the_tokens_of_highest_entropy_over_the_whole_update() -> None:
    chosen = choose(TokensConfig(tokens="entropy"), LOGPROBS, ADVANTAGES, ENTROPIES, 0)
    everything, learns = np.concatenate(ENTROPIES), np.concatenate(chosen.learns)
    ranked = np.argsort(everything)
    assert learns.sum() == pytest.approx(0.2 * len(everything), abs=1)
    assert learns[ranked[-20:]].all() and not learns[ranked[:100]].any()
    assert [len(learns_T) for learns_T in chosen.learns] == list(LENGTHS)
    assert top_entropy(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 0.4).tolist() == [
        0,
        0,
        0,
        1,
        1,
    ]  # the .6 quantile is 3.4
    assert top_entropy(np.array([1.0, 1.0, 1.0]), 0.2).tolist() == [1, 1, 1]  # they are equal
    with pytest.raises(R1kitError, match="needs the entropy of every sampled token"):
        choose(TokensConfig(tokens="entropy"), LOGPROBS, ADVANTAGES, (), 0)


def test_the_mean_of_the_tokens_parts_is_the_covariance() -> None:
    logprobs_N, advantages_N = np.concatenate(LOGPROBS), np.repeat(ADVANTAGES, LENGTHS)
    found_N = covariances(logprobs_N, advantages_N)
    assert found_N.mean() == pytest.approx(np.cov(logprobs_N, advantages_N, ddof=0)[0, 1], rel=1e-5)
    # mean log p -2, mean A 0.5: (-1+2)(2-0.5), (-3+2)(-1-0.5), (-2+2)(..)
    np.testing.assert_allclose(
        covariances(np.array([-1.0, -3.0, -2.0]), np.array([2.0, -1.0, 0.5])), [1.5, 1.5, 0]
    )


def test_kl_cov_punishes_the_tokens_that_make_the_policy_surest() -> None:
    chosen = choose(
        TokensConfig(tokens="kl_cov", tokens_share=0.05, tokens_penalty=0.7), LOGPROBS, ADVANTAGES, (), 0
    )
    everything = covariances(np.concatenate(LOGPROBS), np.repeat(ADVANTAGES, LENGTHS))
    penalties = np.concatenate(chosen.penalties)
    assert int(0.05 * len(everything)) == (penalties > 0).sum() == 6 and set(penalties.tolist()) == {
        0.0,
        float(np.float32(0.7)),
    }
    assert everything[penalties > 0].min() >= everything[penalties == 0].max()
    assert all(learns_T.all() for learns_T in chosen.learns)
    assert highest(np.array([1.0, 3.0, 3.0, 2.0]), 0.25).tolist() == [0, 1, 0, 0]
    assert highest(np.array([1.0, 3.0]), 1e-4).tolist() == [0, 1]  # at least one


def test_clip_cov_draws_among_the_sure_tokens_and_the_seed_decides() -> None:
    everything = covariances(np.concatenate(LOGPROBS), np.repeat(ADVANTAGES, LENGTHS))
    within = (everything > 1) & (everything < 5)
    config = TokensConfig(tokens="clip_cov", tokens_share=0.05)
    left_out = [
        1 - np.concatenate(choose(config, LOGPROBS, ADVANTAGES, (), seed).learns) for seed in (1, 1, 2)
    ]
    for out in left_out:
        assert out.sum() == 6 < within.sum() and within[out > 0].all()
    assert (left_out[0] == left_out[1]).all() and (left_out[0] != left_out[2]).any()
    draws = np.stack([drawn_between(everything, 0.05, seed) for seed in range(2000)])
    drawn = draws.sum(0)  # uniform: each of them in 6 / within of all draws
    np.testing.assert_allclose(drawn[within] / 2000, 6 / within.sum(), atol=0.06)
    assert not drawn_between(np.array([0.5, 1.0, 5.0, -3.0]), 1.0, 0).any()  # none is certain
    assert drawn_between(np.array([0.5, 2.0, 5.0]), 1.0, 0).tolist() == [0, 1, 0]


@pytest.mark.parametrize("rule", ["all", "entropy", "clip_cov", "kl_cov"])
def test_an_update_without_tokens_chooses_none(rule: str) -> None:
    config = TokensConfig(tokens=rule)  # type: ignore[arg-type]
    assert choose(config, [], [], [], 0).learns == []
    blank = np.zeros(0, dtype=np.float32)
    chosen = choose(config, [blank, blank], [1.0, -1.0], [blank, blank], 0)
    assert [array.shape for array in (*chosen.learns, *chosen.penalties)] == [(0,)] * 4
