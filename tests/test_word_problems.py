"""Word problems: the story, the numbers and the answer belong together, and no problem is on both sides."""

import re

import pytest

from r1kit.config import ConfigError
from r1kit.tasks import load_tasks
from r1kit.tasks.word_problems import FORMS, WordProblems
from r1kit.types import Problem


def task(**options) -> WordProblems:
    return WordProblems("words", **options)


def problem(things: str = "apples", result: int = 1200) -> Problem:
    return Problem("w/0", "words", "", str(result), columns={"things": things, "result": result})


# What each form's name says, with the story's numbers in the order in which they stand there.
MEANING = {
    "a+b": lambda a, b: a + b,
    "a-b": lambda a, b: a - b,
    "a*b": lambda a, b: a * b,
    "a+b-c": lambda a, b, c: a + b - c,
    "a-b-c": lambda a, b, c: a - b - c,
    "a+b+c": lambda a, b, c: a + b + c,
    "a*b+c": lambda a, b, c: a * b + c,
    "a*b-c": lambda a, b, c: a * b - c,
    "a+(a+b)": lambda a, b: a + (a + b),
    "a+(a-b)": lambda a, b: a + (a - b),
}


def test_the_answer_is_what_the_form_makes_of_the_numbers_in_the_story() -> None:
    seen = set()
    for p in [*task(size=1500).problems("train"), *task(size=1500).problems("held_out")]:
        form, *numbers = p.columns["identity"]
        in_story = [int(number) for number in re.findall(r"\d+", p.prompt)]
        assert sorted(in_story) == numbers and min(numbers) >= 2 and max(numbers) <= 20
        result = MEANING[form](*in_story)
        assert p.difficulty == 1 + (len(form) > 3)
        assert p.answer == str(result) and p.columns["result"] == result >= 1
        for step in p.columns["solution"].split(", "):
            left, _, right = step.partition(" = ")
            assert eval(left) == int(right) >= 1
        assert p.columns["solution"].endswith(f"= {result}")
        assert p.prompt.count(p.columns["things"]) >= 2 and not re.search(r"[{}]", p.prompt)
        seen.add(form)
    assert seen == set(MEANING) == {form.name for form in FORMS}


def test_neither_a_problem_nor_its_numbers_in_the_same_form_are_on_both_sides() -> None:
    words = task(size=4000)
    sides = words.problems("train"), words.problems("held_out")
    prompts = [{p.prompt for p in side} for side in sides]
    identities = [{p.columns["identity"] for p in side} for side in sides]
    assert not prompts[0] & prompts[1] and not identities[0] & identities[1]
    assert len(sides[0]) + len(sides[1]) == 4000 == len(prompts[0] | prompts[1])
    assert 0.08 < len(sides[1]) / 4000 < 0.18
    # The rule has work to do: there are problems that differ in nothing but words.
    assert len(identities[0]) < len(prompts[0])
    # The other order of the same numbers in the same form counts as the same problem.
    orders = {(p.columns["identity"], tuple(re.findall(r"\d+", p.prompt))) for p in sides[0]}
    assert len(orders) > len({identity for identity, _ in orders})


def test_sides_do_not_depend_on_seed_or_size() -> None:
    """What another seed trains on is never what this one measures."""
    trained = {p.columns["identity"] for p in task(size=4000, seed=1).problems("train")}
    assert not trained & {p.columns["identity"] for p in task(size=2000, seed=0).problems("held_out")}


def test_problems_are_the_same_on_every_call_and_others_with_another_seed() -> None:
    first, again, other = (task(size=50, seed=seed).problems("train") for seed in (0, 0, 1))
    assert [p.prompt for p in first] == [p.prompt for p in again] != [p.prompt for p in other]


@pytest.mark.parametrize(
    "answer",
    ["1200", " 1200 ", "1,200", "1200.", "1200.0", "1200 apples", "1200 Apples.",
     "\\boxed{1200}", "The answer is \\boxed{1200}.", "1200 apple"],
)  # fmt: skip
def test_right_answers(answer: str) -> None:
    assert task(size=1).check(problem(), answer).outcome == "correct"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "no answer"),
        ("", "not one number"),
        ("-1200", "-1200, not 1200"),
        ("1201", "1201, not 1200"),
        ("1200.5", "not 1200"),
        ("1200 1200", "not one number"),
        ("1200 or 1201", "not one number"),
        ("1000 + 200", "not one number"),  # a calculation, not its result
        ("x = 1200", "not one number"),
        ("1200 pears", "pears, not apples"),
        ("1200 dozen", "dozen, not apples"),
        ("1,20,0", "not one number"),
        ("1e3", "not one number"),
        ("twelve hundred", "not one number"),
        ("１２００", "not one number"),  # full-width digits
        ("\\boxed{1200} \\boxed{1200}", "several boxes"),
        ("1200%", "not one number"),
    ],
)
def test_wrong_answers(answer: str | None, why: str) -> None:
    verdict = task(size=1).check(problem(), answer)
    assert verdict.outcome == "wrong" and why in verdict.reason, verdict


@pytest.mark.parametrize("steps", [[1], [2], [1, 2]])
def test_problems_have_so_many_steps(steps: list[int]) -> None:
    found = task(steps=steps, size=200).problems("train")
    assert {p.columns["solution"].count("=") for p in found} == set(steps)


def test_a_recipe_may_give_it_a_name_and_a_weight() -> None:
    named = load_tasks({"sums": {"kind": "word_problems", "size": 40, "weight": 2.0}})
    words, weight = named["sums"]
    assert weight == 2.0 and words.name == words.problems("train")[0].task == "sums"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"largest": 3}, "largest must be"),
        ({"largest": True}, "largest must be"),
        ({"size": 0}, "size must be"),
        ({"steps": []}, "steps must be"),
        ({"steps": [3]}, "steps must be"),
        ({"steps": [1, 3]}, "steps must be"),
        ({"size": 100_001}, "size must be"),
    ],
)
def test_options_that_make_no_sense(options: dict, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load_tasks({"word_problems": options})


def test_as_many_problems_as_the_options_allow() -> None:
    words = task(largest=4, size=100_000)
    assert len({p.prompt for side in ("train", "held_out") for p in words.problems(side)}) == 100_000
