"""Which stage of R1 does what: train the arms of recipes/ablation.yaml, measure them on the same problems,
and write docs/ablation.md.

    python benchmarks/ablation.py              # all that is not done, three seeds; then the page
    python benchmarks/ablation.py --seeds 1    # one seed
    python benchmarks/ablation.py --page       # the page alone, from what there is

The run is that of the findings (runs/findings), so the base and the stages that both recipes have
are trained once. Arms are compared with the whole recipe problem by problem; each problem's difference is
averaged over the seeds that have finished both. The tables are kept in benchmarks/ablation.json, so the page
can be written where the models are no longer."""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from paired import RUN, Difference, Values, add_options, difference, train, values
from results import table

from r1kit.config import R1kitError
from r1kit.console import make_console
from r1kit.files import write_whole
from r1kit.records import finished_stages

RECIPE = Path("recipes/ablation.yaml")
FULL = "full"
KEPT = Path("benchmarks/ablation.json")
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

ALPHA = 0.05

WRITTEN_BY = (
    "Written by `python benchmarks/ablation.py` (`make ablation`) from finished runs, whose figures are kept "
    "in [ablation.json](../benchmarks/ablation.json); not edited by hand."
)
ARMS_IN_WORDS = (
    "Each arm is the whole recipe ([ablation.yaml](../recipes/ablation.yaml), in the small world of the "
    "[findings](findings.md)) without one stage. A difference is the arm minus the whole recipe on the same "
    "held-out problems, averaged over seeds for each problem, with its 95 % interval over problems and the "
    "p-value of the paired sign-flip test. They say whether these models differ. Where the seeds disagree in "
    "sign, the difference may be one between two trainings of the same recipe, so only differences with one "
    "sign in every seed and p < 0.05 are called an effect."
)
LOAD = "each stage by one process, on a machine with two cores that did other work too."
IN_WORDS = {"right": "the share of right answers", "general": "the gold score of general prompts"}
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


@dataclass(frozen=True, slots=True)
class Gap:
    """An arm minus the whole recipe in one measure, over the seeds that have both: ``low`` and ``high`` are
    the ends of its 95 % interval."""

    left_out: str
    measure: str
    difference: float
    low: float
    high: float
    p_value: float
    seeds: Sequence[float]

    @property
    def is_effect(self) -> bool:
        """Whether it has one sign in every seed and a small p-value."""
        return self.p_value < ALPHA and all(one * self.difference > 0 for one in self.seeds)


@dataclass(frozen=True, slots=True)
class Tables:
    """What the page shows: when the last stage was trained ("" before any was), a row of cells for each arm,
    and the differences."""

    day: str
    arms: Sequence[Sequence[str]]
    gaps: Sequence[Gap]


def tables_of(arms: Sequence[Arm]) -> Tables:
    """The tables of the arms as far as they are trained."""
    gaps = [own for arm in arms[1:] for own in _gaps(arm, arms[0])]
    return Tables(day_of_run() if any(arm.seeds for arm in arms) else "", [_row(arm) for arm in arms], gaps)


def page(tables: Tables) -> str:
    """docs/ablation.md."""
    when = f"Trained until {tables.day}, " + LOAD if tables.day else "**Not measured yet.**"
    return (
        "\n\n".join(
            [
                "# Which stage of R1 does what",
                f"{WRITTEN_BY} {when}",
                in_words(tables.gaps),
                ARMS_IN_WORDS,
                table(["left out", "seeds", *MEASURES], tables.arms),
                table(
                    ["left out", "measure", "minus the whole recipe", "95 % interval", "p", "each seed"],
                    [_cells(own) for own in tables.gaps],
                ),
                LEGEND,
            ]
        )
        + "\n"
    )


def in_words(gaps: Sequence[Gap]) -> str:
    """The effects as a sentence."""
    said = [
        f"without {own.left_out}, {IN_WORDS[own.measure]} {'falls' if own.difference < 0 else 'rises'} by "
        f"{abs(own.difference):.3f} ({own.low:+.3f} to {own.high:+.3f})"
        for own in gaps
        if own.is_effect
    ]
    if not said:
        return "No stage has an effect that all seeds agree on." if gaps else ""
    effects = "; ".join(said)
    return f"**{effects[0].upper()}{effects[1:]}.** No other difference is an effect."


def _row(arm: Arm) -> list[str]:
    cells = [
        f"{statistics.fmean(one.mean for one in found):.3f}" if found else "–"
        for found in arm.measured.values()
    ]
    return [ARMS[arm.stage], ", ".join(map(str, arm.seeds)) or "–", *cells]


def _gaps(arm: Arm, full: Arm) -> Iterator[Gap]:
    for measure in COMPARED:
        found = gap(arm, full, measure)
        if found is not None:
            test = found.test
            low, high = test.interval
            yield Gap(ARMS[arm.stage], measure, test.difference, low, high, test.p_value, found.seeds)


def _cells(own: Gap) -> list[str]:
    each = " ".join(f"{one:+.3f}" for one in own.seeds)
    interval = f"{own.low:+.3f} to {own.high:+.3f}"
    return [own.left_out, own.measure, f"{own.difference:+.3f}", interval, f"{own.p_value:.4f}", each]


def day_of_run() -> str:
    """The day on which the last stage of the run finished."""
    last = max(stage.record.finished or 0.0 for stage in finished_stages(RUN))
    return f"{datetime.fromtimestamp(last, UTC):%Y-%m-%d}"


def read_kept(file: Path) -> Tables | None:
    """The tables of an earlier run; None where nothing was kept."""
    if not file.is_file():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    return Tables(kept["day"], kept["arms"], [Gap(**own) for own in kept["gaps"]])


def write(seeds: Sequence[int], out: Path, kept: Path = KEPT) -> None:
    """Measure what is trained, keep it, and write the page; from what was kept where nothing is trained."""
    tables = tables_of([read_arm(stage, seeds) for stage in ARMS])
    if tables.day:
        write_whole(kept, json.dumps(asdict(tables), ensure_ascii=False, indent=1) + "\n")
    out.write_text(page(tables if tables.day else read_kept(kept) or tables), encoding="utf-8")


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
