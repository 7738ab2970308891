"""The table of ``r1kit plan``: what each stage will cost, before anything starts (planning/)."""

from collections.abc import Sequence
from dataclasses import fields

from r1kit.planning.machines import GPUs, Machine, ThisMachine
from r1kit.planning.plan import Assumptions, StageCost

DOES_NOT_FIT = 3  # the exit code
_WIDE = 100  # columns from which the table also has the active parameters
_LONGEST_TIME = 365 * 86400.0  # seconds; beyond that a number says nothing


def as_table(plans: Sequence[StageCost], width: int = 80, footer: Sequence[str] = ()) -> str:
    """The plan as text, a line per stage, with the total, and ``footer``. Columns are as wide as their widest
    cell; with stage names of at most 18 letters a line has at most 80, or 100, columns."""
    priced = any(plan.price is not None for plan in plans)
    names = ["stage", "model", *(["active"] if width >= _WIDE else []), "trained", "sampled", "steps"]
    names += ["memory", "time", *(["price"] if priced else [])]
    if priced and width < _WIDE:
        names.remove("steps")
    rows = [tuple(names), *(tuple(_cell(plan, name) for name in names) for plan in plans)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([f"{first:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    ]
    return "\n".join([*lines, *_totals(plans), *_legend(plans), *footer])


def footer(plans: Sequence[StageCost], machine: Machine | None, assumed: Assumptions) -> list[str]:
    """What the figures rest on: the machine, the lengths, the largest memory part by part, what is missing."""
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
        more = "; sharded over all of them (not in r1kit)" if fleet.count > 1 else ""
        return (
            f"{fleet.count} x {fleet.name} at {fleet.compute_share:.0%} of its operations and "
            f"{fleet.bandwidth_share:.0%} of its bandwidth{more}"
        )
    processes = machine.processes if isinstance(machine, ThisMachine) else 1
    return f"rates measured on this machine ({processes} processes); it has {_memory(machine.limit / 1e6)}"


def _of_lengths(assumed: Assumptions) -> str:
    if assumed.lengths:
        return f"completions as long as in the former run; other stages {assumed.length:.0%} of max_tokens"
    return f"completions of {assumed.length:.0%} of max_tokens after {assumed.prompt} tokens of prompt"


def _largest_memory(plans: Sequence[StageCost]) -> list[str]:
    """The parts of the largest phase's memory, largest first, in lines of at most 80 columns."""
    phases = [(phase, plan.name) for plan in plans for phase in plan.phases]
    phase, name = max(phases, key=lambda found: found[0].memory.total)
    parts = {field.name: getattr(phase.memory, field.name) / 1e6 for field in fields(phase.memory)}
    shown = sorted(((size, part) for part, size in parts.items() if size >= 1), reverse=True)
    words = [f"{part} {_memory(size)}" for size, part in shown]
    lines = [f"most memory: {name}, {phase.kind}:"]
    for word in words:
        if len(lines[-1]) + len(word) + 2 > 80:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1].endswith((":", "   ")) else f", {word}"
    return lines


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
    lines = ["model: parameters; trained, sampled: tokens; memory: the peak, of each GPU on GPUs."]
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
