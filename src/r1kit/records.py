"""The contents of a run's folder: stages with their records, models and reports.

A stage works in ``stages/NAME.partial``. When it has finished, the folder is renamed to ``stages/NAME``. The
folder has the stage's record: what the result depends on, and the size and hash of every file. Only
``StageFolder`` reads and writes records. A record holds its own hash. One that cannot be read, lacks a key,
has a value of another type or does not fit its hash is a ``DamageError``. A record without a hash is from an
older r1kit: it is read, with a warning, if it has the keys that every record has."""

import functools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from r1kit.config import Config, ConfigError, R1kitError, describe, suggest
from r1kit.files import hash_file, hash_text, is_temporary, remove_at_once, rename_whole, write_whole
from r1kit.log_files import LogMark
from r1kit.marks import OWN_HASH, FileMark, files_below, mark_damages, mark_files, seal, seal_damage

STATES = "train_state"  # folder of training state (train/checkpoint.py)
UPDATES = "updates"  # updates of a training that r1kit why can replay (train/kept_updates.py)
ADAPTER = "adapter"  # within a model's folder: the adapters that were merged into it
SAMPLED = "sampled"  # rollouts of a stage that makes data, chunk by chunk (stages/sampling.py)
KEPT = "kept_marks"  # marks of what a resumed attempt of a stage reads again (stages/kept.py)
WATCH_MARKS = "watch.json"  # in that folder: the mark of what a watch has measured
UPDATE_MARKS = "updates.json"  # in that folder: the marks of updates that r1kit why can replay
LOG_MARKS = "log.json"  # in that folder: the mark of what the stage has logged
MOVED = "moved_files"  # what something else had put where a stage writes
NOTES = "r1kit.json"  # what a model's folder says of itself (ModelNotes)

T = TypeVar("T", bound=Config)

_NEEDED = ("stage", "name", "config", "seed", "inputs", "files", "setting")  # keys of every record
_DEEPEST = 4  # folders of a stage above its models
_READ_WITH_MODEL = (".json", ".safetensors", ".jinja", ".model", ".txt", ".bin")  # kinds of a model's files
_RECORD = "stage.json"
_ALLOWED = "allowed.json"
_PARTIAL = ".partial"
_SHOWN = 5  # foreign files in a message

# The model meant by a run's folder: of the first of these kinds that the run has. A student or a reward
# model is chosen only by name.
PREFERRED_KINDS = ("alignment_rl", "sft", "reasoning_rl", "r1_zero", "cold_start", "pretrain")


class DamageError(R1kitError):
    """A file of a run is missing or is not as r1kit wrote it. The text names the file and the fix."""


class AllowedChange(Config):
    """A change that --allow-change accepted: when (seconds since 1970), what had changed, and the hash
    that was accepted with it: of a finished stage that of its new identity, of an unfinished one the owner of
    its work so far."""

    at: float
    differences: tuple[str, ...]
    identity: str


class Identity(Config):
    """What a stage's result depends on: ``config`` and ``seed``, ``inputs`` (the hash of the record of each
    stage it reads; None: not finished yet) and ``files`` (the hash of each file of the user's it names)."""

    stage: str
    name: str
    config: dict[str, Any] = {}
    seed: int = 0
    inputs: dict[str, str | None] = {}
    files: dict[str, str] = {}

    def digest(self) -> str:
        """One hash for all of it."""
        fields = {name: getattr(self, name) for name in Identity.model_fields}
        return hash_text(json.dumps(fields, sort_keys=True, ensure_ascii=False))


class StageRecord(Identity):
    """A stage's record: its identity, the ``setting`` its bits depend on besides (runs/provenance.py), and
    how its work went. ``outputs``, ``log`` (None from an older r1kit) and ``finished`` are there when it has
    finished; times are seconds since 1970, ``seconds`` the time of all attempts together."""

    setting: dict[str, Any] = {}
    allowed: tuple[AllowedChange, ...] = ()
    started: float = 0.0
    attempts: int = 0
    seconds: float = 0.0
    peak_rss_mb: float | None = None
    versions: dict[str, str] = {}
    outputs: dict[str, FileMark] = {}
    log: LogMark | None = None
    finished: float | None = None

    def owner(self) -> str:
        """The owner of the stage's unfinished work: one hash for its identity and its setting."""
        return hash_text(json.dumps([self.digest(), self.setting], sort_keys=True))

    def owners(self) -> tuple[str, ...]:
        """The owners whose unfinished work the stage continues: itself, and those that --allow-change
        accepted."""
        return (self.owner(), *(change.identity for change in self.allowed))


class _Changes(Config):
    """The content of a list of accepted changes, without its hash."""

    changes: tuple[AllowedChange, ...]


@dataclass(frozen=True, slots=True)
class StageFolder:
    """One stage's place in a run, ``final`` when it has finished and ``partial`` before."""

    final: Path

    @property
    def name(self) -> str:
        return self.final.name

    @property
    def partial(self) -> Path:
        return self.final.with_name(self.final.name + _PARTIAL)

    def finished(self) -> StageRecord | None:
        """The record of the finished stage, None where there is none. Raises DamageError, also for a folder
        that has lost its record."""
        record = _read_record(self.final, self.name, (*_NEEDED, "outputs", "finished"))
        if record is not None and record.finished is None:
            fix = _redo(self.final, "a stage's record")
            raise DamageError(
                f"{self.final / _RECORD}: damaged: finished: null, in the folder of a finished stage\n{fix}"
            )
        return record

    def begun(self) -> StageRecord | None:
        """The record of the stage that has begun and not finished. Raises DamageError as ``finished``."""
        return _read_record(self.partial, self.name, _NEEDED)

    def begin(self, record: StageRecord) -> None:
        """Make the partial folder with its first record."""
        self.partial.mkdir(parents=True)
        self.write(record)

    def has_work(self) -> bool:
        """Whether the unfinished stage has written anything besides its record."""
        return any(
            path.is_file() and path.name != _RECORD and not is_temporary(path.name)
            for path in self.partial.rglob("*")
        )

    def write(self, record: StageRecord) -> None:
        """Replace the record of the unfinished stage."""
        write_whole(self.partial / _RECORD, sealed_text(record.model_dump(mode="json")))

    def finish(self) -> None:
        """Give the partial folder its final name: whole, also after a power cut."""
        rename_whole(self.partial, self.final)

    def is_recorded(self) -> bool:
        """Whether a record is there, readable or not."""
        return any((folder / _RECORD).is_file() for folder in (self.final, self.partial))

    def foreign(self) -> list[Path]:
        """What the stage's folders hold that the stage did not write: all of a folder without a record, and
        of a finished stage what its record does not list. A partial folder with a record is the stage's own,
        and so is a finished one whose record cannot be read."""
        return [*self._foreign_of(self.final, True), *self._foreign_of(self.partial, False)]

    def _foreign_of(self, folder: Path, finished: bool) -> Iterator[Path]:
        if not (folder / _RECORD).is_file():
            names = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        elif finished:
            try:
                record = self.finished()
            except DamageError:
                return
            names = [folder / name for name in foreign_files(folder, record)] if record else []
        else:
            return
        yield from (path for path in names if not is_temporary(path.name))

    def remove(self) -> None:
        """Remove all of the stage, each folder at once: half of a folder must not look like a stage. Raises
        ConfigError, and removes nothing, where it holds files that the stage did not write."""
        refuse_foreign([self])
        for folder in (self.final, self.partial):
            if folder.is_symlink() or folder.exists():
                remove_at_once(folder)

    def record_hash(self) -> str | None:
        """The SHA-256 of the finished stage's record, None where there is none."""
        file = self.final / _RECORD
        return hash_file(file) if file.is_file() else None

    def allowed(self) -> tuple[AllowedChange, ...]:
        """The changes that were accepted since the stage finished. Raises DamageError."""
        fix = _redo(self.final, "the list of accepted changes")
        found = read_typed(_Changes, self.final / _ALLOWED, fix)
        return found.changes if found is not None else ()

    def allow(self, change: AllowedChange) -> None:
        """Accept a change of the finished stage. Its record stays as it is, since others hold its hash."""
        changes = [known.model_dump(mode="json") for known in (*self.allowed(), change)]
        write_whole(self.final / _ALLOWED, sealed_text({"changes": changes}))


@dataclass(frozen=True, slots=True)
class FinishedStage:
    """A finished stage as it was read: its folder and its record."""

    folder: Path
    record: StageRecord

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def kind(self) -> str:
        return self.record.stage

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def report(self) -> dict[str, Any]:
        """The stage's own report.json, empty where it wrote none."""
        return read_json(self.folder / "report.json")


def stage_folder(run_dir: Path, name: str) -> StageFolder:
    """The place of the stage of that name, whether anything is there or not."""
    return StageFolder(run_dir / "stages" / name)


def label_file(run_dir: Path, name: str) -> Path:
    """Where people's labels for a stage stand. It is not in the stage's folder, so that they stay when the
    stage is redone; nothing in a run is written there but by the page that collects them."""
    return run_dir / "labels" / f"{name}.jsonl"


def stage_folders(run_dir: Path) -> list[StageFolder]:
    """Every stage that a run's folder holds, finished or not, by name."""
    names = {folder.name.removesuffix(_PARTIAL) for folder in run_dir.glob("stages/*") if folder.is_dir()}
    return [stage_folder(run_dir, name) for name in sorted(names) if not name.startswith(".")]


def finished_stages(run_dir: Path) -> list[FinishedStage]:
    """The finished stages in the order in which they were finished. Raises DamageError."""
    records = [(place, place.finished()) for place in stage_folders(run_dir)]
    stages = [FinishedStage(place.final, record) for place, record in records if record is not None]
    return sorted(stages, key=lambda stage: stage.record.finished or 0.0)


def record_hashes(run_dir: Path) -> dict[str, str]:
    """The SHA-256 of every record and list of accepted changes of finished stages, by NAME/FILE."""
    files = [place.final / name for place in stage_folders(run_dir) for name in (_RECORD, _ALLOWED)]
    return {f"{file.parent.name}/{file.name}": hash_file(file) for file in files if file.is_file()}


def mark_outputs(folder: Path, writes: Sequence[str] = ()) -> dict[str, FileMark]:
    """Size and SHA-256 of every file that a stage has written, by its path below ``folder``: of all that is
    there, or of ``writes``, the names in the folder that the stage writes, where it says so."""
    found = mark_files(folder, (_RECORD, _ALLOWED))
    return {
        name: mark
        for name, mark in found.items()
        if (not writes or name.partition("/")[0] in writes) and MOVED not in name.split("/")
    }


def damages(folder: Path, record: StageRecord) -> Iterator[str]:
    """What is wrong with the files that a finished stage recorded, each with its name."""
    return mark_damages(folder, record.outputs, "the stage")


def refuse_foreign(folders: Iterable[StageFolder]) -> None:
    """Raise ConfigError where stages that are to be removed hold files that they did not write."""
    found = [str(path) for folder in folders for path in folder.foreign()]
    if found:
        more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        listed = "\n  ".join([*found[:_SHOWN], *more])
        raise ConfigError(
            f"a stage is to be redone, and its folder holds files that are not in its record ({_RECORD}):\n  "
            f"{listed}\nNothing was removed. Move these files away, then rerun."
        )


def foreign_files(folder: Path, record: StageRecord) -> list[str]:
    """The files in a finished stage's folder that the stage did not write, links included."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    there = {path.relative_to(folder).as_posix() for path in paths if not is_temporary(path.name)}
    return sorted(there - {_RECORD, _ALLOWED, *record.outputs})


def part_of(folder: Path) -> str:
    """The part of a run that a folder of an unfinished stage is, by its path: "distill/sft" of
    runs/mini/stages/distill.partial/sft; "" for a folder that is not in a run."""
    parts = folder.absolute().parts
    for place in range(len(parts) - 1, 0, -1):
        if parts[place - 1] == "stages" and parts[place].endswith(_PARTIAL):
            return "/".join([parts[place].removesuffix(_PARTIAL), *parts[place + 1 :]])
    return ""


def is_model(folder: Path) -> bool:
    """Whether the folder is a Hugging Face model's."""
    return (folder / "config.json").is_file()


def has_model(run_dir: Path) -> bool:
    """Whether a finished stage of the run has a model."""
    return any(is_model(stage.model) for stage in finished_stages(run_dir))


def find_stage_with_model(run_dir: Path, name: str | None) -> FinishedStage:
    """The finished stage of that name, or the run's main result. Raises ConfigError where there is none with
    a model."""
    stages = {stage.name: stage for stage in finished_stages(run_dir) if is_model(stage.model)}
    if not stages:
        raise ConfigError(
            f"{run_dir}: neither a model (config.json) nor a run with a finished model (stages/*/model)"
        )
    if name is not None:
        if name not in stages:
            raise ConfigError(
                f"{run_dir} has no finished stage {name!r} with a model: {suggest(name, stages)}"
            )
        return stages[name]
    by_preference = [
        stage for kind in PREFERRED_KINDS for stage in reversed(stages.values()) if stage.kind == kind
    ]
    return by_preference[0] if by_preference else list(stages.values())[-1]


def find_model(run_or_model: Path, stage: str | None = None) -> Path:
    """The model's folder that the user means: the folder itself, or that of a run's stage, also as RUN/STAGE.
    Raises ConfigError where there is none, and DamageError where it is not as r1kit wrote it."""
    if stage is None and not run_or_model.is_dir():
        run = run_or_model.parent
        if (run / "stages" / run_or_model.name).is_dir():
            run_or_model, stage = run, run_or_model.name
    if not run_or_model.is_dir():
        raise ConfigError(f"{run_or_model}: no such folder")
    model = run_or_model if is_model(run_or_model) else find_stage_with_model(run_or_model, stage).model
    check_model(model)
    return model


def check_model(model: Path) -> None:
    """Hash a model's files, if it is a finished stage's or was exported by r1kit; a folder from elsewhere has
    no hashes and is used as it is. Raises DamageError naming every file that is not as it was written."""
    found = list(_model_damages(model))
    if found:
        listed = "\n  ".join(found)
        raise DamageError(
            f"{model}: this model is not as r1kit wrote it:\n  {listed}\nBring back a copy, or make it again "
            "(r1kit run RECIPE --from STAGE, or r1kit export)."
        )


def _model_damages(model: Path) -> Iterator[str]:
    notes = read_notes(model)
    if notes is not None and notes.files:
        yield from mark_damages(model, notes.files, "r1kit export")
        yield from _added(model, notes.files, (NOTES,))
        return
    # A model is a stage's folder "model", or one of another name or depth (distill/sft/model).
    for folder in list(model.absolute().parents)[:_DEEPEST]:
        if folder.parent.name == "stages" and (record := StageFolder(folder).finished()) is not None:
            prefix = f"{model.absolute().relative_to(folder).as_posix()}/"
            outputs = {
                name.removeprefix(prefix): mark
                for name, mark in record.outputs.items()
                if name.startswith(prefix)
            }
            yield from mark_damages(model, outputs, "the stage")
            yield from _added(model, outputs)
            return


def _added(model: Path, marks: Mapping[str, FileMark], known: Sequence[str] = ()) -> Iterator[str]:
    """Files of a kind that is read with a model which nothing of r1kit's wrote."""
    for name, path in files_below(model).items():
        if path.suffix in _READ_WITH_MODEL and name not in marks and name not in known:
            yield f"{path}: not written with this model; remove it"


class Ancestor(Config):
    """What a model was made from. ``kind``: of the stage, or "model" for one from elsewhere. ``sha256``: of
    the stage's record, or of all files of the model's folder. ``license`` is that of a model from
    elsewhere."""

    name: str
    kind: str
    sha256: str
    license: str | None = None


class ModelNotes(Config):
    """What a model's folder says of itself, in ``r1kit.json``.

    ``talk``: how prompts were written when it was trained (PromptStyle's keys). ``base_model`` and
    ``license``: of the model from elsewhere whose weights it started from, None for one that was trained from
    random weights. ``lineage``: what it was made from, itself last; an exported folder's is complete.
    ``files``: the mark of each file of an exported folder; empty in a stage's, whose record has them."""

    talk: dict[str, Any] | None = None
    base_model: str | None = None
    license: str | None = None
    lineage: tuple[Ancestor, ...] = ()
    files: dict[str, FileMark] = {}


def read_notes(model: Path) -> ModelNotes | None:
    """What a model's folder says of itself, None where it has no such file. Raises DamageError."""
    fix = "This file says how a model was made. Bring back a copy, or make the model again."
    return read_typed(ModelNotes, model / NOTES, fix, (OWN_HASH,))


def write_notes(model: Path, notes: ModelNotes) -> None:
    """Write what a model's folder says of itself."""
    write_whole(model / NOTES, sealed_text(notes.model_dump(mode="json")))


def note_prompts(model: Path, talk: Mapping[str, Any] | None) -> None:
    """Add to a model's folder how the prompts were written with which it was trained. A folder without a
    model stays as it is."""
    if is_model(model):
        notes = read_notes(model) or ModelNotes()
        write_notes(model, notes.model_copy(update={"talk": dict(talk) if talk is not None else None}))


def is_of_a_run(model: Path) -> bool:
    """Whether a folder is a stage's or in one, and so made by r1kit."""
    folders = list(model.absolute().parents)[:_DEEPEST]
    return any(folder.parent.name == "stages" and (folder / _RECORD).is_file() for folder in folders)


def prompt_settings(model: Path) -> dict[str, Any] | None:
    """How the prompts of the stage that made this model were written (PromptStyle's keys), as its record or
    an exported model's own file says; None for a model from elsewhere. Raises DamageError."""
    notes = read_notes(model)
    if notes is not None and notes.talk is not None:
        return dict(notes.talk)
    folder = StageFolder(model.parent)
    record = folder.finished() if model.parent.parent.name == "stages" else None
    settings = record.config.get("talk") if record is not None else None
    return dict(settings) if isinstance(settings, dict) else None


def accepted_identities(identity: Identity, changes: Iterable[AllowedChange]) -> Sequence[str]:
    """The digests that stand for this identity: its own, then those of the accepted changes."""
    return [identity.digest(), *(change.identity for change in changes)]


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a run's file, empty where there is no file. Raises DamageError where it is something
    else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DamageError(f"{file}: not JSON ({error}): bring back a copy, or redo that stage") from None
    if not isinstance(found, dict):
        raise DamageError(f"{file}: not a JSON object: bring back a copy, or redo that stage")
    return found


def read_sealed(file: Path, fix: str) -> dict[str, Any]:
    """The JSON object in a file of a run that holds its own hash, without that; empty where there is no file.
    Raises DamageError where the hash does not fit; an object without one is from an older r1kit and is read
    with a warning. ``fix``: what the user may do."""
    found = _read_object(file, fix)
    if found is None:
        return {}
    _check_seal(found, file, fix)
    return {key: value for key, value in found.items() if key != OWN_HASH}


def read_typed(kind: type[T], file: Path, fix: str, needed: Sequence[str] = ()) -> T | None:
    """What a file that holds its own hash says, None where there is no file. Raises DamageError naming file
    and key, also for a key of ``needed`` that is missing."""
    found = _read_object(file, fix)
    if found is None:
        return None
    for key in needed:
        if key not in found:
            raise DamageError(f"{file}: damaged: {key}: this key is needed\n{fix}")
    own = {key: value for key, value in found.items() if key != OWN_HASH}
    try:
        parsed = kind.model_validate(own)
    except ValidationError as error:
        raise DamageError(f"{describe(error, f'{file}: damaged')}\n{fix}") from None
    for key, value in parsed.model_dump(mode="json").items():
        if key in own and own[key] != value:  # such as a number as a text, which pydantic converts
            raise DamageError(f"{file}: damaged: {key}: not of the type that was written\n{fix}")
    _check_seal(found, file, fix)
    return parsed


def sealed_text(data: Mapping[str, Any]) -> str:
    """The text of a file that ``read_sealed`` reads."""
    return json.dumps(seal(data), indent=2, ensure_ascii=False) + "\n"


def _read_record(folder: Path, name: str, needed: Sequence[str]) -> StageRecord | None:
    file = folder / _RECORD
    fix = _redo(folder, "a stage's record")
    record = read_typed(StageRecord, file, fix, needed)
    if record is None:
        if _has_results(folder):
            raise DamageError(f"{file}: damaged: it is missing, and the folder has files of the stage\n{fix}")
        return None
    if record.name != name:
        raise DamageError(
            f"{file}: damaged: name: the record of stage {record.name!r}, in the folder of {name!r}\n{fix}"
        )
    return record


def _has_results(folder: Path) -> bool:
    """Whether a folder holds any file but temporary ones, so that it cannot be one that was just made."""
    return any(path.is_file() and path.suffix != ".tmp" for path in folder.rglob("*"))


def _read_object(file: Path, fix: str) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_bytes().decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamageError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{file}: damaged: not JSON ({error})\n{fix}") from None
    if not isinstance(found, dict):
        raise DamageError(f"{file}: damaged: a JSON object is expected, not {found!r:.40}\n{fix}")
    return found


def _check_seal(found: dict[str, Any], file: Path, fix: str) -> None:
    if OWN_HASH not in found:
        _warn_of_older(file)
    elif (wrong := seal_damage(found)) is not None:
        raise DamageError(f"{file}: damaged: {wrong}\n{fix}")


@functools.cache
def _warn_of_older(file: Path) -> None:
    print(
        f"r1kit: warning: {file}: it has no hash of its own, because an older r1kit wrote it; damage to it "
        "is not noticed",
        file=sys.stderr,
    )


def _redo(folder: Path, what: str) -> str:
    stage = folder.name.removesuffix(_PARTIAL)
    return f"This file is {what}. Bring back a copy, or redo the stage (r1kit run RECIPE --from {stage})."
