"""The host's side of one zygote: start it, order jobs from it, learn how they ended.

A job that ends because of us (its zygote died, something outside killed it, the kernel refused to confine it)
raises ``WorkerLost``; the caller tries it again. A job that ends because of what it ran is a fact about the
program. Time is measured here and by the zygote, never by the job.
"""

import array
import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r1kit.config import R1kitError
from r1kit.sandbox.confine import visible_paths
from r1kit.sandbox.scratch import remove_tree

START_SECONDS = 60.0
LAST_SECONDS = 1.0  # for a job that has closed its channel to end by itself

# Enters the packages without running their __init__ files: a zygote imports nothing that it does not need.
_BOOTSTRAP = """
import sys, types, json
channel, tier, packages, visible, services, scratch = json.loads(sys.argv[1])
for name, folders in packages:
    sys.modules[name] = module = types.ModuleType(name)
    module.__path__ = folders
sys.argv[1:] = []
from r1kit.sandbox.zygote import main
main(channel, tier, visible, services, scratch)
"""


class SandboxError(R1kitError):
    """Programs cannot be run safely here."""


class WorkerLost(Exception):  # noqa: N818 - a fact to act upon
    """A worker ended for a reason that is not the job's."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended: exit code (negative: the signal), processor seconds, and whether it was still alive
    when it was killed as ordered."""

    code: int
    seconds: float
    ordered: bool = False


def died_by_itself(ended: Ended, backstop_s: float) -> Literal["timeout", "signal"]:
    """Which kind of end by a signal it was; ``backstop_s`` is when the kernel ends the job. Raises WorkerLost
    if neither the job nor we ended it."""
    killed = ended.code == -signal.SIGKILL
    if ended.code == -signal.SIGXCPU or (killed and ended.seconds >= backstop_s):
        return "timeout"
    if killed and not ended.ordered:
        raise WorkerLost("something outside killed the job")
    return "signal"


class ZygoteHandle:
    """A confined interpreter that forks jobs; used by one thread at a time.

    ``services`` are trusted functions of this installation, "package.module:function", that jobs may serve
    (``spawn`` with that role). The zygote imports them, and calls the module's ``warm_up``, before it
    confines itself; later nothing can add one."""

    def __init__(self, tier: str, services: Sequence[str] = ()) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        packages = _packages(["r1kit.sandbox.zygote", *(service.partition(":")[0] for service in services)])
        self.folders = ""  # the folder of the jobs' scratch folders; in namespaces each has a /tmp of its own
        try:
            self.folders = "" if tier == "namespaces" else tempfile.mkdtemp(prefix="r1kit-sandbox-")
            asked = [theirs.fileno(), tier, packages, visible_paths(), list(services), self.folders]
            self.process = _start(json.dumps(asked), theirs.fileno())
        except OSError as error:
            ours.close()
            self._remove_folders()
            raise WorkerLost(f"the sandbox worker could not be started: {error}") from None
        finally:
            theirs.close()
        self.commands = ours
        self.started = 0
        self.ended: dict[int, Ended] = {}
        self._usages: dict[int, tuple[float, bool]] = {}
        self._released: set[int] = set()
        greeting = self._first_report()
        if "ready" not in greeting:
            self.close()
            if "refused" not in greeting:
                raise WorkerLost("the sandbox worker did not start")
            raise SandboxError(f"the sandbox tier {tier!r} cannot be used here: {greeting['refused']}")

    def _first_report(self) -> dict[str, Any]:
        line = b""
        with contextlib.suppress(ConnectionError):
            line = self.commands.recv(4096) if readable(self.commands, START_SECONDS) else b""
        report: dict[str, Any] = json.loads(line) if line else {}
        return report

    def spawn(self, role: str, descriptors: Sequence[int], memory_mb: int, seconds: float) -> int:
        """Start a job that owns ``descriptors`` (they may be closed here afterwards); return its number."""
        self.started += 1
        order = {
            "do": "spawn",
            "id": self.started,
            "role": role,
            "memory": memory_mb << 20,
            "seconds": int(seconds) + 2,
        }
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]
        try:
            self.commands.sendmsg([json.dumps(order).encode()], ancillary)
        except OSError as error:
            raise WorkerLost(f"the sandbox worker is gone: {error}") from None
        return self.started

    def kill(self, job: int) -> Ended:
        """Kill a job if it has not ended yet; return how it ended."""
        if job not in self.ended:
            self._order(do="kill", id=job)
        return self.wait(job)

    def end(self, job: int) -> Ended:
        """Return how a job ended that has closed its channel; kill it if it does not end by itself."""
        deadline = time.monotonic() + LAST_SECONDS
        while job not in self.ended and readable(self.commands, deadline - time.monotonic()):
            self.read_report()
        return self.kill(job)

    def release(self, job: int) -> None:
        """Kill a job without waiting; how it ended is not kept."""
        if self.ended.pop(job, None) is None:
            self._released.add(job)
            self._order(do="kill", id=job)

    def wait(self, job: int, seconds: float = 30.0) -> Ended:
        """Wait for the report of a job's end. Raises WorkerLost if none arrives in time."""
        deadline = time.monotonic() + seconds
        while job not in self.ended:
            if not readable(self.commands, deadline - time.monotonic()):
                raise WorkerLost("the sandbox worker does not answer")
            self.read_report()
        return self.ended.pop(job)

    def processor_time(self, job: int) -> float:
        """Processor seconds that a job has used."""
        return self._ask("time", job)[0]

    def usage(self, job: int) -> tuple[float, bool]:
        """Processor seconds that a job has used, and whether it is asleep (a job that has ended counts as
        asleep)."""
        return self._ask("usage", job)

    def _ask(self, order: str, job: int) -> tuple[float, bool]:
        self._order(do=order, id=job)
        deadline = time.monotonic() + 10.0
        while job not in self._usages and job not in self.ended:
            if not readable(self.commands, deadline - time.monotonic()):
                raise WorkerLost("the sandbox worker does not answer")
            self.read_report()
        return self._usages.pop(job) if job in self._usages else (self.ended[job].seconds, True)

    def read_report(self) -> None:
        """Take one report from the zygote. Raises WorkerLost at the end of its channel."""
        try:
            line = self.commands.recv(4096)
        except OSError as error:
            raise WorkerLost(str(error)) from None
        if not line:
            raise WorkerLost("the sandbox worker has died")
        report = json.loads(line)
        if report["id"] in self._released and "exit" in report:
            self._released.discard(report["id"])
        elif "exit" in report:
            self.ended[report["id"]] = Ended(
                os.waitstatus_to_exitcode(report["exit"]), report["seconds"], report["ordered"]
            )
        else:
            self._usages[report["id"]] = report["time"], report["asleep"]

    def _order(self, **fields: Any) -> None:
        try:
            self.commands.send(json.dumps(fields).encode())
        except OSError as error:
            raise WorkerLost(f"the sandbox worker is gone: {error}") from None

    def close(self) -> None:
        """End the zygote and all its jobs."""
        self.commands.close()
        try:
            self.process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._remove_folders()

    def _remove_folders(self) -> None:
        if self.folders:
            remove_tree(self.folders)


def _packages(modules: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The packages around these modules, outermost first, and the folders that each looks for modules in."""
    found: dict[str, list[str]] = {"r1kit": [str(Path(__file__).resolve().parent.parent)]}
    for module in modules:
        parts = module.split(".")
        for length in range(1, len(parts)):
            package = ".".join(parts[:length])
            if package not in found:
                spec = importlib.util.find_spec(package)
                found[package] = list(spec.submodule_search_locations or ()) if spec else []
    return list(found.items())


def _start(arguments: str, descriptor: int) -> "subprocess.Popen[bytes]":
    """Start the interpreter of a zygote, with an almost empty environment. Raises OSError."""
    environment = {
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
        "HOME": "/tmp",
    }
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-B", "-c", _BOOTSTRAP, arguments],
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[descriptor],
        start_new_session=True,
    )


def readable(channel: socket.socket, seconds: float) -> bool:
    """Wait until there is something to read (or the end), for at most ``seconds``."""
    return ready(channel, select.POLLIN, seconds)


def ready(channel: socket.socket, event: int, seconds: float) -> bool:
    """Wait until poll(2) reports ``event``, for at most ``seconds``."""
    poll = select.poll()
    poll.register(channel, event)
    return bool(poll.poll(max(0.0, seconds) * 1000))
