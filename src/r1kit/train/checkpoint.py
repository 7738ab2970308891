"""Training state on disk: weights, optimizer tensors and progress in one safetensors file, written beside and renamed. No pickle."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from r1kit.config import R1kitError

FILE = "train_state.safetensors"
REFERENCE = "reference_"  # folders of reference policies, by the step at which they were taken


def save(directory: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], progress: Mapping[str, int]) -> None:
    """Write the state whole or not at all: a temporary file is synced to disk and takes the old one's place."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in _own(model).items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{number}.{index}.{key}"] = torch.as_tensor(value).contiguous()
    temporary = directory / f".{FILE}.tmp"
    save_file(tensors, temporary, metadata={"progress": json.dumps(dict(progress))})
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, directory / FILE)
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def exists(directory: Path) -> bool:
    return (directory / FILE).is_file()


def discard(directory: Path) -> None:
    """Remove the state and its references: the stage has its result."""
    for reference in directory.glob(f"{REFERENCE}*"):
        shutil.rmtree(reference)
    (directory / FILE).unlink(missing_ok=True)


def restore(directory: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, int]:
    """Load what ``save`` wrote into the model and its optimizers; return the progress."""
    path = directory / FILE
    tensors = load_file(path)
    own = _own(model)
    found = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if set(found) != set(own) or any(found[name].shape != own[name].shape for name in own):
        raise R1kitError(f"{path} belongs to another model; delete it, or run the stage again with --from")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            parts = name.split(".")
            if parts[0] == "optimizer" and int(parts[1]) == number:
                state.setdefault(int(parts[2]), {})[parts[3]] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress_of(path)


def progress_of(path: Path) -> dict[str, int]:
    """The progress noted in a state file, without reading its tensors."""
    with open(path, "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
    progress: dict[str, int] = json.loads(header["__metadata__"]["progress"])
    return progress


def _own(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once (tied weights share one tensor)."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
