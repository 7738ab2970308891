"""AdamW (1711.05101) in less memory: weights in bfloat16, moments in 8 bits, or both. All arithmetic is
float32; only what is kept between steps is rounded.

    m = b1 m + (1 - b1) g,    v = b2 v + (1 - b2) g^2
    w = (1 - rate decay) w - rate / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)

Rounding is stochastic (Gupta et al. 1502.02551): up or down, with the probabilities that make the mean exact.
To the nearest, a bfloat16 weight would lose every step smaller than 1/512 of itself, and an average with a
slow rate would never move.

The moments are kept block by block (Dettmers et al. 2110.02861): one float32 scale and ``BLOCK`` codes. A
code is a small floating-point number, because values in a block differ by orders of magnitude: m has a sign
and 8 steps an octave, sqrt(v) 16 steps an octave, each over 16 octaves. sqrt(v) is never rounded to zero,
since the step divides by it.

The random bits are a function of a parameter's place and of its step, so a resumed run rounds as one that was
never interrupted does."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from r1kit.seeds import derive_seed
from r1kit.train.uncompiled import Uncompiled

Moments = Literal["float32", "int8"]

BLOCK = 256  # numbers that share a scale
_CHUNK = 1 << 18  # numbers that are worked on at once, so that their temporaries stay in the cache
_MANTISSA, _ONE = 23, 127  # of a float32: bits of the mantissa, exponent of 1.0 as it is written


@dataclass(frozen=True, slots=True)
class Codes:
    """Numbers as 8-bit codes: zero, and ``largest`` magnitudes just below 2, with 2 ** ``bits`` steps an
    octave. A magnitude's code is the upper part of its float32 bits, less ``offset``."""

    dtype: torch.dtype
    bits: int

    @property
    def largest(self) -> int:
        return torch.iinfo(self.dtype).max

    @property
    def dropped(self) -> int:
        """How many bits of a float32's mantissa are rounded away."""
        return _MANTISSA - self.bits

    @property
    def offset(self) -> int:
        return ((_ONE + 1) << self.bits) - 1 - self.largest

    def magnitudes(self, device: torch.device) -> Tensor:
        """The magnitude of every code from 0 [largest + 1], float32."""
        codes = torch.arange(self.largest + 1, dtype=torch.int32, device=device)
        found = ((codes + self.offset) << self.dropped).view(torch.float32)
        return torch.where(codes == 0, 0.0, found)

    def encode(self, x_BK: Tensor, random_BK: Tensor, never_zero: bool = False) -> tuple[Tensor, Tensor]:
        """(codes [B, K], scale [B]) of blocks of float32 numbers; ``random_BK``: 21 random bits for each.
        With ``never_zero`` what is below the least magnitude becomes that, except zero itself."""
        magnitudes = self.magnitudes(x_BK.device)
        least, most = float(magnitudes[1]), float(magnitudes[-1])
        size_BK = x_BK.abs()
        scale_B = size_BK.amax(-1) / most
        size_BK /= torch.where(scale_B > 0, scale_B, 1.0)[:, None]
        raised = (size_BK.view(torch.int32) + (random_BK >> (21 - self.dropped))) >> self.dropped
        codes = (raised - self.offset).clamp_(max=self.largest)
        survives = size_BK > 0 if never_zero else (random_BK + 0.5) * (least / (1 << 21)) < size_BK
        codes = torch.where(size_BK < least, survives.int(), codes)
        return (codes if self.dtype == torch.uint8 else codes * x_BK.sign().int()).to(self.dtype), scale_B

    def decode(self, codes_BK: Tensor, scale_B: Tensor) -> Tensor:
        """The float32 numbers of codes [B, K]."""
        magnitudes, codes_BK = self.magnitudes(codes_BK.device), codes_BK.int()
        if self.dtype == torch.int8:
            magnitudes = torch.cat([-magnitudes.flip(0), magnitudes[1:]])
            codes_BK = codes_BK + self.largest
        return magnitudes.index_select(0, codes_BK.flatten()).view_as(codes_BK) * scale_B[:, None]


MEAN, ROOT = Codes(torch.int8, 3), Codes(torch.uint8, 4)


def round_weights(x: Tensor, random: Tensor) -> Tensor:
    """float32 numbers in bfloat16, up or down by ``random``, 21 random bits for each."""
    raised = x.view(torch.int32) + (random >> 5)
    return ((raised >> 16) << 16).view(torch.float32).bfloat16()


def kept_for(parameter: Tensor, moments: Moments) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each tensor that AdamW keeps of a parameter, by name, besides its step."""
    if moments == "float32":
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return {name: (tuple(parameter.shape), dtype) for name in ("exp_avg", "exp_avg_sq")}
    scales = (-(-parameter.numel() // BLOCK),)
    return {
        "exp_avg": (tuple(parameter.shape), MEAN.dtype),
        "exp_avg_scale": (scales, torch.float32),
        "exp_avg_root": (tuple(parameter.shape), ROOT.dtype),
        "exp_avg_root_scale": (scales, torch.float32),
    }


class RoundedAdamW(Uncompiled):
    """AdamW for parameters in float32 or bfloat16, whose gradients are float32."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float,
        moments: Moments,
    ) -> None:  # fmt: skip
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.moments = moments
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._places = {parameter: place for place, parameter in enumerate(parameters)}
        for parameter in parameters:
            parameter.grad_dtype = torch.float32

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned. PyTorch's own method would cast it to the parameters'
        dtype."""
        super().load_state_dict(state_dict)
        for parameter, place in self._places.items():
            if (given := state_dict["state"].get(place)) is not None:
                device = parameter.device
                self.state[parameter] = {
                    name: tensor.clone() if name == "step" else tensor.to(device, copy=True)
                    for name, tensor in given.items()
                }

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for name, (shape, dtype) in kept_for(parameter, self.moments).items():
                state[name] = torch.zeros(shape, dtype=dtype, device=parameter.device)
        state["step"] += 1
        step = int(state["step"])
        generator = torch.Generator(parameter.device)
        generator.manual_seed(derive_seed(0, "rounding", self._places[parameter], step))
        flat = {name: tensor.view(-1) for name, tensor in state.items() if name != "step"}
        weight, gradient = parameter.view(-1), parameter.grad.reshape(-1)
        for start in range(0, len(weight), _CHUNK):
            part = slice(start, min(start + _CHUNK, len(weight)))
            blocks = slice(start // BLOCK, -(-part.stop // BLOCK))
            bits = torch.empty(part.stop - start, dtype=torch.int64, device=parameter.device)
            bits.random_(generator=generator)
            random = [((bits >> shift) & 0x1FFFFF).int() for shift in (0, 21, 42)]
            mean, square = self._read(flat, part, blocks)
            mean.lerp_(gradient[part], 1 - group["betas"][0])
            square.mul_(group["betas"][1]).addcmul_(
                gradient[part], gradient[part], value=1 - group["betas"][1]
            )
            _write(weight, part, _moved(weight[part], mean, square, step, group), random[2])
            self._keep(flat, part, blocks, mean, square, random)

    def _read(self, flat: dict[str, Tensor], part: slice, blocks: slice) -> tuple[Tensor, Tensor]:
        """m and v of a part, float32."""
        if self.moments == "float32":
            return flat["exp_avg"][part], flat["exp_avg_sq"][part]
        length = part.stop - part.start
        mean, root = (
            codes.decode(_in_blocks(flat[name][part]), flat[f"{name}_scale"][blocks]).view(-1)[:length]
            for name, codes in (("exp_avg", MEAN), ("exp_avg_root", ROOT))
        )
        return mean, root.square_()

    def _keep(
        self, flat: dict[str, Tensor], part: slice, blocks: slice, mean: Tensor, square: Tensor,
        random: list[Tensor],
    ) -> None:  # fmt: skip
        if self.moments == "float32":
            return  # they were changed in place
        length = part.stop - part.start
        coded = (
            ("exp_avg", MEAN.encode(_in_blocks(mean), _in_blocks(random[0]))),
            ("exp_avg_root", ROOT.encode(_in_blocks(square.sqrt()), _in_blocks(random[1]), never_zero=True)),
        )
        for name, (codes, scales) in coded:
            flat[name][part] = codes.view(-1)[:length]
            flat[f"{name}_scale"][blocks] = scales


def _moved(weight: Tensor, mean: Tensor, square: Tensor, step: int, group: dict[str, Any]) -> Tensor:
    """The weights after a step, float32."""
    first, second = (1 - beta**step for beta in group["betas"])
    divisor = square.sqrt().div_(math.sqrt(second)).add_(group["eps"])
    moved: Tensor = weight.float() * (1 - group["lr"] * group["weight_decay"])
    rate: float = group["lr"] / first
    moved.addcdiv_(mean, divisor, value=-rate)
    return moved


def _write(weight: Tensor, part: slice, moved: Tensor, random: Tensor) -> None:
    weight[part] = round_weights(moved, random) if weight.dtype == torch.bfloat16 else moved


def _in_blocks(flat: Tensor) -> Tensor:
    """Numbers [N] as [blocks, BLOCK], filled up with zeros."""
    return torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
