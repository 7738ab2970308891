"""Strict configuration at the edge: unknown keys are errors with a suggestion, and every error names its key
and the fix."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

KeyPath = tuple[str | int, ...]
# A problem with an input of a task or stage: the key within its options, and the message.
InputError = tuple[KeyPath, str]

_LONGEST_SHOWN = 80


class R1kitError(Exception):
    """An error that the user can fix. Its text says what happened, where (file, key or row) and what to
    do."""


class ConfigError(R1kitError, ValueError):
    """A recipe or configuration that cannot be used as it is written."""


def is_panic(error: BaseException) -> bool:
    """Whether the error is a panic of a library written in Rust, which Python does not count as an
    Exception."""
    return type(error).__name__ == "PanicException"


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
                raise ValueError(f"unknown key {key!r}: {suggest(str(key), cls.model_fields)}")
        return data

    @classmethod
    def parse(cls, data: Any, where: str) -> Self:
        """Build the config from plain data; raise ConfigError naming ``where`` and the key path."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(describe(error, where)) from None


class Unloaded(Config):
    """Marks the stand-in of a configuration outside r1kit whose code was not imported. Keys that it does not
    know are kept as they are written. It has to be the last base: pydantic takes ``extra`` from there."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _suggest_known_keys(cls, data: Any) -> Any:
        return data


def describe(error: ValidationError, where: str) -> str:
    """One line per problem: place, key path, what is wrong."""
    return "\n".join(f"{where}: {problem}" for problem in _problems(error))


def describe_problems(error: ValidationError) -> str:
    """The problems of a value within a configuration, whose place the caller adds."""
    return "; ".join(_problems(error))


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        problems.append(f"{path + ': ' if path else ''}{explain_problem(problem)}")
    return problems


def explain_problem(problem: Mapping[str, Any]) -> str:
    """What is wrong with one value, one entry of ``ValidationError.errors()``: the value, and for a choice of
    words the nearest of them."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    if problem["type"] == "missing":
        return "this key is needed"
    given = problem["input"]
    if problem["type"] in ("literal_error", "enum") and isinstance(given, str):
        known = re.findall(r"'([^']*)'", str(problem["ctx"]["expected"]))
        near = nearest(given, known)
        return f"{message} (given: {shorten(given)})" + (f"; did you mean {near!r}?" if near else "")
    return f"{message} (given: {shorten(given)})"


def shorten(value: Any) -> str:
    """A value as Python writes it, cut to a length that fits a message."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is spelled most like ``word``, None where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return near[0] if near else None


def suggest(word: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """``did you mean 'x'?`` where something known is near, else ``otherwise``, by default the list of what is
    known."""
    known = list(known)
    near = nearest(word, known)
    if near is not None:
        return f"did you mean {near!r}?"
    return f"known: {', '.join(known) or 'none'}" if otherwise is None else otherwise
