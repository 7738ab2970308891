"""Layers whose weights are shared out over a group of processes while they compute.

Expert parallelism: each process holds some experts of every layer. A token's rows are sent to the processes
that hold its experts and come back computed; the exchange is of exact counts, nothing is dropped or padded.
The sums of a token's experts, forward and backward, are in the order of one process, so the result is that of
one process bit for bit.

Tensor parallelism (Shoeybi et al. 1909.08053): each process holds some heads of attention and some of the
feed-forward layer's hidden numbers. It computes them for the same tokens as the others; the outputs of the
last projection are added up, and so are the gradients of the first ones' input."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from r1kit.config import R1kitError
from r1kit.model.attention import GroupedAttention
from r1kit.model.decoder import LanguageModel
from r1kit.model.experts import Experts, MixtureOfExperts, SwiGLU, collect_slots, spread_rows
from r1kit.model.norms import Linear


class ParallelExperts(Experts):
    """The experts of one layer, of which this process holds the ``rank``-th of equal parts."""

    def __init__(self, experts: int, width: int, hidden: int, group: dist.ProcessGroup) -> None:
        size = dist.get_world_size(group)
        super().__init__(experts // size, width, hidden)
        self.group, self.size, self.experts = group, size, experts

    def forward(self, x_ND: Tensor, chosen_NA: Tensor, gates_NA: Tensor) -> Tensor:
        """Sum over the chosen experts, wherever they are, of gate times expert(x), [N, D]."""
        N, own = len(chosen_NA), self.experts // self.size
        by_assignment = chosen_NA.t().flatten()  # assignment a N + n
        order = by_assignment.argsort(stable=True)
        slots = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        tokens = order % max(N, 1)
        sent_PE = torch.bincount(by_assignment, minlength=self.experts).view(self.size, own)
        received_PE = torch.empty_like(sent_PE)
        dist.all_to_all_single(received_PE, sent_PE, group=self.group)
        sent, received = sent_PE.sum(1).tolist(), received_PE.sum(1).tolist()
        rows = spread_rows(x_ND, tokens, slots)
        rows, gates = exchange((rows, gates_NA.t().flatten()[order]), sent, received, self.group)
        experts = torch.arange(own, device=order.device).repeat(self.size)
        chosen = experts.repeat_interleave(received_PE.flatten())
        if not len(chosen):  # the products need a row: one of zeros, with gate zero
            rows = torch.cat((rows, rows.new_zeros(1, rows.shape[1])))
            gates, chosen = torch.cat((gates, gates.new_zeros(1))), chosen.new_zeros(1)
        done = super().forward(rows, chosen[:, None], gates[:, None])[: sum(received)]
        (back,) = exchange((done,), received, sent, self.group)
        return collect_slots(back, tokens, slots, N)


def exchange(
    rows: tuple[Tensor, ...], sent: list[int], received: list[int], group: dist.ProcessGroup
) -> tuple[Tensor, ...]:
    """Send the first ``sent[0]`` rows of each tensor to the group's first process, the next ones to the
    second, and so on; return what this process receives, in rank order. Gradients go the way back."""
    found: tuple[Tensor, ...] = _Exchange.apply(sent, received, group, *rows)  # type: ignore[no-untyped-call]
    return found


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sent: list[int], received: list[int], group: Any, *rows: Tensor) -> Any:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return tuple(_sent(some, sent, received, group) for some in rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, None, None, *(_sent(some, ctx.received, ctx.sent, ctx.group) for some in grads)


def _sent(rows: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    found = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(found, rows.contiguous(), received, sent, group=group)
    return found


def share_experts(model: LanguageModel, group: dist.ProcessGroup) -> None:
    """Replace the experts of every layer of a model without memory by this process's part of them. Raises
    R1kitError where they cannot be shared out."""
    size, experts = dist.get_world_size(group), model.config.experts
    if not experts or experts % size:
        raise R1kitError(
            f"runtime.expert_parallel is {size}, but this model has {experts or 'no'} experts: write a "
            "number that divides them"
        )
    for layer in (*model.layers, *model.mtp_layers):
        if isinstance(layer.mlp, MixtureOfExperts):
            _, hidden, width = layer.mlp.experts.gate_proj.shape
            dtype = layer.mlp.experts.gate_proj.dtype
            with torch.device("meta"):
                layer.mlp.experts = ParallelExperts(experts, width, hidden, group).to(dtype)


class _First(torch.autograd.Function):
    """The input of the first projections: itself; its gradients of all processes are added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Last(torch.autograd.Function):
    """The outputs of the last projection, added up over all processes; the gradient is that of the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class ParallelFirst(Linear):
    """Some rows of a projection's weight."""

    def __init__(self, whole: nn.Linear, group: dist.ProcessGroup) -> None:
        super().__init__(
            whole.in_features, whole.out_features // dist.get_world_size(group),
            bias=whole.bias is not None, dtype=whole.weight.dtype, device=whole.weight.device,
        )  # fmt: skip
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_First.apply(x, self.group))  # type: ignore[no-untyped-call]


class ParallelLast(Linear):
    """Some columns of a projection's weight."""

    def __init__(self, whole: nn.Linear, group: dist.ProcessGroup) -> None:
        super().__init__(
            whole.in_features // dist.get_world_size(group), whole.out_features,
            bias=False, dtype=whole.weight.dtype, device=whole.weight.device,
        )  # fmt: skip
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return _Last.apply(super().forward(x), self.group)  # type: ignore[no-untyped-call, no-any-return]


def share_heads(model: LanguageModel, group: dist.ProcessGroup) -> None:
    """Replace the projections of every layer of a dense model without memory by this process's part of them.
    Raises R1kitError where they cannot be shared out."""
    size, config = dist.get_world_size(group), model.config
    if config.experts or config.latent:
        raise R1kitError(
            f"runtime.tensor_parallel is {size}, and this model ({config.family}) has experts or latent "
            "attention: leave the key out, and use expert_parallel where there are experts"
        )
    counts = {"heads": config.heads, "kv_heads": config.kv_heads or 0, "ffn_width": config.ffn_width}
    if wrong := [f"{name} {count}" for name, count in counts.items() if count % size]:
        raise R1kitError(
            f"runtime.tensor_parallel is {size}, which does not divide this model's {', '.join(wrong)}"
        )
    for layer in model.layers:
        attention, feed = layer.self_attn, layer.mlp
        assert isinstance(attention, GroupedAttention) and isinstance(feed, SwiGLU)
        attention.heads, attention.kv_heads = attention.heads // size, attention.kv_heads // size
        for module, names in ((attention, ("q_proj", "k_proj", "v_proj")), (feed, ("gate_proj", "up_proj"))):
            for name in names:
                setattr(module, name, ParallelFirst(getattr(module, name), group))
        attention.o_proj = ParallelLast(attention.o_proj, group)
        feed.down_proj = ParallelLast(feed.down_proj, group)
