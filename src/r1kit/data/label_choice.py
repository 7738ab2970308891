"""Which pairs to label next: those from which a reward model learns most.

    random         any order; what the others are compared with
    margin         the smallest |v_first - v_second| of a reward model first: it is least sure there
    disagreement   the largest deviation over several reward models of P(first better) =
                   sigmoid(v_first - v_second) first; unlike the margin it passes over pairs that all models
                   call equal

A choice is an order of the pairs, as their places in a list."""

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from r1kit.config import R1kitError

Strategy = Literal["random", "margin", "disagreement"]


def random_order(count: int, seed: int) -> list[int]:
    """All places in an order that follows from the seed."""
    order = list(range(count))
    random.Random(f"label/{seed}").shuffle(order)
    return order


def margin_order(margins_Y: np.ndarray) -> list[int]:
    """Places by |margin| [pairs], the smallest first; equal ones in the order of the list."""
    return _by(np.abs(_finite(margins_Y)))


def disagreement_order(margins_ZY: np.ndarray) -> list[int]:
    """Places by the standard deviation, over the reward models, of the probability that the first answer is
    better; ``margins_ZY`` is [models, pairs], with two models or more. The largest first."""
    if len(margins_ZY) < 2:
        raise R1kitError(f"disagreement needs two reward models or more (given: {len(margins_ZY)})")
    probabilities_ZY = np.exp(-np.logaddexp(0.0, -_finite(margins_ZY)))
    return _by(-probabilities_ZY.std(axis=0))


def spread(order: Sequence[int], groups: Sequence[Hashable], most: int) -> list[int]:
    """The same order, with at most ``most`` pairs of a group (a prompt) before all further ones: the pairs of
    one prompt resemble each other, and so do their labels."""
    seen: Counter[Hashable] = Counter()
    early, late = list[int](), list[int]()
    for place in order:
        (early if seen[groups[place]] < most else late).append(place)
        seen[groups[place]] += 1
    return early + late


def _by(values_Y: np.ndarray) -> list[int]:
    return [int(place) for place in np.argsort(values_Y, kind="stable")]


def _finite(margins: np.ndarray) -> np.ndarray:
    if not np.isfinite(margins).all():
        raise R1kitError("a reward model gives a value that is no finite number; train it again")
    return margins
