"""Rewards for length and repetition: soft overlong, cosine, group-relative length, repeated n-grams."""

import math
import re
from collections.abc import Mapping, Sequence

from r1kit.config import ConfigError
from r1kit.rewards.reward import CheckingTask, Reward, places_by_group, token_count
from r1kit.rewards.rules import accuracy
from r1kit.types import Rollout

_WORDS = re.compile(r"[぀-ヿ㐀-鿿]|[^\W_]+")


def soft_overlong(tasks: Mapping[str, CheckingTask], *, limit: int = 20_480, buffer: int = 4_096) -> Reward:
    """Make the soft overlong punishment: 0 up to ``limit - buffer`` tokens, then falling to -1 at ``limit``
    [DAPO, eq. 13]."""
    if not 0 < buffer <= limit:
        raise ConfigError(
            f"rewards.soft_overlong: buffer must lie in 1..limit (given: buffer {buffer}, limit {limit})"
        )

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [
            min(0.0, max(-1.0, (limit - buffer - length) / buffer)) for length in map(token_count, rollouts)
        ]

    return reward


def cosine(
    tasks: Mapping[str, CheckingTask], *, limit: int = 4_096, right_short: float = 1.0,
    right_long: float = 0.5, wrong_short: float = -1.0, wrong_long: float = -0.5,
) -> Reward:  # fmt: skip
    """Make the cosine length reward: right answers earn less the longer, wrong ones lose less [arXiv
    2502.03373, section 4].

    The value moves from ``.._short`` at no tokens to ``.._long`` at ``limit`` tokens along half a cosine.
    """
    judge_answers = accuracy(tasks)

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        values: list[float | None] = []
        for rollout, right in zip(rollouts, judge_answers(rollouts), strict=True):
            if right is None or math.isnan(right):
                values.append(right)
                continue
            short, long = (right_short, right_long) if right == 1.0 else (wrong_short, wrong_long)
            share = min(1.0, token_count(rollout) / limit)
            values.append(long + 0.5 * (short - long) * (1.0 + math.cos(math.pi * share)))
        return values

    return reward


def length(tasks: Mapping[str, CheckingTask]) -> Reward:
    """Make the group-relative length reward: 0.5 for the shortest of a group to -0.5 for the longest; a wrong
    answer never gains.

    Source: Kimi k1.5, section 2.3.3.
    """
    judge_answers = accuracy(tasks)

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        values = judge_answers(rollouts)
        for places in places_by_group(rollouts).values():
            lengths = [token_count(rollouts[place]) for place in places]
            spread = max(lengths) - min(lengths)
            for place, tokens in zip(places, lengths, strict=True):
                right = values[place]
                if right is None or math.isnan(right):
                    continue
                relative = 0.5 - (tokens - min(lengths)) / spread if spread else 0.0
                values[place] = relative if right == 1.0 else min(0.0, relative)
        return values

    return reward


def repetition(tasks: Mapping[str, CheckingTask], *, ngram: int = 4, penalty: float = -1.0) -> Reward:
    """Make the repetition penalty: ``penalty`` times the share of n-grams of words that occurred before
    [arXiv 2502.03373, appendix].

    Han and kana characters count as words, one by one.
    """
    if ngram < 1 or penalty > 0:
        raise ConfigError(
            f"rewards.repetition: ngram must be positive and penalty not (given: ngram {ngram}, penalty "
            f"{penalty})"
        )

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [penalty * repeated_share(rollout.text, ngram) for rollout in rollouts]

    return reward


def repeated_share(text: str, ngram: int) -> float:
    """The share of a text's word n-grams that are repetitions of earlier ones, from 0 to 1."""
    words = _WORDS.findall(text.lower())
    grams = [tuple(words[place : place + ngram]) for place in range(len(words) - ngram + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
