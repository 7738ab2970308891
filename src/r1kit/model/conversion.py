"""Write a model's weights in another dtype, tensor by tensor, in the folder where they are."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from r1kit.config import R1kitError
from r1kit.files import read_object, temporary_name
from r1kit.model.ancestry import weights_files
from r1kit.model.huggingface import keeps_float32
from r1kit.model.tensor_files import INDEX

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def convert(folder: Path, dtype: torch.dtype) -> None:
    """Round the weights of a model's folder to ``dtype``, except what stays in float32 in every model, and
    say so in config.json. Raises R1kitError naming a tensor whose numbers ``dtype`` cannot hold."""
    total = sum(_convert(file, dtype) for file in weights_files(folder))
    if (folder / INDEX).is_file():
        index = read_object(folder / INDEX)
        index["metadata"] = {**index.get("metadata", {}), "total_size": total}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config = read_object(folder / "config.json")
    config |= {key: str(dtype).removeprefix("torch.") for key in ("torch_dtype", "dtype") if key in config}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _convert(file: Path, dtype: torch.dtype) -> int:
    """Rewrite one safetensors file; returns the bytes of its tensors."""
    converted = {}
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {"format": "pt"}
        for name in list(opened.keys()):
            tensor = opened.get_tensor(name)
            if tensor.is_floating_point() and not keeps_float32(name):
                rounded = tensor.to(dtype)
                if not torch.isfinite(rounded).all() and torch.isfinite(tensor).all():
                    raise R1kitError(
                        f"{file.name}: {name} has numbers up to {tensor.abs().max():.3g}, more than "
                        f"{str(dtype).removeprefix('torch.')} can hold; use bfloat16"
                    )
                tensor = rounded
            converted[name] = tensor
    temporary = temporary_name(file)
    save_file(converted, temporary, metadata=metadata)
    temporary.replace(file)
    return sum(tensor.nbytes for tensor in converted.values())
