"""A job for the sandbox: a program, and the tests that it must pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from r1kit.config import ConfigError

Kind = Literal["function", "stdio", "asserts"]
Tests = Sequence[Mapping[str, Any]] | str

_NEEDED = {"function": {"args", "expected"}, "stdio": {"stdin", "stdout"}, "asserts": set()}


@dataclass(frozen=True, slots=True)
class Job:
    """A program with its tests and limits; see ``run_program``."""

    program: str
    tests: Tests
    kind: Kind = "function"
    entry_point: str | None = None
    time_limit_s: float = 5.0
    memory_limit_mb: int = 512

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
    if job.kind == "function" and job.entry_point is None:
        raise ConfigError("tests of kind 'function' need an entry_point")
    for row, test in enumerate(() if isinstance(job.tests, str) else job.tests):
        missing = _NEEDED[job.kind] - {"args"} - set(test)
        if missing or not ({"args", "kwargs"} & set(test) or job.kind != "function"):
            raise ConfigError(
                f"test {row} lacks {', '.join(sorted(missing or {'args'}))}: it has {', '.join(test)}"
            )
        if job.kind == "stdio" and not (isinstance(test["stdin"], str) and isinstance(test["stdout"], str)):
            raise ConfigError(f"test {row}: stdin and stdout must be texts")
