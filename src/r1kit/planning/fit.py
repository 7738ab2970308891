"""What fits: the one change that makes a recipe fit, and the largest or smallest value of a key that does.

Each change is tried alone, those that change the result least first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

from r1kit.config import ConfigError, suggest
from r1kit.planning.learners import BFLOAT16, INT8_MOMENT
from r1kit.planning.machines import GPUs, Machine, ThisMachine
from r1kit.planning.plan import Assumptions, Overrides, StageCost, plan_recipe
from r1kit.recipe.recipe import Recipe
from r1kit.stages.stage import SamplingPhase, TrainingPhase

Solved = Literal["max_tokens", "lora", "batch"]
_RANKS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
_FEWEST_TOKENS = 16


def key_of(text: str) -> Solved:
    """The key that ``--solve`` names. Raises ConfigError."""
    for key in get_args(Solved):
        if text == key:
            return key  # type: ignore[no-any-return]
    raise ConfigError(f"--solve {text}: {suggest(text, get_args(Solved))}")


def in_words(costs: Sequence[StageCost], machine: Machine, change: str | None) -> str:
    """Why a plan does not fit, and the change that helps; ``costs``: the stages that do not fit."""
    cost = max(costs, key=lambda cost: cost.memory_mb or 0.0)
    need, there = (cost.memory_mb or 0.0) / 1e3, machine.limit / 1e9
    where = "each GPU has" if machine.gpus else "this machine has"
    fix = (
        f"it fits with {change}"
        if change
        else "no single change makes it fit: use a smaller model, or GPUs (--gpu h100:8)"
    )
    return f"stage {cost.name!r} needs {need:,.1f} GB, and {where} {there:,.1f} GB; {fix}"


def misfits(plans: Sequence[StageCost]) -> list[StageCost]:
    """The stages whose memory is not there."""
    return [plan for plan in plans if plan.fits is False]


def fitting_change(recipe: Recipe, machine: Machine, assumed: Assumptions) -> str | None:
    """One change that makes every stage fit; None where none of those tried does."""
    for text, changed, overrides in _changes(recipe, machine, assumed):
        if _fits(recipe, changed, assumed, overrides):
            return text
    return None


def solve(recipe: Recipe, machine: Machine, assumed: Assumptions, key: Solved) -> str:
    """The largest max_tokens, LoRA rank or number of lines of a micro-batch with which every stage fits."""

    def fits(overrides: Overrides) -> bool:
        return _fits(recipe, machine, assumed, overrides)

    if key == "max_tokens":
        most = max((phase.max_tokens for phase in _sampling(recipe)), default=0)
        if not most:
            return "max_tokens: no stage samples"
        found = _largest(most, lambda value: fits(Overrides(max_tokens=value)), _FEWEST_TOKENS)
        return _solved("max_tokens", found, most, "the recipe's largest")
    if key == "batch":
        most = max((phase.learner.lines for phase in _training(recipe)), default=0)
        if not most:
            return "batch: no stage trains"
        found = _largest(most, lambda value: fits(Overrides(lines=value)))
        return _solved("learner.lines", found, most, "the recipe's largest")
    rank = next((rank for rank in _RANKS if fits(Overrides(rank=rank))), None)
    return _solved("learner.lora.rank", rank, _RANKS[0], "the largest that is tried")


def _solved(key: str, value: int | None, most: int, what: str) -> str:
    if value is None:
        return f"{key}: no value makes every stage fit"
    return f"{key}: {value} is the largest that fits" + (f" ({what})" if value == most else "")


def _largest(most: int, fits: Callable[[int], bool], fewest: int = 1) -> int | None:
    """The largest whole number from ``fewest`` to ``most`` that fits, where every smaller one does too."""
    low, high = min(fewest, most), most
    if fits(high):
        return high
    if not fits(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(recipe: Recipe, machine: Machine, assumed: Assumptions, overrides: Overrides) -> bool:
    if isinstance(machine, ThisMachine):
        machine = machine.untimed()
    return not misfits(plan_recipe(recipe, machine, assumed, overrides))


def _changes(
    recipe: Recipe, machine: Machine, assumed: Assumptions
) -> Iterator[tuple[str, Machine, Overrides]]:
    """Changes to try, with the text that proposes each."""
    if isinstance(machine, ThisMachine):
        for engines in range(machine.engines - 1, 0, -1):
            yield f"runtime.engines={engines}", replace(machine, engines=engines), Overrides()
        for processes in range(machine.processes - 1, 0, -1):
            key = "learners" if machine.engines else "processes"
            yield f"runtime.{key}={processes}", replace(machine, processes=processes), Overrides()
        rows = machine.batch_rows // 2
        while rows >= 8:
            yield f"runtime.batch_rows={rows}", replace(machine, batch_rows=rows), Overrides()
            rows //= 2
    most = max((phase.learner.lines for phase in _training(recipe)), default=1)
    lines = _largest(most, lambda value: _fits(recipe, machine, assumed, Overrides(lines=value)))
    if lines is not None and lines < most:
        yield f"learner.lines={lines}", machine, Overrides(lines=lines)
    yield "learner.gradient_checkpointing=true", machine, Overrides(checkpointing=True)
    yield "learner.optimizer.moments=int8", machine, Overrides(moment=INT8_MOMENT)
    yield "learner.weights=bfloat16", machine, Overrides(weights=BFLOAT16)
    yield "learner.lora.rank=16", machine, Overrides(rank=16)
    tokens = max((phase.max_tokens for phase in _sampling(recipe)), default=0) // 2
    while tokens >= _FEWEST_TOKENS:
        yield f"max_tokens={tokens}", machine, Overrides(max_tokens=tokens)
        tokens //= 2
    if isinstance(machine, GPUs):
        for doubled in range(1, 12):
            fleet = replace(machine.fleet, count=machine.fleet.count << doubled)
            yield f"--gpu {fleet.name}:{fleet.count}", GPUs(fleet), Overrides()


def _sampling(recipe: Recipe) -> Iterator[SamplingPhase]:
    for stage in recipe.stages:
        yield from (phase for phase in stage.plan().phases if isinstance(phase, SamplingPhase))


def _training(recipe: Recipe) -> Iterator[TrainingPhase]:
    for stage in recipe.stages:
        yield from (phase for phase in stage.plan().phases if isinstance(phase, TrainingPhase))
