"""A model's name becomes its folder: a folder, a GGUF file, or a model of the hub, without a network."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import small_world
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from r1kit.config import ConfigError
from r1kit.files import hash_file
from r1kit.model import sources
from r1kit.model.huggingface import load_pretrained
from r1kit.model.sources import found_model, kind_of, model_hash, resolve_model
from r1kit.recipe.inputs import check_inputs, fetch_models
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import Recipe, build
from r1kit.runs.provenance import named_files

READS_GGUF = all(importlib.util.find_spec(name) is not None for name in ("gguf", "accelerate"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and empty caches."""
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


class Hub:
    """The hub's repositories by name and revision, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def snapshot_download(self, repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((repository, revision))
        if repository != "small/model":
            response: Any = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
            raise RepositoryNotFoundError("404: no such repository", response=response)
        if revision not in (None, "v2"):
            raise LocalEntryNotFoundError("cannot reach the hub")

        def wanted(name: str) -> bool:
            return any(Path(name).match(pattern) for pattern in allow_patterns)

        model = sources.hub_folder() / "models--small--model"
        snapshot = model / "snapshots" / f"commit-{revision}"
        shutil.copytree(self.folder, snapshot, ignore=lambda _, names: [n for n in names if not wanted(n)])
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / (revision or "main")).write_text(snapshot.name)

        return str(snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    folder = small_world.model_directory(tmp_path / "remote", preset="student")
    (folder / "modeling.py").write_text("raise SystemExit('code of a stranger')\n")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    found = Hub(folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("there", "folder"),
        ("there/", "folder"),
        ("small.gguf", "gguf"),
        ("lone", "gguf"),
        ("org/name", "hub"),
        ("org/name@v1.0", "hub"),
        ("org/name@0123abc", "hub"),
        ("there/typo", None),
        ("org/name.gguf", None),
        ("org/name/more", None),
        ("notes.txt", None),
        ("nothing", None),
        ("../org/name", None),
        ("/org/name", None),
        ("org/name@", None),
        ("a b/c", None),
    ],
)
def test_what_a_name_is(name: str, kind: str | None, here: Path) -> None:
    for folder in ("there", "lone"):
        (here / folder).mkdir()
    (here / "there" / "config.json").write_text("{}")
    for file in ("small.gguf", "lone/a.gguf", "notes.txt"):
        (here / file).write_bytes(b"GGUF")
    assert kind_of(name) == kind


def test_a_folder_is_itself_and_what_is_nothing_says_all_ways(here: Path) -> None:
    folder = small_world.model_directory(here / "mine")
    assert resolve_model("mine") == Path("mine") == found_model("mine")
    assert resolve_model(str(folder)) == folder and model_hash("mine") is None
    with pytest.raises(
        ConfigError, match=r"no such folder.*Hugging Face folder, a GGUF file, a model of the hub"
    ):
        resolve_model("nothing")
    assert found_model("nothing") is None and model_hash("nothing") is None


def test_of_two_gguf_files_in_a_folder_one_has_to_be_named(here: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (here / name).write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"several GGUF files \(a\.gguf, b\.gguf\); name the one"):
        resolve_model(str(here))
    assert named_files({"x": str(here)}) == {}


def test_a_model_of_the_hub_is_downloaded_once_without_code_and_pickles(hub: Hub) -> None:
    assert found_model("small/model") is None and model_hash("small/model") is None and hub.asked == []
    folder = resolve_model("small/model")
    remote = {file.name for file in hub.folder.iterdir()}
    assert {file.name for file in folder.iterdir()} == remote - {"modeling.py", "pytorch_model.bin"}
    assert resolve_model("small/model") == folder == found_model("small/model")
    assert hub.asked == [("small/model", None)]
    other = resolve_model("small/model@v2")
    assert other != folder and hub.asked == [("small/model", None), ("small/model", "v2")]
    assert found_model(f"small/model@{folder.name}") == folder, "a commit names its snapshot"
    x = torch.arange(9)[None]
    assert torch.equal(load_pretrained(folder)(x).hidden_BTD, load_pretrained(hub.folder)(x).hidden_BTD)


def test_the_content_of_a_model_of_the_hub_stands_in_the_record(hub: Hub) -> None:
    assert named_files({"init": "small/model"}) == {}
    folder = resolve_model("small/model")
    before = named_files({"init": "small/model"})
    assert before == {"small/model": model_hash("small/model")}
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert named_files({"init": "small/model"}).keys() == before.keys() != {}
    assert named_files({"init": "small/model"}) != before


@pytest.mark.parametrize(
    ("name", "reason"), [("small/typo", "no such repository"), ("small/model@v9", "cannot reach the hub")]
)
def test_without_the_hub_the_error_says_both_ways(hub: Hub, name: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_model(name)
    text = str(caught.value)
    repository = name.partition("@")[0]
    assert text.startswith(f"{name}: ") and reason in text
    assert f"hf download {repository} --local-dir models/{repository.partition('/')[2]}" in text
    assert "name a GGUF file" in text


def test_a_repository_without_safetensors_is_refused(hub: Hub) -> None:
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"never opens pickles: choose a repository with safetensors"):
        resolve_model("small/model")
    assert found_model("small/model") is None


def recipe(here: Path, init: str) -> tuple[Recipe, Any]:
    stages = [{"stage": "r1_zero", "init": init, "tasks": {"reasoning": 1.0}}]
    (here / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "stages": stages}))
    layers = read_layers(here / "mine.yaml", [])
    return build(layers), layers


def test_a_look_at_a_recipe_downloads_nothing_and_a_run_downloads_first(hub: Hub, here: Path) -> None:
    named, layers = recipe(here, "small/model")
    check_inputs(named, layers)
    assert hub.asked == []
    said: list[str] = []
    fetch_models(named, layers, ["another stage"], said.append)
    assert hub.asked == [] and said == []
    fetch_models(named, layers, ["r1_zero"], said.append)
    assert hub.asked == [("small/model", None)] and said == ["small/model: downloading it from the hub, once"]
    fetch_models(named, layers, ["r1_zero"], said.append)
    check_inputs(named, layers)
    assert len(hub.asked) == len(said) == 1
    named, layers = recipe(here, "small/typo")
    with pytest.raises(
        ConfigError, match=r"mine\.yaml:\d+: stages\.r1_zero\.init: small/typo: neither a folder"
    ):
        fetch_models(named, layers, ["r1_zero"], said.append)


def test_a_cache_behind_links_that_lead_to_each_other_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "one").symlink_to(here / "two")
    (here / "two").symlink_to(here / "one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "one"))
    with pytest.raises(ConfigError, match=r"one.*too many links; .*set XDG_CACHE_HOME to another folder"):
        sources.models_folder()


def test_a_cache_that_another_user_could_change_is_not_used(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rule as for compiled kernels."""
    (here / "a.gguf").write_bytes(b"GGUF")
    shared = here / "shared"
    shared.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    assert found_model("a.gguf") is None
    shared.chmod(0o777)
    with pytest.raises(ConfigError, match=r"shared can be written by others.*set XDG_CACHE_HOME"):
        found_model("a.gguf")


@pytest.mark.skipif(READS_GGUF, reason="the packages are here")
def test_without_the_packages_a_gguf_file_says_what_to_install(here: Path) -> None:
    (here / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"pip install 'r1kit\[real\]'"):
        resolve_model("a.gguf")


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A llama of one layer in GGUF, in float32, by the format's own writer; returns its tensors by GGUF's
    names."""
    import gguf

    random, words = np.random.default_rng(5), 40
    shapes = {
        "token_embd.weight": (words, 32), "output_norm.weight": (32,), "output.weight": (words, 32),
        "blk.0.attn_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (16, 32),
        "blk.0.attn_v.weight": (16, 32), "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_norm.weight": (32,),
        "blk.0.ffn_gate.weight": (48, 32), "blk.0.ffn_up.weight": (48, 32), "blk.0.ffn_down.weight": (32, 48),
    }  # fmt: skip
    tensors = {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("A small llama")
    writer.add_license("apache-2.0")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(words)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*"abcdefghijklmnopqrstuvwxyz0123456789", "ab", "cd", "<s>", "</s>"])
    writer.add_token_types([1] * 38 + [3, 3])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(38)
    writer.add_eos_token_id(39)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.mark.skipif(not READS_GGUF, reason="needs gguf and accelerate (pip install 'r1kit[real]')")
def test_a_gguf_file_is_converted_once_to_a_folder_with_its_licence(here: Path) -> None:
    written = write_gguf(here / "a.gguf")
    assert found_model("a.gguf") is None
    folder = resolve_model("a.gguf")
    assert folder.parent == sources.models_folder() and folder.name == f"a-{hash_file(here / 'a.gguf')[:16]}"
    assert folder.stat().st_mode & 0o077 == 0
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card and "# A small llama" in card and hash_file(here / "a.gguf") in card
    model = load_pretrained(folder)
    assert (model.config.family, model.config.kv_heads, model.config.max_positions) == ("llama", 2, 64)
    state = model.state_dict()
    for ours, theirs in (
        ("embed_tokens.weight", "token_embd.weight"), ("lm_head.weight", "output.weight"),
        ("layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"), ("norm.weight", "output_norm.weight"),
        ("layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"),
    ):  # fmt: skip
        np.testing.assert_array_equal(state[ours].numpy(), written[theirs])
    made = os.stat(folder / "model.safetensors")
    assert resolve_model("a.gguf") == folder == found_model("a.gguf")
    assert os.stat(folder / "model.safetensors").st_mtime_ns == made.st_mtime_ns
    assert named_files({"init": "a.gguf"}) == {"a.gguf": hash_file(here / "a.gguf")}
    (here / "lone").mkdir()
    shutil.copy(here / "a.gguf", here / "lone")
    assert resolve_model("lone") == folder and model_hash("lone") == hash_file(here / "a.gguf")


@pytest.mark.skipif(not READS_GGUF, reason="needs gguf and accelerate (pip install 'r1kit[real]')")
@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a GGUF file at all" * 100])
def test_a_broken_gguf_file_is_named_and_leaves_nothing(content: bytes, here: Path) -> None:
    (here / "a.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.gguf: cannot be read as a GGUF model"):
        resolve_model("a.gguf")
    assert not list(sources.models_folder().iterdir())
