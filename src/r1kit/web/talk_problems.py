"""The problems of a run's tasks, to ask a model, and the verdict on its answer: the task's own check, as
training and evaluation use it."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from r1kit.config import R1kitError
from r1kit.tasks import load_tasks
from r1kit.tasks.task import Task
from r1kit.types import Problem, Rollout
from r1kit.user_code import imports

SPLITS = ("held_out", "train")
MOST_SHOWN = 200  # problems of a list
CHECK_S = 60.0  # seconds for a check
_CHECKS = 4  # checks at a time
_KEYS = ("tasks", "prompts")  # of a stage's configuration


@dataclass(frozen=True, slots=True)
class Judged:
    """What the task says of an answer: ``outcome`` of its check with the ``reason``, the answer that was read
    (None: the template was not followed), and the one that is right, where it is known."""

    outcome: str
    reason: str
    answer: str | None
    truth: str | None


class RunTasks:
    """The tasks that a run's recipe names, by name, and what is wrong with those that cannot be used. Code of
    the run's own is not imported. Methods that read problems or check may take long: call them in a thread,
    or ``judge``."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.tasks: dict[str, Task] = {}
        self.troubles: dict[str, str] = {}
        self._checks = ThreadPoolExecutor(_CHECKS, thread_name_prefix="r1kit-ui-checks")
        for name, entry in _named(recipe):
            try:
                with imports(False):
                    found = load_tasks({name: entry})
            except R1kitError as error:
                self.troubles[name] = str(error)
                continue
            for one, (task, _) in found.items():
                self.tasks.setdefault(one, task)

    def problems(self, name: str, split: str) -> Sequence[Problem]:
        """The problems of a split. Raises R1kitError where the task has none, or its files are not there."""
        with imports(False):
            return self.tasks[name].problems(split)

    def some(self, name: str, split: str, containing: str = "") -> list[Problem]:
        """The first problems of a split whose id or prompt contains a text."""
        wanted = containing.casefold()
        found: list[Problem] = []
        for problem in self.problems(name, split):
            if wanted in problem.id.casefold() or wanted in problem.prompt.casefold():
                found.append(problem)
            if len(found) == MOST_SHOWN:
                break
        return found

    def any(self, name: str, split: str, rng: random.Random) -> Problem:
        """A problem by chance. Raises R1kitError."""
        problems = self.problems(name, split)
        if not problems:
            raise R1kitError(f"the task {name} has no problems in {split}")
        return problems[rng.randrange(len(problems))]

    async def judge(self, rollout: Rollout) -> Judged:
        """The verdict of the rollout's task on its answer. A check that fails, or takes too long, is
        "failed" with its reason: that says nothing about the answer."""
        problem, answer = rollout.problem, rollout.answer
        loop = asyncio.get_running_loop()
        try:
            checked = loop.run_in_executor(self._checks, self._check, problem, answer)
            outcome, reason = await asyncio.wait_for(checked, CHECK_S)
        except TimeoutError:
            outcome, reason = "failed", f"the check did not return within {CHECK_S:g} s"
        except Exception as error:  # a task's check may raise anything; the answer is shown all the same
            outcome, reason = "failed", f"{type(error).__name__}: {error}"
        truth = None if problem.answer is None else str(problem.answer)
        return Judged(outcome, reason, answer, truth)

    def _check(self, problem: Problem, answer: str | None) -> tuple[str, str]:
        task = self.tasks[problem.task]
        check_batch = getattr(task, "check_batch", None)
        with imports(False):
            if check_batch is not None:
                (verdict,) = check_batch([problem], [answer])
            else:
                verdict = task.check(problem, answer)
        reason = verdict.reason
        if answer is None and not reason:
            reason = "the template was not followed, so no answer was read"
        return verdict.outcome, reason


def _named(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(name, entry) of every task that a stage of the recipe names, each once."""
    stages = recipe.get("stages")
    found: dict[str, Any] = {}
    for stage in stages if isinstance(stages, list) else ():
        for key in _KEYS if isinstance(stage, Mapping) else ():
            named = stage.get(key)
            for name, entry in named.items() if isinstance(named, Mapping) else ():
                found.setdefault(str(name), entry)
    return list(found.items())
