"""What a job does once it is confined: run a program, serve its functions, or judge them with trusted tests.

``functions``  channel: load a program, then answer calls one by one. It never receives an expected value.
``program``    channel, stdout, stderr, stdin: run a program as a script.
``checker``    channel, stdout, stderr, input, expected output, printed output: run a checker as a script.
``tests``      channel, calls: run a test text whose entry point is remote; every call goes through ``calls``
               to a ``functions`` job.

Any other role is a service: a trusted function that the zygote was started with, called once a message.
"""

import atexit
import builtins
import contextlib
import importlib
import io
import os
import random
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any

from r1kit.sandbox.codec import LARGEST_MESSAGE, decode, encode, read_message, write_message
from r1kit.sandbox.leetcode import NODES, made_of_nodes, names_for, taking_lists
from r1kit.sandbox.remote_tests import judge
from r1kit.sandbox.tested_names import entry_points

Channels = Sequence[int]

CHECKER_FILES = ("input.txt", "correct_output.txt", "solution_output.txt")
NORMAL_END, RAISED = 200, 201  # exit statuses of a checker


def serve_functions(channels: Channels) -> None:
    """Load the program of the first message and answer calls until the channel ends."""
    channel = channels[0]
    request = decode(read_message(channel))
    answer = write_message  # the program may replace the module's
    names = entry_points(request["entry_point"])
    namespace = _fresh_namespace("__program__")
    namespace |= names_for(request["program"])
    _lift_digit_limit()
    server = FunctionServer(namespace, request.get("plain", False))
    try:
        exec(compile(request["program"], "<program>", "exec"), namespace)
        greeting = server.greet(names)
    except BaseException as error:
        answer(channel, encode(_raised(error)))
        return
    answer(channel, greeting)
    while True:
        try:
            request = read_message(channel)
        except EOFError:
            return
        reply = server.answer(request)
        if len(reply) > LARGEST_MESSAGE:
            reply = encode(
                [
                    "raised",
                    ["ValueError"],
                    f"ValueError: a result of {len(reply)} bytes; {LARGEST_MESSAGE} are allowed",
                    0,
                ]
            )
        answer(channel, reply)


class FunctionServer:
    """The objects of one program that the other side may call, by name or by handle. ``plain``: its results
    are compared as plain values, LeetCode's nodes as lists."""

    def __init__(self, namespace: dict[str, Any], plain: bool = False) -> None:
        self.namespace = namespace
        self.plain = plain
        self.objects: list[Any] = []

    def greet(self, entry_points: Sequence[str]) -> bytes:
        """Report that the program is loaded; the first entry point, if one is named, becomes handle 0."""
        for name in entry_points:
            try:
                self._named(name)
            except NameError as error:
                return encode(["missing", [], str(error)])
        return encode(["ready", *(_Held(self._named(name)) for name in entry_points[:1])], self._handle)

    def _named(self, name: str) -> Any:
        """The function of this name. A method is called on a new object each time, as LeetCode does:
        ``Solution().add``, ``Solution.add``, or ``add`` where the program has ``class Solution`` and no such
        function."""
        if name in self.namespace:
            return self.namespace[name]
        of_class, dot, method = name.replace("()", "").partition(".")
        kind = self.namespace.get(of_class if dot else "Solution")
        method = method if dot else name
        if isinstance(kind, type) and callable(getattr(kind, method, None)):
            return lambda *arguments, **keywords: taking_lists(
                getattr(kind(), method), self.namespace, self.plain
            )(*arguments, **keywords)
        if method in self.namespace:
            return self.namespace[method]
        raise NameError(f"the program defines no {name!r}")

    def answer(self, request: bytes) -> bytes:
        """Carry out one request: ["name", n] | ["call", target, args, kwargs] | ["get", target, attribute] |
        ["set", ...]."""
        try:
            action, *arguments = decode(request, self._object)
            value = getattr(self, f"do_{action}")(*arguments)
            return encode(["value", *value], self._handle)
        except BaseException as error:
            return encode(_raised(error))

    def do_name(self, name: str) -> tuple[Any, ...]:
        """Look a global name up."""
        return (_Held(self._named(name)),)

    def do_call(self, target: Any, arguments: Any, keywords: Any) -> tuple[Any, ...]:
        """Call; with a result of None the arguments go back too: they may have been changed in place."""
        value = target(*arguments, **keywords)
        return (
            (value, arguments)
            if value is None and any(isinstance(a, list | dict | set) for a in arguments)
            else (value,)
        )

    def do_get(self, target: Any, attribute: str) -> tuple[Any, ...]:
        """Read an attribute."""
        return (getattr(target, attribute),)

    def do_set(self, target: Any, attribute: str, value: Any) -> tuple[Any, ...]:
        """Write an attribute."""
        setattr(target, attribute, value)
        return (None,)

    def do_apply(self, operation: str, *operands: Any) -> tuple[Any, ...]:
        """Apply a builtin or an operator to objects of this program."""
        module = builtins if hasattr(builtins, operation) else importlib.import_module("operator")
        return (getattr(module, operation)(*operands),)

    def _handle(self, value: Any) -> Any:
        value = value.value if isinstance(value, _Held) else value
        self.objects.append(value)
        kind = "type" if isinstance(value, type) else "callable" if callable(value) else "object"
        return {"h": [len(self.objects) - 1, kind]}

    def _object(self, content: Any) -> Any:
        """The object that a handle means: one of the program's, or a list or tree of the tests', as nodes."""
        number, text = content
        if number in NODES:
            return made_of_nodes(number, decode(text.encode()), self.namespace)
        return self.objects[number]


class _Held:
    """An object that crosses as a handle, even if it is a plain value."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _raised(error: BaseException) -> list[Any]:
    """An exception as data: the names of its builtin classes, its text, the line of the program."""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        text = str(error)[:500]
    except BaseException:
        text = "an exception whose text raises"
    line, trace = 0, error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<program>" else line
        trace = trace.tb_next
    return [
        "raised",
        names,
        f"{type(error).__name__}: {text}"[:600].encode("utf-8", "replace").decode(),
        line,
    ]


def run_script(channels: Channels) -> None:
    """Run the program of the message as __main__ with the given standard streams; exit as Python would."""
    channel, output, complaint, given = channels
    program = decode(read_message(channel))["program"]
    os.dup2(given, 0)
    _become_script(output, complaint, len(channels))
    _run_as_main(program, normal_end=0, raised=1)


def run_checker(channels: Channels) -> None:
    """Run a checker as __main__: the three texts are files in its folder, whose names are its arguments. The
    exit status says whether it ended without ``sys.exit`` (NORMAL_END) or raised something (RAISED)."""
    channel, output, complaint, *texts = channels
    program = decode(read_message(channel))["program"]
    for name, text in zip(CHECKER_FILES, texts, strict=True):
        with open(text, "rb", closefd=False) as source, open(name, "wb") as target:
            target.write(source.read())
    sys.argv = ["checker.py", *CHECKER_FILES]
    _become_script(output, complaint, len(channels))
    _run_as_main(program, normal_end=NORMAL_END, raised=RAISED)


def _become_script(output: int, complaint: int, descriptors: int) -> None:
    """Take over the standard streams and close what a script does not get."""
    os.dup2(output, 1)
    os.dup2(complaint, 2)
    os.closerange(3, 3 + descriptors)
    _lift_digit_limit()
    # The interpreter keeps its first streams: a program that replaces them must not close the files.
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8", errors="surrogateescape")
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _run_as_main(program: str, normal_end: int, raised: int) -> None:
    """Run a script and end this process; a text given to ``sys.exit`` is an error, as in Python."""
    status = normal_end
    namespace = _fresh_namespace("__main__")
    namespace["__file__"] = os.path.abspath("program.py")
    try:
        exec(compile(program, "<program>", "exec"), namespace)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else normal_end if stop.code is None else raised
    except BaseException as error:
        sys.stderr.write(_raised(error)[2])
        status = raised
    # As the interpreter does at its end, in its order: wait for threads, run exit functions, flush.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    outputs: tuple[Any, ...] = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for stream in outputs:
        with contextlib.suppress(ValueError, AttributeError):  # closed, or replaced
            stream.flush()
    os._exit(status & 0xFF)


def run_tests(channels: Channels) -> None:
    """Judge a program that is served on the second channel; the only message back is the verdict."""
    channel, calls = channels
    random.seed()  # the program cannot predict what the tests draw
    _lift_digit_limit()
    request = decode(read_message(channel))
    write_message(channel, encode(judge(request["tests"], request["entry_point"], calls)))


def _lift_digit_limit() -> None:
    """Allow integers of any length as texts, as judges of contests do: a job's time is limited anyway."""
    sys.set_int_max_str_digits(0)


def serve(function: Callable[..., Any], channels: Channels) -> None:
    """Answer each message, a list of arguments, with the function's result, until the channel ends."""
    channel = channels[0]
    while True:
        try:
            arguments = decode(read_message(channel))
        except EOFError:
            return
        write_message(channel, encode(function(*arguments)))


def _fresh_namespace(name: str) -> dict[str, Any]:
    """The globals of a new module. It can be imported by its name, as dataclasses and pickle need."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module.__dict__


ROLES: dict[str, Callable[[Channels], None]] = {
    "functions": serve_functions,
    "program": run_script,
    "checker": run_checker,
    "tests": run_tests,
}
