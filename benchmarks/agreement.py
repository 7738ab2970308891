"""Judge the same answers with check_math and with math-verify, and say who is right where they differ.

Of most sets the right verdict is known by construction: a gold answer is right, a shifted one is wrong. The
gold answers of MATH-500 held against each other have no such label; decisions on them, with a reason, belong
in ``agreement_judged.jsonl`` (none yet). What is in neither is printed as "not yet judged"."""

import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from math_verify import parse, verify  # type: ignore[import-untyped]

from r1kit.tasks.mathematics.check import check_math_batch
from r1kit.tasks.mathematics.checker_pool import wait_until_ready
from r1kit.types import Verdict

HERE = Path(__file__).parent
JUDGED = HERE / "agreement_judged.jsonl"
ROWS = HERE / "agreement.jsonl"
SEED = 0
CHUNK = 2_000
EVERY_PAIR = 25  # of about 70,000 pairs of gold answers
SECONDS = 5  # by the clock, for math-verify to read an answer, and to compare two: its own defaults
SHOWN = 120  # characters of the end of a response in a row of the file
EXAMPLES = 5  # rows of the file for one kind of disagreement

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
    """A case that the two judge differently. ``right``: "r1kit", "math-verify" or "not yet judged"."""

    set: str
    kind: str
    gold: str
    response: str
    r1kit: str
    math_verify: str
    right: str
    why: str
    count: int = 1  # disagreements like this one


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
    "GSM8K train, every fifth row, five styles": in_styles_of("gsm8k_train", 5),
    "CMATH, seven styles": in_styles_of("cmath_test"),
    "answers in text, generated": generated,
    "answers in text, by hand": by_hand,
    "pairs of answers, generated": equivalence,
}


def agreement(data: Path, names: Sequence[str] = ()) -> int:
    """Print the agreement by set and the disagreements by kind, and write examples of each kind to
    ``agreement.jsonl``; returns how many disagreements r1kit has not won."""
    logging.disable(logging.CRITICAL)  # math-verify logs every text that it cannot read
    wait_until_ready()
    print(f"math-verify {version('math-verify')}, sympy {version('sympy')}")
    judged = {(row["gold"], row["answer"]): row for row in _rows(JUDGED)} if JUDGED.is_file() else {}
    rows: list[Disagreement] = []
    for name in names or SETS:
        total, found = 0, list[Disagreement]()
        every = SETS[name](data)
        while cases := list(islice(every, CHUNK)):
            total += len(cases)
            found += _disagreements(name, cases, judged)
        sides = Counter(row.right for row in found)
        rate = 100 * (1 - len(found) / total)
        print(f"{name}: {rate:.2f} % of {total} alike; where not, right is {dict(sides)}", flush=True)
        rows += found
    _write(rows)
    return sum(row.right != "r1kit" for row in rows)


def _disagreements(
    name: str, cases: Sequence[Case], judged: dict[tuple[str, str], dict[str, str]]
) -> Iterator[Disagreement]:
    ours = check_math_batch([case.gold for case in cases], [case.response for case in cases])
    for case, verdict in zip(cases, ours, strict=True):
        theirs = _by_math_verify(case.gold, case.response)
        if theirs != (verdict.outcome == "correct"):
            yield _judge(name, case, verdict, theirs, judged)


def _by_math_verify(gold: str, response: str) -> bool:
    """math-verify's verdict with its own settings; answers that take too long are wrong."""
    is_marked = "\\boxed" in gold or re.search(r"(?<!\\)\$", gold) is not None
    known = _parsed(gold if is_marked else f"${gold}$")
    return bool(verify(known, _parsed(response), timeout_seconds=SECONDS))


@lru_cache(maxsize=5_000)
def _parsed(text: str) -> list[Any]:
    return list(parse(text, parsing_timeout=SECONDS))


def _judge(
    name: str, case: Case, verdict: Verdict, theirs: bool, judged: dict[tuple[str, str], dict[str, str]]
) -> Disagreement:
    is_right, why = case.is_right, "by construction"
    answer = case.response.removeprefix("\\boxed{").removesuffix("}")
    if is_right is None and (row := judged.get((case.gold, answer))):
        is_right, why = bool(row["same"]), row["why"]
    right = "not yet judged"
    if is_right is not None:
        right = "math-verify" if is_right == theirs else "r1kit"
    outcome = "correct" if theirs else "wrong"
    return Disagreement(
        name, case.kind, case.gold, case.response[-SHOWN:], verdict.outcome, outcome, right, why
    )


def _write(rows: Sequence[Disagreement]) -> None:
    """Print the kinds of disagreement; write some rows of each kind that r1kit won, and all others."""
    kinds: dict[tuple[str, str, str, str], list[Disagreement]] = {}
    for row in rows:
        kinds.setdefault((row.set, row.kind, row.math_verify, row.right), []).append(row)
    with ROWS.open("w", encoding="utf-8") as file:
        for (name, kind, theirs, right), alike in sorted(kinds.items()):
            print(f"  {len(alike):6} {name}: {kind}: math-verify says {theirs}; right is {right}")
            every = right == "r1kit" and alike[0].why == "by construction"
            for row in alike[:EXAMPLES] if every else alike:
                file.write(json.dumps(asdict(row) | {"count": len(alike)}, ensure_ascii=False) + "\n")


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
