"""Charts as SVG text, without a plotting library: lines over steps, and grouped bars.

A chart is one self-contained element that a page takes in as it is. Its colours are CSS variables with a
fallback, so the page decides how they look in light and dark. Lines are named where they end, not in a
legend, and all text is escaped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 640.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 148.0, 14.0, 44.0
FALLBACKS = ("#1f5fa8", "#c0562b", "#2f7d4f", "#7b4fa3", "#a8812a", "#5c6670")


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve. ``faint`` draws it thin and unnamed: the noisy measurement behind a smoothed one of the
    same ``colour``."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A dashed horizontal line: a value that the curves are to be compared with."""

    name: str
    value: float
    colour: int = 5


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar per group, with standard errors where known; None leaves the place empty."""

    name: str
    values: Sequence[float | None]
    errors: Sequence[float | None]
    colour: int = 0


def smooth(points: Sequence[Point], window: int) -> list[Point]:
    """Average every point with its neighbours, at most ``window`` points centred on it; the window narrows at
    the ends."""
    half = max(0, window // 2)
    averaged = []
    for place, (x, _) in enumerate(points):
        reach = min(half, place, len(points) - 1 - place)
        near = [y for _, y in points[place - reach : place + reach + 1]]
        averaged.append((x, sum(near) / len(near)))
    return averaged


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at or below ``low`` to at or above
    ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, max(last, first + 1) + 1)]


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    levels: Sequence[Level] = (),
    y_range: Point | None = None,
) -> str:
    """Draw curves over a common x axis. Points that are not finite are left out; ``y_range`` fixes the
    vertical axis."""
    lines = [
        Line(
            line.name,
            [p for p in line.points if math.isfinite(p[0]) and math.isfinite(p[1])],
            line.colour,
            line.faint,
        )
        for line in lines
    ]
    xs = [x for line in lines for x, _ in line.points] or [0.0, 1.0]
    ys = [y for line in lines for _, y in line.points] + [level.value for level in levels]
    low, high = y_range or (min([0.0, *ys]), max(ys, default=1.0))
    frame = _Frame(min(xs), max(xs), ticks(low, high))
    body = [frame.axes(ticks(min(xs), max(xs), 6), x_label, y_label)]
    body += [_level(frame, level) for level in levels]
    body += [_curve(frame, line) for line in lines if line.points]
    ends = [
        (line.name, frame.y(line.points[-1][1]), line.colour)
        for line in lines
        if line.points and not line.faint
    ]
    ends += [(level.name, frame.y(level.value), level.colour) for level in levels]
    body += [_text(WIDTH - RIGHT + 8, y + 4, name, "start", colour) for name, y, colour in _spread(ends)]
    return _svg(title, body)


def bar_chart(
    title: str, groups: Sequence[str], bars: Sequence[Bars], y_label: str, y_range: Point | None = None
) -> str:
    """Draw groups of bars side by side; whiskers reach one standard error up and down."""
    values = [value for series in bars for value in series.values if value is not None]
    low, high = y_range or (min([0.0, *values]), max(values, default=1.0))
    frame = _Frame(0.0, float(max(1, len(groups))), ticks(low, high))
    body = [frame.axes([], "", y_label)]
    share = 0.72 / max(1, len(bars))
    for place, group in enumerate(groups):
        body.append(_text(frame.x(place + 0.5), HEIGHT - BOTTOM + 18, group, "middle"))
        for order, series in enumerate(bars):
            x = frame.x(place + 0.14 + order * share)
            body.append(_bar(frame, x, (frame.x(share) - frame.x(0.0)) * 0.92, series, place))
    for order, series in enumerate(bars):
        y = TOP + 12 + 20 * order
        body.append(
            f'<rect x="{WIDTH - RIGHT + 10:.1f}" y="{y - 9:.1f}" width="10" height="10" '
            f'style="fill:{_colour(series.colour)}"/>'
        )
        body.append(_text(WIDTH - RIGHT + 26, y, series.name, "start"))
    return _svg(title, body)


@dataclass(frozen=True, slots=True)
class _Frame:
    """The plotting area: where a value lies on the page."""

    x_low: float
    x_high: float
    y_ticks: Sequence[float]

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / ((high - low) or 1.0)

    def axes(self, x_ticks: Sequence[float], x_label: str, y_label: str) -> str:
        drawn = []
        for value in self.y_ticks:
            y, ink = self.y(value), "var(--rule,#ddd)" if value != self.y_ticks[0] else "var(--ink,#222)"
            drawn.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                f'style="stroke:{ink};stroke-width:1"/>'
            )
            drawn.append(_text(LEFT - 8, y + 4, f"{value:g}", "end"))
        for value in x_ticks:
            if self.x_low <= value <= self.x_high:
                drawn.append(_text(self.x(value), HEIGHT - BOTTOM + 18, f"{value:g}", "middle"))
        middle = (LEFT + WIDTH - RIGHT) / 2
        drawn.append(_text(middle, HEIGHT - 6, x_label, "middle"))
        height = (TOP + HEIGHT - BOTTOM) / 2
        drawn.append(
            f'<text x="14" y="{height}" text-anchor="middle" transform="rotate(-90 14 '
            f'{height})">{escape(y_label)}</text>'
        )
        return "".join(drawn)


def _curve(frame: _Frame, line: Line) -> str:
    path = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in line.points)
    look = "stroke-width:1;opacity:.35" if line.faint else "stroke-width:2"
    return f'<path d="{path}" style="fill:none;stroke:{_colour(line.colour)};stroke-linejoin:round;{look}"/>'


def _level(frame: _Frame, level: Level) -> str:
    y, ink = frame.y(level.value), _colour(level.colour)
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
        f'style="stroke:{ink};stroke-dasharray:5 4"/>'
    )


def _bar(frame: _Frame, x: float, width: float, series: Bars, place: int) -> str:
    value, error = series.values[place], series.errors[place]
    if value is None or not math.isfinite(value):
        return ""
    top, base = frame.y(max(value, 0.0)), frame.y(min(value, 0.0))
    drawn = (
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{base - top:.1f}" '
        f'style="fill:{_colour(series.colour)}"/>'
    )
    middle = x + width / 2
    if error is not None and math.isfinite(error):
        low, high = frame.y(value - error), frame.y(value + error)
        drawn += (
            f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
            'style="stroke:var(--ink,#222)"/>'
        )
        top = min(top, high)
    return drawn + _text(middle, top - 4, f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}", "middle")


def _spread(ends: Sequence[tuple[str, float, int]], gap: float = 15.0) -> list[tuple[str, float, int]]:
    """Move names that would overlap apart, keeping their order and staying on the page."""
    placed: list[tuple[str, float, int]] = []
    for name, y, colour in sorted(ends, key=lambda end: end[1]):
        placed.append((name, max(y, placed[-1][1] + gap) if placed else max(y, TOP), colour))
    overflow = max(0.0, placed[-1][1] - (HEIGHT - BOTTOM)) if placed else 0.0
    return [(name, y - overflow, colour) for name, y, colour in placed]


def _text(x: float, y: float, text: str, anchor: str, colour: int | None = None) -> str:
    style = "" if colour is None else f' style="fill:{_colour(colour)}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _colour(number: int) -> str:
    place = number % len(FALLBACKS)
    return f"var(--c{place},{FALLBACKS[place]})"


def _svg(title: str, body: Sequence[str]) -> str:
    name = escape(title, quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{name}" '
        'xmlns="http://www.w3.org/2000/svg" '
        'style="font:12px '
        f'system-ui,sans-serif;fill:var(--ink,#222)"><title>{name}</title>{"".join(body)}</svg>'
    )
