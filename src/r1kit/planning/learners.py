"""What of a learner's configuration matters for memory and speed. Keys that this learner does not have are
those of a full float32 learner."""

from dataclasses import dataclass
from typing import Any

FLOAT32, BFLOAT16 = 4.0, 2.0
INT8_MOMENT = 1.03  # bytes: one, and a float32 scale for every 128 values


@dataclass(frozen=True, slots=True)
class LearnerFacts:
    """``weights``, ``gradients`` and ``moment`` are bytes per number; ``rank`` is that of LoRA (0: every
    weight is trained); ``checkpointing``: activations are computed again in the backward pass."""

    context: int
    lines: int
    precision: str = "bfloat16"
    head: str = "float32"
    weights: float = FLOAT32
    gradients: float = FLOAT32
    moment: float = FLOAT32
    moments: int = 2
    rank: int = 0
    checkpointing: bool = False

    @property
    def product_bytes(self) -> float:
        """Bytes per number of the activations that products read."""
        return {"float64": 8.0, "float32": FLOAT32}.get(self.precision, BFLOAT16)


def facts_of(learner: Any) -> LearnerFacts:
    """The facts of a LearnerConfig, by the names of its keys."""
    lora = getattr(learner, "lora", None)
    wide = learner.precision == "float64"
    weights = 8.0 if wide else BFLOAT16 if getattr(learner, "weights", "") == "bfloat16" else FLOAT32
    small = "int8" in (getattr(learner, "moments", ""), getattr(learner.optimizer, "moments", ""))
    moment = 8.0 if wide else INT8_MOMENT if small else FLOAT32
    return LearnerFacts(
        context=learner.context, lines=learner.lines, precision=learner.precision, head=learner.head,
        weights=weights, gradients=max(weights, FLOAT32) if wide else weights, moment=moment,
        moments=2 if learner.optimizer.kind == "adamw" else 1,
        rank=int(getattr(lora, "rank", 0) or 0),
        checkpointing=bool(getattr(learner, "gradient_checkpointing", False)),
    )  # fmt: skip
