"""The rules of a training's health: each fires on rows made for it, and not on the rows next to them."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from r1kit.health import FEW, FIRST, MEMORY, PATIENCE, RULES, HealthWatch, find_signs, quiet_seconds
from r1kit.log import Log

Values = Sequence[Any]


def rows_of(**columns: Values) -> list[dict[str, Any]]:
    """Rows of one training; a name's double underscore is a slash."""
    names = [name.replace("__", "/") for name in columns]
    return [
        {"stage": "rl", "step": step, **dict(zip(names, values, strict=True))}
        for step, values in enumerate(zip(*columns.values(), strict=True))
    ]


def fired(**columns: Values) -> dict[str, tuple[int, int]]:
    """Rule -> its first and last step."""
    return {sign.rule.name: (sign.step, sign.until) for sign in find_signs(rows_of(**columns))}


CALM = [0.5 + 0.02 * (step % 3) for step in range(30)]

# Columns on which a rule fires, with its steps; then columns close by on which no rule does.
FIRES = {
    "same_reward": (
        {"reward__zero_std_groups": [0.5, 0.9, 0.9, 0.95, 0.9, 0.4]},
        (3, 4),
        {"reward__zero_std_groups": [0.9, 0.9, 0.8, 0.9, 0.9, 0.8]},
    ),
    "cut_off": (
        {"completions__clipped_ratio": [0.4, 0.5, 0.6, 0.5]},
        (3, 3),
        {"completions__clipped_ratio": [0.49] * 6},
    ),
    "entropy_collapsed": (
        {"policy__entropy": [0.4] * FIRST + [0.03] * 4},
        (FIRST + 2, FIRST + 3),
        {"policy__entropy": [0.4] * FIRST + [0.05] * 9},
    ),
    "length_exploding": (
        {
            "completions__mean_length": [50.0] * FIRST + [120.0] * 3,
            "completions__clipped_ratio": [0.0] * FIRST + [0.2] * 3,
        },
        (FIRST + 2, FIRST + 2),
        {  # R1-Zero's growth: much longer, and not cut off
            "completions__mean_length": [50.0] * FIRST + [500.0] * 9,
            "completions__clipped_ratio": [0.0] * FIRST + [0.05] * 9,
        },
    ),
    "verdicts_failing": (
        {"reward__failed": [0.0, 0.02, 0.03, 0.0]},
        (2, 2),
        {"reward__failed": [0.03, 0.0] * 4},
    ),
    "engine_and_learner_part": (
        {"sampling__logp_gap_mean": [0.01, 0.06, 0.07, 0.08]},
        (3, 3),
        {"sampling__logp_gap_mean": [0.2] * 5, "sampling__rounding_mean": [0.01] * 5},
    ),
    "reward_hacking": (
        {"watch__gold": [0.6, 0.4], "watch__alarm": [0.0, 1.0]},
        (1, 1),
        {"watch__gold": [0.6, 0.4], "watch__alarm": [0.0, 0.0]},
    ),
    "held_out_falls": (
        {"watch__pass_1": [0.5, 0.8, 0.6], "watch__pass_1_stderr": [0.04, 0.04, 0.04]},
        (2, 2),  # 0.2 below the best, three standard errors of the difference are 0.17
        {"watch__pass_1": [0.5, 0.8, 0.64], "watch__pass_1_stderr": [0.04, 0.04, 0.04]},
    ),
    "experts_uneven": (
        {"moe__max_violation": [0.5] * MEMORY + [2.5] * MEMORY},
        (2 * MEMORY - 1, 2 * MEMORY - 1),
        {"moe__max_violation": [2.5] * MEMORY + [0.5] * MEMORY},
    ),
    "loss_spike": (
        {"loss": [*CALM, 2.0, *CALM]},
        (30, 30),
        {"loss": [*CALM, 0.75, *CALM]},
    ),
    "update_skipped": ({"optim__skipped": [0.0, 1.0, 0.0]}, (1, 1), {"optim__skipped": [0.0] * 3}),
}


def test_every_rule_is_tried() -> None:
    assert set(FIRES) == {rule.name for rule in RULES}


@pytest.mark.parametrize("name", FIRES)
def test_a_rule_fires_where_it_should_and_not_close_by(name: str) -> None:
    columns, steps, calm = FIRES[name]
    assert fired(**columns)[name] == steps  # type: ignore[arg-type]
    assert name not in fired(**calm)  # type: ignore[arg-type]


def test_equal_groups_are_a_sign_only_where_the_training_says_that_it_learns_nothing() -> None:
    """REINFORCE++ compares beyond the group, and learns from groups whose rewards are all equal."""
    whole = {"reward__zero_std_groups": [1.0] * 5}
    assert fired(**whole) == {}
    signs = find_signs(rows_of(**whole, silent__too_easy=[1.0] * 5))
    assert [sign.rule.name for sign in signs] == ["same_reward"] and "harder problems" in signs[0].change


def test_the_rows_of_one_phase_count_once() -> None:
    """A phase of 16 updates is one phase, whose metrics stand in 16 rows."""
    cut = {"completions__clipped_ratio": [0.9] * 6}
    assert fired(**cut, time__rollout=[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]) == {}
    assert fired(**cut, time__rollout=[1.0, 2.0, 2.0, 3.0, 3.0, 3.0])["cut_off"][0] == 3


def test_two_trainings_do_not_mix_and_odd_values_are_no_values() -> None:
    low = [
        {"stage": stage, "step": step, "policy/entropy": 0.4 if stage == "a" else 0.01}
        for step in range(9)
        for stage in ("a", "b")
    ]
    assert find_signs(low) == []
    odd = [None, math.nan, True, "0.9", [1], {}, math.inf]
    assert find_signs(rows_of(completions__clipped_ratio=odd, loss=odd, reward__failed=odd)) == []


def test_the_terminal_prints_a_rule_once_and_those_of_the_training_itself_not_at_all(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=400)
    log = Log(tmp_path, "rl", console)
    for step in range(12):
        entropy = 0.4 if step < FIRST or step == 9 else 0.01
        log.step(step, 12, {"policy/entropy": entropy, "optim/skipped": 1.0})
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("warning: step 7: The entropy has collapsed") == 1
    assert printed.count("entropy has collapsed") == 1 and "skipped" not in printed
    assert len(HealthWatch("rl").signs) == 0


def test_a_resumed_training_is_compared_with_its_own_beginning(tmp_path: Path) -> None:
    first = Log(tmp_path, "rl", Console(file=io.StringIO()))
    for step in range(FIRST + 2):
        first.step(step, 20, {"policy/entropy": 0.4})
    console = Console(file=io.StringIO(), width=400)
    again = Log(tmp_path, "rl", console)
    for step in range(FIRST + 1, FIRST + 1 + PATIENCE):
        again.step(step, 20, {"policy/entropy": 0.01})
    assert "in the first 5 rows 0.4" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_is_quiet_after_ten_minutes_or_ten_steps() -> None:
    assert quiet_seconds(1000.0, 5.0, 1599.0) is None and quiet_seconds(1000.0, 5.0, 1601.0) == 601.0
    assert quiet_seconds(1000.0, 120.0, 2100.0) is None and quiet_seconds(1000.0, 120.0, 2201.0) == 1201.0


def test_a_share_of_equal_groups_counts_from_the_threshold_of_the_training_on() -> None:
    assert fired(reward__zero_std_groups=[1 - FEW + 0.01] * PATIENCE) != {}
    assert fired(reward__zero_std_groups=[1 - FEW] * PATIENCE) == {}
