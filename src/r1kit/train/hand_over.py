"""How a learner's weights reach the engine: by the runtime's ``hand_over``, which knows where both are.
Without a runtime they are in one process."""

from collections.abc import Callable

from r1kit.engine import Engine
from r1kit.train.learner import LearnerProtocol

# Brings a learner's weights to an engine, which then has this version of them.
HandOver = Callable[[LearnerProtocol, Engine, int], None]


def load_weights(learner: LearnerProtocol, engine: Engine, version: int) -> None:
    """The hand-over to an engine in this process."""
    engine.load(learner.weights(), version)
