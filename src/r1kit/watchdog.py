"""Every wait has a deadline and a name: when the deadline passes, the stacks of all threads are printed, and
the error names what was waited for.

The waiting thread may hang in a system call, so a signal wakes it. Where it hangs outside of Python and does
not wake, the process ends; the run continues from its last saved state."""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from r1kit.config import R1kitError

DEADLINE_S = 1800.0  # longer than any call that is not hung takes
GRACE_S = 30.0  # for the waiting thread to wake


class HungError(R1kitError):
    """Something did not answer in time. The text names it."""


@contextlib.contextmanager
def deadline(what: str, seconds: float = DEADLINE_S) -> Iterator[None]:
    """Raise HungError in the body when it takes longer than ``seconds``; ``what`` names what is waited for,
    and the fix.

    Signals reach the main thread only: in another thread the stacks are printed and the process ends.
    """
    woken = threading.current_thread() is threading.main_thread()
    message = f"{what} (waited {seconds:g} s; the stacks of all threads are above)"
    over = threading.Event()

    def wake(_signal: int, _frame: FrameType | None) -> None:
        raise HungError(message)

    def watch() -> None:
        if over.wait(seconds):
            return
        print_stacks(what)
        if woken:
            signal.pthread_kill(main.ident or 0, signal.SIGUSR1)
        if not over.wait(GRACE_S if woken else 0.0):
            print(f"r1kit: {message}; it does not answer, so this process ends", file=sys.stderr, flush=True)
            os._exit(1)

    main = threading.main_thread()
    before = signal.signal(signal.SIGUSR1, wake) if woken else None
    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if woken:
            signal.signal(signal.SIGUSR1, before)


def print_stacks(what: str) -> None:
    """Print the stacks of all threads of this process on standard error, with what is being waited for."""
    print(f"r1kit: still waiting: {what}. Stacks of process {os.getpid()}:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)


def print_stacks_on_request() -> None:
    """Print this process's stacks at SIGUSR1, which the process that waits for it sends."""
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__ or 2, all_threads=True)
