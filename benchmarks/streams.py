"""Measure ``r1kit serve`` under many streams against the engine alone at the same work.

    python benchmarks/streams.py MODEL [--streams 64] [--requests 256] [--tokens 256] [--repeats 3]

Both sample the same prompts with the same seeds, so the same tokens. The engine has them all at once, in a
batch of as many rows as there are streams. The clients, in this process, send a new request when the last one
has ended. Prints a line of JSON: tokens per second of both, their ratio, and the time to the first token."""

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from r1kit.commands.serve import name_of
from r1kit.engine.native import NativeEngine
from r1kit.model.huggingface import load_pretrained
from r1kit.stages.models import PromptStyle, prompt_style_of
from r1kit.types import Sampling

_USAGE = re.compile(rb'"completion_tokens":(\d+)')


@dataclass(frozen=True)
class Work:
    """What is sampled."""

    model: Path
    streams: int
    requests: int
    tokens: int
    precision: str

    @property
    def questions(self) -> list[str]:
        """A question for each request."""
        random = np.random.default_rng(0)
        return [f"What is {a} + {b}?" for a, b in random.integers(10, 1000, (self.requests, 2)).tolist()]


def engine_rate(work: Work) -> float:
    """Tokens per second of the engine alone."""
    chat = prompt_style_of(work.model, PromptStyle()).chat(work.model)
    engine = NativeEngine(
        load_pretrained(work.model), chat.tokenizer.end_ids, work.precision, batch_rows=work.streams
    )
    prompts = [chat.turn_ids([("user", question)]) for question in work.questions]
    sampling = Sampling(max_tokens=work.tokens)
    engine.generate(prompts[:2], sampling)  # packs the weights
    begun = time.perf_counter()
    groups = engine.generate(prompts, sampling, list(range(work.requests)))
    return sum(len(group[0].token_ids) for group in groups) / (time.perf_counter() - begun)


class Clients:
    """Streams that ask in turn; each keeps its connection."""

    def __init__(self, work: Work, port: int) -> None:
        self.work, self.port = work, port
        self.left = list(enumerate(work.questions))[::-1]
        self.first_seconds: list[float] = []
        self.tokens, self.lost = 0, 0

    async def all(self) -> float:
        """Ask everything; return the tokens per second."""
        begun = time.perf_counter()
        await asyncio.gather(*(self.one() for _ in range(self.work.streams)))
        return self.tokens / (time.perf_counter() - begun)

    async def one(self) -> None:
        """One stream."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while self.left:
            seed, question = self.left.pop()
            body = {
                "messages": [{"role": "user", "content": question}], "seed": seed, "stream": True,
                "temperature": 1, "top_p": 1, "max_tokens": self.work.tokens,
                "stream_options": {"include_usage": True},
            }  # fmt: skip
            content = json.dumps(body).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}"
            begun = time.perf_counter()
            writer.write(head.encode() + b"\r\n\r\n" + content)
            await self.read(reader, begun)
        writer.close()

    async def read(self, reader: asyncio.StreamReader, begun: float) -> None:
        """Read one answer to its end."""
        end, waits = b"", True
        while not end.endswith(b"0\r\n\r\n"):
            got = await reader.read(1 << 16)
            if not got:
                self.lost += 1
                return
            if waits and (b'"content":"' in got.replace(b'"content":""', b"") or b'"reasoning' in got):
                self.first_seconds.append(time.perf_counter() - begun)
                waits = False
            end = (end + got)[-2000:]
        usage = _USAGE.search(end)
        if usage is None:
            self.lost += 1
        else:
            self.tokens += int(usage[1])


def serve_rate(work: Work) -> tuple[float, Clients]:
    """Tokens per second of the server, and its clients with what they saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "r1kit", "serve", str(work.model), "--port", str(port),
        "--rows", str(work.streams), "--precision", work.precision,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert server.poll() is None, "the server has ended"
                    time.sleep(0.1)
            warm = Clients(Work(work.model, 2, 2, 2, work.precision), port)
            asyncio.run(warm.all())
            clients = Clients(work, port)
            return asyncio.run(clients.all()), clients
        finally:
            server.terminate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    for name, default in (("streams", 64), ("requests", 256), ("tokens", 256), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    asked = parser.parse_args()
    work = Work(asked.model, asked.streams, asked.requests, asked.tokens, asked.precision)
    alone, served, first, lost = [], [], [], 0
    for _ in range(asked.repeats):
        alone.append(engine_rate(work))
        rate, clients = serve_rate(work)
        served.append(rate)
        first += clients.first_seconds
        lost += clients.lost
    print(
        json.dumps(
            {
                "date": datetime.now(UTC).isoformat(timespec="minutes"),
                "load": os.getloadavg()[0],
                "model": name_of(work.model),
                "streams": work.streams,
                "requests": work.requests,
                "lost": lost,
                "engine tokens/s": [round(rate) for rate in alone],
                "serve tokens/s": [round(rate) for rate in served],
                "ratio": round(statistics.median(b / a for a, b in zip(alone, served, strict=True)), 3),
                "first token ms, p50": round(1000 * float(np.percentile(first, 50))),
                "first token ms, p99": round(1000 * float(np.percentile(first, 99))),
            }
        )
    )


if __name__ == "__main__":
    main()
