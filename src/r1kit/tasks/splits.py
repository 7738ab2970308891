"""The splits of a task over files: which files a recipe names for them, and the problems that were read.

What is evaluated is never trained on: without a file for ``held_out`` an eighth of the problems is held out
by a hash of their text (``hold_out``)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from r1kit.config import Config, R1kitError
from r1kit.jsonl import BadRows, read_lines
from r1kit.language import scripts_of
from r1kit.tasks.overlap import is_held_out_prompt
from r1kit.types import Problem

HELD_OUT_SHARE = 1 / 8  # of the rows of a file, where there is no other for what is held out


class SplitFiles(Config):
    """The options of every task over files.

    Files are looked up from the current folder. ``language`` is that of the problems, ``limit`` bounds each
    split. ``bad_rows: quarantine`` writes rows that cannot be used to FILE.bad.jsonl and goes on, up to 5 %
    of a file; ``error`` stops at the first."""

    train: str | None = None  # the file of training problems
    held_out: str | None = None  # the file of held-out problems; null: an eighth of train
    language: str = "en"
    limit: int | None = Field(default=None, ge=1)
    bad_rows: BadRows = "error"

    @field_validator("language")
    @classmethod
    def _language_is_known(cls, language: str) -> str:
        scripts_of(language)
        return language

    @model_validator(mode="after")
    def _has_a_file(self) -> Self:
        if self.train is None and self.held_out is None:
            raise ValueError("the task needs train: FILE.jsonl, held_out: FILE.jsonl, or both")
        return self


def rows_of(files: SplitFiles, split: str) -> float | None:
    """About how many rows the files have for a split; None where they cannot be read."""
    own = {"train": files.train, "held_out": files.held_out}[split]
    share = 1.0 if files.held_out else HELD_OUT_SHARE if split == "held_out" else 1 - HELD_OUT_SHARE
    name = own or files.train
    if name is None:
        return None
    try:
        rows = float(sum(1 for _ in read_lines(Path(name).expanduser())))
    except R1kitError:
        return None
    return min(rows * share, float(files.limit or rows))


@dataclass(frozen=True, slots=True)
class Splits:
    """A task's problems by split, and one line about them."""

    problems: Mapping[str, Sequence[Problem]]
    about: str

    def of(self, task: str, split: str) -> Sequence[Problem]:
        """The problems of a split. Raises R1kitError with the fix where it is missing or empty."""
        found = self.problems.get(split)
        if found is None:
            raise R1kitError(
                f"task {task}: no split {split!r}; give it with {split}: FILE.jsonl (it has: "
                f"{', '.join(self.problems)})"
            )
        if not found:
            raise R1kitError(
                f"task {task}: the split {split!r} is empty; give more rows, or {split}: FILE.jsonl "
                f"({self.about})"
            )
        return found


def hold_out(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """(to train on, held out): about an eighth is held out, by a hash of the text."""
    parts: tuple[list[Problem], list[Problem]] = ([], [])
    for problem in problems:
        parts[is_held_out_prompt(problem.prompt)].append(problem)
    return parts


def counts_of(splits: Mapping[str, Sequence[Problem]]) -> str:
    """How many problems each split has: "488 train, 38 held out"."""
    return ", ".join(
        f"{len(problems)} {split.replace('_', ' ')}"
        for split, problems in sorted(splits.items(), reverse=True)
    )
