"""The gold answer of a benchmark's row, by the way in which it is checked, and the columns that the check
reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1kit.tasks.benchmarks import Card
from r1kit.tasks.mathematics.check import gold_fault, gold_text
from r1kit.tasks.programs import TESTS, program_columns
from r1kit.tasks.test_layouts import has_tests, inner

Kept = dict[str, Any]


def read_gold(card: Card, row: Mapping[str, Any], choices: Sequence[str], right: str) -> tuple[str, Kept]:
    """(gold answer, columns for the check) of a row. Raises ValueError saying what cannot be used."""
    names = card.columns.answer
    listed = [names] if isinstance(names, str) else list(names)
    name = next((one for one in listed if inner(row, one) is not None), None)
    if card.check == "program":
        return _program(card, row, name)
    value = None if name is None else inner(row, name)
    if value is None:
        raise ValueError(f"column {' or '.join(listed)} is missing: the row has no gold answer")
    if card.check == "choice":
        return right or _letter(value, len(choices)), {}
    return _READ[card.check](value, row)


def _program(card: Card, row: Mapping[str, Any], name: str | None) -> tuple[str, Kept]:
    if name is None or not has_tests(row, name):
        name = next((one for one in TESTS if has_tests(row, one)), None)
    if name is None:
        raise ValueError("there are no tests; write some, or remove the row")
    kept = program_columns(row, name, card.limits.seconds, card.limits.memory_mb)
    return str(kept["reference"]), kept


def _letter(value: Any, count: int) -> str:
    """The letter of the right choice, written as one or as its place from 0 on."""
    letters = "ABCDEFGHIJ"[:count]
    text = str(value).strip()
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count:
        return letters[value]
    if len(text) == 1 and text in letters:
        return text
    if text.isdigit() and int(text) < count:
        return letters[int(text)]
    raise ValueError(f"{value!r:.40} is no choice of {count}: a letter, or a place from 0 on")


def _math(value: Any, row: Mapping[str, Any]) -> tuple[str, Kept]:
    if isinstance(value, list):  # OlympiadBench: ["$2$"]
        value = ", ".join(str(one) for one in value)
    gold = gold_text(str(value))
    fault = gold_fault(gold)
    if fault is not None:
        raise ValueError(fault)
    return gold, {}


def _spans(value: Any, row: Mapping[str, Any]) -> tuple[str, Kept]:
    spans = [str(one).strip() for one in (value if isinstance(value, list) else [value])]
    spans = [one for one in spans if one]
    if not spans:
        raise ValueError("no gold answer; write at least one span")
    return spans[0], {"spans": tuple(spans)}


def _text(value: Any, row: Mapping[str, Any]) -> tuple[str, Kept]:
    text = str(value).strip()
    if not text:
        raise ValueError("no gold answer; write it, or remove the row")
    return text, {}


def _instructions(value: Any, row: Mapping[str, Any]) -> tuple[str, Kept]:
    """IFEval: the checkers of a prompt, and the arguments of each; arguments that are null do not count."""
    arguments = row.get("kwargs")
    if not isinstance(value, list) or not isinstance(arguments, list) or len(value) != len(arguments):
        raise ValueError("instruction_id_list and kwargs are lists of one length")
    clean = [{key: one for key, one in (own or {}).items() if one is not None} for own in arguments]
    return "", {"instructions": tuple(value), "kwargs": tuple(clean), "request": row.get("prompt", "")}


def _refusal(value: Any, row: Mapping[str, Any]) -> tuple[str, Kept]:
    label = str(value).strip().lower()
    if label not in ("safe", "unsafe"):
        raise ValueError(f"label {value!r:.40}: write safe (to be answered) or unsafe (to be refused)")
    return label, {}


_READ: Mapping[str, Callable[[Any, Mapping[str, Any]], tuple[str, Kept]]] = {
    "math": _math,
    "spans": _spans,
    "judged": _text,
    "pairwise": _text,
    "instructions": _instructions,
    "refusal": _refusal,
}
