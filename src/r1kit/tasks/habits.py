"""Habits of thinking that an evaluation counts: a test on the text of a thinking for each habit, by name.

A recipe names a set of them: ``habits: worked_solutions``, or a mapping of your own from names to functions,
``habits: my_habits.py:HABITS``. The report has sentences about ``worked`` (the problem is worked out),
``recheck`` (a result is checked again) and ``step_back`` (something is taken back); others are lines of its
table."""

from collections.abc import Callable, Mapping

from r1kit.config import ConfigError, suggest
from r1kit.tasks.miniature import worked_solutions
from r1kit.user_code import load_name

Habits = Mapping[str, Callable[[str], bool]]

HABITS: dict[str, Habits] = {"worked_solutions": worked_solutions.HABITS}


def load_habits(name: str) -> Habits:
    """The habits of this name. Raises ConfigError for an unknown name, and for code that is no mapping of
    names to functions."""
    if ":" in name:
        found = load_name(name)
        if not isinstance(found, Mapping) or not all(callable(test) for test in found.values()):
            raise ConfigError(
                f"habits: {name} must be a mapping from the name of a habit to a function that says of a "
                'thinking whether it has it, such as {"recheck": lambda thinking: "check" in thinking}'
            )
        return found
    if name not in HABITS:
        raise ConfigError(f"habits: unknown name {name!r}: {suggest(name, HABITS)}; your own: file.py:NAME")
    return HABITS[name]
