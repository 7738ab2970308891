"""Which prompts to label or sample next: those that models are least sure of (active learning, Settles 2009).

    random     any order; what the others are compared with
    entropy    the mean of -log p of the sampled tokens: an estimate of the policy's entropy per token
    votes      the entropy of the votes of a prompt's answers, the sum of -q log q over different answers
    margin     the smallest difference between the two best answers by a reward model first
    ensemble   what several models disagree on: H(mean of their votes) - mean of H(votes of each), the mutual
               information between answer and model (BALD, Houlsby et al. 2011); unlike ``votes`` it passes
               over prompts on which each model guesses in the same way

A choice is a file of prompts in their order, which rejection_sampling and label read."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from r1kit.config import R1kitError
from r1kit.jsonl import column, read_jsonl
from r1kit.types import Problem

Uncertainty = Literal["random", "entropy", "votes", "margin", "ensemble"]


def token_entropy(logprobs: Iterable[np.ndarray]) -> float:
    """The mean of -log p over all tokens of a prompt's completions, in nats; 0 without tokens."""
    every = np.concatenate([np.zeros(0, dtype=np.float32), *logprobs])
    if np.isnan(every).any():
        raise R1kitError(
            "entropy needs log-probabilities, and this engine gives none; choose by votes, or sample with "
            "engine: native or vllm"
        )
    return float(-every.mean()) if len(every) else 0.0


def vote_entropy(votes: Sequence[str | None]) -> float:
    """The entropy of votes, in nats; answers that cannot be read are one vote of their own."""
    return _entropy(_shares(votes))


def disagreement(votes: Sequence[Sequence[str | None]]) -> float:
    """The mutual information between answer and model, in nats, of the votes of each model."""
    if len(votes) < 2:
        raise R1kitError(f"ensemble needs two models or more (given: {len(votes)})")
    each = [_shares(own) for own in votes]
    answers = {answer for own in each for answer in own}
    mixed = {answer: sum(own.get(answer, 0.0) for own in each) / len(each) for answer in answers}
    return max(0.0, _entropy(mixed) - sum(map(_entropy, each)) / len(each))


def closeness(values: Sequence[float]) -> float:
    """Minus the difference between the two highest values of different answers; minus infinity with one
    answer, which has nothing to be compared with."""
    if len(values) < 2:
        return float("-inf")
    best, second = sorted(values, reverse=True)[:2]
    return -(best - second)


def most_uncertain(scores: Sequence[float], budget: int, seed: int) -> list[int]:
    """The places of the ``budget`` highest scores, the highest first; equal ones by chance."""
    order = list(range(len(scores)))
    random.Random(f"prompts/{seed}").shuffle(order)
    order.sort(key=lambda place: -scores[place])
    return order[:budget]


def chosen_row(problem: Problem, score: float) -> dict[str, Any]:
    """A row of the file of chosen prompts."""
    shown = None if not np.isfinite(score) else round(score, 6)
    return {"id": problem.id, "task": problem.task, "prompt": problem.prompt, "uncertainty": shown}


def read_chosen(path: Path) -> list[str]:
    """The ids of a file of chosen prompts, in its order. Raises R1kitError naming the row."""
    found = [column(path, number, row, "id") for number, row in read_jsonl(path)]
    if not found:
        raise R1kitError(f"{path}: no chosen prompts; a row is {json.dumps({'id': 'task/1'})}")
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise R1kitError(f"{path}: the prompt {twice[0]!r} is chosen twice; remove one of the rows")
    return found


def only_chosen(path: Path, problems: Mapping[str, Problem]) -> list[Problem]:
    """The problems of a file of chosen prompts, in its order. Raises R1kitError for one that the tasks do not
    have."""
    ids = read_chosen(path)
    unknown = [name for name in ids if name not in problems]
    if unknown:
        raise R1kitError(
            f"{path}: {len(unknown)} of {len(ids)} chosen prompts are not among the training problems of the "
            f"tasks, such as {unknown[0]!r}; name the tasks that the choice was made of"
        )
    return [problems[name] for name in ids]


def _shares(votes: Sequence[str | None]) -> dict[str | None, float]:
    counts = Counter(votes)
    return {answer: count / len(votes) for answer, count in counts.items()}


def _entropy(shares: Mapping[Any, float]) -> float:
    return float(-sum(share * np.log(share) for share in shares.values() if share > 0))
