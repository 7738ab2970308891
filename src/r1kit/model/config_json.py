"""A model's config.json, read into a ``ModelConfig`` and written from one, under the names of each family.

It may come from a stranger: what it says is checked before a network is outlined."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from r1kit.config import ConfigError, shorten
from r1kit.files import read_object
from r1kit.model.config import ModelConfig
from r1kit.model.foreign import foreign_config

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
# config.json may come from a stranger: the largest values for which it is worth making a network's outline.
# DeepSeek-V3 has 61 layers of 256 experts, a width of 7,168 and 129,280 tokens.
LARGEST = {"layers": 1000, "mtp_depth": 100, "experts": 20_000, "max_positions": 100_000_000}
MOST_EXPERTS = 200_000  # in all layers
LARGEST_DIMENSION = 10_000_000  # of every other whole number


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
