"""AdamW for everything, or Muon for hidden matrices with AdamW for the rest; learning-rate schedules as plain
functions of the step.

Muon (Jordan et al. 2024): momentum, then the update matrix is replaced by its nearest orthogonal one, found
by a quintic Newton-Schulz iteration, in bf16 unless the recipe says float32. Expert weights [E, F, D] are E
matrices, orthogonalised in one batch. The update is scaled by sqrt(max(1, rows/cols)).

Weight decay is decoupled in both, w -= rate x decay x w (Loshchilov and Hutter 1711.05101; for Muon, Liu et
al. 2502.16982), each with its own rate, and in AdamW on matrices only, not on norms and biases."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from r1kit.config import Config
from r1kit.model import fused
from r1kit.model.products import factor
from r1kit.train.group import ALONE, Group
from r1kit.train.rounded_adamw import Moments, RoundedAdamW
from r1kit.train.shared_state import deal
from r1kit.train.uncompiled import AdamW, Uncompiled

_EPSILON = 1e-8
SMALL = 1 << 16  # numbers of a matrix that r1kit's own kernel takes
MOST_AT_ONCE = 1 << 26  # numbers of matrices that are put together from several processes at a time


class Parts(Protocol):
    """How matrices are shared out over processes (placement.py: Placement)."""

    def whole(self, parameter: nn.Parameter, own: Tensor) -> Tensor: ...

    def part(self, parameter: nn.Parameter, whole: Tensor) -> Tensor: ...


class OptimizerConfig(Config):
    """AdamW(beta1 .9, beta2 .95, weight decay .1) is DeepSeek-V3's pretraining setting (section 4.2); RL's
    was not published.

    ``moments``: int8 keeps AdamW's two averages in about a byte each instead of four (rounded_adamw.py).

    ``muon_precision``: of Muon's iteration. bfloat16 is twice as fast and rounds each number to 8 bits, so
    that two sums which differ in their last bit can give updates that differ by 0.4 %; float32 is for
    comparisons of runtimes (benchmarks/equal.py)."""

    kind: Literal["adamw", "muon"] = "adamw"  # muon: matrices by Muon, all other weights by AdamW
    learning_rate: float = Field(default=1e-3, ge=0.0)  # AdamW's; R1-Zero's is 3e-6 (R1, section 2.1)
    muon_learning_rate: float = Field(default=0.02, ge=0.0)  # of matrices, with kind: muon
    muon_precision: Literal["bfloat16", "float32"] = "bfloat16"
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)  # AdamW's mean of gradients (V3, section 4.2)
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)  # AdamW's mean of squared gradients (V3, section 4.2)
    weight_decay: float = Field(default=0.0, ge=0.0)  # decoupled; times the learning rate
    grad_clip: float = Field(
        default=1.0, gt=0.0
    )  # the largest norm of an update's gradient (V3, section 4.2)
    moments: Moments = "float32"

    @model_validator(mode="after")
    def _only_adamw_has_small_moments(self) -> Self:
        if self.moments == "int8" and self.kind != "adamw":
            raise ValueError(
                f"moments: int8 works with kind: adamw, not with {self.kind}; write kind: adamw, or leave "
                "moments out"
            )
        return self


class ScheduleConfig(Config):
    """``warmup`` steps from zero to the learning rate. Then ``constant`` keeps it; the others decay to
    ``final`` x learning rate: ``linear`` and ``cosine`` over all remaining steps, ``wsd`` (warm-up, stable,
    decay) over the last ``decay_share`` of all steps, by ``decay``: ``linear``, ``cosine`` (DeepSeek-V3,
    section 4.2), or 1 - ``sqrt`` (Haegele et al. 2405.18392)."""

    kind: Literal["constant", "linear", "cosine", "wsd"] = "constant"  # the curve of the learning rate
    warmup: int = Field(default=0, ge=0)
    final: float = Field(default=0.0, ge=0.0)
    decay_share: float = Field(default=0.4, gt=0.0, le=1.0)
    decay: Literal["linear", "cosine", "sqrt"] = "linear"

    def scale(self, step: int, steps: int) -> float:
        """The factor on the learning rate at ``step`` (from 0) of ``steps``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "constant":
            return 1.0
        start = max(self.warmup, round(steps * (1 - self.decay_share))) if self.kind == "wsd" else self.warmup
        progress = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
        kind = self.decay if self.kind == "wsd" else self.kind
        shape = {
            "linear": 1 - progress,
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "sqrt": 1 - math.sqrt(progress),
        }[kind]
        return self.final + (1 - self.final) * shape


class Muon(Uncompiled):
    """Momentum .95 (Nesterov) with orthogonalised updates for matrices [.., rows, cols].

    Each process of ``group`` orthogonalises some of the matrices; the sum over the group puts the shares
    together, so that the work is split and all replicas apply the same update. ``parts``: the matrices
    themselves are shared out, so their directions are put together first, some at a time."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        group: Group = ALONE,
        parts: Parts | None = None,
        precision: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.group, self.parts, self.precision = group, parts, precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            trained = [p for p in group["params"] if self._is_trained(p)]
            for some in self._at_once(trained):
                directions = [self._direction(parameter, group["momentum"]) for parameter in some]
                for parameter, update in zip(some, self._orthogonal(directions), strict=True):
                    rows, columns = update.shape[-2:]
                    if group["weight_decay"]:
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    own = update if self.parts is None else self.parts.part(parameter, update)
                    parameter.add_(own, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))

    def _is_trained(self, parameter: nn.Parameter) -> bool:
        """The MTP layer is not always trained."""
        own = parameter.grad is not None and bool(parameter.grad.any())
        return own if self.parts is None else bool(self.group.max(own))

    def _at_once(self, parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
        """All parameters, or lists of which each can be put together in memory."""
        if self.parts is None or not parameters:
            return [parameters]
        found: list[list[nn.Parameter]] = [[]]
        filled = 0
        for parameter in parameters:
            size = parameter.numel() * self.group.size
            if found[-1] and filled + size > MOST_AT_ONCE:
                found, filled = [*found, []], 0
            found[-1].append(parameter)
            filled += size
        return found

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        own = parameter.grad.lerp(state["momentum"].lerp_(parameter.grad, 1 - momentum), momentum)
        return own if self.parts is None else self.parts.whole(parameter, own)

    def _orthogonal(self, directions: Sequence[Tensor]) -> list[Tensor]:
        dealt = deal([_work(d) for d in directions], self.group.size)[self.group.rank]
        own = dict(zip(dealt, orthogonalise_all([directions[i] for i in dealt], self.precision), strict=True))
        mine = [own.get(i, d) for i, d in enumerate(directions)]
        if self.group.size == 1 or not mine:
            return mine
        flat = torch.cat([(d if i in own else torch.zeros_like(d)).flatten() for i, d in enumerate(mine)])
        flat = self.group.sum(flat)
        parts = torch.split(flat, [d.numel() for d in directions])
        return [part.view_as(d) for part, d in zip(parts, directions, strict=True)]


def orthogonalise_all(matrices: Sequence[Tensor], precision: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Orthogonalise each matrix. Matrices of one shape (transposed ones included) are one batch, because a
    small model's matrices are too small for a call each."""
    lying = [matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix for matrix in matrices]
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, matrix in enumerate(lying):
        alike.setdefault(tuple(matrix.shape[-2:]), []).append(index)
    found = list(lying)
    for shape, indices in alike.items():
        batches = [lying[i].reshape(-1, *shape) for i in indices]
        done = torch.split(
            orthogonalise(torch.cat(batches), precision=precision), [len(batch) for batch in batches]
        )
        for i, part in zip(indices, done, strict=True):
            found[i] = part.view_as(lying[i])
    return [
        one.mT if matrix.shape[-2] > matrix.shape[-1] else one
        for one, matrix in zip(found, matrices, strict=True)
    ]


def orthogonalise(matrix: Tensor, iterations: int = 5, precision: torch.dtype = torch.bfloat16) -> Tensor:
    """U V^T of the singular value decomposition, approximately (singular values end in about 0.7..1.2);
    batched over leading dims. ``precision`` is that of the iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan et al. 2024: steepest slope at zero that still converges
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    if precision == torch.bfloat16 and x.dtype == torch.float32 and _is_small(x) and fused.usable(x):
        done = fused.orthogonalise(x.reshape(-1, *x.shape[-2:]), iterations, (a, b, c)).view(x.shape)
        return done.mT if tall else done
    x = factor(x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7), precision, fresh=True)
    shape = x.shape
    x = x.reshape(-1, *shape[-2:])
    for _ in range(iterations):
        gram = factor(x @ x.mT, precision, fresh=True)
        square = factor(torch.baddbmm(gram, gram, gram, beta=b, alpha=c), precision, fresh=True)
        # a x + (b gram + c gram gram) x
        x = factor(torch.baddbmm(x, square, x, beta=a), precision, fresh=True)
    x = x.view(shape)
    found: Tensor = (x.mT if tall else x).to(matrix.dtype)
    return found


def _work(matrix: Tensor) -> int:
    """How long a matrix [.., rows, columns] takes, for dealing: an iteration's products."""
    short, long = sorted(matrix.shape[-2:])
    return matrix.numel() // max(1, short * long) * short * short * (2 * long + short)


def _is_small(x: Tensor) -> bool:
    """Whether a matrix and its products stay in a core's second-level cache."""
    return x.shape[-2] * x.shape[-1] <= SMALL


def build(
    named: Iterable[tuple[str, nn.Parameter]],
    config: OptimizerConfig,
    group: Group = ALONE,
    parts: Parts | None = None,
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model's named parameters, its work split over ``group`` (Muon; ``parts``: see
    there); each parameter group has its base learning rate under "base_lr"."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim >= 2 and not any(
            part in name for part in ("embed", "head", "gate.weight", "router")
        )
        (hidden if matrix and config.kind == "muon" else rest).append(parameter)
    decayed, plain = [p for p in rest if p.ndim >= 2], [p for p in rest if p.ndim < 2]
    given: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if groups := [group for group in given if group["params"]]:
        optimizers.append(_adamw(groups, config, rounded=any(p.dtype == torch.bfloat16 for p in rest)))
    if hidden:
        optimizers.append(
            Muon(
                hidden,
                config.muon_learning_rate,
                weight_decay=config.weight_decay,
                group=group,
                parts=parts,
                precision=getattr(torch, config.muon_precision),
            )
        )
    for optimizer in optimizers:
        for settings in optimizer.param_groups:
            settings["base_lr"] = settings["lr"]
    return optimizers


def _adamw(groups: list[dict[str, Any]], config: OptimizerConfig, rounded: bool) -> torch.optim.Optimizer:
    """PyTorch's own AdamW, unless weights or moments are rounded."""
    betas = (config.beta1, config.beta2)
    if rounded or config.moments == "int8":
        return RoundedAdamW(groups, config.learning_rate, betas, _EPSILON, config.moments)
    return AdamW(groups, lr=config.learning_rate, betas=betas, eps=_EPSILON, fused=True)
