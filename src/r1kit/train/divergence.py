"""The reverse divergence between a student's and a teacher's next token, over the whole vocabulary, without
all logits at once.

    D = KL(p || q) = sum_v p_v (log p_v - log q_v),   p = softmax(l_student / T), q = softmax(l_teacher / T)
    dD/dl_v = p_v (log p_v - log q_v - D) / T

As in lm_head.py, positions are processed in parts, and the backward pass computes the logits again. The parts
are half as large, because the logits of two models are held. The teacher gets no gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from r1kit.model.products import factor
from r1kit.train.lm_head import logits_of, split_positions


def reverse_divergence(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    teacher_ND: Tensor,
    teacher_weight_VD: Tensor,
    temperatures_N: Tensor | None,
    dtype: torch.dtype,
    mixed: bool = False,
) -> Tensor:
    """D [N] with its exact gradient to the student's hidden states and head; the two D of student and teacher
    may differ. Products run in ``dtype``, softmax and sums in float32 (float64 where that is one).
    ``temperatures_N`` None is 1 everywhere."""
    found: Tensor = _ReverseDivergence.apply(
        hidden_ND, weight_VD, teacher_ND, teacher_weight_VD, temperatures_N, dtype, mixed
    )  # type: ignore[no-untyped-call]
    return found


class _ReverseDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, teacher_ND: Tensor, teacher_weight_VD: Tensor,
        temperatures_N: Tensor | None, dtype: torch.dtype, mixed: bool,
    ) -> Tensor:  # fmt: skip
        found_N = torch.zeros(
            len(hidden_ND), dtype=torch.promote_types(dtype, torch.float32), device=hidden_ND.device
        )
        for part in split_positions(len(hidden_ND), 2 * len(weight_VD), hidden_ND.is_cuda):
            logs_NV = _logprobs(hidden_ND, weight_VD, temperatures_N, part, dtype, mixed)
            target_NV = _logprobs(teacher_ND, teacher_weight_VD, temperatures_N, part, dtype, mixed)
            found_N[part] = (logs_NV.exp() * (logs_NV - target_NV)).sum(-1)
        ctx.save_for_backward(hidden_ND, weight_VD, teacher_ND, teacher_weight_VD, temperatures_N, found_N)
        ctx.dtype, ctx.mixed = dtype, mixed
        return found_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None, None]:
        hidden_ND, weight_VD, teacher_ND, teacher_weight_VD, temperatures_N, found_N = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for part in split_positions(len(hidden_ND), 2 * len(weight_VD), hidden_ND.is_cuda):
            logs_NV = _logprobs(hidden_ND, weight_VD, temperatures_N, part, ctx.dtype, ctx.mixed)
            excess_NV = (
                logs_NV
                - _logprobs(teacher_ND, teacher_weight_VD, temperatures_N, part, ctx.dtype, ctx.mixed)
                - found_N[part, None]
            )
            slopes_N = grad_N[part] if temperatures_N is None else grad_N[part] / temperatures_N[part]
            slopes_NV = factor(logs_NV.exp() * excess_NV * slopes_N[:, None], ctx.dtype, fresh=True)
            grad_hidden[part] = (slopes_NV @ factor(weight_VD, ctx.dtype)).to(grad_hidden.dtype)
            if grad_weight is not None:
                added_VD = slopes_NV.t() @ factor(hidden_ND[part], ctx.dtype)
                grad_weight += added_VD.to(grad_weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


def _logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    temperatures_N: Tensor | None,
    part: slice,
    dtype: torch.dtype,
    mixed: bool,
) -> Tensor:
    temperatures_N = None if temperatures_N is None else temperatures_N[part]
    return logits_of(hidden_ND[part], weight_VD, temperatures_N, dtype, mixed).log_softmax(-1)
