"""Which tokens of an update learn: not all need to, and few of them lower the policy's entropy.

    entropy   the policy gradient on the ``tokens_share`` tokens of highest entropy only  80/20, 2506.01939
    clip_cov  no policy gradient on tokens drawn from those with 1 < cov < 5              Clip-Cov, 2505.22617
    kl_cov    a penalty on |log ratio| for the ``tokens_share`` tokens of highest cov     KL-Cov, 2505.22617

cov_t = (log p_t - mean log p) (A_t - mean A), over all tokens of the update: a likely token with a high
advantage makes the distribution narrower.

All three rules need the whole update, so they are applied here, before rows are split over micro-batches and
processes. Covariances use the engine's log-probabilities. Entropies are computed by the learner just before
the update, so they change within a phase. A token that is not chosen gets advantage zero: the divergence from
the reference still applies to it, and it still counts in averages over tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from r1kit.config import Config, R1kitError

Tokens = Literal["all", "entropy", "clip_cov", "kl_cov"]
COV_BETWEEN = (1.0, 5.0)  # Clip-Cov's bounds, in the published runs
SHARES = {
    "entropy": 0.2,
    "clip_cov": 2e-4,
    "kl_cov": 2e-4,
}  # the papers'; 2505.22617 has 2e-3 for its 7B model in KL-Cov


class TokensConfig(Config):
    """``tokens`` is the rule, ``tokens_share`` its share of the update's tokens (None: the paper's),
    ``tokens_penalty`` KL-Cov's coefficient."""

    tokens: Tokens = "all"
    tokens_share: float | None = Field(default=None, gt=0.0, le=1.0)
    tokens_penalty: float = Field(default=1.0, gt=0.0)

    @property
    def share(self) -> float:
        """The share of the update's tokens that the rule picks."""
        return SHARES.get(self.tokens, 1.0) if self.tokens_share is None else self.tokens_share


@dataclass(frozen=True, slots=True)
class Chosen:
    """For each rollout [T]: ``learns`` (1 or 0) multiplies its advantage, ``penalties`` are its row's."""

    learns: list[np.ndarray]
    penalties: list[np.ndarray]


def choose(
    config: TokensConfig,
    logprobs: Sequence[np.ndarray],
    advantages: Sequence[float | np.ndarray],
    entropies: Sequence[np.ndarray],
    seed: int,
) -> Chosen:
    """Which tokens of an update learn. All rollouts of the update take part; only clip_cov's draw depends on
    their order.

    ``logprobs``: of each rollout's sampled tokens [T], by the engine. ``entropies``: of the learner's
    distributions at these tokens [T], for the rule entropy only. ``advantages``: one number per rollout, or
    [T]. A completion without tokens is ignored. Raises R1kitError if entropies are missing."""
    lengths = [len(logprobs_T) for logprobs_T in logprobs]
    learns_N: np.ndarray = np.ones(sum(lengths), dtype=np.float32)
    penalties_N: np.ndarray = np.zeros(sum(lengths), dtype=np.float32)
    if config.tokens == "entropy":
        if [len(entropies_T) for entropies_T in entropies] != lengths:
            raise R1kitError(
                "tokens: entropy needs the entropy of every sampled token; compute them with the learner "
                "before choosing"
            )
        learns_N = top_entropy(np.concatenate([np.zeros(0), *entropies]), config.share)
    elif config.tokens != "all":
        covariances_N = covariances(
            np.concatenate([np.zeros(0), *logprobs]),
            np.concatenate(
                [np.zeros(0), *(np.broadcast_to(one, n) for one, n in zip(advantages, lengths, strict=True))]
            ),
        )
        if config.tokens == "clip_cov":
            learns_N = 1 - drawn_between(covariances_N, config.share, seed)
        else:
            penalties_N = config.tokens_penalty * highest(covariances_N, config.share)
    ends = np.cumsum(lengths)[:-1]
    return Chosen(np.split(learns_N, ends), np.split(penalties_N, ends)) if lengths else Chosen([], [])


def top_entropy(entropies_N: np.ndarray, share: float) -> np.ndarray:
    """1 where the entropy is at least the (1 - share) quantile, 0 elsewhere [N]."""
    if not len(entropies_N):
        return np.zeros(0, dtype=np.float32)
    learns_N: np.ndarray = (entropies_N >= np.quantile(entropies_N, 1 - share)).astype(np.float32)
    return learns_N


def covariances(logprobs_N: np.ndarray, advantages_N: np.ndarray) -> np.ndarray:
    """Each token's part [N] of the covariance of log-probability and advantage; their mean is the
    covariance."""
    if not len(logprobs_N):
        return np.zeros(0)
    found_N: np.ndarray = (logprobs_N - np.mean(logprobs_N, dtype=np.float64)) * (
        advantages_N - np.mean(advantages_N, dtype=np.float64)
    )
    return found_N


def drawn_between(covariances_N: np.ndarray, share: float, seed: int) -> np.ndarray:
    """1 for share x N tokens (at least one), drawn without replacement from those within COV_BETWEEN, or for
    all of these if they are fewer."""
    low, high = COV_BETWEEN
    within = np.flatnonzero((covariances_N > low) & (covariances_N < high))
    found_N = np.zeros(len(covariances_N), dtype=np.float32)
    found_N[np.random.default_rng(seed).permutation(within)[: _number(covariances_N, share)]] = 1
    return found_N


def highest(covariances_N: np.ndarray, share: float) -> np.ndarray:
    """1 for the share x N tokens (at least one) of highest covariance; of equals, the earlier."""
    found_N = np.zeros(len(covariances_N), dtype=np.float32)
    found_N[np.argsort(-covariances_N, kind="stable")[: _number(covariances_N, share)]] = 1
    return found_N


def _number(values_N: np.ndarray, share: float) -> int:
    return max(1, int(share * len(values_N)))
