"""Compare what a program returned or printed with what was expected, outside the sandbox, type by type.

Results arrive as the codec's JSON and are compared in that form: nothing that a program sends is rebuilt
here."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from r1kit.sandbox.codec import CodecError, decode, encode


def matches(expected: Any, data: Any, tolerance: float | None = None) -> bool:
    """Compare an expected value with what a program sent, in the codec's JSON, type by type.

    ``tolerance`` (absolute, and relative to the expected value) applies where both are int or float; nan
    equals nan only."""
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        return type(data) is type(expected) and data == expected
    if isinstance(expected, int | float):
        return _same_number(expected, data, tolerance)
    if isinstance(expected, list):
        return isinstance(data, list) and _same_items(expected, data, tolerance)
    if not isinstance(data, dict) or len(data) != 1:
        return False
    ((tag, content),) = data.items()
    if isinstance(expected, tuple):
        return tag == "t" and isinstance(content, list) and _same_items(expected, content, tolerance)
    if isinstance(expected, dict):
        return tag == "d" and isinstance(content, list) and _same_entries(expected, content, tolerance)
    own = json.loads(encode(expected))
    if isinstance(expected, set | frozenset):
        return tag in own and isinstance(content, list) and _sorted_texts(own[tag]) == _sorted_texts(content)
    return bool(own == data)


def _same_items(expected: Sequence[Any], data: Sequence[Any], tolerance: float | None) -> bool:
    return len(expected) == len(data) and all(
        matches(e, d, tolerance) for e, d in zip(expected, data, strict=True)
    )


def _same_entries(expected: Mapping[Any, Any], data: Sequence[Any], tolerance: float | None) -> bool:
    if len(expected) != len(data) or not all(isinstance(entry, list) and len(entry) == 2 for entry in data):
        return False
    by_key = {json.dumps(key, sort_keys=True): value for key, value in data}
    keys = {json.dumps(json.loads(encode(key)), sort_keys=True): value for key, value in expected.items()}
    return by_key.keys() == keys.keys() and all(
        matches(value, by_key[key], tolerance) for key, value in keys.items()
    )


def _sorted_texts(values: Sequence[Any]) -> list[str]:
    return sorted({json.dumps(value, sort_keys=True) for value in values})


def _same_number(expected: float, data: Any, tolerance: float | None) -> bool:
    value = _number(data)
    if value is None:
        return False
    if tolerance is None:
        return type(value) is type(expected) and (
            value == expected or (value != value and expected != expected)
        )
    if not (math.isfinite(value) and math.isfinite(expected)):
        return value == expected or (value != value and expected != expected)
    return abs(value - expected) <= tolerance * max(1.0, abs(expected))


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


def same_output(expected: bytes, printed: bytes) -> bool:
    """Compare outputs as contest judges do: blanks at line ends and empty lines at the end do not count."""
    return [line.rstrip() for line in expected.rstrip().split(b"\n")] == [
        line.rstrip() for line in printed.rstrip().split(b"\n")
    ]
