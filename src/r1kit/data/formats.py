"""Rows of a data file of any format, one at a time: JSON Lines, Parquet, Arrow and text.

A row that cannot be read is given back as a fault, with what is wrong, and reading goes on after it. A file
that is not whole (a torn gzip file, a Parquet file without its end) is refused: how many rows it has lost is
not known."""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from r1kit.config import ConfigError, R1kitError
from r1kit.data.columnar import arrow_rows, parquet_rows
from r1kit.files import pointer_error
from r1kit.jsonl import DENSE_BYTES, MOST_DENSE, longest_row, parse_row

Format = Literal["jsonl", "parquet", "arrow", "text"]
Pieces = Literal["file", "paragraphs", "lines"]

BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
}
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A row as it was read. ``number``: its line or row in the file, from 1. ``after``: how many bytes of an
    uncompressed file are read with it, to continue there (0: not known). Either ``row`` or ``fault``, why it
    cannot be read, with the ``beginning`` of what stands there."""

    number: int
    after: int
    row: dict[str, Any] | None = None
    fault: str = ""
    beginning: str = ""


def format_of(path: Path) -> Format | None:
    """The format that a file's name says, ``.gz`` left out; None for another name."""
    name = path.name.removesuffix(".gz")
    return BY_SUFFIX.get(Path(name).suffix.lower())


def read_rows(
    path: Path, kind: Format, pieces: Pieces = "file", start: int = 0, offset: int = 0
) -> Iterator[Found]:
    """The rows of a file without its first ``start``; ``offset``: the bytes that they take (Found.after), so
    that they need not be read again. Raises R1kitError for a file that is missing or not whole."""
    if not path.is_file():
        raise R1kitError(f"{path}: no such file (looked up from {Path.cwd()})")
    if error := pointer_error(path):
        raise R1kitError(error)
    if kind in ("parquet", "arrow"):
        read = parquet_rows if kind == "parquet" else arrow_rows
        for number, row in read(path, start):
            yield Found(number, 0, row)
    elif kind == "jsonl":
        yield from _json_rows(path, start, offset)
    else:
        yield from _text_rows(path, pieces, start, offset)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a file, its end included. ``text`` is cut to the longest row where ``whole`` is false."""

    number: int
    after: int
    text: bytes
    whole: bool


def _lines(path: Path, start: int, offset: int) -> Iterator[_Line]:
    """The lines of a file, gzipped or not, after its first ``start``. Of a line that is too long the rest is
    read past, without keeping it."""
    longest = longest_row()
    packed = path.suffix == ".gz"
    densest = max(DENSE_BYTES, MOST_DENSE * path.stat().st_size)
    try:
        with _opened(path, packed) as file:
            number = start if offset and not packed else 0
            after = offset if offset and not packed else 0
            file.seek(after)
            while text := file.readline(longest + 1):
                number, after = number + 1, after + len(text)
                if packed and after > densest:
                    raise R1kitError(
                        f"{path}:{number}: the file unpacks to more than {MOST_DENSE} times its size, so it "
                        "is hardly data; unpack it yourself if it is"
                    )
                whole = len(text) <= longest
                rest = text
                while not whole and rest and not rest.endswith(b"\n"):
                    rest = file.readline(_BUFFER)
                    after += len(rest)
                if number > start:
                    yield _Line(number, 0 if packed else after, text, whole)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise R1kitError(f"{path}: not a whole gzip file ({error}); copy or compress it again") from None
    except OSError as error:
        raise R1kitError(f"{path}: cannot be read: {error.strerror or error}") from None


def _opened(path: Path, packed: bool) -> IO[bytes]:
    if packed:
        return io.BufferedReader(gzip.open(path, "rb"), _BUFFER)
    return path.open("rb", buffering=_BUFFER)


def _json_rows(path: Path, start: int, offset: int) -> Iterator[Found]:
    for line in _lines(path, start, offset):
        if not line.text.strip():
            continue
        beginning = line.text[:200].decode("utf-8", "replace").rstrip("\n")
        if not line.whole:
            yield Found(line.number, line.after, None, _too_long(path, line.number, "row"), beginning)
            continue
        try:
            yield Found(line.number, line.after, parse_row(path, line.number, line.text))
        except R1kitError as error:
            yield Found(line.number, line.after, None, str(error), beginning)


def _too_long(path: Path, number: int, what: str) -> str:
    return (
        f"{path}:{number}: a {what} of more than {longest_row() / 1e6:g} MB; shorten or remove it, or set "
        "R1KIT_LONGEST_ROW_MB"
    )


def _text_rows(path: Path, pieces: Pieces, start: int, offset: int) -> Iterator[Found]:
    """A text as rows with the column ``text``: the whole file, its paragraphs (what stands between empty
    lines), or its lines. The number of a row is that of its last line, so ``start`` is a number of lines."""
    longest = longest_row()
    if pieces == "file" and path.suffix != ".gz" and path.stat().st_size > longest:
        raise ConfigError(
            f"{path}: a text of more than {longest / 1e6:g} MB; read it in pieces (pieces: paragraphs, or "
            "lines), or set R1KIT_LONGEST_ROW_MB"
        )
    held: list[bytes] = []  # the lines of a piece; those of one that is too long are not kept
    size = first = last = after = 0
    fault = ""

    def piece() -> Found:
        return _piece(path, first, last, after, b"".join(held), fault)

    for line in _lines(path, start, offset):
        blank = not line.text.strip()
        if pieces == "paragraphs" and blank and held:
            yield piece()
            held, size, fault = [], 0, ""
        if blank and (pieces != "file" or not held):
            continue
        first = first if held else line.number
        last, after, size = line.number, line.after, size + len(line.text)
        if not line.whole or size > longest:
            fault = _too_long(path, first, "piece")
        if not held or not fault:
            held.append(line.text)
        if pieces == "lines":
            yield piece()
            held, size, fault = [], 0, ""
    if held:
        yield piece()


def _piece(path: Path, first: int, last: int, after: int, content: bytes, fault: str) -> Found:
    """The row of these lines; a fault names the line."""
    beginning = content[:200].decode("utf-8", "replace")
    if fault:
        return Found(last, after, None, fault, beginning)
    try:
        text = content.decode("utf-8-sig" if first == 1 else "utf-8")
    except UnicodeDecodeError as error:
        utf16 = " (it looks like UTF-16)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        bad = first + content[: error.start].count(b"\n")
        return Found(
            last,
            after,
            None,
            f"{path}:{bad}: not UTF-8 ({error.reason} at byte {error.start} of the piece); convert the file "
            f"to UTF-8{utf16}",
            beginning,
        )
    return Found(last, after, {"text": text.rstrip("\r\n")})
