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
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from r1kit.config import ConfigError, R1kitError, is_panic, shorten
from r1kit.files import pointer_error, read_object
from r1kit.model.adapters import Weights
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.foreign import ForeignModel, check_foreign, foreign_config, load_foreign

WEIGHTS, INDEX, VALUE_HEAD = "model.safetensors", "model.safetensors.index.json", "value_head.safetensors"
ARCHITECTURES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
}
# Ours on the left, config.json's on the right.
COMMON_KEYS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn_width": "intermediate_size",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "max_positions": "max_position_embeddings",
    "init_std": "initializer_range",
}
DENSE_KEYS = {"kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
LATENT_KEYS = {
    "q_rank": "q_lora_rank",
    "kv_rank": "kv_lora_rank",
    "nope_dim": "qk_nope_head_dim",
    "rope_dim": "qk_rope_head_dim",
    "v_dim": "v_head_dim",
}
DEEPSEEK_KEYS = {
    "dense_layers": "first_k_dense_replace",
    "experts": "n_routed_experts",
    "active_experts": "num_experts_per_tok",
    "shared_experts": "n_shared_experts",
    "expert_width": "moe_intermediate_size",
    "groups": "n_group",
    "groups_kept": "topk_group",
    "route_scale": "routed_scaling_factor",
    "normalise_gates": "norm_topk_prob",
}
QWEN_EXPERT_KEYS = {
    "experts": "num_experts",
    "active_experts": "num_experts_per_tok",
    "expert_width": "moe_intermediate_size",
    "normalise_gates": "norm_topk_prob",
}
KEYS_OF = {
    "deepseek_v3": LATENT_KEYS | DEEPSEEK_KEYS | {"mtp_depth": "num_nextn_predict_layers"},
    "deepseek_v2": LATENT_KEYS | DEEPSEEK_KEYS,
    "qwen3_moe": DENSE_KEYS | QWEN_EXPERT_KEYS,
}
SCALING_KEYS = {
    "factor": "factor",
    "original_positions": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "attention_factor": "attention_factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
}
SCALING_KEYS_OF = {
    "yarn": {
        "factor",
        "original_positions",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "attention_factor",
    },
    "llama3": {"factor", "original_positions", "low_freq_factor", "high_freq_factor"},
}
# Keys of config.json with the only value that this network can compute.
FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "rope_interleave": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "partial_rotary_factor": 1.0,
    "decoder_sparse_step": 1,
}
# Other values in some families; None: any, because config.json says it otherwise or it is read elsewhere.
FIXED_OF: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"scoring_func": "softmax", "topk_method": None, "norm_topk_prob": False},
}
# What transformers takes for a key that config.json leaves out, where that is not this network's default.
DEFAULTS_OF: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        "q_lora_rank": 1536, "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4,
        "routed_scaling_factor": 2.5,
    },
    "deepseek_v2": {
        "q_lora_rank": 1536, "n_shared_experts": 2, "norm_topk_prob": False, "max_position_embeddings": 2048,
    },
    "qwen2": {"max_position_embeddings": 32_768},
    "qwen3": {"max_position_embeddings": 32_768},
    "qwen3_moe": {"max_position_embeddings": 32_768, "norm_topk_prob": False},
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131_072},
    "phi3": {"rms_norm_eps": 1e-5},
}  # fmt: skip
# A null is not the key's absence: transformers refuses it, or reads it as "no". These may be null.
MAY_BE_NULL = {"q_lora_rank", "num_key_value_heads", "head_dim"}
MAY_BE_NULL_OF = {"deepseek_v2": {"n_group", "topk_group"}}
NEVER_NULL = ("hidden_act", "rope_interleave", "decoder_sparse_step")  # besides the keys that are read
SLIDING = {"mistral": 4096, "phi3": None}  # families whose attention may slide; transformers' default
# phi3's matrices that hold several of ours, one below the other.
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}

# config.json may come from a stranger: the largest values for which it is worth making a network's outline.
# DeepSeek-V3 has 61 layers of 256 experts, a width of 7,168 and 129,280 tokens.
LARGEST = {"layers": 1000, "mtp_depth": 100, "experts": 20_000, "max_positions": 100_000_000}
MOST_EXPERTS = 200_000  # in all layers
LARGEST_DIMENSION = 10_000_000  # of every other whole number
LONGEST_HEADER = 20_000_000  # bytes of a safetensors file's list of tensors, some 200,000 of them
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors names them
EIGHT_BITS, SCALES = (
    "F8_E4M3",
    "_scale_inv",
)  # DeepSeek's 8-bit weights, and what the name of their scales adds

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_LAYER = re.compile(r"model\.layers\.(?P<number>\d+)\.")


class UnsupportedModelError(ConfigError):
    """A model that r1kit's own network does not compute."""


def _keys_of(family: str) -> dict[str, str]:
    return COMMON_KEYS | KEYS_OF.get(family, DENSE_KEYS)


def config_json(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json: DeepSeek's own layout (``rope_scaling`` next to ``rope_theta``) and the two
    fields that vLLM needs."""
    content: dict[str, Any] = {"architectures": [ARCHITECTURES[config.family]], "model_type": config.family}
    content |= {theirs: getattr(config, ours) for ours, theirs in _keys_of(config.family).items()}
    content |= {"hidden_act": "silu", "attention_bias": False, "rope_scaling": _scaling_json(config)}
    content |= {"torch_dtype": str(dtype).removeprefix("torch."), "use_cache": True}
    content |= _family_json(config)
    if config.scalar_head:
        content["scalar_head"] = True
    return content


def _family_json(config: ModelConfig) -> dict[str, Any]:
    """What only some families have."""
    stated = {"max_position_embeddings": config.stated_positions or config.max_positions}
    if config.family == "deepseek_v3":
        gate = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
        return {"num_key_value_heads": config.heads, **gate, "rope_interleave": True}
    if config.family == "deepseek_v2":
        method = "greedy" if config.groups == 1 else "group_limited_greedy"
        return {"num_key_value_heads": config.heads, "topk_method": method, "scoring_func": "softmax"}
    if config.family == "qwen3_moe":
        return {"mlp_only_layers": list(range(config.dense_layers)), "decoder_sparse_step": 1}
    if config.family == "qwen2":
        return {"use_sliding_window": False}
    if config.family == "phi3":  # its padding token is 32000 unless config.json says otherwise
        return {"sliding_window": config.sliding_window, "pad_token_id": None, **stated}
    return {"sliding_window": config.sliding_window, **stated} if config.family in SLIDING else {}


def _scaling_json(config: ModelConfig) -> dict[str, Any] | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    named = {
        SCALING_KEYS[key]: getattr(scaling, key)
        for key in SCALING_KEYS
        if key in SCALING_KEYS_OF[scaling.kind]
    }
    return {
        "rope_type": scaling.kind,
        "type": scaling.kind,
        **{key: value for key, value in named.items() if value is not None},
    }


def save_config(config: ModelConfig, directory: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json into an existing directory."""
    text = json.dumps(config_json(config, dtype), indent=2, sort_keys=True)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")


def read_config(directory: Path | str) -> ModelConfig:
    """The configuration of a Hugging Face directory. What this network does not compute has family
    "transformers"; raise ConfigError for what transformers does not compute either."""
    directory = Path(directory)
    path = directory / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path}: not found; a model directory holds config.json and safetensors")
    content = read_object(path)
    eight_bit_blocks(content, path)
    try:
        return _own_config(content, path)
    except UnsupportedModelError as error:
        if not isinstance(content.get("model_type"), str):
            raise
        return foreign_config(directory, content, str(error).removeprefix(f"{path}: "))


def eight_bit_blocks(content: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    """The blocks, rows and columns, that share a scale in 8-bit weights; None for weights that are not
    quantised. Raises ConfigError for another quantisation."""
    given = content.get("quantization_config")
    if not given:
        return None
    named = given if isinstance(given, dict) else {}
    blocks: Any = named.get("weight_block_size")
    is_pair = isinstance(blocks, list) and len(blocks) == 2 and all(type(b) is int and b > 0 for b in blocks)
    if named.get("quant_method") == "fp8" and is_pair:
        return blocks[0], blocks[1]
    raise ConfigError(
        f"{path}: quantised weights are read in DeepSeek's block-wise FP8 only (quant_method 'fp8' with "
        "weight_block_size); convert the checkpoint to bfloat16 first"
    )


def _own_config(content: Mapping[str, Any], path: Path) -> ModelConfig:
    """The configuration of a model that r1kit's network computes. Raises UnsupportedModelError for others."""
    family = content.get("model_type")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{path}: model_type {family!r} is not supported; known: {', '.join(ARCHITECTURES)}"
        )
    content = DEFAULTS_OF.get(family, {}) | dict(content)
    _check_nulls(content, family, path)
    for key, value in (FIXED | FIXED_OF.get(family, {})).items():
        if content.get(key) not in (value, None) and value is not None:
            raise UnsupportedModelError(f"{path}: {key} = {content[key]!r} is not supported, only {value!r}")
    theta, scaling = _read_rope(content, path)
    if scaling is not None and family == "phi3":
        raise UnsupportedModelError(f"{path}: rope scaling {scaling['kind']!r} is not supported in phi3")
    given = {ours: content[theirs] for ours, theirs in _keys_of(family).items() if theirs in content}
    if "kv_rank" not in _keys_of(family):
        given["kv_heads"] = content.get("num_key_value_heads") or content.get("num_attention_heads")
        given["head_dim"] = content.get("head_dim") or _head_dim(content, path)
    given |= _read_experts(content, path) | _read_window(content, path)
    _check_sizes({**given, "rope_theta": theta, **(scaling or {})}, path)
    rest = {"rope_scaling": scaling, "scalar_head": content.get("scalar_head", False)}
    try:
        return ModelConfig.parse({"family": family, **given, "rope_theta": theta, **rest}, str(path))
    except ConfigError as error:
        raise ConfigError(_in_their_words(str(error), family, path)) from None


def _check_nulls(content: Mapping[str, Any], family: str, path: Path) -> None:
    may_be = MAY_BE_NULL | MAY_BE_NULL_OF.get(family, set())
    for key in (*_keys_of(family).values(), *NEVER_NULL):
        if key in content and content[key] is None and key not in may_be:
            raise ConfigError(
                f"{path}: {key} is null; give its value, or leave the key out for transformers' default"
            )


def _in_their_words(message: str, family: str, path: Path) -> str:
    """A message of ``ModelConfig`` with the keys of config.json."""
    keys, lines = _keys_of(family), []
    for line in message.splitlines():
        key, separator, rest = line.removeprefix(f"{path}: ").partition(": ")
        if key in keys:
            line = f"{path}: {keys[key]}{separator}{rest}"
        before, needs, missing = line.partition(" needs ")
        if needs:
            line = before + needs + ", ".join(keys.get(name, name) for name in missing.split(", "))
        lines.append(line)
    return "\n".join(lines)


def _read_experts(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What two families with experts say in their own way."""
    if content["model_type"] == "deepseek_v2":
        method = content.get("topk_method", "greedy")
        if method not in ("greedy", "group_limited_greedy"):
            raise UnsupportedModelError(f"{path}: topk_method = {method!r} is not supported")
        limited = method == "group_limited_greedy"
        groups = (content.get("n_group") or 1, content.get("topk_group") or 1) if limited else (1, 1)
        return {"groups": groups[0], "groups_kept": groups[1]}
    if content["model_type"] == "qwen3_moe":
        dense = content.get("mlp_only_layers") or []
        if dense != list(range(len(dense))):
            raise UnsupportedModelError(
                f"{path}: mlp_only_layers = {shorten(dense)}: only the first layers may be"
            )
        saved = {} if "num_experts" in content else {"experts": content.get("num_local_experts")}
        return {"dense_layers": len(dense), **saved}
    return {}


def _read_window(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The sliding window, and how long a text may be so that nothing slides out of it."""
    family, positions = content["model_type"], content.get("max_position_embeddings")
    window = content.get("sliding_window", SLIDING[family]) if family in SLIDING else None
    if window is None or not isinstance(positions, int):
        return {}
    if not isinstance(window, int) or window < 1:
        raise ConfigError(f"{path}: sliding_window = {shorten(window)} is not a positive number")
    if window >= positions:
        return {"sliding_window": window}
    return {"sliding_window": window, "max_positions": window, "stated_positions": positions}


def _check_sizes(given: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError for a number of config.json that no network has: one that is negative, infinite or
    no number, or beyond what could be laid out."""
    theirs = COMMON_KEYS | DENSE_KEYS | LATENT_KEYS | QWEN_EXPERT_KEYS | DEEPSEEK_KEYS
    for ours, value in given.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        largest = LARGEST.get(ours, LARGEST_DIMENSION if isinstance(value, int) else math.inf)
        if not 0 <= value <= largest or value == math.inf:
            raise ConfigError(
                f"{path}: {theirs.get(ours, ours)} = {shorten(value)} is not between 0 and {largest:g}; "
                "copy the file again"
            )
    layers, experts = given.get("layers"), given.get("experts")
    if isinstance(layers, int) and isinstance(experts, int) and layers * experts > MOST_EXPERTS:
        raise ConfigError(
            f"{path}: {layers} layers of {experts} experts; at most {MOST_EXPERTS} experts are read; copy "
            "the file again"
        )


def _head_dim(content: Mapping[str, Any], path: Path) -> int:
    """The width of a head where config.json does not give it, as transformers takes it."""
    if content["model_type"] == "qwen3" and "head_dim" not in content:
        return 128
    width, heads = (content.get(key) for key in ("hidden_size", "num_attention_heads"))
    if not (isinstance(width, int) and isinstance(heads, int) and heads > 0):
        raise ConfigError(
            f"{path}: hidden_size {width!r} and num_attention_heads {heads!r} must be whole numbers; copy "
            "the file again"
        )
    return width // heads


def _read_rope(content: Mapping[str, Any], path: Path) -> tuple[float, dict[str, Any] | None]:
    """Theta and scaling, from ``rope_parameters`` (transformers 5) or ``rope_scaling`` and ``rope_theta``
    (before)."""
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ConfigError(f"{path}: rope_parameters or rope_scaling is {rope!r}; an object is expected")
    theta = rope.get("rope_theta", content.get("rope_theta", 10_000.0))
    if not isinstance(theta, int | float) or theta <= 0:
        raise ConfigError(f"{path}: rope_theta = {shorten(theta)} is not a positive number")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError(
            f"{path}: partial_rotary_factor = {rope['partial_rotary_factor']} is not supported, only 1.0"
        )
    if not isinstance(kind, str):
        raise ConfigError(f"{path}: rope scaling {kind!r}: a name is expected; copy the file again")
    if kind == "default":
        return theta, None
    if kind not in SCALING_KEYS_OF or rope.get("truncate", True) is not True:
        raise UnsupportedModelError(
            f"{path}: rope scaling {kind!r} {dict(rope)} is not supported; known: default, "
            f"{', '.join(SCALING_KEYS_OF)}"
        )
    ours = {
        key: rope[SCALING_KEYS[key]]
        for key in SCALING_KEYS_OF[kind]
        if rope.get(SCALING_KEYS[key]) is not None
    }
    return theta, {"kind": kind, "original_positions": content.get("max_position_embeddings"), **ours}


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
    head and the scalar head."""
    waiting: dict[str, list[Tensor]] = {}
    for name, tensor in weights.items():
        if name.startswith("value_head.") or (config.tie_embeddings and name == "lm_head.weight"):
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


def weight_files(directory: Path) -> list[Path]:
    """The files of a model's folder that hold its weights. Raises R1kitError where one is missing or is not
    whole."""
    with ExitStack() as stack:
        return sorted({file.path for file in _open(directory, stack).values()})


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
        source = _open(directory, stack)
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
        self._source = _open(directory, self._stack)
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
        source = _open(directory, stack)
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
        _open(directory, stack)  # names a broken file before another library reads it
    model = load_foreign(directory, config, device, dtype)
    if model.value_head is not None:
        weight = _read_value_head(directory, config)
        model.value_head.load_state_dict({"weight": weight})
    return model


def _check_tensors(
    expected: Mapping[str, Tensor], source: Mapping[str, "_File"], config: ModelConfig, directory: Path
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


def _has_own_head(source: Mapping[str, "_File"]) -> bool:
    """Whether the file has a head that differs from the embedding."""
    return HEAD in source and not _equal(source, HEAD, EMBEDDING)


def _equal(source: Mapping[str, "_File"], name: str, other: str) -> bool:
    """Whether two tensors have the same numbers, in whatever type each is stored."""
    one, two = (source[each].tensor(each) for each in (name, other))
    return one.shape == two.shape and torch.equal(one, two if one.dtype == two.dtype else two.to(one.dtype))


def _check_copies(source: Mapping[str, "_File"], config: ModelConfig) -> None:
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


@dataclass(frozen=True, slots=True)
class _File:
    """An open safetensors file. Its library's errors become R1kitErrors that name the file."""

    path: Path
    handle: Any

    @classmethod
    def open(cls, path: Path, stack: ExitStack) -> Self:
        if error := pointer_error(path):
            raise R1kitError(error)
        with _naming(path):
            _check_header(path)
            return cls(path, stack.enter_context(safe_open(path, framework="pt")))

    def names(self) -> list[str]:
        with _naming(self.path):
            return list(self.handle.keys())

    def tensor(self, name: str, rows: slice | None = None) -> Tensor:
        """The whole tensor, or some of its rows."""
        with _naming(self.path):
            tensor: Tensor = (
                self.handle.get_tensor(name) if rows is None else self.handle.get_slice(name)[rows]
            )
            return tensor

    def part(self, name: str, ranges: tuple[slice, ...]) -> Tensor:
        """A part of the tensor, a range of each dimension."""
        with _naming(self.path):
            tensor: Tensor = self.handle.get_slice(name)[ranges]
            return tensor

    def shape(self, name: str) -> list[int]:
        with _naming(self.path):
            return list(self.handle.get_slice(name).get_shape())

    def is_eight_bit(self, name: str) -> bool:
        with _naming(self.path):
            return str(self.handle.get_slice(name).get_dtype()) == EIGHT_BITS

    def check_dtype(self, name: str, eight_bits: bool) -> None:
        """Raise R1kitError where the tensor does not hold floating-point numbers that can be trained, or
        become such (``eight_bits``)."""
        with _naming(self.path):
            dtype = str(self.handle.get_slice(name).get_dtype())
        if dtype not in FLOATS and not (eight_bits and dtype == EIGHT_BITS):
            raise R1kitError(
                f"{self.path}: {name} is of type {dtype}, not one of {', '.join(FLOATS)}; convert the "
                "checkpoint to bfloat16 first"
            )


def _check_header(path: Path) -> None:
    """Raise ValueError where the list of tensors is longer than the file, or than any list is: the library
    would read all of it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > path.stat().st_size - 8:
        raise ValueError(f"its list of tensors is said to have {length} bytes, so the file is cut off")
    if length > LONGEST_HEADER:
        raise ValueError(f"its list of tensors has {length} bytes; {LONGEST_HEADER} are read")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not (isinstance(error, SafetensorError | OSError | ValueError) or is_panic(error)):
            raise
        size = path.stat().st_size if path.is_file() else 0
        raise R1kitError(
            f"{path}: {size} bytes that are not whole safetensors ({error}); download or copy the file again"
        ) from None


def _open(directory: Path, stack: ExitStack) -> dict[str, _File]:
    """Every tensor name of the directory, with the open file that holds it."""
    files = {directory / WEIGHTS}
    if (directory / INDEX).is_file():
        places = read_object(directory / INDEX).get("weight_map")
        if not isinstance(places, dict) or not places or not all(_is_name(file) for file in places.values()):
            raise R1kitError(
                f"{directory / INDEX}: weight_map must name a file of this folder for each tensor; copy the "
                "file again"
            )
        files = {directory / file for file in places.values()}
        if (directory / WEIGHTS).is_file() and directory / WEIGHTS not in files:
            raise R1kitError(
                f"{directory}: {WEIGHTS} and the files of {INDEX} are two sets of weights, and programs "
                "differ in which of them they read; move one away"
            )
    if missing := sorted(file for file in files if not file.is_file()):
        raise R1kitError(f"{directory}: no {', '.join(file.name for file in missing)}{_instead(missing)}")
    source: dict[str, _File] = {}
    for path in sorted(files):
        file = _File.open(path, stack)
        for name in file.names():
            if name in source:
                raise R1kitError(
                    f"{path}: {name} is in {source[name].path.name} too; download the files again"
                )
            source[name] = file
    return source


def _instead(missing: Sequence[Path]) -> str:
    """What is there in the place of missing weights, and what to do."""
    if links := [file for file in missing if file.is_symlink()]:
        return f"; it is a link to {links[0].readlink()}, which is not there: download the model again"
    names = sorted(path.name for path in missing[0].parent.glob("*"))
    if missing[0].name == WEIGHTS and (shards := [name for name in names if _SHARD.fullmatch(name)]):
        return f"; {shards[0]} is one of several, which {INDEX} lists, and that is missing: download it too"
    if pickles := [name for name in names if name.endswith((".bin", ".pt", ".pth"))]:
        return f"; {pickles[0]} is a pickle, which can run code when opened: convert it to safetensors"
    return "; weights are read from safetensors only: download the missing files"


def _is_name(file: object) -> bool:
    return isinstance(file, str) and Path(file).name == file and len(file) <= 255 and "\0" not in file


def _check_names(
    expected: Mapping[str, Tensor], source: Mapping[str, _File], config: ModelConfig, directory: Path,
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
    name: str, source: Mapping[str, _File], config: ModelConfig, blocks: tuple[int, int] | None,
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


def _check_shape(file: _File, name: str, shape: list[int], expected: list[int]) -> None:
    if shape != expected:
        raise R1kitError(f"{file.path}: {name} has shape {shape}, but config.json asks for {expected}")


def _read_value_head(directory: Path, config: ModelConfig) -> Tensor:
    path = directory / VALUE_HEAD
    if not path.is_file():
        raise R1kitError(f"{path}: not found, though config.json has scalar_head")
    with ExitStack() as stack:
        weight = _File.open(path, stack).tensor("value_head.weight")
    if weight.shape != (1, config.width):
        raise R1kitError(
            f"{path}: value_head.weight has shape {list(weight.shape)}, but config.json asks for "
            f"{[1, config.width]}"
        )
    return weight
