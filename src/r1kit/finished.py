"""Tell in a moment that a run is finished, without building its stages (which would import torch).

When a run ends, the fingerprint of what was asked (the merged recipe and r1kit's own source) is kept beside it. The same question
against the same finished folders needs no other answer. Anything that differs falls back to comparing stage by stage.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from r1kit.files import write_whole
from r1kit.layers import Layers

FILE = "finished.json"
STAGE_FILE = "stage.json"


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
    digest = hashlib.sha256(json.dumps(layers.data, sort_keys=True, default=str).encode())
    package = Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _stage_hashes(run_dir: Path) -> dict[str, str]:
    files = sorted((run_dir / "stages").glob(f"*/{STAGE_FILE}"))
    return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
