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
from r1kit.report.charts import Point
from r1kit.report.sentences import Measured, Run, consensus_key, number, read_run

DASH = "–"


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run: the figures of its models by name, of its controls by name, and which stage made
    them."""

    run: Run
    models: Mapping[str, Measured]
    controls: Mapping[str, Measured]
    main_stages: frozenset[str]

    @property
    def name(self) -> str:
        return self.run.folder.name

    def figure(self, model: str, metric: str) -> float | None:
        """A figure of the main evaluation; "cons" is the majority vote whatever its number of votes. None
        where it was not measured."""
        return _figure(self.models.get(model), metric)

    def control(self, model: str, metric: str) -> float | None:
        return _figure(self.controls.get(model), metric)

    def seconds(self, stage: str) -> float | None:
        found = self.run.stage(stage)
        return number(found.record.seconds) if found else None

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
        peaks = [
            number(stage.record.peak_rss_mb) for stage in self.run.stages if stage.name in self.main_stages
        ]
        return max((peak for peak in peaks if peak is not None), default=None)

    def fact(self, stage: str, key: str) -> float | None:
        """A number that the stage reports of itself."""
        found = self.run.stage(stage)
        return number(found.report().get(key)) if found else None

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
    """Read a run's folder. Raises ConfigError where its evaluation is not finished."""
    run = read_run(folder)
    evaluations = [stage for stage in run.stages if stage.kind == "evaluate"]
    main = next(
        (stage for stage in evaluations if not stage.report().get("controls") and stage.name != "controls"),
        None,
    )
    if main is None:
        raise ConfigError(
            f"{folder}: no finished stage evaluates its models: finish the run first (make mini)"
        )
    controls = [stage for stage in evaluations if stage is not main]
    reads = {stage.name: list(stage.record.inputs) for stage in run.stages}
    needed, waiting = set(), [main.name]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += reads.get(name, [])
    measured = {name: model for stage in controls for name, model in _models(stage).items()}
    return Finished(run, _models(main), measured, frozenset(needed))


def _models(stage: Any) -> dict[str, Measured]:
    makers = stage.record.config.get("models", {})
    found = stage.report().get("models", {})
    return {
        name: Measured(name, str(makers.get(name, name)).removeprefix("@").partition("/")[0], figures)
        for name, figures in found.items()
    }


def _figure(model: Measured | None, metric: str) -> float | None:
    if model is None:
        return None
    return model.number((consensus_key(model.figures) or "") if metric == "cons" else metric)


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
    return next(
        (key for run in runs for model in run.models.values() if (key := consensus_key(model.figures))),
        "cons",
    )


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def seed(run: Finished) -> str:
    return str(run.run.recipe.get("seed", "not recorded"))


def command(run: Finished) -> str:
    """What was typed, folders outside the project left out: they say nothing to a reader."""
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
    """The processor's name as the run recorded it, or this machine's where the run was evidently made on
    it."""
    if environment.get("processor"):
        return str(environment["processor"])
    information = Path("/proc/cpuinfo")
    if environment.get("platform") == platform.platform() and information.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return "processor not recorded"


def protocol(runs: Sequence[Finished]) -> str:
    found = [
        model.figures["protocol"]
        for run in runs
        for model in run.models.values()
        if "protocol" in model.figures
    ]
    if not found:
        return "The protocol was not recorded."
    if any(other != found[0] for other in found):
        return (
            "The models were measured under **different protocols**, so the lines below cannot be compared."
        )
    said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found[0].items())
    errors = mean([model.number("pass@1_stderr") for run in runs for model in run.models.values()])
    return f"Protocol: {said}." + (
        "" if errors is None else f" Standard error of a pass@1 over problems: {errors:.3f} on average."
    )
