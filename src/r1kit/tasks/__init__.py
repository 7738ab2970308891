"""What to solve: tasks yield problems and check answers; RL, filtering and evaluation share the same
check."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from r1kit.config import ConfigError, suggest
from r1kit.jsonl import SUFFIXES
from r1kit.tasks.countdown import Countdown
from r1kit.tasks.dataset import Dataset
from r1kit.tasks.gym import Gym
from r1kit.tasks.miniature.general import General
from r1kit.tasks.miniature.procedural import KINDS, Procedural
from r1kit.tasks.needle import Needle
from r1kit.tasks.prompts import Prompts
from r1kit.tasks.task import TASK, AnsweredTask, Task, UnloadedTask, is_held_out, single_answer, vote_key
from r1kit.tasks.word_problems import WordProblems
from r1kit.user_code import load_name

REASONING = tuple(KINDS)  # the miniature's checkable tasks

# Each entry makes a task from the name that the recipe gives it and its options.
TASKS: dict[str, Callable[..., Task]] = {
    **{kind: (lambda name, kind=kind, **options: Procedural(kind, **options)) for kind in KINDS},
    "general": lambda name, **options: General(**options),
    "countdown": Countdown,
    "word_problems": WordProblems,
    "needle": Needle,
    "dataset": Dataset,
    "prompts": Prompts,
    "gym": Gym,
}

__all__ = [
    "KINDS",
    "REASONING",
    "TASKS",
    "AnsweredTask",
    "Countdown",
    "Dataset",
    "General",
    "Gym",
    "Needle",
    "Procedural",
    "Prompts",
    "Task",
    "WordProblems",
    "is_held_out",
    "load_tasks",
    "single_answer",
    "vote_key",
]


def load_tasks(spec: Mapping[str, Any]) -> dict[str, tuple[Task, float]]:
    """Build the tasks that a recipe names, by the name that their problems carry: name -> (task, weight).

    ``{chain: 1, mul: {weight: 1, size: 500}}`` are the miniature's, and ``reasoning: 1`` all of its checkable
    ones; ``{gsm8k: {kind: dataset, train: FILE}}`` gives an entry of TASKS a name of one's own, ``{countdown:
    {kind: gym}}`` is one of reasoning-gym's; ``FILE.jsonl`` is a data set with default options,
    ``my_tasks.py:Chess`` the user's own code. Raises ConfigError naming the key."""
    found: dict[str, tuple[Task, float]] = {}
    for name, entry in spec.items():
        options = dict(entry) if isinstance(entry, Mapping) else {"weight": entry}
        weight = options.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ConfigError(f"tasks.{name}: the weight must be a number (given: {weight!r})")
        for single in REASONING if name == "reasoning" else (name,):
            task = _load_task(single, options)
            if task.name in found:
                raise ConfigError(
                    f"tasks.{name}: there is a task {task.name!r} already; give one of them another name"
                )
            found[task.name] = (task, weight / len(REASONING) if name == "reasoning" else float(weight))
    return found


def _load_task(name: str, options: Mapping[str, Any]) -> Task:
    if name.endswith(SUFFIXES):
        return Dataset(name.rpartition("/")[2].partition(".")[0], **{"train": name, **options})
    inner = dict(options)
    kind = inner.pop("kind", name)
    if ":" in kind:
        return _own_task(name, kind, inner)
    if kind not in TASKS:
        known = ["reasoning", *TASKS]
        hint = suggest(kind, known, f"known: {', '.join(known)}; your own is file.py:Class")
        raise ConfigError(f"tasks: unknown task {kind!r}: {hint}")
    try:
        return TASKS[kind](name, **inner)
    except TypeError as error:
        raise ConfigError(f"tasks.{name}: {error}") from None


def _own_task(name: str, kind: str, options: Mapping[str, Any]) -> Task:
    try:
        made = load_name(kind, TASK)
    except ConfigError as error:
        raise ConfigError(f"tasks.{name}: {error}" if kind != name else f"tasks: {error}") from error
    if made is UnloadedTask:
        return UnloadedTask(name)
    if isinstance(made, type):
        try:
            inspect.signature(made).bind(**options)
        except TypeError as error:
            raise ConfigError(f"tasks.{name}: {error}") from None
        made = made(**options)
    elif options:
        raise ConfigError(f"tasks.{name}: an object takes no options (given: {', '.join(options)})")
    if not isinstance(made, Task):
        raise ConfigError(f"tasks.{name}: a task needs name, problems(split) and check(problem, answer)")
    return made
