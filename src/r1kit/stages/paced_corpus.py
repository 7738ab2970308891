"""Pretraining in an order: the documents of files, or packed lines, the easiest first (data/pacing.py)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from r1kit.config import R1kitError
from r1kit.data.pacing import SupervisedCurriculum, by_difficulty, number_in
from r1kit.data.sources import BadRows
from r1kit.data.token_loader import Lines, PacedLines
from r1kit.jsonl import column, read_usable
from r1kit.stages.stage import Context
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import LearnerConfig
from r1kit.train.paced import losses_of, measured_difficulties, paced_batches
from r1kit.train.supervised import SupervisedConfig, text_row
from r1kit.types import Row

_CHUNK = 512  # lines whose difficulty is measured at a time


class HasFiles(Protocol):
    """The files of a corpus with their weights, and the columns that make a document."""

    @property
    def files(self) -> dict[str, float]: ...

    @property
    def fields(self) -> list[str]: ...

    @property
    def bad_rows(self) -> BadRows: ...


class HasCorpus(Protocol):
    """What is read of a pretraining's configuration."""

    @property
    def tokens(self) -> int: ...

    @property
    def learner(self) -> LearnerConfig: ...

    @property
    def training(self) -> SupervisedConfig: ...

    @property
    def corpus(self) -> HasFiles: ...


def paced_documents(
    ctx: Context, stage: HasCorpus, curriculum: SupervisedCurriculum, tokenizer: Tokenizer, seed: int
) -> list[list[Row]]:
    """The updates of ``stage.tokens`` tokens of the corpus's files. The pieces of a long document have its
    difficulty where a column names it, else their own. Weights of files have no effect: all documents have
    one order."""
    context = stage.learner.context
    rows: list[Row] = []
    values: list[float | None] = []
    for text, value in _documents(stage.corpus, curriculum.named_column):
        if curriculum.leaves_out(value):
            continue
        ids = tokenizer.encode(text, special=True)
        whole = np.concatenate([tokenizer.start_ids, ids, [tokenizer.eos_id]]).astype(np.int32)
        for start in range(0, len(whole) - 1, context):
            rows.append(text_row(whole[start : start + context + 1]))
            values.append(value)
    if not rows:
        raise R1kitError("curriculum: every document is left out by its pass rate; change easy or hard")
    if curriculum.named_column and all(value is None for value in values):
        raise R1kitError(f"curriculum: no document has a column {curriculum.named_column!r}")
    if curriculum.reference:
        difficulties = _reference_losses(ctx, curriculum.reference, stage.learner, rows)
    elif curriculum.by:
        difficulties = measured_difficulties(rows, curriculum.by)
    else:
        difficulties = [curriculum.difficulty(value) for value in values]
    epochs = stage.tokens / sum(len(row.token_ids) for row in rows)
    config = stage.training.model_copy(update={"epochs": epochs})
    return paced_batches(rows, difficulties, curriculum, config, seed)


def _documents(corpus: HasFiles, name: str) -> Iterator[tuple[str, float | None]]:
    """Each document of the files, with the number in its column ``name``."""

    def use(path: Path, number: int, row: dict[str, Any]) -> tuple[str, float | None]:
        text = "\n".join(column(path, number, row, field) for field in corpus.fields)
        return text, number_in(f"{path}:{number}", name, row.get(name)) if name else None

    for file in corpus.files:
        yield from read_usable(Path(file).expanduser(), use, corpus.bad_rows)


def paced_lines(
    ctx: Context,
    curriculum: SupervisedCurriculum,
    sources: Sequence[Lines],
    learner: LearnerConfig,
    total: int,
    seed: int,
) -> PacedLines:
    """The order of each source's lines. All lines are read once, a chunk in memory at a time (for rarity
    twice)."""
    if curriculum.reference:
        model = ctx.runtime.learner(ctx.model(curriculum.reference), learner)
        found = [_by_line(source, lambda rows: losses_of(model, rows)) for source in sources]
        ctx.runtime.release(model)
    elif curriculum.by == "length":
        found = [[-float(len(source.line(index))) for index in range(len(source))] for source in sources]
    else:
        rarity = _rarity(sources)
        found = [
            [float(rarity[np.concatenate(source.line(index))].mean()) for index in range(len(source))]
            for source in sources
        ]
    orders = tuple(np.asarray(by_difficulty(own, seed), dtype=np.int64) for own in found)
    ctx.log.info(f"curriculum: {sum(map(len, orders))} lines in the order of their difficulty")
    return PacedLines(orders, curriculum.pacing, total, seed)


def _rarity(sources: Sequence[Lines]) -> np.ndarray:
    """-log of each token's share of all sources' lines, [V]."""
    counts = np.zeros(1, dtype=np.int64)
    for source in sources:
        for index in range(len(source)):
            own = np.bincount(np.concatenate(source.line(index)).astype(np.int64))
            if len(own) > len(counts):
                counts = np.pad(counts, (0, len(own) - len(counts)))
            counts[: len(own)] += own
    rarity: np.ndarray = -np.log(np.maximum(counts, 1) / counts.sum())
    return rarity


def _by_line(source: Lines, losses: Callable[[Sequence[Row]], list[float]]) -> list[float]:
    """The mean loss of each line's pieces, each a row of its own, by their tokens."""
    found: list[float] = []
    for start in range(0, len(source), _CHUNK):
        lines = [source.line(index) for index in range(start, min(start + _CHUNK, len(source)))]
        rows = [text_row(piece) for line in lines for piece in line]
        values = iter(zip(losses(rows), rows, strict=True))
        for line in lines:
            own = [next(values) for _ in line]
            sizes = [max(1, len(row.token_ids) - 1) for _, row in own]
            found.append(sum(loss * size for (loss, _), size in zip(own, sizes, strict=True)) / sum(sizes))
    return found


def _reference_losses(
    ctx: Context, reference: str, learner: LearnerConfig, rows: Sequence[Row]
) -> list[float]:
    model = ctx.runtime.learner(ctx.model(reference), learner)
    losses = losses_of(model, rows)
    ctx.runtime.release(model)
    return losses
