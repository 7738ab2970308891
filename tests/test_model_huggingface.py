"""Checkpoints against transformers' own classes: same logits both ways, same greedy text, and clear
refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from r1kit.config import ConfigError, R1kitError
from r1kit.model.config import ModelConfig
from r1kit.model.config_json import ARCHITECTURES, read_config
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import check_pretrained, load_pretrained, save_pretrained, to_disk
from r1kit.model.tensor_files import INDEX

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


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3086574240\n"


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
    [
        "deepseek_v3 untied, query rank, groups",
        "qwen2",
        "qwen3",
        "llama3 scaling",
        "phi3",
        "qwen3_moe",
        "deepseek_v2",
    ],
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
    "change",
    [
        {"model_type": "olmo2"},
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
    ],
)
def test_what_the_network_does_not_compute_goes_to_transformers(
    change: dict[str, Any], tmp_path: Path
) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["qwen3"])), tmp_path)
    change_config(tmp_path, **change)
    config = read_config(tmp_path)
    assert (config.family, config.model_type) == ("transformers", change.get("model_type", "qwen3"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope scaling 'longrope'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "convert the checkpoint to bfloat16"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "convert the checkpoint to bfloat16"),
        ({"model_type": 3}, "model_type 3 is not supported"),
        ({"model_type": "mistral", "sliding_window": -1}, "sliding_window = -1 is not a positive number"),
    ],
)
def test_what_neither_computes_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("read", [load_pretrained, check_pretrained])
@pytest.mark.parametrize("shape", [(62, 32), (61, 33), (32, 61)])
def test_a_head_of_another_shape_is_refused_though_the_configuration_ties_it(
    shape: tuple[int, int], read: Any, tmp_path: Path
) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["qwen2"])), tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "lm_head.weight": torch.ones(shape)}, path, metadata={"format": "pt"})
    with pytest.raises(R1kitError, match=r"lm_head\.weight has shape .* asks for \[61, 32\]"):
        read(tmp_path)


def test_a_head_in_another_type_is_compared_by_its_numbers(tmp_path: Path) -> None:
    save_pretrained(lively(config_of(SHAPES["qwen2"])), tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    rounded = weights["model.embed_tokens.weight"].bfloat16()
    for embedding, tied in ((rounded.float(), True), (rounded.float() + 1e-3, False)):
        changed = {**weights, "lm_head.weight": rounded, "model.embed_tokens.weight": embedding}
        save_file(changed, path, metadata={"format": "pt"})
        assert load_pretrained(tmp_path).config.tie_embeddings == tied


@pytest.mark.parametrize("name", ["embed_tokens.weight", "shared_head.head.weight"])
def test_a_prediction_layers_copy_of_a_shared_matrix_has_to_be_one(name: str, tmp_path: Path) -> None:
    config = config_of(SHAPES["deepseek_v3 tied"], tie_embeddings=False)
    save_pretrained(lively(config), tmp_path)
    path, weights = tmp_path / "model.safetensors", load_file(tmp_path / "model.safetensors")
    original = weights["model.embed_tokens.weight" if "embed" in name else "lm_head.weight"]
    copy = f"model.layers.{config.layers}.{name}"
    save_file({**weights, copy: original.clone()}, path, metadata={"format": "pt"})
    load_pretrained(tmp_path)
    save_file({**weights, copy: original + 1}, path, metadata={"format": "pt"})
    with pytest.raises(R1kitError, match=f"{copy} differs .*num_nextn_predict_layers to 0"):
        load_pretrained(tmp_path)
    change_config(tmp_path, num_nextn_predict_layers=0)
    load_pretrained(tmp_path)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_key_that_is_left_out_has_the_default_of_transformers(family: str, tmp_path: Path) -> None:
    """Every key of config.json that has one, against the attributes of transformers' own class."""
    [shape, *_] = [shape for name, shape in SHAPES.items() if name.split()[0] in (family, f"{family},")]
    save_pretrained(LanguageModel(config_of(shape)), tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    theirs = transformers.AutoConfig.for_model(family)
    needed = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
    # Widths without which no network can be laid out, and what does not change what it computes.
    needed |= {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts"}
    needed |= {"num_experts", "num_experts_per_tok", "moe_intermediate_size", "initializer_range"}
    needed |= {"num_key_value_heads", "head_dim", "num_nextn_predict_layers", "rope_theta"}
    compared = 0
    for key in content.keys() - needed:
        if (expected := getattr(theirs, key, None)) is None or key in ("architectures", "model_type"):
            continue
        rest = {other: value for other, value in content.items() if other != key}
        asked = json.dumps({**rest, key: expected})
        found = []
        for text in (json.dumps(rest), asked):
            (tmp_path / "config.json").write_text(text)
            try:
                found.append(read_config(tmp_path))
            except ConfigError as error:
                found.append(str(error))
        assert found[0] == found[1], key
        compared += 1
    assert compared >= 4


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("deepseek_v3 raw gates, no prediction", "rope_interleave"),  # transformers reads "no"
        ("deepseek_v3 raw gates, no prediction", "routed_scaling_factor"),
        ("deepseek_v3 raw gates, no prediction", "n_group"),
        ("qwen3_moe", "decoder_sparse_step"),
        ("qwen2", "rope_theta"),
        ("qwen2", "tie_word_embeddings"),
        ("qwen2", "hidden_act"),
        ("llama", "hidden_size"),
        ("llama", "rms_norm_eps"),
        ("llama", "max_position_embeddings"),
    ],
)
def test_a_null_is_refused_by_key_where_it_is_not_the_keys_absence(
    name: str, key: str, tmp_path: Path
) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES[name])), tmp_path)
    change_config(tmp_path, **{key: None})
    with pytest.raises(ConfigError, match=rf"config\.json: {key} is null; give its value"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("deepseek_v3 raw gates, no prediction", "q_lora_rank"),
        ("deepseek_v2", "n_group"),
        ("llama", "head_dim"),
        ("llama", "attention_bias"),
        ("llama", "rope_scaling"),
        ("qwen3_moe", "mlp_only_layers"),
    ],
)
def test_a_null_that_transformers_reads_too_is_read(name: str, key: str, tmp_path: Path) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES[name])), tmp_path)
    before = read_config(tmp_path)
    change_config(tmp_path, **{key: None})
    assert read_config(tmp_path) == before


def test_a_wrong_value_is_named_by_the_key_of_the_file(tmp_path: Path) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["qwen3_moe"])), tmp_path)
    change_config(tmp_path, hidden_size="wide")
    with pytest.raises(ConfigError, match=r"config\.json: hidden_size: .*'wide'"):
        read_config(tmp_path)
    change_config(tmp_path, hidden_size=32, rope_theta=0)
    with pytest.raises(ConfigError, match=r"rope_theta = 0 is not a positive number"):
        read_config(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text()) | {"rope_theta": 10_000.0}
    del content["moe_intermediate_size"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"needs moe_intermediate_size"):
        read_config(tmp_path)


def shards(folder: Path) -> list[Path]:
    save_pretrained(lively(config_of(SHAPES["qwen2"])), folder, shard_bytes=20_000)
    return sorted(folder.glob("model-*.safetensors"))


@pytest.mark.parametrize("read", [load_pretrained, check_pretrained])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"no model-00002-of-\d+\.safetensors; .*download the missing files"),
        ("no index", r"model-00001-of-\d+.* is one of several, .*index\.json lists, and that is missing"),
        ("dangling", r"it is a link to /nowhere/at/all, which is not there: download the model again"),
        ("two sets", r"two sets of weights, and programs differ in which .*move one away"),
        ("twice", r"model\.norm\.weight is in model-00001-of-\d+\.safetensors too"),
        ("no tensors", r"weight_map must name a file of this folder for each tensor"),
    ],
)
def test_what_is_wrong_with_shards_is_named(kind: str, message: str, read: Any, tmp_path: Path) -> None:
    files = shards(tmp_path)
    read(tmp_path)
    if kind in ("missing", "dangling"):
        files[1].unlink()
    if kind == "dangling":
        files[1].symlink_to("/nowhere/at/all")
    if kind == "no index":
        (tmp_path / INDEX).unlink()
    if kind == "two sets":
        shutil.copy(files[0], tmp_path / "model.safetensors")
    if kind == "twice":
        norm = {"model.norm.weight": torch.ones(32)}
        save_file({**load_file(files[0]), **norm}, files[0], metadata={"format": "pt"})
    if kind == "no tensors":
        (tmp_path / INDEX).write_text('{"weight_map": {}}')
    with pytest.raises(R1kitError, match=message):
        read(tmp_path)


def test_what_an_index_says_of_places_and_sizes_does_not_matter(tmp_path: Path) -> None:
    files = shards(tmp_path)
    expected = load_pretrained(tmp_path).state_dict()
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = files[0].name  # it is in another
    index["metadata"] = None
    (tmp_path / INDEX).write_text(json.dumps(index))
    found = load_pretrained(tmp_path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("content", [POINTER, "", "version https://hawser.github.com/spec/v1\n"])
def test_a_broken_scalar_head_is_found_before_the_weights_are_read(content: str, tmp_path: Path) -> None:
    save_pretrained(LanguageModel(config_of(SHAPES["qwen2"], scalar_head=True)), tmp_path)
    check_pretrained(tmp_path)
    (tmp_path / "value_head.safetensors").write_text(content)
    fix = "lfs pull" if content else "download or copy"
    with pytest.raises(R1kitError, match=rf"value_head\.safetensors: .*{fix}"):
        check_pretrained(tmp_path)


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


@pytest.mark.parametrize("name", ["qwen3_moe", "phi3", "deepseek_v2", "mistral"])
def test_gradients_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Of the mean of all log-probabilities, for every tensor of the checkpoint."""
    config = config_of(SHAPES[name])
    ours, x = lively(config), tokens(config, length=20)
    save_pretrained(ours, tmp_path)
    theirs = their_model(tmp_path)
    for logits in (ours.logits(ours(x).hidden_BTD), theirs(x).logits):
        logits[:, :-1].log_softmax(-1).gather(2, x[:, 1:, None]).mean().backward()
    gradients = {key: p.grad for key, p in ours.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    with torch.no_grad():
        for key, parameter in ours.named_parameters():
            parameter.copy_(gradients[key])
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    save_pretrained(ours, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    mine, other = (load_file(tmp_path / which / "model.safetensors") for which in ("ours", "theirs"))
    assert mine.keys() == other.keys()
    for key in mine:
        torch.testing.assert_close(mine[key], other[key], atol=1e-6, rtol=1e-3, msg=key)
        assert mine[key].abs().max() > 1e-6, key


def test_a_text_longer_than_the_window_is_beyond_the_models_positions(tmp_path: Path) -> None:
    """Up to the window the network computes what transformers does, beyond it something else."""
    config = config_of(SHAPES["mistral, a window"])
    save_pretrained(lively(config), tmp_path)
    ours, theirs = load_pretrained(tmp_path), their_model(tmp_path)
    assert ours.config.max_positions == 100
    x = tokens(config, length=130)
    difference = (our_logits(ours, x) - their_logits(theirs, x)).abs().amax((0, 2))
    assert difference[:100].max() < 1e-4 < 1e-2 < difference[101:].max()
    assert json.loads((tmp_path / "config.json").read_text())["max_position_embeddings"] == 4096


def eight_bit_copy(folder: Path, blocks: tuple[int, int] = (128, 128)) -> dict[str, torch.Tensor]:
    """Quantise a folder's matrices as DeepSeek's release has them, block by block; returns what they stand
    for."""
    path = folder / "model.safetensors"
    weights, meant = load_file(path), {}
    for name, weight in list(weights.items()):
        meant[name] = weight
        if weight.dim() != 2 or "embed" in name or "lm_head" in name or name.endswith("gate.weight"):
            continue
        rows, columns = (-(-size // block) for size, block in zip(weight.shape, blocks, strict=True))
        scales, small = torch.zeros(rows, columns), torch.zeros(weight.shape, dtype=torch.float8_e4m3fn)
        back = torch.zeros_like(weight)
        for i in range(rows):
            for j in range(columns):
                at = (
                    slice(i * blocks[0], (i + 1) * blocks[0]),
                    slice(j * blocks[1], (j + 1) * blocks[1]),
                )
                scales[i, j] = weight[at].abs().max() / 448
                small[at] = (weight[at] / scales[i, j]).to(torch.float8_e4m3fn)
                back[at] = small[at].float() * scales[i, j]
        meant[name], weights[name], weights[f"{name}_scale_inv"] = back, small, scales
    save_file(weights, path, metadata={"format": "pt"})
    scheme = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
    change_config(folder, quantization_config={**scheme, "weight_block_size": list(blocks)})
    return meant


@pytest.mark.parametrize("name", ["deepseek_v3 untied, query rank, groups", "qwen3", "phi3"])
def test_eight_bit_weights_are_their_numbers_times_the_scale_of_their_block(
    name: str, tmp_path: Path
) -> None:
    config = config_of(SHAPES[name], width=200, ffn_width=144)
    save_pretrained(lively(config), tmp_path)
    exact = load_pretrained(tmp_path)
    meant = eight_bit_copy(tmp_path)
    check_pretrained(tmp_path)
    assert any((meant[key] - value).abs().max() > 0 for key, value in load_state(exact).items())
    wide = load_state(load_pretrained(tmp_path, dtype=torch.float32))
    short = load_pretrained(tmp_path)
    assert short.layers[0].self_attn.o_proj.weight.dtype == torch.bfloat16
    for key, value in meant.items():
        assert torch.equal(wide[key], value), key
    mine = load_state(short)
    for key, value in meant.items():
        expected = value if mine[key].dtype == torch.float32 else value.bfloat16()
        assert torch.equal(mine[key], expected), key
    save_pretrained(short, tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())


def load_state(model: LanguageModel) -> dict[str, torch.Tensor]:
    """A model's tensors under the checkpoint's names."""
    return dict(to_disk(model.config, model.state_dict()))


def test_eight_bit_weights_without_scales_and_scales_of_another_size_are_refused(tmp_path: Path) -> None:
    save_pretrained(lively(config_of(SHAPES["qwen3"])), tmp_path)
    eight_bit_copy(tmp_path)
    path, name = tmp_path / "model.safetensors", "model.layers.0.self_attn.o_proj.weight_scale_inv"
    weights = load_file(path)
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(R1kitError, match=r"missing: .*o_proj\.weight_scale_inv \(1\)"):
        load_pretrained(tmp_path)
    save_file({**weights, name: torch.ones(2, 1)}, path)
    with pytest.raises(R1kitError, match=r"o_proj\.weight_scale_inv has shape \[2, 1\]"):
        check_pretrained(tmp_path)
    save_file(weights, path)
    change_config(tmp_path, quantization_config=None)
    with pytest.raises(R1kitError, match="convert the checkpoint to bfloat16"):
        check_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["llama", "phi3", "qwen3_moe", "deepseek_v2"])
def test_every_dtype_is_read_and_written_without_a_change(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    save_pretrained(lively(config_of(SHAPES[name])).to(dtype), tmp_path / "a")
    save_pretrained(load_pretrained(tmp_path / "a"), tmp_path / "b", shard_bytes=10_000)
    assert json.loads((tmp_path / "b/config.json").read_text())["torch_dtype"] == str(dtype)[6:]
    before = load_file(tmp_path / "a/model.safetensors")
    after: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "b").glob("model-*.safetensors"):
        after |= load_file(file)
    assert before.keys() == after.keys()
    assert all(after[key].dtype == dtype and torch.equal(after[key], before[key]) for key in before)
