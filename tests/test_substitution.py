"""Other numbers and names in solved problems, and programs in other words: what is changed is right again,
and what is not clear is left alone."""

import random
import re
from fractions import Fraction

import pytest

from r1kit.data.code_mutation import independent, mutated, parsed, rename
from r1kit.data.substitution import (
    Solved,
    UnclearError,
    check_equations,
    computed,
    equations_in,
    numbers_in,
    other_names,
    other_numbers,
)
from r1kit.sandbox import run_programs
from r1kit.tasks import load_tasks

CLIPS = Solved(
    "Tom sold 48 clips in April and half as many in May. How many clips did Tom sell?",
    "Tom sold 48/2 = 24 clips in May. So Tom sold 48+24 = 72 clips.",
    "72",
)


def seeds(count):
    return [random.Random(seed) for seed in range(count)]


def test_numbers_are_exchanged_and_the_solution_is_computed_again():
    seen = set()
    for rng in seeds(30):
        new = other_numbers(CLIPS, rng)
        number = int(re.findall(r"sold (\d+) clips", new.prompt)[0])
        half, total = number // 2, number + number // 2
        assert number % 2 == 0 and new.prompt == CLIPS.prompt.replace("48", str(number))
        assert (
            new.solution
            == f"Tom sold {number}/2 = {half} clips in May. So Tom sold {number}+{half} = {total} clips."
        )
        assert new.answer == str(total)
        seen.add(number)
    assert len(seen) > 5 and 48 not in seen


def test_numbers_in_words_between_equations_follow():
    one = Solved("He has 20 eggs and eats 5.", "He has 15 left, because 20 - 5 = 15. So 15 + 15 = 30.", "30")
    for rng in seeds(10):
        new = other_numbers(one, rng)
        a, b = map(int, re.findall(r"\d+", new.prompt))
        left = a - b
        assert left > 0
        assert (
            new.solution
            == f"He has {left} left, because {a} - {b} = {left}. So {left} + {left} = {2 * left}."
        )


@pytest.mark.parametrize(
    "prompt, solution, answer, why",
    [
        ("A has 3 and 3.", "3 + 3 = 6", "6", "two things"),  # which of the two?
        (
            "A has 12 and 4 more, then 8.",
            "12 - 4 = 8 and 8 + 8 = 16",
            "16",
            "two things",
        ),  # a result or the 8?
        ("Two boys have 2 and 9.", "2 * 9 = 18", "18", "two things"),  # a digit and a word
        ("A paid 10 for ten pens.", "10 * 3 = 30", "30", "unknown origin"),
        ("A has 48, half of it is B's.", "Half of 48 is 24. 48 + 24 = 72", "72", "unknown origin"),
        ("A has 48 and 20.", "48 + 20 = 68", "70", "does not give the answer"),
        ("A has 48 and 20.", "48 + 20 = 70", "70", "not right"),
        ("A has 48 and 20.", "They are many.", "68", "no equations"),
        ("A has 48 and 20.", "x = 48 and 48 + 20 = 68", "68", "other words"),
        ("A has some.", "5 + 6 = 11", "11", "unknown origin"),
        ("A has 48 and 20.", "48 + 20 = 68", "many", "no number"),
        ("Each is cut into 2, 26 were eaten.", "26 / 2 = 13 and 13 * 2 = 26", "26", "two things"),
    ],
)
def test_what_is_not_clear_is_left_alone(prompt, solution, answer, why):
    with pytest.raises(UnclearError, match=why):
        other_numbers(Solved(prompt, solution, answer), random.Random(0))


@pytest.mark.parametrize(
    "left, value",
    [
        ("48/2", 24),
        ("3 * (4 + 5)", 27),
        ("$1,200 - 200", 1000),
        ("2 × 3.5", 7),
        ("7 x 8", 56),
        ("-3+5", 2),
        ("1/3", Fraction(1, 3)),
    ],
)
def test_expressions_are_computed_exactly(left, value):
    assert computed(left) == value


@pytest.mark.parametrize("left", ["1/0", "2**9", "a+1", "1+", "__import__('os')"])
def test_other_texts_are_no_expression(left):
    with pytest.raises(UnclearError):
        computed(left)


def test_numbers_and_equations_are_found_as_they_are_written():
    assert numbers_in("1,200 in 3 days, 0.5l, 20x 2, v2 and 7.") == [1200, 3, 20, 2, 7]
    assert numbers_in("小明有30支笔，又买了1,200支。") == [30, 1200]
    assert [(e.left, e.right) for e in equations_in("so $20x 2 = $40, and 3*(1+1) = 6")] == [
        ("$20x 2", 40), ("3*(1+1)", 6),
    ]  # fmt: skip
    check_equations("7 x 8 = 56", "56")


def test_every_changed_word_problem_is_right_by_brute_force():
    """The task computes its own solutions; a changed story is read again by the numbers that stand in it."""
    task = load_tasks({"word_problems": {"size": 300}})["word_problems"][0]
    changed = 0
    for number, problem in enumerate(task.problems("train")):
        solved = Solved(problem.prompt, str(problem.columns["solution"]), str(problem.answer))
        try:
            new = other_numbers(solved, random.Random(number))
        except UnclearError:
            continue
        changed += 1
        for equation in new.solution.split(", "):
            left, _, right = equation.partition(" = ")
            assert eval(left) == int(right)
        assert new.solution.rpartition(" = ")[2] == new.answer
        old, now = re.findall(r"\d+", problem.prompt), re.findall(r"\d+", new.prompt)
        assert len(old) == len(now) and re.sub(r"\d+", "#", problem.prompt) == re.sub(r"\d+", "#", new.prompt)
        given = dict(zip(old, now, strict=True))
        first, first_now = (re.findall(r"\d+", text)[:2] for text in (solved.solution, new.solution))
        assert first_now == [given[part] for part in first]
    assert changed > 100


def test_names_are_exchanged_alike_everywhere():
    texts = ["Tom gives Anna 3. Tomorrow Tom has 2.", "Tom has 5 - 3 = 2."]
    for rng in seeds(10):
        prompt, solution = other_names(texts, rng)
        ((he, she),) = re.findall(r"^(\w+) gives (\w+) 3", prompt)
        assert {he, she}.isdisjoint({"Tom", "Anna"}) and he != she
        assert prompt == f"{he} gives {she} 3. Tomorrow {he} has 2." and solution == f"{he} has 5 - 3 = 2."
    with pytest.raises(UnclearError, match="no name"):
        other_names(["A farmer has 3 cows."], random.Random(0))


PROGRAM = """
import math
LIMIT = 10

def area(width, height):
    scale = 2
    offset = 1
    total = 0
    for row in range(height):
        total += width * scale
    return total + offset + LIMIT - LIMIT

def twice(width):
    return [width for width in (width, width)]
"""
TESTS = [{"args": [3, 4], "expected": 25}, {"args": [1, 0], "expected": 1}]


def test_a_mutated_program_does_the_same():
    results = set()
    for rng in seeds(6):
        program = mutated(PROGRAM, "area", rng)
        assert "width" not in program and "def area(" in program and "LIMIT" in program
        results.add(program)
    assert len(results) > 3
    verdicts = run_programs([(program, TESTS) for program in results], entry_point="area")
    assert [verdict.outcome for verdict in verdicts] == ["correct"] * len(results)


@pytest.mark.parametrize(
    "program, kept",
    [
        ("def f(a):\n    return g(a=a)\ndef g(a):\n    return a", "a"),  # a keyword argument
        ("b = 1\ndef f(x):\n    global b\n    b = x\n    return b", "b"),  # a name of the module
        ("class A:\n    c = 1\n    def f(self):\n        c = self.c\n        return c", "c"),
        ("def f(d):\n    import d.e\n    return d", "d"),
    ],
)
def test_names_that_something_else_reads_stay(program, kept):
    tree = parsed(program)
    assert kept not in rename(tree, "", random.Random(0))


def test_a_name_in_the_tests_stays():
    assert rename(parsed("def f(size):\n    return size"), "assert f(size=3) == 3", random.Random(0)) == {}
    assert set(rename(parsed("def f(size):\n    return size"), "assert f(3) == 3", random.Random(0))) == {
        "size"
    }


@pytest.mark.parametrize(
    "one, other, free",
    [
        ("a = 1", "b = 2", True),
        ("a = 1", "b = a", False),
        ("b = a", "a = 1", False),
        ("a = 1", "a = 2", False),
        ("a = len(x)", "b = sum(y)", True),
        ("a = next(x)", "b = next(x)", False),
        ("a = x.pop()", "b = 1", False),
        ("x[0] = 1", "b = 1", False),
        ("a += 1", "b = 1", False),
        ("def f():\n    return 1", "def g():\n    return f()", True),
        ("def f(a=b):\n    return 1", "b = 2", False),
        ("a = f()", "b = 1", False),
    ],
)
def test_only_statements_without_effects_are_moved(one, other, free):
    first, second = parsed(one).body[0], parsed(other).body[0]
    assert independent(first, second) is free


@pytest.mark.parametrize("program", ["def f(:", "print(1)", "x = \x00"])
def test_what_cannot_be_mutated_says_so(program):
    with pytest.raises(UnclearError):
        mutated(program, "", random.Random(0))
