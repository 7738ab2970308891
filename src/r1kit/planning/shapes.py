"""A model's numbers as planning needs them, without its weights.

They come from a recipe's shape (``{preset: mini, ...}``), from a folder's config.json, from the header of a
GGUF file, or, for a hub id, from the config.json that the hub sends. Families that r1kit cannot run are
counted too, from the keys that config.json has in common."""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from r1kit.config import ConfigError
from r1kit.model.config import PRESETS, ModelConfig
from r1kit.model.config_json import read_config
from r1kit.model.decoder import parameter_count
from r1kit.model.sources import hub_answers

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HUB_SECONDS = 5.0
_MOST_NUMBERS = 1 << 22  # of a GGUF header; a vocabulary of 256,000 texts has three times as many


@dataclass(frozen=True, slots=True)
class Shape:
    """A network's numbers. ``parameters`` counts everything that is trained, multi-token prediction too;
    ``active`` those whose products every token goes through, the head included and the input embedding not.

    ``key`` and ``value`` are a head's widths while learning. While decoding, a position keeps ``cached``
    numbers per layer, and each query head reads ``cache_key + cache_value`` of them. ``hidden`` is the width
    of all feed-forward activations of one token and layer. ``config``: None for a family that r1kit does not
    compute."""

    parameters: float
    active: float
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    key: int
    value: int
    cached: int
    cache_key: int
    cache_value: int
    hidden: int
    experts: int = 0
    active_experts: int = 0
    expert_parameters: float = 0.0  # of all routed experts in all layers
    config: ModelConfig | None = None


def shape_of(config: ModelConfig) -> Shape:
    """The numbers of a network that r1kit computes."""
    count, latent = parameter_count(config), config.latent
    key = (config.nope_dim or 0) + (config.rope_dim or 0) if latent else config.head_dim or 0
    value = config.v_dim or 0 if latent else config.head_dim or 0
    kv_rank, rope = config.kv_rank or 0, config.rope_dim or 0
    kv_heads = config.heads if latent else config.kv_heads or config.heads
    expert_width, shared = config.expert_width or 0, config.shared_experts
    sparse = (config.active_experts or 0) * expert_width + shared * expert_width
    hidden = (config.dense_layers * config.ffn_width + config.moe_layers * sparse) if config.sparse else 0
    unembedded = 0 if config.tie_embeddings else config.vocab_size * config.width
    return Shape(
        parameters=float(count.total + count.mtp), active=float(count.active - unembedded),
        vocabulary=config.vocab_size, width=config.width, layers=config.layers, heads=config.heads,
        kv_heads=kv_heads, key=key, value=value,
        cached=kv_rank + rope if latent else kv_heads * (key + value),
        cache_key=kv_rank + rope if latent else key, cache_value=kv_rank if latent else value,
        hidden=round(hidden / config.layers) if config.sparse else config.ffn_width,
        experts=config.experts or 0, active_experts=config.active_experts or 0,
        expert_parameters=3.0 * config.moe_layers * (config.experts or 0) * config.width * expert_width,
        config=config,
    )  # fmt: skip


def shape_of_keys(model: Mapping[str, Any], vocabulary: int | None) -> Shape:
    """The numbers of a recipe's ``model``: a preset with some keys replaced."""
    keys = {key: value for key, value in model.items() if key != "preset"}
    known = {"vocab_size": vocabulary} if vocabulary else {}
    return shape_of(ModelConfig.preset(str(model.get("preset", "mini")), **{**known, **keys}))


def shape_of_name(name: str) -> tuple[Shape | None, str]:
    """The numbers of the model that a text names, and a remark: how they were found, or why they were
    not."""
    path = Path(name).expanduser()
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    try:
        if path.suffix == ".gguf" and path.is_file():
            return _of_gguf(path), ""
        if (folder / "config.json").is_file():
            return _of_folder(folder), ""
        guessed = PRESETS.get(_preset_of(path.name))
        if guessed is not None:
            return shape_of(ModelConfig.parse(guessed, name)), f"{name} is not here: the shape of that name"
        if _HUB.fullmatch(name) and not path.exists():
            return _of_hub(name), f"{name}: config.json by the hub"
    except ConfigError as error:
        return None, str(error)
    return None, f"{name}: no config.json and no .gguf file there, so its size is unknown"


def _preset_of(name: str) -> str:
    """The preset with the shape of a released model: of Qwen2.5, Llama 3 or a student of DeepSeek-R1."""
    plain = name.partition("@")[0].lower().removesuffix("-instruct").replace("-math-", "-")
    for released, preset in (
        (r"deepseek-r1-distill-qwen-", "qwen2.5-"), (r"deepseek-r1-distill-llama-", "llama-"),
        (r"(meta-)?llama-3\.\d-", "llama-"),
    ):  # fmt: skip
        plain = re.sub(rf"^{released}", preset, plain)
    return plain


def _of_folder(folder: Path) -> Shape:
    try:
        config = read_config(folder)
    except ConfigError:
        config = None
    if config is None or config.family == "transformers":
        return _of_content(_read_json(folder / "config.json"), str(folder / "config.json"))
    return shape_of(config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); copy the file again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a JSON object; copy the file again")
    return content


def _of_hub(name: str) -> Shape:
    """The numbers of a hub's model; only config.json is loaded. Raises ConfigError where it cannot be."""
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import hf_hub_download

        if not hub_answers():
            raise ConnectionError
        file = hf_hub_download(
            repository, "config.json", revision=revision or None, etag_timeout=_HUB_SECONDS
        )
    except Exception as error:  # a boundary: the hub's client has many kinds of errors
        raise ConfigError(
            f"{name}: no such folder, and the hub does not answer ({type(error).__name__}): download the "
            "model and name its folder, or plan where the hub can be reached"
        ) from None
    return _of_folder(Path(file).parent)


def _of_content(content: Mapping[str, Any], where: str) -> Shape:
    """The numbers of a config.json of any dense or sparse family, by its common keys."""
    text = content.get("text_config")
    keys = {**content, **text} if isinstance(text, Mapping) else dict(content)

    def number(*names: str, default: int | None = None) -> int:
        value = next((keys[name] for name in names if isinstance(keys.get(name), int)), default)
        if value is None or not 0 <= value < 1 << 31:
            raise ConfigError(f"{where}: {names[0]} is missing or no size, so the model cannot be counted")
        return int(value)

    width, layers = number("hidden_size"), number("num_hidden_layers")
    heads = number("num_attention_heads")
    kv_heads = number("num_key_value_heads", default=heads)
    key = number("head_dim", default=width // max(1, heads))
    experts = number("num_local_experts", "num_experts", "n_routed_experts", default=0)
    active = number("num_experts_per_tok", default=0)
    inner = number("moe_intermediate_size", "intermediate_size") if experts else number("intermediate_size")
    return _counted(
        (number("vocab_size"), width, layers, heads, kv_heads, key, inner, experts, active),
        tied=bool(keys.get("tie_word_embeddings", False)),
    )


def _counted(numbers: tuple[int, ...], tied: bool, parameters: float | None = None) -> Shape:
    """The numbers of a network with grouped attention and gated feed-forward parts."""
    vocabulary, width, layers, heads, kv_heads, key, inner, experts, active = numbers
    attention = width * key * (2 * heads + 2 * kv_heads)
    expert = 3 * width * inner
    routed = float(layers * experts * expert)
    seen = layers * (attention + max(1, active) * expert + width * (experts + 2)) + vocabulary * width
    total = seen + routed - layers * active * expert + (0 if tied else vocabulary * width)
    return Shape(
        parameters=parameters or total, active=float(seen), vocabulary=vocabulary, width=width, layers=layers,
        heads=heads, kv_heads=kv_heads, key=key, value=key, cached=2 * kv_heads * key, cache_key=key,
        cache_value=key, hidden=inner * max(1, active), experts=experts, active_experts=active,
        expert_parameters=routed,
    )  # fmt: skip


def _of_gguf(path: Path) -> Shape:
    """The numbers in the header of a GGUF file (version 2 or 3); the parameters are those of its tensors."""
    try:
        with path.open("rb") as file:
            fields, tensors = _GGUFHeader(file).read()
    except (struct.error, ValueError, OSError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{path}: not a GGUF header that can be read ({error}); copy it again") from None
    family = str(fields.get("general.architecture", ""))

    def number(name: str, default: int | None = None) -> int:
        value = fields.get(f"{family}.{name}", default)
        if not isinstance(value, int) or not 0 < value < 1 << 31:
            raise ConfigError(f"{path}: the header has no {family}.{name}, so the model cannot be counted")
        return value

    width, heads = number("embedding_length"), number("attention.head_count")
    vocabulary = number("vocab_size", int(fields.get("tokenizer.ggml.tokens", 0)))
    experts = int(fields.get(f"{family}.expert_count", 0))
    shape = (
        vocabulary, width, number("block_count"), heads, number("attention.head_count_kv", heads),
        number("attention.key_length", width // heads), number("feed_forward_length"), experts,
        int(fields.get(f"{family}.expert_used_count", 0)),
    )  # fmt: skip
    return _counted(shape, "output.weight" not in tensors, float(sum(tensors.values())))


class _GGUFHeader:
    """Reads a GGUF file's fields (of a list only its length) and its tensors' sizes; layout:
    github.com/ggml-org/ggml, docs/gguf.md."""

    _PLAIN = {
        0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"
    }  # fmt: skip

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._numbers = file, 0

    def read(self) -> tuple[dict[str, Any], dict[str, int]]:
        if self._file.read(4) != b"GGUF" or self._number("<I") not in (2, 3):
            raise ValueError("no GGUF of version 2 or 3")
        tensors, fields = self._number("<Q"), self._number("<Q")
        found = {self._text(): self._value(self._number("<I")) for _ in range(fields)}
        sizes = {}
        for _ in range(tensors):
            name, size = self._text(), 1
            for _ in range(self._number("<I")):
                size *= self._number("<Q")
            sizes[name] = size
            self._file.read(12)  # its type and its place
        return found, sizes

    def _number(self, form: str) -> Any:
        self._numbers += 1
        if self._numbers > _MOST_NUMBERS:
            raise ValueError("its header does not end")
        return struct.unpack(form, self._file.read(struct.calcsize(form)))[0]

    def _text(self) -> str:
        length = self._number("<Q")
        if length > 1 << 24:
            raise ValueError(f"a text of {length} bytes")
        return self._file.read(length).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == 8:
            return self._text()
        if kind == 9:
            inner, count = self._number("<I"), self._number("<Q")
            for _ in range(count):
                self._value(inner)
            return count
        if kind not in self._PLAIN:
            raise ValueError(f"a value of the unknown type {kind}")
        return self._number(self._PLAIN[kind])
