"""The safetensors files of a model's folder, opened without reading the tensors. Every fault is named with
its file. Pickles are never opened."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from r1kit.config import R1kitError, is_panic
from r1kit.files import pointer_error, read_object

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 20_000_000  # bytes of a safetensors file's list of tensors, some 200,000 of them
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors names them
EIGHT_BITS = "F8_E4M3"  # DeepSeek's 8-bit weights
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


@dataclass(frozen=True, slots=True)
class TensorFile:
    """An open safetensors file. Its library's errors become R1kitErrors that name the file."""

    path: Path
    handle: Any

    @classmethod
    def open(cls, path: Path, stack: ExitStack) -> Self:
        if error := pointer_error(path):
            raise R1kitError(error)
        with _naming(path):
            _check_header(path)
            return cls(path, stack.enter_context(safe_open(path, framework="pt")))

    def names(self) -> list[str]:
        with _naming(self.path):
            return list(self.handle.keys())

    def tensor(self, name: str, rows: slice | None = None) -> Tensor:
        """The whole tensor, or some of its rows."""
        with _naming(self.path):
            tensor: Tensor = (
                self.handle.get_tensor(name) if rows is None else self.handle.get_slice(name)[rows]
            )
            return tensor

    def part(self, name: str, ranges: tuple[slice, ...]) -> Tensor:
        """A part of the tensor, a range of each dimension."""
        with _naming(self.path):
            tensor: Tensor = self.handle.get_slice(name)[ranges]
            return tensor

    def shape(self, name: str) -> list[int]:
        with _naming(self.path):
            return list(self.handle.get_slice(name).get_shape())

    def is_eight_bit(self, name: str) -> bool:
        with _naming(self.path):
            return str(self.handle.get_slice(name).get_dtype()) == EIGHT_BITS

    def check_dtype(self, name: str, eight_bits: bool) -> None:
        """Raise R1kitError where the tensor does not hold floating-point numbers that can be trained, or
        become such (``eight_bits``)."""
        with _naming(self.path):
            dtype = str(self.handle.get_slice(name).get_dtype())
        if dtype not in FLOATS and not (eight_bits and dtype == EIGHT_BITS):
            raise R1kitError(
                f"{self.path}: {name} is of type {dtype}, not one of {', '.join(FLOATS)}; convert the "
                "checkpoint to bfloat16 first"
            )


def _check_header(path: Path) -> None:
    """Raise ValueError where the list of tensors is longer than the file, or than any list is: the library
    would read all of it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > path.stat().st_size - 8:
        raise ValueError(f"its list of tensors is said to have {length} bytes, so the file is cut off")
    if length > LONGEST_HEADER:
        raise ValueError(f"its list of tensors has {length} bytes; {LONGEST_HEADER} are read")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not (isinstance(error, SafetensorError | OSError | ValueError) or is_panic(error)):
            raise
        size = path.stat().st_size if path.is_file() else 0
        raise R1kitError(
            f"{path}: {size} bytes that are not whole safetensors ({error}); download or copy the file again"
        ) from None


def open_tensors(directory: Path, stack: ExitStack) -> dict[str, TensorFile]:
    """Every tensor name of the directory, with the open file that holds it."""
    files = {directory / WEIGHTS}
    if (directory / INDEX).is_file():
        places = read_object(directory / INDEX).get("weight_map")
        if not isinstance(places, dict) or not places or not all(_is_name(file) for file in places.values()):
            raise R1kitError(
                f"{directory / INDEX}: weight_map must name a file of this folder for each tensor; copy the "
                "file again"
            )
        files = {directory / file for file in places.values()}
        if (directory / WEIGHTS).is_file() and directory / WEIGHTS not in files:
            raise R1kitError(
                f"{directory}: {WEIGHTS} and the files of {INDEX} are two sets of weights, and programs "
                "differ in which of them they read; move one away"
            )
    if missing := sorted(file for file in files if not file.is_file()):
        raise R1kitError(f"{directory}: no {', '.join(file.name for file in missing)}{_instead(missing)}")
    source: dict[str, TensorFile] = {}
    for path in sorted(files):
        file = TensorFile.open(path, stack)
        for name in file.names():
            if name in source:
                raise R1kitError(
                    f"{path}: {name} is in {source[name].path.name} too; download the files again"
                )
            source[name] = file
    return source


def _instead(missing: Sequence[Path]) -> str:
    """What is there in the place of missing weights, and what to do."""
    if links := [file for file in missing if file.is_symlink()]:
        return f"; it is a link to {links[0].readlink()}, which is not there: download the model again"
    names = sorted(path.name for path in missing[0].parent.glob("*"))
    if missing[0].name == WEIGHTS and (shards := [name for name in names if _SHARD.fullmatch(name)]):
        return f"; {shards[0]} is one of several, which {INDEX} lists, and that is missing: download it too"
    if pickles := [name for name in names if name.endswith((".bin", ".pt", ".pth"))]:
        return f"; {pickles[0]} is a pickle, which can run code when opened: convert it to safetensors"
    return "; weights are read from safetensors only: download the missing files"


def _is_name(file: object) -> bool:
    return isinstance(file, str) and Path(file).name == file and len(file) <= 255 and "\0" not in file


def weight_files(directory: Path) -> list[Path]:
    """The files of a model's folder that hold its weights. Raises R1kitError where one is missing or is not
    whole."""
    with ExitStack() as stack:
        return sorted({file.path for file in open_tensors(directory, stack).values()})
