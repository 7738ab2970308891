"""Feed-forward layers: SwiGLU, and experts: DeepSeekMoE with loss-free balancing (DeepSeek-V3 eq. 12-20).

h' = u + sum_s FFN_s(u) + sum_i g_i FFN_i(u), with affinities s_i = sigmoid(u . e_i). A bias b_i joins s_i for
the choice of experts only; after each step b_i falls for the overloaded and rises for the others, so the load
is balanced without a gradient that competes with the language loss. The sequence-wise loss alpha sum_i f_i
P_i (eq. 17-20) is returned without alpha. No token is ever dropped: assignments are sorted by expert and
every expert multiplies its own contiguous run of rows.

A learner may replay the experts that a rollout chose (keep routing, DeepSeek-V3.2 2512.02556): the gates are
still the learner's own affinities of those experts, with their gradient, but rounding can no longer send a
token to other experts than those it was sampled with.

DeepSeek-V2 and qwen3_moe have affinities s = softmax_i(u . e_i) and no bias b (``softmax_gates``). Where
DeepSeek-V2 limits groups, a group's score is that of its best expert; qwen3_moe has no shared experts."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1kit.config import R1kitError
from r1kit.model import fused
from r1kit.model.config import ModelConfig
from r1kit.model.norms import Linear, at_least_float32
from r1kit.model.products import grouped


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return fused.swiglu(gate, up) if gate.dtype == up.dtype and fused.usable(gate, up) else F.silu(gate) * up


class SwiGLU(nn.Module):
    """W_down(silu(W_gate x) * W_up x), without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, hidden, bias=False)
        self.up_proj = Linear(width, hidden, bias=False)
        self.down_proj = Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x_BTD), self.up_proj(x_BTD)))  # type: ignore[no-any-return]


class Gate(nn.Module):
    """Choose the experts of each token, in float32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.experts and config.active_experts
        self.active, self.groups, self.groups_kept = config.active_experts, config.groups, config.groups_kept
        self.route_scale, self.normalise = config.route_scale, config.normalise_gates
        self.softmax = config.softmax_gates
        self.weight = nn.Parameter(torch.empty(config.experts, config.width))
        self.e_score_correction_bias: Tensor | None
        bias = None if self.softmax else torch.zeros(config.experts, dtype=torch.float32)
        self.register_buffer("e_score_correction_bias", bias)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # The bias stays float32 when the model is cast: bfloat16 loses steps of 0.001.
        exact = self.e_score_correction_bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = self.e_score_correction_bias
        if exact is not None and moved is not None and moved.dtype != torch.float32:
            self.e_score_correction_bias = exact.to(moved.device)
        return self

    def forward(self, x_ND: Tensor, replayed_NA: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Affinities [N, E], the chosen experts [N, A] and their gate values [N, A]. ``replayed_NA``: the
        experts to take; -1: the gate's own choice."""
        with torch.autocast(x_ND.device.type, enabled=False):
            products_NE = F.linear(at_least_float32(x_ND), at_least_float32(self.weight))
            scores_NE = products_NE.softmax(-1) if self.softmax else torch.sigmoid(products_NE)
        bias_E = self.e_score_correction_bias
        chosen_NA = self.choose(scores_NE.detach() if bias_E is None else scores_NE.detach() + bias_E)
        if replayed_NA is not None:
            chosen_NA = torch.where(replayed_NA >= 0, replayed_NA, chosen_NA)
        gates_NA = scores_NE.gather(1, chosen_NA)
        if self.normalise:
            gates_NA = gates_NA / (gates_NA.sum(dim=-1, keepdim=True) + 1e-20)
        return scores_NE, chosen_NA, gates_NA * self.route_scale

    def choose(self, biased_NE: Tensor) -> Tensor:
        """The best A experts of the best groups; the score of a group is the sum of its best two (DeepSeek-V3
        section 2.1.2, released code), or of a softmax its best (DeepSeek-V2)."""
        if self.groups_kept < self.groups:
            grouped = biased_NE.view(len(biased_NE), self.groups, -1)
            best = grouped.topk(1 if self.softmax else 2, dim=-1).values.sum(-1)
            kept = best.topk(self.groups_kept, dim=-1).indices
            closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter_(1, kept, False)
            biased_NE = grouped.masked_fill(closed[..., None], -torch.inf).flatten(1)
        return biased_NE.topk(self.active, dim=-1, sorted=False).indices


class _Spread(torch.autograd.Function):
    """Rows of x by slot, [N, D] -> [M, D]; the gradient gathers the A slots of each token, so its sum has a
    fixed order."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, tokens_M: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.tokens = len(x_ND)
        return x_ND.index_select(0, tokens_M)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _sum_of_slots(grads[0], ctx.saved_tensors[0], ctx.tokens), None, None


def _sum_of_slots(y_MD: Tensor, slots: Tensor, tokens: int) -> Tensor:
    """The sum of each token's A slots, [M, D] -> [N, D]. Of two slots one addition gives the same bits as
    ``sum``, which takes ten times as long on a CPU in bfloat16."""
    slots_AND = y_MD.index_select(0, slots).view(-1, tokens, y_MD.shape[1])
    return slots_AND[0] + slots_AND[1] if len(slots_AND) == 2 else slots_AND.sum(0)


class _Collect(torch.autograd.Function):
    """Sum of each token's A slots, [M, D] -> [N, D]; the gradient of a slot is its token's (an empty slot's
    gate is zero)."""

    @staticmethod
    def forward(ctx: Any, y_MD: Tensor, tokens_M: Tensor, slots: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(tokens_M)
        return _sum_of_slots(y_MD, slots, tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None, None


def spread_rows(x_ND: Tensor, tokens_M: Tensor, slots: Tensor) -> Tensor:
    """The row of each slot's token, [M, D]; ``slots`` is the slot of assignment a N + n."""
    found: Tensor = _Spread.apply(x_ND, tokens_M, slots)  # type: ignore[no-untyped-call]
    return found


def collect_slots(y_MD: Tensor, tokens_M: Tensor, slots: Tensor, tokens: int) -> Tensor:
    """The sum of each token's slots, [N, D]."""
    found: Tensor = _Collect.apply(y_MD, tokens_M, slots, tokens)  # type: ignore[no-untyped-call]
    return found


class Experts(nn.Module):
    """All routed experts' weights, stacked: gate and up [E, F, D], down [E, D, F]."""

    def __init__(self, experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(experts, hidden, width))
        self.up_proj = nn.Parameter(torch.empty(experts, hidden, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, hidden))

    def forward(self, x_ND: Tensor, chosen_NA: Tensor, gates_NA: Tensor) -> Tensor:
        """Sum over the chosen experts of gate times expert(x), [N, D]."""
        N = len(chosen_NA)
        tokens_M, slots, ends_E = lay_out(chosen_NA, len(self.gate_proj))
        x_MD = spread_rows(x_ND, tokens_M, slots)
        hidden = swiglu(_each_expert(x_MD, self.gate_proj, ends_E), _each_expert(x_MD, self.up_proj, ends_E))
        gates_M = gates_NA.new_zeros(len(tokens_M)).index_copy(0, slots, gates_NA.t().flatten())
        hidden = hidden * gates_M[:, None].to(hidden.dtype)
        return collect_slots(_each_expert(hidden, self.down_proj, ends_E), tokens_M, slots, N)


def lay_out(chosen_NA: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """The slot of each assignment, slots sorted by expert: (token of each of M slots, slot of assignment
    a N + n, end of each expert's run [E] int32).

    Every run begins at a multiple of ``step`` rows, and M depends on the shape alone: CPU libraries compile a
    product per shape, so runs of arbitrary length would make them compile at every step. Empty slots hold
    token 0 with gate zero."""
    N, A = chosen_NA.shape
    step = 64 if 256 * experts <= A * N else 16
    by_assignment = chosen_NA.t().flatten()
    sorted_experts, order = by_assignment.sort(stable=True)
    every = torch.arange(experts, device=order.device)
    ends_E = torch.searchsorted(sorted_experts, every, right=True)
    loads_E = ends_E.diff(prepend=ends_E.new_zeros(1))
    padded_loads_E = (loads_E + step - 1) // step * step
    padded_ends_E = padded_loads_E.cumsum(0)
    shift_E = (padded_ends_E - padded_loads_E) - (ends_E - loads_E)
    slots_sorted = torch.arange(A * N, device=order.device) + shift_E[sorted_experts]
    slots = torch.empty_like(order).scatter_(0, order, slots_sorted)
    M = (A * N + experts * (step - 1)) // step * step
    tokens_M = order.new_zeros(M).index_copy_(0, slots_sorted, order % N)
    padded_ends_E[-1:].fill_(M)  # the remainder goes to the last expert: every slot needs one
    return tokens_M, slots, padded_ends_E.int()


def _each_expert(x_MD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
    if x_MD.dtype == torch.float64:  # grouped_mm does not support it, and tests of exactness need it
        runs = x_MD.tensor_split(ends_E[:-1].long().cpu())
        return torch.cat([run @ weight_FD.t() for run, weight_FD in zip(runs, weight_EFD, strict=True)])
    return grouped(x_MD, weight_EFD, ends_E)


class MixtureOfExperts(nn.Module):
    """Shared experts, if there are any, and routed experts, with the counts that balancing needs."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.experts and config.expert_width
        self.gate = Gate(config)
        self.experts = Experts(config.experts, config.width, config.expert_width)
        self.shared_experts = SwiGLU(config.width, config.shared_width) if config.shared_width else None
        self._loads_E: Tensor | None = None
        self.counts = True

    def forward(
        self,
        x_BTD: Tensor,
        present_BT: Tensor | None,
        members_BST: Tensor | None = None,
        replayed_BTA: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Output [B, T, D], and the balance loss [B, S] of the segments in ``members_BST``, if given.

        In training mode assignments are counted: not for padding (``present_BT`` False or 0), and as often as
        ``present_BT`` says if it is a number. ``replayed_BTA``: see Gate."""
        x_ND = x_BTD.flatten(0, 1)
        scores_NE, chosen_NA, gates_NA = self.gate(
            x_ND, None if replayed_BTA is None else replayed_BTA.flatten(0, 1)
        )
        out_BTD = self.experts(x_ND, chosen_NA, gates_NA).view_as(x_BTD)
        if self.shared_experts is not None:
            out_BTD = self.shared_experts(x_BTD) + out_BTD
        if self.training and self.counts:
            self._count(chosen_NA.unflatten(0, x_BTD.shape[:2]), present_BT)
        if members_BST is None:
            return out_BTD, None
        return out_BTD, balance_loss(scores_NE.unflatten(0, x_BTD.shape[:2]), self.gate.active, members_BST)

    @property
    def loads_E(self) -> Tensor:
        """How many assignments each expert received in training mode since the last reset, int64."""
        weight = self.gate.weight
        return (
            torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
            if self._loads_E is None
            else self._loads_E
        )

    def _count(self, chosen_BTA: Tensor, present_BT: Tensor | None) -> None:
        hits = F.one_hot(chosen_BTA, len(self.gate.weight)).sum(2)
        if present_BT is not None:
            hits = hits * present_BT[..., None]
        self._loads_E = self.loads_E + hits.sum((0, 1))

    @torch.no_grad()
    def adjust_bias(self, gamma: float, loads_E: Tensor) -> None:
        """b -= gamma where the load is above the mean, += gamma below it (DeepSeek-V3 section 2.1.2); then
        reset the count. Raises R1kitError where there is no bias."""
        bias_E, loads = self.gate.e_score_correction_bias, loads_E.double()
        if bias_E is not None:
            bias_E += gamma * torch.sign(loads.mean() - loads).float()
        elif gamma:
            raise R1kitError(
                f"bias_rate is {gamma:g}, but this family of models has no routing bias: set "
                "learner.bias_rate to 0"
            )
        self._loads_E = None


def balance_loss(scores_BTE: Tensor, active: int, members_BST: Tensor) -> Tensor:
    """sum_i f_i P_i of each row [B, S], DeepSeek-V3 eq. 17-20 without alpha; 1 when affinities are level, 0
    for a row without positions.

    ``members_BST`` is 1 where position t belongs to row s of the line, so that f and P are means over one row
    however lines are packed. The choices that f counts are those of the affinities alone, without the bias,
    as eq. 18 prints them."""
    members_BST = members_BST.to(scores_BTE.dtype)
    hits_BTE = torch.zeros_like(scores_BTE).scatter_(
        2, scores_BTE.detach().topk(active, dim=-1, sorted=False).indices, 1.0
    )
    shares_BTE = scores_BTE / scores_BTE.sum(dim=-1, keepdim=True)
    tokens_BS1 = members_BST.sum(-1, keepdim=True).clamp(min=1)
    with torch.autocast(scores_BTE.device.type, enabled=False):
        frequency_BSE, share_BSE = members_BST @ hits_BTE / tokens_BS1, members_BST @ shares_BTE / tokens_BS1
    return scores_BTE.shape[-1] / active * (frequency_BSE * share_BSE).sum(-1)
