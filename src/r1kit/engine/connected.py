"""Engines with weights of their own, in another process or on another machine: what their settings have in
common."""

from collections.abc import Iterator
from pathlib import Path

from r1kit.config import Config, InputError
from r1kit.engine import Engine


class ConnectedConfig(Config):
    """What a recipe says of an engine that does not share a process with the learner's model."""

    kind: str  # the engine's name

    def connect(self, model: Path) -> Engine:
        """An engine on the model in directory ``model``, with its tokenizer. It starts when it is first
        used. One that follows a learner is a ``ReceivingEngine`` (hand_over.py)."""
        raise NotImplementedError(f"{type(self).__name__}.connect")

    def input_errors(self) -> Iterator[InputError]:
        """What this machine lacks for it, by key path, before anything runs."""
        return iter(())

    def identity(self) -> str:
        """What a result's last bits may depend on."""
        return self.kind
