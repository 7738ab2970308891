"""A small world for tests: a tokenizer trained on a little of the corpus, nano models in float32, rows drawn
by chance."""

import io
import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from r1kit.log import Log
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.tokenizer import Tokenizer
from r1kit.train.group import Alone
from r1kit.train.learner import Learner, LearnerConfig, Metrics
from r1kit.train.objectives import Objective
from r1kit.train.optimizers import OptimizerConfig
from r1kit.types import Row

VOCABULARY = 320


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(list(islice(documents(7, CorpusMix()), 600)), VOCABULARY)


def model(seed: int = 1, preset: str = "nano", **overrides: object) -> LanguageModel:
    # A wide initialisation: with nearly uniform predictions a wrong position or segment would hardly show.
    return LanguageModel(
        ModelConfig.preset(preset, **{"vocab_size": VOCABULARY, "init_std": 0.15, **overrides}), seed=seed
    )


def model_directory(folder: Path, seed: int = 1, **overrides: object) -> Path:
    save_pretrained(model(seed, **overrides), folder)
    tokenizer().save(folder)
    return folder


def learner_config(context: int = 64, lines: int = 4, **optimizer: object) -> LearnerConfig:
    return LearnerConfig(
        context=context,
        lines=lines,
        precision="float32",
        optimizer=OptimizerConfig(**{"grad_clip": 1e9, **optimizer}),
    )


class KilledError(Exception):
    """Where a ``Mortal`` stopped."""


class Mortal(Learner):
    """A learner that stops at an update, as a killed process does."""

    dies_at = -1

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> Metrics:
        if self.version == self.dies_at:
            raise KilledError
        return super().update(rows, objective, scale)


class Summing(Alone):
    """A group whose sums are those of a function."""

    def __init__(self, add: Callable[[Tensor], Tensor], rank: int = 0, size: int = 1) -> None:
        self.add, self.rank, self.size = add, rank, size

    def sum(self, tensor: Tensor) -> Tensor:
        return self.add(tensor)


class Spied:
    """A learner on a fresh nano model whose last gradient can be looked at, by parameter name."""

    def __init__(self, config: LearnerConfig | None = None, **overrides: object) -> None:
        self.model = model(**overrides)
        self.flat = torch.zeros(0)
        self.learner = Learner(self.model, config or learner_config(), Summing(self._spy))

    def _spy(self, flat: Tensor) -> Tensor:
        self.flat = flat.clone()
        return flat

    def gradients(self) -> dict[str, Tensor]:
        found, start = {}, 0
        for name, parameter in self.model.named_parameters():
            found[name] = self.flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        return found


def random_rows(count: int, seed: int = 0, longest: int = 24) -> list[Row]:
    """Rows with partial masks and different weights, advantages and old log-probabilities."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(rng.integers(3, longest + 1))
        mask = rng.random(length) < 0.7
        mask[0], mask[-1] = False, True
        old, ref = (np.where(mask, rng.normal(-3, 1, length), 0).astype(np.float32) for _ in range(2))
        tokens = rng.integers(0, VOCABULARY, length).astype(np.int32)
        rows.append(Row(tokens, mask, float(rng.uniform(0.01, 0.1)), float(rng.normal()), old, ref))
    return rows


def full_logprobs(model: LanguageModel, row: Row) -> Tensor:
    """Log-probabilities [T-1] of a row's tokens 1.. by a forward pass of this row alone through all logits,
    with gradient."""
    tokens_BT = torch.from_numpy(row.token_ids.astype(np.int64))[None]
    logits_TV = model.logits(model(tokens_BT[:, :-1]).hidden_BTD)[0]
    return logits_TV.log_softmax(-1).gather(1, tokens_BT[0, 1:, None])[:, 0]


def assert_same_gradients(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-5
) -> None:
    assert set(ours) == set(theirs)
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert scale > 0
    for name, gradient in theirs.items():
        worst = float((ours[name] - gradient).abs().max()) / scale
        assert worst < tolerance, f"{name}: {worst:.2e} of the largest gradient"


def gradients_of(model: LanguageModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }
    model.zero_grad(set_to_none=True)
    return found


def quiet_log(folder: Path, stage: str = "test") -> Log:
    return Log(folder, stage, Console(file=io.StringIO()))


def logged(out: Path) -> list[dict[str, Any]]:
    """The metrics of a run's folder without times, then all its rollouts."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: value for name, value in row.items() if not name.startswith("time")} for row in rows]
    return metrics + [
        json.loads(line)
        for file in sorted(out.glob("samples/**/*.jsonl"))
        for line in file.read_text().splitlines()
    ]


def same_weights(one: LanguageModel, other: LanguageModel) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
