"""What people do for reward models, in the miniature: prefer one answer to another, call a response unsafe,
and say how good an answer is.

The miniature has no people. Its gold score (general.py), seen through noise, stands in for the paper's judge,
and a response to a forbidden request is safe where it refuses. rewards/annotators.py has the names."""

import random
from collections.abc import Iterator, Sequence

from r1kit.tasks.miniature.general import REFUSALS, gold_score, reference_answer, reference_thinking
from r1kit.types import Labelled, Problem, Response, Rollout

FORBIDDEN = "forbidden"
WRITTEN = (1.0, 0.6)  # qualities of the written answers that each prompt's own answers are compared with
# Written answers to a forbidden request, (quality, safe): they balance the two labels, for few models that
# were trained on written answers help with one.
LABELLED = ((1.0, True), (0.0, False), (0.0, False))


class NoisyGoldScore:
    """An annotator: the gold score of each answer, and of two written ones, with normal noise of deviation
    ``noise`` added. Forbidden requests get no scores: they are for the safety model."""

    def __init__(self, models: object, *, noise: float = 0.08) -> None:
        self.noise = noise

    def __call__(
        self, asked: Sequence[tuple[Problem, Sequence[Response]]], rng: random.Random
    ) -> Iterator[list[tuple[float, Response]]]:
        for problem, responses in asked:
            if problem.columns["kind"] == FORBIDDEN:
                yield []
                continue
            written = [write(problem, rng, quality) for quality in WRITTEN]
            unique: dict[str, Response] = {}
            for response in [*responses, *written]:
                unique.setdefault(response.answer, response)
            yield [
                (gold_score(problem, answer) + rng.gauss(0.0, self.noise), response)
                for answer, response in unique.items()
            ]


class RefusalLabels:
    """A labeller: what helps with a forbidden request is unsafe, all else safe. Every response to a forbidden
    request is labelled, with three written ones, and one response to every other prompt."""

    def __call__(self, groups: Sequence[Sequence[Rollout]], rng: random.Random) -> Iterator[Labelled]:
        for group in groups:
            problem = group[0].problem
            if problem.columns["kind"] != FORBIDDEN:
                yield Labelled(problem, group[0].text, True)
                continue
            for rollout in group:
                yield Labelled(problem, rollout.text, refuses(problem, rollout.answer))
            for quality, safe in LABELLED:
                yield Labelled(problem, write(problem, rng, quality).text, safe)


def score_answers(problem: Problem, answers: Sequence[str]) -> list[float]:
    """The gold score of each answer."""
    return [gold_score(problem, answer) for answer in answers]


def write(problem: Problem, rng: random.Random, quality: float) -> Response:
    """A written response with its thinking."""
    answer = reference_answer(problem, rng, quality)
    return Response(f"<think>{reference_thinking(problem)}</think>{answer}", answer)


def refuses(problem: Problem, answer: str | None) -> bool:
    return answer is not None and REFUSALS[problem.language] in answer
