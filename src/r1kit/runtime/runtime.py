"""What a runtime is: the protocol that stages use, and the base of its configuration."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from r1kit.config import Config, InputError, R1kitError, Unloaded
from r1kit.files import hash_file
from r1kit.user_code import Shape, code_file

if TYPE_CHECKING:
    from r1kit.engine import Engine
    from r1kit.train.learner import LearnerConfig, LearnerProtocol


class LostError(R1kitError):
    """A process of the runtime was lost, and the runtime can only be closed. A stage continues from its last
    saved state on another one."""


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

    def hand_over(
        self, learner: "LearnerProtocol", engine: "Engine", version: int, deadline_s: float | None = None
    ) -> None:
        """Let an engine that was made for ``learner`` sample from its weights as they are now, as
        ``version``. Raises R1kitError where that fails, HungError where it takes longer than ``deadline_s``
        seconds (None: the runtime's own limit); the error names the step. The next hand-over can work."""
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

    kind: str = "local"  # the runtime's name

    def start(self) -> Runtime:
        raise NotImplementedError(f"{type(self).__name__}.start")

    def follow(self) -> None:
        """In a process that another one leads (torchrun starts several): do its work and end with it. In any
        other, return at once."""

    def resolved_processes(self) -> int:
        """How many processes share the work; a result's last bits may depend on it."""
        return 1

    def most_restarts(self) -> int:
        """How often a stage continues on a new runtime after a ``LostError``."""
        return 0

    def indifferent(self) -> tuple[str, ...]:
        """The keys that do not change results, so that an unfinished stage continues with other values."""
        return ("deadline_s",)

    def input_errors(self) -> Iterable[InputError]:
        """What this machine lacks of what the configuration names, by key path within ``runtime``, before
        anything runs."""
        return ()

    def kernels(self) -> dict[str, str]:
        """What a result's last bits may depend on, by name. An unfinished stage is not resumed if this has
        changed. By default: the hash of the file of a runtime outside r1kit."""
        source = code_file(self.kind)
        return {"runtime": hash_file(source)} if source else {}

    def kernel_notes(self) -> list[str]:
        """What the user should know about ``kernels`` when a run starts, a line each."""
        return []


class UnloadedRuntime(RuntimeConfig, Unloaded):
    """The stand-in of a runtime outside r1kit whose code was not imported; its keys are not checked."""


def _is_runtime(found: type) -> bool:
    return issubclass(found, RuntimeConfig) and found.start is not RuntimeConfig.start


RUNTIME = Shape(
    "a runtime",
    "a subclass of r1kit.runtime.RuntimeConfig with start()",
    is_class=_is_runtime,
    stand_in=UnloadedRuntime,
)
