"""Countdown against brute force: every expression over the numbers, computed with fractions."""

import itertools
import json
import random
from fractions import Fraction

import pytest

from r1kit.config import ConfigError, R1kitError
from r1kit.tasks import load_tasks
from r1kit.tasks.countdown import Countdown, evaluate, search
from r1kit.types import Problem


def expressions(numbers):
    """(text, value) of every expression that uses each of the numbers once, in every order and grouping."""
    if len(numbers) == 1:
        yield str(numbers[0]), Fraction(numbers[0])
        return
    for order in set(itertools.permutations(numbers)):
        for cut in range(1, len(order)):
            for left, a in expressions(order[:cut]):
                for right, b in expressions(order[cut:]):
                    yield f"({left} + {right})", a + b
                    yield f"({left} - {right})", a - b
                    yield f"({left} * {right})", a * b
                    if b:
                        yield f"({left} / {right})", a / b


def problem(numbers, target):
    return Problem("c/0", "countdown", "", None, columns={"nums": tuple(numbers), "target": target})


@pytest.mark.parametrize("numbers", [(3, 5, 7), (4, 4, 12), (1, 60, 9)])
def test_every_expression_is_judged_by_its_value(numbers):
    task, seen = Countdown("countdown", size=1), 0
    for text, value in expressions(numbers):
        assert evaluate(text)[1] == value
        for target in (int(value), int(value) + 1):
            expected = "correct" if value == target else "wrong"
            assert task.check(problem(numbers, target), text).outcome == expected, (text, target)
        seen += 1
    assert seen > 100


@pytest.mark.parametrize(
    "answer",
    ["(3+5)*7", " ( 3 + 5 ) * 7 ", "7*(5+3)", "\\boxed{(3+5)*7}", "-(-3-5)*7", "(3+5)×7", "((3+5)*7)"],
)
def test_right_expressions(answer):
    assert Countdown("countdown", size=1).check(problem((3, 5, 7), 56), answer).outcome == "correct"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("56", "uses [56]"),  # the target itself
        ("(3+5)*7*1", "uses"),  # a number that is not given
        ("(3+5)*7+3-3", "uses"),  # one that is used again
        ("7*8", "uses"),
        ("3+5*7", "equals 38"),
        ("(3+5)*7 = 56", "not an expression"),  # TinyZero's rule: the expression only
        ("3**5-7", "only whole numbers"),
        ("57//3+5-7", "only whole numbers"),
        ("3.0+5+7", "only whole numbers"),
        ("(3)(5)+7", "only whole numbers"),
        ("True*3+5+7", "only whole numbers"),
        ("(0x3+5)*7", "only whole numbers"),
        ("(0b11+5)*7", "only whole numbers"),
        ("(3+5)*1_0", "only whole numbers"),
        ("(3+5)*7 # as asked", "only whole numbers"),
        ("3/(5-5)+7", "divides by zero"),
        ("__import__('os').system('true')", "only whole numbers"),
        ("(lambda: 3)()", "only whole numbers"),
        ("(" * 150 + "3", "not an expression"),
        ("3+" * 200 + "5", "longer than"),
        ("", "not an expression"),
        ("\\boxed{3+5} \\boxed{7}", "several boxes"),
        ("3 5 7", "not an expression"),
        ("３+５+７", "not an expression"),  # full-width digits
    ],
)
def test_near_misses(answer, why):
    verdict = Countdown("countdown", size=1).check(problem((3, 5, 7), 56), answer)
    assert verdict.outcome == "wrong" and why in verdict.reason, verdict


def test_no_answer_is_wrong():
    assert Countdown("countdown", size=1).check(problem((3, 5, 7), 56), None).outcome == "wrong"


def test_fractions_are_exact():
    """8/(3-8/3) = 24: every intermediate value is a fraction; 1/3 is not .3333333333."""
    task = Countdown("countdown", size=1)
    assert task.check(problem((8, 3, 8, 3), 24), "8/(3-8/3)").outcome == "correct"
    assert evaluate("1/3")[1] == Fraction(1, 3)


def test_drawn_problems_can_be_reached_and_are_split_by_content():
    task = load_tasks({"countdown": {"size": 400}})["countdown"][0]
    train, held_out = task.problems("train"), task.problems("held_out")
    keys = [{(*sorted(p.columns["nums"]), p.columns["target"]) for p in part} for part in (train, held_out)]
    assert len(train) + len(held_out) == 400 and len(keys[0]) == len(train) and not keys[0] & keys[1]
    assert 20 < len(held_out) < 90
    for p in [*train[:40], *held_out[:10]]:
        assert 10 <= p.columns["target"] <= 100 and str(p.columns["target"]) in p.prompt
        assert any(value == p.columns["target"] for _, value in expressions(p.columns["nums"]))
    again = load_tasks({"countdown": {"size": 400}})["countdown"][0]
    assert [p.prompt for p in again.problems("train")] == [p.prompt for p in train]


def test_worked_solutions_are_right_and_vary():
    found = Countdown("countdown", size=200).write_responses(50, random.Random(0))
    assert len(found) == 50
    for p, response in found:
        thinking, _, rest = response.removeprefix("<think>").partition("</think>")
        answer = rest.removeprefix("<answer>").removesuffix("</answer>")
        assert Countdown("countdown", size=1).check(p, answer).outcome == "correct"
        tries = thinking.split("; ")
        assert tries[-1].endswith(" yes") and all(one.endswith(" no") for one in tries[:-1])
        for one in tries:
            for step in one.removesuffix(" yes").removesuffix(" no").split(", "):
                left, _, right = step.partition("=")
                assert evaluate(left)[1] == int(right)
            value = int(one.removesuffix(" yes").removesuffix(" no").rpartition("=")[2])
            assert (value == p.columns["target"]) == one.endswith(" yes")
    assert len({response.count(";") for _, response in found}) > 3
    assert search((1, 1, 1), 90, random.Random(0), 8) == ("", "")


def test_a_file_with_tinyzeros_columns(tmp_path):
    rows = [
        {"target": 56, "nums": [3, 5, 7]},
        {"target": 15, "nums": [7, 5, 3]},
        {"target": 9, "nums": [2, 7]},
    ]
    train, held_out = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out.write_text(json.dumps({"target": 56, "nums": [7, 3, 5]}) + "\n")
    task = Countdown("countdown", train=str(train), held_out=str(held_out))
    assert not list(task.input_errors())
    assert [p.columns["target"] for p in task.problems("train")] == [
        15,
        9,
    ]  # the first is held out, in another order
    assert [p.columns["nums"] for p in task.problems("held_out")] == [(7, 3, 5)]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"target": 5}, "nums"),
        ({"nums": "1, 2", "target": 3}, "nums"),
        ({"nums": [1, True], "target": 2}, "nums"),
        ({"nums": [1, 2], "target": 3.5}, "target"),
        ({"nums": [1, 2]}, "target"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, column):
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(row) + "\n")
    (path, error), *_ = Countdown("countdown", train=str(file)).input_errors()
    assert path == ("train",) and f"{file}:1: column {column}" in error
    with pytest.raises(R1kitError, match=f"column {column}"):
        Countdown("countdown", train=str(file)).problems("train")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"count": 1}, "count must be"),
        ({"targets": [50]}, "targets must be"),
        ({"targets": [90, 10]}, "targets must be"),
        ({"question": "make {target}"}, "question must contain"),
        ({"question": "{numbers} {target} {hint}"}, "question has other fields"),
        ({"held_out": "x.jsonl"}, "held_out without train"),
        ({"size": 0}, "size must be"),
    ],
)
def test_options_that_make_no_sense(options, why):
    with pytest.raises(ConfigError, match=why):
        load_tasks({"countdown": options})


def test_too_many_problems_are_refused():
    with pytest.raises(ConfigError, match="fewer than 500 different problems"):
        Countdown("countdown", count=2, largest=3, targets=(1, 9), size=500).problems("train")
