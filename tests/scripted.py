"""Scripted models: an engine and an endpoint that answer by a script, and the context of a stage."""

import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from small_world import tokenizer

from r1kit.chat import Chat
from r1kit.log import Log
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.stages.stage import Context
from r1kit.types import Completion, Sampling

Script = Callable[[str, int], str]


class Scripted:
    """An engine that answers a prompt's text by a script; the n-th completion of a group may differ."""

    def __init__(self, script: Script) -> None:
        self.script, self.chat = script, Chat(tokenizer())

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        return [
            [self._one(tokenizer().decode(prompt), index) for index in range(sampling.n)]
            for prompt in prompts
        ]

    def _one(self, prompt: str, index: int) -> Completion:
        ids = self.chat.response_ids(self.script(prompt, index))
        return Completion(ids, np.full(len(ids), -1.0, dtype=np.float32), "stop")


class ScriptedRuntime(LocalRuntime):
    """A runtime of one process whose engines on finished models are scripted."""

    def __init__(self, script: Script) -> None:
        super().__init__(LocalConfig(processes=1))
        self.script = script

    def engine(self, model: Path) -> Scripted:  # type: ignore[override]
        return Scripted(self.script)

    def release(self, *things: object) -> None:
        super().release(*(thing for thing in things if not isinstance(thing, Scripted)))  # type: ignore[arg-type]


def context(tmp_path: Path, base: Path, script: Script = lambda prompt, index: "") -> Context:
    out = tmp_path / "out"
    out.mkdir()
    log = Log(tmp_path, "stage", Console(file=io.StringIO()))
    return Context(tmp_path, "stage", out, 3, ScriptedRuntime(script), log, {"base": base})


@contextlib.contextmanager
def endpoint(replies: Callable[[dict[str, Any]], str | int]) -> Iterator[tuple[str, list[Any]]]:
    """An OpenAI-compatible server that answers with ``replies(request)``: a text, or a status number. Yields
    (address, requests)."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, request))
            reply = replies(request)
            body = (
                json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]}).encode()
                if isinstance(reply, str)
                else b"{}"
            )
            self.send_response(200 if isinstance(reply, str) else reply)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
