"""R1-Zero: pure reinforcement learning on the base model (DeepSeek-R1, section 2 of the Nature version).

In the paper: GRPO straight from V3-Base, without any supervised data; the reward is accuracy + format by
rules, no neural model. Here the same: the prompt asks for a structure only, and what the model does inside
<think> is its own finding."""

from typing import ClassVar, Literal

from pydantic import model_validator

from r1kit.data.curriculum import require_correctness
from r1kit.stages.policy import RewardSpec, Talk, TaskSpec, model_of, reinforce, rules
from r1kit.stages.stage import Context, Stage
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import LearnerConfig
from r1kit.train.ppo import PPOConfig


class R1Zero(Stage):
    """GRPO with rule rewards from ``init``, usually a base model. The paper's learning rate is 3e-6 for 671B
    parameters. ``ppo``, where it is given, is PPO with a critic instead, the paper's comparison (supplement
    A.3); ``grpo`` is then not read."""

    writes: ClassVar[tuple[str, ...]] = ("model",)

    stage: Literal["r1_zero"] = "r1_zero"
    init: str = "@pretrain"
    tasks: TaskSpec = {"reasoning": 1.0}
    rewards: RewardSpec = {"accuracy": 1.0, "format": 1.0}
    talk: Talk = Talk()
    grpo: GRPOConfig = GRPOConfig()
    ppo: PPOConfig | None = None
    learner: LearnerConfig = LearnerConfig()

    @model_validator(mode="after")
    def _curriculum_has_a_pass_rate(self) -> "R1Zero":
        if (self.ppo or self.grpo).curriculum is not None:
            require_correctness(self.rewards)
        return self

    def run(self, ctx: Context) -> None:
        tasks, rewards = rules(self.rewards, self.tasks)
        reinforce(
            ctx, model_of(ctx.path(self.init)), self.talk, self.ppo or self.grpo, self.learner, tasks, rewards
        )

    def plan(self) -> dict[str, float]:
        config = self.ppo or self.grpo
        rollouts = config.steps * config.problems * config.group
        return {
            "steps": float(config.steps),
            "rollouts": float(rollouts),
            "max_tokens": float(config.max_tokens),
        }
