"""Problems that a program solves: a row's tests in one form, and the verdict on an answer.

A row's tests are those of ``run_program``: a list of ``{"args": [...], "expected": ...}``, a list of
``{"stdin": ..., "stdout": ...}``, or a trusted text (or list of texts) of asserts; or they are in a layout of
a public data set (r1kit.tasks.test_layouts). Which part of an answer is its program: r1kit.tasks.fences."""

import ast
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from r1kit.config import ConfigError
from r1kit.sandbox import Job, run_jobs
from r1kit.sandbox.jobs import Kind, Tests, check_shape
from r1kit.sandbox.tested_names import (
    entry_points,
    free_names,
    functions_under_test,
    imports_of_program,
)
from r1kit.tasks.fences import read_program
from r1kit.tasks.test_layouts import TESTS, read_layout
from r1kit.types import Problem, Verdict

__all__ = ["TESTS", "ask_for_program", "check_programs", "program_columns", "read_program"]

LONGEST_EXAMPLE = 200  # characters of a call that a prompt shows


def program_columns(
    row: Mapping[str, Any], column: str, time_limit_s: float, memory_limit_mb: int
) -> dict[str, Any]:
    """A row's columns by the names of ``run_program``: kind, tests, entry_point, time_limit_s,
    memory_limit_mb; ``reference``, a right program; ``checker``, a script that judges outputs; and
    ``unverifiable``, why nothing can be judged here. The last three are "" where the row has none.

    ``column`` holds the tests, in any layout of r1kit.tasks.test_layouts; the limits are for rows that name
    none. Raises ValueError for what cannot be used."""
    found = read_layout(row, column)
    reference = _reference(row)
    text_or_list = _joined(found.tests, row)
    kind = _kind(row.get("kind"), text_or_list)
    imported = _imported(text_or_list) if isinstance(text_or_list, str) else []
    if not text_or_list:
        raise ValueError("there are no tests; write some, or remove the row")
    if isinstance(text_or_list, str):
        text_or_list = _with_helpers(text_or_list, row)
    else:
        text_or_list = _with_tolerance(text_or_list, row)
    columns = {
        "kind": kind,
        "tests": text_or_list,
        "entry_point": _entry_point(found.entry_point or imported or None, kind, text_or_list, reference),
        "time_limit_s": _positive(row, "time_limit_s", found.time_limit_s or time_limit_s),
        "memory_limit_mb": int(_positive(row, "memory_limit_mb", found.memory_limit_mb or memory_limit_mb)),
        "reference": reference,
        "checker": found.checker,
        "unverifiable": found.unverifiable,
    }
    if found.checker and kind != "stdio":
        columns |= {"checker": "", "unverifiable": "a checker judges what a program prints, not a function"}
    if row.get("reference_seconds") is not None:
        columns["reference_seconds"] = _positive(row, "reference_seconds", 1.0)
    try:
        check_shape(_job(columns, ""))
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return columns


def ask_for_program(prompt: str, columns: Mapping[str, Any]) -> str:
    """The prompt, with the code to begin with where the row has some, and with the entry point's name and a
    call of it where the prompt does not name it. No expected value is shown."""
    started = columns.get("starter_code")
    if isinstance(started, str) and started.strip() and started.strip() not in prompt:
        prompt = f"{prompt}\n\nBegin with this code:\n```python\n{started.rstrip()}\n```"
    missing = [name for name in entry_points(columns["entry_point"]) if _bare(name) not in prompt]
    if not missing:
        return prompt
    names = " and ".join(f"`{name}`" for name in missing)
    call = _first_call(columns["tests"], missing[0]) if len(missing) == 1 else ""
    return f"{prompt}\n\nName it {names}" + (
        f"; it is used as `{call}`." if 0 < len(call) <= LONGEST_EXAMPLE else "."
    )


def _bare(name: str) -> str:
    return name.rpartition(".")[2]


def check_programs(problems: Sequence[Problem], answers: Sequence[str | None]) -> list[Verdict]:
    """Judge the programs of answers to problems with ``program_columns``, all as one batch; equal programs
    for a problem run once."""
    places: dict[tuple[str, str], list[int]] = {}
    verdicts = [Verdict("wrong", "the template was not followed")] * len(problems)
    for place, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
        if problem.columns.get("unverifiable"):
            verdicts[place] = Verdict("unverifiable", f"tests: {problem.columns['unverifiable']}")
        elif answer is not None:
            program = read_program(answer, problem.columns["entry_point"])
            places.setdefault((problem.id, program), []).append(place)
    jobs = [_job(problems[own[0]].columns, program) for (_, program), own in places.items()]
    for own, verdict in zip(places.values(), run_jobs(jobs) if jobs else (), strict=True):
        for place in own:
            verdicts[place] = verdict
    return verdicts


def _job(columns: Mapping[str, Any], program: str) -> Job:
    limits = columns["time_limit_s"], columns["memory_limit_mb"]
    return Job(
        program, columns["tests"], columns["kind"], columns["entry_point"], *limits, columns["checker"]
    )


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


def _imported(tests: str) -> list[str]:
    """The names that a test text imports from the program; none where it imports all."""
    try:
        own = imports_of_program(ast.parse(tests).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [name.name for statement in own for name in statement.names if name.name != "*"]


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
    body, prompt = (
        row.get("canonical_solution"),
        row.get("prompt"),
    )  # HumanEval: the rest of the prompt's code
    if isinstance(body, str):
        found.append(prompt + body if isinstance(prompt, str) and body[:1].isspace() else body)
    return next((text for text in found if isinstance(text, str) and text.strip()), "")


def _with_tolerance(tests: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Tests:
    """The tests with the row's ``tolerance``, where they have none of their own."""
    tolerance = row.get("tolerance")
    return tests if tolerance is None else [{"tolerance": tolerance, **test} for test in tests]


def _with_helpers(tests: str, row: Mapping[str, Any]) -> str:
    """A test text with the functions that it uses and only the row's prompt defines, such as HumanEval's
    ``poly``. What they need of the prompt comes too."""
    prompt = row.get("prompt")
    named = row.get("entry_point")
    if not isinstance(prompt, str) or not isinstance(named, str):
        return tests
    try:
        body = ast.parse(prompt).body
        used = set(free_names(_nodes(tests))) - {_bare(named)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return tests
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    if not used & defined - {"Solution"}:
        return tests
    kept = [node for node in body if getattr(node, "name", "") not in (_bare(named), "Solution")]
    return "\n".join([*map(ast.unparse, kept), tests])


def _entry_point(named: Any, kind: Kind, tests: Tests, reference: str) -> str | None:
    """The names that the tests call: the row's, else for asserts the one that they use first of those that
    the reference defines, or of several that are each tested for themselves."""
    if isinstance(named, list) and named and all(isinstance(name, str) for name in named):
        named = ", ".join(named)
    if named is not None and not isinstance(named, str):
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
    clear = len(functions) == 1 or reference or functions_under_test(nodes, [], functions) == set(functions)
    if not functions or not clear:
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
    """How asserts call the entry point first with plain values, without what they expect; empty for tests of
    another kind."""
    for node in _nodes(tests) if isinstance(tests, str) else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            inside = [*node.args, *(keyword.value for keyword in node.keywords)]
            if not any(isinstance(part, ast.Starred) for part in inside):
                return ast.unparse(node)
    return ""


def _positive(row: Mapping[str, Any], name: str, default: float) -> float:
    value = row.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} is a number above 0, not {value!r}")
    return value
