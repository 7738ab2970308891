"""Write docs/results.md from finished runs of the miniature, its figures, and the marked places of README.md
and docs/stages/.

    python benchmarks/results.py runs/mini-0 runs/mini-1 runs/mini-2 --out docs/results.md

The runs are seeds of one recipe, all measured on the same held-out problems, so the spread over them is that
of training. Control runs (recipes/controls.yaml) are stages of the same folders; those that have them are
used. Numbers reach the documentation through this command only. Every sentence is computed; a target that was
missed, and a figure that was not measured, are reported as that."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from claims import CLAIMS, CONTROL_CLAIMS, Claim, best_student_rl
from figures import draw_all, title_of
from measured import (
    DASH,
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

from r1kit.config import R1kitError
from r1kit.log import duration
from r1kit.report.sentences import say_checking, say_length

OPEN, CLOSE = "<!-- results -->", "<!-- /results -->"
METRICS = ("pass@1", "cons@n", "format", "language", "length", "general", "direct")
SHORT_METRICS = METRICS[:-1]
Show = Callable[[Sequence[float | None], int], str]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|"
    return "\n".join(
        ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]
    )


def _header(runs: Sequence[Finished], metrics: Sequence[str]) -> list[str]:
    return ["", *(column_title(metric, runs) for metric in metrics)]


def stage_table(runs: Sequence[Finished], names: Sequence[str], metrics: Sequence[str], show: Show) -> str:
    """A line per model, a column per metric; ``show`` writes the values of the runs."""
    rows = [
        [name, *(show([run.figure(name, metric) for run in runs], digits_of(metric)) for metric in metrics)]
        for name in names
    ]
    return table(_header(runs, metrics), rows)


def tall(values: Sequence[float | None], digits: int) -> str:
    """The mean above its spread, for tables of many columns."""
    return spread(values, digits, "<br>")


def short(values: Sequence[float | None], digits: int) -> str:
    """The mean alone, in two digits."""
    found = mean(values)
    return DASH if found is None else f"{found:.{min(digits, 2)}f}"


def task_table(runs: Sequence[Finished]) -> str:
    models = [model for run in runs for model in run.models.values()]
    tasks = list(dict.fromkeys(task for model in models for task in model.figures.tasks))

    def cell(name: str, task: str) -> str:
        found = [model.figures.tasks.get(task) for run in runs if (model := run.models.get(name))]
        return tall([scores.pass_1 if scores else None for scores in found], 3)

    return table(["", *tasks], [[name, *(cell(name, task) for task in tasks)] for name in model_names(runs)])


def control_table(runs: Sequence[Finished]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.controls))

    def row(name: str) -> list[str]:
        made = [run.seconds(run.controls[name].stage) for run in runs if name in run.controls]
        return [
            name,
            *(tall([run.control(name, m) for run in runs], digits_of(m)) for m in SHORT_METRICS),
            tall(made, 0),
        ]

    return table([*_header(runs, SHORT_METRICS), "seconds of its stage"], [row(name) for name in names])


def time_table(runs: Sequence[Finished]) -> str:
    stages = [stage.name for stage in runs[0].run.stages if stage.name in runs[0].main_stages]
    rows = [[name, spread([run.seconds(name) for run in _timed(runs)], 0)] for name in stages]
    return table(
        ["stage", "seconds"], [*rows, ["**all**", spread([run.total_seconds() for run in _timed(runs)], 0)]]
    )


def _timed(runs: Sequence[Finished]) -> Sequence[Finished]:
    """The runs whose time is the recipe's; all of them where none is."""
    return [run for run in runs if run.recipe_seconds() is not None] or runs


def run_table(runs: Sequence[Finished]) -> str:
    def row(run: Finished) -> list[str]:
        peak = run.peak_mb()
        memory = DASH if peak is None else f"{peak:.0f} MB"
        return [
            run.name,
            seed(run),
            f"`{command(run)}`",
            str(run.processes or DASH),
            f"{run.total_seconds():.0f} s",
            memory,
        ]

    return table(
        ["run", "seed", "last command", "processes", "time of its stages", "memory at most"],
        [row(run) for run in runs],
    )


def claim_table(runs: Sequence[Finished], claims: Sequence[Claim]) -> str:
    def row(claim: Claim) -> list[str]:
        measured, verdict = claim.judged(runs)
        return [claim.text, f"{claim.sign} {claim.bound:g}", measured, verdict]

    return table(["", "target", "measured", "verdict"], [row(claim) for claim in claims])


@dataclass(frozen=True, slots=True)
class Page:
    """What a stage's page shows: the model before and after, what the stage reports of itself, its
    figures."""

    before: str = ""
    after: str = ""
    facts: Sequence[str] = ()
    figures: Sequence[str] = ()


PAGES: dict[str, Page] = {
    "pretrain": Page(after="base", facts=("loss", "tokens"), figures=("pretrain",)),
    "r1_zero": Page("base", "r1_zero", figures=("r1_zero", "r1_zero_length")),
    "cold_start": Page("r1_zero", "cold_start", facts=("rows",), figures=("cold_start",)),
    "reasoning_rl": Page("cold_start", "reasoning_rl", figures=("reasoning_rl", "language")),
    "rejection_sampling": Page(facts=("sampled", "correct", "kept", "general")),
    "sft": Page("reasoning_rl", "sft", facts=("rows",), figures=("sft",)),
    "reward_models": Page(
        facts=("helpful_pairs", "helpful_accuracy", "safety_responses", "safety_accuracy"),
        figures=("reward_models",),
    ),
    "alignment_rl": Page("sft", "alignment_rl", figures=("alignment_rl", "hacking")),
    "distill": Page("student_base", "distill", facts=("rows",), figures=("distill",)),
    "evaluate": Page(figures=("direct",)),
}


def compose(runs: Sequence[Finished], drawn: Mapping[str, str]) -> str:
    """docs/results.md."""
    count = f"{len(runs)} runs" if len(runs) > 1 else "one run, so its spread is not known"
    parts = [
        "# Results of the miniature",
        f"Written by `benchmarks/results.py` from finished runs; not edited by hand. {date(runs)}, {count}.",
        "A cell is the mean over runs, in brackets least..most and the standard deviation. All runs "
        "are measured on the same held-out problems.",
        "## Where and how",
        _list(machines(runs)),
        run_table(runs),
        "Times are those of the stages, added up; starting and the report come on top.",
        "## Targets",
        claim_table(runs, CLAIMS),
        "## Every stage",
        protocol(runs),
        stage_table(runs, model_names(runs), METRICS, tall),
        "## pass@1 by task",
        task_table(runs),
        "## R1-Zero",
        *_shown(drawn, "r1_zero", "r1_zero_length", "direct"),
        _list(_lengths(runs)),
        "## Controls",
        *_controls(runs, drawn),
        "## Time",
        time_table(runs),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _controls(runs: Sequence[Finished], drawn: Mapping[str, str]) -> list[str]:
    having = [run for run in runs if run.controls]
    if not having:
        return ["Not run: `make controls` adds them to a finished run."]
    said = [
        f"Stages of {', '.join(run.name for run in having)} (recipes/controls.yaml), each with the seed "
        "of the stage that it is compared with.",
        claim_table(having, CONTROL_CLAIMS),
        control_table(having),
    ]
    for run in having:
        best = best_student_rl(run)
        if best and (seconds := run.seconds(run.controls[best].stage)) is not None:
            spent = run.seconds("distill")
            other = "not recorded" if spent is None else f"{spent:.0f} s, the teacher's sampling included"
            said.append(
                f"{run.name}: the best student by RL is {best} ({seconds:.0f} s); distillation took {other}. "
                "It was chosen on the problems that it is judged by, which favours RL."
            )
    return said + _shown(drawn, "language", "hacking")


def _lengths(runs: Sequence[Finished]) -> list[str]:
    """Why the length changes and what checking does, in the words of the report, for each run."""
    said = []
    for run in runs:
        base, zero = run.models.get("base"), run.models.get("r1_zero")
        if base and zero:
            said.append(f"{run.name}: {' '.join([*say_length(base, zero), *say_checking(base, zero)])}")
    return said


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _shown(drawn: Mapping[str, str], *names: str, folder: str = "figures") -> list[str]:
    return [f"![{title_of(name)}]({folder}/{name}.svg)" for name in names if name in drawn]


def readme_part(runs: Sequence[Finished]) -> str:
    seeds = ", ".join(seed(run) for run in runs)
    timed = _timed(runs)
    taken = duration(mean([run.total_seconds() for run in timed]) or 0.0)
    head = f"{date(runs)}, seed{'s' if len(runs) > 1 else ''} {seeds}: {taken} of stages"
    head += (
        f" on {runs[0].run.environment.get('cpus', 'an unknown number of')} cores, at most "
        f"{spread([run.peak_mb() for run in timed], 0)} MB."
    )

    def those(chosen: Callable[[Claim, Sequence[Finished]], bool]) -> str:
        return "; ".join(
            f"{claim.text}: {claim.judged(runs)[0]} (target {claim.sign} {claim.bound:g})"
            for claim in CLAIMS
            if chosen(claim, runs)
        )

    missed, mean_only = those(Claim.failed), those(Claim.holds_on_average)
    said = [f"Not reached: {missed}."] if missed else []
    said += [f"Reached by the mean of the runs and not by each of them: {mean_only}."] if mean_only else []
    said = said or ["Every target that was measured in these runs was reached."]
    where = "Spread, tasks, curves, controls and every target: [docs/results.md](docs/results.md)."
    return "\n\n".join([head, stage_table(runs, model_names(runs), SHORT_METRICS, short), *said, where])


def page_part(name: str, page: Page, runs: Sequence[Finished], drawn: Mapping[str, str]) -> str:
    taken = spread([run.seconds(name) for run in _timed(runs)], 0)
    parts = [f"Measured {date(runs)} over {len(runs)} run{'s' if len(runs) > 1 else ''}; it took {taken} s."]
    models = [model for model in (page.before, page.after) if model]
    if models:
        parts.append(stage_table(runs, models, METRICS, tall))
    facts = [
        f"{key.replace('_', ' ')} {_fact(values)}"
        for key in page.facts
        if mean(values := [run.fact(name, key) for run in runs]) is not None
    ]
    parts += [f"The stage reports: {', '.join(facts)}."] if facts else []
    return "\n\n".join([*parts, *_shown(drawn, *page.figures, folder="../figures")])


def _fact(values: Sequence[float | None]) -> str:
    counted = all(value is None or value == int(value) for value in values)
    return spread(values, 0 if counted else 3)


def fill(file: Path, text: str) -> bool:
    """Put ``text`` between the file's marks. False where there is no such file; raises R1kitError where it
    lacks its one pair of marks."""
    if not file.is_file():
        return False
    before, opened, rest = file.read_text(encoding="utf-8").partition(OPEN)
    _, closed, after = rest.partition(CLOSE)
    if not opened or not closed or OPEN in after:
        raise R1kitError(f"{file}: exactly one {OPEN} ... {CLOSE} is needed; put it where the results belong")
    file.write_text(f"{before}{OPEN}\n{text}\n{CLOSE}{after}", encoding="utf-8")
    return True


def write(runs: Sequence[Finished], out: Path) -> list[Path]:
    """Write ``out`` (docs/results.md), figures/ and stages/*.md in its folder and README.md above it; return
    what was written.

    README.md and the pages of stages get their marked places filled where they exist.
    """
    drawn = draw_all(runs)
    figures = out.parent / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    written = [out]
    for name, svg in drawn.items():
        (figures / f"{name}.svg").write_text(svg, encoding="utf-8")
        written.append(figures / f"{name}.svg")
    out.write_text(compose(runs, drawn), encoding="utf-8")
    parts = {
        out.parent / "stages" / f"{name}.md": page_part(name, page, runs, drawn)
        for name, page in PAGES.items()
    }
    parts[out.parent.parent / "README.md"] = readme_part(runs)
    return written + [file for file, text in parts.items() if fill(file, text)]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write docs/results.md from finished runs of the miniature.")
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a finished run's folder; several are seeds of one recipe",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/results.md"),
        metavar="FILE",
        help="docs/results.md unless given",
    )
    asked = parser.parse_args(words)
    try:
        for file in write([read(folder) for folder in asked.runs], asked.out):
            print(file)
    except R1kitError as error:
        sys.exit(f"results: {error}")


if __name__ == "__main__":
    main()
