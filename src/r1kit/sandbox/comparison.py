"""Compare what a program returned or printed with what was expected, outside the sandbox, type by type.

Results arrive as the codec's JSON and are compared in that form: nothing that a program sends is rebuilt
here."""

import codecs
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from r1kit.sandbox.codec import CodecError, decode, encode

LONGEST_DECIMAL = 2000  # characters; longer numbers of an output are compared as texts
# A number as programs print it. Without a leading zero: 007 is a name and not 7.
_DECIMAL = re.compile(rb"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?")
_BETWEEN = re.compile(rb"([\s,;:()\[\]{}]+)")


def matches(expected: Any, data: Any, tolerance: float | None = None, as_json: bool = False) -> bool:
    """Compare an expected value with what a program sent, in the codec's JSON, type by type.

    ``tolerance`` (absolute, and relative to the expected value) applies where both are int or float; nan
    equals nan only. ``as_json``: as the judges of data sets in JSON compare: a tuple counts as a list, the
    keys of a dict as texts, 1 and 1.0 as one number."""
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        return type(data) is type(expected) and data == expected
    if isinstance(expected, int | float):
        return _same_number(expected, data, 0.0 if as_json and tolerance is None else tolerance)
    if isinstance(expected, list):
        items = data["t"] if as_json and isinstance(data, dict) and list(data) == ["t"] else data
        return isinstance(items, list) and _same_items(expected, items, tolerance, as_json)
    if not isinstance(data, dict) or len(data) != 1:
        return False
    ((tag, content),) = data.items()
    if isinstance(expected, tuple):
        return tag == "t" and isinstance(content, list) and _same_items(expected, content, tolerance, as_json)
    if isinstance(expected, dict):
        return (
            tag == "d" and isinstance(content, list) and _same_entries(expected, content, tolerance, as_json)
        )
    own = json.loads(encode(expected))
    if isinstance(expected, set | frozenset):
        return tag in own and isinstance(content, list) and _sorted_texts(own[tag]) == _sorted_texts(content)
    return bool(own == data)


def _same_items(expected: Sequence[Any], data: Sequence[Any], tolerance: float | None, as_json: bool) -> bool:
    return len(expected) == len(data) and all(
        matches(e, d, tolerance, as_json) for e, d in zip(expected, data, strict=True)
    )


def _same_entries(
    expected: Mapping[Any, Any], data: Sequence[Any], tolerance: float | None, as_json: bool
) -> bool:
    if len(expected) != len(data) or not all(isinstance(entry, list) and len(entry) == 2 for entry in data):
        return False
    by_key = {_key(key, as_json): value for key, value in data}
    keys = {_key(json.loads(encode(key)), as_json): value for key, value in expected.items()}
    return by_key.keys() == keys.keys() and all(
        matches(value, by_key[key], tolerance, as_json) for key, value in keys.items()
    )


def _key(key: Any, as_json: bool) -> str:
    """A dict's key as a text, by which keys are the same."""
    return key if as_json and isinstance(key, str) else json.dumps(key, sort_keys=True)


def _sorted_texts(values: Sequence[Any]) -> list[str]:
    return sorted({json.dumps(value, sort_keys=True) for value in values})


def _same_number(expected: float, data: Any, tolerance: float | None) -> bool:
    value = _number(data)
    if value is None or (tolerance is None and type(value) is not type(expected)):
        return False
    if value == expected or (value != value and expected != expected):
        return True
    try:
        return (
            tolerance is not None
            and math.isfinite(value)
            and math.isfinite(expected)
            and abs(value - expected) <= tolerance * max(1.0, abs(expected))
        )
    except OverflowError:  # an integer beyond all floats: equal or not
        return False


def _number(data: Any) -> int | float | None:
    if isinstance(data, bool):
        return None
    if isinstance(data, int | float):
        return data
    if isinstance(data, dict) and len(data) == 1 and next(iter(data)) in ("i", "x"):
        try:
            value = decode(json.dumps(data).encode())
        except CodecError:
            return None
        return value if isinstance(value, int | float) else None
    return None


def same_output(expected: bytes, printed: bytes, tolerance: float | None = None) -> bool:
    """Compare outputs as contest judges do: blanks at line ends, empty lines at the end and a byte order mark
    at the start do not count.

    Two numbers of which one has a point or an exponent are the same if their values are (2.5 and 2.50), or,
    with a ``tolerance``, if they differ by at most that much (absolute, and relative to the expected one).
    Whole numbers are compared as texts."""
    wanted, found = _lines(expected), _lines(printed)
    return len(wanted) == len(found) and all(
        one == other or _same_line(one, other, tolerance) for one, other in zip(wanted, found, strict=True)
    )


def _lines(output: bytes) -> list[bytes]:
    return [line.rstrip() for line in output.removeprefix(codecs.BOM_UTF8).rstrip().split(b"\n")]


def _same_line(expected: bytes, printed: bytes, tolerance: float | None) -> bool:
    wanted, found = _BETWEEN.split(expected), _BETWEEN.split(printed)
    return len(wanted) == len(found) and all(
        one == other or _same_decimal(one, other, tolerance) for one, other in zip(wanted, found, strict=True)
    )


def _same_decimal(expected: bytes, printed: bytes, tolerance: float | None) -> bool:
    texts = expected, printed
    if not all(len(text) <= LONGEST_DECIMAL and _DECIMAL.fullmatch(text) for text in texts):
        return False
    if not any(sign in text for text in texts for sign in (b".", b"e", b"E")):
        return False
    wanted, found = (Decimal(text.decode()) for text in texts)
    return wanted == found or (
        tolerance is not None and abs(found - wanted) <= Decimal(tolerance) * max(Decimal(1), abs(wanted))
    )
