"""Annotators of training data for reward models, by name: annotators score answers, labellers mark responses
safe or unsafe, scorers rate single answers.

    annotator  (prompts with answers, rng)  -> for each prompt its answers with scores; it may add answers
    labeller   (groups of rollouts, rng)    -> labelled responses
    scorer     (problem, answers)           -> a number for each answer

A name with ":" is the user's own code, ``my_judge.py:helpful``: a scorer serves as annotator and as scorer,
and a function ``(problem, responses) -> list of True, False or None`` as labeller. Scores are on any scale;
None leaves an answer out."""

import inspect
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from r1kit.config import ConfigError, R1kitError, suggest
from r1kit.rewards.pair_judge import OpenModel, PairJudge
from r1kit.rewards.taste import TasteAnnotator, taste_scores
from r1kit.tasks.miniature.annotations import NoisyGoldScore, RefusalLabels, score_answers
from r1kit.types import Labelled, Problem, Response, Rollout
from r1kit.user_code import Shape, load_name

Annotator = Callable[
    [Sequence[tuple[Problem, Sequence[Response]]], random.Random], Iterable[Sequence[tuple[float, Response]]]
]
Labeller = Callable[[Sequence[Sequence[Rollout]], random.Random], Iterable[Labelled]]
Scorer = Callable[[Problem, Sequence[str]], Sequence[float | None]]

# Each entry makes an annotator from a way to open models and its options.
ANNOTATORS: dict[str, Callable[..., Annotator]] = {
    "gold_score": NoisyGoldScore,
    "judge": PairJudge,
    "taste": TasteAnnotator,
}
LABELLERS: dict[str, Callable[..., Labeller]] = {"refusals": RefusalLabels}
JUDGED = Shape(
    "a judge of answers",
    "a function (problem, answers) or (problem, responses) that returns a value for each",
    functions=(("problem", "answers"), ("problem", "responses")),
)
SCORERS: dict[str, Scorer] = {"gold_score": score_answers, "taste": taste_scores}


def check_annotator(name: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown annotator or option."""
    _check(name, options, ANNOTATORS, "annotator")


def check_labeller(name: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown labeller or option."""
    _check(name, options, LABELLERS, "labeller")


def load_annotator(name: str, options: Mapping[str, Any], models: OpenModel) -> Annotator:
    """The annotator of that name. Raises ConfigError as ``check_annotator``."""
    check_annotator(name, options)
    return _ScoringCode(name) if ":" in name else ANNOTATORS[name](models, **options)


def load_labeller(name: str, options: Mapping[str, Any]) -> Labeller:
    """The labeller of that name. Raises ConfigError as ``check_labeller``."""
    check_labeller(name, options)
    return _LabellingCode(name) if ":" in name else LABELLERS[name](**options)


def load_scorer(name: str) -> Scorer:
    """The scorer of that name. Raises ConfigError for an unknown name."""
    _check(name, {}, SCORERS, "scorer")
    return _callable(name) if ":" in name else SCORERS[name]


def score_by(scorer: Scorer, name: str, problem: Problem, answers: Sequence[str]) -> list[float | None]:
    """The scorer's numbers for the answers to one problem. Raises R1kitError naming the scorer if they are
    not valid."""
    values = list(scorer(problem, answers)) if answers else []
    if len(values) != len(answers):
        raise R1kitError(f"{name} returned {len(values)} scores for {len(answers)} answers; return one each")
    for value in values:
        number = isinstance(value, int | float) and math.isfinite(value)
        if value is not None and not number:
            raise R1kitError(
                f"{name} returned {value!r}; a score is a finite number, or None to leave it out"
            )
    return values


class _ScoringCode:
    """The user's scorer as an annotator."""

    def __init__(self, name: str) -> None:
        self.name, self.scorer = name, _callable(name)

    def __call__(
        self, asked: Sequence[tuple[Problem, Sequence[Response]]], rng: random.Random
    ) -> Iterator[list[tuple[float, Response]]]:
        for problem, responses in asked:
            values = score_by(self.scorer, self.name, problem, [response.answer for response in responses])
            yield [
                (float(value), response)
                for value, response in zip(values, responses, strict=True)
                if value is not None
            ]


class _LabellingCode:
    """The user's function as a labeller of every response."""

    def __init__(self, name: str) -> None:
        self.name, self.function = name, _callable(name)

    def __call__(self, groups: Sequence[Sequence[Rollout]], rng: random.Random) -> Iterator[Labelled]:
        for group in groups:
            problem, texts = group[0].problem, [rollout.text for rollout in group]
            labels = list(self.function(problem, texts))
            if len(labels) != len(texts) or not all(label in (True, False, None) for label in labels):
                raise R1kitError(
                    f"{self.name} returned {labels!r:.200} for {len(texts)} responses; return True (safe), "
                    "False (unsafe) or None (left out) for each"
                )
            yield from (
                Labelled(problem, text, bool(label))
                for text, label in zip(texts, labels, strict=True)
                if label is not None
            )


def _check(name: str, options: Mapping[str, Any], table: Mapping[str, Any], what: str) -> None:
    if ":" in name:
        _callable(name)
        if options:
            raise ConfigError(f"{name}: {what}s of your own take no options (given: {', '.join(options)})")
        return
    if name not in table:
        raise ConfigError(
            f"unknown {what} {name!r}: {suggest(name, table)}; your own function is file.py:function"
        )
    known = [p.name for p in inspect.signature(table[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise ConfigError(f"{name}: unknown option {option!r}: {suggest(option, known)}")


def _callable(name: str) -> Any:
    return load_name(name, JUDGED)
