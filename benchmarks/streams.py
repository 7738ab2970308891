"""Measure ``r1kit serve`` under many streams against the engine alone at the same work.

    python benchmarks/streams.py MODEL [--streams 64] [--requests 256] [--tokens 256] [--repeats 3]

Both sample the same prompts with the same seeds, so the same tokens. The engine has them all at once, in a
batch of as many rows as there are streams. The clients, in this process, send a new request when the last one
has ended. Prints a line of JSON: tokens per second of both, by the clock and by the processor, their ratios,
and the time to the first token. Set OMP_NUM_THREADS for the number of threads of both."""

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
import psutil

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


@dataclass(frozen=True)
class Rate:
    """What sampling took: the processor's seconds are those of the process that samples."""

    tokens: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.tokens / self.cpu_seconds


def engine_rate(work: Work) -> Rate:
    """The engine alone."""
    chat = prompt_style_of(work.model, PromptStyle()).chat(work.model)
    engine = NativeEngine(
        load_pretrained(work.model), chat.tokenizer.end_ids, work.precision, batch_rows=work.streams
    )
    prompts = [chat.turn_ids([("user", question)]) for question in work.questions]
    sampling = Sampling(max_tokens=work.tokens)
    engine.generate(prompts[:2], sampling)  # packs the weights
    begun, cpu = time.perf_counter(), time.process_time()
    groups = engine.generate(prompts, sampling, list(range(work.requests)))
    tokens = sum(len(group[0].token_ids) for group in groups)
    return Rate(tokens, time.perf_counter() - begun, time.process_time() - cpu)


class Clients:
    """Streams that ask in turn; each keeps its connection."""

    def __init__(self, work: Work, port: int) -> None:
        self.work, self.port = work, port
        self.left = list(enumerate(work.questions))[::-1]
        self.first_seconds: list[float] = []
        self.tokens, self.lost = 0, 0

    async def all(self) -> None:
        """Ask everything."""
        await asyncio.gather(*(self.one() for _ in range(self.work.streams)))

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


def serve_rate(work: Work) -> tuple[Rate, Clients]:
    """The server, and its clients with what they saw."""
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
            clients, process = Clients(work, port), psutil.Process(server.pid)
            begun, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
            asyncio.run(clients.all())
            spent = sum(process.cpu_times()[:2]) - cpu
            return Rate(clients.tokens, time.perf_counter() - begun, spent), clients
        finally:
            server.terminate()


def middle(ratios: list[float]) -> float:
    """The median, rounded."""
    return round(statistics.median(ratios), 3)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    for name, default in (("streams", 64), ("requests", 256), ("tokens", 256), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    asked = parser.parse_args()
    work = Work(asked.model, asked.streams, asked.requests, asked.tokens, asked.precision)
    alone: list[Rate] = []
    served: list[Rate] = []
    first: list[float] = []
    lost = 0
    for _ in range(asked.repeats):
        alone.append(engine_rate(work))
        rate, clients = serve_rate(work)
        served.append(rate)
        first += clients.first_seconds
        lost += clients.lost
    pairs = list(zip(alone, served, strict=True))
    print(
        json.dumps(
            {
                "date": datetime.now(UTC).isoformat(timespec="minutes"),
                "load": os.getloadavg()[0],
                "model": name_of(work.model),
                "streams": work.streams,
                "requests": work.requests,
                "lost": lost,
                "tokens": [rate.tokens for rate in alone + served],
                "engine tokens/s": [round(rate.per_second) for rate in alone],
                "serve tokens/s": [round(rate.per_second) for rate in served],
                "ratio": middle([b.per_second / a.per_second for a, b in pairs]),
                "engine tokens/CPU s": [round(rate.per_cpu_second) for rate in alone],
                "serve tokens/CPU s": [round(rate.per_cpu_second) for rate in served],
                "CPU ratio": middle([b.per_cpu_second / a.per_cpu_second for a, b in pairs]),
                "first token ms, p50": round(1000 * float(np.percentile(first, 50))),
                "first token ms, p99": round(1000 * float(np.percentile(first, 99))),
            }
        )
    )


if __name__ == "__main__":
    main()
