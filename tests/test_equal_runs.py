"""benchmarks/equal.py: how it compares two runs."""

import json
import math
from pathlib import Path

import pytest
from equal import KINDS, largest, size_of

from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("one", "two", "size"),
    [
        (0.0, 2e-6, 2e-6),  # absolute below 1
        (0.5, 0.5, 0.0),
        (200.0, 202.02, 0.01),  # relative above: 2.02 of 202.02
        (-1000.0, 1000.0, 2.0),
        (math.nan, math.nan, 0.0),
        (math.nan, 1.0, math.inf),
        (math.inf, 1.0, math.inf),
    ],
)
def test_how_far_apart_two_numbers_are(one: float, two: float, size: float) -> None:
    assert size_of(one, two) == pytest.approx(size, rel=1e-2)


def write(run: Path, *rows: dict[str, object]) -> Path:
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_the_largest_difference_of_each_stage_and_numbers_that_one_run_lacks(tmp_path: Path) -> None:
    one = write(
        tmp_path / "one",
        {"stage": "sft", "step": 0, "time": 1.0, "time/update": 3.0, "loss": 2.0, "tokens": 10},
        {"stage": "sft", "step": 1, "time": 2.0, "loss": 1.0, "tokens": 10},
        {"stage": "rl", "step": 0, "reward": 0.5},
    )
    two = write(
        tmp_path / "two",
        {"stage": "sft", "step": 0, "time": 7.0, "time/update": 9.0, "loss": 2.002, "tokens": 10},
        {"stage": "sft", "step": 1, "time": 8.0, "loss": 1.0, "tokens": 10},
        {"stage": "rl", "step": 0, "reward": 0.5, "rows": 4},
    )
    found = largest(one, two)
    count, difference = found["sft"]
    assert count == 4 and (difference.name, difference.step) == ("loss", 0)
    assert difference.size == pytest.approx(0.002 / 2.002)
    assert found["rl"][1].name == "rows" and found["rl"][1].size == math.inf
    assert largest(one, one)["rl"][1].size == 0.0


@pytest.mark.parametrize("name", KINDS)
def test_its_recipes_compute_everything_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(KINDS[name].recipe.format(root=ROOT, muon="float32"))
    (tmp_path / "odd.py").write_text((ROOT / "benchmarks/chaos/recipe/odd.py").read_text())
    for file in ("texts.jsonl", "written.jsonl", "questions.jsonl"):
        (tmp_path / file).write_text("")
    learners = [stage.learner for stage in build(read_layers(recipe, [])).stages if hasattr(stage, "learner")]
    assert len(learners) >= 8
    for learner in learners:
        assert (learner.precision, learner.head) == ("float32", "float32")
        assert learner.optimizer.kind == "adamw" or learner.optimizer.muon_precision == "float32"
