"""What a training can learn from: the rules on counts made by hand, the cause of a silent phase, the alarm of
a running training, and what a run says in its log, its report and at its end."""

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
from r1kit.train.learnable import Evidence, LearningAlarm, Setting, find, gather, silent_cause, upper_bound
from r1kit.train.ppo import PPOConfig
from r1kit.train.rollouts import Phase
from r1kit.types import Completion, Problem, Rollout, Score

NAN = float("nan")


def phase(
    *groups: Sequence[Any],
    finish: str = "stop",
    names: Sequence[str] = ("own",),
    answer: str | None = None,
    text: str = "",
) -> Phase:
    """Groups of totals; a total that is a mapping gives the parts, whose sum it is. Texts differ unless one
    is given."""
    rollouts, scores = [], []
    for number, totals in enumerate(groups):
        problem = Problem(f"p{number}", "t", "?", None)
        completion = Completion(np.arange(3), np.zeros(3), finish)  # type: ignore[arg-type]
        rollouts.append(
            [
                Rollout(problem, i, np.arange(2), completion, text or f"{i}", None, answer, number)
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
        (phase([0.1 + 0.2, 0.3]), "groups", False, "equal"),  # but for rounding
        (phase([0.300001, 0.3]), "groups", False, None),
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
        (phase([1, 1], [1, 1], names=("accuracy",), answer="4"), "groups", False, "too_easy"),
        (phase([0, 0], [0, 0], names=("accuracy",), answer="4"), "groups", False, "too_hard"),
        (phase([0, 0], [0, 0], names=("accuracy",)), "groups", False, "format"),  # no answer was read
        (phase([0, 0], [0, 0], names=("own",)), "groups", False, "equal"),  # whatever the template
        (phase([1, 1], [0, 0], text="a", names=("accuracy",), answer="4"), "groups", False, "same_text"),
        (phase([1, 1], [0, 0], names=("accuracy",), answer="4"), "groups", False, "equal"),
    ],
)
def test_why_a_phase_teaches_nothing(
    made: Phase, compared: Any, filtered: bool, expected: str | None
) -> None:
    assert silent_cause(made, compared, filtered) == expected


def test_a_phase_without_scores_is_not_judged() -> None:
    assert silent_cause(Phase(phase([1, 1]).groups, [], 1, 1), "groups", True) is None


def test_each_algorithm_says_what_it_compares() -> None:
    compared = {
        name: GRPOConfig(advantage=name).compared for name in ("group_std", "gdpo", "reinforce_pp", "rloo")
    }
    assert compared == {"group_std": "groups", "gdpo": "parts", "reinforce_pp": "phase", "rloo": "groups"}
    assert PPOConfig().compared == "phase"


GRPO = Setting("grpo", GRPOConfig(group=8, max_tokens=64), {"accuracy": 1.0, "language": 10.0})


def many(count: int, *kinds: Sequence[Any], **options: Any) -> Evidence:
    """The evidence of ``count`` groups of each kind."""
    return gather(phase(*[kind for kind in kinds for _ in range(count)], **options), "groups", False)


ONE_RIGHT, NONE_RIGHT, ALL_RIGHT = [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]


def accuracy(taught: int, even: int, of: Sequence[int] = NONE_RIGHT) -> Evidence:
    groups = [ONE_RIGHT] * taught + [of] * even
    return gather(phase(*groups, names=("accuracy",), answer="4"), "groups", False)


@pytest.mark.parametrize(
    ("taught", "even", "expected"),
    [
        (0, 16, [("too_hard", True)]),
        (0, 15, [("too_hard", False)]),  # too few groups to call it hopeless
        (1, 31, [("too_hard", True)]),  # one in 32
        (2, 30, [("too_hard", False)]),
        (3, 29, [("too_hard", False)]),
        (4, 28, []),  # one in eight
        (8, 248, [("too_hard", True)]),
        (9, 247, [("too_hard", False)]),
    ],
)
def test_the_thresholds_are_one_group_in_32_and_one_in_eight(
    taught: int, even: int, expected: list[tuple[str, bool]]
) -> None:
    assert [(one.kind, one.hopeless) for one in find(accuracy(taught, even), GRPO)] == expected


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    for n in (1, 16, 32, 64):
        assert upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-9)
    bound = upper_bound(1, 32)
    assert (1 - bound) ** 32 + 32 * bound * (1 - bound) ** 31 == pytest.approx(0.05, abs=1e-9)
    assert upper_bound(5, 5) == upper_bound(0, 0) == 1.0


def test_evidence_adds_up_as_if_it_were_one_phase() -> None:
    groups = [ONE_RIGHT, NONE_RIGHT, ALL_RIGHT]
    parts = [gather(phase(group, names=("accuracy",), answer="4"), "groups", False) for group in groups]
    assert sum(parts, Evidence()) == gather(phase(*groups, names=("accuracy",), answer="4"), "groups", False)
    whole = sum(parts, Evidence())
    assert (whole.uneven, whole.solved, whole.mastered, whole.mixed, whole.right) == (1, 2, 1, 1, 5)


def test_a_change_names_a_key_and_a_value() -> None:
    (easy,) = find(accuracy(1, 31, ALL_RIGHT), GRPO)
    assert easy.kind == "too_easy" and "grpo.curriculum: {easy: 1.0}" in easy.change
    (cut,) = find(many(16, [0, 0], finish="length"), GRPO)
    assert cut.kind == "cut_off" and "grpo.max_tokens: 128 (now 64)" in cut.change
    (same,) = find(many(16, [1, 1], text="a"), GRPO)
    assert same.kind == "same_text" and "grpo.temperature: 1.5 (now 1)" in same.change
    # 3 of 128 rollouts are right: half of the groups have a right one where (1 - 3/128)^size = 1/2.
    (hard,) = find(accuracy(3, 29), GRPO)
    assert "grpo.group: 30" in hard.change and (1 - 3 / 128) ** 30 < 0.5 < (1 - 3 / 128) ** 29


def language(right: float, wrong: float, groups: int) -> Evidence:
    """Groups in which one rollout is right, with this much of a language reward of weight 10."""
    pair = [(1.0, right), (0.0, wrong)]
    made = phase(*[[{"accuracy": one, "language": other} for one, other in pair]] * groups, answer="4")
    scores = [
        [Score(s.parts["accuracy"] + 10 * s.parts["language"], s.parts) for s in g] for g in made.scores_PG
    ]
    return gather(Phase(made.groups, scores, groups, 1), "groups", False)


def test_a_reward_that_outweighs_accuracy_is_named_with_a_weight_at_which_it_does_not() -> None:
    (found,) = find(language(0.5, 0.8, 16), GRPO)
    assert found.kind == "dominated" and not found.hopeless
    assert "rewards.language: 2 (now 10)" in found.change  # 0.5 / 0.3 = 1.67: a gap of 0.3 costs about a half
    assert find(language(0.8, 0.8, 16), GRPO) == []
    assert find(language(0.75, 0.8, 16), GRPO) == []  # wrong ones have more, but less than accuracy gives
    assert find(language(0.5, 0.8, 7), GRPO) == []  # too few groups with both


def test_failures_above_the_limit_come_first() -> None:
    broken = Evidence(groups=32, rollouts=256, failed=14, names=frozenset({"accuracy"}))
    assert [(one.kind, one.hopeless) for one in find(broken, GRPO)] == [("failed", True)]
    assert find(accuracy(16, 16) + Evidence(failed=5), GRPO) == []  # 5 of 128 are below a twentieth


def test_without_a_right_answer_it_is_doubtful_until_the_template_is_followed() -> None:
    def found(followed: int) -> list[tuple[str, bool]]:
        e = Evidence(
            groups=32, uneven=32, attempted=32, rollouts=256, judged=256, scored=256, followed=followed,
            names=frozenset({"accuracy", "format"}),
        )  # fmt: skip
        return [(one.kind, one.hopeless) for one in find(e, GRPO)]

    assert found(0) == [("format", True)] and found(12) == [("format", False)]
    assert found(13) == [("too_hard", False)] and found(128) == [("too_hard", True)]


def test_the_alarm_of_a_running_training_says_every_kind_once() -> None:
    alarm = LearningAlarm(GRPO)
    silent, fine = accuracy(0, 6), accuracy(6, 0)
    said = [alarm.feed(step, one) for step, one in enumerate([silent, silent, silent, silent, fine, silent])]
    assert [len(warnings) for warnings in said] == [0, 0, 1, 0, 0, 0]
    assert said[2][0].startswith("step 2: the last 3 phases teach nothing: too hard: 0 of 72 rollouts")
    easy = [alarm.feed(step, accuracy(0, 6, ALL_RIGHT)) for step in range(6, 9)]
    assert [len(warnings) for warnings in easy] == [0, 1, 1] and "too easy" in easy[2][0]
    assert "equal: rollouts that are compared" in easy[1][0]  # some groups all right, the others all wrong


def test_a_training_that_learns_sets_off_no_alarm() -> None:
    alarm = LearningAlarm(GRPO)
    assert not any(alarm.feed(step, accuracy(3, 3)) for step in range(20))
    few = LearningAlarm(GRPO)
    assert [bool(few.feed(step, accuracy(0, 1))) for step in range(17)] == [False] * 15 + [True, False]


def row(name: str | None) -> dict[str, float]:
    return {"reward/zero_std_groups": 1.0, **({SILENT + name: 1.0} if name else {})}


def test_a_training_is_judged_by_all_its_phases() -> None:
    assert why_silent([row("equal")] * 3 + [row("cut_off")] * 4) == why_silent([row("cut_off")])
    assert "max_tokens" in str(why_silent([row("cut_off")]))
    assert why_silent([row("equal")] * 9 + [row(None)]) is None
    right = [row(None) | {"reward/accuracy/mean": rate} for rate in (0.0, 0.0)]
    assert "no rollout of any of its 2 steps was right" in str(why_silent(right))
    assert why_silent([*right, row(None) | {"reward/accuracy/mean": 0.01}]) is None
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
    grpo: {{steps: 4, problems: 4, group: 2, updates_per_rollout: 1, max_tokens: {most}, beta: 0.0,
           gate_problems: 0, overlong_filter: {filtered}}}
    learner: {{context: 500, lines: 4, precision: float32}}
"""
    )
    shown = io.StringIO()
    run(load(tmp_path / "recipe.yaml"), console=Console(file=shown, width=400))
    report = (tmp_path / "run/report.md").read_text()
    said = f"Stage r1_zero could not learn: {expected}"
    assert (said in report) == (f"warning: {said}" in shown.getvalue()) == (expected is not None)
    warned = "the last 4 phases teach nothing" in shown.getvalue()
    assert warned == (expected is not None)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any(SILENT in key for one in rows for key in one) == (expected is not None)
