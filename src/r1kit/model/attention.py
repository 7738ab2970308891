"""Attention with a cache: latent (MLA, DeepSeek-V3 eq. 1-11) for DeepSeek's families, grouped-query for the
others.

Latent attention keeps per position only c_KV = norm(W_DKV h) and one rotated key k_R, C + U numbers instead
of 2 H K. Keys and values of every head are linear in c_KV, so against a cache W_UK is folded into the query
and W_UV into the output ("absorbed"): all heads then share one key [c_KV; k_R] and one value c_KV. Without a
cache each head's own keys are shorter than the latent, so the direct form is cheaper.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1kit.config import R1kitError
from r1kit.model.config import ModelConfig
from r1kit.model.device_attention import attend_on_device
from r1kit.model.norms import Linear, RMSNorm
from r1kit.model.packed_attention import attend_within
from r1kit.model.rotary import Rotation, yarn_magnitude

# Above this many query-key pairs the memory that PyTorch's fused kernel saves matters more than the faster
# backward pass of the explicit form.
EXPLICIT_PAIRS = 1024 * 1024
# A softmax over a length that is not a multiple of this is several times slower on a CPU.
SOFTMAX_MULTIPLE = 16
# The checkpoints' latent norms use this epsilon whatever the configuration's norm_eps says.
LATENT_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Mask:
    """The positions, cached or present, that each token attends to.

    ``bias_BTX`` is 0 or -inf, [1 or B, T, X]; None: causal, and long. If ``ranges_BRT``
    (packed_attention.visible_ranges) are given they decide instead."""

    bias_BTX: Tensor | None
    ranges_BRT: Tensor | None = None

    @classmethod
    def of(cls, visible_BTX: Tensor, dtype: torch.dtype) -> "Mask":
        bias = torch.zeros(visible_BTX.shape, dtype=dtype, device=visible_BTX.device)
        return cls(bias.masked_fill_(~visible_BTX, -math.inf))

    @classmethod
    def causal(cls, steps_T: Tensor, dtype: torch.dtype) -> "Mask":
        """Every token attends to itself and to earlier ones. Long texts go through PyTorch's fused kernel,
        which needs no T x T matrix for that."""
        if len(steps_T) ** 2 > EXPLICIT_PAIRS:
            return cls(None)
        return cls.of((steps_T[:, None] >= steps_T)[None], dtype)


def attend(q_BTHK: Tensor, k_BXJK: Tensor, v_BXJW: Tensor, mask: Mask, scale: float) -> Tensor:
    """softmax(scale q k^T + mask) v -> [B, T, H, W]; heads are grouped over the J key-value heads."""
    if mask.ranges_BRT is not None:
        return attend_within(q_BTHK, k_BXJK, v_BXJW, mask.ranges_BRT, scale)
    if q_BTHK.device.type != "cpu":
        return attend_on_device(q_BTHK, k_BXJK, v_BXJW, mask.bias_BTX, scale)
    if mask.bias_BTX is None or q_BTHK.shape[1] * k_BXJK.shape[1] > EXPLICIT_PAIRS:
        return _attend_fused(q_BTHK, k_BXJK, v_BXJW, mask.bias_BTX, scale)
    B, T, H, K = q_BTHK.shape
    X, J, W = v_BXJW.shape[1:]
    Q = H // J
    # The heads of a group become further queries of their shared key: fewer, larger products without copies
    # of the keys.
    q = q_BTHK.view(B, T, J, Q, K).permute(0, 2, 3, 1, 4).reshape(B * J, Q * T, K)
    k = k_BXJK.transpose(1, 2).reshape(B * J, X, K)
    v = v_BXJW.transpose(1, 2).reshape(B * J, X, W)
    if k.dtype != torch.float32:
        k = k.contiguous()  # a strided 16-bit operand is copied inside the product, several times slower
    scores = torch.bmm(q * scale, k.transpose(1, 2))
    scores = scores.view(B, H, T, X).add_(mask.bias_BTX.to(scores.dtype)[:, None]).view(B * J, Q * T, X)
    # Softmax accumulates in float32 whatever its input's dtype; a float32 copy would only cost memory
    # traffic.
    out = torch.bmm(torch.softmax(scores, dim=-1).to(v.dtype), v)
    return out.view(B, J, Q, T, W).permute(0, 3, 1, 2, 4).reshape(B, T, H, W)


def _attend_fused(
    q_BTHK: Tensor, k_BXJK: Tensor, v_BXJW: Tensor, bias_BTX: Tensor | None, scale: float
) -> Tensor:
    bias_B1TX = None if bias_BTX is None else bias_BTX[:, None].to(q_BTHK.dtype)
    out_BHTW = F.scaled_dot_product_attention(
        q_BTHK.transpose(1, 2), k_BXJK.transpose(1, 2), v_BXJW.transpose(1, 2), attn_mask=bias_B1TX,
        is_causal=bias_BTX is None, scale=scale, enable_gqa=q_BTHK.shape[2] != k_BXJK.shape[2],
    )  # fmt: skip
    return out_BHTW.transpose(1, 2)


class Cache:
    """Keys and values of each row: one tensor per layer, [B, X, C + U] (latent) or [B, X, J, 2 K] (keys, then
    values).

    ``lengths_B``: how many positions of a row are filled; the next tokens overwrite what lies beyond. Rows
    may differ. To shorten rows (a right-padded prompt), assign a new tensor; do not write into the old
    one."""

    def __init__(self, layers: list[Tensor], lengths_B: Tensor) -> None:
        self.layers = layers
        self.lengths_B = lengths_B

    @property
    def lengths_B(self) -> Tensor:
        return self._lengths_B

    @lengths_B.setter
    def lengths_B(self, lengths_B: Tensor) -> None:
        self._lengths_B = lengths_B
        self.longest = int(lengths_B.max()) if len(lengths_B) else 0

    @property
    def capacity(self) -> int:
        """The number of positions that a row can hold."""
        return self.layers[0].shape[1]

    def select(self, index_B: Tensor) -> "Cache":
        """A new cache with these rows in this order; rows may repeat."""
        return Cache(
            [layer.index_select(0, index_B) for layer in self.layers],
            self._lengths_B.index_select(0, index_B),
        )

    def joined(self, other: "Cache") -> "Cache":
        """A new cache with the rows of both, this one's first."""
        layers = [torch.cat(pair) for pair in zip(self.layers, other.layers, strict=True)]
        return Cache(layers, torch.cat((self._lengths_B, other._lengths_B)))

    def reserve(self, tokens: int) -> int:
        """Check that ``tokens`` more fit behind the longest row; return how many positions attention must
        read."""
        needed = self.longest + tokens
        if needed > self.capacity:
            raise R1kitError(
                f"the cache holds {self.capacity} positions but a row needs {needed}: ask new_cache for "
                f"length={needed}"
            )
        return min(-(-needed // SOFTMAX_MULTIPLE) * SOFTMAX_MULTIPLE, self.capacity)

    def advance(self, tokens: int) -> None:
        """Count ``tokens`` more as filled in every row, without waiting for the device."""
        self._lengths_B = self._lengths_B + tokens
        self.longest += tokens


@dataclass(frozen=True, slots=True)
class CacheView:
    """One layer of a cache in one forward pass: where new positions go, and how many positions (``seen``)
    attention reads."""

    layer: Tensor
    rows_B1: Tensor
    places_BT: Tensor
    seen: int
    fresh: bool

    def write(self, new: Tensor) -> Tensor:
        """Store [B, T, ...] behind each row's own length; return the layer's first ``seen`` positions."""
        if self.fresh:
            self.layer[:, : new.shape[1]] = new
        else:
            self.layer.index_put_((self.rows_B1, self.places_BT), new.to(self.layer.dtype))
        return self.layer[:, : self.seen]


class LatentAttention(nn.Module):
    """Multi-head latent attention, DeepSeek-V3 eq. 1-11; parameter names are the checkpoints'."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.kv_rank and config.nope_dim and config.rope_dim and config.v_dim
        self.heads, self.nope_dim, self.rope_dim, self.v_dim = (
            config.heads,
            config.nope_dim,
            config.rope_dim,
            config.v_dim,
        )
        self.kv_rank = config.kv_rank
        query_width = config.heads * (config.nope_dim + config.rope_dim)
        if config.q_rank is None:
            self.q_proj = Linear(config.width, query_width, bias=False)
        else:
            self.q_a_proj = Linear(config.width, config.q_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_rank, LATENT_NORM_EPS)
            self.q_b_proj = Linear(config.q_rank, query_width, bias=False)
        self.compressed = config.q_rank is not None
        self.kv_a_proj_with_mqa = Linear(config.width, config.kv_rank + config.rope_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(config.kv_rank, LATENT_NORM_EPS)
        self.kv_b_proj = Linear(config.kv_rank, config.heads * (config.nope_dim + config.v_dim), bias=False)
        self.o_proj = Linear(config.heads * config.v_dim, config.width, bias=False)
        self.scale = latent_scale(config)

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: Mask, cache: CacheView | None) -> Tensor:
        B, T, _ = x_BTD.shape
        queries = (
            self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD))) if self.compressed else self.q_proj(x_BTD)
        )
        q_content, q_rotated = queries.view(B, T, self.heads, -1).split(
            (self.nope_dim, self.rope_dim), dim=-1
        )
        q_rotated = rotation.pairs(q_rotated)
        latent, k_rotated = self.kv_a_proj_with_mqa(x_BTD).split((self.kv_rank, self.rope_dim), dim=-1)
        c_BTC, k_BTU = self.kv_a_layernorm(latent), rotation.pairs(k_rotated[:, :, None]).squeeze(2)
        if cache is not None:
            seen = cache.write(torch.cat((c_BTC, k_BTU), dim=-1))
            if not cache.fresh:
                return self.o_proj(self._absorbed(q_content, q_rotated, seen, mask).flatten(2))  # type: ignore[no-any-return]
        return self.o_proj(self._direct(q_content, q_rotated, c_BTC, k_BTU, mask).flatten(2))  # type: ignore[no-any-return]

    def _direct(
        self, q_content: Tensor, q_rotated: Tensor, c_BTC: Tensor, k_BTU: Tensor, mask: Mask
    ) -> Tensor:
        B, T, _ = c_BTC.shape
        k_content, v_BTHW = (
            self.kv_b_proj(c_BTC).view(B, T, self.heads, -1).split((self.nope_dim, self.v_dim), dim=-1)
        )
        k_rotated = k_BTU[:, :, None].expand(B, T, self.heads, self.rope_dim)
        return attend(
            torch.cat((q_content, q_rotated), dim=-1),
            torch.cat((k_content, k_rotated), dim=-1),
            v_BTHW,
            mask,
            self.scale,
        )

    def _absorbed(self, q_content: Tensor, q_rotated: Tensor, seen: Tensor, mask: Mask) -> Tensor:
        B, T, H, _ = q_content.shape
        up = self.kv_b_proj.whole().view(H, self.nope_dim + self.v_dim, self.kv_rank).to(q_content.dtype)
        up_keys, up_values = up[:, : self.nope_dim], up[:, self.nope_dim :]
        latent_q = (
            torch.bmm(q_content.reshape(B * T, H, -1).transpose(0, 1), up_keys)
            .transpose(0, 1)
            .view(B, T, H, -1)
        )
        seen = seen.to(q_content.dtype)[:, :, None]
        latent_BTHC = attend(
            torch.cat((latent_q, q_rotated), dim=-1), seen, seen[..., : self.kv_rank], mask, self.scale
        )
        values_HNW = torch.bmm(latent_BTHC.reshape(B * T, H, -1).transpose(0, 1), up_values.transpose(1, 2))
        return values_HNW.transpose(0, 1).reshape(B, T, H, self.v_dim)


def latent_scale(config: ModelConfig) -> float:
    """1 / sqrt(nope + rope), times YaRN's temperature squared if the checkpoint sets ``mscale_all_dim``
    (DeepSeek-V3's released code)."""
    assert config.nope_dim and config.rope_dim
    scaling, scale = config.rope_scaling, 1 / math.sqrt(config.nope_dim + config.rope_dim)
    if scaling is not None and scaling.mscale_all_dim:
        scale *= yarn_magnitude(scaling.factor, scaling.mscale_all_dim) ** 2
    return scale


class GroupedAttention(nn.Module):
    """Grouped-query attention: qwen2 has biases on q, k, v; qwen3 and qwen3_moe normalise each head's q and
    k."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.kv_heads and config.head_dim
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        bias = config.qkv_bias
        self.q_proj = Linear(config.width, config.heads * config.head_dim, bias=bias)
        self.k_proj = Linear(config.width, config.kv_heads * config.head_dim, bias=bias)
        self.v_proj = Linear(config.width, config.kv_heads * config.head_dim, bias=bias)
        self.o_proj = Linear(config.heads * config.head_dim, config.width, bias=False)
        self.normed = config.head_norms
        if self.normed:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.scale = config.head_dim**-0.5

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: Mask, cache: CacheView | None) -> Tensor:
        B, T, _ = x_BTD.shape
        q_BTHK = self.q_proj(x_BTD).view(B, T, self.heads, self.head_dim)
        k_BTJK = self.k_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim)
        v_BTJK = self.v_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim)
        if self.normed:
            q_BTHK, k_BTJK = self.q_norm(q_BTHK), self.k_norm(k_BTJK)
        q_BTHK, k_BTJK = rotation.halves(q_BTHK), rotation.halves(k_BTJK)
        if cache is not None:
            seen = cache.write(torch.cat((k_BTJK, v_BTJK), dim=-1))
            if not cache.fresh:
                k_BTJK, v_BTJK = seen.to(q_BTHK.dtype).chunk(2, dim=-1)
        return self.o_proj(attend(q_BTHK, k_BTJK, v_BTJK, mask, self.scale).flatten(2))  # type: ignore[no-any-return]
