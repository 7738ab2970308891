"""On-policy distillation: the student samples, and at every token moves towards the teacher's distribution.

    sampled   A_t = log p_T(o_t) - log p_old(o_t), a policy gradient with an advantage a token
    full      L = sum_t w_t sum_v p(v | s_t) [log p(v | s_t) - log p_T(v | s_t)], with its exact gradient

``sampled`` is the form of 2306.13649 and Qwen3 (2505.09388, 4.5); divergence.py computes ``full``. Both
minimise the reverse divergence KL(student || teacher) at the states s_t that the student reaches. The states
are treated as constants: the gradient of a token does not include its effect on the divergence of later
tokens. ``sampled`` needs one number per token from the teacher and equals ``full`` in expectation. ``full``
has no sampling variance within a token, but needs both distributions over the whole vocabulary. There is no
reward. Student and teacher need one tokenizer, since they are compared token by token. DeepSeek-R1 distils by
SFT alone; this continues where SFT on the teacher's answers ends. The loop is rl_loop.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from r1kit.config import Config, R1kitError
from r1kit.data.mixture import Mixture
from r1kit.model.config_json import read_config
from r1kit.rewards import WeightedReward
from r1kit.tokenizer import Tokenizer
from r1kit.train.advantage_rows import policy_row
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.objectives import Needs, Objective, Predictions
from r1kit.train.optimizers import ScheduleConfig
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig
from r1kit.train.rl_loop import RLConfig
from r1kit.train.rollouts import Phase, Policy, sample
from r1kit.train.worker_thread import do_nothing
from r1kit.types import Rollout, Row


class OnPolicyConfig(Config):
    """``divergence`` names the form. A step samples ``group`` answers to each of ``problems`` and makes one
    update of them; its loss is the mean over their tokens. ``rate`` multiplies the learner's learning rate;
    ``save_every`` counts steps."""

    divergence: Literal["sampled", "full"] = "full"
    steps: int = Field(default=200, ge=1)  # updates
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
                "curriculum: it needs to know whether an answer is right, and here is no reward; leave it out"
            )
        return data

    @property
    def loop(self) -> RLConfig:
        """This configuration in the form of the training loop: one update per phase, and no reference."""
        return RLConfig(
            problems=self.problems,
            group=self.group,
            updates_per_rollout=1,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            steps=self.steps,
            schedule=self.schedule,
            save_every=self.save_every,
            reference_refresh=0,
        )


@dataclass(frozen=True, slots=True)
class ReverseDivergence:
    """The full form as an objective of a learner that follows the teacher."""

    needs: ClassVar[Needs] = Needs(("tokens", "divergence", "gap"))

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


# With one update a phase the ratio corrects for rounding, and no clip is reached.
SAMPLED = PolicyLoss(PolicyLossConfig(beta=0.0))


def require_comparable(student: Path, teacher: Path) -> None:
    """Raise R1kitError if the two models have different tokenizers or vocabulary sizes."""
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


@dataclass(frozen=True, slots=True)
class Distillation:
    """On-policy distillation as an ``Algorithm``: an update learns from what the student has sampled. In the
    full form the policy's learner must follow the teacher (``distil``)."""

    config: RLConfig
    policy: Policy
    teacher: LearnerProtocol
    settings: OnPolicyConfig
    rewards: Sequence[WeightedReward] = ()

    def collect(self, mixture: Mixture, seed: int, on_poll: Callable[[], None] = do_nothing) -> Phase:
        groups = sample(self.policy, mixture.draw(self.config.problems), self.config, seed)
        return Phase(groups, [], len(groups), 1)

    def prepare(self, phase: Phase, deals: Sequence[Sequence[int]]) -> tuple[list[list[Rollout]], Metrics]:
        """The only update of a phase has all its rollouts, in the order of the problems."""
        return [
            [rollout for place in sorted(places) for rollout in phase.groups[place]] for places in deals
        ], {}

    def learn(self, part: Sequence[Rollout], step: int, seed: int) -> Metrics:
        scale = self.settings.rate * self.config.schedule.scale(step, self.config.steps)
        return learn(self.policy.learner, self.teacher, part, self.settings, scale)

    def companions(self) -> dict[str, LearnerProtocol]:
        return {}


def distil(config: OnPolicyConfig, policy: Policy, teacher: LearnerProtocol) -> Distillation:
    """The algorithm that moves a policy, the student, towards the teacher."""
    if config.divergence == "full":
        policy.learner.follow(teacher)
    return Distillation(config.loop, policy, teacher, config)


def learn(
    student: LearnerProtocol,
    teacher: LearnerProtocol,
    rollouts: Sequence[Rollout],
    config: OnPolicyConfig,
    scale: float,
) -> Metrics:
    """One update of the student on what it has sampled."""
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


def compared(rows: Sequence[Row], teacher_logprobs: Sequence[np.ndarray]) -> list[Row]:
    """Rows whose advantage at each sampled token is log p_teacher - log p_student."""
    return [
        replace(row, advantage=(found - row.old_logprobs) * row.mask)
        for row, found in zip(rows, teacher_logprobs, strict=True)
    ]
