"""Judge the same answers with check_math and with math-verify, and say who is right where they differ.

Of most sets the right verdict is known by construction: a gold answer is right, a shifted one is wrong. The
gold answers of MATH-500 held against each other have no such label; decisions on them, with a reason, are in
``agreement_judged.jsonl``. What is in neither is "not yet judged".

Every disagreement becomes a row of ``agreement.jsonl.gz``. The limits of both sides are processor time, so a
busy machine changes no verdict. Processor time of r1kit's own verdicts is measured with empty caches, its
checker processes included."""

import gzip
import json
import logging
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import combinations, islice
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from math_verify import parse, verify  # type: ignore[import-untyped]

from r1kit.tasks.mathematics import check
from r1kit.tasks.mathematics.checker_pool import compare_elsewhere, wait_until_ready
from r1kit.tasks.mathematics.expressions import read_expression
from r1kit.types import Verdict

HERE = Path(__file__).parent
JUDGED = HERE / "agreement_judged.jsonl"
ROWS = HERE / "agreement.jsonl.gz"
SEED = 0
EVERY_PAIR = 5  # of about 70,000 pairs of gold answers
SECONDS = 5  # of processor time, for math-verify to read an answer, and to compare two: its own defaults
SHOWN = 120  # characters of the end of a response in a row of the file

sys.path += [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "grading")]


@dataclass(frozen=True, slots=True)
class Case:
    """A response to judge. ``kind``: the rule that it tries; ``is_right``: None if no construction says."""

    kind: str
    gold: str
    response: str
    is_right: bool | None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A case that the two judge differently. ``math_verify``: "correct", "wrong" or "too long" (which counts
    as wrong); ``right``: "r1kit", "math-verify" or "not yet judged", and ``why``."""

    set: str
    kind: str
    gold: str
    response: str
    r1kit: str
    math_verify: str
    right: str
    why: str


def math_500(data: Path) -> Iterator[Case]:
    """Every gold answer of MATH-500 in a box, and every worked solution."""
    for row in _rows(data / "math500_test.jsonl"):
        yield Case("gold answer, boxed", row["answer"], f"\\boxed{{{row['answer']}}}", True)
        yield Case("worked solution", row["answer"], row["solution"], True)


def gold_pairs(data: Path) -> Iterator[Case]:
    """Every ``EVERY_PAIR``-th pair of different gold answers of MATH-500, each as an answer to the other."""
    golds = sorted({row["answer"] for row in _rows(data / "math500_test.jsonl")})
    for one, other in islice(combinations(golds, 2), 0, None, EVERY_PAIR):
        yield Case("gold answers of two problems", one, f"\\boxed{{{other}}}", None)
        yield Case("gold answers of two problems", other, f"\\boxed{{{one}}}", None)


def in_styles_of(name: str, every: int = 1) -> Callable[[Path], Iterator[Case]]:
    """The worked solutions of every ``every``-th row of a file in every style, right and shifted by one."""

    def cases(data: Path) -> Iterator[Case]:
        from styles import in_styles

        for gold, response, is_right in in_styles(data / f"{name}.jsonl", every):
            last = response.splitlines()[-1]
            style = re.sub(r"-?\d[\d,.]*(?<!\.)", "N", last)
            yield Case(f"{'right' if is_right else 'shifted by one'}: {style}", gold, response, is_right)

    return cases


def generated(data: Path) -> Iterator[Case]:
    """Generated answers in text."""
    from answers_in_text import generate

    for case in generate(4_000, SEED):
        yield Case(case.kind.partition(" in ")[0], case.gold, case.response, case.is_right)


def by_hand(data: Path) -> Iterator[Case]:
    """Answers in text, written by hand."""
    from by_hand import BY_HAND

    for kind, outcomes in BY_HAND.items():
        for outcome, cases in outcomes.items():
            for gold, response in cases:
                yield Case(kind, gold, response, outcome == "correct")


def equivalence(data: Path) -> Iterator[Case]:
    """Generated pairs of equal and of nearly equal answers, both ways."""
    from equivalence import pairs

    for pair in pairs(SEED, 18):
        yield Case(pair.kind, pair.gold, f"\\boxed{{{pair.said}}}", pair.same)
        if not pair.one_way:
            yield Case(pair.kind, pair.said, f"\\boxed{{{pair.gold}}}", pair.same)


SETS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "MATH-500, gold answers and solutions": math_500,
    "MATH-500, some gold answers against each other": gold_pairs,
    "GSM8K test, five styles": in_styles_of("gsm8k_test"),
    "GSM8K train, five styles": in_styles_of("gsm8k_train"),
    "CMATH, seven styles": in_styles_of("cmath_test"),
    "answers in text, generated": generated,
    "answers in text, by hand": by_hand,
    "pairs of answers, generated": equivalence,
}


def agreement(data: Path, names: Sequence[str] = ()) -> int:
    """Print the agreement and the processor time of an answer by set, and the disagreements by kind; put the
    rows of these sets into ``agreement.jsonl.gz``. Returns how many disagreements r1kit has not won."""
    logging.disable(logging.CRITICAL)  # math-verify logs every text that it cannot read
    signal.signal(signal.SIGPROF, _stop)
    wait_until_ready()
    print(f"math-verify {version('math-verify')}, sympy {version('sympy')}")
    judged = {(row["gold"], row["answer"]): row for row in _rows(JUDGED)} if JUDGED.is_file() else {}
    rows: list[Disagreement] = []
    every: list[float] = []
    for name in names or SETS:
        found, seconds = _judge_set(name, list(SETS[name](data)), judged)
        sides, late = Counter(row.right for row in found), sum(row.math_verify == "too long" for row in found)
        rate = 100 * (1 - len(found) / len(seconds))
        print(
            f"{name}: {rate:.2f} % of {len(seconds)} alike; where not, right is {dict(sides)}; math-verify "
            f"took too long for {late}; {_times(seconds)}",
            flush=True,
        )
        rows, every = rows + found, every + seconds
        _write(rows, names or list(SETS))
    print(f"all: {_times(every)}")
    return sum(row.right != "r1kit" for row in rows)


def _times(seconds: Sequence[float]) -> str:
    """The mean and not the median, which some kernels' clocks, in steps of milliseconds, give as 0."""
    ordered = sorted(seconds)
    mean, rare = sum(ordered) / len(ordered), ordered[min(len(ordered) - 1, int(0.999 * len(ordered)))]
    return (
        f"processor time of an answer: mean {1e3 * mean:.3f} ms, p99.9 {1e3 * rare:.1f} ms, most "
        f"{1e3 * ordered[-1]:.0f} ms"
    )


def _judge_set(
    name: str, cases: Sequence[Case], judged: dict[tuple[str, str], dict[str, str]]
) -> tuple[list[Disagreement], list[float]]:
    """The disagreements of a set, and the processor seconds of each of r1kit's verdicts."""
    found, seconds, clock = [], [], Clock()
    for case in cases:
        verdict, used = clock.judge(case.gold, case.response)
        seconds.append(used)
        theirs = _by_math_verify(case.gold, case.response)
        if (theirs == "correct") != (verdict.outcome == "correct"):
            found.append(_judge(name, case, verdict, theirs, judged))
    return found, seconds


class Clock:
    """Measures the processor time of verdicts: that of this process, and of the checkers where a verdict
    asked them, in steps of their 10 ms."""

    def __init__(self) -> None:
        self.asked = False
        self.spent = _checkers_time()
        check.compare_elsewhere = self._ask  # type: ignore[attr-defined, assignment]

    def _ask(self, *question: Any) -> Verdict:
        self.asked = True
        return compare_elsewhere(*question)

    def judge(self, gold: str, response: str) -> tuple[Verdict, float]:
        """r1kit's verdict, with empty caches, and its processor seconds."""
        for cache in (check.read_gold, check.tidy, read_expression):
            cache.cache_clear()
        self.asked = False
        begun = time.process_time()
        verdict = check.judge(gold, response, patient=True)
        used = time.process_time() - begun
        if self.asked:
            before, self.spent = self.spent, _checkers_time()
            used += max(0.0, self.spent - before)
        return verdict, used


def _checkers_time() -> float:
    """Processor seconds of all processes below this one, past ones too."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


class _TooLongError(BaseException):
    """math-verify's time is over. No ``except Exception`` of it or of sympy stops this."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _TooLongError


def _by_math_verify(gold: str, response: str) -> str:
    """math-verify's verdict with its own settings; "too long" for what takes more than its limits."""
    is_marked = "\\boxed" in gold or re.search(r"(?<!\\)\$", gold) is not None
    try:
        known = _parsed(gold if is_marked else f"${gold}$")
        given = _parsed(response)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        same = verify(known, given, timeout_seconds=None)
        signal.setitimer(signal.ITIMER_PROF, 0)
    except _TooLongError:
        return "too long"
    return "correct" if same else "wrong"


@lru_cache(maxsize=5_000)
def _parsed(text: str) -> list[Any]:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    found = list(parse(text, parsing_timeout=None))
    signal.setitimer(signal.ITIMER_PROF, 0)
    return found


def _judge(
    name: str, case: Case, verdict: Verdict, theirs: str, judged: dict[tuple[str, str], dict[str, str]]
) -> Disagreement:
    is_right, why = case.is_right, "by construction"
    answer = case.response.removeprefix("\\boxed{").removesuffix("}")
    if is_right is None and (row := judged.get((case.gold, answer))):
        is_right, why = bool(row["same"]), row["why"]
    right = "not yet judged"
    if is_right is not None:
        right = "math-verify" if is_right == (theirs == "correct") else "r1kit"
    response = case.response[-SHOWN:]
    return Disagreement(name, case.kind, case.gold, response, verdict.outcome, theirs, right, why)


def _write(rows: Sequence[Disagreement], sets: Sequence[str]) -> None:
    """Print the kinds of disagreement, and put the rows in the place of those of the same sets."""
    kinds = Counter((row.set, row.kind, row.math_verify, row.right) for row in rows)
    for (name, kind, theirs, right), count in sorted(kinds.items()):
        print(f"  {count:6} {name}: {kind}: math-verify says {theirs}; right is {right}")
    kept = [row for row in _rows(ROWS) if row["set"] not in sets] if ROWS.is_file() else []
    lines = [json.dumps(row, ensure_ascii=False) for row in [*kept, *map(asdict, rows)]]
    # Without a time in its header the same rows are the same bytes.
    ROWS.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode("utf-8"), mtime=0))


def _rows(path: Path) -> list[dict[str, str]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]
