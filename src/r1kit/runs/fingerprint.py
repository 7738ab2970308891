"""Detect quickly that a run is finished, without building its stages (which would import torch).

When a run ends, finished.json keeps a fingerprint of what was run (the merged recipe, the user's files that
it names, r1kit's own source) and the hashes of the stages' records. If both are unchanged there is nothing to
do; otherwise the stages are compared one by one."""

import json
from pathlib import Path
from typing import Any

from r1kit.files import PRIVATE, hash_text, write_whole
from r1kit.recipe.layers import Layers
from r1kit.records import record_hashes
from r1kit.runs.provenance import code_hash, named_files

FILE = "finished.json"


def note_finished(layers: Layers, run_dir: Path) -> None:
    """Write the fingerprint of a finished run of ``layers`` in ``run_dir``."""
    write_whole(run_dir / FILE, json.dumps(_state(layers, run_dir), indent=2) + "\n", PRIVATE)


def find_finished(layers: Layers) -> Path | None:
    """The run's folder if its fingerprint says that the run of ``layers`` is finished, else None."""
    out, name = layers.data.get("out", "runs/{name}"), layers.data.get("name")
    stages = layers.data.get("stages")
    if not (isinstance(out, str) and isinstance(name, str) and isinstance(stages, list)):
        return None
    # The fingerprint does not include the defaults of a stage in a user's file.
    if any(not isinstance(stage, dict) or ":" in str(stage.get("stage")) for stage in stages):
        return None
    run_dir = Path(out.replace("{name}", name)).expanduser()
    try:
        record: dict[str, Any] = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return run_dir if record == _state(layers, run_dir) else None


def _state(layers: Layers, run_dir: Path) -> dict[str, Any]:
    described = json.dumps(layers.data, sort_keys=True, default=str)
    fingerprint = hash_text(json.dumps([described, named_files(layers.data), code_hash()]))
    return {"fingerprint": fingerprint, "stages": record_hashes(run_dir)}
