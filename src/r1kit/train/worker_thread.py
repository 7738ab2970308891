"""Run work in a second thread; its results and its exceptions arrive in the thread that started it.

Signals arrive in the main thread, so interruptions, the watchdog and rewards with a time limit work as usual.
A second thread saves time if one of the two threads releases the interpreter lock: in kernels, on devices, in
sandboxed programs, or while waiting for a judge over the network."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Handed = TypeVar("Handed")
Result = TypeVar("Result")

POLL_S = 0.1  # how often a thread that waits calls on_poll


class _Stopped(BaseException):
    """The result of this work is no longer wanted."""


class _End:
    """What is handed over after all else, so that the other thread does not wait for more."""


def do_nothing() -> None:
    """The default ``on_poll``."""


class WorkerThread(Generic[Handed, Result]):
    """A thread that runs ``work(hand_over)`` between ``start`` and ``stop``, or within a ``with`` block.
    Iterating yields lists of what was handed over since the last list, until the work ends.

    ``stop`` ends the work at its next ``hand_over``, and waits until it has ended. ``on_poll`` is called
    while the starting thread waits for this one; an exception from it ends the wait, so a worker that waits
    for another worker can be stopped."""

    def __init__(
        self, work: Callable[[Callable[[Handed], None]], Result], on_poll: Callable[[], None] = do_nothing
    ) -> None:
        self._work, self._on_poll = work, on_poll
        self._handed: queue.SimpleQueue[Handed | _End] = queue.SimpleQueue()
        self._stop, self._over = threading.Event(), threading.Event()
        self._result: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, name="r1kit worker", daemon=True
        )  # a daemon, so that a second Ctrl-C does not wait for it
        self.ended = 0.0  # when the work ended, by time.perf_counter

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __iter__(self) -> Iterator[list[Handed]]:
        while not (self._over.is_set() and self._handed.empty()):
            self._on_poll()
            try:
                found = [self._handed.get(timeout=POLL_S)]
            except queue.Empty:
                continue
            while not self._handed.empty():
                found.append(self._handed.get())
            if handed := [one for one in found if not isinstance(one, _End)]:
                yield handed

    def result(self) -> Result:
        """Wait for the end of the work; return what it returned, or raise what it raised."""
        while not self._over.wait(POLL_S):
            self._on_poll()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._work(self._hand_over))
        except BaseException as error:  # a boundary: ``result`` raises it again
            self._error = error
        self.ended = time.perf_counter()
        self._over.set()
        self._handed.put(_End())

    def _hand_over(self, what: Handed) -> None:
        if self._stop.is_set():
            raise _Stopped
        if what:
            self._handed.put(what)
