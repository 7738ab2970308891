"""Optimizers that do not import torch.compile.

PyTorch decorates the methods of its optimizers so that torch.compile leaves them alone. The decorators import
the whole compiler when an optimizer is made: about a second of processor time and 70 MB in each process that
trains. r1kit compiles layers at most, never an optimizer, so its optimizers have the same methods without
those decorators."""

from inspect import unwrap

import torch


class Uncompiled(torch.optim.Optimizer):
    """The base of r1kit's optimizers."""

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(Uncompiled, torch.optim.AdamW):
    """PyTorch's own AdamW."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
