"""The sandbox on the other nodes of a Ray cluster: one actor a node runs a share of the programs that rewards
judge (sandbox/nodes.py). Where a node is lost or does not answer, its share is run by the driver, with a
warning, and the node gets no more."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from r1kit.config import R1kitError
from r1kit.runtime.ray_actors import Answer, Start, answer, begin
from r1kit.runtime.ray_cluster import START_S, Cluster
from r1kit.sandbox import Job, nodes, run_jobs
from r1kit.sandbox.pool import current_tier
from r1kit.types import Verdict

if TYPE_CHECKING:
    from r1kit.runtime.ray_settings import RaySettings


class SandboxActor:
    """Runs jobs on its node, one batch at a time."""

    def __init__(self, start: Start) -> None:
        begin(start)

    def facts(self) -> Answer:
        """The node's cores, and the tier by which it isolates programs."""
        return answer(lambda: (len(os.sched_getaffinity(0)), current_tier()), ())

    def run(self, jobs: Sequence[Job]) -> Answer:
        return answer(run_jobs, (jobs,))


class RayNode:
    """A node with an actor on it; see ``nodes.Node``."""

    def __init__(self, cluster: Cluster, actor: Any, limit_s: float) -> None:
        self.cluster, self.actor, self.limit_s = cluster, actor, limit_s
        kind, found = cluster.answer(actor.facts.remote(), START_S)
        if kind != "result":
            raise found if isinstance(found, R1kitError) else R1kitError(f"a sandbox did not start: {found}")
        self.size, tier = found
        if tier != current_tier():
            raise R1kitError(
                f"a node isolates programs by {tier}, this machine by {current_tier()}: set R1KIT_SANDBOX to "
                "the same on all nodes (r1kit doctor says what a machine can do)"
            )

    def begin(self, jobs: Sequence[Job]) -> Callable[[], list[Verdict] | None]:
        ref = self.actor.run.remote(list(jobs))

        def wait() -> list[Verdict] | None:
            kind, found = self.cluster.answer(ref, self.limit_s)
            if kind == "result":
                verdicts: list[Verdict] = found
                return verdicts
            if kind == "error":
                raise found
            nodes.unregister([self])
            sys.stderr.write(f"warning: a node's sandbox was lost; its programs run here: {found!s:.300}\n")
            return None

        return wait


class Sandboxes:
    """The sandboxes of these nodes of a cluster, from their start to ``close``."""

    def __init__(self, cluster: Cluster, config: "RaySettings", places: Sequence[str]) -> None:
        self.cluster = cluster
        self._actors = [cluster.actor_on(place, SandboxActor) for place in places]
        self.nodes = [RayNode(cluster, actor, config.deadline_s) for actor in self._actors]
        nodes.register(self.nodes)

    def close(self) -> None:
        nodes.unregister(self.nodes)
        for actor in self._actors:
            self.cluster.end(actor, 0)
