"""What a run costs on this machine besides computing: what its programs take in memory, what a stage and an
engine take in time, how fast models are read, and a first tokenizer. Measured once, in a few seconds: by
updates of the miniature's network, and by a run of two stages on a model of next to no weights."""

import io
import itertools
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from rich.console import Console

from r1kit.memory import keep_memory
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel, parameter_count
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.planning.kept import measured_once
from r1kit.planning.learners import facts_of
from r1kit.planning.memory import held_by_learner, while_learning
from r1kit.planning.shapes import shape_of
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import run
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.train.supervised import text_row, weighted

Made = TypeVar("Made")
# A model of 130 MB.
LARGE = ModelConfig(
    family="llama", vocab_size=8192, width=1024, layers=2, heads=8, kv_heads=8, head_dim=128, ffn_width=2816,
    tie_embeddings=True,
)  # fmt: skip
_DOCUMENTS, _VOCABULARY = 500, 768
_SUMS, _ENGINES = 32, 4  # rows of a data file; models of the longer evaluation
_ROWS, _LENGTH = 8, 256  # of an update of the miniature's network


@dataclass(frozen=True, slots=True)
class Place:
    """``stage``: seconds of a stage that fine-tunes a model of next to no weights on a few rows; ``engine``:
    seconds for each such model that a stage samples from; ``read``: bytes per second of a model that is read;
    ``document``: seconds to make a document of the miniature and learn a tokenizer from it. ``program`` and
    ``helper``: bytes of a process that has trained the miniature's network, without what is counted for that,
    and of a further one, which shares the libraries' pages. The defaults are those of one machine, for where
    nothing is measured."""

    stage: float = 0.0
    engine: float = 0.0
    read: float = math.inf
    document: float = 0.0
    program: float = 330e6
    helper: float = 280e6


def measured_place() -> Place:
    """The place of this machine's temporary files, from the cache where it is known."""
    source = Path(__file__)
    return measured_once({"place": 2}, source, _alone, asdict, lambda plain: Place(**plain))


def _alone() -> Place:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # it may start processes
        return pool.submit(measure_place).result()


def measure_place() -> Place:
    """Measure this machine, in a process that has done nothing else."""
    program, helper = _program()
    with tempfile.TemporaryDirectory(prefix="r1kit-plan-") as name:
        folder = Path(name)
        tokenizer, learned = _timed(_new_tokenizer)
        small = LanguageModel(ModelConfig.preset("nano", vocab_size=_VOCABULARY))
        brief = _written_and_read(small, folder / "small", tokenizer)
        long = _written_and_read(LanguageModel(LARGE), folder / "large", tokenizer)
        rate = 4.0 * parameter_count(LARGE).total / max(1e-3, long - brief)
        stage, engine = _two_stages(folder)
    return Place(stage, engine, rate, learned / _DOCUMENTS, program, helper)


def _program() -> tuple[float, float]:
    """(Bytes of this process, bytes that it alone has) after updates of the miniature's network, without what
    the plan counts for these. What is left over are Python, the libraries, and what they set up when they
    first compute something of a usual size."""
    keep_memory()
    torch.set_num_threads(1)
    config = LearnerConfig(context=_LENGTH, lines=_ROWS)
    model = ModelConfig.preset("mini", vocab_size=_VOCABULARY)
    learner, draw = Learner(LanguageModel(model), config), np.random.default_rng(0)
    rows = [text_row(draw.integers(0, _VOCABULARY, _LENGTH).astype(np.int32)) for _ in range(_ROWS)]
    for _ in range(3):
        learner.update(weighted(rows), CrossEntropy(), 0.0)
    memory, shape, facts = psutil.Process().memory_full_info(), shape_of(model), facts_of(config)
    counted = (held_by_learner(shape, facts) + while_learning(shape, facts, float(_ROWS * _LENGTH))).total
    return memory.rss - counted, memory.uss - counted


def _written_and_read(model: LanguageModel, folder: Path, tokenizer: Tokenizer) -> float:
    """Write a model's folder in bfloat16, and return the seconds in which a learner reads it."""
    save_pretrained(model, folder, dtype=torch.bfloat16)
    tokenizer.save(folder)
    return _timed(lambda: load_pretrained(folder).float())[1]


def _two_stages(folder: Path) -> tuple[float, float]:
    """(Seconds of a stage that trains next to nothing, seconds for each model that a stage samples from), by
    a run in which the same have come first."""
    written = [
        {"prompt": f"{n} + 1?", "completion": f"<think>{n} + 1</think>{n + 1}", "answer": str(n + 1)}
        for n in range(_SUMS)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in written)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    model, rows = str(folder / "small"), str(folder / "rows.jsonl")
    tuning: dict[str, Any] = {
        "stage": "sft", "init": model, "data": [rows], "learner": {"context": 64, "lines": 2},
    }  # fmt: skip
    sampling = {
        "stage": "evaluate", "problems": 1, "n": 1, "max_tokens": 2,
        "tasks": {"sums": {"kind": "dataset", "train": rows}},
    }  # fmt: skip
    stages = [{**tuning, "name": "first"}, {**tuning, "name": "stage"}]
    for name, count in (("warm", 1), ("one", 1), ("more", _ENGINES)):
        stages.append({**sampling, "name": name, "models": {f"m{n}": model for n in range(count)}})
    recipe = {"name": "place", "runtime": {"kind": "local", "processes": 1}, "stages": stages}
    (folder / "place.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    built = build(read_layers(folder / "place.yaml", [f"out={folder / 'run'}"]))
    seconds = run(built, console=Console(file=io.StringIO())).seconds
    return seconds["stage"], max(0.0, seconds["more"] - seconds["one"]) / (_ENGINES - 1)


def _new_tokenizer() -> Tokenizer:
    return Tokenizer.train(itertools.islice(documents(0, CorpusMix()), _DOCUMENTS), _VOCABULARY)


def _timed(work: Callable[[], Made]) -> tuple[Made, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began
