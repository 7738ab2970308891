"""Low-rank adapters on the projections of a model whose own weights do not change: LoRA (2106.09685) and DoRA
(2402.09353).

    LoRA   y = W x + s B A x + bias                  A [R, in], B [out, R], s = alpha / R
    DoRA   y = m / |W + s B A| (W x + s B A x) + bias

with |.| the length of each output's row, which gets no gradient (DoRA, section 4.3). s is alpha / sqrt(R)
where it is rank-stabilised (2312.03732). B begins at zero and m at |W|, so training begins at the model
itself. ``Weights`` reads a model's weights with its adapters merged into them, a matrix at a time."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from r1kit.config import ConfigError
from r1kit.model import products
from r1kit.model.decoder import LanguageModel
from r1kit.model.norms import Linear, at_least_float32
from r1kit.seeds import derive_seed

ALL_LINEAR: Final = "all-linear"
_NEVER = (
    "lm_head",
    "value_head",
)  # the head is the embedding in many models; the value head is trained whole


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """``rank`` R, the factor ``scale`` s, and whether the adapters are DoRA's; ``seed`` draws A."""

    rank: int
    scale: float
    dora: bool = False
    seed: int = 0


class AdaptedLinear(Linear):
    """A projection with an adapter; its ``weight`` and ``bias`` are those of ``base`` and are not trained."""

    def __init__(self, base: nn.Linear, shape: AdapterShape, name: str) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self.scale = shape.scale
        like = at_least_float32(base.weight[:0])
        generator = torch.Generator().manual_seed(derive_seed(shape.seed, "adapter", name))
        bound = 1 / math.sqrt(self.in_features)
        drawn = torch.rand(shape.rank, self.in_features, generator=generator, dtype=torch.float64)
        self.lora_A = nn.Parameter(((2 * drawn - 1) * bound).to(like))
        self.lora_B = nn.Parameter(like.new_zeros(self.out_features, shape.rank))
        self.lora_magnitude = nn.Parameter(self._lengths()) if shape.dora else None

    def forward(self, x: Tensor) -> Tensor:
        low = products.linear(products.linear(x, self.lora_A), self.lora_B)
        if self.lora_magnitude is None:
            return torch.add(products.linear(x, self.weight, self.bias), low, alpha=self.scale)
        product = torch.add(products.linear(x, self.weight), low, alpha=self.scale)
        product = product * (self.lora_magnitude / self._lengths()).to(product.dtype)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    @torch.no_grad()
    def whole(self) -> Tensor:
        """The weight with the adapter merged into it, float32 or float64."""
        merged = self._sum()
        if self.lora_magnitude is not None:
            merged *= (self.lora_magnitude / torch.linalg.vector_norm(merged, dim=1))[:, None]
        return merged

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(self._sum(), dim=1)
        return lengths

    def _sum(self) -> Tensor:
        """W + s B A, outside autocast."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return torch.addmm(at_least_float32(self.weight), self.lora_B, self.lora_A, alpha=self.scale)


def adapt(model: LanguageModel, shape: AdapterShape, targets: str | list[str] = ALL_LINEAR) -> None:
    """Put an adapter on every projection that ``targets`` names (ALL_LINEAR: all but the heads), and freeze
    every other weight except that of a value head. Multi-token prediction gets none, and in a model with
    routed experts no feed-forward layer does: experts are stacked tensors, not projections.

    ``model.base`` becomes the hash of the frozen weights. Raises ConfigError for a name that no projection
    has."""
    known = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name not in _NEVER and not name.startswith("mtp_layers.")
        and not (model.config.experts and ".mlp." in name)
    }  # fmt: skip
    leaves = sorted({_leaf(name) for name in known})
    unknown = [] if isinstance(targets, str) else [name for name in targets if name not in leaves]
    if unknown:
        raise ConfigError(
            f"learner.lora.targets: {', '.join(unknown)}: this model has no such projection; it has "
            f"{', '.join(leaves)}"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if model.value_head is not None:
        model.value_head.weight.requires_grad_(True)
    model.base = model.base or hash_frozen(model)
    for name, module in known.items():
        if targets == ALL_LINEAR or _leaf(name) in targets:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, AdaptedLinear(module, shape, name))


def hash_frozen(model: nn.Module) -> str:
    """A hash of all weights that are not trained, with their names."""
    found = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            found.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            found.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def adapters(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The projections that have an adapter, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


class Weights(Mapping[str, Tensor]):
    """The weights of ``model`` under the names they have without adapters. A weight with an adapter is merged
    when it is read, and then in the precision of the weight itself."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._adapted = {f"{name}.weight": module for name, module in adapters(model).items()}
        own = tuple(
            f"{name.removesuffix('.weight')}.{part}"
            for name in self._adapted
            for part in ("lora_A", "lora_B", "lora_magnitude")
        )
        self._plain = {name: tensor for name, tensor in model.state_dict().items() if name not in set(own)}

    def __getitem__(self, name: str) -> Tensor:
        return self.exact(name).to(self._plain[name].dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)

    def exact(self, name: str) -> Tensor:
        """The weight, in float32 at least where it is merged."""
        return self._adapted[name].whole() if name in self._adapted else self._plain[name]

    def parts(self, name: str) -> list[Tensor]:
        """What the weight is computed from."""
        module = self._adapted.get(name)
        if module is None:
            return [self._plain[name]]
        magnitude = [] if module.lora_magnitude is None else [module.lora_magnitude.detach()]
        return [self._plain[name], module.lora_A.detach(), module.lora_B.detach(), *magnitude]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
