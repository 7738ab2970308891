"""A recipe: the paper's figure as one file. YAML becomes a checked ``Recipe``, or one error that names file,
line and fix.

Everything is checked before anything starts: keys, types, the stages' names, and that every "@stage" refers
to an earlier one. The recipe is layered (r1kit.recipe.layers): defaults < ``extends`` < the file < the
command line; ``explain`` tells which layer won."""

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Union, get_args, get_origin

from pydantic import SerializeAsAny, ValidationError, field_validator

from r1kit.config import Config, ConfigError, KeyPath, suggest
from r1kit.recipe.layers import Layers, read_layers, stage_name
from r1kit.runtime import RuntimeConfig, config_class
from r1kit.stages.stage import Stage
from r1kit.user_code import load_name

StageTable = Mapping[str, type[Stage]]


class Recipe(Config):
    """A run from beginning to end: where it runs, where it writes, and its stages in order.

    ``out`` is the run's folder; ``{name}`` in it stands for the recipe's name.
    """

    name: str
    seed: int = 0
    runtime: SerializeAsAny[RuntimeConfig]
    out: str = "runs/{name}"
    stages: tuple[SerializeAsAny[Stage], ...]

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
        return Path(self.out.replace("{name}", self.name)).expanduser()

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises ConfigError where there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ConfigError(f"no stage {name!r}: {suggest(name, [stage.name for stage in self.stages])}")


def load(file: Path, overrides: Sequence[str] = (), table: StageTable | None = None) -> Recipe:
    """Read and check a recipe. ``overrides`` are ``a.b=c``; ``table`` maps a stage's kind to its class
    (default: all of r1kit's).

    Raises ConfigError; its text has one line for each thing that is wrong.
    """
    return build(read_layers(file, overrides), table)


def build(layers: Layers, table: StageTable | None = None) -> Recipe:
    """Check merged layers and build the recipe. Raises ConfigError as ``load`` does."""
    data = dict(layers.data)
    written = data.pop("stages", None)
    errors: list[str] = []
    stages = _build_stages(
        written, layers, _table("r1kit.stages", "STAGES") if table is None else table, errors
    )
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
    if errors or recipe is None:
        raise ConfigError("\n".join(errors))
    return recipe


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data with every default filled in, as ``show`` prints it and the run folder keeps
    it."""
    return recipe.model_dump(mode="json")


def explain(recipe: Recipe, layers: Layers, key: str) -> list[str]:
    """Tell for ``key`` (``stages.r1_zero.grpo.steps``), and for each key within it, its value and where it
    came from."""
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


def _table(module: str, name: str) -> Mapping[str, Any]:
    # Imported only when a recipe is built: the stages bring torch with them, and a finished run does without.
    table: Mapping[str, Any] = getattr(importlib.import_module(module), name, {})
    return table


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
            f"{layers.place(at)}: a stage is a mapping with the key 'stage' (given: {_brief(data)})"
        )
        return None
    if ":" not in kind and kind not in table:
        errors.append(f"{layers.place((*at, 'stage'))}: unknown stage {kind!r}: {suggest(kind, table)}")
        return None
    try:
        stage_class = load_name(kind) if ":" in kind else table[kind]
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
        message = problem["msg"].removeprefix("Value error, ")
        path = _written_path((*at, *problem["loc"]), layers.data)
        unknown = re.match(r"unknown key '([^']*)'", message)
        place = layers.place((*path, unknown[1]) if unknown else path)
        given = (
            "" if problem["type"] in ("value_error", "missing") else f" (given: {_brief(problem['input'])})"
        )
        if problem["type"] == "missing":
            path, message = (*path, problem["loc"][-1]), "this key is needed"
        lines.append(f"{place}: {_dotted(path, layers.data)}{message}{given}")
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


def _dotted(path: KeyPath, data: Mapping[str, Any]) -> str:
    names = [str(part) for part in path]
    if path[:1] == ("stages",) and len(path) > 1:
        names[1] = stage_name(data["stages"][path[1]]) or names[1]
    return ".".join(names) + ": " if names else ""


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
            at = f"{layers.place(('stages', index, *path))}: {_dotted(('stages', index, *path), layers.data)}"
            if name not in order:
                errors.append(f"{at}{reference!r} names no stage of this recipe: {suggest(name, order)}")
            elif name == stage.name:
                errors.append(f"{at}{reference!r} is the stage itself: refer to an earlier one")
            elif order[name] > position and stage.name in _everything_behind(name, inputs):
                errors.append(
                    f"{at}{reference!r} and {stage.name!r} wait for each other: one of them must do "
                    "without the other"
                )
            elif order[name] > position:
                later = layers.place(("stages", stages[order[name]][0]))
                errors.append(f"{at}{reference!r} comes later ({later}): move it before {stage.name!r}")
    return errors


def _everything_behind(name: str, inputs: Mapping[str, Sequence[str]]) -> set[str]:
    behind: set[str] = set()
    waiting = [name]
    while waiting:
        for inner in inputs.get(waiting.pop(), ()):
            if inner not in behind:
                behind.add(inner)
                waiting.append(inner)
    return behind
