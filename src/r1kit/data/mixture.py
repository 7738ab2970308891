"""An endless, reproducible stream of problems from several tasks: by weight between tasks, by shuffled epochs within each.

The stream is a function of its seed alone. A resumed run skips to where it was; nothing has to be saved.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from r1kit.config import ConfigError
from r1kit.tasks.task import Task
from r1kit.types import Problem


class Mixture:
    """Problems of ``tasks`` (name -> (task, weight)) from one split; every problem of a task comes once per epoch of that task.

    Only problems that ``keep`` accepts come; ``left_out`` counts the others of each task that has any.
    """

    def __init__(
        self, tasks: Mapping[str, tuple[Task, float]], split: str, seed: int, keep: Callable[[Problem], bool] = lambda problem: True
    ) -> None:
        self.names = [name for name, (_, weight) in tasks.items() if weight > 0]
        if not self.names:
            raise ConfigError("tasks: no task has a weight above zero")
        self.weights = [tasks[name][1] for name in self.names]
        self.problems: dict[str, Sequence[Problem]] = {}
        self.left_out: dict[str, int] = {}
        for name in self.names:
            problems = tasks[name][0].problems(split)
            self.problems[name] = [problem for problem in problems if keep(problem)]
            if len(self.problems[name]) < len(problems):
                self.left_out[name] = len(problems) - len(self.problems[name])
            if not self.problems[name]:
                why = f": all {len(problems)} prompts are too long; raise context or lower max_tokens" if problems else ""
                raise ConfigError(f"task {name}: the split {split!r} has no problems{why}")
        self._random = random.Random(f"mixture/{seed}")
        self._orders: dict[str, list[int]] = {name: [] for name in self.names}

    def draw(self, count: int) -> list[Problem]:
        """The next ``count`` problems of the stream."""
        return [self._next() for _ in range(count)]

    def first(self, count: int) -> list[Problem]:
        """Some ``count`` problems, evenly from all tasks (fewer where there are fewer), without moving the stream."""
        each = -(-count // len(self.names))
        return [problem for name in self.names for problem in self.problems[name][:each]][:count]

    def _next(self) -> Problem:
        name = self._random.choices(self.names, self.weights)[0]
        order = self._orders[name]
        if not order:
            order.extend(range(len(self.problems[name])))
            self._random.shuffle(order)
        return self.problems[name][order.pop()]
