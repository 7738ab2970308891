"""A model sharded over a world of GPUs, without one: what a rank holds, and what it sends.

The real shape is built without memory (device ``meta``), sharded by torch's own FSDP2 on a process group that
sends nothing (``fake``), and one forward and backward pass runs on tensors without content. What is recorded
is what torch would do: the numbers that rank 0 keeps, and the bytes of every collective operation. Layers of
one kind are alike, so two models with the fewest layers show what each further one adds.

The layout is a mesh (data, experts). An expert's three matrices are on one rank of ``experts``, cut along
their second dimension over ``data``: cut along the first, 256 experts on 2,048 ranks would give one each to
256 ranks and none to the others. All other parameters are cut over the whole world. The experts here exchange
as many rows with every rank, which is what balanced loads give."""

import functools
import math
import multiprocessing
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from r1kit.config import ConfigError
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.experts import Experts, MixtureOfExperts

MOST_EXPERT_PARALLEL = 64  # DeepSeek-V3 section 3.2: 64 ranks, which is 8 nodes
_POSITIONS_EACH = 16  # of the recorded pass, for each rank that experts are on
_GATHER, _SCATTER, _EXCHANGE = "allgather_base", "reduce_scatter_base", "all_to_all_single"


@dataclass(frozen=True, slots=True)
class Layout:
    """``world`` ranks, of which each group of ``experts`` neighbours holds all routed experts once."""

    world: int
    experts: int = 1

    @property
    def data(self) -> int:
        """How many ranks share one expert's matrices."""
        return self.world // self.experts


def layout_of(experts: int, world: int, experts_over: int | None = None) -> Layout:
    """The layout of a model with so many routed experts (0: dense) on ``world`` ranks. ``experts_over``: over
    how many ranks they go; by default over as many as divide both, at most 64. Raises ConfigError."""
    most = math.gcd(experts, world) if experts else 1
    if experts_over is None:
        return Layout(world, max(n for n in range(1, MOST_EXPERT_PARALLEL + 1) if most % n == 0))
    if most % experts_over:
        raise ConfigError(
            f"expert_parallel: {experts_over} must divide both the {experts} experts and the {world} GPUs: "
            f"write a divisor of {most}"
        )
    return Layout(world, experts_over)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one rank's collective operations in one pass over one micro-batch, each as the size of the
    whole tensor: weights ``gathered`` and gradients ``reduced``, of the experts (over the ranks that share
    one) and of everything else (over the world). ``exchanged``: rows sent to experts and back, by position.
    """

    gathered: float = 0.0
    gathered_experts: float = 0.0
    reduced: float = 0.0
    reduced_experts: float = 0.0
    exchanged: float = 0.0

    def plus(self, other: "Traffic", times: float) -> "Traffic":
        """This traffic, and the other so many times."""
        return Traffic(*(getattr(self, f.name) + times * getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Sharded:
    """``held``: the numbers that rank 0 keeps of every tensor that is sharded like the weights; no rank keeps
    more. ``even``: what it would keep if everything could be cut evenly. ``largest``: bytes of the two
    largest groups of weights that are gathered at once. ``forward``, ``backward``: see Traffic."""

    layout: Layout
    held: float
    even: float
    largest: float
    forward: Traffic
    backward: Traffic


def even_cut(parameters: float, routed: float, layers: tuple[int, int], layout: Layout) -> Sharded:
    """What a model would hold and send if everything could be cut evenly, without a dry run. ``routed``: the
    parameters of routed experts; ``layers``: how many have experts, and how many numbers of a position go to
    experts in each. Weights are gathered in bfloat16, gradients summed in float32."""
    shared, own = parameters - routed, routed / layout.experts
    exchanged = 2.0 * 2.0 * layers[0] * layers[1]  # there and back, in bfloat16
    forward = Traffic(2.0 * shared, 2.0 * own, 0.0, 0.0, exchanged)
    backward = Traffic(2.0 * shared, 2.0 * own, 4.0 * shared, 4.0 * own, exchanged)
    even = parameters / layout.world
    return Sharded(layout, even, even, 0.0, forward, backward)


@functools.cache
def _sharded(text: str, layout: Layout) -> Sharded:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(shard_in_proportion, (ModelConfig.model_validate_json(text), layout))


def dry_run(config: ModelConfig, layout: Layout) -> Sharded:
    """Shard a model of this shape in a process of its own: a process has one world."""
    return _sharded(config.model_dump_json(), layout)


def shard_in_proportion(config: ModelConfig, layout: Layout) -> Sharded:
    """What ``shard`` gives, from two models with fewer layers: those of a kind hold and send the same, so
    each further one adds the difference between the two."""
    fewest = config.dense_layers + 1 if config.sparse else 1
    if config.layers <= fewest + 1:
        return shard(config, layout)
    short, longer = (
        shard(config.model_copy(update={"layers": layers}), layout) for layers in (fewest, fewest + 1)
    )
    times = float(config.layers - fewest)
    held, even = longer.held - short.held, longer.even - short.even
    return Sharded(
        layout, short.held + times * held, short.even + times * even, longer.largest,
        _extended(short.forward, longer.forward, times), _extended(short.backward, longer.backward, times),
    )  # fmt: skip


def _extended(short: Traffic, longer: Traffic, times: float) -> Traffic:
    return short.plus(longer.plus(short, -1.0), times)


def shard(config: ModelConfig, layout: Layout) -> Sharded:
    """Shard a model in this process, run a pass without content, and leave the process without a world."""
    # Both import what a machine without torch.distributed does not have, so not at the top.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=layout.world, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (layout.data, layout.experts), mesh_dim_names=("data", "experts"))
        model, even = _model(config, mesh)
        positions = _POSITIONS_EACH * max(_POSITIONS_EACH, layout.experts)
        held = float(sum(_local(parameter).numel() for parameter in model.parameters()))
        with FakeTensorMode(allow_non_fake_inputs=True), _Record(layout, positions) as record:
            model.to_empty(device="cpu")
            model.frequencies = torch.empty(model.frequencies.shape)
            hidden_BTD = model(torch.zeros(1, positions, dtype=torch.long)).hidden_BTD
            forward = record.traffic()
            model.logits(hidden_BTD).sum().backward()  # type: ignore[no-untyped-call]
        largest = sum(sorted(record.gathers, reverse=True)[:2])
        return Sharded(
            layout, held, even / layout.world, largest, forward, record.traffic().plus(forward, -1.0)
        )
    finally:
        dist.destroy_process_group()


def _model(config: ModelConfig, mesh: DeviceMesh) -> tuple[LanguageModel, float]:
    """A sharded model without memory, and how many parameters it has. Weights are gathered in bfloat16,
    gradients summed in float32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import Shard

    with torch.device("meta"):
        model = LanguageModel(config)
    parameters = float(sum(parameter.numel() for parameter in model.parameters()))
    world = mesh._flatten("world")
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in (*model.layers, *model.mtp_layers):
        if isinstance(layer.mlp, MixtureOfExperts):
            spread = SpreadExperts(layer.mlp.experts, mesh["experts"])
            layer.mlp.experts = spread  # type: ignore[assignment]
            fully_shard(
                spread, mesh=mesh["data"], shard_placement_fn=lambda parameter: Shard(1), mp_policy=policy
            )
        fully_shard(layer, mesh=world, mp_policy=policy)
    fully_shard(model, mesh=world, mp_policy=policy)
    return model, parameters


def _local(parameter: Tensor) -> Tensor:
    """This rank's part."""
    return getattr(parameter, "to_local", lambda: parameter)()


class SpreadExperts(nn.Module):
    """Routed experts over the ranks of a mesh: rows go to the ranks of their experts and come back."""

    def __init__(self, experts: Experts, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor import Shard, distribute_tensor

        super().__init__()
        self._ranks, self._group = mesh.size(), mesh.get_group()
        for name, parameter in experts.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)])))

    def forward(self, x_ND: Tensor, chosen_NA: Tensor, gates_NA: Tensor) -> Tensor:
        """Sizes as those of Experts.forward; every expert gets as many rows."""
        rows_MD = x_ND.repeat_interleave(chosen_NA.shape[1], 0).to(torch.bfloat16)
        gate, up, down = (_local(getattr(self, f"{name}_proj")) for name in ("gate", "up", "down"))
        each = len(rows_MD) // len(gate)
        ends_E = torch.arange(1, len(gate) + 1, dtype=torch.int32) * each
        rows_MD = self._exchange(rows_MD)
        hidden = F.silu(_products(rows_MD, gate, ends_E)) * _products(rows_MD, up, ends_E)
        rows_MD = self._exchange(_products(hidden, down, ends_E))
        return (rows_MD.view(*chosen_NA.shape, -1) * gates_NA[..., None].to(rows_MD.dtype)).sum(1)

    def _exchange(self, rows_MD: Tensor) -> Tensor:
        from torch.distributed._functional_collectives import all_to_all_single_autograd

        if self._ranks == 1:
            return rows_MD
        sizes = [len(rows_MD) // self._ranks] * self._ranks
        return all_to_all_single_autograd(rows_MD, sizes, sizes, self._group)


def _products(x_MD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
    return F.grouped_mm(x_MD, weight_EFD.to(x_MD.dtype).transpose(1, 2), offs=ends_E)


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of collective operations by name and by how many ranks take part."""

    def __init__(self, layout: Layout, positions: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layout, self._positions = layout, positions
        self._bytes: Counter[tuple[str, bool]] = Counter()
        self.gathers: set[float] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        kind = next((kind for kind in (_GATHER, _SCATTER, _EXCHANGE) if kind in name), None)
        if "c10d" in name and kind is not None:
            sizes = [float(leaf.nbytes) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            ranks = round(max(sizes) / min(sizes))
            self._bytes[kind, ranks == self._layout.world] += max(sizes)  # type: ignore[assignment]
            if kind == _GATHER:
                self.gathers.add(max(sizes))
        return func(*args, **(kwargs or {}))

    def traffic(self) -> Traffic:
        """What was recorded so far."""
        counted = self._bytes
        exchanged = counted[_EXCHANGE, True] + counted[_EXCHANGE, False]
        return Traffic(
            counted[_GATHER, True], counted[_GATHER, False],
            counted[_SCATTER, True], counted[_SCATTER, False],
            exchanged / self._positions,
        )  # fmt: skip
