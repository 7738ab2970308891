"""Rows to batches: packed, shifted once, with exact segments, so that no padding is computed and no row sees another.

A row of n tokens gives n-1 inputs and n-1 targets. Rows are placed best-fit-decreasing into lines of ``context`` positions (DeepSeek-R1,
supplement B.1: best-fit packing into fixed-length chunks); each line's segments are numbered from 1, 0 is padding, and positions restart.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.types import Row


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows as tensors [B, T]; ``rows_BT`` is the index of the row that a position belongs to (-1: padding).

    ``temperatures_BT`` is None where every row's is 1, ``experts_BTLA`` where no row replays any (-1: the model's own choice).
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    segments_BT: Tensor
    positions_BT: Tensor
    rows_BT: Tensor
    weights_BT: Tensor
    advantages_BT: Tensor
    old_logprobs_BT: Tensor
    ref_logprobs_BT: Tensor
    penalties_BT: Tensor
    temperatures_BT: Tensor | None = None
    experts_BTLA: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        tensors = (getattr(self, name) for name in self.__slots__)
        return Batch(*(None if tensor is None else tensor.to(device, non_blocking=True) for tensor in tensors))  # type: ignore[arg-type]


def place(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Best-fit-decreasing bins: lists of indices whose lengths sum to at most ``context``. Deterministic."""
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free positions, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(free, (lengths[index], -1))
        if at == len(free):
            bins.append([index])
            insort(free, (context - lengths[index], len(bins) - 1))
        else:
            room, chosen = free.pop(at)
            bins[chosen].append(index)
            insort(free, (room - lengths[index], chosen))
    return bins


def pack(rows: Sequence[Row], context: int, lines: int) -> list[Batch]:
    """Pack rows into batches of at most ``lines`` lines of at most ``context`` positions.

    A row longer than ``context`` raises R1kitError: cutting it would change what is learned in silence. Several lines are padded to
    ``context`` and to an even number, a single one to 16 positions: CPU libraries compile a product per shape, so few shapes pay.
    """
    lengths = [len(row.token_ids) - 1 for row in rows]
    if lengths and max(lengths) > context:
        raise R1kitError(f"a row of {max(lengths) + 1} tokens does not fit into context {context}; raise learner.context or lower max_tokens")
    bins = [chosen for chosen in place(lengths, context) if sum(lengths[i] for i in chosen)]
    return [_batch(rows, bins[start : start + lines], context) for start in range(0, len(bins), lines)]


def _batch(rows: Sequence[Row], bins: Sequence[Sequence[int]], context: int) -> Batch:
    longest = max(sum(len(rows[i].token_ids) - 1 for i in chosen) for chosen in bins)
    shape = (1, -(-longest // 16) * 16) if len(bins) == 1 else (len(bins) + len(bins) % 2, context)
    tokens, targets, segments, positions = (np.zeros(shape, dtype=np.int64) for _ in range(4))
    owners = np.full(shape, -1, dtype=np.int64)
    mask = np.zeros(shape, dtype=bool)
    weights, advantages, old, ref, penalties = (np.zeros(shape, dtype=np.float32) for _ in range(5))
    for line, chosen in enumerate(bins):
        start = 0
        for segment, index in enumerate(chosen, 1):
            row = rows[index]
            span = slice(start, start + len(row.token_ids) - 1)
            tokens[line, span], targets[line, span] = row.token_ids[:-1], row.token_ids[1:]
            mask[line, span] = row.mask[1:]
            segments[line, span], owners[line, span] = segment, index
            positions[line, span] = np.arange(span.stop - span.start)
            weights[line, span], advantages[line, span] = _targets(row.weight), _targets(row.advantage)
            penalties[line, span] = _targets(row.penalty)
            if row.old_logprobs is not None:
                old[line, span] = row.old_logprobs[1:]
            if row.ref_logprobs is not None:
                ref[line, span] = row.ref_logprobs[1:]
            start = span.stop
    arrays = (tokens, targets, mask, segments, positions, owners, weights, advantages, old, ref, penalties)
    packed = [rows[i] for chosen in bins for i in chosen]
    plain = Batch(*(torch.from_numpy(array) for array in arrays))
    return replace(plain, temperatures_BT=_temperatures(owners, rows, packed), experts_BTLA=_experts(owners, rows, packed))


def _temperatures(owners_BT: np.ndarray, rows: Sequence[Row], packed: Sequence[Row]) -> Tensor | None:
    if all(row.temperature == 1.0 for row in packed):
        return None
    temperatures = np.array([row.temperature for row in rows] + [1.0], dtype=np.float32)
    return torch.from_numpy(temperatures[owners_BT])  # -1, the padding, is the last one


def _experts(owners_BT: np.ndarray, rows: Sequence[Row], packed: Sequence[Row]) -> Tensor | None:
    shapes = {row.experts.shape[1:] for row in packed if row.experts is not None}
    if not shapes:
        return None
    if len(shapes) > 1:
        raise R1kitError(f"rows of one update replay experts of different shapes [layers, experts]: {sorted(shapes)}; all must come from one model")
    experts = np.full((*owners_BT.shape, *shapes.pop()), -1, dtype=np.int16)
    for index in np.unique(owners_BT[owners_BT >= 0]).tolist():
        replayed = rows[index].experts
        if replayed is not None:
            experts[owners_BT == index] = replayed[: len(rows[index].token_ids) - 1]
    return torch.from_numpy(experts)


def _targets(value: float | np.ndarray) -> float | np.ndarray:
    """One number a row stays one; one a token is shifted as the targets are."""
    return value[1:] if isinstance(value, np.ndarray) else value
