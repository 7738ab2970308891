"""Which training problems are known from elsewhere: twice in the data, or standing in an evaluation.

A problem is contaminated when its words are those of a held-out problem, or when they share a run of ten
words: the paper's 10-gram filter (DeepSeek-R1, Nature version, supplement D.1). Paraphrases are not caught,
as there. Letters count without case, and a Chinese character counts as a word.

What many training prompts begin or end with is no problem's own: an instruction, or worked examples before
the question. Every prompt would share ten words with every other. So words at the beginning or the end of a
prompt are left out of the rule (``Frame``) where at least a quarter of the training prompts, and no fewer
than eight, have the same ones, five or more. A problem that is known from elsewhere is still found by its
own words."""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from r1kit.tasks.task import is_held_out
from r1kit.types import Problem

GRAM = 10
FRAME_SHARE, FRAME_PROMPTS, FRAME_WORDS = 0.25, 8, 5  # of a frame: least share, prompts and words
_WORD = re.compile(r"[^\W\d_\u3400-\u9fff]+|\d+|[\u3400-\u9fff]")


def words(text: str) -> list[str]:
    """The words of a text, free of case, width and punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def fingerprint(text: str) -> str:
    """Equal for texts that differ only in case, width or spaces; signs count, since 3+4 is not 3*4."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_held_out_prompt(prompt: str) -> bool:
    """Whether a prompt of a file without splits belongs to the held-out eighth: by a hash of its text, the
    same for problems, general prompts and preferences."""
    return is_held_out("dataset", fingerprint(prompt))


def prompt_key(problem: Problem) -> str:
    """Equal for problems with the same prompt after the same turns (see r1kit.tasks.turns)."""
    before = problem.columns.get("messages")  # turns are a tuple; a list is a column of the data
    known = before if isinstance(before, tuple) else ()
    turns = (f"{turn['role']}:{fingerprint(turn['content'])}" for turn in known)
    return "\n".join((*turns, fingerprint(problem.prompt)))


def without_duplicates(problems: Iterable[Problem]) -> list[Problem]:
    """The problems with each prompt once, the first one of equals."""
    found: dict[str, Problem] = {}
    for problem in problems:
        found.setdefault(prompt_key(problem), problem)
    return list(found.values())


Tree = dict[str, Any]  # word -> tree of the words that follow


@dataclass(frozen=True, slots=True)
class Frame:
    """What many prompts of a data set begin and end with, as trees of words, those at the end from the last
    word on. ``prompts`` of ``total`` have one."""

    beginnings: Tree
    ends: Tree
    prompts: int
    total: int
    longest: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Frame":
        """The frame that these prompts have in common."""
        rows = [words(text) for text in texts]
        least = max(FRAME_PROMPTS, math.ceil(len(rows) * FRAME_SHARE))
        beginnings = _tree(rows, least)
        ends = _tree([_after(row, beginnings)[::-1] for row in rows], least)
        frame = cls(beginnings, ends, 0, len(rows), 0)
        framed = [len(row) - len(frame.own(row)) for row in rows]
        return cls(beginnings, ends, sum(map(bool, framed)), len(rows), max(framed, default=0))

    def own(self, row: Sequence[str]) -> Sequence[str]:
        """A prompt's words without the frame."""
        return _after(_after(row, self.beginnings)[::-1], self.ends)[::-1]

    def __str__(self) -> str:
        return (
            f"{self.prompts} of {self.total} prompts begin or end with the same words "
            f"(up to {self.longest}); these do not count where ten shared words in a row are looked for"
            if self.prompts
            else ""
        )


def without_contaminated(
    problems: Sequence[Problem], held_out: Iterable[str], frame: Frame | None = None
) -> list[Problem]:
    """The problems that neither equal one of the texts ``held_out`` nor share ten words in a row with one,
    the ``frame`` of the problems left out, which is made of them unless it is given."""
    frame = frame or Frame.of([problem.prompt for problem in problems])
    whole: set[str] = set()
    runs: set[tuple[str, ...]] = set()
    for text in held_out:
        whole.add(fingerprint(text))
        runs.update(_runs(frame.own(words(text))))
    return [
        problem
        for problem in problems
        if fingerprint(problem.prompt) not in whole
        and runs.isdisjoint(_runs(frame.own(words(problem.prompt))))
    ]


def _runs(found: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(found[start:] for start in range(GRAM)), strict=False)


def _tree(rows: Sequence[Sequence[str]], least: int) -> Tree:
    """The words that at least ``least`` rows begin with, as a tree."""
    root: Tree = {}
    waiting = [(root, rows, 0)]
    while waiting:
        tree, members, depth = waiting.pop()
        following: dict[str, list[Sequence[str]]] = defaultdict(list)
        for row in members:
            if len(row) > depth:
                following[row[depth]].append(row)
        for word, own in following.items():
            if len(own) >= least:
                tree[word] = {}
                waiting.append((tree[word], own, depth + 1))
    return root


def _after(row: Sequence[str], tree: Tree) -> Sequence[str]:
    """The row without the words that it has in common with the tree, where they are at least
    FRAME_WORDS."""
    depth = 0
    while depth < len(row) and row[depth] in tree:
        tree, depth = tree[row[depth]], depth + 1
    return row[depth:] if depth >= FRAME_WORDS else row
