"""What a recipe will cost, before anything starts: parameters, tokens, steps, memory, time.

A stage that has run in this folder with this configuration is reported as measured. Any other is an estimate, and no more: training costs
about 6 floating-point operations per active parameter and token and sampling 2 (Kaplan et al. 2020, section 2.1), at the speed that a short
matrix product reaches on this machine times ``EFFICIENCY``; attention, data, checking and evaluation are not counted. Expect a factor of
three either way. Memory is weights, gradients and two AdamW moments in float32: 16 bytes per parameter; activations come on top.

A stage says what it does with ``plan()``: ``tokens`` (trained), ``sampled_tokens``, ``steps``, ``parameters``, ``active_parameters``. A
stage that names no parameters has those of the first stage it reads.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from r1kit.execute import read_record, survey
from r1kit.log import duration
from r1kit.recipe import Recipe

TRAIN_OPERATIONS, SAMPLE_OPERATIONS = 6, 2
BYTES_PER_PARAMETER = 16
EFFICIENCY = 0.2


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage's cost; None where the stage does not say. ``seconds`` are measured or estimated, as ``basis`` tells."""

    name: str
    parameters: float | None
    active_parameters: float | None
    tokens: float | None
    sampled_tokens: float | None
    steps: float | None
    memory_mb: float | None
    seconds: float | None
    basis: Literal["measured", "estimate", "unknown"]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_recipe(recipe: Recipe, speed: float | None = None) -> list[StagePlan]:
    """Plan every stage. ``speed`` is the machine's floating-point operations per second (default: probed now, in about 0.3 s)."""
    speed = probe_speed() if speed is None else speed
    said: dict[str, Mapping[str, float]] = {}
    plans = []
    for standing in survey(recipe):
        stage = standing.stage
        said[stage.name] = _with_inherited_size(stage.plan(), [said[name] for name in stage.inputs()])
        measured = (read_record(recipe.run_dir / "stages" / stage.name) or {}) if standing.state == "done" else {}
        plans.append(_plan_stage(stage.name, said[stage.name], measured, speed))
    return plans


def probe_speed(seconds: float = 0.3, size: int = 512) -> float:
    """Floating-point operations per second of float32 matrix products here, measured for about ``seconds``."""
    matrix = torch.ones(size, size)
    products, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or products == 0:
        matrix @ matrix
        products += 1
    return 2 * size**3 * products / elapsed


def as_table(plans: Sequence[StagePlan]) -> str:
    """The plan as text, one line per stage, with the total and what the figures are."""
    lines = [f"{'stage':<20}{'parameters':>12}{'active':>10}{'trained':>10}{'sampled':>10}{'steps':>7}{'memory':>10}  time"]
    for plan in plans:
        counts = [_count(plan.parameters), _count(plan.active_parameters), _count(plan.tokens), _count(plan.sampled_tokens)]
        memory = "-" if plan.memory_mb is None else f"{plan.memory_mb:,.0f} MB"
        length = "-" if plan.seconds is None else f"{duration(plan.seconds)} ({plan.basis})"
        sizes = f"{counts[0]:>12}{counts[1]:>10}{counts[2]:>10}{counts[3]:>10}"
        lines.append(f"{plan.name:<20}{sizes}{_count(plan.steps):>7}{memory:>10}  {length}")
    total = sum(plan.seconds or 0.0 for plan in plans)
    unknown = sum(plan.seconds is None for plan in plans)
    lines.append(f"total {duration(total)}" + (f", and {unknown} stages that do not say" if unknown else ""))
    if any(plan.basis == "estimate" for plan in plans):
        lines.append("Estimates can be off by a factor of three; memory leaves out activations. See r1kit.plan for what is counted.")
    return "\n".join(lines)


def _with_inherited_size(said: Mapping[str, float], inputs: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    if "parameters" in said:
        return said
    sized = next((other for other in inputs if "parameters" in other), {})
    return {**{key: sized[key] for key in ("parameters", "active_parameters") if key in sized}, **said}


def _plan_stage(name: str, said: Mapping[str, float], measured: Mapping[str, Any], speed: float) -> StagePlan:
    parameters = said.get("parameters")
    active = said.get("active_parameters", parameters)
    estimate = None
    if active is not None and ("tokens" in said or "sampled_tokens" in said):
        operations = active * (TRAIN_OPERATIONS * said.get("tokens", 0.0) + SAMPLE_OPERATIONS * said.get("sampled_tokens", 0.0))
        estimate = operations / (speed * EFFICIENCY)
    seconds = measured.get("seconds", estimate)
    return StagePlan(
        name=name,
        parameters=parameters,
        active_parameters=active,
        tokens=said.get("tokens"),
        sampled_tokens=said.get("sampled_tokens"),
        steps=said.get("steps"),
        memory_mb=measured.get("peak_rss_mb", parameters * BYTES_PER_PARAMETER / 1e6 if parameters is not None else None),
        seconds=seconds,
        basis="measured" if "seconds" in measured else "estimate" if seconds is not None else "unknown",
    )


def _count(number: float | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:.0f}"
