"""A stage: one section of the paper as a strict configuration and a ``run``.

A stage reads the finished folders of other stages through ``ctx.path("@other")`` and writes its own folder
``ctx.out``: ``model/`` (a Hugging Face directory), ``data.jsonl``, ``report.json``, whichever it makes. Every
string in its configuration that starts with "@" is an input: ``"@r1_zero"`` is that stage's folder and
``"@r1_zero/data.jsonl"`` a file in it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import field_validator, model_validator

from r1kit.config import Config, ConfigError, InputError, KeyPath, R1kitError, Unloaded
from r1kit.jsonl import BadRows, Without, column, first_error
from r1kit.log import Log
from r1kit.model.sources import resolve_model
from r1kit.runtime import Runtime
from r1kit.train.learner import LearnerConfig
from r1kit.user_code import Shape

# The keys under which a stage's configuration has tasks with their options.
TASK_KEYS = ("tasks", "prompts", "general")


class WaitingError(R1kitError):
    """A stage waits for what a person has to do. The text says what; the same command continues the run."""


@dataclass(frozen=True, slots=True)
class Context:
    """The environment of a running stage.

    ``run`` is the run's folder (runs/mini) and ``out`` the folder this stage writes, which takes its final
    name when the stage has finished; what an interrupted attempt left in ``out`` is still there. ``seed`` is
    derived from the run's seed and the stage's name. ``outputs`` maps the name of every finished stage to its
    folder. ``identities``: the owners of unfinished work in ``out`` (train/checkpoint.py), this attempt's own
    first."""

    run: Path
    name: str
    out: Path
    seed: int
    runtime: Runtime
    log: Log
    outputs: Mapping[str, Path]
    identities: tuple[str, ...] = ()

    def path(self, reference: str) -> Path:
        """Resolve "@stage", "@stage/file" or a plain path (from the current folder). Raises ConfigError where
        nothing is there."""
        if not reference.startswith("@"):
            path = Path(reference).expanduser()
            if not path.exists():
                raise ConfigError(f"{reference}: no such file or folder (looked up from {Path.cwd()})")
            return path
        stage, _, inner = reference[1:].partition("/")
        if stage not in self.outputs:
            finished = ", ".join(self.outputs) or "none"
            raise ConfigError(f"{reference!r} names no finished stage; finished: {finished}")
        folder = self.outputs[stage]
        path = folder / inner if inner else folder
        if not path.exists():
            there = (
                ", ".join(sorted(entry.name for entry in folder.iterdir())) if folder.is_dir() else "nothing"
            )
            raise ConfigError(f"{reference!r}: stage {stage!r} wrote no {inner!r}; it wrote: {there}")
        return path

    def model(self, reference: str) -> Path:
        """The Hugging Face folder of a model: "@stage", a folder, a GGUF file or a model of the hub
        (model/sources.py). Raises ConfigError where there is none."""
        folder = self.path(reference) if reference.startswith("@") else resolve_model(reference)
        return folder / "model" if (folder / "model").is_dir() else folder


Purpose = Literal["data", "preflight", "gate", "watch"]


@dataclass(frozen=True, slots=True)
class SamplingPhase:
    """Completions that a stage samples, ``completions`` in all and ``at_once`` in one call (None: all), of at
    most ``max_tokens`` tokens each, ``group`` of them for every prompt.

    ``model`` is a reference or a folder, "" the model that the stage trains, whose weights the engine
    shares. ``purpose``: of other phases than ``data`` nothing is trained on: they look at the model before or
    while it learns. With ``enough`` tokens sampling ends, so ``completions`` are the most; it takes at most
    ``seconds`` (None: as long as it takes)."""

    completions: float
    max_tokens: int
    model: str = ""
    group: int = 1
    at_once: float | None = None
    purpose: Purpose = "data"
    enough: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingPhase:
    """Updates of the model ``model`` (a reference or a folder) by a ``learner``.

    ``updates`` and ``tokens`` in all. Where ``tokens`` is None, ``rows`` rows with at most ``row_tokens``
    trained tokens are read ``epochs`` times, or those of the files ``data``, in updates of ``batch_tokens``.
    ``passes``: forward passes without gradient over each token. ``frozen`` models that do not learn and
    ``critics`` that do are held besides. ``saves``: how often a training state is written. ``part`` names one
    of several trainings of a stage. ``ahead``: the share of updates with multi-token prediction.
    ``judges``: models as large that score what is sampled and are held by the same processes."""

    learner: LearnerConfig
    model: str = ""
    updates: float | None = None
    tokens: float | None = None
    rows: float | None = None
    row_tokens: int | None = None
    data: tuple[str, ...] = ()
    epochs: float = 1.0
    batch_tokens: int | None = None
    passes: float = 0.0
    frozen: int = 0
    critics: int = 0
    saves: float = 0.0
    part: str = ""
    ahead: float = 0.0
    judges: int = 0


Phase = SamplingPhase | TrainingPhase


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The most that a stage will do; None where it is not known.

    ``tokens`` are those that it trains on. Its model is that of the first stage it reads, unless it makes
    one: of the shape ``model`` ({preset: name, key: value ...}) and a ``vocabulary`` of so many tokens (None:
    that of the first stage it reads), or of so many ``parameters``, of which ``active_parameters`` take part
    in each token. ``phases`` say what it does one after another, in detail; ``rows`` of at most
    ``row_tokens`` tokens are the data it makes."""

    steps: float | None = None
    tokens: float | None = None
    sampled_tokens: float | None = None
    model: Mapping[str, Any] | None = None
    vocabulary: int | None = None
    parameters: float | None = None
    active_parameters: float | None = None
    phases: tuple[Phase, ...] = ()
    rows: float | None = None
    row_tokens: int | None = None


class Stage(Config):
    """Base of all stages. A subclass narrows ``stage`` to its own name with Literal and implements ``run``.

    ``name`` is the stage's folder and what "@name" refers to; unique in a recipe; by default the stage's
    kind. ``seed_of`` names a stage whose seed is used: two runs that differ in nothing but their
    configuration (matched runs)."""

    # The files and folders that a stage writes, so that a reference to another name is an error before
    # anything runs; empty: not checked.
    writes: ClassVar[tuple[str, ...]] = ()

    stage: str
    name: str = ""
    seed_of: str = ""

    @model_validator(mode="before")
    @classmethod
    def _take_name_from_kind(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("name"):
            return data
        kind = data.get("stage") or next(iter(get_args(cls.model_fields["stage"].annotation)), cls.__name__)
        return {**data, "stage": kind, "name": str(kind).rpartition(":")[2]}

    @model_validator(mode="before")
    @classmethod
    def _keep_own_defaults(cls, data: Any) -> Any:
        """Keep this stage's defaults for keys that a nested configuration does not give: ``training:
        {mtp_weight: 0.1}`` keeps the stage's schedule."""
        if not isinstance(data, dict):
            return data
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return {name: _over(defaults.get(name), value) for name, value in data.items()}

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(
                f"a stage's name is also its folder: letters, digits, '_' and '-' only (given: {name!r})"
            )
        return name

    def run(self, ctx: Context) -> None:
        """Do the stage's work and leave the result in ``ctx.out``. Called again in the same folder after an
        interruption."""
        raise NotImplementedError(f"{type(self).__name__}.run")

    def plan(self) -> StagePlan:
        """What the stage will do, for ``r1kit plan``."""
        return StagePlan()

    def input_errors(self) -> Iterable[InputError]:
        """What is wrong with the files that the stage reads, by key path within the stage, before anything
        runs. Files that this does not check are checked by their form (r1kit.recipe.inputs)."""
        return ()

    def references(self) -> list[tuple[KeyPath, str]]:
        """List every "@..." string of the configuration with the key path where it stands."""
        return list(_strings_at(self.model_dump(), ()))

    def inputs(self) -> list[str]:
        """Name the stages this one reads, each once, in order of appearance."""
        return list(dict.fromkeys(reference[1:].partition("/")[0] for _, reference in self.references()))


class UnloadedStage(Stage, Unloaded):
    """The stand-in of a stage outside r1kit whose code was not imported. Its keys are kept as they are
    written; only references to other stages are checked."""


def _is_stage(found: type) -> bool:
    return issubclass(found, Stage) and found.run is not Stage.run


STAGE = Shape(
    "a stage",
    "a class on r1kit.stages.stage.Stage with run(ctx)",
    is_class=_is_stage,
    stand_in=UnloadedStage,
)


def file_errors(
    path: KeyPath,
    file: str,
    columns: Sequence[str],
    bad_rows: BadRows = "error",
    without: Without = lambda file: (),
) -> Iterator[InputError]:
    """What is wrong with a data file of which a stage reads these text columns, as its first row shows.
    ``path``: the key that names it; ``without`` as in read_usable. Another stage's file is not checked,
    because it is not written yet."""

    def use(file: Path, number: int, row: dict[str, Any]) -> None:
        for name in columns:
            column(file, number, row, name)

    if file and not file.startswith("@"):
        error = first_error(Path(file).expanduser(), use, bad_rows, without)
        if error is not None:
            yield path, error


def with_located_tasks(config: Any, locate: Callable[[str], Path], within: bool = False) -> Any:
    """A stage or its plain configuration with paths in the place of the references in its tasks' options:
    ``tasks: {code: {kind: dataset, train: "@unit_tests/data.jsonl"}}``. ``within``: ``config`` is what stands
    under one of TASK_KEYS."""
    if isinstance(config, Config):
        own = {name: with_located_tasks(value, locate, name in TASK_KEYS) for name, value in config}
        changed = {name: value for name, value in own.items() if value != getattr(config, name)}
        return config.model_copy(update=changed) if changed else config
    if isinstance(config, Mapping):
        return {
            key: str(locate(value))
            if within and isinstance(value, str) and value.startswith("@")
            else with_located_tasks(value, locate, within or key in TASK_KEYS)
            for key, value in config.items()
        }
    return config


def _over(default: Any, given: Any) -> Any:
    """``given`` over what ``default`` sets, at every depth where both are a configuration."""
    if not isinstance(default, Config) or not isinstance(given, Mapping):
        return given
    kept = {name: getattr(default, name) for name in default.model_fields_set}
    return kept | {name: _over(getattr(default, str(name), None), value) for name, value in given.items()}


def _strings_at(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        if value.startswith("@"):
            yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings_at(key, (*path, key))
            yield from _strings_at(inner, (*path, key))
    elif isinstance(value, list | tuple | set | frozenset):
        for index, inner in enumerate(value):
            yield from _strings_at(inner, (*path, index))
