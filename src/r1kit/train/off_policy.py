"""Some phases behind: while the policy learns from a phase, the engine samples the next ones, with the
weights from before these updates. With ``off_policy: k``

    the phase that begins at step s is sampled by version max(0, s - k * updates_per_rollout) of the weights,
    and learned from by version s and on

So the staleness is bounded by k phases, and the weights that sample a phase depend on its step only, not on
timing: a run gives the same results on a slow engine and on a fast one. Phases are sampled in order. With
k = 1 the engine samples one phase while the learner learns from the one before; with a larger k it may be up
to k phases ahead, so that neither waits for a phase of the other that takes longer than most. No rollout is
dropped because it takes long.

The engine samples from a second learner that is not trained (``Policy.lagged``), which gets new weights
between two phases. For k > 1, k more learners keep the weights that will sample the next k phases
(``Policy.kept``). These weights are part of every saved state, because a resumed training samples the pending
phases again. The algorithm corrects for the lag with an importance weight (corrections.py), as in AReaL
(2505.24298)."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np

from r1kit.config import ConfigError, R1kitError
from r1kit.engine import Done, Engine
from r1kit.train.advantage_rows import policy_row
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.rollouts import Phase, Policy, RolloutConfig
from r1kit.train.worker_thread import POLL_S, WorkerThread, do_nothing
from r1kit.types import Completion, Sampling

LAGGED = "lagged"  # the name of these weights in a saved state
_COMPARED = 8  # rollouts whose log-probabilities are computed again with the weights that sampled them

Collect = Callable[[int, Callable[[], None]], Phase]


class Phases(Protocol):
    """The phases of a training, by first step: a context manager, at whose end what is still being collected
    is stopped and dropped."""

    def __enter__(self) -> "Phases": ...

    def __exit__(self, *error: object) -> None: ...

    def begin(self, first: int) -> None:
        """The weights of step ``first`` - updates_per_rollout are handed over or kept: phases that they
        sample may be collected while this thread goes on."""
        ...

    def take(self, first: int) -> Phase:
        """The phase that begins at this step: collected now, or waited for. ``scoring_s`` of one that was
        collected before counts only what this call waited for."""
        ...

    def stream(self) -> Mapping[str, str]:
        """The position of the stream of problems after the phase that was taken last."""
        ...

    def measured(self, step: int) -> Policy:
        """The policy for measurements of the learner's weights after ``step`` steps."""
        ...


class OneAhead:
    """Lag 0 and 1: a phase is collected when it is taken, unless ``begin`` has started it.
    ``collect(first, on_poll)`` collects a phase; ``saved`` is the stream's position now."""

    def __init__(self, collect: Collect, policy: Policy, saved: Callable[[], Mapping[str, str]]) -> None:
        self._collect, self._policy, self._saved = collect, policy, saved
        self._pending: WorkerThread[None, Phase] | None = None
        self._stream: Mapping[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pending is not None:
            self._pending.stop()

    def begin(self, first: int) -> None:
        self._pending = WorkerThread[None, Phase](
            lambda hand_over: self._collect(first, lambda: hand_over(None))
        ).start()

    def take(self, first: int) -> Phase:
        phase = self._collect(first, do_nothing) if self._pending is None else self._finished(self._pending)
        self._stream = self._saved()
        return phase

    def _finished(self, pending: WorkerThread[None, Phase]) -> Phase:
        began, phase = time.perf_counter(), pending.result()
        self._pending = None
        return replace(phase, scoring_s=min(phase.scoring_s, time.perf_counter() - began))

    def stream(self) -> Mapping[str, str]:
        return self._stream

    def measured(self, step: int) -> Policy:
        return self._policy


@dataclass(frozen=True, slots=True)
class Collected:
    """A phase that was collected ahead, with the stream's position after it; or the error that ended it."""

    phase: Phase | None
    stream: Mapping[str, str]
    error: BaseException | None = None


class ManyAhead:
    """Lag 2 and more: a second thread collects one phase after the other, as far as weights are kept for
    them. ``firsts`` are the first steps of all phases, of which ``lag`` may begin at once."""

    def __init__(
        self,
        collect: Collect,
        policy: Policy,
        saved: Callable[[], Mapping[str, str]],
        firsts: range,
        lag: int,
    ) -> None:
        self._collect, self._policy, self._saved = collect, policy, saved
        self._firsts, self._lag = firsts, lag
        self._ready = firsts.start + lag * firsts.step  # the first phase whose weights are not kept yet
        self._found: queue.SimpleQueue[Collected] = queue.SimpleQueue()
        self._engine = threading.Lock()  # who holds it has the engine, with weights of a choice
        self._asked = threading.Event()  # set while a measurement waits for the engine
        self._thread = WorkerThread[None, None](lambda poll: self._run(lambda: poll(None)))
        self._stream: Mapping[str, str] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.stop()

    def begin(self, first: int) -> None:
        self._ready = first + self._lag * self._firsts.step

    def take(self, first: int) -> Phase:
        began = time.perf_counter()
        while True:
            try:
                found = self._found.get(timeout=POLL_S)  # short waits: a signal is handled between them
                break
            except queue.Empty:
                continue
        if found.error is not None or found.phase is None:
            raise found.error or R1kitError("the thread that samples ahead has ended")
        self._stream = found.stream
        waited = time.perf_counter() - began
        return replace(found.phase, scoring_s=min(found.phase.scoring_s, waited))

    def stream(self) -> Mapping[str, str]:
        return self._stream

    def measured(self, step: int) -> Policy:
        engine: Any = BetweenPhases(self, step)
        return replace(self._policy, engine=engine)

    @contextmanager
    def between_phases(self, step: int) -> Iterator[Engine]:
        """The engine with the learner's weights after ``step`` steps, between two phases."""
        self._asked.set()
        with self._engine:
            self._asked.clear()
            sample_from(self._policy, self._policy.learner, step)
            yield self._policy.engine

    def _run(self, poll: Callable[[], None]) -> None:
        for first in self._firsts:
            try:
                while first >= self._ready or self._asked.is_set():
                    poll()
                    time.sleep(POLL_S / 10)
                with self._engine:
                    version = version_of(first, self._firsts.step, self._lag)
                    sample_from(self._policy, kept_for(self._policy, first // self._firsts.step), version)
                    phase = self._collect(first, poll)
                self._found.put(Collected(phase, self._saved()))
            except BaseException as error:  # a boundary: ``take`` raises it again
                self._found.put(Collected(None, {}, error))
                raise


class BetweenPhases:
    """The engine as a measurement uses it: every call gets it between two phases that are sampled ahead."""

    def __init__(self, phases: ManyAhead, step: int) -> None:
        self._phases, self._step = phases, step

    def generate(
        self, prompts: Any, sampling: Sampling, seeds: Any = None, done: Done | None = None
    ) -> list[list[Completion]]:
        with self._phases.between_phases(self._step) as engine:
            return engine.generate(prompts, sampling, seeds, done)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._phases._policy.engine, name)


def version_of(first: int, updates_per_rollout: int, lag: int = 1) -> int:
    """The version of the weights that sample the phase which begins at this step."""
    return max(0, first - lag * updates_per_rollout)


def require_lagged(policy: Policy, lag: int) -> None:
    """Raise ConfigError if the policy does not have the learners that a lag of so many phases needs."""
    wanted = (int(lag > 0), lag if lag > 1 else 0)
    if wanted != (int(policy.lagged is not None), len(policy.kept)):
        raise ConfigError(
            f"off_policy: {lag} with {'a' if policy.lagged else 'no'} lagged learner and {len(policy.kept)} "
            f"kept ones: give Policy {'one' if wanted[0] else 'none'} and {wanted[1]}"
        )


def kept_for(policy: Policy, number: int) -> LearnerProtocol:
    """Who keeps the weights of the phase with this number (lag 2 and more)."""
    return policy.kept[number % len(policy.kept)]


def sample_from(policy: Policy, learner: LearnerProtocol, version: int) -> None:
    """Let the engine sample from a learner's weights, which are ``version``."""
    if policy.lagged is not None:
        policy.lagged.copy_from(learner)
    policy.hand_over(policy.lagged or learner, policy.engine, version)


def hand_over(policy: Policy, version: int) -> None:
    """Let the engine sample from the learner's weights as they are now."""
    sample_from(policy, policy.learner, version)


def follow(policy: Policy, phase: Phase, config: RolloutConfig, first: int, lag: int) -> Metrics:
    """With lagged weights: compare a phase with the weights that sampled it, then keep the newest weights or
    hand them to the engine, for a phase to come."""
    if policy.lagged is None:
        return {}
    version = version_of(first, config.updates_per_rollout, lag)
    if not policy.kept:
        found = rounding(policy.lagged, phase, config, version)
        hand_over(policy, first)
    else:
        keeper = kept_for(policy, first // config.updates_per_rollout)
        found = rounding(keeper, phase, config, version)
        keeper.copy_from(policy.learner)
    return {"sampling/rounding_mean": found}


def rounding(lagged: LearnerProtocol, phase: Phase, config: RolloutConfig, version: int) -> float:
    """The mean |difference| between the engine's log-probabilities of some rollouts and those computed with
    the same, lagged weights, so without the effect of the lag. Raises R1kitError for rollouts that another
    version of the weights sampled."""
    others = sorted({rollout.completion.version for group in phase.groups for rollout in group} - {version})
    if others:
        raise R1kitError(
            f"rollouts that version {version} of the weights was to sample come from version "
            f"{others[0]}: the engine was not handed the weights. "
            "Continue the run from its last saved state: the gate before its first step says what differs"
        )
    rows = [policy_row(group[0], temperature=config.temperature) for group in phase.groups[:_COMPARED]]
    gaps = [
        np.abs(own_T - row.old_logprobs)[row.mask]
        for own_T, row in zip(lagged.logprobs(rows), rows, strict=True)
    ]
    return float(np.concatenate(gaps).mean())
