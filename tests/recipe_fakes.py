"""Fake stages and a fake runtime: what a recipe's machinery sees of the real ones, in microseconds.

Run as a program it is r1kit's command line over these fakes, for tests that kill it.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

if __name__ == "__main__":
    # A package without the real stages, and a name for annotations: either would import torch.
    package, learner = ModuleType("r1kit.stages"), ModuleType("r1kit.train.learner")
    package.__path__ = [str(Path(__file__).parents[1] / "src/r1kit/stages")]
    learner.LearnerConfig = object  # type: ignore[attr-defined]
    sys.modules.update({"r1kit.stages": package, "r1kit.train.learner": learner})

from pydantic import Field

from r1kit.config import Config, R1kitError
from r1kit.files import remove_tree
from r1kit.runtime import RUNTIMES, RuntimeConfig
from r1kit.stages.stage import Context, Stage


class FakeRuntime(RuntimeConfig):
    kind: Literal["local"] = "local"
    processes: int = 1

    def resolved_processes(self) -> int:
        return self.processes

    def start(self) -> Any:
        return self

    def close(self) -> None:
        return None

    def export(self, learner: Any, directory: Path) -> None:
        """A model's folder in the place of what is there, as the real runtime writes it."""
        remove_tree(directory)
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(learner))

    def release(self, *things: Any) -> None:
        return None


class Optimizer(Config):
    steps: int = 3
    lr: float = 1e-3
    tables: dict[str, float] = Field({"a": 1.0})


class Write(Stage):
    """Writes data.jsonl, one line a step, and continues behind the lines that are there. Where
    R1KIT_TEST_HOLD in the environment is the number of a step, it waits there to be stopped by a signal."""

    stage: Literal["write"] = "write"
    init: str = ""
    sources: dict[str, float] = Field({})
    optimizer: Optimizer | None = Optimizer()

    def run(self, ctx: Context) -> None:
        text = ctx.path(self.init).read_text() if self.init else ""
        file = ctx.out / "data.jsonl"
        begun = len(file.read_text().splitlines()) if file.exists() else 0
        steps = self.optimizer.steps if self.optimizer else 1
        for step in range(begun, steps):
            if os.environ.get("R1KIT_TEST_HOLD") == str(step):
                time.sleep(1e6)  # until the test stops this process
            with file.open("a") as output:
                output.write(json.dumps({"step": step, "seed": ctx.seed, "input": len(text)}) + "\n")
            ctx.log.step(step, steps, {"loss": 1.0 / (step + 1)})


class Fail(Stage):
    """Writes half.txt where it is to have ``work`` to lose, and stops."""

    stage: Literal["fail"] = "fail"
    init: str = ""
    how: str = "config"
    work: bool = True

    def run(self, ctx: Context) -> None:
        if self.work:
            (ctx.out / "half.txt").write_text("half")
        if self.how == "config":
            raise R1kitError("data.jsonl:3: not JSON: correct or remove the row")
        if self.how == "bug":
            raise ZeroDivisionError("division by zero")
        if self.how == "interrupt":
            raise KeyboardInterrupt


STAGES: dict[str, type[Stage]] = {"write": Write, "fail": Fail}

report: Any = ModuleType("r1kit.report")
report.__path__ = [str(Path(__file__).parents[1] / "src/r1kit/report")]  # its other modules are the real ones
report.write = lambda run_dir: run_dir / "report.md"
report.warnings = lambda run_dir: []

if __name__ == "__main__":
    package.STAGES = STAGES  # type: ignore[attr-defined]
    RUNTIMES["local"] = "recipe_fakes:FakeRuntime"
    from r1kit.commands.cli import main

    main()
