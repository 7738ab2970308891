"""Strict configuration at the edge: unknown keys are errors with a suggestion, and every error names its key
and the fix."""

import difflib
from collections.abc import Iterable
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

KeyPath = tuple[str | int, ...]


class R1kitError(Exception):
    """An error that the user can mend. Its text says what happened, where (file, key or row) and what to
    do."""


class ConfigError(R1kitError, ValueError):
    """A recipe or configuration that cannot be used as it is written."""


class Config(BaseModel):
    """Base of every configuration: frozen, strict about keys, defaults are the paper's values with their
    source."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _suggest_known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for key in data:
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key {key!r}: {hint}")
        return data

    @classmethod
    def parse(cls, data: Any, where: str) -> Self:
        """Build the config from plain data; raise ConfigError naming ``where`` and the key path."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(describe(error, where)) from None


def describe(error: ValidationError, where: str) -> str:
    """One line per problem: place, key path, what is wrong."""
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        given = "" if problem["type"] in ("value_error", "missing") else f" (given: {problem['input']!r})"
        lines.append(f"{where}: {path + ': ' if path else ''}{message}{given}")
    return "\n".join(lines)


def suggest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where something known is near, else the list of what is known."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
