"""Sentences about a finished run, computed from its figures.

A difference below twice its standard error is called noise, and a missing measurement gives no sentence. Two
standard errors are combined as if the two models had been measured on different problems. The problems are
the same, so the real error of a difference is smaller."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from r1kit.figures import DOUBTS, PREFLIGHT, SILENT_CAUSES, Habit
from r1kit.log import duration
from r1kit.report.run import Measured, Roles, Run, find_roles, seconds_of
from r1kit.sandbox.pool import UNSAFE

CLEAR = 2.0  # standard errors
WORKED, RECHECK, STEP_BACK = "worked", "recheck", "step_back"  # habits in the sentences


def percent(value: float | None, error: float | None = None) -> str:
    """A share as 81.2 or 81.2 ± 1.3, in percent; a dash where it was not measured."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if error is None else f"{100 * value:.1f} ± {100 * error:.1f}"


def accuracy_of(model: Measured) -> str:
    """pass@1 with its standard error, in percent."""
    overall = model.figures.overall
    return f"{percent(overall.pass_1, overall.pass_1_stderr)} %"


def votes_of(models: Sequence[Measured]) -> str:
    """The name of the majority vote's figure with its number of votes, such as cons@16; cons@n where models
    were measured with different ones."""
    counts = {model.protocol.n for model in models}
    return f"cons@{counts.pop()}" if len(counts) == 1 else "cons@n"


def verdict(new: float, old: float, *errors: float | None) -> str:
    """How two shares differ, in percentage points, and whether that is more than noise."""
    points = 100 * (new - old)
    if points == 0:
        return "no difference"
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return f"{points:+.1f} points; the standard error is not known, so this may be noise"
    spread = 100 * math.sqrt(sum(error * error for error in known))
    size = "more than noise" if abs(points) > CLEAR * spread else "within noise"
    return f"{points:+.1f} points, standard error {spread:.1f}: {size}"


def compare(new: Measured, old: Measured) -> str:
    """The verdict on pass@1 of two models."""
    a, b = new.figures.overall, old.figures.overall
    return verdict(a.pass_1, b.pass_1, a.pass_1_stderr, b.pass_1_stderr)


def say_headline(run: Run) -> list[str]:
    """The abstract: what the run did and what its main models score."""
    roles = find_roles(run)
    base, zero, final = run.model(roles.base), run.model(roles.zero), run.model(roles.final)
    said = []
    if base and zero:
        said.append(
            "By reinforcement learning with rewards from rules the accuracy on held-out problems goes from "
            f"{accuracy_of(base)} ({base.name}) to {accuracy_of(zero)} ({zero.name}): {compare(zero, base)}."
        )
    if zero and final and final is not zero:
        said.append(
            f"The final model, {final.name}, reaches {accuracy_of(final)} (compared with {zero.name}: "
            f"{compare(final, zero)})."
        )
    if said:
        said.append(
            "Accuracy is pass@1: the share of sampled answers that are right, ± its standard error over "
            "problems. A difference below two standard errors is called noise."
        )
    else:
        said.append(
            "This run has no evaluation of both a base model and a model trained by RL, so the effect of RL "
            "is not known."
        )
    if run.environment.get("sandbox") == UNSAFE:
        said.append(
            f"Programs ran WITHOUT isolation (--sandbox={UNSAFE}): they could have forged their rewards or "
            "changed files."
        )
    return said


def say_preflight(stage: str, row: Mapping[str, Any]) -> str:
    """What the pre-flight of a stage found, from the metrics of its first row."""
    kinds = [name for name in (*SILENT_CAUSES, *DOUBTS) if row.get(f"{PREFLIGHT}found/{name}")]
    words = " and ".join(kind.replace("_", " ") for kind in kinds) or "learnable"
    found = {
        name: row.get(PREFLIGHT + name) or 0.0 for name in ("rollouts", "groups", "uneven", "right", "format")
    }
    hopeless = " (hopeless)" if row.get(PREFLIGHT + "hopeless") else ""
    return (
        f"Before {stage} trained, {found['rollouts']:.0f} rollouts in {found['groups']:.0f} groups were "
        f"sampled: {words}{hopeless}. {percent(found['uneven'])} % of the groups had something to teach, "
        f"{percent(found['right'])} % of the rollouts were right, and {percent(found['format'])} % followed "
        "the template."
    )


def say_length(base: Measured, zero: Measured) -> list[str]:
    """Why responses grew: an exact split of the change in mean length into working more often, working
    longer, and the rest.

    L = w a + (1 - w) b with w the worked share, a and b the mean lengths of worked and other responses, so
    L1 - L0 = (w1 - w0)(a0 - b0) + w1 (a1 - a0) + (1 - w1)(b1 - b0).
    """
    length0, length1 = base.figures.overall.length, zero.figures.overall.length
    change = length1 / length0 if length0 else math.nan
    said = [
        f"The mean response has {length0:.1f} tokens in {base.name} and {length1:.1f} in {zero.name} (x "
        f"{change:.2f})."
    ]
    worked0, worked1 = (model.figures.habits.get(WORKED) for model in (base, zero))
    if worked0 is None or worked1 is None:
        return [
            *said,
            "How many responses work the problem out was not counted, so the reason is not known.",
        ]
    if worked0.share == worked1.share == 0:
        return [*said, "Neither model works a problem out in any response."]
    often, longer, rest = split_length(length0, length1, worked0, worked1)
    said.append(
        f"Of these {length1 - length0:+.1f} tokens, {often:+.1f} come from working the problem out "
        f"{'more' if often > 0 else 'less'} often ({percent(worked0.share)} % of responses before, "
        f"{percent(worked1.share)} % after), {longer:+.1f} from "
        f"{'longer' if longer > 0 else 'shorter'} workings, and {rest:+.1f} from responses without working."
    )
    if often > 0 and often > 2 * abs(longer):
        said.append(
            "So responses get longer mainly because the model works problems out more often, not because "
            "its workings get longer."
        )
    elif longer > 0 and longer > 2 * abs(often):
        said.append("So responses get longer mainly because the workings themselves do.")
    return said


def split_length(
    length0: float, length1: float, worked0: Habit, worked1: Habit
) -> tuple[float, float, float]:
    """The three terms of ``say_length`` in tokens. If a model has no worked responses, the other model's mean
    length of them is used."""
    a0 = worked0.length if worked0.length is not None else worked1.length or 0.0
    a1 = worked1.length if worked1.length is not None else a0
    (w0, b0), (w1, b1) = [
        (w, (length - w * a) / (1 - w) if w < 1 else a)
        for length, w, a in ((length0, worked0.share, a0), (length1, worked1.share, a1))
    ]
    return (w1 - w0) * (a0 - b0), w1 * (a1 - a0), (1 - w1) * (b1 - b0)


def say_checking(base: Measured, zero: Measured) -> list[str]:
    """How often the model checks itself, and the accuracy of such responses (a correlation, not a cause)."""
    before, after = (model.figures.habits.get(RECHECK) for model in (base, zero))
    said = []
    if before is not None and after is not None:
        said.append(
            f"Self-checking {_direction(before.share, after.share)}: {percent(before.share)} % of the "
            f"responses of {base.name} check a result again, and {percent(after.share)} % of those of "
            f"{zero.name}."
        )
    if after is not None and after.accuracy is not None:
        said.append(
            f"Of the responses of {zero.name} that check again, {percent(after.accuracy)} % are right; of "
            f"all its responses, {percent(zero.figures.overall.pass_1)} %. This does not show what checking "
            "does: the model may check where it is unsure."
        )
    before, after = (model.figures.habits.get(STEP_BACK) for model in (base, zero))
    if before is not None and after is not None:
        said.append(
            f'{percent(after.share)} % of the responses of {zero.name} take something back ("wait"), '
            f"{percent(before.share)} % of those of {base.name}."
        )
    return said


def _direction(before: float, after: float) -> str:
    if after > 1.2 * before and after - before > 0.005:
        return "grows"
    return "shrinks" if after < 0.8 * before else "stays about the same"


def say_consensus(models: Sequence[Measured]) -> str:
    """Whether voting helps, over all models."""
    gains = [(model.figures.overall.cons_n - model.figures.overall.pass_1, model.name) for model in models]
    if not gains:
        return ""
    low, high = min(gains, key=lambda gain: gain[0]), max(gains, key=lambda gain: gain[0])
    return (
        f"Taking the most frequent answer of a problem's samples ({votes_of(models)}) instead of one sample "
        f"changes the accuracy by {100 * low[0]:+.1f} points ({low[1]}) to {100 * high[0]:+.1f} ({high[1]})."
    )


def say_direct(model: Measured) -> str:
    """The gain from thinking: the same model with and without it."""
    if model.figures.direct is None:
        return ""
    return (
        f"Made to answer without thinking, {model.name} scores {percent(model.figures.direct)} % instead of "
        f"{percent(model.figures.overall.pass_1)} %."
    )


def say_final(zero: Measured, final: Measured) -> str:
    """What the later stages changed against R1-Zero, figure by figure."""
    before, after = zero.figures, final.figures
    changes = [
        f"exact format {percent(before.overall.format)} → {percent(after.overall.format)}",
        f"language consistency {percent(before.overall.language)} → {percent(after.overall.language)}",
    ]
    if before.general and after.general:
        changes.append(f"general prompts {percent(before.general.score)} → {percent(after.general.score)}")
    return f"From {zero.name} to {final.name}, in percent: {'; '.join(changes)}."


def say_student(run: Run, roles: Roles) -> list[str]:
    """The student by distillation against the same student by RL."""
    student, by_rl = run.model(roles.student), run.model(roles.student_rl)
    distilled = run.model(roles.distilled)
    if distilled is None:
        return []
    said = []
    if student:
        said.append(
            f"The dense student has an accuracy of {accuracy_of(student)} before distillation and "
            f"{accuracy_of(distilled)} after it ({compare(distilled, student)})."
        )
    if by_rl is None:
        said.append("The same student was not trained by RL in this run, so the two are not compared.")
        return said
    one, other = distilled.figures.overall.pass_1, by_rl.figures.overall.pass_1
    ratio = f"; distillation reaches {one / other:.1f} times as much" if one and other else ""
    said.append(
        f"The same student trained by RL reaches {accuracy_of(by_rl)}{ratio} ({compare(distilled, by_rl)}; "
        f"{_times(run, roles)})."
    )
    return said


def _times(run: Run, roles: Roles) -> str:
    stages = (run.stage(name) for name in (roles.distilled, roles.student_rl))
    one, other = (seconds_of(stage) if stage else None for stage in stages)
    if one is None or other is None:
        return "their times were not both recorded"
    return f"distillation took {duration(one)}, RL {duration(other)}"


def say_judges(run: Run, final: str | None) -> list[str]:
    """Whether the gold score kept rising while the reward models were optimised, from the two watched
    curves."""
    gold, judges = (
        (run.curve(final, metric) for metric in ("watch/gold", "watch/judges")) if final else ([], [])
    )
    if len(gold) < 2 or len(judges) < 2:
        return []
    peak = max(gold, key=lambda point: point[1])
    said = [
        f"While {final} is trained with its reward models, their own score on held-out prompts goes from "
        f"{judges[0][1]:.2f} to {judges[-1][1]:.2f}. The gold score on the same prompts, which is never a "
        f"reward, goes from {gold[0][1]:.2f} to {gold[-1][1]:.2f} (highest {peak[1]:.2f} at step "
        f"{peak[0]:.0f})."
    ]
    if judges[-1][1] > judges[0][1] and gold[-1][1] < gold[0][1] - 0.05:
        said.append(
            "The reward models' score rises while the gold score falls: the policy exploits the reward "
            "models."
        )
    return said
