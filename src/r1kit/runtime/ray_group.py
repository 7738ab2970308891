"""The learner processes of a Ray cluster, which share every update. One that is lost ends the group, since
its share of the sums is missing."""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from r1kit.config import R1kitError
from r1kit.runtime.ray_actors import LearnerActor, Place
from r1kit.runtime.ray_cluster import START_S, Cluster
from r1kit.runtime.runtime import LostError
from r1kit.user_code import loaded_files

if TYPE_CHECKING:
    from r1kit.runtime.ray_settings import RaySettings

BUCKET_BYTES = 1 << 28


class LearnerGroup:
    """The learner processes, which share every update."""

    def __init__(self, cluster: Cluster, config: "RaySettings") -> None:
        self.cluster, self.config, self.size = cluster, config, config.learners
        self._turn = threading.RLock()  # the group does one thing at a time
        self._failed: BaseException | None = None
        self._imported: tuple[str, ...] = ()
        self._joined = False
        self.actors = [cluster.actor(LearnerActor, config, rank, self.size) for rank in range(self.size)]
        self.pids = [0] * self.size

    def _join(self) -> None:
        """Make one group of the processes, which begin to start when this object is made."""
        found = self._in_all("facts", [()] * self.size, START_S)
        self.pids = [pid for _, pid, _ in found]
        require_equal([(host, versions) for host, _, versions in found])
        if (session := self.cluster.session) is not None:
            place = Place(file=str(session.folder / f"group-{os.urandom(4).hex()}"))
        else:
            place = self.first("open")
        self._in_all("join", [(place, self.config.deadline_s)] * self.size, START_S)
        self._joined = True

    def everywhere(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call ``method`` in every process with its own arguments; results in rank order. Raises what a
        process raised, and LostError for one that is lost; after that the group can only be closed."""
        with self._turn:
            self._require_whole()
            try:
                if not self._joined:
                    self._join()
                self._import_new_files()
                return self._in_all(method, arguments, self.config.deadline_s)
            except BaseException as error:
                self._failed = error
                raise

    def first(self, method: str, *arguments: Any) -> Any:
        """Call ``method`` in the first process."""
        with self._turn:
            self._require_whole()
            refs = [self.actors[0].do.remote(method, *arguments)]
            try:
                return self._answers(refs, method, self.config.deadline_s)[0]
            except LostError as error:
                self._failed = error
                raise

    def publish(self, handle: int, limit_s: float) -> list[Any]:
        """Put a learner's weights into Ray's store; return the references to its buckets. This process reads
        none of them."""
        with self._turn:
            count = self.first("publish", handle, BUCKET_BYTES)
            refs = [self.actors[0].bucket.remote(number) for number in range(count)]
            for _ in self._wait(refs, [0] * count, "hand-over", limit_s):
                pass
            return refs

    def _require_whole(self) -> None:
        if self._failed is not None:
            kind = LostError if isinstance(self._failed, LostError) else R1kitError
            raise kind(f"the learners cannot go on after an earlier failure: {self._failed!s:.300}")

    def _in_all(self, method: str, arguments: Sequence[tuple[Any, ...]], limit_s: float) -> list[Any]:
        refs = [actor.do.remote(method, *own) for actor, own in zip(self.actors, arguments, strict=True)]
        return self._answers(refs, method, limit_s)

    def _answers(self, refs: Sequence[Any], method: str, limit_s: float) -> list[Any]:
        """The results, as soon as all are there, or the first failure."""
        ranks = {ref: rank for rank, ref in enumerate(refs)}
        found: dict[int, Any] = {}
        for ref in self._wait(refs, range(len(refs)), method, limit_s):
            kind, content = self.cluster.answer(ref, START_S)
            if kind == "lost":
                raise self._lost(ranks[ref], f"was lost in {method!r} ({content})")
            if kind != "result":
                raise content
            found[ranks[ref]] = content
        return [found[rank] for rank in range(len(refs))]

    def _wait(self, refs: Sequence[Any], ranks: Sequence[int], method: str, limit_s: float) -> Iterator[Any]:
        """The references, each when its answer is there; ``ranks``: of the processes that answer."""
        waiting, end = dict(zip(refs, ranks, strict=True)), time.monotonic() + limit_s
        while waiting:
            for ref in self.cluster.ready(list(waiting)):
                del waiting[ref]
                yield ref
            if waiting and time.monotonic() > end:
                rank = min(waiting.values())
                self.cluster.stacks(self.pids[rank], f"learner {rank} in {method!r}")
                raise self._lost(
                    rank, f"has not done its share of {method!r} for {limit_s:g} s (stacks above)"
                )

    def _lost(self, rank: int, why: str) -> LostError:
        return LostError(
            f"learner {rank} (process {self.pids[rank]}) {why}; the same command continues the run"
        )

    def _import_new_files(self) -> None:
        """Have the processes import the user's files that were imported here since the last call."""
        if (files := loaded_files()) != self._imported:
            refs = [actor.do.remote("import_files", files) for actor in self.actors]
            self._answers(refs, "import_files", START_S)
            self._imported = files

    def close(self) -> None:
        for actor, pid in zip(self.actors, self.pids, strict=True):
            self.cluster.end(actor, pid)


def require_equal(found: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    """Raise R1kitError where the processes of a run, each on a host, differ in what decides a result."""
    first, wanted = found[0]
    for host, versions in found[1:]:
        for name in sorted({*wanted, *versions}):
            if versions.get(name) != wanted.get(name):
                raise R1kitError(
                    f"{name} is {versions.get(name)} on {host}, {wanted.get(name)} on {first}: install the "
                    "same versions on every machine of the cluster"
                )
