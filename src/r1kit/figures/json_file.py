"""Write a frozen type as report.json, and read the same type back or raise."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from r1kit.config import ConfigError
from r1kit.files import write_whole

REPORT = "report.json"
SHOWN = 5  # errors of one file

T = TypeVar("T")


def to_json(value: Any) -> str:
    """A frozen type, or plain data, as JSON text. JSON has no nan: a number that is not finite becomes
    null."""
    plain = TypeAdapter(type(value)).dump_python(value, by_alias=True)
    return json.dumps(finite(plain), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(file: Path, value: Any) -> None:
    """Write the value as JSON, atomically."""
    write_whole(file, to_json(value))


def read(kind: type[T], file: Path) -> T:
    """Read what ``write`` wrote. Raises ConfigError naming the file and each key that is missing, unknown or
    of another type."""
    try:
        return TypeAdapter(kind).validate_json(file.read_bytes(), strict=True)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file: finish the stage that writes it") from None
    except ValidationError as error:
        wrong = [f"{file}: {_explain(problem)}" for problem in error.errors(include_url=False)]
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        fix = (
            "This version of r1kit writes no such file: run the recipe again, for a stage's file with --from "
            "STAGE"
        )
        raise ConfigError("\n".join([*wrong[:SHOWN], *more, fix])) from None


def _explain(problem: Mapping[str, Any]) -> str:
    """One thing that is wrong: its key, and what should be there."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "json_invalid":
        return f"not JSON ({problem['msg']})"
    if problem["type"] == "missing":
        return f"{key}: missing"
    if problem["type"] == "unexpected_keyword_argument":
        return f"{key}: no figure has this name"
    return f"{key}: {problem['msg']} (found: {problem['input']!r:.60})"


def finite(value: Any) -> Any:
    """Plain data with None in the place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
