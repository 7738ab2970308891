"""What pretraining and fine-tuning read: documents and (prompt, completion) pairs from JSON Lines files."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1kit.config import R1kitError
from r1kit.jsonl import BadRows, column, read_jsonl, read_usable, write_jsonl

__all__ = ["BadRows", "blend", "column", "pairs", "read_jsonl", "texts", "write_jsonl"]


def texts(
    files: Sequence[Path], fields: Sequence[str], seed: int, bad_rows: BadRows = "error"
) -> Iterator[str]:
    """Documents for pretraining, endless: all rows of all files, in a new order each epoch; ``fields`` joined
    by a newline."""

    def document(path: Path, number: int, row: dict[str, Any]) -> str:
        return "\n".join(column(path, number, row, name) for name in fields)

    found = [text for path in files for text in read_usable(path, document, bad_rows)]
    if not found:
        raise R1kitError(f"no rows in {', '.join(map(str, files))}")
    for epoch in range(1_000_000):
        order = list(range(len(found)))
        random.Random(f"texts/{seed}/{epoch}").shuffle(order)
        for index in order:
            yield found[index]


def blend(sources: Sequence[tuple[float, Iterator[str]]], seed: int) -> Iterator[str]:
    """Documents from several endless sources, each document's source drawn by weight."""
    if len(sources) == 1:
        yield from sources[0][1]
    rng = random.Random(f"blend/{seed}")
    weights = [weight for weight, _ in sources]
    while True:
        yield next(rng.choices(sources, weights)[0][1])


def pairs(path: Path, bad_rows: BadRows = "error") -> list[tuple[str, str]]:
    """(prompt, completion) rows of a file."""

    def pair(path: Path, number: int, row: dict[str, Any]) -> tuple[str, str]:
        prompt, completion = column(path, number, row, "prompt"), column(path, number, row, "completion")
        if not completion.strip():
            raise R1kitError(f"{path}:{number}: column 'completion' is empty; write it or remove the row")
        return prompt, completion

    return read_usable(path, pair, bad_rows)
