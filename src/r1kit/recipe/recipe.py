"""A recipe: all stages of a run in one YAML file. It is read into a checked ``Recipe``, or an error names
file, line and fix.

Keys, types, the stages' names and references are checked before anything starts; every "@stage" must refer to
an earlier stage. r1kit.recipe.inputs checks the files that a recipe names. A recipe has layers
(r1kit.recipe.layers): defaults < ``extends`` < the file < the command line; ``explain`` shows which layer set
a key."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Union, get_args, get_origin

from pydantic import SerializeAsAny, ValidationError, field_validator

from r1kit.addresses import plain_without_secrets, read_address, without_secrets
from r1kit.config import Config, ConfigError, KeyPath, Unloaded, explain_problem, shorten, suggest
from r1kit.endpoints import check_variable
from r1kit.recipe.layers import Layers, read_layers
from r1kit.runtime import RuntimeConfig, config_class
from r1kit.stages.stage import STAGE, Stage
from r1kit.trackers import TrackConfig
from r1kit.user_code import imports, load_name

StageTable = Mapping[str, type[Stage]]


class Recipe(Config):
    """A run from beginning to end: where it runs, where it writes, and its stages in order.

    ``out`` is the run's folder; ``{name}`` in it stands for the recipe's name. ``track`` names trackers that
    get the metrics while the run goes on (r1kit.trackers).
    """

    name: str  # also the name of the run's folder
    seed: int = 0  # every random draw of the run comes from it
    runtime: SerializeAsAny[RuntimeConfig]  # where it runs: local, fsdp, ray, or file.py:Name
    out: str = "runs/{name}"
    track: tuple[TrackConfig, ...] = ()
    stages: tuple[SerializeAsAny[Stage], ...]  # in the order in which they run

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ValueError(
                "a recipe's name is also its folder: letters, digits, '_', '-' and '.' only (given: "
                f"{name!r})"
            )
        return name

    @field_validator("out")
    @classmethod
    def _out_has_one_blank(cls, out: str) -> str:
        if not out or set("{}") & set(out.replace("{name}", "")):
            raise ValueError(f"write a folder, with {{name}} for the recipe's name (given: {out!r})")
        return out

    @property
    def run_dir(self) -> Path:
        """The run's folder: ``out`` with the recipe's name put in."""
        return Path(self.out.replace("{name}", self.name)).expanduser()

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises ConfigError where there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ConfigError(f"no stage {name!r}: {suggest(name, [stage.name for stage in self.stages])}")


def load(
    file: Path | str, overrides: Sequence[str] = (), table: StageTable | None = None, trust: bool = True
) -> Recipe:
    """Read and check a recipe. ``overrides`` are changes as on the command line, such as
    ``"stages.r1_zero.grpo.steps=80"``; ``table`` maps a stage's kind to its class (default: all of r1kit's).

    The code that the recipe names (``my.py:Name``) is imported, which runs it; without ``trust`` it is not,
    and the recipe can be looked at, not run. Raises ConfigError; its text has one line for each thing that is
    wrong.
    """
    with imports(trust):
        return build(read_layers(Path(file), overrides), table)


def build(layers: Layers, table: StageTable | None = None) -> Recipe:
    """Check merged layers and build the recipe. Raises ConfigError as ``load`` does."""
    data = dict(layers.data)
    written = data.pop("stages", None)
    errors: list[str] = []
    stages = _build_stages(written, layers, _known_stages() if table is None else table, errors)
    runtime = _build_runtime(data.pop("runtime", {"kind": "local"}), layers, errors)
    recipe = None
    try:
        recipe = Recipe.model_validate(
            {**data, "runtime": runtime, "stages": tuple(stage for _, stage in stages)}
        )
    except ValidationError as error:
        errors += _located(error, (), layers)
    if not errors:
        errors += _check_names(stages, layers)
    if not errors:
        errors += _check_references(stages, layers)
    errors += _check_endpoints(layers)
    if errors or recipe is None:
        raise ConfigError(without_secrets("\n".join(dict.fromkeys(errors))))
    return recipe


def endpoint_blocks(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """Every mapping with a key ``endpoint``, at any depth, by its key path."""
    if isinstance(value, Mapping):
        if isinstance(value.get("endpoint"), str) and value["endpoint"]:
            yield path, value
        for key, inner in value.items():
            yield from endpoint_blocks(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from endpoint_blocks(inner, (*path, index))


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data with every default filled in, as ``show`` prints it and the run folder keeps
    it; without passwords in addresses."""
    plain: dict[str, Any] = plain_without_secrets(recipe.model_dump(mode="json"))
    return plain


def unloaded(recipe: Recipe) -> set[str]:
    """The names of the stages of which some code was not imported, so that their configuration is not
    complete; all of them where the runtime's was not."""
    if isinstance(recipe.runtime, Unloaded):
        return {stage.name for stage in recipe.stages}
    return {
        stage.name
        for stage in recipe.stages
        if isinstance(stage, Unloaded) or any(isinstance(value, Unloaded) for value in vars(stage).values())
    }


def explain(recipe: Recipe, layers: Layers, key: str) -> list[str]:
    """For ``key`` (``stages.r1_zero.grpo.steps``), and for each key within it, its value and where it came
    from, a line each."""
    names = key.split(".")
    value: Any = resolved(recipe)
    path: KeyPath = ()
    for depth, name in enumerate(names):
        entries = _entries(value, path)
        if name not in entries:
            raise ConfigError(
                f"{'.'.join(names[: depth + 1])}: the recipe has no such key: {suggest(name, entries)}"
            )
        index, value = entries[name]
        path = (*path, index)
    return [
        f"{line} = {_shown(leaf)}  ({_origin(where, layers)})"
        for line, leaf, where in _leaves(value, key, path)
    ]


def _entries(value: Any, path: KeyPath) -> dict[str, tuple[str | int, Any]]:
    if isinstance(value, dict):
        return {str(name): (name, inner) for name, inner in value.items()}
    if path == ("stages",):
        return {stage["name"]: (index, stage) for index, stage in enumerate(value)}
    return (
        {str(index): (index, inner) for index, inner in enumerate(value)} if isinstance(value, list) else {}
    )


def _leaves(value: Any, key: str, path: KeyPath) -> list[tuple[str, Any, KeyPath]]:
    if not isinstance(value, dict) and path != ("stages",):
        return [(key, value, path)]
    entries = _entries(value, path).items()
    return [
        leaf for name, (index, inner) in entries for leaf in _leaves(inner, f"{key}.{name}", (*path, index))
    ] or [(key, value, path)]


def _origin(path: KeyPath, layers: Layers) -> str:
    if path in layers.places:
        return str(layers.places[path])
    return "default" if path[-1] != "name" else "default: the stage's kind"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _known_stages() -> StageTable:
    # Imported only when a recipe is built: the stages import torch, which a finished run does not need.
    from r1kit.stages import STAGES

    return STAGES


def _build_stages(
    written: Any, layers: Layers, table: StageTable, errors: list[str]
) -> list[tuple[int, Stage]]:
    if not isinstance(written, list) or not written:
        given = "missing" if written is None else f"given: {type(written).__name__}"
        errors.append(
            f"{layers.place(('stages',))}: stages: a list with at least one stage is needed ({given})"
        )
        return []
    stages = []
    for index, data in enumerate(written):
        stage = _build_stage(index, data, layers, table, errors)
        if stage is not None:
            stages.append((index, stage))
    return stages


def _build_stage(index: int, data: Any, layers: Layers, table: StageTable, errors: list[str]) -> Stage | None:
    at: KeyPath = ("stages", index)
    kind = data.get("stage") if isinstance(data, dict) else None
    if not isinstance(kind, str):
        errors.append(
            f"{layers.place(at)}: a stage is a mapping with the key 'stage' (given: {shorten(data)})"
        )
        return None
    if ":" not in kind and kind not in table:
        errors.append(f"{layers.place((*at, 'stage'))}: unknown stage {kind!r}: {suggest(kind, table)}")
        return None
    try:
        stage_class = load_name(kind, STAGE) if ":" in kind else table[kind]
    except ConfigError as error:
        errors.append(f"{layers.place((*at, 'stage'))}: {error}")
        return None
    try:
        stage: Stage = stage_class.model_validate(_switch_off(stage_class, data))
        return stage
    except ValidationError as error:
        errors += _located(error, at, layers)
        return None


def _build_runtime(data: Any, layers: Layers, errors: list[str]) -> RuntimeConfig:
    kind = str(data.get("kind", "local") if isinstance(data, dict) else None)
    try:
        return config_class(kind).model_validate(data)
    except ValidationError as error:
        errors += _located(error, ("runtime",), layers)
    except ConfigError as error:
        errors.append(f"{layers.place(('runtime', 'kind'))}: {error}")
    return RuntimeConfig()


def _switch_off(annotation: Any, value: Any) -> Any:
    """Drop null entries of tables (``tasks: {code: null}``), where null takes a name out; a null field stays
    None."""
    if not isinstance(value, dict):
        return value
    options = (
        get_args(annotation)
        if get_origin(annotation) is Union or NoneType in get_args(annotation)
        else (annotation,)
    )
    for option in options:
        if isinstance(option, type) and issubclass(option, Config):
            fields = option.model_fields
            return {
                key: _switch_off(fields[key].annotation, inner) if key in fields else inner
                for key, inner in value.items()
            }
        if get_origin(option) in (dict, Mapping):
            inner_type = get_args(option)[1]
            return {key: _switch_off(inner_type, inner) for key, inner in value.items() if inner is not None}
    return value


def _located(error: ValidationError, at: KeyPath, layers: Layers) -> list[str]:
    """One line per problem: file and line, key path by stage name, what is wrong."""
    lines = []
    for problem in error.errors():
        path = _written_path((*at, *problem["loc"]), layers.data)
        if problem["type"] == "missing":
            path = (*path, problem["loc"][-1])
        lines.append(layers.error(path, explain_problem(problem)))
    return lines


def _written_path(path: KeyPath, data: Any) -> KeyPath:
    """The path without the parts that pydantic adds (names of union members)."""
    written: list[str | int] = []
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            continue
        written.append(part)
    return tuple(written)


def _check_endpoints(layers: Layers) -> list[str]:
    errors = []
    for path, block in endpoint_blocks(layers.data, ()):
        try:
            read_address(block["endpoint"])
            if block.get("key_variable") is not None:
                check_variable(str(block["key_variable"]))
        except ConfigError as error:
            message = str(error)
            errors.append(layers.error((*path, message.partition(":")[0]), message))
    return errors


def _check_names(stages: Sequence[tuple[int, Stage]], layers: Layers) -> list[str]:
    errors = []
    first: dict[str, int] = {}
    for index, stage in stages:
        if stage.name in first:
            other = layers.place(("stages", first[stage.name]))
            place = layers.place(("stages", index))
            errors.append(
                f"{place}: a second stage is named {stage.name!r} (the first: {other}): give it a name "
                "of its own (name: ...)"
            )
        first.setdefault(stage.name, index)
    return errors


def _check_references(stages: Sequence[tuple[int, Stage]], layers: Layers) -> list[str]:
    order = {stage.name: position for position, (_, stage) in enumerate(stages)}
    inputs = {stage.name: stage.inputs() for _, stage in stages}
    errors = []
    for position, (index, stage) in enumerate(stages):
        for path, reference in stage.references():
            name = reference[1:].partition("/")[0]
            if name not in order:
                wrong = f"{reference!r} names no stage of this recipe: {suggest(name, order)}"
            elif name == stage.name:
                wrong = f"{reference!r} is the stage itself: refer to an earlier one"
            elif order[name] > position and stage.name in _everything_behind(name, inputs):
                wrong = f"{reference!r} and {stage.name!r} wait for each other: one must not read the other"
            elif order[name] > position:
                later = layers.place(("stages", stages[order[name]][0]))
                wrong = f"{reference!r} comes later ({later}): move it before {stage.name!r}"
            else:
                wrong = _unwritten(reference, stages[order[name]][1])
            if wrong:
                errors.append(layers.error(("stages", index, *path), wrong))
    return errors


def _unwritten(reference: str, stage: Stage) -> str:
    """What is wrong with a reference to a file that the stage does not write, empty where nothing is or where
    the stage does not say what it writes."""
    inner = reference.partition("/")[2]
    if not inner or not stage.writes or inner.split("/")[0] in stage.writes:
        return ""
    return f"{reference!r}: stage {stage.name!r} writes no {inner!r}: {suggest(inner, stage.writes)}"


def _everything_behind(name: str, inputs: Mapping[str, Sequence[str]]) -> set[str]:
    behind: set[str] = set()
    waiting = [name]
    while waiting:
        for inner in inputs.get(waiting.pop(), ()):
            if inner not in behind:
                behind.add(inner)
                waiting.append(inner)
    return behind
