"""What one process of the fsdp runtime holds: parts of learners, and engines with weights of their own.

Every method that reads a learner's weights is called in all processes at once. An engine's copy of the
weights, and the one that its kernels pack, are held only while it samples: an update frees them, and the next
sampling makes them again from the learner."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine import ALL
from r1kit.engine.settings import NATIVE
from r1kit.memory import keep_memory
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import WeightsOnDisk, save_as_read
from r1kit.runtime.replica import Replica, ReplicaConfig
from r1kit.runtime.sharded import DataGroup, Sharded, Sharding
from r1kit.tokenizer import Tokenizer
from r1kit.train.group import Group
from r1kit.train.learner import Learner, LearnerConfig, kept_in
from r1kit.types import Sampling


@dataclass(slots=True)
class Copy:
    """An engine that samples from a learner: the learner's handle, and the copy of its weights while there is
    one."""

    learner: int
    tokenizer: Tokenizer
    model: LanguageModel | None = None


@dataclass(frozen=True, slots=True)
class Resting:
    """Stands in for an engine whose weights are freed."""

    version: int
    can: frozenset[str] = ALL

    def health(self, timeout_s: float) -> str:
        return ""

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Any:
        raise R1kitError("this engine has no weights between an update and the next generate")


class ShardedReplica(Replica):
    """A replica whose learners are shared out as ``sharding`` says."""

    collective = True

    def __init__(self, config: ReplicaConfig, group: Group, sharding: Sharding) -> None:
        super().__init__(config, group)
        # Weights are put together and freed all the time; kept in between, they leave gaps that nothing fits.
        keep_memory(largest=1 << 20, one_heap=True)
        self.sharding = sharding
        self.rows = DataGroup(group, sharding.grid)
        self.copies: dict[int, Copy] = {}  # by the engine's handle

    def make_learner(
        self, handle: int, model: Path, config: LearnerConfig, scalar_head: bool, shared_file: str = ""
    ) -> None:
        if config.lora is not None:
            raise R1kitError(
                "learner.lora: adapters are trained by runtime: {kind: local} only; leave lora out, or "
                "change the runtime"
            )
        if config.optimizer.moments != "float32" or config.weights != "float32":
            raise R1kitError(
                "learner.optimizer.moments and learner.weights: shared-out learners keep float32; leave both "
                "out, or use runtime: {kind: local}"
            )
        with WeightsOnDisk(model, kept_in(config), scalar_head) as source:

            def place(root: Any, _group: Group) -> Sharded:
                return Sharded(root, self.group, self.sharding, source)

            self.things[handle] = Learner(source.outline(), config, self.rows, place=place)
        self._sources[handle] = model

    def make_engine_of(self, handle: int, learner: int, source: Path) -> None:
        """An engine on a copy of the learner's weights, which ``load_weights`` renews."""
        self.copies[handle] = Copy(learner, Tokenizer.load(source))
        self._wake(handle)

    def call(self, handle: int, method: str, *arguments: Any) -> Any:
        if method == "update":
            self._rest()
        elif handle in self.copies:
            self._wake(handle)
        return super().call(handle, method, *arguments)

    def sample(
        self, handle: int, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int]
    ) -> None:
        if handle in self.copies:
            self._wake(handle)
        super().sample(handle, prompts, sampling, seeds)

    def load_weights(self, handle: int, learner: int, version: int) -> None:
        if not self._wake(handle):
            self._fill(handle)
        self.things[handle].load(self._model_of(handle).state_dict(), version)

    def _wake(self, handle: int) -> bool:
        """Make the engine's copy of the weights, from the learner's as they are now; whether there was
        none."""
        copy = self.copies[handle]
        if copy.model is not None:
            return False
        own: Learner = self.things[copy.learner]
        with torch.device("meta"):
            model = LanguageModel(own.model.config).to(own.kept_in)
        model.to_empty(device=self.sharding.device)
        if model.config.tie_embeddings:
            model.lm_head.weight = model.embed_tokens.weight
        copy.model = model
        self._fill(handle)
        version = self.things[handle].version if handle in self.things else 0
        self._engine(handle, model, copy.tokenizer)
        if version:
            self.things[handle].load(model.state_dict(), version)
        return True

    def _rest(self) -> None:
        """Free the copies of r1kit's own engines; another one may hold what it was given."""
        for handle, copy in self.copies.items():
            if copy.model is not None and self.config.engine == NATIVE:
                self.things[handle], copy.model = Resting(self.things[handle].version), None

    @torch.no_grad()
    def _fill(self, handle: int) -> None:
        """Copy the learner's weights into the engine's model, one at a time."""
        own = self._model_of(handle).state_dict()
        for name, tensor in self.things[self.copies[handle].learner].weights().items():
            own[name].copy_(tensor)

    def _model_of(self, handle: int) -> LanguageModel:
        model = self.copies[handle].model
        assert model is not None
        return model

    def copy_weights(self, target: int, source: int) -> None:
        self.things[target].placement.copy_from(self.things[source].placement)

    def drop(self, handle: int) -> None:
        super().drop(handle)
        self.copies.pop(handle, None)

    def save(
        self, handle: int, directory: Path, progress: Mapping[str, int], texts: Mapping[str, str],
        others: Mapping[str, int], owners: Any,
    ) -> None:  # fmt: skip
        learners = {name: self.things[other] for name, other in others.items()}
        self.things[handle].save(directory, progress, texts, learners, owners)

    def weight(self, handle: int, name: str) -> Tensor | None:
        """One of a learner's weights, in the first process."""
        found: Tensor = self.things[handle].weights()[name]
        return found if self.group.rank == 0 else None

    def weight_names(self, handle: int) -> list[str]:
        return list(self.things[handle].weights())

    def export(self, handle: int, directory: Path, dtype: torch.dtype) -> None:
        """Write a learner's weights, in the first process, a shard at a time."""
        learner: Learner = self.things[handle]
        target = directory if self.group.rank == 0 else None
        if target is not None:
            target.mkdir(parents=True, exist_ok=True)
        save_as_read(learner.model.config, learner.weights(), target, dtype)
