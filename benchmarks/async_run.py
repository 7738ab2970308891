"""Asynchronous RL with two learners and two engines, measured, and the simulation of the same system.

    python benchmarks/async_run.py [--updates 30] [--lags 0,1,4] [--out FILE]

Two processes learn together (the local runtime's replicas), two processes each have an engine of their own;
they take groups from one queue, load the newest weights between calls, and hand completions to another queue.
A group may begin once the learner is at most ``lag`` updates behind it. Learning rate and model are chosen so
that lengths stay as they are: a token ends a completion with probability 1/32.

The rates are measured alone, before and after the runs: a decoding step of some rows, an update of few and of
many tokens, loading weights. The simulation (planning/simulation.py) gets the rates, the number of cores and
the lengths that were sampled, and nothing of the runs' times. Run this on a quiet machine."""

import argparse
import json
import multiprocessing
import os
import queue
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r1kit.engine.native import NativeEngine
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.planning.rates import Rates
from r1kit.planning.simulation import System, simulate
from r1kit.runtime.local import LocalConfig
from r1kit.sandbox.kernel import die_with_parent
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.train.supervised import text_row, weighted
from r1kit.types import Sampling

GROUP, BATCH, LONGEST, PROMPT = 16, 4, 160, 8
ENGINES = LEARNERS = 2
SHAPE = ModelConfig.preset("mini", mtp_depth=0)
STOPS = range(16)  # of 512 tokens, so that a token of random weights ends a completion with probability 1/32
SAMPLING = Sampling(n=GROUP, max_tokens=LONGEST)
PROBED_ROWS = (1, 4, 8, 16)


@dataclass(frozen=True)
class Measured:
    """Rates of one process: seconds of a decoding step by rows, of an update by tokens, of a prompt, and of
    loading weights."""

    steps: tuple[tuple[int, float], ...]
    updates: tuple[tuple[float, float], ...]
    start: float
    handover: float


def _engine(tasks: Any, results: Any, weights: dict[str, torch.Tensor], newest: Any) -> None:
    """A process with an engine: measure on request, then groups until None comes."""
    die_with_parent()
    torch.set_num_threads(1)
    engine = NativeEngine(LanguageModel(SHAPE), list(STOPS), precision="float32", batch_rows=GROUP)
    prompt = np.arange(100, 100 + PROMPT, dtype=np.int32)
    engine.generate([prompt], SAMPLING)
    while (task := tasks.get()) is not None:
        if task == "measure":
            results.put(_engine_rates(engine, prompt, weights))
            continue
        with newest.get_lock():
            if engine.version < newest.value:
                engine.load({name: tensor.clone() for name, tensor in weights.items()}, newest.value)
        (made,) = engine.generate([prompt], SAMPLING, seeds=[task])
        results.put((task, engine.version, [completion.token_ids for completion in made]))


def _engine_rates(engine: NativeEngine, prompt: np.ndarray, weights: dict[str, torch.Tensor]) -> Any:
    endless = NativeEngine(engine.model, [-1], precision="float32", batch_rows=GROUP)
    endless.generate([prompt], SAMPLING)
    steps = []
    for rows in PROBED_ROWS:
        long, short = (Sampling(n=rows, max_tokens=most) for most in (LONGEST, LONGEST // 2))
        seconds = _seconds(lambda most=long: endless.generate([prompt], most))
        half = _seconds(lambda most=short: endless.generate([prompt], most))
        steps.append((rows, (seconds - half) / (LONGEST - LONGEST // 2)))
    one = _seconds(lambda: endless.generate([prompt], Sampling(n=GROUP, max_tokens=1)))
    load = _seconds(lambda: engine.load({name: t.clone() for name, t in weights.items()}, 0))
    return tuple(steps), one, load


def _seconds(work: Any, times: int = 6) -> float:
    """The mean, since what interrupts a process now and then interrupts the runs too."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


class Bench:
    """The processes, and what drives them."""

    def __init__(self, folder: Path) -> None:
        Tokenizer.train(["a b c"] * 20, 300).save(folder)
        save_pretrained(LanguageModel(SHAPE, seed=1), folder)
        self.runtime = LocalConfig(processes=LEARNERS).start()
        self.learner = self.runtime.learner(
            folder,
            LearnerConfig.parse(
                {"context": 256, "lines": 8, "optimizer": {"learning_rate": 1e-9}}, "async_run"
            ),
        )
        context = multiprocessing.get_context("spawn")
        self.tasks, self.results, self.newest = context.Queue(), context.Queue(), context.Value("q", 0)
        self.weights = {name: t.clone().share_memory_() for name, t in self.learner.weights().items()}
        given = (self.tasks, self.results, self.weights, self.newest)
        self.engines = [context.Process(target=_engine, args=given, daemon=True) for _ in range(ENGINES)]
        for engine in self.engines:
            engine.start()

    def close(self) -> None:
        for _ in self.engines:
            self.tasks.put(None)
        for engine in self.engines:
            engine.join(30)
        self.runtime.close()

    def measure(self) -> Measured:
        """The rates, of engines and learners in turn: as many processes at once as there are of them."""
        for _ in self.engines:
            self.tasks.put("measure")
        rates = [self._result() for _ in self.engines]
        steps = tuple(
            (rows, float(np.mean([rate[0][place][1] for rate in rates])))
            for place, rows in enumerate(PROBED_ROWS)
        )
        updates = []
        for rows, length in ((GROUP, 24), (GROUP * BATCH, 24), (GROUP * BATCH, 48)):
            made = weighted([text_row(np.arange(length, dtype=np.int32))] * rows)
            self._update(made)
            updates.append((float(rows * length), _seconds(lambda made=made: self._update(made))))
        start, handover = (float(np.mean([rate[place] for rate in rates])) for place in (1, 2))
        return Measured(steps, tuple(sorted(updates)), start, handover)

    def _update(self, rows: Any) -> None:
        """Learn, and put the new weights where the engines read them."""
        self.learner.update(rows, CrossEntropy(), 1e-9)
        with self.newest.get_lock():
            for name, tensor in self.learner.weights().items():
                self.weights[name].copy_(tensor)
            self.newest.value += 1

    def _result(self) -> Any:
        while True:
            try:
                return self.results.get(timeout=5)
            except queue.Empty:
                if not all(engine.is_alive() for engine in self.engines):
                    raise SystemExit("an engine's process has ended") from None

    def run(self, lag: int, updates: int, first: int) -> tuple[float, list[int], float]:
        """Seconds for each of ``updates`` updates, the lengths that were sampled, and the mean staleness.
        Groups have numbers from ``first`` on."""
        lengths, rows, stale = [], {}, []
        dealt, complete = 0, Counter[int]()
        base = int(self.newest.value)
        began = time.perf_counter()
        for update in range(updates):
            while dealt < min((update + lag + 1) * BATCH, updates * BATCH):
                self.tasks.put(first + dealt)
                dealt += 1
            while complete[update] < BATCH:
                task, version, made = self._result()
                place = (task - first) // BATCH
                complete[place] += 1
                stale.append(place - max(0, version - base))
                rows.setdefault(place, []).extend(
                    text_row(np.concatenate([np.arange(PROMPT, dtype=np.int32), ids])) for ids in made
                )
                lengths += [len(ids) for ids in made]
            self._update(weighted(rows.pop(update)))
        return (time.perf_counter() - began) / updates, lengths, float(np.mean(stale))


def mean_of(first: Measured, second: Measured) -> Measured:
    """The rates between two measurements."""
    steps = tuple((rows, (a + b) / 2) for (rows, a), (_, b) in zip(first.steps, second.steps, strict=True))
    updates = tuple((n, (a + b) / 2) for (n, a), (_, b) in zip(first.updates, second.updates, strict=True))
    return Measured(steps, updates, (first.start + second.start) / 2, (first.handover + second.handover) / 2)


def system_of(rates: Measured, lag: int, cores: int) -> System:
    """What is simulated: calls of one group each."""
    table = Rates(0.0, 0.0, 0.0, rates.steps, 1.0)
    tokens, seconds = zip(*rates.updates, strict=True)
    slope, offset = np.polyfit(tokens, seconds, 1)
    return System(
        engines=ENGINES, rows=GROUP, group=GROUP, batch=BATCH, lag=lag, step=table.step,
        update=lambda trained: float(offset + slope * (trained + PROMPT * GROUP * BATCH)),
        start=rates.start, handover=rates.handover, continuous=False, learners=LEARNERS, cores=cores,
    )  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--updates", type=int, default=30)
    options.add_argument("--lags", default="0,1,4")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        try:
            before = bench.measure()
            bench.run(1, 3, 0)
            runs = [
                (lag, *bench.run(lag, given.updates, 1000 * (place + 1)))
                for place, lag in enumerate(map(int, given.lags.split(",")))
            ]
            rates = mean_of(before, bench.measure())
            print(json.dumps(asdict(rates)), f"{cores} cores, load {os.getloadavg()[0]:.1f}")
            found = []
            for lag, seconds, lengths, stale in runs:
                simulated = simulate(system_of(rates, lag, cores), lengths, given.updates)
                row = {
                    "lag": lag, "measured": seconds, "simulated": simulated.seconds,
                    "off": simulated.seconds / seconds - 1, "staleness": stale,
                    "simulated staleness": simulated.staleness, "mean length": float(np.mean(lengths)),
                }  # fmt: skip
                found.append(row)
                print({key: round(value, 4) for key, value in row.items()}, flush=True)
        finally:
            bench.close()
    if given.out:
        given.out.write_text(json.dumps({"rates": asdict(rates), "cores": cores, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
