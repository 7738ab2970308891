"""How many rows a data file has, and how many tokens a row.

The first rows of a file are read as the stage would read them, with the model's own template and tokenizer
where these are here already; the others are taken to be like them. Where there is no tokenizer yet, a token
is taken to have log2 V bits, as if all V of the vocabulary were equally frequent, and a character
``CHARACTER_BITS``: the entropy of English text by single letters is about 4.1 bits (Shannon 1951), and
digits and signs add to it. That is 3.5 characters for a token of 50,000, and 2.1 of 768."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError, R1kitError
from r1kit.data.sources import read_pairs
from r1kit.recipe.prompt_styles import begun_with
from r1kit.stages.models import PromptStyle
from r1kit.stages.sft import training_row
from r1kit.stages.stage import Stage

CHARACTER_BITS = 4.5
TURN_TOKENS = 4  # of r1kit's own template around a question and an answer: begin, two roles, end
USUAL_VOCABULARY = 50_000
_ROWS_READ = 500

Count = Callable[[dict[str, Any]], list[int]]  # the tokens of each training row that a row of a file gives


def characters_per_token(vocabulary: int | None) -> float:
    """Characters of a text for one token of a vocabulary of so many (None: as large as usual)."""
    return math.log2(max(2, vocabulary or USUAL_VOCABULARY)) / CHARACTER_BITS


def estimating(vocabulary: int | None = None) -> Count:
    """Counts by characters, where there is no tokenizer: a pair of answers (``chosen``, ``rejected``) is two
    rows."""
    each = characters_per_token(vocabulary)

    def count(row: dict[str, Any]) -> list[int]:
        texts = {name: text if isinstance(text, str) else json.dumps(text) for name, text in row.items()}
        answers = [texts.pop(name) for name in ("chosen", "rejected") if name in texts] or [""]
        own = sum(map(len, texts.values()))
        return [max(1, round((own + len(answer)) / each) + TURN_TOKENS) for answer in answers]

    return count


def counting(stage: Stage, model: str, stages: Sequence[Stage], vocabulary: int | None) -> Count:
    """Counts with the template and the tokenizer of the model that a stage trains, where they are here; of
    rows that are no prompt with a completion by characters."""
    otherwise, style = estimating(vocabulary), getattr(stage, "talk", None)
    try:
        folder = begun_with(model, stages)
        chat = style.chat(folder) if folder is not None and isinstance(style, PromptStyle) else None
    except (ConfigError, R1kitError):  # the check of all files says what is wrong
        return otherwise
    if chat is None:
        return otherwise
    turns = getattr(stage, "turns", "last")

    def count(row: dict[str, Any]) -> list[int]:
        try:
            found = read_pairs(Path(), 0, row)
        except R1kitError:
            return otherwise(row)
        chosen = found if turns == "all" else found[-1:]
        return [len(training_row(chat, prompt, response).token_ids) for prompt, response in chosen]

    return count


def count_rows(file: Path, count: Count) -> tuple[float, float] | None:
    """(Rows, mean tokens of a row) of a JSONL file, from its first rows and its size; None without it."""
    try:
        size, read, lines, tokens = file.stat().st_size, 0, 0, list[int]()
        with file.open("rb") as source:
            for line, _ in zip(source, range(_ROWS_READ), strict=False):
                read, lines = read + len(line), lines + 1
                tokens += _of_line(line, count)
    except OSError:
        return None
    if not tokens:
        return 0.0, 1.0
    return size / max(1, read) * len(tokens), max(1.0, sum(tokens) / len(tokens))


def _of_line(line: bytes, count: Count) -> list[int]:
    try:
        row = json.loads(line)
    except ValueError:
        return []
    return count(row) if isinstance(row, dict) else []
