"""Weights, gradients and moments that are shared out over processes with torch's FSDP2 (``fully_shard``).

Every layer is put together when it is computed and freed afterwards; embedding, head and whatever else is in
no layer stay together for the length of one pass, which is why every read of a weight is within the forward
call of one root module (train/model_pass.py). Gradients are added, not averaged: the rows' weights carry the
whole normalisation, and each process then steps its own part with an ordinary optimizer: AdamW treats
every number by itself, so the step is that of one process up to the rounding of the sums.

Experts may be shared out whole (expert parallelism), and dense layers by heads (model/parallel.py); which
process has which part of which tensor is in train/regions.py."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Shard

from r1kit.config import R1kitError
from r1kit.model.huggingface import WeightsOnDisk
from r1kit.model.parallel import ParallelExperts, share_experts, share_heads
from r1kit.train import checkpoint, sharded_checkpoint
from r1kit.train.group import Group
from r1kit.train.model_pass import ModelPass
from r1kit.train.placement import Saved
from r1kit.train.regions import Grid, Region
from r1kit.train.sharded_checkpoint import Part, Reader

# Its older name is deprecated, the newer one is not in every version.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(frozen=True, slots=True)
class Sharding:
    """How learners are shared out: over which ``grid``, on which ``device``; ``gather`` is the precision in
    which layers are put together, ``offload`` keeps parts and moments in the processor's memory."""

    grid: Grid
    device: torch.device
    gather: torch.dtype = torch.float32
    offload: bool = False

    def meshes(self) -> tuple[DeviceMesh, DeviceMesh | None, DeviceMesh | None]:
        """All processes, and where neighbours hold different weights: the rows and the columns of the
        grid."""
        world = init_device_mesh(self.device.type, (self.grid.size,), mesh_dim_names=("world",))
        if self.grid.kind == "plain":
            return world, None, None
        shape = (self.grid.size // self.grid.width, self.grid.width)
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("rows", "columns"))
        return world, mesh["rows"], mesh["columns"]


class DataGroup:
    """The group of a learner whose neighbours may compute the same rows: those count once."""

    def __init__(self, world: Group, grid: Grid) -> None:
        self.world = world
        self._alike = grid.size // grid.data
        self.rank, self.size = grid.data_rank(world.rank), grid.data

    def sum(self, tensor: Tensor) -> Tensor:
        total = self.world.sum(tensor)
        return total if self._alike == 1 else total.div_(self._alike)

    def max(self, number: int) -> int:
        return self.world.max(number)

    def barrier(self) -> None:
        self.world.barrier()

    def gather(self, own: bytes) -> list[bytes]:
        return self.world.gather(own)[:: self._alike]


class Sharded:
    """The placement (train/placement.py) of a model that is shared out. ``root`` has a model without memory,
    whose weights are ``source``'s."""

    collective = True

    def __init__(self, root: ModelPass, world: Group, sharding: Sharding, source: WeightsOnDisk) -> None:
        self.root, self.world, self.sharding = root, world, sharding
        self.grid = sharding.grid
        root.reaches_all = True
        model = root.model
        self.shapes = {name: tuple(tensor.shape) for name, tensor in source.model.state_dict().items()}
        _, rows, columns = meshes = sharding.meshes()
        self._heads = None  # the group of the neighbours that have different heads
        if columns is not None and self.grid.kind == "tensor":
            self._heads = columns.get_group()
            share_heads(model, self._heads)
        elif columns is not None and model.config.experts:  # a model without experts has none to share out
            share_experts(model, columns.get_group())
        if model.config.tie_embeddings:
            model.lm_head.weight = model.embed_tokens.weight
        self._shard(root, meshes[0], rows)
        self._fill(source)
        self._sharded = dict(model.named_parameters())
        self.named = [
            (name, nn.Parameter(_local(parameter).detach())) for name, parameter in self._sharded.items()
        ]
        self._names = {id(own): name for name, own in self.named}

    def _shard(self, root: ModelPass, world: DeviceMesh, rows: DeviceMesh | None) -> None:
        half = self.sharding.gather != torch.float32
        policy = MixedPrecisionPolicy(
            self.sharding.gather if half else None, torch.float32 if half else None, cast_forward_inputs=False
        )
        offload = CPUOffloadPolicy(pin_memory=self.sharding.device.type == "cuda")
        given: dict[str, Any] = {"offload_policy": offload if self.sharding.offload else OffloadPolicy()}
        layers = rows if rows is not None and self.grid.kind == "tensor" else world
        model = root.model
        for module in model.modules():
            if isinstance(module, ParallelExperts) and rows is not None:
                fully_shard(
                    module, mesh=rows, shard_placement_fn=lambda _: Shard(1), mp_policy=policy, **given
                )
        for layer in model.layers:
            fully_shard(layer, mesh=layers, mp_policy=policy, **given)
        for layer in model.mtp_layers:  # it reads its last norm after its forward call
            fully_shard(layer, mesh=layers, mp_policy=policy, reshard_after_forward=False, **given)
            register_fsdp_forward_method(layer, "predict")
        fully_shard(root, mesh=world, reshard_after_forward=False, **given)
        for part in root.modules():
            if isinstance(part, FSDPModule):
                alike = self.grid.size // self.grid.data if isinstance(part, ModelPass) else 1
                part.set_gradient_divide_factor(float(alike))
                part.set_force_sum_reduction_for_comms(True)

    def _fill(self, source: WeightsOnDisk) -> None:
        """Read this process's parts from the disk."""
        model = self.root.model
        for name, parameter in list(model.named_parameters()):
            assert isinstance(parameter, DTensor)
            region = self.grid.region(name, self.shapes[name], self.world.rank)
            local = source.read(name, region.offset, region.size).to(self._home())
            if local.shape != parameter.to_local().shape:
                raise R1kitError(
                    f"{source.directory}: {name} of shape {list(self.shapes[name])} cannot be shared out "
                    f"evenly over {self.grid.size} processes; choose another number of learners"
                )
            filled = DTensor.from_local(
                local, parameter.device_mesh, parameter.placements,
                run_check=False, shape=parameter.shape, stride=parameter.stride(),
            )  # fmt: skip
            _set(model, name, nn.Parameter(filled))
        for name, buffer in list(model.named_buffers()):
            read = source.read(name, [0] * buffer.dim(), buffer.shape)
            _set(model, name, read.to(self.sharding.device))
        if model.config.tie_embeddings:
            model.lm_head.weight = model.embed_tokens.weight

    def _home(self) -> torch.device:
        return torch.device("cpu") if self.sharding.offload else self.sharding.device

    def _adopt(self) -> None:
        """Make the optimizers' parameters the parts themselves, wherever FSDP has moved them."""
        for name, own in self.named:
            own.data = _local(self._sharded[name])

    def collected(self, statistics: int) -> "_Collected":
        return _Collected(self)

    def gradients(self) -> list[Tensor]:
        """This process's parts of the gradients, added up over all processes."""
        self._adopt()
        found = []
        for name, own in self.named:
            gradient = self._sharded[name].grad
            local = torch.zeros_like(own) if gradient is None else _local(gradient)
            if self._heads is not None and name.endswith(("q_norm.weight", "k_norm.weight")):
                dist.all_reduce(local, group=self._heads)  # each process has seen its own heads only
            found.append(local)
        return found

    def clip(self, limit: float) -> float:
        squares = [
            torch.linalg.vector_norm(own.grad).double().square() / self.grid.copies(name)
            for name, own in self.named
            if own.grad is not None
        ]
        norm = float(self.world.sum(torch.stack(squares).sum().reshape(1)).sqrt())
        scale = min(1.0, limit / (norm + 1e-6))
        for _, own in self.named:
            if own.grad is not None:
                own.grad.mul_(scale)
        return norm

    def gradients_are_finite(self) -> bool:
        gradients = (parameter.grad for parameter in self._sharded.values())
        return all(bool(_local(found).isfinite().all()) for found in gradients if found is not None)

    def forget(self) -> None:
        for (_, own), parameter in zip(self.named, self._sharded.values(), strict=True):
            own.grad = parameter.grad = None
        self.rest()

    def rest(self) -> None:
        """Free what passes without gradient have put together."""
        for root in (self.root, *self.root.teachers):
            if isinstance(root, FSDPModule):
                root.reshard()

    def whole(self, parameter: nn.Parameter, own: Tensor) -> Tensor:
        return self._gathered(self._names[id(parameter)], own)

    def part(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        name = self._names[id(parameter)]
        return whole[self.grid.region(name, self.shapes[name], self.world.rank).ranges()]

    def _gathered(self, name: str, own: Tensor) -> Tensor:
        """A tensor that is cut like the parameter of that name, whole."""
        shape = self.shapes[name]
        regions = [self.grid.region(name, shape, rank) for rank in range(self.grid.size)]
        most = max(region.numbers for region in regions)
        padded = own.new_zeros(most)
        padded[: own.numel()] = own.detach().flatten()
        everything = own.new_empty(self.grid.size * most)
        _all_gather(everything, padded)
        whole = own.new_empty(shape)
        for region, numbers in zip(regions, torch.split(everything, most), strict=True):
            whole[region.ranges()] = numbers[: region.numbers].view(region.size)
        return whole

    def weights(self) -> Mapping[str, Tensor]:
        return Gathered(self)

    @torch.no_grad()
    def copy_from(self, other: "Sharded") -> None:
        """Take the weights of a learner that is shared out in the same way."""
        self.rest()
        for name, parameter in self._sharded.items():
            _local(parameter).copy_(_local(other._sharded[name]))
        for name, buffer in self.root.model.named_buffers():
            buffer.copy_(other.root.model.get_buffer(name))

    def save(
        self, directory: Path, progress: Mapping[str, int], keep: checkpoint.Keep, texts: Mapping[str, str],
        learned: Mapping[str, Saved], owners: Sequence[str],
    ) -> None:  # fmt: skip
        parts = {}
        for name, (place, optimizers) in learned.items():
            assert isinstance(place, Sharded)
            parts[name] = place.parts(optimizers)
        sharded_checkpoint.save(directory, parts, self.world, progress, keep, texts, owners)

    def parts(self, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Part]:
        """Everything of a state that is here: weights, buffers and what the optimizers keep."""
        self._adopt()
        first = self.world.rank == 0
        found = {
            f"model.{name}": Part(tuple(buffer.shape), _all_of(buffer), buffer, first)
            for name, buffer in self.root.model.named_buffers()
        }
        for name, own in self.named:
            region = self.grid.region(name, self.shapes[name], self.world.rank)
            writes = self.grid.writes(name, self.world.rank)
            found[f"model.{name}"] = Part(self.shapes[name], region, own, writes)
            for key, value in _state_of(optimizers, own).items():
                if value.shape == own.shape and value.dim():
                    found[f"{key}.{name}"] = Part(self.shapes[name], region, value, writes)
                else:
                    found[f"{key}.{name}"] = Part((), Region((), ()), value, first)
        return found

    @torch.no_grad()
    def restore(
        self, directory: Path, optimizers: Sequence[torch.optim.Optimizer], name: str, owners: Sequence[str]
    ) -> dict[str, int]:
        reader = Reader(directory, name, owners)
        self.rest()
        self._adopt()
        for tensor_name, buffer in self.root.model.named_buffers():
            buffer.copy_(reader.read(f"model.{tensor_name}", buffer.shape, _all_of(buffer)))
        for tensor_name, own in self.named:
            shape = self.shapes[tensor_name]
            region = self.grid.region(tensor_name, shape, self.world.rank)
            own.copy_(reader.read(f"model.{tensor_name}", shape, region))
        for optimizer in optimizers:
            optimizer.state.clear()
            for own in (p for group in optimizer.param_groups for p in group["params"]):
                tensor_name = self._names[id(own)]
                for key in ("step", "exp_avg", "exp_avg_sq", "momentum"):
                    if f"{key}.{tensor_name}" in reader.tensors:
                        shape = () if key == "step" else self.shapes[tensor_name]
                        region = self.grid.region(tensor_name, shape, self.world.rank)
                        value = reader.read(f"{key}.{tensor_name}", shape, region)
                        optimizer.state[own][key] = value if key == "step" else value.to(own)
        return reader.progress


class Gathered(Mapping[str, Tensor]):
    """The weights of a model that is shared out, by name; each is put together when it is read, by all
    processes at once."""

    def __init__(self, place: Sharded) -> None:
        self.place = place

    def __getitem__(self, name: str) -> Tensor:
        place, model = self.place, self.place.root.model
        place.rest()
        if name == "lm_head.weight" and model.config.tie_embeddings:
            name = "embed_tokens.weight"
        if name not in place.shapes:
            raise KeyError(name)
        found = dict(model.named_buffers()).get(name)
        return (
            found.detach() if found is not None else place._gathered(name, _local(model.get_parameter(name)))
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.place.shapes)

    def __len__(self) -> int:
        return len(self.place.shapes)


class _Collected:
    """The sums of an update (train/placement.py): FSDP has added the gradients already."""

    def __init__(self, place: Sharded) -> None:
        self.place = place
        self.gradients: list[Tensor] = []
        self.loads: Sequence[Tensor] = ()
        self.statistics = torch.zeros(0)

    def taking_gradients(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self, loads: Sequence[Tensor], statistics: Sequence[Tensor], group: Group) -> None:
        counts = [load.numel() for load in loads]
        numbers = [*(load.float().cpu() for load in loads), torch.stack([s.reshape(()) for s in statistics])]
        flat = group.sum(torch.cat(numbers))
        *found, self.statistics = torch.split(flat, [*counts, len(statistics)])
        self.loads = [load.to(self.place.sharding.device) for load in found]
        self.gradients = self.place.gradients()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _all_of(tensor: Tensor) -> Region:
    return Region((0,) * tensor.dim(), tuple(tensor.shape))


def _state_of(optimizers: Sequence[torch.optim.Optimizer], own: nn.Parameter) -> dict[str, Tensor]:
    for optimizer in optimizers:
        if own in optimizer.state:
            return {key: torch.as_tensor(value) for key, value in optimizer.state[own].items()}
    return {}


def _set(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, tensor)
