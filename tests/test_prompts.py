"""General prompts from files: what is read, what is held out, what is refused."""

import json
import random

import pytest

from r1kit.config import ConfigError, R1kitError
from r1kit.tasks import Task, load_tasks
from r1kit.tasks.task import AnsweredTask


def write(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def prompts(**options):
    task, weight = load_tasks({"mine": {"kind": "prompts", **options}})["mine"]
    assert isinstance(task, Task) and isinstance(task, AnsweredTask) and weight == 1.0
    return task


def test_rows_become_problems_without_an_answer_and_keep_their_columns(tmp_path):
    rows = [
        {"prompt": "How do I make tea?", "tag": 7},
        {"prompt": "怎么偷车？", "kind": "forbidden", "language": "zh"},
    ]
    task = prompts(
        train=write(tmp_path / "a.jsonl", rows), held_out=write(tmp_path / "b.jsonl", [{"prompt": "Hi"}])
    )
    tea, car = task.problems("train")
    assert (tea.prompt, tea.answer, tea.language, tea.columns["tag"]) == ("How do I make tea?", None, "en", 7)
    assert (car.task, car.language, car.columns["kind"]) == ("mine", "zh", "forbidden")
    assert tea.id != car.id and [p.prompt for p in task.problems("held_out")] == ["Hi"]
    verdict = task.check(tea, "Boil water.")
    assert verdict.outcome == "unverifiable" and verdict.reward is None
    assert task.about() == "mine: 2 train, 1 held out prompts of a.jsonl and b.jsonl, 0 with a written answer"


def test_without_a_held_out_file_an_eighth_is_held_out_and_each_prompt_comes_once(tmp_path):
    rows = [{"prompt": f"Say number {n}"} for n in range(400)]
    task = prompts(train=write(tmp_path / "a.jsonl", rows + rows[:50]))
    train, held_out = ({p.prompt for p in task.problems(split)} for split in ("train", "held_out"))
    assert len(train) + len(held_out) == 400 and not train & held_out
    assert 25 <= len(held_out) <= 75  # 50 expected, deviation 6.6
    more = prompts(train=write(tmp_path / "c.jsonl", rows[::-1]))
    assert {p.prompt for p in more.problems("held_out")} == held_out  # by the text, not by the place


def test_prompts_that_share_ten_words_with_a_held_out_one_are_left_out(tmp_path):
    shared = "one two three four five six seven eight nine ten"
    train = [{"prompt": f"Say {shared} please"}, {"prompt": "Say one two three"}]
    task = prompts(
        train=write(tmp_path / "a.jsonl", train),
        held_out=write(tmp_path / "b.jsonl", [{"prompt": f"{shared}!"}]),
    )
    assert [p.prompt for p in task.problems("train")] == ["Say one two three"]


USER, SYSTEM = {"role": "user", "content": "Hello!"}, {"role": "system", "content": "Be kind."}
REPLY = {"role": "assistant", "content": "Hi."}


@pytest.mark.parametrize(
    ("row", "response"),
    [
        ({"prompt": "Hello!"}, None),
        ({"prompt": "Hello!", "response": "Hi."}, "<think></think>Hi."),
        ({"prompt": "Hello!", "completion": "Hi."}, "<think></think>Hi."),
        (
            {"instruction": "Hello!", "completion": "Hi.", "thinking": "A greeting."},
            "<think>A greeting.</think>Hi.",
        ),
        ({"prompt": "Hello!", "response": "<think>So.</think>Hi."}, "<think>So.</think>Hi."),
        ({"prompt": [USER], "completion": [REPLY]}, "<think></think>Hi."),
        ({"messages": [SYSTEM, USER, REPLY]}, "<think></think>Hi."),
        ({"messages": [SYSTEM, USER]}, None),
    ],
)
def test_written_answers_in_the_usual_columns(tmp_path, row, response):
    task = prompts(
        train=write(tmp_path / "a.jsonl", [row]), held_out=write(tmp_path / "b.jsonl", [{"prompt": "?"}])
    )
    (problem,) = task.problems("train")
    written = [] if response is None else [(problem, response)]
    assert problem.prompt == "Hello!" and task.write_responses(3, random.Random(0)) == written


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "  "}, "a.jsonl:2: the prompt is empty"),
        ({"text": "Hello!"}, "a.jsonl:2: column 'prompt' is missing"),
        ({"messages": [USER, USER]}, "a.jsonl:2: column 'messages': one user turn, then one assistant turn"),
        ({"messages": [REPLY]}, "a.jsonl:2: column 'messages': a prompt ends with a user turn"),
        (
            {"prompt": [{"role": "tool", "content": "1"}]},
            "a.jsonl:2: column 'prompt', turn 0: the role 'tool' is not",
        ),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}]},
            "turn 0: a part of the kind 'image'",
        ),
        ({"prompt": "nan"}, "a.jsonl:2: the prompt is empty"),
        ({"prompt": float("nan")}, "a.jsonl:2: column 'prompt' is NaN"),
        ({"prompt": "Hello!", "language": "xx"}, "a.jsonl:2: column 'language': unknown language 'xx'"),
        ({"prompt": "Hello!", "response": [USER]}, "a.jsonl:2: column 'response': one assistant turn"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, row, said):
    file = write(tmp_path / "a.jsonl", [{"prompt": "Fine"}, row])
    with pytest.raises(R1kitError, match=said.replace(".", r"\.")):
        prompts(train=file).problems("train")
    write(tmp_path / "a.jsonl", [row, *({"prompt": f"Fine {n}"} for n in range(30))])
    kept = prompts(train=file, held_out=file, bad_rows="quarantine").problems("held_out")
    assert len(kept) == 30 and (tmp_path / "a.jsonl.bad.jsonl").is_file()


def test_missing_files_and_splits_are_errors_with_the_fix(tmp_path):
    with pytest.raises(ConfigError, match="needs train: FILE"):
        load_tasks({"mine": {"kind": "prompts"}})
    with pytest.raises(ConfigError, match="did you mean 'held_out'"):
        load_tasks({"mine": {"kind": "prompts", "heldout": "a.jsonl"}})
    with pytest.raises(R1kitError, match="no such file"):
        prompts(train=str(tmp_path / "none.jsonl")).problems("train")
    only = prompts(held_out=write(tmp_path / "a.jsonl", [{"prompt": "Hi"}]))
    with pytest.raises(R1kitError, match="no split 'train'; give it with train: FILE"):
        only.problems("train")


def test_each_written_answer_is_drawn_once_and_by_the_seed(tmp_path):
    rows = [{"prompt": f"Say number {n}", "response": f"{n}."} for n in range(60)]
    task = prompts(train=write(tmp_path / "a.jsonl", [*rows, {"prompt": "?"}]))
    some, again, other = (task.write_responses(20, random.Random(seed)) for seed in (1, 1, 2))
    assert some == again != other and len({p.id for p, _ in some}) == 20
    everything = task.write_responses(99, random.Random(1))
    held_out = {p.prompt for p in task.problems("held_out")}
    assert {p.prompt for p, _ in everything} == {row["prompt"] for row in rows} - held_out
