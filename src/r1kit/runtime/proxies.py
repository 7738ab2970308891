"""Learners and engines that live in every process of a runtime, as the stages use them.

A proxy calls the replicas (replica.py) through the runtime, which carries the calls: each replica gets its
share of the rows or prompts, and the results are put together here."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine import Done
from r1kit.engine.native import default_seeds
from r1kit.model.fingerprint import Fingerprint
from r1kit.model.huggingface import to_disk
from r1kit.runtime.replica import Replica
from r1kit.train import checkpoint
from r1kit.train.learner import Learner, LearnerProtocol, Metrics
from r1kit.train.objectives import Objective
from r1kit.types import Completion, Row, Sampling


class Replicas(Protocol):
    """What carries the calls of proxies: ``size`` replicas, of which this process holds ``replica``."""

    size: int
    replica: Replica

    def everywhere(
        self,
        method: str,
        arguments: Sequence[tuple[Any, ...]],
        on_report: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Call ``method`` on every replica with its own arguments; results in rank order. ``on_report(rank,
        what)`` gets what replicas report during the call."""
        ...

    def shared(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of work of these lengths, distributed to the replicas."""
        ...

    def shared_rows(self, rows: Sequence[Row], share: bool) -> list[list[int]]:
        """Rows of an update, by index, which some replicas may compute together; ``share``: rows of one
        prompt share it."""
        ...

    def examine(self, handle: int, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        """Fingerprints of every replica's copy of a learner or an engine, in rank order."""
        ...

    def own(self, learner: LearnerProtocol) -> "LearnerProxy":
        """Check that the learner belongs to this runtime. Raises R1kitError otherwise."""
        ...


Result = TypeVar("Result")  # of one row


class LearnerProxy:
    """A learner that lives in every replica (train/learner.py says what the methods do)."""

    def __init__(self, runtime: Replicas, handle: int, source: Path) -> None:
        self.runtime, self.handle, self.source = runtime, handle, source

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> Metrics:
        dealt = self.runtime.shared_rows(rows, share=not objective.needs.values)
        metrics: Metrics = self._computed(dealt, "update", rows, objective, scale)[0][1]
        return metrics

    def fault(self) -> str:
        return self.local().fault()

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        return self.runtime.examine(self.handle, token_ids, temperature)

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return self._gathered("logprobs", rows)

    def values(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return self._gathered("values", rows)

    def entropies(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return self._gathered("entropies", rows)

    def logprobs_and_entropies(self, rows: Sequence[Row]) -> list[tuple[np.ndarray, np.ndarray]]:
        dealt = self.runtime.shared_rows(rows, share=True)
        return in_order(self._computed(dealt, "logprobs_and_entropies", rows))

    def weights(self) -> Mapping[str, Tensor]:
        if self.runtime.replica.collective:
            return RemoteWeights(self.runtime, self.handle)
        weights: Mapping[str, Tensor] = self.local().weights()
        return weights

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        if self.runtime.replica.collective:
            return to_disk(self.local().model.config, self.weights())
        return self.local().named_weights()

    def copy_from(self, other: LearnerProtocol) -> None:
        """Copy another learner's weights (a reference policy's refresh)."""
        source = self.runtime.own(other).handle
        self.runtime.everywhere("copy_weights", [(self.handle, source)] * self.runtime.size)

    def follow(self, teacher: LearnerProtocol) -> None:
        """Compare the predictions of every update with the teacher's."""
        followed = self.runtime.own(teacher).handle
        self.runtime.everywhere("follow", [(self.handle, followed)] * self.runtime.size)

    def save(
        self,
        directory: Path,
        progress: Mapping[str, int],
        texts: Mapping[str, str] = {},
        others: Mapping[str, LearnerProtocol] = {},
        owners: Sequence[str] = (),
    ) -> None:
        owned = {name: self.runtime.own(other) for name, other in others.items()}
        if self.runtime.replica.collective:
            handles = {name: other.handle for name, other in owned.items()}
            given = (self.handle, directory, progress, texts, handles, owners)
            self.runtime.everywhere("save", [given] * self.runtime.size)
        else:
            own = {name: other.local() for name, other in owned.items()}
            self.local().save(directory, progress, texts, own, owners)

    def restore(self, directory: Path, name: str = "", owners: Sequence[str] = ()) -> Mapping[str, int]:
        # Damaged states are renamed once, here, so that all replicas find the same one.
        checkpoint.find(directory, owners)
        progress: Mapping[str, int] = self.runtime.everywhere(
            "call", [(self.handle, "restore", directory, name, owners)] * self.runtime.size
        )[0]
        return progress

    def local(self) -> Learner:
        learner: Learner = self.runtime.replica.things[self.handle]
        return learner

    def _computed(
        self, dealt: Sequence[list[int]], method: str, rows: Sequence[Row], *arguments: Any
    ) -> list[tuple[list[int], Any]]:
        calls = [(self.handle, method, [rows[i] for i in own], *arguments) for own in dealt]
        return list(zip(dealt, self.runtime.everywhere("call", calls), strict=True))

    def _gathered(self, method: str, rows: Sequence[Row]) -> list[np.ndarray]:
        return in_order(self._computed(self.runtime.shared_rows(rows, share=False), method, rows))


def in_order(shares: Iterable[tuple[Sequence[int], Sequence[Result]]]) -> list[Result]:
    """The results of all rows, from (rows of a process, their results)."""
    found: dict[int, Result] = {}
    for own, results in shares:
        found.update(zip(own, results, strict=True))
    return [found[row] for row in range(len(found))]


class RemoteWeights(Mapping[str, Tensor]):
    """The weights of a learner that is shared out over the replicas; each is put together when it is
    read."""

    def __init__(self, runtime: Replicas, handle: int) -> None:
        self.runtime, self.handle = runtime, handle

    def __getitem__(self, name: str) -> Tensor:
        calls = [(self.handle, name)] * self.runtime.size
        found: Tensor = self.runtime.everywhere("weight", calls)[0]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        names: list[str] = self.runtime.everywhere("weight_names", [(self.handle,)] * self.runtime.size)[0]
        return names


class EngineProxy:
    """An engine that lives in every replica; each samples for its share of the prompts."""

    def __init__(self, runtime: Replicas, handle: int, learner: LearnerProxy | None) -> None:
        self.runtime, self.handle, self.learner = runtime, handle, learner

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling,
        seeds: Sequence[int] | None = None, done: Done | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        runtime = self.runtime
        seeds = list(seeds) if seeds is not None else default_seeds(sampling.seed, len(prompts))
        dealt = runtime.shared([len(prompt) for prompt in prompts])
        calls = [(self.handle, [prompts[i] for i in own], sampling, [seeds[i] for i in own]) for own in dealt]
        found: dict[int, list[Completion]] = {}

        def on_report(rank: int, groups: Mapping[int, list[Completion]]) -> None:
            completed = {dealt[rank][place]: group for place, group in groups.items()}
            found.update(completed)
            if done is not None:
                done(completed)

        runtime.everywhere("sample", calls, on_report)
        return [found[i] for i in range(len(prompts))]

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        return self.runtime.examine(self.handle, token_ids, temperature)

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Any:
        return self._local().stream(prompt, sampling, seed)

    @property
    def can(self) -> frozenset[str]:
        found: frozenset[str] = self._local().can
        return found

    @property
    def version(self) -> int:
        return int(self._local().version)

    def health(self, timeout_s: float) -> str:
        """Of the engine in this process; the others answer with the next call."""
        return str(self._local().health(timeout_s))

    def abort(self) -> None:
        """End what this process's engine samples. With several processes the runtime can then only be
        closed."""
        self._local().abort()

    def close(self) -> None:
        self.runtime.everywhere("drop", [(self.handle,)] * self.runtime.size)

    def _local(self) -> Any:
        return self.runtime.replica.things[self.handle]

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Hand over the learner's weights, from replica to replica. The native engine shares them, so it only
        notes the version."""
        if self.learner is None:
            raise R1kitError(
                "this engine samples from a finished model; only the engine of a learner follows its weights"
            )
        calls = [(self.handle, self.learner.handle, version)] * self.runtime.size
        self.runtime.everywhere("load_weights", calls)
