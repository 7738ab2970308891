"""The world of the claims about programs (recipes/findings/programs.py) by brute force, and how its programs
are measured (benchmarks/program_measures.py)."""

import itertools
import json
import re
from pathlib import Path

import pytest
from program_measures import HELD_OUT, scored

from r1kit.types import Verdict
from r1kit.user_code import Shape, load_name

WORLD = Path("recipes/findings/programs.py")
own = load_name(f"{WORLD}:documents", Shape("documents", "a function", functions=(("seed",),))).__globals__
PROBLEMS = [json.loads(line) for line in WORLD.with_name("program_problems.jsonl").read_text().splitlines()]
HIDDEN = [json.loads(line) for line in HELD_OUT.read_text().splitlines()]


def result(program, n):
    """f(n) of a program, run here: it is one of ours."""
    space = {}
    exec(program, space)
    return space["f"](n)


def number_in(prompt, pattern):
    found = re.search(pattern, prompt)
    assert found is not None, prompt
    return int(found[1])


def wanted(prompt, n):
    """f(n) by the words of the prompt, computed step by step."""
    k = number_in(prompt, r"(?:of (?:i\*i\+)?|plus )(\d+)")
    if "is the sum of i*i" in prompt:
        return sum(i * i + k for i in range(n))
    if "is the sum of" in prompt:
        return sum(k * i for i in range(n))
    if "counts the multiples" in prompt:
        return len([i for i in range(n) if i % k == 0])
    return number_in(prompt, r"f\(n\) is (\d+)") + sum(k for _ in range(n))


@pytest.mark.parametrize("name", own["FILES"])
def test_the_files_are_what_the_code_writes(name):
    assert WORLD.with_name(name).read_text() == own["text_of"](name)


def test_right_programs_do_what_the_prompt_says_and_wrong_ones_do_not():
    for row in PROBLEMS:
        expected = [wanted(row["prompt"], n) for n in range(130)]
        for program in row["solutions"]:
            assert [result(program, n) for n in range(130)] == expected, row["prompt"]
        for program in row["wrong"]:
            assert [result(program, n) for n in range(130)] != expected, row["prompt"]


def test_examples_are_right_and_a_table_of_them_passes_them_alone():
    for row in [*PROBLEMS, *HIDDEN]:
        for test in row["examples"]:
            (n,) = test["args"]
            assert test["expected"] == wanted(row["prompt"], n)
            assert f"f({n})={test['expected']}" in row["prompt"]
    for row in PROBLEMS:
        table = row["wrong"][-1]
        assert all(result(table, *test["args"]) == test["expected"] for test in row["examples"])
    for row in HIDDEN:
        assert all(test["expected"] == wanted(row["prompt"], *test["args"]) for test in row["tests"])


def test_no_held_out_problem_is_trained_on_or_in_the_corpus():
    hidden = {row["prompt"] for row in HIDDEN}
    assert len(hidden) == len(HIDDEN) and hidden.isdisjoint(row["prompt"] for row in PROBLEMS)
    documents = list(itertools.islice(own["documents"](5), 3000))
    assert not [text for text in documents if any(prompt in text for prompt in hidden)]
    assert documents[:50] == list(itertools.islice(own["documents"](5), 50))
    assert documents[:50] != list(itertools.islice(own["documents"](6), 50))


def test_the_corpus_has_programs_of_every_kind_in_its_shares():
    rng = own["random"].Random(0)
    programs = [own["written"](own["draw"](rng), rng)[1] for _ in range(4000)]
    share = {word: sum(word in program for program in programs) / len(programs) for word in (".get(", "for ")}
    unclean = sum("import math" in program or "m=n" in program for program in programs) / len(programs)
    assert share[".get("] == pytest.approx(own["TABLE"], abs=0.03)
    assert share["for "] == pytest.approx((1 - own["TABLE"]) * own["LOOP"], abs=0.03)
    assert unclean == pytest.approx(own["UNCLEAN"], abs=0.03)


def test_the_measures_of_a_problem_by_hand():
    verdicts = [
        Verdict("correct", seconds=0.002),
        Verdict("correct", seconds=0.006),
        Verdict("wrong", seconds=9.0),
        Verdict("wrong"),
    ]
    found = scored("p", verdicts, ["a", "b", "no Python", None], {"a": 0, "b": 3})
    assert found.measures == {"right": 0.5, "format": 0.75, "milliseconds": pytest.approx(4.0), "lint": 1.5}
    nothing = scored("p", [Verdict("wrong")] * 2, [None, "no Python"], {})
    assert nothing.measures == {"right": 0.0, "format": 0.5, "milliseconds": None, "lint": None}
