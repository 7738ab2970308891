"""What a loss gets from the model, and the simplest loss: cross-entropy.

An objective is a pure function of the model's predictions and the batch. It returns a *sum* over trained
tokens; the rows' weights carry the normalisation, so any split over micro-batches, packing or processes gives
the same gradient."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from r1kit.train.packing import Batch


@dataclass(frozen=True, slots=True)
class Predictions:
    """logprobs_BT: log-probability of each target in float32, with gradient, zero where not trained;
    entropy_BT: of the distribution it came from, with gradient (zero unless Needs.entropy); values_BT:
    the scalar head's outputs, if there is one; divergence_BT: from the teacher's distribution
    (divergence.py), with gradient, zero where not trained, if the learner has a teacher; pairs_BT2: the
    log-probabilities of the two classes of a row at its first position, if the batch has classes."""

    logprobs_BT: Tensor
    entropy_BT: Tensor
    values_BT: Tensor | None = None
    divergence_BT: Tensor | None = None
    pairs_BT2: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What the learner must compute for an objective besides the log-probabilities.

    ``statistics`` names what the objective returns, because a process without rows has to add zeros under
    the same names. ``entropy``, ``values``: Predictions.entropy_BT and values_BT. ``mtp_weight`` and
    ``balance_weight``: of the losses that the learner adds (see CrossEntropy)."""

    statistics: tuple[str, ...] = ()
    entropy: bool = False
    values: bool = False
    mtp_weight: float = 0.0
    balance_weight: float = 0.0


class Objective(Protocol):
    """A loss. The returned statistics are sums over tokens, to be added over batches and processes."""

    @property
    def needs(self) -> Needs: ...

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]: ...


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """-sum(weight * log p(target)): pretraining and SFT. ``mtp_weight`` is lambda of DeepSeek-V3 eq. 25 (0.3,
    later 0.1); ``balance_weight`` is alpha of its sequence-wise balance loss, eq. 17 (1e-4)."""

    mtp_weight: float = 0.0
    balance_weight: float = 0.0

    @property
    def needs(self) -> Needs:
        return Needs(("nats", "tokens"), mtp_weight=self.mtp_weight, balance_weight=self.balance_weight)

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = -(predictions.logprobs_BT * batch.weights_BT * batch.mask_BT).sum()
        with torch.no_grad():
            nats = -(predictions.logprobs_BT * batch.mask_BT).sum()
        return loss, {"nats": nats, "tokens": batch.mask_BT.sum()}
