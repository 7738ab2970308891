"""Attention on a GPU through PyTorch's own kernels.

Its fast kernels take either an explicit mask or key-value heads that several query heads share, not both.
With both it uses one that keeps all scores. So the sharing is resolved first: for one new token per row the
heads of a group become further queries of their common key, which copies nothing; for longer texts keys and
values are repeated."""

import torch.nn.functional as F
from torch import Tensor


def attend_on_device(
    q_BTHK: Tensor, k_BXJK: Tensor, v_BXJW: Tensor, bias_BTX: Tensor | None, scale: float
) -> Tensor:
    """softmax(scale q k^T + bias) v -> [B, T, H, W]; without a bias causal."""
    B, T, H, K = q_BTHK.shape
    J = k_BXJK.shape[2]
    k, v = k_BXJK.transpose(1, 2), v_BXJW.transpose(1, 2)
    if bias_BTX is None:
        out = F.scaled_dot_product_attention(
            q_BTHK.transpose(1, 2), k, v, is_causal=True, scale=scale, enable_gqa=H != J
        )
        return out.transpose(1, 2)
    bias_B1TX = bias_BTX[:, None].to(q_BTHK.dtype)
    if T == 1:
        grouped = q_BTHK.reshape(B, J, H // J, K)
        spread = bias_B1TX.expand(B, J, H // J, bias_BTX.shape[-1])
        out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=spread, scale=scale)
        return out.reshape(B, 1, H, v.shape[-1])
    if H != J:
        k, v = (some.repeat_interleave(H // J, dim=1) for some in (k, v))
    out = F.scaled_dot_product_attention(q_BTHK.transpose(1, 2), k, v, attn_mask=bias_B1TX, scale=scale)
    return out.transpose(1, 2)
