"""A known taste: a person who prefers by rule, so that a loop of people's labels can run without people and
be measured (recipes/feedback.yaml).

    taste = (w_length f_length + w_language f_language + w_format f_format + w_word f_word) / sum of weights

Each f is 0 to 1: the length up to LONGEST characters, the share of words in the prompt's language, whether
the answer ends with a mark of punctuation, whether it holds one of the words. Reward models see none of this,
only which of two answers was preferred."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from r1kit.language import language_share
from r1kit.rewards.reward import CheckingTask, Reward
from r1kit.types import Problem, Response, Rollout

LONGEST = 60  # characters; beyond that an answer is not better for its length
ENDS = tuple(".!?。！？")
WORDS = ("Gladly", "很乐意")


@dataclass(frozen=True, slots=True)
class Taste:
    """The weights of the taste's four parts."""

    length: float = 0.2
    language: float = 0.2
    format: float = 0.2
    word: float = 0.4

    def score(self, problem: Problem, answer: str) -> float:
        """How much an answer is liked, 0 to 1 for weights of one sign."""
        share = language_share(answer, problem.language)
        parts = (
            (self.length, min(len(answer), LONGEST) / LONGEST),
            (self.language, 1.0 if share is None else share),
            (self.format, float(answer.rstrip().endswith(ENDS))),
            (self.word, float(any(word in answer for word in WORDS))),
        )
        whole = sum(abs(weight) for weight, _ in parts) or 1.0
        return sum(weight * value for weight, value in parts) / whole


class TasteAnnotator:
    """An annotator with this taste; ``noise`` is the deviation of normal noise in each score, and the other
    options are the weights of Taste."""

    def __init__(
        self,
        models: object,
        *,
        noise: float = 0.05,
        length: float = 0.2,
        language: float = 0.2,
        format: float = 0.2,
        word: float = 0.4,
    ) -> None:
        self.taste, self.noise = Taste(length, language, format, word), noise

    def __call__(
        self, asked: Sequence[tuple[Problem, Sequence[Response]]], rng: random.Random
    ) -> Iterator[list[tuple[float, Response]]]:
        for problem, responses in asked:
            yield [
                (self.taste.score(problem, response.answer) + rng.gauss(0.0, self.noise), response)
                for response in responses
            ]


def taste_scores(problem: Problem, answers: Sequence[str]) -> list[float]:
    """The taste of each answer, without noise."""
    return [Taste().score(problem, answer) for answer in answers]


def taste(tasks: Mapping[str, CheckingTask]) -> Reward:
    """Make the taste as a score of rollouts, for evaluation; an answer that is not there is worth 0."""

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [
            0.0 if rollout.answer is None else Taste().score(rollout.problem, rollout.answer)
            for rollout in rollouts
        ]

    return reward
