"""Read a run's log back: the rows of metrics.jsonl, the files in samples/, and their marks.

A finished stage's record holds the marks of what it logged. They leave out times and do not depend on what
other stages logged in between, so a resumed run has the same marks as an undisturbed one. The marks of whole
lines, with their times, are in finished.json (runs/fingerprint.py)."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.config import Config, R1kitError
from r1kit.files import hash_text, is_temporary
from r1kit.jsonl import parse_row
from r1kit.marks import FileMark, mark_damages, mark_files

METRICS = "metrics.jsonl"
SAMPLES = "samples"

_SHORT = 8  # hexadecimal digits of the mark of one row


class LogMark(Config):
    """What a stage logged: ``rows`` has eight digits for each of its rows of metrics, in the order of part
    and step, ``digest`` is one hash for all of them, and ``samples`` the marks of its files in samples/.
    Times are left out."""

    rows: str
    digest: str
    samples: dict[str, FileMark]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of metrics.jsonl: its number from 1, its bytes, and its row; None for a line that is torn or
    damaged, which ``error`` explains."""

    number: int
    content: bytes
    row: dict[str, Any] | None
    error: str = ""

    @property
    def torn(self) -> bool:
        """Whether it is a last line that an interruption cut off."""
        return not self.content.endswith(b"\n")

    def is_of(self, stage: str) -> bool:
        """Whether the row is the stage's; of a damaged line its beginning decides."""
        if self.row is not None:
            return self.row.get("stage") == stage
        return self.content.startswith(b'{"stage": %s,' % json.dumps(stage).encode())


def read_metrics(file: Path) -> list[Line]:
    """Every line of metrics.jsonl, damaged ones too; none where there is no file."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise R1kitError(f"{file}: cannot be read: {error.strerror or error}") from None
    return list(_lines_of(file, content))


@functools.lru_cache(maxsize=1)  # a finished run's log is read once for each of its stages
def _lines_of(file: Path, content: bytes) -> tuple[Line, ...]:
    *lines, last = content.split(b"\n")
    found = [_line(file, number, line) for number, line in enumerate(lines, 1) if line]
    if last:
        torn = f"{file}:{len(lines) + 1}: the last line is cut off"
        found.append(Line(len(lines) + 1, last, None, torn))
    return tuple(found)


def whole_rows(file: Path) -> list[tuple[Line, dict[str, Any]]]:
    """Lines and rows of metrics.jsonl without a torn last line. Raises R1kitError naming the file and the
    first damaged line."""
    found = []
    for line in read_metrics(file):
        if line.row is not None:
            found.append((line, line.row))
        elif not line.torn:
            raise R1kitError(line.error)
    return found


def mark_log(run_dir: Path, stage: str, part: str = "", before: int | None = None) -> LogMark:
    """The marks of what a stage has logged; of its part ``part`` only of the steps before ``before``, where
    that is given."""

    def stays(of_part: str, step: int) -> bool:
        return before is None or of_part != part or step < before

    rows = [
        (_order(row), _row_hash(row))
        for _, row in whole_rows(run_dir / METRICS)
        if row["stage"] == stage and stays(*_order(row))
    ]
    hashes = [digest for _, digest in sorted(rows)]
    samples = mark_files(run_dir / SAMPLES / stage)
    return LogMark(
        rows="".join(digest[:_SHORT] for digest in hashes),
        digest=hash_text("\n".join(hashes)),
        samples={name: mark for name, mark in samples.items() if stays(*_place(name))},
    )


def kept_damages(run_dir: Path, stage: str, mark: LogMark) -> Iterator[str]:
    """What is wrong with rows and rollouts of an unfinished stage, whose log may have grown since it was
    marked."""
    missing = Counter(_cut(mark.rows))
    for _, row in whole_rows(run_dir / METRICS):
        if row["stage"] == stage:
            missing[_row_hash(row)[:_SHORT]] -= 1
    if count := sum(left for left in missing.values() if left > 0):
        yield f"{run_dir / METRICS}: of the rows that stage {stage} wrote {count} are missing or changed"
    yield from mark_damages(run_dir / SAMPLES / stage, mark.samples, "the stage")


def log_damages(run_dir: Path, stage: str, mark: LogMark) -> Iterator[str]:
    """What is wrong with the rows and rollouts that a finished stage logged, with file and line."""
    yield from _row_damages(run_dir / METRICS, stage, mark)
    folder = run_dir / SAMPLES / stage
    if mark.samples and not folder.is_dir():
        yield f"{folder}: missing, with the {len(mark.samples)} files of rollouts that stage {stage} wrote"
        return
    yield from mark_damages(folder, mark.samples, "the stage")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl") if path.is_file()}
    yield from (f"{folder / name}: not written by stage {stage}" for name in sorted(there - {*mark.samples}))


def foreign_samples(run_dir: Path, stage: str = "") -> list[str]:
    """The files in a stage's folder of rollouts that are no rollouts, by their paths in the run; without a
    stage the files next to those folders."""
    paths = (run_dir / SAMPLES / stage).rglob("*") if stage else (run_dir / SAMPLES).glob("*")
    others = [
        path
        for path in paths
        if (path.is_symlink() or not path.is_dir()) and not (stage and path.suffix == ".jsonl")
    ]
    return sorted(path.relative_to(run_dir).as_posix() for path in others if not is_temporary(path.name))


def _row_damages(file: Path, stage: str, mark: LogMark) -> Iterator[str]:
    if mark.rows and not file.is_file():
        yield f"{file}: missing, with the {len(mark.rows) // _SHORT} rows of stage {stage}"
        return
    missing = Counter(_cut(mark.rows))
    hashes, foreign = [], 0
    for line in read_metrics(file):
        if not line.is_of(stage):
            continue
        digest = _row_hash(line.row) if line.row is not None else ""
        if missing[digest[:_SHORT]] > 0:
            missing[digest[:_SHORT]] -= 1
            hashes.append((_order(line.row or {}), digest))
            continue
        foreign += 1
        yield line.error or f"{file}:{line.number}: not a row that stage {stage} wrote"
    if (count := missing.total()) > foreign:
        yield f"{file}: of the rows that stage {stage} wrote {count - foreign} are missing"
    elif not foreign and hash_text("\n".join(d for _, d in sorted(hashes))) != mark.digest:
        yield f"{file}: the rows of stage {stage} are not those that it wrote"


def mark_lines(file: Path) -> str:
    """Eight digits for each line of a file, times included."""
    return "".join(_line_hash(line.content) for line in read_metrics(file))


def line_damages(file: Path, marks: str) -> Iterator[tuple[int, str]]:
    """(number, what is wrong) for each line that is not one of those that ``mark_lines`` marked; number 0 for
    the lines that are missing or in another order."""
    missing, found, foreign = Counter(_cut(marks)), [], 0
    for line in read_metrics(file):
        digest = _line_hash(line.content)
        if missing[digest] > 0:
            missing[digest] -= 1
            found.append(digest)
        else:
            foreign += 1
            yield line.number, line.error or f"{file}:{line.number}: not a line that the run wrote"
    if (count := missing.total()) > foreign:
        yield 0, f"{file}: of the lines that the run wrote {count - foreign} are missing"
    elif not foreign and found != list(_cut(marks)):
        yield 0, f"{file}: its lines are in another order than the run wrote them"


def _line(file: Path, number: int, content: bytes) -> Line:
    try:
        row = parse_row(file, number, content)
    except R1kitError as error:
        return Line(number, content + b"\n", None, _explained(str(error)))
    if not isinstance(row.get("stage"), str) or not isinstance(row.get("step"), int):
        return Line(number, content + b"\n", None, _explained(f"{file}:{number}: no stage or no step"))
    return Line(number, content + b"\n", row)


def _explained(error: str) -> str:
    place, _, what = error.partition(": ")
    return (
        f"{place}: damaged: {what.partition(';')[0]}. Bring back a copy of the file, or redo the stage that "
        "wrote this line (r1kit run RECIPE --from STAGE)"
    )


def _order(row: dict[str, Any]) -> tuple[str, int]:
    return str(row.get("part", "")), int(row.get("step", -1))


def _place(sample: str) -> tuple[str, int]:
    """Part and step of a file of rollouts."""
    part, _, name = sample.rpartition("/")
    step = name.removeprefix("step_").partition(".")[0]
    return part, int(step) if step.isdigit() else -1


def _row_hash(row: dict[str, Any]) -> str:
    timeless = {name: value for name, value in row.items() if name.partition("/")[0] != "time"}
    return hash_text(json.dumps(timeless, sort_keys=True))


def _line_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_SHORT]


def _cut(marks: str) -> Sequence[str]:
    return [marks[start : start + _SHORT] for start in range(0, len(marks), _SHORT)]
