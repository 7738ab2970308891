"""Rollouts that join and leave a running batch between tokens, for a server.

Each has its own sampling. A rollout's tokens are those of ``NativeEngine.generate`` with the same prompt,
sampling and seed, whatever else runs: rows do not depend on each other, and each draws from its own key.
Prompts that were computed are kept for a while: a prompt that comes again, or begins with the same pages of
64 tokens, is not computed again. The copied numbers are those that would be computed."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from ctypes import addressof
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import Protocol

import numpy as np

from r1kit.engine.compiled import PAGE, CompiledDecoder, Drawing, Record, Session, address_of
from r1kit.engine.requests import FULL, LIVE, STOP, Requests
from r1kit.engine.torch_decoder import TorchDecoder
from r1kit.types import Sampling

MOST_TOPS = 20  # the most likeliest tokens that are recorded with a token
_KEPT_PROMPTS = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """One rollout to sample: a prompt [T] int32, how (``n`` and ``stop`` are not read), the key of its random
    numbers (random_draws.rollout_key), and how many of the likeliest tokens to record with each token."""

    prompt: np.ndarray
    sampling: Sampling
    key: int
    tops: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a rollout drew since the last look: ids [T], log-probabilities [T], the likeliest tokens with
    their log-probabilities [T, tops], and whether it has ended: LIVE, STOP (an end token) or FULL."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    state: int


class LiveBatch(Protocol):
    """A running batch of at most ``rows`` rollouts, for one thread."""

    rows: int
    reused: int  # prompt tokens that were not computed again, in all

    def fitting(self, asked: Sequence[Asked]) -> int:
        """How many of them, from the first on, could join now together."""
        ...

    def join(self, asked: Sequence[Asked]) -> list[int]:
        """Let rollouts join, all of which are ``fitting``; draw their first tokens; return their places."""
        ...

    def step(self, steps: int) -> None:
        """Draw up to so many tokens for every rollout that has not ended."""
        ...

    def drawn(self, place: int) -> Drawn:
        """What the rollout drew since the last call."""
        ...

    def leave(self, places: Sequence[int]) -> None:
        """Give the places of rollouts to others, whether they have ended or not."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class CompiledBatch:
    """A batch in the kernels. ``memory`` bounds the keys and values of running and kept prompts and of
    completions, in bytes; each sequence has at most ``positions``."""

    def __init__(self, decoder: CompiledDecoder, rows: int, positions: int, memory: int) -> None:
        self.rows, self.reused = rows, 0
        self._tokens_RT = np.zeros((rows, positions), dtype=np.int32)
        self._logprobs_RT = np.zeros((rows, positions), dtype=np.float32)
        self._lengths_R, self._limits_R, self._tops_R = (np.zeros(rows, dtype=np.int32) for _ in range(3))
        self._finished_R = np.zeros(rows, dtype=np.int8)
        self._read_R = np.zeros(rows, dtype=np.int32)
        self._drawings_R = (Drawing * rows)()
        shape = (rows, positions, MOST_TOPS)
        self._top_ids, self._top_logprobs = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        record = Record(
            address_of(self._tokens_RT), address_of(self._logprobs_RT), address_of(self._lengths_R),
            address_of(self._finished_R), None, positions, address_of(self._limits_R),
            addressof(self._drawings_R), address_of(self._tops_R), address_of(self._top_ids),
            address_of(self._top_logprobs), MOST_TOPS,
        )  # fmt: skip
        self._session = decoder.open(record, positions, Drawing(1.0, 1.0, 0.0, 0))
        self._free = list(range(rows))[::-1]
        self._pages: dict[int, int] = {}  # pages of every rollout that is in the batch
        self._used_pages = 0  # their sum
        self._most_pages = max(memory // self._session.page_bytes, pages_of(positions) + 1)
        self._kept = _Kept(self._session)

    def fitting(self, asked: Sequence[Asked]) -> int:
        """As many as rows are free, and memory for their prompts and completions."""
        ends = accumulate(map(_pages_for, asked[: len(self._free)]))
        return sum(self._used_pages + end <= self._most_pages for end in ends)

    def join(self, asked: Sequence[Asked]) -> list[int]:
        """See LiveBatch.join."""
        if not asked:
            return []
        places, numbers = [], []
        for one in asked:
            place = self._free.pop()
            self._pages[place] = _pages_for(one)
            self._used_pages += self._pages[place]
            self._kept.shrink(self._most_pages - self._used_pages)
            number, reused = self._kept.prompt(np.ascontiguousarray(one.prompt, dtype=np.int32))
            self.reused += reused
            self._begin(place, one)
            places.append(place)
            numbers.append(number)
        keys = np.array([one.key for one in asked], dtype=np.uint64)
        self._session.admit(np.array(places, dtype=np.int32), np.array(numbers, dtype=np.int32), keys)
        return places

    def _begin(self, place: int, asked: Asked) -> None:
        how = asked.sampling
        self._drawings_R[place] = Drawing(how.temperature, how.top_p, how.min_p, how.top_k)
        self._lengths_R[place] = self._read_R[place] = 0
        self._finished_R[place] = LIVE
        self._limits_R[place] = how.max_tokens
        self._tops_R[place] = min(asked.tops, MOST_TOPS)

    def step(self, steps: int) -> None:
        """See LiveBatch.step."""
        self._session.decode(steps, 0)

    def drawn(self, place: int) -> Drawn:
        """See LiveBatch.drawn."""
        new = slice(int(self._read_R[place]), int(self._lengths_R[place]))
        self._read_R[place], tops = new.stop, int(self._tops_R[place])
        return Drawn(
            self._tokens_RT[place, new].copy(),
            self._logprobs_RT[place, new].copy(),
            self._top_ids[place, new, :tops].copy(),
            self._top_logprobs[place, new, :tops].copy(),
            int(self._finished_R[place]),
        )

    def leave(self, places: Sequence[int]) -> None:
        """See LiveBatch.leave."""
        ended = [self._finished_R[place] != LIVE for place in places]
        for place in places:
            self._finished_R[place] = STOP
            self._free.append(place)
            self._used_pages -= self._pages.pop(place)
        if not all(ended):
            self._session.end()

    def close(self) -> None:
        """See LiveBatch.close."""
        self._session.close()


class _Kept:
    """Computed prompts, the one that was used longest ago first; each is held by this cache."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._numbers: OrderedDict[bytes, int] = OrderedDict()  # by the ids as bytes
        self._pages = 0  # of all
        # Those that begin with a page, and all before it, by a digest of these ids.
        self._beginnings: dict[bytes, dict[bytes, None]] = {}

    def prompt(self, ids: np.ndarray) -> tuple[int, int]:
        """The number of a prompt, with one user more, and how many of its tokens were known."""
        content = ids.tobytes()
        if content in self._numbers:
            self._session.hold(self._numbers[content], 1)
            self._numbers.move_to_end(content)
            return self._numbers[content], len(ids)
        digests = _digests(content)
        like, shared = self._longest_beginning(digests[: (len(ids) - 1) // PAGE])
        number = self._numbers[like] if shared else -1
        self._numbers[content] = self._session.prompt(ids, 2, like=number, shared=shared)
        if shared:
            self._numbers.move_to_end(like, last=True)
        self._pages += pages_of(len(ids))
        for digest in digests:
            self._beginnings.setdefault(digest, {})[content] = None
        return self._numbers[content], shared

    def shrink(self, pages: int) -> None:
        """Forget old prompts until the rest has at most so many pages, with one to come."""
        while self._numbers and (self._pages > pages or len(self._numbers) >= _KEPT_PROMPTS):
            content, number = self._numbers.popitem(last=False)
            self._pages -= pages_of(len(content) // 4)
            self._session.hold(number, -1)
            for digest in _digests(content):
                del self._beginnings[digest][content]
                if not self._beginnings[digest]:
                    del self._beginnings[digest]

    def _longest_beginning(self, digests: Sequence[bytes]) -> tuple[bytes, int]:
        """A kept prompt with the most pages in common, and how many positions those have."""
        for pages in range(len(digests), 0, -1):
            if same := self._beginnings.get(digests[pages - 1]):
                return next(iter(same)), pages * PAGE
        return b"", 0


def _digests(content: bytes) -> list[bytes]:
    """For each whole page of a prompt, given as bytes, a digest of the ids up to its end."""
    hashed, found = blake2b(digest_size=16), []
    for end in range(4 * PAGE, len(content) + 1, 4 * PAGE):
        hashed.update(content[end - 4 * PAGE : end])
        found.append(hashed.digest())
    return found


def _pages_for(asked: Asked) -> int:
    return pages_of(len(asked.prompt)) + pages_of(asked.sampling.max_tokens)


class TorchBatch:
    """Rollouts in turn, a token of each: for models and machines that the kernels do not compute. No tokens
    but the drawn ones are recorded, and no prompt is kept."""

    def __init__(self, decoder: TorchDecoder, rows: int) -> None:
        self.rows, self.reused = rows, 0
        self._decoder = decoder
        self._running: dict[int, tuple[Requests, Iterator[int]]] = {}
        self._read = dict.fromkeys(range(rows), 0)

    def fitting(self, asked: Sequence[Asked]) -> int:
        """As many as places are free."""
        return min(len(asked), self.rows - len(self._running))

    def join(self, asked: Sequence[Asked]) -> list[int]:
        """See LiveBatch.join."""
        return [self._joined(one) for one in asked]

    def _joined(self, asked: Asked) -> int:
        place = next(place for place in self._read if place not in self._running)
        requests = Requests([asked.prompt], asked.sampling, [0], (0, 0), None)
        requests.keys_R[0] = asked.key
        self._running[place], self._read[place] = (requests, self._decoder.stream(requests)), 0
        next(self._running[place][1])
        return place

    def step(self, steps: int) -> None:
        """See LiveBatch.step."""
        for _ in range(steps):
            for requests, tokens in self._running.values():
                if requests.finished_R[0] == LIVE:
                    next(tokens, None)

    def drawn(self, place: int) -> Drawn:
        """See LiveBatch.drawn."""
        requests, _ = self._running[place]
        new = slice(self._read[place], int(requests.lengths_R[0]))
        self._read[place] = new.stop
        ids, logprobs = requests.tokens_RT[0, new].copy(), requests.logprobs_RT[0, new].copy()
        nothing = np.zeros((len(ids), 0))
        return Drawn(ids, logprobs, nothing.astype(np.int32), nothing, int(requests.finished_R[0]))

    def leave(self, places: Sequence[int]) -> None:
        """See LiveBatch.leave."""
        for place in places:
            del self._running[place]

    def close(self) -> None:
        """See LiveBatch.close."""
        self._running.clear()


def pages_of(positions: int) -> int:
    """Pages of the cache that so many positions need."""
    return -(-positions // PAGE)


def ended(state: int) -> str | None:
    """Why a rollout has ended, "stop" or "length"; None where it has not."""
    return {STOP: "stop", FULL: "length"}.get(state)
