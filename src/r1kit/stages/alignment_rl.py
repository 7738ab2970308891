"""Alignment RL, the second RL stage of R1 (DeepSeek-R1, Nature version, section 3.2.2): rules where rules can
check, judges elsewhere.

In the paper: 1,700 steps, of which only the last 400 have general prompts and preference rewards, because a
reward model that is optimised for longer is hacked (figure 6). reward = reasoning + general + language (eq.
8-10); temperature 0.7. Here ``preference_share`` of the steps see general prompts. A gold score on held-out
prompts is watched beside the judges' own, with an alarm where the two part (train/reward_hacking.py)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from r1kit.data.curriculum import require_correctness
from r1kit.rewards import WeightedReward, load_rewards
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, model_of
from r1kit.stages.recipe_names import RewardSpec, TaskSpec
from r1kit.stages.results import report
from r1kit.stages.rl import plan_of, reinforce
from r1kit.stages.sampling import sample
from r1kit.stages.stage import Context, Stage, StagePlan
from r1kit.tasks import load_tasks
from r1kit.tasks.miniature.general import General, gold_score
from r1kit.train import checkpoint
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import LearnerConfig, Metrics
from r1kit.train.preference import RewardModel
from r1kit.train.reward_hacking import Measurement, Measurements, Parting, StopTraining
from r1kit.train.rollouts import Policy, Watch
from r1kit.types import Rollout, Sampling


class AlignmentRL(Stage):
    """``general_share`` of the prompts are general ones in the last ``preference_share`` of the steps; the
    paper's is 400/1700. ``stop_when_hacked`` ends the stage at the watch's alarm, with the model as it is
    then."""

    writes: ClassVar[tuple[str, ...]] = ("model", "reasoning", "watch.jsonl", "report.json")

    stage: Literal["alignment_rl"] = "alignment_rl"
    init: str = "@sft"
    reward_models: str = "@reward_models"
    tasks: TaskSpec = {"reasoning": 1.0}
    rewards: RewardSpec = {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    helpful_weight: float = 1.0
    safety_weight: float = 1.0
    general_share: float = Field(0.3, ge=0.0, le=1.0)
    preference_share: float = Field(400 / 1700, gt=0.0, le=1.0)
    stop_when_hacked: bool = False
    talk: PromptStyle = PromptStyle()
    grpo: GRPOConfig = GRPOConfig(temperature=0.7)
    learner: LearnerConfig = LearnerConfig()

    @model_validator(mode="after")
    def _general_is_a_name_of_this_stage(self) -> "AlignmentRL":
        if "general" in load_tasks(self.tasks):
            raise ValueError(
                "tasks.general: the stage adds its own general prompts under this name, as many as "
                "general_share says; "
                "leave them out of tasks, or give a task of your own another name"
            )
        return self

    @model_validator(mode="after")
    def _stops_only_where_it_looks(self) -> "AlignmentRL":
        if self.stop_when_hacked and not self.grpo.watch_every:
            raise ValueError("stop_when_hacked needs measurements: set grpo.watch_every, say to 10")
        return self

    @model_validator(mode="after")
    def _curriculum_has_a_pass_rate(self) -> "AlignmentRL":
        if self.grpo.curriculum is not None:
            require_correctness(self.rewards)
        return self

    def run(self, ctx: Context) -> None:
        judges = self._judges(ctx, ctx.path(self.reward_models))
        last = max(1, round(self.grpo.steps * self.preference_share))
        first = self.grpo.steps - last
        init = model_of(ctx.path(self.init))
        if first:
            early = Part(ctx, "reasoning")
            if not early.done:
                config = self.grpo.model_copy(update={"steps": first})
                reinforce(
                    early.context,
                    init,
                    self.talk,
                    config,
                    self.learner,
                    load_tasks(self.tasks),
                    self._rewards([]),
                )
            init = early.out / "model"
        tasks = {
            name: (task, weight * (1 - self.general_share))
            for name, (task, weight) in load_tasks(self.tasks).items()
        }
        tasks["general"] = (
            General(),
            self.general_share * sum(weight for _, weight in load_tasks(self.tasks).values()),
        )
        config = self.grpo.model_copy(update={"steps": last})
        preferences = self._preferences(judges)
        reinforce(
            ctx,
            init,
            self.talk,
            config,
            self.learner,
            tasks,
            self._rewards(preferences),
            self._watch(ctx, preferences),
        )
        ctx.runtime.release(*(judge.learner for judge in judges))
        report(ctx, steps_without_preference=first, steps_with_preference=last)

    def plan(self) -> StagePlan:
        return plan_of(self.grpo)

    def _rewards(self, preferences: Sequence[WeightedReward]) -> list[WeightedReward]:
        tasks = {name: task for name, (task, _) in load_tasks(self.tasks).items()} | {"general": General()}
        return [*load_rewards(self.rewards, tasks), *preferences]

    def _judges(self, ctx: Context, folder: Path) -> tuple[RewardModel, RewardModel]:
        """The helpful and the safety model."""
        facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))

        def judge(model: Path, summary_only: bool, mean: float, std: float) -> RewardModel:
            learner = ctx.runtime.learner(model, self.learner, scalar_head=True)
            return RewardModel(learner, self.talk.chat(model), self.learner.context, summary_only, mean, std)

        return judge(folder / "helpful", True, facts["helpful_mean"], facts["helpful_std"]), judge(
            folder / "safety", False, 0.0, 1.0
        )

    def _preferences(self, judges: tuple[RewardModel, RewardModel]) -> list[WeightedReward]:
        helpful, safety = judges
        return [
            WeightedReward("helpful", self.helpful_weight, _preference(helpful, forbidden=False)),
            WeightedReward("safety", self.safety_weight, _preference(safety, forbidden=True)),
        ]

    def _watch(self, ctx: Context, preferences: Sequence[WeightedReward]) -> Watch:
        """The gold score on held-out general prompts beside the judges': where they part, the judge is being
        hacked (figure 6)."""
        problems = General().problems("held_out")[:96]
        sampling = Sampling(1, self.grpo.temperature, self.grpo.top_p, self.grpo.max_tokens)
        done = checkpoint.progress_of(ctx.out, ctx.identities)["step"] if checkpoint.exists(ctx.out) else 0
        measurements = Measurements(ctx.out / "watch.jsonl", len(self._watched_before(done)))
        warned = False

        def measure(policy: Policy) -> Metrics:
            nonlocal warned
            rollouts = [
                r
                for group in sample(
                    policy.engine, policy.chat, problems, sampling, derive_seed(ctx.seed, "watch")
                )
                for r in group
            ]
            gold_P = np.array([gold_score(r.problem, r.answer) for r in rollouts])
            judged = zip(*(preference.function(rollouts) for preference in preferences), strict=True)
            judges_P = np.array([sum(value for value in values if value is not None) for values in judged])
            parted = measurements.add(Measurement(gold_P, judges_P))
            if parted and not warned:
                ctx.log.info(self._warning(parted))
                warned = True
            if parted and self.stop_when_hacked:
                raise StopTraining
            return {
                "watch/gold": float(gold_P.mean()),
                "watch/judges": float(judges_P.mean()),
                "watch/alarm": float(parted is not None),
            }

        return measure

    def _watched_before(self, step: int) -> list[int]:
        """The steps before ``step`` at which the watch measures."""
        every = self.grpo.watch_every
        return [
            first for first in range(0, step, self.grpo.updates_per_rollout) if every and first % every == 0
        ]

    def _warning(self, parted: Parting) -> str:
        return (
            "warning: the judges are being hacked: since about step "
            f"{self._watched_before(self.grpo.steps)[parted.best]} their score rose from "
            f"{parted.judges_best:.3f} to {parted.judges_now:.3f} while the gold score fell from "
            f"{parted.gold_best:.3f} to {parted.gold_now:.3f}; "
            + (
                "the stage ends here"
                if self.stop_when_hacked
                else "take a smaller preference_share, or set stop_when_hacked: true"
            )
        )


class Part:
    """A folder within a stage's folder for its first part, which is not repeated once it has its model."""

    def __init__(self, ctx: Context, name: str) -> None:
        self.out = ctx.out / name
        self.out.mkdir(exist_ok=True)
        self.context = Context(
            ctx.run,
            ctx.name,
            self.out,
            derive_seed(ctx.seed, name),
            ctx.runtime,
            ctx.log.part(name),
            ctx.outputs,
            ctx.identities,
        )

    @property
    def done(self) -> bool:
        return (self.out / "model" / "config.json").is_file()


def _preference(judge: RewardModel, forbidden: bool) -> Any:
    """The judge as a reward: on general prompts of its own kind only, as each query is tagged helpfulness or
    safety (section 3.1)."""

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        own = [
            i
            for i, r in enumerate(rollouts)
            if r.problem.task == "general" and (r.problem.columns["kind"] == "forbidden") == forbidden
        ]
        values: list[float | None] = [None] * len(rollouts)
        for place, value in zip(own, judge.scores([rollouts[i] for i in own]) if own else [], strict=True):
            values[place] = value
        return values

    return reward
