"""Finished runs of the miniature as numbers: the figures of their models and controls, their curves, times
and machines.

Runs are seeds of one recipe. A control (recipes/controls.yaml) is a stage of the same folder that an
evaluation of its own measures."""

import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError
from r1kit.figures import BY_NAME
from r1kit.report.charts import Point
from r1kit.report.run import (
    Measured,
    Run,
    measured_models,
    number,
    peak_mb_of,
    read_evaluation,
    read_facts,
    read_run,
    seconds_of,
)
from r1kit.report.sentences import votes_of

DASH = "–"


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run: its main models by name, its controls by name, and the stages that the main evaluation
    rests on."""

    run: Run
    models: Mapping[str, Measured]
    controls: Mapping[str, Measured]
    main_stages: frozenset[str]

    @property
    def name(self) -> str:
        return self.run.folder.name

    def figure(self, model: str, metric: str) -> float | None:
        """A figure of the main evaluation; None where it was not measured. Raises KeyError for a metric that
        has no such name (r1kit.figures.BY_NAME)."""
        return figure_of(self.models.get(model), metric)

    def control(self, model: str, metric: str) -> float | None:
        """A figure of the evaluation of the controls, as ``figure``."""
        return figure_of(self.controls.get(model), metric)

    def seconds(self, stage: str) -> float | None:
        found = self.run.stage(stage)
        return seconds_of(found) if found else None

    def total_seconds(self) -> float:
        """Time of the stages that the main evaluation rests on, controls not counted."""
        return sum(self.seconds(name) or 0.0 for name in self.main_stages)

    @property
    def processes(self) -> int | None:
        """How many processes the run was given; None where its recipe does not say."""
        given = self.run.recipe.get("runtime", {}).get("processes")
        return given if isinstance(given, int) else None

    def recipe_seconds(self) -> float | None:
        """``total_seconds``; None for a run on one process, whose time and memory are not those of the
        recipe."""
        return None if self.processes == 1 else self.total_seconds()

    def recipe_peak_mb(self) -> float | None:
        return None if self.processes == 1 else self.peak_mb()

    def peak_mb(self) -> float | None:
        peaks = [peak_mb_of(stage) for stage in self.run.stages if stage.name in self.main_stages]
        return max((peak for peak in peaks if peak is not None), default=None)

    def fact(self, stage: str, name: str) -> float | None:
        """A figure that the stage reports of itself; None where the run has no such stage. Raises
        AttributeError for a figure that its kind of stage does not report (r1kit.figures.FACTS)."""
        found = self.run.stage(stage)
        return number(getattr(read_facts(found), name)) if found else None

    def curve(self, stage: str, metric: str, part: str | None = None) -> list[Point]:
        """(step, value) of a metric, steps counted from 1 over all parts of the stage, or within one part."""
        rows = [
            row for row in self.run.metrics if row.get("stage") == stage and part in (None, row.get("part"))
        ]
        return [
            (float(step), value)
            for step, row in enumerate(rows, 1)
            if (value := number(row.get(metric))) is not None
        ]


def read(folder: Path) -> Finished:
    """Read a run's folder. Raises ConfigError where its evaluation is not finished, and for a report.json
    that is not as this version of r1kit writes it."""
    run = read_run(folder)
    evaluations = {stage.name: stage for stage in run.stages if stage.kind == "evaluate"}
    found = {name: read_evaluation(stage) for name, stage in evaluations.items()}
    main = next((name for name in found if not found[name].controls and name != "controls"), None)
    if main is None:
        raise ConfigError(
            f"{folder}: no finished stage evaluates its models: finish the run first (make mini)"
        )
    models = {name: measured_models(stage, found[name]) for name, stage in evaluations.items()}
    controls = {name: model for stage in found if stage != main for name, model in models[stage].items()}
    return Finished(run, models[main], controls, _inputs_behind(run, main))


def _inputs_behind(run: Run, stage: str) -> frozenset[str]:
    """The stage and every stage that it reads, directly or not."""
    reads = {one.name: list(one.record.inputs) for one in run.stages}
    needed: set[str] = set()
    waiting = [stage]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += reads.get(name, [])
    return frozenset(needed)


def figure_of(model: Measured | None, metric: str) -> float | None:
    """The figure of this name; None for a model that was not measured."""
    value = BY_NAME[metric]
    return None if model is None else value(model.figures)


def minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def spread(values: Sequence[float | None], digits: int = 3, between: str = " ") -> str:
    """The mean, then ``between``, and in brackets least and most and the standard deviation (n - 1) over the
    runs that measured it."""
    known = [value for value in values if value is not None]
    if not known:
        return DASH
    middle = f"{statistics.fmean(known):.{digits}f}"
    if len(known) == 1:
        return middle
    return (
        f"{middle}{between}({min(known):.{digits}f}..{max(known):.{digits}f}; sd "
        f"{statistics.stdev(known):.{digits}f})"
    )


def digits_of(metric: str) -> int:
    return 1 if metric == "length" else 3


def model_names(runs: Sequence[Finished]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.models))


def votes(runs: Sequence[Finished]) -> str:
    """What the majority vote is called, with its number of votes."""
    return votes_of([model for run in runs for model in run.models.values()])


def column_title(metric: str, runs: Sequence[Finished]) -> str:
    """What a column of this metric is called."""
    return votes(runs) if metric == "cons@n" else metric


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def seed(run: Finished) -> str:
    return str(run.run.recipe.get("seed", "not recorded"))


def command(run: Finished) -> str:
    """What was typed, without folders outside the project: they mean nothing to a reader."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\"]+/)*", "", str(run.run.environment.get("command", "not recorded")))


def date(runs: Sequence[Finished]) -> str:
    times = [number(stage.record.finished) for run in runs for stage in run.run.stages]
    last = max((time for time in times if time is not None), default=None)
    return "date not recorded" if last is None else datetime.fromtimestamp(last, UTC).strftime("%Y-%m-%d")


def machines(runs: Sequence[Finished]) -> list[str]:
    """The machines of the runs in words, each once: no names, no folders."""
    return list(dict.fromkeys(_machine(run.run.environment) for run in runs))


def _machine(environment: Mapping[str, Any]) -> str:
    recorded = str(environment.get("platform", ""))
    architecture = next(
        (word for word in ("x86_64", "aarch64", "arm64") if word in recorded), "architecture not recorded"
    )
    system = recorded.partition("-")[0] or "system not recorded"
    versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
    cores = environment.get("cpus", "unknown number of")
    revision = environment.get("git")
    parts = [
        f"{cores} cores ({_processor(environment)}), {system} {architecture}",
        versions,
        f"source revision {revision}" if revision else "",
    ]
    return "; ".join(part for part in parts if part)


def _processor(environment: Mapping[str, Any]) -> str:
    """This machine's processor where the run was evidently made on this machine: runs do not record it."""
    information = Path("/proc/cpuinfo")
    if environment.get("platform") == platform.platform() and information.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return "processor not recorded"


def protocol(runs: Sequence[Finished]) -> str:
    """The protocol of all models in words, with the mean standard error of a pass@1."""
    models = [model for run in runs for model in run.models.values()]
    found = {model.protocol for model in models}
    if len(found) != 1:
        return (
            "The models were measured under **different protocols**, so the lines below cannot be compared."
        )
    errors = mean([model.figures.overall.pass_1_stderr for model in models])
    said = "" if errors is None else f" Standard error of a pass@1 over problems: {errors:.3f} on average."
    return found.pop().in_words() + said
