"""reasoning-gym as tasks: a hundred procedural generators, each with its own scorer
(https://github.com/open-thought/reasoning-gym).

In a recipe: ``tasks: {countdown: {kind: gym, size: 500}, sums: {kind: gym, task: basic_arithmetic,
min_digits: 2}}``; needs ``pip install "r1kit[gym]"``. Problems are generated once, when they are first
needed (some generators take 80 ms a problem), and split by a hash of the question. The scorers were written
for trusted answers: several call ``eval`` on them, several raise on junk. So they run in the sandbox, an
answer on which they raise is wrong, and one that looks like a program is wrong without being scored. Partial
scores below 1 are wrong: they would reward the look of an answer instead of its content."""

import base64
import functools
import importlib
import json
import pickle
import re
from collections.abc import Iterator, Sequence
from typing import Any

from r1kit.config import ConfigError, InputError, suggest
from r1kit.sandbox import results_of
from r1kit.sandbox.zygote_handle import WorkerLost
from r1kit.tasks.mathematics.check import final_answer
from r1kit.tasks.task import is_held_out
from r1kit.types import Problem, Verdict

LONGEST_ANSWER = 10_000
SECONDS, SECONDS_AN_ANSWER = 20.0, 0.2  # processor time: most goes into loading the package
MEMORY_MB = 1024
_PROGRAM = re.compile(
    r"__|\b(?:import|lambda|exec|eval|open|compile|globals|locals|vars|getattr|setattr|breakpoint|os|sys)\b\s*[(.]"
)

# Runs in the sandbox, which unpickles only what this process has pickled.
SCORER = """
import base64, pickle
from reasoning_gym import create_dataset

def scores(task, options, pairs):
    found = []
    data = create_dataset(task, size=1, **options)
    for answer, entry in pairs:
        try:
            found.append(float(data.score_answer(answer=answer, entry=pickle.loads(base64.b64decode(entry)))))
        except Exception as error:
            found.append(type(error).__name__)
    return found
"""


class Gym:
    """One of reasoning-gym's tasks, ``task`` (by default what the recipe calls it). ``options`` are the
    generator's own (``min_digits: 2`` ...)."""

    def __init__(
        self, name: str, task: str | None = None, size: int = 1000, seed: int = 0, **options: Any
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"tasks.{name}: size must be a positive number of problems (given: {size!r})")
        if name == "gym" and task is None:
            raise ConfigError(
                "tasks.gym: name one of reasoning-gym's tasks: gym: {task: countdown}, or countdown: "
                "{kind: gym}"
            )
        self.name = name
        self.task, self.size, self.seed, self.options = task or name, size, seed, options

    @functools.cached_property
    def data(self) -> Any:
        """reasoning-gym's data set. Raises ConfigError for an unknown task or option, or where the package is
        missing."""
        try:
            gym = importlib.import_module("reasoning_gym")
            known = list(importlib.import_module("reasoning_gym.factory").DATASETS)
        except ImportError as error:
            raise ConfigError(
                f'tasks.{self.name}: reasoning-gym is not installed ({error}): pip install "r1kit[gym]"'
            ) from None
        if self.task not in known:
            hint = suggest(self.task, known, "reasoning_gym.factory.DATASETS lists them")
            raise ConfigError(f"tasks.{self.name}: reasoning-gym has no task {self.task!r}; {hint}")
        try:
            return gym.create_dataset(self.task, size=self.size, seed=self.seed, **self.options)
        except (TypeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"tasks.{self.name}: reasoning-gym refuses the options {self.options}: {error}"
            ) from None

    def input_errors(self) -> Iterator[InputError]:
        """What is wrong with the package, the task's name or its options."""
        try:
            self.data  # noqa: B018
        except ConfigError as error:
            yield (), str(error).removeprefix(f"tasks.{self.name}: ")

    @functools.cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """All entries by problem id; equal questions once."""
        by_question = {entry["question"]: entry for entry in (self.data[place] for place in range(self.size))}
        return {f"{self.name}/{self.seed}/{place}": entry for place, entry in enumerate(by_question.values())}

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of a split, "train" or "held_out"; the same on every call."""
        wanted = split == "held_out"
        return [
            Problem(
                name,
                self.name,
                entry["question"],
                str(entry["answer"]),
                columns={"difficulty": entry["metadata"].get("difficulty")},
            )
            for name, entry in self.entries.items()
            if is_held_out(self.name, entry["question"]) == wanted
        ]

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        """Judge an answer with the task's own scorer; correct means its full score."""
        return self.check_batch([problem], [answer])[0]

    def check_batch(self, problems: Sequence[Problem], answers: Sequence[str | None]) -> list[Verdict]:
        """Judge many answers, in one locked-in process; where one of them brings it down, each in a process
        of its own."""
        verdicts, asked = self._without_scorer(problems, answers)
        values = self._scores([list(pair) for pair in asked.values()])
        for place, value in zip(asked, values, strict=True):
            verdicts[place] = _verdict(value)
        return [verdicts[place] for place in range(len(problems))]

    def _without_scorer(
        self, problems: Sequence[Problem], answers: Sequence[str | None]
    ) -> tuple[dict[int, Verdict], dict[int, tuple[str, str]]]:
        """The verdicts that need no scorer, and what is to be scored: (answer, entry) by place."""
        verdicts: dict[int, Verdict] = {}
        asked: dict[int, tuple[str, str]] = {}
        for place, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
            entry = self.entries.get(problem.id)
            said = (
                final_answer(f"<answer>{answer}</answer>")
                if answer and "\\boxed" in answer
                else (answer or "").strip()
            )
            if answer is None:
                verdicts[place] = Verdict("wrong", "the template was not followed")
            elif entry is None:
                verdicts[place] = Verdict(
                    "unverifiable", f"{problem.id} is no problem of {self.name} with this seed and size"
                )
            elif not said or len(said) > LONGEST_ANSWER or _PROGRAM.search(said):
                verdicts[place] = Verdict("wrong", "no answer, one too long to score, or a program")
            else:
                asked[place] = said, base64.b64encode(pickle.dumps(entry)).decode()
        return verdicts, asked

    def _scores(self, pairs: list[list[str]]) -> list[float | str]:
        """The scorer's value for each (answer, entry); the name of what it raised, "failed: ..." where the
        scorer could not run."""
        if not pairs:
            return []
        options = {"seed": self.seed, **self.options}
        limit = SECONDS + SECONDS_AN_ANSWER * len(pairs)
        try:
            scored = results_of(
                SCORER,
                [[self.task, options, pairs]],
                "scores",
                time_limit_s=limit,
                memory_limit_mb=MEMORY_MB,
            )[0]
            if scored is not None:
                return list(json.loads(scored))
            if len(pairs) == 1:
                return ["the scorer did not come back"]
        except WorkerLost as error:
            return [f"failed: {error}"] * len(pairs)
        return [value for pair in pairs for value in self._scores([pair])]


def _verdict(value: float | str) -> Verdict:
    if isinstance(value, str):
        return (
            Verdict("failed", value)
            if value.startswith("failed")
            else Verdict("wrong", f"the scorer could not read the answer: {value}")
        )
    return Verdict("correct") if value == 1.0 else Verdict("wrong", f"score {value:g}")
