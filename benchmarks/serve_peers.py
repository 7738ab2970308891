"""Measure ``r1kit serve`` next to vLLM's server for CPUs: tokens per second of processor time.

    python benchmarks/serve_peers.py --vllm PYTHON [--clients 1 8 64] [--repeats 3] [--tokens 256]

Both serve the 7.3M qwen3 model of ``make bench`` (random weights, no end token) in bfloat16, one thread for
products. Clients stream completions of ``--tokens`` tokens after 64 given ids, each its next when the last
has ended. Both servers run all the time and are asked in turns. What counts is the processor time of a
server with all its processes. PYTHON is an interpreter that has vLLM. Prints a line of JSON."""

import argparse
import asyncio
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from bench.models import FIRST_WORD, NEVER, make
from bench.work import SHAPES

from r1kit.model.config import ModelConfig

_USAGE = re.compile(rb'"completion_tokens":\s?(\d+)')
_PROMPT = 64
_ROUNDS = {1: 6, 8: 4}  # requests of each client; of more clients 3


@dataclass(frozen=True)
class Server:
    """A running server, by the name of its model."""

    model: str
    port: int
    process: psutil.Process

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all its processes."""
        processes = [self.process, *self.process.children(recursive=True)]
        return float(sum(sum(one.cpu_times()[:2]) for one in processes))


@contextmanager
def started(command: Sequence[str], model: str, port: int, environment: dict[str, str]) -> Iterator[Server]:
    """A server, once it answers."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            while not answers(port):
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(log.read()[-3000:].decode(errors="replace"))
                time.sleep(0.5)
            yield Server(model, port, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(60)


def answers(port: int) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def one(server: Server, prompt: list[int], tokens: int) -> int:
    """One streamed completion: its tokens."""
    body = json.dumps(
        {
            "model": server.model, "prompt": prompt, "max_tokens": tokens, "temperature": 1.0, "top_p": 1.0,
            "stream": True, "stream_options": {"include_usage": True},
        }
    ).encode()  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    return int(_USAGE.findall(answer)[-1])


def asked(server: Server, clients: int, rounds: int, tokens: int) -> tuple[float, float]:
    """Tokens per second of processor time and of the clock."""
    source = random.Random(f"{clients}/{time.time_ns()}")  # other prompts each time

    async def client() -> int:
        got = 0
        for _ in range(rounds):
            prompt = [source.randrange(FIRST_WORD, SHAPES["7m"]["vocab_size"]) for _ in range(_PROMPT)]
            got += await one(server, prompt, tokens)
        return got

    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(client() for _ in range(clients))))

    begun, cpu = time.perf_counter(), server.cpu_seconds
    got = asyncio.run(all_of_them())
    assert got == clients * rounds * tokens, got
    return got / (server.cpu_seconds - cpu), got / (time.perf_counter() - begun)


@contextmanager
def both(folder: Path, python: str) -> Iterator[list[Server]]:
    """r1kit's server and vLLM's."""
    ours, theirs = free_port(), free_port()
    with ExitStack() as stack:
        command = [sys.executable, "-m", "r1kit", "serve", str(folder), "--port", str(ours)]
        environment = {"OMP_NUM_THREADS": "1"}
        first = stack.enter_context(started(command, folder.name, ours, environment))
        command = [
            python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(theirs),
            "--served-model-name", folder.name, "--dtype", "bfloat16", "--max-model-len", "512",
            "--max-num-seqs", "64", "--no-enable-log-requests",
        ]  # fmt: skip
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        yield [first, stack.enter_context(started(command, folder.name, theirs, environment))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vllm", required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256)
    given = parser.parse_args()
    found: dict[str, object] = {"date": datetime.now(UTC).isoformat(timespec="minutes")}
    with tempfile.TemporaryDirectory() as name:
        folder = make(Path(name) / "qwen3-7m", ModelConfig(**SHAPES["7m"]), NEVER)
        with both(folder, given.vllm) as servers:
            for server in servers:
                asked(server, 8, 1, 16)  # whatever is set up at first
            for clients in given.clients:
                rates: list[list[tuple[float, float]]] = [[], []]
                for _ in range(given.repeats):
                    for server, own in zip(servers, rates, strict=True):
                        own.append(asked(server, clients, _ROUNDS.get(clients, 3), given.tokens))
                pairs = list(zip(*rates, strict=True))
                found[f"{clients} clients"] = {
                    "load": round(os.getloadavg()[0], 1),
                    "r1kit tokens/CPU s": [round(rate[0]) for rate in rates[0]],
                    "vllm tokens/CPU s": [round(rate[0]) for rate in rates[1]],
                    "CPU ratio": round(statistics.median(a[0] / b[0] for a, b in pairs), 2),
                    "clock ratio": round(statistics.median(a[1] / b[1] for a, b in pairs), 2),
                }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
