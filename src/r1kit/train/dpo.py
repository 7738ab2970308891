"""Direct Preference Optimization (2305.18290, eq. 7): a policy learns from pairs, without reward model and
without sampling. The baseline that reward models and reinforcement learning are compared with; DeepSeek-R1
does not use it.

    L = -mean log sigmoid(m),   m = beta [log pi/pi_ref (chosen) - log pi/pi_ref (rejected)]

A response's log-probability is the sum over its tokens, the end token included. The gradient is computed in
two passes, as for reward models (preference.py). The first computes the log-probabilities and from them the
slopes dL/dlog pi = -+ beta sigmoid(-m) / pairs. The second is a cross-entropy whose weights are the negated
slopes. So chosen and rejected need not be in one batch or process, and DPO needs no objective of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import Field

from r1kit.config import Config
from r1kit.log import Log
from r1kit.train import checkpoint
from r1kit.train.learner import LearnerProtocol, Metrics, log_fault
from r1kit.train.objectives import CrossEntropy
from r1kit.train.optimizers import ScheduleConfig
from r1kit.train.preference import minibatches, sigmoid
from r1kit.types import Row


class DPOConfig(Config):
    """beta 0.1 and batches of 64 pairs are the paper's (appendix B; warm-up 150 steps there). ``save_every``
    counts updates."""

    beta: float = Field(default=0.1, gt=0.0)  # how close to the reference (DPO, 2305.18290, appendix B)
    batch: int = Field(default=64, ge=1)  # pairs of an update (DPO, 2305.18290, appendix B)
    epochs: int = Field(default=1, ge=1)  # passes over the pairs
    schedule: ScheduleConfig = ScheduleConfig()
    save_every: int = Field(default=200, ge=1)


@dataclass(frozen=True, slots=True)
class RowPair:
    """Two responses to one prompt as rows, the better one first; only the response's tokens are trained."""

    chosen: Row
    rejected: Row


def margins(chosen_Y: np.ndarray, rejected_Y: np.ndarray, beta: float) -> np.ndarray:
    """m [pairs] from the log ratios log pi / pi_ref of chosen and rejected responses: the difference of the
    implicit rewards (eq. 5)."""
    margins_Y: np.ndarray = beta * (chosen_Y - rejected_Y)
    return margins_Y


def dpo_slopes(margins_Y: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """(dL/dlog pi(chosen), dL/dlog pi(rejected)) of the mean loss."""
    slope_Y = beta * sigmoid(-margins_Y) / len(margins_Y)
    return -slope_Y, slope_Y


def read_logprobs(learner: LearnerProtocol, pairs: Sequence[RowPair]) -> np.ndarray:
    """Log-probabilities [pairs, 2] of the chosen and the rejected responses, in float64."""
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    return np.array([found.sum(dtype=np.float64) for found in learner.logprobs(rows)]).reshape(-1, 2)


def train(
    learner: LearnerProtocol,
    pairs: Sequence[RowPair],
    config: DPOConfig,
    seed: int,
    log: Log,
    out: Path,
    owners: Sequence[str] = (),
) -> Metrics:
    """Train ``learner`` on ``pairs``; return the last step's metrics.

    The reference is the learner before training. Its log-probabilities are computed once, before a saved
    state of an interrupted training (of one of ``owners``) is restored from ``out``."""
    reference_Y2 = read_logprobs(learner, pairs)
    start = learner.restore(out, "", owners)["step"] if checkpoint.exists(out) else 0
    batches = minibatches(len(pairs), config.batch, config.epochs, seed)
    metrics: Metrics = {}
    for step in range(start, len(batches)):
        scale = config.schedule.scale(step, len(batches))
        metrics = _learn(
            learner, [pairs[i] for i in batches[step]], reference_Y2[batches[step]], config.beta, scale
        )
        log_fault(learner, metrics, log)
        log.step(step, len(batches), metrics)
        if step + 1 < len(batches):
            due, progress = (step + 1) % config.save_every == 0, {"step": step + 1}
            log.save_point(due, learner.save, out, progress, {}, {}, owners)
    return metrics


def _learn(
    learner: LearnerProtocol, pairs: Sequence[RowPair], reference_Y2: np.ndarray, beta: float, scale: float
) -> Metrics:
    ratios_Y2 = read_logprobs(learner, pairs) - reference_Y2
    margins_Y = margins(ratios_Y2[:, 0], ratios_Y2[:, 1], beta)
    better_Y, worse_Y = dpo_slopes(margins_Y, beta)
    rows = [replace(pair.chosen, weight=-float(slope)) for pair, slope in zip(pairs, better_Y, strict=True)]
    rows += [replace(pair.rejected, weight=-float(slope)) for pair, slope in zip(pairs, worse_Y, strict=True)]
    summed = learner.update(rows, CrossEntropy(), scale)
    return _describe(margins_Y, ratios_Y2) | {
        "optim/grad_norm": summed["grad_norm"],
        "optim/skipped": summed["skipped"],
        "optim/lr_scale": scale,
    }


def evaluate(
    learner: LearnerProtocol, pairs: Sequence[RowPair], reference_Y2: np.ndarray, beta: float
) -> Metrics:
    """Loss, accuracy and margin on pairs that were not trained on; ``reference_Y2`` was read by
    ``read_logprobs`` before the training."""
    ratios_Y2 = read_logprobs(learner, pairs) - reference_Y2
    return _describe(margins(ratios_Y2[:, 0], ratios_Y2[:, 1], beta), ratios_Y2)


def _describe(margins_Y: np.ndarray, ratios_Y2: np.ndarray) -> Metrics:
    return {
        "loss": float(np.logaddexp(0, -margins_Y).mean()),
        "accuracy": float((margins_Y > 0).mean()),
        "margin": float(margins_Y.mean()),
        "chosen_gain": float(ratios_Y2[:, 0].mean()),
        "rejected_gain": float(ratios_Y2[:, 1].mean()),
    }
