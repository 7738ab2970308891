"""A plan past one machine: what each rank of a world holds and sends, and what that adds to a stage's time.

What is held and sent comes from a dry run (sharding.py). A learning phase of U updates takes U times the
longer of two: the operations at the stated share of the GPUs' speed, or the traffic at the stated share of
the links' bandwidth, because FSDP gathers a layer while the one before computes. The rows of experts cannot
be exchanged meanwhile without a second micro-batch (DeepSeek-V3's DualPipe has one), but they are counted as
if they were, since the share of operations was taken from that training. Every call of an engine begins with
the new weights in bfloat16, which each engine receives once.

Gathering over all ranks is counted with a ring for each of a node's cards: a node receives everything once,
and each card a share of it. Ranks that share an expert are in different nodes where experts are spread over
whole nodes, so each receives all on its own card. A micro-batch is shared by the GPUs of a node, as in the
plan of one machine (machines.py); r1kit does not do that yet."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from r1kit.config import ConfigError
from r1kit.planning.learners import BFLOAT16
from r1kit.planning.machines import NODE, GPUs
from r1kit.planning.plan import Assumptions, PhaseCost, StageCost, plan_recipe
from r1kit.planning.rates import LINK_SHARE, LINKS, PLAIN_LINKS, Fleet, Links
from r1kit.planning.shapes import Shape
from r1kit.planning.sharding import Layout, Sharded, dry_run, layout_of
from r1kit.recipe.recipe import Recipe

_HALVINGS = 4  # worlds that are compared: all GPUs, half of them, ...


@dataclass(frozen=True, slots=True)
class Sent:
    """What one rank sends and receives in one update, in bytes, and how long its links take, in seconds;
    ``handed_over``: bytes that a GPU of an engine receives with new weights."""

    gathered: float
    reduced: float
    exchanged: float
    handed_over: float
    seconds: float
    handover_seconds: float


@dataclass(frozen=True, slots=True)
class WorldCost:
    """A stage that learns on a world. ``held`` and ``even``: numbers of a weight-like tensor that rank 0
    keeps, and would keep if all could be cut evenly. ``compute``: seconds of operations of an update.
    ``costs``: the stage's cost by the number of GPUs, all and fewer."""

    name: str
    layout: Layout
    held: float
    even: float
    sent: Sent
    compute: float
    costs: Mapping[int, StageCost]

    def as_dict(self) -> dict[str, Any]:
        found = asdict(replace(self, costs={}))
        found["costs"] = {
            str(count): {"gpu_hours": cost.gpu_hours, "fits": cost.fits} for count, cost in self.costs.items()
        }
        return found


def world_fleet(fleet: Fleet, world: int) -> Fleet:
    """The fleet of so many GPUs. Raises ConfigError where ``--gpu`` names another number."""
    if fleet.count not in (1, world):
        raise ConfigError(
            f"--world {world} and --gpu {fleet.name}:{fleet.count} name two numbers of GPUs: write "
            f"--world {world} --gpu {fleet.name}"
        )
    if world > NODE and world % NODE:
        raise ConfigError(f"--world {world}: whole nodes of {NODE} GPUs are planned: write a multiple")
    return replace(fleet, count=world)


def plan_world(
    recipe: Recipe, fleet: Fleet, assumed: Assumptions
) -> tuple[list[StageCost], list[WorldCost], list[str]]:
    """Plan every stage on the world that ``fleet`` is: all stages' costs with traffic, those of the stages
    that learn in detail, and what could not be sharded."""
    planner = _World(recipe, assumed)
    costs = planner.costs(fleet)
    details = planner.details(fleet)
    by_count: dict[str, dict[int, StageCost]] = {}
    for count in [fleet.count >> n for n in range(_HALVINGS)]:
        if count == fleet.count or (count >= NODE and count % NODE == 0):
            for cost in costs if count == fleet.count else planner.costs(replace(fleet, count=count)):
                by_count.setdefault(cost.name, {})[count] = cost
    found = [
        WorldCost(
            cost.name, sharded.layout, sharded.held, sharded.even, sent, phase.seconds / phase.times,
            by_count[cost.name],
        )
        for cost, phase, sharded, sent in details
    ]  # fmt: skip
    return costs, found, planner.missing


class _World:
    """Plans stages with the dry runs of their models, which are made for the first world that is planned."""

    def __init__(self, recipe: Recipe, assumed: Assumptions) -> None:
        self.recipe, self.assumed = recipe, assumed
        self.missing: list[str] = []
        self._runs: dict[str, Sharded] = {}

    def costs(self, fleet: Fleet) -> list[StageCost]:
        """Every stage's cost with its traffic."""
        return [self._with_traffic(cost, fleet) for cost in self._plain(fleet)]

    def details(self, fleet: Fleet) -> list[tuple[StageCost, PhaseCost, Sharded, Sent]]:
        """For every stage that learns and was sharded: its cost, its longest learning phase without traffic,
        the dry run, and what an update sends."""
        found = []
        for cost in self._plain(fleet):
            learning = [phase for phase in cost.phases if self._sharded(phase, fleet) is not None]
            if not learning:
                continue
            phase = max(learning, key=lambda phase: phase.seconds)
            sharded = self._sharded(phase, fleet)
            assert sharded is not None
            sent = sent_by(phase, sharded, fleet)
            found.append((self._with_traffic(cost, fleet), phase, sharded, sent))
        return found

    def _plain(self, fleet: Fleet) -> list[StageCost]:
        return plan_recipe(self.recipe, GPUs(fleet), self.assumed)

    def _sharded(self, phase: PhaseCost, fleet: Fleet) -> Sharded | None:
        """The dry run of a learning phase's model on this world; None where every rank holds all of it."""
        shape, facts = phase.shape, phase.facts
        if phase.kind == "sampling" or shape is None or facts is None:
            return None
        if shape.config is None or facts.rank:
            what = "LoRA" if facts.rank else "a family that r1kit does not compute"
            self._note(f"{what} is not sharded: memory as if it could be cut evenly, and no traffic")
            return None
        key = shape.config.model_dump_json()
        if key not in self._runs:
            asked = getattr(self.recipe.runtime, "expert_parallel", None)
            layout = layout_of(shape.experts, fleet.count, None if asked == 1 else asked)
            self._runs[key] = dry_run(shape.config, layout)
        return on_world(self._runs[key], fleet.count)

    def _note(self, text: str) -> None:
        if text not in self.missing:
            self.missing.append(text)

    def _with_traffic(self, cost: StageCost, fleet: Fleet) -> StageCost:
        phases = tuple(self._phase(phase, fleet) for phase in cost.phases)
        if not phases:
            return cost
        memory = max(phase.memory.total for phase in phases)
        found = replace(cost, phases=phases, memory_mb=memory / 1e6, fits=memory <= fleet.gpu.memory)
        if cost.seconds is None:
            return found
        seconds = sum(phase.seconds for phase in phases)
        hours = seconds / 3600 * fleet.count
        price = None if self.assumed.price is None else hours * self.assumed.price
        return replace(found, seconds=seconds, gpu_hours=hours, price=price)

    def _phase(self, phase: PhaseCost, fleet: Fleet) -> PhaseCost:
        if phase.kind == "sampling":
            if phase.model or phase.shape is None:
                return phase
            _, seconds = handed_over(phase.shape, fleet)
            return replace(phase, seconds=phase.seconds + phase.times * seconds)
        sharded = self._sharded(phase, fleet)
        if sharded is None:
            return phase
        network = phase.times * sent_by(phase, sharded, fleet).seconds
        uneven, memory = sharded.held / sharded.even, phase.memory
        memory = replace(
            memory, weights=memory.weights * uneven, gradients=memory.gradients * uneven,
            moments=memory.moments * uneven, frozen=memory.frozen * uneven,
            copies=memory.copies + sharded.largest,
        )  # fmt: skip
        return replace(phase, seconds=max(phase.seconds, network), memory=memory)


def on_world(sharded: Sharded, world: int) -> Sharded:
    """The dry run as it would be on another number of GPUs, with experts over as many of them: what is
    gathered and exchanged stays, and each keeps more."""
    factor = sharded.layout.world / world
    layout = Layout(world, min(sharded.layout.experts, world))
    return replace(sharded, layout=layout, held=sharded.held * factor, even=sharded.even * factor)


def links_of(fleet: Fleet) -> Links:
    """The bandwidths that are reached."""
    links = LINKS.get(fleet.name, PLAIN_LINKS)
    return replace(links, node=links.node * LINK_SHARE, network=links.network * LINK_SHARE)


def handed_over(shape: Shape, fleet: Fleet) -> tuple[float, float]:
    """Bytes that each GPU of an engine receives with new weights, and seconds."""
    received = BFLOAT16 * shape.parameters / GPUs(fleet).engine_size(shape)
    links = links_of(fleet)
    return received, received / (links.network if fleet.count > NODE else links.node)


def sent_by(phase: PhaseCost, sharded: Sharded, fleet: Fleet) -> Sent:
    """What one rank receives in one update of a learning phase."""
    own = phase.tokens / phase.times / fleet.count
    micro_batches = max(1, math.ceil(own * min(NODE, fleet.count) / max(1.0, phase.positions)))
    forwards = 1.0 + phase.passes
    forward, backward, links = sharded.forward, sharded.backward, links_of(fleet)
    gathered = micro_batches * (forwards * forward.gathered + backward.gathered)
    experts = micro_batches * (forwards * forward.gathered_experts + backward.gathered_experts)
    reduced, reduced_experts = (
        micro_batches * backward.reduced,
        micro_batches * backward.reduced_experts,
    )
    again = forward.exchanged if phase.facts is not None and phase.facts.checkpointing else 0.0
    exchanged = own * (forwards * forward.exchanged + again + backward.exchanged)
    layout, world = sharded.layout, fleet.count
    seconds = collective_seconds(gathered + reduced, world, min(NODE, world), links)
    sharing = max(1, NODE // layout.experts) if world > NODE else layout.data
    seconds += collective_seconds(experts + reduced_experts, layout.data, min(sharing, layout.data), links)
    seconds += exchange_seconds(exchanged, layout.experts, links)
    shape = phase.shape
    assert shape is not None
    received, moved = handed_over(shape, fleet)
    return Sent(gathered + experts, reduced + reduced_experts, exchanged, received, seconds, moved)


def collective_seconds(size: float, ranks: int, in_node: int, links: Links) -> float:
    """Seconds to gather or scatter ``size`` bytes over ``ranks`` ranks, ``in_node`` of them in each node.
    Each card of a node receives its share of what the other nodes have, and passes it on within the node."""
    nodes = max(1, ranks // in_node)
    network = size * (nodes - 1) / nodes / in_node
    return max(network / links.network, size * (in_node - 1) / in_node / links.node)


def exchange_seconds(size: float, ranks: int, links: Links) -> float:
    """Seconds to send ``size`` bytes in equal parts to ``ranks`` ranks that are neighbours."""
    in_node = min(NODE, ranks)
    return max(size * (ranks - in_node) / ranks / links.network, size * (in_node - 1) / ranks / links.node)
