"""Measure the verifiers: programs a second, batches with infinite loops, and answers a CPU-second compared
with math-verify.

    python benchmarks/verifiers.py [programs|loops|mathematics|slowest|styles|mutations|agreement|rewards ...]

``agreement`` judges the same answers with math-verify (agreement.py); it takes minutes, and only runs when
it is named. The numbers depend on the machine and on what else it does; the load average is printed first.
"""

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from agreement import agreement

from r1kit.language import language_share
from r1kit.rewards import format_reward
from r1kit.sandbox import run_programs
from r1kit.sandbox.jobs import Kind, Tests
from r1kit.sandbox.pool import current_tier, shared_pool
from r1kit.tasks.mathematics import check as mathematics
from r1kit.tasks.mathematics.check import check_math, read_gold, tidy
from r1kit.tasks.mathematics.expressions import read_expression

DATA = Path(os.environ.get("R1KIT_DATA", Path(__file__).parents[1] / "data"))  # data/README.md
PROGRAM = "def f(x):\n    total = 0\n    for y in range(x):\n        total += y * y\n    return total"
PROGRAMS = 400
SLEEPER = "import time\ndef f(x): time.sleep(1000)"
LOOP = "def f(x):\n    while True:\n        x += 1"


def processor_seconds() -> float:
    """Processor time of this process, of its workers, past ones too, and of their jobs so far."""
    times = os.times()
    total = time.process_time() + times.children_user + times.children_system
    for worker in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = worker.cpu_times()
            total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def cases(count: int) -> list[dict[str, Any]]:
    return [{"args": [n], "expected": sum(y * y for y in range(n))} for n in range(count)]


def programs() -> None:
    """Programs a second through the tier in use, by kind of test."""
    pool = shared_pool(current_tier())
    run_programs([(PROGRAM, cases(3))] * 10, entry_point="f")
    print(f"tier {current_tier()}, {pool.size} workers")
    stdio: list[tuple[str, Tests]] = [("print(int(input()) + 1)", [{"stdin": "4\n", "stdout": "5\n"}])]
    asserts: list[tuple[str, Tests]] = [
        (PROGRAM, "\n".join(f"assert f({c['args'][0]}) == {c['expected']}" for c in cases(3)))
    ]
    work: list[tuple[Kind, list[tuple[str, Tests]], str | None]] = [
        ("function", [(PROGRAM, cases(3))], "f"),
        ("asserts", asserts, "f"),
        ("stdio", stdio, None),
    ]
    for kind, jobs, entry in work:
        begun, used = time.monotonic(), processor_seconds()
        verdicts = run_programs(jobs * PROGRAMS, kind=kind, entry_point=entry)
        assert all(verdict.outcome == "correct" for verdict in verdicts)
        wall, processor = PROGRAMS / (time.monotonic() - begun), PROGRAMS / (processor_seconds() - used)
        print(
            f"  {kind:9} {wall:6.0f} programs/s, {processor:6.0f} a processor second (3 tests each; stdio 1)"
        )


def loops() -> None:
    """A batch of 1,000 programs of which 5 % never end, or sleep: the time beyond what the limits themselves
    cost.

    A loop may use its limit of processor time, a sleeper its limit by the clock; either holds up one worker.
    """
    limit, workers = 0.5, shared_pool(current_tier()).size
    plain_jobs = [(PROGRAM, cases(3))] * 950
    plain, plain_used = timed(plain_jobs, limit)
    for name, hang in (("loops", LOOP), ("sleepers", SLEEPER)):
        batch = [(hang, cases(3)) if n % 20 == 0 else (PROGRAM, cases(3)) for n in range(1000)]
        seconds, used = timed(batch, limit)
        allowed = 50 * limit / workers
        print(
            f"1,000 programs with 50 {name} of {limit} s: {seconds:.1f} s; 950 without: {plain:.1f} s; "
            f"the limits themselves: {allowed:.1f} s"
        )
        print(
            f"  beyond that {seconds - plain - allowed:+.1f} s by the clock; {used - plain_used:.1f} s "
            "more of processor time than the 950"
        )


def timed(jobs: Sequence[tuple[str, Tests]], limit: float) -> tuple[float, float]:
    """Seconds and processor seconds of a batch of which every program but the hanging ones is right."""
    begun, used = time.monotonic(), processor_seconds()
    verdicts = run_programs(jobs, entry_point="f", time_limit_s=limit)
    assert [verdict.outcome == "correct" for verdict in verdicts] == [
        program == PROGRAM for program, _ in jobs
    ]
    return time.monotonic() - begun, processor_seconds() - used


def answers_a_second(golds: list[str], responses: list[str]) -> float:
    """Answers a CPU-second, with the gold answers read before and no other cache."""
    for gold in golds:
        read_gold(mathematics.gold_text(gold))
    tidy.cache_clear()
    read_expression.cache_clear()
    begun = time.process_time()
    for gold, response in zip(golds, responses, strict=True):
        check_math(gold, response)
    seconds = time.process_time() - begun
    return len(golds) / seconds


def mathematics_() -> None:
    """Answers a CPU-second, and time per answer compared with math-verify, on GSM8K (plain numbers) and on
    MATH-500's LaTeX."""
    plain = [
        json.loads(line)["answer"].rpartition("####")[2].strip()
        for line in (DATA / "gsm8k_train.jsonl").open()
    ][:2000]
    rows = [json.loads(line) for line in (DATA / "math500_test.jsonl").open()]
    latex = [row["answer"] for row in rows if "\\" in row["answer"]]
    work: dict[str, tuple[list[str], list[str]]] = {
        "plain numbers, boxed": (plain, [f"The answer is \\boxed{{{answer}}}." for answer in plain]),
        "plain numbers, stated": (plain, [f"So the answer is {answer}." for answer in plain]),
        "LaTeX, boxed": (latex, [f"Hence \\boxed{{{answer}}}." for answer in latex]),
        "LaTeX, whole solutions": ([r["answer"] for r in rows], [r["solution"] for r in rows]),
    }
    for name, (golds, responses) in work.items():
        print(f"{name:<22} {answers_a_second(golds, responses):8.0f} answers/CPU-s")
    for name, golds in (("plain", plain[:200]), ("LaTeX", latex[:200])):
        ours, theirs = times_per_answer(golds)
        print(f"{name}: median {ours:.0f} us here, {theirs:.0f} us math-verify: {theirs / ours:.0f} times")


def times_per_answer(golds: Sequence[str]) -> tuple[float, float]:
    """Median microseconds to check a boxed gold answer, here and in math-verify, which has read the gold
    answers before."""
    from math_verify import parse, verify

    known = [parse(f"${gold}$", parsing_timeout=None) for gold in golds]
    ours, theirs = [], []
    for gold, parsed in zip(golds, known, strict=True):
        response = f"The answer is $\\boxed{{{gold}}}$."
        begun = time.perf_counter()
        verify(parsed, parse(response, parsing_timeout=None), timeout_seconds=None)
        theirs.append(time.perf_counter() - begun)
        tidy.cache_clear()
        read_expression.cache_clear()
        begun = time.perf_counter()
        check_math(gold, response)
        ours.append(time.perf_counter() - begun)
    return statistics.median(ours) * 1e6, statistics.median(theirs) * 1e6


def slowest() -> None:
    """The slowest answers of the adversarial set, once a worker is warm."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "adversarial"))
    from test_mathematics_false_positives import CASES

    check_math("\\int_0^1 x dx", "\\boxed{\\int_0^1 t dt}")
    seconds = []
    for gold, response in CASES:
        begun = time.monotonic()
        check_math(gold, response)
        seconds.append((time.monotonic() - begun, response[:50]))
    print(
        "slowest adversarial answers:",
        ", ".join(f"{s:.2f} s {text!r}" for s, text in sorted(seconds)[:-4:-1]),
    )


def styles() -> None:
    """Every worked solution of GSM8K and CMATH, ended in each style with the gold answer and the next number:
    verdicts other than expected."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "grading"))
    from styles import in_styles

    for name in ("gsm8k_train", "gsm8k_test", "cmath_test"):
        cases = list(in_styles(DATA / f"{name}.jsonl"))
        begun = time.process_time()
        wrong = sum((check_math(g, r).outcome == "correct") != is_right for g, r, is_right in cases)
        rate = len(cases) / (time.process_time() - begun)
        print(f"{name}: {wrong} of {len(cases)} judged otherwise than expected, {rate:.0f} answers/CPU-s")


def mutations() -> None:
    """100,000 mutated responses that do not give the gold number: how many are called correct."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "grading"))
    from mutations import mutated

    paid, slowest_s = 0, 0.0
    for gold, response in mutated(100_000, int(os.environ.get("R1KIT_GRADING_SEED", "0"))):
        begun = time.thread_time()
        paid += check_math(gold, response).outcome == "correct"
        slowest_s = max(slowest_s, time.thread_time() - begun)
    print(f"mutations: {paid} of 100,000 called correct; slowest {slowest_s:.2f} CPU-s")


def agreement_() -> None:
    """Agreement with math-verify; fails if there is a disagreement that r1kit has not won."""
    if agreement(DATA):
        raise SystemExit("see the rows of agreement.jsonl.gz whose `right` is not r1kit")


def rewards() -> None:
    """Microseconds for the format and the language of one rollout."""
    text = (
        "<think>"
        + "So we add 3 and 4 to get 7. Wait, let me check it again and then go on. " * 4
        + "</think><answer>7</answer>"
    )
    functions: dict[str, Callable[[], object]] = {
        "format": lambda: format_reward(text),
        "language": lambda: language_share(text, "en"),
    }
    for name, function in functions.items():
        begun = time.perf_counter()
        for _ in range(2000):
            function()
        print(f"{name}: {(time.perf_counter() - begun) / 2000 * 1e6:.0f} us for {len(text)} characters")


BENCHMARKS = {
    "programs": programs,
    "loops": loops,
    "mathematics": mathematics_,
    "slowest": slowest,
    "styles": styles,
    "mutations": mutations,
    "agreement": agreement_,
    "rewards": rewards,
}

if __name__ == "__main__":
    print("load average", os.getloadavg())
    for chosen in sys.argv[1:] or [name for name in BENCHMARKS if name != "agreement"]:
        BENCHMARKS[chosen]()
