"""Problems that a program solves: a row's tests in one form, and the verdict on an answer.

A row's tests are those of ``run_program``: a list of ``{"args": [...], "expected": ...}``, a list of
``{"stdin": ..., "stdout": ...}``, or a trusted text (or list of texts) of asserts. MBPP's columns
(``test_list``, ``test_setup_code``, ``test_imports``, ``code``), HumanEval's ``test`` and what the stage
unit_tests writes are read as they are. The program of an answer is its last fenced block of Python, else all
of it."""

import ast
import re
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from r1kit.config import ConfigError
from r1kit.sandbox import Job, run_jobs
from r1kit.sandbox.jobs import Kind, Tests, check_shape
from r1kit.sandbox.tested_names import free_names
from r1kit.types import Problem, Verdict

TESTS = ("tests", "test_list", "test")
LONGEST_EXAMPLE = 200  # characters of a call that a prompt shows

_BLOCK = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n`]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_PYTHON = ("python", "py", "python3", "Python")


def read_program(answer: str) -> str:
    """The program in an answer: its last fenced block of Python, else its last fenced block, else all of
    it."""
    blocks = [(match[1], match[2]) for match in _BLOCK.finditer(answer)]
    written = [text for language, text in blocks if language in _PYTHON] or [text for _, text in blocks]
    return textwrap.dedent(written[-1]) if written else answer.strip()


def program_columns(
    row: Mapping[str, Any], tests: Any, time_limit_s: float, memory_limit_mb: int
) -> dict[str, Any]:
    """A row's columns by the names of ``run_program``: kind, tests, entry_point, time_limit_s,
    memory_limit_mb; and ``reference``, a right program ("" where the row has none).

    ``tests`` is the row's column of that meaning; the limits are for rows that name none. Raises ValueError
    for what cannot be used."""
    reference = _reference(row)
    text_or_list = _joined(tests, row)
    kind = _kind(row.get("kind"), text_or_list)
    if not text_or_list:
        raise ValueError("there are no tests; write some, or remove the row")
    columns = {
        "kind": kind,
        "tests": text_or_list,
        "entry_point": _entry_point(row.get("entry_point"), kind, text_or_list, reference),
        "time_limit_s": _positive(row, "time_limit_s", time_limit_s),
        "memory_limit_mb": int(_positive(row, "memory_limit_mb", memory_limit_mb)),
        "reference": reference,
    }
    if row.get("reference_seconds") is not None:
        columns["reference_seconds"] = _positive(row, "reference_seconds", 1.0)
    try:
        check_shape(_job(columns, ""))
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return columns


def ask_for_program(prompt: str, columns: Mapping[str, Any]) -> str:
    """The prompt, with the entry point's name and a call of it where the prompt does not name it. No expected
    value is shown."""
    name = columns["entry_point"]
    if name is None or name in prompt:
        return prompt
    call = _first_call(columns["tests"], name)
    return f"{prompt}\n\nName it `{name}`" + (
        f"; it is used as `{call}`." if 0 < len(call) <= LONGEST_EXAMPLE else "."
    )


def check_programs(problems: Sequence[Problem], answers: Sequence[str | None]) -> list[Verdict]:
    """Judge the programs of answers to problems with ``program_columns``, all as one batch; equal programs
    for a problem run once."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
        if answer is not None:
            places.setdefault((problem.id, read_program(answer)), []).append(place)
    verdicts = [Verdict("wrong", "the template was not followed")] * len(problems)
    jobs = [_job(problems[own[0]].columns, program) for (_, program), own in places.items()]
    for own, verdict in zip(places.values(), run_jobs(jobs) if jobs else (), strict=True):
        for place in own:
            verdicts[place] = verdict
    return verdicts


def _job(columns: Mapping[str, Any], program: str) -> Job:
    limits = columns["time_limit_s"], columns["memory_limit_mb"]
    return Job(program, columns["tests"], columns["kind"], columns["entry_point"], *limits)


def _joined(tests: Any, row: Mapping[str, Any]) -> Tests:
    """The tests as a list of mappings or as one text, with what MBPP has run before its asserts."""
    if isinstance(tests, str):
        return tests if tests.strip() else ""
    if not isinstance(tests, list) or not (
        all(isinstance(t, str) for t in tests) or all(isinstance(t, dict) for t in tests)
    ):
        raise ValueError(
            'tests are a text, or a list of texts or of objects such as {"args": [1], "expected": 2}'
        )
    if not tests or isinstance(tests[0], dict):
        return tests
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
    if not isinstance(setup, str):
        raise ValueError("test_setup_code is a text")
    return "\n".join([*([setup] if setup else ()), *tests])


def _kind(named: Any, tests: Tests) -> Kind:
    kinds: dict[Any, Kind] = {"function": "function", "stdio": "stdio", "asserts": "asserts"}
    if named in kinds:
        return kinds[named]
    if isinstance(tests, str):
        return "asserts"
    return "stdio" if tests and "stdin" in tests[0] else "function"


def _reference(row: Mapping[str, Any]) -> str:
    solutions = row.get("solutions")
    found = [row.get("reference"), row.get("code"), *(solutions[:1] if isinstance(solutions, list) else ())]
    return next((text for text in found if isinstance(text, str) and text.strip()), "")


def _entry_point(named: Any, kind: Kind, tests: Tests, reference: str) -> str | None:
    """The name that the tests call: the row's, else for asserts the one that they use first of those that the
    reference defines."""
    if named is not None and not (isinstance(named, str) and named.isidentifier()):
        raise ValueError(f"entry_point {named!r} is no name of a function or class")
    if named is not None or kind != "asserts":
        return named
    nodes = _nodes(str(tests))
    unknown = [name for name in free_names(nodes) if name not in sys.stdlib_module_names]
    if reference:  # which may define what is a name of Python's too, such as sum
        defined = {
            node.name for node in _nodes(reference) if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        unknown = list(
            dict.fromkeys(node.id for node in nodes if isinstance(node, ast.Name) and node.id in defined)
        )
    functions = [name for name in unknown if not name[:1].isupper()] or unknown
    if not functions or (len(functions) > 1 and not reference):
        raise ValueError(
            f"which of {', '.join(unknown) or 'no name'} is the entry point of the tests? Name it in a "
            "column entry_point"
        )
    return functions[0]


def _nodes(text: str) -> list[ast.AST]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not Python ({type(error).__name__}: {error}): {text[:60]!r}") from None


def _first_call(tests: Tests, name: str) -> str:
    """How asserts call the entry point first, without what they expect; empty for tests of another kind."""
    for node in _nodes(tests) if isinstance(tests, str) else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            return ast.unparse(node)
    return ""


def _positive(row: Mapping[str, Any], name: str, default: float) -> float:
    value = row.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} is a number above 0, not {value!r}")
    return value
