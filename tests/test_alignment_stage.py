"""Alignment RL: which reward model scores what, the watch and its own prompts, and one training across the
step at which preferences begin."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preference_world import SMALL, context, group_of, labels, printed, read, taste, write
from safetensors.torch import load_file
from scripted import Scripted
from small_world import KilledError, model_directory, tokenizer

from r1kit.chat import Chat
from r1kit.config import ConfigError
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.stages.alignment_rl import AlignmentRL, PreferenceReward, share_weights
from r1kit.stages.hacking_watch import HackingWatch
from r1kit.stages.reward_models import RewardModels
from r1kit.stages.stage import Context
from r1kit.tasks import load_tasks
from r1kit.tasks.miniature.general import General, gold_score, reference_answer
from r1kit.tasks.watch import with_watch
from r1kit.train import checkpoint
from r1kit.train.grpo import GRPOConfig
from r1kit.train.reward_hacking import StopTraining
from r1kit.train.rollouts import Policy
from r1kit.types import Problem, Rollout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("base") / "model").parent


# Alignment RL: who scores what


class Counts:
    """A judge that gives its rollouts 1, 2, 3 ..."""

    def scores(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float(number) for number, _ in enumerate(rollouts, 1)]


def preference(name: str, model: object, *tasks: str) -> PreferenceReward:
    return PreferenceReward(name, 1.0, model, frozenset(tasks))  # type: ignore[arg-type]


def test_reward_models_score_prompts_of_their_own_kind_and_untagged_ones_both() -> None:
    kinds = ("open", "forbidden", "talk", None, "forbidden")
    rollouts = [
        group_of(Problem(str(i), "mine", "?", None, columns={} if kind is None else {"kind": kind}), ["a"])[0]
        for i, kind in enumerate(kinds)
    ]
    rollouts.insert(2, group_of(Problem("r", "chain", "1+1", "2", columns={"kind": "open"}), ["a"])[0])
    assert preference("helpful", Counts(), "mine").score(rollouts) == [1.0, None, None, 2.0, 3.0, None]
    assert preference("safety", Counts(), "mine", "more").score(rollouts) == [None, 1.0, None, None, 2.0, 3.0]
    assert preference("helpful", Counts(), "other").score(rollouts) == [None] * 6


TASKS: dict[str, Any] = {"tasks": {"chain": {"size": 40}}, "prompts": {"general": 1}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": {}}, "prompts: name the general prompts"),
        ({"tasks": {}}, "tasks: name the reasoning tasks"),
        ({"tasks": {}, "general_share": 1.0}, "tasks: the steps before preference_share need some"),
        ({"prompts": {"chain": 1}}, "prompts.chain: there is a task 'chain' already"),
        ({"watch": {"score": "gold_scor"}}, "unknown scorer 'gold_scor': did you mean 'gold_score'"),
        ({"watch": {"every": 0, "score": "gold_score"}}, "watch.every"),
        ({"watch": {"stop_when_hacked": True}}, "needs a score that is no reward, or nothing can show"),
        ({"prompts": {"general": {"kind": "prompts"}}}, "needs train: FILE"),
    ],
)
def test_settings_of_alignment_rl_without_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlignmentRL.parse(TASKS | given, "recipe")
    assert AlignmentRL.parse(TASKS, "recipe").watch is None
    alone = {"prompts": {"general": 1}, "general_share": 1.0, "preference_share": 1.0}
    assert AlignmentRL.parse(alone, "recipe").first_with_preferences == 0
    assert AlignmentRL.parse({"tasks": {"chain": 1}, "general_share": 0.0}, "recipe").prompts == {}


@pytest.mark.parametrize(
    ("steps", "phase", "share", "first"),
    [
        (1700, 1, 400 / 1700, 1300),
        (1700, 16, 400 / 1700, 1296),  # 81.25 phases of 16: the nearest
        (1700, 16, 390 / 1700, 1312),  # 81.875 phases
        (17, 1, 4 / 17, 13),
        (100, 1, 1.0, 0),
        (3, 1, 0.001, 2),
        (4, 16, 0.25, 0),  # a single phase
        (40, 16, 0.1, 32),  # never none
    ],
)
def test_preferences_begin_with_a_phase_near_their_share_of_the_steps(
    steps: int, phase: int, share: float, first: int
) -> None:
    grpo = {"steps": steps, "updates_per_rollout": phase}
    assert AlignmentRL(**TASKS, grpo=grpo, preference_share=share).first_with_preferences == first


def test_general_prompts_have_their_share_of_the_problems() -> None:
    found = share_weights({"a": 3.0, "b": 1.0}, {"x": 1.0, "y": 3.0}, 0.3)
    assert found == pytest.approx({"a": 2.1, "b": 0.7, "x": 0.3, "y": 0.9})
    assert share_weights({}, {"x": 1.0, "y": 3.0}, 1.0) == pytest.approx({"x": 0.25, "y": 0.75})
    assert share_weights({"a": 2.0}, {"x": 5.0}, 0.0) == {"a": 2.0, "x": 0.0}


# The watch


def test_the_watch_has_prompts_that_are_neither_trained_on_nor_evaluated(tmp_path: Path) -> None:
    general = General()
    prompts = {name: {p.prompt for p in general.problems(name)} for name in ("train", "held_out", "watch")}
    assert with_watch(general) is general and len(prompts["watch"]) == 84
    assert not prompts["watch"] & (prompts["train"] | prompts["held_out"])
    assert {p.columns["kind"] for p in general.problems("watch")} == {
        p.columns["kind"] for p in general.problems("train")
    }
    assert all(gold_score(p, reference_answer(p, random.Random(0))) == 1.0 for p in general.problems("watch"))
    file = write(tmp_path / "prompts.jsonl", [{"prompt": f"Say {i}"} for i in range(600)])
    task = load_tasks({"mine": {"kind": "prompts", "train": str(file)}})["mine"][0]
    watched = with_watch(task)
    train, kept = ({p.id for p in watched.problems(name)} for name in ("train", "watch"))
    assert not train & kept and train | kept == {p.id for p in task.problems("train")}
    assert watched.problems("held_out") == task.problems("held_out") and watched.name == "mine"
    assert 35 <= len(kept) <= 96  # an eighth of about 525, deviation 7.6
    assert f"{len(kept)} of the training prompts are kept for the watch" in watched.about()  # type: ignore[attr-defined]


class LongWinded:
    """A judge that likes length."""

    def scores(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [len(str(r.answer)) / 200 for r in rollouts]


WATCHED = list(General().problems("watch"))
RIGHT = {p.prompt: reference_answer(p, random.Random(0)) for p in WATCHED}
WATCHING = GRPOConfig(steps=60, updates_per_rollout=1)


def measured(ctx: Context, surplus: Sequence[str], scorer: str, stop: bool = False) -> list[dict[str, float]]:
    """What the watch says, measurement by measurement, of a policy that gives right answers with a surplus.
    Preferences begin at step 20."""
    preferences = [preference(name, LongWinded(), "general").reward() for name in ("helpful", "safety")]
    watch = HackingWatch(ctx, WATCHING, 20, WATCHED, preferences, 5, scorer, stop)
    found = []
    for number, more in enumerate(surplus):
        engine = Scripted(lambda prompt, _, more=more: f"<think>a</think>{RIGHT[prompt]}{more}")  # type: ignore[misc]
        found.append(watch(Policy(None, engine, Chat(tokenizer())), 5 * number))  # type: ignore[arg-type]
    return found


SURPLUS = [""] * 8 + [" and so on" * 4] * 4


def test_the_watch_warns_where_the_judges_like_what_the_gold_score_does_not(
    tmp_path: Path, base: Path
) -> None:
    ctx = context(tmp_path, base)
    found = measured(ctx, SURPLUS, "gold_score")
    assert found[:4] == [{}] * 4  # before the judges are rewards they cannot be hacked
    assert [row["watch/alarm"] for row in found[4:]] == [0.0] * 5 + [1.0] * 3
    assert found[4]["watch/gold"] == 1.0 > found[-1]["watch/gold"]
    assert found[4]["watch/judges"] == pytest.approx(np.mean([len(RIGHT[p.prompt]) for p in WATCHED]) / 200)
    said = printed(ctx)
    assert said.count("the reward models are being hacked: since about step 25") == 1
    assert "the score gold_score fell from 1.000" in said and "set watch.stop_when_hacked" in said
    assert len(read(ctx.out / "watch.jsonl")) == 8


def test_the_watch_ends_the_training_where_it_is_to(tmp_path: Path, base: Path) -> None:
    with pytest.raises(StopTraining):
        measured(context(tmp_path, base), SURPLUS, "gold_score", stop=True)


def test_without_a_score_the_watch_logs_the_judges_alone(tmp_path: Path, base: Path) -> None:
    found = measured(context(tmp_path, base), SURPLUS, "")
    assert (
        all(set(row) == {"watch/judges"} for row in found[4:])
        and found[-1]["watch/judges"] > found[4]["watch/judges"]
    )


# Alignment RL: one training

LIVELY = """\
def even(completions, completion_ids):
    return [sum(i % 2 for i in ids) / len(ids) for ids in completion_ids]
"""
STEPS, FIRST = 17, 13  # a hundredth of the paper's 1,700 and 1,300


class Recorded(LocalRuntime):
    """A runtime whose policy, the first learner that is no judge, notes the scale of every update and the
    references that it was copied to, and stops at an update where it is to."""

    def __init__(self, dies_at: int = -1) -> None:
        super().__init__(LocalConfig(processes=1))
        self.dies_at, self.scales, self.copied = dies_at, [], []
        self.policy: Any = None

    def learner(self, model: Path, config: Any, scalar_head: bool = False) -> Any:
        made = super().learner(model, config, scalar_head)
        if scalar_head:
            return made
        if self.policy is None:
            self.policy, update = made, made.update

            def noted(rows: Any, objective: Any, scale: float) -> Any:
                if len(self.scales) == self.dies_at:
                    raise KilledError
                self.scales.append(scale)
                return update(rows, objective, scale)

            made.update = noted
        else:
            copy = made.copy_from

            def copied(other: Any) -> None:
                self.copied.append(len(self.scales))
                copy(other)

            made.copy_from = copied
        return made


@pytest.fixture(scope="module")
def judges(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished reward_models stage, hardly trained."""
    folder = tmp_path_factory.mktemp("judges")
    pairs, safety = write(folder / "own.jsonl", taste(40)), write(folder / "labels.jsonl", labels(40))
    ctx = context(folder, base)
    RewardModels(init="@base", preferences=str(pairs), safety=str(safety), epochs=1, learner=SMALL).run(ctx)
    return ctx.out


def aligning(folder: Path, **changes: Any) -> AlignmentRL:
    (folder / "lively.py").write_text(LIVELY)
    grpo = {
        "steps": STEPS, "problems": 2, "group": 3, "updates_per_rollout": 1, "max_tokens": 6, "beta": 0.05,
        "reference_refresh": 5, "schedule": {"kind": "linear"}, "save_every": 1, "dynamic_sampling": 1,
    }  # fmt: skip
    return AlignmentRL(
        init="@base",
        reward_models="@judges",
        grpo=grpo | changes.pop("grpo", {}),
        learner=SMALL,
        **(TASKS | {"rewards": {f"{folder}/lively.py:even": 1.0}, "general_share": 0.5} | changes),
    )


def weights(ctx: Context) -> bytes:
    return (ctx.out / "model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_alignment_rl_is_one_training_across_the_step_at_which_preferences_begin(
    tmp_path: Path, base: Path, judges: Path
) -> None:
    runtime = Recorded()
    ctx = context(tmp_path, base, runtime, judges=judges)
    stage = aligning(tmp_path, general_share=1.0)
    stage.run(ctx)
    assert stage.first_with_preferences == FIRST
    assert runtime.scales == pytest.approx([1 - step / 17 for step in range(17)])
    assert round(runtime.scales[FIRST], 4) == 0.2353  # 400 / 1,700 and 4 / 17, not 1
    assert runtime.copied == [5, 10, 15]  # 15 lies behind the step at which preferences begin
    rows = read(ctx.log.metrics_file)
    assert [row["step"] for row in rows] == list(range(STEPS)) and not any("part" in row for row in rows)
    facts = json.loads((ctx.out / "report.json").read_text())
    assert facts == {"steps_without_preference": 13, "steps_with_preference": 4}
    general = [
        {line["problem"].partition("/")[0] for line in read(file)}
        for file in sorted((tmp_path / "samples/stage").glob("step_*.jsonl"))
    ]
    assert len(general) == STEPS
    assert general == [{"chain"}] * FIRST + [{"general"}] * (STEPS - FIRST)
    assert not any("reward/helpful/mean" in row or "reward/safety/mean" in row for row in rows[:FIRST])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, base: Path, judges: Path) -> bytes:
    """The model of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    ctx = context(folder, base, judges=judges)
    aligning(folder).run(ctx)
    return weights(ctx)


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [FIRST - 1, FIRST, FIRST + 2])
def test_a_training_interrupted_around_that_step_continues_bit_for_bit(
    dies_at: int, tmp_path: Path, base: Path, judges: Path, straight: bytes
) -> None:
    ctx = context(tmp_path, base, Recorded(dies_at), judges=judges)
    with pytest.raises(KilledError):
        aligning(tmp_path).run(ctx)
    assert checkpoint.progress_of(ctx.out)["step"] == dies_at
    state = load_file(checkpoint.find(ctx.out) / "state.safetensors")
    counted = {
        int(tensor) for name, tensor in state.items() if re.fullmatch(r"optimizer\.\d+\.\d+\.step", name)
    }
    assert counted == {dies_at}  # Adam counts on from the step at which preferences begin
    ctx = context(tmp_path, base, resumed := Recorded(), judges=judges)
    aligning(tmp_path).run(ctx)
    assert len(resumed.scales) == STEPS - dies_at and weights(ctx) == straight


def test_alignment_rl_copes_without_one_of_the_reward_models(tmp_path: Path, base: Path) -> None:
    pairs, safety = write(tmp_path / "own.jsonl", taste(40)), write(tmp_path / "labels.jsonl", labels(40))
    mine = write(tmp_path / "mine.jsonl", [{"prompt": f"Say {i}"} for i in range(40)])
    for name, missing, source in (
        ("helpful", "safety", {"preferences": str(pairs)}),
        ("safety", "helpful", {"safety": str(safety)}),
    ):
        (folder := tmp_path / name).mkdir()
        made = context(folder, base)
        RewardModels(init="@base", **source, epochs=1, learner=SMALL).run(made)
        (after := folder / "after").mkdir()
        ctx = context(after, base, judges=made.out)
        stage = aligning(
            after,
            prompts={"mine": {"kind": "prompts", "train": str(mine)}},
            grpo={"steps": 2},
            general_share=0.9,
            preference_share=1.0,
        )
        stage.run(ctx)
        assert f"no {missing} model" in printed(ctx)
        parts = {key for row in read(ctx.log.metrics_file) for key in row}
        assert f"reward/{name}/mean" in parts and f"reward/{missing}/mean" not in parts
    (made.out / "safety").rename(made.out / "elsewhere")
    with pytest.raises(
        ConfigError, match="neither a helpful nor a safety model; reward_models must name a stage"
    ):
        stage.run(ctx)
