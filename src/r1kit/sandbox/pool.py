"""Zygotes, one a core, shared by all jobs of a process; and the choice of the isolation tier."""

import atexit
import contextlib
import functools
import os
import queue
import sys
import threading
from collections.abc import Iterator

from r1kit.config import ConfigError
from r1kit.sandbox.zygote_handle import SandboxError, WorkerLost, ZygoteHandle

TIERS = ("namespaces", "landlock")
UNSAFE = "unsafe-subprocess"
CHOICES = ("auto", *TIERS, UNSAFE)
CHOICE = "R1KIT_SANDBOX"  # environment: auto (default), a tier by name, or unsafe-subprocess
JOBS_PER_ZYGOTE = 1000
LOSSES_REPORTED = 3


class Pool:
    """Zygotes, started when first needed, and replaced when lost or after JOBS_PER_ZYGOTE jobs; ``lost``
    counts the lost ones."""

    def __init__(self, tier: str, size: int) -> None:
        self.tier = tier
        self.size = size
        self.owner = os.getpid()
        self.idle: queue.LifoQueue[ZygoteHandle | None] = queue.LifoQueue()  # the one used last comes first
        self.alive: set[ZygoteHandle] = set()
        self.lost = 0
        self.proven = False
        for _ in range(size):
            self.idle.put(None)

    @contextlib.contextmanager
    def zygote(self) -> Iterator[ZygoteHandle]:
        """Lend a zygote; one that is lost meanwhile is not put back."""
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

    def _start(self) -> ZygoteHandle:
        try:
            worker = ZygoteHandle(self.tier)
        except SandboxError as error:
            if self.proven:  # it worked before, so the reason is a passing one
                raise WorkerLost(str(error)) from None
            raise
        self.proven = True
        return worker

    def _note_loss(self, reason: str) -> None:
        self.lost += 1
        if self.lost <= LOSSES_REPORTED:
            rest = "; later ones are counted and reported at the end" if self.lost == LOSSES_REPORTED else ""
            print(f"r1kit: sandbox worker replaced, its job runs again ({reason}){rest}", file=sys.stderr)

    def _drop(self, worker: ZygoteHandle) -> None:
        self.alive.discard(worker)
        worker.close()

    def close(self) -> None:
        """End all zygotes, and print how many were lost in all. A forked copy of this process does neither:
        the zygotes are its parent's."""
        if os.getpid() == self.owner:
            for worker in list(self.alive):
                self._drop(worker)
            if self.lost > LOSSES_REPORTED:
                print(
                    f"r1kit: {self.lost} sandbox workers were lost and replaced; their jobs ran again, "
                    "no verdict depends on it",
                    file=sys.stderr,
                )


@functools.lru_cache(maxsize=4)
def usable_tier(choice: str) -> str:
    """The tier that a value of R1KIT_SANDBOX leads to here. Raises SandboxError if none works, ConfigError
    for an unknown name."""
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
            _start_once_more(tier).close()
            return tier
        except (SandboxError, WorkerLost, OSError) as error:
            refusals.append(str(error))
    raise SandboxError(
        "programs written by a model cannot be isolated on this machine:\n  " + "\n  ".join(refusals)
        + f"\nRun on Linux 6.2 or later, or allow user namespaces. At your own risk: --sandbox={UNSAFE}"
        + ("" if choice == "auto" else f"\nOr leave the choice to r1kit: --sandbox=auto (given: {choice})")
    )  # fmt: skip


def _start_once_more(tier: str) -> ZygoteHandle:
    """Start a zygote to see whether its tier works, up to three times: a lost one says nothing about the
    tier."""
    for _ in range(2):
        with contextlib.suppress(WorkerLost):
            return ZygoteHandle(tier)
    return ZygoteHandle(tier)


def current_tier() -> str:
    """The tier in use: what R1KIT_SANDBOX names, else the strongest that works. Raises SandboxError if none
    does."""
    if sys.platform != "linux" and os.environ.get(CHOICE) != UNSAFE:
        raise SandboxError(
            "programs written by a model can be isolated on Linux only; at your own risk: "
            "--sandbox=unsafe-subprocess"
        )
    return usable_tier(os.environ.get(CHOICE, "auto"))


_pools: dict[tuple[int, str], Pool] = {}
_pools_lock = threading.Lock()


def shared_pool(tier: str) -> Pool:
    """This process's pool of a tier, started on first use and ended with the process; a fork gets its own."""
    key = (os.getpid(), tier)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = Pool(tier, max(1, len(os.sched_getaffinity(0))))
            atexit.register(_pools[key].close)
        return _pools[key]
