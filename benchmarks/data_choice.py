"""Write what the choice and the order of data are worth into docs/data.md, with a drawing, from finished
runs of recipes/data-choice.yaml, one run a seed:

    python benchmarks/data_choice.py runs/data-choice-0 runs/data-choice-1 runs/data-choice-2

A line is one setting after the same number of tokens, the mean of the seeds with the smallest and the
largest. Settings are compared with the first of their table seed by seed, since what all share with a seed
(the base, the held-out problems) is no noise. A difference whose 95 % interval of Student's t holds 0 is
called no effect that these seeds can show."""

import argparse
import json
import math
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from figures import framed

from r1kit.report.charts import Bars, bar_chart

PAGE = Path(__file__).parents[1] / "docs/data.md"
FIGURE = Path(__file__).parents[1] / "docs/figures/data_choice.svg"
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57)  # 97.5 % quantile of Student's t with 1, 2, ... degrees of freedom


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table: a stage's figures of some models, the first of which the others are compared with. ``kind``:
    pass@1, or the loss on held-out documents of this kind, which is better where it is lower."""

    title: str
    stage: str
    models: Sequence[str]
    kind: str = "pass@1"


PRETRAINED = ("unweighted", "weighted")
COMPARISONS = (
    Comparison(
        "Curriculum in fine-tuning",
        "eval_curriculum",
        ("shuffled", "by_steps", "by_loss", "by_steps_retired"),
    ),
    Comparison(
        "Curriculum in pretraining", "eval_pretraining", ("unweighted", "by_rarity", "by_base_loss"), "others"
    ),
    Comparison("Weights of sources: the small source", "eval_pretraining", PRETRAINED, "solved"),
    Comparison("Weights of sources: the large source", "eval_pretraining", PRETRAINED, "others"),
    Comparison(
        "Augmentation of 100 problems", "eval_augmentation", ("without_augmentation", "with_augmentation")
    ),
    Comparison("Active learning", "eval_active", ("random", "votes", "entropy", "ensemble", "start")),
)


def value(run: Path, comparison: Comparison, model: str) -> float:
    """A model's figure in a finished run."""
    report = json.loads((run / "stages" / comparison.stage / "report.json").read_text())
    if comparison.kind == "pass@1":
        return float(report["models"][model]["overall"]["pass@1"])
    return float(report["losses"][model][comparison.kind])


def interval(differences: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean; infinity with one seed."""
    count = len(differences)
    if count < 2:
        return math.inf
    return STUDENT[count - 2] * statistics.stdev(differences) / math.sqrt(count)


def verdict(differences: Sequence[float], lower_is_better: bool) -> str:
    """What the differences from the first line show."""
    mean, half = statistics.fmean(differences), interval(differences)
    if not math.isfinite(half):
        return f"{mean:+.3f}, one seed"
    if abs(mean) <= half:
        return f"{mean:+.3f} ± {half:.3f}: no effect that these seeds can show"
    return f"{mean:+.3f} ± {half:.3f}: {'better' if (mean < 0) == lower_is_better else 'worse'}"


def spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f}..{max(values):.3f})"


def table(runs: Sequence[Path], comparison: Comparison) -> list[str]:
    """The lines of one comparison."""
    what = "pass@1" if comparison.kind == "pass@1" else "held-out loss, nats a token"
    lines = [f"**{comparison.title}**", "", f"| | {what} | against the first line |", "|---|---|---|"]
    first = [value(run, comparison, comparison.models[0]) for run in runs]
    for model in comparison.models:
        own = [value(run, comparison, model) for run in runs]
        differences = [one - other for one, other in zip(own, first, strict=True)]
        said = "" if model == comparison.models[0] else verdict(differences, comparison.kind != "pass@1")
        lines.append(f"| {model} | {spread(own)} | {said} |")
    return [*lines, ""]


def drawing(runs: Sequence[Path]) -> str:
    """pass@1 of each setting, by comparison."""
    shown = [one for one in COMPARISONS if one.kind == "pass@1"]
    most = max(len(one.models) for one in shown)
    bars = []
    for place in range(most):
        values, errors = [], []
        for one in shown:
            found = [value(run, one, one.models[place]) for run in runs] if place < len(one.models) else []
            values.append(statistics.fmean(found) if found else None)
            errors.append(statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None)
        bars.append(Bars("first line" if place == 0 else f"line {place + 1}", values, errors, place))
    groups = [one.stage.removeprefix("eval_") for one in shown]
    return bar_chart("What the choice and the order of data are worth", groups, bars, "pass@1", (0.0, 1.0))


def fill(text: str, name: str, lines: Sequence[str]) -> str:
    """The page with the part between two marks replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{PAGE}: no part {name}")
    return pattern.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill docs/data.md from runs of recipes/data-choice.yaml.")
    parser.add_argument("runs", type=Path, nargs="+")
    runs = parser.parse_args().runs
    when, load = datetime.now(UTC).date(), os.getloadavg()[2]
    plural = "s" if len(runs) > 1 else ""
    lines = [
        f"{len(runs)} seed{plural}, written {when} with a load of {load:.0f} on two cores. Mean "
        "(smallest..largest).",
        "",
    ]
    for comparison in COMPARISONS:
        lines += table(runs, comparison)
    lines.append("![pass@1 by setting; the lines of each table in its order](figures/data_choice.svg)")
    FIGURE.write_text(framed(drawing(runs)), encoding="utf-8")
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), "data-choice", lines), encoding="utf-8")


if __name__ == "__main__":
    main()
