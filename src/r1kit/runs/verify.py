"""Verify a run: hash again everything that its stages wrote and what they read, and say what was made from what.

A stage's record holds the hash of each of its files and of the records of its inputs, so the chain from the last model back to the first
data file is checked link by link. finished.json holds the hashes of the records themselves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError, R1kitError
from r1kit.files import hash_file
from r1kit.runs.fingerprint import FILE as FINISHED_FILE
from r1kit.jsonl import read_jsonl
from r1kit.runs.provenance import ALLOWED_FILE, STAGE_FILE, damages, named_files
from r1kit.records import STATES, FinishedStage, finished_stages, read_json


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found: a line of lineage for each stage, files that are damaged, and what a reader should know beside that."""

    run: str
    lineage: tuple[dict[str, Any], ...]
    damages: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(run_dir: Path) -> Examined:
    """Hash a run's files again. Raises ConfigError where the folder holds no run."""
    stages = finished_stages(run_dir)
    unfinished = sorted(folder for folder in run_dir.glob("stages/*.partial") if folder.is_dir())
    if not stages and not unfinished:
        raise ConfigError(f"{run_dir}: no run lies here (stages/*/{STAGE_FILE}); name a run's folder, such as runs/mini")
    found = [damage for stage in stages for damage in _stage_damages(stage, run_dir)]
    found += [*_record_damages(run_dir), *_metrics_damages(run_dir), *(damage for folder in unfinished for damage in _state_damages(folder))]
    lineage = tuple(_lineage(stage) for stage in stages)
    return Examined(str(run_dir), lineage, tuple(found), tuple(_notes(stages, unfinished)))


def as_lines(examined: Examined) -> Iterator[str]:
    """The findings as text: lineage, notes, and the verdict last."""
    yield f"{examined.run}:"
    for stage in examined.lineage:
        made = ", ".join([*(f"@{name}" for name in stage["inputs"]), *stage["files"]]) or "nothing but its recipe"
        yield f"  {stage['name']:<20} {stage['outputs']:>3} files  seed {stage['seed']}  from {made}"
        yield f"  {'':<20} record {stage['record'][:12]}  r1kit's code {str(stage['code'])[:12]}, torch {stage['torch']}"
    yield from (f"note: {note}" for note in examined.notes)
    yield from (f"DAMAGED: {damage}" for damage in examined.damages)
    total, stages = sum(stage["outputs"] for stage in examined.lineage), len(examined.lineage)
    found = len(examined.damages)
    yield f"damaged: {found}" if found else f"whole: {total} files of {stages} stages are as they were written"


def _stage_damages(stage: FinishedStage, run_dir: Path) -> Iterator[str]:
    yield from damages(stage.folder, stage.record.get("outputs", {}))
    for name, digest in stage.record.get("inputs", {}).items():
        record = run_dir / "stages" / name / STAGE_FILE
        if not record.is_file():
            yield f"{record}: missing, and {stage.name} was made from it"
        elif digest and hash_file(record) != digest and not (stage.folder / ALLOWED_FILE).exists():
            yield f"{record}: not the record that {stage.name} was made from"


def _record_damages(run_dir: Path) -> Iterator[str]:
    """Records that are not as they were when the run ended. A stage that was redone since has another one, and then the run is not finished."""
    for name, digest in read_json(run_dir / FINISHED_FILE).get("stages", {}).items():
        if (record := run_dir / "stages" / name).is_file() and hash_file(record) != digest:
            yield f"{record}: not the record that was there when the run ended"


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
        # Imports torch, which a finished run does without.
        from r1kit.train.checkpoint import damage_of

        yield from (damage for state in states if (damage := damage_of(state)) is not None)


def _lineage(stage: FinishedStage) -> dict[str, Any]:
    record: Mapping[str, Any] = stage.record
    return {
        "name": stage.name,
        "stage": stage.kind,
        "seed": record.get("seed"),
        "inputs": dict(record.get("inputs", {})),
        "files": dict(record.get("files", {})),
        "outputs": len(record.get("outputs", {})),
        "record": hash_file(stage.folder / STAGE_FILE),
        "code": record.get("setting", {}).get("code"),
        "torch": record.get("versions", {}).get("torch"),
    }


def _notes(stages: list[FinishedStage], unfinished: list[Path]) -> Iterator[str]:
    for stage in stages:
        if "outputs" not in stage.record:
            yield f"{stage.name}: made by an earlier r1kit, which recorded no hashes"
            continue
        known = {STAGE_FILE, ALLOWED_FILE, *stage.record["outputs"]}
        there = {path.relative_to(stage.folder).as_posix() for path in stage.folder.rglob("*") if path.is_file()}
        if extra := sorted(there - known):
            yield f"{stage.name}: not written by the stage: {', '.join(extra[:5])}"
        now = named_files(stage.record.get("config", {}))
        for name, digest in stage.record.get("files", {}).items():
            if name in now and now[name] != digest:
                yield f"{stage.name}: {name} has changed since it was read"
        for change in stage.record.get("allowed", []):
            yield f"{stage.name}: continued with --allow-change: {'; '.join(change['differences'])}"
        if (stage.folder / ALLOWED_FILE).exists():
            yield f"{stage.name}: kept with --allow-change (see {ALLOWED_FILE})"
    yield from (f"{folder.name}: not finished" for folder in unfinished)
