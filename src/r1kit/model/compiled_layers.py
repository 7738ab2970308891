"""Layers compiled by torch.compile for a GPU: their many small operations become few kernels.

A decoder's layers are alike, so their one forward function is compiled once for each kind of layer, and not
the whole model (what PyTorch calls regional compilation). On a CPU r1kit's own kernels do the same, and
torch.compile cannot look into them."""

import torch
from torch import nn
from torch.utils._triton import has_triton

from r1kit.model.decoder import LanguageModel

RECOMPILE_LIMIT = 64  # kinds of layers and of their shapes in one process; PyTorch's 8 are few for a recipe


def compiler_of(device: torch.device) -> str | None:
    """torch.compile's backend where compiling pays: on CUDA with Triton. None elsewhere."""
    return "inductor" if device.type == "cuda" and has_triton() else None


def compile_layers(model: LanguageModel, backend: str, dynamic: bool | None = None) -> None:
    """Compile each layer's forward function at its next call. ``dynamic``: for shapes that change from call
    to call."""
    torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
    layers: list[nn.Module] = [*model.layers, *model.mtp_layers]
    for layer in layers:
        layer.compile(backend=backend, dynamic=dynamic)
