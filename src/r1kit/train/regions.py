"""Which part of each tensor a process holds, as plain numbers: every process can compute every other's part.

The processes of a group of ``size`` are a grid: ``data`` rows of ``width`` neighbours. The neighbours hold
different experts (``expert``) or different columns of each layer (``tensor``), or are as any others. A tensor
is cut along one dimension after another, in pieces of equal length, of which the last may be shorter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["plain", "expert", "tensor"]
Cut = tuple[int, int, int]  # dimension, place, count


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a tensor: where it begins, and how large it is."""

    offset: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def numbers(self) -> int:
        count = 1
        for length in self.size:
            count *= length
        return count

    def ranges(self) -> tuple[slice, ...]:
        return tuple(
            slice(start, start + length) for start, length in zip(self.offset, self.size, strict=True)
        )


def cut(shape: Sequence[int], cuts: Sequence[Cut]) -> Region:
    """What is left of a tensor after all cuts."""
    offset, size = [0] * len(shape), list(shape)
    for dimension, place, count in cuts:
        step = -(-size[dimension] // count)
        start = min(place * step, size[dimension])
        offset[dimension] += start
        size[dimension] = min(step, size[dimension] - start)
    return Region(tuple(offset), tuple(size))


@dataclass(frozen=True, slots=True)
class Grid:
    """``size`` processes of which ``width`` neighbours are of the ``kind`` above."""

    size: int
    kind: Kind = "plain"
    width: int = 1

    @property
    def data(self) -> int:
        """How many shares the rows of an update have: neighbours that hold columns compute the same rows."""
        return self.size // self.width if self.kind == "tensor" else self.size

    def data_rank(self, rank: int) -> int:
        return rank // self.width if self.kind == "tensor" else rank

    def cuts(self, name: str, rank: int) -> list[Cut]:
        """How the tensor of that name is cut for a process."""
        row, column = divmod(rank, self.width)
        rows = self.size // self.width
        if self.kind == "expert" and ".mlp.experts." in name:
            return [(0, column, self.width), (1, row, rows)]
        if self.kind == "tensor" and (dimension := tensor_dimension(name)) is not None:
            return [(dimension, column, self.width), (0, row, rows)]
        if self.kind == "tensor" and ".layers." in f".{name}":
            return [(0, row, rows)]
        return [(0, rank, self.size)]

    def region(self, name: str, shape: Sequence[int], rank: int) -> Region:
        """Which part of a tensor of this name and shape a process holds; of a single number, all of it."""
        if not shape:
            return Region((), ())
        return cut(shape, self.cuts(name, rank))

    def copies(self, name: str) -> int:
        """How many processes hold the same part."""
        alone = self.kind != "tensor" or tensor_dimension(name) is not None or ".layers." not in f".{name}"
        return 1 if alone else self.width

    def writes(self, name: str, rank: int) -> bool:
        """Whether this process is the first that holds its part."""
        return self.copies(name) == 1 or rank % self.width == 0


_COLUMNS = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias",
            "gate_proj.weight", "up_proj.weight")  # fmt: skip
_ROWS = ("o_proj.weight", "down_proj.weight")


def tensor_dimension(name: str) -> int | None:
    """Along which dimension tensor parallelism cuts a weight of a dense layer; None: not at all."""
    if ".layers." not in f".{name}":
        return None
    if name.endswith(_COLUMNS):
        return 0
    return 1 if name.endswith(_ROWS) else None
