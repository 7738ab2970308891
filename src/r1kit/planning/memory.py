"""Bytes of each phase of a stage on one device: a process's share of the machine, or a GPU.

While learning, a model of P parameters takes, as a rule, 4 P for float32 weights, 8 P for AdamW's moments,
4 P for the flat tensor in which gradients are summed, which is never copied, and 2 P for the bfloat16 copies
that autocast keeps until the backward pass has used them. While sampling, the engine has a packed copy of its
own. Activations are what autograd saves, counted layer by layer."""

from dataclasses import dataclass, fields, replace

from r1kit.planning.learners import BFLOAT16, FLOAT32, LearnerFacts
from r1kit.planning.operations import cache_numbers
from r1kit.planning.shapes import Shape
from r1kit.train.lm_head import ROW_STEP, split_positions

HOLES = 2.0  # of a heap in which batches of every width have been, as a share of the largest batch
ROWS_AT_HEAD = 48  # rows whose logits the engine holds at once (engine/kernels/session.h)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what they hold. ``frozen``: models that do not learn (reference, lagged, teacher); ``copies``:
    what products read, the engine's packed weights and autocast's; ``program``: Python and its libraries."""

    weights: float = 0.0
    gradients: float = 0.0
    moments: float = 0.0
    frozen: float = 0.0
    copies: float = 0.0
    cache: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    program: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(getattr(self, field.name) for field in fields(self)))

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def times(self, factor: float) -> "Memory":
        return Memory(*(getattr(self, field.name) * factor for field in fields(self)))


def trained_parameters(shape: Shape, facts: LearnerFacts) -> float:
    """How many numbers learn: all, or those of LoRA's adapters on every matrix of every layer."""
    if not facts.rank:
        return shape.parameters
    attention = shape.width * 4 + 2 * shape.heads * shape.value + 2 * shape.kv_heads * shape.key
    feed_forward = 3 * (shape.width + shape.hidden)
    return float(shape.layers * facts.rank * (attention + feed_forward))


def held_by_learner(shape: Shape, facts: LearnerFacts, critics: int = 0) -> Memory:
    """What a learner holds all the time once it has learned; ``critics`` are further models that learn."""
    learned, models = trained_parameters(shape, facts), 1 + critics
    adapters = learned if facts.rank else 0.0
    return Memory(
        weights=models * (facts.weights * shape.parameters + FLOAT32 * adapters),
        moments=models * facts.moments * facts.moment * learned,
    )


def held_by_frozen(shape: Shape, facts: LearnerFacts, models: int) -> Memory:
    """Models that only read; with LoRA a reference is the base with the adapter off, so none is held."""
    return Memory(frozen=0.0 if facts.rank else models * facts.weights * shape.parameters)


def while_learning(shape: Shape, facts: LearnerFacts, positions: float) -> Memory:
    """What an update needs besides what is held, with ``positions`` in a micro-batch."""
    learned = trained_parameters(shape, facts)
    gradient = FLOAT32 if facts.rank else facts.gradients
    working = 0.0 if facts.product_bytes >= facts.weights else facts.product_bytes * shape.parameters
    return Memory(
        gradients=gradient * learned,
        copies=working,
        activations=activations(shape, facts, positions),
        logits=head_bytes(shape, facts, max(ROW_STEP, positions)),
    )


def in_only_update(held: Memory, needs: Memory) -> tuple[Memory, Memory]:
    """What is held and needed at the peak of a training of one update: moments are made by its step, when
    activations have been freed."""
    before, after = replace(held, moments=0.0), Memory(gradients=needs.gradients)
    if (before + needs).total >= (held + after).total:
        return before, needs
    return held, after


def with_holes(needs: Memory, share: float) -> Memory:
    """What an update needs in a heap that has held batches of this share of all possible widths: memory that
    is freed is kept (runtime/replica.py), and a tensor of another width does not fit into the holes. Once
    all widths have been met the heap is ``HOLES`` times as large again, by mini's 60 steps of RL."""
    factor = 1.0 + HOLES * share
    return replace(needs, activations=factor * needs.activations, logits=factor * needs.logits)


def activations(shape: Shape, facts: LearnerFacts, positions: float) -> float:
    """Bytes that autograd saves for so many positions; with checkpointing the input of every layer, and one
    layer's own."""
    one = layer_bytes(shape, facts)
    ends = 2 * FLOAT32 * shape.width  # the embedding and the last norm
    if facts.checkpointing:
        return positions * (shape.layers * FLOAT32 * shape.width + one + ends)
    return positions * (shape.layers * one + ends)


def layer_bytes(shape: Shape, facts: LearnerFacts) -> float:
    """Bytes saved per position and layer: both norms' inputs in float32; what products read: two normed
    states, queries, keys, values, attention's result, and gate, up and their product of the feed-forward."""
    number = facts.product_bytes
    attention = shape.heads * (shape.key + shape.value) + shape.kv_heads * (shape.key + shape.value)
    feed_forward = (3 if number == BFLOAT16 else 5) * shape.hidden
    dispatched = 3 * shape.active_experts * shape.width
    read = 2 * shape.width + attention + feed_forward + dispatched
    return number * read + 2 * FLOAT32 * shape.width + FLOAT32 * shape.heads


def head_bytes(shape: Shape, facts: LearnerFacts, positions: float) -> float:
    """Bytes of the logits (lm_head.py): those of one part, their slopes in the head's precision, and the
    head's own gradient and product weight."""
    number = BFLOAT16 if facts.head == "bfloat16" else FLOAT32
    parts = split_positions(max(1, int(positions)), shape.vocabulary)
    rows = min(positions, float(parts[0].stop))
    table = shape.vocabulary * shape.width
    slopes = number if number != FLOAT32 else 0.0  # float32 slopes overwrite the logits
    copied = number if number != FLOAT32 else 0.0
    return rows * shape.vocabulary * (FLOAT32 + slopes) + table * (FLOAT32 + copied)


def while_sampling(shape: Shape, rows: float, length: float, number: float) -> Memory:
    """What an engine needs: its packed copy of the weights, the cache of ``rows`` rows of ``length``
    positions, and logits. ``number``: bytes per number."""
    return Memory(
        copies=number * shape.parameters,
        cache=number * cache_numbers(shape, rows * length),
        logits=min(rows, ROWS_AT_HEAD) * shape.vocabulary * FLOAT32,
    )
