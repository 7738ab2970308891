"""One model that learns: pack rows, forward, backward, clip, step. Knows no algorithm, no stage and no process group.

Where several processes learn one model, each holds a replica and its share of the rows; ``reduce`` (given by the runtime) adds a flat tensor over
all of them. Everything that an update sums (gradients, expert loads, statistics) goes through it, so the replicas stay equal bit for bit.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from r1kit.config import Config
from r1kit.model.decoder import LanguageModel
from r1kit.train import checkpoint
from r1kit.train.objectives import Objective, Predictions
from r1kit.train.optimizers import OptimizerConfig, Reduce, build
from r1kit.train.packing import Batch, pack
from r1kit.types import Row

Metrics = dict[str, float]


class LearnerConfig(Config):
    """How a model is trained on this hardware. ``context`` x ``lines`` tokens make one micro-batch."""

    context: int = 192
    lines: int = 22
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    bias_rate: float = 0.001  # gamma of loss-free balancing, DeepSeek-V3 section 4.2
    optimizer: OptimizerConfig = OptimizerConfig()


class LearnerProtocol(Protocol):
    """What algorithms need of a learner, wherever it runs."""

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> Metrics: ...

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]: ...

    def values(self, rows: Sequence[Row]) -> list[np.ndarray]: ...

    def weights(self) -> Mapping[str, Tensor]: ...

    def copy_from(self, other: "LearnerProtocol") -> None: ...

    def save(self, directory: Path, progress: Mapping[str, int]) -> None: ...

    def restore(self, directory: Path) -> Mapping[str, int]: ...


def alone(flat: Tensor) -> Tensor:
    """The sum over one process."""
    return flat


class Learner:
    """A model with its optimizer. ``version`` counts the updates applied; ``share`` is this process's (rank, processes)."""

    def __init__(self, model: LanguageModel, config: LearnerConfig, reduce: Reduce = alone, share: tuple[int, int] = (0, 1)) -> None:
        self.model, self.config, self.reduce = model, config, reduce
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = build(model, config.optimizer, share, reduce)
        self.version = 0

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> Metrics:
        """One optimizer step on ``rows`` at ``scale`` x learning rate; return summed statistics, the gradient norm, and "loss".

        A step whose gradient is not finite is not applied; "skipped" is then 1.
        """
        self.model.train()
        sums = {name: torch.zeros(()) for name in (*objective.names, "loss", "mtp")}
        for batch in self._batches(rows):
            loss, statistics = self._loss(batch, objective)
            if loss.requires_grad:  # not where a batch trains no token
                loss.backward()  # type: ignore[no-untyped-call]
            for name, value in (statistics | {"loss": loss}).items():
                sums[name] = sums[name] + value.detach().float().cpu()
        metrics = self._reduce_all(sums)
        metrics["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.grad_clip))
        metrics["skipped"] = float(not math.isfinite(metrics["grad_norm"]))
        if not metrics["skipped"]:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * scale
                optimizer.step()
            self.version += 1
        for parameter in self.parameters:
            parameter.grad = None
        return metrics

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Log-probabilities [T] float32 of each row's trained tokens, aligned with its token ids (zero elsewhere)."""
        return self._score(rows, lambda p: p.logprobs_BT)

    def values(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """The scalar head's outputs [T], aligned with token ids: entry t is the value after reading token t (the last is 0)."""
        return self._score(rows, lambda p: p.values_BT, shift=0)  # type: ignore[arg-type, return-value]

    def weights(self) -> Mapping[str, Tensor]:
        return self.model.state_dict()

    def copy_from(self, other: LearnerProtocol) -> None:
        """Take over another learner's weights: a reference policy's refresh."""
        self.model.load_state_dict(other.weights())

    def save(self, directory: Path, progress: Mapping[str, int]) -> None:
        checkpoint.save(directory, self.model, self.optimizers, {**progress, "version": self.version})

    def restore(self, directory: Path) -> Mapping[str, int]:
        progress = checkpoint.restore(directory, self.model, self.optimizers)
        self.version = progress["version"]
        return progress

    def _batches(self, rows: Sequence[Row]) -> list[Batch]:
        device = next(self.model.parameters()).device
        return [batch.to(device) for batch in pack(rows, self.config.context, self.config.lines)]

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, torch.bfloat16) if self.config.precision == "bfloat16" else contextlib.nullcontext()

    def _loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            out = self.model(batch.tokens_BT, batch.positions_BT, batch.segments_BT)
            predictions = self._predict(out.hidden_BTD, batch, objective.wants_entropy, objective.wants_values)
            loss, statistics = objective(predictions, batch)
            if objective.mtp_weight:
                mtp = self._mtp_loss(out.last_BTD, batch)
                loss = loss + objective.mtp_weight * mtp
                statistics["mtp"] = mtp
            if objective.balance_weight:
                share_B = (batch.weights_BT * batch.mask_BT).sum(1)
                loss = loss + objective.balance_weight * (out.balance_B * share_B).sum()
        return loss, statistics

    def _predict(self, hidden_BTD: Tensor, batch: Batch, entropy: bool, values: bool) -> Predictions:
        """Only trained positions go through the head, rounded up to few different numbers of them."""
        logprobs_N = torch.zeros(batch.mask_BT.numel(), device=hidden_BTD.device)
        entropy_N = torch.zeros_like(logprobs_N)
        trained = batch.mask_BT.flatten().nonzero()[:, 0]
        if len(trained):
            logits_NV = self.model.logits(_take(hidden_BTD.flatten(0, 1), trained))[: len(trained)]
            logprobs_N = logprobs_N.index_copy(0, trained, _gather_logprobs(logits_NV, batch.targets_BT.flatten()[trained]))
            if entropy:
                entropy_N[trained] = _entropy(logits_NV.detach())
        logprobs_BT, entropy_BT = logprobs_N.view_as(batch.mask_BT), entropy_N.view_as(batch.mask_BT)
        return Predictions(logprobs_BT, entropy_BT, self.model.values(hidden_BTD) if values else None)

    def _mtp_loss(self, last_BTD: Tensor, batch: Batch) -> Tensor:
        """-sum(weight * log P(t_{i+2})), DeepSeek-V3 eq. 24 at depth 1: from position i, with t_{i+1} given, t_{i+2} is predicted."""
        hidden_BTD = self.model.mtp(last_BTD, batch.targets_BT, batch.positions_BT, batch.segments_BT)
        same_BT = batch.segments_BT[:, 1:] == batch.segments_BT[:, :-1]
        mask_BT = batch.mask_BT[:, 1:] & same_BT & (batch.segments_BT[:, 1:] > 0)
        trained = torch.nn.functional.pad(mask_BT, (0, 1)).flatten().nonzero()[:, 0]
        logits_NV = self.model.logits(_take(hidden_BTD.flatten(0, 1), trained))[: len(trained)]
        return -(_gather_logprobs(logits_NV, batch.targets_BT.flatten()[trained + 1]) * batch.weights_BT.flatten()[trained + 1]).sum()

    def _reduce_all(self, sums: Mapping[str, Tensor]) -> Metrics:
        """Add gradients, statistics and expert loads over all processes, in one flat tensor; adjust the experts' biases."""
        names = sorted(sums)
        loads = self.model.expert_loads()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        pieces = [p.grad.flatten() for p in self.parameters if p.grad is not None] + [load.float().flatten() for load in loads]
        flat = torch.cat([*pieces, *(sums[name].reshape(1).to(pieces[0].device) for name in names)])
        total = self.reduce(flat)
        if total is not flat:  # more than one process: put the sums back
            start = 0
            for parameter in self.parameters:
                assert parameter.grad is not None
                parameter.grad.copy_(total[start : start + parameter.numel()].view_as(parameter))
                start += parameter.numel()
        tail = total[sum(p.numel() for p in self.parameters) :]
        summed = []
        for load in loads:
            summed.append(tail[: load.numel()])
            tail = tail[load.numel() :]
        metrics = {name: float(value) for name, value in zip(names, tail.tolist(), strict=True)}
        if loads:
            worst = max(float(load.max() / load.mean().clamp(min=1)) for load in summed)
            metrics["max_violation"] = worst - 1
            self.model.adjust_biases(self.config.bias_rate, summed)
        return metrics

    @torch.inference_mode()
    def _score(self, rows: Sequence[Row], pick: Callable[[Predictions], Tensor], shift: int = 1) -> list[np.ndarray]:
        self.model.eval()
        found = [np.zeros(len(row.token_ids), dtype=np.float32) for row in rows]
        for batch in self._batches(rows):
            with self._autocast():
                out = self.model(batch.tokens_BT, batch.positions_BT, batch.segments_BT)
                scored = pick(self._predict(out.hidden_BTD, batch, False, self.model.config.scalar_head)).float().cpu().numpy()
            owners, positions = batch.rows_BT.cpu().numpy(), batch.positions_BT.cpu().numpy()
            lines, columns = np.nonzero(owners >= 0)
            for line, column in zip(lines.tolist(), columns.tolist(), strict=True):
                found[owners[line, column]][positions[line, column] + shift] = scored[line, column]
        return found


def _take(hidden_ND: Tensor, places: Tensor, step: int = 256) -> Tensor:
    """Those rows, followed by copies of row 0 up to a multiple of ``step``: CPU libraries compile a product per shape."""
    return hidden_ND.index_select(0, torch.nn.functional.pad(places, (0, -len(places) % step)))


def _gather_logprobs(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return -torch.nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")


def _entropy(logits_NV: Tensor) -> Tensor:
    logprobs_NV = torch.log_softmax(logits_NV.float(), -1)
    return -(logprobs_NV.exp() * logprobs_NV).sum(-1)
