"""Say whether a finished run of recipes/mini.yaml is sound: every stage there, every figure within its band.

The bands are generous: the noise of a seed passes, a broken stage does not. What the stages are to reach
stands in docs/, not here.

    python .ci/bands.py runs/mini
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Stage name -> measure -> (least, most). A stage with an empty table needs only to have finished.
BANDS: dict[str, dict[str, tuple[float, float]]] = {
    "pretrain": {"pass@1": (0.05, 0.35), "format": (0.25, 0.75)},
    "r1_zero": {"pass@1": (0.65, 1.0), "format": (0.9, 1.0)},
    "cold_start": {"pass@1": (0.1, 0.9), "format": (0.2, 1.0)},
    "reasoning_rl": {"pass@1": (0.6, 1.0), "format": (0.85, 1.0), "language": (0.85, 1.0)},
    "rejection_sampling": {},
    "sft": {"pass@1": (0.6, 1.0), "format": (0.9, 1.0)},
    "reward_models": {},
    "alignment_rl": {"pass@1": (0.65, 1.0), "format": (0.9, 1.0), "language": (0.9, 1.0)},
    "student_base": {"pass@1": (0.0, 0.25)},
    "distill": {"pass@1": (0.3, 1.0), "format": (0.8, 1.0)},
    "evaluate": {},
}

# (later, measure, earlier, least difference): what a stage must have gained on another whatever the level.
GAINS: list[tuple[str, str, str, float]] = [
    ("r1_zero", "pass@1", "pretrain", 0.4),
    ("r1_zero", "length", "pretrain", 8.0),
    ("reasoning_rl", "language", "r1_zero", 0.1),
    ("alignment_rl", "general", "r1_zero", 0.0),
    ("distill", "pass@1", "student_base", 0.2),
]

# The whole run: seconds, and megabytes of memory.
MOST_SECONDS, MOST_MEGABYTES = 3600.0, 4500.0


def complaints(report: Mapping[str, Any]) -> list[str]:
    """Everything that is missing or out of its band, one line each; empty for a sound run."""
    stages = {stage["name"]: stage for stage in report.get("stages", [])}
    found = [f"{name}: the stage is missing" for name in BANDS if name not in stages]
    for name, bands in BANDS.items():
        for measure, (least, most) in bands.items():
            if name in stages and not least <= _figure(stages, name, measure) <= most:
                found.append(
                    f"{name}: {measure} is {_figure(stages, name, measure):.3f}, not within {least} to {most}"
                )
    for later, measure, earlier, least in GAINS:
        gain = _figure(stages, later, measure) - _figure(stages, earlier, measure)
        if not gain >= least:
            found.append(f"{later}: {measure} is {gain:+.3f} against {earlier}, not at least {least:+.3f}")
    for measure, most in (("seconds", MOST_SECONDS), ("peak_rss_mb", MOST_MEGABYTES)):
        value = report.get(measure)
        if not (isinstance(value, int | float) and 0 < value <= most):
            found.append(f"the run: {measure} is {value}, not within 0 to {most}")
    return found


def _figure(stages: Mapping[str, Any], name: str, measure: str) -> float:
    """A stage's figure; nan, which is within no band, where the report has none."""
    value = (stages.get(name, {}).get("eval") or {}).get(measure)
    return float(value) if isinstance(value, int | float) else math.nan


def main() -> None:
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/mini") / "report.json"
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"bands: {file}: {error}")
    found = complaints(report)
    if found:
        sys.exit("bands: the run is not sound\n" + "\n".join(f"  {line}" for line in found))
    print(f"bands: {len(BANDS)} stages, all figures within their bands")


if __name__ == "__main__":
    main()
