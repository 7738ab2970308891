"""Packed lines for a learner: drawn by weight from several sources, each in a new random order every epoch,
read from mapped files and made ready in a second thread.

Which line comes when is a function of the seed, so a resumed training jumps to its place without reading what
came before. The order of an epoch is a permutation that is computed, not stored (a Feistel network over the
indices), so memory does not grow with the corpus."""

import itertools
import queue
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from r1kit.config import R1kitError
from r1kit.data.corpora import drawn_sources
from r1kit.data.pacing import Pacing
from r1kit.data.token_shards import TokenShard
from r1kit.seeds import derive_seed

Made = TypeVar("Made")
AHEAD = 4  # updates that are ready before they are needed
_DRAWS = 4096  # that are computed at a time
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of one source in its shards. ``weight`` is its share; ``epochs`` how often it is read at most
    (None: without end)."""

    name: str
    shards: tuple[TokenShard, ...]
    weight: float = 1.0
    epochs: float | None = None
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        counts = accumulate((shard.header.lines for shard in self.shards), initial=0)
        object.__setattr__(self, "starts", tuple(counts))

    @classmethod
    def open(
        cls, name: str, headers: Sequence[Path], weight: float = 1.0, epochs: float | None = None
    ) -> "Lines":
        return cls(name, tuple(TokenShard.open(path) for path in headers), weight, epochs)

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def most(self) -> float:
        """How many lines are drawn at most."""
        return float("inf") if self.epochs is None else round(self.epochs * len(self))

    def line(self, index: int) -> list[np.ndarray]:
        shard = bisect_right(self.starts, index) - 1
        return self.shards[shard].line(index - self.starts[shard])


@dataclass(frozen=True, slots=True)
class PacedLines:
    """A curriculum over lines (pacing.py): ``orders`` are each source's lines, the easiest first, and
    ``total`` the lines of the whole training. Sources keep their weights. While not all lines of a source are
    admitted, each draw is an independent one of those that are, so it is a function of its number."""

    orders: tuple[np.ndarray, ...]
    pacing: Pacing
    total: int
    seed: int

    def line(self, number: int, source: int) -> int | None:
        """The line of draw ``number``, which is of that source; None where all its lines are admitted."""
        order = self.orders[source]
        begin, end = self.pacing.window(min(1.0, number / self.total), len(order))
        if (begin, end) == (0, len(order)):
            return None
        return int(order[begin + derive_seed(self.seed, "paced", number) % (end - begin)])


class LineStream:
    """The lines of several sources by weight; see on top. A source that has been read ``epochs`` times is
    left out from then on; where all are, the stream ends. ``paced``: easy lines first."""

    def __init__(self, sources: Sequence[Lines], seed: int, paced: PacedLines | None = None) -> None:
        self.sources = list(sources)
        self.seed = seed
        self.paced = paced
        empty = [source.name for source in sources if not len(source)]
        if empty or not sources:
            raise R1kitError(f"no packed lines to read{': ' + ', '.join(empty) if empty else ''}")

    def draws(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """(source, how many lines of it came before) of each draw from number ``start`` on."""
        active = list(range(len(self.sources)))
        drawn = [0] * len(self.sources)
        number = 0
        for part in range(1 << 62):
            if not active:
                return
            weights = [self.sources[index].weight for index in active]
            chosen = drawn_sources(weights, derive_seed(self.seed, "draw", part), 0, _DRAWS)
            counts = np.bincount(chosen, minlength=len(active)).tolist()
            total = [drawn[index] + count for index, count in zip(active, counts, strict=True)]
            whole = all(many < self.sources[index].most for index, many in zip(active, total, strict=True))
            if whole and number + _DRAWS <= start:  # passed over as a whole
                for index, many in zip(active, total, strict=True):
                    drawn[index] = many
                number += _DRAWS
                continue
            for local in chosen.tolist():
                index = active[local]
                if drawn[index] >= self.sources[index].most:
                    continue  # exhausted within this part: drawn again from the others in the next
                if number >= start:
                    yield index, drawn[index]
                drawn[index] += 1
                number += 1
            active = [index for index in active if drawn[index] < self.sources[index].most]

    def lines(self, start: int = 0) -> Iterator[list[np.ndarray]]:
        """The pieces of each line from number ``start`` on."""
        orders: dict[int, tuple[int, Permutation]] = {}
        for number, (index, before) in enumerate(self.draws(start), start):
            source = self.sources[index]
            easy = self.paced.line(number, index) if self.paced else None
            if easy is not None:
                yield source.line(easy)
                continue
            epoch, place = divmod(before, len(source))
            if index not in orders or orders[index][0] != epoch:
                seed = derive_seed(self.seed, source.name, epoch)
                orders[index] = (epoch, Permutation(len(source), seed))
            yield source.line(orders[index][1](place))


class Permutation:
    """A random order of ``count`` indices, computed one at a time: a Feistel network of four rounds over the
    next power of four, walked until the result is below ``count``."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._half = max(1, ((count - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._keys = [derive_seed(seed, "round", place) & (2**64 - 1) for place in range(_ROUNDS)]

    def __call__(self, index: int) -> int:
        while True:
            left, right = index >> self._half, index & self._mask
            for key in self._keys:
                left, right = right, left ^ self._mixed(right, key)
            index = left << self._half | right
            if index < self.count:
                return index

    def _mixed(self, value: int, key: int) -> int:
        mixed = (value + 1) * 0x9E3779B97F4A7C15 + key & (2**64 - 1)
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & (2**64 - 1)
        return (mixed ^ mixed >> 31) & self._mask


@dataclass(slots=True)
class Waits:
    """How long the reader waited for a batch that was not ready yet."""

    seconds: float = 0.0
    batches: int = 0


def updates(
    stream: LineStream,
    lines: Iterable[int],
    joined: bool,
    make: Callable[[np.ndarray], Made],
    start: int = 0,
    waits: Waits | None = None,
) -> Iterator[list[Made]]:
    """Updates of as many lines as ``lines`` says one after the other, from number ``start`` on, made ready in
    a second thread: ``make`` of every piece, or of a line's pieces as one where they are ``joined``. What the
    thread raises is raised here."""
    ready: _Ready[list[Made]] = _Ready()
    counts = iter(lines)
    before = sum(itertools.islice(counts, start))

    def work() -> None:
        try:
            source = stream.lines(before)
            for count in counts:
                found = list(itertools.islice(source, count))
                batch: list[Made] = []
                for pieces in found:
                    batch += map(make, [np.concatenate(pieces)] if joined else pieces)
                if batch and not ready.put(batch):
                    return
                if len(found) < count:
                    break
            ready.put(None)
        except BaseException as error:  # handed to the thread that reads
            ready.put(error)

    thread = threading.Thread(target=work, name="r1kit tokens", daemon=True)
    thread.start()
    try:
        while (found := ready.get(waits)) is not None:
            yield found
    finally:
        ready.ended.set()
        thread.join()


class _Ready(Generic[Made]):
    """What one thread has made ready for another, at most AHEAD of them, until ``ended`` is set."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Made | BaseException | None] = queue.Queue(AHEAD)
        self.ended = threading.Event()

    def put(self, one: Made | BaseException | None) -> bool:
        """Wait until there is space for it; false where it is no longer wanted."""
        while not self.ended.is_set():
            try:
                self._queue.put(one, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def get(self, waits: Waits | None) -> Made | None:
        """The next one, None after the last. Raises what the other thread has raised."""
        before = time.perf_counter()
        found = self._queue.get()
        if waits is not None:
            waits.seconds += time.perf_counter() - before
            waits.batches += 1
        if isinstance(found, BaseException):
            raise found
        return found
