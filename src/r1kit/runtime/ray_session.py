"""The private part of a Ray cluster that r1kit starts on this machine: its folder, its token, the variables
that Ray reads, and the program that removes all of it.

Without these variables Ray listens on every interface of the machine, keeps its token in the user's home
folder where others can read it, and reports usage to its makers. The folder has mode 0700 and the token 0600;
Ray opens the folder that it is given to everybody, so it gets one inside this one.

Ray's own processes can outlive a driver that was killed, some of them by two minutes, and its folder stays.
So a small program waits for the end of this process (its standard input closes), ends what is left of the
session and removes the folder. It knows the processes of the session by a variable in their environment."""

import contextlib
import functools
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from r1kit.config import R1kitError
from r1kit.files import remove_tree

SESSION = "R1KIT_RAY_SESSION"  # in the environment of every process of a session: its folder
TOKEN = "token"  # its file in the folder
LONGEST_FOLDER = 24  # characters: a socket's path has 107 at most, and r1kit and Ray add about 80
REMOVED_S = 30.0  # how long the end of a session may take

# Ray reads them when it is imported and when it starts. The first has everything listen on 127.0.0.1 only,
# on Linux too, whatever its name says; a test looks at the sockets.
ONE_MACHINE: Mapping[str, str] = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
ALWAYS: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # no call starts a cluster by itself, with Ray's own settings
}
# Ray gives its workers a low priority, so that its own processes answer; here the workers do the work.
STARTED: Mapping[str, str] = {"RAY_worker_niceness": "0"}

_CLEANER = """
import os, shutil, signal, sys, time
folder, variable = sys.argv[1:]
mark = f"{variable}={folder}".encode()
sys.stdin.buffer.read()


def left():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                found = mark in file.read().split(bytes(1))
        except OSError:
            continue
        if found and int(name) != os.getpid():
            yield int(name)


for turn in range(50):
    ended = True
    for number in left() if os.path.isdir("/proc") else ():
        ended = False
        try:
            os.kill(number, signal.SIGKILL)
        except OSError:
            pass
    shutil.rmtree(folder, ignore_errors=True)
    if ended and not os.path.exists(folder):
        break
    time.sleep(0.1)
"""


class Session:
    """The folder of one local cluster, from its making to ``close``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="r1kit-ray-", dir=_short_folder()))
        self.token, self.work = self.folder / TOKEN, self.folder / "ray"
        descriptor = os.open(self.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(_process_token())
        # In a session of its own, so that the signals of a terminal do not reach it.
        self._cleaner = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CLEANER, str(self.folder), SESSION],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @contextlib.contextmanager
    def variables(self) -> Iterator[None]:
        """Within this, the processes that are started belong to the session."""
        added = {SESSION: str(self.folder), **STARTED}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]

    def close(self) -> None:
        """End what is left of the session and remove its folder. Raises R1kitError where that fails."""
        if self._cleaner.stdin is not None:
            self._cleaner.stdin.close()
        try:
            self._cleaner.wait(REMOVED_S)
        except subprocess.TimeoutExpired:
            raise R1kitError(
                f"{self.folder}: the folder of a Ray session could not be removed within {REMOVED_S:g} s; "
                "end the processes that use it, and remove it"
            ) from None
        if self.folder.exists():
            remove_tree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare(token: Path | None) -> None:
    """Set the variables that Ray reads, before it is imported. ``token``: the file of a cluster on this
    machine alone; None for a cluster that runs already, whose own variables are the user's.

    Raises R1kitError where Ray was imported before with other settings."""
    wanted = {**ALWAYS, **(ONE_MACHINE if token is not None else {})}
    if "ray" in sys.modules and any(os.environ.get(name) != value for name, value in wanted.items()):
        raise R1kitError(
            "ray was imported before r1kit could have it listen on this machine alone: start the run first, "
            f"or set {', '.join(f'{name}={value}' for name, value in wanted.items())}"
        )
    os.environ.update(wanted)
    if token is None:
        for name in ONE_MACHINE:
            os.environ.pop(name, None)
        return
    os.environ.pop("RAY_AUTH_TOKEN", None)  # it would count more than the file
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


@contextlib.contextmanager
def keeping_signals() -> Iterator[None]:
    """Keep this process's signal handlers, of which Ray replaces that of SIGTERM when it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@functools.cache
def _process_token() -> str:
    """The token of this process's sessions, always the same: Ray's library reads it once in a process."""
    return secrets.token_hex(32)


def _short_folder() -> str:
    """The system's folder for temporary files, or /tmp where the path of that is too long for a socket."""
    return next((name for name in (tempfile.gettempdir(), "/tmp") if len(name) <= LONGEST_FOLDER), "/tmp")
