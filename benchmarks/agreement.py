"""Judge the same answers with check_math and with math-verify, and say who is right where they differ.

Of most sets the right verdict is known by construction: a gold answer is right, a shifted one is wrong. The
gold answers of MATH-500 held against each other have no such label; there a person decided, with a reason, in
``agreement_judged.jsonl``. A disagreement that is not decided there is printed as "not yet judged"."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

from math_verify import parse, verify  # type: ignore[import-untyped]

from r1kit.tasks.mathematics.check import check_math_batch, gold_text
from r1kit.tasks.mathematics.checker_pool import wait_until_ready

HERE = Path(__file__).parent
JUDGED = HERE / "agreement_judged.jsonl"
ROWS = HERE / "agreement.jsonl"
SEED = 0
CHUNK = 2_000
LONGEST_SHOWN = 160  # characters of the end of a response in a row of the file

sys.path += [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "grading")]


@dataclass(frozen=True, slots=True)
class Case:
    """A response to judge. ``kind``: the rule that it tries; ``is_right``: None if not known by
    construction."""

    kind: str
    gold: str
    response: str
    is_right: bool | None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A case that the two judge differently, and which of them is right."""

    set: str
    kind: str
    gold: str
    response: str
    r1kit: str
    math_verify: str
    right: str  # "r1kit", "math-verify", "not yet judged"
    why: str


def math_500(data: Path) -> Iterator[Case]:
    """Every gold answer in a box, and every worked solution."""
    for line in (data / "math500_test.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        yield Case("gold answer, boxed", row["answer"], f"\\boxed{{{row['answer']}}}", True)
        yield Case("worked solution", row["answer"], row["solution"], True)


def gold_pairs(data: Path) -> Iterator[Case]:
    """All pairs of different gold answers of MATH-500, each as an answer to the other."""
    rows = [json.loads(line) for line in (data / "math500_test.jsonl").open(encoding="utf-8")]
    for one, other in combinations(sorted({row["answer"] for row in rows}), 2):
        yield Case("gold answers of two problems", one, f"\\boxed{{{other}}}", None)
        yield Case("gold answers of two problems", other, f"\\boxed{{{one}}}", None)


def in_styles_of(name: str) -> Callable[[Path], Iterator[Case]]:
    """The worked solutions of a file in every style, right and shifted by one."""

    def cases(data: Path) -> Iterator[Case]:
        from styles import STYLES, in_styles

        count = len(STYLES[name.partition("_")[0]])
        for place, (gold, response, is_right) in enumerate(in_styles(data / f"{name}.jsonl")):
            yield Case(response.splitlines()[-1].replace(gold, "N") if is_right else "shifted", gold, response, is_right)
            assert place >= 0 and count

    return cases


def generated(data: Path) -> Iterator[Case]:
    """Generated answers in text."""
    from answers_in_text import generate

    for case in generate(4_000, SEED):
        yield Case(case.kind.partition(" in ")[0], case.gold, case.response, case.is_right)


def by_hand(data: Path) -> Iterator[Case]:
    """Answers in text written by hand."""
    from by_hand import BY_HAND

    for kind, outcomes in BY_HAND.items():
        for outcome, cases in outcomes.items():
            for gold, response in cases:
                yield Case(kind, gold, response, outcome == "correct")


def equivalence(data: Path) -> Iterator[Case]:
    """Generated pairs of equal and nearly equal answers, both ways."""
    from equivalence import pairs

    for pair in pairs(SEED, 18):
        yield Case(pair.kind, pair.gold, f"\\boxed{{{pair.said}}}", pair.same)
        if not pair.one_way:
            yield Case(pair.kind, pair.said, f"\\boxed{{{pair.gold}}}", pair.same)
