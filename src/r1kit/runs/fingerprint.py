"""Tell in a moment that a run is finished, without building its stages (which would import torch).

When a run ends, the fingerprint of what was asked (the merged recipe, the user's files that it names, r1kit's own source) is kept beside it.
The same question against the same finished folders needs no other answer. Anything that differs falls back to comparing stage by stage.
"""

import json
from pathlib import Path
from typing import Any

from r1kit.files import hash_file, hash_text, write_whole
from r1kit.recipe.layers import Layers
from r1kit.runs.provenance import ALLOWED_FILE, STAGE_FILE, code_hash, named_files

FILE = "finished.json"


def note_finished(layers: Layers, run_dir: Path) -> None:
    """Remember that ``run_dir`` holds everything that ``layers`` asks for."""
    record = {"fingerprint": _fingerprint(layers), "stages": _stage_hashes(run_dir)}
    write_whole(run_dir / FILE, json.dumps(record, indent=2) + "\n")


def find_finished(layers: Layers) -> Path | None:
    """The run's folder if everything that ``layers`` asks for is known to be there, else None."""
    out, name, stages = layers.data.get("out", "runs/{name}"), layers.data.get("name"), layers.data.get("stages")
    if not (isinstance(out, str) and isinstance(name, str) and isinstance(stages, list)):
        return None
    # A stage of the user's own has defaults that the fingerprint does not see.
    if any(not isinstance(stage, dict) or ":" in str(stage.get("stage")) for stage in stages):
        return None
    run_dir = Path(out.replace("{name}", name)).expanduser()
    try:
        record: dict[str, Any] = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = record == {"fingerprint": _fingerprint(layers), "stages": _stage_hashes(run_dir)}
    return run_dir if same else None


def _fingerprint(layers: Layers) -> str:
    asked = json.dumps(layers.data, sort_keys=True, default=str)
    return hash_text(json.dumps([asked, named_files(layers.data), code_hash()]))


def _stage_hashes(run_dir: Path) -> dict[str, str]:
    files = sorted(file for name in (STAGE_FILE, ALLOWED_FILE) for file in (run_dir / "stages").glob(f"*/{name}"))
    return {f"{file.parent.name}/{file.name}": hash_file(file) for file in files}
