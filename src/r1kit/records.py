"""The contents of a run's folder: stages with their records, models and reports.

A stage works in ``stages/NAME.partial``. When it has finished, the folder is renamed to ``stages/NAME``. The
folder has the stage's record: what the result depends on, and the size and hash of every file. Only
``StageFolder`` reads and writes records; it raises ``DamageError`` for a record that cannot be read."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from r1kit.config import Config, ConfigError, R1kitError, describe, suggest
from r1kit.files import hash_file, hash_text, is_temporary, remove_at_once, rename_whole, write_whole

STATES = "train_state"  # folder of training state (train/checkpoint.py)
SAMPLED = "sampled"  # rollouts of a stage that makes data, chunk by chunk (stages/sampling.py)

_RECORD = "stage.json"
_ALLOWED = "allowed.json"
_PARTIAL = ".partial"
_SHOWN = 5  # foreign files in a message

# The model meant by a run's folder: of the first of these kinds that the run has. A student or a reward
# model is chosen only by name.
PREFERRED_KINDS = ("alignment_rl", "sft", "reasoning_rl", "r1_zero", "cold_start", "pretrain")


class DamageError(R1kitError):
    """A file of a run is missing or is not as r1kit wrote it. The text names the file and the fix."""


class FileMark(Config):
    """What a stage recorded of one of its files."""

    bytes: int
    sha256: str


class AllowedChange(Config):
    """A change that --allow-change accepted: when (seconds since 1970), what had changed, and the identity
    that was accepted with it (of a finished stage the new one, of an unfinished stage the one before)."""

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
    how its work went. ``outputs`` and ``finished`` are there when it has finished; times are seconds since
    1970, ``seconds`` the time of all attempts together."""

    setting: dict[str, Any] = {}
    allowed: tuple[AllowedChange, ...] = ()
    started: float = 0.0
    attempts: int = 0
    seconds: float = 0.0
    peak_rss_mb: float | None = None
    versions: dict[str, str] = {}
    outputs: dict[str, FileMark] = {}
    finished: float | None = None


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
        """The record of the finished stage, None where there is none. Raises DamageError."""
        return _read_record(self.final)

    def begun(self) -> StageRecord | None:
        """The record of the stage that has begun and not finished. Raises DamageError."""
        return _read_record(self.partial)

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
        text = json.dumps(record.model_dump(mode="json", exclude_unset=True), indent=2, ensure_ascii=False)
        write_whole(self.partial / _RECORD, text + "\n")

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
                record = _read_record(folder)
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
        file = self.final / _ALLOWED
        try:
            return _CHANGES.validate_json(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except ValidationError as error:
            raise _damaged(file, "the list of accepted changes", error) from None

    def allow(self, change: AllowedChange) -> None:
        """Accept a change of the finished stage. Its record stays as it is, since others hold its hash."""
        changes = [known.model_dump(mode="json") for known in (*self.allowed(), change)]
        write_whole(self.final / _ALLOWED, json.dumps(changes, indent=2, ensure_ascii=False) + "\n")


_CHANGES = TypeAdapter(tuple[AllowedChange, ...])


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


def mark_files(folder: Path) -> dict[str, FileMark]:
    """Size and SHA-256 of every file that a stage has written, by its path below ``folder``."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {
        name: FileMark(bytes=path.stat().st_size, sha256=hash_file(path))
        for name, path in paths.items()
        if path.is_file() and name not in (_RECORD, _ALLOWED)
    }


def damages(folder: Path, record: StageRecord) -> Iterator[str]:
    """What is wrong with the files that a finished stage recorded, each with its name."""
    for name, mark in record.outputs.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing"
        elif (size := path.stat().st_size) != mark.bytes:
            yield f"{path}: {size} bytes, {mark.bytes} were written"
        elif hash_file(path) != mark.sha256:
            yield f"{path}: its SHA-256 is not that of what the stage wrote"


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
    """The model's folder that the user means: the folder itself, or that of a run's stage. Raises ConfigError
    where there is none."""
    if not run_or_model.is_dir():
        raise ConfigError(f"{run_or_model}: no such folder")
    if is_model(run_or_model):
        return run_or_model
    return find_stage_with_model(run_or_model, stage).model


def prompt_settings(model: Path) -> dict[str, Any] | None:
    """How the stage that made this model wrote its prompts ({"template", "opening"}), None for a model from
    elsewhere. Raises DamageError."""
    record = _read_record(model.parent)
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


def _read_record(folder: Path) -> StageRecord | None:
    file = folder / _RECORD
    try:
        return StageRecord.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise _damaged(file, "a stage's record", error) from None
    except OSError as error:
        raise DamageError(f"{file}: cannot be read: {error.strerror or error}") from None


def _damaged(file: Path, what: str, error: ValidationError) -> DamageError:
    stage = file.parent.name.removesuffix(_PARTIAL)
    return DamageError(
        f"{describe(error, f'{file}: damaged')}\nThis file is {what}. Bring back a copy, or redo the stage "
        f"(r1kit run RECIPE --from {stage})."
    )
