"""The statistics of k samples of each of many problems: estimates, their errors, and the comparison of two
models.

With c right samples of n of a problem, pass@k is 1 - C(n - c, k) / C(n, k), the chance that k of the n
samples, drawn without putting any back, contain a right one: an unbiased estimate for every k <= n. Its mean
over problems at k = 1 is the mean of all samples, so pass@1 does not depend on n.

The samples of one problem are not independent, so errors and intervals are over problems, or over clusters of
problems that have a text in common."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from r1kit.config import R1kitError

LEVEL = 0.95  # of every interval
DRAWS = 10_000  # of a bootstrap or a test
EXACT_PROBLEMS = 12  # up to which a paired test goes through all signs
_TIE = 1e-12  # differences of sums that are equal but for rounding
_BLOCK = 1 << 22  # numbers that are drawn at a time


def pass_at_k(right: int, samples: int, k: int) -> float:
    """The unbiased estimate of pass@k from ``right`` of ``samples``. Raises R1kitError where there are fewer
    than k samples."""
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise R1kitError(f"pass@{k} of {right} right ones of {samples} samples: take k from 1 to {samples}")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """pass@k over problems, each given as (right, samples)."""
    return float(np.mean([pass_at_k(right, samples, k) for right, samples in counts]))


def clustered_stderr(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> float | None:
    """The standard error of the mean of ``values``, one a problem, where the problems of a cluster depend on
    one another; without ``clusters`` each problem is its own. None for a single cluster.

    The variance is G / (G - 1) times the sum over the G clusters of (sum of deviations)^2, over P^2. With a
    cluster for each problem that is the sample variance over P."""
    names: Sequence[Hashable] = range(len(values)) if clusters is None else clusters
    center = float(np.mean(values))
    sums: dict[Hashable, float] = defaultdict(float)
    for name, value in zip(names, values, strict=True):
        sums[name] += value - center
    count = len(sums)
    if count < 2:
        return None
    return float(np.sqrt(count / (count - 1) * sum(part**2 for part in sums.values())) / len(values))


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, draws: int = DRAWS, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of ``values``, one a problem: problems (or clusters of them)
    are drawn with replacement. The same for the same seed."""
    names: Sequence[Hashable] = range(len(values)) if clusters is None else clusters
    sums: dict[Hashable, float] = defaultdict(float)
    sizes: dict[Hashable, int] = defaultdict(int)
    for name, value in zip(names, values, strict=True):
        sums[name] += value
        sizes[name] += 1
    totals, counts = np.array(list(sums.values())), np.array([sizes[name] for name in sums], dtype=float)
    rng = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    left = draws
    while left:
        now = min(left, max(1, _BLOCK // len(totals)))
        chosen = rng.integers(len(totals), size=(now, len(totals)))
        means.append(totals[chosen].sum(1) / counts[chosen].sum(1))
        left -= now
    low, high = np.quantile(np.concatenate(means), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def share_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """The 95 % interval of the mean of shares, one a problem: ``bootstrap_interval``, but where all are 0 (or
    all 1) it would be a point, whatever the number of problems. There the bound is that of G clusters (or
    problems) of which none has a right sample (or a wrong one): 1 - 0.025^(1/G), Clopper and Pearson's."""
    if len(set(values)) != 1 or values[0] not in (0.0, 1.0):
        return bootstrap_interval(values, clusters=clusters)
    count = len(values) if clusters is None else len(set(clusters))
    least = ((1 - LEVEL) / 2) ** (1 / count)
    return (0.0, 1.0 - least) if values[0] == 0.0 else (least, 1.0)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two models on the same problems: the mean of (first - second), its standard error (None for a single
    problem) and 95 % interval, and the two-sided p-value."""

    problems: int
    difference: float
    stderr: float | None
    interval: tuple[float, float]
    p_value: float

    def in_words(self) -> str:
        """The comparison as one sentence."""
        low, high = self.interval
        return (
            f"difference {100 * self.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] over "
            f"{self.problems} problems, p = {self.p_value:.4f}"
        )


def paired_test(
    first: Sequence[float], second: Sequence[float], seed: int = 0, draws: int = DRAWS
) -> PairedTest:
    """Compare two models by their means for the same problems, in the same order.

    If the models are equal, the sign of each problem's difference is a coin flip. The p-value is the share of
    all assignments of signs whose mean is at least as far from 0 as the measured one: of all of them for up
    to EXACT_PROBLEMS differences, else of ``draws`` random ones and the measured one."""
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if differences.ndim != 1 or not len(differences):
        raise R1kitError("a paired comparison needs the same problems of both models, at least one")
    found = abs(differences.sum())
    changed = differences[differences != 0]
    if len(changed) <= EXACT_PROBLEMS:
        bits = np.arange(1 << len(changed))[:, None] >> np.arange(len(changed)) & 1
        p_value = float(np.mean(np.abs((2.0 * bits - 1) @ changed) >= found - _TIE))
    else:
        p_value = _sampled_p_value(changed, found, np.random.default_rng(seed), draws)
    values = differences.tolist()
    return PairedTest(
        len(values),
        float(differences.mean()),
        clustered_stderr(values),
        bootstrap_interval(values, seed, draws),
        p_value,
    )


def _sampled_p_value(changed: np.ndarray, found: float, rng: np.random.Generator, draws: int) -> float:
    reached, left = 1, draws
    while left:
        now = min(left, max(1, _BLOCK // len(changed)))
        bits = np.unpackbits(rng.integers(256, size=(now, (len(changed) + 7) // 8), dtype=np.uint8), axis=1)
        signs = 2.0 * bits[:, : len(changed)] - 1
        reached += int(np.sum(np.abs(signs @ changed) >= found - _TIE))
        left -= now
    return reached / (draws + 1)


def crossing(first: Sequence[tuple[int, float]], second: Sequence[tuple[int, float]]) -> float | None:
    """Where two pass@k curves, (k, value) with the same k in growing order, cross for the first time, between
    two values of k linearly in log k; None where one is never below the other or they only touch."""
    before: tuple[int, float] | None = None
    for (k, one), (other_k, other) in zip(first, second, strict=True):
        if k != other_k:
            raise R1kitError(f"the curves have other values of k ({k} and {other_k}); measure the same ones")
        gap = one - other
        if before is not None and gap * before[1] < 0:
            share = before[1] / (before[1] - gap)
            return float(np.exp(np.log(before[0]) + share * (np.log(k) - np.log(before[0]))))
        before = (k, gap) if gap else before
    return None


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's correlation of two series, equal values with their mean rank; None where one of them is
    constant or shorter than three."""
    if len(first) < 3:
        return None
    ranks = _ranks(np.asarray(first, dtype=float)), _ranks(np.asarray(second, dtype=float))
    if any(np.ptp(series) == 0 for series in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts - 1) / 2)[place]
    return ranks
