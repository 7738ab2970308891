"""What a former run of a recipe shows and a plan can only assume: how long completions are, and how many of
the rows that a stage might train on it had."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError
from r1kit.records import stage_folder

# The figures of a stage's report.json that count the rows of a training, by its part.
COUNTED = {"": "rows", "helpful": "helpful_pairs", "safety": "safety_responses"}
ROWS_OF_ONE = {"helpful": 2.0}  # a pair is two rows


@dataclass(frozen=True, slots=True)
class Former:
    """``lengths``: a completion's mean length in tokens, by stage; ``rows``: rows that were trained on, by
    stage, or stage/part."""

    lengths: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, float] = field(default_factory=dict)


def former_run(run: Path) -> Former:
    """What the run in this folder shows. Raises ConfigError where it has no metrics."""
    lengths: dict[str, list[float]] = {}
    trained: dict[str, float] = {}
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--former {run}: no metrics of a run can be read there ({error})") from None
    for row in rows:
        stage, length, count = str(row.get("stage")), row.get("completions/mean_length"), row.get("rows")
        if isinstance(length, int | float):
            lengths.setdefault(stage, []).append(float(length))
            if isinstance(count, int | float):
                trained[stage] = trained.get(stage, 0.0) + float(count)
    means = {stage: sum(own) / len(own) for stage, own in lengths.items()}
    names = {path.name for path in (run / "stages").glob("*")} if (run / "stages").is_dir() else set()
    for name in sorted(names):
        facts = _facts(run, name)
        length = facts.get("mean_length")
        if isinstance(length, int | float) and name not in means:
            means[name] = float(length)
        for part, key in COUNTED.items():
            if isinstance(facts.get(key), int | float):
                trained[f"{name}/{part}".rstrip("/")] = float(facts[key]) * ROWS_OF_ONE.get(part, 1.0)
    return Former(means, trained)


def _facts(run: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((stage_folder(run, name).final / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
