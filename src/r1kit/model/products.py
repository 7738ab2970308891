"""Matrix products of bfloat16 numbers on processors without instructions for them.

Where x86 processors have neither AVX-512 BF16 nor AMX, PyTorch multiplies bfloat16 several times slower than
float32 (docs/performance.md has the figures). There the same factors, rounded to bfloat16, are multiplied as
float32 numbers: every product of two bfloat16 numbers is exact in float32, sums are float32 as those of the
instructions, and the result is rounded to bfloat16. So a recipe means the same on both kinds of processors.
Everywhere else these functions are PyTorch's own."""

import functools
import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from r1kit.model import fused
from r1kit.model.compile_kernels import processor_flags

_PLAIN = (Tensor, torch.nn.Parameter)
_QUICK = frozenset({"avx512_bf16", "amx_bf16"})


def working_dtype(x: Tensor) -> torch.dtype:
    """The dtype that matrix products of x run in: autocast's if it is on, else x's own."""
    kind = x.device.type
    dtype: torch.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    return dtype


@functools.cache
def half_is_slow() -> bool:
    """Whether this is an x86 processor that is known to have no instruction for bfloat16 products."""
    flags = processor_flags()
    return platform.machine() in ("x86_64", "AMD64") and bool(flags) and not flags & _QUICK


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, x [..., D], W [V, D], in the working dtype of x."""
    if _widened(x, weight):
        found: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return found
    return F.linear(x, weight, bias)


def grouped(x_MD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
    """Each run of rows times its own matrix, [M, F]: run e ends before row ``ends_E[e]``."""
    weight_EFD = weight_EFD.to(x_MD.dtype)
    if _widened(x_MD, weight_EFD):
        found: Tensor = _Grouped.apply(x_MD, weight_EFD, ends_E)  # type: ignore[no-untyped-call]
        return found
    return F.grouped_mm(x_MD, weight_EFD.transpose(1, 2), offs=ends_E)


def quickest(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which numbers of ``dtype`` are multiplied fastest, and no less exactly."""
    slow = dtype == torch.bfloat16 and device.type == "cpu" and half_is_slow()
    return torch.float32 if slow else dtype


def factor(x: Tensor, dtype: torch.dtype, fresh: bool = False) -> Tensor:
    """x rounded to ``dtype``, as a factor of a product (``quickest``); without gradient. ``fresh``: nothing
    else needs x, which may be overwritten."""
    return rounded(x, dtype, fresh).to(quickest(dtype, x.device))


def rounded(x: Tensor, dtype: torch.dtype, fresh: bool = False) -> Tensor:
    """x rounded to ``dtype`` and kept in that dtype, or in x's where products are quicker in it; as in
    ``factor``."""
    x = x.detach()
    if x.dtype == quickest(dtype, x.device) == torch.float32 != dtype and fused.usable(x):
        return fused.rounded(x, in_place=fresh and x.is_contiguous())
    return x.to(dtype)


def _widened(x: Tensor, weight: Tensor) -> bool:
    plain = type(x) in _PLAIN and type(weight) in _PLAIN and x.device.type == "cpu"
    return (
        plain and working_dtype(x) == torch.bfloat16 and half_is_slow() and not torch.compiler.is_compiling()
    )


def _wide(x: Tensor) -> Tensor:
    return factor(x, torch.bfloat16)


class _Widened:
    """bfloat16 numbers as float32, kept until others are asked for: products in a row often have a factor in
    common, as those of the gate and the up projection."""

    def __init__(self) -> None:
        self._kept = (torch.empty(0), -1, torch.empty(0))  # numbers, their version, the same as float32

    def __call__(self, half: Tensor) -> Tensor:
        if half.is_inference() or not half.is_contiguous():  # the former count no versions
            return half.float()
        kept, version, wide = self._kept
        same_memory = kept.data_ptr() == half.data_ptr() and kept.numel() == half.numel()
        if not (same_memory and kept.dtype == half.dtype and half._version == version):
            half = half.detach()
            wide = half.float()
            self._kept = (half, half._version, wide)
        return wide.view(half.shape)


_widened_factor = _Widened()


class _Linear(torch.autograd.Function):
    """Keeps x in bfloat16 and the weight as it is for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half = x.to(torch.bfloat16)
        ctx.save_for_backward(half, weight)
        ctx.dtype, ctx.bias = x.dtype, None if bias is None else bias.dtype
        with torch.autocast("cpu", enabled=False):
            return F.linear(_widened_factor(half), _wide(weight), None if bias is None else _wide(bias)).to(
                half.dtype
            )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        half, weight = ctx.saved_tensors
        of_out, of_x, of_weight, of_bias = grads[0].float(), None, None, None
        if ctx.needs_input_grad[0]:
            of_x = (of_out @ _wide(weight)).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            rows = of_out.flatten(0, -2)
            of_weight = (rows.t() @ _widened_factor(half).flatten(0, -2)).to(weight.dtype)
        if ctx.bias is not None and ctx.needs_input_grad[2]:
            of_bias = of_out.flatten(0, -2).sum(0).to(ctx.bias)
        return of_x, of_weight, of_bias


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
        ctx.save_for_backward(x_MD, weight_EFD, ends_E)
        with torch.autocast("cpu", enabled=False):
            return F.grouped_mm(_widened_factor(x_MD), weight_EFD.float().transpose(1, 2), offs=ends_E).to(
                x_MD.dtype
            )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_MD, weight_EFD, ends_E = ctx.saved_tensors
        of_out_MF, of_x_MD, of_weight_EFD = grads[0].float(), None, None
        if ctx.needs_input_grad[0]:
            of_x_MD = F.grouped_mm(of_out_MF, weight_EFD.float(), offs=ends_E).to(x_MD.dtype)
        if ctx.needs_input_grad[1]:
            of_weight_EFD = F.grouped_mm(of_out_MF.t(), _widened_factor(x_MD), offs=ends_E).to(
                weight_EFD.dtype
            )
        return of_x_MD, of_weight_EFD, None
