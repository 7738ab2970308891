"""Chat templates of checkpoints, rendered within limits of time, memory and length.

A template is a program from a stranger. It runs in a process of its own (r1kit.template_worker), whose limits
the operating system keeps, one process for each template; a rendering costs a message through a pipe."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from r1kit.config import R1kitError

CPU_S, WALL_S = 2.0, 8.0  # of one rendering; an ordinary one takes less than a millisecond
MEMORY_MB = 1024  # of the process, of which Python takes a tenth
LONGEST = 10_000_000  # characters
LONGEST_TEMPLATE = 1_000_000  # characters; the longest that are published have some ten thousand

_HALF = re.compile("[\ud800-\udfff]")  # a lone surrogate, which has no bytes
_ENVIRONMENT = ("PATH", "HOME", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME")  # no secret is near a template
_LIMITS = {
    "TooLongError": f"it computes for more than {CPU_S:.0f} s",
    "MemoryError": f"it needs more than {MEMORY_MB} MB of memory",
    "RecursionError": "it calls itself too often",
}
_SIGNALS: dict[int, str] = {
    signal.SIGVTALRM: f"it computes for more than {CPU_S:.0f} s",
    signal.SIGALRM: f"it takes more than {WALL_S:.0f} s",
    signal.SIGSEGV: "it calls itself too often",
}


@dataclass(frozen=True, slots=True)
class Template:
    """A Jinja template and the file that it is from, for messages."""

    text: str
    source: str = ""


def render(
    template: Template,
    names: Mapping[str, str],
    turns: Sequence[tuple[str, str]],
    generation: bool = True,
    variables: Mapping[str, Any] = {},
) -> str:
    """The text of a conversation of (role, text); ``names`` are the special tokens by short name,
    ``variables`` what else the template may read (``enable_thinking``). Raises R1kitError naming the
    template's file and line: for what the template refuses, for an error in it, and for a limit that it
    exceeds."""
    asked = {
        "turns": [{"role": role, "content": text} for role, text in turns],
        "names": {f"{name}_token": token for name, token in names.items()},
        "generation": generation,
        "variables": dict(variables),
    }
    answer = _renderer(template.text, os.getpid()).ask(asked)
    if "text" in answer:
        text = str(answer["text"])
        if _HALF.search(text) is None:
            return text
        answer = {"error": "it writes half a character (a lone surrogate)"}
    roles = ", ".join(role for role, _ in turns)
    raise R1kitError(
        f"{place_of(template, answer.get('line'))}the checkpoint's chat template does not take this "
        f"conversation ({roles}): {answer['error']}; correct the template, or use template: chat or r1_zero"
    )


def place_of(template: Template, line: int | None = None) -> str:
    """The beginning of a message about a template: its file and line, as far as they are known."""
    if template.source.endswith(".jinja"):
        return f"{template.source}:{line}: " if line else f"{template.source}: "
    where = f"line {line} of the template: " if line else ""
    return f"{template.source}: {where}" if template.source else where


class _Renderer:
    """The process of one template. A template that has exceeded a limit is not tried again."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.failure: dict[str, Any] | None = None
        self.restarted = False

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer: {"text"}, or {"error", "line"}."""
        with self.lock:
            if self.failure is None and self.process is None:
                self._start()
            if self.failure is None:
                answer = self._exchange(asked)
                if answer.get("killed") and not self.restarted:  # from outside: not the template's doing
                    self.restarted, self.process = True, None
                    self._start()
                    answer = self._exchange(asked) if self.failure is None else self.failure
                if "text" in answer or "limit" not in answer:
                    return answer
                self._fail(answer)
            assert self.failure is not None
            return self.failure

    def _start(self) -> None:
        if len(self.text) > LONGEST_TEMPLATE:
            self._fail({"error": f"it has {len(self.text)} characters; {LONGEST_TEMPLATE} are read"})
            return
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        path = os.pathsep.join(folder for folder in sys.path if folder)
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("template_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, "PYTHONPATH": path, "PYTHONUTF8": "1"},
            encoding="ascii",  # JSON with escapes
        )
        weakref.finalize(self, _end, self.process)
        answer = self._exchange(
            {
                "template": self.text,
                "cpu_s": CPU_S,
                "wall_s": WALL_S,
                "memory_mb": MEMORY_MB,
                "longest": LONGEST,
            }
        )
        if "text" not in answer:
            self._fail(answer)

    def _exchange(self, message: Mapping[str, Any]) -> dict[str, Any]:
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line.endswith("\n"):  # the process has ended
            code = process.wait()
            reason = _SIGNALS.get(-code, f"its process ended with code {code}")
            return {"error": reason, "limit": "process", "killed": code == -signal.SIGKILL}
        answer: dict[str, Any] = json.loads(line)
        if "limit" in answer:
            answer["error"] = _LIMITS[answer["limit"]]
        return answer

    def _fail(self, answer: dict[str, Any]) -> None:
        self.failure = answer
        if self.process is not None:
            _end(self.process)


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


@lru_cache(maxsize=8)
def _renderer(text: str, process: int) -> _Renderer:
    """The renderer of a template, one in each process: a forked copy must not share its parent's pipes."""
    return _Renderer(text)
