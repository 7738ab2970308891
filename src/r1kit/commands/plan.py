"""The table of ``r1kit plan``: what each stage will cost, before anything starts (planning/)."""

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from r1kit.config import ConfigError
from r1kit.planning import fit
from r1kit.planning.former import Former, former_run
from r1kit.planning.machines import GPUs, Machine, ThisMachine
from r1kit.planning.plan import LONG, Assumptions, StageCost, machine_of, plan_recipe
from r1kit.planning.rates import Fleet, fleet_of
from r1kit.planning.world import WorldCost, plan_world, world_fleet
from r1kit.recipe.recipe import Recipe
from r1kit.terminal import one_line, print_lines

DOES_NOT_FIT = 3  # the exit code
_WIDE = 100  # columns from which the table also has the active parameters
_LONGEST_TIME = 365 * 86400.0  # seconds; beyond that a number says nothing


@dataclass(frozen=True, slots=True)
class Question:
    """The command's options, by their names."""

    gpu: str | None = None
    utilisation: float | None = None
    price: float | None = None
    length: float | None = None
    prompt: int = 128
    former: Path | None = None
    solve: str | None = None
    as_json: bool = False
    world: int | None = None


def answer(recipe: Recipe, question: Question) -> tuple[list[StageCost], bool]:
    """Plan the recipe and print the plan; the plans, and whether all of it fits into the memory."""
    former = former_run(question.former) if question.former else Former()
    assumed = Assumptions(question.length, question.prompt, former.lengths, question.price, former.rows)
    machine = machine_of(recipe, _fleet(question))
    key = fit.key_of(question.solve) if question.solve else None
    world: tuple[list[WorldCost], list[str]] | None = None
    if question.world is not None and isinstance(machine, GPUs):
        plans, details, missing = plan_world(recipe, machine.fleet, assumed)
        world = details, missing
    else:
        plans = plan_recipe(recipe, machine, assumed)
    if question.as_json:
        stages = [plan.as_dict() for plan in plans]
        found = {"stages": stages, "world": [cost.as_dict() for cost in world[0]]} if world else stages
        print(json.dumps(found, indent=2))
    else:
        width = shutil.get_terminal_size((80, 24)).columns
        print_lines(as_table(plans, width, footer(plans, machine, assumed)).splitlines())
        print_lines(as_world_tables(*world) if world else [])
    if machine is None:
        return plans, True
    if key is not None:
        solved = fit.solve(recipe, machine, assumed, key)
        print(solved, file=sys.stderr if question.as_json else sys.stdout)
    misfits = fit.misfits(plans)
    if misfits:
        change = fit.fitting_change(recipe, machine, assumed)
        print(f"r1kit: {one_line(fit.in_words(misfits, machine, change))}", file=sys.stderr)
    return plans, not misfits


def _fleet(question: Question) -> Fleet | None:
    if question.gpu is None:
        if question.world is not None:
            raise ConfigError(f"--world {question.world}: name the kind of GPU: --gpu h800")
        return None
    fleet = fleet_of(question.gpu, question.utilisation)
    return fleet if question.world is None else world_fleet(fleet, question.world)


def as_world_tables(costs: Sequence[WorldCost], missing: Sequence[str]) -> list[str]:
    """What a rank holds, what it sends in one update, and the GPU hours on fewer GPUs, as three tables."""
    if not costs:
        return ["", *missing]
    held: list[tuple[str, ...]] = [
        ("held by each GPU", "experts", "weights", "gradients", "moments", "activations", "all", "uneven")
    ]
    sent: list[tuple[str, ...]] = [
        ("in each update", "gathered", "reduced", "exchanged", "computing", "network", "new weights")
    ]
    counts = sorted(costs[0].costs, reverse=True)
    hours = [("GPU hours", *(f"{count:,} GPUs" for count in counts))]
    for cost in costs:
        whole = cost.costs[counts[0]]
        memory = max(
            (p.memory for p in whole.phases if p.kind == "learning"), key=lambda memory: memory.total
        )
        parts = (memory.weights, memory.gradients, memory.moments, memory.activations, memory.total)
        spread = f"over {cost.layout.experts}" if cost.layout.experts > 1 else "-"
        uneven = f"{cost.held / cost.even - 1:+.1%}"
        held.append((cost.name, spread, *(_memory(part / 1e6) for part in parts), uneven))
        sizes = (cost.sent.gathered, cost.sent.reduced, cost.sent.exchanged)
        times = (cost.compute, cost.sent.seconds, cost.sent.handover_seconds)
        sent.append((cost.name, *(_memory(size / 1e6) for size in sizes), *map(_time, times)))
        hours.append((cost.name, *(_hours(cost.costs[count]) for count in counts)))
    notes = ["uneven: what the first rank holds above an even cut. ! does not fit into the memory.", *missing]
    return ["", *_columns(held), "", *_columns(sent), "", *_columns(hours), *notes]


def _hours(cost: StageCost) -> str:
    return ("!" if cost.fits is False else "") + _count(cost.gpu_hours)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([f"{first:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    ]


def as_table(plans: Sequence[StageCost], width: int = 80, footer: Sequence[str] = ()) -> str:
    """The plan as text, a line per stage, with the total, and ``footer``. Columns are as wide as their
    widest cell; with stage names of at most 18 letters a line has at most 80, or 100, columns."""
    priced = any(plan.price is not None for plan in plans)
    names = ["stage", "model", *(["active"] if width >= _WIDE else []), "trained", "sampled", "steps"]
    names += ["memory", "time", *(["price"] if priced else [])]
    if priced and width < _WIDE:
        names.remove("steps")
    lines = _columns([tuple(names), *(tuple(_cell(plan, name) for name in names) for plan in plans)])
    below = [*_totals(plans), *_legend(plans), *footer]
    return "\n".join([*lines, *(part for line in below for part in _wrapped(line, width))])


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent="    ", break_on_hyphens=False)


def footer(plans: Sequence[StageCost], machine: Machine | None, assumed: Assumptions) -> list[str]:
    """What the figures rest on: machine, lengths, the largest memory part by part, and what is missing."""
    lines = []
    if any(plan.phases for plan in plans):
        lines += [_of_machine(machine), _of_lengths(assumed)] if machine is not None else []
        lines += _largest_memory(plans)
    reasons: dict[str, list[str]] = {}
    for plan in plans:
        for reason in plan.missing:
            reasons.setdefault(reason, []).append(plan.name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{names[0]}{more}: {reason}")
    return lines


def _of_machine(machine: Machine) -> str:
    if isinstance(machine, GPUs):
        fleet = machine.fleet
        more = "; sharded over all of them" if fleet.count > 1 else ""
        return (
            f"{fleet.count} x {fleet.name} at {fleet.compute_share:.0%} of its operations and "
            f"{fleet.bandwidth_share:.0%} of its bandwidth{more}"
        )
    counted = "1 process"
    if isinstance(machine, ThisMachine):
        counted = f"{machine.processes} process" + ("es" if machine.processes > 1 else "")
        if machine.engines:
            counted = f"{machine.processes} learners and {machine.engines} engines"
    return f"rates measured on this machine ({counted}); it has {_memory(machine.limit / 1e6)}"


def _of_lengths(assumed: Assumptions) -> str:
    share = f"{0.5 if assumed.length is None else assumed.length:.0%} of max_tokens"
    if assumed.length is None:
        share += f" (20% where that is {LONG:,} or more)"
    if assumed.lengths:
        return f"assumed: completions as long as in the former run; in other stages {share}"
    return f"assumed: a completion has {share}, a prompt {assumed.prompt} tokens"


def _largest_memory(plans: Sequence[StageCost]) -> list[str]:
    """The parts of the largest phase's memory, largest first."""
    phases = [(phase, plan.name) for plan in plans for phase in plan.phases]
    phase, name = max(phases, key=lambda found: found[0].memory.total)
    parts = {field.name: getattr(phase.memory, field.name) / 1e6 for field in fields(phase.memory)}
    shown = sorted(((size, part) for part, size in parts.items() if size >= 1), reverse=True)
    words = ", ".join(f"{part} {_memory(size)}" for size, part in shown)
    return [f"most memory: {name}, {phase.kind}: {words}"]


def _totals(plans: Sequence[StageCost]) -> list[str]:
    known = [plan.seconds for plan in plans if plan.seconds is not None]
    unknown = len(plans) - len(known)
    if not known:
        return [f"total unknown: none of the {len(plans)} stages has a time"]
    estimated = any(plan.basis == "estimate" for plan in plans)
    text = f"total {'~' if estimated else ''}{_time(sum(known))}"
    hours = [plan.gpu_hours for plan in plans if plan.gpu_hours is not None]
    if hours:
        text += f", {_count(sum(hours))} GPU hours"
    prices = [plan.price for plan in plans if plan.price is not None]
    if prices:
        text += f", price {_price(sum(prices))}"
    return [text + (f", without the {unknown} stages that have no time" if unknown else "")]


def _legend(plans: Sequence[StageCost]) -> list[str]:
    lines = ["model: parameters; trained, sampled: tokens; memory: the peak (of each GPU)."]
    if any(plan.basis == "measured" for plan in plans):
        lines.append("Without ~ time and memory are those of the stage's own run.")
    if any(plan.basis == "estimate" for plan in plans):
        lines.append("~ is an estimate (docs/plan.md: what is counted, and how far off it was).")
    return lines


def _cell(plan: StageCost, name: str) -> str:
    if name == "stage":
        return plan.name
    if name == "memory":
        mark = "!" if plan.fits is False else ""
        return "-" if plan.memory_mb is None else mark + _memory(plan.memory_mb)
    if name == "time":
        found = "-" if plan.seconds is None else _time(plan.seconds)
        return ("~" if plan.basis == "estimate" else "") + found
    if name == "price":
        return "-" if plan.price is None else _price(plan.price)
    counted = {
        "model": plan.parameters, "active": plan.active_parameters, "trained": plan.tokens,
        "sampled": plan.sampled_tokens, "steps": plan.steps,
    }  # fmt: skip
    return _count(counted[name])


def _count(number: float | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:.0f}"


def _price(amount: float) -> str:
    return f"{amount:.2f}" if amount < 100 else _count(float(f"{amount:.3g}"))


def _memory(megabytes: float) -> str:
    for unit, size in (("TB", 1e6), ("GB", 1e3)):
        if megabytes >= size:
            return f"{megabytes / size:.3g} {unit}"
    return f"{megabytes:.0f} MB"


def _time(seconds: float) -> str:
    """A span of time in one unit and two digits, since an estimate has no more."""
    if seconds > _LONGEST_TIME:
        return "> 1 year"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            number = float(f"{seconds / size:.2g}")
            return f"{f'{number:.1f}' if number < 10 else _count(number)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
