"""A job for the sandbox: a program, and the tests that it must pass."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from r1kit.config import ConfigError
from r1kit.sandbox.checkers import checker_fault
from r1kit.sandbox.tested_names import entry_points

Kind = Literal["function", "stdio", "asserts"]
Tests = Sequence[Mapping[str, Any]] | str

# A function, or a method of a class as data sets write it: Solution().add or Solution.add.
_ENTRY_POINT = re.compile(r"[^\W\d]\w*(?:(?:\(\))?\.[^\W\d]\w*)?")
_NEEDED = {"function": {"args", "expected"}, "stdio": {"stdin", "stdout"}, "asserts": set()}


@dataclass(frozen=True, slots=True)
class Job:
    """A program with its tests and limits; see ``run_program``. ``entry_point``: one name, for asserts also
    several with commas between them. ``checker``: a script that judges what the program prints, in place of
    a comparison (r1kit.sandbox.checkers)."""

    program: str
    tests: Tests
    kind: Kind = "function"
    entry_point: str | None = None
    time_limit_s: float = 5.0
    memory_limit_mb: int = 512
    checker: str = ""

    @property
    def backstop_s(self) -> float:
        """Processor seconds after which the kernel ends the job if nothing else has."""
        tests = 1 if isinstance(self.tests, str) or self.kind == "stdio" else len(self.tests)
        return self.time_limit_s * (tests + 2) + 1


def check_shape(job: Job) -> None:
    """Raise ConfigError, naming the row, for tests that do not have the shape of the job's kind."""
    if job.kind not in _NEEDED:
        raise ConfigError(f"unknown kind of tests {job.kind!r}; known: {', '.join(_NEEDED)}")
    if isinstance(job.tests, str) != (job.kind == "asserts"):
        shape = "a text" if job.kind == "asserts" else "a list of mappings"
        raise ConfigError(f"tests of kind {job.kind!r} must be {shape}")
    if job.checker and job.kind != "stdio":
        raise ConfigError(f"a checker judges what a program prints: tests of kind stdio, not {job.kind!r}")
    if job.checker and (fault := checker_fault(job.checker)):
        raise ConfigError(f"the checker {fault}")
    names = entry_points(job.entry_point)
    if not all(_ENTRY_POINT.fullmatch(name) for name in names):
        raise ConfigError(
            f"entry_point {job.entry_point!r} is no name of a function or class, such as add or "
            "Solution().add"
        )
    if job.kind == "function" and len(names) != 1:
        raise ConfigError(
            "tests of kind 'function' need an entry_point"
            + (f", one and not {job.entry_point!r}" if names else "")
        )
    for row, test in enumerate(() if isinstance(job.tests, str) else job.tests):
        missing = _NEEDED[job.kind] - {"args"} - set(test)
        if missing or not ({"args", "kwargs"} & set(test) or job.kind != "function"):
            raise ConfigError(
                f"test {row} lacks {', '.join(sorted(missing or {'args'}))}: it has {', '.join(test)}"
            )
        if job.kind == "stdio" and not (isinstance(test["stdin"], str) and isinstance(test["stdout"], str)):
            raise ConfigError(f"test {row}: stdin and stdout must be texts")
        tolerance = test.get("tolerance")
        if tolerance is not None and not (isinstance(tolerance, int | float) and 0 <= tolerance < math.inf):
            raise ConfigError(f"test {row}: tolerance must be a number of at least 0, not {tolerance!r}")
        accepted = test.get("accepted", [])
        if not isinstance(accepted, list | tuple) or (
            job.kind == "stdio" and not all(isinstance(text, str) for text in accepted)
        ):
            raise ConfigError(f"test {row}: accepted must be a list of further right results")
