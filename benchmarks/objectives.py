"""Write docs/objectives-compared.md and its drawing from finished runs of recipes/objectives.yaml, one run a
seed.

    python benchmarks/objectives.py runs/objectives-0 runs/objectives-1 runs/objectives-2

A line is one setting, measured on the same held-out problems after the same number of updates and rollouts.
Settings are compared with the first one seed by seed, so that what all share with a seed (its base, its first
rollouts) does not count as noise. Every number and every verdict is computed here; a difference within the 95
% interval of Student's t over the seeds is called not significant.

Runs of some settings only (recipes/objectives-changed.yaml) leave the others as an earlier page has them:

    python benchmarks/objectives.py RUN RUN RUN --keep docs/objectives-compared.md --because "what changed"

Lines measured at different revisions stand in different tables and are never compared with one another."""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from earlier import COMPARED, SUMMARY, Measurement, drawing_name, kept, measurements, short
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

from r1kit.config import ConfigError, R1kitError

REFERENCE = "grpo"
BLOCKS = ("grpo", "ppo", "rl", "rewards", "learner")  # the blocks of a stage that settings differ in
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
    """All settings that the first run has measured, in the recipe's order. Raises ConfigError where the
    reference is not one of them."""
    configs = {stage.name: stage.record.config for stage in runs[0].run.stages}
    if REFERENCE not in configs or REFERENCE not in runs[0].models:
        raise ConfigError(
            f"{runs[0].run.folder}: {REFERENCE!r} is not measured; the other settings are compared with it, "
            "so keep its stage in the recipe and its model in evaluate"
        )
    names = [name for name in runs[0].models if name in configs and name != "base"]
    return [Setting(name, difference(configs[name], configs[REFERENCE]), runs) for name in names]


def difference(config: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """The keys of a stage that differ from the reference's, as a recipe would write them. A block that the
    reference does not have (ppo) is compared with its grpo block."""
    found = []
    for block, own in config.items():
        if isinstance(own, dict) and block in BLOCKS:
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


def summary(verdicts: Mapping[str, str]) -> str:
    """Which settings differ significantly from the reference, and how many would by chance; verdicts by
    setting, as ``verdict`` writes them."""
    better, worse = (
        [f"`{name}`" for name, said in verdicts.items() if said.endswith(end)] for end in ("better", "worse")
    )
    chance = 0.05 * len(verdicts)
    return (
        f"{SUMMARY} {', '.join(better) or 'none'}. Worse: "
        f"{', '.join(worse) or 'none'}. The other "
        f"{len(verdicts) - len(better) - len(worse)} are not significantly different; of {len(verdicts)} "
        f"comparisons about {chance:.0f} would be by chance alone."
    )


def revision(runs: Sequence[Finished]) -> str:
    """The source revision of all runs. Raises ConfigError where it is not recorded or not the same."""
    found = {run.name: run.run.environment.get("git") for run in runs}
    if len(set(found.values())) != 1 or None in found.values():
        said = ", ".join(f"{name}: {at or 'not recorded'}" for name, at in found.items())
        raise ConfigError(
            f"runs are compared only where one revision made them ({said}); give runs of one revision, and "
            "keep the lines of the others with --keep PAGE"
        )
    return str(found[runs[0].name])


def earlier_parts(runs: Sequence[Finished], before: Sequence[Measurement], reason: str) -> list[str]:
    """What the page keeps of earlier measurements, latest first: the settings that no later one has."""
    again = {setting.name for setting in settings(runs)}
    parts = []
    for measurement in before:
        if measurement.revision != revision(runs):
            parts.append(kept(measurement, again, REFERENCE, reason, summary))
            again |= set(measurement.settings)
    return [part for part in parts if part]


def page(runs: Sequence[Finished], before: Sequence[Measurement] = (), reason: str = "") -> str:
    """docs/objectives-compared.md: these runs, then what is left of the measurements ``before``, which
    ``reason`` says why not to compare with."""
    found = settings(runs)
    verdicts = {setting.name: verdict(setting.gain()) for setting in found if setting.name != REFERENCE}
    paragraphs = [
        "# The objectives compared",
        "Written by `python benchmarks/objectives.py RUN RUN RUN` from runs of "
        "`recipes/objectives.yaml` (`make objectives`).",
        f"## Measured {date(runs)} at revision {short(revision(runs))}",
        _budget(runs),
        f"Mean over {len(runs)} seeds (least..most; standard deviation). {protocol(runs)} A difference "
        "within the 95 % interval of Student's t over seeds is called not significant: with so few seeds "
        "that is most of them, and no ranking should be read into those.",
        summary(verdicts),
        "![pass@1 by objective](figures/objectives.svg)",
        _setting_table(found, runs),
        _run_table(runs),
        f"{date(runs)}. " + " / ".join(machines(runs)) + ".",
        *earlier_parts(runs, before, reason),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _run_table(runs: Sequence[Finished]) -> str:
    rows = [[run.name, seed(run), f"`{command(run)}`", f"{run.total_seconds():.0f}"] for run in runs]
    return table(["run", "seed", "command", "seconds of its stages"], rows)


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
    header = ["", "what differs from the first line", *columns, COMPARED, *late]
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


def write(runs: Sequence[Finished], out: Path, keep: Path | None = None, reason: str = "") -> list[Path]:
    """Write the page and its drawing from these runs; return the files. Lines of the page ``keep`` that the
    runs have not measured again are kept, with their drawing under a name of its own."""
    before = measurements(keep.read_text(encoding="utf-8")) if keep else []
    text = page(runs, before, reason)
    drawing = out.parent / "figures" / "objectives.svg"
    drawing.parent.mkdir(parents=True, exist_ok=True)
    files = [out, drawing]
    for measurement in before:
        own = drawing.with_name(drawing_name(measurement))
        if f"figures/{own.name}" in text:
            files.append(own)
            shown = keep.parent / "figures" / drawing.name if keep else drawing
            if not own.exists() and shown.exists():  # it shows the first measurement of the page
                own.write_bytes(shown.read_bytes())
    base = mean([run.figure("base", "pass@1") for run in runs])
    drawing.write_text(drawing_of(settings(runs), base), encoding="utf-8")
    out.write_text(text, encoding="utf-8")
    return files


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/objectives-compared.md"))
    parser.add_argument(
        "--keep", type=Path, metavar="PAGE", help="keep its lines that these runs do not measure"
    )
    parser.add_argument("--because", default="", metavar="REASON", help="why kept lines are not comparable")
    given = parser.parse_args(words)
    if given.keep and not given.because:
        parser.error("--keep needs --because REASON: what has changed since the kept lines were measured")
    try:
        for file in write([read(folder) for folder in given.runs], given.out, given.keep, given.because):
            print(file)
    except (R1kitError, OSError) as error:
        sys.exit(f"objectives: {error}")


if __name__ == "__main__":
    main()
