"""What every test file keeps: no comparison with a wall clock, no private name of r1kit."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(file for file in TESTS.rglob("*.py") if file.name != "waiting.py")
CLOCKS = {"monotonic", "perf_counter", "time", "monotonic_ns", "perf_counter_ns", "time_ns"}
# Owners of private names that a test may use: its own objects, the interpreter's modules, TRL's trainers.
OWNERS = {"self", "cls", "os", "atexit", "torch", "trainer"}


def clock_calls(tree: ast.AST) -> bool:
    """Whether a wall clock is read somewhere below."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CLOCKS
        and ast.unparse(node.func.value) == "time"
        for node in ast.walk(tree)
    )


def clock_names(tree: ast.AST) -> set[str]:
    """The names that are given a reading of a wall clock or a difference of two; a deadline that is handed to
    a function is none."""
    names: set[str] = set()
    for node in ast.walk(tree):
        direct = isinstance(node, ast.Assign) and (
            isinstance(node.value, ast.BinOp) or (isinstance(node.value, ast.Call) and not node.value.args)
        )
        if isinstance(node, ast.Assign) and direct and clock_calls(node.value):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def clock_comparisons(text: str) -> Iterator[str]:
    """The comparisons of a text with a wall clock, functions looked at one by one."""
    if "time." not in text:
        return
    tree = ast.parse(text)
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        names = clock_names(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Compare):
                read = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
                if clock_calls(node) or read & names:
                    yield f"{node.lineno}: {ast.unparse(node)}"


def private_names(text: str) -> Iterator[str]:
    """The private names of r1kit that a text imports, reads or replaces."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("r1kit"):
            yield from (f"{node.lineno}: {one.name}" for one in node.names if is_private(one.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if ast.unparse(node.value) not in OWNERS:
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "getattr")):
            owner, *rest = [ast.unparse(argument) for argument in node.args]
            if owner not in OWNERS and any(is_private(word.strip("'\"")) for word in rest[:1]):
                yield f"{node.lineno}: {ast.unparse(node)}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_no_test_depends_on_how_busy_the_machine_is(file: Path) -> None:
    """A time is no proof: use a counted event, an injected clock, or processor seconds with a wide margin;
    waiting.py waits for other processes."""
    assert not list(clock_comparisons(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_tests_use_public_names_only(file: Path) -> None:
    assert not list(private_names(file.read_text(encoding="utf-8")))


def test_comparisons_with_a_clock_are_found_and_those_of_processor_time_are_none() -> None:
    text = (
        "def test_a():\n    began = time.monotonic()\n    work()\n    assert time.monotonic() - began < 5\n"
        "def test_b():\n    taken = time.perf_counter() - began\n    assert done and taken < 5\n"
        "def test_c():\n    began = time.process_time()\n    assert time.process_time() - began < 5\n"
        "def test_d():\n    taken = work(time.monotonic() + 60)\n    assert taken < 5\n"
    )
    found = ["4: time.monotonic() - began < 5", "7: taken < 5"]
    assert list(clock_comparisons(text)) == found


def test_private_names_are_found_wherever_they_come_from() -> None:
    text = (
        "from r1kit.chat import Chat, _open\nfrom numpy import _core\nruntime._helpers[0].kill()\n"
        "self._own = 1\nmonkeypatch.setattr(module, '_SCORER', 1)\nmonkeypatch.setattr(module, 'LIMIT', 1)\n"
        "thing.__class__\n"
    )
    found = ["1: _open", "3: runtime._helpers", "5: monkeypatch.setattr(module, '_SCORER', 1)"]
    assert sorted(private_names(text)) == found


def is_slow(tree: ast.Module) -> bool:
    """Whether all tests of a file are marked as slow."""
    return any(
        isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "pytestmark"
        and "pytest.mark.slow" in ast.unparse(node.value)
        for node in tree.body
    )


def test_the_quick_tests_use_every_package() -> None:
    """What ``make test-quick`` runs imports something of every package of r1kit."""
    imported = {
        ".".join((node.module or "").split(".")[:2])
        for file in FILES
        if file.name.startswith("test_") and not is_slow(tree := ast.parse(file.read_text(encoding="utf-8")))
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    source = TESTS.parent / "src/r1kit"
    packages = {f"r1kit.{folder.parent.name}" for folder in source.glob("*/__init__.py")}
    assert len(packages) > 10 and packages <= imported
