"""WHERE it runs: the only package that knows processes, ranks and devices. Stages get learners and engines
from a runtime."""

from pathlib import Path
from typing import Any, Protocol

from r1kit.config import ConfigError
from r1kit.engine import Engine
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.train.learner import LearnerConfig, LearnerProtocol

RUNTIMES = {"local": LocalConfig}


class Runtime(Protocol):
    """Learners and engines by model directory. An engine made by ``engine_of`` samples from that learner's
    current weights."""

    def learner(self, model: Path, config: LearnerConfig, scalar_head: bool = False) -> LearnerProtocol:
        """A learner on the model in directory ``model``; with ``scalar_head`` it has a value head."""
        ...

    def engine_of(self, learner: LearnerProtocol) -> Engine:
        """An engine that samples from the learner's current weights."""
        ...

    def engine(self, model: Path) -> Engine:
        """An engine that samples from the model in directory ``model``."""
        ...

    def export(self, learner: LearnerProtocol, directory: Path) -> None:
        """Write the learner's model with its tokenizer as a Hugging Face directory, whole or not at all."""
        ...

    def release(self, *things: object) -> None:
        """Free learners and engines that are no longer needed."""
        ...

    def close(self) -> None:
        """End the runtime's processes and free what it holds."""
        ...


def start(settings: Any) -> LocalRuntime:
    """Start the runtime that a recipe's ``runtime:`` line names (already parsed by RUNTIMES)."""
    if isinstance(settings, LocalConfig):
        return LocalRuntime(settings)
    raise ConfigError(f"runtime: {settings!r} is not one of {', '.join(RUNTIMES)}")
