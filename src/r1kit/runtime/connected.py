"""The engines of a runtime that have weights of their own, in another process or on another machine
(engine/settings.py). There is one of them for all learner processes."""

from collections.abc import Callable
from pathlib import Path

from r1kit.config import ConfigError, R1kitError
from r1kit.engine import TRAIN, Engine, Receiver
from r1kit.engine.connected import ConnectedConfig
from r1kit.engine.hand_over import Named, ReceivingEngine, hand_over


class ConnectedEngines:
    """Makes engines, brings weights to those that follow a learner, and closes them."""

    def __init__(self, config: ConnectedConfig) -> None:
        self.config = config
        self._open: list[Engine] = []
        self._following: list[ReceivingEngine] = []

    def on(self, model: Path) -> Engine:
        """An engine on the model in directory ``model``."""
        self._open.append(self.config.connect(model))
        return self._open[-1]

    def following(self, model: Path) -> Engine:
        """An engine that gets the weights of a learner, which began as ``model``. Raises ConfigError for a
        kind that cannot."""
        engine = self.on(model)
        if TRAIN not in engine.can or not isinstance(engine, Receiver):
            self.release(engine)
            raise ConfigError(
                f"engine: {self.config.kind} samples from weights of its own and reports no "
                "log-probabilities, so no training can follow its samples; use engine: native or vllm here, "
                "and keep this one for rejection_sampling, distill, judgements and evaluate, in a recipe of "
                "their own"
            )
        self._following.append(engine)
        return engine

    def hand_over(self, gather: Callable[[], Named], engine: Engine, version: int, deadline_s: float) -> None:
        """Bring the weights that ``gather`` yields to an engine (engine/hand_over.py)."""
        for known in self._following:
            if known is engine:
                return hand_over(gather, known, version, deadline_s)
        raise R1kitError(
            "this engine samples from a finished model; only the engine of a learner gets its weights"
        )

    def holds(self, engine: object) -> bool:
        """Whether the engine is one of these."""
        return any(known is engine for known in self._open)

    def release(self, engine: object) -> None:
        """Close an engine."""
        for known in [one for one in self._open if one is engine]:
            known.close()
        self._open = [one for one in self._open if one is not engine]
        self._following = [one for one in self._following if one is not engine]

    def close(self) -> None:
        for engine in list(self._open):
            self.release(engine)
