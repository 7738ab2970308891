"""Read the data of pretraining and fine-tuning: documents and (prompt, completion) pairs from JSON Lines
files."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from r1kit.chat import Prompt
from r1kit.config import R1kitError
from r1kit.data.labels import not_written
from r1kit.data.pacing import number_in
from r1kit.data.schemas import as_pair
from r1kit.jsonl import BadRows, column, read_jsonl, read_usable, write_jsonl
from r1kit.tasks.prompts import CONVERSATIONS, one_turn
from r1kit.tasks.turns import is_conversation, read_prompt, read_turns

__all__ = [
    "BadRows",
    "Turns",
    "blend",
    "column",
    "numbered_pairs",
    "pairs",
    "read_jsonl",
    "read_pairs",
    "texts",
    "write_jsonl",
]

Turns = Literal["last", "all"]  # which assistant turns of a conversation are trained on


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


def pairs(path: Path, bad_rows: BadRows = "error", turns: Turns = "last") -> list[tuple[Prompt, str]]:
    """(prompt, completion) of a file's rows; of a conversation its last assistant turn, or all of them, each
    after the turns before it. Of a file of labels (labels.py) the answers that a person wrote are rows."""
    return [pair for pair, _ in numbered_pairs(path, "", bad_rows, turns)]


def numbered_pairs(
    path: Path, name: str, bad_rows: BadRows = "error", turns: Turns = "last"
) -> list[tuple[tuple[Prompt, str], float | None]]:
    """As ``pairs``, each with the number in the row's column ``name`` (pacing.py); None where the row has
    none, or no column is named."""

    def use(path: Path, number: int, row: dict[str, Any]) -> list[tuple[tuple[Prompt, str], float | None]]:
        found = read_pairs(path, number, row)
        value = number_in(f"{path}:{number}", name, row.get(name)) if name else None
        return [(pair, value) for pair in (found if turns == "all" else found[-1:])]

    return [pair for found in read_usable(path, use, bad_rows, not_written) for pair in found]


def read_pairs(path: Path, number: int, row: dict[str, Any]) -> list[tuple[Prompt, str]]:
    """(prompt, completion) of a row: its columns of these names or of another schema of pairs (Alpaca), or
    each assistant turn of its conversation (``messages``, or ShareGPT's ``conversations``) after the turns
    before it. Raises R1kitError naming file, row and column."""
    row = dict(as_pair(row))
    whole = next((name for name in CONVERSATIONS if is_conversation(row.get(name))), None)
    if whole is None or {"prompt", "completion"} <= row.keys():
        return [_read_pair(path, number, row)]
    turns = read_turns(path, number, whole, row[whole])
    where = f"{path}:{number}: column {whole!r}"
    if turns[-1]["role"] != "assistant":
        raise R1kitError(
            f"{where}: a conversation to train on ends with an assistant turn, not with one of the "
            f"{turns[-1]['role']}; remove what follows the last answer, or the row"
        )
    places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not any(turn["role"] == "user" for turn in turns[: places[0]]):
        raise R1kitError(
            f"{where}: the first assistant turn has no user turn before it; remove it, or the row"
        )
    if not all(turns[place]["content"].strip() for place in places):
        raise R1kitError(f"{where}: an assistant turn is empty; write it or remove the row")
    return [(_prompt_of(turns[:place]), turns[place]["content"]) for place in places]


def _prompt_of(turns: Sequence[dict[str, str]]) -> Prompt:
    """A single question as its text, anything else as turns."""
    return turns[0]["content"] if len(turns) == 1 else list(turns)


def _read_pair(path: Path, number: int, row: dict[str, Any]) -> tuple[Prompt, str]:
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
