"""What both sides of a race have in common: the recipe's R1-Zero stage from one base model, its stream of
problems, its rewards, and the settings that are tried in TRL."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import r1kit
from r1kit.chat import Chat
from r1kit.data.mixture import Mixture
from r1kit.rewards import WeightedReward
from r1kit.seeds import derive_seed
from r1kit.stages.models import fits, longest_prompt
from r1kit.stages.r1_zero import R1Zero
from r1kit.stages.recipe_names import rules

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True, slots=True)
class Course:
    """What is raced on: the R1-Zero stage of ``recipe`` with ``changes``, from the model in ``base``, until
    pass@1 on ``held_out`` problems of each task, ``samples`` of each, is ``target``; ``goal``: the ratio
    that is wanted. Between two measurements every side samples and learns from ``check_rollouts``."""

    recipe: str
    base: str
    target: float
    goal: float
    held_out: int
    samples: int
    check_rollouts: int
    changes: tuple[str, ...] = ()


COURSES = {
    # Of the miniature's experts, a token that rounding sends to another one differs by more than the gate's
    # limit of 1 (2.07 was seen once in 539 tokens); recipes/int8.yaml has the same.
    "mini": Course(
        "mini.yaml", "runs/mini/stages/pretrain/model", 0.8, 10.0, held_out=52, samples=1, check_rollouts=768,
        changes=("stages.r1_zero.grpo.gate_max=3",),
    ),
    # Half of the recipe's problems an update: TRL takes minutes for each. The rate is constant, so more steps
    # than the recipe's change nothing but where a side has to end.
    "real": Course(
        "real.yaml", "models/SmolLM2-135M-Instruct", 0.6, 6.0, held_out=200, samples=2, check_rollouts=192,
        changes=("stages.r1_zero.grpo.steps=120", "stages.r1_zero.grpo.problems=4"),
    ),
}  # fmt: skip

# TRL's names of what r1kit's recipe calls otherwise.
ADVANTAGES = {"none": "group_mean", "group": "group_std", "batch": "batch_std"}
AGGREGATIONS = {"dapo": "token", "grpo": "rollout", "dr_grpo": "constant"}


@dataclass(frozen=True, slots=True)
class Setting:
    """How TRL's GRPOTrainer is set, in its own words; what is not here is as in the recipe.

    ``dtype``: of the weights; ``autocast``: bf16=True; ``micro_rows``: learned from at once; ``experts``:
    transformers' way to compute the experts; ``batching``: "generate", or transformers' own "continuous"
    one. ``steps``: of the whole training, over which the learning rate falls where ``schedule`` is linear."""

    learning_rate: float = 5e-4
    schedule: str = "linear"
    steps: int = 100
    loss: str = "dapo"
    scale_rewards: str = "none"
    epsilon_high: float = 0.28
    warmup: int = 0
    problems: int = 32
    group: int = 4
    dtype: str = "float32"
    autocast: bool = False
    micro_rows: int = 32
    experts: str = "eager"
    batching: str = "generate"

    @property
    def rows(self) -> int:
        """Rollouts of an update."""
        return self.problems * self.group

    def changes(self) -> list[str]:
        """The same algorithm as changes to r1kit's recipe."""
        grpo = {
            "advantage": ADVANTAGES[self.scale_rewards], "aggregation": AGGREGATIONS[self.loss],
            "epsilon_high": self.epsilon_high, "problems": self.problems, "group": self.group,
            "schedule.kind": self.schedule, "schedule.warmup": self.warmup, "steps": self.steps,
        }  # fmt: skip
        rate = f"stages.r1_zero.learner.optimizer.learning_rate={self.learning_rate}"
        return [f"stages.r1_zero.grpo.{key}={value}" for key, value in grpo.items()] + [rate]


def stage_of(base: Path, changes: Sequence[str] = (), course: str = "mini") -> R1Zero:
    """The recipe's R1-Zero from the model in ``base``."""
    on = COURSES[course]
    own = [f"stages.r1_zero.init={base}", *on.changes, *changes]
    stage = next(stage for stage in r1kit.load(RECIPES / on.recipe, own).stages if stage.name == "r1_zero")
    assert isinstance(stage, R1Zero) and stage.grpo is not None
    return stage


def seed_of(seed: int) -> int:
    """The seed of the stage in a race with this seed."""
    return derive_seed(seed, "race")


def stream_of(stage: R1Zero, base: Path, seed: int) -> tuple[Chat, list[WeightedReward], Mixture]:
    """Prompts, rewards and problems as the stage itself has them, in its order."""
    chat = stage.talk.chat(base)
    tasks, rewards = rules(stage.rewards, stage.tasks)
    limit = longest_prompt(stage.algorithm.max_tokens, base, context=stage.learner.context)
    mixture = Mixture(tasks, "train", derive_seed(seed_of(seed), "problems"), fits(chat, limit))
    return chat, rewards, mixture
