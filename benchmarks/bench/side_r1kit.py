"""r1kit itself, as a recipe uses it: a local runtime of one process per core, learner and engine on the same
weights.

The GRPO step is that of ``rl_loop.train``, unchanged, with its log on disk; an order is taken and answered
where a step is logged. An order to ``profile`` names the operations that take the time."""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from serving import Line, Order
from torch import Tensor

from r1kit.chat import Chat
from r1kit.data.mixture import Mixture
from r1kit.engine import Done, Engine
from r1kit.log import Log
from r1kit.model.fingerprint import Fingerprint
from r1kit.rewards import WeightedReward
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.tokenizer import Tokenizer
from r1kit.train.grpo import GRPO, GRPOConfig
from r1kit.train.learner import LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Policy
from r1kit.train.supervised import text_row, weighted
from r1kit.types import Completion, Problem, Rollout, Sampling, Verdict

MICRO_TOKENS = 2560  # positions of a micro-batch
STEPS = 10_000  # more than are ever asked for


def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [rollout.text.count("7") / 100 for rollout in rollouts]


def learner_config(longest: int, head: str) -> LearnerConfig:
    """``head``: as in recipes/real.yaml for a large vocabulary, else as cheap as the peers'."""
    context = -(-longest // 16) * 16
    optimizer = OptimizerConfig(learning_rate=1e-6)
    return LearnerConfig(
        context=context,
        lines=max(1, MICRO_TOKENS // context),
        precision="bfloat16",
        head="mixed" if head == "mixed" else "bfloat16",
        optimizer=optimizer,
    )


class Watch:
    """What one order cost by operation, where it asks for that."""

    def __init__(self, order: Order) -> None:
        self.profiler = (
            torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            if order.get("profile")
            else None
        )
        if self.profiler:
            self.profiler.start()
        self.begun = time.perf_counter()

    def found(self) -> Order:
        if self.profiler is None:
            return {}
        seconds = time.perf_counter() - self.begun
        self.profiler.stop()
        return {
            "seconds": seconds,
            "operations": {e.key: e.self_cpu_time_total / 1e6 for e in self.profiler.key_averages()},
        }


class Noted:
    """An engine whose last completions' lengths are remembered."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lengths: list[int] = []

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        done: Done | None = None,
    ) -> list[list[Completion]]:
        groups = self.engine.generate(prompts, sampling, seeds, done)
        self.lengths = [len(completion.token_ids) for group in groups for completion in group]
        return groups

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        return self.engine.stream(prompt, sampling, seed)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.engine.load(weights, version)

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        return self.engine.examine(token_ids, temperature)

    @property
    def can(self) -> frozenset[str]:
        return self.engine.can

    @property
    def version(self) -> int:
        return self.engine.version

    def health(self, timeout_s: float) -> str:
        return self.engine.health(timeout_s)

    def abort(self) -> None:
        self.engine.abort()

    def close(self) -> None:
        self.engine.close()

    def said(self) -> Order:
        return {"tokens": sum(self.lengths), "lengths": self.lengths}


class Stepwise(Log):
    """A log that answers an order with every step and waits for the next one."""

    def __init__(self, folder: Path, line: Line, orders: Iterator[Order], engine: Noted) -> None:
        super().__init__(folder, "bench", Console(file=io.StringIO()))
        self.line, self.orders, self.engine = line, orders, engine
        line.answer({"ready": True})
        self.watch = self._next()

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        super().step(step, total, metrics)
        parts = {
            name.removeprefix("time/"): value for name, value in metrics.items() if name.startswith("time/")
        }
        self.line.answer(self.engine.said() | {"parts": parts} | self.watch.found())
        self.watch = self._next()

    def _next(self) -> Watch:
        order = next(self.orders, None)
        if order is None:
            raise SystemExit
        return Watch(order)


class Words:
    """A task of the given prompts, in which nothing is right or wrong."""

    name = "bench"

    def __init__(self, texts: Sequence[str]) -> None:
        self._problems = [Problem(f"p{place}", self.name, text, None) for place, text in enumerate(texts)]

    def problems(self, split: str) -> Sequence[Problem]:
        return self._problems

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        return Verdict("unverifiable")


def reinforce(runtime: LocalRuntime, spec: Order, line: Line, orders: Iterator[Order]) -> None:
    folder, scratch = Path(spec["folder"]), Path(spec["scratch"]) / str(time.time_ns())
    scratch.mkdir(parents=True)
    longest = len(spec["prompts"][0]) + spec["new_tokens"] - 1
    learner = runtime.learner(folder, learner_config(longest, spec["head"]))
    engine = Noted(runtime.engine_of(learner))
    policy = Policy(learner, engine, Chat(Tokenizer.load(folder)))
    task = Words(spec["words"])
    assert all(
        list(policy.chat.prompt_ids(problem)) == ids
        for problem, ids in zip(task.problems(""), spec["prompts"], strict=True)
    )
    config = GRPOConfig(
        steps=STEPS,
        problems=len(spec["prompts"]),
        group=spec["group"],
        updates_per_rollout=1,
        max_tokens=spec["new_tokens"],
        beta=0.0,
        save_every=STEPS,
        correction="truncate" if spec.get("precision") == "int8" else "none",
    )
    rewards = [WeightedReward("sevens", 1.0, reward)]
    mixture = Mixture({"bench": (task, 1.0)}, "train", 0)
    train(GRPO(config, policy, rewards), mixture, 0, Stepwise(scratch, line, orders, engine), scratch)


def repeat(step: Callable[[int], Order], line: Line, orders: Iterator[Order]) -> None:
    line.answer({"ready": True})
    for order in orders:
        watch = Watch(order)
        line.answer(step(order["seed"]) | watch.found())


def rollout(runtime: LocalRuntime, spec: Order) -> Callable[[int], Order]:
    engine = Noted(runtime.engine(Path(spec["folder"])))
    prompts = [np.array(prompt, dtype=np.int32) for prompt in spec["prompts"]]
    sampling = Sampling(n=spec["group"], temperature=1.0, top_p=1.0, max_tokens=spec["new_tokens"])

    def step(seed: int) -> Order:
        engine.generate(prompts, sampling, [seed * 1000 + place for place in range(len(prompts))])
        return engine.said()

    return step


def learn(runtime: LocalRuntime, spec: Order) -> Callable[[int], Order]:
    rows = weighted([text_row(np.array(row, dtype=np.int32)) for row in spec["rows"]])
    config = learner_config(max(len(row) for row in spec["rows"]) - 1, spec["head"])
    learner = runtime.learner(Path(spec["folder"]), config)

    def step(seed: int) -> Order:
        metrics = learner.update(rows, CrossEntropy(), 1.0)
        assert metrics["tokens"] == sum(len(row) - 1 for row in spec["rows"]) and not metrics["skipped"], (
            metrics
        )
        return {"tokens": int(metrics["tokens"])}

    return step


def main() -> None:
    line = Line()
    orders = line.orders()
    with line.reporting():
        spec = next(orders)
        precision = spec.get("precision", "bfloat16")
        runtime = LocalRuntime(LocalConfig(processes=spec["cores"], threads=1, engine_precision=precision))
        if spec["kind"] == "grpo":
            reinforce(runtime, spec, line, orders)
        else:
            repeat({"rollout": rollout, "learner": learn}[spec["kind"]](runtime, spec), line, orders)


if __name__ == "__main__":
    main()
