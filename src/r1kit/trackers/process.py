"""A process for each tracker of a run. Whatever happens to it, the run goes on.

The process is ``r1kit export --to KIND RUN --follow``. It ends when its standard input is closed, which the
system does even where the run is killed. At the end the run waits a moment for the last rows, then it ends a
process that hangs. A tracker that is missing, fails or hangs gives one warning with what to do."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Self

from r1kit.terminal import one_line
from r1kit.trackers.choice import missing_package
from r1kit.trackers.settings import TrackConfig

GRACE_S = 15.0  # at the end of a run, for all trackers together
_FIX = "the run goes on, and r1kit export --to {kind} RUN hands its metrics over later"


class Followers:
    """The processes of a run's trackers, as a context manager. ``warn`` prints a line; ``command`` makes the
    command of a tracker's process."""

    def __init__(
        self,
        tracks: Sequence[TrackConfig],
        run_dir: Path,
        warn: Callable[[str], None],
        grace_s: float = GRACE_S,
        command: Callable[[TrackConfig, Path], list[str]] | None = None,
    ) -> None:
        self.tracks, self.run_dir, self.warn, self.grace_s = tracks, run_dir, warn, grace_s
        self.command = command or follow_command
        self._running: list[_Follower] = []

    def __enter__(self) -> Self:
        for track in self.tracks:
            fix = missing_package(track.kind)
            if fix is not None:
                self._say(f"{fix}; {_FIX.format(kind=track.kind)}")
                continue
            self._say_plainly(track.in_words())
            with self._harmless(track):
                self._running.append(_Follower(track, self.command(track, self.run_dir), self._say))
        return self

    def __exit__(self, *error: object) -> None:
        end = time.monotonic() + self.grace_s
        for follower in self._running:
            with self._harmless(follower.track):
                follower.ask_to_end()
        for follower in self._running:
            with self._harmless(follower.track):
                follower.end(max(0.0, end - time.monotonic()))

    @contextlib.contextmanager
    def _harmless(self, track: TrackConfig) -> Any:
        """Whatever goes wrong within is a warning: a tracker must not stop a run."""
        try:
            yield
        except Exception as error:
            self._say(f"track: {track.kind}: {error}; {_FIX.format(kind=track.kind)}")

    def _say(self, text: str) -> None:
        self._say_plainly(f"warning: {text}")

    def _say_plainly(self, text: str) -> None:
        with contextlib.suppress(Exception):
            self.warn(one_line(text))


class _Follower:
    """One process, watched by a thread that reports when it ends before it is asked to."""

    def __init__(self, track: TrackConfig, command: Sequence[str], say: Callable[[str], None]) -> None:
        self.track, self.say = track, say
        self._asked = self._said = False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the process has ended
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C in a terminal is the run's to handle
        )
        threading.Thread(target=self._watch, name=f"r1kit-track-{track.kind}", daemon=True).start()

    def ask_to_end(self) -> None:
        self._asked = True
        if self._process.stdin is not None:
            self._process.stdin.close()

    def end(self, seconds: float) -> None:
        """Wait so long for the process, then end it."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._report(f"track: {self.track.kind} did not end in time and was stopped")
            return
        if code:
            self._report(f"track: {self.track.kind} failed: {self._last_error()}")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGTERM)  # what it may have started and left

    def _watch(self) -> None:
        code = self._process.wait()
        if not self._asked:
            self._report(f"track: {self.track.kind} ended (exit code {code}): {self._last_error()}")

    def _report(self, text: str) -> None:
        if not self._said:
            self._said = True
            self.say(f"{text}; {_FIX.format(kind=self.track.kind)}")

    def _last_error(self) -> str:
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it printed no reason"


def follow_command(track: TrackConfig, run_dir: Path) -> list[str]:
    """The command of a tracker's process."""
    words = ["export", str(run_dir), f"--to={track.kind}", "--follow"]
    words += [f"--project={track.project}"] if track.project else []
    return [sys.executable, "-m", "r1kit", *words, *(["--online"] if track.online else [])]
