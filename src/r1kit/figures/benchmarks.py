"""The figures of a model on a benchmark: k samples of each problem, the protocol that they were drawn and
judged by, and what follows from them.

Shares lie between 0 and 1. ``summarise`` is a function of the per-problem results alone, so it gives the same
figures from a file of them at any time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from r1kit.config import R1kitError
from r1kit.figures.contests import estimate_rating, percentile
from r1kit.figures.evaluation import STRICT
from r1kit.figures.statistics import clustered_stderr, mean_pass_at_k, share_interval

UNJUDGED_LIMIT = 0.05  # of the samples: beyond that a score would be of the checker


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion: its score from 0 to 1 (None: could not be judged), the class of its answer in a vote
    (None: no vote), ``length`` in tokens (of an endpoint: words) and of its final answer in characters, and
    the share of its thinking in the problem's language (None: no words)."""

    __pydantic_config__ = STRICT

    score: float | None
    vote: str | None
    finish: Literal["stop", "length"]
    followed: bool
    language: float | None
    length: int
    answer_length: int
    text: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """A problem and its samples, one line of a benchmark's file of results."""

    __pydantic_config__ = STRICT

    id: str
    question: str
    gold: str
    difficulty: float | None
    category: str
    cluster: str
    samples: tuple[Sample, ...]

    @property
    def scores(self) -> list[float]:
        """The scores of the samples that could be judged."""
        return [sample.score for sample in self.samples if sample.score is not None]


@dataclass(frozen=True, slots=True)
class Setting:
    """The protocol of a result. ``task``, ``data``, ``code`` are hashes of the task file, the rows and
    r1kit's source; ``prompt`` is the task's prompt, ``style`` how the model's template puts it."""

    __pydantic_config__ = STRICT

    benchmark: str
    problems: int
    k: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    prompt: str
    style: str
    metric: str
    judge: str
    source: str
    task: str
    data: str
    code: str
    length_unit: str = "tokens"

    def differences(self, other: "Setting", without: Sequence[str] = ()) -> tuple[str, ...]:
        """In what two protocols differ: "k 64 / 16". The model's own template (``style``) is part of the
        model, and no difference."""
        found = []
        for field in fields(self):
            one, two = getattr(self, field.name), getattr(other, field.name)
            if field.name not in ("style", *without) and one != two:
                short = field.name in ("task", "data", "code", "prompt")
                found.append(f"another {field.name}" if short else f"{field.name} {one} / {two}")
        return tuple(found)

    def in_words(self) -> str:
        """The protocol as one sentence."""
        judged = f", judged by {self.judge}" if self.judge else ""
        return (
            f"{self.problems} problems of {self.source}, k = {self.k}, temperature {self.temperature:g}, "
            f"top-p {self.top_p:g}, at most {self.max_tokens} tokens, seed {self.seed}{judged}"
        )


@dataclass(frozen=True, slots=True)
class Contamination:
    """How many problems the training data holds (equal, or ten words in a row), of which files, and the score
    without them (None where none is left)."""

    __pydantic_config__ = STRICT

    problems: int
    share: float
    files: tuple[str, ...]
    pass_1_clean: float | None

    def in_words(self) -> str:
        """The contamination as a clause."""
        clean = "" if self.pass_1_clean is None else f"; without them {100 * self.pass_1_clean:.1f}"
        return f"{self.problems} problems ({self.share:.1%}) are in the training data{clean}"


@dataclass(frozen=True, slots=True)
class BenchmarkFigures:
    """The figures of one model on one benchmark.

    ``score`` is what the benchmark's metric says, in the unit of the paper's table: percent, or a rating.
    ``pass_1`` is the mean over problems of the mean score of their samples, ``pass_k`` the unbiased estimates
    by k (none where scores are not 0 or 1), ``cons`` the share of problems whose most frequent answer is
    right (None without votes). ``rating_stderr`` and ``percentile`` belong to a rating."""

    __pydantic_config__ = STRICT

    problems: int
    score: float
    pass_1: float
    stderr: float | None
    interval: tuple[float, float]
    pass_k: Mapping[int, float]
    cons: float | None
    truncated: float
    followed: float
    language: float | None
    length: float
    unjudged: int
    rating_stderr: float | None = None
    percentile: float | None = None


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What is written of one model on one benchmark. ``paper``: the paper's scores by model."""

    __pydantic_config__ = STRICT

    benchmark: str
    title: str
    model: str
    model_hash: str
    setting: Setting
    figures: BenchmarkFigures
    contamination: Contamination | None
    paper: Mapping[str, float]
    paper_k: int | None


def summarise(results: Sequence[ProblemResult], metric: str = "pass@1") -> BenchmarkFigures:
    """All figures of a benchmark's results. Problems without any judged sample are left out. Raises
    R1kitError where nothing is left, or where more than a twentieth of the samples could not be judged."""
    samples = [sample for result in results for sample in result.samples]
    unjudged = [sample for sample in samples if sample.score is None]
    kept = [result for result in results if result.scores]
    if not kept or len(unjudged) > max(1, UNJUDGED_LIMIT * len(samples)):
        first = f"; the first: {unjudged[0].reason}" if unjudged else ""
        raise R1kitError(f"{len(unjudged)} of {len(samples)} samples could not be judged{first}")
    means = [float(np.mean(result.scores)) for result in kept]
    clusters = [result.cluster or result.id for result in kept]
    languages = [sample.language for sample in samples if sample.language is not None]
    pass_1 = float(np.mean(means))
    return BenchmarkFigures(
        problems=len(kept),
        **_headline(kept, means, metric),
        pass_1=pass_1,
        stderr=clustered_stderr(means, clusters),
        interval=share_interval(means, clusters),
        pass_k=pass_at_powers(kept),
        cons=consensus(kept),
        truncated=float(np.mean([sample.finish == "length" for sample in samples])),
        followed=float(np.mean([sample.followed for sample in samples])),
        language=float(np.mean(languages)) if languages else None,
        length=float(np.mean([sample.length for sample in samples])),
        unjudged=len(unjudged),
    )


def _headline(kept: Sequence[ProblemResult], means: Sequence[float], metric: str) -> dict[str, Any]:
    """The score by the benchmark's metric, with what belongs to a rating."""
    rated = [
        (result.difficulty, mean, len(result.scores))
        for result, mean in zip(kept, means, strict=True)
        if result.difficulty is not None
    ]
    if metric != "rating":
        return {"score": 100 * float(np.mean(means))}
    if not rated:
        raise R1kitError(
            "a rating needs problems with ratings; name their column: columns: {difficulty: rating}"
        )
    found = estimate_rating(*(list(column) for column in zip(*rated, strict=True)))
    return {
        "score": found.rating,
        "rating_stderr": found.stderr,
        "percentile": percentile(found.rating),
    }


def consensus(results: Sequence[ProblemResult]) -> float | None:
    """The share of problems whose most frequent answer is right; a problem without an answer is wrong. None
    where nothing is voted on."""
    if not any(sample.vote is not None for result in results for sample in result.samples):
        return None
    return float(np.mean([majority(result) or 0.0 for result in results]))


def majority(result: ProblemResult) -> float | None:
    """1 where the largest class of a problem's answers is right (ties: the class that came first), else 0;
    None without votes."""
    votes = Counter(sample.vote for sample in result.samples if sample.vote is not None)
    if not votes:
        return None
    order = [sample.vote for sample in result.samples]
    winner = max(votes, key=lambda vote: (votes[vote], -order.index(vote)))
    scores = [sample.score for sample in result.samples if sample.vote == winner and sample.score is not None]
    return float(bool(scores) and scores[0] >= 1.0)


def pass_at_powers(results: Sequence[ProblemResult]) -> dict[int, float]:
    """pass@k for k = 1, 2, 4, ... and the smallest number of judged samples; empty where a score is neither 0
    nor 1."""
    if any(score not in (0.0, 1.0) for result in results for score in result.scores):
        return {}
    counts = [(int(sum(result.scores)), len(result.scores)) for result in results]
    most = min(samples for _, samples in counts)
    powers = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    return {k: mean_pass_at_k(counts, k) for k in sorted({*powers, most})}


def as_row(result: ProblemResult) -> dict[str, Any]:
    """A problem's results as a row of JSON Lines."""
    return asdict(result)
