"""Learners that are shared out over processes: ``runtime: {kind: fsdp, learners: N}`` (sharded.py).

On one machine the main process starts the others, as the local runtime does, and works as the first of them.
Several machines: docs/scale.md."""

import os
from typing import Literal, Self

import torch
import torch.distributed as dist
from pydantic import Field, model_validator

from r1kit.config import ConfigError
from r1kit.runtime import process_group, torchrun
from r1kit.runtime.local import LocalConfig, serve
from r1kit.runtime.replica import Replica
from r1kit.runtime.sharded import Sharding
from r1kit.runtime.sharded_replica import ShardedReplica
from r1kit.train.group import Group
from r1kit.train.regions import Grid


class FsdpConfig(LocalConfig):
    """``learners`` processes share out the weights, gradients and moments of every learner; rows and prompts
    are shared as in the local runtime. ``expert_parallel`` neighbours hold different experts,
    ``tensor_parallel`` neighbours different heads of each layer. ``gather``: the precision in which a layer's
    weights are put together to be computed; bfloat16 halves what is sent and rounds norms and routers too.
    ``offload``: keep parts and moments in the processor's memory. The other keys are the local runtime's;
    ``processes`` is not used."""

    kind: Literal["fsdp"] = "fsdp"  # type: ignore[assignment]
    learners: int = Field(2, ge=1)
    expert_parallel: int = Field(1, ge=1)
    tensor_parallel: int = Field(1, ge=1)
    gather: Literal["float32", "bfloat16"] = "float32"
    offload: bool = False

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        if self.expert_parallel > 1 and self.tensor_parallel > 1:
            raise ValueError("expert_parallel and tensor_parallel cannot be combined: leave one of them out")
        if self.learners % self.grid().width:
            raise ValueError(
                f"learners is {self.learners}, which is no multiple of expert_parallel or tensor_parallel "
                f"({self.grid().width})"
            )
        return self

    def grid(self) -> Grid:
        if self.tensor_parallel > 1:
            return Grid(self.learners, "tensor", self.tensor_parallel)
        return Grid(self.learners, "expert" if self.expert_parallel > 1 else "plain", self.expert_parallel)

    def resolved_processes(self) -> int:
        return self.learners

    def replica(self, group: Group) -> Replica:
        gather, device = getattr(torch, self.gather), torch.device(self.device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", group.rank)))
            torch.cuda.set_device(device)
        sharding = Sharding(self.grid(), device, gather, self.offload)
        return ShardedReplica(self, group, sharding)

    def group_of_one(self) -> Group:
        return process_group.join(dist.HashStore(), 0, 1, self.deadline_s, self.backend())

    def backend(self) -> str:
        return "gloo" if self.device == "cpu" else "cpu:gloo,cuda:nccl"

    def torchrun_place(self) -> torchrun.Place | None:
        found = torchrun.place()
        if found is not None and found.size != self.learners:
            raise ConfigError(
                f"runtime.learners is {self.learners}, but torchrun has started {found.size} processes: make "
                "the numbers equal"
            )
        return found

    def follow(self) -> None:
        found = self.torchrun_place()
        if found is None or found.size == 1:
            return
        store = found.store(self.deadline_s)
        if found.rank == 0:
            torchrun.end_others(store)
            return
        if (connection := torchrun.connect(found, store)) is not None:
            serve(found.rank, found.size, "", self, connection)
        os._exit(0)

    def row_shares(self) -> list[int]:
        return [self.grid().data_rank(rank) for rank in range(self.learners)]
