"""One model that learns: pack rows, forward, backward, clip, step. It knows no algorithm, no stage and no
process group.

Trained parameters, gradients and moments are float32 (master weights, Micikevicius et al. 1710.03740) unless
the recipe keeps weights or moments in less (rounded_adamw.py). ``precision`` is the precision of matrix
products.

Where several processes train one model, each has a replica and its share of the rows; ``reduce`` (given by
the runtime) adds a flat tensor over all of them. Everything that an update sums (gradients, expert loads,
statistics) goes through it, so the replicas stay equal bit for bit."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from r1kit.config import Config, R1kitError
from r1kit.log import Log
from r1kit.model.adapters import Weights, adapt
from r1kit.model.decoder import LanguageModel, members
from r1kit.model.fingerprint import Fingerprint, take_fingerprint
from r1kit.model.precision import keep_matrices
from r1kit.train import checkpoint
from r1kit.train.divergence import reverse_divergence
from r1kit.train.lm_head import ROW_STEP, token_logprobs
from r1kit.train.lora import LoRAConfig
from r1kit.train.objectives import Objective, Predictions
from r1kit.train.optimizers import OptimizerConfig, Reduce, build
from r1kit.train.packing import Batch, pack
from r1kit.train.shared_state import SharedState
from r1kit.types import Row

Metrics = dict[str, float]


class LearnerConfig(Config):
    """How a model is trained on this hardware. ``context`` x ``lines`` tokens make one micro-batch.

    ``head`` is the precision of the last product, hidden states to logits (lm_head.py); ``mixed``: bfloat16
    factors with float32 sums, nearly as exact as float32 and much faster. The run stops after
    ``max_skipped`` consecutive updates that could not be applied. The newest ``keep_last`` saved states are
    kept, and those of every ``keep_every``-th step (0: none).

    With ``lora`` only adapters are trained (lora.py). ``weights``: bfloat16 keeps the matrices in half the
    memory: those below adapters rounded once, those that are trained rounded up or down by chance at every
    step, so that small steps are kept on average. With ``gradient_checkpointing`` the backward pass computes
    each layer's inner tensors again instead of keeping them: the same gradients in much less memory, for a
    third more arithmetic.

    ``bias_rate`` is gamma of loss-free balancing (DeepSeek-V3, section 2.1.2): after each update an expert's
    routing bias moves by this amount against its load. It moves the policy without a gradient, so it is 0
    except in pretraining. DeepSeek-V3 itself sets it to 0 for the last 500B tokens of pretraining (section
    4.2), and every later training begins from there."""

    context: int = 192
    lines: int = 22
    precision: Literal["float32", "bfloat16", "float64"] = "bfloat16"
    head: Literal["float32", "bfloat16", "mixed"] = "float32"
    lora: LoRAConfig | None = None
    gradient_checkpointing: bool = False
    weights: Literal["float32", "bfloat16"] = "float32"
    bias_rate: float = Field(default=0.0, ge=0.0)
    max_skipped: int = Field(default=3, ge=1)
    keep_last: int = Field(default=2, ge=2)
    keep_every: int = Field(default=0, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _precisions_go_together(self) -> Self:
        if self.weights == "bfloat16" and self.precision != "bfloat16":
            raise ValueError(
                f"weights: bfloat16 cannot be multiplied with precision: {self.precision}; write precision: "
                "bfloat16, or weights: float32"
            )
        if self.weights == "bfloat16" and self.lora is None and self.optimizer.kind != "adamw":
            raise ValueError(
                f"weights: bfloat16 needs optimizer: {{kind: adamw}}, not {self.optimizer.kind}, or adapters "
                "on frozen weights (lora: {rank: 16}); else write weights: float32"
            )
        if self.optimizer.moments == "int8" and self.precision == "float64":
            raise ValueError(
                "optimizer.moments: int8 rounds what precision: float64 computes; write moments: float32"
            )
        return self


class PretrainingConfig(LearnerConfig):
    """A learner in pretraining, where expert loads are balanced: DeepSeek-V3's rate (section 4.2)."""

    bias_rate: float = Field(default=0.001, ge=0.0)


class LearnerProtocol(Protocol):
    """What algorithms require of a learner, in one process or many."""

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> Metrics: ...

    def fault(self) -> str: ...

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]: ...

    def values(self, rows: Sequence[Row]) -> list[np.ndarray]: ...

    def entropies(self, rows: Sequence[Row]) -> list[np.ndarray]: ...

    def weights(self) -> Mapping[str, Tensor]: ...

    def copy_from(self, other: "LearnerProtocol") -> None: ...

    def follow(self, teacher: "LearnerProtocol") -> None: ...

    def save(
        self, directory: Path, progress: Mapping[str, int], texts: Mapping[str, str] = {},
        others: Mapping[str, "LearnerProtocol"] = {}, owners: Sequence[str] = (),
    ) -> None: ...  # fmt: skip

    def restore(self, directory: Path, name: str = "", owners: Sequence[str] = ()) -> Mapping[str, int]: ...

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        """Fingerprints of each process's weights and hidden states on a text [T]; empty if the learner cannot
        be examined."""
        ...


def shares_state(config: LearnerConfig) -> bool:
    """Whether several processes can keep one copy of weights and moments. Adapters are small, and Muon
    computes whole matrices."""
    return config.lora is None and config.optimizer.kind == "adamw" and config.precision != "float64"


def kept_in(config: LearnerConfig) -> torch.dtype:
    """The precision in which a learner keeps its matrices."""
    return torch.float64 if config.precision == "float64" else getattr(torch, config.weights)


def alone(flat: Tensor) -> Tensor:
    """The sum over one process."""
    return flat


class Learner:
    """A model with its optimizer. ``version`` counts the updates applied; ``share`` is this process's (rank,
    processes), which keep weights and moments in ``shared_file`` if there is one (shared_state.py)."""

    def __init__(
        self,
        model: LanguageModel,
        config: LearnerConfig,
        reduce: Reduce = alone,
        share: tuple[int, int] = (0, 1),
        shared_file: str = "",
    ) -> None:
        self.kept_in = kept_in(config)
        if self.kept_in == torch.bfloat16 and config.lora is None:
            keep_matrices(model, self.kept_in)
        else:
            model.to(self.kept_in)
        self.model, self.config, self.reduce, self.share = model, config, reduce, share
        model.recomputes = config.gradient_checkpointing
        if config.lora is not None:
            adapt(model, config.lora.shape, config.lora.targets)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        moments = config.optimizer.moments
        self._shared = SharedState(shared_file, self.parameters, share, moments) if shared_file else None
        self.optimizers = build(model, config.optimizer, share, reduce)
        self.version = 0
        self._skipped, self._fault = 0, ""
        self._teacher: LanguageModel | None = None
        self._sums: Sums | None = None

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> Metrics:
        """One optimizer step on ``rows`` at ``scale`` x learning rate; return summed statistics, the gradient
        norm, and "loss".

        Where gradient, loss or a statistic is not finite nothing is applied; "skipped" is then 1, and
        ``fault`` names the rows. Raises R1kitError when that happens ``max_skipped`` times in a row."""
        self.model.train()
        self._sums = Sums(self.parameters, self.model.expert_loads(), len(objective.needs.statistics) + 2)
        blank = torch.zeros((), device=self.model.device)
        sums = dict.fromkeys((*objective.needs.statistics, "loss", "mtp"), blank)
        for batch in self.batches(rows, share=not objective.needs.values):
            loss, statistics = self.batch_loss(batch, objective)
            if loss.requires_grad:  # False for a batch without trained tokens
                with self._sums.taking_gradients():
                    loss.backward()  # type: ignore[no-untyped-call]
            for name, value in (statistics | {"loss": loss}).items():
                sums[name] = sums[name] + value.detach().float()
        metrics, loads = self._reduce_all(sums)
        metrics["grad_norm"] = float(
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.grad_clip)
        )
        wrong = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        metrics["skipped"] = float(bool(wrong))
        if wrong:
            self._skip(rows, objective, wrong)
        else:
            self._step(scale)
            self._skipped = 0
        self.model.adjust_biases(0.0 if wrong else self.config.bias_rate, loads)
        self._forget_gradients()
        return metrics

    def fault(self) -> str:
        """Why the last skipped update was skipped, and the rows that caused it; "" if none was skipped."""
        return self._fault

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Log-probabilities [T] float32 of each row's trained tokens, aligned with its token ids (zero
        elsewhere)."""
        return self._score(rows, lambda p: p.logprobs_BT)

    def values(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """The scalar head's outputs [T], aligned with token ids: entry t is the value after reading token t
        (the last is 0)."""
        return self._score(rows, lambda p: p.values_BT, shift=0)  # type: ignore[arg-type, return-value]

    def entropies(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Entropies [T] in nats of the distributions that each row's trained tokens came from, aligned with
        its token ids (zero elsewhere)."""
        return self._score(rows, lambda p: p.entropy_BT, entropy=True)

    def weights(self) -> Mapping[str, Tensor]:
        """The weights by name, adapters merged."""
        return Weights(self.model) if self.config.lora else self.model.state_dict()

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        """What this process holds and computes on a text [T], read in one pass."""
        with self._autocast():
            return [take_fingerprint(self.model, token_ids, temperature, self.version)]

    def copy_from(self, other: LearnerProtocol) -> None:
        """Copy another learner's weights: a reference policy's refresh."""
        source = other.model.state_dict() if isinstance(other, Learner) else other.weights()
        self.model.load_state_dict(source)

    def follow(self, teacher: "Learner") -> None:
        """From now on compute Predictions.divergence_BT in every update, from ``teacher``'s distribution over
        the same vocabulary."""
        self._teacher = teacher.model

    def save(
        self, directory: Path, progress: Mapping[str, int], texts: Mapping[str, str] = {},
        others: Mapping[str, "Learner"] = {}, owners: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Write the state of a step, with ``others`` under their names; it belongs to the first of
        ``owners``."""
        keep = checkpoint.Keep(self.config.keep_last, self.config.keep_every)
        versions = {
            "version": self.version,
            **{f"version_{name}": other.version for name, other in others.items()},
        }
        learned = {name: (other.model, other.optimizers) for name, other in others.items()}
        progress = {**progress, **versions}
        checkpoint.save(directory, self.model, self.optimizers, progress, keep, texts, learned, owners)

    def restore(self, directory: Path, name: str = "", owners: Sequence[str] = ()) -> Mapping[str, int]:
        """Restore the newest undamaged state of one of ``owners``, or the learner saved in it as ``name``."""
        progress = checkpoint.restore(directory, self.model, self.optimizers, name, owners)
        if self._shared is not None and any(optimizer.state for optimizer in self.optimizers):
            for optimizer in self.optimizers:
                self._shared.adopt(optimizer)
        self.version = progress[f"version_{name}" if name else "version"]
        return progress

    def batches(self, rows: Sequence[Row], share: bool = False) -> list[Batch]:
        """Rows with one prompt share it, unless a value is needed at every position of every row."""
        device = next(self.model.parameters()).device
        with self._autocast():
            joined = self.model.skips_the_unseen()
        return [
            batch.to(device) for batch in pack(rows, self.config.context, self.config.lines, share, joined)
        ]

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        device = next(self.model.parameters()).device
        return (
            torch.autocast(device.type, torch.bfloat16)
            if self.config.precision == "bfloat16"
            else contextlib.nullcontext()
        )

    def _step(self, scale: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * scale
            if self._shared is None:
                optimizer.step()
            else:
                self._shared.step(optimizer)
        self.version += 1

    def _forget_gradients(self) -> None:
        self._sums = None
        for parameter in self.parameters:
            parameter.grad = None

    def _skip(self, rows: Sequence[Row], objective: Objective, wrong: Sequence[str]) -> None:
        """Find the rows whose own loss or gradient is not finite; stop the run if this has happened too
        often."""
        self._skipped += 1
        broken = [name for name, p in self.model.named_parameters() if not bool(p.isfinite().all())]
        if broken:
            reason = f"the weights themselves are not finite: {_some(broken)}"
        else:
            culprits = self._of_all_processes(_some(self._faulty(rows, objective)))
            reason = (
                f"rows: {culprits}"
                if culprits
                else "every row is finite by itself: the sum over the rows overflows"
            )
        self._fault = f"update {self.version + 1} was not applied: {', '.join(wrong)} not finite; {reason}"
        if self._skipped >= self.config.max_skipped:
            raise R1kitError(
                f"{self._skipped} updates in a row could not be applied. The last: {self._fault}. The last "
                "saved state is untouched: lower learner.optimizer.learning_rate or grad_clip, or look at "
                "the rewards and log-probabilities of those rows, then rerun to continue from it"
            )

    def _faulty(self, rows: Sequence[Row], objective: Objective) -> list[str]:
        """The rows of this process whose own loss or gradient is not finite, by name or by place among this
        process's rows."""
        found = []
        for place, row in enumerate(rows):
            self._forget_gradients()
            for batch in self.batches([row]):
                loss, _ = self.batch_loss(batch, objective)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                gradients = (p.grad for p in self.parameters if p.grad is not None)
                if not (
                    bool(loss.isfinite()) and all(bool(gradient.isfinite().all()) for gradient in gradients)
                ):
                    found.append(row.name or f"row {place} of process {self.share[0]}")
        return found

    def _of_all_processes(self, text: str, most: int = 400) -> str:
        """Gather a text of each process (at most ``most`` bytes each). ``reduce`` only sums tensors, so each
        process writes its bytes into its own row of a zero tensor, and the sum holds all rows."""
        rank, processes = self.share
        written = text.encode()[:most]
        own = torch.zeros(processes, most, device=self.model.device)
        own[rank, : len(written)] = torch.tensor(list(written), dtype=own.dtype, device=own.device)
        lines = self.reduce(own.flatten()).view(processes, most).to(torch.uint8).cpu().numpy()
        return ", ".join(
            text for line in lines if (text := line.tobytes().rstrip(b"\0").decode(errors="ignore"))
        )

    def batch_loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one packed batch, with gradient, and the objective's summed statistics."""
        needs = objective.needs
        with self._autocast():
            balance = bool(needs.balance_weight)
            context = {"experts_BTLA": batch.experts_BTLA, "beginnings_BT": batch.beginnings_BT}
            out = self.model(
                batch.tokens_BT, batch.positions_BT, batch.segments_BT, balance=balance, **context
            )
            predictions = self._predict(out.hidden_BTD, batch, needs.entropy, needs.values)
            if self._teacher is not None:
                predictions = replace(
                    predictions, divergence_BT=self._divergence(out.hidden_BTD, self._teacher, batch)
                )
            loss, statistics = objective(predictions, batch)
            if needs.mtp_weight:
                mtp = self._mtp_loss(out.last_BTD, batch)
                loss = loss + needs.mtp_weight * mtp
                statistics["mtp"] = mtp
            if balance:
                share_BS = (
                    members(batch.segments_BT, batch.beginnings_BT)
                    * (batch.weights_BT * batch.mask_BT)[:, None]
                ).sum(-1)
                loss = loss + needs.balance_weight * (out.balance_BS * share_BS).sum()
        return loss, statistics

    def _predict(self, hidden_BTD: Tensor, batch: Batch, entropy: bool, values: bool) -> Predictions:
        """Log-probabilities of the trained targets, and the entropies there. Only those positions go through
        the head."""
        trained = batch.mask_BT.flatten().nonzero()[:, 0]
        found_N, entropy_N = self._through_head(hidden_BTD, trained, trained, batch, entropy)
        blank_N = torch.zeros(batch.mask_BT.numel(), device=hidden_BTD.device, dtype=found_N.dtype)
        logprobs_BT, entropy_BT = (
            blank_N.index_copy(0, trained, some_N).view_as(batch.mask_BT) for some_N in (found_N, entropy_N)
        )
        return Predictions(logprobs_BT, entropy_BT, self.model.values(hidden_BTD) if values else None)

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

    def _divergence(self, hidden_BTD: Tensor, teacher: LanguageModel, batch: Batch) -> Tensor:
        """KL(student || teacher) [B, T] of the next token at the trained positions; the teacher runs on the
        same batch."""
        teacher.eval()
        with torch.no_grad():
            teacher_BTD = teacher(
                batch.tokens_BT, batch.positions_BT, batch.segments_BT, beginnings_BT=batch.beginnings_BT
            ).hidden_BTD
        trained = batch.mask_BT.flatten().nonzero()[:, 0]
        places = torch.nn.functional.pad(trained, (0, -len(trained) % ROW_STEP))
        hidden_ND, teacher_ND = (
            some_BTD.flatten(0, 1).index_select(0, places) for some_BTD in (hidden_BTD, teacher_BTD)
        )
        temperatures_N = None if batch.temperatures_BT is None else batch.temperatures_BT.flatten()[places]
        weights = (self.model.lm_head.weight, teacher.lm_head.weight.detach())
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
        t_{i+2} is predicted."""
        hidden_BTD = self.model.mtp(
            last_BTD,
            batch.targets_BT,
            batch.positions_BT,
            batch.segments_BT,
            beginnings_BT=batch.beginnings_BT,
        )
        same_BT = batch.segments_BT[:, 1:] == batch.segments_BT[:, :-1]
        mask_BT = batch.mask_BT[:, 1:] & same_BT & (batch.segments_BT[:, 1:] > 0)
        trained = torch.nn.functional.pad(mask_BT, (0, 1)).flatten().nonzero()[:, 0]
        logprobs_N, _ = self._through_head(hidden_BTD, trained, trained + 1, batch)
        return -(logprobs_N * batch.weights_BT.flatten()[trained + 1]).sum()

    def _reduce_all(self, sums: Mapping[str, Tensor]) -> tuple[Metrics, list[Tensor]]:
        """Add gradients, statistics and expert loads over all processes, in one flat tensor; return the
        statistics and the loads."""
        assert self._sums is not None
        names = sorted(sums)
        self._sums.close(self.model.expert_loads(), [sums[name] for name in names], self.reduce)
        for parameter, gradient in zip(self.parameters, self._sums.gradients, strict=True):
            parameter.grad = gradient
        metrics = {
            name: float(value) for name, value in zip(names, self._sums.statistics.tolist(), strict=True)
        }
        summed = self._sums.loads
        if summed:
            worst = max(float(load.max() / load.mean().clamp(min=1)) for load in summed)
            metrics["max_violation"] = worst - 1
        return metrics, summed

    @torch.inference_mode()
    def _score(
        self,
        rows: Sequence[Row],
        pick: Callable[[Predictions], Tensor],
        shift: int = 1,
        entropy: bool = False,
    ) -> list[np.ndarray]:
        self.model.eval()
        found = [np.zeros(len(row.token_ids), dtype=np.float32) for row in rows]
        for batch in self.batches(rows):
            with self._autocast():
                context = {"experts_BTLA": batch.experts_BTLA, "beginnings_BT": batch.beginnings_BT}
                out = self.model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, **context)
                predictions = self._predict(out.hidden_BTD, batch, entropy, self.model.config.scalar_head)
                scored = pick(predictions).float().cpu().numpy()
            owners, positions = batch.rows_BT.cpu().numpy(), batch.positions_BT.cpu().numpy()
            lines, columns = np.nonzero(owners >= 0)
            for line, column in zip(lines.tolist(), columns.tolist(), strict=True):
                found[owners[line, column]][positions[line, column] + shift] = scored[line, column]
        return found


class Sums:
    """What an update sums over micro-batches and processes, in one flat tensor: the gradient of every
    parameter, the loads of the experts, and ``statistics`` numbers. Gradients are views of it, so they are
    never copied."""

    def __init__(self, parameters: Sequence[Tensor], loads: Sequence[Tensor], statistics: int) -> None:
        counts = [some.numel() for some in (*parameters, *loads)]
        dtype = torch.promote_types(parameters[0].dtype, torch.float32)
        self.flat = torch.zeros(sum(counts) + statistics, dtype=dtype, device=parameters[0].device)
        *pieces, self.statistics = torch.split(self.flat, [*counts, statistics])
        self.gradients = [
            piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=False)
        ]
        self.loads = pieces[len(parameters) :]
        self._of = dict(zip(parameters, self.gradients, strict=True))

    @contextlib.contextmanager
    def taking_gradients(self) -> Iterator[None]:
        """Within this, a gradient is added here as soon as the backward pass has it, and is then freed."""

        def take(parameter: Tensor) -> None:
            assert parameter.grad is not None
            self._of[parameter].add_(parameter.grad)
            parameter.grad = None

        hooks = [
            parameter.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]
            for parameter in self._of
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def close(self, loads: Sequence[Tensor], statistics: Sequence[Tensor], reduce: Reduce) -> None:
        """Write loads and statistics into the tensor, and add it over all processes."""
        for own, load in zip(self.loads, loads, strict=True):
            own.copy_(load)
        self.statistics.copy_(torch.stack([value.reshape(()) for value in statistics]))
        total = reduce(self.flat)
        if total is not self.flat:
            self.flat.copy_(total)


def log_fault(learner: LearnerProtocol, metrics: Metrics, log: Log) -> None:
    """Log why an update was not applied."""
    if metrics.get("optim/skipped"):
        log.info(f"warning: {learner.fault()}")


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
