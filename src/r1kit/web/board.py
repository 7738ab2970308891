"""The board: the recipe as a figure, what is wrong in plain words, and live curves of one or more runs."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from nicegui import ui

from r1kit.config import R1kitError
from r1kit.health import Sign
from r1kit.log import duration
from r1kit.web.curves import INK, Plot, lines_of, option, plots_of
from r1kit.web.library import EVERY_S, Library, OpenRun
from r1kit.web.page_frame import address, page_frame, text
from r1kit.web.recipes import differences, recipe_of
from r1kit.web.run_view import StageView

COLOURS = {
    "done": "#2e7d4f",
    "running": "#3b6fb5",
    "interrupted": "#97690c",
    "failed": "#c0392b",
    "damaged": "#c0392b",
    "waiting": "#6b7079",
}  # white is readable on each, and each on white and on black
MOST_SIGNS, MOST_DIFFERENCES = 12, 200


class Board:
    """One visitor's board: which training is shown, which other runs are laid over it, and how smooth."""

    def __init__(self, library: Library, run: str, stage: str) -> None:
        self.library, self.run = library, library.open(run)
        self.wanted, self.over, self.smoothing = stage, list[str](), 0.6
        self.follows = not stage  # the newest training is shown, until another is chosen
        self.shown: tuple[object, ...] = ()
        self.charts: dict[Plot, ui.echart] = {}

    def build(self) -> None:
        """Make the page."""
        self.summary = ui.column().classes("w-full gap-1")
        self.health = ui.column().classes("w-full gap-2")
        with ui.element("div").classes("r1-figure"):
            self.figure = ui.echart({"series": []})
        self.stages = ui.element("div").classes("r1-stages w-full")
        with ui.row().classes("w-full items-center gap-4"):
            self.choice = (
                ui.select([], label="training").props("dense outlined options-dense").classes("w-56")
            )
            self.choice.on_value_change(self._choose)
            others = [name for name in self.library.names if name != self.run.name]
            if others:
                over = ui.select(others, multiple=True, label="lay other runs over it")
                over.props("dense outlined options-dense use-chips").classes("w-72")
                over.on_value_change(self._lay_over)
            ui.label("smooth").classes("r1-soft")
            slider = ui.slider(min=0, max=0.95, step=0.05, value=self.smoothing).classes("w-40")
            slider.props('aria-label="smoothing"').on_value_change(self._smooth)
        self.curves = ui.column().classes("w-full gap-3")
        self.changes = ui.column().classes("w-full gap-1")
        self.refresh()
        ui.timer(EVERY_S, self.refresh)

    def refresh(self) -> None:
        """Show what is new, if anything is."""
        runs = [self.run, *(self.library.open(name) for name in self.over)]
        state = (
            *(run.version for run in runs),
            self.wanted,
            self.smoothing,
            *self.over,
            self.run.view.quiet(),
        )
        if state == self.shown:
            return
        self.shown = state
        with self.run.lock:
            self._show_summary()
            self._show_health()
            self._show_stages()
        self._show_choice()
        self._show_curves(runs)

    def _choose(self, event: Any) -> None:
        if event.value and event.value != self.wanted:
            self.wanted = event.value
            self.follows = event.value == self._newest()
            self.refresh()

    def _lay_over(self, event: Any) -> None:
        self.over = list(event.value)
        self.refresh()
        self._show_changes()

    def _smooth(self, event: Any) -> None:
        self.smoothing = float(event.value)
        self.refresh()

    def _show_summary(self) -> None:
        view = self.run.view
        done = sum(stage.state == "done" for stage in view.stages)
        state = "going on" if view.is_running else "not running"
        self.summary.clear()
        with self.summary:
            text(view.name, "text-xl font-bold")
            text(
                f"{state}; {done} of {len(view.stages)} stages done; {view.metrics.rows():,} rows of metrics",
                "r1-soft",
            )

    def _show_health(self) -> None:
        view = self.run.view
        signs = view.signs()
        warnings = [*([view.quiet()] if view.quiet() else []), *view.troubles]
        warnings += [f"this run cannot be read: {self.run.fault}"] if self.run.fault else []
        self.health.clear()
        with self.health:
            for warning in warnings:
                text(warning, "r1-card r1-grave w-full")
            for sign in signs[:MOST_SIGNS]:
                self._show_sign(sign)
            if len(signs) > MOST_SIGNS:
                text(f"and {len(signs) - MOST_SIGNS} more, drawn on the curves", "r1-soft")
            if not signs and not warnings:
                text("Health: no rule fired.", "r1-soft")

    def _show_sign(self, sign: Sign) -> None:
        where = f"{sign.stage}/{sign.part}" if sign.part else sign.stage
        steps = f"step {sign.step}" if sign.step == sign.until else f"steps {sign.step} to {sign.until}"
        with ui.element("div").classes(f"r1-card w-full {'r1-grave' if sign.rule.grave else 'r1-mild'}"):
            with ui.row().classes("items-baseline gap-3"):
                text(sign.rule.title, "font-bold")
                found = address("/rollouts", run=self.run.name, stage=sign.stage, step=sign.step)
                ui.link(f"{where}, {steps}", found).classes("r1-link r1-soft")
            text(f"{sign.rule.means} ({sign.seen})")
            text(f"Try: {sign.change}")

    def _show_stages(self) -> None:
        stages = self.run.view.stages
        figure, width, height = recipe_figure(stages)
        self.figure.style(f"width: {width}px; height: {height}px")
        self.figure.options.clear()
        self.figure.options.update(figure)
        self.figure.update()
        self.stages.clear()
        with self.stages:
            for stage in stages:
                self._show_stage(stage)

    def _show_stage(self, stage: StageView) -> None:
        card = ui.element("div").classes("r1-card")
        card.style(f"border-left: 4px solid {COLOURS[stage.state]}")
        with card:
            text(stage.name, "font-bold")
            text(progress_in_words(stage), "r1-soft")
            if stage.result:
                text(stage.result, "r1-soft")

    def _newest(self) -> str:
        """The training with the last row of metrics, or "" where there is none."""
        with self.run.lock:
            trainings = list(self.run.view.metrics.trainings.values())
        newest = max(trainings, key=lambda one: one.times[-1] if one.times else 0.0, default=None)
        return newest.name if newest else ""

    def _show_choice(self) -> None:
        with self.run.lock:
            names = [training.name for training in self.run.view.metrics.trainings.values()]
        parts = [name for name in names if self.wanted and name.startswith(f"{self.wanted}/")]
        if self.follows or (self.wanted not in names and not parts):
            self.wanted = self._newest()
        elif self.wanted not in names:
            self.wanted = parts[0]
        if list(self.choice.options) != names or self.choice.value != self.wanted:
            self.choice.set_options(names, value=self.wanted if self.wanted in names else None)

    def _show_curves(self, runs: Sequence[OpenRun]) -> None:
        with ExitStack() as locks:
            for run in sorted(runs, key=lambda run: run.name):  # one order: no two boards wait for each other
                locks.enter_context(run.lock)
            found = [
                (run.name, training)
                for run in runs
                for training in run.view.metrics.trainings.values()
                if training.name == self.wanted
            ]
            plots = plots_of([training for _, training in found])
            signs = found[0][1].signs if found and found[0][0] == self.run.name else []
            options = {plot: option(plot, lines_of(plot, found), signs, self.smoothing) for plot in plots}
        if list(self.charts) != plots:
            self._make_charts(options)
            return
        for plot, chart in self.charts.items():
            chart.options.clear()
            chart.options.update(options[plot])
            chart.update()

    def _make_charts(self, options: Mapping[Plot, dict[str, Any]]) -> None:
        self.charts = {}
        self.curves.clear()
        with self.curves:
            for group in dict.fromkeys(plot.group for plot in options):
                text(group, "text-base font-bold")
                with ui.element("div").classes("r1-charts w-full"):
                    for plot in options:
                        if plot.group == group:
                            self.charts[plot] = ui.echart(options[plot]).classes("r1-chart r1-card")

    def _show_changes(self) -> None:
        self.changes.clear()
        with self.changes:
            for name in self.over:
                text(f"What differs between the recipes of {name} and {self.run.name}", "font-bold")
                try:
                    found = differences(recipe_of(self.library.folders[name]), self.run.view.recipe)
                except R1kitError as error:
                    text(str(error), "r1-card r1-grave")
                    continue
                rows = [
                    {"key": key, "there": there, "here": here}
                    for key, there, here in found[:MOST_DIFFERENCES]
                ]
                columns = [
                    {"name": "key", "label": "key", "field": "key", "align": "left"},
                    {"name": "there", "label": name, "field": "there", "align": "left"},
                    {"name": "here", "label": self.run.name, "field": "here", "align": "left"},
                ]
                if rows:
                    ui.table(rows=rows, columns=columns, row_key="key").props(
                        "dense flat wrap-cells"
                    ).classes("w-full")
                else:
                    text("nothing", "r1-soft")


def progress_in_words(stage: StageView) -> str:
    """State, steps, and time left or spent."""
    words: list[str] = [stage.state]
    if stage.step is not None:
        words.append(_steps_in_words(stage))
    if stage.left_s is not None:
        words.append(f"{duration(stage.left_s)} left")
    elif stage.seconds:
        words.append(duration(stage.seconds))
    if stage.peak_mb:
        words.append(f"{stage.peak_mb:,.0f} MB")
    return ", ".join(words)


def _steps_in_words(stage: StageView) -> str:
    """The steps so far; of how many while there are more to come."""
    if stage.step is None:
        return ""
    if stage.planned.steps is not None and stage.state != "done":
        return f"step {stage.step:,} of {stage.planned.steps:,}"
    return f"{stage.step:,} step{'s' if stage.step != 1 else ''}"


def recipe_figure(stages: Sequence[StageView]) -> tuple[dict[str, Any], int, int]:
    """The stages as boxes with arrows, for ECharts, and its width and height in pixels. A stage is one column
    to the right of the last that it reads; an arrow that others imply is left out, and one that passes over
    columns takes a row without a box."""
    places: dict[str, Place] = {}
    for stage in stages:
        column = 1 + max((places[name][0] for name in stage.planned.reads if name in places), default=-1)
        row = sum(other == column for other, _ in places.values())
        places[stage.name] = column, row
    nodes = [_box(stage, *places[stage.name]) for stage in stages]
    links, rows, taken = [], [1.0], set(places.values())
    for read, name in _arrows(stages):
        way = _way(places[read], places[name], taken)
        rows += [row for _, row in way]
        corners = [_unseen(f"{read} > {name} {number}", *place) for number, place in enumerate(way)]
        nodes += corners
        stops = [read, *(corner["name"] for corner in corners)]
        links += [{"source": one, "target": other} for one, other in pairwise(stops)]
        links[-1]["symbol"] = ["none", "arrow"]
    across = max((column for column, _ in places.values()), default=0)
    down = max(rows + [float(row) for _, row in places.values()])
    # Two points that are not seen keep one unit of the layout one pixel.
    nodes += [_unseen("first corner", 0, 0), _unseen("last corner", across, down)]
    series = {
        "type": "graph",
        "layout": "none",
        "silent": True,
        "left": BOX_X,
        "top": BOX_Y,
        "width": max(1, across * STEP_X),
        "height": int(down * STEP_Y),
        "edgeSymbol": ["none", "none"],
        "edgeSymbolSize": 8,
        "lineStyle": {"color": INK, "opacity": 0.9, "width": 1.5},
        "label": {"show": True, "color": "#fff", "fontSize": 10, "lineHeight": 14},
        "data": nodes,
        "links": links,
    }
    size = int(across * STEP_X) + 2 * BOX_X, int(down * STEP_Y) + 2 * BOX_Y
    return {"animation": False, "series": [series]}, *size


Place = tuple[float, float]  # column and row
BOX, STEP_X, STEP_Y = (98, 50), 120, 72  # a box, and from box to box; pixels. Ten columns fit into 1,200
BOX_X, BOX_Y = 54, 30  # half a box with its margin


def _way(start: Place, end: Place, taken: set[Place]) -> list[Place]:
    """The corners of an arrow, the last at the left edge of the box where it ends. Between boxes that are not
    neighbours it takes a row that is free in all columns between, and keeps it."""
    (left, first), (right, last) = start, end
    between = [left + step for step in range(1, int(right - left))]
    rows = [first, last] if between else [last]
    rows += [float(row) for row in range(len(taken) + 1)]
    row = next(row for row in rows if not any((column, row) in taken for column in between))
    taken.update((column, row) for column in between)
    corners = [(left + 0.5, first), (left + 0.5, row), (right - 0.5, row), (right - 0.5, last)]
    return [*dict.fromkeys(corners), (right - BOX[0] / 2 / STEP_X, last)]


def _box(stage: StageView, column: float, row: float) -> dict[str, Any]:
    state = f"{duration(stage.left_s)} left" if stage.left_s is not None else stage.state
    steps = _steps_in_words(stage)
    return {
        "name": stage.name,
        "x": column * STEP_X,
        "y": row * STEP_Y,
        "symbol": "roundRect",
        "symbolSize": list(BOX),
        "itemStyle": {"color": COLOURS[stage.state]},
        "label": {
            "formatter": "\n".join(filter(None, [stage.name, state, steps])),
            "width": BOX[0] - 2,
            "overflow": "truncate",
        },
    }


def _unseen(name: str, column: float, row: float) -> dict[str, Any]:
    """A point of the figure that only arrows show."""
    place = {"x": column * STEP_X, "y": row * STEP_Y}
    return {"name": name, **place, "symbolSize": 0, "label": {"show": False}}


def _arrows(stages: Sequence[StageView]) -> list[tuple[str, str]]:
    """(read, reader) without those where a way over other stages leads there too."""
    reads = {stage.name: set(stage.planned.reads) for stage in stages}
    before: dict[str, set[str]] = {}
    for stage in stages:
        own = reads[stage.name] & before.keys()
        before[stage.name] = own.union(*(before[name] for name in own))
    return [
        (name, stage.name)
        for stage in stages
        for name in stage.planned.reads
        if name in reads and not any(name in before[other] for other in reads[stage.name] & before.keys())
    ]


def board_page(library: Library, run: str, stage: str) -> None:
    """Make the board for a visitor."""
    board = Board(library, run, stage)
    with page_frame(library, board.run.name, "/"):
        board.build()
