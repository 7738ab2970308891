"""What of a learner's configuration matters for memory and speed."""

from dataclasses import dataclass

from r1kit.train.learner import LearnerConfig, shares_state
from r1kit.train.rounded_adamw import BLOCK

FLOAT32, BFLOAT16 = 4.0, 2.0
INT8_MOMENT = 1 + FLOAT32 / BLOCK  # bytes: a code, and a float32 scale for each block


@dataclass(frozen=True, slots=True)
class LearnerFacts:
    """``weights``, ``gradients`` and ``moment`` are bytes per number; ``rank`` is that of LoRA (0: every
    weight is trained); ``checkpointing``: activations are computed again in the backward pass; ``shared``:
    processes on one machine keep one copy of weights and moments. ``optimizer``: its kind."""

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
    shared: bool = False
    optimizer: str = "adamw"

    @property
    def product_bytes(self) -> float:
        """Bytes per number of the activations that products read."""
        return {"float64": 8.0, "float32": FLOAT32}.get(self.precision, BFLOAT16)


def facts_of(learner: LearnerConfig) -> LearnerFacts:
    """The facts of a learner's configuration."""
    wide = learner.precision == "float64"
    weights = 8.0 if wide else BFLOAT16 if learner.weights == "bfloat16" else FLOAT32
    moment = 8.0 if wide else INT8_MOMENT if learner.optimizer.moments == "int8" else FLOAT32
    return LearnerFacts(
        context=learner.context, lines=learner.lines, precision=learner.precision, head=learner.head,
        weights=weights, gradients=max(weights, FLOAT32), moment=moment,
        moments=2 if learner.optimizer.kind == "adamw" else 1,
        rank=learner.lora.rank if learner.lora else 0, checkpointing=learner.gradient_checkpointing,
        shared=shares_state(learner), optimizer=learner.optimizer.kind,
    )  # fmt: skip
