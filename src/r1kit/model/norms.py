"""RMSNorm (1910.07467), the projections' base class, the head's product, and the dtypes of all three."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1kit.model import fused, products
from r1kit.model.products import working_dtype


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


class _RootMeanSquare(torch.autograd.Function):
    """RMSNorm with few memory passes in its backward pass: on a CPU 2.5x faster than autograd through the
    built-in one."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale: Tensor = (
            torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        )
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        normed, scale, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_normed = grad * normed
        grad_weight = grad_normed.flatten(0, -2).sum(0)
        mean = (grad_normed @ weight).unsqueeze(-1) / grad.shape[-1]
        return torch.addcmul(grad * weight, normed, mean, value=-1).mul_(scale), grad_weight, None


class RMSNorm(nn.Module):
    """Root mean square norm, computed in float32, returned in the dtype of the next matrix product."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        dtype, weight = working_dtype(x), at_least_float32(self.weight)
        if fused.normable(x, weight, dtype):
            return fused.norm(x, weight, self.eps, dtype)
        x = at_least_float32(x)
        if torch.is_grad_enabled():
            with torch.autocast(x.device.type, enabled=False):
                normed: Tensor = _RootMeanSquare.apply(x, weight, self.eps)  # type: ignore[no-untyped-call]
        else:
            normed = F.rms_norm(x, (x.shape[-1],), weight, self.eps)
        return normed.to(dtype)

    def after(self, x: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """(x + added, its norm)."""
        weight, dtype = at_least_float32(self.weight), working_dtype(x)
        if (
            added.dtype == dtype
            and added.shape == x.shape
            and fused.normable(x, weight, dtype)
            and fused.usable(added)
        ):
            return fused.add_norm(x, added, weight, self.eps)
        x = x + added
        return x, self(x)


def half_product(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
    """The product [N, V] of both sides rounded to bfloat16, with float32 sums and without gradient. PyTorch's
    own bfloat16 product would round the sums too, and a logit of 20 by up to 0.06."""
    if fused.usable(hidden_ND, weight_VD) and weight_VD.shape[1] % 2 == 0:
        return fused.logits(hidden_ND, weight_VD)
    hidden_ND, weight_VD = hidden_ND.to(torch.bfloat16), weight_VD.to(torch.bfloat16)
    if hidden_ND.device.type == "cuda":
        return torch.mm(hidden_ND, weight_VD.t(), out_dtype=torch.float32)
    return F.linear(hidden_ND.float(), weight_VD.float())


class Linear(nn.Linear):
    """A projection that leaves its weights to ``LanguageModel.initialise``."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return products.linear(x, self.weight, self.bias)

    def whole(self) -> Tensor:
        """The weight that a product with this projection amounts to."""
        return self.weight
