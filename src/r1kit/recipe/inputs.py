"""Check everything that a recipe reads from outside the run before its first stage starts: data files and
their columns, models, tokenizers, files of code.

A stage or a task with ``input_errors()`` checks its own inputs (r1kit.stages.stage.Stage,
r1kit.tasks.task.Task). Every other text of a stage's configuration is checked by its form: ``file.py:name``
is code, a text with the suffix of a data file is a data file, a text under a key of ``MODEL_KEYS`` is a
model (model/sources.py), and a text that begins like a path (``./``, ``~/``, ``/a/b``) has to exist. "@stage"
and web addresses are not checked."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError, InputError, KeyPath, R1kitError
from r1kit.jsonl import SUFFIXES, read_lines
from r1kit.model.sources import WORK, found_model, kind_of, missing_model, resolve_model
from r1kit.recipe.layers import Layers
from r1kit.recipe.prompt_styles import style_errors
from r1kit.recipe.recipe import Recipe, resolved
from r1kit.recipe.supplies import supply_errors
from r1kit.stages.stage import TASK_KEYS, Stage

MODEL_KEYS = ("init", "student", "teacher", "rollouts_from", "models")  # the stages' keys that name models
TOKENIZER_KEYS = ("tokenizer",)
TEXT_KEYS = ("name", "seed_of", "opening", "rubric", "system", "examples", "stop")  # never a file's name
OWN_KEYS = ("sources", "decontaminate")  # files of any format, which stages and tasks check themselves
JINJA_SUFFIXES = (".jinja", ".jinja2", ".j2")
DATA_SUFFIXES = (*SUFFIXES, ".parquet", ".csv", ".tsv", ".txt", ".gz", ".arrow")

_CODE = re.compile(r"(?P<file>.+\.py):\w+")
_PATH = re.compile(r"(?:\.{1,2}/|~/|/[^/\s]+/)\S*")
_MOST_WORDS = 3  # a text of more words is a sentence, even if it ends in ".json"
_LONGEST_NAME = 4096


def check_inputs(
    recipe: Recipe,
    layers: Layers | None = None,
    only: Collection[str] | None = None,
    machine: bool = True,
) -> None:
    """Check everything that the recipe's stages (``only``: those of these names) read from outside the run,
    and, where any stage is to run on this ``machine``, that it has the device.

    Raises ConfigError with a line for each thing that is missing or cannot be read: place, key, what is
    wrong, fix. Data files are read to their first usable row only. Without ``layers`` the place is the
    recipe's name.
    """
    layers = layers or Layers(resolved(recipe), {}, recipe.name)
    found: dict[str, None] = {}  # stages that share a line of the recipe give one message
    if machine and (only is None or only):
        found = {
            layers.error(("runtime", *path), error): None for path, error in recipe.runtime.input_errors()
        }
    said: set[tuple[str, str]] = set()
    for index, stage in enumerate(recipe.stages):
        if only is not None and stage.name not in only:
            continue
        for path, error in (
            *_stage_errors(stage),
            *style_errors(stage, recipe.stages),
            *supply_errors(stage, recipe.stages),
        ):
            whole: KeyPath = ("stages", index, *path)
            place = str(layers.place(whole))
            if (place, error) not in said or place == layers.source:
                said.add((place, error))
                found[layers.error(whole, error)] = None
    if found:
        raise ConfigError("\n".join(found))


def _stage_errors(stage: Stage) -> Iterator[InputError]:
    """What is wrong with a stage's inputs, each once, by its key path within the stage."""
    config = stage.model_dump()
    errors: dict[KeyPath, str] = {}
    for path, error in stage.input_errors():
        errors.setdefault(path, error)
    asked = set(errors)
    for path, spec in _task_specs(config, ()):
        for name, options in spec.items():
            own = _task_errors(name, options)
            if own is not None:
                asked.add((*path, name))
                errors |= {(*path, name, *inner): error for inner, error in own}
    yield from errors.items()
    for path, text in texts(config, ()):
        if not any(path[: len(at)] == at for at in asked):
            wrong = _text_error(path, text)
            if wrong is not None:
                yield path, wrong


def _task_specs(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """Every mapping of tasks in a stage's configuration, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in TASK_KEYS and isinstance(inner, Mapping):
                yield (*path, key), inner
            else:
                yield from _task_specs(inner, (*path, key))


def _task_errors(name: str, options: Any) -> list[InputError] | None:
    """The task's own ``input_errors``, without those about another stage's file, which is not written yet;
    None if it has none or the entry is not a task."""
    from r1kit.tasks import load_tasks  # imported here, because it imports the checkers

    try:
        tasks = load_tasks({name: options})
    except R1kitError:
        return None
    says: list[Callable[[], Iterator[InputError]]] = [
        task.input_errors for task, _ in tasks.values() if hasattr(task, "input_errors")
    ]
    written_later = {(key,) for key, value in _options(options) if str(value).startswith("@")}
    return [error for say in says for error in say() if error[0] not in written_later] if says else None


def _options(entry: Any) -> Iterator[tuple[Any, Any]]:
    """The options of a task's entry, which may be a weight alone."""
    yield from entry.items() if isinstance(entry, Mapping) else ()


def texts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Every text of a configuration with its key path, the keys of tables included."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str) and set("/.:") & set(key):  # a field's name is no file
                yield (*path, key), key
            yield from texts(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from texts(inner, (*path, index))


def _text_error(path: KeyPath, text: str) -> str | None:
    """What is wrong with the file, folder, model or code that a text names; None where nothing is, or where
    it names none."""
    kind = input_kind(path, text)
    return None if kind is None else _CHECKS[kind](text)


def input_kind(path: KeyPath, text: str) -> str | None:
    """What the text at ``path`` within a stage's configuration names, a key of ``_CHECKS``; None where it
    names nothing that is read."""
    if not text or len(text) > _LONGEST_NAME or "\n" in text or text.startswith("@") or "://" in text:
        return None
    if set(TEXT_KEYS + OWN_KEYS) & set(path):
        return None
    if _CODE.fullmatch(text):
        return "code"
    if len(text.split()) > _MOST_WORDS:
        return None
    if path[-1] == "template":
        return "path" if text.endswith(JINJA_SUFFIXES) else None
    if path[-1] == "general" and text.endswith(SUFFIXES):
        return "prompts"
    if text.endswith(DATA_SUFFIXES):
        return "data"
    if set(MODEL_KEYS) & set(path[:-1] if path[-1] == text else path):
        return "model"
    if set(TOKENIZER_KEYS) & set(path):
        return "tokenizer"
    return "path" if _PATH.fullmatch(text) else None


def fetch_models(
    recipe: Recipe, layers: Layers | None, only: Collection[str], say: Callable[[str], None]
) -> None:
    """Convert and download the models that these stages name, before the first stage starts; ``say`` is
    called before each. Raises ConfigError naming the place of each that cannot be had."""
    layers = layers or Layers(resolved(recipe), {}, recipe.name)
    done: set[str] = set()
    errors: list[str] = []
    for index, stage in enumerate(recipe.stages):
        for path, text in texts(stage.model_dump(), ()) if stage.name in only else ():
            if text in done or input_kind(path, text) not in ("model", "tokenizer"):
                continue
            done.add(text)
            try:
                if (kind := kind_of(text)) in WORK and found_model(text) is None:
                    say(f"{text}: {WORK[kind]}")
                    resolve_model(text)
            except ConfigError as error:
                errors.append(layers.error(("stages", index, *path), str(error)))
    if errors:
        raise ConfigError("\n".join(errors))


def slower_models(recipe: Recipe, only: Collection[str]) -> list[str]:
    """The models that these stages name and that transformers' own class computes, each with a sentence."""
    named = [
        text
        for stage in recipe.stages
        for path, text in (texts(stage.model_dump(), ()) if stage.name in only else ())
        if input_kind(path, text) == "model"
    ]
    found = []
    for name in dict.fromkeys(named):
        folder = found_model(name)
        if (
            folder is not None and (folder / "config.json").is_file()
        ):  # else another stage's of an earlier run
            from r1kit.model.config_json import read_config
            from r1kit.model.foreign import SLOWER  # imports torch

            config = read_config(folder)
            found += [f"{name}: {config.model_type} is {SLOWER}"] if config.family == "transformers" else []
    return found


def code_error(name: str) -> str | None:
    """What is wrong with a file of code: it is missing. What it has to define is checked with the recipe."""
    file = name.rpartition(":")[0]
    return None if Path(file).expanduser().is_file() else _missing(file, "file")


def path_error(name: str) -> str | None:
    """What is wrong with a path: nothing is there."""
    return None if Path(name).expanduser().exists() else _missing(name, "file or folder")


def data_error(file: str) -> str | None:
    """What is wrong with a data file: missing, another format, or empty. Its columns are not checked."""
    path = Path(file).expanduser()
    if not file.endswith((*SUFFIXES, ".parquet")):
        return None if path.is_file() else _missing(file, "file")
    try:
        return None if next(read_lines(path), None) is not None else f"{file}: no rows"
    except R1kitError as error:
        return str(error)


def general_error(file: str) -> str | None:
    """What is wrong with a file of general prompts, as its first row shows."""
    from r1kit.tasks import Prompts  # imported here, because it imports the checkers

    return next((error for _, error in Prompts(Path(file).name, train=file).input_errors()), None)


def model_error(name: str) -> str | None:
    """What is wrong with a model's folder: its configuration, weights and tokenizer have to be there and
    whole, and the network of a kind that r1kit computes. The weights themselves are not read. A model that is
    not converted or downloaded yet is not looked into."""
    try:
        folder = found_model(name)
        if folder is None:
            return None if kind_of(name) is not None else missing_model(name)
    except ConfigError as error:
        return str(error)
    from r1kit.model.huggingface import check_pretrained  # imports torch

    folder = folder / "model" if (folder / "model").is_dir() else folder
    try:
        check_pretrained(folder)
    except R1kitError as error:
        return str(error)
    return tokenizer_error(str(folder))


def tokenizer_error(name: str) -> str | None:
    """What is wrong with the tokenizer of a model's folder."""
    try:
        folder = found_model(name)
        if folder is None:
            return None if kind_of(name) is not None else missing_model(name)
    except ConfigError as error:
        return str(error)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / "tokenizer.json").is_file():
        return (
            f"{folder}: no tokenizer.json; save it there with transformers' AutoTokenizer (a fast tokenizer)"
        )
    from r1kit.tokenizer import Tokenizer  # imports tokenizers

    try:
        Tokenizer.load(folder)
    except R1kitError as error:
        return str(error)
    return None


def _missing(name: str, what: str) -> str:
    return f"{name}: no such {what} (looked up from {Path.cwd()})"


_CHECKS: Mapping[str, Callable[[str], str | None]] = {
    "code": code_error,
    "prompts": general_error,
    "data": data_error,
    "model": model_error,
    "tokenizer": tokenizer_error,
    "path": path_error,
}
