"""Attention within the segments of packed lines, block by block (kernels/attention.h). Blocks that no token
attends to are not computed.

A token of a packed line attends to its own segment up to itself. If its row begins like others, it also
attends to that shared beginning, which is in the line once, as a segment of its own; and a beginning may
itself continue another, as the prompts of several groups continue the same worked examples. So one number per
token, and two for each beginning, describe what it attends to, and no [T, T] mask is made."""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from r1kit.config import R1kitError
from r1kit.model.fused import call, usable

MULTIPLE = 16  # the widths of keys and values must be multiples of it
BEGINNINGS = (
    4  # the most beginnings that a token may attend to, one continuing the other (kernels/attention.h)
)


def kernel_takes(x: Tensor, dtype: torch.dtype, widths: tuple[int, int]) -> bool:
    """Whether the kernel computes heads with keys and values of these widths, in this dtype, on x's
    device."""
    return dtype == torch.bfloat16 and usable(x) and all(width % MULTIPLE == 0 for width in widths)


def visible_ranges(segments_BT: Tensor, beginnings_BT: Tensor | None = None) -> Tensor:
    """The positions that each token attends to, [B, 1 + 2 n, T] int32: from the first number up to the token
    itself, and for each of n beginnings from a number up to, but without, the next.

    A segment is a run of equal numbers; ``beginnings_BT`` as in ``earlier_segments``."""
    steps_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    begins = torch.ones_like(segments_BT, dtype=torch.bool)
    begins[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    own_BT = torch.where(begins, steps_T, 0).cummax(dim=1).values
    if beginnings_BT is None:
        return own_BT[:, None].int()
    blank_BS = own_BT.new_zeros(len(own_BT), int(segments_BT.max()) + 1)
    start_BS, length_BS = (
        blank_BS.scatter(1, segments_BT, own_BT),
        blank_BS.scatter_add(1, segments_BT, torch.ones_like(own_BT)),
    )
    length_BS[:, 0] = 0  # number 0 means no beginning
    ranges = [own_BT]
    for earlier_BT in earlier_segments(segments_BT, beginnings_BT):
        from_BT = start_BS.gather(1, earlier_BT)
        ranges += [from_BT, from_BT + length_BS.gather(1, earlier_BT)]
    return torch.stack(ranges, dim=1).int()


def earlier_segments(segments_BT: Tensor, beginnings_BT: Tensor) -> list[Tensor]:
    """The segments that each token attends to besides its own, [B, T] each: first the one that its segment
    continues (``beginnings_BT``), then the one that this continues, and so on (0: none). Raises R1kitError
    for more than BEGINNINGS."""
    continued_BS = segments_BT.new_zeros(len(segments_BT), int(segments_BT.max()) + 1)
    continued_BS.scatter_(1, segments_BT, beginnings_BT)
    found: list[Tensor] = []
    while beginnings_BT.any():
        found.append(beginnings_BT)
        if len(found) > BEGINNINGS:
            raise R1kitError(
                f"a segment continues more than {BEGINNINGS} others, one after another: pack fewer levels"
            )
        beginnings_BT = continued_BS.gather(1, beginnings_BT) * (beginnings_BT != 0)
    return found


def ranges_of_both_sides(segments_BT: Tensor) -> Tensor:
    """As ``visible_ranges``, [B, 3, T] int32, for tokens that attend to the whole of their own segment: the
    second range is what follows the token in it. Padding (0) attends to earlier padding only."""
    own_BT = visible_ranges(segments_BT)[:, 0].long()
    T = segments_BT.shape[1]
    next_BT = torch.arange(1, T + 1, device=segments_BT.device).expand_as(own_BT)
    lengths_BT = torch.zeros_like(own_BT).scatter_add(1, own_BT, torch.ones_like(own_BT))
    end_BT = own_BT + lengths_BT.gather(1, own_BT)
    end_BT = torch.where(segments_BT == 0, next_BT, end_BT)
    return torch.stack((own_BT, next_BT, end_BT), dim=1).int()


def attend_within(q_BTHK: Tensor, k_BTJK: Tensor, v_BTJW: Tensor, ranges_BRT: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v over the positions that each token attends to -> [B, T, H, W], bfloat16; heads
    are grouped over the J key-value heads."""
    found: Tensor = _AttendWithin.apply(q_BTHK, k_BTJK, v_BTJW, ranges_BRT, scale)  # type: ignore[no-untyped-call]
    return found


class _AttendWithin(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJW: Tensor, ranges_BRT: Tensor, scale: float
    ) -> Tensor:
        q, k, v, ranges_BRT = _rows(q_BTHK), _rows(k_BTJK), _rows(v_BTJW), ranges_BRT.contiguous()
        (B, T, H, K), (J, W), beginnings = q.shape, v.shape[2:], ranges_BRT.shape[1] // 2
        out_BTHW, logsum_BHT = torch.empty(B, T, H, W, dtype=q.dtype), torch.empty(B, H, T)
        ctx.sizes, ctx.scale = (ctypes.c_long * 7)(B, T, H, J, K, W, beginnings), scale
        call("r1_attend", q, k, v, _strides(q, k, v), ranges_BRT, out_BTHW, logsum_BHT, ctx.sizes, scale)
        ctx.save_for_backward(q, k, v, ranges_BRT, out_BTHW, logsum_BHT)
        return out_BTHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, ranges_BRT, out, logsum = ctx.saved_tensors
        grad = _rows(grads[0])
        of_q, of_k, of_v = (torch.empty(some.shape, dtype=some.dtype) for some in (q, k, v))
        strides = _strides(q, k, v, out, grad)
        call(
            "r1_attend_slopes",
            q,
            k,
            v,
            out,
            grad,
            strides,
            ranges_BRT,
            logsum,
            of_q,
            of_k,
            of_v,
            ctx.sizes,
            ctx.scale,
        )
        return of_q, of_k, of_v, None, None


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> Any:
    strides = [stride for tensor in tensors for stride in tensor.stride()[:3]]
    return (ctypes.c_long * len(strides))(*strides)
