"""Sides as processes on the same cores, measured in turn: processor seconds, seconds of the clock and peak
memory of each answer.

Processor time and memory are those of a side's whole tree of processes, read from outside, in the same way
for every side. Sides alternate: r1kit, then each peer, then r1kit again; a ratio is taken within a pair, and
the median over pairs is reported."""

import contextlib
import json
import os
import select
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from r1kit.config import R1kitError

HERE = Path(__file__).parent
START_SECONDS, RUN_SECONDS = 1200.0, 900.0  # vLLM compiles for minutes when it has nothing cached


class SideError(R1kitError):
    """A side could not do its work; the message says why."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One answer: ``tokens`` of useful work, processor seconds, seconds of the clock, peak memory in MB, and
    the rest of the side's reply."""

    tokens: int
    cpu_s: float
    wall_s: float
    peak_mb: float
    reply: Mapping[str, Any]

    def rate(self, cores: int) -> float:
        """Tokens per processor second on one core, per second of the clock on several."""
        return self.tokens / (self.cpu_s if cores == 1 else self.wall_s)


class Side:
    """A running side. ``cores`` are the processors that it may use, with ``threads`` threads a process; its
    output goes to ``log``."""

    def __init__(
        self, python: Path, script: str, cores: Sequence[int], log: Path, paths: Sequence[Path], threads: int
    ) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
        }  # fmt: skip
        self.log = log
        with log.open("ab") as words:
            self._process = subprocess.Popen(
                [str(python), str(HERE / script), str(orders), str(answers)], pass_fds=(orders, answers),
                stdout=words, stderr=words, stdin=subprocess.DEVNULL, env=environment,
                preexec_fn=lambda: os.sched_setaffinity(0, cores), cwd=log.parent,
            )  # fmt: skip
        os.close(orders)
        os.close(answers)
        self._buffer = b""

    def ask(self, order: Mapping[str, Any], seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """Send an order and return its answer; raise SideError if the side fails, dies or takes longer than
        ``seconds``."""
        try:
            os.write(self._orders, json.dumps(order).encode() + b"\n")
        except OSError:
            raise SideError(f"it ended: {self._last_words()}") from None
        until = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise SideError(f"no answer within {seconds:.0f} s: {self._last_words()}")
            read = os.read(self._answers, 1 << 20)
            if not read:
                raise SideError(f"it ended: {self._last_words()}")
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def measure(self, order: Mapping[str, Any], seconds: float = RUN_SECONDS) -> Measured:
        """Send an order and measure its answer; raise SideError as ``ask`` does."""
        self._forget_peak()
        cpu, wall = self._cpu_seconds(), time.perf_counter()
        reply = self.ask(order, seconds)
        wall, cpu = time.perf_counter() - wall, self._cpu_seconds() - cpu
        return Measured(int(reply["tokens"]), cpu, wall, self._peak_mb(), reply)

    def close(self) -> None:
        os.close(self._orders)
        os.close(self._answers)
        tree = self._tree()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _cpu_seconds(self) -> float:
        """Processor seconds of the whole tree; those of ended children are in their parents' figures."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def _forget_peak(self) -> None:
        for process in self._tree():
            with contextlib.suppress(OSError):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")

    def _peak_mb(self) -> float:
        """The sum of the processes' peak resident sizes since the order was given (pages that they share
        count in each)."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(OSError):
                for line in (
                    Path(f"/proc/{process.pid}/status")
                    .read_text(encoding="ascii", errors="replace")
                    .splitlines()
                ):
                    if line.startswith("VmHWM:"):
                        total += int(line.split()[1]) / 1024
        return total

    def _last_words(self) -> str:
        lines = [
            line.strip()
            for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip()
        ]
        return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of some figures."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def json(self) -> dict[str, float]:
        return {"median": self.median, "least": self.least, "most": self.most}


def ratios(ours: Sequence[Measured], theirs: Sequence[Measured], cores: int) -> Spread:
    """How many times faster r1kit was: pair by pair, then the median."""
    return Spread.of([own.rate(cores) / other.rate(cores) for own, other in zip(ours, theirs, strict=True)])


def race(
    sides: Mapping[str, Side], repeats: int, seed: int
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """Let the sides do the same work ``repeats`` times in turn, after a warm-up round; return the
    measurements of each, and why a peer dropped out.

    "r1kit" goes first in every round, and the lengths of its completions are imposed on the peers of that
    round."""
    measured: dict[str, list[Measured]] = {name: [] for name in sides}
    failed: dict[str, str] = {}
    for number in range(repeats + 1):
        order: dict[str, Any] = {"seed": seed + number}
        for name, side in sides.items():
            if name in failed:
                continue
            try:
                done = side.measure(order)
            except SideError as error:
                if name == "r1kit":
                    raise SideError(f"r1kit: {error}") from None
                failed[name] = str(error)
                continue
            order |= {key: done.reply[key] for key in ("lengths",) if name == "r1kit" and key in done.reply}
            if number:
                measured[name].append(done)
    return {name: found for name, found in measured.items() if name not in failed}, failed
