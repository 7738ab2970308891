"""What one process of the fsdp runtime holds: parts of learners, and engines with weights of their own.

Every method that reads a learner's weights is called in all processes at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import WeightsOnDisk, save_as_read
from r1kit.runtime.replica import Replica, ReplicaConfig
from r1kit.runtime.sharded import DataGroup, Sharded, Sharding
from r1kit.tokenizer import Tokenizer
from r1kit.train.group import Group
from r1kit.train.learner import Learner, LearnerConfig, kept_in


class ShardedReplica(Replica):
    """A replica whose learners are shared out as ``sharding`` says."""

    collective = True

    def __init__(self, config: ReplicaConfig, group: Group, sharding: Sharding) -> None:
        super().__init__(config, group)
        self.sharding = sharding
        self.rows = DataGroup(group, sharding.grid)
        self.copies: dict[int, LanguageModel] = {}  # the models of engines, by the engine's handle

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
        own: Learner = self.things[learner]
        with torch.device("meta"):
            copy = LanguageModel(own.model.config).to(own.kept_in)
        copy.to_empty(device=self.sharding.device)
        if copy.config.tie_embeddings:
            copy.lm_head.weight = copy.embed_tokens.weight
        self.copies[handle] = copy
        self._copy(handle, own)
        self._engine(handle, copy, Tokenizer.load(source))

    def load_weights(self, handle: int, learner: int, version: int) -> None:
        self._copy(handle, self.things[learner])
        self.things[handle].load(self.copies[handle].state_dict(), version)

    @torch.no_grad()
    def _copy(self, handle: int, learner: Learner) -> None:
        """Copy a learner's weights into an engine's model, one at a time."""
        own = self.copies[handle].state_dict()
        for name, tensor in learner.weights().items():
            own[name].copy_(tensor)

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
