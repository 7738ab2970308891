"""The processes that train one model together.

``Group`` is all that training needs of them; the runtime gives one to each learner. Every call is collective:
each process of the group makes it, in the same order. A call fails after the group's own deadline, so a
process that has died or stopped never makes the others wait forever."""

from typing import Protocol

from torch import Tensor


class Group(Protocol):
    """This process is number ``rank`` of ``size``."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each; may be written into ``tensor``."""
        ...

    def max(self, number: int) -> int:
        """The largest of the processes' numbers."""
        ...

    def barrier(self) -> None:
        """Return when every process has called this."""
        ...

    def gather(self, own: bytes) -> list[bytes]:
        """What each process passed, in rank order."""
        ...


class Alone:
    """The group of one process."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def max(self, number: int) -> int:
        return number

    def barrier(self) -> None:
        pass

    def gather(self, own: bytes) -> list[bytes]:
        return [own]


ALONE = Alone()
