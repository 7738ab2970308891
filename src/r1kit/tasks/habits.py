"""Habits of thinking that an evaluation counts: a test on the text of a thinking for each habit, by name.

A recipe names a set of them: ``habits: worked_solutions``, or a mapping of your own from names to functions,
``habits: my_habits.py:HABITS``. The report has sentences about ``worked`` (the problem is worked out),
``recheck`` (a result is checked again) and ``step_back`` (something is taken back); others are lines of its
table."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from r1kit.config import ConfigError, suggest
from r1kit.tasks.miniature import worked_solutions
from r1kit.user_code import Shape, load_name, takes

Habits = Mapping[str, Callable[[str], bool]]

HABITS: dict[str, Habits] = {"worked_solutions": worked_solutions.HABITS}


def _are_habits(found: Any) -> bool:
    return isinstance(found, Mapping) and all(
        isinstance(name, str) and inspect.isfunction(test) and takes(test, "thinking")
        for name, test in found.items()
    )


OWN_HABITS = Shape(
    "a set of habits",
    "a mapping from the name of a habit to a function that says of a thinking whether it has it, such as "
    '{"recheck": lambda thinking: "check" in thinking}',
    is_object=_are_habits,
    stand_in={},
)


def load_habits(name: str) -> Habits:
    """The habits of this name. Raises ConfigError for an unknown name, and for code that is no mapping of
    names to functions."""
    if ":" in name:
        found: Habits = load_name(name, OWN_HABITS)
        return found
    if name not in HABITS:
        raise ConfigError(f"habits: unknown name {name!r}: {suggest(name, HABITS)}; your own: file.py:NAME")
    return HABITS[name]
