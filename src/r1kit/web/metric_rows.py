"""The metrics of a run, read as they grow: metrics.jsonl once from its start, then only what was appended.

A file that is another one than before (a resumed stage replaces rows) is read again from its start. Lines
that cannot be read are counted and left out, so a damaged run can be looked at too."""

import json
import math
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from r1kit.health import HealthWatch, Sign
from r1kit.log_files import METRICS

PIECE = 4 << 20  # bytes that are read at once
_KEYS = frozenset(("stage", "part", "step", "time"))
_LEAST = 64  # bytes of a piece, also where a line is longer than what is asked for
_CHECKED = 256  # bytes before the place read up to, by which a file is recognised


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one metric: ``rows`` are their places in the training's rows."""

    rows: "array[int]"
    values: "array[float]"


@dataclass(slots=True)
class Training:
    """The rows of a stage or of a part of it: ``steps`` and ``times`` (seconds since 1970) of each, its
    columns by name, and the rules that fired."""

    stage: str
    part: str
    steps: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    columns: dict[str, Column] = field(default_factory=dict)
    watch: HealthWatch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = HealthWatch(self.stage, self.part)

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.part}" if self.part else self.stage

    @property
    def signs(self) -> list[Sign]:
        return self.watch.signs

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of metrics.jsonl."""
        place = len(self.steps)
        self.steps.append(row["step"])
        time = row.get("time")
        self.times.append(time if time.__class__ in (float, int) else math.nan)
        for name, value in row.items():
            if (value.__class__ is float or value.__class__ is int) and name not in _KEYS:
                column = self.columns.get(name)
                if column is None:
                    column = self.columns[name] = Column(array("q"), array("d"))
                column.rows.append(place)
                column.values.append(value)
        self.watch.feed(row)

    def points(self, metric: str) -> tuple[Sequence[int], Sequence[float]]:
        """Steps and values of a metric."""
        column = self.columns.get(metric)
        if column is None:
            return [], []
        if len(column.rows) == len(self.steps):  # each row has it
            return self.steps, column.values
        return [self.steps[row] for row in column.rows], column.values

    def last(self, metric: str) -> float | None:
        column = self.columns.get(metric)
        return column.values[-1] if column is not None and column.values else None

    def step_seconds(self, over: int = 20) -> float | None:
        """Seconds of a step, the mean of the last ``over``."""
        times = self.times[-over - 1 :]
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None


class MetricRows:
    """The trainings of a run by (stage, part), in the order in which they began. ``refresh`` reads what is
    new; ``damaged`` lines could not be read."""

    def __init__(self, run_dir: Path) -> None:
        self.file = run_dir / METRICS
        self._start_over()

    def _start_over(self) -> None:
        self.trainings: dict[tuple[str, str], Training] = {}
        self.damaged = 0
        self._read = 0
        self._before = b""
        self._key: tuple[int, int, int] | None = None

    def refresh(self, most: int | None = None) -> bool:
        """Read what was appended, at most ``most`` bytes. Returns whether there is more to read."""
        try:
            with self.file.open("rb") as file:
                found = os.fstat(file.fileno())
                key = found.st_ino, found.st_size, found.st_mtime_ns
                if key == self._key:
                    return False
                if found.st_size < self._read or not self._is_same(file):
                    self._start_over()
                more = self._read_lines(file, self._read, most)
                self._key = None if more else key
                return more
        except OSError:
            self._start_over()
            return False

    def rows(self) -> int:
        return sum(len(training.steps) for training in self.trainings.values())

    def signs(self) -> list[Sign]:
        """All rules that fired, in the order of trainings and steps."""
        return [sign for training in self.trainings.values() for sign in training.signs]

    def newest(self) -> float | None:
        """When the last row was written, in seconds since 1970."""
        times = [training.times[-1] for training in self.trainings.values() if training.times]
        return max((time for time in times if not math.isnan(time)), default=None)

    def _is_same(self, file: Any) -> bool:
        file.seek(max(0, self._read - len(self._before)))
        return bool(file.read(len(self._before)) == self._before)

    def _read_lines(self, file: Any, start: int, most: int | None) -> bool:
        """Add the whole lines from ``start`` on; a last line without its end is read the next time."""
        file.seek(start)
        taken = 0
        rest = b""
        while piece := file.read(PIECE if most is None else min(PIECE, max(_LEAST, most - taken))):
            taken += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._add(line)
            self._read += sum(map(len, lines)) + len(lines)
            if lines:
                file.seek(max(0, self._read - _CHECKED))
                self._before = file.read(min(_CHECKED, self._read))
                file.seek(self._read)
                rest = b""
            if most is not None and taken >= most and self._read > start:
                return True
        return False

    def _add(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            key = row["stage"], row.get("part", "")
            if not isinstance(row["step"], int) or not (isinstance(key[0], str) and isinstance(key[1], str)):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.damaged += bool(line.strip())
            return
        training = self.trainings.get(key)
        if training is None:
            training = self.trainings[key] = Training(*key)
        training.add(row)


def thinned(steps: Sequence[int], values: Sequence[float], most: int) -> list[tuple[int, float]]:
    """At most ``most`` points of a curve: of each stretch its lowest and its highest point, so that a spike
    is still seen."""
    count = len(values)
    if count <= most:
        return list(zip(steps, values, strict=True))
    stretches = max(1, most // 2)
    found = np.asarray(values[:])  # of a copy: an array whose memory is lent out cannot grow
    low, high = (np.where(np.isnan(found), other, found) for other in (np.inf, -np.inf))
    ends = [count * part // stretches for part in range(stretches + 1)]
    chosen: list[int] = []
    for start, end in pairwise(ends):
        chosen += sorted({start + int(low[start:end].argmin()), start + int(high[start:end].argmax())})
    return [(steps[place], values[place]) for place in chosen]


def smoothed(points: Sequence[tuple[int, float]], weight: float) -> list[tuple[int, float]]:
    """The moving mean of a curve: each point keeps ``weight`` of the mean before it, corrected for the start
    (Adam's correction), so the first value is itself. ``weight`` 0 changes nothing."""
    mean, found = 0.0, []
    for place, (step, value) in enumerate(points, 1):
        mean = weight * mean + (1.0 - weight) * value
        found.append((step, mean / (1.0 - weight**place)))
    return found
