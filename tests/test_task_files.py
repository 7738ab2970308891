"""Tasks over a file that an earlier stage of the run writes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1kit.commands.prove import Subject
from r1kit.config import ConfigError
from r1kit.recipe.inputs import check_inputs
from r1kit.recipe.layers import Layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import StageError, run
from r1kit.stages.evaluate import Evaluate
from r1kit.stages.r1_zero import R1Zero
from r1kit.stages.stage import with_located_tasks

STAGES = """
import json
from r1kit.stages.recipe_names import TaskSpec
from r1kit.stages.stage import Context, Stage
from r1kit.tasks import load_tasks

class Writes(Stage):
    stage: str = "own.py:Writes"
    def run(self, ctx: Context) -> None:
        rows = [{"prompt": f"What is {n}+1?", "answer": str(n + 1)} for n in range(30)]
        (ctx.out / "data.jsonl").write_text("".join(json.dumps(row) + "\\\\n" for row in rows))

class Reads(Stage):
    stage: str = "own.py:Reads"
    tasks: TaskSpec
    def run(self, ctx: Context) -> None:
        ((task, _),) = load_tasks(self.tasks).values()
        found = [p.prompt for split in ("train", "held_out") for p in task.problems(split)]
        (ctx.out / "read.json").write_text(json.dumps(sorted(found)))
""".replace("\\\\n", "\\n")


def recipe(train: str, **options: Any) -> Any:
    stages = [
        {"stage": "own.py:Writes", "name": "writes"},
        {
            "stage": "own.py:Reads",
            "name": "reads",
            "tasks": {"sums": {"kind": "dataset", "train": train, **options}},
        },
    ]
    return build(Layers({"name": "files", "out": "run", "stages": stages}, source="files.yaml"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(STAGES)
    return tmp_path


def test_a_task_reads_what_an_earlier_stage_has_written(here: Path) -> None:
    run(recipe("@writes/data.jsonl"))
    assert "What is 7+1?" in (here / "run/stages/reads/read.json").read_text()
    assert '"@writes/data.jsonl"' in (here / "run/stages/reads/stage.json").read_text()  # as it was written


def test_what_no_stage_writes_is_an_error(here: Path) -> None:
    with pytest.raises(ConfigError, match="names no stage of this recipe"):
        recipe("@write/data.jsonl")
    with pytest.raises(StageError, match=r"wrote no 'rows.jsonl'"):
        run(recipe("@writes/rows.jsonl"))


def test_the_files_next_to_it_are_still_looked_at(here: Path) -> None:
    check_inputs(recipe("@writes/data.jsonl"))
    with pytest.raises(ConfigError, match=r"tasks\.sums\.held_out: gone\.jsonl: no such file"):
        check_inputs(recipe("@writes/data.jsonl", held_out="gone.jsonl"))
    with pytest.raises(ConfigError, match=r"tasks\.sums\.train: gone\.jsonl: no such file"):
        check_inputs(recipe("gone.jsonl"))


def test_references_are_replaced_in_the_options_of_tasks_alone() -> None:
    def locate(reference: str) -> Path:
        return Path("/run/stages") / reference[1:]

    options = {"kind": "dataset", "train": "@made/data.jsonl", "held_out": "own.jsonl"}
    zero = R1Zero.parse({"init": "@made", "tasks": {"a": options}}, "r1_zero")
    located = with_located_tasks(zero, locate)
    assert located.tasks["a"] == {**options, "train": "/run/stages/made/data.jsonl"}
    assert located.init == "@made" and zero.tasks["a"] == options
    assert located.grpo is zero.grpo and located.model_fields_set >= {"init", "tasks"}
    plain = R1Zero.parse({"tasks": {"mul": 1.0}}, "r1_zero")
    assert with_located_tasks(plain, locate) is plain
    both = Evaluate.parse(
        {
            "models": {"made": "@made"},
            "tasks": {"a": options},
            "general": {"prompts": {"b": options}, "score": {"gold_score": 1.0}},
        },
        "evaluate",
    )
    found = with_located_tasks(both, locate)
    assert found.tasks["a"]["train"] == found.general.prompts["b"]["train"] == "/run/stages/made/data.jsonl"
    assert found.models == both.models


def test_a_proof_reads_the_files_of_the_proved_run(tmp_path: Path) -> None:
    config = {"init": "@base", "tasks": {"a": {"kind": "dataset", "train": "@made/data.jsonl"}}}
    stage: Any = SimpleNamespace(folder=tmp_path / "stages" / "zero", record=SimpleNamespace(config=config))
    found = Subject(stage, tmp_path, "grpo").config
    assert found["tasks"]["a"]["train"] == str(tmp_path.resolve() / "stages" / "made" / "data.jsonl")
    assert found["init"] == "@base"
