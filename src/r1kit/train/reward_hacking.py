"""Reward hacking: the judges say it gets better, a gold score that is no reward says it gets worse
(DeepSeek-R1, Nature version, figure 6).

Both are measured on the same prompts again and again. Means over ``WINDOW`` measurements are
compared, the last one with the best gold before it, prompt by prompt, so that the noise is the standard error
of a paired difference. The two have parted where

    gold_best - gold_now > z se(gold_best - gold_now)  and  judges_now - judges_best > z' se(the same)

The best of many is best partly by luck, and every measurement is another chance to be wrong. So z is that of
``CHANCE`` divided by all comparisons made so far (Bonferroni): over a whole run without hacking the alarm is
false with about that probability. z' is that of ``CHANCE`` itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from r1kit.files import write_whole
from r1kit.jsonl import read_jsonl

WINDOW = 3
CHANCE = 0.01


class StopTraining(Exception):  # noqa: N818 - a signal, as StopIteration is
    """Raised by a watch: the training ends here, and what it has learned is kept."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Scores [P] of one answer to each of the watch's prompts, in the same order every time: gold, and that
    of the reward models."""

    gold_P: np.ndarray
    judges_P: np.ndarray


@dataclass(frozen=True, slots=True)
class Parting:
    """Means of the two scores at the best gold, and now; ``best`` is the index of the middle of the best
    measurements."""

    best: int
    gold_best: float
    gold_now: float
    judges_best: float
    judges_now: float


def parting(history: Sequence[Measurement]) -> Parting | None:
    """Whether gold and judges have parted at the last of these measurements; see the test on top. None also
    while there are too few."""
    earlier = len(history) - 2 * WINDOW + 1
    if earlier < 1:
        return None
    gold_ZP, judges_ZP = (
        np.array([getattr(one, name) for one in history], dtype=np.float64) for name in ("gold_P", "judges_P")
    )
    best = max(range(earlier), key=lambda start: float(gold_ZP[start : start + WINDOW].mean()))
    comparisons = earlier * (earlier + 1) // 2
    fell = _is_more(_window(gold_ZP, best) - _window(gold_ZP, -WINDOW), CHANCE / comparisons)
    rose = _is_more(_window(judges_ZP, -WINDOW) - _window(judges_ZP, best), CHANCE)
    if not (fell and rose):
        return None
    means = (
        float(_window(scores_ZP, start).mean())
        for scores_ZP in (gold_ZP, judges_ZP)
        for start in (best, -WINDOW)
    )
    return Parting(best + WINDOW // 2, *means)


def _window(scores_ZP: np.ndarray, start: int) -> np.ndarray:
    """Each prompt's mean [P] over the window that starts there, counted from the end where negative."""
    mean_P: np.ndarray = scores_ZP[start : start + WINDOW or None].mean(0)
    return mean_P


def _is_more(difference_P: np.ndarray, chance: float) -> bool:
    """Whether a mean difference over prompts is above zero by more than such a chance explains."""
    error = difference_P.std(ddof=1) / len(difference_P) ** 0.5
    return bool(difference_P.mean() > NormalDist().inv_cdf(1.0 - chance) * error)


class Measurements:
    """The history of a training's measurements in a file, of which a training that continues keeps the first
    ``keep``."""

    def __init__(self, file: Path, keep: int) -> None:
        self.file = file
        rows = [row for _, row in read_jsonl(file)][:keep] if keep and file.exists() else []
        self.history = [Measurement(np.array(row["gold"]), np.array(row["judges"])) for row in rows]

    def add(self, measurement: Measurement) -> Parting | None:
        """Keep one more, and say whether the two have parted at it."""
        self.history.append(measurement)
        rows = ({"gold": one.gold_P.tolist(), "judges": one.judges_P.tolist()} for one in self.history)
        write_whole(self.file, "".join(json.dumps(row) + "\n" for row in rows))
        return parting(self.history)
