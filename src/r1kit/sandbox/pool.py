"""The host's side of the sandbox: zygotes, one a core, and the order in which they are asked.

A job that ends because of us (a zygote was killed, the job was killed by nobody of ours, the kernel refused
to lock it in) raises ``WorkerLost`` and is tried again by the caller; a job that ends because of what it ran
is a fact about the program. Time is measured here and by the zygote, never by the job: its processor time
counts, so that a busy machine changes no verdict; a job that sleeps when its time is over by the clock has
had it."""

import array
import atexit
import contextlib
import functools
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError, R1kitError
from r1kit.sandbox import kernel
from r1kit.sandbox.codec import LARGEST_MESSAGE, CodecError
from r1kit.sandbox.confine import visible_paths

TIERS = ("namespaces", "landlock")
UNSAFE = "unsafe-subprocess"
CHOICES = ("auto", *TIERS, UNSAFE)
CHOICE = "R1KIT_SANDBOX"  # environment: auto (default), a tier by name, or unsafe-subprocess
JOBS_PER_ZYGOTE = 1000
START_SECONDS = 60.0
LAST_SECONDS = 1.0  # for a job that has closed its channel to end by itself
LOSSES_TOLD = 3
SECOND_LOOK_SECONDS, WORKED_SECONDS = 0.1, 0.001

# Enters the package without running its __init__ files: a zygote imports nothing that it does not need.
_BOOTSTRAP = """
import sys, types, json
channel, tier, package, visible, modules = json.loads(sys.argv[1])
for inner in ("", ".sandbox", ".tasks", ".tasks.mathematics"):
    name, folder = "r1kit" + inner, package + inner.replace(".", "/")
    sys.modules[name] = module = types.ModuleType(name)
    module.__path__ = [folder]
sys.argv[1:] = []
from r1kit.sandbox.zygote import main
main(channel, tier, visible, modules)
"""


class SandboxError(R1kitError):
    """Programs cannot be run safely here."""


class WorkerLost(Exception):  # noqa: N818 - a fact to act upon
    """A worker ended for a reason that is not the job's."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended: exit code (negative: the signal), processor seconds, and whether it lived until we had
    it killed."""

    code: int
    seconds: float
    ordered: bool = False


class Zygote:
    """One locked-in interpreter that forks jobs; used by one thread at a time."""

    def __init__(self, tier: str, modules: Sequence[str] = ()) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = str(Path(__file__).resolve().parent.parent)
        arguments = json.dumps([theirs.fileno(), tier, package, visible_paths(), list(modules)])
        environment = {
            "PYTHONHASHSEED": "0",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "LC_ALL": "C.UTF-8",
            "HOME": "/tmp",
        }
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-B", "-c", _BOOTSTRAP, arguments], env=environment, cwd="/", stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise WorkerLost(f"the sandbox worker could not be started: {error}") from None
        finally:
            theirs.close()
        self.commands = ours
        self.started = 0
        self.ended: dict[int, Ended] = {}
        self.standings: dict[int, tuple[float, bool]] = {}
        self.forgotten: set[int] = set()
        greeting = self._first_report()
        if "ready" not in greeting:
            self.close()
            if "refused" not in greeting:
                raise WorkerLost("the sandbox worker did not start")
            raise SandboxError(f"the sandbox tier {tier!r} cannot be used here: {greeting['refused']}")

    def _first_report(self) -> dict[str, Any]:
        line = b""
        with contextlib.suppress(ConnectionError):
            line = self.commands.recv(4096) if _readable(self.commands, START_SECONDS) else b""
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
        """End a job, if it has not ended yet, and tell how it did."""
        if job not in self.ended:
            self._order(do="kill", id=job)
        return self.wait(job)

    def end(self, job: int) -> Ended:
        """Tell how a job ended that has closed its channel; it is killed only where it lives on."""
        deadline = time.monotonic() + LAST_SECONDS
        while job not in self.ended and _readable(self.commands, deadline - time.monotonic()):
            self.read_report()
        return self.kill(job)

    def release(self, job: int) -> None:
        """End a job without waiting; nobody will ask how it ended."""
        if self.ended.pop(job, None) is None:
            self.forgotten.add(job)
            self._order(do="kill", id=job)

    def wait(self, job: int, seconds: float = 30.0) -> Ended:
        """Wait for the report of a job's end. Raises WorkerLost where none comes."""
        deadline = time.monotonic() + seconds
        while job not in self.ended:
            if not _readable(self.commands, deadline - time.monotonic()):
                raise WorkerLost("the sandbox worker does not answer")
            self.read_report()
        return self.ended.pop(job)

    def processor_time(self, job: int) -> float:
        """Processor seconds that a job has used."""
        return self.standing(job, "time")[0]

    def standing(self, job: int, order: str = "look") -> tuple[float, bool]:
        """Processor seconds that a job has used, and whether it sleeps; one that has ended does."""
        self._order(do=order, id=job)
        deadline = time.monotonic() + 10.0
        while job not in self.standings and job not in self.ended:
            if not _readable(self.commands, deadline - time.monotonic()):
                raise WorkerLost("the sandbox worker does not answer")
            self.read_report()
        return self.standings.pop(job) if job in self.standings else (self.ended[job].seconds, True)

    def read_report(self) -> None:
        """Take one report from the zygote. Raises WorkerLost at the end of its channel."""
        try:
            line = self.commands.recv(4096)
        except OSError as error:
            raise WorkerLost(str(error)) from None
        if not line:
            raise WorkerLost("the sandbox worker has died")
        report = json.loads(line)
        if report["id"] in self.forgotten and "exit" in report:
            self.forgotten.discard(report["id"])
        elif "exit" in report:
            self.ended[report["id"]] = Ended(
                os.waitstatus_to_exitcode(report["exit"]), report["seconds"], report["ordered"]
            )
        else:
            self.standings[report["id"]] = report["time"], report["asleep"]

    def _order(self, **fields: Any) -> None:
        try:
            self.commands.send(json.dumps(fields).encode())
        except OSError as error:
            raise WorkerLost(f"the sandbox worker is gone: {error}") from None

    def close(self) -> None:
        """End the zygote and everything in it."""
        self.commands.close()
        try:
            self.process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Pool:
    """Zygotes that are started when they are first needed and replaced when they are lost or worn; ``lost``
    counts the former."""

    def __init__(self, tier: str, size: int, modules: Sequence[str] = ()) -> None:
        self.tier = tier
        self.size = size
        self.modules = tuple(modules)
        self.owner = os.getpid()
        self.idle: queue.LifoQueue[Zygote | None] = queue.LifoQueue()  # the warm one first
        self.alive: set[Zygote] = set()
        self.lost = 0
        self.proven = False
        for _ in range(size):
            self.idle.put(None)

    @contextlib.contextmanager
    def zygote(self) -> Iterator[Zygote]:
        """Borrow a zygote; one that was lost on the way is not put back."""
        worker = self.idle.get()
        try:
            if worker is None or worker.started >= JOBS_PER_ZYGOTE:
                if worker is not None:
                    self._drop(worker)
                worker = None
                worker = self._start()
                self.alive.add(worker)
            yield worker
        except WorkerLost as error:
            self._note_loss(str(error))
            if worker is not None:
                self._drop(worker)
            worker = None
            raise
        finally:
            self.idle.put(worker)

    def _start(self) -> Zygote:
        try:
            worker = Zygote(self.tier, self.modules)
        except SandboxError as error:
            if self.proven:  # what worked before is refused for a passing reason
                raise WorkerLost(str(error)) from None
            raise
        self.proven = True
        return worker

    def _note_loss(self, reason: str) -> None:
        self.lost += 1
        if self.lost <= LOSSES_TOLD:
            rest = "; later ones are counted, and told at the end" if self.lost == LOSSES_TOLD else ""
            print(f"r1kit: sandbox worker replaced, its job runs again ({reason}){rest}", file=sys.stderr)

    def _drop(self, worker: Zygote) -> None:
        self.alive.discard(worker)
        worker.close()

    def close(self) -> None:
        """End all zygotes, and tell how many were lost in all. A forked copy of this process must do neither:
        they are its parent's."""
        if os.getpid() == self.owner:
            for worker in list(self.alive):
                self._drop(worker)
            if self.lost > LOSSES_TOLD:
                print(
                    f"r1kit: {self.lost} sandbox workers were lost and replaced; their jobs ran again, "
                    "no verdict depends on it",
                    file=sys.stderr,
                )


@functools.lru_cache(maxsize=4)
def _usable_tier(choice: str) -> str:
    if choice == UNSAFE:
        print(
            "WARNING: programs written by a model run WITHOUT isolation (unsafe-subprocess): they can "
            "read and change your files.",
            file=sys.stderr,
        )
        return choice
    if choice not in CHOICES:
        raise ConfigError(
            f"--sandbox={choice} (or {CHOICE}={choice}): no such tier; choose {', '.join(CHOICES[:-1])} "
            f"or {CHOICES[-1]}"
        )
    refusals = []
    for tier in TIERS if choice == "auto" else (choice,):
        try:
            _start(tier).close()
            return tier
        except (SandboxError, WorkerLost, OSError) as error:
            refusals.append(str(error))
    raise SandboxError(
        "programs written by a model cannot be isolated on this machine:\n  " + "\n  ".join(refusals)
        + f"\nRun on Linux 6.2 or later, or allow user namespaces. At your own risk: --sandbox={UNSAFE}"
        + ("" if choice == "auto" else f"\nOr leave the choice to r1kit: --sandbox=auto (given: {choice})")
    )  # fmt: skip


def _start(tier: str) -> Zygote:
    """Start a zygote to see whether its tier works; one that is lost on the way says nothing about the
    tier."""
    for _ in range(2):
        with contextlib.suppress(WorkerLost):
            return Zygote(tier)
    return Zygote(tier)


def current_tier() -> str:
    """The tier in use: what R1KIT_SANDBOX names, else the strongest that works. Raises SandboxError where
    none does."""
    if sys.platform != "linux" and os.environ.get(CHOICE) != UNSAFE:
        raise SandboxError(
            "programs written by a model can be isolated on Linux only; at your own risk: "
            "--sandbox=unsafe-subprocess"
        )
    return _usable_tier(os.environ.get(CHOICE, "auto"))


_pools: dict[tuple[int, str, tuple[str, ...]], Pool] = {}
_pools_lock = threading.Lock()


def shared_pool(tier: str, modules: Sequence[str] = ()) -> Pool:
    """The process's own pool of a tier, started on first use and ended with the process; a fork gets its
    own."""
    key = (os.getpid(), tier, tuple(modules))
    with _pools_lock:
        if key not in _pools:
            _pools[key] = Pool(tier, max(1, len(os.sched_getaffinity(0))), modules)
            atexit.register(_pools[key].close)
        return _pools[key]


class Channel:
    """A stream of messages to and from a job, with a deadline on every wait."""

    def __init__(self, zygote: Zygote) -> None:
        self.zygote = zygote
        self.ours, self.theirs = socket.socketpair()
        self.buffer = bytearray()
        self.locked_in = False

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()

    def hand_over(self) -> None:
        """Close the job's end here, once it has it."""
        self.theirs.close()

    def send(self, *messages: bytes) -> None:
        """Send messages. A job that does not read loses them, and is told apart by its silence."""
        rest = memoryview(b"".join(len(message).to_bytes(4, "big") + message for message in messages))
        deadline = time.monotonic() + 5.0
        with contextlib.suppress(OSError):
            while rest and _ready(self.ours, select.POLLOUT, deadline - time.monotonic()):
                rest = rest[self.ours.send(rest, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]

    def receive(self, job: int, seconds: float, used: float = 0.0, judge: int | None = None) -> bytes | None:
        """Receive a message of a job that may use ``seconds`` of processor time more than ``used``; None:
        time is over.

        Where the message comes from a ``judge`` who calls the job, the job does not sleep while the judge
        works. Raises EOFError when the job has closed the channel or ended, CodecError for what is no
        message, WorkerLost for a job that could not be locked in and thus has run nothing."""
        if not self.locked_in:
            try:
                greeting = self._next(Watch(self.zygote, job, seconds, used, judge))
            except EOFError:
                greeting = None
            self._note_lock(greeting == b"")
        return self._next(Watch(self.zygote, job, seconds, used, judge))

    def check_lock(self) -> None:
        """Raise WorkerLost where a job that has ended could not be locked in. For jobs that send nothing
        else."""
        if not self.locked_in:
            self._note_lock(_readable(self.ours, 0) and self.ours.recv(4, socket.MSG_DONTWAIT) == bytes(4))

    def _note_lock(self, locked_in: bool) -> None:
        self.locked_in = locked_in
        if not locked_in:
            raise WorkerLost("the job could not be locked in")

    def _next(self, watch: "Watch") -> bytes | None:
        buffer = self.buffer
        deadline = time.monotonic() + watch.seconds
        while True:
            need = 4 if len(buffer) < 4 else 4 + int.from_bytes(buffer[:4], "big")
            if need > LARGEST_MESSAGE + 4:
                raise CodecError(f"a message of {need} bytes; {LARGEST_MESSAGE} are allowed")
            if len(buffer) >= 4 and len(buffer) >= need:
                message = bytes(buffer[4:need])
                del buffer[:need]
                return message
            if _readable(self.ours, deadline - time.monotonic()):
                try:
                    piece = self.ours.recv(1 << 16 if need < 1 << 16 else 1 << 20, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue
                except OSError:
                    piece = b""
                if not piece:
                    raise EOFError("the job has closed its channel")
                buffer += piece
            else:
                left = watch.look()
                if left <= 0:
                    return None
                deadline = time.monotonic() + left


class Watch:
    """When the time of a job is over: ``seconds`` of processor time more than ``used``.

    By the clock a job has ``patience`` on a busy machine; one that sleeps when ``seconds`` have passed, and
    still does at a second look without having worked in between, has none."""

    def __init__(
        self, zygote: Zygote, job: int, seconds: float, used: float = 0.0, judge: int | None = None
    ) -> None:
        self.zygote = zygote
        self.jobs = (job,) if judge is None else (job, judge)
        self.seconds = seconds
        self.used = used
        self.begun = time.monotonic()
        self.asleep_at: list[float] = []  # the processor times of a first look

    def look(self) -> float:
        """How long to wait until the next look; 0 when time is over."""
        standings = [self.zygote.standing(job) for job in self.jobs]
        times = [used for used, _ in standings]
        passed = time.monotonic() - self.begun
        left = min(self.seconds - (times[0] - self.used), patience(self.seconds) - passed)
        if left <= 0:
            return 0.0
        if passed < self.seconds or not all(asleep for _, asleep in standings):
            self.asleep_at = []
            return max(left, 0.01)
        if (
            self.asleep_at
            and max(now - then for now, then in zip(times, self.asleep_at, strict=True)) < WORKED_SECONDS
        ):
            return 0.0
        self.asleep_at = times
        return SECOND_LOOK_SECONDS


def patience(seconds: float) -> float:
    """How long a job with ``seconds`` of processor time may take by the wall clock where it is not its own
    fault."""
    return 4 * seconds + 1


def _readable(channel: socket.socket, seconds: float) -> bool:
    return _ready(channel, select.POLLIN, seconds)


def _ready(channel: socket.socket, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(channel, event)
    return bool(poll.poll(max(0.0, seconds) * 1000))


__all__ = [
    "Channel",
    "Ended",
    "Pool",
    "SandboxError",
    "Watch",
    "WorkerLost",
    "Zygote",
    "current_tier",
    "kernel",
    "shared_pool",
]
