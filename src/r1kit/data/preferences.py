"""What reward models learn from, in files: preference pairs and responses labelled safe or unsafe.

Pairs have TRL's columns, as texts or as messages, with the prompt in a column or as the common start:

    {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}

Labelled responses have ``prompt``, ``response`` (or ``completion``) and ``safe``, true or false. A response
may begin with ``<think>...</think>``; the helpful model reads what follows it. A file of labels (labels.py)
is both: of its lines those are read that say something about preference or safety.

What is measured is never trained on: without a held-out file an eighth of the prompts is held out, by a hash
of their text; with one, training rows whose prompt stands in it, or shares ten words in a row with one of its
prompts, are left out (r1kit.tasks.overlap)."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from r1kit.chat import parse
from r1kit.config import R1kitError
from r1kit.data.labels import answers_by_safety, not_about_preference, not_about_safety
from r1kit.jsonl import BadRows, Without, column, columns_of, first_error, read_usable
from r1kit.tasks.overlap import is_held_out_prompt, without_contaminated
from r1kit.tasks.prompts import one_turn
from r1kit.tasks.turns import Context, columns_with, is_conversation, read_prompt
from r1kit.types import Labelled, Preference, Problem, Response

RESPONSES = ("response", "completion")


class HasProblem(Protocol):
    @property
    def problem(self) -> Problem: ...


Row = TypeVar("Row", bound=HasProblem)
Made = TypeVar("Made")  # what a row is read as


def read_preferences(path: Path, bad_rows: BadRows = "error") -> list[Preference]:
    """The pairs of a file. Raises R1kitError naming file, row and fix for a row that cannot be used."""
    example = '{"prompt": ..., "chosen": ..., "rejected": ...}'
    return _read(path, _preference, bad_rows, example, not_about_preference)


def read_labelled(path: Path, bad_rows: BadRows = "error") -> list[Labelled]:
    """The labelled responses of a file. Raises R1kitError naming file, row and fix for a row that cannot be
    used."""
    example = '{"prompt": ..., "response": ..., "safe": true}'
    return [one for row in _read(path, _all_labelled, bad_rows, example, not_about_safety) for one in row]


def preferences_error(path: Path, bad_rows: BadRows = "error") -> str | None:
    """What is wrong with a file of pairs, as its first row shows; None where that row is good."""
    return first_error(path, _preference, bad_rows, not_about_preference)


def labelled_error(path: Path, bad_rows: BadRows = "error") -> str | None:
    """What is wrong with a file of labelled responses, as its first row shows; None where that row is
    good."""
    return first_error(path, _all_labelled, bad_rows, not_about_safety)


def split(rows: Sequence[Row], held_out: Sequence[Row] | None) -> dict[str, list[Row]]:
    """Rows by split, "train" and "held_out", so that no prompt is in both; see on top. ``held_out``: the rows
    of a file of their own."""
    if held_out is None:
        parts: dict[str, list[Row]] = {"train": [], "held_out": []}
        for row in rows:
            parts["held_out" if is_held_out_prompt(row.problem.prompt) else "train"].append(row)
        return parts
    problems = {row.problem.id: row.problem for row in rows}
    kept = without_contaminated(list(problems.values()), [row.problem.prompt for row in held_out])
    ids = {problem.id for problem in kept}
    return {"train": [row for row in rows if row.problem.id in ids], "held_out": list(held_out)}


def pairs_of(
    problem: Problem,
    scored: Iterable[tuple[float, Response]],
    min_difference: float,
    length_ratio: float | None,
) -> list[Preference]:
    """All pairs of a problem's scored answers that differ by more than ``min_difference``, and of which the
    longer answer has at most ``length_ratio`` times the characters of the shorter (None: any)."""
    ordered = sorted(scored, key=lambda one: (one[0], one[1].answer))
    return [
        Preference(problem, better, worse)
        for place, (low, worse) in enumerate(ordered)
        for high, better in ordered[place + 1 :]
        if high - low > min_difference and _comparable(worse.answer, better.answer, length_ratio)
    ]


def _comparable(one: str, other: str, ratio: float | None) -> bool:
    return ratio is None or max(len(one), len(other)) <= ratio * min(len(one), len(other))


def _read(
    path: Path,
    use: Callable[[Path, int, dict[str, Any]], Made],
    bad_rows: BadRows,
    example: str,
    without: Without,
) -> list[Made]:
    rows = read_usable(path, use, bad_rows, without)
    if not rows:
        raise R1kitError(f"{path}: no rows; a row is an object such as {example}")
    return rows


def _preference(path: Path, number: int, row: dict[str, Any]) -> Preference:
    if "chosen" in row and row["chosen"] == row.get("rejected"):
        raise R1kitError(f"{path}:{number}: chosen and rejected are the same; correct one or remove the row")
    prompt, context, chosen, rejected = preference_texts(path, number, row)
    problem = _problem(path, prompt, context)
    found = Preference(problem, *(_response(path, number, text) for text in (chosen, rejected)))
    if found.chosen.answer == found.rejected.answer:
        raise R1kitError(
            f"{path}:{number}: chosen and rejected have the same answer, which is all that the helpful model "
            "reads; correct one or remove the row"
        )
    return found


def preference_texts(path: Path, number: int, row: dict[str, Any]) -> tuple[str, Context, str, str]:
    """(prompt, turns before it, chosen, rejected) of a row in any of TRL's forms. Raises R1kitError naming
    file, row and column."""
    pair = [row.get(name) for name in ("chosen", "rejected")]
    context: Context = ()
    if "prompt" in row:
        prompt, context = _prompt(path, number, row)
        chosen, rejected = (_text(path, number, row, name) for name in ("chosen", "rejected"))
    elif all(isinstance(turns, list) for turns in pair):
        prompts = [read_prompt(path, number, name, row[name][:-1]) for name in ("chosen", "rejected")]
        if prompts[0] != prompts[1]:
            raise R1kitError(f"{path}:{number}: chosen and rejected begin with different prompts")
        prompt, context = prompts[0]
        chosen, rejected = (
            one_turn(path, number, name, row[name][-1:], "assistant") for name in ("chosen", "rejected")
        )
    else:
        chosen, rejected = (column(path, number, row, name) for name in ("chosen", "rejected"))
        prompt = _common_words(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise R1kitError(f"{path}:{number}: {name} is empty; write it or remove the row")
    return prompt.strip(), context, chosen.strip(), rejected.strip()


def _common_words(one: str, other: str) -> str:
    """The common start of two texts, up to the end of its last whole word."""
    end = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return one[: end - len(re.split(r"\s", one[:end])[-1])]


def _all_labelled(path: Path, number: int, row: dict[str, Any]) -> list[Labelled]:
    """The labelled responses of a row: one, or of a label both answers of its pair."""
    return [_labelled(path, number, one) for one in answers_by_safety(row) or [row]]


def _labelled(path: Path, number: int, row: dict[str, Any]) -> Labelled:
    written = next((name for name in RESPONSES if name in row), RESPONSES[0])
    prompt, context = _prompt(path, number, row)
    prompt, text = prompt.strip(), _text(path, number, row, written).strip()
    for name, value in (("prompt", prompt), (written, text)):
        if not value:
            raise R1kitError(f"{path}:{number}: {name} is empty; write it or remove the row")
    safe = row.get("safe")
    if not isinstance(safe, bool):
        raise R1kitError(
            f"{path}:{number}: column 'safe' must be true or false"
            + (f" (given: {safe!r:.80})" if "safe" in row else f"; the row has: {columns_of(row)}")
        )
    return Labelled(_problem(path, prompt, context), text, safe)


def _prompt(path: Path, number: int, row: dict[str, Any]) -> tuple[str, Context]:
    value = row.get("prompt")
    if is_conversation(value):
        return read_prompt(path, number, "prompt", value)
    return column(path, number, row, "prompt"), ()


def _text(path: Path, number: int, row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if is_conversation(value):
        return one_turn(path, number, name, value, "assistant")
    return column(path, number, row, name)


def _problem(path: Path, prompt: str, context: Context) -> Problem:
    text = prompt + (json.dumps(context, sort_keys=True) if context else "")
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Problem(f"{path.name}/{key}", path.name, prompt, None, columns=columns_with(context, {}))


def _response(path: Path, number: int, text: str) -> Response:
    """A written response; where it has tags they must be the template's, or its answer is not known."""
    parsed = parse(text)
    if parsed is None and "<think>" in text:
        raise R1kitError(
            f"{path}:{number}: a response with <think> must be <think>thinking</think> and then the answer"
        )
    return Response(text, text if parsed is None else parsed[1])
