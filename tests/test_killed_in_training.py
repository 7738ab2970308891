"""Reinforcement learning whose programs are judged in the sandbox, while its workers are killed: the weights
stay the same."""

import json
from pathlib import Path

import pytest
from copied_stages import copy_stage
from rich.console import Console
from test_sandbox import killing

from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import run
from r1kit.sandbox import pool

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]

# A nearly untrained model writes no program, so this reward makes one from the sampled tokens; its verdict is
# the reward.
JUDGED = """\
import math
from r1kit.sandbox import run_programs

PROGRAM = "def f(x):\\n    return sum(y % 7 for y in range(x)) + {wrong}"
TESTS = [{"args": [n], "expected": sum(y % 7 for y in range(n))} for n in (10, 3000)]
verdicts = []

def judged(completions, completion_ids):
    programs = [PROGRAM.format(wrong=sum(ids) % 2) for ids in completion_ids]
    found = run_programs([(program, TESTS) for program in programs], entry_point="f", time_limit_s=2.0)
    asserts = [(program, "assert f(10) == 24") for program in programs]
    found += run_programs(asserts, kind="asserts", entry_point="f", time_limit_s=2.0)
    verdicts.append([verdict.outcome for verdict in found])
    values = [math.nan if v.reward is None else v.reward for v in found]
    return [(one + other) / 2 for one, other in zip(values, values[len(programs):])]
"""
RECIPE = """\
extends: {nano}
stages:
  pretrain: {{tokens: 8_000}}
  r1_zero:
    tasks: {{reasoning: null, code: 1}}
    rewards: {{accuracy: 1.0, '{folder}/judged.py:judged': 1.0}}
    grpo: {{steps: 3}}
"""


def train(folder: Path, out: Path) -> None:
    """Run the recipe as far as r1_zero, in this process."""
    recipe = build(read_layers(folder / "code.yaml", [f"out={json.dumps(str(out))}"]))
    run(recipe, console=Console(file=(folder / "screen.txt").open("a")), show_rollouts=0)


def rewards(out: Path) -> list[float]:
    """The mean reward of every step of r1_zero."""
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["reward/mean"] for row in logged if row["stage"] == "r1_zero"]


def test_killed_workers_change_no_reward_and_no_weight(tmp_path):
    (tmp_path / "judged.py").write_text(JUDGED)
    nano = read_layers(ROOT / "recipes/nano.yaml", [])
    later = [stage.name for stage in build(nano).stages if stage.name not in ("pretrain", "r1_zero")]
    recipe = RECIPE.format(nano=ROOT / "recipes/nano.yaml", folder=tmp_path) + "".join(
        f"  {name}: null\n" for name in later
    )
    (tmp_path / "code.yaml").write_text(recipe)
    train(tmp_path, tmp_path / "calm")
    copy_stage(tmp_path / "calm", "pretrain", tmp_path / "troubled")
    workers = pool.shared_pool(pool.current_tier())
    before = workers.lost
    with killing(11, workers) as killed:
        train(tmp_path, tmp_path / "troubled")
    assert len(killed) >= 3
    assert workers.lost > before
    calm, troubled = (
        (tmp_path / out / "stages/r1_zero/model/model.safetensors").read_bytes()
        for out in ("calm", "troubled")
    )
    assert calm == troubled
    assert calm != (tmp_path / "calm/stages/pretrain/model/model.safetensors").read_bytes()
    assert rewards(tmp_path / "calm") == rewards(tmp_path / "troubled")
    assert any(reward > 0 for reward in rewards(tmp_path / "calm"))
