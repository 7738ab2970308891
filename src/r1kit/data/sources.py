"""Reading what users have: JSON Lines files, row by row, with errors that name file and line."""

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1kit.config import R1kitError


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a .jsonl or .jsonl.gz file. Raises R1kitError naming the line that is not a JSON object."""
    if not path.is_file():
        raise R1kitError(f"{path}: no such file (looked up from {Path.cwd()})")
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise R1kitError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno}); mend or remove the line") from None
                if not isinstance(row, dict):
                    raise R1kitError(f'{path}:{number}: a row must be an object such as {{"prompt": ...}}, not {type(row).__name__}')
                yield number, row
        except UnicodeDecodeError as error:
            raise R1kitError(f"{path}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None


def column(path: Path, number: int, row: dict[str, Any], name: str) -> str:
    """A row's text column. Raises R1kitError naming file, line and the columns there are."""
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise R1kitError(f"{path}:{number}: column {name!r} is missing or not a text; the row has: {', '.join(row)}")
    return value


def texts(files: Sequence[Path], fields: Sequence[str], seed: int) -> Iterator[str]:
    """Documents for pretraining, endless: all rows of all files, shuffled anew each epoch; ``fields`` joined by a newline."""
    found = ["\n".join(column(path, number, row, name) for name in fields) for path in files for number, row in read_jsonl(path)]
    if not found:
        raise R1kitError(f"no rows in {', '.join(map(str, files))}")
    for epoch in range(1_000_000):
        order = list(range(len(found)))
        random.Random(f"texts/{seed}/{epoch}").shuffle(order)
        for index in order:
            yield found[index]


def pairs(path: Path) -> list[tuple[str, str]]:
    """(prompt, completion) rows of a file."""
    return [(column(path, number, row, "prompt"), column(path, number, row, "completion")) for number, row in read_jsonl(path)]


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows beside and rename, so that a file is whole or not there."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    temporary.replace(path)
