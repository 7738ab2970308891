"""A curriculum for supervised training: the easiest rows first, more of them as the training goes on.

    c(t)   the share of the rows, by difficulty, that is admitted when the share t of the training is over
    t'     t / full, at most 1: all rows are admitted from the share ``full`` on

    linear   c = c0 + (1 - c0) t'
    root     c = (c0^p + (1 - c0^p) t')^(1/p), p = ``power``: new rows come ever more slowly, since each gets
             a smaller share of the draws (Platanios et al. 2019, equations 7 and 8)
    step     c = c0 + (1 - c0) floor(k t') / k, k = ``steps``: in stages, as Bengio et al. 2009

c0 is ``start``. Rows are drawn evenly from those that are admitted, so a curriculum changes the order, and
how often each row comes, but not how much is trained on. Retirement: of the easiest rows the share ``retire``
x (c - c0) / (1 - c0) is no longer drawn.

In RL a problem's last pass rate decides (curriculum.py). The names are the same here: ``easy`` and ``hard``
are pass rates, and a row at or beyond them is left out; a row without a difficulty comes last."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from r1kit.config import Config, R1kitError
from r1kit.seeds import derive_seed

Measure = Literal["length", "rarity"]


class Pacing(Config):
    """How many rows are admitted when; see on top."""

    kind: Literal["linear", "root", "step"] = "root"
    start: float = Field(default=0.1, gt=0.0, le=1.0)  # the share of rows admitted at first
    full: float = Field(default=0.5, gt=0.0, le=1.0)  # from this share of the training on, all rows
    power: float = Field(default=2.0, ge=1.0)  # p of root (Platanios et al. 2019: 2)
    steps: int = Field(default=4, ge=1)  # k of step
    retire: float = Field(default=0.0, ge=0.0, lt=1.0)  # of the easiest rows, at the end

    def admitted(self, progress: float) -> float:
        """c: the share of rows that is admitted at ``progress``, 0 to 1."""
        passed = min(1.0, progress / self.full)
        if self.kind == "linear":
            return self.start + (1 - self.start) * passed
        if self.kind == "root":
            begin = self.start**self.power
            return min(1.0, float((begin + (1 - begin) * passed) ** (1 / self.power)))
        return self.start + (1 - self.start) * math.floor(self.steps * passed + 1e-9) / self.steps

    def window(self, progress: float, count: int) -> tuple[int, int]:
        """The places [begin, end) of the rows by difficulty, of ``count``, that are drawn from; at least
        one."""
        share = self.admitted(progress)
        end = min(count, max(1, math.ceil(share * count - 1e-9)))
        moved = 0.0 if self.start >= 1.0 else (share - self.start) / (1 - self.start)
        return min(end - 1, math.floor(self.retire * moved * count + 1e-9)), end


class SupervisedCurriculum(Config):
    """Where difficulties come from, one of: a ``column`` of the data (declared), a column with a measured
    ``pass_rate`` (rejection_sampling and ``r1kit eval`` write one), the loss per token of a ``reference``
    model, or what ``by`` measures: the length of a row, or the rarity of its tokens, the mean of -log of
    their share of the data.

    ``easy``, ``hard``: rows with at least, or at most, this pass rate are left out."""

    column: str = ""
    pass_rate: str = ""
    reference: str = ""
    by: Measure | None = None
    pacing: Pacing = Pacing()  # how fast rows are admitted
    easy: float | None = Field(default=None, gt=0.0, le=1.0)
    hard: float | None = Field(default=None, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _one_difficulty(self) -> Self:
        given = [name for name in ("column", "pass_rate", "reference", "by") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                'name one difficulty: column: COLUMN, pass_rate: COLUMN, reference: "@stage", or by: length '
                f"(given: {', '.join(given) or 'none'})"
            )
        if not self.pass_rate and (self.easy is not None or self.hard is not None):
            raise ValueError(
                "easy and hard are pass rates; name the column that has them (pass_rate: COLUMN)"
            )
        if self.easy is not None and self.hard is not None and self.hard >= self.easy:
            raise ValueError(f"hard: {self.hard:g} is not below easy: {self.easy:g}, so no row would be left")
        return self

    @property
    def named_column(self) -> str:
        """The column of the data that is read; empty where none is."""
        return self.column or self.pass_rate

    def leaves_out(self, rate: float | None) -> bool:
        """Whether a row is left out because of its pass rate."""
        if rate is None:
            return False
        return (self.easy is not None and rate >= self.easy) or (self.hard is not None and rate <= self.hard)

    def difficulty(self, value: float | None) -> float:
        """A column's value as a difficulty: a low pass rate is difficult, and a row without a value comes
        last."""
        if value is None:
            return math.inf
        return -value if self.pass_rate else value


def number_in(where: str, name: str, value: Any) -> float | None:
    """The number in a column such as 3, 0.5 or "Level 3"; None where there is none. Raises R1kitError for
    another value."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise R1kitError(f"{where}: column {name!r} is to be a number, not {type(value).__name__}")
    text = value.rpartition(" ")[2] if isinstance(value, str) else value
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise R1kitError(f"{where}: column {name!r} is no number: {value!r:.60}")
    return number


def by_difficulty(difficulties: Sequence[float], seed: int) -> list[int]:
    """Places in the order of their difficulties, equal ones in an order that follows from the seed."""
    chance = np.random.default_rng(derive_seed(seed, "equal")).permutation(len(difficulties))
    values = np.asarray(difficulties, dtype=np.float64)
    return [int(place) for place in chance[np.argsort(values[chance], kind="stable")]]


def rarities(rows: Sequence[np.ndarray]) -> list[float]:
    """The mean of -log(share of all tokens) over each row's tokens [T]; 0 for an empty row."""
    if not rows:
        return []
    counts = np.bincount(np.concatenate(rows).astype(np.int64))
    bits = -np.log(np.maximum(counts, 1) / max(1, counts.sum()))
    return [float(bits[row].mean()) if len(row) else 0.0 for row in rows]


def paced_places(
    order: Sequence[int], sizes: Sequence[int], total: int, pacing: Pacing, seed: int
) -> Iterator[int]:
    """Places of rows, easiest first as ``order`` has them, until rows of ``total`` tokens were drawn.

    ``sizes``: tokens of each row. Rows are drawn in passes over those that are admitted, each pass in a new
    order; rows that are admitted during a pass join it at places that follow from the seed."""
    rng = np.random.default_rng(derive_seed(seed, "paced"))
    rank = {place: number for number, place in enumerate(order)}
    waiting: list[int] = []  # the rest of the current pass, the next one last
    known = drawn = 0  # ranks that have been admitted; tokens
    while drawn < total:
        begin, end = pacing.window(drawn / total, len(order))
        for number in range(known, end):
            waiting.insert(int(rng.integers(len(waiting) + 1)), order[number])
        known = max(known, end)
        while waiting and rank[waiting[-1]] < begin:
            waiting.pop()
        if not waiting:
            waiting = [order[begin + int(number)] for number in rng.permutation(end - begin)]
        place = waiting.pop()
        drawn += max(1, sizes[place])
        yield place
