"""The experiments on objectives and tasks: the world's split and answers, tables with and without runs."""

import json
from itertools import islice
from pathlib import Path

import data_effects
import effects_world
import pytest
from small_world import model

from r1kit.data.fim import with_fim_tokens
from r1kit.data.masking import with_mask_token
from r1kit.model.huggingface import save_pretrained
from r1kit.tasks.task import is_held_out
from r1kit.tokenizer import Tokenizer


def test_no_document_has_a_held_out_problem_and_answers_are_right() -> None:
    task = effects_world.Sums(size=80)
    train, held_out = (task.problems(split) for split in ("train", "held_out"))
    assert len(train) == 80 and len(held_out) == 20
    text = "\n".join(islice(effects_world.documents(0), 3000))
    assert sum(one.prompt in text for one in train) > 10
    assert not any(one.prompt in text for one in held_out)
    for one in [*train, *held_out]:
        expression = one.prompt.removeprefix("Compute ").removesuffix(".")
        assert int(one.answer) == eval(expression) and 0 <= int(one.answer) <= 18
        assert is_held_out(effects_world.NAME, *map(int, one.id.split("/")[1].split(","))) == (
            one in held_out
        )
    assert task.check(train[0], train[0].answer).outcome == "correct"
    assert task.check(train[0], "x").outcome == task.check(train[0], None).outcome == "wrong"


@pytest.mark.parametrize("name", effects_world.TASKS)
def test_rows_of_a_task_are_different_and_none_is_held_out_too(name: str) -> None:
    test = effects_world.task_rows(name, 20, seed=1)
    prompts = [str(row["prompt"]) for row in test]
    rows = effects_world.task_rows(name, 40, 0, prompts)
    assert len({row["prompt"] for row in rows}) == 40 and not {row["prompt"] for row in rows} & set(prompts)
    for row in rows:
        lines = row.get("test_list", [])
        assert isinstance(lines, list)
        for line in lines:
            scope: dict = {}
            exec(str(row["completion"]), scope)
            exec(line, scope)


def test_a_cell_says_how_many_seeds_it_rests_on() -> None:
    assert data_effects.cell([None, None]) == "not measured yet"
    assert data_effects.cell([0.5, None]) == "0.500 (one seed)"
    assert data_effects.cell([0.1, 0.3], 1) == "0.2 (0.1..0.3; 2 seeds)"
    rows = [{"loss": float(9 - step)} for step in range(10)]
    assert data_effects.late(rows, "loss") == 0.5 and data_effects.late(rows, "other") is None


def test_tables_without_a_run_say_that_nothing_was_measured(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(data_effects, "RESULTS", tmp_path / "none.jsonl")
    lines = data_effects.base_table([tmp_path / "0"]) + data_effects.task_table([tmp_path / "tasks-0"])
    assert sum(line.count("not measured yet") for line in lines) == 5 * 7 + 6 + 5 * 5


def test_tables_read_runs(tmp_path: Path, monkeypatch) -> None:
    results = tmp_path / "results.jsonl"
    monkeypatch.setattr(data_effects, "RESULTS", results)
    rows = [
        {"seed": seed, "base": "mlm", "part": "masked", "masked_accuracy": 0.5 + seed / 10} for seed in (0, 2)
    ]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "0/stages/evaluate").mkdir(parents=True)
    scores = {
        name: {"overall": {"pass@1": 0.25}} for base in data_effects.BASES for name in (base, f"zero_{base}")
    }
    (tmp_path / "0/stages/evaluate/report.json").write_text(json.dumps({"models": scores}))
    line = next(line for line in data_effects.base_table([tmp_path / "0"]) if line.startswith("| mlm |"))
    assert "0.600 (0.500..0.700; 2 seeds)" in line and line.count("0.250 (one seed)") == 2


@pytest.mark.slow
def test_figures_of_a_base_are_measured_once(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(data_effects, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(data_effects, "HELD_OUT", 12)
    monkeypatch.setattr(data_effects, "PROBED", 40)
    texts = list(islice(effects_world.documents(2), 60))
    tokenizer = with_mask_token(with_fim_tokens(Tokenizer.train(texts, 316)))
    folder = tmp_path / "0/stages/fim/model"
    save_pretrained(model(vocab_size=tokenizer.vocab_size), folder)
    tokenizer.save(folder)
    data_effects.measure(tmp_path / "0")
    rows = data_effects.read_results()
    assert [row["part"] for row in rows] == ["next_token", "masked", "infilling", "probes"]
    found = {name: value for row in rows for name, value in row.items() if isinstance(value, float)}
    assert found["next_token_loss"] > 1 and 0 <= found["infilling"] <= 1 and 0.3 < found["probe_order"] <= 1
    data_effects.measure(tmp_path / "0")
    assert data_effects.read_results() == rows
