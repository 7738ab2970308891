"""Run a program against tests and return a verdict.

Three kinds of tests: ``function`` (arguments and the expected value), ``stdio`` (the input and the output to
be printed) and ``asserts`` (any trusted test text). Expected values never enter the process that runs the
program: results are compared here, or by a second confined process, with exact types.

Reasons of a verdict: lint (not Python), exception, timeout, memory, wrong_answer, output (too much of it),
killed, missing (no such entry point), tests (they test nothing: unverifiable), checker (it failed:
unverifiable), sandbox (a worker was lost again and again: failed)."""

import ast
import json
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from r1kit.config import R1kitError
from r1kit.sandbox import nodes
from r1kit.sandbox.jobs import Job, Kind, Tests, check_shape
from r1kit.sandbox.pool import Pool, current_tier, shared_pool
from r1kit.sandbox.run_job import run_asserts, run_functions, run_stdio
from r1kit.sandbox.scripts import BYTE_ORDER_MARK
from r1kit.sandbox.zygote_handle import WorkerLost, ZygoteHandle
from r1kit.types import Verdict

ATTEMPTS = 10
LARGEST_PROGRAM = 200_000  # characters

_quiet = threading.Lock()  # filters of warnings belong to the whole process


def run_program(
    program: str, tests: Tests, *, kind: Kind = "function", entry_point: str | None = None,
    time_limit_s: float = 5.0, memory_limit_mb: int = 512, checker: str = "",
) -> Verdict:  # fmt: skip
    """Run one program in the sandbox and judge it; stop at the first test that fails.

    ``tests``: for ``function`` a list of ``{"args": [...], "kwargs"?: {...}, "expected": ..., "tolerance"?:
    1e-6}``; for ``stdio`` a list of ``{"stdin": text, "stdout": text}``; for ``asserts`` a test text
    (asserts, ``check(candidate)``, unittest classes). ``checker``: a Python script that judges what a program
    prints, for tests with several right outputs (r1kit.sandbox.checkers). ``time_limit_s`` is processor time:
    of loading the program, and of each test (of all of them for ``asserts``). The verdict's ``seconds`` are
    processor time too, measured from outside: of the tests for ``function``, with loading for the others.
    Raises SandboxError if programs cannot be isolated, ConfigError for tests of the wrong shape."""
    return run_jobs([Job(program, tests, kind, entry_point, time_limit_s, memory_limit_mb, checker)])[0]


def run_programs(
    jobs: Sequence[tuple[str, Tests]], *, kind: Kind = "function", entry_point: str | None = None,
    time_limit_s: float = 5.0, memory_limit_mb: int = 512, checker: str = "",
) -> list[Verdict]:  # fmt: skip
    """Run many (program, tests) pairs on all cores; one verdict each, in order. Arguments as in
    ``run_program``."""
    return run_jobs(
        [
            Job(program, tests, kind, entry_point, time_limit_s, memory_limit_mb, checker)
            for program, tests in jobs
        ]
    )


def run_jobs(jobs: Sequence[Job], pool: Pool | None = None) -> list[Verdict]:
    """Run jobs of any kinds on all cores, those of the cluster's other machines included (nodes.py); one
    verdict each, in order. With ``pool`` on this machine only."""
    for job in jobs:
        check_shape(job)
    jobs = [replace(job, program=job.program.removeprefix(BYTE_ORDER_MARK)) for job in jobs]
    others = nodes.registered() if pool is None else []
    pool = pool or shared_pool(current_tier())
    own, *dealt = nodes.shares(len(jobs), [pool.size, *(node.size for node in others)])
    answers = [
        node.begin([jobs[i] for i in share]) if share else list
        for node, share in zip(others, dealt, strict=True)
    ]
    found = _run_here([jobs[i] for i in own], pool)
    for answer, share in zip(answers, dealt, strict=True):
        verdicts = answer()
        found += _run_here([jobs[i] for i in share], pool) if verdicts is None else verdicts
    return found


def _run_here(jobs: Sequence[Job], pool: Pool) -> list[Verdict]:
    if len(jobs) <= 1:
        return [_run(job, pool) for job in jobs]
    with ThreadPoolExecutor(pool.size) as threads:
        return list(threads.map(lambda job: _run(job, pool), jobs))


def results_of(
    program: str,
    inputs: Sequence[Sequence[Any]],
    entry_point: str,
    *,
    time_limit_s: float = 5.0,
    memory_limit_mb: int = 512,
) -> list[bytes | None]:
    """Run a program on each list of arguments, on all cores: its results as canonical JSON of the codec, None
    for an input without a result.

    Every input has a process of its own. Raises R1kitError if workers were lost again and again, which says
    nothing about the program."""
    if lint(program):
        return [None] * len(inputs)
    pool = shared_pool(current_tier())
    tests = [[{"args": list(arguments), "expected": None}] for arguments in inputs]
    jobs = [Job(program, test, "function", entry_point, time_limit_s, memory_limit_mb) for test in tests]
    with ThreadPoolExecutor(pool.size) as threads:
        return list(threads.map(lambda job: _result_of(job, pool), jobs))


def _result_of(job: Job, pool: Pool) -> bytes | None:
    results: list[bytes] = []

    def keep(_: Mapping[str, Any], data: Any) -> bool:
        results.append(json.dumps(data, sort_keys=True).encode())
        return True

    verdict = _try_again(lambda zygote: run_functions(job, zygote, keep), pool)
    if verdict.outcome == "failed":
        raise R1kitError(f"{verdict.reason}; the results of a program are unknown; run r1kit doctor")
    return results[-1] if results else None


def _run(job: Job, pool: Pool) -> Verdict:
    fault = lint(job.program)
    if fault:
        return Verdict("wrong", f"lint: {fault}")
    if not job.tests:
        return Verdict("unverifiable", "tests: there are none")
    return _try_again(lambda zygote: _RUNNERS[job.kind](job, zygote), pool)


def _try_again(attempt: Callable[[ZygoteHandle], Verdict], pool: Pool) -> Verdict:
    """Attempt a job on one worker after the other until one survives it; ``failed`` after ATTEMPTS."""
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            with pool.zygote() as zygote:
                return attempt(zygote)
        except WorkerLost as error:
            reason = str(error)
    return Verdict("failed", f"sandbox: {reason} ({ATTEMPTS} attempts)")


def lint(program: str) -> str:
    """Why a text is not a Python program; empty if it is one. Raises nothing, whatever the text."""
    if len(program) > LARGEST_PROGRAM:
        return f"{len(program)} characters"
    try:
        program.encode()
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # A limit of this process, which jobs do not have.
        huge_integer = "integer string conversion" in str(error)
        return "" if huge_integer else f"{type(error).__name__}: {error}"[:200]
    return ""


_RUNNERS = {"function": run_functions, "stdio": run_stdio, "asserts": run_asserts}
