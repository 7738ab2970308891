"""Fine-tuning on conversations: ``messages``, ShareGPT's ``conversations``, and prompt and completion in
turns; which turns are trained on."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import context
from small_world import model_directory, tokenizer

from r1kit.chat import Chat
from r1kit.config import ConfigError, R1kitError
from r1kit.data.sources import pairs
from r1kit.stages.models import PromptStyle
from r1kit.stages.sft import SFT, training_row

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "And 4+4?"}]
SAID = [{"role": "assistant", "content": "Hello."}, {"role": "assistant", "content": "<think>4+4=8</think>8"}]
WHOLE = [SYSTEM, ASKED[0], SAID[0], ASKED[1], SAID[1]]
LAST = ([SYSTEM, ASKED[0], SAID[0], ASKED[1]], SAID[1]["content"])


def write(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def sharegpt(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": WHOLE},
        {"conversations": sharegpt(WHOLE)},
        {"conversations": WHOLE},
        {"prompt": WHOLE[:-1], "completion": WHOLE[-1:]},  # TRL's conversational form
        {"prompt": WHOLE[:-1], "completion": SAID[1]["content"]},
        {"messages": [ASKED[0]], "prompt": WHOLE[:-1], "completion": WHOLE[-1:]},  # named columns count
    ],
)
def test_the_last_assistant_turn_of_a_conversation_is_trained_on(row: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", row)
    assert pairs(file) == [LAST]
    chat = Chat(tokenizer())
    trained = training_row(chat, *pairs(file)[0])
    expected = chat.response_ids(SAID[1]["content"])
    assert trained.token_ids[trained.mask].tolist() == expected.tolist()
    before = [(turn["role"], turn["content"]) for turn in WHOLE[:-1]]
    assert trained.token_ids[~trained.mask].tolist() == chat.turn_ids(before).tolist()


def test_all_assistant_turns_may_be_trained_on_each_after_what_stands_before_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"messages": WHOLE}, {"messages": [ASKED[0], SAID[0]]})
    assert pairs(file, turns="all") == [
        ([SYSTEM, ASKED[0]], "Hello."),
        LAST,
        ("Hi", "Hello."),
    ]
    assert pairs(file, turns="last") == [LAST, ("Hi", "Hello.")]


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (WHOLE[:-1], "ends with an assistant turn"),
        ([SYSTEM, SAID[0]], "no user turn before it"),
        ([SAID[0], ASKED[0], SAID[1]], "no user turn before it"),
        ([ASKED[0], {"role": "assistant", "content": " "}], "an assistant turn is empty"),
        ([ASKED[0], {"role": "tool", "content": "7"}, SAID[0]], "the role 'tool' is not read"),
        ([], "a conversation is a list of turns"),
        ([ASKED[0], ASKED[1], SAID[0]], "two of one role"),
    ],
)
def test_a_conversation_that_cannot_be_trained_on_is_refused_before_the_run(
    turns: list[dict[str, str]], said: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.jsonl", {"messages": turns})
    [(key, error)] = SFT.parse({"init": "@base", "data": [str(file)]}, "recipe").input_errors()
    assert key == ("data", 0) and said in error and f"{file}:1" in error
    with pytest.raises(R1kitError, match=said):
        pairs(file)


def test_the_stage_trains_on_as_many_rows_as_turns(tmp_path: Path) -> None:
    base = model_directory(tmp_path / "base/model", max_positions=512).parent
    file = write(tmp_path / "a.jsonl", {"messages": WHOLE}, {"conversations": sharegpt(WHOLE[1:3])})
    for turns, count in (("last", 2), ("all", 3)):
        folder = tmp_path / turns
        folder.mkdir()
        ctx = context(folder, base)
        keys = {"init": "@base", "data": [str(file)], "turns": turns, "training": {"epochs": 1}}
        SFT.parse(keys, "recipe").run(ctx)
        assert json.loads((ctx.out / "report.json").read_text())["rows"] == count
    with pytest.raises(ConfigError, match="turns"):
        SFT.parse({"turns": "first"}, "recipe")


def test_a_recipes_system_turn_and_examples_come_before_the_row_and_are_not_trained_on(
    tmp_path: Path,
) -> None:
    tokenizer().save(tmp_path)
    shown = [{"prompt": "1+1?", "completion": "2"}]
    chat = PromptStyle.parse({"system": "Be kind.", "examples": shown}, "recipe").chat(tmp_path)
    row = training_row(chat, "2+3?", "5")
    turns = [("system", "Be kind."), ("user", "1+1?"), ("assistant", "2"), ("user", "2+3?")]
    assert row.token_ids[~row.mask].tolist() == Chat(tokenizer()).turn_ids(turns).tolist()
    assert row.token_ids[row.mask].tolist() == chat.response_ids("5").tolist()
