"""The board as text: ``r1kit watch RUN`` shows the stages of a run, the curves of its latest training, and
the health rules that fired. On a terminal it looks again every few seconds; elsewhere it prints once."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from r1kit.config import ConfigError
from r1kit.health import Sign
from r1kit.log import duration
from r1kit.terminal import one_line
from r1kit.web.curves import plots_of
from r1kit.web.metric_rows import Training, thinned
from r1kit.web.run_view import RunView, StageView, looks_like_a_run

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 32  # characters of a curve
CURVES, SIGNS, RESULT = 14, 8, 90  # lines of each at most; characters of a result


def watch(run_dir: Path, every: float, console: Console, once: bool = False) -> None:
    """Show a run until the user stops it, or once where the console is no terminal. Raises ConfigError for a
    folder that is no run."""
    if not looks_like_a_run(run_dir):
        raise ConfigError(f"{run_dir}: no run of r1kit (no recipe.yaml, metrics.jsonl, stages or samples)")
    view = RunView(run_dir)
    view.refresh()
    if once or not console.is_terminal:
        for line in board_lines(view):
            console.print(Text(line), soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Text("\n".join(board_lines(view)), no_wrap=True, overflow="ellipsis"), refresh=True)
            time.sleep(every)
            view.refresh()


def board_lines(view: RunView) -> list[str]:
    """The whole board, line by line."""
    state = "going on" if view.is_running else "not running"
    lines = [f"{view.name}: {state}, {view.metrics.rows()} rows of metrics", ""]
    lines += [_stage_line(stage) for stage in view.stages]
    trainings = list(view.metrics.trainings.values())
    if trainings:
        latest = max(trainings, key=lambda one: one.times[-1] if one.times else 0.0)
        lines += ["", f"{latest.name}, step {latest.steps[-1] + 1}", *_curve_lines(latest)]
    lines += ["", *_health_lines(view)]
    return [one_line(line) for line in lines]


def _stage_line(stage: StageView) -> str:
    planned = stage.planned.steps
    of = "" if stage.step is None else str(stage.step) + (f"/{planned}" if planned is not None else "")
    spent = duration(stage.seconds) if stage.seconds else ""
    left = f"left {duration(stage.left_s)}" if stage.left_s is not None else spent
    return f"  {stage.name:<20} {stage.state:<12} {of:>11}  {left:<14} {stage.result[:RESULT]}".rstrip()


def _curve_lines(training: Training) -> Iterator[str]:
    names = [name for plot in plots_of([training]) for name in plot.metrics if name in training.columns]
    for name in names[:CURVES]:
        steps, values = training.points(name)
        shown = [value for _, value in thinned(steps, values, WIDTH)]
        yield f"  {name:<26} {sparkline(shown):<{WIDTH}}  {values[0]:>9.4g} -> {values[-1]:.4g}"


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line of text, from its lowest value to its highest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int((value - low) / span * len(BARS)))] for value in values)


def _health_lines(view: RunView) -> Iterator[str]:
    signs = view.signs()
    quiet = view.quiet()
    if not (signs or quiet or view.troubles):
        yield "health: no rule fired"
        return
    yield "health:"
    if quiet:
        yield f"  ! {quiet}"
    yield from (f"  ! {trouble}" for trouble in view.troubles)
    yield from (f"  {'!' if sign.rule.grave else '-'} {_in_words(sign)}" for sign in signs[:SIGNS])
    if len(signs) > SIGNS:
        yield f"  and {len(signs) - SIGNS} more"


def _in_words(sign: Sign) -> str:
    name = f"{sign.stage}/{sign.part}" if sign.part else sign.stage
    return f"{name}, {sign.in_words()}"
