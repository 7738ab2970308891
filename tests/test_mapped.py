"""An engine whose model is not trained gives the memory of the model's file back, and says the same."""

import gc
import mmap
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from r1kit.engine import compiled
from r1kit.engine.compiled import library
from r1kit.engine.native import NativeEngine
from r1kit.memory import return_memory
from r1kit.model.compile_kernels import KernelsUnavailableError
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.model.mapped import give_back
from r1kit.types import Sampling

SMAPS = Path("/proc/self/smaps")


def mapped_mb(folder: Path) -> float:
    """How much of a folder's files is in this process's memory, in MB."""
    here = False
    kilobytes = 0
    for line in SMAPS.read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            here = str(folder) in line
        elif here and line.startswith("Rss:"):
            kilobytes += int(line.split()[1])
    return kilobytes / 1024


@pytest.fixture(scope="module")
def kernels() -> None:
    try:
        library()
    except KernelsUnavailableError as error:
        pytest.skip(str(error))
    if not SMAPS.exists():
        pytest.skip("only Linux says what is in memory")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(
        family="qwen3", vocab_size=2048, width=256, layers=8, heads=4, kv_heads=2, head_dim=64, ffn_width=512,
        tie_embeddings=True,
    )  # fmt: skip
    found = tmp_path_factory.mktemp("model")
    save_pretrained(LanguageModel(config, seed=0), found)
    os.sync()  # what is not on the disk yet cannot be given back
    return found


def takes_memory_back(folder: Path) -> bool:
    """Whether this system does what is asked of it, by Python's own call."""
    with (folder / "model.safetensors").open("rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        sum(whole[:: mmap.PAGESIZE])
        before = mapped_mb(folder)
        try:
            whole.madvise(21)
        except OSError:
            return False
        return mapped_mb(folder) < 0.5 * before


@pytest.mark.usefixtures("kernels")
def test_a_lean_engine_keeps_its_own_copy_only(folder: Path) -> None:
    if not takes_memory_back(folder):
        pytest.skip("this system does not take memory back")
    prompt, most = [np.arange(5, dtype=np.int32)], Sampling(max_tokens=4, temperature=0.0)
    size = (folder / "model.safetensors").stat().st_size / 2**20

    def said(lean: bool) -> tuple[list[int], float]:
        gc.collect()  # the model before
        model = load_pretrained(folder)
        engine = NativeEngine(model, [-1], "bfloat16", lean=lean)
        engine.generate(prompt, most)
        ids = engine.generate(prompt, most)[0][0].token_ids.tolist()
        return ids, mapped_mb(folder)

    ids, whole = said(lean=False)
    assert whole > 0.9 * size
    again, left = said(lean=True)
    assert again == ids
    assert left < 0.4 * size


def anonymous_mb() -> float:
    """This process's memory that is no file's, in MB."""
    found = re.search(r"Anonymous:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.usefixtures("kernels")
def test_the_kernels_copy_takes_two_bytes_a_weight() -> None:
    """And no more than the rest of two huge pages: a quarter more would be 14 MB."""
    config = ModelConfig(
        family="qwen3", vocab_size=2048, width=512, layers=12, heads=8, kv_heads=4, head_dim=64,
        ffn_width=1024, tie_embeddings=True,
    )  # fmt: skip
    model = LanguageModel(config, seed=0)
    wanted = 2 * sum(weight.numel() for weight in model.parameters()) / 2**20
    engine = NativeEngine(model, [-1], "bfloat16", lean=True)
    gc.collect()
    return_memory()
    before = anonymous_mb()
    engine.generate([np.arange(5, dtype=np.int32)], Sampling(max_tokens=1))
    assert wanted > 50
    assert 0.9 * wanted < anonymous_mb() - before < wanted + 6


def test_a_head_in_pieces_is_the_same_head(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2048 rows at once, in pieces that end within a panel of 64 outputs, and with a rest."""
    prompt, model = [np.arange(5, dtype=np.int32)], load_pretrained(folder)

    def said(piece: int, lean: bool) -> tuple[list[int], list[float]]:
        monkeypatch.setattr(compiled, "PIECE", piece)
        engine = NativeEngine(model, [-1], "bfloat16", lean=lean)
        ((completion,),) = engine.generate(prompt, Sampling(max_tokens=24, temperature=1.0))
        return completion.token_ids.tolist(), completion.logprobs.tolist()

    whole = said(2048, lean=False)
    assert said(600, lean=False) == said(600, lean=True) == said(77, lean=True) == whole


def test_what_is_given_back_keeps_its_numbers(folder: Path) -> None:
    model = load_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changed = model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        changed.add_(1.0)  # a page of its own: no file has it
    for tensor in (*model.state_dict().values(), torch.randn(64, 64), torch.empty(0), torch.ones(1)):
        give_back(tensor)
    for name, tensor in model.state_dict().items():
        moved = 1.0 if name == "layers.0.mlp.down_proj.weight" else 0.0
        assert torch.equal(tensor, before[name] + moved)
