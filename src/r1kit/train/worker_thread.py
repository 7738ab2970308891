"""Work in a thread of its own beside this one: what it hands over is taken here, what it raises is raised
here, and it does not outlive its block.

The main thread keeps what only it can do: it hears signals, so an interruption, a watchdog and a reward with
a time-out of its own work as ever. The thread gains time where it, or this one, leaves the interpreter:
kernels, devices, programs in a sandbox, judges over the network."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Handed = TypeVar("Handed")
Result = TypeVar("Result")

LOOK_S = 0.1  # how often one that waits looks whether it still shall


class _Stopped(BaseException):
    """Nobody waits for this work any more."""


def carry_on() -> None:
    """The ``heed`` of those whom nobody stops."""


class Beside(Generic[Handed, Result]):
    """A context manager in which ``work(hand_over)`` runs in a thread. Iterating gives lists of what has been
    handed over since, until it ends.

    Leaving the block early stops the work at its next ``hand_over``, and waits for that. ``heed`` is called
    while this thread waits, so that one that is itself beside another hears when it is to stop."""

    def __init__(
        self, work: Callable[[Callable[[Handed], None]], Result], heed: Callable[[], None] = carry_on
    ) -> None:
        self._work, self._heed = work, heed
        self._handed: queue.SimpleQueue[Handed] = queue.SimpleQueue()
        self._stop, self._over = threading.Event(), threading.Event()
        self._result: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, name="beside", daemon=True
        )  # so that a second Ctrl-C does not wait
        self.ended = 0.0  # when the work did, by time.perf_counter

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[list[Handed]]:
        while not (self._over.is_set() and self._handed.empty()):
            self._heed()
            try:
                found = [self._handed.get(timeout=LOOK_S)]
            except queue.Empty:
                continue
            while not self._handed.empty():
                found.append(self._handed.get())
            yield found

    def result(self) -> Result:
        """Wait for the end of the work; return what it returned, or raise what it raised."""
        while not self._over.wait(LOOK_S):
            self._heed()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._work(self._hand_over))
        except BaseException as error:  # a boundary: whatever it is, ``result`` raises it
            self._error = error
        self.ended = time.perf_counter()
        self._over.set()

    def _hand_over(self, what: Handed) -> None:
        if self._stop.is_set():
            raise _Stopped
        if what:
            self._handed.put(what)
