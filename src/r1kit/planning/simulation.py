"""Asynchronous RL as discrete events: engines sample groups, a learner waits for whole batches.

Engines decode all their rows one token a step; a step of R rows takes ``step(R)`` seconds, so between two
events (a row ends, rows begin, weights arrive) every row advances at one rate, and the next end is known. A
group may begin once the learner's version is at most ``lag`` behind the update that will learn from it:
``lag`` 0 samples and learns in turns. An update waits for all groups of its batch, in the order in which they
were dealt: none is dropped because it takes long.

An engine that fails loses what it samples; the same groups, of the same lengths, go to the next free engine.
A learner that fails continues from its last saved state and repeats the updates since.

A heap and three kinds of events are all that is needed, and rates that change while something is under way
are what SimPy's processes would make harder, so this does not use it."""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class System:
    """``engines`` that each decode at most ``rows`` rows at once; ``group`` rows are a group, ``batch``
    groups an update. ``step``: seconds of a decoding step by rows; ``update``: seconds of an update by its
    tokens; ``start``: seconds that an engine needs for the prompts of a group; ``handover``: seconds that new
    weights stop an engine.

    ``continuous``: a group begins as soon as there is space; else a call of whole groups ends with its
    longest row, and new weights are loaded between calls. ``cores``: how many processes can compute at once
    (an engine is one, the learner ``learners``); None: each has its own.

    ``engine_mtbf``, ``learner_mtbf``: mean seconds between failures (None: no failures), after which an
    engine is back in ``engine_restart`` and the learner in ``learner_restart`` seconds. ``save_every``:
    updates."""

    engines: int
    rows: int
    group: int
    batch: int
    lag: int
    step: Callable[[float], float]
    update: Callable[[float], float]
    start: float = 0.0
    handover: float = 0.0
    continuous: bool = True
    learners: int = 1
    cores: int | None = None
    engine_mtbf: float | None = None
    learner_mtbf: float | None = None
    engine_restart: float = 0.0
    learner_restart: float = 0.0
    save_every: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """``seconds`` for each update, ``tokens`` per second; the shares of the time in which the learner learns
    and an engine samples; the mean number of updates between the weights of a group's beginning and the
    update that learns from it; failures."""

    seconds: float
    tokens: float
    learner_busy: float
    engine_busy: float
    staleness: float
    engine_failures: int
    learner_failures: int


@dataclass(slots=True, eq=False)
class _Worker:
    """Something that computes: ``done`` grows by 1 / ``cost`` a second from ``since`` on. ``ends``: (where
    ``done`` stands when it ends, group). ``stamp`` marks events that are out of date."""

    who: int
    cost: float = 1.0
    done: float = 0.0
    since: float = 0.0
    busy: float = 0.0
    stamp: int = 0
    version: int = 0
    up: bool = True
    ends: list[tuple[float, int]] = field(default_factory=list)

    def advance(self, now: float, slow: float) -> None:
        if self.ends and now > self.since:
            self.done += (now - self.since) / (self.cost * slow)
            self.busy += now - self.since
        self.since = max(self.since, now)


def simulate(system: System, lengths: Sequence[float], updates: int, seed: int = 0) -> Outcome:
    """Simulate so many updates with rows as long as ``lengths``, drawn from them with ``seed``."""
    run = _Run(system, lengths, updates, seed)
    while run.version < updates:
        run.next_event()
    return run.outcome()


class _Run:
    """One simulation. The learner is the last worker."""

    def __init__(self, system: System, lengths: Sequence[float], updates: int, seed: int) -> None:
        self.system, self._lengths, self._updates, self._seed = system, list(lengths), updates, seed
        self.now, self.version, self._slow, self._number = 0.0, 0, 1.0, 0
        self._workers = [_Worker(who) for who in range(system.engines + 1)]
        self._learner = self._workers[-1]
        self._events: list[tuple[float, int, str, int, int]] = []
        self._lost: deque[int] = deque()
        self._dealt, self._left, self._complete = 0, Counter[int](), Counter[int]()
        self._tokens, self._saved = 0.0, 0.0
        self._staleness: list[int] = []
        self._begun: dict[int, int] = {}
        self._failures = Counter[str]()
        self._failing = random.Random(f"{seed} failures")
        for who in range(system.engines + 1):
            self._plan_failure(who)
        self._deal()

    def next_event(self) -> None:
        """Go to the next event and do what it says."""
        self.now, _, kind, who, stamp = heapq.heappop(self._events)
        worker = self._workers[who]
        if kind == "fail":
            self._fail(who)
        elif kind == "up":
            worker.up = True
        elif stamp != worker.stamp or not worker.ends:
            return
        else:
            worker.advance(self.now, self._slow)
            self._end(who)
        self._deal()

    def _end(self, who: int) -> None:
        """A row has ended, or an update."""
        worker = self._workers[who]
        worker.done, group = heapq.heappop(worker.ends)
        if who == self.system.engines:
            self.version += 1
            self._saved = 0.0 if self.version % self.system.save_every == 0 else self._saved + worker.done
            if self.system.continuous:
                for engine in self._workers[:-1]:
                    engine.advance(self.now, self._slow)
                    engine.since = self.now + self.system.handover
                    self._schedule(engine)
            return
        self._left[group] -= 1
        if not self._left[group]:
            self._complete[group // self.system.batch] += 1
        self._schedule(worker)

    def _deal(self) -> None:
        """Begin groups and updates wherever that is possible now."""
        system = self.system
        ready = [
            engine for engine in self._workers[:-1]
            if self._can_begin() and engine.up and (system.continuous or not engine.ends)
        ]  # fmt: skip
        while ready and self._can_begin():
            engine = min(ready, key=lambda engine: len(engine.ends))
            if len(engine.ends) + system.group > system.rows:
                break
            self._begin(engine)
        learner = self._learner
        if learner.up and not learner.ends and self._complete[self.version] == system.batch:
            first = self.version * system.batch
            tokens = sum(sum(self._rows(group)) for group in range(first, first + system.batch))
            self._tokens += tokens
            learner.done, learner.since = 0.0, self.now
            heapq.heappush(learner.ends, (system.update(tokens), -1))
            self._schedule(learner)
        self._share_cores()

    def _can_begin(self) -> bool:
        within = self._dealt < (self.version + self.system.lag + 1) * self.system.batch
        return bool(self._lost) or (within and self._dealt < self._updates * self.system.batch)

    def _begin(self, engine: _Worker) -> None:
        group = self._lost.popleft() if self._lost else self._dealt
        if group == self._dealt:
            self._dealt += 1
        if group not in self._begun:
            self._staleness.append(group // self.system.batch - self.version)
            self._begun[group] = self.version
        engine.advance(self.now, self._slow)
        pause = self.system.start
        if not self.system.continuous and engine.version < self.version:
            pause, engine.version = pause + self.system.handover, self.version
        engine.since = max(engine.since, self.now) + pause
        rows = self._rows(group)
        self._left[group] = len(rows)
        for length in rows:
            heapq.heappush(engine.ends, (engine.done + length, group))
        self._schedule(engine)

    def _rows(self, group: int) -> list[float]:
        """The lengths of a group's rows: the same whenever it is sampled."""
        return random.Random(f"{self._seed} {group}").choices(self._lengths, k=self.system.group)

    def _schedule(self, worker: _Worker) -> None:
        """Say when the worker's next row or update ends."""
        worker.stamp += 1
        if not worker.ends:
            return
        worker.cost = 1.0 if worker is self._learner else self.system.step(len(worker.ends))
        left = max(0.0, worker.ends[0][0] - worker.done) * worker.cost * self._slow
        self._push(max(self.now, worker.since) + left, "end", worker.who, worker.stamp)

    def _push(self, at: float, kind: str, who: int, stamp: int = 0) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, kind, who, stamp))

    def _share_cores(self) -> None:
        """Slow every process down where more compute than there are cores."""
        if self.system.cores is None:
            return
        computing = sum(1 for engine in self._workers[:-1] if engine.ends)
        computing += self.system.learners if self._learner.ends else 0
        slow = max(1.0, computing / self.system.cores)
        if slow != self._slow:
            for worker in self._workers:
                worker.advance(self.now, self._slow)
            self._slow = slow
            for worker in self._workers:
                self._schedule(worker)

    def _plan_failure(self, who: int) -> None:
        mean = self.system.learner_mtbf if who == self.system.engines else self.system.engine_mtbf
        if mean is not None:
            self._push(self.now + self._failing.expovariate(1.0 / mean), "fail", who)

    def _fail(self, who: int) -> None:
        """An engine loses its rows; the learner what it has learned since the last saved state."""
        worker, system = self._workers[who], self.system
        worker.advance(self.now, self._slow)
        self._plan_failure(who)
        if not worker.up:
            return
        worker.up, worker.stamp = False, worker.stamp + 1
        if worker is self._learner:
            self._failures["learner"] += 1
            # What is under way begins again after what is repeated.
            worker.done, worker.since = 0.0, self.now + system.learner_restart + self._saved
            worker.up = bool(worker.ends)
            if worker.ends:
                self._schedule(worker)
            else:
                self._push(worker.since, "up", who)
            return
        self._failures["engine"] += 1
        self._lost.extend(sorted({group for _, group in worker.ends}))
        worker.ends.clear()
        self._push(self.now + system.engine_restart, "up", who)

    def outcome(self) -> Outcome:
        """The figures of what was simulated."""
        engines = self._workers[:-1]
        return Outcome(
            self.now / self.version, self._tokens / self.now, self._learner.busy / self.now,
            sum(engine.busy for engine in engines) / self.now / len(engines),
            sum(self._staleness) / len(self._staleness),
            self._failures["engine"], self._failures["learner"],
        )  # fmt: skip
