"""Handle Ctrl-C and SIGTERM. Within a training loop the first signal stops the run after the step, once its
state is saved. Elsewhere, and at the second signal, the work stops immediately. A resumed run ends with the
same bytes as one that was not interrupted."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context manager that handles the two signals. ``asked``: the run should stop; ``deferred``: a loop
    checks ``asked`` after every step, so the signal does not stop it immediately.

    Signals can be handled in the main thread only; in another one ``asked`` stays False.
    """

    def __init__(self) -> None:
        self.asked = False
        self.deferred = False
        self._raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in NUMBERS:
                # A background job of a shell ignores Ctrl-C; keep that.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        except ValueError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def outlasting(self) -> Iterator[None]:
        """Libraries may turn the KeyboardInterrupt within them into an error of their own, such as that of a
        damaged file. Then this raises KeyboardInterrupt."""
        try:
            yield
        except Exception as error:
            if self._raised:
                raise KeyboardInterrupt from error
            raise

    def stop_if_asked(self) -> None:
        """Raise KeyboardInterrupt if the run should stop."""
        if self.asked:
            raise KeyboardInterrupt

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self.deferred or self.asked:
            self._raised = True
            raise KeyboardInterrupt
        self.asked = True
        name = signal.Signals(number).name
        print(
            f"r1kit: {name}: stopping when this step has ended and its state is saved; the same signal once "
            "more stops at once",
            file=sys.stderr,
            flush=True,
        )
