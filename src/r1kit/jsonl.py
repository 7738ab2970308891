"""JSON Lines, the one file format for data: a JSON object a line, UTF-8, plain or gzipped; errors name file
and line.

Columns are those of TRL, so its files work unchanged. Other formats are not read; the error says how to bring
them into this one."""

import gzip
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from r1kit.config import ConfigError, R1kitError, shorten
from r1kit.files import POINTERS, pointer_error, replacing

SUFFIXES = (".jsonl", ".jsonl.gz", ".json")
BAD_ROWS_LIMIT = 0.05  # of a file's rows; beyond that it is probably the wrong file
FIRST_ROWS = 20  # that are checked before a run

LONGEST_INTEGER, _PIECE = 200_000, 4000  # digits
LONGEST_ROW_MB = 16  # of a row; the variable R1KIT_LONGEST_ROW_MB sets another limit
MOST_DENSE, DENSE_BYTES = 200, 100_000_000  # how many times a .gz may grow, once it has grown to so much
_SHOWN_COLUMNS, _SHOWN_NAME = 20, 40

_SURROGATE = re.compile("[\ud800-\udfff]")

BadRows = Literal["error", "quarantine"]
Without = Callable[[Path], Collection[int]]  # the lines of a file that are no rows for its reader
Row = TypeVar("Row")

_TO_JSONL = (
    "pip install 'r1kit[data]', then: python -c \"import datasets; "
    "datasets.load_dataset({})['train'].to_json('data.jsonl')\""
)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of every line that is not blank. Raises R1kitError where the file is missing, torn
    or of another format, and for a row that is longer than LONGEST_ROW_MB."""
    _check_format(path)
    longest = longest_row()
    densest = max(DENSE_BYTES, MOST_DENSE * path.stat().st_size) if path.suffix == ".gz" else None
    number = taken = 0
    try:
        with gzip.open(path, "rb") if densest else path.open("rb") as lines:
            while line := lines.readline(longest + 1):
                number, taken = number + 1, taken + len(line)
                if len(line) > longest:
                    raise R1kitError(
                        f"{path}:{number}: a row of more than {longest / 1e6:g} MB; shorten or remove it, or "
                        "set R1KIT_LONGEST_ROW_MB"
                    )
                if densest is not None and taken > densest:
                    raise R1kitError(
                        f"{path}:{number}: the file unpacks to more than {MOST_DENSE} times its size, so it "
                        "is hardly data; unpack it yourself if it is"
                    )
                if line.strip():
                    yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise R1kitError(f"{path}: not a whole gzip file ({error}); copy or compress it again") from None
    except OSError as error:
        raise R1kitError(f"{path}: cannot be read: {error.strerror or error}") from None


def longest_row() -> int:
    """The longest row in bytes. Raises ConfigError where the variable is no number."""
    given = os.environ.get("R1KIT_LONGEST_ROW_MB", str(LONGEST_ROW_MB))
    try:
        longest = int(float(given) * 1e6)
    except (ValueError, OverflowError):
        longest = 0
    if longest <= 0:
        raise ConfigError(f"R1KIT_LONGEST_ROW_MB is {given!r}; give a number of megabytes above 0")
    return longest


def parse_row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The JSON object of a line. Raises R1kitError naming file and line where it is none."""
    try:
        row = _loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        utf16 = " (it looks like UTF-16)" if line[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise R1kitError(
            f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); convert the file to "
            f"UTF-8{utf16}"
        ) from None
    except json.JSONDecodeError as error:
        if number == 1 and line.startswith(POINTERS):
            raise R1kitError(pointer_error(path) or str(path)) from None
        raise R1kitError(
            f"{path}:{number}: not JSON ({error.msg} at column {error.colno}); correct or remove the line"
        ) from None
    except RecursionError:
        raise R1kitError(
            f"{path}:{number}: not JSON that can be read (too many lists or objects within one another); "
            "correct or remove the line"
        ) from None
    except ValueError as error:
        raise R1kitError(
            f"{path}:{number}: not JSON that can be read ({error}); correct or remove the line"
        ) from None
    if not isinstance(row, dict):
        raise R1kitError(
            f'{path}:{number}: a row must be an object such as {{"prompt": ...}}, not {type(row).__name__}'
        )
    return row


def _loads(text: str) -> Any:
    """JSON, with integers of more digits than Python reads by default, up to LONGEST_INTEGER. Raises
    ValueError for an object with two equal keys, of which JSON would take the last."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (json.JSONDecodeError, _RepeatedKeyError):
        raise
    except ValueError:
        return json.loads(text, parse_int=_integer, object_pairs_hook=_object)


class _RepeatedKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _RepeatedKeyError(f"the key {shorten(repeated)} is given twice")
    return found


def _integer(digits: str) -> int:
    """An integer of any length, read in pieces that are below Python's limit."""
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(digits)} digits; {LONGEST_INTEGER} are read")
    unsigned = digits.lstrip("-")
    value = 0
    for start in range(0, len(unsigned), _PIECE):
        piece = unsigned[start : start + _PIECE]
        value = value * 10 ** len(piece) + int(piece)
    return -value if digits.startswith("-") else value


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a file. Raises R1kitError naming the line that is not a JSON object."""
    for number, line in read_lines(path):
        yield number, parse_row(path, number, line)


def _none_of(path: Path) -> Collection[int]:
    return ()


def read_usable(
    path: Path,
    use: Callable[[Path, int, dict[str, Any]], Row],
    bad_rows: BadRows = "error",
    without: Without = _none_of,
) -> list[Row]:
    """What ``use`` makes of each row of a file; it raises R1kitError for a row that it cannot use. The lines
    that ``without`` names are passed over.

    The first bad row stops the reading, or with "quarantine" bad rows are written to FILE.bad.jsonl with line
    and reason, counted, and left out, up to BAD_ROWS_LIMIT of the file. Raises R1kitError naming file and
    line."""
    found: list[Row] = []
    bad: list[dict[str, Any]] = []
    passed = without(path)
    for number, line in read_lines(path):
        if number in passed:
            continue
        try:
            found.append(use(path, number, parse_row(path, number, line)))
        except R1kitError as error:
            if bad_rows == "error":
                raise R1kitError(
                    f"{error}\n(bad_rows: quarantine writes such rows to another file and continues)"
                ) from None
            bad.append(
                {"line": number, "error": str(error), "row": line.decode("utf-8", "replace").rstrip("\n")}
            )
    rows = len(found) + len(bad)
    if len(bad) > BAD_ROWS_LIMIT * rows:
        raise R1kitError(
            f"{path}: {len(bad)} of {rows} rows cannot be used, more than {BAD_ROWS_LIMIT:.0%}; the "
            f"first: {bad[0]['error']}"
        )
    if bad:
        bad_file = path.with_name(f"{path.name}.bad.jsonl")
        try:
            write_jsonl(bad_file, bad)
        except OSError as error:
            raise R1kitError(
                f"{bad_file}: cannot be written ({error.strerror or error}): {path.name} has {len(bad)} "
                "bad rows; correct them"
            ) from None
        print(
            f"r1kit: warning: {path}: {len(bad)} of {rows} rows cannot be used and are left out; "
            f"{bad_file.name} says why",
            file=sys.stderr,
        )
    return found


def first_error(
    path: Path,
    use: Callable[[Path, int, dict[str, Any]], object],
    bad_rows: BadRows = "error",
    without: Without = _none_of,
) -> str | None:
    """What is wrong with a file, as far as its first row shows: the message of ``read_lines``, or that with
    which ``use`` refuses the row; None where the row is good. With "quarantine" one good row of the first
    FIRST_ROWS is enough. The lines that ``without`` names are passed over."""
    last = f"{path}: no rows"
    try:
        passed = without(path)
        rows = ((number, line) for number, line in read_lines(path) if number not in passed)
        for place, (number, line) in enumerate(rows, 1):
            try:
                use(path, number, parse_row(path, number, line))
                return None
            except R1kitError as error:
                last = str(error)
            if bad_rows == "error" or place == FIRST_ROWS:
                break
    except R1kitError as error:
        return str(error)
    return last


# How tables write that there is no value.
NULL_LIKE = frozenset(("nan", "+nan", "-nan", "none", "null", "n/a", "<na>"))
_LONGEST_NULL = max(map(len, NULL_LIKE))


def is_null_like(text: str) -> bool:
    """Whether a text stands for a missing value: what tables write when they are saved as JSON."""
    written = text.strip()
    return len(written) <= _LONGEST_NULL and written.lower() in NULL_LIKE


def column(path: Path, number: int, row: dict[str, Any], name: str) -> str:
    """A row's text column; a number is taken as its text. Raises R1kitError naming file, line and the columns
    there are."""
    value = row.get(name)
    if isinstance(value, float) and not math.isfinite(value):
        what = "NaN, a missing value" if math.isnan(value) else f"{value}, which is no number of JSON"
        raise R1kitError(f"{path}:{number}: column {name!r} is {what}; write it, or remove the row")
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = str(value)
        except ValueError:
            raise R1kitError(
                f"{path}:{number}: column {name!r} is a number of more than "
                f"{sys.get_int_max_str_digits()} digits; write it in quotes, as a text"
            ) from None
    if not isinstance(value, str):
        raise R1kitError(
            f"{path}:{number}: column {name!r} is missing or not a text; the row has: {columns_of(row)}"
        )
    if not value.isascii() and _SURROGATE.search(value):
        raise R1kitError(
            f"{path}:{number}: column {name!r} holds half a character (a lone surrogate); correct or "
            "remove the line"
        )
    return value


def columns_of(row: Iterable[str]) -> str:
    """The names of a row's columns for a message: the first twenty, each cut to a length that can be
    read."""
    names = [name if len(name) <= _SHOWN_NAME else f"{name[: _SHOWN_NAME - 3]}..." for name in row]
    more = f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else ""
    return ", ".join(names[:_SHOWN_COLUMNS]) + more


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows to a temporary file and rename it, so that the file is whole or not there."""
    with replacing(path) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))


def _check_format(path: Path) -> None:
    if path.suffix == ".parquet":
        load = f"'parquet', data_files='{path}'"
        raise R1kitError(f"{path}: Parquet is not read; write it as JSON Lines: {_TO_JSONL.format(load)}")
    if path.is_file():
        return
    if path.is_dir():
        raise R1kitError(f"{path}: a folder; name one .jsonl file in it")
    hint = ""
    if (path.parent / "get.py").is_file():  # data/ of a clone has a script that downloads its files
        hint = f"; get it with: python {path.parent / 'get.py'} {path.name}"
    if not path.suffix and len(path.parts) == 2:
        hint = (
            f". Is it a data set's id on the hub? Write it as JSON Lines: {_TO_JSONL.format(repr(str(path)))}"
        )
    raise R1kitError(f"{path}: no such file (looked up from {Path.cwd()}){hint}")
