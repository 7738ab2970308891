"""Judge a program by a trusted test text, while the program runs in another process.

The text (asserts, HumanEval's ``check(candidate)``, ``test_*`` functions, unittest classes) runs here; its
entry point is a stand-in whose calls are sent to the program. Plain values come back as data and are rebuilt
here, so no ``__eq__`` of the program ever sees an expected value. Any other object comes back as a handle
with narrow rights:

- It is unequal to every plain value and has no order with one; between two objects of the program the
  program's own operators decide.
- An operator between an object and a plain value must yield an object again, never a plain value: otherwise
  ``abs(f(x) - 3.5) < 1e-6`` would give the program 3.5 and believe its answer.
- A returned object does not judge itself: ``"ab" in f(x)`` looks through its items here, and
  ``f(x).startswith("ab")`` works for texts only. Objects answer for themselves only if the entry point is a
  class by its name (``Stack``).
- A further name that the text uses and does not define is a function of the program that is tested too, where
  every call of it has arguments of the tests' own and no statement holds what comes from it together with
  what comes from another function of the program: ``assert tags("aab") == {"a", "b"}``. So a function of the
  program never judges another one: the text ``assert close(f(1), 2)`` without a ``close`` of its own is
  unverifiable.
- Names of classes (``Pair``) that the text does not define may only construct objects.
"""

import ast
import builtins
import sys
import types
import unittest
from collections.abc import Iterator, Sequence
from typing import Any

from r1kit.sandbox.codec import CodecError, decode, encode, read_message, write_message
from r1kit.sandbox.leetcode import NODES, written_as_list
from r1kit.sandbox.tested_names import (
    entry_points,
    free_names,
    functions_under_test,
    imports_of_program,
)

Judgement = tuple[str, str, str, tuple[str, ...]]  # outcome, reason, detail, per-test results

_BINARY = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
)
_ORDER = ("lt", "le", "gt", "ge")
_UNARY = {"abs": "abs", "neg": "neg", "pos": "pos", "invert": "invert"}
_VIEWS = {"len": int, "bool": bool, "int": int, "float": float, "str": str, "repr": str, "complex": complex}
# Methods of plain values that get the expected value and answer yes or no, and their names in data frames.
_PREDICATES = frozenset(
    name
    for kind in (str, bytes, set, float)
    for name in dir(kind)
    if name.startswith("is") or name.endswith("swith")
) | {"equals", "equal"}


class ProgramLost(BaseException):
    """The program's process has ended or broke the protocol. Not an Exception: the tests must not catch
    it."""


class Unusable(Exception):  # noqa: N818
    """The test text cannot judge anything."""


class Program:
    """The other side: a program whose objects are reached by handle."""

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.calls = 0
        self.lost = ""
        self.unusable = ""  # why the tests cannot be run, whatever the program
        self.is_class = False

    def ask(self, action: str, *arguments: Any) -> Any:
        """Send a request and return the value in the reply, or raise what the program raised."""
        if self.lost:
            raise ProgramLost(self.lost)
        self.calls += action == "call"
        request = encode([action, *arguments], self._handle)
        reply = self._exchange(request)
        if reply[0] == "raised":
            raise _exception(reply)
        if action == "call" and reply[1] is None and len(reply) == 3:
            _take_back(arguments[1], reply[2])
        return reply[1]

    def greeting(self) -> list[Any]:
        """The program's first reply: ["ready", entry point], or why it is not loaded."""
        return self._exchange(None)

    def _exchange(self, request: bytes | None) -> list[Any]:
        try:
            if request is not None:
                write_message(self.channel, request)
            reply = decode(read_message(self.channel), self.remote)
            if not isinstance(reply, list) or not reply or (len(reply) < 2 and request is not None):
                raise CodecError("not a reply")
        except (CodecError, EOFError, OSError) as error:
            self.lost = f"the program ended or broke the protocol ({type(error).__name__})"
            raise ProgramLost(self.lost) from None
        return reply

    def remote(self, content: Any) -> "Remote":
        """The stand-in for a handle of the program."""
        number, kind = content
        return Remote(self, int(number), str(kind))

    def _handle(self, value: Any) -> Any:
        if isinstance(value, Remote):
            return {"h": [value._number, value._kind]}
        kind = type(value).__name__
        if kind in NODES:  # of the tests: the program gets nodes of its own class
            try:
                return {"h": [kind, encode(written_as_list(value)).decode()]}
            except (AttributeError, ValueError) as error:
                self.unusable = f"a {kind} of the tests cannot be passed to the program: {error}"
                raise CodecError(self.unusable) from None
        self.unusable = f"a {type(value).__name__} of the tests cannot be passed to the program"
        raise CodecError(self.unusable)


def _exception(reply: list[Any]) -> Exception:
    names, text = reply[1], str(reply[2]) if len(reply) > 2 else ""
    for name in names if isinstance(names, list) else ():
        kind = getattr(builtins, name, None) if isinstance(name, str) else None
        if (
            isinstance(kind, type)
            and issubclass(kind, Exception)
            and kind not in (UnicodeDecodeError, UnicodeEncodeError)
        ):
            return kind(text)
    return RuntimeError(text)


def _take_back(sent: Any, returned: Any) -> None:
    """Apply the changes that a function, which returned None, made to its arguments in place."""
    if not isinstance(returned, list | tuple) or len(returned) != len(sent):
        return
    for mine, theirs in zip(sent, returned, strict=True):
        if type(mine) is not type(theirs):
            continue
        if isinstance(mine, list):
            mine[:] = theirs
        elif isinstance(mine, dict | set):
            mine.clear()
            mine.update(theirs)


class Remote:
    """An object of the program's: a number that only the program can follow."""

    def __init__(self, program: Program, number: int, kind: str, constructs_only: bool = False) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_constructs_only", constructs_only)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        value = self._program.ask("call", self, list(arguments), keywords)
        if self._constructs_only and not isinstance(value, Remote):
            raise TypeError("a name that the tests do not define may only construct objects")
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        if name in _PREDICATES and not self._program.is_class:
            raise AttributeError(f"{name}: the program returned an object of its own, not a text or set")
        return self._program.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", self, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Remote):
            return False
        return self._number == other._number or self._program.ask("apply", "eq", self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._number)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._program.ask("apply", "iter", self)
        if not isinstance(iterator, Remote):
            yield from iterator
            return
        while True:
            try:
                value = self._program.ask("apply", "next", iterator)
            except StopIteration:
                return
            yield value

    def __next__(self) -> Any:
        return self._program.ask("apply", "next", self)

    def __contains__(self, value: Any) -> bool:
        if not self._program.is_class:
            return any(value == item for item in self)
        return self._program.ask("apply", "contains", self, value) is True

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("apply", "getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._program.ask("apply", "setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._program.ask("apply", "delitem", self, key)

    def __enter__(self) -> Any:
        return self.__enter_remote()

    def __enter_remote(self) -> Any:
        return self._program.ask("get", self, "__enter__")()

    def __exit__(self, *_: Any) -> None:
        self._program.ask("get", self, "__exit__")(None, None, None)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and self._program.ask("apply", "isinstance", value, self) is True

    def __subclasscheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and self._program.ask("apply", "issubclass", value, self) is True


def _define_operators() -> None:
    """Give Remote the operators that differ only in their names."""

    def binary(operation: str, swapped: bool) -> Any:
        def method(self: Remote, other: Any) -> Any:
            operands = (other, self) if swapped else (self, other)
            value = self._program.ask("apply", operation, *operands)
            if not isinstance(other, Remote) and not isinstance(value, Remote):
                raise TypeError(
                    f"{operation} between an object of the program and a plain value must yield an object"
                )
            return value

        return method

    def order(operation: str) -> Any:
        def method(self: Remote, other: Any) -> Any:
            if not isinstance(other, Remote):
                return NotImplemented
            return self._program.ask("apply", operation, self, other) is True

        return method

    def unary(operation: str) -> Any:
        return lambda self: self._program.ask("apply", operation, self)

    def view(operation: str, kind: type) -> Any:
        def method(self: Remote) -> Any:
            value = self._program.ask("apply", operation, self)
            if type(value) is not kind:
                raise TypeError(f"{operation} of an object gave a {type(value).__name__}")
            return value

        return method

    for operation in _BINARY:
        setattr(Remote, f"__{operation.rstrip('_')}__", binary(operation, False))
        setattr(Remote, f"__r{operation.rstrip('_')}__", binary(operation, True))
    for operation in _ORDER:
        setattr(Remote, f"__{operation}__", order(operation))
    for name, operation in _UNARY.items():
        setattr(Remote, f"__{name}__", unary(operation))
    for operation, kind in _VIEWS.items():
        setattr(Remote, f"__{operation}__", view(operation, kind))


_define_operators()


def judge(tests: str, entry_point: str | None, channel: int) -> Judgement:
    """Run a test text against the program on ``channel``. Never raises for what the text or the program does.

    A program that has ended is reported as ended, whatever the text made of it; the reason ``lost`` means
    that it never began."""
    if not _is_confined(channel):
        return ("failed", "lost", "the job could not be confined", ())
    program = Program(channel)
    results: list[str] = []
    judgement = _judge(tests, entry_point, program, results)
    if program.lost:
        return ("wrong", "exception", program.lost, judgement[3])
    return ("unverifiable", "tests", program.unusable, judgement[3]) if program.unusable else judgement


def _judge(tests: str, entry_point: str | None, program: Program, results: list[str]) -> Judgement:
    try:
        loaded = program.greeting()
        if loaded[0] != "ready":
            return ("wrong", "missing" if loaded[0] == "missing" else "exception", str(loaded[2])[:500], ())
        run_text(tests, entry_points(entry_point), loaded[1] if entry_point else None, program, results)
    except Unusable as error:
        return ("unverifiable", "tests", str(error), tuple(results))
    except AssertionError as error:
        return ("wrong", "wrong_answer", _text(error), (*results, "wrong"))
    except BaseException as error:
        return ("wrong", "exception", _text(error), (*results, "wrong"))
    if not program.calls:
        return ("unverifiable", "tests", "the tests never called the program", tuple(results))
    return ("correct", "", "", tuple(results))


def _is_confined(channel: int) -> bool:
    try:
        return read_message(channel) == b""
    except (EOFError, OSError):
        return False


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500].encode("utf-8", "replace").decode()


def run_text(
    tests: str, names: Sequence[str], first: Remote | None, program: Program, results: list[str]
) -> None:
    """Execute the text statement by statement, then the tests that it defines without calling them. ``names``
    are the entry points and ``first`` is the first of them. Raises what a failing test raises."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unusable(f"the tests are not Python: {error}") from None
    own = imports_of_program(tree.body)
    tree.body = [statement for statement in tree.body if statement not in own]
    nodes = list(ast.walk(tree))
    if not any(_asserts(node) for node in nodes):
        raise Unusable("the tests assert nothing")
    setattr(unittest, "main", lambda *_, **__: None)  # noqa: B010 - test cases are run below, each once
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    entry = _bind_names(nodes, names, first, program, module.__dict__)
    for statement in tree.body:
        try:
            exec(compile(ast.Module([statement], []), "<tests>", "exec"), module.__dict__)
        except ImportError as error:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                raise Unusable(f"they import what is not installed here: {error}") from None
            raise
        if isinstance(statement, ast.Assert):
            results.append("correct")
    _run_defined(tree.body, nodes, module.__dict__, entry, results)


def _asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    called = node.func if isinstance(node, ast.Call) else None
    name = (
        called.attr
        if isinstance(called, ast.Attribute)
        else called.id
        if isinstance(called, ast.Name)
        else ""
    )
    return name.startswith("assert") or name == "fail"


def _bind_names(
    nodes: Sequence[ast.AST],
    names: Sequence[str],
    first: Remote | None,
    program: Program,
    namespace: dict[str, Any],
) -> Remote:
    """Bind every name that the text uses and does not define: entry points, modules of the standard library,
    further functions of the program, constructors. Returns the first entry point."""
    free = free_names(nodes)
    outside = [name for name in free if name not in sys.stdlib_module_names]
    if first is None:
        names = [_only_entry_point(nodes, outside)]
        first = program.ask("name", names[0])
    short = [name.rpartition(".")[2] for name in names]
    program.is_class = (
        len(names) == 1 and short == [*names] and names[0] != "Solution" and _is_class(names[0])
    )
    for place, name in enumerate(names):
        namespace[short[place]] = first if place == 0 else program.ask("name", name)
    tested = functions_under_test(nodes, short, [name for name in outside if not _is_class(name)])
    for name in free:
        if name in short:
            continue
        if name in sys.stdlib_module_names:
            namespace[name] = __import__(name)
        elif name in tested:
            namespace[name] = program.ask("name", name)
        elif not _is_class(name):
            raise Unusable(
                f"the tests use {name} and do not define it, and a program cannot be its own judge; "
                "define it in the tests, or name all functions of the program in entry_point"
            )
        else:
            remote = program.ask("name", name)
            namespace[name] = Remote(program, remote._number, remote._kind, constructs_only=True)
    return first


def _is_class(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()


def _only_entry_point(nodes: Sequence[ast.AST], outside: Sequence[str]) -> str:
    """The name that tests without a named entry point call. Raises Unusable where it is not clear."""
    candidates = [name for name in outside if not _is_class(name)] or list(outside)
    if not candidates or (
        len(candidates) > 1 and functions_under_test(nodes, [], candidates) != set(candidates)
    ):
        raise Unusable(f"the entry point is unclear ({', '.join(candidates) or 'no candidate'}): name it")
    return candidates[0]


def _run_defined(
    body: Sequence[ast.stmt],
    nodes: Sequence[ast.AST],
    namespace: dict[str, Any],
    entry: Remote,
    results: list[str],
) -> None:
    called = {
        node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    for statement in body:
        if isinstance(statement, ast.FunctionDef) and statement.name not in called:
            arguments = statement.args.posonlyargs + statement.args.args
            required = len(arguments) - len(statement.args.defaults)
            if statement.name == "check" and arguments:
                namespace["check"](entry)
                results.append("correct")
            elif statement.name.startswith("test"):
                for given in _parameters(namespace[statement.name], [a.arg for a in arguments[:required]]):
                    namespace[statement.name](**given)
                    results.append("correct")
        elif isinstance(statement, ast.ClassDef):
            defined = namespace.get(statement.name)
            if isinstance(defined, type) and issubclass(defined, unittest.TestCase):
                _run_test_case(defined, results)


def _parameters(function: Any, required: Sequence[str]) -> list[dict[str, Any]]:
    """The arguments of each call of a test function: one call without any, or those of its marks
    ``pytest.mark.parametrize``; no call where they leave a ``required`` one out."""
    calls: list[dict[str, Any]] = [{}]
    for mark in getattr(function, "pytestmark", ()):
        if mark.name != "parametrize" or len(mark.args) < 2:
            continue
        names, cases = mark.args[:2]
        several = not isinstance(names, str) or "," in names
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        rows = [getattr(case, "values", case if several else [case]) for case in cases]
        calls = [{**call, **dict(zip(names, row, strict=True))} for call in calls for row in rows]
    return [call for call in calls if set(required) <= set(call)]


def _run_test_case(case: type[unittest.TestCase], results: list[str]) -> None:
    outcome = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(outcome)
    broken = [*outcome.failures, *outcome.errors]
    results += ["correct"] * (outcome.testsRun - len(broken) - len(outcome.skipped))
    if broken or outcome.unexpectedSuccesses:
        raise AssertionError(broken[0][1][-400:] if broken else "a test that should fail passed")
    if outcome.testsRun == len(outcome.skipped):
        raise Unusable(f"no test of {case.__name__} was run")
