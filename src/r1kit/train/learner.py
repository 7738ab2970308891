"""One model that learns: pack rows, forward, backward, clip, step. It knows no algorithm, no stage and no
process group.

Trained parameters, gradients and moments are float32 (master weights, Micikevicius et al. 1710.03740) unless
the recipe keeps weights or moments in less (rounded_adamw.py). ``precision`` is the precision of matrix
products.

Where several processes train one model, each has its share of the rows. The runtime gives the learner its
group, over which everything that an update sums is added (gradients, expert loads, statistics), and says
where the weights are: whole in each process, whose replicas stay equal bit for bit, or shared out
(placement.py)."""

import contextlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from r1kit.config import Config, ConfigError, R1kitError
from r1kit.log import Log
from r1kit.model.adapters import Weights, adapt
from r1kit.model.compiled_layers import compile_layers, compiler_of
from r1kit.model.decoder import LanguageModel
from r1kit.model.fingerprint import Fingerprint, marks, take_fingerprint
from r1kit.model.huggingface import disk_weights
from r1kit.model.precision import keep_matrices
from r1kit.seeds import derive_seed
from r1kit.train import checkpoint
from r1kit.train.group import ALONE, Group
from r1kit.train.lora import LoRAConfig
from r1kit.train.model_pass import ModelPass
from r1kit.train.objectives import Objective
from r1kit.train.optimizers import OptimizerConfig, build
from r1kit.train.packing import Batch, blank, pack
from r1kit.train.placement import Collected, Place, Replicated
from r1kit.train.shared_state import SharedState
from r1kit.types import Row

Metrics = dict[str, float]


class LearnerConfig(Config):
    """How a model is trained on this hardware. ``context`` x ``lines`` tokens make one micro-batch, or up to
    half as many more where a group of rows with one prompt then fits (packing.py: line_length).

    ``head`` is the precision of the last product, hidden states to logits (lm_head.py); ``mixed``: bfloat16
    factors with float32 sums, nearly as exact as float32 and much faster. The run stops after
    ``max_skipped`` consecutive updates that could not be applied. The newest ``keep_last`` saved states are
    kept, and those of every ``keep_every``-th step (0: none).

    With ``lora`` only adapters are trained (lora.py). ``weights``: bfloat16 keeps the matrices in half the
    memory: those below adapters rounded once, those that are trained rounded up or down by chance at every
    step, so that small steps are kept on average. With ``gradient_checkpointing`` the backward pass computes
    each layer's inner tensors again instead of keeping them: the same gradients in much less memory, for a
    third more arithmetic.

    ``compiled``: on a GPU, compile the layers by torch.compile. The first updates then take about a minute
    longer, and each later one less (docs/performance.md).

    ``pair_head``: add the head of next-sentence prediction; pretraining sets it where that is trained.

    ``bias_rate`` is gamma of loss-free balancing (DeepSeek-V3, section 2.1.2): after each update an expert's
    routing bias moves by this amount against its load. It moves the policy without a gradient, so it is 0
    except in pretraining. DeepSeek-V3 itself sets it to 0 for the last 500B tokens of pretraining (section
    4.2), and every later training begins from there."""

    context: int = 192
    lines: int = 22
    precision: Literal["float32", "bfloat16", "float64"] = "bfloat16"  # of matrix products
    head: Literal["float32", "bfloat16", "mixed"] = "float32"
    lora: LoRAConfig | None = None
    gradient_checkpointing: bool = False
    compiled: bool = False
    pair_head: bool = False
    weights: Literal["float32", "bfloat16"] = "float32"
    bias_rate: float = Field(default=0.0, ge=0.0)
    max_skipped: int = Field(default=3, ge=1)
    keep_last: int = Field(default=2, ge=2)
    keep_every: int = Field(default=0, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig()  # how weights follow gradients

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

    def logprobs_and_entropies(self, rows: Sequence[Row]) -> list[tuple[np.ndarray, np.ndarray]]: ...

    def weights(self) -> Mapping[str, Tensor]:
        """The weights by name, as this process holds them; empty where no process holds them all."""
        ...

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights under the names of a model folder, one after the other, so that they never have to be
        held all at once. To be read to the end; only what is read from it is gathered."""
        ...

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


def _compiler(model: LanguageModel, precision: str) -> str:
    """torch.compile's backend. Raises ConfigError where it would not pay or not work."""
    if model.config.sparse and precision != "bfloat16":
        raise ConfigError(
            f"learner.compiled: true: experts are compiled with precision: bfloat16 only, not {precision}; "
            "write precision: bfloat16, or remove the key"
        )
    found = compiler_of(model.device)
    if found is None:
        raise ConfigError(
            "learner.compiled: true needs a GPU and the package triton, and the learner runs on "
            f"{model.device}; remove the key (on a CPU r1kit's own kernels are used instead)"
        )
    return found


def _add_pair_head(model: LanguageModel, shared_out: bool) -> None:
    """Add the head of next-sentence prediction. Raises ConfigError where weights are shared out."""
    if shared_out:
        raise ConfigError(
            "objectives.nsp: the head of next-sentence prediction is not shared out over processes; write "
            "runtime: {kind: local}, or leave nsp out"
        )
    model.add_pair_head(derive_seed(0, "pair_head"))


def kept_in(config: LearnerConfig) -> torch.dtype:
    """The precision in which a learner keeps its matrices."""
    return torch.float64 if config.precision == "float64" else getattr(torch, config.weights)


class Learner:
    """A model with its optimizer. ``version`` counts the updates applied. The processes of ``group`` keep
    weights and moments in ``shared_file`` if there is one (shared_state.py); ``place`` shares them out."""

    def __init__(
        self,
        model: LanguageModel,
        config: LearnerConfig,
        group: Group = ALONE,
        shared_file: str = "",
        place: Place = Replicated,
    ) -> None:
        self.kept_in = kept_in(config)
        if config.pair_head:
            _add_pair_head(model, shared_out=place is not Replicated)
        if self.kept_in == torch.bfloat16 and config.lora is None:
            keep_matrices(model, self.kept_in)
        else:
            model.to(self.kept_in)
        self.model, self.config, self.group = model, config, group
        model.recomputes = config.gradient_checkpointing
        if config.compiled:
            compile_layers(model, _compiler(model, config.precision), dynamic=True)
        if config.lora is not None:
            adapt(model, config.lora.shape, config.lora.targets)
        self.placement = place(ModelPass(model, config), group)
        self.root = self.placement.root
        self.parameters = [parameter for _, parameter in self.placement.named]
        share, moments = (group.rank, group.size), config.optimizer.moments
        self._shared = SharedState(shared_file, self.parameters, share, moments) if shared_file else None
        parts = self.placement if self.placement.collective else None
        self.optimizers = build(self.placement.named, config.optimizer, group, parts)
        self.version = 0
        self._skipped, self._fault = 0, ""

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> Metrics:
        """One optimizer step on ``rows`` at ``scale`` x learning rate; return summed statistics, the gradient
        norm, and "loss".

        Where gradient, loss or a statistic is not finite nothing is applied; "skipped" is then 1, and
        ``fault`` names the rows. Raises R1kitError when that happens ``max_skipped`` times in a row."""
        self.model.train()
        collected = self.placement.collected(len(objective.needs.statistics) + 2)
        zero = torch.zeros((), device=self.model.device)
        sums = dict.fromkeys((*objective.needs.statistics, "loss", "mtp"), zero)
        for batch in self._passes(rows, share=not objective.needs.values):
            loss, statistics = self.batch_loss(batch, objective)
            if loss.requires_grad:  # False for a batch without trained tokens
                with collected.taking_gradients():
                    loss.backward()  # type: ignore[no-untyped-call]
            for name, value in (statistics | {"loss": loss}).items():
                sums[name] = sums[name] + value.detach().float()
        metrics, loads = self._reduce_all(sums, collected)
        metrics["grad_norm"] = self.placement.clip(self.config.optimizer.grad_clip)
        wrong = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        metrics["skipped"] = float(bool(wrong))
        if wrong:
            self._skip(rows, objective, wrong)
        else:
            self._step(scale)
            self._skipped = 0
        self.model.adjust_biases(0.0 if wrong else self.config.bias_rate, loads)
        self.placement.forget()
        return metrics

    def fault(self) -> str:
        """Why the last skipped update was skipped, and the rows that caused it; "" if none was skipped."""
        return self._fault

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Log-probabilities [T] float32 of each row's trained tokens, aligned with its token ids (zero
        elsewhere)."""
        return [found for (found,) in self._score(rows, ("logprobs_BT",))]

    def values(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """The scalar head's outputs [T], aligned with token ids: entry t is the value after reading token t
        (the last is 0)."""
        return [found for (found,) in self._score(rows, ("values_BT",), shift=0)]

    def entropies(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Entropies [T] in nats of the distributions that each row's trained tokens came from, aligned with
        its token ids (zero elsewhere)."""
        return [found for (found,) in self._score(rows, ("entropy_BT",), entropy=True)]

    def logprobs_and_entropies(self, rows: Sequence[Row]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Both of each row, from one pass in which rows with one prompt share it, as in ``update``."""
        found = self._score(rows, ("logprobs_BT", "entropy_BT"), entropy=True, share=True)
        return [(logprobs_T, entropy_T) for logprobs_T, entropy_T in found]

    def weights(self) -> Mapping[str, Tensor]:
        """The weights by name, adapters merged."""
        return Weights(self.model) if self.config.lora else self.placement.weights()

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights under the names of a model folder, adapters merged, a tensor at a time."""
        for name, tensor in disk_weights(self.model, self.weights()):
            yield name, tensor.detach()

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        """What this process holds and computes on a text [T], read in one pass."""
        with self._autocast():
            found = self.root(take_fingerprint, self.model, token_ids, temperature, self.version, None, {})
        self.placement.rest()
        return [replace(found, marks=marks(self.weights()))]

    def copy_from(self, other: LearnerProtocol) -> None:
        """Copy another learner's weights: a reference policy's refresh."""
        source = other.model.state_dict() if isinstance(other, Learner) else other.weights()
        self.model.load_state_dict(source)

    def follow(self, teacher: "Learner") -> None:
        """From now on compute Predictions.divergence_BT in every update, from ``teacher``'s distribution over
        the same vocabulary."""
        self.root.follow(teacher.root)

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
        learned = {name: (other.placement, other.optimizers) for name, other in {"": self, **others}.items()}
        self.placement.save(directory, {**progress, **versions}, keep, texts, learned, owners)

    def restore(self, directory: Path, name: str = "", owners: Sequence[str] = ()) -> Mapping[str, int]:
        """Restore the newest undamaged state of one of ``owners``, or the learner saved in it as ``name``."""
        progress = self.placement.restore(directory, self.optimizers, name, owners)
        if self._shared is not None and any(optimizer.state for optimizer in self.optimizers):
            for optimizer in self.optimizers:
                self._shared.adopt(optimizer)
        self.version = progress[f"version_{name}" if name else "version"]
        return progress

    def batch_loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one packed batch, with gradient, and the objective's summed statistics."""
        found: tuple[Tensor, dict[str, Tensor]] = self.root(self.root.loss, batch, objective)
        return found

    def _passes(self, rows: Sequence[Row], share: bool = False) -> list[Batch]:
        """The batches that this process computes: those of ``rows``, and where all processes take part in
        every pass, empty ones up to the largest number of any process."""
        own = self.batches(rows, share)
        if not self.placement.collective:
            return own
        return own + [blank().to(self.model.device)] * (self.group.max(len(own)) - len(own))

    def batches(self, rows: Sequence[Row], share: bool = False) -> list[Batch]:
        """Rows with one prompt share it, unless a value is needed at every position of every row."""
        device = self.model.device
        with self._autocast():
            joined = self.model.skips_the_unseen()
        return [
            batch.to(device) for batch in pack(rows, self.config.context, self.config.lines, share, joined)
        ]

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return self.root.autocast()

    def _step(self, scale: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * scale
            if self._shared is None:
                optimizer.step()
            else:
                self._shared.step(optimizer)
        self.version += 1

    def _skip(self, rows: Sequence[Row], objective: Objective, wrong: Sequence[str]) -> None:
        """Find the rows whose own loss or gradient is not finite; stop the run if this has happened too
        often."""
        self._skipped += 1
        own = [name for name, p in self.placement.named if not bool(p.isfinite().all())]
        if broken := self._of_all_processes(own):
            reason = f"the weights themselves are not finite: {_some(broken)}"
        else:
            culprits = self._of_all_processes(self._faulty(rows, objective))
            reason = (
                f"rows: {_some(culprits)}"
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
        process's rows.

        Where passes are collective, the processes take turns: a gradient is then that of one row, and whoever
        holds a part of it that is not finite says so."""
        rank, size = self.group.rank, self.group.size
        turns, most = (size, self.group.max(len(rows))) if self.placement.collective else (1, len(rows))
        found = []
        for turn, place in itertools.product(range(turns), range(most)):
            mine = (turns == 1 or turn == rank) and place < len(rows)
            broken = False
            for batch in self._passes(rows[place : place + 1] if mine else ()):
                self.placement.forget()
                loss, _ = self.batch_loss(batch, objective)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                broken |= not (bool(loss.isfinite()) and self.placement.gradients_are_finite())
            if turns > 1:
                broken = bool(self.group.max(broken))
            if broken and mine:
                found.append(rows[place].name or f"row {place} of process {rank}")
        self.placement.forget()
        return found

    def _of_all_processes(self, names: Sequence[str]) -> list[str]:
        """The names that the processes have found, in rank order, each once."""
        found = self.group.gather(json.dumps(list(names)).encode())
        return list(dict.fromkeys(name for own in found for name in json.loads(own)))

    def _reduce_all(
        self, sums: Mapping[str, Tensor], collected: Collected
    ) -> tuple[Metrics, Sequence[Tensor]]:
        """Add gradients, statistics and expert loads over all processes; return the statistics and the
        loads."""
        names = sorted(sums)
        collected.close(self.model.expert_loads(), [sums[name] for name in names], self.group)
        for parameter, gradient in zip(self.parameters, collected.gradients, strict=True):
            parameter.grad = gradient
        metrics = {
            name: float(value) for name, value in zip(names, collected.statistics.tolist(), strict=True)
        }
        summed = collected.loads
        if summed:
            worst = max(float(load.max() / load.mean().clamp(min=1)) for load in summed)
            metrics["max_violation"] = worst - 1
        return metrics, summed

    @torch.no_grad()
    def _score(
        self,
        rows: Sequence[Row],
        names: Sequence[str],
        shift: int = 1,
        entropy: bool = False,
        share: bool = False,
    ) -> list[tuple[np.ndarray, ...]]:
        """The fields ``names`` of the predictions, each [T] float32, of every row."""
        self.model.eval()
        found = [tuple(np.zeros(len(row.token_ids), dtype=np.float32) for _ in names) for row in rows]
        for batch in self._passes(rows, share):
            predictions = self.root(self.root.predictions, batch, entropy)
            scored = [getattr(predictions, name).float().cpu().numpy() for name in names]
            owners, positions = batch.rows_BT.cpu().numpy(), batch.positions_BT.cpu().numpy()
            lines, columns = np.nonzero(owners >= 0)
            for line, column in zip(lines.tolist(), columns.tolist(), strict=True):
                for one_T, scored_BT in zip(found[owners[line, column]], scored, strict=True):
                    one_T[positions[line, column] + shift] = scored_BT[line, column]
        self.placement.rest()
        return found


def log_fault(learner: LearnerProtocol, metrics: Metrics, log: Log) -> None:
    """Log why an update was not applied."""
    if metrics.get("optim/skipped"):
        log.info(f"warning: {learner.fault()}")


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
