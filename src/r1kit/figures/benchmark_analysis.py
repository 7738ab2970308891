"""The paper's analyses of a model's samples on a benchmark (DeepSeek-R1, Nature version, C.1, C.2, E.2)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from r1kit.figures.benchmarks import ProblemResult, Sample, consensus, pass_at_powers
from r1kit.figures.evaluation import STRICT
from r1kit.figures.reflection import WORDS, reflection_words
from r1kit.figures.statistics import PairedTest, crossing, paired_test, rank_correlation

LONGEST_PERIOD, REPEATS, SHORTEST_LOOP = 400, 4, 80  # characters, times, characters


@dataclass(frozen=True, slots=True)
class Level:
    """The problems of one difficulty or category: accuracy, and mean length of the samples."""

    __pydantic_config__ = STRICT

    name: str
    problems: int
    pass_1: float
    length: float


@dataclass(frozen=True, slots=True)
class Analysis:
    """``by_difficulty`` and ``by_category``: accuracy and length of each level. ``length_against_difficulty``
    is the rank correlation over problems of mean length with the difficulty given, or without one with the
    share of wrong samples. ``reflection``: words per 1,000 tokens, all and each; ``majority_gain`` is cons
    less pass@1; ``repeated`` the share of samples that end in a loop."""

    __pydantic_config__ = STRICT

    by_difficulty: tuple[Level, ...]
    by_category: tuple[Level, ...]
    length_against_difficulty: float | None
    reflection: float | None
    reflection_by_word: Mapping[str, float]
    language: float | None
    majority_gain: float | None
    pass_k: Mapping[int, float]
    repeated: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the problems that both were measured on. ``crossing``: the k at which their curves of
    pass@k cross for the first time; ``notes``: what differs in the protocols, in words."""

    test: PairedTest
    crossing: float | None
    notes: tuple[str, ...]


def analyse(results: Sequence[ProblemResult]) -> Analysis:
    """All analyses of a benchmark's results."""
    judged = [result for result in results if result.scores]
    samples = [sample for result in judged for sample in result.samples]
    levels = {result.id: "" if result.difficulty is None else f"{result.difficulty:g}" for result in judged}
    words = reflection_rates(samples)
    voted = consensus(judged)
    means = [float(np.mean(result.scores)) for result in judged]
    languages = [sample.language for sample in samples if sample.language is not None]
    return Analysis(
        by_difficulty=_levels(judged, levels),
        by_category=_levels(judged, {result.id: result.category for result in judged}),
        length_against_difficulty=_length_correlation(judged, means),
        reflection=sum(words.values()) if words else None,
        reflection_by_word=words,
        language=float(np.mean(languages)) if languages else None,
        majority_gain=None if voted is None else voted - float(np.mean(means)),
        pass_k=pass_at_powers(judged),
        repeated=float(np.mean([is_loop(sample.text) for sample in samples])),
    )


def reflection_rates(samples: Sequence[Sample]) -> dict[str, float]:
    """How often each reflection word occurs per 1,000 tokens; empty without tokens."""
    tokens = sum(sample.length for sample in samples)
    counts = dict.fromkeys(WORDS, 0)
    for sample in samples:
        for word in reflection_words(sample.text):
            counts[word] += 1
    return {word: 1000 * count / tokens for word, count in counts.items()} if tokens else {}


def is_loop(text: str) -> bool:
    """Whether a text ends with the same piece at least four times in a row, over at least 80 characters."""
    tail = text.rstrip()[-LONGEST_PERIOD * REPEATS :]
    for period in range(1, min(LONGEST_PERIOD, len(tail) // REPEATS) + 1):
        span = max(period * REPEATS, SHORTEST_LOOP)
        end = tail[-span:]
        if len(end) == span and end[period:] == end[:-period]:
            return True
    return False


def compare(
    first: Sequence[ProblemResult], second: Sequence[ProblemResult], notes: Sequence[str] = (), seed: int = 0
) -> Comparison:
    """Compare two models, paired on the problems that both have; how many others there are is noted."""
    one, two = ({result.id: result for result in side if result.scores} for side in (first, second))
    shared = [name for name in one if name in two]
    alone = len(one) + len(two) - 2 * len(shared)
    said = [*notes, *([f"{alone} problems that only one of them has are left out"] if alone else [])]
    means = [[float(np.mean(side[name].scores)) for name in shared] for side in (one, two)]
    curves = [pass_at_powers([side[name] for name in shared]) for side in (one, two)]
    common = sorted(set(curves[0]) & set(curves[1]))
    cross = crossing(*([(k, curve[k]) for k in common] for curve in curves)) if common else None
    return Comparison(paired_test(means[0], means[1], seed), cross, tuple(said))


def _levels(results: Sequence[ProblemResult], names: Mapping[str, str]) -> tuple[Level, ...]:
    groups: dict[str, list[ProblemResult]] = defaultdict(list)
    for result in results:
        if names[result.id]:
            groups[names[result.id]].append(result)
    ordered = sorted(groups, key=lambda name: (_as_number(name), name))
    return tuple(
        Level(
            name,
            len(groups[name]),
            float(np.mean([np.mean(result.scores) for result in groups[name]])),
            float(np.mean([sample.length for result in groups[name] for sample in result.samples])),
        )
        for name in ordered
    )


def _as_number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return 0.0


def _length_correlation(results: Sequence[ProblemResult], means: Sequence[float]) -> float | None:
    lengths = [float(np.mean([sample.length for sample in result.samples])) for result in results]
    given = [result.difficulty for result in results if result.difficulty is not None]
    if len(given) == len(results):
        return rank_correlation(lengths, given)
    return rank_correlation(lengths, [1 - mean for mean in means])
