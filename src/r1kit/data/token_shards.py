"""Token shards: packed lines of token ids in a file that is mapped into memory, and a header of JSON.

``00000.bin`` holds three arrays, one after the other, little-endian: the tokens of all pieces in the order of
their lines (uint16, or uint32 for a vocabulary above 65,536), the length of each piece (int32), and how many
pieces each line has (int32). ``00000.json`` says how many there are of each, the file's SHA-256, what it was
made of, and where the source continues. It is written last, so a shard with a header is whole. Nothing in
either file is executed when it is read."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from r1kit.config import Config, R1kitError, describe_problems
from r1kit.files import hash_file, replacing, write_whole

FORMAT = "r1kit tokens 1"
WIDEST = 1 << 16  # vocabulary of which an id has two bytes


class Header(Config):
    """What a shard holds. ``made_of``: the hash of settings, tokenizer and seed. ``documents`` are numbered
    from ``first_document``. ``after``: the place in the source behind the last document; ``last``: the source
    ends here."""

    format: str = FORMAT
    source: str
    dtype: str
    context: int
    document_masks: bool
    tokens: int
    pieces: int
    lines: int
    documents: int
    first_document: int
    characters: int
    sha256: str
    made_of: str
    after: dict[str, int]
    last: bool

    @property
    def size(self) -> int:
        """The bytes of the shard's file."""
        return self.tokens * np.dtype(self.dtype).itemsize + 4 * (self.pieces + self.lines)


def header_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def write_shard(
    folder: Path, number: int, lines: Sequence[Sequence[np.ndarray]], vocabulary: int, **facts: Any
) -> Header:
    """Write the pieces of each line as a shard; ``facts`` are further fields of the header."""
    dtype = np.dtype("<u2" if vocabulary <= WIDEST else "<u4")
    pieces = [piece for line in lines for piece in line]
    arrays = (
        np.concatenate([np.zeros(0, dtype), *pieces]).astype(dtype),
        np.asarray([len(piece) for piece in pieces], dtype="<i4"),
        np.asarray([len(line) for line in lines], dtype="<i4"),
    )
    path = header_path(folder, number).with_suffix(".bin")
    digest = hashlib.sha256()
    with replacing(path) as file:
        for array in arrays:
            content = array.tobytes()
            digest.update(content)
            file.write(content)
    header = Header(
        dtype=dtype.str,
        tokens=len(arrays[0]),
        pieces=len(pieces),
        lines=len(lines),
        sha256=digest.hexdigest(),
        **facts,
    )
    write_whole(header_path(folder, number), json.dumps(header.model_dump(), indent=1, sort_keys=True) + "\n")
    return header


def read_header(path: Path) -> Header:
    """Raises R1kitError where the file is no header of a shard."""
    try:
        header = Header.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        said = describe_problems(error) if isinstance(error, ValidationError) else str(error)
        raise R1kitError(f"{path}: no header of a token shard ({said:.200}); make the shards again") from None
    if header.format != FORMAT:
        raise R1kitError(f"{path}: the format is {header.format!r}, not {FORMAT!r}; make the shards again")
    return header


@dataclass(frozen=True, slots=True)
class TokenShard:
    """A shard that can be read: ``tokens`` [N] mapped, ``ends`` [pieces + 1] int64 where each piece begins
    and ends, ``first`` [lines + 1] int64 which pieces a line has."""

    header: Header
    tokens: np.ndarray
    ends: np.ndarray
    first: np.ndarray

    @classmethod
    def open(cls, header_file: Path, whole: bool = False) -> "TokenShard":
        """Raises R1kitError where the file is not of the size that its header says; with ``whole`` it is also
        hashed."""
        header = read_header(header_file)
        path = header_file.with_suffix(".bin")
        size = path.stat().st_size if path.is_file() else -1
        if size != header.size or (whole and hash_file(path) != header.sha256):
            raise R1kitError(
                f"{path}: damaged: it is not what {header_file.name} says; remove both, and make them again"
            )
        dtype = np.dtype(header.dtype)
        content = np.memmap(path, dtype=np.uint8, mode="r") if size else np.zeros(0, dtype=np.uint8)
        place = header.tokens * dtype.itemsize
        lengths = content[place : place + 4 * header.pieces].view("<i4")
        counts = content[place + 4 * header.pieces :].view("<i4")
        return cls(header, content[:place].view(dtype), _ends(lengths), _ends(counts))

    def line(self, index: int) -> list[np.ndarray]:
        """The pieces of a line, each [T] int32."""
        places = range(int(self.first[index]), int(self.first[index + 1]))
        return [
            np.asarray(self.tokens[self.ends[piece] : self.ends[piece + 1]], dtype=np.int32)
            for piece in places
        ]


def _ends(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def shard_headers(folder: Path) -> list[Path]:
    """The headers of a folder's shards in their order. Raises R1kitError where one is missing."""
    found = sorted(folder.glob("[0-9]*.json"))
    for number, path in enumerate(found):
        if path != header_path(folder, number):
            raise R1kitError(f"{header_path(folder, number)}: missing; make the shards again")
    return found
