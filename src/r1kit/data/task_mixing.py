"""How often each of several tasks is drawn in one fine-tuning (T5: Raffel et al. 1910.10683, section 3.5.2).

    proportional    r_m = min(e_m, K) / sum_n min(e_n, K)
    temperature T   r_m^(1/T), normalised:  1 is proportional, infinity is equal

with e_m the rows of task m and K the ``limit``."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from pydantic import Field

from r1kit.config import Config
from r1kit.seeds import derive_seed

Drawn = TypeVar("Drawn")


class MixingConfig(Config):
    """``temperature`` and ``limit`` as on top; T5 took 2 with a limit of 2^21, and several limits with 1.
    ``rows``: how many are drawn in all, by default as many as ``training.epochs`` over all rows."""

    temperature: float = Field(1.0, ge=1.0)
    limit: int | None = Field(None, ge=1)
    rows: int | None = Field(None, ge=1)


def rates(sizes: Mapping[str, int], mixing: MixingConfig) -> dict[str, float]:
    """The share of each task in what is drawn."""
    limit = math.inf if mixing.limit is None else mixing.limit
    counted = {name: min(size, limit) for name, size in sizes.items()}
    total = sum(counted.values())
    raised = {name: (count / total) ** (1 / mixing.temperature) for name, count in counted.items()}
    return {name: value / sum(raised.values()) for name, value in raised.items()}


def counts(shares: Mapping[str, float], draws: int) -> dict[str, int]:
    """Whole numbers that sum to ``draws``, each share rounded down, the largest remainders up."""
    exact = {name: share * draws for name, share in shares.items()}
    found = {name: math.floor(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: (found[name] - exact[name], name))
    for name in order[: draws - sum(found.values())]:
        found[name] += 1
    return found


def mixed(rows: Mapping[str, Sequence[Drawn]], mixing: MixingConfig, draws: int, seed: int) -> list[Drawn]:
    """``draws`` rows, each task's by its rate: all of its rows before one comes again, in a new order each
    time, and the tasks in random order."""
    each = counts(rates({name: len(own) for name, own in rows.items()}, mixing), draws)
    streams: list[tuple[str, int]] = []
    for name, count in each.items():
        size = len(rows[name])
        for epoch in range(-(-count // size)):
            order = np.random.default_rng(derive_seed(seed, name, epoch)).permutation(size)
            streams += [(name, int(place)) for place in order[: count - epoch * size]]
    turns = [name for name, count in each.items() for _ in range(count)]
    waiting = {name: iter([place for own, place in streams if own == name]) for name in each}
    order = np.random.default_rng(derive_seed(seed, "turns")).permutation(len(turns))
    return [rows[turns[turn]][next(waiting[turns[turn]])] for turn in order]
