"""Model folders that vLLM reads as r1kit means them.

A head that is tied to the embedding gets tensors of its own where vLLM 0.32 is wrong about it: for
deepseek_v3, where it samples with uninitialised numbers, and on a CPU, where a load in place renews the
embedding and not the head. deepseek_v3 also needs ``topk_method`` in config.json, which transformers does not
write."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from r1kit.files import read_object
from r1kit.model.config import ModelConfig
from r1kit.model.huggingface import keeps_float32
from r1kit.model.tensor_files import weight_files

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def needs_head(shape: ModelConfig, device: str) -> bool:
    """Whether the folder needs a head of its own."""
    return shape.tie_embeddings and (shape.family == "deepseek_v3" or device == "cpu")


def link_model(model: Path, folder: Path, shape: ModelConfig, head: bool) -> Path:
    """Make ``folder``, with the weights of ``model`` as links to its files, and with a ``head`` of its own;
    return it."""
    folder.mkdir()
    files = weight_files(model)
    for number, file in enumerate(files):
        (folder / f"model-{number:05d}.safetensors").symlink_to(file.resolve())
    if head and not any(HEAD in _names(file) for file in files):
        embedding = next(load_file(file)[EMBEDDING] for file in files if EMBEDDING in _names(file))
        save_file({HEAD: embedding}, folder / "head.safetensors")
    content = adjusted(read_object(model / "config.json"), shape, head)
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def adjusted(content: Mapping[str, Any], shape: ModelConfig, head: bool) -> dict[str, Any]:
    """A config.json as vLLM needs it."""
    method = {"topk_method": "noaux_tc"} if shape.family == "deepseek_v3" else {}
    return {**method, **content, **({"tie_word_embeddings": False} if head else {})}


def write_bucket(bucket: Mapping[str, Tensor], file: Path, head: bool, dtype: str) -> dict[str, Tensor]:
    """Write some of a model's weights, in vLLM's precision, with the embedding as a ``head`` too; return what
    was written."""
    written = dict(_as_read(bucket, head, getattr(torch, dtype)))
    save_file(written, file)
    return written


def counted(before: tuple[int, int], tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """The numbers of tensors and of bytes, with those of ``tensors``."""
    return before[0] + len(tensors), before[1] + sum(tensor.nbytes for tensor in tensors.values())


def _as_read(bucket: Mapping[str, Tensor], head: bool, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in bucket.items():
        kept = tensor.dtype if keeps_float32(name) else dtype
        yield name, tensor.detach().to("cpu", kept).clone(memory_format=torch.contiguous_format)
        if name == EMBEDDING and head:
            yield HEAD, tensor.detach().to("cpu", kept).clone(memory_format=torch.contiguous_format)


def _names(file: Path) -> set[str]:
    with file.open("rb") as opened:
        return set(json.loads(opened.read(int.from_bytes(opened.read(8), "little"))))
