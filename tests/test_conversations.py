"""System turns and earlier turns are kept wherever a prompt goes: general prompts, preferences, rows for
fine-tuning, and what a run writes."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_world import tokenizer

from r1kit.chat import Chat, problem_of, prompt_column
from r1kit.config import R1kitError
from r1kit.data.preferences import read_labelled, read_preferences
from r1kit.data.sources import pairs
from r1kit.stages.sft import SFT, training_row
from r1kit.tasks.overlap import without_duplicates
from r1kit.tasks.prompts import Prompts
from r1kit.types import Problem

SYSTEM = {"role": "system", "content": "Answer in French."}
USER, REPLY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "Quatre."}
BEFORE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Salut"}]
CHAT = Chat(tokenizer())


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def text_of(problem: Problem) -> str:
    return tokenizer().decode(CHAT.prompt_ids(problem), special=True)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, *BEFORE, USER]},
        {"messages": [SYSTEM, *BEFORE, USER, REPLY]},
        {"prompt": [SYSTEM, *BEFORE, USER], "response": [REPLY]},
    ],
)
def test_general_prompts_keep_their_conversation(row: Any, tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", row, {"prompt": "2+2?"})
    task = Prompts("general", train=str(train), held_out=str(write(tmp_path / "b.jsonl", {"prompt": "Why?"})))
    first, second = task.problems("train")
    assert first.id != second.id
    expected = CHAT.turn_ids([(turn["role"], turn["content"]) for turn in (SYSTEM, *BEFORE, USER)])
    assert CHAT.prompt_ids(first).tolist() == expected.tolist()
    assert "French" in text_of(first) and "French" not in text_of(second)


def test_rows_that_differ_in_the_system_turn_only_are_different() -> None:
    systems = ("Answer in French.", "Answer in German.", "Answer in French.")
    problems = [
        Problem("p", "t", "2+2?", "4", columns={"messages": ({"role": "system", "content": text},)})
        for text in systems
    ]
    assert without_duplicates(problems) == problems[:2]
    # A column of that name in the data is no turn.
    columns = [{"messages": [SYSTEM, USER]}, {"messages": [USER]}]
    assert len(without_duplicates([Problem("p", "t", "2+2?", "4", columns=one) for one in columns])) == 1


def test_a_prompt_survives_being_written_and_read(tmp_path: Path) -> None:
    problem = Problem("p", "t", "2+2?", "4", columns={"messages": (SYSTEM, *BEFORE)})
    plain = Problem("p", "t", "2+2?", "4")
    rows = [{"prompt": prompt_column(one), "completion": "<think>a</think>4"} for one in (problem, plain)]
    assert rows[1]["prompt"] == "2+2?"
    read = pairs(write(tmp_path / "data.jsonl", *rows))
    for (prompt, response), one in zip(read, (problem, plain), strict=True):
        assert CHAT.prompt_ids(problem_of(prompt)).tolist() == CHAT.prompt_ids(one).tolist()
        row = training_row(CHAT, prompt, response)
        ids = [*CHAT.prompt_ids(one).tolist(), *CHAT.response_ids(response).tolist()]
        assert row.token_ids.tolist() == ids


def test_fine_tuning_reads_trls_conversations_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    good = {"prompt": [SYSTEM, USER], "completion": [REPLY]}
    file = write(tmp_path / "a.jsonl", good)
    assert pairs(file) == [([SYSTEM, USER], "Quatre.")]
    assert list(SFT(name="s", data=[str(file)]).input_errors()) == []
    for row, message in (
        ({**good, "prompt": [SYSTEM]}, "column 'prompt': a prompt ends with a user turn"),
        ({**good, "prompt": []}, "column 'prompt': a conversation is a list of turns"),
        (
            {**good, "prompt": [{"role": "user", "content": [1]}]},
            "column 'prompt', turn 0: a part of the kind 'int'",
        ),
        ({**good, "completion": [USER]}, "column 'completion': one assistant turn"),
        (
            {**good, "completion": [REPLY, REPLY]},
            "column 'completion': one user turn, then one assistant turn",
        ),
    ):
        write(file, row)
        with pytest.raises(R1kitError, match=rf"a\.jsonl:1: {message}"):
            pairs(file)
        [(place, error)] = SFT(name="s", data=[str(file)]).input_errors()
        assert place == ("data", 0) and message in error


def test_preferences_and_labels_keep_their_conversation(tmp_path: Path) -> None:
    other = {**REPLY, "content": "Four."}
    rows = [
        {"prompt": [SYSTEM, USER], "chosen": [REPLY], "rejected": [other]},
        {"chosen": [SYSTEM, USER, REPLY], "rejected": [SYSTEM, USER, other]},
        {"prompt": "2+2?", "chosen": "Quatre.", "rejected": "Four."},
    ]
    read = read_preferences(write(tmp_path / "pairs.jsonl", *rows))
    texts = [text_of(one.problem) for one in read]
    assert texts[0] == texts[1] and "French" in texts[0] and "French" not in texts[2]
    assert read[0].problem.id == read[1].problem.id != read[2].problem.id
    rows = [{"prompt": [SYSTEM, USER], "response": "Quatre.", "safe": True}]
    assert "French" in text_of(read_labelled(write(tmp_path / "labels.jsonl", *rows))[0].problem)
    split = [{"chosen": [SYSTEM, USER, REPLY], "rejected": [USER, other]}]
    with pytest.raises(R1kitError, match="begin with different prompts"):
        read_preferences(write(tmp_path / "pairs.jsonl", *split))
