"""Write the measured part of docs/real.md and its drawing from the runs of the real model that are in runs/.

    python benchmarks/real.py            # reads runs/, or another folder: --runs FOLDER

Runs are found by name: real-0, real-1, real-2 (`make real-seeds`), countdown-0, countdown-1, countdown-2
(`make countdown`), real-countdown, real-r1 and real-gsm8k. A part of the page
whose runs are not there stays as it was written last, with its own date and revision; what was never measured
is called so, with the command that measures it. Every number and every verdict is computed here."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import SHARE, Curve, Figure, draw
from measured import (
    Finished,
    column_title,
    command,
    date,
    digits_of,
    machines,
    mean,
    model_names,
    protocol,
    read,
    seed,
    spread,
)
from results import CLOSE, OPEN, fill, table

from r1kit.config import R1kitError
from r1kit.report.run import read_evaluation

METRICS = ("pass@1", "cons@n", "format", "length")
STEPS = {1.0: "one step", 2.0: "two steps"}
CONTROL = "random_reward"
DRAWING = "real.svg"
CURVES = Figure(
    "R1-Zero of SmolLM2-135M-Instruct while it trains",
    "share of rollouts",
    [
        Curve("right", "r1_zero", "reward/accuracy/mean"),
        Curve("format", "r1_zero", "reward/format/mean"),
        Curve("right, with coins as rewards", CONTROL, "reward/accuracy/mean"),
    ],
    [("base", "pass@1"), ("r1_zero", "pass@1")],
    SHARE,
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a section of the page is to show: a figure of the mean over its runs, and the least that is
    wanted."""

    text: str
    value: float | None
    least: float

    def in_words(self) -> str:
        if self.value is None:
            return f"{self.text}: not measured."
        verdict = "reached" if self.value >= self.least else "**missed**"
        return f"{self.text}: {self.value:.2f}, wanted {self.least:g} or more, {verdict}."


@dataclass(frozen=True, slots=True)
class Section:
    """A heading of the page, the names of its runs, and the command that makes them."""

    title: str
    runs: tuple[str, ...]
    command: str


WORDS = Section("Word problems", ("real-0", "real-1", "real-2"), "make real-seeds")
COUNTDOWN = Section(
    "Countdown from random weights", ("countdown-0", "countdown-1", "countdown-2"), "make countdown"
)
OTHERS = (
    Section("Countdown on SmolLM2", ("real-countdown",), ".venv/bin/r1kit run recipes/real-countdown.yaml"),
    Section("The whole chain", ("real-r1",), ".venv/bin/r1kit run recipes/real-r1.yaml"),
    Section("GSM8K", ("real-gsm8k",), ".venv/bin/r1kit run recipes/real-gsm8k.yaml"),
)


def finished(folder: Path, names: Sequence[str]) -> list[Finished]:
    """The runs of these names that are finished; the others are reported on the terminal and left out."""
    found = []
    for name in names:
        if (folder / name).is_dir():
            try:
                found.append(read(folder / name))
            except R1kitError as error:
                print(f"left out: {error}", file=sys.stderr)
    return found


def stage_rows(runs: Sequence[Finished]) -> list[list[str]]:
    """A line per model of the main evaluation, in its order."""
    rows = []
    for name in model_names(runs):
        values = [spread([run.figure(name, metric) for run in runs], digits_of(metric)) for metric in METRICS]
        rows.append([f"`{name}`", *values])
    return rows


def control_rows(runs: Sequence[Finished]) -> list[list[str]]:
    measured = [run for run in runs if CONTROL in run.controls]
    if not measured:
        return [[f"`{CONTROL}` (control)", *("not measured yet" for _ in METRICS)]]
    values = [
        spread([run.control(CONTROL, metric) for run in measured], digits_of(metric)) for metric in METRICS
    ]
    return [[f"`{CONTROL}` (control)", *values]]


def model_table(runs: Sequence[Finished], with_control: bool = False) -> str:
    header = ["model", *(column_title(metric, runs) for metric in METRICS)]
    return table(header, stage_rows(runs) + (control_rows(runs) if with_control else []))


def by_steps(runs: Sequence[Finished]) -> list[str]:
    """A table of pass@1 on problems of one and of two steps, before and after, where there are both."""
    rows = []
    for name in ("base", "r1_zero"):
        scores = [one for run in runs if name in run.models for one in run.models[name].figures.by_difficulty]
        cells = [[one.pass_1 for one in scores if one.difficulty == steps] for steps in STEPS]
        if not all(cells):
            return []
        rows.append([f"`{name}`", *map(spread, cells)])
    return [table(["pass@1 on problems of", *STEPS.values()], rows)]


def costs(runs: Sequence[Finished]) -> str:
    """Where and how fast the runs were made."""
    seconds, memory = mean([run.total_seconds() for run in runs]), mean([run.peak_mb() for run in runs])
    said = [f"{len(runs)} run{'s' if len(runs) > 1 else ''} (seeds {', '.join(seed(run) for run in runs)})"]
    said += [f"{seconds / 60:.1f} minutes of stages on average"] if seconds else []
    said += [f"{memory / 1024:.1f} GB at most, all processes together"] if memory else []
    typed = " / ".join(dict.fromkeys(f"`{command(run)}`" for run in runs))
    return f"{', '.join(said)}. {protocol(runs)} {date(runs)}; {' / '.join(machines(runs))}. Typed: {typed}."


def rollouts(runs: Sequence[Finished]) -> str:
    """The same held-out problems as every model of the first run answered them: the first sample each, not
    chosen."""
    stage = next((one for one in runs[0].run.stages if one.kind == "evaluate"), None)
    examples = read_evaluation(stage).examples if stage else ()
    shown = []
    for example in examples:
        question = example.problem.strip().splitlines()[-1]
        texts = [f"{name}: {' '.join(text.split())}" for name, text in example.outputs.items()]
        shown.append("\n".join(["```text", f"{question} ({example.answer})", *texts, "```"]))
    return "\n\n".join(
        ["The first sample of each model to the first held-out problem, whatever it says:", *shown]
    )


def gains(runs: Sequence[Finished]) -> list[Target]:
    """The targets of the word problems."""
    base, after = (mean([run.figure(name, "pass@1") for run in runs]) for name in ("base", "r1_zero"))
    return [
        Target("pass@1 of R1-Zero over that of the original", after / base if base and after else None, 3.0),
        Target("Format of R1-Zero", mean([run.figure("r1_zero", "format") for run in runs]), 0.95),
    ]


def written_before(page: str) -> dict[str, str]:
    """The parts of a page's measured place, by their titles."""
    measured = page.partition(OPEN)[2].partition(CLOSE)[0]
    parts = (part.partition("\n") for part in f"\n{measured}".split("\n## ")[1:])
    return {title.strip(): text.strip() for title, _, text in parts}


def unmeasured(section: Section, before: Mapping[str, str]) -> list[str]:
    """The part of a section without runs: what was written before, or that it was not measured."""
    return [f"## {section.title}", before.get(section.title) or f"Not measured yet: `{section.command}`."]


def words_part(runs: Sequence[Finished]) -> list[str]:
    missing = len(WORDS.runs) - len(runs)
    return [
        f"## {WORDS.title}",
        model_table(runs, with_control=True),
        *by_steps(runs),
        " ".join(target.in_words() for target in gains(runs)),
        f"![training curves](figures/{DRAWING})",
        rollouts(runs),
        costs(runs) + (f" Seeds not measured yet: {missing} of {len(WORDS.runs)}." if missing else ""),
    ]


def countdown_part(runs: Sequence[Finished]) -> list[str]:
    reached = Target("pass@1 of R1-Zero", mean([run.figure("r1_zero", "pass@1") for run in runs]), 0.5)
    missing = len(COUNTDOWN.runs) - len(runs)
    return [
        f"## {COUNTDOWN.title}",
        model_table(runs),
        reached.in_words(),
        rollouts(runs),
        costs(runs) + (f" Seeds not measured yet: {missing} of {len(COUNTDOWN.runs)}." if missing else ""),
    ]


def other_part(section: Section, runs: Sequence[Finished]) -> list[str]:
    return [f"## {section.title}", model_table(runs), rollouts(runs), costs(runs)]


def compose(folder: Path, page: str = "") -> str:
    """The measured part of the page from the runs in a folder; without them from the page itself."""
    before, parts = written_before(page), []
    for section in (WORDS, COUNTDOWN, *OTHERS):
        runs = finished(folder, section.runs)
        if not runs:
            parts += unmeasured(section, before)
        elif section is WORDS:
            parts += words_part(runs)
        else:
            parts += countdown_part(runs) if section is COUNTDOWN else other_part(section, runs)
    return "\n\n".join(parts)


def write(folder: Path, out: Path) -> list[Path]:
    """Fill the marked place of the page and draw the curves; return the files that were written."""
    page = out.read_text(encoding="utf-8") if out.is_file() else ""
    if not fill(out, compose(folder, page)):
        raise R1kitError(f"{out}: no such file; it is part of the repository")
    runs = finished(folder, WORDS.runs)
    if not runs or not (svg := draw(CURVES, runs)):
        return [out]
    drawing = out.parent / "figures" / DRAWING
    drawing.parent.mkdir(parents=True, exist_ok=True)
    drawing.write_text(svg, encoding="utf-8")
    return [out, drawing]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("docs/real.md"))
    given = parser.parse_args(words)
    try:
        for file in write(given.runs, given.out):
            print(file)
    except (R1kitError, OSError) as error:
        sys.exit(f"real: {error}")


if __name__ == "__main__":
    main()
