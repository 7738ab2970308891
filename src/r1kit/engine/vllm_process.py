"""The process of a vLLM engine, seen from r1kit: start it, ask it, end it.

It has a folder of its own (mode 0700) with its socket, its settings and its log. It ends when the pipe to its
standard input closes, so it does not outlive this process, however that ends. What it prints on an error is
in its log, whose last lines every error here shows."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1kit.config import R1kitError
from r1kit.engine import vllm_server
from r1kit.watchdog import HungError

POLL_S = 0.1  # how often a waiting call reports that it is alive
LONGEST_PATH = 100  # bytes of a Unix socket's path
# What the process gets of this one's environment. Keys and tokens are not in it.
_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "USER")
_PREFIXES = ("VLLM_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "HIP_", "ROCR_", "TRITON_")

Answer = tuple[dict[str, Any], bytes]


class VLLMProcess:
    """A running vLLM with the weights of ``settings["llm"]["model"]``. ``version`` is theirs, and ``holds``
    how many tensors they are and how many bytes. Raises R1kitError where it does not start within
    ``start_s`` seconds."""

    def __init__(
        self,
        program: str,
        private: Path,
        settings: Mapping[str, Any],
        variables: Mapping[str, str],
        start_s: float,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="process-", dir=private))
        self._socket = self._folder / "socket"
        if len(bytes(self._socket)) > LONGEST_PATH:
            raise R1kitError(f"{self._socket}: this path is too long for a socket; set TMPDIR=/tmp")
        (self._folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in _VARIABLES or name.startswith(_PREFIXES)
        }
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                # -I: without the folder of the script in front of the packages, and without PYTHONPATH
                [program, "-I", str(Path(vllm_server.__file__).resolve()), str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=kept | dict(variables),
                start_new_session=True,
            )
        try:
            self._wait_for_start(start_s)
            self._take(self._only({"do": "health"}, start_s))
        except BaseException:
            self.end()
            raise

    def ask(self, content: Mapping[str, Any], arrays: bytes, seconds: float) -> Iterator[Answer]:
        """Send a request and yield its answers, and an empty one every ``POLL_S`` in between. Ends after an
        answer with a version. Raises R1kitError for an error and for a process that has ended, HungError
        where no answer comes for ``seconds``."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(seconds)
            try:
                connection.connect(str(self._socket))
                vllm_server.send(connection, content, arrays)
                while True:
                    yield from self._waiting(connection, seconds)
                    answer, found = vllm_server.receive(connection)
                    if "error" in answer:
                        raise R1kitError(f"vLLM: {answer['error']}{self._last_lines()}")
                    yield answer, found
                    if "version" in answer:
                        return
            except TimeoutError:
                raise self._hung(str(content["do"]), seconds) from None
            except (OSError, EOFError):
                raise self._ended() from None

    def load(self, folder: Path, version: int, seconds: float) -> None:
        """Load the weights of a folder in place."""
        self._take(self._only({"do": "load", "folder": str(folder), "version": version}, seconds))

    def health(self, seconds: float) -> str:
        """Why it does not answer within ``seconds``; "" where it does."""
        try:
            self._only({"do": "health"}, seconds)
        except R1kitError as error:
            return str(error)
        return ""

    def end(self) -> None:
        """Kill it with the processes that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _only(self, content: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        return [answer for answer, _ in self.ask(content, b"", seconds) if answer][-1]

    def _take(self, state: Mapping[str, Any]) -> None:
        self.version = int(state["version"])
        self.holds = (int(state["tensors"]), int(state["bytes"]))

    def _wait_for_start(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._socket.exists():
            if self._process.poll() is not None:
                raise self._ended()
            if time.monotonic() > end:
                raise self._hung("start", seconds)
            time.sleep(POLL_S / 2)

    def _waiting(self, connection: socket.socket, seconds: float) -> Iterator[Answer]:
        """Yield an empty answer every ``POLL_S`` until there is something to receive."""
        end = time.monotonic() + seconds
        while not vllm_server.is_readable(connection, POLL_S):
            if time.monotonic() > end:
                raise TimeoutError
            yield {}, b""

    def _hung(self, what: str, seconds: float) -> HungError:
        return HungError(f"vLLM: no answer to {what!r} within {seconds:g} s{self._last_lines()}")

    def _ended(self) -> R1kitError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        return R1kitError(
            f"vLLM's process has ended (exit code {self._process.poll()}); the same command continues the "
            f"run{self._last_lines()}"
        )

    def _last_lines(self, most: int = 1500) -> str:
        with contextlib.suppress(OSError):
            if text := (self._folder / "log").read_bytes()[-most:].decode("utf-8", "replace").strip():
                return f". The last lines of its log: {text}"
        return ""
