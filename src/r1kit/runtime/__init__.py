"""WHERE it runs: the only room that knows of processes, ranks and devices. Stages ask a runtime for learners
and engines."""

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

    def learner(self, model: Path, config: LearnerConfig, scalar_head: bool = False) -> LearnerProtocol: ...

    def engine_of(self, learner: LearnerProtocol) -> Engine: ...

    def engine(self, model: Path) -> Engine: ...

    def export(self, learner: LearnerProtocol, directory: Path) -> None: ...

    def release(self, *things: object) -> None: ...

    def close(self) -> None: ...


def start(settings: Any) -> LocalRuntime:
    """Start the runtime that a recipe's ``runtime:`` line names (already parsed by RUNTIMES)."""
    if isinstance(settings, LocalConfig):
        return LocalRuntime(settings)
    raise ConfigError(f"runtime: {settings!r} is not one of {', '.join(RUNTIMES)}")
