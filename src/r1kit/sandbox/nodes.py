"""Other machines that run a share of the jobs: the nodes of a cluster (runtime/ray_sandbox.py).

A runtime registers them when it starts. A batch of jobs is shared out by cores; the share of a machine that
is lost is run here instead, so that a lost machine never becomes a verdict."""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from r1kit.sandbox.jobs import Job
from r1kit.types import Verdict

Answer = Callable[[], list[Verdict] | None]


class Node(Protocol):
    """A machine with ``size`` cores for jobs."""

    @property
    def size(self) -> int: ...

    def begin(self, jobs: Sequence[Job]) -> Answer:
        """Begin to run jobs. The answer waits for their verdicts, in order; None where the machine was
        lost."""
        ...


_registered: list[Node] = []
_lock = threading.Lock()


def register(nodes: Sequence[Node]) -> None:
    """Share the batches of this process out over these machines too."""
    with _lock:
        _registered.extend(nodes)


def unregister(nodes: Sequence[Node]) -> None:
    """Share nothing with these machines any more."""
    with _lock:
        _registered[:] = [node for node in _registered if not any(node is one for one in nodes)]


def registered() -> list[Node]:
    """The machines that take a share now."""
    with _lock:
        return list(_registered)


def shares(count: int, sizes: Sequence[int]) -> list[range]:
    """``count`` jobs in runs that follow each other, in proportion to ``sizes``."""
    ends = [count * seen // sum(sizes) for seen in itertools.accumulate(sizes, initial=0)]
    return [range(start, end) for start, end in itertools.pairwise(ends)]
