"""Ctrl-C and SIGTERM: while a training loop promises to look, the first one lets the step end and its state
be saved; otherwise, and at the second one, the work stops at once. Either way nothing is lost but work: what
continues ends with the same bytes."""

import signal
import sys
from types import FrameType
from typing import Any, Self

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context manager that takes the two signals. ``asked``: someone wants the run to stop; ``deferred``: a
    loop looks at that after every step.

    Signals can be taken in the main thread only; in another one nothing is taken, and nothing is ever asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self.deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in NUMBERS:
                if (
                    signal.getsignal(number) is not signal.SIG_IGN
                ):  # a job in a shell's background is not to hear Ctrl-C
                    self._before[number] = signal.signal(number, self._take)
        except ValueError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def stop_if_asked(self) -> None:
        """Raise KeyboardInterrupt where someone has asked to stop."""
        if self.asked:
            raise KeyboardInterrupt

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if not self.deferred or self.asked:
            raise KeyboardInterrupt
        self.asked = True
        name = signal.Signals(number).name
        print(
            f"r1kit: {name}: this step is ended and its state saved first; the same signal once more "
            "stops at once",
            file=sys.stderr,
            flush=True,
        )
