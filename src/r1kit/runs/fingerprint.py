"""Detect quickly that a run is finished, without building its stages (which would import torch).

When a run ends, finished.json keeps a fingerprint of what was run (the merged recipe, the user's files that
it names, r1kit's own source), the hashes of the stages' records, of the run's own files, and of each line of
metrics.jsonl. If fingerprint and records are unchanged there is nothing to do but to check that the results
are whole; otherwise the stages are compared one by one. The file is removed when a stage is redone."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1kit.config import Config
from r1kit.files import PRIVATE, hash_text, write_whole
from r1kit.log_files import METRICS, line_damages, mark_lines
from r1kit.marks import hash_once
from r1kit.recipe.layers import Layers
from r1kit.records import DamageError, read_typed, record_hashes, sealed_text
from r1kit.runs.provenance import code_hash, named_files

FILE = "finished.json"
OWN_FILES = ("recipe.yaml", "env.json", "report.json", "report.md", "report.html")

_FIX = "This file says what the run was when it ended. Remove it; r1kit run RECIPE writes it again."


class FinishedRun(Config):
    """The content of finished.json: the fingerprint, the hash of each record by NAME/FILE, the marks of the
    lines of metrics.jsonl (None from an older r1kit), and the hashes of the run's own files."""

    fingerprint: str
    stages: dict[str, str]
    metrics: str | None = None
    files: dict[str, str] = {}


def note_finished(layers: Layers, run_dir: Path) -> None:
    """Write the fingerprint of a finished run of ``layers`` in ``run_dir``."""
    files = {name: hash_once(run_dir / name) for name in OWN_FILES if (run_dir / name).is_file()}
    found = {**_state(layers, run_dir), "metrics": mark_lines(run_dir / METRICS), "files": files}
    write_whole(run_dir / FILE, sealed_text(found), PRIVATE)


def forget_finished(run_dir: Path) -> None:
    """The run is not finished any more."""
    (run_dir / FILE).unlink(missing_ok=True)


def read_finished(run_dir: Path) -> FinishedRun | None:
    """What the run was when it ended, None where it has not. Raises DamageError."""
    return read_typed(FinishedRun, run_dir / FILE, _FIX)


def find_finished(layers: Layers) -> Path | None:
    """The run's folder if its fingerprint says that the run of ``layers`` is finished, else None. A damaged
    finished.json is no fingerprint; a warning says so."""
    out, name = layers.data.get("out", "runs/{name}"), layers.data.get("name")
    stages = layers.data.get("stages")
    if not (isinstance(out, str) and isinstance(name, str) and isinstance(stages, list)):
        return None
    # The fingerprint does not include the defaults of a stage in a user's file.
    if any(not isinstance(stage, dict) or ":" in str(stage.get("stage")) for stage in stages):
        return None
    run_dir = Path(out.replace("{name}", name)).expanduser()
    try:
        finished = read_finished(run_dir)
    except DamageError as error:
        print(f"r1kit: warning: {str(error).splitlines()[0]}; every stage is compared", file=sys.stderr)
        return None
    if finished is None or finished.metrics is None:
        return None
    same = {"fingerprint": finished.fingerprint, "stages": finished.stages} == _state(layers, run_dir)
    return run_dir if same and not any(own_file_damages(run_dir, finished)) else None


def end_damages(run_dir: Path) -> Iterator[str]:
    """What has changed in records and metrics since the run ended; nothing where it has not. A damaged
    finished.json is left out: whoever needs it reads it."""
    try:
        finished = read_finished(run_dir)
    except DamageError:
        return
    if finished is None:
        return
    now = record_hashes(run_dir)
    for name, digest in finished.stages.items():
        place = run_dir / "stages" / name
        if name not in now:
            yield f"{place}: missing; it was there when the run ended (by {run_dir / FILE})"
        elif now[name] != digest:
            yield f"{place}: not the record that was there when the run ended (by {run_dir / FILE})"
    if finished.metrics is not None:
        by = f"by {run_dir / FILE}"
        yield from (f"{damage} ({by})" for _, damage in line_damages(run_dir / METRICS, finished.metrics))


def own_file_damages(run_dir: Path, finished: FinishedRun) -> Iterator[str]:
    """Which of the run's own files are not as they were when the run ended. The next run writes them
    again."""
    for name, digest in finished.files.items():
        file = run_dir / name
        if not file.is_file():
            yield f"{file}: missing"
        elif hash_once(file) != digest:
            yield f"{file}: not as it was when the run ended"


def _state(layers: Layers, run_dir: Path) -> dict[str, Any]:
    described = json.dumps(layers.data, sort_keys=True, default=str)
    fingerprint = hash_text(json.dumps([described, named_files(layers.data), code_hash()]))
    return {"fingerprint": fingerprint, "stages": record_hashes(run_dir)}
