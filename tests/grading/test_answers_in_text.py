"""Which part of a response is the answer: cases by construction, by hand, of public data and mutated ones.

The seed of the generated cases is the date, or R1KIT_GRADING_SEED; every failure names it. All rows of the
data sets and 100,000 mutations: ``python benchmarks/verifiers.py styles mutations``."""

import datetime
import os
from collections import Counter

import pytest
from answers_in_text import generate
from by_hand import BY_HAND
from mutations import mutated
from public_data import DATA
from styles import in_styles
from variants import VARIANTS

from r1kit.tasks.mathematics.check import check_math, check_math_batch, final_answer, gold_text
from r1kit.tasks.mathematics.checker_pool import wait_until_ready

SEED = int(os.environ.get("R1KIT_GRADING_SEED", datetime.date.today().toordinal()))
GENERATED, MUTATED = 4_000, 20_000


@pytest.fixture(scope="module", autouse=True)
def _ready():
    assert wait_until_ready()


def test_generated_responses_get_the_verdict_that_they_were_made_for():
    cases = generate(GENERATED, SEED)
    right = sum(case.is_right for case in cases)
    assert 0.4 < right / len(cases) < 0.6
    failed = [
        (case, final_answer(case.response))
        for case in cases
        if (check_math(case.gold, case.response).outcome == "correct") != case.is_right
    ]
    kinds = Counter(case.kind for case, _ in failed)
    assert failed == [], f"R1KIT_GRADING_SEED={SEED}: {len(failed)} of {len(cases)}: {kinds}: {failed[:5]}"


def test_generated_cases_try_every_kind_on_both_sides():
    sides = {(case.kind.partition(" in ")[0], case.is_right) for case in generate(GENERATED, SEED)}
    for kind in ("stated", "sentence", "box", "list of boxes", "last line decides", "letters"):
        assert {(kind, True), (kind, False)} <= sides
    for kind in ("hedged", "denied", "refused", "no value", "bounded", "boxes side by side"):
        assert (kind, False) in sides


@pytest.mark.parametrize("kind", BY_HAND)
def test_cases_by_hand_of_each_kind(kind):
    failed = [
        (outcome, gold, response, final_answer(response))
        for outcome, cases in BY_HAND[kind].items()
        for gold, response in cases
        if (check_math(gold, response).outcome == "correct") != (outcome == "correct")
    ]
    assert failed == []


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants_of_each_kind(kind):
    cases = [(gold, text, True) for gold, right, _ in VARIANTS[kind] for text in right]
    cases += [(gold, text, False) for gold, _, wrong in VARIANTS[kind] for text in wrong]
    verdicts = check_math_batch([gold for gold, _, _ in cases], [text for _, text, _ in cases])
    failed = [
        (gold, text, verdict, final_answer(text))
        for (gold, text, is_right), verdict in zip(cases, verdicts, strict=True)
        if (verdict.outcome == "correct") != is_right or verdict.outcome == "failed"
    ]
    assert failed == []


@pytest.mark.parametrize(("name", "every"), [("gsm8k_train", 20), ("gsm8k_test", 4), ("cmath_test", 3)])
def test_worked_solutions_in_every_style_are_right_and_shifted_by_one_wrong(name, every):
    file = DATA / f"{name}.jsonl"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    failed = [
        (gold, response[-80:], is_right)
        for gold, response, is_right in in_styles(file, every)
        if (check_math(gold, response).outcome == "correct") != is_right
    ]
    assert failed == []


def test_no_mutated_response_raises_or_is_paid_for_another_number():
    paid = [
        (gold, response)
        for gold, response in mutated(MUTATED, SEED)
        if check_math(gold, response).outcome == "correct"
    ]
    assert paid == [], f"R1KIT_GRADING_SEED={SEED}"


@pytest.mark.parametrize(
    ("gold", "read"),
    [("#### 72", "72"), ("so \\boxed{3} and \\boxed{8}", "3, 8"), ("First \\boxed{3}. So the total is \\boxed{8}.", "8"),
     ("We add 2 and 2 to get 4, so the answer is 4.", "4"), ("Because 5*5=25, the area is 25.", "25"),
     ("5 \\text{ hours } 30 \\text{ minutes}", "5 \\text{ hours } 30 \\text{ minutes}"), ("x = 6", "x = 6")],
)  # fmt: skip
def test_the_answer_in_a_gold_text(gold, read):
    assert gold_text(gold) == read


@pytest.mark.parametrize(
    "gold", ["nan", "NaN", "None", "N/A", "null", "", "all real numbers except the number 3",
             "We prove that the sum is bounded in 3 steps for all n."],
)  # fmt: skip
def test_a_gold_text_that_is_no_answer_makes_nothing_right(gold):
    for response in (gold, f"\\boxed{{{gold}}}", "\\boxed{3}", f"The answer is {gold}."):
        assert check_math(gold, response).outcome in ("unverifiable", "wrong")
