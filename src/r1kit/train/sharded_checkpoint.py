"""Training states whose tensors are shared out over processes: the folders of checkpoint.py, with a file for
each process and learner, and which part of which tensor each holds.

    state.00000.safetensors      the parts of process 0, by the tensor's name; NAME.00000...: another learner
    state.parts.json             for every tensor its shape, and for each part file, offset and size

A part is read by the numbers that it covers, not by the process that wrote it, so a state can be restored by
any number of processes, cut in any way. Every parameter and moment has the bits that were saved; sums over
another number of processes round differently from then on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from r1kit.train import checkpoint
from r1kit.train.checkpoint import StateError
from r1kit.train.group import Group
from r1kit.train.regions import Region


@dataclass(frozen=True, slots=True)
class Part:
    """What this process holds of a tensor of this ``shape``. ``writes``: no other process saves the same."""

    shape: tuple[int, ...]
    region: Region
    tensor: Tensor
    writes: bool = True


Parts = Mapping[str, Part]


def save(
    directory: Path, learned: Mapping[str, Parts], group: Group, progress: Mapping[str, int],
    keep: checkpoint.Keep, texts: Mapping[str, str], owners: Sequence[str],
) -> None:  # fmt: skip
    """``checkpoint.save`` by all processes of a group, each its own parts; the state is whole or not there.

    Raises StateError in every process where one of them could not write."""
    step = progress["step"]
    temporary = checkpoint.temporary_of(directory, step)
    _together(directory, step, group, lambda: checkpoint.begin(temporary) if group.rank == 0 else None)
    written = _together(directory, step, group, lambda: _write(temporary, learned, group.rank))
    if group.rank:
        _together(directory, step, group, lambda: None)
        return
    marks = {file: mark for one in written for file, mark in one["marks"].items()}
    tables = {_parts_file(name): json.dumps(_table(written, name), indent=1) + "\n" for name in learned}

    def finish() -> None:
        checkpoint.finish(directory, temporary, progress, {**texts, **tables}, marks, owners)

    _together(directory, step, group, finish)
    checkpoint.let_go(directory, keep)


def _together(directory: Path, step: int, group: Group, work: Any) -> list[Any]:
    """Do a part of the work in every process, and return what each got; raise in all if one could not."""
    try:
        own = {"done": work()}
    except Exception as error:  # a boundary: the others must not wait for this process
        own = {"error": f"process {group.rank}: {error}"}
    found = [json.loads(one) for one in group.gather(json.dumps(own).encode())]
    if errors := [one["error"] for one in found if "error" in one]:
        raise checkpoint.could_not_write(directory, step, "; ".join(errors))
    return [one["done"] for one in found]


def _write(temporary: Path, learned: Mapping[str, Parts], rank: int) -> dict[str, Any]:
    """Write this process's files; their marks and which parts they hold."""
    marks, places = {}, {}
    for name, parts in learned.items():
        file = f"{name or 'state'}.{rank:05d}.safetensors"
        own = {key: part for key, part in parts.items() if part.writes and part.tensor.numel()}
        save_file(
            {key: part.tensor.detach().cpu().contiguous() for key, part in own.items()}, temporary / file
        )
        marks[file] = checkpoint.mark_of(temporary / file)
        places[name] = {
            key: [part.shape, file, part.region.offset, part.region.size] for key, part in own.items()
        }
    return {"marks": marks, "places": places}


def _table(written: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The content of a learner's ``parts.json``."""
    tensors: dict[str, Any] = {}
    for one in written:
        for key, (shape, file, offset, size) in one["places"][name].items():
            tensor = tensors.setdefault(key, {"shape": shape, "parts": []})
            tensor["parts"].append({"file": file, "offset": offset, "size": size})
    return {"processes": len(written), "tensors": tensors}


def _parts_file(name: str) -> str:
    return f"{name or 'state'}.parts.json"


class Reader:
    """The tensors of a learner in the newest whole state (checkpoint.find), read a part at a time."""

    def __init__(self, directory: Path, name: str, owners: Sequence[str]) -> None:
        self.state = checkpoint.find(directory, owners)
        self.file = self.state / _parts_file(name)
        if not self.file.is_file():
            raise StateError(
                f"{self.state} was saved without {self.file.name}, so not by this recipe's runtime and "
                "learners: change the recipe back, or run the stage again with --from"
            )
        self.tensors: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))["tensors"]
        self.progress = checkpoint.progress_in(self.state)

    def read(self, key: str, shape: Sequence[int], region: Region) -> Tensor:
        """A part of a tensor. Raises StateError where the state has no such tensor of this shape."""
        found = self.tensors.get(key)
        if found is None or tuple(found["shape"]) != tuple(shape):
            raise StateError(
                f"{self.file} belongs to another model; delete {self.state.name}, or run the stage again "
                "with --from"
            )
        own: Tensor | None = None
        for part in found["parts"]:
            with safe_open(self.state / part["file"], framework="pt") as opened:
                stored = opened.get_slice(key)
                overlap = _overlap(region, Region(tuple(part["offset"]), tuple(part["size"])))
                if overlap is None:
                    continue
                theirs = stored[_within(overlap, part["offset"])] if overlap.size else opened.get_tensor(key)
                if own is None:
                    own = torch.zeros(region.size, dtype=theirs.dtype)
                own[_within(overlap, region.offset)] = theirs
        return torch.zeros(region.size) if own is None else own

    def keys(self, beginning: str) -> Iterator[str]:
        return (key for key in self.tensors if key.startswith(beginning))


def _overlap(one: Region, other: Region) -> Region | None:
    """What two regions of a tensor have in common; None: nothing."""
    starts = [max(pair) for pair in zip(one.offset, other.offset, strict=True)]
    ends = [
        min(a + n, b + m) for a, n, b, m in zip(one.offset, one.size, other.offset, other.size, strict=True)
    ]
    if any(end <= start for start, end in zip(starts, ends, strict=True)):
        return None
    return Region(tuple(starts), tuple(end - start for start, end in zip(starts, ends, strict=True)))


def _within(region: Region, origin: Sequence[int]) -> tuple[slice, ...]:
    return tuple(
        slice(start - first, start - first + length)
        for start, first, length in zip(region.offset, origin, region.size, strict=True)
    )
