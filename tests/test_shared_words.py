"""The rule of ten words in a row leaves out what a data set's prompts have in common, and nothing else."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from r1kit.tasks import load_tasks
from r1kit.tasks.overlap import Frame, without_contaminated
from r1kit.types import Problem

SHOWN = (
    "Solve the sum. Write your thinking first, then the answer.\n"
    "Q: a jar holds three red and four blue beads, how many beads are in it? A: <think>3 + 4 = 7</think> 7\n"
    "Q: a box holds two large and nine small stones, how many stones are in it? A: <think>2+9=11</think> 11\n"
)
END = "\nPut the final answer between answer tags, and write nothing at all after the closing tag, please."
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se")


def question(number: int) -> str:
    """A text of 18 words, of which no two texts share many in a row."""
    rng = random.Random(number)
    return " ".join("".join(rng.choices(SYLLABLES, k=2)) for _ in range(18)) + f" {number}?"


LEAK = "a very long train of eleven grey wagons leaves the northern harbour at dawn with how many wheels?"


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def problems(texts: list[str]) -> list[Problem]:
    return [Problem(str(place), "t", text, "1") for place, text in enumerate(texts)]


def kept(train: list[str], held_out: list[str]) -> list[str]:
    return [problem.prompt for problem in without_contaminated(problems(train), held_out)]


FRAMES = {
    "examples before": lambda text, n: SHOWN + text,
    "an instruction behind": lambda text, n: text + END,
    "both": lambda text, n: SHOWN + text + END,
    "nine words before": lambda text, n: "Solve this sum and write down what you think: " + text,
    "two forms": lambda text, n: (SHOWN + text) if n % 2 else (text + END),
    "most of them": lambda text, n: (SHOWN + text) if n % 10 else text,
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_the_prompts_share_costs_no_row_and_a_real_leak_behind_it_is_still_found(name: str) -> None:
    framed = FRAMES[name]
    train = [framed(question(n), n) for n in range(1, 80)]
    held_out = [framed(question(n), n) for n in range(200, 230)]
    assert kept(train, held_out) == train
    leaked = f"In other words: {LEAK.replace('at dawn', 'today')}"
    for place in (1, 2):  # framed in either form
        both = [*train, framed(leaked, place)]
        assert kept(both, [*held_out, framed(LEAK, place)]) == train
        assert kept(both, [*held_out, LEAK]) == train  # the held-out file may lack the frame
        assert kept([*train, leaked], [*held_out, framed(LEAK, place)]) == train
    same = framed(question(3), 3)
    assert same in train and same not in kept(train, [*held_out, same])


def test_ten_own_words_in_a_row_are_a_leak_and_nine_are_not() -> None:
    train = [SHOWN + question(n) for n in range(1, 40)]
    words = LEAK.split()
    for count, found in ((9, False), (10, True)):
        row = f"{SHOWN}Zebra {' '.join(words[:count])} stop"
        assert (row not in kept([*train, row], [SHOWN + LEAK])) == found


def test_a_story_that_few_rows_share_is_no_frame() -> None:
    story = f"{LEAK} {question(77)}"
    train = [question(n) for n in range(1, 40)]
    variants = [f"{story} What is the name of {name}?" for name in SYLLABLES[:7]]
    assert kept([*train, *variants], [f"{story} Who leaves?"]) == train
    assert kept(variants, [f"{story} Who leaves?"]) == []  # seven rows are too few to be a form


def test_prompts_without_a_frame_are_compared_word_by_word() -> None:
    assert str(Frame.of([question(n) for n in range(40)])) == ""
    assert str(Frame.of([])) == "" and kept([], ["a"]) == []
    short = ["What is " + question(n) for n in range(40)]  # two words are no form
    assert Frame.of(short).prompts == 0


@pytest.mark.parametrize("kind", ["dataset", "prompts"])
def test_a_data_set_with_examples_before_every_question_keeps_its_rows_and_says_so(
    kind: str, tmp_path: Path
) -> None:
    train = [{"prompt": SHOWN + question(n), "answer": n} for n in range(1, 40)]
    held_out = [{"prompt": SHOWN + question(n), "answer": n} for n in range(100, 110)]
    leak = {"prompt": f"{SHOWN}Now {LEAK}", "answer": 1}
    files = {
        "train": write(tmp_path / "a.jsonl", [*train, leak]),
        "held_out": write(tmp_path / "b.jsonl", [*held_out, {"prompt": SHOWN + LEAK, "answer": 1}]),
    }
    task = load_tasks({"sums": {"kind": kind, **files}})["sums"][0]
    found = [problem.prompt for problem in task.problems("train")]
    assert found == [row["prompt"] for row in train]
    about = task.about()  # type: ignore[attr-defined]
    count = len(SHOWN.replace("<", " ").split())
    assert "40 of 40 prompts begin or end with the same words" in about and "\n" not in about and count > 40
