"""What a recipe will cost, before anything starts: parameters, tokens, steps, memory, time.

A stage that has run in this folder with this configuration is reported as measured. The cost of any other
stage is an estimate. A model of at most ``PROBED_PARAMETERS`` is timed on this machine with one training
batch and one round of sampling. For a larger model, training counts 6 floating-point operations per active
parameter and token and sampling 2 (Kaplan et al. 2020, section 2.1), at ``EFFICIENCY`` times the speed of a
matrix product here. Completions are assumed to have their maximal length; optimizer, data, checking and
evaluation are not counted. Expect a factor of three either way. Memory is weights, gradients and two AdamW
moments in float32, 16 bytes per parameter, without activations.

``Stage.plan()`` returns what a stage will do (stages/stage.py: StagePlan). A stage that makes no new model
has the size of the first stage it reads."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from r1kit.engine.native import NativeEngine
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel, parameter_count
from r1kit.recipe.recipe import Recipe
from r1kit.records import StageRecord, stage_folder
from r1kit.runs.survey import survey
from r1kit.stages.stage import StagePlan
from r1kit.types import Sampling

TRAIN_OPERATIONS, SAMPLE_OPERATIONS = 6, 2  # per active parameter and token (Kaplan et al. 2020)
BYTES_PER_PARAMETER = 16  # weight, gradient and AdamW's two moments in float32
EFFICIENCY = 0.3  # of the speed of a large matrix product: our estimate, typical of training
PROBED_PARAMETERS = 3e7  # up to here a model is timed instead: it takes about a second


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage's cost; None where the stage does not say. ``basis`` says whether ``seconds`` are measured or
    estimated."""

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


@dataclass(frozen=True, slots=True)
class Size:
    """A model's parameters; ``shape`` is None where only the numbers are known."""

    parameters: float | None = None
    active_parameters: float | None = None
    shape: ModelConfig | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, trained and sampled."""

    trained: float
    sampled: float


def plan_recipe(recipe: Recipe, measure: Callable[[Size], Speed] | None = None) -> list[StageCost]:
    """Plan every stage. ``measure`` gives a model's speed (default: tried out here, a second or so for each
    small shape)."""
    measure = measure or functools.cache(
        lambda size: measure_speed(size, recipe.runtime.resolved_processes())
    )
    sizes: dict[str, Size] = {}
    plans = []
    for standing in survey(recipe):
        stage = standing.stage
        planned = stage.plan()
        sizes[stage.name] = size = _size(planned, [sizes[name] for name in stage.inputs()])
        record = stage_folder(recipe.run_dir, stage.name).finished() if standing.state == "done" else None
        plans.append(_plan_stage(stage.name, planned, size, record, measure))
    return plans


def measure_speed(size: Size, processes: int) -> Speed:
    """Tokens per second of a model here, with ``processes`` replicas of one thread each."""
    if size.shape is None or (size.parameters or 0) > PROBED_PARAMETERS:
        operations = probe_speed() * EFFICIENCY * processes
        active = size.active_parameters or 1.0
        return Speed(operations / (TRAIN_OPERATIONS * active), operations / (SAMPLE_OPERATIONS * active))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = LanguageModel(size.shape, seed=0)
        return Speed(processes * _training_speed(model), processes * _sampling_speed(model))
    finally:
        torch.set_num_threads(before)


def _training_speed(model: LanguageModel, rows: int = 16, length: int = 128) -> float:
    length = min(length, model.config.max_positions)
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
    return (
        rows
        * length
        / _best_of_three(
            lambda: torch.autograd.backward(model.logits(model(tokens_BT).hidden_BTD).logsumexp(-1).sum())
        )
    )


def _sampling_speed(model: LanguageModel, rows: int = 128, length: int = 16) -> float:
    engine = NativeEngine(model, [-1], precision="bfloat16")
    sampling = Sampling(n=rows, max_tokens=length)
    return rows * length / _best_of_three(lambda: engine.generate([np.zeros(8, dtype=np.int32)], sampling))


def _best_of_three(work: Callable[[], object]) -> float:
    """Seconds of the fastest of three calls; the first one pays for allocations."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def probe_speed(seconds: float = 0.3, width: int = 512) -> float:
    """Floating-point operations per second of float32 matrix products here, measured for about
    ``seconds``."""
    matrix = torch.ones(width, width)
    products, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or products == 0:
        matrix @ matrix
        products += 1
    return 2 * width**3 * products / elapsed


def as_table(plans: Sequence[StageCost]) -> str:
    """The plan as text, a line per stage, with the total and what the figures are. Columns are as wide as
    their widest cell; with stage names of at most 18 letters a line has at most 80."""
    header = ("stage", "model", "active", "trained", "sampled", "steps", "memory", "time")
    rows = [header, *map(_cells, plans)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [
                f"{name:<{widths[0]}}",
                *(f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)),
            ]
        )
        for name, *rest in rows
    ]
    total = sum(plan.seconds or 0.0 for plan in plans)
    estimated = any(plan.basis == "estimate" for plan in plans)
    unknown = sum(plan.seconds is None for plan in plans)
    lines.append(
        f"total {'~' if estimated else ''}{_time(total)}"
        + (f", without the {unknown} stages that have no time" if unknown else "")
    )
    lines.append("model, active: parameters; trained, sampled: tokens.")
    if any(plan.basis == "measured" for plan in plans):
        lines.append("Without ~ time and memory are those of the stage's own run.")
    if estimated:
        lines.append("~ is an estimate, which can be off by a factor of three; its memory leaves out")
        lines.append("activations. See r1kit.commands.plan for what is counted.")
    return "\n".join(lines)


def _cells(plan: StageCost) -> tuple[str, ...]:
    """A stage's line of the table."""
    time_of = "-" if plan.seconds is None else _time(plan.seconds)
    counts = (plan.parameters, plan.active_parameters, plan.tokens, plan.sampled_tokens, plan.steps)
    memory = "-" if plan.memory_mb is None else _memory(plan.memory_mb)
    return plan.name, *map(_count, counts), memory, ("~" if plan.basis == "estimate" else "") + time_of


def _size(planned: StagePlan, inputs: Sequence[Size]) -> Size:
    if planned.parameters is not None:
        return Size(planned.parameters, planned.active_parameters or planned.parameters)
    known = next((size for size in inputs if size.parameters is not None), Size())
    if planned.model is None:
        return known
    vocabulary = planned.vocabulary or (known.shape.vocab_size if known.shape else 0)
    keys = {key: value for key, value in planned.model.items() if key != "preset"}
    preset = str(planned.model.get("preset", "mini"))
    config = ModelConfig.preset(preset, **{"vocab_size": vocabulary, **keys})
    count = parameter_count(config)
    return Size(float(count.total), float(count.active), config)


def _plan_stage(
    name: str,
    planned: StagePlan,
    size: Size,
    record: StageRecord | None,
    measure: Callable[[Size], Speed],
) -> StageCost:
    trained, sampled = planned.tokens, planned.sampled_tokens
    seconds = None if record is None else record.seconds
    if seconds is None and size.parameters is not None and (trained or sampled):
        speed = measure(size)
        seconds = (trained or 0.0) / speed.trained + (sampled or 0.0) / speed.sampled
    memory = None if size.parameters is None else size.parameters * BYTES_PER_PARAMETER / 1e6
    return StageCost(
        name=name,
        parameters=size.parameters,
        active_parameters=size.active_parameters,
        tokens=trained,
        sampled_tokens=sampled,
        steps=planned.steps,
        memory_mb=memory if record is None else record.peak_rss_mb,
        seconds=seconds,
        basis="measured" if record is not None else "estimate" if seconds is not None else "unknown",
    )


def _count(number: float | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:.0f}"


def _memory(megabytes: float) -> str:
    for unit, size in (("TB", 1e6), ("GB", 1e3)):
        if megabytes >= size:
            return f"{megabytes / size:.3g} {unit}"
    return f"{megabytes:.0f} MB"


def _time(seconds: float) -> str:
    """A span of time in one unit and two digits, since an estimate has no more."""
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            number = float(f"{seconds / size:.2g}")
            return f"{f'{number:.1f}' if number < 10 else _count(number)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
