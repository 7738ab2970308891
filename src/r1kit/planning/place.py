"""What a stage costs on this machine besides computing: models are read and written, files are hashed and
brought to the disk, and a first tokenizer is learned. Measured once, in a few seconds."""

import itertools
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from r1kit.files import sync_tree
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.planning.kept import measured_once
from r1kit.records import mark_outputs
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.tokenizer import Tokenizer

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
    document of the miniature and learn a tokenizer from it."""

    stage: float = 0.0
    read: float = math.inf
    document: float = 0.0


def measured_place() -> Place:
    """The place of this machine's temporary files, from the cache where it is known."""
    return measured_once({"place": 1}, measure_place, asdict, lambda plain: Place(**plain))


def measure_place() -> Place:
    """Measure this machine."""
    with tempfile.TemporaryDirectory(prefix="r1kit-plan-") as name:
        folder = Path(name)
        tokenizer, learned = _timed(_new_tokenizer)
        small = _round(LanguageModel(ModelConfig.preset("nano")), folder / "small", tokenizer)
        model = LanguageModel(LARGE)
        size = sum(parameter.nbytes for parameter in model.parameters())
        large = _round(model, folder / "large", tokenizer)
    return Place(sum(small), size / max(1e-3, large[0] - small[0]), learned / _DOCUMENTS)


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
