"""What to solve: tasks yield problems and check answers; RL, filtering and evaluation share the same check."""

from collections.abc import Callable, Mapping
from typing import Any

from r1kit.config import ConfigError
from r1kit.imports import load_name
from r1kit.tasks.general import General
from r1kit.tasks.procedural import KINDS, Procedural
from r1kit.tasks.task import Task, final_answer, is_held_out, vote_key

REASONING = tuple(KINDS)  # the miniature's checkable tasks

TASKS: dict[str, Callable[..., Task]] = {
    **{name: (lambda name=name, **options: Procedural(name, **options)) for name in KINDS},
    "general": General,
}

__all__ = ["KINDS", "REASONING", "TASKS", "General", "Procedural", "Task", "final_answer", "is_held_out", "load_tasks", "vote_key"]


def load_tasks(spec: Mapping[str, Any]) -> dict[str, tuple[Task, float]]:
    """Build the tasks that a recipe names: ``{chain: 1, "my_tasks.py:Chess": 2, mul: {weight: 1, size: 500}}`` -> (task, weight).

    ``reasoning: 1`` stands for all of the miniature's checkable tasks. Raises ConfigError naming the key.
    """
    found: dict[str, tuple[Task, float]] = {}
    for name, entry in spec.items():
        options = dict(entry) if isinstance(entry, Mapping) else {"weight": entry}
        weight = float(options.pop("weight", 1.0))
        for single in REASONING if name == "reasoning" else (name,):
            share = weight / len(REASONING) if name == "reasoning" else weight
            found[single] = (_load_task(single, options), share)
    return found


def _load_task(name: str, options: dict[str, Any]) -> Task:
    if ":" in name:
        made = load_name(name)
        task = made(**options) if callable(made) else made
        if not isinstance(task, Task):
            raise ConfigError(f"tasks.{name}: a task needs name, problems(split) and check(problem, answer)")
        return task
    if name not in TASKS:
        import difflib

        near = difflib.get_close_matches(name, [*TASKS, "reasoning"], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: reasoning, {', '.join(TASKS)}; your own is file.py:Class"
        raise ConfigError(f"tasks: unknown task {name!r}: {hint}")
    try:
        return TASKS[name](**options)
    except TypeError as error:
        raise ConfigError(f"tasks.{name}: {error}") from None
