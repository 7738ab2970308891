"""r1kit's side of the race: the recipe's R1-Zero stage itself, in one process, from its pre-flight to the
export of its weights. As on TRL's side, the model is loaded and the problems are drawn before it is ready.
One order is a number of updates and a folder for the weights after them."""

import io
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.serving import Line, Order
from race_work import seed_of, stage_of, stream_of
from rich.console import Console

from r1kit.engine import Engine
from r1kit.log import Log
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.runtime.proxies import LearnerProxy
from r1kit.stages.stage import Context
from r1kit.train.learner import LearnerConfig, LearnerProtocol


class Remembering(LocalRuntime):
    """A runtime that remembers the learner of the policy, which is made first, and calls ``ready`` once the
    policy's engine is there."""

    policy: LearnerProxy | None = None
    ready: Callable[[], None]

    def engine_of(self, learner: LearnerProtocol) -> Engine:
        made = super().engine_of(learner)
        self.ready()
        return made

    def learner(self, model: Path, config: LearnerConfig, scalar_head: bool = False) -> LearnerProxy:
        made = super().learner(model, config, scalar_head)
        self.policy = self.policy or made
        return made


class Answering(Log):
    """A log that counts updates, and answers an order where they are done."""

    def __init__(self, folder: Path, line: Line, orders: Iterator[Order], runtime: Remembering) -> None:
        super().__init__(folder, "r1_zero", Console(file=io.StringIO()))
        self.line, self.orders, self.runtime = line, orders, runtime
        self.done, self.tokens, self.right = 0, 0.0, list[float]()

    def begin(self) -> None:
        """Say that the training can begin, and wait for the first order."""
        self.line.answer({"ready": True})
        self.order = self._next()

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        super().step(step, total, metrics)
        self.done += 1
        self.tokens += metrics["completions/mean_length"] * self.order["rows"]
        self.right.append(metrics["reward/accuracy/mean"])
        if self.done % self.order["steps"]:
            return
        cpu, wall = time.process_time(), time.perf_counter()
        assert self.runtime.policy is not None
        self.runtime.export(self.runtime.policy, Path(self.order["folder"]))
        saving = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        right = sum(self.right) / len(self.right)
        self.line.answer({"tokens": int(self.tokens), "step": self.done, "saving": saving, "right": right})
        self.tokens, self.right = 0.0, []
        self.order = self._next()

    def _next(self) -> Order:
        order = next(self.orders, None)
        if order is None:
            raise SystemExit
        return order


def main() -> None:
    line = Line()
    orders = line.orders()
    with line.reporting():
        spec = next(orders)
        folder, base = Path(spec["scratch"]), Path(spec["base"])
        out = folder / "stages" / "r1_zero.partial"
        out.mkdir(parents=True)
        stage = stage_of(base, spec["changes"], spec["course"])
        runtime = Remembering(LocalConfig(processes=1, threads=1, engine_precision=spec["engine_precision"]))
        log = Answering(folder, line, orders, runtime)
        stream_of(stage, base, spec["seed"])  # tasks keep the problems that they have drawn
        runtime.ready = log.begin
        stage.run(Context(folder, "r1_zero", out, seed_of(spec["seed"]), runtime, log, {}))


if __name__ == "__main__":
    main()
