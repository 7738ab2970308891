"""On-policy distillation: the student writes, and at every token is drawn to what the teacher would have said
there.

    sampled   A_t = log p_T(o_t) - log p_old(o_t), a policy gradient with an advantage a token                2306.13649; Qwen3 2505.09388, 4.5
    full      L = sum_t w_t sum_v p(v | s_t) [log p(v | s_t) - log p_T(v | s_t)], with its exact gradient     divergence.py

Both descend the reverse divergence KL(student || teacher) at the states s_t that the student comes to, as if
these did not depend on it: a token is not blamed for the divergence of those after it. ``sampled`` needs one
number a token from the teacher and is ``full`` in expectation; ``full`` has no variance within a token, and
reads both vocabularies. There is no reward. Student and teacher need one tokenizer, since they are compared
token by token. DeepSeek-R1 distils by SFT alone; this continues where SFT on the teacher's answers ends."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from r1kit.config import Config, R1kitError
from r1kit.data.mixture import Mixture
from r1kit.log import Log
from r1kit.model.huggingface import read_config
from r1kit.seeds import derive_seed
from r1kit.tokenizer import Tokenizer
from r1kit.train import checkpoint
from r1kit.train.advantage_rows import policy_row
from r1kit.train.learner import LearnerProtocol, Metrics, log_fault
from r1kit.train.objectives import Objective, Predictions
from r1kit.train.optimizers import ScheduleConfig
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig
from r1kit.train.rollouts import Player, RolloutConfig, agree, play
from r1kit.types import Rollout, Row


class OnPolicyConfig(Config):
    """``divergence`` names the form. A step samples ``group`` answers to each of ``problems`` and makes one
    update of them; its loss is the mean over their tokens. ``rate`` multiplies the learner's learning rate;
    ``save_every`` counts steps."""

    divergence: Literal["sampled", "full"] = "full"
    steps: int = Field(default=200, ge=1)
    problems: int = Field(default=64, ge=1)
    group: int = Field(default=4, ge=1)
    temperature: float = Field(default=1.0, gt=0.0)
    max_tokens: int = Field(default=32_768, ge=1)
    rate: float = Field(default=1.0, gt=0.0)
    schedule: ScheduleConfig = ScheduleConfig()
    save_every: int = Field(default=10, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _no_curriculum(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("curriculum") is not None:
            raise ValueError(
                "curriculum: nobody says here whether an answer is right, since there is no reward; "
                "leave it out"
            )
        return data

    @property
    def rollouts(self) -> RolloutConfig:
        return RolloutConfig(
            problems=self.problems,
            group=self.group,
            updates_per_rollout=1,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True, slots=True)
class ReverseDivergence:
    """The full form as an objective of a learner that follows the teacher."""

    mtp_weight: float = 0.0
    balance_weight: float = 0.0
    wants_entropy: bool = False
    wants_values: bool = False
    names: tuple[str, ...] = ("tokens", "divergence", "gap")

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert predictions.divergence_BT is not None
        divergence_BT = predictions.divergence_BT * batch.mask_BT
        gap_BT = (predictions.logprobs_BT - batch.old_logprobs_BT).detach().abs() * batch.mask_BT
        statistics = {
            "tokens": batch.mask_BT.sum(),
            "divergence": divergence_BT.detach().sum(),
            "gap": gap_BT.sum(),
        }
        return (divergence_BT * batch.weights_BT).sum(), statistics


SAMPLED = PolicyLoss(
    PolicyLossConfig(beta=0.0)
)  # one update a rollout: the ratio corrects for rounding, and no clip is reached


def require_comparable(student: Path, teacher: Path) -> None:
    """Raise R1kitError where two models' token ids do not mean the same, or one has ids that the other has
    not."""
    ours, theirs = Tokenizer.load(student), Tokenizer.load(teacher)
    vocabularies = (ours.backend.get_vocab(), theirs.backend.get_vocab())
    differing = sorted(
        token
        for token in {*vocabularies[0], *vocabularies[1]}
        if vocabularies[0].get(token) != vocabularies[1].get(token)
    )
    sizes = read_config(student).vocab_size, read_config(teacher).vocab_size
    if differing:
        what = f"{len(differing)} tokens have another id or are missing, such as {differing[0]!r}"
    elif ours.eos_id != theirs.eos_id:
        what = f"one ends with {ours.names['eos']!r}, the other with {theirs.names['eos']!r}"
    elif sizes[0] != sizes[1]:
        what = f"their embeddings have {sizes[0]} and {sizes[1]} rows"
    else:
        return
    raise R1kitError(
        f"on_policy: the student {student} and the teacher {teacher} have different tokenizers ({what}) "
        "and cannot be compared token by token. "
        "Take a student with the teacher's tokenizer, or leave on_policy out: distillation on the "
        "teacher's texts needs no common one"
    )


def train(
    config: OnPolicyConfig,
    player: Player,
    teacher: LearnerProtocol,
    mixture: Mixture,
    seed: int,
    log: Log,
    out: Path,
) -> Metrics:
    """Run ``config.steps`` updates of the player's learner, the student, and continue where an interrupted
    training saved its state in ``out``. Returns the last step's metrics."""
    start = player.learner.restore(out)["step"] if checkpoint.exists(out) else 0
    mixture.draw(start * config.problems)
    player.engine.load(player.learner.weights(), start)
    agree(player, mixture, config.rollouts, seed, start, log)
    if config.divergence == "full":
        player.learner.follow(teacher)
    metrics: Metrics = {}
    for step in range(start, config.steps):
        began = time.perf_counter()
        groups = play(
            player, mixture.draw(config.problems), config.rollouts, derive_seed(seed, "rollout", step)
        )
        rollouts = [rollout for group in groups for rollout in group]
        sampled = time.perf_counter()
        learned = learn(
            player.learner, teacher, rollouts, config, config.rate * config.schedule.scale(step, config.steps)
        )
        metrics = (
            describe(rollouts)
            | learned
            | {"time/rollout": sampled - began, "time/update": time.perf_counter() - sampled}
        )
        log.rollouts(
            step,
            [
                {"problem": r.problem.id, "prompt": r.problem.prompt, "index": r.index, "text": r.text}
                for r in rollouts[:32]
            ],
        )
        log_fault(player.learner, metrics, log)
        log.step(step, config.steps, metrics)
        player.engine.load(player.learner.weights(), step + 1)
        log.save_point((step + 1) % config.save_every == 0, player.learner.save, out, {"step": step + 1})
    return metrics


def learn(
    student: LearnerProtocol,
    teacher: LearnerProtocol,
    rollouts: Sequence[Rollout],
    config: OnPolicyConfig,
    scale: float,
) -> Metrics:
    """One update of the student on what it has written."""
    weight = 1.0 / max(1, sum(len(rollout.completion.token_ids) for rollout in rollouts))
    rows = [
        replace(policy_row(rollout, 0.0, weight, temperature=config.temperature), experts=None)
        for rollout in rollouts
    ]
    objective: Objective = ReverseDivergence()
    if config.divergence == "sampled":
        rows, objective = compared(rows, teacher.logprobs(rows)), SAMPLED
    summed = student.update(rows, objective, scale)
    tokens = max(1.0, summed["tokens"])
    total = (
        summed["divergence"]
        if config.divergence == "full"
        else -sum(float(np.sum(row.advantage, dtype=np.float64)) for row in rows)
    )
    return {
        "distill/divergence": total / tokens,
        "sampling/logp_gap_mean": summed["gap"] / tokens,
        "optim/grad_norm": summed["grad_norm"],
        "optim/skipped": summed["skipped"],
    }


def compared(rows: Sequence[Row], told: Sequence[np.ndarray]) -> list[Row]:
    """Rows whose advantage is how much likelier the teacher finds each sampled token than the student did."""
    return [
        replace(row, advantage=(found - row.old_logprobs) * row.mask)
        for row, found in zip(rows, told, strict=True)
    ]


def describe(rollouts: Sequence[Rollout]) -> Metrics:
    lengths = [len(rollout.completion.token_ids) for rollout in rollouts]
    return {
        "completions/mean_length": float(np.mean(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": float(
            np.mean([rollout.completion.finish == "length" for rollout in rollouts])
        ),
    }
