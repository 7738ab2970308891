"""Which curves belong together, and each as an option of Apache ECharts.

A metric that no group names is in the last one, so a new metric of a training is seen without a change here.
A rule that fired is a band on the curve of its metric."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from r1kit.health import Sign
from r1kit.web.metric_rows import Training, smoothed, thinned

POINTS = 600  # of a curve at most
COLOURS = ("#3b6fb5", "#c8781e", "#3a8f5c", "#a0439c", "#8a7a22", "#b5393b", "#2b8fa3", "#6d5bb0")
INK, GRID = "#777d87", "rgba(128,128,128,.22)"  # readable on light and on dark
STEP_SECONDS, TOKENS_PER_SECOND = "time/step", "tokens/s"

# Title of a group -> its charts, each a title and the metrics in it (regular expressions).
GROUPS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Reward",
        (
            ("reward", r"reward/mean"),
            ("parts of the reward", r"reward/(?!mean|failed|zero_std).*/mean"),
            ("groups with equal rewards", r"reward/zero_std_groups"),
            ("could not be judged", r"reward/failed"),
        ),
    ),
    (
        "Held out",
        (("pass@1 on held-out problems", r"watch/(last_)?pass_1"), ("format", r"watch/(last_)?format")),
    ),
    ("Gold score", (("reward models and gold score", r"watch/(gold|judges)"),)),
    (
        "Length, format, language",
        (
            ("tokens per response", r"completions/(mean|max)_length"),
            ("cut off at max_tokens", r"completions/clipped_ratio"),
            ("words in the prompt's language", r"lang/target_ratio"),
        ),
    ),
    (
        "Policy",
        (
            ("entropy (nats)", r"policy/entropy"),
            ("divergence from the reference", r"policy/kl_ref|distill/divergence"),
            ("clipped tokens", r"policy/clipped"),
            ("engine against learner", r"sampling/(logp_gap|rounding)_mean"),
        ),
    ),
    (
        "Loss",
        (("loss", r"loss|mtp_loss"), ("policy loss", r"policy/loss|critic/loss"), ("accuracy", r"accuracy")),
    ),
    (
        "Optimizer and experts",
        (
            ("norm of the gradient", r"optim/grad_norm|critic/grad_norm"),
            ("factor on the learning rate", r"optim/lr_scale"),
            ("load of the busiest expert", r"moe/.*"),
        ),
    ),
    (
        "Time",
        (
            ("seconds of a step", rf"{STEP_SECONDS}"),
            ("seconds of its phases", r"time/(rollout|reward|update)"),
            ("trained tokens a second", rf"{TOKENS_PER_SECOND}"),
        ),
    ),
)
REST = "Others"
_HIDDEN = re.compile(r"preflight/.*|silent/.*|.*_stderr|watch/alarm|optim/skipped")


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: the run that it is of, its metric and its points."""

    run: str
    metric: str
    points: Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Plot:
    """One chart: the metrics in it, curves of one or more runs, and the rules that fired on them."""

    group: str
    title: str
    metrics: tuple[str, ...]


def plots_of(trainings: Sequence[Training]) -> list[Plot]:
    """The charts that these trainings (the same one in several runs, say) have curves for."""
    left = {name for one in trainings for name in _names(one)}
    found = []
    for group, charts in GROUPS:
        for title, pattern in charts:
            own = sorted(name for name in left if re.fullmatch(pattern, name))
            if own:
                found.append(Plot(group, title, tuple(own)))
                left -= set(own)
    return found + [Plot(REST, name, (name,)) for name in sorted(left) if not _HIDDEN.fullmatch(name)]


def lines_of(plot: Plot, runs: Sequence[tuple[str, Training]]) -> list[Line]:
    """The curves of a chart for each run that has them."""
    found = [
        Line(run, metric, thinned(*_curve(training, metric), POINTS))
        for run, training in runs
        for metric in plot.metrics
    ]
    return [line for line in found if line.points]


def option(plot: Plot, lines: Sequence[Line], signs: Sequence[Sign], smoothing: float) -> dict[str, Any]:
    """A chart for ECharts. With ``smoothing`` > 0 the raw curve is drawn pale behind the smoothed one."""
    several = len({line.run for line in lines}) > 1
    names = [_label(line, several, len(plot.metrics) > 1) for line in lines]
    return {
        "animation": False,
        "color": list(COLOURS),
        "textStyle": {"color": INK},
        "title": {"text": plot.title, "left": 4, "top": 2, "textStyle": {"fontSize": 13, "color": INK}},
        "legend": {
            "show": len(lines) > 1,
            "data": names,
            "bottom": 0,
            "type": "scroll",
            "textStyle": {"color": INK, "fontSize": 11},
        },
        "tooltip": {"trigger": "axis", "renderMode": "richText", "confine": True},
        "grid": {
            "left": 8,
            "right": 14,
            "top": 34,
            "bottom": 28 if len(lines) > 1 else 8,
            "containLabel": True,
        },
        "xAxis": {
            "type": "value",
            "min": "dataMin",
            "max": "dataMax",
            "axisLabel": {"color": INK, "fontSize": 10},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value",
            "scale": True,
            "axisLabel": {"color": INK, "fontSize": 10},
            "splitLine": {"lineStyle": {"color": GRID}},
        },
        "series": list(_series(lines, names, signs, smoothing)),
    }


def _series(
    lines: Sequence[Line], names: Sequence[str], signs: Sequence[Sign], smoothing: float
) -> Iterator[dict[str, Any]]:
    for place, (line, name) in enumerate(zip(lines, names, strict=True)):
        colour = COLOURS[place % len(COLOURS)]
        usual = {"type": "line", "name": name, "color": colour, "showSymbol": len(line.points) < 3}
        bands = _bands([sign for sign in signs if sign.rule.metric == line.metric]) if place == 0 else {}
        if smoothing > 0:
            pale = {"lineStyle": {"width": 1, "opacity": 0.3}, "tooltip": {"show": False}, "silent": True}
            yield {**usual, **pale, "data": [list(point) for point in line.points]}
        points = smoothed(line.points, smoothing)
        yield {**usual, "lineStyle": {"width": 1.8}, "data": [_rounded(point) for point in points], **bands}


def _bands(signs: Sequence[Sign]) -> dict[str, Any]:
    """Where rules fired: a band over their steps, and their titles."""
    if not signs:
        return {}
    data = [
        [
            {
                "xAxis": sign.step,
                "name": sign.rule.title,
                "itemStyle": {"color": "rgba(200,60,50,.16)" if sign.rule.grave else "rgba(220,160,30,.18)"},
            },
            {"xAxis": max(sign.until, sign.step + 0.5)},
        ]
        for sign in signs
    ]
    label = {"fontSize": 10, "color": "#b5483b", "position": "insideTopLeft"}
    return {"markArea": {"silent": True, "label": label, "data": data}}


def _curve(training: Training, metric: str) -> tuple[Sequence[int], Sequence[float]]:
    """Steps and values of a metric, also of those that are computed here from the rows' times."""
    if metric == STEP_SECONDS:
        return _step_seconds(training)
    if metric == TOKENS_PER_SECOND:
        steps, seconds = _step_seconds(training)
        by_step = dict(zip(*training.points("tokens"), strict=False))
        pairs = [
            (step, by_step[step] / s) for step, s in zip(steps, seconds, strict=True) if s and step in by_step
        ]
        return [step for step, _ in pairs], [value for _, value in pairs]
    return training.points(metric)


def _step_seconds(training: Training) -> tuple[Sequence[int], Sequence[float]]:
    """Each step with the seconds since the row before it; not where the clock was set back."""
    seconds = np.diff(np.asarray(training.times[:]))
    places = np.flatnonzero((seconds >= 0) & (seconds < math.inf))
    return [training.steps[place + 1] for place in places], seconds[places].tolist()


def _names(training: Training) -> Iterator[str]:
    yield from training.columns
    if len(training.steps) > 1:
        yield STEP_SECONDS
        if "tokens" in training.columns:
            yield TOKENS_PER_SECOND


def _label(line: Line, several: bool, many: bool) -> str:
    if several and many:
        return f"{line.run}: {line.metric}"
    return line.run if several else line.metric


def _rounded(point: tuple[int, float]) -> list[float]:
    return [point[0], float(f"{point[1]:.5g}")]
