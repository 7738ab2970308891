"""Processes that ask math-verify whether two answers are the same, and are killed when they take too long.

sympy may compute for minutes on a line of text and cannot be interrupted from within. So a checker is a
locked-in process, forked from a zygote that has math-verify loaded, and a thread of ours looks after each: it
hands over questions, measures processor time, kills and replaces. Who asks waits for a future, never for a
process; so an answer is back within ``ANSWER_SECONDS``, from any thread and on any machine, and what is late
is a verdict ``failed``. Whoever would rather wait than fail says so (``patient``): then only the processor
time of the comparison itself counts, and neither a busy machine nor a killed checker changes a verdict."""

import os
import queue
import threading
import time
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace

from r1kit.sandbox.codec import CodecError, decode, encode
from r1kit.sandbox.pool import UNSAFE, Channel, SandboxError, WorkerLost, Zygote, current_tier
from r1kit.types import Verdict

COMPARING_SECONDS = 0.7  # processor time of one comparison
ANSWER_SECONDS = 0.9  # by the clock, for who cannot wait
PATIENT_SECONDS = 60.0  # by the clock, for who can wait
ATTEMPTS = 10
FEWEST = 2  # while one is replaced, the other answers
MEMORY_MB = 1024
ANSWERS_PER_JOB = 2000
LOOKING_AFTER_SECONDS = 0.25
MODULES = ("r1kit.tasks.mathematics.math_verify",)

_VERDICTS = {
    "same": Verdict("correct"),
    "different": Verdict("wrong", "another value"),
    "answer": Verdict("wrong", "the answer cannot be read"),
    "gold": Verdict("unverifiable", "the gold answer cannot be read"),
    "timeout": Verdict(
        "failed", f"timeout: math-verify did not finish within {COMPARING_SECONDS} s of processor time"
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """Two answers to compare; the future is told which word of ``_VERDICTS`` describes them."""

    gold: str
    answer: str
    told: "Future[str]"
    attempt: int = 1


class Checker:
    """A zygote with math-verify loaded, and the job that answers in it. Used by one thread. Every method may
    raise WorkerLost."""

    def __init__(self) -> None:
        self.zygote = Zygote(_tier(), MODULES)
        self.renew()

    def renew(self) -> None:
        """Start a job, and ask it something, so that the next question finds it at work."""
        self.channel, self.answered = Channel(self.zygote), 0
        self.job = self.zygote.spawn("mathematics", [self.channel.theirs.fileno()], MEMORY_MB, 10_000)
        self.channel.hand_over()
        self.compare("1", "1")

    def compare(self, gold: str, answer: str) -> str:
        """Compare two answers: a word of ``_VERDICTS``. After "timeout" the job is gone and needs to be
        renewed."""
        self.answered += 1
        used = self.zygote.processor_time(self.job)
        self.channel.send(encode([gold, answer]))
        deadline = time.monotonic() + PATIENT_SECONDS
        try:
            while (message := self.channel.receive(self.job, COMPARING_SECONDS, used)) is None:
                # A busy machine may not have let it work yet.
                if (
                    self.zygote.processor_time(self.job) - used >= COMPARING_SECONDS
                    or time.monotonic() > deadline
                ):
                    return "timeout"
            word = decode(message)
        except (EOFError, CodecError) as error:
            raise WorkerLost(str(error)) from None
        if not isinstance(word, str) or word not in _VERDICTS:
            raise WorkerLost(f"no answer: {word!r}")
        return word

    def end_job(self) -> None:
        """Kill the job."""
        self.channel.ours.close()
        self.zygote.kill(self.job)

    def is_alive(self) -> bool:
        """Tell whether job and zygote live, as far as that shows."""
        return self.zygote.process.poll() is None

    def close(self) -> None:
        """End it all."""
        self.channel.ours.close()
        self.zygote.close()


class Checkers:
    """The checkers of one process, one a core, started in the background one after the other, and the
    questions that wait for them."""

    def __init__(self, size: int) -> None:
        self.questions: queue.Queue[Question] = queue.Queue()
        self.alive: set[Checker] = set()
        self.ready = threading.Event()
        self.trouble = "math-verify is still being loaded"
        self.starting = threading.Lock()
        self.lost = 0
        self.threads = [
            threading.Thread(target=self.look_after_one, name=f"r1kit-checker-{n}", daemon=True)
            for n in range(size)
        ]
        for thread in self.threads:
            thread.start()

    def ask(self, gold: str, answer: str) -> "Future[str]":
        """Put a question; the future may be cancelled as long as nobody has begun to answer."""
        told: Future[str] = Future()
        self.questions.put(Question(gold, answer, told))
        return told

    def look_after_one(self) -> None:
        """Answer questions with one checker and replace it when it is lost, for ever."""
        checker = self.start()
        while True:
            try:
                question = self.questions.get(timeout=LOOKING_AFTER_SECONDS)
            except queue.Empty:
                if not checker.is_alive():
                    self.lost += 1
                    checker = self.replace(checker)
                continue
            if question.attempt > 1 or question.told.set_running_or_notify_cancel():
                checker = self.answer(question, checker)

    def answer(self, question: Question, checker: Checker) -> Checker:
        """Answer one question, and return the checker for the next one."""
        try:
            word = checker.compare(question.gold, question.answer)
        except (WorkerLost, OSError) as error:
            self.lost += 1
            if question.attempt < ATTEMPTS:
                self.questions.put(replace(question, attempt=question.attempt + 1))
            else:
                question.told.set_exception(WorkerLost(f"lost {ATTEMPTS} times: {error}"))
            return self.replace(checker)
        question.told.set_result(word)
        return self.replace(checker) if word == "timeout" or checker.answered >= ANSWERS_PER_JOB else checker

    def start(self) -> Checker:
        """Start a checker, again and again until it lives."""
        with self.starting:
            while True:
                try:
                    checker = Checker()
                except (WorkerLost, SandboxError, OSError) as error:
                    self.trouble = f"math-verify cannot be started: {error}"
                    time.sleep(0.5)
                else:
                    self.alive.add(checker)
                    self.ready.set()
                    return checker

    def replace(self, checker: Checker) -> Checker:
        """A fresh job of the same zygote, or a fresh zygote where that one is gone."""
        try:
            checker.end_job()
            checker.renew()
        except (WorkerLost, OSError):
            self.alive.discard(checker)
            checker.close()
            return self.start()
        return checker


def _tier() -> str:
    """The sandbox in use; where there is none, a plain process will do, for what runs in it is ours."""
    try:
        return current_tier()
    except SandboxError:
        return UNSAFE


_checkers: dict[int, Checkers] = {}
_lock = threading.Lock()


def checkers() -> Checkers:
    """The checkers of this process (a fork gets its own), which start in the background on the first call."""
    with _lock:
        if os.getpid() not in _checkers:
            _checkers[os.getpid()] = Checkers(max(FEWEST, len(os.sched_getaffinity(0))))
        return _checkers[os.getpid()]


def wait_until_ready(seconds: float = PATIENT_SECONDS) -> bool:
    """Start the checkers and wait for the first; False where it is not ready by then."""
    return checkers().ready.wait(seconds)


def compare_elsewhere(gold: str, answer: str, deadline: float, patient: bool = False) -> Verdict:
    """Judge an answer by math-verify, by ``deadline`` (of time.monotonic), or, ``patient``, as soon as a
    checker has told.

    ``failed``: the comparison itself took too long ("timeout"), nobody told in time ("late"), or checkers
    died again and again ("lost")."""
    asked = checkers()
    told = asked.ask(gold, answer)
    try:
        return _VERDICTS[told.result(PATIENT_SECONDS if patient else max(0.0, deadline - time.monotonic()))]
    except (NotYet, CancelledError):
        told.cancel()
        why = (
            f"no checker told within {ANSWER_SECONDS} s; check_math_batch waits for them"
            if asked.ready.is_set()
            else f"{asked.trouble}; ask again"
        )
        return Verdict("failed", f"late: {why}")
    except WorkerLost as error:
        return Verdict("failed", f"lost: {error}")
