"""The computations of a learner that read its model's weights: the whole loss of a batch, and predictions.

Each runs within the forward call of one root module, ``ModelPass``. Where the weights are shared out over
processes, they are whole during such a call only, so every read of a weight is in it: the decoder, the head,
multi-token prediction, the scalar head and a teacher's distribution (runtime/sharded.py)."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from r1kit.model.decoder import LanguageModel, members
from r1kit.train.divergence import reverse_divergence
from r1kit.train.lm_head import ROW_STEP, token_logprobs
from r1kit.train.objectives import Objective, Predictions
from r1kit.train.packing import Batch


class Precision(Protocol):
    """The keys of a learner's configuration that these computations read (LearnerConfig)."""

    @property
    def precision(self) -> str: ...

    @property
    def head(self) -> str: ...


class ModelPass(nn.Module):
    """``model`` and what a learner computes with it. It is called with one of its methods: ``root(root.loss,
    batch, objective)``.

    ``reaches_all``: the gradient of a loss reaches every parameter that any batch's loss would reach, with
    zeros where this batch has nothing to say about it, because all processes must add the same gradients."""

    def __init__(self, model: LanguageModel, config: Precision) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.reaches_all = False
        self._teacher: tuple[ModelPass, ...] = ()  # in a tuple: its weights are not this module's

    def forward(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        return compute(*arguments)

    @property
    def teachers(self) -> tuple["ModelPass", ...]:
        """The models whose predictions a loss is compared with."""
        return self._teacher

    def follow(self, teacher: "ModelPass") -> None:
        """From now on a loss gets the divergence from ``teacher``'s predictions."""
        self._teacher = (teacher,)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The precision of matrix products."""
        if self.config.precision != "bfloat16":
            return contextlib.nullcontext()
        # Computed again, a pass uses each weight once: a cache of rounded copies would only take memory.
        keep = not self.model.recomputes
        return torch.autocast(self.model.device.type, torch.bfloat16, cache_enabled=keep)

    def loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one packed batch, with gradient, and the objective's summed statistics."""
        needs = objective.needs
        with self.autocast():
            balance = bool(needs.balance_weight)
            context = _context(batch)
            out = self.model(
                batch.tokens_BT, batch.positions_BT, batch.segments_BT, balance=balance, **context
            )
            predictions = self._predict(out.hidden_BTD, batch, needs.entropy, needs.values)
            for teacher in self._teacher:
                predictions = replace(
                    predictions, divergence_BT=self._divergence(out.hidden_BTD, teacher, batch)
                )
            loss, statistics = objective(predictions, batch)
            if needs.mtp_weight and (self.reaches_all or not batch.bidirectional):
                mtp = self._mtp_loss(out.last_BTD, batch)
                loss = loss + needs.mtp_weight * mtp
                statistics["mtp"] = mtp
            if balance:
                share_BS = (
                    members(batch.segments_BT, batch.beginnings_BT)
                    * (batch.weights_BT * batch.mask_BT)[:, None]
                ).sum(-1)
                loss = loss + needs.balance_weight * (out.balance_BS * share_BS).sum()
            if self.reaches_all:
                head = () if predictions.values_BT is None else (predictions.values_BT,)
                loss = _Reaching.apply(loss, out.hidden_BTD, self.model.lm_head.weight, *head)  # type: ignore[no-untyped-call]
        return loss, statistics

    def predictions(self, batch: Batch, entropy: bool = False) -> Predictions:
        """Predictions of a batch without an objective, in the scalar head's case with values."""
        with self.autocast():
            out = self.model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, **_context(batch))
            return self._predict(out.hidden_BTD, batch, entropy, self.model.config.scalar_head)

    def hidden(self, batch: Batch) -> Tensor:
        """The hidden states [B, T, D] after the last norm."""
        found: Tensor = self.model(
            batch.tokens_BT, batch.positions_BT, batch.segments_BT, beginnings_BT=batch.beginnings_BT
        ).hidden_BTD
        return found

    def _predict(self, hidden_BTD: Tensor, batch: Batch, entropy: bool, values: bool) -> Predictions:
        """Log-probabilities of the trained targets, and the entropies there. Only those positions go through
        the head."""
        trained = batch.mask_BT.flatten().nonzero()[:, 0]
        found_N, entropy_N = self._through_head(hidden_BTD, trained, trained, batch, entropy)
        blank_N = torch.zeros(batch.mask_BT.numel(), device=hidden_BTD.device, dtype=found_N.dtype)
        logprobs_BT, entropy_BT = (
            blank_N.index_copy(0, trained, some_N).view_as(batch.mask_BT) for some_N in (found_N, entropy_N)
        )
        found = Predictions(logprobs_BT, entropy_BT, self.model.values(hidden_BTD) if values else None)
        if batch.labels_BT is None:
            return found
        return replace(found, pairs_BT2=self._pairs(hidden_BTD, batch.labels_BT))

    def _pairs(self, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """The log-probabilities [B, T, 2] of the classes at the positions that have one, zero elsewhere."""
        places = (labels_BT.flatten() >= 0).nonzero()[:, 0]
        found_N2 = self.model.pair_logprobs(hidden_BTD.flatten(0, 1).index_select(0, places))
        blank_N2 = torch.zeros(labels_BT.numel(), 2, device=hidden_BTD.device, dtype=found_N2.dtype)
        return blank_N2.index_copy(0, places, found_N2).view(*labels_BT.shape, 2)

    def _through_head(
        self, hidden_BTD: Tensor, places: Tensor, predicted: Tensor, batch: Batch, entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the targets at flat positions ``predicted`` from the hidden states at
        ``places``, and entropies, [N] each.

        N is rounded up to few different numbers with copies of place 0: CPU libraries compile a product per
        shape."""
        padding = (0, -len(places) % ROW_STEP)
        places, padded = torch.nn.functional.pad(places, padding), torch.nn.functional.pad(predicted, padding)
        hidden_ND, targets_N = (
            hidden_BTD.flatten(0, 1).index_select(0, places),
            batch.targets_BT.flatten()[padded],
        )
        temperatures_N = None if batch.temperatures_BT is None else batch.temperatures_BT.flatten()[padded]
        dtype, mixed = self._head_precision()
        found_N, entropy_N = token_logprobs(
            hidden_ND, self.model.lm_head.weight, targets_N, temperatures_N, dtype, entropy, mixed
        )
        return found_N[: len(predicted)], entropy_N[: len(predicted)]

    def _divergence(self, hidden_BTD: Tensor, teacher: "ModelPass", batch: Batch) -> Tensor:
        """KL(student || teacher) [B, T] of the next token at the trained positions; the teacher runs on the
        same batch."""
        teacher.eval()
        with torch.no_grad():
            teacher_BTD = teacher(teacher.hidden, batch)
        trained = batch.mask_BT.flatten().nonzero()[:, 0]
        places = torch.nn.functional.pad(trained, (0, -len(trained) % ROW_STEP))
        hidden_ND, teacher_ND = (
            some_BTD.flatten(0, 1).index_select(0, places) for some_BTD in (hidden_BTD, teacher_BTD)
        )
        temperatures_N = None if batch.temperatures_BT is None else batch.temperatures_BT.flatten()[places]
        weights = (self.model.lm_head.weight, teacher.model.lm_head.weight.detach())
        found_N = reverse_divergence(
            hidden_ND, weights[0], teacher_ND, weights[1], temperatures_N, *self._head_precision()
        )[: len(trained)]
        return (
            torch.zeros_like(batch.mask_BT, dtype=found_N.dtype)
            .flatten()
            .index_copy(0, trained, found_N)
            .view_as(batch.mask_BT)
        )

    def _head_precision(self) -> tuple[torch.dtype, bool]:
        """The precision of the head's products, and whether their sums are float32 where it is bfloat16."""
        if self.config.precision == "float64":
            return torch.float64, False
        mixed = self.config.head == "mixed"
        return torch.bfloat16 if mixed else getattr(torch, self.config.head), mixed

    def _mtp_loss(self, last_BTD: Tensor, batch: Batch) -> Tensor:
        """-sum(weight * log P(t_{i+2})), DeepSeek-V3 eq. 24 at depth 1: from position i, with t_{i+1} given,
        t_{i+2} is predicted. A bidirectional batch has none, since its position i has seen t_{i+2}."""
        hidden_BTD = self.model.mtp(
            last_BTD,
            batch.targets_BT,
            batch.positions_BT,
            batch.segments_BT,
            beginnings_BT=batch.beginnings_BT,
        )
        same_BT = batch.segments_BT[:, 1:] == batch.segments_BT[:, :-1]
        mask_BT = batch.mask_BT[:, 1:] & same_BT & (batch.segments_BT[:, 1:] > 0)
        if batch.bidirectional:  # computed for the other processes' sake alone
            mask_BT = torch.zeros_like(mask_BT)
        trained = torch.nn.functional.pad(mask_BT, (0, 1)).flatten().nonzero()[:, 0]
        logprobs_N, _ = self._through_head(hidden_BTD, trained, trained + 1, batch)
        return -(logprobs_N * batch.weights_BT.flatten()[trained + 1]).sum()


def _context(batch: Batch) -> dict[str, Any]:
    """What the model's forward pass gets of a batch besides tokens, positions and segments."""
    context: dict[str, Any] = {"experts_BTLA": batch.experts_BTLA, "beginnings_BT": batch.beginnings_BT}
    return {**context, "bidirectional": True} if batch.bidirectional else context


class _Reaching(torch.autograd.Function):
    """The loss, whose gradient also reaches further tensors, as zeros."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *others: Tensor) -> Tensor:
        ctx.likes = [(other.shape, other.dtype, other.device) for other in others]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        zeros = (torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.likes)
        return grads[0], *zeros
