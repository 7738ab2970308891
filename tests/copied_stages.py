"""Copy a finished stage from one run to another, with what the log has of it."""

import json
import shutil
from pathlib import Path


def copy_stage(run: Path, stage: str, to: Path) -> None:
    shutil.copytree(run / "stages" / stage, to / "stages" / stage)
    if (run / "samples" / stage).is_dir():
        shutil.copytree(run / "samples" / stage, to / "samples" / stage)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (to / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["stage"] == stage))
