"""How a learner's weights reach the engine: by the runtime's ``hand_over``, which knows where both are.
Without a runtime they are in one process."""

from collections.abc import Callable

from r1kit.config import ConfigError
from r1kit.engine import TRAIN, Engine
from r1kit.train.learner import LearnerProtocol

# Brings a learner's weights to an engine, which then has this version of them.
HandOver = Callable[[LearnerProtocol, Engine, int], None]


def require_trainable(engine: Engine) -> None:
    """Raise ConfigError where the log-probabilities of this engine's samples may not be trained on."""
    if TRAIN not in engine.can:
        raise ConfigError(
            "runtime.engine: this engine's samples have no log-probabilities to train on; use engine: native "
            "or vllm for this stage"
        )


def load_weights(learner: LearnerProtocol, engine: Engine, version: int) -> None:
    """The hand-over to an engine in this process."""
    engine.load(learner.weights(), version)
