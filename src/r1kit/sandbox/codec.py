"""Plain values as bytes, between processes that do not trust each other.

JSON carries lists, texts, numbers and None; everything else is an object with one tag. There is no pickle,
marshal or eval: a decoder builds plain values only, whatever it receives. Subclasses of int, str, list ...
are flattened to the base type, so a value whose ``__eq__`` always says yes does not arrive. An object that is
not a plain value is sent as a handle: a number that only its owner can follow.

A message is four bytes of length (big-endian) and that many bytes.
"""

import builtins
import json
import math
import os
import struct
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

LARGEST_MESSAGE = 32 << 20
_TYPES = frozenset(
    kind.__name__
    for kind in (
        int,
        float,
        str,
        bool,
        list,
        tuple,
        dict,
        set,
        frozenset,
        bytes,
        bytearray,
        complex,
        object,
        type,
        range,
    )
)

Handler = Callable[[Any], Any]

_write = json.JSONEncoder(separators=(",", ":")).encode


class CodecError(ValueError):
    """A value that cannot be encoded, or bytes that are not a message."""


def encode(value: Any, handle_for: Handler | None = None) -> bytes:
    """Encode a value. ``handle_for`` turns an object that is not a plain value into JSON; without it
    CodecError is raised."""
    try:
        return _write(_plain(value, handle_for, 0)).encode()
    except (RecursionError, OverflowError, MemoryError) as error:
        raise CodecError(f"the value is too deep or too large to encode: {type(error).__name__}") from None


def decode(message: bytes, from_handle: Handler | None = None) -> Any:
    """Decode a message into plain values. Raises CodecError for anything that ``encode`` could not have
    written."""
    try:
        return _value(json.loads(message), from_handle)
    except (
        ValueError,
        TypeError,
        KeyError,
        ArithmeticError,
        RecursionError,
        AttributeError,
        MemoryError,
    ) as error:
        raise CodecError(f"not a message: {type(error).__name__}: {str(error)[:200]}") from None


def _plain(value: Any, handle_for: Handler | None, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -(1 << 62) < value < 1 << 62 else {"i": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"x": repr(value)}
    if depth > 300:
        raise CodecError("the value is nested more than 300 deep")
    if kind is list:
        return [_plain(item, handle_for, depth + 1) for item in value]
    if kind is tuple:
        return {"t": [_plain(item, handle_for, depth + 1) for item in value]}
    if kind is dict:
        return {
            "d": [
                [_plain(k, handle_for, depth + 1), _plain(v, handle_for, depth + 1)] for k, v in value.items()
            ]
        }
    return _plain_rare(value, kind, handle_for, depth)


def _plain_rare(value: Any, kind: type, handle_for: Handler | None, depth: int) -> Any:
    if kind in (set, frozenset):
        return {"s" if kind is set else "f": [_plain(item, handle_for, depth + 1) for item in value]}
    if kind in (bytes, bytearray):
        return {"b" if kind is bytes else "B": value.hex()}
    if kind is complex:
        return {"c": [_plain(value.real, None, 0), _plain(value.imag, None, 0)]}
    if kind is range:
        return {"r": [_plain(part, None, 0) for part in (value.start, value.stop, value.step)]}
    if kind is deque:
        return {"q": [_plain(item, handle_for, depth + 1) for item in value]}
    if kind is Decimal:
        return {"D": str(value)}
    if kind is Fraction:
        return {"F": [hex(value.numerator), hex(value.denominator)]}
    if kind in (datetime, date, time) and getattr(value, "tzinfo", None) is None:
        return {"at": [kind.__name__, value.isoformat()]}
    if kind is timedelta:
        return {"td": [value.days, value.seconds, value.microseconds]}
    if kind is type and value.__module__ == "builtins" and value.__name__ in _TYPES:
        return {"T": value.__name__}
    if value is Ellipsis or value is NotImplemented:
        return {"e": repr(value)}
    flat = _flatten(value, kind)
    if flat is not value:
        return _plain(flat, handle_for, depth + 1)
    if handle_for is None:
        raise CodecError(f"a {kind.__name__} is not a plain value")
    return handle_for(value)


def _flatten(value: Any, kind: type) -> Any:
    """The plain value inside an instance of a subclass; the value itself if there is none."""
    if isinstance(value, bool | int):
        return int.__add__(value, 0)
    if isinstance(value, float):
        return float.__add__(value, 0.0) if float.__ne__(value, 0.0) else float.__float__(value)
    if isinstance(value, str):
        return str.__add__(value, "")
    if isinstance(value, bytes):
        return bytes.__add__(value, b"")
    bases: tuple[Any, ...] = (list, tuple, set, frozenset, bytearray, deque)
    for base in bases:
        if isinstance(value, base):
            return base(base.__iter__(value))
    if isinstance(value, dict):
        return dict(dict.items(value))
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def _value(data: Any, from_handle: Handler | None) -> Any:
    kind = type(data)
    if kind is list:
        return [_value(item, from_handle) for item in data]
    if kind is not dict:
        return data
    if len(data) != 1:
        raise CodecError("a tagged value has one tag")
    ((tag, content),) = data.items()
    if tag == "h":
        if from_handle is None:
            raise CodecError("a handle where a plain value is expected")
        return from_handle(content)
    if tag == "d":
        return {_value(key, from_handle): _value(item, from_handle) for key, item in content}
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](_value(item, from_handle) for item in content)
    return _ATOMS[tag](content)


def _builtin_type(name: str) -> type:
    if name not in _TYPES:
        raise CodecError("not a plain type")
    kind: type = getattr(builtins, name)
    return kind


def _moment(content: list[str]) -> date | time:
    name, text = content
    kinds: dict[str, type[date] | type[time]] = {"datetime": datetime, "date": date, "time": time}
    return kinds[name].fromisoformat(text)


_SEQUENCES: dict[str, Callable[..., Any]] = {"t": tuple, "s": set, "f": frozenset, "q": deque}
_ATOMS: dict[str, Handler] = {
    "i": lambda text: int(text, 16),
    "x": lambda text: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[text],
    "b": bytes.fromhex,
    "B": bytearray.fromhex,
    "c": lambda parts: complex(_value(parts[0], None), _value(parts[1], None)),
    "r": lambda parts: range(*(_value(part, None) for part in parts)),
    "D": Decimal,
    "F": lambda parts: Fraction(int(parts[0], 16), int(parts[1], 16)),
    "at": _moment,
    "td": lambda parts: timedelta(*parts),
    "T": _builtin_type,
    "e": lambda text: {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[text],
}


def write_message(channel: int, message: bytes) -> None:
    """Write a whole message to a blocking file descriptor."""
    if len(message) > LARGEST_MESSAGE:
        raise CodecError(f"the message has {len(message)} bytes; {LARGEST_MESSAGE} are allowed")
    rest = memoryview(struct.pack(">I", len(message)) + message)
    while rest:
        rest = rest[os.write(channel, rest) :]


def read_message(channel: int) -> bytes:
    """Read a whole message from a blocking file descriptor. Raises EOFError at its end, CodecError for a
    length beyond LARGEST_MESSAGE."""
    (length,) = struct.unpack(">I", _read_exactly(channel, 4))
    if length > LARGEST_MESSAGE:
        raise CodecError(f"a message of {length} bytes; {LARGEST_MESSAGE} are allowed")
    return _read_exactly(channel, length)


def _read_exactly(channel: int, length: int) -> bytes:
    pieces = []
    while length:
        piece = os.read(channel, min(length, 1 << 20))
        if not piece:
            raise EOFError("the other side has closed the channel")
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)
