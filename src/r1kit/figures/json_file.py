"""report.json: written from a frozen type, and read back as the same type or not at all."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from r1kit.config import ConfigError, describe
from r1kit.files import write_whole

REPORT = "report.json"

T = TypeVar("T")


def to_json(value: Any) -> str:
    """A frozen type, or plain data, as JSON text. JSON has no nan: a number that is not finite becomes
    null."""
    plain = TypeAdapter(type(value)).dump_python(value, by_alias=True)
    return json.dumps(finite(plain), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(file: Path, value: Any) -> None:
    """Write the value as JSON; the file is there whole or not at all."""
    write_whole(file, to_json(value))


def read(kind: type[T], file: Path) -> T:
    """Read what ``write`` wrote. Raises ConfigError naming the file and each key that is missing, unknown or
    of another type."""
    try:
        return TypeAdapter(kind).validate_json(file.read_bytes(), strict=True)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file: finish the stage that writes it") from None
    except ValidationError as error:
        torn = error.errors()[0]["type"] == "json_invalid"
        wrong = f"{file}: not JSON ({error.errors()[0]['msg']})" if torn else describe(error, str(file))
        raise ConfigError(
            f"{wrong}\nThis version of r1kit writes no such file: redo the stage that wrote it "
            "(r1kit run RECIPE --from STAGE)"
        ) from None


def finite(value: Any) -> Any:
    """Plain data with None in the place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
