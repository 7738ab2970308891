"""Processes that ask math-verify whether two answers are the same, and are killed when they take too long.

sympy may compute for minutes on one line of text and cannot be interrupted from inside. So a checker is a
confined process, forked from a zygote that has math-verify loaded, with a thread of this process that sends
it questions, measures its processor time, kills and replaces it. The caller waits for a future, never for a
process: it gets a verdict within ``ANSWER_SECONDS``, from any thread and on any machine; an answer that comes
later is a verdict ``failed``. A ``patient`` caller waits instead: then only the processor time of the
comparison counts, and neither a busy machine nor a killed checker changes a verdict."""

import os
import queue
import threading
import time
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace

from r1kit.sandbox.channel import Channel
from r1kit.sandbox.codec import CodecError, decode, encode
from r1kit.sandbox.pool import UNSAFE, current_tier
from r1kit.sandbox.zygote_handle import SandboxError, WorkerLost, ZygoteHandle
from r1kit.types import Verdict

COMPARING_SECONDS = 0.7  # processor time of one comparison
ANSWER_SECONDS = 0.9  # by the clock, for a caller that cannot wait
PATIENT_SECONDS = 60.0  # by the clock, for a patient one
ATTEMPTS = 10
FEWEST = 2  # one answers while the other is replaced
MEMORY_MB = 1024
ANSWERS_PER_JOB = 2000
POLLING_SECONDS = 0.25  # how often a thread without questions checks that its checker is alive
SERVICE = "r1kit.tasks.mathematics.math_verify:compare"  # the function that the confined process serves

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
    """Two answers to compare; ``word`` becomes the key of ``_VERDICTS`` that describes them."""

    gold: str
    answer: str
    word: "Future[str]"
    attempt: int = 1


class Checker:
    """A zygote with math-verify loaded, and its job that answers. Used by one thread. Every method may raise
    WorkerLost."""

    def __init__(self) -> None:
        self.zygote = ZygoteHandle(_tier(), [SERVICE])
        self.renew()

    def renew(self) -> None:
        """Start a job and ask it one question, so that it is running when the next one comes."""
        self.channel, self.answered = Channel(self.zygote), 0
        self.job = self.zygote.spawn(SERVICE, [self.channel.theirs.fileno()], MEMORY_MB, 10_000)
        self.channel.close_job_end()
        self.compare("1", "1")

    def compare(self, gold: str, answer: str) -> str:
        """Compare two answers; return a key of ``_VERDICTS``. After "timeout" call ``renew``: the job is
        stuck."""
        self.answered += 1
        used = self.zygote.processor_time(self.job)
        self.channel.send(encode([gold, answer]))
        deadline = time.monotonic() + PATIENT_SECONDS
        try:
            while (message := self.channel.receive(self.job, COMPARING_SECONDS, used)) is None:
                # On a busy machine it may not have run yet.
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
        """Whether the zygote is alive."""
        return self.zygote.process.poll() is None

    def close(self) -> None:
        """End the zygote and its job."""
        self.channel.ours.close()
        self.zygote.close()


class Checkers:
    """The checkers of this process, one a core, started in the background one after the other, and the
    questions that wait for them."""

    def __init__(self, size: int) -> None:
        self.questions: queue.Queue[Question] = queue.Queue()
        self.alive: set[Checker] = set()
        self.ready = threading.Event()
        self.trouble = "math-verify is still being loaded"
        self.starting = threading.Lock()
        self.lost = 0
        self.threads = [
            threading.Thread(target=self.run_one, name=f"r1kit-checker-{n}", daemon=True) for n in range(size)
        ]
        for thread in self.threads:
            thread.start()

    def ask(self, gold: str, answer: str) -> "Future[str]":
        """Queue a question; the future can be cancelled until a checker begins to answer."""
        word: Future[str] = Future()
        self.questions.put(Question(gold, answer, word))
        return word

    def run_one(self) -> None:
        """Answer questions with one checker, without end; replace it when it is lost."""
        checker = self.start()
        while True:
            try:
                question = self.questions.get(timeout=POLLING_SECONDS)
            except queue.Empty:
                if not checker.is_alive():
                    self.lost += 1
                    checker = self.replace(checker)
                continue
            if question.attempt > 1 or question.word.set_running_or_notify_cancel():
                checker = self.answer(question, checker)

    def answer(self, question: Question, checker: Checker) -> Checker:
        """Answer one question; return the checker for the next one."""
        try:
            word = checker.compare(question.gold, question.answer)
        except (WorkerLost, OSError) as error:
            self.lost += 1
            if question.attempt < ATTEMPTS:
                self.questions.put(replace(question, attempt=question.attempt + 1))
            else:
                question.word.set_exception(WorkerLost(f"lost {ATTEMPTS} times: {error}"))
            return self.replace(checker)
        question.word.set_result(word)
        return self.replace(checker) if word == "timeout" or checker.answered >= ANSWERS_PER_JOB else checker

    def start(self) -> Checker:
        """Start a checker; try until one starts."""
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
        """Return a checker with a new job of the same zygote, or with a new zygote if that one is gone."""
        try:
            checker.end_job()
            checker.renew()
        except (WorkerLost, OSError):
            self.alive.discard(checker)
            checker.close()
            return self.start()
        return checker


def _tier() -> str:
    """The tier in use; without one a plain process will do, because only trusted code runs in it."""
    try:
        return current_tier()
    except SandboxError:
        return UNSAFE


_checkers: dict[int, Checkers] = {}
_lock = threading.Lock()


def checkers() -> Checkers:
    """The checkers of this process (a fork gets its own); they start in the background on the first call."""
    with _lock:
        if os.getpid() not in _checkers:
            _checkers[os.getpid()] = Checkers(max(FEWEST, len(os.sched_getaffinity(0))))
        return _checkers[os.getpid()]


def wait_until_ready(seconds: float = PATIENT_SECONDS) -> bool:
    """Start the checkers and wait for the first one; False if it is not ready in time."""
    return checkers().ready.wait(seconds)


def compare_elsewhere(gold: str, answer: str, deadline: float, patient: bool = False) -> Verdict:
    """Judge an answer by math-verify before ``deadline`` (of time.monotonic); ``patient``: wait for a
    checker.

    ``failed``: the comparison itself took too long ("timeout"), no checker answered in time ("late"), or
    checkers died again and again ("lost")."""
    pool = checkers()
    word = pool.ask(gold, answer)
    try:
        return _VERDICTS[word.result(PATIENT_SECONDS if patient else max(0.0, deadline - time.monotonic()))]
    except (NotYet, CancelledError):
        word.cancel()
        why = (
            f"no checker answered within {ANSWER_SECONDS} s; check_math_batch waits for them"
            if pool.ready.is_set()
            else f"{pool.trouble}; try again"
        )
        return Verdict("failed", f"late: {why}")
    except WorkerLost as error:
        return Verdict("failed", f"lost: {error}")
