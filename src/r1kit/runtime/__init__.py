"""WHERE it runs: the only package that knows processes, ranks and devices. Stages get learners and engines
from a runtime.

A recipe's ``runtime: {kind: local, ...}`` is the configuration of one; ``kind`` is a name of ``RUNTIMES`` or
names a class outside r1kit, ``my_runtime.py:Name``. Importing this module is quick: what a runtime needs
(torch for one) is imported when a recipe names it."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from r1kit.config import Config, ConfigError, suggest
from r1kit.files import hash_file
from r1kit.user_code import load_name

if TYPE_CHECKING:
    from r1kit.engine import Engine
    from r1kit.train.learner import LearnerConfig, LearnerProtocol

RUNTIMES = {"local": "r1kit.runtime.local:LocalConfig"}


class Runtime(Protocol):
    """Learners and engines by model directory. An engine made by ``engine_of`` samples from that learner's
    current weights."""

    def learner(self, model: Path, config: "LearnerConfig", scalar_head: bool = False) -> "LearnerProtocol":
        """A learner on the model in directory ``model``; with ``scalar_head`` it has a value head."""
        ...

    def engine_of(self, learner: "LearnerProtocol") -> "Engine":
        """An engine that samples from the learner's current weights."""
        ...

    def engine(self, model: Path) -> "Engine":
        """An engine that samples from the model in directory ``model``."""
        ...

    def export(self, learner: "LearnerProtocol", directory: Path) -> None:
        """Write the learner's model with its tokenizer as a Hugging Face directory, whole or not at all."""
        ...

    def release(self, *things: "LearnerProtocol | Engine") -> None:
        """Free learners and engines that are no longer needed."""
        ...

    def close(self) -> None:
        """End the runtime's processes and free what it holds."""
        ...


class RuntimeConfig(Config):
    """What a recipe says under ``runtime:``. A runtime is a subclass with its own keys and ``start``."""

    kind: str = "local"

    def start(self) -> Runtime:
        raise NotImplementedError(f"{type(self).__name__}.start")

    def resolved_processes(self) -> int:
        """How many processes share the work; a result's last bits may depend on it."""
        return 1

    def kernels(self) -> dict[str, str]:
        """What computes, by name, as far as a result's last bits may depend on it: a stage that was begun
        with something else does not continue. By default the file of a runtime outside r1kit, by its hash."""
        source = inspect.getsourcefile(type(self))
        return {"runtime": hash_file(Path(source))} if ":" in self.kind and source else {}


def config_class(kind: str) -> type[RuntimeConfig]:
    """The configuration of the runtimes of this kind. Raises ConfigError where there is none."""
    if ":" not in kind and kind not in RUNTIMES:
        raise ConfigError(f"runtime: unknown kind {kind!r}: {suggest(kind, RUNTIMES)}")
    found = load_name(kind if ":" in kind else RUNTIMES[kind])
    if not (isinstance(found, type) and issubclass(found, RuntimeConfig)):
        raise ConfigError(f"runtime: {kind} is no runtime: make it a subclass of r1kit.runtime.RuntimeConfig")
    return found


def start(settings: RuntimeConfig) -> Runtime:
    """Start the runtime of a recipe's ``runtime:``."""
    return settings.start()
