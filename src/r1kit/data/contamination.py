"""Which documents hold a part of an evaluation: the paper's filter of word runs, at corpus scale.

DeepSeek-R1 leaves out what has ten words in a row in common with an evaluation's questions or reference
solutions (Nature version, supplement D.1); GPT-3 used 13. Here two texts have a run in common when the
letters and digits of its words follow one another in both, whatever stands between them: case, full-width
forms, spaces within words or missing between them and punctuation make no difference. A text of fewer words
than the run is found where a whole line, or the whole document, equals it.

What many evaluation questions begin or end with is left out (r1kit.tasks.overlap.Frame). Other words are not
found: a question with other numbers is caught only if enough words in a row are left between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from r1kit.config import R1kitError
from r1kit.data.corpora import Record, Source, SourceConfig
from r1kit.tasks.overlap import GRAM, Frame, fingerprint, words

LONG = 24  # letters of a run that are hashed; shorter runs are hashed over as many letters as they have words
SHORTEST = 12  # letters and signs of a text that is compared as a whole line
_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_BITS = 22  # of the table that most positions of a document are compared with


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A text of an evaluation: where it stands, and whether it is the ``question``."""

    where: str
    text: str
    question: bool = True


@dataclass(frozen=True, slots=True)
class Leak:
    """What a document has in common with an evaluation: the words, and where they stand there."""

    where: str
    run: str


class Contamination:
    """Finds runs of ``gram`` words of evaluation texts in documents."""

    def __init__(self, texts: Iterable[Evaluation], gram: int = GRAM) -> None:
        self.gram = gram
        texts = list(texts)
        frame = Frame.of([text.text for text in texts if text.question])
        self._runs: dict[str, str] = {}  # run -> where it stands
        self._lines: dict[str, str] = {}  # text that is shorter than a run -> where it stands
        for text in texts:
            own = frame.own(words(text.text)) if text.question else words(text.text)
            if len(own) < gram:
                line = fingerprint(text.text)
                if text.question and len(line) >= SHORTEST:
                    self._lines.setdefault(line, text.where)
            for start in range(len(own) - gram + 1):
                self._runs.setdefault("".join(own[start : start + gram]), text.where)
        self._longest_line = max(map(len, self._lines), default=0)
        self._tables = [
            table
            for size in (LONG, gram)
            if (table := _Table.of([run for run in self._runs if _size_of(run, gram) == size], size))
        ]

    def __len__(self) -> int:
        """How many runs and short texts are looked for."""
        return len(self._runs) + len(self._lines)

    def find(self, text: str) -> Leak | None:
        """The first run or short text of an evaluation in a document; None where there is none."""
        found = words(text)
        joined = "".join(found)
        if len(found) and self._tables:
            codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            for table in self._tables:
                run = table.find(codes, joined)
                if run is not None:
                    return Leak(self._runs[run], run)
        return self._whole_line(text) if self._lines else None

    def _whole_line(self, text: str) -> Leak | None:
        longest = 4 * self._longest_line + 80  # with spaces between
        for line in (text, *text.split("\n")):
            if SHORTEST <= len(line) <= longest:
                mark = fingerprint(line)
                if mark in self._lines:
                    return Leak(self._lines[mark], line.strip())
        return None


def _size_of(run: str, gram: int) -> int:
    """How many letters of a run are hashed."""
    return LONG if len(run) >= LONG else gram


@dataclass(frozen=True, slots=True)
class _Table:
    """Runs by the hash of their first ``size`` letters. ``seen`` [2^_BITS] bool says which upper bits
    occur."""

    size: int
    runs: dict[int, list[str]]
    seen: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[str], size: int) -> "_Table | None":
        if not runs:
            return None
        by_hash: dict[int, list[str]] = {}
        for run in runs:
            codes = np.frombuffer(run[:size].encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            by_hash.setdefault(int(_hashes(codes, size)[0]), []).append(run)
        seen = np.zeros(1 << _BITS, dtype=bool)
        keys = np.fromiter(by_hash, dtype=np.uint64, count=len(by_hash))
        seen[keys >> np.uint64(64 - _BITS)] = True
        return cls(size, by_hash, seen)

    def find(self, codes: np.ndarray, joined: str) -> str | None:
        """The first run in a document's letters: ``codes`` [N] uint32, the same as text in ``joined``."""
        if len(codes) < self.size:
            return None
        hashes = _hashes(codes, self.size)
        for place in np.flatnonzero(self.seen[hashes >> np.uint64(64 - _BITS)]):
            for run in self.runs.get(int(hashes[place]), ()):
                if joined.startswith(run, int(place)):
                    return run
        return None


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The powers of _BASE and of its inverse modulo 2^64, [count] uint64 each."""
    inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
    with np.errstate(over="ignore"):
        ups, downs = (
            np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(count - 1, base, np.uint64)]))
            for base in (_BASE, inverse)
        )
    return ups, downs


def _hashes(codes: np.ndarray, size: int) -> np.ndarray:
    """A hash of each ``size`` letters in a row, [N - size + 1] uint64: a polynomial modulo 2^64."""
    count = 1 << max(12, len(codes).bit_length())
    ups, downs = _powers(count)
    sums: np.ndarray = np.zeros(len(codes) + 1, dtype=np.uint64)
    hashes: np.ndarray
    with np.errstate(over="ignore"):
        np.cumsum(codes.astype(np.uint64) * ups[: len(codes)], out=sums[1:])
        hashes = (sums[size:] - sums[:-size]) * downs[: len(codes) - size + 1]
        hashes ^= hashes >> np.uint64(29)
        hashes *= _MIX
    return hashes


def evaluations_of(files: Sequence[str]) -> list[Evaluation]:
    """The texts of evaluation files in any schema of r1kit.data.schemas: the questions, and the reference
    solutions, of which only runs are looked for."""
    found: list[Evaluation] = []
    for file in files:
        source = Source("decontaminate", SourceConfig(path=file))
        before = len(found)
        for record in source.records():
            found += _texts_of(record)
        if len(found) == before:
            raise R1kitError(f"decontaminate: {file}: no rows")
    return found


def _texts_of(record: Record) -> Iterable[Evaluation]:
    where = f"{Path(record.where).name}"
    for name in ("text", "problem", "prompt", "messages", "chosen"):
        for text in _turns(record.columns.get(name)):
            yield Evaluation(where, text)
    for name in ("solution", "answer", "completion"):
        for text in _turns(record.columns.get(name)):
            yield Evaluation(where, text, question=False)


def _turns(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for turn in value:
            if isinstance(turn, dict):
                content = turn.get("content", turn.get("value"))
                yield from [content] if isinstance(content, str) else []
            elif isinstance(turn, str):
                yield turn
