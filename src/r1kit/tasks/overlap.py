"""Which training problems are known from elsewhere: twice in the data, or standing in an evaluation.

A problem is contaminated when its words are those of a held-out problem, or when they share a run of ten
words: the paper's 10-gram filter (DeepSeek-R1, Nature version, supplement D.1). Paraphrases are not caught,
as there. Letters count without case, and a Chinese character counts as a word."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from r1kit.tasks.task import is_held_out
from r1kit.types import Problem

GRAM = 10
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


def without_contaminated(problems: Sequence[Problem], held_out: Iterable[str]) -> list[Problem]:
    """The problems that neither equal one of the texts ``held_out`` nor share ten words in a row with one."""
    whole: set[str] = set()
    runs: set[tuple[str, ...]] = set()
    for text in held_out:
        whole.add(fingerprint(text))
        runs |= _runs(text)
    return [
        problem
        for problem in problems
        if fingerprint(problem.prompt) not in whole and runs.isdisjoint(_runs(problem.prompt))
    ]


def _runs(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return set(zip(*(found[start:] for start in range(GRAM)), strict=False))
