"""How much memory a stage takes: this process and its children together, watched while it runs."""

import threading
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]

SECONDS_BETWEEN_LOOKS = 2.0


class MemoryWatch:
    """A context manager whose ``peak_mb`` is the largest memory seen, in MB, of this process with all its
    children.

    Pages that processes share are counted once where the system reports them (proportional set size), else
    once for each process.
    """

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_mb = max(self.peak_mb, memory_mb())

    def _watch(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_LOOKS):
            self.peak_mb = max(self.peak_mb, memory_mb())


def memory_mb() -> float:
    """Memory of this process and its children now, in MB (10**6 bytes)."""
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 1e6
