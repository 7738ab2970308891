"""Detect reward hacking: the reward models' scores rise while a gold score, which is not a reward, falls
(DeepSeek-R1, Nature version, figure 6).

Both scores are measured repeatedly on the same prompts. Means over ``WINDOW`` measurements are compared: the
latest mean with the best earlier gold mean. The comparison is paired by prompt, so the noise is the standard
error of a paired difference. The alarm condition is

    gold_best - gold_now > z se(gold_best - gold_now)  and  judges_now - judges_best > z' se(the same)

The best of many means is best partly by chance, and every measurement adds a comparison. So z is the normal
quantile for ``CHANCE`` divided by the number of comparisons so far (Bonferroni): in a run without hacking a
false alarm has about probability ``CHANCE``. z' is the quantile for ``CHANCE`` itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from r1kit.config import R1kitError
from r1kit.files import make_folder, write_whole
from r1kit.jsonl import read_jsonl
from r1kit.marks import hash_object
from r1kit.records import read_sealed, sealed_text

WINDOW = 3  # measurements a mean is taken over: one alone is too noisy, more delay the alarm
_FIX = "bring back a copy, or redo the stage with --from"
CHANCE = 0.01  # of a false alarm in a whole run


class StopTraining(Exception):  # noqa: N818 - a signal, as StopIteration is
    """Raised by a watch to end the training and keep the model."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Scores [P] of one answer to each of the watch's prompts, always in the same order: the gold score and
    the reward models' score."""

    gold_P: np.ndarray
    judges_P: np.ndarray


@dataclass(frozen=True, slots=True)
class Parting:
    """The two mean scores at the best gold mean and at the latest measurements; ``best`` is the index of the
    middle of the best window."""

    best: int
    gold_best: float
    gold_now: float
    judges_best: float
    judges_now: float


def parting(history: Sequence[Measurement]) -> Parting | None:
    """The result of the test (see the top of the module) at the last measurement; None if the condition is
    not met or there are too few measurements."""
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
    """Each prompt's mean [P] over the window that starts at an index (negative: from the end)."""
    mean_P: np.ndarray = scores_ZP[start : start + WINDOW or None].mean(0)
    return mean_P


def _is_more(difference_P: np.ndarray, chance: float) -> bool:
    """Whether the mean difference over prompts is above zero by more than the given chance of a false alarm
    allows."""
    error = difference_P.std(ddof=1) / len(difference_P) ** 0.5
    return bool(difference_P.mean() > NormalDist().inv_cdf(1.0 - chance) * error)


class Measurements:
    """The measurements of a training, kept in a file. A resumed training keeps the first ``keep`` of them.

    ``marks`` is a file for the hash of each row and for the first of ``owners``, whose measurements they are.
    Raises R1kitError for a row that is damaged, missing or of another owner."""

    def __init__(self, file: Path, keep: int, marks: Path | None = None, owners: Sequence[str] = ()) -> None:
        self.file, self.marks, self.owner = file, marks, next(iter(owners), "")
        rows = list(read_jsonl(file))[:keep] if keep and file.exists() else []
        if marks is not None and keep:
            self._check([row for _, row in rows], keep, marks, owners)
        self.history = [Measurement(np.array(row["gold"]), np.array(row["judges"])) for _, row in rows]

    def add(self, measurement: Measurement) -> Parting | None:
        """Add a measurement, and return the result of the test at it."""
        self.history.append(measurement)
        rows = [{"gold": one.gold_P.tolist(), "judges": one.judges_P.tolist()} for one in self.history]
        if self.marks is not None:  # before the rows: a kill in between leaves a mark too many
            make_folder(self.marks.parent)
            hashes = [hash_object(row) for row in rows]
            write_whole(self.marks, sealed_text({"owner": self.owner, "rows": hashes}))
        write_whole(self.file, "".join(json.dumps(row) + "\n" for row in rows))
        return parting(self.history)

    def _check(self, rows: Sequence[dict[str, Any]], keep: int, marks: Path, owners: Sequence[str]) -> None:
        found = read_sealed(marks, _FIX)
        if owners and found.get("owner") not in owners:
            raise R1kitError(f"{self.file}: it belongs to another run or stage; {_FIX}")
        hashes = [hash_object(row) for row in rows]
        for number, (own, marked) in enumerate(zip(hashes, found.get("rows", []), strict=False), 1):
            if own != marked:
                raise R1kitError(f"{self.file}:{number}: not a measurement that this stage wrote; {_FIX}")
        if min(len(hashes), len(found.get("rows", []))) < keep:
            raise R1kitError(f"{self.file}: {len(hashes)} measurements, {keep} were written; {_FIX}")
