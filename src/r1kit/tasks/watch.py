"""Prompts for the watch of alignment RL: neither trained on nor evaluated.

The watch decides when a training ends, so a figure on its prompts would be biased. Evaluation uses other
prompts (held_out). The watch uses the task's split "watch" if ``splits`` has it, else an eighth of the
training prompts, by a hash of their text."""

from collections.abc import Sequence

from r1kit.tasks.overlap import fingerprint
from r1kit.tasks.task import Task, is_held_out
from r1kit.types import Problem, Verdict

WATCH = "watch"


def with_watch(task: Task) -> Task:
    """The task with a split "watch" that is disjoint from its split "train"."""
    return task if WATCH in getattr(task, "splits", ()) else _Reserved(task)


class _Reserved:
    """A task of which an eighth of the training prompts is kept for the watch."""

    def __init__(self, task: Task) -> None:
        self.task, self.name = task, task.name

    def problems(self, split: str) -> Sequence[Problem]:
        if split not in ("train", WATCH):
            return self.task.problems(split)
        return [
            problem
            for problem in self.task.problems("train")
            if is_held_out(WATCH, fingerprint(problem.prompt)) == (split == WATCH)
        ]

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        return self.task.check(problem, answer)

    def about(self) -> str:
        about = getattr(self.task, "about", lambda: f"{self.name}: {len(self.task.problems('train'))} train")
        kept = len(self.problems(WATCH))
        return f"{about()}; {kept} of the training prompts are kept for the watch"
