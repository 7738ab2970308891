"""Verify a run: hash everything again that its stages wrote and read, and list what was made from what.

A stage's record holds the hash of each of its files and of the records of its inputs, so the chain from the
last model back to the first data file is checked link by link. finished.json holds the hashes of the records
themselves.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError, R1kitError
from r1kit.jsonl import read_jsonl
from r1kit.records import (
    STATES,
    DamageError,
    FinishedStage,
    StageFolder,
    damages,
    foreign_files,
    read_json,
    record_hashes,
    stage_folder,
    stage_folders,
)
from r1kit.runs.fingerprint import FILE as FINISHED_FILE
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
    found += [damage for stage in stages for damage in _stage_damages(stage, run_dir)]
    found += [*_record_damages(run_dir, [stage.name for stage in stages]), *_metrics_damages(run_dir)]
    found += [damage for folder in unfinished for damage in _state_damages(folder.partial)]
    lineage = tuple(_lineage(stage) for stage in stages)
    return Examined(str(run_dir), lineage, tuple(found), tuple(_notes(stages, unfinished)))


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


def _stage_damages(stage: FinishedStage, run_dir: Path) -> Iterator[str]:
    yield from damages(stage.folder, stage.record)
    for name, digest in stage.record.inputs.items():
        now = stage_folder(run_dir, name).record_hash()
        if now is None:
            yield f"{run_dir / 'stages' / name}: its record is missing, and {stage.name} was made from it"
        elif digest and now != digest and not StageFolder(stage.folder).allowed():
            yield f"{run_dir / 'stages' / name}: its record is not the one that {stage.name} was made from"


def _record_damages(run_dir: Path, readable: list[str]) -> Iterator[str]:
    """Records that have changed since the run ended. If a stage was redone since then, the run does not count
    as finished."""
    now = record_hashes(run_dir)
    for name, digest in read_json(run_dir / FINISHED_FILE).get("stages", {}).items():
        if name.partition("/")[0] in readable and now.get(name, digest) != digest:
            yield f"{run_dir / 'stages' / name}: not the record that was there when the run ended"


def _metrics_damages(run_dir: Path) -> Iterator[str]:
    file = run_dir / "metrics.jsonl"
    if not file.exists():
        return
    steps: dict[tuple[str, str], int] = {}
    try:
        rows = list(read_jsonl(file))
    except R1kitError as error:
        yield str(error)
        return
    for number, row in rows:
        key = (str(row.get("stage")), str(row.get("part", "")))
        if row.get("step") != steps.get(key, -1) + 1:
            yield f"{file}:{number}: step {row.get('step')} of {key[0]} after step {steps.get(key, 'none')}"
        steps[key] = int(row.get("step", -1))


def _state_damages(folder: Path) -> Iterator[str]:
    states = sorted(state for place in folder.rglob(STATES) for state in place.glob("step_*"))
    if states:
        # Imported here, because it imports torch.
        from r1kit.train.checkpoint import damage_of

        yield from (damage for state in states if (damage := damage_of(state)) is not None)


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


def _notes(stages: list[FinishedStage], unfinished: list[StageFolder]) -> Iterator[str]:
    for stage in stages:
        if foreign := foreign_files(stage.folder, stage.record):
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
