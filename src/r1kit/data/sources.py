"""Read the data of pretraining and fine-tuning: documents and (prompt, completion) pairs from JSON Lines
files."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1kit.chat import Prompt
from r1kit.config import R1kitError
from r1kit.jsonl import BadRows, column, read_jsonl, read_usable, write_jsonl
from r1kit.tasks.prompts import one_turn
from r1kit.tasks.turns import is_conversation, read_prompt

__all__ = ["BadRows", "blend", "column", "pairs", "read_jsonl", "read_pair", "texts", "write_jsonl"]


def texts(
    files: Sequence[Path], fields: Sequence[str], seed: int, bad_rows: BadRows = "error"
) -> Iterator[str]:
    """An endless stream of documents for pretraining: all rows of all files, in a new order each epoch, with
    ``fields`` joined by a newline."""

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


def pairs(path: Path, bad_rows: BadRows = "error") -> list[tuple[Prompt, str]]:
    """(prompt, completion) rows of a file."""
    return read_usable(path, read_pair, bad_rows)


def read_pair(path: Path, number: int, row: dict[str, Any]) -> tuple[Prompt, str]:
    """(prompt, completion) of a row, texts or conversations as TRL has them. Raises R1kitError naming file,
    row and column."""
    prompt: Prompt
    if is_conversation(row.get("prompt")):
        text, earlier = read_prompt(path, number, "prompt", row["prompt"])
        prompt = [*map(dict, earlier), {"role": "user", "content": text}] if earlier else text
    else:
        prompt = column(path, number, row, "prompt")
    written = row.get("completion")
    if is_conversation(written):
        completion = one_turn(path, number, "completion", written, "assistant")
    else:
        completion = column(path, number, row, "completion")
    if not completion.strip():
        raise R1kitError(f"{path}:{number}: column 'completion' is empty; write it or remove the row")
    return prompt, completion
