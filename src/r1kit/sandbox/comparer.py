"""Workers that compare mathematical answers with math-verify, and are killed when they take too long.

A worker is a job of a zygote that has math-verify loaded, so a new one costs a fork. It answers one pair after the other; a pair
that takes longer than ``SECONDS`` costs the worker its life and the pair its verdict (``failed``: nobody can tell), nothing else.
"""

import os
import queue
import threading
from dataclasses import dataclass, field

from r1kit.sandbox.codec import CodecError, decode, encode
from r1kit.sandbox.pool import UNSAFE, Channel, SandboxError, WorkerLost, Zygote, current_tier
from r1kit.types import Verdict

SECONDS = 0.8
ATTEMPTS = 3
MEMORY_MB = 1024
ANSWERS_PER_WORKER = 2000
MODULES = ("r1kit.tasks.equivalence",)


@dataclass(eq=False)
class Worker:
    """One zygote and the job that answers in it."""

    zygote: Zygote
    channel: Channel | None = None
    job: int = 0
    answered: int = 0

    def ask(self, gold: str, answer: str) -> str | None:
        """Compare a pair; None when time is over. Raises WorkerLost where the worker ended by itself."""
        if self.channel is None or self.answered >= ANSWERS_PER_WORKER:
            self.renew()
        assert self.channel is not None
        self.answered += 1
        used = self.zygote.processor_time(self.job)
        self.channel.send(encode([gold, answer]))
        try:
            message = self.channel.receive(self.job, SECONDS, used)
            word = None if message is None else decode(message)
        except (EOFError, CodecError) as error:
            self.stop()
            raise WorkerLost(str(error)) from None
        if word is None:
            self.stop()
        return word if isinstance(word, str) else None

    def renew(self) -> None:
        """Replace the job by a fresh one."""
        self.stop()
        channel = Channel(self.zygote)
        self.job = self.zygote.spawn("mathematics", [channel.theirs.fileno()], MEMORY_MB, 10_000)
        channel.hand_over()
        self.channel, self.answered = channel, 0

    def stop(self) -> None:
        """End the job, if there is one."""
        if self.channel is not None:
            self.channel.ours.close()
            self.channel = None
            self.zygote.kill(self.job)


@dataclass
class Workers:
    """The workers of one process, one a core, each started when it is first needed."""

    size: int
    owner: int = field(default_factory=os.getpid)
    idle: "queue.LifoQueue[Worker | None]" = field(default_factory=queue.LifoQueue)  # the warm one first
    alive: set[Worker] = field(default_factory=set)

    def __post_init__(self) -> None:
        for _ in range(self.size):
            self.idle.put(None)

    def ask(self, gold: str, answer: str) -> str | None:
        """Compare a pair on a free worker."""
        worker = self.idle.get()
        try:
            if worker is None:
                worker = Worker(Zygote(_tier(), MODULES))
                self.alive.add(worker)
            return worker.ask(gold, answer)
        except WorkerLost:
            if worker is not None:
                self.alive.discard(worker)
                worker.zygote.close()
            worker = None
            raise
        finally:
            self.idle.put(worker)


def _tier() -> str:
    """The sandbox in use; where there is none, a plain process will do, for what runs in it is ours."""
    try:
        return current_tier()
    except SandboxError:
        return UNSAFE


_workers: dict[int, Workers] = {}
_lock = threading.Lock()


def compare_elsewhere(gold: str, answer: str) -> Verdict:
    """Judge an answer by math-verify in a worker; safe from any thread, and done within a second once a worker is warm."""
    with _lock:
        workers = _workers.setdefault(os.getpid(), Workers(max(1, len(os.sched_getaffinity(0)))))
    lost = ""
    for _ in range(ATTEMPTS):
        try:
            word = workers.ask(gold, answer)
        except WorkerLost as error:
            lost = str(error)
            continue
        if word is None:
            return Verdict("failed", f"math-verify did not finish within {SECONDS} s")
        return {
            "same": Verdict("correct"),
            "different": Verdict("wrong", "another value"),
            "answer": Verdict("wrong", "the answer cannot be read"),
            "gold": Verdict("unverifiable", "the gold answer cannot be read"),
        }[word]
    return Verdict("failed", f"the comparing worker was lost {ATTEMPTS} times: {lost}")


__all__ = ["compare_elsewhere"]
