"""reasoning-gym as tasks: a hundred procedural generators, each with its own scorer (https://github.com/open-thought/reasoning-gym).

In a recipe: ``tasks: {"r1kit.tasks.gym:Gym": {task: countdown, size: 500}}``; needs ``pip install "r1kit[gym]"``. Problems are
generated once, when they are first asked for (some generators take 80 ms an item), and split by a hash of the question. The
scorers were written for trusted answers: several raise on junk, which is the answer's fault and wrong here, never a crash.
Partial scores below 1 are wrong: they would teach what an answer looks like instead of what it is.
"""

import difflib
import functools
import importlib
from collections.abc import Sequence
from typing import Any

from r1kit.config import ConfigError
from r1kit.tasks.mathematics import final_answer
from r1kit.tasks.task import is_held_out
from r1kit.types import Problem, Verdict

LONGEST_ANSWER = 10_000


class Gym:
    """One of reasoning-gym's tasks. ``options`` are the generator's own (``min_digits: 2`` ...)."""

    def __init__(self, task: str, size: int = 1000, seed: int = 0, **options: Any) -> None:
        if size < 1:
            raise ConfigError(f"tasks.{task}: size must be positive (given: {size})")
        self.name = f"gym_{task}"
        self.task, self.size, self.seed, self.options = task, size, seed, options

    @functools.cached_property
    def data(self) -> Any:
        """reasoning-gym's data set. Raises ConfigError for an unknown task or option, or where the package is missing."""
        try:
            gym = importlib.import_module("reasoning_gym")
            known = list(importlib.import_module("reasoning_gym.factory").DATASETS)
        except ImportError as error:
            raise ConfigError(f'tasks.{self.name}: reasoning-gym is not installed ({error}): pip install "r1kit[gym]"') from None
        if self.task not in known:
            near = difflib.get_close_matches(self.task, known, n=1)
            raise ConfigError(f"tasks.{self.name}: reasoning-gym has no task {self.task!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        try:
            return gym.create_dataset(self.task, size=self.size, seed=self.seed, **self.options)
        except (TypeError, AssertionError, ValueError) as error:
            raise ConfigError(f"tasks.{self.name}: reasoning-gym refuses the options {self.options}: {error}") from None

    @functools.cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """All entries by problem id; equal questions once."""
        by_question = {entry["question"]: entry for entry in (self.data[place] for place in range(self.size))}
        return {f"{self.name}/{self.seed}/{place}": entry for place, entry in enumerate(by_question.values())}

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of a split, "train" or "held_out"; the same on every call."""
        wanted = split == "held_out"
        return [
            Problem(name, self.name, entry["question"], str(entry["answer"]), columns={"difficulty": entry["metadata"].get("difficulty")})
            for name, entry in self.entries.items()
            if is_held_out(self.name, entry["question"]) == wanted
        ]

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        """Judge an answer with the task's own scorer; correct means its full score."""
        if answer is None:
            return Verdict("wrong", "the template was not followed")
        entry = self.entries.get(problem.id)
        if entry is None:
            return Verdict("unverifiable", f"{problem.id} is no problem of {self.name} with this seed and size")
        said = final_answer(f"<answer>{answer}</answer>") if "\\boxed" in answer else answer.strip()
        if said is None or len(said) > LONGEST_ANSWER:
            return Verdict("wrong", "no answer, or one too long to score")
        try:
            points = float(self.data.score_answer(answer=said, entry=entry))
        except Exception as error:  # the scorers raise whatever comes to them
            return Verdict("wrong", f"the scorer could not read the answer: {type(error).__name__}")
        return Verdict("correct") if points == 1.0 else Verdict("wrong", f"score {points:g}")
