"""General prompts of a stage, whose answers no rule can check. They keep a model that learns to reason from
forgetting other abilities (DeepSeek-R1, Nature version, supplement B.3.3: 200k of 800k samples)."""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from r1kit.chat import Prompt, prompt_column
from r1kit.config import ConfigError
from r1kit.jsonl import SUFFIXES
from r1kit.stages.stage import Context
from r1kit.tasks import Prompts, load_tasks
from r1kit.tasks.task import AnsweredTask, Task, size_of


def _known_general(spec: str | dict[str, Any]) -> str | dict[str, Any]:
    if not (isinstance(spec, str) and spec.startswith("@")):
        load_general(spec)
    return spec


# FILE.jsonl, "@stage/data.jsonl", or any tasks as under ``tasks:``.
GeneralSpec = Annotated[str | dict[str, Any], AfterValidator(_known_general)]


def load_general(spec: str | Mapping[str, Any]) -> dict[str, tuple[Task, float]]:
    """The tasks of a stage's ``general``, by name with their weights. Raises ConfigError naming the key."""
    if not isinstance(spec, str):
        return load_tasks(spec)
    if spec.endswith(SUFFIXES):
        name = Path(spec).name.partition(".")[0]
        return {name: (Prompts(name, train=spec), 1.0)}
    return load_tasks({spec: 1.0})


def general_tasks(ctx: Context, spec: str | Mapping[str, Any] | None) -> dict[str, tuple[Task, float]]:
    """As ``load_general``, with a file of another stage looked up; nothing where a stage has no
    ``general``."""
    if spec is None:
        return {}
    if isinstance(spec, str) and spec.startswith("@"):
        spec = str(ctx.path(spec))
    return load_general(spec)


def prompts_in(spec: str | Mapping[str, Any] | None, split: str = "train") -> float | None:
    """About how many prompts a ``general`` names, for a plan; None where only the run shows it."""
    if spec is None:
        return 0.0
    if isinstance(spec, str) and spec.startswith("@"):
        return None
    sizes = [size_of(task, split) for task, _ in load_general(spec).values()]
    return None if None in sizes else sum(size or 0.0 for size in sizes)


def general_rows(
    tasks: Mapping[str, tuple[Task, float]], others: int, share: float, seed: int
) -> list[tuple[Prompt, str]]:
    """Written answers to general prompts as (prompt, response). Together with ``others`` further rows they
    are ``share`` of all rows; there are a few if ``others`` is 0, and fewer if the files have fewer. Raises
    ConfigError for a task without written answers."""
    count = round(max(others, 16) * share / (1 - share)) if tasks else 0
    rng = random.Random(f"general/{seed}")
    rows: list[tuple[Prompt, str]] = []
    for (name, (task, _)), own in zip(tasks.items(), _shared_out(count, tasks), strict=True):
        if not isinstance(task, AnsweredTask):
            raise ConfigError(
                f"general: task {name!r} has no written answers to learn from; name a file of rows with "
                "prompt and response, or set general_share: 0"
            )
        written = task.write_responses(own, rng)
        if own and not written:
            raise ConfigError(
                f"general: no row of task {name!r} has a written answer; give its rows a column response, or "
                "set general_share: 0"
            )
        rows += [(prompt_column(problem), response) for problem, response in written]
    return rows


def _shared_out(count: int, tasks: Mapping[str, tuple[Task, float]]) -> Sequence[int]:
    """``count`` split by the tasks' weights into whole numbers."""
    total = sum(weight for _, weight in tasks.values())
    ends, reached = [0], 0.0
    for _, weight in tasks.values():
        reached += weight
        ends.append(round(count * reached / total) if total else 0)
    return [end - begin for begin, end in pairwise(ends)]
