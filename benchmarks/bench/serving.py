"""How a side of the comparison gets orders: one JSON object a line on a pipe, one answer each.

Every side is a process, started with the numbers of its two pipes. The first order describes the work and is
answered when the side is ready; each later one requests the work once. Only the standard library is imported
here: sides run in the virtual environments of the peers, which do not have r1kit."""

import json
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Order = dict[str, Any]
GRACE_S = 60.0  # for a side to end by itself when no more orders can come


class Line:
    """Orders in, answers out. When the other end is gone, killed for example, the process ends after
    ``GRACE_S``, also in the middle of an order."""

    def __init__(self) -> None:
        self._orders = os.fdopen(int(sys.argv[1]), "r", encoding="utf-8")
        self._answers = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")
        threading.Thread(target=self._end_with_caller, daemon=True).start()

    def _end_with_caller(self) -> None:
        hung_up = select.poll()
        hung_up.register(self._orders.fileno(), 0)  # reports a closed end only
        hung_up.poll()
        time.sleep(GRACE_S)
        os._exit(1)

    def orders(self) -> Iterator[Order]:
        """The orders, until the other end closes."""
        for text in self._orders:
            yield json.loads(text)

    def answer(self, found: Order) -> None:
        self._answers.write(json.dumps(found) + "\n")
        self._answers.flush()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Answer with the error, and end."""
        try:
            yield
        except Exception as error:  # a boundary: the other end reports it
            traceback.print_exc()
            self.answer({"error": f"{type(error).__name__}: {error}"})
            sys.exit(1)


def serve(start: Callable[[Order], Callable[[Order], Order]]) -> None:
    """Serve orders with the function that ``start`` returns for the first one."""
    line = Line()
    orders = line.orders()
    with line.reporting():
        run = start(next(orders))
        line.answer({"ready": True})
        for order in orders:
            line.answer(run(order))
