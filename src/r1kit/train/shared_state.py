"""Weights and moments of one learner, which all processes of a run on this machine map into their memory.

Every process computes its own gradients. When they are added up, each process applies AdamW to its part of
the parameters, so a parameter is written by one process and its moments exist once. AdamW treats every
number by itself, so the result is that of one process that applies all of it, bit for bit. No process
reads weights while another may write them: the sum of the gradients waits for all processes, and so does the
end of every call (runtime/local.py)."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from r1kit.train.rounded_adamw import Moments, kept_for

_LINE = 64  # bytes: every tensor begins at a multiple


class SharedState:
    """The parameters move into ``file``, a path that all processes can open; ``share`` is this process's
    (rank, processes). Memory for ``moments`` is used from the first step on."""

    def __init__(
        self, file: str, parameters: Sequence[nn.Parameter], share: tuple[int, int],
        moments: Moments = "float32",
    ) -> None:  # fmt: skip
        kept = [kept_for(parameter, moments) for parameter in parameters]
        weights = [(tuple(parameter.shape), parameter.dtype) for parameter in parameters]
        placed = _place(file, [*weights, *(one for tensors in kept for one in tensors.values())])
        self.moments: dict[nn.Parameter, dict[str, Tensor]] = {}
        for parameter in parameters:
            weight = next(placed)
            weight.copy_(parameter.detach())  # every process writes the same numbers
            parameter.data = weight
        for parameter, tensors in zip(parameters, kept, strict=True):
            self.moments[parameter] = {name: next(placed) for name in tensors}
        counts = [parameter.numel() for parameter in parameters]
        self.own = {parameters[place] for place in deal(counts, share[1])[share[0]]}

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply this process's part of a step."""
        self.adopt(optimizer)
        others = [p for group in optimizer.param_groups for p in group["params"] if p not in self.own]
        for parameter in others:
            parameter.grad = None
        optimizer.step()
        for parameter in others:
            optimizer.state[parameter]["step"] += 1
        torch.autograd.graph.increment_version(others)  # written elsewhere: PyTorch does not see it

    @torch.no_grad()
    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Move an optimizer's moments into the shared memory, and make those that are still missing."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state, moments = optimizer.state[parameter], self.moments[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                for name, moment in moments.items():
                    if name in state and state[name].data_ptr() != moment.data_ptr():
                        moment.copy_(state[name])
                    state[name] = moment


def _place(file: str, wanted: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> Iterator[Tensor]:
    """Tensors of these shapes and dtypes, one after another in a file that is mapped into memory."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in wanted]
    whole = [-(-size // _LINE) * _LINE for size in sizes]
    flat = torch.from_file(file, shared=True, size=sum(whole), dtype=torch.uint8)
    pieces = torch.split(flat, whole)
    return (
        piece[:size].view(dtype).view(shape)
        for piece, size, (shape, dtype) in zip(pieces, sizes, wanted, strict=True)
    )


def deal(counts: Sequence[int], shares: int) -> list[list[int]]:
    """Indices of ``counts`` in ``shares`` lists of about the same sum, the largest first."""
    dealt: list[list[int]] = [[] for _ in range(shares)]
    sums = [0] * shares
    for index in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):
        least = sums.index(min(sums))
        dealt[least].append(index)
        sums[least] += counts[index]
    return dealt
