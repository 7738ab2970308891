"""The process in which a checkpoint's chat template is rendered: a program of its own, started by
r1kit.templates, which imports nothing of r1kit.

A chat template comes from a stranger, and Jinja's sandbox limits what it may touch, not how much it may
compute: loops within loops never end, and ``'a' * 10**10`` is one operation of C that no check in Python can
interrupt. So the operating system keeps the limits: CPU time by a timer, the end of the process by a second
one, memory by RLIMIT_AS.

It reads one JSON object a line: first {"template", "cpu_s", "wall_s", "memory_mb", "longest"}, then {"turns",
"names", "generation", "variables"} for each conversation, and answers each with {"text"} or {"error",
"line"}, and {"limit"} where one was reached.

The environment has what Hugging Face's chat templates expect (transformers' documentation, "Chat templates"):
trimmed blocks, break and continue, ``raise_exception``, ``strftime_now``, ``tojson`` without HTML escapes,
and blocks of ``generation``."""

import json
import resource
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SOURCE = "<template>"  # what Jinja calls a template without a file


class TooLongError(BaseException):
    """The rendering takes too much time. No ``except Exception`` of a library stops it."""


class Generation(Extension):
    """``{% generation %}`` marks what the model wrote; here it is the text within."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(
            line
        )


def main() -> None:
    """Answer until standard input ends."""
    request = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (request["memory_mb"] << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    cpu_s, wall_s = request["cpu_s"], request["wall_s"]
    template: list[jinja2.Template] = []

    def compiled() -> dict[str, Any]:
        template.append(_environment().from_string(request["template"]))
        return {"text": ""}

    def rendered() -> dict[str, Any]:
        text = template[0].render(
            messages=asked["turns"], tools=None, documents=None,
            add_generation_prompt=asked["generation"], **{**asked["variables"], **asked["names"]},
        )  # fmt: skip
        if len(text) > request["longest"]:
            return {"error": f"it writes {len(text)} characters; {request['longest']} are read", "line": None}
        return {"text": text}

    _answer(compiled, cpu_s, wall_s)
    for line in sys.stdin:
        asked = json.loads(line)
        _answer(rendered, cpu_s, wall_s)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise TooLongError


def _answer(work: Callable[[], dict[str, Any]], cpu_s: float, wall_s: float) -> None:
    """Do the work within its time, and write the result or the error. What cannot be interrupted ends with
    the process: the default of SIGALRM and SIGVTALRM."""
    signal.setitimer(signal.ITIMER_REAL, wall_s)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1.5 * cpu_s)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        result = work()
        signal.setitimer(signal.ITIMER_PROF, 0)
    except BaseException as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        result = _described(error)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _described(error: BaseException) -> dict[str, Any]:
    """The error's text and its line in the template; ``limit`` names the limit that was reached."""
    line: int | None = getattr(error, "lineno", None)
    frame = error.__traceback__
    while frame is not None:
        compiled = frame.tb_frame.f_globals.get("__jinja_template__")
        if compiled is not None:  # Jinja has not translated this traceback
            line = compiled.get_corresponding_lineno(frame.tb_lineno)
        elif frame.tb_frame.f_code.co_filename == SOURCE:
            line = frame.tb_lineno
        frame = frame.tb_next
    if isinstance(error, TooLongError | MemoryError | RecursionError):
        return {"error": "", "line": line, "limit": type(error).__name__}
    return {"error": f"{error or type(error).__name__}"[:1000], "line": line}


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _raise(reason: str) -> None:
    raise jinja2.TemplateError(reason)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


if __name__ == "__main__":
    main()
