"""The miniature's corpus: a function of its seed, true where it claims to be, and never a held-out
problem."""

import re
from collections import Counter
from itertools import islice

import pytest

from r1kit.chat import parse
from r1kit.config import R1kitError
from r1kit.data.corpus import solved_documents
from r1kit.tasks import KINDS, REASONING, General, Procedural, is_held_out
from r1kit.tasks.documents import Layout
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.tasks.miniature.worked_solutions import holds, read_steps, takes_back
from r1kit.tokenizer import ASSISTANT, USER
from r1kit.types import Problem

# How a prompt looks in either language; written from the prompts, not from the code that makes them.
PATTERNS = {
    "chain": (r"Compute (\d+(?:[+-]\d+){2,5})\.", r"计算(\d+(?:[+-]\d+){2,5})。"),
    "mul": (r"Compute (\d+)\*(\d+)([+-]\d+)\.", r"计算(\d+)\*(\d+)([+-]\d+)。"),
    "eq": (r"Solve (\d+)\*x\+(\d+)=(\d+)\*x\+(\d+)\.", r"解方程(\d+)\*x\+(\d+)=(\d+)\*x\+(\d+)。"),
    "mod": (r"What remains of (\d+)\+(\d+) divided by (\d+)\?", r"(\d+)\+(\d+)除以(\d+)余几？"),
    "word": (
        r"has (\d+) \w+, buys (\d+) bags of (\d+) and gives (\d+) away\.(?: The rest is shared by (\d+)\.)?",
        r"有(\d+)个\w+，又买了(\d+)袋，每袋(\d+)个，送出(\d+)个。(?:剩下的(\d+)人平分。)?",
    ),
    "code": (
        r"Write a program for f\(1\)=(\d+),f\(2\)=(\d+),f\(3\)=(\d+)\.",
        r"写程序：f\(1\)=(\d+),f\(2\)=(\d+),f\(3\)=(\d+)。",
    ),
}


def identities(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Every problem that a text asks, as (kind, what makes it the same problem), worked out from the words
    alone."""
    found = []
    for kind, patterns in PATTERNS.items():
        for match in (match for pattern in patterns for match in re.finditer(pattern, text)):
            if kind == "chain":
                numbers = [int(term) for term in re.findall(r"[+-]?\d+", match[1])]
            else:
                numbers = [int(number or 1) for number in match.groups()]
            if kind in ("mul", "mod"):
                numbers[:2] = sorted(numbers[:2])
            if kind == "code":
                one, two, three = numbers
                degree = 1 if two - one == three - two else 2
                factor = (two - one) // (2**degree - 1)
                numbers = [degree, factor, one - factor]
            found.append((kind, tuple(numbers)))
    return found


def test_the_reading_of_prompts_agrees_with_the_kinds() -> None:
    for name in REASONING:
        for problem in (
            *Procedural(name, size=200).problems("train"),
            *Procedural(name, size=200).problems("held_out"),
        ):
            assert identities(problem.prompt) == [
                (name, tuple(KINDS[name].identity(problem.columns["parameters"])))
            ]


@pytest.mark.slow
def test_twenty_thousand_documents_hold_no_held_out_problem_in_either_language() -> None:
    seen: Counter[str] = Counter()
    evaluated = {
        (name, tuple(KINDS[name].identity(p.columns["parameters"])))
        for name in REASONING
        for p in Procedural(name).problems("held_out")
    }
    for text in islice(documents(11, CorpusMix()), 20_000):
        for kind, numbers in identities(text):
            seen[kind] += 1
            assert not is_held_out(kind, *numbers) and (kind, numbers) not in evaluated, text
    assert all(seen[kind] > 500 for kind in PATTERNS), seen


def test_held_out_general_prompts_never_occur() -> None:
    held_out = {p.prompt for p in General().problems("held_out")}
    train = {p.prompt for p in General().problems("train")}
    asked: Counter[str] = Counter()
    for text in islice(documents(12, CorpusMix(general=0.9, drills=0.0)), 6_000):
        plain = max((p for p in train if text.startswith(p)), key=len, default="")
        prompt = text.partition(USER)[2].partition(ASSISTANT)[0] if USER in text else plain
        assert prompt not in held_out
        if not prompt:  # plain text of no known training prompt: lists of facts
            assert not any(text.startswith((f"{p} ", f"{p}\n")) for p in held_out), text
        asked[prompt] += 1
    assert len(set(asked) & train) > 0.9 * len(train)


def test_documents_are_a_function_of_their_seed() -> None:
    first = list(islice(documents(1, CorpusMix()), 300))
    assert (
        first == list(islice(documents(1, CorpusMix()), 300)) != list(islice(documents(2, CorpusMix()), 300))
    )
    assert len(set(first)) > 295


def test_drills_are_true() -> None:
    facts = [
        fact
        for text in islice(documents(3, CorpusMix(drills=1.0, general=0.0)), 400)
        for fact in re.split(r", |\n|; ", text)
    ]
    assert len(facts) > 2000 and all(
        re.fullmatch(r"\d+[-+*/]\d+=\d+", fact) and holds(fact) for fact in facts
    )


CLEAN = {
    "drills": 0.0,
    "general": 0.0,
    "wrong": 0.0,
    "chat_layout": 1.0,
    "exact_tags": 1.0,
    "broken_tags": 0.0,
}


def solved(text: str) -> tuple[str, str, str]:
    prompt, _, body = text.removeprefix(USER).partition(ASSISTANT)
    thinking, answer = parse(body) or ("", "")
    return prompt, thinking, answer


def expected_answer(prompt: str) -> int | None:
    (kind, numbers), *_ = identities(prompt)
    if kind == "chain":
        return sum(numbers)
    if kind == "mul":
        return numbers[0] * numbers[1] + numbers[2]
    if kind == "eq":
        a, b, k, e = numbers
        return next(x for x in range(100) if a * x + b == k * x + e)
    if kind == "mod":
        return (numbers[0] + numbers[1]) % numbers[2]
    if kind == "word":
        return (numbers[0] + numbers[1] * numbers[2] - numbers[3]) // numbers[4]
    return None


@pytest.mark.parametrize("taken_back", [0.0, 1.0])
def test_without_noise_every_worked_solution_holds_and_every_answer_is_right(taken_back: float) -> None:
    for text in islice(documents(4, CorpusMix(**CLEAN, direct=0.0, taken_back=taken_back)), 600):
        prompt, thinking, answer = solved(text)
        truth = expected_answer(prompt)
        assert answer and (truth is None or int(answer) == truth), text
        steps = read_steps(thinking)
        assert steps and all(holds(step) for step in steps), text
        assert takes_back(thinking) == bool(taken_back)


def test_noise_and_layouts_come_in_the_shares_that_are_configured() -> None:
    mix = CorpusMix(**{**CLEAN, "direct": 0.6, "chat_layout": 0.7, "exact_tags": 0.5, "broken_tags": 0.2})
    texts = list(islice(documents(5, mix), 3000))
    chats = [text for text in texts if text.startswith(USER)]
    followed = [solved(text) for text in chats if parse(text.partition(ASSISTANT)[2])]
    assert 0.67 < len(chats) / len(texts) < 0.73
    # The exact ones; of the broken ones none follows the template, and those without tags cannot.
    assert 0.46 < len(followed) / len(chats) < 0.54
    assert 0.55 < sum(thinking == "" for _, thinking, _ in followed) / len(followed) < 0.65


def test_wrong_documents_are_wrong_about_as_often_as_configured() -> None:
    mix = CorpusMix(**{**CLEAN, "wrong": 1.0, "direct": 1.0, "slip_rate": 0.0})
    checked = [
        (expected_answer(prompt), answer)
        for prompt, _, answer in map(solved, islice(documents(6, mix), 2000))
    ]
    numeric = [(truth, int(answer)) for truth, answer in checked if truth is not None]
    assert (
        0.42 < sum(truth != answer for truth, answer in numeric) / len(numeric) < 0.55
    )  # half of the direct answers are off


def test_problems_of_ones_own_become_documents_once_an_epoch() -> None:
    problems = [
        Problem(str(i), "own", f"Question {i}?", str(i), columns={"solution": f"because {i}"})
        for i in range(7)
    ]
    mix = CorpusMix(**CLEAN, direct=0.0)
    texts = list(islice(solved_documents(problems, 1, mix), 21))
    for start in (0, 7, 14):
        epoch = {solved(text) for text in texts[start : start + 7]}
        assert epoch == {(f"Question {i}?", f"because {i}", str(i)) for i in range(7)}
    assert texts[:7] != texts[7:14]


def test_problems_without_an_answer_give_no_document() -> None:
    solved = Problem("a", "t", "1+1?", "2", columns={"solution": "1+1=2"})
    unsolved = Problem("b", "t", "reach 7", None, columns={"solution": ""})
    texts = list(islice(solved_documents([unsolved, solved], 1, Layout()), 30))
    assert not any("None" in text or "reach" in text for text in texts) and len(texts) == 30
    with pytest.raises(R1kitError, match="no training problem has an answer"):
        next(solved_documents([unsolved], 1, Layout()))
