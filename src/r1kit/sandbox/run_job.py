"""Run one job in a zygote, by kind of tests: ask, wait within the limits, compare, give the reason.

A job that something else killed (``WorkerLost``) has no verdict. A job that ends, falls silent or sends
nonsense because of what it ran is wrong. Nothing that a program can do by itself may look like the former.
"""

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1kit.sandbox.channel import Channel
from r1kit.sandbox.checkers import judge_output
from r1kit.sandbox.codec import CodecError, decode, encode
from r1kit.sandbox.comparison import matches, same_output
from r1kit.sandbox.jobs import Job
from r1kit.sandbox.scripts import BYTE_ORDER_MARK, Finished, Script, run_to_end
from r1kit.sandbox.zygote_handle import Ended, WorkerLost, ZygoteHandle, died_by_itself
from r1kit.types import Outcome, Verdict

SENT_AT_ONCE = 64 << 10  # bytes that fit into a socket's buffer

Judgement = tuple[Outcome, str, str, tuple[str, ...]]  # outcome, reason, detail, per-test results
Right = Callable[[Mapping[str, Any], Any], bool]


def matches_expected(test: Mapping[str, Any], data: Any) -> bool:
    """Whether a result is what the test expects, or another of the values that it accepts."""
    return any(
        matches(value, data, test.get("tolerance"), bool(test.get("as_json")))
        for value in (test["expected"], *test.get("accepted", ()))
    )


def run_functions(job: Job, zygote: ZygoteHandle, right: Right = matches_expected) -> Verdict:
    """Call the entry point with the arguments of each test.

    Small requests are all sent at once: the job then does not wait for us between its tests. It waits before
    the first one, until its time so far has been read: on a busy machine that is late, and what it computes
    meanwhile would not count."""
    assert not isinstance(job.tests, str)
    try:
        requests = [_request(test) for test in job.tests]
    except CodecError as error:
        return Verdict("unverifiable", f"tests: arguments that cannot be sent to a program: {error}")
    at_once = sum(map(len, requests)) + len(job.program) < SENT_AT_ONCE
    results: list[str] = []
    reason, started = "", time.monotonic()
    with Channel(zygote) as channel:
        number = zygote.spawn("functions", [channel.theirs.fileno()], job.memory_limit_mb, job.backstop_s)
        channel.close_job_end()
        channel.send(encode({"program": job.program, "entry_point": job.entry_point, "plain": True}))
        try:
            reason = _load(channel, number, job)
            loaded = 0.0 if reason else zygote.processor_time(number)
            begun = time.monotonic()
            if at_once and not reason:
                channel.send(*requests)
            for test, request in zip(job.tests, requests, strict=True) if not reason else ():
                asked = time.monotonic()
                if not at_once:
                    channel.send(request)
                # The time by the clock is an upper bound of the processor time of the earlier tests.
                reason = _result(
                    channel.receive(number, job.time_limit_s, loaded + asked - begun), job, test, right
                )
                results.append("wrong" if reason else "correct")
                if reason:
                    break
            passed = time.monotonic() - started
            seconds = max(0.0, zygote.processor_time(number) - loaded) if results else 0.0
        except EOFError as error:
            passed, ended = time.monotonic() - started, zygote.end(number)
            reason = _ending(ended, job, str(error))
            return Verdict("wrong", reason, ended.seconds, (*results, "wrong"), passed)
        except CodecError as error:
            zygote.release(number)
            return Verdict("wrong", f"killed: {error}", tests=(*results, "wrong"))
        zygote.release(number)
    return Verdict("wrong" if reason else "correct", reason, seconds, tuple(results), passed)


def _load(channel: Channel, number: int, job: Job) -> str:
    """Wait until the program is loaded; return the reason if it is not."""
    message = channel.receive(number, job.time_limit_s)
    if message is None:
        return "timeout: while the program was loaded"
    reply = _reply(message)
    if reply[0] == "missing":
        return f"missing: the program defines no {job.entry_point!r}"
    return "" if reply[0] == "ready" else _raised(reply)


class _EntryPoint:
    """Stands for handle 0: the entry point."""


def _request(test: Mapping[str, Any]) -> bytes:
    request = ["call", _EntryPoint(), list(test.get("args", ())), dict(test.get("kwargs", {}))]
    return encode(request, _entry_point_handle)


def _entry_point_handle(value: Any) -> Any:
    if not isinstance(value, _EntryPoint):
        raise CodecError(f"a {type(value).__name__} is not a plain value")
    return {"h": [0, "callable"]}


def _result(message: bytes | None, job: Job, test: Mapping[str, Any], right: Right) -> str:
    """Why the reply to a test is not right; empty if it is."""
    if message is None:
        return f"timeout: more than {job.time_limit_s:g} s"
    reply = _reply(message)
    if reply[0] != "value":
        return _raised(reply)
    if len(reply) < 2 or not right(test, reply[1]):
        return (
            f"wrong_answer: for {_shown(test.get('args', ()))} got "
            f"{_shown(reply[1] if len(reply) > 1 else None)}"
        )
    return ""


def _reply(message: bytes) -> list[Any]:
    """A reply as raw JSON. It is compared in this form: nothing that a program sends is rebuilt in this
    process."""
    try:
        reply = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not a reply: {type(error).__name__}") from None
    if not isinstance(reply, list) or not reply or reply[0] not in ("value", "raised", "ready", "missing"):
        raise CodecError("not a reply")
    return reply


def _raised(reply: Sequence[Any]) -> str:
    names = reply[1] if len(reply) > 1 and isinstance(reply[1], list) else []
    text = str(reply[2])[:300] if len(reply) > 2 else ""
    return f"{'memory' if 'MemoryError' in names else 'exception'}: {text}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than this process writes
        text = f"a {type(value).__name__} with a huge integer"
    return text if len(text) <= 120 else text[:117] + "..."


def _ending(ended: Ended, job: Job, detail: str) -> str:
    """The reason of a job's end. Raises WorkerLost if neither the job nor we ended it."""
    if died_by_itself(ended, job.backstop_s) == "timeout":
        return f"timeout: {detail}"
    return f"{'output' if ended.code == -signal.SIGXFSZ else 'killed'}: {detail}"


def run_stdio(job: Job, zygote: ZygoteHandle) -> Verdict:
    """Run the program as a script, once a test; its input and output are files in memory."""
    assert not isinstance(job.tests, str)
    results: list[str] = []
    total, begun = 0.0, time.monotonic()
    outcome: Outcome = "correct"
    reason = ""
    for test in job.tests:
        outcome, reason, seconds = _run_once(job, zygote, test)
        results.append(outcome)
        total += seconds
        if outcome != "correct":
            break
    return Verdict(outcome, reason, total, tuple(results), time.monotonic() - begun)


def _run_once(job: Job, zygote: ZygoteHandle, test: Mapping[str, Any]) -> tuple[Outcome, str, float]:
    """(outcome, reason, processor seconds) of a program for one test."""
    given = [test["stdin"].removeprefix(BYTE_ORDER_MARK).encode("utf-8", "surrogateescape")]
    limits = job.time_limit_s, job.memory_limit_mb, job.backstop_s
    ran = run_to_end(Script("program", job.program, given, *limits), zygote)
    if not ran.in_time:
        return "wrong", f"timeout: more than {job.time_limit_s:g} s", ran.ended.seconds
    if ran.ended.code != 0:
        return "wrong", _script_failure(job, ran), ran.ended.seconds
    if job.checker:
        return *judge_output(job.checker, test, ran.output, zygote), ran.ended.seconds
    right = any(
        same_output(text.encode("utf-8", "surrogateescape"), ran.output, test.get("tolerance"))
        for text in (test["stdout"], *test.get("accepted", ()))
    )
    printed = ran.output[:2000].decode(errors="replace")
    reason = "" if right else f"wrong_answer: printed {_shown(printed)}"
    return "correct" if right else "wrong", reason, ran.ended.seconds


def _script_failure(job: Job, ran: Finished) -> str:
    """Why a script has not passed that ended by itself, with a status or by a signal."""
    if ran.ended.code < 0:
        return _ending(ran.ended, job, f"ended by signal {-ran.ended.code}")
    kind = "memory" if ran.complaint.startswith("MemoryError") else "exception"
    return f"{kind}: {ran.complaint or f'exit status {ran.ended.code}'}"[:400]


def run_asserts(job: Job, zygote: ZygoteHandle) -> Verdict:
    """Serve the program's functions to a second job, which runs the test text."""
    begun = time.monotonic()
    with Channel(zygote) as program, Channel(zygote) as tests:
        number = zygote.spawn("functions", [program.theirs.fileno()], job.memory_limit_mb, job.backstop_s)
        program.close_job_end()
        program.send(encode({"program": job.program, "entry_point": job.entry_point}))
        judge = zygote.spawn(
            "tests", [tests.theirs.fileno(), program.ours.fileno()], job.memory_limit_mb, 4 * job.backstop_s
        )
        tests.close_job_end()
        program.ours.close()
        tests.send(encode({"tests": job.tests, "entry_point": job.entry_point}))
        try:
            message = tests.receive(number, job.time_limit_s, judge=judge)
            judgement: Judgement = (
                ("wrong", "timeout", f"more than {job.time_limit_s:g} s", ())
                if message is None
                else decode(message)
            )
            outcome, reason, detail, results = judgement
        except (EOFError, CodecError, ValueError, TypeError) as error:
            raise WorkerLost(f"the process that judges the tests has died: {error}") from None
        passed = time.monotonic() - begun
        ended = zygote.end(number) if reason == "exception" else zygote.kill(number)
        zygote.release(judge)
    if reason == "lost":
        raise WorkerLost(detail)
    if reason == "exception" and ended.code < 0:
        reason = _ending(ended, job, "").partition(":")[0]  # raises if something outside killed it
    return Verdict(outcome, f"{reason}: {detail}".strip(": "), ended.seconds, tuple(results), passed)
