"""A task, rewards and judges for models that know nothing: what they say decides, not whether it is true.

Everything depends on the sampled text alone, so about half of all answers are right, and groups have a
spread."""

from collections.abc import Sequence

from r1kit.types import Problem, Rollout, Verdict


class Odd:
    """Sums, of which every answer with an odd number of different characters counts as correct."""

    name = "odd"

    def problems(self, split: str) -> list[Problem]:
        """Sixty-four problems, every eighth of them held out."""
        kept = [n for n in range(64) if (n % 8 == 0) == (split == "held_out")]
        return [Problem(f"odd/{n}", self.name, f"What is {n} + {n * n % 17}?", str(n)) for n in kept]

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        """Judge an answer by its characters."""
        return Verdict("correct" if answer and len(set(answer)) % 2 else "wrong")


def odd(completions: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> list[float]:
    """The share of odd token ids: a reward that differs within almost every group."""
    return [sum(i % 2 for i in ids) / max(1, len(ids)) for ids in completion_ids]


def keep(rollouts: Sequence[Rollout]) -> list[tuple[str, str] | None]:
    """The rewriter: thinking and answer as they are."""
    return [(r.thinking, r.answer) if r.thinking and r.answer else None for r in rollouts]


def longer(problem: Problem, answers: Sequence[str]) -> list[float | None]:
    """Prefer the longer answer."""
    return [float(len(answer)) for answer in answers]


def safe(problem: Problem, responses: Sequence[str]) -> list[bool | None]:
    """Call a response safe by the parity of its length."""
    return [len(response) % 2 == 0 for response in responses]
