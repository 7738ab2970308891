"""Read a finished run for the report and the benchmarks: stages, figures, curves, and the role of each
stage."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1kit import figures
from r1kit.figures import FACTS, REPORT, Evaluation, Example, ModelFigures, Protocol, why_silent
from r1kit.log_files import log_damages, whole_rows
from r1kit.marks import lines_damage, mark_damages
from r1kit.records import PREFERRED_KINDS, DamageError, FinishedStage, finished_stages, read_sealed

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """One evaluated model: its name in the tables, the stage that made it, its figures and their protocol."""

    name: str
    stage: str
    figures: ModelFigures
    protocol: Protocol


Measurement = tuple[float, float, float]  # steps done, pass@1, its standard error


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, read. ``stages`` are in the recipe's order; ``metrics`` are the rows of metrics.jsonl
    as they were written; ``controls`` are the models to compare with one another, by title. A model that is
    measured for such comparisons only is in ``control_models``."""

    folder: Path
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    stages: Sequence[FinishedStage]
    metrics: Sequence[Row]
    models: Sequence[Measured]
    examples: Sequence[Example]
    controls: Mapping[str, Sequence[Measured]]
    control_models: Sequence[Measured] = ()

    @property
    def name(self) -> str:
        return str(self.recipe.get("name", self.folder.name))

    @property
    def seconds(self) -> float:
        """The time of all stages."""
        return sum(seconds_of(stage) or 0.0 for stage in self.stages)

    @property
    def peak_mb(self) -> float | None:
        """The largest memory of any stage, in megabytes; None where none recorded it."""
        peaks = [peak for stage in self.stages if (peak := peak_mb_of(stage)) is not None]
        return max(peaks, default=None)

    def model(self, stage: str | None) -> Measured | None:
        """The figures of the model that this stage made."""
        return next((model for model in (*self.models, *self.control_models) if model.stage == stage), None)

    def stage(self, name: str | None) -> FinishedStage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def curve(self, stage: str, metric: str) -> list[tuple[float, float]]:
        """(step, value) of a stage's metric in the order of writing, steps counted from 1 over all parts of
        the stage."""
        rows = [row for row in self.metrics if row.get("stage") == stage]
        values = [number(row.get(metric)) for row in rows]
        return [(float(step), value) for step, value in enumerate(values, 1) if value is not None]

    def watched(self, stage: str) -> list[Measurement]:
        """The measurements of a stage's watch: (steps done, pass@1, standard error), steps counted over all
        parts of the stage."""
        rows = [row for row in self.metrics if row.get("stage") == stage]
        found = []
        for place, row in enumerate(rows):
            for steps, name in ((place, "watch/pass_1"), (place + 1, "watch/last_pass_1")):
                value, error = number(row.get(name)), number(row.get(f"{name}_stderr"))
                if value is not None:
                    found.append((float(steps), value, error or 0.0))
        return found


@dataclass(frozen=True, slots=True)
class Roles:
    """Which stage has which role in the paper, by name; None where the run has no such stage."""

    base: str | None
    zero: str | None
    final: str | None
    student: str | None
    distilled: str | None
    student_rl: str | None


def silent_trainings(metrics: Sequence[Row]) -> list[str]:
    """A sentence for each RL training that could not learn, and why, from a run's rows of metrics."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in metrics:
        rows.setdefault((str(row.get("stage")), str(row.get("part", ""))), []).append(row)
    return [
        f"Stage {stage}{f', part {part},' if part else ''} could not learn: {why}."
        for (stage, part), own in rows.items()
        if (why := why_silent(own)) is not None
    ]


def number(value: Any) -> float | None:
    """The finite number, None for anything else (also for true and false)."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def seconds_of(stage: FinishedStage) -> float | None:
    return number(stage.record.seconds)


def peak_mb_of(stage: FinishedStage) -> float | None:
    return number(stage.record.peak_rss_mb)


def read_run(folder: Path) -> Run:
    """Read everything in a run's folder about its stages; missing parts are empty. Raises DamageError for a
    file or a log that is not as it was written, and ConfigError naming file and key for a report.json that is
    not as this version of r1kit writes it."""
    for stage in finished_stages(folder):
        require_read_files(folder, stage)
    recipe = read_recipe(folder / "recipe.yaml")
    order = [str(stage.get("name") or stage.get("stage")) for stage in recipe.get("stages", [])]
    stages = sorted(
        finished_stages(folder),
        key=lambda stage: order.index(stage.name) if stage.name in order else len(order),
    )
    found = [
        (evaluation, measured_models(stage, evaluation))
        for stage in stages
        if stage.kind == "evaluate" and (evaluation := read_evaluation(stage))
    ]
    main = [models for evaluation, models in found if not evaluation.controls]
    compared = [models for evaluation, models in found if evaluation.controls]
    return Run(
        folder,
        recipe,
        read_environment(folder),
        stages,
        read_rows(folder / "metrics.jsonl"),
        _first_of_each(main),
        [example for evaluation, _ in found for example in evaluation.examples],
        {
            title: [models[name] for name in names]
            for evaluation, models in found
            for title, names in evaluation.controls.items()
        },
        _first_of_each(compared),
    )


def require_read_files(run_dir: Path, stage: FinishedStage) -> None:
    """Check what a report reads of a stage: its report.json and its log. Raises DamageError."""
    marks = {name: mark for name, mark in stage.record.outputs.items() if name == REPORT}
    found = list(mark_damages(stage.folder, marks, "the stage"))
    if stage.record.log is not None:
        found += log_damages(run_dir, stage.name, stage.record.log)
        if not marks and (stage.folder / REPORT).exists():
            found.append(f"{stage.folder / REPORT}: not written by the stage")
    if found:
        listed = "\n  ".join(found)
        raise DamageError(
            f"no report is made from damaged files:\n  {listed}\nBring back a copy, or redo the stage "
            f"(r1kit run RECIPE --from {stage.name})."
        )


def read_environment(run_dir: Path) -> dict[str, Any]:
    """The run's env.json, empty where there is none. Raises DamageError."""
    fix = "The next r1kit run of the recipe writes this file again, once it is removed."
    return read_sealed(run_dir / "env.json", fix)


def read_recipe(file: Path) -> dict[str, Any]:
    """The recipe that a run keeps, empty where there is none. Raises DamageError."""
    if not file.exists():
        return {}
    try:
        text = file.read_bytes().decode("utf-8")
        damage = lines_damage(text)
        found = yaml.safe_load(text) if damage is None else None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        damage, found = str(error).replace("\n", " "), None
    if damage is not None or not isinstance(found, dict):
        raise DamageError(
            f"{file}: damaged: {damage or 'not a recipe'}\nThe next r1kit run of the recipe writes this file "
            "again, once it is removed."
        )
    return found


def read_evaluation(stage: FinishedStage) -> Evaluation:
    """What an evaluate stage wrote. Raises ConfigError naming file and key."""
    return figures.read(Evaluation, stage.folder / REPORT)


def measured_models(stage: FinishedStage, evaluation: Evaluation) -> dict[str, Measured]:
    """The models that an evaluate stage measured, by name."""
    references = stage.record.config.get("models", {})
    return {
        name: Measured(name, stage_named_by(references.get(name, name)), found, evaluation.protocol)
        for name, found in evaluation.models.items()
    }


def read_facts(stage: FinishedStage) -> Any:
    """The figures that a stage reports of itself, of the type of its kind in FACTS; None for other kinds.
    Raises ConfigError naming file and key."""
    kind = FACTS.get(stage.kind)
    return None if kind is None else figures.read(kind, stage.folder / REPORT)


def stage_named_by(reference: str) -> str:
    """The stage of "@stage" or "@stage/file"."""
    return reference.removeprefix("@").partition("/")[0]


def _first_of_each(evaluations: Sequence[Mapping[str, Measured]]) -> list[Measured]:
    """Every model once, by name: the first of several evaluations."""
    found: dict[str, Measured] = {}
    for models in evaluations:
        found = {**models, **found}
    return [found[name] for name in dict.fromkeys(name for models in evaluations for name in models)]


def read_rows(file: Path) -> list[Row]:
    """The rows of metrics.jsonl; a last line that an interruption cut off is left out. Raises R1kitError
    naming the file and a damaged line."""
    return [row for _, row in whole_rows(file)]


def find_roles(run: Run) -> Roles:
    """Find the roles from what the stages started from: the student is what a distill stage trains, R1-Zero
    the first r1_zero stage that does not start from it, the final model what ``r1kit chat`` would choose.

    A stage with ``seed_of`` is a control and has no role, except the student trained by RL: of several, the
    one with the highest pass@1."""
    distilled = next((stage for stage in run.stages if stage.kind == "distill"), None)
    student = _source(distilled, "student") if distilled else None
    own = [stage for stage in run.stages if not _source(stage, "seed_of")]
    trained = [
        stage
        for stage in own
        if student is None or (stage.name != student and _source(stage, "init") != student)
    ]
    zero = next((stage for stage in trained if stage.kind == "r1_zero"), None)
    by_rl = [
        stage.name
        for stage in run.stages
        if student and stage.kind in ("r1_zero", "reasoning_rl") and _source(stage, "init") == student
    ]
    return Roles(
        base=_source(zero, "init")
        if zero
        else next((stage.name for stage in trained if stage.kind == "pretrain"), None),
        zero=zero.name if zero else None,
        final=next(
            (stage.name for kind in PREFERRED_KINDS for stage in reversed(trained) if stage.kind == kind),
            None,
        ),
        student=student,
        distilled=distilled.name if distilled else None,
        student_rl=max(by_rl, key=lambda name: _pass_1_of(run, name), default=None),
    )


def _source(stage: FinishedStage, key: str) -> str | None:
    """The stage that a key of the configuration names, None where it names none."""
    value = stage.record.config.get(key)
    return stage_named_by(value) if isinstance(value, str) else None


def _pass_1_of(run: Run, stage: str) -> float:
    model = run.model(stage)
    return model.figures.overall.pass_1 if model else 0.0
