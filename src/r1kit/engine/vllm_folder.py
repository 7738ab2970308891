"""Model folders that vLLM reads as r1kit means them.

vLLM 0.32 ignores for deepseek_v3 that the head is tied to the embedding, and then samples with a head of
uninitialised numbers; so such a folder gets a head of its own. It also needs ``topk_method`` in config.json,
which transformers does not write."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from r1kit.files import read_object
from r1kit.model.config import ModelConfig
from r1kit.model.huggingface import keeps_float32, weight_files

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def link_model(model: Path, folder: Path, shape: ModelConfig) -> Path:
    """Make ``folder``, with the weights of ``model`` as links to its files; return it."""
    folder.mkdir()
    files = weight_files(model)
    for number, file in enumerate(files):
        (folder / f"model-{number:05d}.safetensors").symlink_to(file.resolve())
    if _needs_head(shape) and not any(HEAD in _names(file) for file in files):
        embedding = next(load_file(file)[EMBEDDING] for file in files if EMBEDDING in _names(file))
        save_file({HEAD: embedding}, folder / "head.safetensors")
    content = adjusted(read_object(model / "config.json"), shape)
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def adjusted(content: Mapping[str, Any], shape: ModelConfig) -> dict[str, Any]:
    """A config.json as vLLM needs it."""
    if shape.family != "deepseek_v3":
        return dict(content)
    return {"topk_method": "noaux_tc", **content, "tie_word_embeddings": False}


def write_bucket(
    bucket: Mapping[str, Tensor], file: Path, shape: ModelConfig, dtype: str
) -> dict[str, Tensor]:
    """Write some of a model's weights, in vLLM's precision; return what was written."""
    written = dict(_as_read(bucket, shape, getattr(torch, dtype)))
    save_file(written, file)
    return written


def counted(before: tuple[int, int], tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """The numbers of tensors and of bytes, with those of ``tensors``."""
    return before[0] + len(tensors), before[1] + sum(tensor.nbytes for tensor in tensors.values())


def _as_read(
    bucket: Mapping[str, Tensor], shape: ModelConfig, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in bucket.items():
        kept = tensor.dtype if keeps_float32(name) else dtype
        yield name, tensor.detach().to("cpu", kept).clone(memory_format=torch.contiguous_format)
        if name == EMBEDDING and _needs_head(shape):
            yield HEAD, tensor.detach().to("cpu", kept).clone(memory_format=torch.contiguous_format)


def _needs_head(shape: ModelConfig) -> bool:
    return shape.family == "deepseek_v3" and shape.tie_embeddings


def _names(file: Path) -> set[str]:
    with file.open("rb") as opened:
        return set(json.loads(opened.read(int.from_bytes(opened.read(8), "little"))))
