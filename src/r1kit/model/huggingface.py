"""Checkpoints as Hugging Face directories: config.json and safetensors that transformers and vLLM open
unconverted.

Our tensors carry the checkpoints' names, with two differences: the experts of a layer are stacked here and
separate on disk (``model.layers.1.mlp.experts.0.gate_proj.weight``), and multi-token prediction is stored as
further layers (``model.layers.61.eh_proj.weight``), which other loaders ignore. A scalar head has a file of
its own, ``value_head.safetensors``. Pickles are never opened."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from r1kit.config import ConfigError, R1kitError
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel

WEIGHTS, INDEX, VALUE_HEAD = "model.safetensors", "model.safetensors.index.json", "value_head.safetensors"
ARCHITECTURES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
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
    "dense_layers": "first_k_dense_replace",
    "experts": "n_routed_experts",
    "active_experts": "num_experts_per_tok",
    "shared_experts": "n_shared_experts",
    "expert_width": "moe_intermediate_size",
    "groups": "n_group",
    "groups_kept": "topk_group",
    "route_scale": "routed_scaling_factor",
    "normalise_gates": "norm_topk_prob",
    "mtp_depth": "num_nextn_predict_layers",
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
}


def _keys_of(family: str) -> dict[str, str]:
    return COMMON_KEYS | (LATENT_KEYS if family == "deepseek_v3" else DENSE_KEYS)


def config_json(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json: DeepSeek's own layout (``rope_scaling`` next to ``rope_theta``) and the two
    fields that vLLM needs."""
    content: dict[str, Any] = {"architectures": [ARCHITECTURES[config.family]], "model_type": config.family}
    content |= {theirs: getattr(config, ours) for ours, theirs in _keys_of(config.family).items()}
    content |= {"hidden_act": "silu", "attention_bias": False, "rope_scaling": _scaling_json(config)}
    content |= {"torch_dtype": str(dtype).removeprefix("torch."), "use_cache": True}
    if config.family == "deepseek_v3":
        content |= {
            "num_key_value_heads": config.heads,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "rope_interleave": True,
        }
    if config.family == "qwen2":
        content["use_sliding_window"] = False
    if config.scalar_head:
        content["scalar_head"] = True
    return content


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
    """The configuration of a Hugging Face directory; raise ConfigError for what this network does not
    compute."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path}: not found; a model directory holds config.json and safetensors")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None
    family = content.get("model_type")
    if family not in ARCHITECTURES:
        raise ConfigError(
            f"{path}: model_type {family!r} is not supported; known: {', '.join(ARCHITECTURES)}"
        )
    if content.get("quantization_config"):
        raise ConfigError(
            f"{path}: quantised weights are not supported; convert the checkpoint to bfloat16 first"
        )
    for key, value in FIXED.items():
        if content.get(key) not in (value, None):
            raise ConfigError(f"{path}: {key} = {content[key]!r} is not supported, only {value!r}")
    theta, scaling = _read_rope(content, path)
    given = {ours: content[theirs] for ours, theirs in _keys_of(family).items() if theirs in content}
    if family != "deepseek_v3":
        given["kv_heads"] = content.get("num_key_value_heads") or content.get("num_attention_heads")
        given["head_dim"] = (
            content.get("head_dim") or content["hidden_size"] // content["num_attention_heads"]
        )
    rest = {"rope_scaling": scaling, "scalar_head": content.get("scalar_head", False)}
    return ModelConfig.parse({"family": family, **given, "rope_theta": theta, **rest}, str(path))


def _read_rope(content: Mapping[str, Any], path: Path) -> tuple[float, dict[str, Any] | None]:
    """Theta and scaling, from ``rope_parameters`` (transformers 5) or ``rope_scaling`` and ``rope_theta``
    (before)."""
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or content.get("rope_theta") or 10_000.0
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(
            f"{path}: partial_rotary_factor = {rope['partial_rotary_factor']} is not supported, only 1.0"
        )
    if kind == "default":
        return theta, None
    if kind not in SCALING_KEYS_OF or rope.get("truncate", True) is not True:
        raise ConfigError(
            f"{path}: rope scaling {kind!r} {dict(rope)} is not supported; known: default, "
            f"{', '.join(SCALING_KEYS_OF)}"
        )
    ours = {
        key: rope[SCALING_KEYS[key]]
        for key in SCALING_KEYS_OF[kind]
        if rope.get(SCALING_KEYS[key]) is not None
    }
    return theta, {"kind": kind, "original_positions": content["max_position_embeddings"], **ours}


def disk_names(name: str, config: ModelConfig) -> list[str]:
    """The checkpoint's names of one of our tensors: one, or one per expert for a stacked tensor."""
    if name.startswith("mtp_layers."):
        _, depth, rest = name.split(".", 2)
        name = f"layers.{config.layers + int(depth)}.{rest}"
    if name.startswith("lm_head."):
        return [name]
    before, experts, projection = name.partition(".mlp.experts.")
    if not experts:
        return [f"model.{name}"]
    return [
        f"model.{before}.mlp.experts.{expert}.{projection}.weight" for expert in range(config.experts or 0)
    ]


def to_disk(config: ModelConfig, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our state dict under the checkpoint's names, experts unstacked, without a tied head and the scalar
    head."""
    for name, tensor in weights.items():
        if name.startswith("value_head.") or (config.tie_embeddings and name == "lm_head.weight"):
            continue
        names = disk_names(name, config)
        yield from zip(names, tensor if len(names) > 1 else [tensor], strict=True)


def save_pretrained(model: LanguageModel, directory: Path | str, shard_bytes: int = 5_000_000_000) -> None:
    """Write config.json and the weights, each in its own dtype, as one safetensors file or as shards with an
    index."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for stale in [*directory.glob("model*.safetensors"), directory / INDEX, directory / VALUE_HEAD]:
        stale.unlink(missing_ok=True)
    save_config(model.config, directory, model.embed_tokens.weight.dtype)
    shards = _shards(to_disk(model.config, model.state_dict()), shard_bytes)
    if len(shards) == 1:
        _write(shards[0], directory / WEIGHTS)
    else:
        _write_shards(shards, directory)
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
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def load_pretrained(
    directory: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> LanguageModel:
    """Load a model of one of the four families, in the file's dtype unless another is given.

    A scalar head is loaded where the directory has one. Raises R1kitError naming missing, unexpected or
    mis-shaped tensors."""
    directory = Path(directory)
    config = read_config(directory)
    with torch.device("meta"):
        model = LanguageModel(config)
    expected = model.state_dict()
    with ExitStack() as stack:
        source = _open(directory, stack)
        _check_names(expected, source, config, directory)
        loaded = {}
        for name, like in expected.items():
            if not (name.startswith("value_head.") or (config.tie_embeddings and name == "lm_head.weight")):
                loaded[name] = _read(name, like, source, config).to(
                    device=device, dtype=_kept_float32(name) or dtype
                )
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


def _kept_float32(name: str) -> torch.dtype | None:
    return torch.float32 if name.endswith("e_score_correction_bias") else None


def _open(directory: Path, stack: ExitStack) -> dict[str, Any]:
    """Every tensor name of the directory, with the open file that holds it."""
    files = {directory / WEIGHTS}
    if (directory / INDEX).is_file():
        files = {
            directory / file
            for file in json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        }
    if missing := sorted(file.name for file in files if not file.is_file()):
        pickles = sorted(path.name for path in directory.glob("*") if path.suffix in (".bin", ".pt", ".pth"))
        reason = (
            f"; {pickles[0]} is a pickle, which can run code when opened: convert it to safetensors"
            if pickles
            else ""
        )
        raise R1kitError(f"{directory}: no {', '.join(missing)}{reason}")
    source: dict[str, Any] = {}
    for file in sorted(files):
        handle = stack.enter_context(safe_open(file, framework="pt"))
        source |= dict.fromkeys(handle.keys(), handle)
    return source


def _check_names(
    expected: Mapping[str, Tensor], source: Mapping[str, Any], config: ModelConfig, directory: Path
) -> None:
    needed = {theirs for theirs, _ in to_disk(config, expected)}
    missing = sorted(needed - source.keys())
    unexpected = sorted(name for name in source.keys() - needed if not _ignorable(name, config))
    if quantised := [name for name in unexpected if name.endswith("weight_scale_inv")]:
        raise R1kitError(
            f"{directory}: {quantised[0]} says that weights are 8-bit; convert the checkpoint to "
            "bfloat16 first"
        )
    if missing or unexpected:
        listed = [f"{what}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''} ({len(names)})"
                  for what, names in (("missing", missing), ("unexpected", unexpected)) if names]  # fmt: skip
        further = tuple(f"model.layers.{config.layers + depth}." for depth in range(config.mtp_depth))
        fix = ""
        if further and not unexpected and all(name.startswith(further) for name in missing):
            fix = (
                ". transformers drops prediction layers when it saves: set num_nextn_predict_layers to 0 "
                "in config.json to do without"
            )
        raise R1kitError(f"{directory}: the weights do not fit config.json; {'; '.join(listed)}{fix}")


def _ignorable(name: str, config: ModelConfig) -> bool:
    """Copies of shared tensors, frequencies that are computed, and prediction layers beyond ``mtp_depth``."""
    if name.endswith("rotary_emb.inv_freq") or (config.tie_embeddings and name == "lm_head.weight"):
        return True
    parts = name.split(".")
    if parts[:2] != ["model", "layers"] or int(parts[2]) < config.layers:
        return False
    return int(parts[2]) >= config.layers + config.mtp_depth or name.endswith(
        ("embed_tokens.weight", "shared_head.head.weight")
    )


def _read(name: str, like: Tensor, source: Mapping[str, Any], config: ModelConfig) -> Tensor:
    names = disk_names(name, config)
    tensors = [source[theirs].get_tensor(theirs) for theirs in names]
    shape = like.shape[1:] if len(names) > 1 else like.shape
    for theirs, tensor in zip(names, tensors, strict=True):
        if tensor.shape != shape:
            raise R1kitError(
                f"{theirs} has shape {list(tensor.shape)}, but config.json asks for {list(shape)}"
            )
    return torch.stack(tensors) if len(names) > 1 else tensors[0]


def _read_value_head(directory: Path, config: ModelConfig) -> Tensor:
    path = directory / VALUE_HEAD
    if not path.is_file():
        raise R1kitError(f"{path}: not found, though config.json has scalar_head")
    weight = load_file(path)["value_head.weight"]
    if weight.shape != (1, config.width):
        raise R1kitError(
            f"{path}: value_head.weight has shape {list(weight.shape)}, but config.json asks for "
            f"{[1, config.width]}"
        )
    return weight
