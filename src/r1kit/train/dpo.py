"""Direct Preference Optimization (2305.18290, eq. 7): a policy learns from pairs, without reward model and
without sampling. The baseline that reward models and reinforcement learning are compared with; DeepSeek-R1
does not use it.

    L = -mean log sigmoid(m),   m = beta [log pi/pi_ref (chosen) - log pi/pi_ref (rejected)]

A response's log-probability is the sum over its tokens, the end token included. The gradient is taken in two
passes, as reward models' is: from the log-probabilities the slopes dL/dlog pi = -+ beta sigmoid(-m) / pairs,
and these are, negated, the weights of a cross-entropy. So chosen and rejected need share neither a batch nor
a process, and no objective of its own is needed."""

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

    beta: float = Field(default=0.1, gt=0.0)
    batch: int = Field(default=64, ge=1)
    epochs: int = Field(default=1, ge=1)
    schedule: ScheduleConfig = ScheduleConfig()
    save_every: int = Field(default=200, ge=1)


@dataclass(frozen=True, slots=True)
class RowPair:
    """Two responses to one prompt as rows, the better one first; the response's tokens are the trained
    ones."""

    chosen: Row
    rejected: Row


def margins(chosen_N: np.ndarray, rejected_N: np.ndarray, beta: float) -> np.ndarray:
    """m [pairs] from the log ratios log pi / pi_ref of chosen and rejected responses: the difference of the
    implicit rewards (eq. 5)."""
    margins_N: np.ndarray = beta * (chosen_N - rejected_N)
    return margins_N


def dpo_slopes(margins_N: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """(dL/dlog pi(chosen), dL/dlog pi(rejected)) of the mean loss."""
    slope_N = beta * sigmoid(-margins_N) / len(margins_N)
    return -slope_N, slope_N


def read_logprobs(learner: LearnerProtocol, pairs: Sequence[RowPair]) -> np.ndarray:
    """Log-probabilities [pairs, 2] of the chosen and the rejected responses, in float64."""
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    return np.array([found.sum(dtype=np.float64) for found in learner.logprobs(rows)]).reshape(-1, 2)


def train(
    learner: LearnerProtocol, pairs: Sequence[RowPair], config: DPOConfig, seed: int, log: Log, out: Path
) -> Metrics:
    """Train ``learner`` on ``pairs``; return the last step's metrics.

    The reference is the learner as it is given. Its log-probabilities are computed once, before the saved
    state of an interrupted training in ``out`` is loaded."""
    reference_N2 = read_logprobs(learner, pairs)
    start = learner.restore(out)["step"] if checkpoint.exists(out) else 0
    batches = minibatches(len(pairs), config.batch, config.epochs, seed)
    metrics: Metrics = {}
    for step in range(start, len(batches)):
        scale = config.schedule.scale(step, len(batches))
        metrics = _learn(
            learner, [pairs[i] for i in batches[step]], reference_N2[batches[step]], config.beta, scale
        )
        log_fault(learner, metrics, log)
        log.step(step, len(batches), metrics)
        if step + 1 < len(batches):
            log.save_point((step + 1) % config.save_every == 0, learner.save, out, {"step": step + 1})
    return metrics


def _learn(
    learner: LearnerProtocol, pairs: Sequence[RowPair], reference_N2: np.ndarray, beta: float, scale: float
) -> Metrics:
    ratios_N2 = read_logprobs(learner, pairs) - reference_N2
    margins_N = margins(ratios_N2[:, 0], ratios_N2[:, 1], beta)
    better_N, worse_N = dpo_slopes(margins_N, beta)
    rows = [replace(pair.chosen, weight=-float(slope)) for pair, slope in zip(pairs, better_N, strict=True)]
    rows += [replace(pair.rejected, weight=-float(slope)) for pair, slope in zip(pairs, worse_N, strict=True)]
    summed = learner.update(rows, CrossEntropy(), scale)
    return _describe(margins_N, ratios_N2) | {
        "optim/grad_norm": summed["grad_norm"],
        "optim/skipped": summed["skipped"],
        "optim/lr_scale": scale,
    }


def evaluate(
    learner: LearnerProtocol, pairs: Sequence[RowPair], reference_N2: np.ndarray, beta: float
) -> Metrics:
    """Loss, accuracy and margin on pairs that were not trained on; ``reference_N2`` was read by
    ``read_logprobs`` before the training."""
    ratios_N2 = read_logprobs(learner, pairs) - reference_N2
    return _describe(margins(ratios_N2[:, 0], ratios_N2[:, 1], beta), ratios_N2)


def _describe(margins_N: np.ndarray, ratios_N2: np.ndarray) -> Metrics:
    return {
        "loss": float(np.logaddexp(0, -margins_N).mean()),
        "accuracy": float((margins_N > 0).mean()),
        "margin": float(margins_N.mean()),
        "chosen_gain": float(ratios_N2[:, 0].mean()),
        "rejected_gain": float(ratios_N2[:, 1].mean()),
    }
