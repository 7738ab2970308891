"""Where the weights, gradients and moments of a learner are: whole in every process, or shared out.

A ``Placement`` is what the learner asks for everything that depends on it. ``Replicated`` is the one of equal
replicas; runtime/sharded.py has the one of weights that are shared out over processes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from r1kit.train import checkpoint
from r1kit.train.group import Group
from r1kit.train.model_pass import ModelPass


class Collected(Protocol):
    """What an update adds up over micro-batches and processes."""

    @property
    def gradients(self) -> Sequence[Tensor]: ...

    @property
    def loads(self) -> Sequence[Tensor]: ...

    @property
    def statistics(self) -> Tensor: ...

    def taking_gradients(self) -> contextlib.AbstractContextManager[None]:
        """Within this, backward passes add to the gradients."""
        ...

    def close(self, loads: Sequence[Tensor], statistics: Sequence[Tensor], group: Group) -> None:
        """Add everything over all processes."""
        ...


class Placement(Protocol):
    """What a learner needs of its weights, wherever they are."""

    @property
    def root(self) -> ModelPass:
        """What is called for every pass of the model."""
        ...

    @property
    def collective(self) -> bool:
        """Whether every process must take part in every pass, with as many batches as the others."""
        ...

    @property
    def named(self) -> Sequence[tuple[str, nn.Parameter]]:
        """The trained parameters of this process; the gradients of ``Collected`` are in their order."""
        ...

    def collected(self, statistics: int) -> Collected:
        """Sums for an update with so many statistics."""
        ...

    def clip(self, limit: float) -> float:
        """Scale the gradients to a norm of at most ``limit``; return the norm before."""
        ...

    def whole(self, parameter: nn.Parameter, own: Tensor) -> Tensor:
        """Of something that has this process's part of a parameter: the whole, in every process."""
        ...

    def part(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        """This process's part of a whole, as ``whole`` puts it together."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """All weights by name, each whole when it is read."""
        ...

    def save(
        self, directory: Path, progress: Mapping[str, int], keep: checkpoint.Keep, texts: Mapping[str, str],
        learned: Mapping[str, "Saved"], owners: Sequence[str],
    ) -> None:  # fmt: skip
        """Write the state of a step: checkpoint.save. ``learned``: the learners in it, this one first, whose
        name is ""."""
        ...

    def restore(
        self, directory: Path, optimizers: Sequence[torch.optim.Optimizer], name: str, owners: Sequence[str]
    ) -> dict[str, int]:
        """Load a state into weights and optimizers: checkpoint.restore."""
        ...

    def gradients_are_finite(self) -> bool:
        """Whether what backward passes have added since ``forget``, outside ``Collected``, is finite here."""
        ...

    def forget(self) -> None:
        """Free the gradients of an update."""
        ...

    def rest(self) -> None:
        """Free what passes without gradient have put together."""
        ...


Saved = tuple[Placement, Sequence[torch.optim.Optimizer]]
Place = Callable[[ModelPass, Group], Placement]


class Replicated:
    """Every process holds everything, and the same."""

    collective = False

    def __init__(self, root: ModelPass, group: Group) -> None:
        self.root = root
        self.named = [(name, p) for name, p in root.model.named_parameters() if p.requires_grad]

    def collected(self, statistics: int) -> "Sums":
        return Sums([parameter for _, parameter in self.named], self.root.model.expert_loads(), statistics)

    def clip(self, limit: float) -> float:
        return float(torch.nn.utils.clip_grad_norm_([parameter for _, parameter in self.named], limit))

    def whole(self, parameter: nn.Parameter, own: Tensor) -> Tensor:
        return own

    def part(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        return whole

    def weights(self) -> Mapping[str, Tensor]:
        return self.root.model.state_dict()

    def save(
        self, directory: Path, progress: Mapping[str, int], keep: checkpoint.Keep, texts: Mapping[str, str],
        learned: Mapping[str, Saved], owners: Sequence[str],
    ) -> None:  # fmt: skip
        own, *others = ((name, (place.root.model, steps)) for name, (place, steps) in learned.items())
        checkpoint.save(directory, *own[1], progress, keep, texts, dict(others), owners)

    def restore(
        self, directory: Path, optimizers: Sequence[torch.optim.Optimizer], name: str, owners: Sequence[str]
    ) -> dict[str, int]:
        return checkpoint.restore(directory, self.root.model, optimizers, name, owners)

    def gradients_are_finite(self) -> bool:
        return all(bool(p.grad.isfinite().all()) for _, p in self.named if p.grad is not None)

    def rest(self) -> None:
        pass

    def forget(self) -> None:
        for _, parameter in self.named:
            parameter.grad = None


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

    def close(self, loads: Sequence[Tensor], statistics: Sequence[Tensor], group: Group) -> None:
        """Write loads and statistics into the tensor, and add it over all processes."""
        for own, load in zip(self.loads, loads, strict=True):
            own.copy_(load)
        self.statistics.copy_(torch.stack([value.reshape(()) for value in statistics]))
        total = group.sum(self.flat)
        if total is not self.flat:
            self.flat.copy_(total)
