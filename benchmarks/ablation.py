"""Which stage of R1 does what: train the arms of recipes/ablation.yaml, measure them on the same problems,
and write docs/ablation.md.

    python benchmarks/ablation.py              # all that is not done, three seeds; then the page
    python benchmarks/ablation.py --seeds 1    # one seed
    python benchmarks/ablation.py --page       # the page alone, from what there is

The run is that of the findings (runs/findings), so the base and the stages that both recipes have
are trained once. Arms are compared with the whole recipe problem by problem; each problem's difference is
averaged over the seeds that have finished both."""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from paired import RUN, Difference, Values, add_options, difference, train, values
from results import table

from r1kit.config import R1kitError
from r1kit.console import make_console
from r1kit.records import finished_stages

RECIPE = Path("recipes/ablation.yaml")
FULL = "full"
SEEDS = 3
# The stage whose model is the result of an arm, and what the arm leaves out.
ARMS = {
    FULL: "nothing",
    "no_cold_start": "the cold start",
    "no_reasoning_rl": "reasoning RL",
    "no_rejection_sampling": "rejection sampling",
    "no_sft": "SFT",
    "no_reward_models": "the reward models",
    "sft": "the final RL",
}
MEASURES = ("right", "majority", "format", "language", "length", "general")
COMPARED = ("right", "general")

WRITTEN_BY = (
    "Written by `python benchmarks/ablation.py` (`make ablation`) from finished runs; not edited by hand."
)
ARMS_IN_WORDS = (
    "Each arm is the whole recipe ([ablation.yaml](../recipes/ablation.yaml), in the small world of the "
    "[findings](findings.md)) without one stage. A difference is the arm minus the whole recipe on the same "
    "held-out problems, averaged over seeds for each problem, with its 95 % interval over problems and the "
    "p-value of the paired sign-flip test. They say whether these models differ; where the seeds disagree in "
    "sign, the difference is one of trainings, not of the recipe."
)
LEGEND = (
    "right, majority (of 8), format, language: shares; length: tokens; general: gold score of general "
    "prompts. `–`: not run yet."
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm as measured: by measure, the values of the seeds that have finished it."""

    stage: str
    seeds: Sequence[int]
    measured: dict[str, list[Values]]


def read_arm(stage: str, seeds: Sequence[int]) -> Arm:
    """Measure an arm in every seed that has finished it."""
    used: list[int] = []
    measured: dict[str, list[Values]] = {measure: [] for measure in MEASURES}
    for seed in seeds:
        own = {measure: values(f"{stage}.{measure}", seed) for measure in MEASURES}
        if all(own.values()):
            used.append(seed)
            for measure, found in own.items():
                if found is not None:
                    measured[measure].append(found)
    return Arm(stage, used, measured)


def gap(arm: Arm, full: Arm, measure: str) -> Difference | None:
    """The arm minus the whole recipe, over the seeds that have both; None where there is none."""
    shared = [seed for seed in arm.seeds if seed in full.seeds]
    pairs = [
        (arm.measured[measure][arm.seeds.index(seed)], full.measured[measure][full.seeds.index(seed)])
        for seed in shared
    ]
    return difference(pairs) if pairs else None


def page(arms: Sequence[Arm]) -> str:
    """docs/ablation.md."""
    done = {seed for arm in arms for seed in arm.seeds}
    return (
        "\n\n".join(
            [
                "# Which stage of R1 does what",
                f"{WRITTEN_BY} {_when(sorted(done))}",
                ARMS_IN_WORDS,
                table(["left out", "seeds", *MEASURES], [_row(arm) for arm in arms]),
                table(
                    ["left out", "measure", "minus the whole recipe", "95 % interval", "p", "each seed"],
                    [row for arm in arms[1:] for row in _differences(arm, arms[0])],
                ),
                LEGEND,
            ]
        )
        + "\n"
    )


def _row(arm: Arm) -> list[str]:
    cells = [
        f"{statistics.fmean(one.mean for one in found):.3f}" if found else "–"
        for found in arm.measured.values()
    ]
    return [ARMS[arm.stage], ", ".join(map(str, arm.seeds)) or "–", *cells]


def _differences(arm: Arm, full: Arm) -> list[list[str]]:
    rows = []
    for measure in COMPARED:
        found = gap(arm, full, measure)
        cells = ["–"] * 4
        if found is not None:
            low, high = found.test.interval
            each = " ".join(f"{one:+.3f}" for one in found.seeds)
            cells = [
                f"{found.test.difference:+.3f}",
                f"{low:+.3f} to {high:+.3f}",
                f"{found.test.p_value:.4f}",
                each,
            ]
        rows.append([ARMS[arm.stage], measure, *cells])
    return rows


def _when(seeds: Sequence[int]) -> str:
    """When the stages were trained, in words."""
    if not seeds:
        return "**Not measured yet.**"
    last = datetime.fromtimestamp(max(stage.record.finished or 0.0 for stage in finished_stages(RUN)), UTC)
    return f"{last:%Y-%m-%d}; one process, next to other work."


def write(seeds: Sequence[int], out: Path) -> None:
    """Measure what is trained, and write the page."""
    out.write_text(page([read_arm(stage, seeds) for stage in ARMS]), encoding="utf-8")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, SEEDS, Path("docs/ablation.md"))
    given = parser.parse_args(words)
    seeds = range(given.seeds)
    try:
        for seed in () if given.page else seeds:
            train(RECIPE, seed, make_console())
            write(seeds, given.out)
        write(seeds, given.out)
    except (R1kitError, OSError) as error:
        sys.exit(f"ablation: {error}")
    print(given.out)


if __name__ == "__main__":
    main()
