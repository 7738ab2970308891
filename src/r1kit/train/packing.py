"""Pack rows into batches, shift targets once, and number segments, so that no row attends to another.

A row of n tokens gives n-1 inputs and n-1 targets. Rows are placed best-fit-decreasing into lines of
``context`` positions (DeepSeek-R1, supplement B.1: best-fit packing into fixed-length chunks); each line's
segments are numbered from 1, 0 is padding, and positions restart.

Rows with the same prompt may share it: the prompt is then one segment of the line, followed by a segment for
the rest of each row, whose positions continue from the prompt's. The shared part ends two positions before
the first trained target, so that every position from which a trained token is predicted, also by multi-token
prediction at depth 1, is the row's own.

Prompts that begin alike, with the same worked examples, share that beginning in the same way: it is a segment
of the line, the rest of each prompt another that continues it."""

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
    model's own choice), ``beginnings_BT`` (the segment that a position's own segment continues, 0: none;
    that one may continue another) where no rows share a beginning, which belongs to no row. All rows of a
    batch are ``bidirectional``, or none. ``labels_BT`` has the class of a row at its first position, and -1
    elsewhere, ``label_weights_BT`` its weight there; both are None where no row has a class."""

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


LEAST_COMMON = (
    64  # prompts share a beginning of at least so many positions: two blocks of the attention's kernel
)
LONGER = 1.5  # times a line may be its usual length so that it holds a whole group


@dataclass(frozen=True, slots=True)
class Bundle:
    """Rows, by index, of one line that follow the ``shared`` positions that they begin with (0: a row by
    itself)."""

    rows: tuple[int, ...]
    shared: int


@dataclass(frozen=True, slots=True)
class Family:
    """Bundles of one line that begin with the same ``common`` positions (0: a bundle by itself)."""

    bundles: tuple[Bundle, ...]
    common: int = 0


def bundles(rows: Sequence[Row], context: int) -> list[Bundle]:
    """Rows with the same prompt together, as many as fit into a line of ``context`` positions."""
    found = []
    for chosen in prompt_groups(rows):
        shared = _shared(rows[chosen[0]])
        for own in place([len(rows[i].token_ids) - 1 - shared for i in chosen], context - shared):
            found.append(Bundle(tuple(chosen[i] for i in own), shared if len(own) > 1 else 0))
    return sorted(found, key=lambda bundle: bundle.rows)


def families(rows: Sequence[Row], found: Sequence[Bundle], context: int) -> list[Family]:
    """Bundles whose prompts begin alike together, as many as fit into a line of ``context`` positions, in the
    order of their first rows."""
    alike: dict[bytes, list[Bundle]] = {}
    alone = []
    for bundle in found:
        row = rows[bundle.rows[0]]
        if _shared(row) >= LEAST_COMMON:
            alike.setdefault(_beginning(row, LEAST_COMMON), []).append(bundle)
        else:
            alone.append(Family((bundle,)))
    for chosen in alike.values():
        common = _common([rows[bundle.rows[0]] for bundle in chosen])
        for own in place([_size(rows, bundle) - common for bundle in chosen], context - common):
            alone.append(Family(tuple(chosen[i] for i in own), common if len(own) > 1 else 0))
    return sorted(alone, key=lambda family: family.bundles[0].rows)


def line_length(rows: Sequence[Row], usual: int) -> int:
    """How long a line is so that the longest group fits with its prompt, which is then computed once:
    ``usual``, or longer by up to LONGER, which bounds the memory."""
    longest = max((positions([rows[i] for i in group]) for group in prompt_groups(rows)), default=0)
    return max(usual, longest) if longest <= LONGER * usual else usual


def prompt_groups(rows: Sequence[Row]) -> list[list[int]]:
    """The rows, by index, of each prompt; a row that shares nothing is alone."""
    found: dict[bytes | int, list[int]] = {}
    for index, row in enumerate(rows):
        shared = _shared(row)
        found.setdefault(_beginning(row, shared) if shared else index, []).append(index)
    return list(found.values())


def positions(rows: Sequence[Row]) -> int:
    """How many positions rows have in lines of any length, with each prompt once."""
    chosen = [tuple(group) for group in prompt_groups(rows)]
    return sum(_size(rows, Bundle(own, _shared(rows[own[0]]) if len(own) > 1 else 0)) for own in chosen)


def _size(rows: Sequence[Row], bundle: Bundle) -> int:
    """How many positions a bundle has."""
    return bundle.shared + sum(len(rows[i].token_ids) - 1 - bundle.shared for i in bundle.rows)


def _common(rows: Sequence[Row]) -> int:
    """How many inputs all these rows may share: they and their targets are equal, and the experts replayed
    there."""
    first, most = rows[0], min(_shared(row) for row in rows)
    for row in rows[1:]:
        differ = first.token_ids[: most + 1] != row.token_ids[: most + 1]
        most = min(most, int(differ.argmax()) - 1 if differ.any() else most)
        if first.experts is not None and row.experts is not None:
            differ = (first.experts[:most] != row.experts[:most]).any(axis=(1, 2))
            most = int(differ.argmax()) if differ.any() else most
    return most


def _shared(row: Row) -> int:
    """How many of a row's inputs another row may share."""
    first = int(row.mask[1:].argmax()) if row.mask[1:].any() else 0
    return max(first - 1, 0)


def _beginning(row: Row, shared: int) -> bytes:
    """The same for rows that can share their first ``shared`` inputs, and only for them."""
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
    padding, at no cost if attention skips masked positions, and with ``share`` the line may be longer
    (``line_length``). A row longer than ``context`` raises R1kitError,
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
    found = []
    for kind in (False, True):
        chosen = [index for index, row in enumerate(rows) if row.bidirectional is kind]
        # Of a bidirectional row also the beginning depends on what follows, so it is never shared.
        length, placed = _families_of(rows, chosen, context, share and not kind, joined)
        sizes = [f.common + sum(_size(rows, bundle) - f.common for bundle in f.bundles) for f in placed]
        bins = [[placed[i] for i in own] for own in place(sizes, length) if sum(sizes[i] for i in own)]
        found += [_batch(rows, bins[start : start + lines], length) for start in range(0, len(bins), lines)]
    return found


def _families_of(
    rows: Sequence[Row], chosen: Sequence[int], context: int, share: bool, joined: bool
) -> tuple[int, list[Family]]:
    """The length of a line, and what is placed into lines, of the rows with these indices."""
    if not share:
        return context, [Family((Bundle((index,), 0),)) for index in chosen]
    own = [rows[index] for index in chosen]
    length = line_length(own, context) if joined else context
    found = [
        replace(
            family,
            bundles=tuple(
                replace(bundle, rows=tuple(chosen[place] for place in bundle.rows))
                for bundle in family.bundles
            ),
        )
        for family in families(own, bundles(own, length), length)
    ]
    return length, found


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


class _Line:
    """The segments of a line, one after the other."""

    def __init__(self, line: int) -> None:
        self.line, self.end, self.found = line, 0, list[_Segment]()

    def add(self, row: int, part: slice, after: int, is_beginning: bool = False) -> int:
        """Append a part of a row; return its segment's number."""
        span = slice(self.end, self.end + part.stop - part.start)
        number, self.end = len(self.found) + 1, span.stop
        self.found.append(_Segment(row, self.line, number, span, part, after, is_beginning))
        return number


def _segments(rows: Sequence[Row], bins: Sequence[Sequence[Family]]) -> list[_Segment]:
    found = []
    for number, chosen in enumerate(bins):
        line = _Line(number)
        for family in chosen:
            first = family.bundles[0].rows[0]
            common = line.add(first, slice(0, family.common), 0, True) if family.common else 0
            for bundle in family.bundles:
                after, begin = common, family.common
                if bundle.shared > begin:
                    part = slice(begin, bundle.shared)
                    after, begin = line.add(bundle.rows[0], part, after, True), bundle.shared
                for index in bundle.rows:
                    line.add(index, slice(begin, len(rows[index].token_ids) - 1), after)
        found += line.found
    return found


def _batch(rows: Sequence[Row], bins: Sequence[Sequence[Family]], context: int) -> Batch:
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
