"""The gradient of every objective is the same for any micro-batch, packing, order of rows and number of
processes, in float64 to 1e-6."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import Spied, learner_config, model, model_directory, random_rows, shuffled
from torch import Tensor

from r1kit.runtime.local import LocalRuntime
from r1kit.train.algorithms import ALGORITHMS
from r1kit.train.critic import ValueLoss
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import CrossEntropy, Needs, Objective, Predictions
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import PolicyLoss
from r1kit.train.preference import SlopeLoss
from r1kit.types import Row

# Micro-batches of one line, of few lines, of all rows in one; lines that hold one row, several, all.
SPLITS = [(24, 1), (24, 7), (64, 2), (200, 30)]


def exact_config(context: int, lines: int) -> LearnerConfig:
    return learner_config(context, lines).model_copy(update={"precision": "float64"})


@cache
def rows() -> tuple[Row, ...]:
    """Rows with everything that a row can have, their old policy a little off the model's own."""
    plain = random_rows(14, seed=3)
    own = Learner(model(), learner_config(64, 4)).logprobs(plain)
    rng = np.random.default_rng(4)
    made = []
    for number, (row, logprobs_T) in enumerate(zip(plain, own, strict=True)):
        length = len(row.token_ids)
        old, reference = (
            np.where(row.mask, logprobs_T + rng.normal(0, 0.2, length), 0).astype(np.float32)
            for _ in range(2)
        )
        experts = (
            rng.permuted(np.tile(np.arange(4), (length - 1, 1, 1)), axis=-1)[..., :2]
            if number % 3 == 0
            else None
        )
        made.append(
            replace(
                row,
                old_logprobs=old,
                ref_logprobs=reference,
                temperature=(1.0, 0.7)[number % 2],
                experts=experts,
                weight=rng.uniform(0.01, 0.1, length),
                advantage=rng.normal(size=length),
                penalty=rng.uniform(0, 0.1, length),
            )
        )
    return tuple(made)


@dataclass(frozen=True)
class WithFurtherLosses:
    """An objective to which the learner adds the losses of multi-token prediction and of balance."""

    objective: Objective

    @property
    def needs(self) -> Needs:
        return replace(self.objective.needs, mtp_weight=0.3, balance_weight=0.1)

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(predictions, batch)


def objectives() -> dict[str, Objective]:
    found: dict[str, Objective] = {
        name: PolicyLoss(GRPOConfig.parse({"algorithm": name}, name)) for name in ALGORITHMS
    }
    bonus = GRPOConfig.parse(
        {"algorithm": "grpo", "entropy_bonus": 0.1, "epsilon": 0.2, "dual_clip": 3.0}, "test"
    )
    found["entropy_bonus"] = WithFurtherLosses(PolicyLoss(bonus))
    return found | {
        "critic": ValueLoss(0.2),
        "pretraining": CrossEntropy(mtp_weight=0.3, balance_weight=0.1),
        "values": SlopeLoss(),
    }


def gradient(
    objective: Objective, context: int, lines: int, given: list[Row]
) -> tuple[Tensor, dict[str, float]]:
    """What a process adds to the sum over processes: gradients, loads and statistics."""
    spied = Spied(exact_config(context, lines), scalar_head=objective.needs.values)
    metrics = spied.learner.update(given, objective, 0.0)
    assert spied.flat.dtype == torch.float64 and float(spied.flat.abs().max()) > 0
    return spied.flat, metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", objectives())
def test_no_split_order_or_process_changes_the_gradient(name: str) -> None:
    objective = objectives()[name]
    expected, metrics = gradient(objective, 80, 4, list(rows()))
    count = sum(parameter.numel() for parameter in model(scalar_head=objective.needs.values).parameters())
    scale = float(expected[:count].abs().max())
    assert scale > 1e-6
    for number, (context, lines) in enumerate(SPLITS):
        found, reported = gradient(objective, context, lines, shuffled(rows(), number))
        assert float((found - expected)[:count].abs().max()) < 1e-6 * scale
        assert reported == pytest.approx(metrics, rel=1e-5, abs=1e-5)
    halves = [gradient(objective, 64, 2, list(rows()[rank::2]))[0] for rank in range(2)]
    assert float((sum(halves) - expected)[:count].abs().max()) < 1e-6 * scale


@pytest.mark.slow
def test_two_processes_find_the_norm_of_one(two: LocalRuntime, tmp_path: Path) -> None:
    directory = model_directory(tmp_path)
    learner, alone = two.learner(directory, exact_config(64, 2)), Learner(model(), exact_config(64, 2))
    for objective in (
        CrossEntropy(mtp_weight=0.3, balance_weight=0.1),
        PolicyLoss(GRPOConfig.parse({"algorithm": "gspo"}, "test")),
    ):
        shared, own = (one.update(list(rows()), objective, 0.0) for one in (learner, alone))
        assert shared["grad_norm"] == pytest.approx(own["grad_norm"], rel=1e-9) and own["grad_norm"] > 1e-4
        assert shared["loss"] == pytest.approx(own["loss"], rel=1e-5)
