"""Figures that stages other than evaluate report about themselves, by kind of stage.

The report and the benchmarks read only these figures; other entries of the file, such as the metrics of the
last update, are for readers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PretrainFacts:
    """``loss`` in nats per token, of the last update."""

    steps: int
    tokens: int
    loss: float | None


@dataclass(frozen=True, slots=True)
class FinetuneFacts:
    """Rows that were trained on, and rows left out because they are longer than the learner's context;
    ``loss`` of the last update (None without rows)."""

    rows: int
    too_long: int
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class DistillFacts:
    """As for fine-tuning; ``on_policy_divergence`` of the last on-policy update in nats per token (None
    without that part)."""

    rows: int
    too_long: int
    loss: float | None = None
    on_policy_divergence: float | None = None


@dataclass(frozen=True, slots=True)
class RejectionFacts:
    """Completions that were sampled, that were correct, that were kept, and general rows written with
    them."""

    sampled: int
    correct: int
    kept: int
    general: int


@dataclass(frozen=True, slots=True)
class RewardModelFacts:
    """Training pairs and labelled responses, and the accuracy on held-out ones. ``helpful_mean`` and
    ``helpful_std`` are of the helpful model's raw scores, by which they are normalised. A stage that trains
    only one of the two models reports only its figures."""

    helpful_pairs: int | None = None
    helpful_accuracy: float | None = None
    helpful_held_out_pairs: int | None = None
    helpful_mean: float | None = None
    helpful_std: float | None = None
    safety_responses: int | None = None
    safety_accuracy: float | None = None
    safety_held_out: int | None = None


@dataclass(frozen=True, slots=True)
class AlignmentFacts:
    """Updates on checkable problems only, then updates with general prompts and preference rewards."""

    steps_without_preference: int
    steps_with_preference: int


@dataclass(frozen=True, slots=True)
class PreferenceFacts:
    """Pairs that were trained on, and held-out pairs."""

    pairs: int
    held_out_pairs: int


FACTS: Mapping[str, type[Any]] = {
    "pretrain": PretrainFacts,
    "cold_start": FinetuneFacts,
    "sft": FinetuneFacts,
    "rejection_sampling": RejectionFacts,
    "reward_models": RewardModelFacts,
    "dpo": PreferenceFacts,
    "alignment_rl": AlignmentFacts,
    "distill": DistillFacts,
}
