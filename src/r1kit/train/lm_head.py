"""The language model's head, from hidden states to the log-probabilities of given tokens, without all logits
at once.

    l = h W^T / T,    log p(y) = l_y - log sum_v exp l_v,    H = log sum_v exp l_v - sum_v p_v l_v
    dl = g (onehot(y) - p) - k p (log p + H)

with T the row's temperature, g and k the upstream slopes of log p(y) and of H.

Positions are processed in parts of at most PART_LOGITS logits. A single part keeps its logits for the
backward pass; several parts compute them again. So the memory does not grow with positions x vocabulary
(Wijmans et al. 2411.09009 make the same trade in a kernel). Products run in ``dtype``, softmax and sums in
float32 (float64 where the model is). ScaleRL (2510.13786) found a bf16 head's rounding to be the largest part
of the mismatch between rollout and learner. Where products are mixed, the logits are float32 sums of bfloat16
factors, and only the two products of the backward pass are rounded, a part at a time."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from r1kit.model import fused
from r1kit.model.compiled_layers import compiler_of
from r1kit.model.norms import half_product
from r1kit.model.products import factor, rounded

PART_LOGITS = 1 << 25  # 128 MiB of float32
PART_LOGITS_ON_GPU = 1 << 29  # 2 GiB: a GPU needs large products
ROW_STEP = 256  # CPU libraries compile a product per shape, so few different numbers of rows are faster


def token_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    temperatures_N: Tensor | None,
    dtype: torch.dtype,
    entropy: bool = False,
    mixed: bool = False,
) -> tuple[Tensor, Tensor]:
    """(log-probability of each target [N], entropy of its distribution [N]), both with gradient; N a multiple
    of ROW_STEP is quickest.

    ``temperatures_N`` None is 1 everywhere. Without ``entropy`` the second result is zero. With it, its
    gradient costs nothing unless a loss uses it. ``mixed``: see ``logits_of``."""
    found: tuple[Tensor, Tensor] = _Head.apply(
        hidden_ND, weight_VD, targets_N, temperatures_N, dtype, entropy, mixed
    )  # type: ignore[no-untyped-call]
    return found


def part_rows(logits: int, on_gpu: bool = False) -> int:
    """How many positions go through the head at once, with so many logits for each."""
    most = PART_LOGITS_ON_GPU if on_gpu else PART_LOGITS
    return max(ROW_STEP, most // logits // ROW_STEP * ROW_STEP)


def split_positions(positions: int, logits: int, on_gpu: bool = False) -> list[slice]:
    """The parts of the positions that go through the head one after another."""
    step = part_rows(logits, on_gpu)
    return [slice(start, start + step) for start in range(0, positions, step)]


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        temperatures_N: Tensor | None,
        dtype: torch.dtype,
        entropy: bool,
        mixed: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        logprobs_N, entropy_N, normaliser_N = (
            torch.zeros(len(hidden_ND), dtype=wide, device=hidden_ND.device) for _ in range(3)
        )
        parts, kept = split_positions(len(hidden_ND), len(weight_VD), hidden_ND.is_cuda), None
        for part in parts:
            logits_NV = logits_of(hidden_ND[part], weight_VD, _of(temperatures_N, part), dtype, mixed)
            normaliser_N[part], logprobs_N[part], entropies_N = _normalise(
                logits_NV, targets_N[part], entropy
            )
            if entropies_N is not None:
                entropy_N[part] = entropies_N
            kept = logits_NV if len(parts) == 1 and any(ctx.needs_input_grad) else None
            del logits_NV  # before the next part's are made
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, temperatures_N, normaliser_N, entropy_N)
        ctx.dtype, ctx.mixed, ctx.kept = dtype, mixed, kept
        ctx.set_materialize_grads(False)
        return logprobs_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N, temperatures_N, normaliser_N, entropy_N = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None  # they are overwritten: a second pass computes them again
        if grads[0] is None and grads[1] is None:
            return None, None, None, None, None, None, None
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight: Tensor | None = None
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        product_weight = factor(weight_VD, ctx.dtype)
        for part in split_positions(len(hidden_ND), len(weight_VD), hidden_ND.is_cuda):
            temperature_N, of_logprob_N, of_entropy_N = (
                _of(tensor_N, part) for tensor_N in (temperatures_N, *grads)
            )
            logits_NV = (
                logits_of(hidden_ND[part], weight_VD, temperature_N, ctx.dtype, ctx.mixed)
                if kept is None
                else kept
            )
            of_part = (targets_N[part], normaliser_N[part], entropy_N[part], of_logprob_N, of_entropy_N)
            slopes_NV = _slopes(logits_NV, *of_part, temperature_N, ctx.dtype)
            del logits_NV
            grad_hidden[part] = (slopes_NV @ product_weight).to(grad_hidden.dtype)
            if ctx.needs_input_grad[1]:
                added_VD = slopes_NV.t() @ factor(hidden_ND[part], ctx.dtype)
                grad_weight = added_VD.to(wide) if grad_weight is None else grad_weight.add_(added_VD)
            del slopes_NV
        grad_weight = None if grad_weight is None else grad_weight.to(weight_VD.dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


def _of(tensor_N: Tensor | None, part: slice) -> Tensor | None:
    return None if tensor_N is None else tensor_N[part]


def logits_of(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    temperatures_N: Tensor | None,
    dtype: torch.dtype,
    mixed: bool = False,
) -> Tensor:
    """Logits [N, V] divided by their temperatures; the product runs in ``dtype``. ``mixed``: its factors
    are rounded to ``dtype``, but its sums are kept in float32."""
    with torch.autocast(hidden_ND.device.type, enabled=False):
        if mixed:
            logits_NV = half_product(hidden_ND.detach(), weight_VD.detach())
        else:
            logits_NV = F.linear(factor(hidden_ND, dtype), factor(weight_VD, dtype))
            logits_NV = rounded(logits_NV, dtype, fresh=True).to(torch.promote_types(dtype, torch.float32))
    return logits_NV if temperatures_N is None else logits_NV / temperatures_N[:, None]


def _normalise(logits_NV: Tensor, targets_N: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """(log sum exp, log-probability of each target, and with ``entropy`` the entropy), [N] each."""
    if logits_NV.dtype == torch.float32 and fused.usable(logits_NV):
        return fused.normalise(logits_NV, targets_N, entropy)
    found: tuple[Tensor, Tensor, Tensor | None] = _on(logits_NV.device, normalise)(
        logits_NV, targets_N, entropy
    )
    return found


def normalise(logits_NV: Tensor, targets_N: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """(log sum exp, log-probability of each target, and with ``entropy`` the entropy), [N] each, by PyTorch's
    operations."""
    normaliser_N = logits_NV.logsumexp(-1)
    logprobs_N = logits_NV.gather(1, targets_N[:, None])[:, 0] - normaliser_N
    if not entropy:
        return normaliser_N, logprobs_N, None
    probs_NV = (logits_NV - normaliser_N[:, None]).exp_()
    return normaliser_N, logprobs_N, normaliser_N - torch.einsum("nv,nv->n", probs_NV, logits_NV)


def _slopes(
    logits_NV: Tensor, targets_N: Tensor, normaliser_N: Tensor, entropy_N: Tensor,
    of_logprob_N: Tensor | None, of_entropy_N: Tensor | None, temperature_N: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """dL/dlogits as a factor in ``dtype``, before their temperature, from the slopes of log-probability and
    entropy; see the equation on top. May overwrite the logits."""
    given = (logits_NV, targets_N, normaliser_N, entropy_N, of_logprob_N, of_entropy_N, temperature_N)
    if logits_NV.dtype == torch.float32 and fused.usable(logits_NV):
        fused.logits_to_slopes(*given)
        return factor(logits_NV, dtype, fresh=True)
    if compiler_of(logits_NV.device) is not None:
        found: Tensor = _on(logits_NV.device, slopes_in_one_pass)(*given, dtype)
        return found
    return factor(overwritten_by_slopes(*given), dtype, fresh=True)


def overwritten_by_slopes(
    logits_NV: Tensor, targets_N: Tensor, normaliser_N: Tensor, entropy_N: Tensor,
    of_logprob_N: Tensor | None, of_entropy_N: Tensor | None, temperature_N: Tensor | None,
) -> Tensor:  # fmt: skip
    """dL/dlogits in the memory of the logits."""
    slopes_NV = (logits_NV - normaliser_N[:, None]).exp_()
    if of_entropy_N is None:
        assert of_logprob_N is not None
        slopes_NV *= -of_logprob_N[:, None]
    else:  # log p + H, the entropy's own part, is logit - normaliser + H
        constant_N = of_entropy_N * (normaliser_N - entropy_N) - (
            0.0 if of_logprob_N is None else of_logprob_N
        )
        slopes_NV *= torch.addcmul(constant_N[:, None], of_entropy_N[:, None], logits_NV, value=-1)
    if of_logprob_N is not None:
        slopes_NV.scatter_add_(1, targets_N[:, None], of_logprob_N[:, None])
    return slopes_NV if temperature_N is None else slopes_NV.div_(temperature_N[:, None])


def slopes_in_one_pass(
    logits_NV: Tensor, targets_N: Tensor, normaliser_N: Tensor, entropy_N: Tensor,
    of_logprob_N: Tensor | None, of_entropy_N: Tensor | None, temperature_N: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """dL/dlogits in ``dtype``, number by number, so that a compiler can read the logits once and write the
    result once."""
    slopes_NV = -(logits_NV - normaliser_N[:, None]).exp()
    if of_entropy_N is None:
        assert of_logprob_N is not None
        slopes_NV = slopes_NV * of_logprob_N[:, None]
    else:
        surprise_NV = logits_NV - normaliser_N[:, None] + entropy_N[:, None]
        of_token = 0.0 if of_logprob_N is None else of_logprob_N[:, None]
        slopes_NV = slopes_NV * (of_entropy_N[:, None] * surprise_NV + of_token)
    if of_logprob_N is not None:
        is_target_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == targets_N[:, None]
        slopes_NV = torch.where(is_target_NV, slopes_NV + of_logprob_N[:, None], slopes_NV)
    return (slopes_NV if temperature_N is None else slopes_NV / temperature_N[:, None]).to(dtype)


def _on(device: torch.device, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled where that pays."""
    backend = compiler_of(device)
    return function if backend is None else _compiled(function, backend)


@functools.cache
def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    return torch.compile(function, backend=backend, dynamic=True)
