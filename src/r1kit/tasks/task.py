"""The protocol of a task: problems in splits, and a check that RL, filtering and evaluation share."""

import hashlib
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from r1kit.config import R1kitError
from r1kit.jsonl import read_lines
from r1kit.types import Problem, Verdict
from r1kit.user_code import Shape, takes

_BOX = re.compile(r"\\boxed\{([^{}]*)\}")


@runtime_checkable
class Task(Protocol):
    """A data set or a generator of problems.

    A task may also offer ``check_batch(problems, answers)``, which is then used instead of ``check``, and
    ``input_errors()``, which yields what is wrong with the files that it reads (config.InputError) before
    anything runs, and ``size(split)``: about how many problems a split has, without making them, for a plan
    (None: not known).
    """

    name: str

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of a split, "train" or "held_out": the same sequence on every call."""
        ...

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        """Judge an answer to a problem; None stands for a completion that did not follow the template."""
        ...


@runtime_checkable
class AnsweredTask(Protocol):
    """A task whose prompts have written answers to learn from.

    ``write_responses`` gives ``count`` training prompts with a whole response each, thinking included
    ("<think>..</think>answer"); fewer where there are fewer. All chance comes from ``rng``."""

    name: str

    def problems(self, split: str) -> Sequence[Problem]: ...

    def check(self, problem: Problem, answer: str | None) -> Verdict: ...

    def write_responses(self, count: int, rng: random.Random) -> list[tuple[Problem, str]]: ...


class UnloadedTask:
    """The stand-in of a task outside r1kit whose code was not imported."""

    def __init__(self, name: str) -> None:
        self.name = name

    def problems(self, split: str) -> Sequence[Problem]:
        raise R1kitError(f"{self.name} was not imported; --trust imports it")

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        raise R1kitError(f"{self.name} was not imported; --trust imports it")


def _makes_tasks(found: type) -> bool:
    problems, check = getattr(found, "problems", None), getattr(found, "check", None)
    return takes(problems, "self", "split") and takes(check, "self", "problem", "answer")


TASK = Shape(
    "a task",
    "a class or an object with a name, problems(split) and check(problem, answer)",
    is_class=_makes_tasks,
    is_object=lambda found: isinstance(found, Task) and _makes_tasks(type(found)),
    stand_in=UnloadedTask,
)


def is_held_out(task: str, *parameters: object) -> bool:
    """Whether a problem belongs to the held-out eighth: by a hash of the problem itself, the same in every
    language and stage."""
    digest = hashlib.md5(f"{task}|{'|'.join(map(str, parameters))}".encode(), usedforsecurity=False).digest()
    return digest[0] % 8 == 0


def single_answer(text: str) -> str | None:
    """The answer in a text: the content of its only box, or the whole text if it has no box; None for several
    boxes."""
    boxes = _BOX.findall(text)
    if len(boxes) > 1:
        return None
    return boxes[0].strip() if boxes else text.strip()


def size_of(task: Task, split: str) -> float | None:
    """About how many problems a split has, as far as the task says it without making them."""
    size = getattr(task, "size", None)
    return size(split) if callable(size) else None


def vote_key(answer: str | None) -> str | None:
    """Under which key an answer is counted in a majority vote; equal answers that differ in spaces count
    together."""
    said = None if answer is None else single_answer(answer)
    return None if said is None else re.sub(r"\s+", "", said)


def stamp_of(file: str) -> tuple[str, int, int]:
    """Path, size and modification time of a data file, which change with its content. Raises R1kitError for a
    file that is missing or of another format."""
    path = Path(file).expanduser()
    next(read_lines(path), None)  # raises for what cannot be read
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns
