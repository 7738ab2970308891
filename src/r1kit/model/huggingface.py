"""Checkpoints as Hugging Face directories: config.json and safetensors that transformers and vLLM open
unconverted.

Our tensors carry the checkpoints' names, with two differences: the experts of a layer are stacked here and
separate on disk (``model.layers.1.mlp.experts.0.gate_proj.weight``), and multi-token prediction is stored as
further layers (``model.layers.61.eh_proj.weight``), which other loaders ignore. phi3 keeps queries, keys and
values in one matrix, and so gate and up. A scalar head has a file of its own, ``value_head.safetensors``.
Pickles are never opened.

DeepSeek releases weights in FP8: W is stored as float8 W8 with a scale S per block of 128 x 128, and is read
as W8[i, j] S[i / 128, j / 128], in bfloat16 unless another dtype is given, as DeepSeek's own conversion does
(DeepSeek-V3, section 3.3). Models of other families are loaded by foreign.py."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.files import read_object
from r1kit.model.adapters import Weights
from r1kit.model.config import ModelConfig
from r1kit.model.config_json import eight_bit_blocks, read_config, save_config
from r1kit.model.decoder import LanguageModel
from r1kit.model.foreign import ForeignModel, check_foreign, load_foreign
from r1kit.model.tensor_files import INDEX, WEIGHTS, TensorFile, open_tensors

VALUE_HEAD = "value_head.safetensors"
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
SCALES = "_scale_inv"  # what the name of 8-bit weights' scales adds
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_LAYER = re.compile(r"model\.layers\.(?P<number>\d+)\.")


def disk_names(name: str, config: ModelConfig) -> list[str]:
    """The checkpoint's names of one of our tensors: one, or one per expert for a stacked tensor."""
    if name.startswith("mtp_layers."):
        _, depth, rest = name.split(".", 2)
        name = f"layers.{config.layers + int(depth)}.{rest}"
    if name.startswith("lm_head."):
        return [name]
    before, experts, projection = name.partition(".mlp.experts.")
    if not experts:
        return [f"model.{_fused_name(name)}" if config.family == "phi3" else f"model.{name}"]
    return [
        f"model.{before}.mlp.experts.{expert}.{projection}.weight" for expert in range(config.experts or 0)
    ]


def _fused_name(name: str) -> str:
    """The name of phi3's matrix that holds one of ours."""
    for fused, parts in FUSED.items():
        for part in parts:
            name = name.replace(part, fused)
    return name


def _fused_parts(name: str) -> int:
    """How many of our matrices one of the checkpoint's holds."""
    return next((len(parts) for fused, parts in FUSED.items() if f".{fused}." in name), 1)


def _fused_rows(name: str, config: ModelConfig) -> slice | None:
    """The rows of phi3's matrix that are this one of ours; None for a matrix of its own."""
    queries, keys = ((count or 0) * (config.head_dim or 0) for count in (config.heads, config.kv_heads))
    heights = {
        "self_attn.q_proj": (0, queries),
        "self_attn.k_proj": (queries, keys),
        "self_attn.v_proj": (queries + keys, keys),
        "mlp.gate_proj": (0, config.ffn_width),
        "mlp.up_proj": (config.ffn_width, config.ffn_width),
    }
    found = [heights[part] for part in heights if f".{part}." in name] if config.family == "phi3" else []
    return slice(found[0][0], sum(found[0])) if found else None


def to_disk(config: ModelConfig, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our state dict under the checkpoint's names, experts unstacked, phi3's matrices joined, without a tied
    head, the scalar head and the head of next-sentence prediction."""
    waiting: dict[str, list[Tensor]] = {}
    for name, tensor in weights.items():
        tied = config.tie_embeddings and name == "lm_head.weight"
        if tied or name.startswith(("value_head.", "pair_head.")):
            continue
        names = disk_names(name, config)
        if (parts := _fused_parts(names[0])) > 1:
            found = waiting.setdefault(names[0], [])
            found.append(tensor)
            if len(found) == parts:
                yield names[0], torch.cat(waiting.pop(names[0]))
        else:
            yield from zip(names, tensor if ".mlp.experts." in name else [tensor], strict=True)


def disk_weights(
    model: LanguageModel, weights: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """A model's weights as its folder has them, one after the other, adapters merged. ``weights``: where its
    tensors are read from, if not from the model."""
    if isinstance(model, ForeignModel):
        return model.disk_weights()
    return to_disk(model.config, Weights(model) if weights is None else weights)


def save_pretrained(
    model: LanguageModel,
    directory: Path | str,
    shard_bytes: int = 5_000_000_000,
    dtype: torch.dtype | None = None,
) -> None:
    """Write config.json and the weights as one safetensors file or as shards with an index: each in its own
    dtype, or all rounded to ``dtype``, except what stays in float32 (``keeps_float32``)."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for stale in [*directory.glob("model*.safetensors"), directory / INDEX, directory / VALUE_HEAD]:
        stale.unlink(missing_ok=True)
    if isinstance(model, ForeignModel):
        model.save(directory, shard_bytes, dtype)
        _write_value_head(model, directory)
        return
    save_config(model.config, directory, dtype or model.embed_tokens.weight.dtype)
    named = disk_weights(model)
    if dtype is not None:
        named = ((name, tensor if keeps_float32(name) else tensor.to(dtype)) for name, tensor in named)
    shards = _shards(named, shard_bytes)
    if len(shards) == 1:
        _write(shards[0], directory / WEIGHTS)
    else:
        _write_shards(shards, directory)
    _write_value_head(model, directory)


def save_as_read(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    directory: Path | None,
    dtype: torch.dtype,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """``save_pretrained`` of weights that are put together when they are read: never more than a shard of
    them is held. Without a ``directory`` they are read, as another process does that writes them."""
    shards = _shards(
        (
            (name, tensor if keeps_float32(name) else tensor.to(dtype))
            for name, tensor in to_disk(config, _expected(config)[1])
        ),
        shard_bytes,
    )
    files = {
        name: WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number, shard in enumerate(shards, start=1)
        for name in shard
    }
    held: dict[str, Tensor] = {}
    for name, tensor in to_disk(config, weights):
        if directory is not None:
            held[name] = tensor.clone() if keeps_float32(name) else tensor.to(dtype, copy=True)
            if held.keys() == {other for other in files if files[other] == files[name]}:
                _write(held, directory / files[name])
                held = {}
    head = weights["value_head.weight"] if config.scalar_head else None
    if directory is None:
        return
    save_config(config, directory, dtype)
    if len(shards) > 1:
        _write_index(files, shards, directory)
    if head is not None:
        _write({"value_head.weight": head}, directory / VALUE_HEAD)


def _write_value_head(model: LanguageModel, directory: Path) -> None:
    if model.value_head is not None:
        _write({"value_head.weight": model.value_head.weight}, directory / VALUE_HEAD)


def _shards(named: Iterator[tuple[str, Tensor]], shard_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in named:
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    return shards


def _write(named: Mapping[str, Tensor], path: Path) -> None:
    # Copies, because an expert is a slice of a stacked tensor, and safetensors refuses tensors that share
    # memory.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in named.items()
    }
    save_file(copies, path, metadata={"format": "pt"})


def _write_shards(shards: Sequence[dict[str, Tensor]], directory: Path) -> None:
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(shard, directory / file)
        places |= dict.fromkeys(shard, file)
    _write_index(places, shards, directory)


def _write_index(places: Mapping[str, str], shards: Sequence[dict[str, Tensor]], directory: Path) -> None:
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def load_pretrained(
    directory: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> LanguageModel:
    """Load a model in the file's dtype unless another is given; 8-bit weights become bfloat16.

    A head of its own in the file counts, also where config.json says that it is tied to the embedding, as in
    transformers; the model's configuration then says that it is not tied. A scalar head is loaded where the
    directory has one. Raises R1kitError naming broken files, and missing, unexpected or mis-shaped
    tensors."""
    directory = Path(directory)
    config = read_config(directory)
    if config.family == "transformers":
        return _load_foreign(directory, config, device, dtype)
    with ExitStack() as stack:
        source = open_tensors(directory, stack)
        model, expected = _expected(config)
        blocks = _check_tensors(expected, source, config, directory)
        if config.tie_embeddings and _has_own_head(source):
            config = config.model_copy(update={"tie_embeddings": False})
            model, expected = _expected(config)
        _check_copies(source, config)
        loaded = {}
        for name in expected:
            if not (name.startswith("value_head.") or (config.tie_embeddings and name == "lm_head.weight")):
                tensor = _read(name, source, config, blocks, dtype or torch.bfloat16)
                loaded[name] = tensor.to(device=device, dtype=torch.float32 if keeps_float32(name) else dtype)
    if config.tie_embeddings:
        loaded["lm_head.weight"] = loaded["embed_tokens.weight"]
    if config.scalar_head:
        loaded["value_head.weight"] = _read_value_head(directory, config).to(device=device, dtype=dtype)
    model.load_state_dict(loaded, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


class WeightsOnDisk:
    """The weights of a model's folder, read a part at a time: ``load_pretrained`` for a process that needs
    parts of them only. Use it in a ``with`` statement.

    ``model`` is on the meta device, with the names, shapes and the dtype of the weights. ``scalar_head``: add
    one where the folder has none, with the initial weights that ``LanguageModel`` gives it."""

    def __init__(self, directory: Path, dtype: torch.dtype, scalar_head: bool = False) -> None:
        self.directory = directory
        self.dtype = dtype
        self._stack = ExitStack()
        config = read_config(directory)
        if config.family == "transformers":
            raise R1kitError(
                f"{directory}: this model runs through transformers' own class, whose weights cannot be "
                "shared out over processes; use runtime: {kind: local}"
            )
        self._source = open_tensors(directory, self._stack)
        if config.tie_embeddings and _has_own_head(self._source):
            config = config.model_copy(update={"tie_embeddings": False})
        _, expected = _expected(config)
        self._blocks = _check_tensors(expected, self._source, config, directory)
        self._has_head = config.scalar_head
        self.config = config.model_copy(update={"scalar_head": config.scalar_head or scalar_head})
        self.model = self.outline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def outline(self) -> LanguageModel:
        """Another model like ``model``."""
        found = _expected(self.config)[0].to(self.dtype)
        if self.config.tie_embeddings:
            found.lm_head.weight = found.embed_tokens.weight
        return found

    def read(self, name: str, offset: Sequence[int], size: Sequence[int]) -> Tensor:
        """The part of one of our tensors that begins at ``offset`` and has this ``size``, in the model's
        dtype."""
        if 0 in size:
            return torch.zeros(*size, dtype=self.dtype)
        ranges = tuple(slice(start, start + length) for start, length in zip(offset, size, strict=True))
        if name == "value_head.weight":
            head = _read_value_head(self.directory, self.config) if self._has_head else self._initial_head()
            return head[ranges].to(self.dtype, copy=True)
        found = self._part(name, ranges)
        return found.to(torch.float32 if keeps_float32(name) else self.dtype, copy=True)

    def _part(self, name: str, ranges: tuple[slice, ...]) -> Tensor:
        names = disk_names(name, self.config)
        if ".mlp.experts." in name:
            return torch.stack([self._slice(one, ranges[1:]) for one in names[ranges[0]]])
        rows = _fused_rows(name, self.config)
        if rows is not None:
            ranges = (slice(rows.start + ranges[0].start, rows.start + ranges[0].stop), *ranges[1:])
        return self._slice(names[0], ranges)

    def _slice(self, theirs: str, ranges: tuple[slice, ...]) -> Tensor:
        file = self._source[theirs]
        if self._blocks is not None and theirs + SCALES in self._source:
            scales = self._source[theirs + SCALES].tensor(theirs + SCALES)
            return dequantised(file.tensor(theirs), scales, self._blocks).to(torch.bfloat16)[ranges]
        return file.part(theirs, ranges)

    def _initial_head(self) -> Tensor:
        """What ``LanguageModel`` draws for a scalar head: the numbers after those of all other matrices."""
        generator = torch.Generator().manual_seed(0)
        for name, parameter in self.model.named_parameters():
            if parameter.dim() > 1:
                drawn = torch.empty(parameter.shape).normal_(0.0, self.config.init_std, generator=generator)
                if name == "value_head.weight":
                    return drawn
        raise AssertionError("a model with a scalar head has one")


def check_pretrained(directory: Path | str) -> None:
    """Raise R1kitError for a model that ``load_pretrained`` would refuse, without reading its weights: only
    config.json, and the names and shapes of the tensors, are looked at."""
    directory = Path(directory)
    config = read_config(directory)
    with ExitStack() as stack:
        source = open_tensors(directory, stack)
        if config.family == "transformers":
            check_foreign(directory, source)
        else:
            _check_tensors(_expected(config)[1], source, config, directory)
    if config.scalar_head:
        _read_value_head(directory, config)


def _load_foreign(
    directory: Path, config: ModelConfig, device: torch.device | str, dtype: torch.dtype | None
) -> LanguageModel:
    with ExitStack() as stack:
        open_tensors(directory, stack)  # names a broken file before another library reads it
    model = load_foreign(directory, config, device, dtype)
    if model.value_head is not None:
        weight = _read_value_head(directory, config)
        model.value_head.load_state_dict({"weight": weight})
    return model


def _check_tensors(
    expected: Mapping[str, Tensor], source: Mapping[str, TensorFile], config: ModelConfig, directory: Path
) -> tuple[int, int] | None:
    """Raise R1kitError where names, types or shapes of the tensors are not those of the network; return the
    blocks of 8-bit weights."""
    blocks = eight_bit_blocks(read_object(directory / "config.json"), directory / "config.json")
    _check_names(expected, source, config, directory, blocks)
    named = dict(to_disk(config, expected))
    if config.tie_embeddings and HEAD in source:
        named[HEAD] = named[EMBEDDING]
    for theirs, like in named.items():
        file = source[theirs]
        file.check_dtype(theirs, blocks is not None)
        _check_shape(file, theirs, file.shape(theirs), list(like.shape))
        if blocks is not None and (scales := source.get(theirs + SCALES)) is not None:
            counts = [-(-size // block) for size, block in zip(like.shape, blocks, strict=True)]
            _check_shape(scales, theirs + SCALES, scales.shape(theirs + SCALES), counts)
    return blocks


def _expected(config: ModelConfig) -> tuple[LanguageModel, dict[str, Tensor]]:
    """The model without memory, and its state."""
    with torch.device("meta"):
        model = LanguageModel(config)
    return model, model.state_dict()


def _has_own_head(source: Mapping[str, TensorFile]) -> bool:
    """Whether the file has a head that differs from the embedding."""
    return HEAD in source and not _equal(source, HEAD, EMBEDDING)


def _equal(source: Mapping[str, TensorFile], name: str, other: str) -> bool:
    """Whether two tensors have the same numbers, in whatever type each is stored."""
    one, two = (source[each].tensor(each) for each in (name, other))
    return one.shape == two.shape and torch.equal(one, two if one.dtype == two.dtype else two.to(one.dtype))


def _check_copies(source: Mapping[str, TensorFile], config: ModelConfig) -> None:
    """Raise R1kitError where a prediction layer's copy of the embedding or of the head has other numbers: the
    network has one of each."""
    head = EMBEDDING if config.tie_embeddings else HEAD
    for depth in range(config.mtp_depth):
        layer = f"model.layers.{config.layers + depth}."
        for copy, name in (
            (f"{layer}embed_tokens.weight", EMBEDDING),
            (f"{layer}shared_head.head.weight", head),
        ):
            if copy in source and not _equal(source, copy, name):
                raise R1kitError(
                    f"{source[copy].path}: {copy} differs from {name}, which r1kit's network uses in its "
                    "place; set num_nextn_predict_layers to 0 in config.json to do without prediction layers"
                )


def keeps_float32(name: str) -> bool:
    """Whether a tensor is in float32 in a model of any dtype: the experts' bias is added to in steps that
    bfloat16 would round away, and a reward model's head is one row."""
    return name.endswith("e_score_correction_bias") or name == "value_head.weight"


def _check_names(
    expected: Mapping[str, Tensor], source: Mapping[str, TensorFile], config: ModelConfig, directory: Path,
    blocks: tuple[int, int] | None,
) -> None:  # fmt: skip
    needed = {theirs for theirs, _ in to_disk(config, expected)}
    if blocks is not None:
        needed |= {name + SCALES for name in needed if name in source and source[name].is_eight_bit(name)}
    missing = sorted(needed - source.keys())
    unexpected = sorted(name for name in source.keys() - needed if not _ignorable(name, source, config))
    if quantised := [name for name in unexpected if name.endswith(SCALES) and blocks is None]:
        raise R1kitError(
            f"{directory}: {quantised[0]} says that weights are 8-bit; convert the checkpoint to "
            "bfloat16 first"
        )
    if missing or unexpected:
        listed = [f"{what}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''} ({len(names)})"
                  for what, names in (("missing", missing), ("unexpected", unexpected)) if names]  # fmt: skip
        beyond = [int(found["number"]) for name in unexpected if (found := _LAYER.match(name))]
        further = tuple(f"model.layers.{config.layers + depth}." for depth in range(config.mtp_depth))
        fix = ""
        if further and not unexpected and all(name.startswith(further) for name in missing):
            fix = (
                ". transformers drops prediction layers when it saves: set num_nextn_predict_layers to 0 "
                "in config.json to do without"
            )
        if not missing and beyond and min(beyond) >= config.layers:
            fix = (
                f". config.json has num_hidden_layers {config.layers}, the weights have {max(beyond) + 1} "
                "layers: correct the one that is wrong"
            )
        raise R1kitError(f"{directory}: the weights do not fit config.json; {'; '.join(listed)}{fix}")


def _ignorable(name: str, source: Collection[str], config: ModelConfig) -> bool:
    """Copies of shared tensors, frequencies that are computed, and DeepSeek's prediction layers beyond
    ``mtp_depth``. Any other layer beyond those of config.json is not: the model would not be the file's."""
    if name.endswith("rotary_emb.inv_freq") or (config.tie_embeddings and name == "lm_head.weight"):
        return True
    layer = _LAYER.match(name)
    if layer is None or int(layer["number"]) < config.layers:
        return False
    if int(layer["number"]) >= config.layers + config.mtp_depth:
        return config.family == "deepseek_v3" and f"{layer[0]}eh_proj.weight" in source
    return name.endswith(("embed_tokens.weight", "shared_head.head.weight"))


def _read(
    name: str, source: Mapping[str, TensorFile], config: ModelConfig, blocks: tuple[int, int] | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """One of our tensors; 8-bit weights become ``dtype``."""
    rows, tensors = _fused_rows(name, config), []
    for theirs in disk_names(name, config):
        if blocks is not None and theirs + SCALES in source:
            scales = source[theirs + SCALES].tensor(theirs + SCALES)
            tensor = dequantised(source[theirs].tensor(theirs), scales, blocks).to(dtype)
            tensors.append(tensor if rows is None else tensor[rows].clone())
        else:
            tensors.append(source[theirs].tensor(theirs, rows))
    return torch.stack(tensors) if ".mlp.experts." in name else tensors[0]


def dequantised(weight_NK: Tensor, scales: Tensor, blocks: tuple[int, int]) -> Tensor:
    """The float32 numbers of an 8-bit matrix whose blocks are multiplied with one scale each."""
    rows, columns = (torch.arange(size) // block for size, block in zip(weight_NK.shape, blocks, strict=True))
    return weight_NK.float() * scales.float()[rows][:, columns]


def _check_shape(file: TensorFile, name: str, shape: list[int], expected: list[int]) -> None:
    if shape != expected:
        raise R1kitError(f"{file.path}: {name} has shape {shape}, but config.json asks for {expected}")


def _read_value_head(directory: Path, config: ModelConfig) -> Tensor:
    path = directory / VALUE_HEAD
    if not path.is_file():
        raise R1kitError(f"{path}: not found, though config.json has scalar_head")
    with ExitStack() as stack:
        weight = TensorFile.open(path, stack).tensor("value_head.weight")
    if weight.shape != (1, config.width):
        raise R1kitError(
            f"{path}: value_head.weight has shape {list(weight.shape)}, but config.json asks for "
            f"{[1, config.width]}"
        )
    return weight
