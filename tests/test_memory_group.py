"""Sums in shared memory: three processes as threads, whose waiting for each other is a barrier of this
process."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from r1kit.runtime import memory_group
from r1kit.runtime.memory_group import LEAST_BYTES, MemoryGroup
from r1kit.runtime.process_group import ProcessGroup

SIZE = 3


class Threads:
    """A group of three threads. ``over_gloo`` are the tensors that were too small for the memory."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        barrier, self.over_gloo = threading.Barrier(SIZE, timeout=60), list[Tensor]()
        monkeypatch.setattr(MemoryGroup, "barrier", lambda group: barrier.wait())
        monkeypatch.setattr(ProcessGroup, "sum", lambda group, tensor: self.over_gloo.append(tensor))
        self.groups = [MemoryGroup(rank, SIZE, str(folder / "board")) for rank in range(SIZE)]

    def sums(self, given: list[list[Tensor]]) -> list[list[Tensor]]:
        """What each gets for its tensors, one after another."""
        with ThreadPoolExecutor(SIZE) as pool:
            return list(
                pool.map(
                    lambda pair: [pair[0].sum(one) for one in pair[1]], zip(self.groups, given, strict=True)
                )
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_each_gets_the_sum_in_the_order_of_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """A hundred sums in a row of several lengths, so that one who writes too early is seen; the longest does
    not fit the board."""
    monkeypatch.setattr(memory_group, "BOARD_BYTES", 1 << 17)
    least = LEAST_BYTES // dtype.itemsize
    lengths = [least, least + 1, 5 * least + 7, (1 << 17) // dtype.itemsize, 20 * least + 2] * 20
    generator = torch.Generator().manual_seed(0)
    given = [
        [(1000 * torch.randn(length, generator=generator)).to(dtype) for length in lengths]
        for _ in range(SIZE)
    ]
    wanted = [(given[0][i] + given[1][i]) + given[2][i] for i in range(len(lengths))]
    threads = Threads(tmp_path, monkeypatch)
    for found, own in zip(threads.sums(given), given, strict=True):
        assert all(map(torch.equal, found, wanted)) and all(map(torch.Tensor.is_set_to, found, own))
    assert not threads.over_gloo


def test_small_and_strided_tensors_go_over_gloo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(tmp_path, monkeypatch)
    few, strided = torch.zeros(LEAST_BYTES // 4 - 1), torch.zeros(200, 200).t()[:, ::2]
    for tensor in (few, strided):
        threads.groups[1].sum(tensor)
    assert threads.over_gloo[0] is few and threads.over_gloo[1] is strided


def test_a_shape_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(tmp_path, monkeypatch)
    found = threads.sums([[torch.full((64, 128), float(rank))] for rank in range(SIZE)])
    assert all(torch.equal(one, torch.full((64, 128), 3.0)) for (one,) in found)
