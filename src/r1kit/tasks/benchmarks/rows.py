"""From the rows of a benchmark to problems: find the file or the data set, pick rows, write prompts."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError, R1kitError
from r1kit.files import hash_file, hash_text
from r1kit.jsonl import columns_of, read_jsonl
from r1kit.tasks.benchmarks import Card, Range, Source
from r1kit.tasks.benchmarks.golds import read_gold
from r1kit.tasks.hub import hub_configs, hub_rows
from r1kit.tasks.programs import ask_for_program
from r1kit.types import Problem

LETTERS = "ABCDEFGHIJ"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """A benchmark's problems, where they are from, a hash of those rows, how many rows ``only`` left out, and
    why others could not be used."""

    problems: tuple[Problem, ...]
    source: str
    data_hash: str
    left_out: int
    faults: tuple[str, ...]


def read_benchmark(card: Card, data: Path | None, limit: int | None = None) -> Read:
    """The problems of a benchmark, at most ``limit``, from a file in the folder ``data`` or from the hub.
    Raises R1kitError where there is neither, or where more than a twentieth of the rows cannot be used."""
    file = find_file(card, data)
    if file is not None:
        rows: Iterable[Row] = (row for _, row in read_jsonl(file))
        source, data_hash = file.name, hash_file(file)
    else:
        rows, source = _hub_rows(card, data), _in_words(card.source)
        rows = list(rows)
        data_hash = hash_text(json.dumps(rows, sort_keys=True, default=str))
    problems, left_out, faults = _problems(card, rows, source)
    if not problems or len(faults) > (len(problems) + len(faults)) / 20:
        first = f"; the first: {faults[0]}" if faults else ""
        raise R1kitError(
            f"{card.name}: {len(faults)} of {len(problems) + len(faults)} rows of {source} cannot be used "
            f"({left_out} are left out by only){first}"
        )
    return Read(tuple(problems[:limit]), source, data_hash, left_out, tuple(faults))


def find_file(card: Card, data: Path | None) -> Path | None:
    """The benchmark's file in a folder, None where it has none."""
    places = [] if data is None else [data / name for name in card.files]
    return next((place for place in places if place.is_file()), None)


def _hub_rows(card: Card, data: Path | None) -> Iterator[Row]:
    where = f" in {data}" if data is not None else ""
    asked = f"put {' or '.join(card.files)}{where or ' into a folder and name it with --data'}"
    if card.source is None:
        raise R1kitError(f"{card.name}: no data{where}: {asked}")
    source = card.source
    try:
        configs = hub_configs(source.hub) if source.config == "*" else [source.config]
        for config in configs:
            for _, row in hub_rows(source.hub, config, source.split):
                yield {"subject": config, **row} if source.config == "*" else row
    except R1kitError as error:
        raise R1kitError(f"{card.name}: no data{where}: {asked}; {_in_words(source)}: {error}") from None


def _in_words(source: Source | None) -> str:
    if source is None:
        return "no data set"
    config = f" ({source.config})" if source.config else ""
    return f"{source.hub}{config} of the hub, split {source.split}"


def _problems(card: Card, rows: Iterable[Row], source: str) -> tuple[list[Problem], int, list[str]]:
    found: dict[str, Problem] = {}
    faults: list[str] = []
    left_out = 0
    for number, row in enumerate(rows, 1):
        if not _is_kept(card, row, source):
            left_out += 1
            continue
        try:
            problem = make_problem(card, row)
            if problem.id in found:
                raise ValueError("a row before it has the same id or text")
        except ValueError as error:
            faults.append(f"{source}, row {number}: {error}")
            continue
        found[problem.id] = problem
    return list(found.values()), left_out, faults


def _is_kept(card: Card, row: Mapping[str, Any], source: str) -> bool:
    for name, allowed in card.only.items():
        if name not in row:
            raise ConfigError(
                f"{card.name}: {source} has no column {name!r}, by which rows are chosen; it has: "
                f"{columns_of(row)}"
            )
        value = str(row[name])
        if isinstance(allowed, Range):
            if not allowed.since <= value < allowed.before:
                return False
        elif value not in allowed:
            return False
    return True


def make_problem(card: Card, row: Mapping[str, Any]) -> Problem:
    """A row as a problem with its whole prompt. Raises ValueError saying which column is wrong."""
    columns = card.columns
    question = text_of(row, columns.question)
    listed, right = _choices(card, row, question)
    gold, kept = read_gold(card, row, listed, right)
    context = text_of(row, columns.context, needed=False) if columns.context else ""
    named = {"question": question, "context": context, "choices": _written(listed)}
    prompt = _filled(card.prompt, row, named).strip()
    if card.check == "program":
        prompt = ask_for_program(prompt, {**kept, "starter_code": row.get("starter_code")})
    key = text_of(row, columns.id, needed=False) if columns.id else ""
    key = key or hashlib.sha256(f"{context}\n{question}\n{_written(listed)}".encode()).hexdigest()[:16]
    about = {
        "question": question,
        "category": text_of(row, columns.category, needed=False) if columns.category else "",
        "cluster": text_of(row, columns.cluster, needed=False) if columns.cluster else "",
    }
    level = _level(row, columns.difficulty)
    return Problem(f"{card.name}/{key}", card.name, prompt, gold, card.language, level, {**about, **kept})


def value_of(row: Mapping[str, Any], names: str | Sequence[str]) -> Any:
    """The first of the columns that the row has, None for none. Dots lead into objects and lists."""
    for name in [names] if isinstance(names, str) else names:
        if name in row:
            return row[name]
        value: Any = row
        for part in name.split("."):
            if isinstance(value, Mapping):
                value = value.get(part)
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                value = None
        if value is not None:
            return value
    return None


def text_of(row: Mapping[str, Any], names: str | Sequence[str], needed: bool = True) -> str:
    """A column as text. Raises ValueError for one that is ``needed`` and missing or empty."""
    value = value_of(row, names)
    text = "" if value is None else str(value).strip()
    if needed and not text:
        listed = names if isinstance(names, str) else " or ".join(names)
        raise ValueError(f"column {listed} is missing or empty; the row has: {columns_of(row)}")
    return text


def _level(row: Mapping[str, Any], name: str | None) -> float | None:
    """The number in a column such as 3 or "Level 3"."""
    digits = "".join(c if c.isdigit() or c == "." else " " for c in text_of(row, name or "", False)).split()
    return float(digits[0]) if digits and digits[0].count(".") < 2 and digits[0] != "." else None


def _choices(card: Card, row: Mapping[str, Any], question: str) -> tuple[list[str], str]:
    """(the choices in the order shown, the letter of the right one where the card names it)."""
    choices = card.choices
    if choices is None:
        return [], ""
    if choices.right is not None:
        right = text_of(row, choices.right)
        listed = [right, *(text_of(row, name) for name in choices.wrong)]
        order = random.Random(hashlib.sha256(question.encode()).hexdigest())
        order.shuffle(listed)
        return listed, LETTERS[listed.index(right)]
    if choices.columns is not None:
        return [text_of(row, name) for name in choices.columns], ""
    listed = value_of(row, choices.list or "")
    if not isinstance(listed, list) or not 2 <= len(listed) <= len(LETTERS):
        raise ValueError(f"column {choices.list} is no list of 2 to {len(LETTERS)} choices")
    return [str(one).strip() for one in listed], ""


def _written(listed: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, listed, strict=False))


def _filled(prompt: str, row: Mapping[str, Any], named: Mapping[str, str]) -> str:
    """The prompt with its names in braces replaced once; braces of anything else stay (``\\boxed{}``)."""
    parts, rest = [], prompt
    while rest:
        before, opened, after = rest.partition("{")
        name, closed, behind = after.partition("}")
        known = named.get(name) if name in named else row.get(name) if name.isidentifier() else None
        if opened and closed and (name in named or name in row):
            parts += [before, "" if known is None else str(known)]
            rest = behind
        else:
            parts += [before, opened]
            rest = after
    return "".join(parts)
