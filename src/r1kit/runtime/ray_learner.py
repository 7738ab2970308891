"""A learner that lives in every learner process of a Ray cluster, as the stages use it. Its weights stay
there; a tensor that someone reads is brought here alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.model.fingerprint import Fingerprint
from r1kit.runtime.proxies import in_order
from r1kit.train import checkpoint
from r1kit.train.dealing import deal_rows
from r1kit.train.learner import LearnerConfig, LearnerProtocol, Metrics
from r1kit.train.objectives import Objective
from r1kit.types import Row


class Group(Protocol):
    """The processes: ray.py."""

    size: int

    def everywhere(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call ``method`` in every process with its own arguments; results in rank order."""
        ...

    def first(self, method: str, *arguments: Any) -> Any:
        """Call ``method`` in the first process."""
        ...


class RayLearner:
    """train/learner.py says what the methods do. ``source``: the folder of its model."""

    def __init__(self, group: Group, handle: int, source: Path, config: LearnerConfig) -> None:
        self.group, self.handle, self.source, self.config = group, handle, source, config

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> Metrics:
        metrics: Metrics = self._computed("update", rows, objective, scale, share=not objective.needs.values)[
            0
        ][1]
        return metrics

    def fault(self) -> str:
        fault: str = self.group.first("call", self.handle, "fault")
        return fault

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        found = self._everywhere("call", self.handle, "examine", token_ids, temperature)
        return [one for examinations in found for one in examinations]

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return self._gathered("logprobs", rows)

    def values(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return self._gathered("values", rows)

    def entropies(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return self._gathered("entropies", rows)

    def logprobs_and_entropies(self, rows: Sequence[Row]) -> list[tuple[np.ndarray, np.ndarray]]:
        return in_order(self._computed("logprobs_and_entropies", rows, share=True))

    def weights(self) -> Mapping[str, Tensor]:
        return RemoteWeights(self.group, self.handle)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Not needed: ``hand_over`` of the runtime brings weights to engines by itself."""
        raise R1kitError("the weights of learners on Ray do not pass through this process")

    def copy_from(self, other: LearnerProtocol) -> None:
        self._everywhere("copy_weights", self.handle, self._own(other).handle)

    def follow(self, teacher: LearnerProtocol) -> None:
        self._everywhere("follow", self.handle, self._own(teacher).handle)

    def save(
        self,
        directory: Path,
        progress: Mapping[str, int],
        texts: Mapping[str, str] = {},
        others: Mapping[str, LearnerProtocol] = {},
        owners: Sequence[str] = (),
    ) -> None:
        handles = {name: self._own(other).handle for name, other in others.items()}
        self.group.first("save", self.handle, directory.absolute(), progress, texts, handles, owners)

    def restore(self, directory: Path, name: str = "", owners: Sequence[str] = ()) -> Mapping[str, int]:
        # Damaged states are renamed once, here, so that all processes find the same one.
        checkpoint.find(directory, owners)
        progress: Mapping[str, int] = self._everywhere(
            "call", self.handle, "restore", directory.absolute(), name, owners
        )[0]
        return progress

    def _own(self, other: LearnerProtocol) -> "RayLearner":
        if not isinstance(other, RayLearner) or other.group is not self.group:
            raise R1kitError(f"{other!r} is no learner of this runtime: make it with runtime.learner")
        return other

    def _everywhere(self, method: str, *arguments: Any) -> list[Any]:
        return self.group.everywhere(method, [arguments] * self.group.size)

    def _computed(
        self, method: str, rows: Sequence[Row], *arguments: Any, share: bool = False
    ) -> list[tuple[list[int], Any]]:
        dealt = deal_rows(rows, self.group.size, share)
        calls = [(self.handle, method, [rows[i] for i in own], *arguments) for own in dealt]
        return list(zip(dealt, self.group.everywhere("call", calls), strict=True))

    def _gathered(self, method: str, rows: Sequence[Row]) -> list[np.ndarray]:
        return in_order(self._computed(method, rows))


class RemoteWeights(Mapping[str, Tensor]):
    """A learner's weights, each of which is brought here when it is read."""

    def __init__(self, group: Group, handle: int) -> None:
        self._group, self._handle = group, handle

    def __getitem__(self, name: str) -> Tensor:
        if name not in set(self):
            raise KeyError(name)
        tensor: Tensor = self._group.first("weight", self._handle, name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._group.first("weight_names", self._handle))

    def __len__(self) -> int:
        return sum(1 for _ in self)
