"""Checkpoints against transformers' own classes: same logits both ways, same greedy text, and clear
refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from r1kit.config import ConfigError, R1kitError
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import check_pretrained, load_pretrained, read_config, save_pretrained

YARN = {"kind": "yarn", "factor": 8.0, "original_positions": 32}
LLAMA3 = {
    "kind": "llama3",
    "factor": 8.0,
    "original_positions": 64,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
DENSE: dict[str, Any] = {
    "vocab_size": 61,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "ffn_width": 48,
}
GROUPED = {
    "experts": 8,
    "active_experts": 3,
    "groups": 4,
    "groups_kept": 2,
    "route_scale": 2.5,
    "shared_experts": 2,
}
EXPERTS = {"experts": 8, "active_experts": 3, "expert_width": 24}
V2 = {"family": "deepseek_v2", "normalise_gates": False, "mtp_depth": 0, "tie_embeddings": False}
SHAPES: dict[str, dict[str, Any]] = {
    "deepseek_v3 tied": {"preset": "nano"},
    "deepseek_v3 untied, query rank, groups": {
        "preset": "nano",
        "tie_embeddings": False,
        "q_rank": 24,
        **GROUPED,
    },
    "deepseek_v3 raw gates, no prediction": {
        "preset": "nano",
        "normalise_gates": False,
        "mtp_depth": 0,
        "dense_layers": 0,
    },
    "deepseek_v3 yarn": {
        "preset": "nano",
        "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        "max_positions": 256,
    },
    "deepseek_v3 yarn, other magnitude": {
        "preset": "nano",
        "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2},
    },
    "qwen2": {"family": "qwen2", **DENSE, "tie_embeddings": True},
    "qwen2 yarn": {"family": "qwen2", **DENSE, "rope_scaling": YARN, "rope_theta": 1e6},
    "qwen3": {"family": "qwen3", **DENSE, "head_dim": 16, "tie_embeddings": True},
    "qwen3 yarn": {"family": "qwen3", **DENSE, "rope_scaling": {**YARN, "attention_factor": 1.3}},
    "llama": {"family": "llama", **DENSE, "norm_eps": 1e-5},
    "mistral": {"family": "mistral", **DENSE, "norm_eps": 1e-5},
    "mistral, a window": {
        "family": "mistral",
        **DENSE,
        "sliding_window": 100,
        "max_positions": 100,
        "stated_positions": 4096,
    },
    "phi3": {"family": "phi3", **DENSE, "norm_eps": 1e-5},
    "qwen3_moe": {"family": "qwen3_moe", **DENSE, **EXPERTS, "normalise_gates": False},
    "qwen3_moe, a dense layer, normalised": {"family": "qwen3_moe", **DENSE, **EXPERTS, "dense_layers": 1},
    "deepseek_v2": {"preset": "nano", **V2},
    "deepseek_v2, query rank, groups, yarn": {
        "preset": "nano",
        **V2,
        **GROUPED,
        "q_rank": 24,
        "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7},
        "max_positions": 256,
    },
    "llama3 scaling": {"family": "llama", **DENSE, "rope_scaling": LLAMA3, "rope_theta": 500_000.0},
}


def config_of(shape: dict[str, Any], **overrides: Any) -> ModelConfig:
    shape = {**shape, "init_std": 0.15, **overrides}
    return (
        ModelConfig.preset(shape.pop("preset"), **shape)
        if "preset" in shape
        else ModelConfig.parse(shape, "test")
    )


def lively(config: ModelConfig, seed: int = 1) -> LanguageModel:
    """A model whose norms, biases and routing biases are random too, so that none can be forgotten."""
    model = LanguageModel(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dim() == 1:
                tensor.add_(
                    torch.randn(tensor.shape, generator=generator),
                    alpha=0.05 if name.endswith("correction_bias") else 0.2,
                )
    return model


def tokens(config: ModelConfig, rows: int = 2, length: int = 100) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(3))


def our_logits(model: LanguageModel, tokens_BT: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(tokens_BT).hidden_BTD)


def their_model(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def their_logits(model: Any, tokens_BT: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens_BT).logits


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_gives_the_same_logits_from_our_directory_and_we_from_theirs(
    name: str, tmp_path: Path
) -> None:
    config = config_of(SHAPES[name])
    ours, x = lively(config), tokens(config)
    save_pretrained(ours, tmp_path / "ours")
    theirs = their_model(tmp_path / "ours")
    expected = their_logits(theirs, x)
    assert (our_logits(ours, x) - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())
    assert our_logits(ours, x).std() > 0.1  # the comparison is of something

    theirs.save_pretrained(tmp_path / "theirs")
    back = (
        load_pretrained(tmp_path / "theirs")
        if config.mtp_depth == 0
        else load_without_prediction(tmp_path / "theirs")
    )
    assert (our_logits(back, x) - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())


def load_without_prediction(directory: Path) -> LanguageModel:
    """transformers drops prediction layers when it saves but keeps their number in config.json."""
    with pytest.raises(R1kitError, match=r"missing: model\.layers\.2.*set num_nextn_predict_layers to 0"):
        load_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_nextn_predict_layers": 0}))
    return load_pretrained(directory)


@pytest.mark.parametrize(
    "name",
    ["deepseek_v3 untied, query rank, groups", "qwen2", "qwen3", "llama3 scaling", "phi3", "qwen3_moe", "deepseek_v2"],
)
def test_greedy_text_with_our_cache_equals_transformers_generate(name: str, tmp_path: Path) -> None:
    config = config_of(SHAPES[name])
    ours, prompt = lively(config), tokens(config, length=7)
    save_pretrained(ours, tmp_path)
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = their_model(tmp_path).generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    cache = ours.new_cache(2, 27)
    with torch.no_grad():
        text = step = prompt
        for _ in range(20):
            step = ours.logits(ours(step, cache=cache).hidden_BTD[:, -1:]).argmax(-1)
            text = torch.cat((text, step), dim=1)
    assert text.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["deepseek_v3 yarn", "qwen2 yarn", "llama3 scaling", *list(SHAPES)[-9:-1]])
def test_a_config_survives_writing_and_reading(name: str, tmp_path: Path) -> None:
    config = config_of(SHAPES[name])
    save_pretrained(LanguageModel(config), tmp_path)
    assert read_config(tmp_path) == config


def test_disk_holds_the_names_of_deepseeks_release(tmp_path: Path) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["deepseek_v3 untied, query rank, groups"])), tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {
        "model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.self_attn.q_a_layernorm.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.1.mlp.experts.7.down_proj.weight", "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.1.mlp.shared_experts.up_proj.weight", "model.layers.2.eh_proj.weight",
        "model.layers.2.enorm.weight", "model.layers.2.hnorm.weight",
        "model.layers.2.shared_head.norm.weight", "model.layers.2.mlp.experts.0.gate_proj.weight",
        "lm_head.weight",
    } <= names  # fmt: skip
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["architectures"] == ["DeepseekV3ForCausalLM"]
    assert (content["topk_method"], content["scoring_func"]) == ("noaux_tc", "sigmoid")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_survives_saving_in_shards(dtype: torch.dtype, tmp_path: Path) -> None:
    model = lively(config_of(SHAPES["deepseek_v3 tied"], scalar_head=True)).to(dtype)
    save_pretrained(model, tmp_path, shard_bytes=20_000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    back = load_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert back.state_dict()[name].dtype == tensor.dtype and torch.equal(
            back.state_dict()[name], tensor
        ), name
    assert back.lm_head.weight is back.embed_tokens.weight
    save_pretrained(model, tmp_path)
    assert not list(tmp_path.glob("model-*")), "stale shards would shadow the new file"
    assert load_pretrained(tmp_path, dtype=torch.float32).embed_tokens.weight.dtype == torch.float32


def test_the_routing_bias_stays_float32_in_a_bfloat16_model(tmp_path: Path) -> None:
    model = lively(config_of(SHAPES["deepseek_v3 tied"]))
    exact = model.state_dict()["layers.1.mlp.gate.e_score_correction_bias"].clone()
    save_pretrained(model.to(torch.bfloat16), tmp_path)
    assert torch.equal(
        load_pretrained(tmp_path).state_dict()["layers.1.mlp.gate.e_score_correction_bias"], exact
    )


def test_transformers_own_shards_load(tmp_path: Path) -> None:
    config = config_of(SHAPES["qwen3"])
    ours = lively(config)
    save_pretrained(ours, tmp_path / "ours")
    their_model(tmp_path / "ours").save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    assert torch.equal(
        our_logits(load_pretrained(tmp_path / "theirs"), tokens(config)), our_logits(ours, tokens(config))
    )


def saved_with(tmp_path: Path, change: Any) -> Path:
    save_pretrained(LanguageModel(config_of(SHAPES["qwen3"])), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(R1kitError, match=r"missing: model\.norm\.weight \(1\)"):
        load_pretrained(saved_with(tmp_path / "a", lambda weights: weights.pop("model.norm.weight")))
    with pytest.raises(R1kitError, match=r"unexpected: model\.extra \(1\)"):
        load_pretrained(
            saved_with(tmp_path / "b", lambda weights: weights.update({"model.extra": torch.zeros(1)}))
        )
    with pytest.raises(
        R1kitError, match=r"model\.norm\.weight has shape \[31\], but config\.json asks for \[32\]"
    ):
        load_pretrained(
            saved_with(tmp_path / "c", lambda weights: weights.update({"model.norm.weight": torch.zeros(31)}))
        )


def test_pickles_are_refused_with_the_reason(tmp_path: Path) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["qwen3"])), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(R1kitError, match=r"pytorch_model\.bin is a pickle, which can run code"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope scaling 'longrope'"),
        ({"use_sliding_window": True}, "use_sliding_window = True is not supported"),
        ({"quantization_config": {"quant_method": "fp8"}}, "convert the checkpoint to bfloat16"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported, only 'silu'"),
    ],
)
def test_what_the_network_does_not_compute_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["qwen3"])), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama", "deepseek_v3 tied"])
def test_a_head_in_the_file_counts_though_the_configuration_ties_it(name: str, tmp_path: Path) -> None:
    """transformers takes the file's head. A copy of the embedding stays tied."""
    config = config_of(SHAPES[name], tie_embeddings=True, **({"mtp_depth": 0} if "v3" in name else {}))
    save_pretrained(lively(config), tmp_path)
    path, x = tmp_path / "model.safetensors", tokens(config)
    weights = load_file(path)
    embedding = weights["model.embed_tokens.weight"]
    save_file({**weights, "lm_head.weight": embedding.clone()}, path, metadata={"format": "pt"})
    same = load_pretrained(tmp_path)
    assert same.config.tie_embeddings and same.lm_head.weight is same.embed_tokens.weight

    head = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(5))
    save_file({**weights, "lm_head.weight": head}, path, metadata={"format": "pt"})
    other = load_pretrained(tmp_path)
    assert torch.equal(other.lm_head.weight, head) and not other.config.tie_embeddings
    expected = their_logits(their_model(tmp_path), x)
    assert (our_logits(other, x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (our_logits(other, x) - our_logits(same, x)).abs().max() > 1.0
    save_pretrained(other, tmp_path / "again")
    assert torch.equal(load_pretrained(tmp_path / "again").lm_head.weight, head)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama", "deepseek_v3 raw gates, no prediction"])
def test_layers_beyond_those_of_the_configuration_are_unexpected(name: str, tmp_path: Path) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES[name])), tmp_path)
    change_config(tmp_path, num_hidden_layers=1)
    with pytest.raises(R1kitError, match=r"unexpected: model\.layers\.1\..*the weights have 2 layers"):
        load_pretrained(tmp_path)


def test_prediction_layers_that_are_not_wanted_are_left_out(tmp_path: Path) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["deepseek_v3 tied"])), tmp_path)
    change_config(tmp_path, num_nextn_predict_layers=0)
    assert load_pretrained(tmp_path).config.mtp_depth == 0


def change_config(folder: Path, **change: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def test_a_qwen3_without_head_dim_has_that_of_transformers(tmp_path: Path) -> None:
    config = config_of(SHAPES["qwen3"], head_dim=128)
    ours = lively(config)
    save_pretrained(ours, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    expected = their_logits(their_model(tmp_path), tokens(config))
    difference = our_logits(load_pretrained(tmp_path), tokens(config)) - expected
    assert difference.abs().max() <= 1e-5 * expected.abs().max()


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3086574240\n"


def broken(kind: str, whole: bytes) -> bytes:
    return {
        "pointer": POINTER.encode(),
        "truncated": whole[:-7],
        "truncated header": whole[:40],
        "empty": b"",
        "flipped": bytes([whole[0] ^ 0xFF]) + whole[1:],
        "text": b"<html>404</html>",
    }[kind]


KINDS = ("pointer", "truncated", "truncated header", "empty", "flipped", "text")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [load_pretrained, check_pretrained])
def test_broken_weights_are_refused_by_file_and_fix(kind: str, read: Any, tmp_path: Path) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["qwen3"])), tmp_path)
    read(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(broken(kind, path.read_bytes()))
    fix = "lfs pull" if kind == "pointer" else "download or copy the file again"
    with pytest.raises(R1kitError, match=rf"model\.safetensors: .*{fix}"):
        read(tmp_path)


def test_no_flipped_byte_of_the_header_is_an_error_of_another_kind(tmp_path: Path) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["llama"], layers=1)), tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for place in range(0, header, 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            check_pretrained(tmp_path)
        except R1kitError as error:
            refused += str(tmp_path) in str(error)
    assert refused > header // 3 * 0.9


@pytest.mark.parametrize("read", [load_pretrained, check_pretrained])
@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "null", "a JSON object is expected, not None"),
        ("config.json", "[]", r"a JSON object is expected, not \[\]"),
        ("config.json", "", "not valid JSON"),
        ("config.json", '{"model_type": "llama"}', "hidden_size None"),
        ("config.json", POINTER, "lfs pull"),
        ("model.safetensors.index.json", "here it was", "not valid JSON"),
        ("model.safetensors.index.json", "{}", "weight_map must name"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../b"}}', "weight_map must name"),
        ("model.safetensors.index.json", POINTER, "lfs pull"),
    ],
)
def test_broken_json_files_are_refused_by_file_and_fix(
    file: str, text: str, message: str, read: Any, tmp_path: Path
) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["qwen3"])), tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(R1kitError, match=rf"{file}: .*{message}"):
        read(tmp_path)
