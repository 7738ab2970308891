"""Labels that people give to answers, in a JSON Lines file that only grows: a label counts as given once its
line is on the disk, so a crash loses none.

    {"label": ID, "annotator": "ann", "verdict": "better", "pair": ID, "prompt": ..., "chosen": ...,
     "rejected": ..., "seconds": 4.1, "seed": 7, "models": ["@sft", "@sft"], "time": ...}
    verdict "worse" likewise; "tie", "both_bad", "unsafe" and "skip" have "first" and "second" instead
    {"label": ID, "annotator": "ann", "verdict": "written", "prompt": ..., "completion": ..., ...}
    {"revokes": ID, "annotator": "ann", ...}

A verdict is about the first answer of the pair; which one was shown at the left follows from ``seed``
(``shown_swapped``). ``unsafe`` names the answers that are: "first", "second" or both.

What a label is for training. Pairs (reward_models.preferences, dpo): better and worse, a row for each label,
so annotators who disagree weigh against each other; ties, both bad, unsafe and skipped are left out, because
none says which answer is better. Safety (reward_models.safety): an answer that is marked is unsafe, every
other answer of a pair that was judged is safe. Fine-tuning (sft): answers that were written or corrected. A
revoked label never counts, and of two labels of an annotator for one pair the later one counts."""

import fcntl
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from r1kit.chat import Prompt
from r1kit.config import R1kitError, shorten
from r1kit.files import hash_text, naming, open_to_append, sync
from r1kit.jsonl import column, parse_row, read_lines, read_usable

PREFERENCES = ("better", "worse")
JUDGED = (*PREFERENCES, "tie", "both_bad", "unsafe")  # what an annotator says of a pair
WRITTEN = ("written", "corrected")
VERDICTS = (*JUDGED, "skip", *WRITTEN)
SIDES = ("first", "second")
LONGEST = 4_000_000  # bytes of a line, far below what readers of data take
TORN = ".torn"  # the suffix of the file that the unfinished last line of a crash is moved to
_MARKS = (b'"label"', b'"revokes"')  # without one of them a line is no label


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a prompt, whole responses in the order of their texts, and the models that gave them."""

    id: str
    prompt: Prompt
    first: str
    second: str
    models: tuple[str, ...] = ()

    def as_row(self) -> dict[str, Any]:
        """The pair as a line of a file of pairs to label."""
        answers = {"first": self.first, "second": self.second}
        return {"pair": self.id, "prompt": self.prompt, **answers, "models": list(self.models)}


@dataclass(frozen=True, slots=True)
class Label:
    """What an annotator says of a pair, or an answer that one wrote. ``answers`` are the pair's first and
    second, or the one that was written; ``unsafe`` names those that are; ``seconds`` is the time it took."""

    id: str
    annotator: str
    verdict: str
    prompt: Prompt
    answers: tuple[str, ...]
    pair: str = ""
    models: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    seconds: float = 0.0
    seed: int = 0
    time: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """What it judges, and who says so; a later label of the same key replaces it."""
        return self.annotator, self.pair or self.id

    def as_row(self) -> dict[str, Any]:
        """The label as a line of the file, with TRL's columns where it is a preference or a written
        answer."""
        row: dict[str, Any] = {"label": self.id, "annotator": self.annotator, "verdict": self.verdict}
        if self.pair:
            row["pair"] = self.pair
        row["prompt"] = self.prompt
        row |= dict(zip(_columns(self.verdict), self.answers, strict=True))
        if self.verdict == "unsafe":
            row["unsafe"] = list(self.unsafe)
        timed = {"seconds": round(self.seconds, 1), "seed": self.seed}
        return {**row, **timed, "models": list(self.models), "time": round(self.time, 3)}


def pair_of(prompt: Prompt, one: str, other: str, models: tuple[str, str] = ("", "")) -> Pair:
    """The pair of two answers; it is the same pair in whichever order they are given. Raises R1kitError for
    equal answers."""
    if one == other:
        raise R1kitError(f"the two answers of a pair are the same: {shorten(one)}")
    (first, first_model), (second, second_model) = sorted(((one, models[0]), (other, models[1])))
    key = hash_text(json.dumps([prompt, first, second]))[:16]
    return Pair(key, prompt, first, second, (first_model, second_model) if any(models) else ())


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file in its order. Raises R1kitError naming file and line for one that cannot be
    used."""

    def use(path: Path, number: int, row: dict[str, Any]) -> Pair:
        first, second = (column(path, number, row, name) for name in SIDES)
        prompt = row.get("prompt")
        if not isinstance(prompt, str | list):
            raise R1kitError(f"{path}:{number}: column 'prompt' is missing, or neither a text nor turns")
        models = tuple(map(str, row.get("models") or ()))
        return Pair(column(path, number, row, "pair"), prompt, first, second, models)

    return read_usable(path, use)


def judge(
    pair: Pair, annotator: str, verdict: str, seed: int, seconds: float = 0.0, unsafe: Iterable[str] = ()
) -> Label:
    """A new label of a pair. Raises R1kitError for an unknown verdict, and an unsafe one that names no
    answer."""
    label = Label(
        uuid.uuid4().hex, checked_name(annotator), verdict, pair.prompt, (pair.first, pair.second), pair.id,
        pair.models, tuple(unsafe), seconds, seed, time.time(),
    )  # fmt: skip
    _check(label)
    return label


def write_answer(
    prompt: Prompt, completion: str, annotator: str, seconds: float = 0.0, corrects: bool = False
) -> Label:
    """A new label that is a written answer. Raises R1kitError for an empty one."""
    if not completion.strip():
        raise R1kitError("the answer is empty; write one")
    verdict = "corrected" if corrects else "written"
    name = checked_name(annotator)
    return Label(uuid.uuid4().hex, name, verdict, prompt, (completion,), seconds=seconds, time=time.time())


def checked_name(annotator: str) -> str:
    """The name of an annotator in one line. Raises R1kitError where there is none."""
    name = " ".join(annotator.split())[:80]
    if not name:
        raise R1kitError("a label needs the annotator's name; give one")
    return name


def shown_swapped(seed: int) -> bool:
    """Whether the second answer of a pair is shown at the left."""
    return random.Random(seed).random() < 0.5


@dataclass(slots=True)
class LabelBook:
    """The labels of a file as its lines are read: ``given`` by id, and the ids that were revoked."""

    given: dict[str, tuple[int, Label]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)

    def read(self, path: Path, number: int, row: Mapping[str, Any]) -> None:
        """Add a line; one that is no label is passed over. Raises R1kitError naming file, line and column."""
        if is_revocation(row):
            self.revoked.add(row["revokes"])
        elif is_label(row):
            label = _label(path, number, row)
            self.given.setdefault(label.id, (number, label))

    def in_force(self) -> list[tuple[int, Label]]:
        """(line, label) of the labels that count, in the order in which they were given."""
        found = {
            label.key: (number, label)
            for number, label in self.given.values()
            if label.id not in self.revoked
        }
        return sorted(found.values(), key=lambda one: one[0])


class LabelStore:
    """The labels of a file for those who give some. ``warnings`` say which lines cannot be used. Several
    processes may add to one file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.warnings: list[str] = []
        self._book, self._end, self._lines = LabelBook(), 0, 0
        self._identity: tuple[int, int] | None = None

    def labels(self) -> list[Label]:
        """The labels in force. What is new in the file is read first."""
        self._refresh()
        return [label for _, label in self._book.in_force()]

    def add(self, label: Label) -> None:
        """Give a label: when this returns, it is on the disk. Raises OSError or R1kitError where it could not
        be written, and is not given then."""
        _check(label)
        self._append(label.as_row())

    def undo(self, annotator: str, verdicts: Collection[str] = (*JUDGED, "skip")) -> Label | None:
        """Revoke the annotator's last label of these verdicts and return it, None where there is none."""
        name = checked_name(annotator)
        own = [label for label in self.labels() if label.annotator == name and label.verdict in verdicts]
        if not own:
            return None
        row = {"revokes": own[-1].id, "annotator": own[-1].annotator, "time": round(time.time(), 3)}
        self._append(row)
        return own[-1]

    def _append(self, row: Mapping[str, Any]) -> None:
        warning = append_row(self.file, row)
        self.warnings += [warning] if warning else []

    def _refresh(self) -> None:
        try:
            with self.file.open("rb") as file:
                found = os.fstat(file.fileno())
                if self._identity != (found.st_dev, found.st_ino) or found.st_size < self._end:
                    self._book, self._end, self._lines = LabelBook(), 0, 0
                    self._identity = found.st_dev, found.st_ino
                file.seek(self._end)
                new = file.read()
        except FileNotFoundError:
            self._book, self._end, self._lines, self._identity = LabelBook(), 0, 0, None
            return
        whole = new[: new.rfind(b"\n") + 1]
        for line in whole.split(b"\n")[:-1]:
            self._lines += 1
            try:
                if line.strip():
                    self._book.read(self.file, self._lines, parse_row(self.file, self._lines, line))
            except R1kitError as error:
                self.warnings.append(str(error))
        self._end += len(whole)


def judged_pairs(labels: Iterable[Label]) -> int:
    """The number of pairs that an annotator has judged, skipped ones not counted."""
    return len({label.pair for label in labels if label.verdict in JUDGED})


def wins_of(labels: Iterable[Label]) -> dict[str, int]:
    """How often each model's answer was the better one, of the pairs with answers of two models."""
    wins: dict[str, int] = {}
    for label in labels:
        if label.verdict in PREFERENCES and len(set(label.models)) == 2:
            first, second = label.models if label.verdict == "better" else label.models[::-1]
            wins[first] = wins.get(first, 0) + 1
            wins.setdefault(second, 0)
    return wins


def append_row(file: Path, row: Mapping[str, Any]) -> str | None:
    """Add a line and wait until it is on the disk, with the folder that has the file. What a crash has left
    of an unfinished last line is repaired first, and a warning is returned then. Raises OSError where the
    line could not be written whole, and R1kitError for one of more than LONGEST; the file is as before
    then."""
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    if len(line) > LONGEST:
        raise R1kitError(
            f"a label of {len(line) / 1e6:.1f} MB; at most {LONGEST / 1e6:g} MB are kept, shorten it"
        )
    is_new = not file.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), open_to_append(file) as end:
        fcntl.flock(end, fcntl.LOCK_EX)
        warning = _repair(file, end)
        size = os.fstat(end.fileno()).st_size
        try:
            if end.write(line) != len(line):
                raise OSError(28, "the disk is full", str(file))
            os.fsync(end.fileno())
        except OSError:
            os.ftruncate(end.fileno(), size)
            raise
    if is_new:
        sync(file.parent)
    return warning


def _repair(file: Path, end: IO[bytes]) -> str | None:
    """End a last line that is whole; set one aside that is torn. Its label was never given."""
    with file.open("rb") as content:
        start = _start_of_last(content)
        content.seek(start)
        tail = content.read()
    if not tail.strip():
        return None
    if _is_object(tail):
        end.write(b"\n")
        return f"{file}: the last line had no end; it is whole and stays"
    with open_to_append(file.with_name(file.name + TORN)) as aside:
        aside.write(tail + b"\n")
        os.fsync(aside.fileno())
    os.ftruncate(end.fileno(), start)
    return f"{file}: an unfinished last line is moved to {file.name}{TORN}; its label was not given"


def _start_of_last(content: IO[bytes]) -> int:
    """Where the last line of a file begins that has no end; the size of the file where every line has one."""
    end = content.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - (1 << 16))
        content.seek(begin)
        place = content.read(end - begin).rfind(b"\n")
        if place >= 0:
            return begin + place + 1
        end = begin
    return 0


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def read_labels(path: Path) -> list[Label]:
    """The labels in force of a file. Raises R1kitError naming file and line for one that cannot be used; an
    unfinished last line is passed over with a warning."""
    book, _ = _book_of(path, strict=True)
    return [label for _, label in book.in_force()]


def is_label(row: Mapping[str, Any]) -> bool:
    """Whether a row of a data file is a label, and no row of another data set with a column of that name."""
    return isinstance(row.get("label"), str) and "verdict" in row and "annotator" in row


def is_revocation(row: Mapping[str, Any]) -> bool:
    """Whether a row takes a label back."""
    return isinstance(row.get("revokes"), str) and "verdict" not in row


def not_about_preference(path: Path) -> Collection[int]:
    """The lines of a data file that are labels, but no pairs to learn from."""
    return _left_out(path, PREFERENCES)


def not_about_safety(path: Path) -> Collection[int]:
    """The lines of a data file that are labels, but say nothing about safety."""
    return _left_out(path, JUDGED)


def not_written(path: Path) -> Collection[int]:
    """The lines of a data file that are labels, but no written answers."""
    return _left_out(path, WRITTEN)


def answers_by_safety(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The two answers of a label as rows of labelled responses; none for a row that is no label."""
    if not is_label(row):
        return []
    marked = row.get("unsafe") or ()
    columns = _columns(str(row["verdict"]))
    sides = SIDES if row["verdict"] != "worse" else SIDES[::-1]
    return [
        {"prompt": row.get("prompt"), "response": row.get(name), "safe": side not in marked}
        for name, side in zip(columns, sides, strict=True)
    ]


def _left_out(path: Path, wanted: Sequence[str]) -> Collection[int]:
    """The lines of a data file that are labels and not of the verdicts ``wanted``: others, revoked and
    replaced ones, revocations, and an unfinished last line."""
    book, own = _book_of(path, strict=False)
    kept = {number for number, label in book.in_force() if label.verdict in wanted}
    return frozenset(own - kept)


def _book_of(path: Path, strict: bool) -> tuple[LabelBook, set[int]]:
    """The labels of a file, and its lines that are labels or revocations, or an unfinished one. A label that
    cannot be used is none of them, so that whoever reads the rows names it; with ``strict`` it is an error
    here."""
    book, own = LabelBook(), set[int]()
    for number, line in read_lines(path):
        is_whole = line.endswith(b"\n")
        if not strict and is_whole and not any(mark in line for mark in _MARKS):
            continue
        try:
            row = parse_row(path, number, line)
            book.read(path, number, row)
            if is_label(row) or is_revocation(row):
                own.add(number)
        except R1kitError:
            if own and not is_whole and not _is_object(line):
                print(f"r1kit: warning: {path}:{number}: unfinished, left out", file=sys.stderr)
                own.add(number)
            elif strict:
                raise
    return book, own


def _columns(verdict: str) -> tuple[str, ...]:
    """The columns that the answers of a label stand in."""
    if verdict == "worse":
        return "rejected", "chosen"
    if verdict in WRITTEN:
        return ("completion",)
    return ("chosen", "rejected") if verdict == "better" else SIDES


def _label(path: Path, number: int, row: Mapping[str, Any]) -> Label:
    where = f"{path}:{number}"
    verdict = row["verdict"]
    if verdict not in VERDICTS:
        raise R1kitError(f"{where}: verdict is {shorten(verdict)}; known: {', '.join(VERDICTS)}")
    answers = tuple(row.get(name) for name in _columns(verdict))
    for name, value in zip(_columns(verdict), answers, strict=True):
        if not isinstance(value, str):
            raise R1kitError(f"{where}: column {name!r} is missing or not a text; a {verdict} label has it")
    prompt = row.get("prompt")
    if not isinstance(prompt, str | list):
        raise R1kitError(f"{where}: column 'prompt' is missing, or neither a text nor turns")
    pair = row.get("pair", "")
    named = isinstance(row["annotator"], str) and isinstance(pair, str) and (pair or verdict in WRITTEN)
    if not named:
        raise R1kitError(f"{where}: columns 'annotator' and 'pair' are names; correct or remove the line")
    try:
        label = Label(
            row["label"], row["annotator"], verdict, prompt, tuple(map(str, answers)), pair,
            tuple(map(str, row.get("models") or ())), tuple(map(str, row.get("unsafe") or ())),
            float(row.get("seconds") or 0.0), int(row.get("seed") or 0), float(row.get("time") or 0.0),
        )  # fmt: skip
        _check(label)
    except (TypeError, ValueError) as error:
        raise R1kitError(
            f"{where}: a column has another type ({error}); correct or remove the line"
        ) from None
    except R1kitError as error:
        raise R1kitError(f"{where}: {error}") from None
    return label


def _check(label: Label) -> None:
    """Raise R1kitError for a label that says nothing."""
    if label.verdict not in VERDICTS:
        raise R1kitError(f"unknown verdict {label.verdict!r}; known: {', '.join(VERDICTS)}")
    if label.verdict == "unsafe" and (not label.unsafe or set(label.unsafe) - set(SIDES)):
        raise R1kitError(
            f"an unsafe label names the answers that are, first, second or both (given: {list(label.unsafe)})"
        )
