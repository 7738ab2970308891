"""Write docs/objectives-compared.md and its drawing from finished runs of recipes/objectives.yaml, one run a
seed.

    python benchmarks/objectives.py runs/objectives-0 runs/objectives-1 runs/objectives-2

A line is one setting, measured on the same held-out problems after the same number of updates and rollouts.
Settings are compared with the first one seed by seed, so that what all share with a seed (its base, its first
rollouts) does not count as noise. Every number and every verdict is computed here; a difference within the 95
% interval of Student's t over the seeds is called not significant."""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from figures import STYLE
from measured import (
    Finished,
    column_title,
    command,
    date,
    digits_of,
    machines,
    mean,
    protocol,
    read,
    seed,
    spread,
)
from results import table

from r1kit.config import R1kitError

REFERENCE = "grpo"
UNSAID = ("algorithm", "save_every")  # keys that change nothing by themselves
LAST = 8  # updates at the end of training that are averaged
METRICS = ("pass@1", "cons@n", "format", "length")
STUDENT = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
)  # 97.5 % quantile of Student's t with 1, 2, ... degrees of freedom
ROW, LEFT, WIDTH = 19, 218, 640  # of the figure, in pixels


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the page: what the recipe says that the reference does not, and what every seed
    measured."""

    name: str
    differs: str
    runs: Sequence[Finished]

    def held_out(self, metric: str) -> list[float | None]:
        return [run.figure(self.name, metric) for run in self.runs]

    def late(self, metric: str) -> list[float | None]:
        """The mean of a training metric over the last updates, by seed."""
        return [mean([value for _, value in run.curve(self.name, metric)[-LAST:]]) for run in self.runs]

    def gain(self) -> list[float]:
        """pass@1 minus the reference's of the same seed, by seed."""
        pairs = [(run.figure(self.name, "pass@1"), run.figure(REFERENCE, "pass@1")) for run in self.runs]
        return [own - reference for own, reference in pairs if own is not None and reference is not None]


def settings(runs: Sequence[Finished]) -> list[Setting]:
    """All settings that the first run has measured, in the recipe's order."""
    configs = {stage.name: stage.record.config for stage in runs[0].run.stages}
    names = [name for name in runs[0].models if name in configs and name != "base"]
    return [Setting(name, difference(configs[name], configs[REFERENCE]), runs) for name in names]


def difference(config: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """The keys of a stage that differ from the reference's, as a recipe would write them. A block that the
    reference does not have (ppo) is compared with its grpo block."""
    found = []
    for block, own in config.items():
        if isinstance(own, dict) and block not in ("tasks", "talk"):
            other = reference.get(block) or reference["grpo"]
            keys = [
                f"{key}: {_brief(value)}"
                for key, value in own.items()
                if value != other.get(key) and key not in UNSAID
            ]
            found += [f"{block}: {{{', '.join(keys)}}}"] if reference.get(block) is None else keys
    return ", ".join(found)


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_brief(inner)}" for key, inner in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def verdict(gains: Sequence[float]) -> str:
    """Mean difference from the reference over seeds with its standard error, and whether chance explains it
    (two-sided, 95 %)."""
    if len(gains) < 2:
        return "one seed"
    middle, error = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
    if abs(middle) <= STUDENT[min(len(gains) - 2, len(STUDENT) - 1)] * error or middle == 0.0:
        return f"{middle:+.3f} ± {error:.3f}, not significant"
    return f"{middle:+.3f} ± {error:.3f}, {'better' if middle > 0 else 'worse'}"


def drawing_of(found: Sequence[Setting], base: float | None) -> str:
    """Every setting a line: a dot a seed, a stroke at their mean, the base dashed."""
    height = ROW * len(found) + 46
    drawn = [_axis(height)]
    if base is not None:
        drawn.append(
            f'<line x1="{_x(base):.1f}" x2="{_x(base):.1f}" y1="8" y2="{height - 38}" '
            'style="stroke:var(--c5,#5c6670);stroke-dasharray:5 4"/>'
        )
    drawn += [_dots(setting, 20 + ROW * place) for place, setting in enumerate(found)]
    head = (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="pass@1 by objective" '
        'xmlns="http://www.w3.org/2000/svg" '
    )
    return (
        f'{head}style="font:12px system-ui,sans-serif;fill:var(--ink,#222)">{STYLE}{"".join(drawn)}</svg>\n'
    )


def _x(value: float) -> float:
    """Where a share lies on the drawing, in pixels."""
    return LEFT + (WIDTH - LEFT - 24) * value


def _axis(height: int) -> str:
    drawn = []
    for tick in range(0, 11, 2):
        at = _x(tick / 10)
        drawn.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="8" y2="{height - 38}" style="stroke:var(--rule,#ddd)"/>'
        )
        drawn.append(f'<text x="{at:.1f}" y="{height - 22}" text-anchor="middle">{tick / 10:g}</text>')
    drawn.append(
        f'<text x="{_x(0.5):.1f}" y="{height - 6}" text-anchor="middle">pass@1 on held-out problems</text>'
    )
    return "".join(drawn)


def _dots(setting: Setting, y: int) -> str:
    """One setting: its name, a dot a seed, a stroke at their mean."""
    drawn = [f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(setting.name)}</text>']
    values = [value for value in setting.held_out("pass@1") if value is not None]
    drawn += [
        f'<circle cx="{_x(value):.1f}" cy="{y}" r="3.5" style="fill:var(--c0,#1f5fa8);opacity:.55"/>'
        for value in values
    ]
    if values:
        middle = _x(statistics.fmean(values))
        drawn.append(
            f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 7}" y2="{y + 7}" '
            'style="stroke:var(--c1,#c0562b);stroke-width:2.5"/>'
        )
    return "".join(drawn)


def summary(found: Sequence[Setting]) -> str:
    """Which settings differ significantly from the reference, and how many would by chance."""
    verdicts = {setting.name: verdict(setting.gain()) for setting in found if setting.name != REFERENCE}
    better, worse = (
        [f"`{name}`" for name, said in verdicts.items() if said.endswith(end)] for end in ("better", "worse")
    )
    chance = 0.05 * len(verdicts)
    return (
        f"Better than the first line: {', '.join(better) or 'none'}. Worse: "
        f"{', '.join(worse) or 'none'}. The other "
        f"{len(verdicts) - len(better) - len(worse)} are not significantly different; of {len(verdicts)} "
        f"comparisons about {chance:.0f} would be by chance alone."
    )


def page(runs: Sequence[Finished]) -> str:
    """docs/objectives-compared.md."""
    found = settings(runs)
    return "\n".join(
        [
            "# The objectives compared",
            "",
            "Written by `python benchmarks/objectives.py RUN RUN RUN` from runs of "
            "`recipes/objectives.yaml` (`make objectives`).",
            "",
            _budget(runs),
            "",
            f"Mean over {len(runs)} seeds (least..most; standard deviation). {protocol(runs)} A difference "
            "within the 95 % interval of Student's t over seeds is called not significant: with so few seeds "
            "that is most of them, and no ranking should be read into those.",
            "",
            summary(found),
            "",
            "![pass@1 by objective](figures/objectives.svg)",
            "",
            _setting_table(found, runs),
            "",
            "| run | seed | command | seconds of its stages |",
            "|---|---:|---|---:|",
            *(f"| {run.name} | {seed(run)} | `{command(run)}` | {run.total_seconds():.0f} |" for run in runs),
            "",
            f"{date(runs)}. " + " / ".join(machines(runs)) + ".",
            "",
        ]
    )


def _budget(runs: Sequence[Finished]) -> str:
    """What every line has in common, in words."""
    config = next(stage.record.config for stage in runs[0].run.stages if stage.name == REFERENCE)
    grpo, optimizer = config["grpo"], config["learner"]["optimizer"]
    rollouts = grpo["steps"] * grpo["problems"] * grpo["group"]
    base = [run.figure("base", "pass@1") for run in runs]
    return (
        f"Every line starts from the same base (pass@1 {spread(base, 3)}) with the same seed, and learns "
        f"from {rollouts} rollouts in {grpo['steps']} updates of {grpo['problems']} problems x "
        f"{grpo['group']}, at one learning rate ({optimizer['kind']}, {optimizer['learning_rate']:g}) that "
        "was chosen for none of them: a line that is worse here may be better at its own rate. Lines with "
        "`dynamic_sampling` sample more rollouts than they learn from."
    )


def _setting_table(found: Sequence[Setting], runs: Sequence[Finished]) -> str:
    """A line per setting: what differs, its figures, its gain, and its training at the end."""
    late = {
        "entropy at the end": "policy/entropy",
        "clipped at the end": "policy/clipped",
        "training accuracy at the end": "reward/accuracy/mean",
    }
    columns = [column_title(metric, runs) for metric in METRICS]
    header = ["", "what differs from the first line", *columns, "against the first, same seed", *late]
    rows = [
        [
            f"`{setting.name}`",
            setting.differs or "the paper's setting",
            *(spread(setting.held_out(metric), digits_of(metric), "<br>") for metric in METRICS),
            "–" if setting.name == REFERENCE else verdict(setting.gain()),
            *(spread(setting.late(metric), 3, "<br>") for metric in late.values()),
        ]
        for setting in found
    ]
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/objectives-compared.md"))
    given = parser.parse_args()
    try:
        runs = [read(folder) for folder in given.runs]
    except R1kitError as error:
        sys.exit(str(error))
    drawing = given.out.parent / "figures" / "objectives.svg"
    drawing.parent.mkdir(parents=True, exist_ok=True)
    drawing.write_text(
        drawing_of(settings(runs), mean([run.figure("base", "pass@1") for run in runs])),
        encoding="utf-8",
    )
    given.out.write_text(page(runs), encoding="utf-8")
    print(f"{given.out} and {drawing} from {len(runs)} runs")


if __name__ == "__main__":
    main()
