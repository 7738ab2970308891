"""Run a program against tests and say what it is worth.

Three kinds of tests: ``function`` (arguments and the expected value), ``stdio`` (what is typed and what must be printed) and
``asserts`` (any trusted test text). Expected values never enter the process that runs the program: results are compared here, or
by a second locked-in process, with exact types.

A verdict's reasons: lint (not Python), exception, timeout, memory, wrong_answer, output (too much of it), killed, missing (no such
entry point), tests (the tests judge nothing: unverifiable), sandbox (our own fault: failed).
"""

import ast
import contextlib
import json
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from r1kit.config import ConfigError
from r1kit.sandbox.codec import CodecError, decode, encode
from r1kit.sandbox.pool import REFUSED, Channel, Ended, Pool, WorkerLost, Zygote, current_tier, patience, shared_pool
from r1kit.types import Verdict

Kind = Literal["function", "stdio", "asserts"]
Tests = Sequence[Mapping[str, Any]] | str

ATTEMPTS = 5
LARGEST_PROGRAM = 200_000  # characters
LARGEST_OUTPUT = 16 << 20
SENT_AT_ONCE = 64 << 10  # bytes; what a socket holds


_quiet = threading.Lock()  # the filters of warnings are the process's


@dataclass(frozen=True, slots=True)
class Job:
    """A program and what it is to be tested with; see ``run_program``."""

    program: str
    tests: Tests
    kind: Kind = "function"
    entry_point: str | None = None
    time_limit_s: float = 5.0
    memory_limit_mb: int = 512


def run_program(
    program: str, tests: Tests, *, kind: Kind = "function", entry_point: str | None = None,
    time_limit_s: float = 5.0, memory_limit_mb: int = 512,
) -> Verdict:  # fmt: skip
    """Run one program in the sandbox and judge it; stop at the first test that fails.

    ``tests``: for ``function`` a list of ``{"args": [...], "kwargs"?: {...}, "expected": ..., "tolerance"?: 1e-6}``; for ``stdio``
    a list of ``{"stdin": text, "stdout": text}``; for ``asserts`` a test text (asserts, ``check(candidate)``, unittest classes).
    ``time_limit_s`` is processor time: of loading the program, and of each test (of all of them for ``asserts``).
    Raises SandboxError where programs cannot be isolated, ConfigError for tests of the wrong shape.
    """
    return run_jobs([Job(program, tests, kind, entry_point, time_limit_s, memory_limit_mb)])[0]


def run_programs(
    jobs: Sequence[tuple[str, Tests]], *, kind: Kind = "function", entry_point: str | None = None,
    time_limit_s: float = 5.0, memory_limit_mb: int = 512,
) -> list[Verdict]:  # fmt: skip
    """Run many (program, tests) pairs on all cores; one verdict each, in order. Arguments as in ``run_program``."""
    return run_jobs([Job(program, tests, kind, entry_point, time_limit_s, memory_limit_mb) for program, tests in jobs])


def run_jobs(jobs: Sequence[Job], pool: Pool | None = None) -> list[Verdict]:
    """Run jobs of any kinds on all cores; one verdict each, in order."""
    for job in jobs:
        _check_shape(job)
    pool = pool or shared_pool(current_tier())
    if len(jobs) == 1:
        return [_run(jobs[0], pool)]
    with ThreadPoolExecutor(pool.size) as threads:
        return list(threads.map(lambda job: _run(job, pool), jobs))


def _check_shape(job: Job) -> None:
    needed = {"function": {"args", "expected"}, "stdio": {"stdin", "stdout"}, "asserts": set()}
    if job.kind not in needed:
        raise ConfigError(f"unknown kind of tests {job.kind!r}; known: {', '.join(needed)}")
    if isinstance(job.tests, str) != (job.kind == "asserts"):
        raise ConfigError(f"tests of kind {job.kind!r} are {'a text' if job.kind == 'asserts' else 'a list of mappings'}")
    if job.kind == "function" and job.entry_point is None:
        raise ConfigError("tests of kind 'function' need an entry_point")
    for row, test in enumerate(() if isinstance(job.tests, str) else job.tests):
        missing = needed[job.kind] - {"args"} - set(test)
        if missing or not ({"args", "kwargs"} & set(test) or job.kind != "function"):
            raise ConfigError(f"test {row} lacks {', '.join(sorted(missing or {'args'}))}: it has {', '.join(test)}")


def results_of(
    program: str, inputs: Sequence[Sequence[Any]], entry_point: str, *, time_limit_s: float = 5.0, memory_limit_mb: int = 512
) -> list[bytes | None]:
    """Run a program on each list of arguments: its results as canonical JSON of the codec, None from the first that fails on."""
    collected: list[bytes | None] = []

    def keep(_: Mapping[str, Any], data: Any) -> bool:
        collected.append(json.dumps(data, sort_keys=True).encode())
        return True

    tests = [{"args": list(arguments), "expected": None} for arguments in inputs]
    job = Job(program, tests, "function", entry_point, time_limit_s, memory_limit_mb)
    if lint(program):
        return [None] * len(inputs)
    for _ in range(ATTEMPTS):
        collected.clear()
        try:
            with shared_pool(current_tier()).zygote() as zygote:
                _functions(job, zygote, keep)
            break
        except WorkerLost:
            continue
    return collected + [None] * (len(inputs) - len(collected))


def _matches_expected(test: Mapping[str, Any], data: Any) -> bool:
    return matches(test["expected"], data, test.get("tolerance"))


def _run(job: Job, pool: Pool) -> Verdict:
    fault = lint(job.program)
    if fault:
        return Verdict("wrong", f"lint: {fault}")
    if not job.tests:
        return Verdict("unverifiable", "tests: there are none")
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            with pool.zygote() as zygote:
                return _RUNNERS[job.kind](job, zygote)
        except WorkerLost as error:
            reason = str(error)
    return Verdict("failed", f"sandbox: {reason} ({ATTEMPTS} attempts)")


def lint(program: str) -> str:
    """Why a text is no Python program; empty where it is one. Whatever the text, this returns."""
    if len(program) > LARGEST_PROGRAM:
        return f"{len(program)} characters"
    try:
        program.encode()
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def _functions(job: Job, zygote: Zygote, right: Callable[[Mapping[str, Any], Any], bool] = _matches_expected) -> Verdict:
    """All requests go out at once where they are small: a job then runs without waiting for us between its tests."""
    assert not isinstance(job.tests, str)
    requests = [_request(test) for test in job.tests]
    at_once = sum(map(len, requests)) + len(job.program) < SENT_AT_ONCE
    results: list[str] = []
    spent = 0.0
    reason = ""
    with Channel(zygote) as channel:
        number = zygote.spawn("functions", [channel.theirs.fileno()], job.memory_limit_mb, _backstop(job))
        channel.hand_over()
        begun = time.monotonic()
        channel.send(encode({"program": job.program, "entry_point": job.entry_point}), *(requests if at_once else ()))
        try:
            reason = _load(channel, number, job)
            for test, request in zip(job.tests, requests, strict=True) if not reason else ():
                asked = time.monotonic()
                if not at_once:
                    channel.send(request)
                # What passed before by the clock bounds the processor time that earlier tests have used.
                reason = _result(channel.receive(number, job.time_limit_s, asked - begun), job, test, right)
                spent += time.monotonic() - asked
                results.append("wrong" if reason else "correct")
                if reason:
                    break
        except (EOFError, CodecError) as error:
            return Verdict("wrong", f"{_cause(zygote.kill(number))}: {error}", spent, (*results, "wrong"))
        zygote.release(number)
    return Verdict("wrong" if reason else "correct", reason, spent, tuple(results))


def _load(channel: Channel, number: int, job: Job) -> str:
    """Wait until the program is loaded; the reason why it is not."""
    message = channel.receive(number, job.time_limit_s)
    if message is None:
        return "timeout: while the program was loaded"
    reply = _reply(message)
    if reply[0] == "missing":
        return f"missing: the program defines no {job.entry_point!r}"
    return "" if reply[0] == "ready" else _raised(reply)


def _request(test: Mapping[str, Any]) -> bytes:
    request = ["call", _EntryPoint(), list(test.get("args", ())), dict(test.get("kwargs", {}))]
    return encode(request, lambda _: {"h": [0, "callable"]})


def _result(message: bytes | None, job: Job, test: Mapping[str, Any], right: Callable[[Mapping[str, Any], Any], bool]) -> str:
    """The reason why the reply to a test is not right (empty: it is)."""
    if message is None:
        return f"timeout: more than {job.time_limit_s:g} s"
    reply = _reply(message)
    if reply[0] != "value":
        return _raised(reply)
    if len(reply) < 2 or not right(test, reply[1]):
        return f"wrong_answer: for {_shown(test.get('args', ()))} got {_shown(reply[1] if len(reply) > 1 else None)}"
    return ""


class _EntryPoint:
    """Stands for handle 0: the entry point."""


def _reply(message: bytes) -> list[Any]:
    """A reply as raw JSON. It is compared as it stands: nothing that a program sends is rebuilt in this process."""
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
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _cause(ended: Ended) -> str:
    """What the way a job ended says about the program. Raises WorkerLost where it was not the program."""
    if ended.code == REFUSED:
        raise WorkerLost("the job could not be locked in")
    if ended.code == -signal.SIGXCPU:
        return "timeout"
    if ended.code == -signal.SIGXFSZ:
        return "output"
    return "killed"


def _stdio(job: Job, zygote: Zygote) -> Verdict:
    assert not isinstance(job.tests, str)
    results: list[str] = []
    total = 0.0
    for test in job.tests:
        reason, seconds = _run_once(job, zygote, test)
        results.append("wrong" if reason else "correct")
        total += seconds
        if reason:
            return Verdict("wrong", reason, total, tuple(results))
    return Verdict("correct", "", total, tuple(results))


def _run_once(job: Job, zygote: Zygote, test: Mapping[str, Any]) -> tuple[str, float]:
    with contextlib.ExitStack() as stack:
        streams = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
        for stream in streams:
            stack.callback(os.close, stream)
        _fill(streams[0], test["stdin"].encode("utf-8", "surrogateescape"))
        channel = stack.enter_context(Channel(zygote))
        number = zygote.spawn("program", [channel.theirs.fileno(), *streams], job.memory_limit_mb, _backstop(job))
        channel.hand_over()
        channel.send(encode({"program": job.program}))
        in_time = _wait_for_end(zygote, number, job.time_limit_s)
        ended = zygote.kill(number)
        seconds = ended.seconds
        if not in_time:
            return f"timeout: more than {job.time_limit_s:g} s", seconds
        if ended.code == 0:
            printed = _contents(streams[1], LARGEST_OUTPUT)
            expected = test["stdout"].encode("utf-8", "surrogateescape")
            return ("" if same_output(expected, printed) else f"wrong_answer: printed {_shown(printed.decode(errors='replace'))}"), seconds
        complaint = _contents(streams[2], 2000).decode(errors="replace").strip()
        if ended.code > 0 and ended.code != REFUSED:
            kind = "memory" if complaint.startswith("MemoryError") else "exception"
            return f"{kind}: {complaint or f'exit status {ended.code}'}"[:400], seconds
        return f"{_cause(ended)}: ended by signal {-ended.code}", seconds


def _wait_for_end(zygote: Zygote, number: int, seconds: float) -> bool:
    """Wait for a job that reports nothing but its end; False when its time is over."""
    begun = time.monotonic()
    wait = seconds
    while True:
        try:
            ended = zygote.wait(number, wait)
        except WorkerLost:
            if zygote.process.poll() is not None:
                raise
        else:
            zygote.ended[number] = ended
            return ended.seconds <= seconds
        left = seconds - zygote.processor_time(number)
        if left <= 0 or time.monotonic() - begun > patience(seconds):
            return number in zygote.ended and zygote.ended[number].seconds <= seconds
        wait = max(0.01, min(left, begun + patience(seconds) - time.monotonic()))


def _fill(stream: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(stream, rest) :]
    os.lseek(stream, 0, os.SEEK_SET)


def _contents(stream: int, limit: int) -> bytes:
    return os.pread(stream, min(os.fstat(stream).st_size, limit), 0)


def same_output(expected: bytes, printed: bytes) -> bool:
    """Compare what was printed, as contest judges do: blanks at the end of lines and empty lines at the end do not count."""
    return [line.rstrip() for line in expected.rstrip().split(b"\n")] == [line.rstrip() for line in printed.rstrip().split(b"\n")]


def _asserts(job: Job, zygote: Zygote) -> Verdict:
    with Channel(zygote) as program, Channel(zygote) as tests:
        number = zygote.spawn("functions", [program.theirs.fileno()], job.memory_limit_mb, _backstop(job))
        program.hand_over()
        program.send(encode({"program": job.program, "entry_point": job.entry_point}))
        judge = zygote.spawn("tests", [tests.theirs.fileno(), program.ours.fileno()], job.memory_limit_mb, 4 * _backstop(job))
        tests.hand_over()
        program.ours.close()
        tests.send(encode({"tests": job.tests, "entry_point": job.entry_point}))
        try:
            message = tests.receive(number, job.time_limit_s)
        except (EOFError, CodecError) as error:
            zygote.kill(number)
            _cause(zygote.kill(judge))
            raise WorkerLost(f"the judge of the tests has died: {error}") from None
        ended, judge_ended = zygote.kill(number), zygote.kill(judge)
        if REFUSED in (ended.code, judge_ended.code):
            raise WorkerLost("the job could not be locked in")
        seconds = ended.seconds
        if message is None:
            return Verdict("wrong", f"timeout: more than {job.time_limit_s:g} s", seconds)
        outcome, reason, detail, results = decode(message)
        if reason == "exception" and ended.code == -signal.SIGKILL and detail.startswith("the program ended"):
            raise WorkerLost("the program's process was killed from outside")
        return Verdict(outcome, f"{reason}: {detail}".strip(": "), seconds, tuple(results))


def matches(expected: Any, data: Any, tolerance: float | None = None) -> bool:
    """Compare an expected value with what a program sent, in the codec's JSON, type by type.

    ``tolerance`` (absolute, and relative to the expected value) applies where both are int or float; nan equals nan only.
    """
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        return type(data) is type(expected) and data == expected
    if isinstance(expected, int | float):
        return _same_number(expected, data, tolerance)
    if isinstance(expected, list):
        return isinstance(data, list) and _same_items(expected, data, tolerance)
    if not isinstance(data, dict) or len(data) != 1:
        return False
    ((tag, content),) = data.items()
    if isinstance(expected, tuple):
        return tag == "t" and isinstance(content, list) and _same_items(expected, content, tolerance)
    if isinstance(expected, dict):
        return tag == "d" and isinstance(content, list) and _same_entries(expected, content, tolerance)
    own = json.loads(encode(expected))
    if isinstance(expected, set | frozenset):
        return tag in own and isinstance(content, list) and _sorted_texts(own[tag]) == _sorted_texts(content)
    return bool(own == data)


def _same_items(expected: Sequence[Any], data: Sequence[Any], tolerance: float | None) -> bool:
    return len(expected) == len(data) and all(matches(e, d, tolerance) for e, d in zip(expected, data, strict=True))


def _same_entries(expected: Mapping[Any, Any], data: Sequence[Any], tolerance: float | None) -> bool:
    if len(expected) != len(data) or not all(isinstance(entry, list) and len(entry) == 2 for entry in data):
        return False
    by_key = {json.dumps(key, sort_keys=True): value for key, value in data}
    keys = {json.dumps(json.loads(encode(key)), sort_keys=True): value for key, value in expected.items()}
    return by_key.keys() == keys.keys() and all(matches(value, by_key[key], tolerance) for key, value in keys.items())


def _sorted_texts(values: Sequence[Any]) -> list[str]:
    return sorted({json.dumps(value, sort_keys=True) for value in values})


def _same_number(expected: float, data: Any, tolerance: float | None) -> bool:
    value = _number(data)
    if value is None:
        return False
    if tolerance is None:
        return type(value) is type(expected) and (value == expected or (value != value and expected != expected))
    if not (math.isfinite(value) and math.isfinite(expected)):
        return value == expected or (value != value and expected != expected)
    return abs(value - expected) <= tolerance * max(1.0, abs(expected))


def _number(data: Any) -> int | float | None:
    if isinstance(data, bool):
        return None
    if isinstance(data, int | float):
        return data
    if isinstance(data, dict) and len(data) == 1 and next(iter(data)) in ("i", "x"):
        try:
            value = decode(json.dumps(data).encode())
        except CodecError:
            return None
        return value if isinstance(value, int | float) else None
    return None


def _backstop(job: Job) -> float:
    """Processor seconds after which the kernel itself ends a job, should all else fail."""
    tests = 1 if isinstance(job.tests, str) or job.kind == "stdio" else len(job.tests)
    return job.time_limit_s * (tests + 2) + 1


_RUNNERS = {"function": _functions, "stdio": _stdio, "asserts": _asserts}
