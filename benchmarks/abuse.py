"""Abuse ``r1kit serve`` and count what happens.

    python benchmarks/abuse.py MODEL [--bodies 500] [--drops 100] [--slow 200] [--at-once 512]

Odd bodies, streams that are dropped, connections that send nothing more, bodies of 1 GB, and many requests at
once. Prints a line of JSON. What has to hold: every odd body gets a status below 500 and none is a traceback
or hangs; nothing runs or waits after the drops; another request is answered while slow connections are open;
a large body is refused with 413 and little memory; of many requests each ends or gets 429."""

import argparse
import asyncio
import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_CHAT = {"messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 2, "seed": 1}
_TEXT = {"prompt": "a", "max_tokens": 2, "seed": 1}
_BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _TEXT,
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]},
}
_ODD: tuple[Any, ...] = (
    None, True, -1, 1e400, 2**70, "", "\ud800", [], {}, [[]], [None], "<|x|>", {"a": 1}, 0.5, [2**31],
    "x" * 9000, [{"role": "user"}], [{"role": "tool", "content": "x"}], [-1], [[1], "a"], "\x00", 1e-300,
    {"type": "json_object"},
)  # fmt: skip
_KEYS = (
    "n", "seed", "stop", "stream", "logprobs", "echo", "zz", "top_k", "tools", "temperature",
    "stream_options",
)  # fmt: skip
_WHOLE = (
    b"[" * 50_000,
    b'{"prompt":' + b"9" * 5000 + b"}",
    b"",
    b"\xff\xfe",
    b"null",
    b"{}",
    b"[]",
    b'"a"',
    b"NaN",
)
PATHS = tuple(_BASES)
_SECONDS = 120.0  # after which a request hangs


def odd_bodies(count: int) -> Iterator[tuple[str, bytes]]:
    """Paths and bodies with something wrong in them, or that are no bodies at all."""
    source = random.Random(0)
    for place in range(count):
        path = source.choice(PATHS)
        if place < len(_WHOLE):
            yield path, _WHOLE[place]
            continue
        body = dict(_BASES[path])
        for _ in range(source.choice((1, 1, 2, 3))):
            body[source.choice((*body, *_KEYS))] = source.choice(_ODD)
        content = bytearray(json.dumps(body).encode())
        for _ in range(source.choice((0, 0, 0, 0, 1, 5))):
            content[source.randrange(len(content))] = source.randrange(256)
        end = source.randrange(len(content)) if source.random() < 0.05 else len(content)
        yield path, bytes(content[:end])


@dataclass(frozen=True)
class Target:
    """A running server."""

    port: int
    process: psutil.Process
    log: Path

    def ask(self, path: str, content: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)
        connection.request("GET" if content is None else "POST", path, content)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def metric(self, name: str) -> float:
        """A figure of ``/metrics``."""
        lines = self.ask("/metrics")[1].decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    @property
    def tracebacks(self) -> int:
        """Unexpected errors in the log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return text.count("unexpected ") + text.count("Traceback")

    @property
    def megabytes(self) -> float:
        return float(self.process.memory_info().rss) / 1e6


@contextmanager
def served(model: Path, *options: str) -> Iterator[Target]:
    """The server of a model, with the limits that it has by default unless options say otherwise."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
        errors = stack.enter_context(log.open("wb"))
        command = [sys.executable, "-m", "r1kit", "serve", str(model), "--port", str(port), *options]
        server = stack.enter_context(subprocess.Popen(command, stderr=errors))
        stack.callback(server.terminate)
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
        yield Target(port, psutil.Process(server.pid), log)


def bodies(target: Target, count: int) -> dict[str, Any]:
    """Odd bodies: how often each status came, and the slowest."""
    seen: Counter[int] = Counter()
    slowest = 0.0
    for path, content in odd_bodies(count):
        begun = time.perf_counter()
        seen[target.ask(path, content)[0]] += 1
        slowest = max(slowest, time.perf_counter() - begun)
    return {"statuses": dict(seen), "slowest s": round(slowest, 2)}


def drops(target: Target, count: int) -> dict[str, Any]:
    """Streams that are dropped after their first bytes: how long until nothing runs or waits."""
    body = json.dumps({"prompt": "a", "max_tokens": 400, "stream": True, "n": 2}).encode()
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=_SECONDS)
        connection.request("POST", "/v1/completions", body)
        connection.getresponse().read(1)
        assert connection.sock is None or connection.sock.close() is None
        connection.close()
    begun = time.perf_counter()
    while target.metric("r1kit_running") or target.metric("r1kit_waiting"):
        assert time.perf_counter() - begun < _SECONDS, "dropped streams still hold places"
        time.sleep(0.02)
    return {"free after s": round(time.perf_counter() - begun, 2)}


def slow(target: Target, count: int) -> dict[str, Any]:
    """Connections that send a part of a request and no more: an ordinary request at that time, and when the
    server has closed them all."""
    starts = (
        b"",
        b"POST /v1/comp",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    )
    with ExitStack() as stack:
        begun, clients = time.perf_counter(), []
        for place in range(count):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", target.port))))
            clients[-1].settimeout(_SECONDS)
            clients[-1].sendall(starts[place % 3])
        asked = time.perf_counter()
        assert target.ask(PATHS[0], json.dumps(_CHAT).encode())[0] == 200
        other = time.perf_counter() - asked
        answers = Counter(client.recv(100)[:12].decode() for client in clients)
    return {
        "other request s": round(other, 2),
        "answers": dict(answers),
        "closed s": round(time.perf_counter() - begun, 1),
    }


def large(target: Target, count: int = 1 << 30) -> dict[str, Any]:
    """A body of 1 GB, announced and not: how much of it was sent, and what the server's memory grew by."""
    before, found = target.megabytes, {}
    for kind, head in (
        ("announced", f"Content-Length: {count}"),
        ("in chunks", "Transfer-Encoding: chunked"),
    ):
        with socket.create_connection(("127.0.0.1", target.port), timeout=_SECONDS) as client:
            client.sendall(f"POST {PATHS[1]} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
            piece = b" " * (1 << 20)
            framed = b"100000\r\n" + piece + b"\r\n" if kind == "in chunks" else piece
            sent = 0
            try:
                while sent < count >> 20:
                    client.sendall(framed)
                    sent += 1
            except OSError:  # the server has closed the connection
                pass
            try:
                answer = client.recv(100)[:12].decode()
            except OSError:
                answer = "closed"
        found[kind] = {"answer": answer, "sent MB": sent}
    return {**found, "memory grew by MB": round(target.megabytes - before)}


async def _one(port: int, seed: int) -> str:
    """How a request ends: its status, and whether its stream came to its end."""
    body = json.dumps({**_CHAT, "max_tokens": 64, "seed": seed, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {PATHS[0]} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    answer = await asyncio.wait_for(reader.read(), _SECONDS)
    writer.close()
    status = answer[9:12].decode()
    return status if status != "200" or b"data: [DONE]" in answer else "cut off"


def at_once(target: Target, count: int) -> dict[str, Any]:
    """Many requests at once."""

    async def all_of_them() -> Sequence[str]:
        return await asyncio.gather(*(_one(target.port, seed) for seed in range(count)))

    begun = time.perf_counter()
    ends = Counter(asyncio.run(all_of_them()))
    return {"ends": dict(ends), "s": round(time.perf_counter() - begun, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    for name, default in (("bodies", 500), ("drops", 100), ("slow", 200), ("at-once", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with served(asked.model) as target:
        found = {
            "odd bodies": bodies(target, asked.bodies),
            "dropped streams": drops(target, asked.drops),
            "slow connections": slow(target, asked.slow),
            "body of 1 GB": large(target),
            "requests at once": at_once(target, asked.at_once),
            "health afterwards": target.ask("/health")[0],
            "tracebacks": target.tracebacks,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
