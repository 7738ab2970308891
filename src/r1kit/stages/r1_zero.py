"""R1-Zero: pure reinforcement learning on the base model (DeepSeek-R1, section 2 of the Nature version).

In the paper: GRPO from V3-Base, without any supervised data. The reward is accuracy plus format, by rules,
without a neural reward model. Here it is the same. The prompt asks for the structure only; the content of
<think> is left to the model."""

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from r1kit.data.curriculum import require_correctness
from r1kit.records import UPDATES
from r1kit.stages.held_out_watch import WatchConfig, watch_phases
from r1kit.stages.models import PromptStyle
from r1kit.stages.preflight import PreflightMode
from r1kit.stages.recipe_names import RequiredTasks, RewardSpec, rules
from r1kit.stages.rl import OwnAlgorithm, examine_model, held_out_watch, one_algorithm, plan_of, reinforce
from r1kit.stages.stage import Context, Stage, StagePlan
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import LearnerConfig
from r1kit.train.ppo import PPOConfig
from r1kit.train.preflight import Preflight
from r1kit.train.rl_loop import RLConfig


class R1Zero(Stage):
    """RL with rule rewards from ``init``, usually a base model, by one algorithm: ``grpo`` (the default),
    ``ppo`` (with a critic, the paper's comparison, supplement A.3), or ``rl``, an algorithm outside r1kit
    (``{algorithm: my_algo.py:Name, ...}``). The paper's learning rate is 3e-6 for 671B parameters.

    ``preflight`` samples before the training and says whether anything can be learned: ``warn`` says it,
    ``stop`` ends the stage where nothing can, ``off`` does not look. ``watch`` measures held-out problems
    while the stage trains."""

    writes: ClassVar[tuple[str, ...]] = ("model", UPDATES)

    stage: Literal["r1_zero"] = "r1_zero"
    init: str = "@pretrain"
    tasks: RequiredTasks = {}
    rewards: RewardSpec = {"accuracy": 1.0, "format": 1.0}
    talk: PromptStyle = PromptStyle()
    grpo: GRPOConfig | None = GRPOConfig()
    ppo: PPOConfig | None = None
    rl: OwnAlgorithm | None = None
    learner: LearnerConfig = LearnerConfig()
    preflight: PreflightMode = "warn"
    watch: WatchConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_algorithm(cls, data: Any) -> Any:
        return one_algorithm(data)

    @property
    def algorithm(self) -> RLConfig:
        """The configuration of the algorithm that the stage trains by."""
        return self.rl or self.ppo or self.grpo or GRPOConfig()

    @model_validator(mode="after")
    def _curriculum_has_a_pass_rate(self) -> "R1Zero":
        if self.algorithm.curriculum is not None:
            require_correctness(self.rewards)
        return self

    def run(self, ctx: Context) -> None:
        tasks, rewards = rules(self.rewards, self.tasks)
        init = ctx.model(self.init)
        watches = held_out_watch(self.watch, self.algorithm, tasks, self.talk, init)
        reinforce(
            ctx, init, self.talk, self.algorithm, self.learner, tasks, rewards, watches, mode=self.preflight
        )

    def examine(self, ctx: Context) -> Preflight:
        """The pre-flight alone."""
        tasks, rewards = rules(self.rewards, self.tasks)
        return examine_model(
            ctx, ctx.model(self.init), self.talk, self.algorithm, self.learner, tasks, rewards
        )

    def plan(self) -> StagePlan:
        rl = self.algorithm
        watches = watch_phases(self.watch, rl.steps, rl.max_tokens, rl.updates_per_rollout)
        critics = int(self.ppo is not None)
        return plan_of(rl, self.init, self.learner, critics, self.preflight, watches)
