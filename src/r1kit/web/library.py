"""The runs that the pages show, each read in the background while a page has it open."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from r1kit.config import ConfigError
from r1kit.web.rollout_index import RolloutIndex, cache_file
from r1kit.web.run_view import RunView, find_runs, looks_like_a_run

PIECE = 1 << 18  # bytes of metrics that are read at once, so that a page never waits long for the lock
EVERY_S = 2.0  # between two looks at a run
PAGE_S = 3.0  # that a page may take to open; reading leaves it half of the interpreter


@dataclass(slots=True)
class OpenRun:
    """A run that is read: hold ``lock`` while its ``view`` is used. ``version`` counts what has changed."""

    name: str
    view: RunView
    index: RolloutIndex
    lock: threading.Lock = field(default_factory=threading.Lock)
    version: int = 0
    fault: str = ""

    def look(self) -> bool:
        """Read a piece of what is new. Returns whether there is more. What goes wrong is the run's ``fault``:
        a damaged run must not stop the pages of others."""
        return self._without_faults(self._look)

    def look_at_stages(self) -> bool:
        """The same without the rollouts, which takes a hundredth of a second."""
        return self._without_faults(self._look_at_stages)

    def list_rollouts(self) -> None:
        """List the files of rollouts, if that was never done: some tenths of a second for a run with many."""
        self._without_faults(self.index.list_first)

    def _without_faults(self, look: Callable[[], bool]) -> bool:
        try:
            more = look()
        except Exception as error:
            self.fault, more = f"{type(error).__name__}: {error}", False
            self.version += 1
        return more

    def _look_at_stages(self) -> bool:
        before = self._state()
        with self.lock:
            more = self.view.refresh(PIECE)
            self.version += self._state() != before
        return more

    def _look(self) -> bool:
        more = self._look_at_stages()
        self.index.list_files()
        more = self.index.refresh() or more
        return more

    def _state(self) -> object:
        return self.view.metrics.rows(), self.view.is_running, self.view.troubles, self.view.stages


class Library:
    """Runs by name. ``names`` come from the folders; two folders of one name get a number."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders: dict[str, Path] = {}
        for folder in folders:
            name = folder.resolve().name
            number = 2
            while name in self.folders:
                name, number = f"{folder.resolve().name} ({number})", number + 1
            self.folders[name] = folder
        self._open: dict[str, OpenRun] = {}
        self._page_opens_until = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def names(self) -> list[str]:
        return list(self.folders)

    def open(self, name: str) -> OpenRun:
        """The run of that name, or the first one for a name that there is not."""
        name = name if name in self.folders else self.names[0]
        with self._lock:
            if name not in self._open:
                folder = self.folders[name]
                index = RolloutIndex(folder, cache_file(folder))
                self._open[name] = OpenRun(name, RunView(folder), index)
                self._open[name].look_at_stages()  # a page is waiting; the rest is read in the background
            return self._open[name]

    def page_opens(self) -> None:
        """Read slowly for a moment: a page is being opened by another thread of this interpreter."""
        self._page_opens_until = time.monotonic() + PAGE_S

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the open runs in a thread, as long as this lasts."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Read in a thread from now on, the first run already before a page asks for it."""
        self._stopped.clear()
        self.open(self.names[0])
        self._thread = threading.Thread(target=self._read, name="r1kit-ui-reader", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for run in self._open.values():
            run.index.close()
        self._open.clear()

    def _read(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            more = any([run.look() for run in list(self._open.values())])
            took = time.monotonic() - began
            # A pause also while there is more: pages are served by another thread of the same interpreter.
            pause = took if time.monotonic() < self._page_opens_until else 0.1 * took
            self._stopped.wait(pause if more else max(0.1, EVERY_S - took))


def library_of(runs: Sequence[Path], default: Path = Path("runs")) -> Library:
    """The runs of these folders; a folder of runs stands for all of them. Raises ConfigError where there is
    none."""
    found: list[Path] = []
    for folder in runs or [default]:
        if looks_like_a_run(folder):
            found.append(folder)
        elif inner := find_runs(folder):
            found += inner
        else:
            raise ConfigError(
                f"{folder}: no run of r1kit, and no folder of runs. Name a run's folder, such as runs/mini, "
                "or make one: r1kit run recipes/mini.yaml"
            )
    return Library(list(dict.fromkeys(found)))
