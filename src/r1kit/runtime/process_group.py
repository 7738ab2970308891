"""The group of a runtime's processes over torch.distributed (train/group.py says what it does)."""

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

INTERFACE = "GLOO_SOCKET_IFNAME"  # gloo's own variable: the interface that it listens on


class ProcessGroup:
    """The default group of torch.distributed. Each call fails after the deadline with which it was joined."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def max(self, number: int) -> int:
        found = torch.tensor([number], dtype=torch.int64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def barrier(self) -> None:
        self.max(0)

    def gather(self, own: bytes) -> list[bytes]:
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(own)]))
        padded = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8)
        padded[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else padded[:0]
        found = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded)
        return [one[: int(size)].numpy().tobytes() for one, size in zip(found, sizes, strict=True)]


def join(
    store: dist.Store, rank: int, size: int, deadline_s: float, backend: str = "gloo", loopback: bool = True
) -> ProcessGroup:
    """Join the group whose processes meet at ``store``. ``loopback``: all are on this machine."""
    with on_loopback() if loopback else contextlib.nullcontext():
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=deadline_s)
        )
    return ProcessGroup(rank, size)


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Have gloo listen on the loopback interface. Otherwise it takes the address of the host's name, which
    may be public, and it lets anyone join who connects. A user who sets the variable decides."""
    loopback = sorted({"lo", "lo0"} & {name for _, name in socket.if_nameindex()})
    if INTERFACE in os.environ or not loopback:
        yield
        return
    os.environ[INTERFACE] = loopback[0]
    try:
        yield
    finally:
        del os.environ[INTERFACE]
