"""The state of each stage of a run, determined before any file is changed.

A stage is *done* if its finished folder records the same configuration, seed, inputs and files. It
*continues* if only a partial folder does, begun by the same code. It has *changed* if a folder records
anything else. A stage that stopped before it wrote anything is *new*. A changed stage is never redone or
overwritten unless the user asks for it, or accepts the change."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r1kit.addresses import plain_without_secrets
from r1kit.config import ConfigError
from r1kit.recipe.recipe import Recipe
from r1kit.records import AllowedChange, Identity, accepted_identities, stage_folder
from r1kit.runs.provenance import identity_differences, named_files, setting, setting_differences
from r1kit.seeds import derive_seed
from r1kit.stages.stage import Stage

State = Literal["done", "continue", "new", "changed"]


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of a stage before the run begins; ``differences`` lists what has changed since its folder was
    made."""

    stage: Stage
    state: State
    differences: tuple[str, ...] = ()


def survey(recipe: Recipe, redo_from: str | None = None) -> list[Standing]:
    """Determine the state of every stage without changing any file. ``redo_from`` names a stage to redo,
    together with the stages that read it and later ones that have changed. Raises DamageError for a record
    that cannot be read."""
    redone: set[str] = set()
    standings = []
    for stage in recipe.stages:
        redo = stage.name == redo_from or bool(redone & set(stage.inputs()))
        standing = Standing(stage, "new") if redo else _stand(recipe, stage)
        if redone and standing.state == "changed":
            redo, standing = True, Standing(stage, "new")
        if redo:
            redone.add(stage.name)
        standings.append(standing)
    return standings


def identity_of(recipe: Recipe, stage: Stage) -> Identity:
    """What the stage's result depends on now. An input that is not finished has no hash yet."""
    config: dict[str, Any] = plain_without_secrets(stage.model_dump(mode="json"))
    inputs = {name: stage_folder(recipe.run_dir, name).record_hash() for name in stage.inputs()}
    return Identity(
        stage=stage.stage,
        name=stage.name,
        config=config,
        seed=derive_seed(recipe.seed, stage.seed_of or stage.name),
        inputs=inputs,
        files=named_files(config),
    )


def allow(recipe: Recipe, standing: Standing) -> None:
    """Record that the user accepts a change. A finished stage keeps its record and gets a note. An unfinished
    one continues with the new configuration; its record names the owner of its work so far."""
    folder = stage_folder(recipe.run_dir, standing.stage.name)
    identity = identity_of(recipe, standing.stage)
    at, differences = round(time.time(), 3), standing.differences
    if folder.finished() is not None:
        folder.allow(AllowedChange(at=at, differences=differences, identity=identity.digest()))
        return
    record = folder.begun()
    assert record is not None, "a stage that has changed has a folder"
    change = AllowedChange(at=at, differences=differences, identity=record.owner())
    update = {"setting": setting(recipe.runtime), "allowed": (*record.allowed, change)}
    folder.write(record.model_copy(update=dict(identity) | update))


def refuse_changes(run_dir: Path, standings: Sequence[Standing]) -> None:
    """Raise ConfigError where a stage has changed, with the differences and what the user may do."""
    changed = [standing for standing in standings if standing.state == "changed"]
    if not changed:
        return
    lines = [f"  {entry.stage.name}: {line}" for entry in changed for line in entry.differences]
    first = changed[0].stage.name
    choices = [
        f"--from {first} redoes from there on, --fresh everything, --out DIR keeps it and starts a new run;",
        "--allow-change continues with the files that exist and records that the change was allowed.",
    ]
    raise ConfigError(
        "\n".join([f"{run_dir} was made with something else. Changed since:", *lines, *choices])
    )


def _stand(recipe: Recipe, stage: Stage) -> Standing:
    folder = stage_folder(recipe.run_dir, stage.name)
    finished = folder.finished()
    record = finished or folder.begun()
    if record is None:
        return Standing(stage, "new")
    identity = identity_of(recipe, stage)
    differences = tuple(identity_differences(record, identity))
    if finished is None:
        differences += tuple(setting_differences(record, setting(recipe.runtime)))
        if differences and not folder.has_work():
            return Standing(stage, "new")
    elif differences and identity.digest() in accepted_identities(finished, folder.allowed()):
        differences = ()
    if differences:
        return Standing(stage, "changed", differences)
    return Standing(stage, "done" if finished is not None else "continue")
