"""The learner's operations between matrix products, each in one pass over memory, and its gradient in another
(kernels/rowwise.h).

    SwiGLU    silu(a) b                    keeps only a and b for the backward pass
    RMSNorm   x w / rms(x)                 in one pass with the residual addition before it and the rounding
                                           for the next product
    rotation  (a, b) -> (a cos - b sin, b cos + a sin)
    rounding  of float32 to what bfloat16 keeps
    Muon      the whole iteration of a small matrix, which stays in the cache
    logits    of bfloat16 hidden states and weights, with float32 sums
    head      log sum exp, log-probability and entropy of a row of logits in two passes; the gradient
              overwrites the logits

All compute in float32 and read and write float32 or bfloat16. An operation takes only tensors for which
``usable`` is true; for others (another device, float64, no compiler) its caller uses PyTorch."""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from r1kit.model.compile_kernels import KernelsUnavailableError, library

SOURCE = Path(__file__).parent / "kernels" / "fused.cpp"
_PLAIN = (Tensor, torch.nn.Parameter)
_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "r1_swiglu": (_INT, *[_POINTER] * 3, _LONG, _INT),
    "r1_swiglu_slopes": (_INT, *[_POINTER] * 5, _LONG, _INT),
    "r1_round": (_POINTER, _POINTER, _LONG, _INT),
    "r1_orthogonalise": (_POINTER, _POINTER, *[_LONG] * 3, _INT, _POINTER, _INT),
    "r1_norm": (_INT, *[_POINTER] * 4, _FLOAT, _POINTER, _POINTER, _LONG, _LONG, _INT),
    "r1_norm_slopes": (_INT, *[_POINTER] * 8, _LONG, _LONG, _INT),
    "r1_rotate": (_INT, _POINTER, _LONG, _LONG, *[_POINTER] * 3, *[_LONG] * 4, _INT, _INT, _FLOAT, _INT),
    "r1_logits": (_INT, *[_POINTER] * 3, *[_LONG] * 3, _INT),
    "r1_normalise": (*[_POINTER] * 5, _LONG, _LONG, _INT),
    "r1_head_slopes": (*[_POINTER] * 7, _LONG, _LONG, _INT),
    "r1_attend": (*[_POINTER] * 8, _FLOAT, _INT),
    "r1_attend_slopes": (*[_POINTER] * 12, _FLOAT, _INT),
}


@functools.cache
def _kernels() -> ctypes.CDLL | None:
    try:
        found = library(SOURCE)
    except KernelsUnavailableError:
        return None
    for name, arguments in _SIGNATURES.items():
        call = getattr(found, name)
        call.argtypes, call.restype = arguments, None
    return found


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels run here and take these tensors: on the CPU, float32 or bfloat16, and with memory
    of their own. A DTensor or a FakeTensor has none at its address."""
    return (
        all(
            type(t) in _PLAIN and t.device.type == "cpu" and t.dtype in (torch.float32, torch.bfloat16)
            for t in tensors
        )
        and _kernels() is not None
    )


def call(name: str, *arguments: Any) -> None:
    """Call a kernel: tensors are passed as addresses (None: no tensor); the number of threads is added."""
    kernels = _kernels()
    assert kernels is not None
    given = (argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments)
    getattr(kernels, name)(*given, torch.get_num_threads())


def _half(x: Tensor) -> int:
    return int(x.dtype == torch.bfloat16)


def rounded(x: Tensor, in_place: bool = False) -> Tensor:
    """float32 numbers rounded to bfloat16, kept in float32; x must be contiguous if it is overwritten."""
    x = x.detach().contiguous()
    out = x if in_place else torch.empty_like(x)
    call("r1_round", x, out, x.numel())
    return out


def orthogonalise(matrices_NRC: Tensor, iterations: int, coefficients: tuple[float, float, float]) -> Tensor:
    """Of float32 matrices with R <= C, each divided by its norm: so many times a x + (b g + c g g) x with g =
    x x^T; bfloat16 factors, float32 sums."""
    matrices_NRC = matrices_NRC.contiguous()
    out, given = torch.empty_like(matrices_NRC), torch.tensor(coefficients, dtype=torch.float32)
    call("r1_orthogonalise", matrices_NRC, out, *matrices_NRC.shape, iterations, given)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of two tensors of one shape and dtype."""
    found: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return found


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        call("r1_swiglu", _half(gate), gate, up, out, gate.numel())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        call("r1_swiglu_slopes", _half(gate), gate, up, grads[0].contiguous(), of_gate, of_up, gate.numel())
        return of_gate, of_up


def normable(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``norm`` takes x: the result is in x's dtype or rounded to bfloat16, the weight is float32."""
    return weight.dtype == torch.float32 and dtype in (x.dtype, torch.bfloat16) and usable(x, weight)


def norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x weight / sqrt(mean x^2 + eps) along the last dimension, in ``dtype``."""
    found: tuple[Tensor, Tensor] = _Norm.apply(x, None, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return found[1]


def add_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x + added, its norm as above in the dtype of ``added``)."""
    found: tuple[Tensor, Tensor] = _Norm.apply(x, added, weight, eps, added.dtype)  # type: ignore[no-untyped-call]
    return found


class _Norm(torch.autograd.Function):
    """(x + added, its norm); the first is None without ``added``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor]:
        x, weight, added = x.contiguous(), weight.contiguous(), None if added is None else added.contiguous()
        width = x.shape[-1]
        kinds, rows = _half(x) + 2 * int(dtype == torch.bfloat16), x.numel() // width
        total = None if added is None else torch.empty_like(x)
        normed, scales = torch.empty_like(x, dtype=dtype), torch.empty(rows, dtype=torch.float32)
        call("r1_norm", kinds, x, added, total, weight, eps, normed, scales, rows, width)
        ctx.save_for_backward(x if total is None else total, weight, scales)
        ctx.kinds, ctx.dtype = kinds, dtype
        ctx.set_materialize_grads(False)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        through, slope = grads
        x, weight, scales = ctx.saved_tensors
        wants_added = ctx.needs_input_grad[1]
        if slope is None:
            return (
                through,
                through.to(ctx.dtype) if wants_added and through is not None else None,
                None,
                None,
                None,
            )
        through = None if through is None else through.contiguous()
        of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)
        of_added = torch.empty_like(x, dtype=ctx.dtype) if wants_added else None
        call(
            "r1_norm_slopes",
            ctx.kinds,
            x,
            weight,
            scales,
            slope.contiguous(),
            through,
            of_x,
            of_added,
            of_weight,
            len(scales),
            len(weight),
        )
        return of_x, of_added, of_weight, None, None


def rotate(x_BTHU: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> Tensor:
    """Rotate pairs of the last dimension by angles [B or 1, T, 1, I] (float32); pairs are neighbours, or
    entries I apart.

    The result has its pairs I apart either way.
    """
    found: Tensor = _Rotate.apply(x_BTHU, cos, sin, neighbours)  # type: ignore[no-untyped-call]
    return found


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHU: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.neighbours = neighbours
        return _turned(x_BTHU, cos, sin, neighbours, False, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, False, ctx.neighbours, -1.0), None, None, None


def _turned(
    x_BTHU: Tensor, cos: Tensor, sin: Tensor, neighbours_in: bool, neighbours_out: bool, turn: float
) -> Tensor:
    B, T, H, U = x_BTHU.shape
    if x_BTHU.stride(3) != 1 or (B > 1 and x_BTHU.stride(0) != T * x_BTHU.stride(1)):
        x_BTHU = x_BTHU.contiguous()
    out = torch.empty(B, T, H, U, dtype=x_BTHU.dtype)
    strides = x_BTHU.stride(1), x_BTHU.stride(2)
    cos, sin = cos.contiguous(), sin.contiguous()
    call(
        "r1_rotate",
        _half(x_BTHU),
        x_BTHU,
        *strides,
        out,
        cos,
        sin,
        cos.numel() * 2 // U,
        B * T,
        H,
        U // 2,
        neighbours_in,
        neighbours_out,
        turn,
    )
    return out


def logits(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
    """Products [N, V] in float32 of both sides rounded to bfloat16, with float32 sums. The width must be
    even."""
    hidden_ND, weight_VD = hidden_ND.to(torch.bfloat16).contiguous(), weight_VD.contiguous()
    out_NV = torch.empty(len(hidden_ND), len(weight_VD))
    sizes = (len(hidden_ND), *weight_VD.shape)
    call("r1_logits", _half(weight_VD), hidden_ND, weight_VD, out_NV, *sizes)
    return out_NV


def normalise(logits_NV: Tensor, targets_N: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """(log sum exp [N], log-probability of each target [N], entropy [N] if asked for) of contiguous float32
    logits."""
    normaliser_N, logprobs_N = torch.empty(len(logits_NV)), torch.empty(len(logits_NV))
    entropy_N = torch.empty(len(logits_NV)) if entropy else None
    call(
        "r1_normalise",
        logits_NV,
        targets_N.contiguous(),
        normaliser_N,
        logprobs_N,
        entropy_N,
        *logits_NV.shape,
    )
    return normaliser_N, logprobs_N, entropy_N


def logits_to_slopes(
    logits_NV: Tensor,
    targets_N: Tensor,
    normaliser_N: Tensor,
    entropy_N: Tensor,
    of_logprob_N: Tensor | None,
    of_entropy_N: Tensor | None,
    temperatures_N: Tensor | None,
) -> None:
    """Overwrite contiguous float32 logits by the loss's slopes with respect to the logits before temperature;
    see train/lm_head.py."""
    floats = (normaliser_N, entropy_N, of_logprob_N, of_entropy_N, temperatures_N)
    given = [None if some_N is None else some_N.float().contiguous() for some_N in floats]
    call("r1_head_slopes", logits_NV, targets_N.contiguous(), *given, *logits_NV.shape)
