"""Several objectives in one pretraining: next token (with multi-token prediction and fill in the middle),
masked language modelling, next-sentence prediction.

    loss of an update = sum over objectives k of  w_k / (w_1 + w_2 + ..)  x  mean over what k predicts

Each document is dealt to one objective by chance, with the same shares, so the tokens of a training stay the
same whatever its mix. The draw depends on the seed and the update's number alone, so a resumed training deals
as an uninterrupted one. A document whose middle was moved, or that is too short for its objective, is trained
on next tokens. Pairs of next-sentence prediction are masked too where ``mlm`` has a weight, as BERT's are."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from r1kit.config import Config
from r1kit.data.masking import Masking, pair_rows
from r1kit.seeds import derive_seed
from r1kit.tokenizer import Tokenizer
from r1kit.train.objectives import Needs, Objective, Predictions
from r1kit.train.packing import Batch
from r1kit.types import Row

STATISTICS = ("nats", "tokens", "mlm_nats", "mlm_tokens", "nsp_nats", "nsp_right", "nsp_pairs")


class ObjectiveWeights(Config):
    """Weights of the objectives; only their ratios matter. ``mask_rate``: the share of tokens that masked
    language modelling predicts (BERT: 0.15)."""

    next_token: float = Field(1.0, ge=0.0)  # each token from those before it
    mlm: float = Field(0.0, ge=0.0)  # masked language modelling (BERT, section 3.1)
    nsp: float = Field(0.0, ge=0.0)  # next-sentence prediction (BERT, section 3.1)
    mask_rate: float = Field(0.15, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if not self.next_token + self.mlm + self.nsp > 0:
            raise ValueError("give one of next_token, mlm and nsp a weight above 0")
        return self

    @property
    def plain(self) -> bool:
        """Whether there is nothing but next tokens."""
        return not (self.mlm or self.nsp)

    def shares(self) -> dict[str, float]:
        """Each objective's share of the documents and of the loss."""
        weights = {"next_token": self.next_token, "mlm": self.mlm, "nsp": self.nsp}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}


@dataclass(frozen=True, slots=True)
class MixedLoss:
    """-sum(weight * log p) over next tokens and masked tokens, and over the classes of pairs; each row's
    weights carry its objective's share."""

    mtp_weight: float = 0.0
    balance_weight: float = 0.0

    @property
    def needs(self) -> Needs:
        return Needs(STATISTICS, mtp_weight=self.mtp_weight, balance_weight=self.balance_weight)

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = -(predictions.logprobs_BT * batch.weights_BT * batch.mask_BT).sum()
        with torch.no_grad():
            nats, tokens = -(predictions.logprobs_BT * batch.mask_BT).sum(), batch.mask_BT.sum()
        zero = torch.zeros_like(nats)
        found = dict.fromkeys(STATISTICS, zero)
        kind = "mlm_" if batch.bidirectional else ""
        found |= {f"{kind}nats": nats, f"{kind}tokens": tokens}
        if batch.labels_BT is None or predictions.pairs_BT2 is None or batch.label_weights_BT is None:
            return loss, found
        is_pair_BT = batch.labels_BT >= 0
        own_BT = predictions.pairs_BT2.gather(2, batch.labels_BT.clamp(min=0)[..., None])[..., 0]
        loss = loss - (own_BT * batch.label_weights_BT * is_pair_BT).sum()
        with torch.no_grad():
            right_BT = (predictions.pairs_BT2.argmax(-1) == batch.labels_BT) & is_pair_BT
            pairs = {"nsp_nats": -(own_BT * is_pair_BT).sum(), "nsp_pairs": is_pair_BT.sum()}
        return loss, found | pairs | {"nsp_right": right_BT.sum()}


class ObjectiveMix:
    """Deals the documents of each update to the objectives, and weighs the rows."""

    def __init__(self, weights: ObjectiveWeights, tokenizer: Tokenizer, context: int, seed: int) -> None:
        """Raises ConfigError where the tokenizer has no mask token."""
        self.weights, self.context = weights, context
        self.masking = Masking.of(tokenizer, weights.mask_rate)
        self._pairs = self.masking if weights.mlm else replace(self.masking, rate=0.0)
        self.seed = derive_seed(seed, "objectives")

    def batches(self, plain: Callable[[int], Iterator[list[Row]]]) -> Callable[[int], Iterator[list[Row]]]:
        """The updates of ``plain``, from a given one on, dealt."""
        return lambda start: map(self.dealt, plain(start), itertools.count(start))

    def dealt(self, rows: Sequence[Row], update: int) -> list[Row]:
        """The rows of an update, each made a row of its objective."""
        rng = np.random.default_rng(derive_seed(self.seed, update))
        shares = self.weights.shares()
        drawn = rng.choice(len(shares), len(rows), p=list(shares.values()))
        kinds = [list(shares)[index] for index in drawn]
        found, pairs = [], []
        for row, kind in zip(rows, kinds, strict=True):
            if kind == "next_token" or self.masking.is_moved(row.token_ids):
                found.append(row)
            elif kind == "nsp" and self.masking.halves(row.token_ids, self.context - 3) is not None:
                pairs.append(row.token_ids)
            else:
                found.append(
                    self.masking.masked(row.token_ids[: self.context], rng) if kind == "mlm" else row
                )
        return found + pair_rows(pairs, self._pairs, self.context, rng)

    def weighted(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of one update with the weights of the equation on top."""
        shares = self.weights.shares()
        counts = {
            "next_token": sum(int(row.mask[1:].sum()) for row in rows if not row.bidirectional),
            "mlm": sum(int(row.mask[1:].sum()) for row in rows if row.bidirectional),
            "nsp": sum(row.label >= 0 for row in rows),
        }
        each = {name: share / max(1, counts[name]) for name, share in shares.items()}
        return [
            replace(
                row,
                weight=each["mlm" if row.bidirectional else "next_token"],
                label_weight=each["nsp"] if row.label >= 0 else 0.0,
            )
            for row in rows
        ]

    def loss(self, mtp_weight: float, balance_weight: float) -> Objective:
        return MixedLoss(mtp_weight, balance_weight)

    def metrics(self, summed: Mapping[str, float]) -> dict[str, float]:
        """What is logged of an update: the mean losses, and the share of pairs that were judged right."""
        found = {}
        if summed["mlm_tokens"]:
            found["mlm_loss"] = summed["mlm_nats"] / summed["mlm_tokens"]
        if summed["nsp_pairs"]:
            found["nsp_loss"] = summed["nsp_nats"] / summed["nsp_pairs"]
            found["nsp_accuracy"] = summed["nsp_right"] / summed["nsp_pairs"]
        return found
