"""Weights in less memory: matrices in another dtype than the rest."""

import torch

from r1kit.model.decoder import LanguageModel


@torch.no_grad()
def keep_matrices(model: LanguageModel, dtype: torch.dtype) -> None:
    """Keep a model's matrices in ``dtype``, and the rest in float32: norms, biases, and what chooses experts.
    They are small, and both training and sampling are sensitive to them."""
    model.float()
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and not name.endswith("gate.weight"):
            parameter.data = parameter.to(dtype)
