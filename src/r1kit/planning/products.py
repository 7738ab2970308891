"""Products that a CPU library compiles: one for each shape, kept by the process that met it.

Where bfloat16 products go through oneDNN, a product of (M, K) with (K, N) is compiled when its shape is first
met, and kept in a cache of ``MOST`` (runtime/replica.py). Every projection of the network is three products:
one forward, two backward. M is the width of a batch, which packing rounds (train/packing.py), so a training
meets few different ones: those of whole batches are nearly the same, and what is left over at the end of an
update is of any width. What one compiled product takes is measured (rates.py): next to nothing where the
library compiles none."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.planning.shapes import Shape

MOST = 256  # oneDNN's cache in r1kit's processes
DIRECTIONS = 3  # forward, the inputs' gradient, the weights'
WHOLE = 2  # different widths of batches that are full
USUAL_KINDS = 5  # of projections in a layer: queries, keys and values, out, up, down
RUN_STEP = 64  # rows to which an expert's run is rounded (model/experts.py: lay_out)


@dataclass(frozen=True, slots=True)
class Met:
    """Batches that a process has computed, the largest of ``most`` positions: ``whole`` ones of nearly that
    width, and ``others`` of any width."""

    whole: float = 0.0
    others: float = 0.0
    most: float = 0.0

    def __add__(self, other: "Met") -> "Met":
        return Met(self.whole + other.whole, self.others + other.others, max(self.most, other.most))

    @property
    def share(self) -> float:
        """Of all possible widths, those that there were."""
        return distinct(possible_widths(self.most), self.others) / possible_widths(self.most)

    @property
    def widths(self) -> float:
        """How many different widths there were."""
        return min(self.whole, WHOLE) + self.share * possible_widths(self.most)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a process has met so far, by the network that it computed."""

    met: Mapping[str, tuple[Shape, Met]] = field(default_factory=dict)

    def after(self, shape: Shape, met: Met) -> "Compiled":
        """As it is after further batches of a network."""
        key = repr(replace(shape, config=None))
        _, before = self.met.get(key, (shape, Met()))
        return Compiled({**self.met, key: (shape, before + met)})

    @property
    def count(self) -> float:
        """How many products are kept."""
        return min(MOST, sum(products_of(shape, met) for shape, met in self.met.values()))


def products_of(shape: Shape, met: Met) -> float:
    """How many different products batches of these widths have. Every projection meets every width; runs of
    experts have lengths of their own."""
    found = met.widths * DIRECTIONS * kinds(shape)
    if shape.experts:
        average = met.most * shape.active_experts / shape.experts
        runs = distinct(max(1.0, 2 * average / RUN_STEP), (met.whole + met.others) * shape.experts)
        found += runs * DIRECTIONS * 2  # up and gate have one shape, down another
    return found


def kinds(shape: Shape) -> int:
    """How many different shapes the projections of a network have."""
    return USUAL_KINDS if shape.config is None else _kinds(shape.config.model_dump_json())


@functools.cache
def _kinds(config: str) -> int:
    with torch.device("meta"):
        model = LanguageModel(ModelConfig.model_validate_json(config))
    found = {
        (part.in_features, part.out_features)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and name != "lm_head"
    }
    return max(1, len(found))


def possible_widths(most: float) -> float:
    """How many different widths a batch of at most so many positions may have: multiples of 16, and at most
    32 of them (packing.py rounds to a thirty-second of a long line, or somewhat less)."""
    return max(1.0, math.ceil(min(most, 512) / 16))


def distinct(values: float, draws: float) -> float:
    """How many different values are expected in ``draws`` draws of ``values`` equally likely ones."""
    return 0.0 if draws <= 0 else values * (1.0 - (1.0 - 1.0 / max(1.0, values)) ** draws)
