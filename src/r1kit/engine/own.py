"""An engine outside r1kit, with a default for every method that it does not have.

Needed are ``generate`` and ``load``. The rest of ``Engine`` is optional:

    version     that of the last ``load``
    can         "stream" and "examine" where the methods exist, "seeds" and "train"
    stream      an error that says which method to add
    examine     nothing can be examined, so the agreement gate compares log-probabilities only
    health      "" (it answers)
    abort       an error that says which method to add
    close       nothing happens"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine import ALL, EXAMINE, STREAM, Done, Engine
from r1kit.model.fingerprint import Fingerprint
from r1kit.types import Completion, Sampling

_NEEDED = ("generate", "load")


def completed(engine: Any, name: str) -> Engine:
    """The engine that the code ``name`` made, with the methods that it lacks. Raises R1kitError naming a
    needed method that it does not have."""
    missing = [method for method in _NEEDED if not callable(getattr(engine, method, None))]
    if missing:
        raise R1kitError(
            f"{name} made an engine without {' and '.join(missing)}: add "
            f"{'these methods' if len(missing) > 1 else 'this method'} (docs/how-to/engine.md)"
        )
    return OwnEngine(engine, name)


class OwnEngine:
    """Passes every call on to ``engine``, or does what the module's list says."""

    def __init__(self, engine: Any, name: str) -> None:
        self.engine, self.name = engine, name
        self._loaded = 0

    @property
    def can(self) -> frozenset[str]:
        if isinstance(found := getattr(self.engine, "can", None), Sequence | set | frozenset):
            return frozenset(found)
        lacking = {method for method in (STREAM, EXAMINE) if not self._has(method)}
        return ALL - lacking

    @property
    def version(self) -> int:
        return int(getattr(self.engine, "version", self._loaded))

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling,
        seeds: Sequence[int] | None = None, done: Done | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        groups: list[list[Completion]] = self.engine.generate(prompts, sampling, seeds, done)
        return groups

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        if not self._has(STREAM):
            raise self._lacks("stream(prompt, sampling, seed)", "yields a completion token by token")
        tokens: Iterator[int] = self.engine.stream(prompt, sampling, seed)
        return tokens

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.engine.load(weights, version)
        self._loaded = version

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        found: list[Fingerprint] = self.engine.examine(token_ids, temperature) if self._has(EXAMINE) else []
        return found

    def health(self, timeout_s: float) -> str:
        return str(self.engine.health(timeout_s)) if self._has("health") else ""

    def abort(self) -> None:
        if not self._has("abort"):
            raise self._lacks("abort()", "ends what is being sampled or loaded")
        self.engine.abort()

    def close(self) -> None:
        if self._has("close"):
            self.engine.close()

    def _has(self, method: str) -> bool:
        return callable(getattr(self.engine, method, None))

    def _lacks(self, method: str, which: str) -> R1kitError:
        return R1kitError(f"the engine {self.name} has no {method}, which {which}: add that method")
