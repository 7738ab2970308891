"""Rotary position embeddings (RoFormer, 2104.09864), with the frequencies of YaRN (2309.00071) and of Llama
3.1.

``inverse_I`` holds one frequency per rotated pair, I of them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from r1kit.model import fused
from r1kit.model.config import ModelConfig, RopeScaling
from r1kit.model.norms import at_least_float32


def _plain_frequencies(config: ModelConfig) -> Tensor:
    dim = config.rotary_dim
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
    return 1.0 / (config.rope_theta**exponents)


def _yarn_frequencies(inverse_I: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """Divide low frequencies by the factor, keep high ones, blend in between (arXiv 2309.00071 eq. 19-23)."""
    dim = 2 * len(inverse_I)

    def pair_turning(rotations: float) -> float:
        return dim * math.log(scaling.original_positions / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_turning(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_turning(scaling.beta_slow)), dim - 1)
    places = torch.arange(dim // 2, dtype=torch.float32, device="cpu")
    stretched = ((places - low) / max(high - low, 0.001)).clamp(0, 1)
    return inverse_I / scaling.factor * stretched + inverse_I * (1 - stretched)


def _llama3_frequencies(inverse_I: Tensor, scaling: RopeScaling) -> Tensor:
    """Divide the frequencies of wavelengths beyond the trained length by the factor, keep those of short
    ones, blend in between (Llama 3.1)."""
    turns = scaling.original_positions * inverse_I / (2 * math.pi)
    kept = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(
        0, 1
    )
    return inverse_I / scaling.factor * (1 - kept) + inverse_I * kept


def yarn_magnitude(factor: float, mscale: float) -> float:
    """YaRN's attention factor (2309.00071, section 3.4; with DeepSeek's ``mscale``)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def rotary_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Radians per position of each rotated pair [I], float32, and the factor on cosine and sine (YaRN's
    temperature)."""
    inverse_I, scaling = _plain_frequencies(config), config.rope_scaling
    if scaling is None:
        return inverse_I, 1.0
    if scaling.kind == "llama3":
        return _llama3_frequencies(inverse_I, scaling), 1.0
    magnitude = scaling.attention_factor
    if magnitude is None and scaling.mscale and scaling.mscale_all_dim:
        magnitude = yarn_magnitude(scaling.factor, scaling.mscale) / yarn_magnitude(
            scaling.factor, scaling.mscale_all_dim
        )
    elif magnitude is None:
        magnitude = yarn_magnitude(scaling.factor, 1.0)
    return _yarn_frequencies(inverse_I, config.rope_theta, scaling), magnitude


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines [B, T, 1, I] of the positions of one forward pass, float32, shared by all
    layers."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions_BT: Tensor, inverse_I: Tensor, magnitude: float) -> "Rotation":
        angles = positions_BT[:, :, None, None].float() * inverse_I
        return cls(angles.cos() * magnitude, angles.sin() * magnitude)

    def _turn(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first * self.cos - second * self.sin, second * self.cos + first * self.sin

    def pairs(self, x_BTHU: Tensor) -> Tensor:
        """Rotate neighbours (0,1), (2,3), ... (DeepSeek's layout). The result is in halves: queries and keys
        are permuted in the same way."""
        if fused.usable(x_BTHU):
            return fused.rotate(x_BTHU, self.cos, self.sin, neighbours=True)
        x = at_least_float32(x_BTHU)
        return torch.cat(self._turn(x[..., 0::2], x[..., 1::2]), dim=-1).to(x_BTHU.dtype)

    def halves(self, x_BTHU: Tensor) -> Tensor:
        """Rotate entry i with entry i + I (the layout of the dense families' checkpoints)."""
        if fused.usable(x_BTHU):
            return fused.rotate(x_BTHU, self.cos, self.sin, neighbours=False)
        return torch.cat(self._turn(*at_least_float32(x_BTHU).chunk(2, dim=-1)), dim=-1).to(x_BTHU.dtype)
