"""A needle in a haystack: a number that stands once in a long text, asked for at its end (passkey retrieval,
Mohtashami and Jaggi 2305.16300, section 4.2), at a given depth and length.

A problem is held out by a hash of its number; the sentences around it are drawn from its seed."""

import random
from collections.abc import Sequence

from r1kit.config import ConfigError
from r1kit.tasks.task import is_held_out, single_answer
from r1kit.types import Problem, Verdict

FILLERS = (
    "The grass is green.", "The sky is blue.", "The sun is yellow.", "The road is long.", "The sea is deep.",
    "The night is dark.", "The stone is cold.", "Here we go.", "There and back again.", "The river is wide.",
)  # fmt: skip
MOST_DIGITS = 12


class Needle:
    """``size`` problems of ``sentences`` sentences each, their numbers of ``digits`` digits. ``depths``:
    where the number stands, 0 at the beginning and 1 at the end, one after the other."""

    def __init__(
        self,
        name: str = "needle",
        size: int = 400,
        sentences: int = 20,
        digits: int = 5,
        depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    ) -> None:
        """Raises ConfigError naming the option that cannot be meant."""
        if not 1 <= digits <= MOST_DIGITS:
            raise ConfigError(f"tasks.{name}.digits: between 1 and {MOST_DIGITS} (given: {digits!r})")
        if size < 1 or sentences < 1 or size > 5 * 10**digits // 8:
            raise ConfigError(
                f"tasks.{name}: size ({size}) and sentences ({sentences}) must be at least 1, and there must "
                f"be enough numbers of {digits} digits for the size"
            )
        if not depths or not all(0 <= depth <= 1 for depth in depths):
            raise ConfigError(f"tasks.{name}.depths: numbers from 0 to 1 (given: {list(depths)})")
        self.name, self.size, self.sentences = name, size, sentences
        self.digits, self.depths = digits, tuple(depths)

    def problems(self, split: str) -> Sequence[Problem]:
        rng = random.Random(f"needle/{self.sentences}/{self.digits}/{split}")
        wanted = self.size if split == "train" else max(1, self.size // 8)
        found: dict[str, Problem] = {}
        while len(found) < wanted:
            key = f"{rng.randrange(10**self.digits):0{self.digits}d}"
            if key not in found and is_held_out("needle", key) == (split == "held_out"):
                found[key] = self.problem(key, self.depths[len(found) % len(self.depths)], rng)
        return list(found.values())

    def problem(self, key: str, depth: float, rng: random.Random) -> Problem:
        """A text with the number ``key`` after a share of ``depth`` of its sentences."""
        filler = [rng.choice(FILLERS) for _ in range(self.sentences)]
        place = round(depth * self.sentences)
        text = " ".join([*filler[:place], f"The pass key is {key}.", *filler[place:]])
        return Problem(
            f"{self.name}/{self.sentences}/{depth:g}/{key}", self.name, f"{text} What is the pass key?", key,
            difficulty=float(self.sentences), columns={"depth": depth, "sentences": self.sentences},
        )  # fmt: skip

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict("wrong", "the template was not followed")
        said = single_answer(answer)
        return Verdict("correct") if said == problem.answer else Verdict("wrong", "another number")
