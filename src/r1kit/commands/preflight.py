"""``r1kit preflight``: examine the RL stages of a recipe without training (train/preflight.py)."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.text import Text

from r1kit.config import ConfigError, suggest
from r1kit.log import Log, duration
from r1kit.recipe.inputs import check_inputs
from r1kit.recipe.layers import Layers
from r1kit.recipe.recipe import Recipe
from r1kit.records import stage_folder
from r1kit.runtime import start
from r1kit.seeds import derive_seed
from r1kit.stages.stage import Context, Stage
from r1kit.train.preflight import Preflight


@runtime_checkable
class Examinable(Protocol):
    """A stage that can be examined before it trains."""

    name: str

    def examine(self, ctx: Context) -> Preflight:
        """Sample and judge, as the stage does before it trains."""
        ...


def examine_recipe(
    recipe: Recipe, layers: Layers, chosen: str | None, console: Console
) -> dict[str, Preflight]:
    """Examine the RL stage ``chosen``, or all whose inputs exist, and print what was found. The seeds are
    those of the run, so the run's own pre-flight finds the same. Raises ConfigError where there is nothing
    to examine."""
    stages = _choose(recipe, chosen)
    check_inputs(recipe, layers, [stage.name for stage in stages])
    finished = {
        stage.name: stage_folder(recipe.run_dir, stage.name).final
        for stage in recipe.stages
        if stage_folder(recipe.run_dir, stage.name).finished() is not None
    }
    ready = [stage for stage in stages if set(stage.inputs()) <= finished.keys()]
    if not ready:
        waiting = "; ".join(f"{stage.name} reads {_missing(stage, finished)}" for stage in stages)
        raise ConfigError(
            f"{recipe.run_dir}: no RL stage can be examined yet, because its inputs are not finished: "
            f"{waiting}. Run the recipe up to there, or name a model's folder as init"
        )
    runtime = start(recipe.runtime)
    found = {}
    try:
        for stage in ready:
            console.print(Text(stage.name), style="bold")
            with tempfile.TemporaryDirectory() as folder:
                found[stage.name] = _examine(recipe, stage, runtime, finished, Path(folder), console)
    finally:
        runtime.close()
    for stage in stages:
        if stage not in ready:
            console.print(Text(f"{stage.name}: not examined; it reads {_missing(stage, finished)}"))
    return found


def _examine(
    recipe: Recipe,
    stage: Stage,
    runtime: Any,
    finished: Mapping[str, Path],
    folder: Path,
    console: Console,
) -> Preflight:
    log = Log(folder, stage.name, console)
    seed = derive_seed(recipe.seed, stage.seed_of or stage.name)
    ctx = Context(recipe.run_dir, stage.name, folder, seed, runtime, log, finished)
    assert isinstance(stage, Examinable)
    found = stage.examine(ctx)
    for line in found.lines():
        log.info(line)
    log.info(f"took {duration(found.seconds)}")
    return found


def as_dict(found: Preflight) -> dict[str, Any]:
    """The verdict for programs."""
    return {
        "verdict": found.verdict,
        "hopeless": found.hopeless,
        "findings": [
            {"kind": one.kind, "hopeless": one.hopeless, "seen": one.seen, "change": one.change}
            for one in found.findings
        ],
        "figures": {name.partition("/")[2]: value for name, value in found.metrics().items()},
        "rollouts": list(found.shown),
        "seconds": round(found.seconds, 1),
    }


def _choose(recipe: Recipe, chosen: str | None) -> list[Stage]:
    stages = [stage for stage in recipe.stages if isinstance(stage, Examinable)]
    names = [stage.name for stage in stages]
    if chosen is not None and chosen not in names:
        raise ConfigError(f"--stage {chosen}: no such RL stage in the recipe; {suggest(chosen, names)}")
    if not stages:
        raise ConfigError("the recipe has no RL stage (r1_zero, reasoning_rl, alignment_rl) to examine")
    return [stage for stage in stages if chosen in (None, stage.name)]


def _missing(stage: Stage, finished: Mapping[str, Path]) -> str:
    return ", ".join(f"@{name}" for name in stage.inputs() if name not in finished)
