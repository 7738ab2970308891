"""What a stage costs on this machine besides computing: models are read and written, files are hashed and
brought to the disk, and a first tokenizer is learned. Measured once, in a few seconds."""

import itertools
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch

from r1kit.engine.native import NativeEngine
from r1kit.files import sync_tree
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.planning.kept import measured_once
from r1kit.records import mark_outputs
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.train.supervised import text_row, weighted
from r1kit.types import Sampling

Made = TypeVar("Made")
# A model of 130 MB.
LARGE = ModelConfig(
    family="llama", vocab_size=8192, width=1024, layers=2, heads=8, kv_heads=8, head_dim=128, ffn_width=2816,
    tie_embeddings=True,
)  # fmt: skip
_DOCUMENTS, _VOCABULARY = 500, 768


@dataclass(frozen=True, slots=True)
class Place:
    """``stage``: seconds of a stage whose model weighs next to nothing, to read it, write it, hash it and
    bring it to the disk; ``read``: bytes per second of a model that is read; ``document``: seconds to make a
    document of the miniature and learn a tokenizer from it. ``program`` and ``helper``: bytes of a process
    with Python and its libraries once it has computed something, and of a further one, which shares the
    libraries' pages. The defaults are those of one machine, for where nothing is measured."""

    stage: float = 0.0
    read: float = math.inf
    document: float = 0.0
    program: float = 330e6
    helper: float = 280e6


def measured_place() -> Place:
    """The place of this machine's temporary files, from the cache where it is known."""
    return measured_once({"place": 1}, _in_its_own_process, asdict, lambda plain: Place(**plain))


def _in_its_own_process() -> Place:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_place)


def measure_place() -> Place:
    """Measure this machine, in a process that has done nothing else."""
    _compute_a_little()
    memory = psutil.Process().memory_full_info()
    with tempfile.TemporaryDirectory(prefix="r1kit-plan-") as name:
        folder = Path(name)
        tokenizer, learned = _timed(_new_tokenizer)
        small = _round(
            LanguageModel(ModelConfig.preset("nano", vocab_size=_VOCABULARY)), folder / "small", tokenizer
        )
        model = LanguageModel(LARGE)
        size = sum(parameter.nbytes for parameter in model.parameters())
        large = _round(model, folder / "large", tokenizer)
    rate = size / max(1e-3, large[0] - small[0])
    return Place(sum(small), rate, learned / _DOCUMENTS, float(memory.rss), float(memory.uss))


def _compute_a_little() -> None:
    """Use every part once with a model of next to no weights, so that what libraries set up is there."""
    torch.set_num_threads(1)
    learner = Learner(LanguageModel(ModelConfig.preset("nano")), LearnerConfig(context=64, lines=2))
    row = text_row(np.arange(64, dtype=np.int32))
    learner.update(weighted([row]), CrossEntropy(), 1.0)
    NativeEngine(learner.model, [-1]).generate([row.token_ids[:8]], Sampling(n=2, max_tokens=4))


def _round(model: LanguageModel, folder: Path, tokenizer: Tokenizer) -> tuple[float, float]:
    """Seconds to read a model, and to write it as a stage's result."""

    def write() -> None:
        save_pretrained(model, folder / "model")
        tokenizer.save(folder / "model")
        sync_tree(folder)
        mark_outputs(folder)

    def read() -> None:
        Tokenizer.load(folder / "model")
        load_pretrained(folder / "model").float()

    written = _timed(write)[1]
    return _timed(read)[1], written


def _new_tokenizer() -> Tokenizer:
    return Tokenizer.train(itertools.islice(documents(0, CorpusMix()), _DOCUMENTS), _VOCABULARY)


def _timed(work: Callable[[], Made]) -> tuple[Made, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began
