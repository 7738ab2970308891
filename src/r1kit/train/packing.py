"""Pack rows into batches, shift targets once, and number segments, so that no row attends to another.

A row of n tokens gives n-1 inputs and n-1 targets. Rows are placed best-fit-decreasing into lines of
``context`` positions (DeepSeek-R1, supplement B.1: best-fit packing into fixed-length chunks); each line's
segments are numbered from 1, 0 is padding, and positions restart.

Rows with the same prompt may share it: the prompt is then one segment of the line, followed by a segment for
the rest of each row, whose positions continue from the prompt's. The shared part ends two positions before
the first trained target, so that every position from which a trained token is predicted, also by multi-token
prediction at depth 1, is the row's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.data.best_fit import place
from r1kit.types import Row


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows as tensors [B, T]; ``rows_BT`` is the index of the row that a position belongs to (-1:
    padding).

    ``temperatures_BT`` is None where every row's is 1, ``experts_BTLA`` where no row replays any (-1: the
    model's own choice), ``beginnings_BT`` (the segment that a position sees besides its own, 0: none) where
    no rows share a beginning, which belongs to no row. All rows of a batch are ``bidirectional``, or none.
    ``labels_BT`` has the class of a row at its first position, and -1 elsewhere, ``label_weights_BT`` its
    weight there; both are None where no row has a class."""

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
    beginnings_BT: Tensor | None = None
    labels_BT: Tensor | None = None
    label_weights_BT: Tensor | None = None
    bidirectional: bool = field(default=False, kw_only=True)

    def to(self, device: torch.device) -> "Batch":
        tensors = (getattr(self, name) for name in self.__slots__ if name != "bidirectional")
        moved: list[Any] = [
            None if tensor is None else tensor.to(device, non_blocking=True) for tensor in tensors
        ]
        return Batch(*moved, bidirectional=self.bidirectional)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Rows, by index, of one line that follow the ``shared`` positions that they begin with (0: a row by
    itself)."""

    rows: tuple[int, ...]
    shared: int


def bundles(rows: Sequence[Row], context: int) -> list[Bundle]:
    """Rows with the same prompt together, as many as fit into a line of ``context`` positions."""
    found = [Bundle((index,), 0) for index, row in enumerate(rows) if not _shared(row)]
    alike: dict[bytes, list[int]] = {}
    for index, row in enumerate(rows):
        if _shared(row):
            alike.setdefault(_beginning(row), []).append(index)
    for chosen in alike.values():
        shared = _shared(rows[chosen[0]])
        for own in place([len(rows[i].token_ids) - 1 - shared for i in chosen], context - shared):
            found.append(Bundle(tuple(chosen[i] for i in own), shared if len(own) > 1 else 0))
    return sorted(found, key=lambda bundle: bundle.rows)


def _shared(row: Row) -> int:
    """How many of a row's inputs another row may share."""
    first = int(row.mask[1:].argmax()) if row.mask[1:].any() else 0
    return max(first - 1, 0)


def _beginning(row: Row) -> bytes:
    shared = _shared(row)
    experts = b"" if row.experts is None else row.experts[:shared].astype(np.int16).tobytes()
    return (
        np.int64(shared).tobytes()
        + np.asarray(row.token_ids[: shared + 1], dtype=np.int64).tobytes()
        + experts
    )


def pack(
    rows: Sequence[Row], context: int, lines: int, share: bool = False, joined: bool = False
) -> list[Batch]:
    """Pack rows into batches of at most ``lines`` lines of at most ``context`` positions; ``share``: rows of
    one prompt share it. Bidirectional rows have batches of their own, after the others.

    ``joined``: the lines of a batch are one, ``lines`` times as long. Whole groups then fit with less
    padding, at no cost if attention skips masked positions. A row longer than ``context`` raises R1kitError,
    since cutting it would silently change what is learned. Several lines are padded to ``context`` and to an
    even number, a single one by a thirty-second at most: CPU libraries compile a product per shape, so few
    shapes are faster."""
    lengths = [len(row.token_ids) - 1 for row in rows]
    if lengths and max(lengths) > context:
        raise R1kitError(
            f"a row of {max(lengths) + 1} tokens does not fit into context {context}; raise "
            "learner.context or lower max_tokens"
        )
    if joined:
        context, lines = context * lines, 1
    causal, both = ([i for i, row in enumerate(rows) if row.bidirectional is kind] for kind in (False, True))
    found = []
    for chosen in (causal, both):
        placed = [Bundle((index,), 0) for index in chosen]
        if share and chosen is causal:  # of a bidirectional row also the beginning depends on what follows
            placed = bundles(rows, context) if not both else _bundles_of(rows, causal, context)
        bins = _bins(placed, lengths, context)
        found += [_batch(rows, bins[start : start + lines], context) for start in range(0, len(bins), lines)]
    return found


def _bundles_of(rows: Sequence[Row], chosen: Sequence[int], context: int) -> list[Bundle]:
    """The bundles of the rows with these indices."""
    found = bundles([rows[index] for index in chosen], context)
    return [replace(bundle, rows=tuple(chosen[place] for place in bundle.rows)) for bundle in found]


def _bins(placed: Sequence[Bundle], lengths: Sequence[int], context: int) -> list[list[Bundle]]:
    """The bundles of each line."""
    sizes = [bundle.shared + sum(lengths[i] - bundle.shared for i in bundle.rows) for bundle in placed]
    return [[placed[i] for i in chosen] for chosen in place(sizes, context) if sum(sizes[i] for i in chosen)]


@dataclass(frozen=True, slots=True)
class _Segment:
    """Inputs ``part`` of a row at positions ``span`` of a line. A shared beginning belongs to no row;
    ``after`` is the number of the beginning that this segment continues (0: none)."""

    row: int
    line: int
    number: int
    span: slice
    part: slice
    after: int = 0
    is_beginning: bool = False


def _segments(rows: Sequence[Row], bins: Sequence[Sequence[Bundle]]) -> list[_Segment]:
    found = []
    for line, chosen in enumerate(bins):
        start, number = 0, 1
        for bundle in chosen:
            after = 0
            if bundle.shared:
                found.append(
                    _Segment(
                        bundle.rows[0],
                        line,
                        number,
                        slice(start, start + bundle.shared),
                        slice(0, bundle.shared),
                        is_beginning=True,
                    )
                )
                start, after, number = start + bundle.shared, number, number + 1
            for index in bundle.rows:
                part = slice(bundle.shared, len(rows[index].token_ids) - 1)
                found.append(
                    _Segment(index, line, number, slice(start, start + part.stop - part.start), part, after)
                )
                start, number = start + part.stop - part.start, number + 1
    return found


def _batch(rows: Sequence[Row], bins: Sequence[Sequence[Bundle]], context: int) -> Batch:
    layout = _segments(rows, bins)
    longest = max(segment.span.stop for segment in layout)
    step = max(16, longest // 512 * 16)
    width = min(-(-longest // step) * step, -(-context // 16) * 16)
    shape = (1, width) if len(bins) == 1 else (len(bins) + len(bins) % 2, context)
    tokens, targets, numbers, positions, beginnings = (np.zeros(shape, dtype=np.int64) for _ in range(5))
    owners = np.full(shape, -1, dtype=np.int64)
    mask = np.zeros(shape, dtype=bool)
    weights, advantages, old, ref, penalties = (np.zeros(shape, dtype=np.float32) for _ in range(5))
    for segment in layout:
        row, part, at = rows[segment.row], segment.part, (segment.line, segment.span)
        predicted = row.token_ids if row.targets is None else row.targets
        tokens[at], targets[at] = row.token_ids[:-1][part], predicted[1:][part]
        numbers[at], positions[at], beginnings[at] = (
            segment.number,
            np.arange(part.start, part.stop),
            segment.after,
        )
        if segment.is_beginning:
            continue
        owners[at], mask[at] = segment.row, row.mask[1:][part]
        weights[at], advantages[at] = _targets(row.weight, part), _targets(row.advantage, part)
        penalties[at] = _targets(row.penalty, part)
        if row.old_logprobs is not None:
            old[at] = row.old_logprobs[1:][part]
        if row.ref_logprobs is not None:
            ref[at] = row.ref_logprobs[1:][part]
    arrays = (tokens, targets, mask, numbers, positions, owners, weights, advantages, old, ref, penalties)
    packed = [rows[segment.row] for segment in layout if not segment.is_beginning]
    plain = Batch(*(torch.from_numpy(array) for array in arrays))
    labels, label_weights = _labels(shape, layout, rows)
    return replace(
        plain,
        labels_BT=labels,
        label_weights_BT=label_weights,
        bidirectional=bool(packed) and packed[0].bidirectional,
        temperatures_BT=_temperatures(owners, rows, packed),
        experts_BTLA=_experts(shape, layout, rows, packed),
        beginnings_BT=torch.from_numpy(beginnings) if beginnings.any() else None,
    )


def _temperatures(owners_BT: np.ndarray, rows: Sequence[Row], packed: Sequence[Row]) -> Tensor | None:
    if all(row.temperature == 1.0 for row in packed):
        return None
    temperatures = np.array([row.temperature for row in rows] + [1.0], dtype=np.float32)
    return torch.from_numpy(temperatures[owners_BT])  # -1, the padding, is the last one


def _experts(
    shape: tuple[int, int], layout: Sequence[_Segment], rows: Sequence[Row], packed: Sequence[Row]
) -> Tensor | None:
    shapes = {row.experts.shape[1:] for row in packed if row.experts is not None}
    if not shapes:
        return None
    if len(shapes) > 1:
        raise R1kitError(
            "rows of one update replay experts of different shapes [layers, experts]: "
            f"{sorted(shapes)}; all must come from one model"
        )
    experts = np.full((*shape, *shapes.pop()), -1, dtype=np.int16)
    for segment in layout:
        replayed = rows[segment.row].experts
        if replayed is not None:
            experts[segment.line, segment.span] = replayed[segment.part]
    return torch.from_numpy(experts)


def _labels(
    shape: tuple[int, int], layout: Sequence[_Segment], rows: Sequence[Row]
) -> tuple[Tensor | None, Tensor | None]:
    """The rows' classes and their weights, at the first position of each row."""
    if all(rows[segment.row].label < 0 for segment in layout):
        return None, None
    labels, weights = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    for segment in layout:
        at = segment.line, segment.span.start
        labels[at], weights[at] = rows[segment.row].label, rows[segment.row].label_weight
    return torch.from_numpy(labels), torch.from_numpy(weights)


def blank() -> Batch:
    """A batch of padding only, with which a process takes part in a pass without rows."""
    zeros = [torch.zeros(1, 16, dtype=torch.int64) for _ in range(4)]
    floats = [torch.zeros(1, 16) for _ in range(5)]
    mask, owners = torch.zeros(1, 16, dtype=torch.bool), torch.full((1, 16), -1)
    return Batch(zeros[0], zeros[1], mask, zeros[2], zeros[3], owners, *floats)


def _targets(value: float | np.ndarray, part: slice) -> float | np.ndarray:
    """Values that are one number per row are returned as they are; values per token are shifted like the
    targets."""
    return value[1:][part] if isinstance(value, np.ndarray) else value
