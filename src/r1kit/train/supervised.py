"""Supervised training: next-token prediction for pretraining, loss on the response for SFT. One loop serves
both.

The loss of an update is the mean over its trained tokens, so rows carry weight 1 / (trained tokens of the
update)."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from r1kit.config import Config
from r1kit.log import Log
from r1kit.seeds import derive_seed
from r1kit.train import checkpoint
from r1kit.train.learner import LearnerProtocol, Metrics, log_fault
from r1kit.train.objective_mix import ObjectiveMix
from r1kit.train.objectives import CrossEntropy
from r1kit.train.optimizers import ScheduleConfig
from r1kit.types import Row

Measure = Callable[[int], Metrics]  # after so many updates; nothing where it is not due


class BatchRamp(Config):
    """The first update has ``start`` tokens; over the first ``tokens`` tokens of the training its size rises
    in proportion to them to ``batch_tokens`` (DeepSeek-V3, section 4.2: from 3072 to 15360 sequences over the
    first 469B of 14.8T tokens)."""

    start: int = Field(ge=1)
    tokens: int = Field(ge=1)


class SupervisedConfig(Config):
    """DeepSeek-R1's SFT: 2 epochs, cosine to a tenth (supplement B.4.2). ``batch_tokens``: tokens per update.
    ``ramp``: smaller updates at the beginning. ``mtp_every``: one update in so many has the MTP loss; its
    layer costs a quarter of a small model's step. ``save_every`` counts updates."""

    epochs: float = Field(default=2.0, gt=0)  # passes over the rows (R1, supplement B.4.2)
    batch_tokens: int = Field(default=4096, ge=1)
    ramp: BatchRamp | None = None
    schedule: ScheduleConfig = ScheduleConfig(kind="cosine", final=0.1)
    mtp_weight: float = 0.0  # lambda of multi-token prediction; V3: 0.3, later 0.1 (V3, section 4.2)
    mtp_every: int = Field(default=1, ge=1)
    balance_weight: float = 0.0  # alpha of the balance loss; V3: 1e-4 (V3, section 4.2)
    save_every: int = Field(default=200, ge=1)

    def sizes(self) -> Iterator[int]:
        """The tokens of each update, without end."""
        if self.ramp is None:
            yield from itertools.repeat(self.batch_tokens)
        else:
            done = 0
            while True:
                share = min(1.0, done / self.ramp.tokens)
                yield (size := round(self.ramp.start + share * (self.batch_tokens - self.ramp.start)))
                done += size

    def updates_of(self, tokens: int) -> tuple[int, int]:
        """(how many updates, of how many tokens in all) so many tokens make: as many as are full, one at
        least."""
        steps = done = 0
        for size in self.sizes():
            past_ramp = self.ramp is None or done >= self.ramp.tokens
            if past_ramp or done + size > tokens:
                break
            steps, done = steps + 1, done + size
        whole = (tokens - done) // self.batch_tokens if past_ramp else 0
        if steps + whole == 0:
            return 1, size
        return steps + whole, done + whole * self.batch_tokens


def text_row(token_ids: np.ndarray) -> Row:
    """A document: every token but the first is predicted."""
    mask = np.ones(len(token_ids), dtype=bool)
    mask[0] = False
    return Row(token_ids.astype(np.int32), mask, 1.0)


def response_row(prompt_ids: np.ndarray, response_ids: np.ndarray) -> Row:
    """A prompt, which is not trained, and its response, which is, the end token included."""
    mask = np.concatenate([np.zeros(len(prompt_ids), dtype=bool), np.ones(len(response_ids), dtype=bool)])
    return Row(np.concatenate([prompt_ids, response_ids]).astype(np.int32), mask, 1.0)


def weighted(rows: Sequence[Row]) -> list[Row]:
    """The rows of one update with the weight that makes their loss the mean over trained tokens."""
    trained = max(1, sum(int(row.mask[1:].sum()) for row in rows))
    return [replace(row, weight=1.0 / trained) for row in rows]


def update_batches(rows: Iterator[Row], sizes: Iterator[int]) -> Iterator[list[Row]]:
    """Cut a stream of rows into updates of about as many tokens as ``sizes`` says one after the other."""
    batch: list[Row] = []
    tokens, size = 0, next(sizes)
    for row in rows:
        batch.append(row)
        tokens += len(row.token_ids)
        if tokens >= size:
            yield batch
            batch, tokens, size = [], 0, next(sizes)
    if batch:
        yield batch


def epochs_of(rows: Sequence[Row], epochs: float, seed: int) -> list[Row]:
    """All rows in a new order each epoch; a fraction of an epoch takes that share of its order."""
    ordered: list[Row] = []
    for epoch in range(int(np.ceil(epochs))):
        order = np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(len(rows))
        share = min(1.0, epochs - epoch)
        ordered += [rows[i] for i in order[: round(share * len(rows))]]
    return ordered


def train(
    learner: LearnerProtocol,
    batches: Callable[[int], Iterator[list[Row]]],
    steps: int,
    config: SupervisedConfig,
    log: Log,
    out: Path,
    owners: Sequence[str] = (),
    measure: Measure | None = None,
    mix: ObjectiveMix | None = None,
) -> Metrics:
    """Run ``steps`` updates over ``batches(start)``, a stream of batches from a given step on; return the
    last step's metrics. ``measure`` is called before every update and after the last one. ``mix``: the
    objectives that the batches were dealt to, where there are others than the next token.

    The state is saved in ``out`` every ``config.save_every`` steps. An interrupted training resumes from it,
    if it belongs to one of ``owners`` (checkpoint.py)."""
    start = learner.restore(out, "", owners)["step"] if checkpoint.exists(out) else 0
    metrics: Metrics = {}
    for step, rows in zip(range(start, steps), batches(start), strict=False):
        watched = measure(step) if measure else {}
        scale = config.schedule.scale(step, steps)
        ahead = config.mtp_weight if step % config.mtp_every == 0 else 0.0
        if mix is None:
            summed = learner.update(weighted(rows), CrossEntropy(ahead, config.balance_weight), scale)
        else:
            summed = learner.update(mix.weighted(rows), mix.loss(ahead, config.balance_weight), scale)
        metrics = {
            "loss": summed["nats"] / max(1.0, summed["tokens"]),
            "tokens": summed["tokens"],
            "optim/grad_norm": summed["grad_norm"],
            "optim/lr_scale": scale,
            "optim/skipped": summed["skipped"],
        }
        if mix is not None:
            metrics |= mix.metrics(summed)
        if ahead:
            metrics["mtp_loss"] = summed["mtp"]
        if "max_violation" in summed:
            metrics["moe/max_violation"] = summed["max_violation"]
        log_fault(learner, metrics, log)
        if measure and step + 1 == steps:
            watched |= measure(steps)
        log.step(step, steps, metrics | watched)
        if step + 1 < steps:  # the finished model is exported, not saved
            due, progress = (step + 1) % config.save_every == 0, {"step": step + 1}
            log.save_point(due, learner.save, out, progress, {}, {}, owners)
    return metrics


def finetune(
    learner: LearnerProtocol,
    rows: Sequence[Row],
    config: SupervisedConfig,
    seed: int,
    log: Log,
    out: Path,
    owners: Sequence[str] = (),
    measure: Measure | None = None,
    ordered: Sequence[list[Row]] | None = None,
) -> Metrics:
    """SFT: ``config.epochs`` over ``rows``, in a new order each epoch, or the updates ``ordered`` of a
    curriculum. ``measure`` as in ``train``."""
    batches = finetune_batches(rows, config, seed) if ordered is None else list(ordered)
    return train(
        learner, lambda start: iter(batches[start:]), len(batches), config, log, out, owners, measure
    )


def finetune_batches(rows: Sequence[Row], config: SupervisedConfig, seed: int) -> list[list[Row]]:
    """The updates of ``finetune``."""
    return list(update_batches(iter(epochs_of(rows, config.epochs, seed)), config.sizes()))
