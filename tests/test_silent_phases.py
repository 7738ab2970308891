"""A training that cannot learn says so: while it runs, in the report and at the end of the run; one that can
says nothing."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from small_world import model_directory

from r1kit.figures import SILENT, why_silent
from r1kit.recipe.recipe import load
from r1kit.runs.execute import run
from r1kit.train.grpo import GRPOConfig
from r1kit.train.ppo import PPOConfig
from r1kit.train.rollouts import Phase
from r1kit.train.silent_phases import Silence, cause
from r1kit.types import Completion, Problem, Rollout, Score

NAN = float("nan")


def phase(*groups: Sequence[Any], finish: str = "stop", names: Sequence[str] = ("own",)) -> Phase:
    """Groups of totals; a total that is a mapping gives the parts, whose sum it is."""
    rollouts, scores = [], []
    for number, totals in enumerate(groups):
        problem = Problem(f"p{number}", "t", "?", None)
        completion = Completion(np.arange(3), np.zeros(3), finish)  # type: ignore[arg-type]
        rollouts.append(
            [
                Rollout(problem, i, np.arange(2), completion, "", None, None, number)
                for i in range(len(totals))
            ]
        )
        scores.append([score(total, names) for total in totals])
    return Phase(rollouts, scores, len(groups), 1)


def score(total: Any, names: Sequence[str]) -> Score:
    if isinstance(total, dict):
        return Score(sum(value for value in total.values() if value is not None), total)
    return Score(total, {name: None if total != total else total for name in names})


@pytest.mark.parametrize(
    ("made", "compared", "filtered", "expected"),
    [
        (phase([1, 1], [0, 0]), "groups", False, "equal"),
        (phase([1, 1], [0, 0]), "phase", False, None),  # compared beyond their groups they differ
        (phase([1, 1], [1, 1]), "phase", False, "equal"),
        (phase([1, 1], [0, 1]), "groups", False, None),
        (phase([NAN, 1], [NAN, 0]), "groups", False, "equal"),
        (phase([NAN, NAN]), "groups", False, "failed"),
        (phase([{"a": None}, {"a": None}]), "groups", False, "not_applicable"),
        (phase([0, 0], names=()), "groups", False, "no_rewards"),
        (phase([1, 1], finish="length"), "groups", False, "cut_off"),
        (phase([0, 1], finish="length"), "groups", False, None),  # the rewards differ
        (phase([0, 1], finish="length"), "groups", True, "cut_off"),
        (phase([0, 1]), "groups", True, None),
        (phase([{"a": 1, "b": 0}, {"a": 0, "b": 1}]), "groups", False, "equal"),
        (phase([{"a": 1, "b": 0}, {"a": 0, "b": 1}]), "parts", False, None),
        (phase([{"a": 1, "b": 0}, {"a": 1, "b": 0}]), "parts", False, "equal"),
    ],
)
def test_why_a_phase_teaches_nothing(
    made: Phase, compared: Any, filtered: bool, expected: str | None
) -> None:
    assert cause(made, compared, filtered) == expected


def test_a_phase_without_scores_is_not_judged() -> None:
    assert cause(Phase(phase([1, 1]).groups, [], 1, 1), "groups", True) is None


def test_each_algorithm_says_what_it_compares() -> None:
    compared = {
        name: GRPOConfig(advantage=name).compared for name in ("group_std", "gdpo", "reinforce_pp", "rloo")
    }
    assert compared == {"group_std": "groups", "gdpo": "parts", "reinforce_pp": "phase", "rloo": "groups"}
    assert PPOConfig().compared == "phase"


def test_the_warning_comes_once_after_three_silent_phases_in_a_row() -> None:
    silence = Silence()
    found = [silence.feed(step, name) for step, name in enumerate(["equal", "equal", None] + ["equal"] * 5)]
    assert [bool(warning) for warning in found] == [False] * 5 + [True, False, False]
    assert "step 5: the last 3 phases taught nothing: all rollouts" in found[5]


def row(name: str | None) -> dict[str, float]:
    return {"reward/zero_std_groups": 1.0, **({SILENT + name: 1.0} if name else {})}


def test_a_training_is_judged_by_all_its_phases() -> None:
    assert why_silent([row("equal")] * 3 + [row("cut_off")] * 4) == why_silent([row("cut_off")])
    assert "max_tokens" in str(why_silent([row("cut_off")]))
    assert why_silent([row("equal")] * 9 + [row(None)]) is None
    assert why_silent([]) is None and why_silent([{"loss": 1.0}]) is None


REWARDS = """
def equal(rollouts):
    return [1.0] * len(rollouts)

def inapplicable(rollouts):
    return [None] * len(rollouts)

def first(rollouts):
    return [float(rollout.index == 0) for rollout in rollouts]
"""
CASES = {
    "equal": ("{'own.py:equal': 1.0}", "false", "all rollouts that are compared", 400),
    "none": ("{'own.py:inapplicable': 1.0}", "false", "no reward applied", 2),
    "no rewards": ("{}", "false", "it has no rewards", 2),
    "cut off": ("{'own.py:first': 1.0}", "true", "every completion was cut off", 1),
    "learns": ("{'own.py:first': 1.0}", "false", None, 2),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_cannot_learn_says_so_in_log_report_and_at_its_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rewards, filtered, expected, most = CASES[name]
    model_directory(tmp_path / "init", init_std=0.05)
    (tmp_path / "own.py").write_text(REWARDS)
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: silent
out: {tmp_path / "run"}
runtime: {{processes: 1}}
stages:
  - stage: r1_zero
    init: init
    tasks: {{chain: 1.0}}
    rewards: {rewards}
    grpo: {{steps: 4, problems: 2, group: 2, updates_per_rollout: 1, max_tokens: {most}, beta: 0.0,
           gate_problems: 0, overlong_filter: {filtered}}}
    learner: {{context: 500, lines: 4, precision: float32}}
"""
    )
    shown = io.StringIO()
    run(load(tmp_path / "recipe.yaml"), console=Console(file=shown, width=400))
    report = (tmp_path / "run/report.md").read_text()
    said = f"Stage r1_zero could not learn: {expected}"
    assert (said in report) == (f"warning: {said}" in shown.getvalue()) == (expected is not None)
    warned = "warning: step 2: the last 3 phases taught nothing" in shown.getvalue()
    assert warned == (expected is not None)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any(SILENT in key for one in rows for key in one) == (expected is not None)
