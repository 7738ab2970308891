"""The group of processes on one machine that add their tensors in memory that all of them map.

gloo sends a tensor through a socket of the loopback interface. Here each process writes its own numbers into
a board, waits for the others, adds up its share of all numbers, waits again, and reads the sums. Only the
waiting goes over gloo, so a process that has died or stopped still ends the wait at the group's deadline.

A sum is taken in the order of the ranks, whatever the timing, so every process gets the same bits."""

import os

import torch
import torch.distributed as dist
from torch import Tensor

from r1kit.runtime.process_group import ProcessGroup

BOARD_BYTES = 8 << 20  # of each process, in each of the two boards; a larger tensor is added in parts
LEAST_BYTES = 1 << 14  # a smaller tensor goes over gloo, which then takes no longer


class MemoryGroup(ProcessGroup):
    """``file``: a path of memory that all processes can open. Two boards are used in turn: who writes into
    one of them again has waited, in between, for the others to have read it."""

    def __init__(self, rank: int, size: int, file: str) -> None:
        super().__init__(rank, size)
        memory = torch.from_file(file, shared=True, size=2 * size * BOARD_BYTES, dtype=torch.uint8)
        self._boards = memory.view(2, size, BOARD_BYTES)
        self._turn = 0

    def sum(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.nbytes < LEAST_BYTES:
            return super().sum(tensor)
        for part in torch.split(tensor.view(-1), BOARD_BYTES // tensor.itemsize):
            self._add(part)
        return tensor

    def _add(self, own: Tensor) -> None:
        board = self._boards[self._turn].view(own.dtype)[:, : len(own)]
        self._turn = 1 - self._turn
        board[self.rank].copy_(own)
        self.barrier()
        first, *others = board.tensor_split(self.size, dim=1)[self.rank]
        for other in others:
            first += other
        self.barrier()
        own.copy_(board[0])


def share_memory(group: ProcessGroup, store: dist.Store) -> MemoryGroup:
    """The same group with memory that its processes share, in a file that the first of them makes; they find
    its name in ``store``."""
    number = os.memfd_create("r1kit-sums") if group.rank == 0 else None
    if number is not None:
        store.set("sums", f"/proc/{os.getpid()}/fd/{number}")
    found = MemoryGroup(group.rank, group.size, store.get("sums").decode())
    group.barrier()  # all have mapped it: the file can go
    if number is not None:
        os.close(number)
    return found
