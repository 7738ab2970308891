"""Alignment RL, the second RL stage of R1 (DeepSeek-R1, Nature version, section 3.2.2): rules where rules can
check, reward models elsewhere.

In the paper: 1,700 steps, of which only the last 400 have general prompts and preference rewards, because a
reward model that is optimised for longer is hacked (figure 6). reward = reasoning + general + language (eq.
8-10); temperature 0.7. Here it is one training, whose last ``preference_share`` of steps has general prompts
too; the schedule, the optimizer's moments and the reference go on across that step.

With ``watch.score`` a score that is not a reward is measured on separate prompts. An alarm is raised if it
falls while the reward models' scores rise (train/reward_hacking.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from r1kit.config import ConfigError
from r1kit.data.curriculum import require_correctness
from r1kit.records import UPDATES, read_json
from r1kit.rewards import WeightedReward, load_rewards
from r1kit.rewards.annotators import load_scorer
from r1kit.stages.hacking_watch import FEWEST_WATCHED, HackingWatch
from r1kit.stages.held_out_watch import WatchConfig, measurements, watch_phases
from r1kit.stages.models import PromptStyle
from r1kit.stages.preflight import PreflightMode
from r1kit.stages.recipe_names import RewardSpec, TaskSpec
from r1kit.stages.results import report
from r1kit.stages.rl import examine_model, held_out_watch, plan_of, reinforce
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan
from r1kit.tasks import load_tasks
from r1kit.tasks.task import Task
from r1kit.tasks.watch import WATCH, with_watch
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import LearnerConfig
from r1kit.train.preference import RewardModel
from r1kit.train.preflight import Preflight
from r1kit.train.rollouts import Watch
from r1kit.types import Problem, Rollout

SAFETY_KIND = "forbidden"  # the column kind of prompts that the safety model scores

WeightedTasks = Mapping[str, tuple[Task, float]]


class AlignmentWatch(WatchConfig):
    """As for every RL stage, and on the general prompts: the reward models' score and ``score``, one that is
    no reward (rewards/annotators.py, or your own ``file.py:function``), on ``prompts`` prompts that are
    neither trained on nor evaluated, from the step with preferences on. ``stop_when_hacked`` ends the stage
    at the alarm and keeps the model of that step. ``problems: 0`` leaves the held-out problems out."""

    problems: int = Field(64, ge=0)
    score: str = ""
    prompts: int = Field(96, ge=FEWEST_WATCHED)
    stop_when_hacked: bool = False

    @field_validator("score")
    @classmethod
    def _score_is_known(cls, score: str) -> str:
        if score:
            load_scorer(score)
        return score

    @model_validator(mode="after")
    def _stops_only_where_it_looks(self) -> "AlignmentWatch":
        if self.stop_when_hacked and not self.score:
            raise ValueError(
                "stop_when_hacked needs a score that is no reward, or nothing can show that the reward "
                "models are hacked: name one (score: my_judge.py:helpful)"
            )
        return self


class AlignmentRL(Stage):
    """``general_share`` of the problems are general ``prompts`` in the last ``preference_share`` of the
    steps; the paper's is 400/1700. They begin at the nearest start of a rollout phase.

    ``watch`` measures while the stage trains; ``preflight`` as in r1_zero.py."""

    writes: ClassVar[tuple[str, ...]] = ("model", UPDATES, "reasoning", "watch.jsonl", "report.json")

    stage: Literal["alignment_rl"] = "alignment_rl"
    init: str = "@sft"  # the model that it starts from
    reward_models: str = "@reward_models"  # the stage with helpful/ and safety/
    tasks: TaskSpec = {}
    prompts: TaskSpec = {}
    rewards: RewardSpec = {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    helpful_weight: float = 1.0  # of the helpfulness model's value
    safety_weight: float = 1.0  # of the safety model's value
    general_share: float = Field(0.3, ge=0.0, le=1.0)
    preference_share: float = Field(400 / 1700, gt=0.0, le=1.0)
    preflight: PreflightMode = "warn"
    watch: AlignmentWatch | None = None
    talk: PromptStyle = PromptStyle()
    grpo: GRPOConfig = GRPOConfig(temperature=0.7)  # the algorithm
    learner: LearnerConfig = LearnerConfig()

    @model_validator(mode="after")
    def _has_problems_throughout(self) -> "AlignmentRL":
        tasks, prompts = load_tasks(self.tasks), load_tasks(self.prompts)
        for name in tasks:
            if name in prompts:
                raise ValueError(
                    f"prompts.{name}: there is a task {name!r} already; give one of them another name"
                )
        if not prompts and self.general_share > 0:
            raise ValueError(
                "prompts: name the general prompts, for instance {general: {kind: prompts, train: "
                "prompts.jsonl}}, or set general_share: 0"
            )
        if not tasks and self.general_share < 1:
            raise ValueError(
                "tasks: name the reasoning tasks, or set general_share: 1 to train on general prompts alone"
            )
        if self.general_share == 1 and not tasks and self.first_with_preferences:
            raise ValueError("tasks: the steps before preference_share need some; or set preference_share: 1")
        return self

    @model_validator(mode="after")
    def _curriculum_has_a_pass_rate(self) -> "AlignmentRL":
        if self.grpo.curriculum is not None:
            require_correctness(self.rewards)
        return self

    @property
    def first_with_preferences(self) -> int:
        """The first step with general prompts: the start of the rollout phase nearest to ``preference_share``
        from the end."""
        phase = self.grpo.updates_per_rollout
        first = self.grpo.steps - max(1, round(self.grpo.steps * self.preference_share))
        return min(round(first / phase), (self.grpo.steps - 1) // phase) * phase

    def run(self, ctx: Context) -> None:
        init = ctx.model(self.init)
        models = self._reward_models(ctx, ctx.path(self.reward_models))
        preferences = [model.reward() for model in models]
        prompts = self._prompts()
        problems, changes = self._mixture(load_tasks(self.tasks), prompts)
        watches = self._watches(ctx, init, [task for task, _ in prompts.values()], preferences)
        rewards = [*self._rules(), *preferences]
        reinforce(
            ctx,
            init,
            self.talk,
            self.grpo,
            self.learner,
            problems,
            rewards,
            watches,
            changes,
            self.preflight,
        )
        ctx.runtime.release(*(model.model.learner for model in models))
        first = self.first_with_preferences
        report(ctx, steps_without_preference=first, steps_with_preference=self.grpo.steps - first)

    def plan(self) -> StagePlan:
        return plan_of(  # both reward models are as large as the policy
            self.grpo, self.init, self.learner, mode=self.preflight, watches=self._planned_watches(), judges=2
        )

    def _planned_watches(self) -> tuple[SamplingPhase, ...]:
        watch, rl = self.watch, self.grpo
        if watch is None:
            return ()
        held_out = watch_phases(watch, rl.steps, rl.max_tokens, rl.updates_per_rollout)
        times = measurements(watch.every, rl.steps, rl.updates_per_rollout, self.first_with_preferences) - 1
        each = float(watch.prompts)
        scored = SamplingPhase(each * times, rl.max_tokens, at_once=each, purpose="watch")
        return (*held_out, scored) if times else held_out

    def examine(self, ctx: Context) -> Preflight:
        """The pre-flight alone, with the problems and weights of the first step."""
        models = self._reward_models(ctx, ctx.path(self.reward_models))
        rewards = [*self._rules(), *(model.reward() for model in models)]
        problems, _ = self._mixture(load_tasks(self.tasks), self._prompts())
        init = ctx.model(self.init)
        try:
            return examine_model(ctx, init, self.talk, self.grpo, self.learner, problems, rewards)
        finally:
            ctx.runtime.release(*(model.model.learner for model in models))

    def _prompts(self) -> dict[str, tuple[Task, float]]:
        """The general prompts, without those that are kept for the watch."""
        return {
            name: (with_watch(task) if self.watch else task, weight)
            for name, (task, weight) in load_tasks(self.prompts).items()
        }

    def _mixture(
        self, tasks: WeightedTasks, prompts: WeightedTasks
    ) -> tuple[WeightedTasks, dict[int, dict[str, float]]]:
        """All problems with their weights at the beginning, and the weights from the step with preferences
        on."""
        before = {name: weight for name, (_, weight) in tasks.items()}
        after = share_weights(
            before, {name: weight for name, (_, weight) in prompts.items()}, self.general_share
        )
        first = self.first_with_preferences
        weights, changes = (before, {first: after}) if first else (after, {})
        both = {**tasks, **prompts}
        return {name: (task, weights.get(name, 0.0)) for name, (task, _) in both.items()}, changes

    def _rules(self) -> list[WeightedReward]:
        tasks = {**load_tasks(self.tasks), **load_tasks(self.prompts)}
        return load_rewards(self.rewards, {name: task for name, (task, _) in tasks.items()})

    def _reward_models(self, ctx: Context, folder: Path) -> list["PreferenceReward"]:
        """The helpful and the safety model, if they exist."""
        facts = read_json(folder / "report.json")
        scale = facts.get("helpful_mean", 0.0), facts.get("helpful_std", 1.0)
        settings = (
            ("helpful", self.helpful_weight, True, *scale),
            ("safety", self.safety_weight, False, 0.0, 1.0),
        )
        names = frozenset(load_tasks(self.prompts))
        found = []
        for name, weight, summary_only, mean, std in settings:
            if not (folder / name).is_dir():
                ctx.log.info(f"{folder}: no {name} model, so no reward for {name} responses")
                continue
            model = folder / name
            learner = ctx.runtime.learner(model, self.learner, scalar_head=True)
            judge = RewardModel(learner, self.talk.chat(model), self.learner.context, summary_only, mean, std)
            found.append(PreferenceReward(name, weight, judge, names))
        if not found:
            raise ConfigError(
                f"stage {ctx.name!r}: {folder} has neither a helpful nor a safety model; reward_models must "
                "name a stage of that kind"
            )
        return found

    def _watches(
        self, ctx: Context, init: Path, prompts: Sequence[Task], preferences: Sequence[WeightedReward]
    ) -> list[Watch]:
        watch = self.watch
        if watch is None:
            return []
        tasks = load_tasks(self.tasks)
        measured = watch.problems > 0 and (watch.tasks or tasks)
        held_out = held_out_watch(watch if measured else None, self.grpo, tasks, self.talk, init)
        each = -(-watch.prompts // max(1, len(prompts)))
        problems = [problem for task in prompts for problem in task.problems(WATCH)[:each]]
        if not prompts:
            return held_out
        if len(problems) < FEWEST_WATCHED:
            raise ConfigError(
                f"stage {ctx.name!r}: {len(problems)} prompts for the watch are too few; give more prompts "
                "(an eighth of them is for the watch), or set watch: null"
            )
        hacking = HackingWatch(
            ctx,
            self.grpo,
            self.first_with_preferences,
            problems[: watch.prompts],
            preferences,
            watch.every,
            watch.score,
            watch.stop_when_hacked,
        )
        return [*held_out, hacking]


def share_weights(
    tasks: Mapping[str, float], prompts: Mapping[str, float], general_share: float
) -> dict[str, float]:
    """Weights of tasks and general prompts by name. The prompts get ``general_share`` of the total weight,
    and the total is that of the tasks alone."""
    whole, general = sum(tasks.values()) or 1.0, sum(prompts.values()) or 1.0
    return {name: weight * (1 - general_share) for name, weight in tasks.items()} | {
        name: weight * general_share * whole / general for name, weight in prompts.items()
    }


@dataclass(frozen=True)
class PreferenceReward:
    """A reward model as a reward. It scores the problems of ``tasks`` that are of its kind, because the paper
    tags each query helpfulness or safety (section 3.1). The column ``kind`` decides: "forbidden" for the
    safety model, any other value for the helpful one. Prompts without that column are scored by both."""

    name: str
    weight: float
    model: RewardModel
    tasks: frozenset[str]

    def reward(self) -> WeightedReward:
        return WeightedReward(self.name, self.weight, self.score)

    def score(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        own = [place for place, rollout in enumerate(rollouts) if self._is_own(rollout.problem)]
        values: list[float | None] = [None] * len(rollouts)
        scores = self.model.scores([rollouts[place] for place in own]) if own else []
        for place, score in zip(own, scores, strict=True):
            values[place] = score
        return values

    def _is_own(self, problem: Problem) -> bool:
        kind = problem.columns.get("kind")
        return problem.task in self.tasks and (
            kind is None or (kind == SAFETY_KIND) == (self.name == "safety")
        )
