"""Verify a run: hash everything again that its stages wrote and read, and list what was made from what.

A stage's record holds the hash of each of its files and of the records of its inputs, so the chain from the
last model back to the first data file is checked link by link. It also holds the marks of what the stage
logged. finished.json holds the hashes of the records, of the run's own files, and of the lines of the log.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from r1kit.config import ConfigError
from r1kit.log_files import METRICS, foreign_samples, log_damages, read_metrics
from r1kit.records import (
    STATES,
    DamageError,
    FinishedStage,
    StageFolder,
    damages,
    foreign_files,
    stage_folder,
    stage_folders,
)
from r1kit.runs.fingerprint import end_damages, own_file_damages, read_finished
from r1kit.runs.provenance import named_files


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found: a line of lineage for each stage, files that are damaged, and notes on the rest."""

    run: str
    lineage: tuple[dict[str, Any], ...]
    damages: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(run_dir: Path) -> Examined:
    """Hash a run's files again. Raises ConfigError where the folder holds no run."""
    stages: list[FinishedStage] = []
    unfinished: list[StageFolder] = []
    found: list[str] = []
    for folder in stage_folders(run_dir):
        try:
            record = folder.finished()
        except DamageError as error:
            found.append(str(error))
            continue
        if record is not None:
            stages.append(FinishedStage(folder.final, record))
        if folder.partial.is_dir():
            unfinished.append(folder)
    if not (stages or unfinished or found):
        raise ConfigError(f"{run_dir}: no run here (no stages/NAME); name a run's folder, such as runs/mini")
    stages.sort(key=lambda stage: stage.record.finished or 0.0)
    for stage in stages:
        found += [*finished_damages(run_dir, stage.name), *link_damages(run_dir, stage)]
    found += [*_end_damages(run_dir), *_metrics_damages(run_dir)]
    found += [damage for folder in unfinished for damage in _state_damages(folder)]
    lineage = tuple(_lineage(stage) for stage in stages)
    return Examined(str(run_dir), lineage, tuple(_once(found)), tuple(_notes(run_dir, stages, unfinished)))


def require_whole(run_dir: Path) -> None:
    """Hash the results and the log of a finished run again. Raises DamageError naming what is damaged."""
    names = [folder.name for folder in stage_folders(run_dir) if folder.final.is_dir()]
    found = [damage for name in names for damage in finished_damages(run_dir, name)]
    if found := list(_once([*found, *end_damages(run_dir)])):
        raise_damages(run_dir, found)


def finished_damages(run_dir: Path, name: str) -> Iterator[str]:
    """What is wrong with the files and the log of a finished stage; nothing where it has not finished. Raises
    DamageError for its record."""
    folder = stage_folder(run_dir, name)
    if (record := folder.finished()) is not None:
        yield from damages(folder.final, record)
        if record.log is not None:
            yield from log_damages(run_dir, name, record.log)


def raise_damages(run_dir: Path, found: Sequence[str]) -> NoReturn:
    """Raise DamageError with the list of what is damaged and what the user may do."""
    listed = "\n  ".join(found)
    names = [folder.name for folder in stage_folders(run_dir)]
    stage = next((name for name in names if f"/{name}/" in listed or f"stage {name} " in listed), "STAGE")
    raise DamageError(
        f"{run_dir} is damaged:\n  {listed}\nBring back a copy of what is named, or redo the stage that "
        f"wrote it (r1kit run RECIPE --from {stage})."
    )


def as_lines(examined: Examined) -> Iterator[str]:
    """The findings as text: lineage, notes, and the verdict last."""
    yield f"{examined.run}:"
    for stage in examined.lineage:
        sources = [*(f"@{name}" for name in stage["inputs"]), *stage["files"]]
        made = ", ".join(sources) or "nothing but its recipe"
        code = f"r1kit's code {str(stage['code'])[:12]}, torch {stage['torch']}"
        yield f"  {stage['name']:<20} {stage['outputs']:>3} files  seed {stage['seed']}  from {made}"
        yield f"  {'':<20} record {stage['record'][:12]}  {code}"
    yield from (f"note: {note}" for note in examined.notes)
    yield from (f"DAMAGED: {damage}" for damage in examined.damages)
    total, stages = sum(stage["outputs"] for stage in examined.lineage), len(examined.lineage)
    found = len(examined.damages)
    whole = f"whole: {total} files of {stages} stages are as they were written"
    yield f"damaged: {found}" if found else whole


def link_damages(run_dir: Path, stage: FinishedStage) -> Iterator[str]:
    """Which records of its inputs are not those that a finished stage was made from."""
    for name, digest in stage.record.inputs.items():
        now = stage_folder(run_dir, name).record_hash()
        if now is None:
            yield f"{run_dir / 'stages' / name}: its record is missing, and {stage.name} was made from it"
        elif digest and now != digest and not StageFolder(stage.folder).allowed():
            yield f"{run_dir / 'stages' / name}: its record is not the one that {stage.name} was made from"


def _end_damages(run_dir: Path) -> Iterator[str]:
    """What has changed since the run ended, finished.json included."""
    try:
        finished = read_finished(run_dir)
    except DamageError as error:
        yield str(error)
        return
    yield from end_damages(run_dir)
    if finished is not None:
        yield from own_file_damages(run_dir, finished)


def _metrics_damages(run_dir: Path) -> Iterator[str]:
    """Lines of metrics.jsonl that cannot be read, or do not follow the line before."""
    file = run_dir / METRICS
    steps: dict[tuple[str, str], int] = {}
    for line in read_metrics(file):
        if line.row is None:
            if not line.torn:  # a kill cuts off a last line; the next run repairs it
                yield line.error
            continue
        key, step = (line.row["stage"], str(line.row.get("part", ""))), line.row["step"]
        if step != steps.get(key, -1) + 1:
            yield f"{file}:{line.number}: step {step} of {key[0]} after step {steps.get(key, 'none')}"
        steps[key] = step


def _once(found: Iterable[str]) -> Iterator[str]:
    """Each damage once: of those that name the same line of a file, the first."""
    places: set[str] = set()
    for damage in found:
        place = damage.partition(": ")[0]
        of_line = place.rpartition(":")[2].isdigit()
        if damage not in places and not (of_line and place in places):
            yield damage
        places |= {damage, place}


def _state_damages(folder: StageFolder) -> Iterator[str]:
    try:
        record = folder.begun()
    except DamageError as error:
        yield str(error)
        return
    states = sorted(state for place in folder.partial.rglob(STATES) for state in place.glob("step_*"))
    if states:
        # Imported here, because it imports torch.
        from r1kit.train.checkpoint import damage_of

        owners = record.owners() if record is not None else ()
        yield from (damage for state in states if (damage := damage_of(state, owners)) is not None)


def _lineage(stage: FinishedStage) -> dict[str, Any]:
    record = stage.record
    return {
        "name": stage.name,
        "stage": stage.kind,
        "seed": record.seed,
        "inputs": dict(record.inputs),
        "files": dict(record.files),
        "outputs": len(record.outputs),
        "record": StageFolder(stage.folder).record_hash(),
        "code": record.setting.get("code"),
        "torch": record.versions.get("torch"),
    }


def _notes(run_dir: Path, stages: list[FinishedStage], unfinished: list[StageFolder]) -> Iterator[str]:
    for stage in stages:
        foreign = foreign_files(stage.folder, stage.record)
        foreign += foreign_samples(stage.folder.parents[1], stage.name)
        if foreign:
            yield f"{stage.name}: not written by the stage: {', '.join(foreign[:5])}"
        now = named_files(stage.record.config)
        for name, digest in stage.record.files.items():
            if name in now and now[name] != digest:
                yield f"{stage.name}: {name} has changed since it was read"
        for change in stage.record.allowed:
            yield f"{stage.name}: continued with --allow-change: {'; '.join(change.differences)}"
        for change in StageFolder(stage.folder).allowed():
            yield f"{stage.name}: kept with --allow-change: {'; '.join(change.differences)}"
    yield from (f"{folder.partial.name}: not finished" for folder in unfinished)
    begun = {stage.name for stage in stages} | {folder.name for folder in unfinished}
    logged = {line.row["stage"] for line in read_metrics(run_dir / METRICS) if line.row is not None}
    for name in sorted(logged - begun):
        yield f"{run_dir / METRICS}: rows of stage {name}, which has not begun; its next run removes them"
    if strangers := foreign_samples(run_dir):
        yield f"not written by r1kit: {', '.join(strangers[:5])}"
