"""The tests of a row in the layouts of public data sets, as tests of ``run_program``.

    tests, test, test_list       r1kit's own, HumanEval(+), MBPP(+), LeetCode sets; also as JSON text
    test_cases                   lists of asserts, or of inputs and outputs
    input_output                 APPS, TACO: {"inputs": [...], "outputs": [...], "fn_name"?: NAME}
    reward_model.ground_truth    verl, PRIME: the same as JSON text
    verification_info            open-r1: {"test_cases": [{"input", "output", "fn_name", "type"}]}
    public_test_cases, private_test_cases           LiveCodeBench: [{"input", "output", "testtype"}]
    public_tests, private_tests, generated_tests    CodeContests: {"input": [...], "output": [...]}
    examples, official_tests                        Codeforces: [{"input", "output"}]

LiveCodeBench's private tests may be compressed. The judges of these sets compare values as JSON holds them (a
tuple counts as a list), and so do tests that are read from them. A checker in Python, for problems with
several right outputs (open-r1/codeforces: ``generated_checker``), judges in the sandbox
(r1kit.sandbox.checkers). With one in C++, and where programs read files or are interactive, problems are
unverifiable."""

import ast
import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1kit.sandbox.checkers import checker_fault

TESTS = (
    "tests",
    "test",
    "test_list",
    "input_output",
    "verification_info",
    "reward_model.ground_truth",
    "private_test_cases",
    "public_test_cases",
    "private_tests",
    "generated_tests",
    "public_tests",
    "official_tests",
    "test_cases",
    "examples",
)
# Columns that are read together: the tests of a row are those of all of them.
_FAMILIES = (
    ("public_test_cases", "private_test_cases"),
    ("public_tests", "private_tests", "generated_tests"),
    ("examples", "official_tests"),
)
_CHECKERS = ("generated_checker", "checker", "checker_code")
_MODES = ("input_mode", "output_mode")
_NAMES = ("entry_point", "fn_name", "func_name")
LARGEST_TESTS = 256 << 20  # bytes of compressed tests once they are unpacked
_TEXT_OPCODES = frozenset(
    (
        "PROTO",
        "FRAME",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "MEMOIZE",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "STOP",
    )
)

Test = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a row says about its tests. ``checker``: the script that judges outputs; ``unverifiable``: why no
    output can be judged here; limits are 0 where the row has none."""

    tests: Any
    entry_point: Any = None
    time_limit_s: float = 0.0
    memory_limit_mb: int = 0
    checker: str = ""
    unverifiable: str = ""


def has_tests(row: Mapping[str, Any], column: str) -> bool:
    """Whether a row has something in this column; a number there counts tests that are elsewhere
    (open-r1/codeforces: ``generated_tests``)."""
    value = inner(row, column)
    return value not in (None, "", [], {}) and not isinstance(value, int | float)


def inner(row: Mapping[str, Any], name: str) -> Any:
    """A column as it is; with dots of an inner object, which may be JSON text."""
    first, _, rest = name.partition(".")
    if rest and name not in row:
        value = row.get(first)
        value = _parsed(value) if isinstance(value, str) else value
        return inner(value if isinstance(value, dict) else {}, rest)
    return row.get(name)


def read_layout(row: Mapping[str, Any], column: str) -> Layout:
    """The tests of a row's column, and of those that belong to it. Raises ValueError for what cannot be read,
    with the shape to write."""
    family = next((names for names in _FAMILIES if column in names), (column,))
    named = _entry_point(row)
    found: list[Any] = []
    for name in family:
        value = inner(row, name)
        if value is not None and (value != "" or len(family) == 1):
            found.append(_read(value, named, name))
    names = [name for _, name in found if name is not None]
    tests: Any = None
    if len(found) == 1:
        tests = found[0][0]
    elif found:
        tests = [test for tests, _ in found if isinstance(tests, list) for test in tests]
    entry_point = named if named is not None else next(iter(names), None)
    return Layout(tests, entry_point, _seconds(row), _megabytes(row), *_checker(row))


def _entry_point(row: Mapping[str, Any]) -> Any:
    """The entry point of a row: a column of its own, or one of LiveCodeBench's metadata."""
    metadata = row.get("metadata")
    metadata = _parsed(metadata) if isinstance(metadata, str) else metadata
    places = [row, metadata if isinstance(metadata, dict) else {}]
    return next((place[name] for place in places for name in _NAMES if place.get(name)), None)


def _read(value: Any, named: Any, column: str) -> tuple[Any, Any]:
    """(tests, entry point or None) of a column's value."""
    if isinstance(value, str):
        parsed = _parsed(value)
        if parsed is None and column == "private_test_cases":
            parsed = _parsed(_unpacked(value))
            if not isinstance(parsed, list):
                raise ValueError("the compressed tests are no list in JSON; write the tests as JSON")
        if not isinstance(parsed, dict | list):
            return value, None
        value = parsed
    if isinstance(value, dict):
        return _read_object(value, named, column)
    if isinstance(value, list) and value and all(isinstance(test, dict) for test in value):
        return _read_cases(value, named, column)
    return value, None


def _read_object(value: Mapping[str, Any], named: Any, column: str) -> tuple[Any, Any]:
    keys = set(value)
    name = next((value[key] for key in _NAMES if value.get(key)), None)
    for inputs, outputs in (("inputs", "outputs"), ("input", "output"), ("stdin", "stdout")):
        if {inputs, outputs} <= keys:
            pair = value[inputs], value[outputs]
            if not all(isinstance(side, list) for side in pair) or len(pair[0]) != len(pair[1]):
                raise ValueError(f"{inputs} and {outputs} are lists of one length, a pair for each test")
            return _paired(*pair, named or name), name
    for key in ("test_cases", "tests", "assert_case", "asserts"):
        if key in keys:
            tests, inner_name = _read(value[key], named or name, column)
            return tests, name or inner_name
    raise ValueError(_unknown(value, "an object with the keys " + ", ".join(map(str, value)) or "no key"))


def _read_cases(cases: Sequence[Test], named: Any, column: str) -> tuple[Any, Any]:
    """Tests in a list of objects: r1kit's own, or pairs of input and output."""
    keys = set(cases[0])
    if keys & {"args", "kwargs", "stdin", "expected"}:
        return list(cases), None
    for given, wanted in (("input", "output"), ("input", "expected_output"), ("inputs", "outputs")):
        if all({given, wanted} <= set(case) for case in cases):
            name = next((case[key] for case in cases for key in _NAMES if case.get(key)), None)
            kinds = {str(case.get("testtype") or case.get("type") or "") for case in cases}
            functional = bool(kinds & {"functional", "function_call"})
            if functional and not (named or name):
                raise ValueError("tests of functions need an entry_point; name it in a column entry_point")
            by_output = any("stdin" in kind for kind in kinds) or not (named or name)
            inputs, outputs = [case[given] for case in cases], [case[wanted] for case in cases]
            return _paired(inputs, outputs, None if by_output and not functional else named or name), name
    raise ValueError(_unknown(cases, "a list of objects with the keys " + ", ".join(map(str, cases[0]))))


def _unknown(value: Any, what: str) -> str:
    return (
        f"it is JSON, {what}, which is no layout of tests that r1kit reads; write "
        '[{"args": [1], "expected": 2}] with a column entry_point, [{"stdin": "1\\n", "stdout": "2\\n"}], or '
        'a text of asserts; {"inputs": [...], "outputs": [...], "fn_name": NAME} is read too'
    )


def _paired(inputs: Sequence[Any], outputs: Sequence[Any], name: Any) -> list[Test]:
    """Tests of a function where there is a name, else of a script."""
    if name is None:
        return [
            {"stdin": _text(given), "stdout": _text(wanted)}
            for given, wanted in zip(inputs, outputs, strict=True)
        ]
    return [_call(given, wanted) for given, wanted in zip(inputs, outputs, strict=True)]


def _text(value: Any) -> str:
    """What a script reads or prints: a text, or its lines as a list."""
    if isinstance(value, list):
        return "\n".join(map(_text, value)) + ("\n" if value else "")
    return value if isinstance(value, str) else json.dumps(value)


def _call(given: Any, wanted: Any) -> Test:
    """One call and what it returns. Inputs: a list of arguments, an object of keyword arguments, a line of
    JSON for each argument (LiveCodeBench), or "nums = [3], target = 6" (LeetCode)."""
    test: Test = {"as_json": True}
    if isinstance(given, str):
        test |= _arguments(given)
    else:
        test |= {"kwargs": given} if isinstance(given, dict) else {"args": _listed(given)}
    expected = _value(wanted) if isinstance(wanted, str) and isinstance(given, str) else wanted
    test["expected"] = expected
    if isinstance(expected, list) and len(expected) == 1:
        test["accepted"] = [expected[0]]  # APPS writes a result as a list of one, and accepts either
    return test


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _arguments(text: str) -> Test:
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        keywords = call.keywords if isinstance(call, ast.Call) and not call.args else []
        if keywords and all(keyword.arg for keyword in keywords):
            return {"kwargs": {str(word.arg): _literal(word.value) for word in keywords}}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return {"args": [_value(line) for line in text.split("\n") if line.strip()]}


def _literal(node: ast.expr) -> Any:
    """A value of a LeetCode example, which may be written as JSON or as Python."""
    return _value(ast.unparse(node))


def _value(text: str) -> Any:
    parsed = _parsed(text, every=True)
    return text if parsed is _NOTHING else parsed


_NOTHING = object()


def _parsed(text: str, every: bool = False) -> Any:
    """JSON text, or the plain Python that some sets write in its place; None (``every``: _NOTHING) for
    another text, and without ``every`` for a text that is no list or object."""
    failed = _NOTHING if every else None
    if not every and text.lstrip()[:1] not in ("{", "["):
        return failed
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for read in readers:
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return failed


def _unpacked(text: str) -> str:
    """LiveCodeBench's compressed tests: base64 of zlib of a pickled text. Nothing is unpickled: the text is
    read from the one instruction that may hold it."""
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(base64.b64decode(text, validate=True), LARGEST_TESTS)
        if unpacking.unconsumed_tail:
            raise ValueError(f"more than {LARGEST_TESTS >> 20} MB of tests")
        return content.decode() if content.startswith((b"[", b"{")) else _pickled_text(content)
    except (binascii.Error, zlib.error, UnicodeDecodeError, ValueError) as error:
        raise ValueError(
            f"it is neither JSON nor base64 of zlib of a pickled text ({error}); write the tests as JSON"
        ) from None


def _pickled_text(content: bytes) -> str:
    texts = []
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _TEXT_OPCODES:
            raise ValueError(f"the pickle holds {opcode.name}, not only a text")
        if isinstance(argument, str):
            texts.append(argument)
    if len(texts) != 1:
        raise ValueError("the pickle holds no single text")
    return texts[0]


def _seconds(row: Mapping[str, Any]) -> float:
    """The time limit of a contest's row in seconds (CodeContests, Codeforces); 0 for none."""
    limit = row.get("time_limit")
    if isinstance(limit, dict):
        limit = (limit.get("seconds") or 0) + (limit.get("nanos") or 0) / 1e9
    return float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else 0.0


def _megabytes(row: Mapping[str, Any]) -> int:
    """The memory limit of a contest's row in MB; 0 for none."""
    for name, unit in (("memory_limit", 1), ("memory_limit_bytes", 1 << 20)):
        limit = row.get(name)
        if isinstance(limit, int | float) and not isinstance(limit, bool) and limit > 0:
            return max(1, int(limit / unit))
    return 0


def _checker(row: Mapping[str, Any]) -> tuple[str, str]:
    """(the script that judges the row's outputs, why none can be judged here); each empty where there is
    none. Raises ValueError for a checker that is no text."""
    if any(row.get(name) == "file" for name in _MODES) or row.get("input_file") or row.get("output_file"):
        return "", "the program reads or writes a named file, which is not supported"
    if row.get("interaction_format"):
        return "", "the problem is interactive, which is not supported"
    name = next((name for name in _CHECKERS if row.get(name)), None)
    if name is None:
        return "", ""
    if not isinstance(row[name], str):
        raise ValueError(f"the checker in column {name} is a Python script as a text, not {row[name]!r:.60}")
    fault = checker_fault(row[name])
    return ("", f"the checker in column {name} {fault}") if fault else (row[name], "")
