"""The drawings in docs/figures: curves while stages train and bars of what they reach, every run thin, the
mean of all thick."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from measured import Finished, mean, model_names, votes

from r1kit.report.charts import Bars, Level, Line, Point, bar_chart, line_chart, smooth


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric of a stage as it is drawn: ``part`` None takes all parts of the stage."""

    name: str
    stage: str
    metric: str
    part: str | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """Curves over steps; ``levels`` are held-out figures (model, metric) drawn as dashed lines."""

    title: str
    y_label: str
    curves: Sequence[Curve]
    levels: Sequence[tuple[str, str]] = ()
    y_range: Point | None = None
    smoothed: bool = True


# A drawing is also opened by itself, outside a page that sets the colours.
STYLE = (
    "<style>svg{--paper:#fffefb;--ink:#1c1d20;--rule:#dcdad3}"
    "@media(prefers-color-scheme:dark){svg{--paper:#15171b;--ink:#e4e3df;--rule:#353941;"
    "--c0:#78aef0;--c1:#ee946a;--c2:#72c596;--c3:#bd97e2;--c4:#d9b45c;--c5:#989fa9}}</style>"
    '<rect width="100%" height="100%" fill="#fffefb" style="fill:var(--paper,#fffefb)"/>'
)
SHARE = (0.0, 1.0)
DIRECT = "Thinking against direct answers"
FIGURES: dict[str, Figure] = {
    "pretrain": Figure(
        "Loss of the base model while it is pretrained", "nats per token", [Curve("loss", "pretrain", "loss")]
    ),
    "r1_zero": Figure(
        "Accuracy of R1-Zero while it trains",
        "accuracy",
        [Curve("training", "r1_zero", "reward/accuracy/mean")],
        [("base", "pass@1"), ("r1_zero", "pass@1"), ("r1_zero", "cons@n")],
        SHARE,
    ),
    "r1_zero_length": Figure(
        "Response length of R1-Zero", "tokens", [Curve("training", "r1_zero", "completions/mean_length")]
    ),
    "cold_start": Figure("Loss of the cold start", "nats per token", [Curve("loss", "cold_start", "loss")]),
    "reasoning_rl": Figure(
        "Reasoning RL",
        "share",
        [
            Curve("accuracy", "reasoning_rl", "reward/accuracy/mean"),
            Curve("language", "reasoning_rl", "reward/language/mean"),
        ],
        y_range=SHARE,
    ),
    "language": Figure(
        "Language consistency in training",
        "language consistency",
        [Curve(stage, stage, "lang/target_ratio") for stage in ("r1_zero", "reasoning_rl", "no_language")],
        y_range=SHARE,
    ),
    "sft": Figure("Loss of SFT from the base", "nats per token", [Curve("loss", "sft", "loss")]),
    "reward_models": Figure(
        "Accuracy of the reward models on their training data",
        "accuracy",
        [
            Curve("helpful", "reward_models", "accuracy", "helpful"),
            Curve("safety", "reward_models", "accuracy", "safety"),
        ],
        y_range=SHARE,
    ),
    "alignment_rl": Figure(
        "Alignment RL",
        "reward",
        [
            Curve("accuracy", "alignment_rl", "reward/accuracy/mean"),
            Curve("language", "alignment_rl", "reward/language/mean"),
            Curve("helpful", "alignment_rl", "reward/helpful/mean"),
            Curve("safety", "alignment_rl", "reward/safety/mean"),
        ],
        y_range=SHARE,
    ),
    "distill": Figure(
        "Loss of the student while it is distilled", "nats per token", [Curve("loss", "distill", "loss")]
    ),
    "hacking": Figure(
        "A reward model alone, for too long",
        "score",
        [Curve("judges", "hacking", "watch/judges"), Curve("gold", "hacking", "watch/gold")],
        y_range=SHARE,
        smoothed=False,
    ),
}


def draw(figure: Figure, runs: Sequence[Finished]) -> str:
    """The figure as SVG, empty where no run has any of its curves: every run thin, the mean of all thick."""
    lines: list[Line] = []
    for colour, wanted in enumerate(figure.curves):
        found = [curve for run in runs if (curve := run.curve(wanted.stage, wanted.metric, wanted.part))]
        if not found:
            continue
        middle = mean_curve(found)
        if figure.smoothed or len(found) > 1:
            lines += [Line(wanted.name, curve, colour, faint=True) for curve in found]
        name = wanted.name if len(found) == 1 else f"{wanted.name}, mean of {len(found)}"
        lines.append(Line(name, smooth(middle, len(middle) // 12) if figure.smoothed else middle, colour))
    if not lines:
        return ""
    levels = [
        Level(f"{model}, {votes(runs) if metric == 'cons@n' else 'held out'}", value, 5)
        for model, metric in figure.levels
        if (value := mean([run.figure(model, metric) for run in runs])) is not None
    ]
    return framed(line_chart(figure.title, lines, "step", figure.y_label, levels, figure.y_range))


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean at each step over the runs that measured it there: some rewards do not apply at every step of
    every run."""
    found: dict[float, list[float]] = defaultdict(list)
    for x, y in (point for curve in curves for point in curve):
        found[x].append(y)
    return [(x, statistics.fmean(found[x])) for x in sorted(found)]


def draw_direct(runs: Sequence[Finished]) -> str:
    """Bars: each model when it may think, and when it must answer at once."""
    names = [
        name for name in model_names(runs) if any(run.figure(name, "direct") is not None for run in runs)
    ]
    if not names:
        return ""

    def bars(label: str, metric: str, colour: int) -> Bars:
        values = [
            [value for run in runs if (value := run.figure(name, metric)) is not None] for name in names
        ]
        errors = [statistics.stdev(known) / len(known) ** 0.5 if len(known) > 1 else None for known in values]
        return Bars(label, [mean(known) for known in values], errors, colour)

    return framed(
        bar_chart(
            DIRECT,
            names,
            [bars("thinking first", "pass@1", 0), bars("at once", "direct", 1)],
            "pass@1",
            SHARE,
        )
    )


def title_of(name: str) -> str:
    return FIGURES[name].title if name in FIGURES else DIRECT


def draw_all(runs: Sequence[Finished]) -> dict[str, str]:
    """Every figure that the runs give, as SVG by name."""
    drawn = {name: draw(figure, runs) for name, figure in FIGURES.items()} | {"direct": draw_direct(runs)}
    return {name: svg for name, svg in drawn.items() if svg}


def framed(svg: str) -> str:
    """The chart with colours and a background of its own, for light and dark."""
    return svg.replace("</title>", "</title>" + STYLE, 1) + "\n"
