"""Say whether a finished run of recipes/mini.yaml is sound: every stage there, every figure within its band.

The bands are wide: the noise of a seed stays within them, a broken stage does not. What the stages should
reach is in docs/.

    python .ci/bands.py runs/mini
"""

import math
import sys
from pathlib import Path

from r1kit.config import R1kitError
from r1kit.figures import BY_NAME, REPORT, RunFigures, read

# Stage name -> figure (r1kit.figures.BY_NAME) -> (least, most). A stage with an empty table only has to have
# finished.
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

# (later, figure, earlier, least difference): what a stage must have gained on another whatever the level.
GAINS: list[tuple[str, str, str, float]] = [
    ("r1_zero", "pass@1", "pretrain", 0.4),
    ("r1_zero", "length", "pretrain", 8.0),
    ("reasoning_rl", "language", "r1_zero", 0.1),
    ("alignment_rl", "general", "r1_zero", 0.0),
    ("distill", "pass@1", "student_base", 0.2),
]

# The whole run: seconds, and megabytes of memory.
MOST_SECONDS, MOST_MEGABYTES = 3600.0, 4500.0


def complaints(run: RunFigures) -> list[str]:
    """Everything that is missing or out of its band, one line each; empty for a sound run."""
    there = {stage.name for stage in run.stages}
    found = [f"{name}: the stage is missing" for name in BANDS if name not in there]
    for name, bands in BANDS.items():
        for figure, (least, most) in bands.items():
            value = figure_of(run, name, figure)
            if name in there and not least <= value <= most:
                found.append(f"{name}: {figure} is {value:.3f}, not within {least} to {most}")
    for later, figure, earlier, least in GAINS:
        gain = figure_of(run, later, figure) - figure_of(run, earlier, figure)
        if not gain >= least:
            found.append(f"{later}: {figure} is {gain:+.3f} against {earlier}, not at least {least:+.3f}")
    if not 0 < run.seconds <= MOST_SECONDS:
        found.append(f"the run: seconds is {run.seconds}, not within 0 to {MOST_SECONDS}")
    if run.peak_rss_mb is None or not 0 < run.peak_rss_mb <= MOST_MEGABYTES:
        found.append(f"the run: peak_rss_mb is {run.peak_rss_mb}, not within 0 to {MOST_MEGABYTES}")
    return found


def figure_of(run: RunFigures, name: str, figure: str) -> float:
    """A figure of a stage's model; nan, which is within no band, where it was not measured."""
    value = BY_NAME[figure]
    models = [stage.figures for stage in run.stages if stage.name == name and stage.figures is not None]
    found = value(models[0]) if models else None
    return math.nan if found is None else found


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/mini")
    try:
        found = complaints(read(RunFigures, folder / REPORT))
    except R1kitError as error:
        sys.exit(f"bands: {error}")
    if found:
        sys.exit("bands: the run is not sound\n" + "\n".join(f"  {line}" for line in found))
    print(f"bands: {len(BANDS)} stages, all figures within their bands")


if __name__ == "__main__":
    main()
