"""What a run's recipe says: its stages in order, what each reads, how many steps it has, and what differs
between the recipes of two runs. The recipe is the one that the run keeps; nothing of it is loaded or run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.health import number
from r1kit.report.run import read_recipe

_SKIPPED = ("out", "name")


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage of a recipe: its kind, the stages that it reads, and its number of steps where the recipe says
    it."""

    name: str
    kind: str
    reads: tuple[str, ...]
    steps: int | None


def planned_stages(recipe: Mapping[str, Any]) -> list[PlannedStage]:
    """The stages of a recipe, in its order; odd entries are left out."""
    stages = recipe.get("stages")
    found = [stage for stage in stages if isinstance(stage, Mapping)] if isinstance(stages, list) else []
    return [
        PlannedStage(name, str(stage.get("stage", "")), tuple(dict.fromkeys(_reads(stage))), _steps(stage))
        for stage in found
        if (name := str(stage.get("name") or stage.get("stage") or ""))
    ]


def recipe_of(run_dir: Path) -> Mapping[str, Any]:
    """The recipe that a run keeps, empty where there is none. Raises DamageError."""
    return read_recipe(run_dir / "recipe.yaml")


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value there, value here) of what differs; "-" for a key that a recipe does not have."""
    left, right = dict(_flat(one)), dict(_flat(other))
    keys = [*left, *(key for key in right if key not in left)]
    return [
        (key, left.get(key, "-"), right.get(key, "-"))
        for key in keys
        if left.get(key) != right.get(key) and key not in _SKIPPED
    ]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every value with the path of its keys; stages are named, not numbered."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            name = inner.get("name") or inner.get("stage") or place
            yield from _flat(inner, f"{key}.{name}")
    else:
        yield key, str(value)


def _reads(value: Any) -> Iterator[str]:
    """The names of the stages that a configuration refers to (``@name`` or ``@name/file``)."""
    if isinstance(value, str) and value.startswith("@"):
        yield value[1:].partition("/")[0]
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _reads(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _reads(inner)


def _steps(stage: Mapping[str, Any]) -> int | None:
    """The steps of an RL stage, or of a pretraining by its tokens; of others only the training knows."""
    for key in ("grpo", "ppo", "rl"):
        found = stage.get(key)
        if isinstance(found, Mapping) and isinstance(found.get("steps"), int):
            return int(found["steps"])
    training, tokens = stage.get("training"), number(stage.get("tokens"))
    batch = number(training.get("batch_tokens")) if isinstance(training, Mapping) else None
    if stage.get("stage") == "pretrain" and tokens and batch:
        return round(tokens / batch)
    return None
