"""An endless, reproducible stream of problems from several tasks: by weight between tasks, by shuffled epochs
within each.

The stream depends on its seed only, so a resumed run skips the problems already drawn, and nothing has to be
saved. With a curriculum (curriculum.py) some problems are skipped, so the stream also depends on the scores.
With ``changes`` its weights depend on the training step. In both cases its state is saved with the training
state."""

import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence

from r1kit.config import ConfigError, R1kitError
from r1kit.data.curriculum import Curriculum, CurriculumConfig, by_difficulty, require_levels
from r1kit.files import hash_text
from r1kit.tasks.task import Task
from r1kit.types import Problem, Score

STATE = "problems.json"  # the stream's state within a saved training state


class Mixture:
    """Problems of ``tasks`` (name -> (task, weight)) from one split; every problem of a task comes once per
    epoch of that task.

    Problems that ``keep`` rejects are left out; ``left_out`` counts them by task. With a ``curriculum`` the
    problems that do not rest come once per epoch; ``observe`` gets the scores that decide, and ``log`` a line
    when all problems of a task rest and therefore come back. ``changes``: step -> weights by task from that
    step on (``at``)."""

    def __init__(
        self,
        tasks: Mapping[str, tuple[Task, float]],
        split: str,
        seed: int,
        keep: Callable[[Problem], bool] = lambda problem: True,
        curriculum: CurriculumConfig | None = None,
        log: Callable[[str], None] = lambda text: None,
        changes: Mapping[int, Mapping[str, float]] = {},
    ) -> None:
        self._weights = {0: {name: weight for name, (_, weight) in tasks.items()}, **changes}
        if not all(any(weight > 0 for weight in weights.values()) for weights in self._weights.values()):
            raise ConfigError("tasks: no task has a weight above zero")
        self.names = [
            name for name in tasks if any(weights.get(name, 0.0) > 0 for weights in self._weights.values())
        ]
        self.at(0)
        self.problems: dict[str, Sequence[Problem]] = {}
        self.left_out: dict[str, int] = {}
        for name in self.names:
            problems = tasks[name][0].problems(split)
            self.problems[name] = [problem for problem in problems if keep(problem)]
            if len(self.problems[name]) < len(problems):
                self.left_out[name] = len(problems) - len(self.problems[name])
            if not self.problems[name]:
                why = (
                    f": all {len(problems)} prompts are too long; raise context or lower max_tokens"
                    if problems
                    else ""
                )
                raise ConfigError(f"task {name}: the split {split!r} has no problems{why}")
        if curriculum is not None and curriculum.easiest_first:
            require_levels(problem for problems in self.problems.values() for problem in problems)
        self._begin(seed, curriculum, log)

    def _begin(self, seed: int, curriculum: CurriculumConfig | None, log: Callable[[str], None]) -> None:
        """Put the stream at its beginning."""
        self._random = random.Random(f"mixture/{seed}")
        self._orders: dict[str, list[int]] = {name: [] for name in self.names}
        self._epochs = dict.fromkeys(self.names, -1)
        self.curriculum = None if curriculum is None else Curriculum(curriculum)
        self._log, self._logged = log, set[str]()

    def reordered(self, seed: int) -> "Mixture":
        """Another stream, from its beginning: the same problems in the order of ``seed``, with the weights of
        step 0 throughout. This stream is not moved, and no prompt is measured again."""
        other = copy.copy(self)
        other._weights = {0: self._weights[0]}
        other.names = [name for name in self.names if self._weights[0].get(name, 0.0) > 0]
        other.problems = {name: self.problems[name] for name in other.names}
        curriculum = None if self.curriculum is None else self.curriculum.config
        other._begin(seed, curriculum, lambda text: None)
        return other.at(0)

    def at(self, step: int) -> "Mixture":
        """The same stream with the weights of a training step."""
        now = self._weights[max(first for first in self._weights if first <= step)]
        self._drawn = {name: now[name] for name in self.names if now.get(name, 0.0) > 0}
        return self

    @property
    def saves_state(self) -> bool:
        """Whether the stream depends on more than its seed and the number of problems drawn."""
        return self.curriculum is not None or len(self._weights) > 1

    def draw(self, count: int) -> list[Problem]:
        """The next ``count`` problems of the stream."""
        return [self._next() for _ in range(count)]

    def first(self, count: int) -> list[Problem]:
        """Some ``count`` problems, evenly from all tasks (fewer where there are fewer), without moving the
        stream."""
        each = -(-count // len(self.names))
        return [problem for name in self.names for problem in self.problems[name][:each]][:count]

    def observe(self, problem: Problem, scores: Sequence[Score]) -> None:
        """Give the curriculum, where there is one, the scores of a drawn problem's rollouts."""
        if self.curriculum is not None:
            self.curriculum.observe(problem, scores)

    def resting(self) -> int | None:
        """How many problems the curriculum passes over in the epochs that their tasks are in; None without a
        curriculum."""
        if self.curriculum is None:
            return None
        return sum(
            self.curriculum.rests(problem, self._epochs[name])
            for name in self.names
            for problem in self.problems[name]
        )

    def saved(self) -> dict[str, str]:
        """What a resumed run needs in addition to the seed, texts by file name: the position of the stream,
        and with a curriculum the last visit of every problem."""
        if not self.saves_state:
            return {}
        tasks = {
            name: {"problems": self._mark(name), "epoch": self._epochs[name], "left": self._orders[name]}
            for name in self.names
        }
        return {
            STATE: json.dumps(
                {
                    "tasks": tasks,
                    "visits": {} if self.curriculum is None else self.curriculum.visits,
                    "random": self._random.getstate(),
                }
            )
            + "\n"
        }

    def restore(self, text: str) -> None:
        """Continue where ``saved`` made this text. Raises R1kitError where it is that of other problems."""
        state = json.loads(text)
        marks, found = (
            {(name, self._mark(name)) for name in self.names},
            {(name, task["problems"]) for name, task in state["tasks"].items()},
        )
        if marks != found:
            other = ", ".join(sorted({name for name, _ in marks ^ found}))
            raise R1kitError(
                f"{STATE}: the saved stream has other problems than the data (task {other}); "
                "restore the data, or run the stage again with --from"
            )
        self._epochs = {name: state["tasks"][name]["epoch"] for name in self.names}
        self._orders = {name: state["tasks"][name]["left"] for name in self.names}
        if self.curriculum is not None:
            self.curriculum.visits = {
                problem: (epoch, rate) for problem, (epoch, rate) in state["visits"].items()
            }
        version, words, gauss = state["random"]
        self._random.setstate((version, tuple(words), gauss))

    def _next(self) -> Problem:
        name = self._random.choices(list(self._drawn), list(self._drawn.values()))[0]
        order = self._orders[name]
        while True:
            if not order:
                self._begin_epoch(name)
            problem = self.problems[name][order.pop()]
            if self.curriculum is None or self.curriculum.takes(problem, self._epochs[name]):
                return problem

    def _begin_epoch(self, name: str) -> None:
        """All problems of a task in a new order, of which the last is drawn first."""
        problems, order = self.problems[name], self._orders[name]
        self._epochs[name] += 1
        order.extend(range(len(problems)))
        self._random.shuffle(order)
        if self.curriculum is None:
            return
        if self.curriculum.config.easiest_first and self._epochs[name] == 0:
            order.sort(key=lambda index: by_difficulty(problems[index]), reverse=True)
        if self.curriculum.wakes(problems, self._epochs[name]) and name not in self._logged:
            self._log(f"{name}: all {len(problems)} problems rest, so all of them come back (logged once)")
            self._logged.add(name)

    def _mark(self, name: str) -> str:
        """The hash of a task's problems in their order, by id."""
        return hash_text("\n".join(problem.id for problem in self.problems[name]))
