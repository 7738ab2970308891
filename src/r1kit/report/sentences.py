"""What a finished run measured, and what that says in plain words.

Every sentence is computed from the numbers of the run's folder and says no more than they do: a difference
below twice its standard error is called noise, a missing measurement gives no sentence. Two standard errors
are combined as if the two models had been measured on different problems; they share them, so the verdicts
err on the side of caution."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1kit.records import FinishedStage, finished_stages, read_json
from r1kit.sandbox.pool import UNSAFE

Figures = Mapping[str, Any]
Row = Mapping[str, Any]

FINAL_KINDS = ("alignment_rl", "sft", "reasoning_rl", "r1_zero")
CLEAR = 2.0  # standard errors


@dataclass(frozen=True, slots=True)
class Measured:
    """One evaluated model: its name in the tables, the stage that made it, its figures."""

    name: str
    stage: str
    figures: Figures

    def number(self, key: str) -> float | None:
        """The figure of that name, None where it was not measured."""
        return number(self.figures.get(key))


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, read. ``stages`` are in the recipe's order; ``metrics`` are the rows of metrics.jsonl
    as they were written."""

    folder: Path
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    stages: Sequence[FinishedStage]
    metrics: Sequence[Row]
    models: Sequence[Measured]
    examples: Sequence[Mapping[str, Any]]
    controls: Mapping[str, Any]
    control_models: Sequence[Measured] = ()

    @property
    def name(self) -> str:
        return str(self.recipe.get("name", self.folder.name))

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


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays which part, by stage name: found from what the stages started from. None where the run has no
    such stage."""

    base: str | None
    zero: str | None
    final: str | None
    student: str | None
    distilled: str | None
    student_rl: str | None


def number(value: Any) -> float | None:
    """The finite number, None for anything else (also for true and false)."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def read_run(folder: Path) -> Run:
    """Read everything that a run's folder holds about its stages; what is missing is empty."""
    recipe_file = folder / "recipe.yaml"
    recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8")) or {} if recipe_file.exists() else {}
    order = [str(stage.get("name") or stage.get("stage")) for stage in recipe.get("stages", [])]
    stages = sorted(
        finished_stages(folder),
        key=lambda stage: order.index(stage.name) if stage.name in order else len(order),
    )
    reports = [(stage, stage.report()) for stage in stages]
    evaluations = [(stage, report) for stage, report in reports if "models" in report]
    comparisons = [(stage, report) for stage, report in evaluations if stage.record.config.get("controls")]
    return Run(
        folder,
        recipe,
        read_json(folder / "env.json"),
        stages,
        _read_rows(folder / "metrics.jsonl"),
        _models(reports, [found for found in evaluations if found not in comparisons]),
        [example for _, report in evaluations for example in report.get("examples", [])],
        {name: control for _, report in reports for name, control in report.get("controls", {}).items()},
        _models([], comparisons),
    )


def _read_rows(file: Path) -> list[Row]:
    """The rows of a JSONL file; a line torn by an interruption is left out."""
    rows: list[Row] = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _models(
    reports: Sequence[tuple[FinishedStage, Figures]], evaluations: Sequence[tuple[FinishedStage, Figures]]
) -> list[Measured]:
    """What the evaluate stages measured, then what stages measured of their own model; one line per model."""
    found: dict[str, Measured] = {}
    for stage, report in evaluations:
        references = stage.record.config.get("models", {})
        for name, figures in report["models"].items():
            maker = str(references.get(name, name)).removeprefix("@").partition("/")[0]
            found.setdefault(name, Measured(name, maker, figures))
    measured = {model.stage for model in found.values()}
    for stage, report in reports:
        if isinstance(report.get("eval"), dict) and stage.name not in measured:
            found.setdefault(stage.name, Measured(stage.name, stage.name, report["eval"]))
    return list(found.values())


def cast(run: Run) -> Cast:
    """Find the parts: the student is what a distill stage trains, R1-Zero the first r1_zero stage that does
    not start from it.

    A stage with ``seed_of`` is a control and plays no part, but for the student by RL: of several, the one
    that came out best."""

    def source(stage: FinishedStage, key: str) -> str | None:
        value = stage.record.config.get(key)
        return value.removeprefix("@").partition("/")[0] if isinstance(value, str) else None

    distilled = next((stage for stage in run.stages if stage.kind == "distill"), None)
    student = source(distilled, "student") if distilled else None
    played = [stage for stage in run.stages if not source(stage, "seed_of")]
    trained = [stage for stage in played if student is None or source(stage, "init") != student]
    zero = next((stage for stage in trained if stage.kind == "r1_zero"), None)
    final = next(
        (stage.name for kind in FINAL_KINDS for stage in reversed(trained) if stage.kind == kind), None
    )
    by_rl = [
        stage.name
        for stage in run.stages
        if student and stage.kind in ("r1_zero", "reasoning_rl") and source(stage, "init") == student
    ]
    return Cast(
        base=source(zero, "init")
        if zero
        else next((stage.name for stage in trained if stage.kind == "pretrain"), None),
        zero=zero.name if zero else None,
        final=final,
        student=student,
        distilled=distilled.name if distilled else None,
        student_rl=max(by_rl, key=lambda name: _rate_of(run, name), default=None),
    )


def _rate_of(run: Run, stage: str) -> float:
    model = run.model(stage)
    return (model.number("pass@1") if model else None) or 0.0


def percent(value: float | None, error: float | None = None) -> str:
    """A share as 81.2 or 81.2 ± 1.3, in percent; a dash where it was not measured."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if error is None else f"{100 * value:.1f} ± {100 * error:.1f}"


def rate(model: Measured) -> str:
    return f"{percent(model.number('pass@1'), model.number('pass@1_stderr'))} %"


def consensus_key(figures: Figures) -> str | None:
    """The name of the majority vote's figure, which holds the number of votes (cons@16)."""
    return next((key for key in figures if key.startswith("cons@")), None)


def verdict(new: float, old: float, *errors: float | None) -> str:
    """Say how two shares differ: in points, or that the difference is within noise."""
    points = 100 * (new - old)
    if points == 0:
        return "no difference"
    if any(error is None for error in errors):
        return f"{points:+.1f} points; without standard errors nobody can tell whether that is noise"
    spread = 100 * math.sqrt(sum(error * error for error in errors if error is not None))
    return f"{points:+.1f} points, " + (
        "beyond noise" if abs(points) > CLEAR * spread else f"within noise: standard error {spread:.1f}"
    )


def compare(new: Measured, old: Measured, key: str = "pass@1") -> str:
    """The verdict on one figure of two models; empty where either lacks it."""
    a, b = new.number(key), old.number(key)
    if a is None or b is None:
        return ""
    return verdict(a, b, new.number(f"{key}_stderr"), old.number(f"{key}_stderr"))


def headline(run: Run) -> list[str]:
    """The abstract: what the run did and what its main models score."""
    parts = cast(run)
    base, zero, final = run.model(parts.base), run.model(parts.zero), run.model(parts.final)
    told = []
    if base and zero:
        told.append(
            f"Reinforcement learning with rule rewards takes {base.name} from {rate(base)} to "
            f"{rate(zero)} ({compare(zero, base)})."
        )
    if zero and final and final is not zero:
        told.append(
            f"The final model, {final.name}, scores {rate(final)} (against {zero.name} "
            f"{compare(final, zero)})."
        )
    if not told:
        told.append(
            "This run has no evaluation of both a base model and an RL model, so nothing can be said "
            "about what RL did."
        )
    if run.environment.get("sandbox") == UNSAFE:
        told.append(
            f"Programs ran WITHOUT isolation (--sandbox={UNSAFE}): their rewards may be forged, and "
            "files changed."
        )
    return told


def say_length(base: Measured, zero: Measured) -> list[str]:
    """Why responses grew: an exact split of the change in mean length into working more often, working
    longer, and the rest.

    L = w a + (1 - w) b with w the worked share, a and b the mean lengths of worked and other responses, so
    L1 - L0 = (w1 - w0)(a0 - b0) + w1 (a1 - a0) + (1 - w1)(b1 - b0).
    """
    length0, length1 = base.number("length"), zero.number("length")
    if length0 is None or length1 is None:
        return []
    change = length1 / length0 if length0 else math.nan
    told = [
        f"The mean response has {length0:.1f} tokens in {base.name} and {length1:.1f} in {zero.name} (x "
        f"{change:.2f})."
    ]
    split = _split_length(base, zero)
    if split:
        often, longer, rest = split
        worked0, worked1 = base.number("worked_share"), zero.number("worked_share")
        told.append(
            f"Of these {length1 - length0:+.1f} tokens, {often:+.1f} come from writing the working out "
            f"{'more' if often > 0 else 'less'} often "
            f"({percent(worked0)} % of responses before, {percent(worked1)} % after), {longer:+.1f} "
            "from workings getting "
            f"{'longer' if longer > 0 else 'shorter'}, and {rest:+.1f} from responses without working."
        )
        if often > 0 and often > 2 * abs(longer):
            told.append(
                "So the length grows mainly because the model chooses to work problems out, not "
                "because its workings get longer."
            )
        elif longer > 0 and longer > 2 * abs(often):
            told.append("So the length grows mainly because the workings themselves get longer.")
    elif base.number("worked_share") == 0 and zero.number("worked_share") == 0:
        told.append("Neither model works a problem out in any response.")
    else:
        told.append(
            "How much of that is working problems out was not counted in this run, so no reason is given."
        )
    return told


def _split_length(base: Measured, zero: Measured) -> tuple[float, float, float] | None:
    """The three terms of ``say_length`` in tokens. A model that works nothing out borrows the other's mean
    length of workings."""
    shares, worked = [
        [model.number(key) for model in (base, zero)] for key in ("worked_share", "worked_length")
    ]
    lengths = [model.number("length") for model in (base, zero)]
    if None in shares or None in lengths or worked == [None, None]:
        return None
    (w0, w1), (l0, l1) = [[value or 0.0 for value in pair] for pair in (shares, lengths)]
    if (worked[0] is None and w0) or (worked[1] is None and w1):
        return None
    a0, a1 = [value if value is not None else other or 0.0 for value, other in (worked, worked[::-1])]
    b0, b1 = [(length - w * a) / (1 - w) if w < 1 else a for length, w, a in ((l0, w0, a0), (l1, w1, a1))]
    return (w1 - w0) * (a0 - b0), w1 * (a1 - a0), (1 - w1) * (b1 - b0)


def say_checking(base: Measured, zero: Measured) -> list[str]:
    """How often the model re-checks itself, and how such responses fare, without taking that for a cause."""
    before, after = base.number("recheck_share"), zero.number("recheck_share")
    if before is None or after is None:
        return []
    direction = (
        "grows"
        if after > 1.2 * before and after - before > 0.005
        else "shrinks"
        if after < 0.8 * before
        else "stays about the same"
    )
    told = [
        f"Self-checking {direction}: {percent(before)} % of the responses of {base.name} re-check a "
        f"result, {percent(after)} % of {zero.name}'s."
    ]
    accuracy, overall = zero.number("recheck_accuracy"), zero.number("pass@1")
    if accuracy is not None and overall is not None and after:
        told.append(
            f"Responses of {zero.name} that re-check are right in {percent(accuracy)} % of cases, "
            f"against {percent(overall)} % overall. "
            f"That is no proof of what checking does: the model may check where it is unsure."
        )
    waits = zero.number("wait_share")
    if waits is not None:
        told.append(
            f"It takes a step back in {percent(waits)} % of its responses (base: "
            f"{percent(base.number('wait_share'))} %)."
        )
    return told


def say_consensus(models: Sequence[Measured]) -> str:
    """Whether voting helps, over all models that have both figures."""
    gains = []
    for model in models:
        key = consensus_key(model.figures)
        one, vote = model.number("pass@1"), model.number(key) if key else None
        if one is not None and vote is not None:
            gains.append((model.name, key, vote - one))
    if not gains:
        return ""
    low, high = min(gains, key=lambda gain: gain[2]), max(gains, key=lambda gain: gain[2])
    return (
        f"The majority of the samples of a problem ({gains[0][1]}) against one sample: from "
        f"{100 * low[2]:+.1f} points ({low[0]}) "
        f"to {100 * high[2]:+.1f} ({high[0]})."
    )


def say_direct(model: Measured) -> str:
    """What thinking is worth: the same model made to answer at once."""
    direct, thinking = model.number("direct"), model.number("pass@1")
    if direct is None or thinking is None:
        return ""
    return (
        f"Made to answer without thinking, {model.name} scores {percent(direct)} % instead of "
        f"{percent(thinking)} %."
    )


def say_final(zero: Measured, final: Measured) -> list[str]:
    """What the later stages changed against R1-Zero, figure by figure."""
    told = []
    for key, name in (
        ("format", "format"),
        ("language", "language consistency"),
        ("general", "general prompts"),
    ):
        before, after = zero.number(key), final.number(key)
        if before is not None and after is not None:
            told.append(f"{name} {percent(before)} → {percent(after)}")
    return [f"From {zero.name} to {final.name}, in percent: {'; '.join(told)}."] if told else []


def say_student(run: Run) -> list[str]:
    """The student by distillation beside the same student by RL."""
    parts = cast(run)
    student, distilled, by_rl = (
        run.model(parts.student),
        run.model(parts.distilled),
        run.model(parts.student_rl),
    )
    told = []
    if student and distilled:
        told.append(
            f"The dense student scores {rate(student)} before and {rate(distilled)} after distillation "
            f"({compare(distilled, student)})."
        )
    if distilled and by_rl:
        one, other = distilled.number("pass@1"), by_rl.number("pass@1")
        ratio = (
            f"reaches {one / other:.1f} times as much"
            if one and other
            else f"differs by {compare(distilled, by_rl)}"
        )
        times = [
            stage.record.seconds for name in (parts.distilled, parts.student_rl) if (stage := run.stage(name))
        ]
        told.append(
            f"The same student trained by RL reaches {rate(by_rl)}; distillation {ratio} ({_seconds(times)})."
        )
    elif distilled:
        told.append("The same student trained by RL was not part of this run, so the two are not compared.")
    return told


def _seconds(times: Sequence[Any]) -> str:
    found = [number(value) for value in times]
    if len(found) != 2 or None in found:
        return "their times were not both recorded"
    return f"distillation took {found[0]:.0f} s, RL {found[1]:.0f} s"


def say_judges(run: Run) -> list[str]:
    """Whether optimising the reward models kept helping what they stand for, from the two watched curves."""
    final = cast(run).final
    gold, judges = (
        (run.curve(final, metric) for metric in ("watch/gold", "watch/judges")) if final else ([], [])
    )
    if len(gold) < 2 or len(judges) < 2:
        return []
    peak = max(gold, key=lambda point: point[1])
    told = [
        f"While {final} optimises its reward models their own score goes from {judges[0][1]:.2f} to "
        f"{judges[-1][1]:.2f}, and the gold score on "
        f"held-out prompts, which it never sees, from {gold[0][1]:.2f} to {gold[-1][1]:.2f} (highest "
        f"{peak[1]:.2f} at step {peak[0]:.0f})."
    ]
    if judges[-1][1] > judges[0][1] and gold[-1][1] < gold[0][1] - 0.05:
        told.append(
            "The judges' score rises while the gold score falls, which is what exploiting a reward "
            "model looks like."
        )
    return told
