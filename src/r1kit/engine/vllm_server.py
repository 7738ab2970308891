"""vLLM as a process of its own, which r1kit starts in vLLM's interpreter (vllm.py is its other side). So this
file imports nothing of r1kit.

It is started with a private folder, which holds ``settings.json``, and answers on the Unix socket ``socket``
in it. A message is two lengths (8 bytes each), a JSON object, and arrays as safetensors:

    {"do": "health"}                        -> {"version"}
    {"do": "generate", n, temperature, ...} -> {"completed": [places]} with arrays, as they complete;
       tokens, lengths, seeds                  then {"version"}
    {"do": "load", "folder", "version"}     -> {"version", "tensors", "bytes"}

An answer may be {"error": text} instead. A connection that closes ends what it asked for. The process ends
with its standard input, which its parent holds."""

import contextlib
import json
import os
import queue
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LENGTHS = struct.Struct(">QQ")
LONGEST = 1 << 33  # bytes of one message


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    """One message: its JSON object and the bytes of its arrays. Raises EOFError where the connection
    ended."""
    text_bytes, array_bytes = LENGTHS.unpack(exactly(connection, LENGTHS.size))
    if text_bytes + array_bytes > LONGEST:
        raise ValueError(f"a message of {text_bytes + array_bytes} bytes")
    return json.loads(exactly(connection, text_bytes)), exactly(connection, array_bytes)


def exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = connection.recv(min(count - len(received), 1 << 20))
        if not piece:
            raise EOFError("the connection ended")
        received += piece
    return bytes(received)


def send(connection: socket.socket, content: Mapping[str, Any], arrays: bytes = b"") -> None:
    text = json.dumps(content).encode()
    connection.sendall(LENGTHS.pack(len(text), len(arrays)) + text + arrays)


def is_readable(connection: socket.socket, seconds: float) -> bool:
    """Whether there is something to receive, or the end of the connection, within ``seconds``."""
    return bool(select.select([connection], [], [], seconds)[0])


def has_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed; it sends nothing after its request."""
    return is_readable(connection, 0) and not connection.recv(1, socket.MSG_PEEK)


def end_with_parent(private: Path) -> None:
    """End this process, and those that it started, when the parent closes its end of standard input, and
    remove the engine's folder with the weights."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        shutil.rmtree(private, ignore_errors=True)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def tensors_in(folder: str) -> tuple[int, int]:
    """How many tensors a folder of safetensors has, and their bytes."""
    count = size = 0
    for path in Path(folder).glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        count += len(spans)
        size += sum(end - begin for begin, end in spans)
    return count, size


class Server:
    """The engine, which the main thread alone uses. Each connection has a thread that waits for its turn."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import LLM

        self.settings, self.version = settings, settings["version"]
        self.llm = LLM(**settings["llm"])
        self.jobs: queue.SimpleQueue[tuple[socket.socket, dict[str, Any], bytes]] = queue.SimpleQueue()
        self.requests = 0

    def run(self, listener: socket.socket) -> None:
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        while True:
            connection, content, arrays = self.jobs.get()
            with connection:
                try:
                    getattr(self, content["do"])(connection, content, arrays)
                except (BrokenPipeError, ConnectionResetError, EOFError):
                    pass
                except Exception as error:
                    self.report(connection, error)

    def accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self.take, args=(connection,), daemon=True).start()

    def take(self, connection: socket.socket) -> None:
        try:
            content, arrays = receive(connection)
        except (OSError, EOFError, ValueError):
            connection.close()
            return
        if content["do"] == "health":
            with connection:
                send(connection, self.state())
        elif content["do"] in ("generate", "load"):
            self.jobs.put((connection, content, arrays))
        else:
            connection.close()

    def report(self, connection: socket.socket, error: Exception) -> None:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            send(connection, {"error": f"{type(error).__name__}: {error}"[:2000]})

    def state(self) -> dict[str, Any]:
        tensors, size = tensors_in(self.settings["llm"]["model"])
        return {"version": self.version, "tensors": tensors, "bytes": size, "device": device()}

    def generate(self, connection: socket.socket, content: dict[str, Any], arrays: bytes) -> None:
        """Sample every rollout as a request of its own, and send those of a prompt when all have ended."""
        from safetensors.numpy import load

        if content["version"] != self.version:
            raise RuntimeError(f"the weights here have version {self.version}, not {content['version']}")
        given, n = load(arrays), content["n"]
        ends = given["lengths"].cumsum()
        prompts = [
            given["tokens"][end - length : end].tolist()
            for end, length in zip(ends, given["lengths"], strict=True)
        ]
        rollouts: dict[str, int] = {}
        for number, seed in enumerate(given["seeds"].tolist()):
            self.requests += 1
            name = str(self.requests)
            rollouts[name] = number
            prompt = {"prompt_token_ids": prompts[number // n]}
            self.llm.llm_engine.add_request(name, prompt, self.parameters(content, seed))
        try:
            self.sample(connection, rollouts, n)
        finally:
            if self.llm.llm_engine.has_unfinished_requests():
                self.llm.llm_engine.abort_request(list(rollouts))
        send(connection, {"version": self.version})

    def sample(self, connection: socket.socket, rollouts: Mapping[str, int], n: int) -> None:
        found: dict[int, Any] = {}
        left: dict[int, int] = {}
        while self.llm.llm_engine.has_unfinished_requests():
            if has_closed(connection):
                raise EOFError
            complete = []
            for output in self.llm.llm_engine.step():
                if not output.finished:
                    continue
                number = rollouts[output.request_id.split("-")[0]]
                found[number] = output.outputs[0]
                place = number // n
                left[place] = left.get(place, n) - 1
                if not left[place]:
                    complete.append(place)
            if complete:
                own = [found.pop(place * n + index) for place in complete for index in range(n)]
                send(connection, {"completed": complete}, as_arrays(own))

    def parameters(self, content: Mapping[str, Any], seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        chosen = {name: content[name] for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens")}
        return SamplingParams(
            **chosen, seed=seed, logprobs=0, detokenize=False, ignore_eos=True,
            stop_token_ids=content["stop_ids"], output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip

    def load(self, connection: socket.socket, content: dict[str, Any], arrays: bytes) -> None:
        """Load the weights of a folder in place. The version is that of the new weights only when all is
        done, the prefix cache included."""
        self.version = -1  # neither the old weights nor the new ones
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": content["folder"]})
        if self.llm.reset_prefix_cache() is not True:
            raise RuntimeError("the prefix cache of the older weights could not be cleared")
        self.settings["llm"]["model"], self.version = content["folder"], content["version"]
        send(connection, self.state())


def device() -> str:
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def as_arrays(outputs: Sequence[Any]) -> bytes:
    """Tokens and their log-probabilities, one rollout after the other, as safetensors."""
    import numpy as np
    from safetensors.numpy import save

    tokens = [token for output in outputs for token in output.token_ids]
    logprobs = [
        chosen[token].logprob
        for output in outputs
        for token, chosen in zip(output.token_ids, output.logprobs, strict=True)
    ]
    return save(
        {
            "tokens": np.array(tokens, dtype=np.int32),
            "logprobs": np.array(logprobs, dtype=np.float32),
            "lengths": np.array([len(output.token_ids) for output in outputs], dtype=np.int32),
            "stopped": np.array([output.finish_reason == "stop" for output in outputs], dtype=np.uint8),
        }
    )


def main() -> None:
    folder = Path(sys.argv[1])
    end_with_parent(folder.parent)
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    server = Server(settings)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket.new"))
    listener.listen()
    os.rename(folder / "socket.new", folder / "socket")  # it is there when it can be used
    server.run(listener)


if __name__ == "__main__":
    main()
