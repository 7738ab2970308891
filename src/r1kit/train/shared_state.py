"""Weights and moments of one learner, which all processes of a run on this machine map into their memory.

Every process computes its own gradients. When they are added up, each process applies AdamW to its part of
the parameters, so a parameter is written by one process and its moments exist once. AdamW treats every number
by itself, so the result is that of one process that applies all of it, bit for bit. No process reads weights
while another may write them: the sum of the gradients waits for all processes, and so does the end of every
call (runtime/local.py)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names


class SharedState:
    """The parameters move into ``file``, a path that all processes can open; ``share`` is this process's
    (rank, processes). Memory for moments is used from the first step on."""

    def __init__(self, file: str, parameters: Sequence[nn.Parameter], share: tuple[int, int]) -> None:
        counts = [parameter.numel() for parameter in parameters]
        flat = torch.from_file(file, shared=True, size=3 * sum(counts), dtype=torch.float32)
        pieces = torch.split(flat, counts * 3)
        self.moments: dict[nn.Parameter, tuple[Tensor, ...]] = {}
        for place, parameter in enumerate(parameters):
            weight, *moments = (piece.view_as(parameter) for piece in pieces[place :: len(counts)])
            weight.copy_(parameter.detach())  # every process writes the same numbers
            parameter.data = weight
            self.moments[parameter] = tuple(moments)
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
                for name, moment in zip(_MOMENTS, moments, strict=True):
                    if name in state and state[name].data_ptr() != moment.data_ptr():
                        moment.copy_(state[name])
                    state[name] = moment


def deal(counts: Sequence[int], shares: int) -> list[list[int]]:
    """Indices of ``counts`` in ``shares`` lists of about the same sum, the largest first."""
    dealt: list[list[int]] = [[] for _ in range(shares)]
    sums = [0] * shares
    for index in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):
        least = sums.index(min(sums))
        dealt[least].append(index)
        sums[least] += counts[index]
    return dealt
