"""Read a run's metrics and hand them to a tracker, once or as they come."""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1kit.log_files import METRICS
from r1kit.trackers.tracker import Tracker, Training, Writer

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # of stages and parts, which become folders
_PIECE = 8 << 20  # bytes that are read at once


class NewRows:
    """The rows of a growing metrics.jsonl: each call yields the whole lines that are new. A file that was
    replaced, as a resumed stage does, is read from its beginning. Lines that are no rows are left out."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._inode, self._place = -1, 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        try:
            with self.file.open("rb") as opened:
                found = os.fstat(opened.fileno())
                if found.st_ino != self._inode or found.st_size < self._place:
                    self._inode, self._place = found.st_ino, 0
                opened.seek(self._place)
                while content := opened.read(_PIECE):
                    whole = content.rpartition(b"\n")[0]
                    if not whole:
                        return
                    self._place += len(whole) + 1
                    opened.seek(self._place)
                    yield from (row for line in whole.split(b"\n") if (row := _row(line)) is not None)
        except FileNotFoundError:
            return


class Sender:
    """Hands each row to the writer of its training, each step once; one training is open at a time."""

    def __init__(self, run_dir: Path, tracker: Tracker) -> None:
        self.run_dir, self.tracker = run_dir, tracker
        self.rows = NewRows(run_dir / METRICS)
        self.sent = 0
        self._last: dict[tuple[str, str], int] = {}
        self._open: tuple[tuple[str, str], Writer] | None = None

    def send_new(self) -> int:
        """Hand over what is new; returns how many rows that were."""
        before = self.sent
        for row in self.rows:
            key, step = (row["stage"], row.get("part", "")), row["step"]
            if step <= self._last.get(key, -1):
                continue  # the same numbers again, of a resumed stage
            self._last[key] = step
            self._writer(key).log(step, float(row.get("time", 0.0)), _metrics(row))
            self.sent += 1
        return self.sent - before

    def follow(self, has_ended: Callable[[float], bool], every: float = 1.0) -> None:
        """Hand over rows until the run has ended. ``has_ended(seconds)`` waits that long."""
        while True:
            ended = has_ended(every)
            self.send_new()
            if ended:
                break
        self.close()

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _writer(self, key: tuple[str, str]) -> Writer:
        if self._open is None or self._open[0] != key:
            self.close()
            training = Training(self.run_dir.resolve().name, *key, numbers_of(self.run_dir, key[0]))
            self._open = key, self.tracker.open(training)
        return self._open[1]


def numbers_of(run_dir: Path, stage: str) -> dict[str, float]:
    """The numbers of a stage's configuration in the run's recipe, by key path."""
    try:
        recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
        stages = recipe["stages"]
        own = next(found for found in stages if (found.get("name") or found.get("stage")) == stage)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError, StopIteration):
        return {}
    return dict(_numbers(own, ""))


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, bool | int | float):
        yield path, value


def _row(line: bytes) -> Mapping[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    named = isinstance(row, dict) and all(
        isinstance(name, str) and (_NAME.fullmatch(name) or (not name and key == "part"))
        for key, name in (("stage", row.get("stage")), ("part", row.get("part", "")))
    )
    step = row.get("step") if named else None
    return row if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 1 << 53 else None


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in row.items()
        if name not in ("stage", "part", "step", "time")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e300
        and math.isfinite(value)
    }
