"""Tasks and rewards as a recipe names them.

Names and options are checked with the recipe; files are read when problems are needed."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from r1kit.rewards import WeightedReward, load_rewards
from r1kit.stages.stage import Context
from r1kit.tasks import load_tasks
from r1kit.tasks.task import Task


def _known_tasks(spec: dict[str, Any]) -> dict[str, Any]:
    load_tasks(spec)
    return spec


def _known_rewards(spec: dict[str, Any]) -> dict[str, Any]:
    load_rewards(spec, {})
    return spec


def _not_empty(spec: dict[str, Any]) -> dict[str, Any]:
    if not spec:
        raise ValueError(
            "name the tasks whose problems are sampled, for instance tasks: {gsm8k: {kind: dataset, train: "
            "data/gsm8k_train.jsonl}}"
        )
    return spec


TaskSpec = Annotated[dict[str, Any], AfterValidator(_known_tasks)]
# For stages that sample problems: the recipe has to name the tasks.
RequiredTasks = Annotated[TaskSpec, AfterValidator(_not_empty)]
RewardSpec = Annotated[dict[str, Any], AfterValidator(_known_rewards)]


def rules(rewards: RewardSpec, tasks: TaskSpec) -> tuple[dict[str, tuple[Task, float]], list[WeightedReward]]:
    """The tasks and rewards that a recipe names."""
    loaded = load_tasks(tasks)
    return loaded, load_rewards(rewards, {name: task for name, (task, _) in loaded.items()})


def log_tasks(ctx: Context, tasks: Mapping[str, tuple[Task, float]]) -> None:
    """Log what was read of the user's files, for tasks that describe themselves."""
    for task, _ in tasks.values():
        about = getattr(task, "about", None)
        if about is not None:
            ctx.log.info(about())
