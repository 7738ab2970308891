"""Floating-point operations, and the bytes that decoding reads.

A product of one token with P parameters is 2 P operations, its backward pass twice that (Kaplan et al. 2020,
section 2.1). Attention adds, per layer and head, 2 (key + value) operations for every position that is seen:
half of a row's length on average. Decoding reads, at every step, the weights that any live row needs and the
cache of every live row."""

from r1kit.planning.shapes import Shape

FORWARD, BACKWARD = 2.0, 4.0  # operations per parameter and token


def forward_operations(shape: Shape, tokens: float, length: float) -> float:
    """Operations of reading ``tokens`` tokens in rows of ``length``."""
    seen = length / 2
    attention = 2.0 * shape.layers * shape.heads * (shape.key + shape.value) * seen
    return tokens * (FORWARD * shape.active + attention)


def training_operations(shape: Shape, tokens: float, length: float, again: bool = False) -> float:
    """Operations of a forward and a backward pass; ``again``: with a second forward pass (checkpointing)."""
    passes = (FORWARD + BACKWARD) / FORWARD + (1.0 if again else 0.0)
    return passes * forward_operations(shape, tokens, length)


def decoding_operations(shape: Shape, tokens: float, seen: float) -> float:
    """Operations of sampling ``tokens`` tokens that see ``seen`` positions on average."""
    attention = 2.0 * shape.layers * shape.heads * (shape.cache_key + shape.cache_value) * seen
    return tokens * (FORWARD * shape.active + attention)


def bytes_per_step(shape: Shape, rows: float, seen: float, number: float) -> float:
    """Bytes that one decoding step of ``rows`` rows reads; ``number``: bytes per number. Of the routed
    experts, the share that any of the rows takes."""
    touched = 1.0
    if shape.experts:
        touched = 1.0 - (1.0 - shape.active_experts / shape.experts) ** rows
    dense = shape.active - shape.expert_parameters * shape.active_experts / max(1, shape.experts)
    return number * (dense + touched * shape.expert_parameters + cache_numbers(shape, rows * seen))


def cache_numbers(shape: Shape, positions: float) -> float:
    """Numbers that the key-value cache holds for so many positions."""
    return positions * shape.layers * shape.cached
