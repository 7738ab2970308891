"""The rollouts: filters and search, the rollouts of a group side by side, and one problem across steps and
stages."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from r1kit.terminal import printable
from r1kit.web.curves import GRID, INK
from r1kit.web.kept_rollouts import VERDICTS, KeptRollout, Tokens
from r1kit.web.library import Library
from r1kit.web.mathematics import with_formulas
from r1kit.web.page_frame import address, page_frame, text
from r1kit.web.rollout_index import Page, ProblemStep, Wanted
from r1kit.web.why import update_with

MOST = 24  # rollouts of a page
ALL = "all"
MARKS = {"right": "✓", "wrong": "✗", "not judged": "·", "failed": "!"}
COLOURS = {"right": "#3a8f5c", "wrong": "#c0392b", "not judged": "#8a8f98", "failed": "#d59a1f"}
LOW = (0.1, 0.5, 1.5, 3.0, 5.0)  # nats of surprise or entropy, where a colour begins
APART = (0.003, 0.01, 0.03, 0.1, 0.3)  # nats between engine and learner, where a colour begins
SHADES = (
    "transparent",
    "rgba(214,160,40,.18)",
    "rgba(214,130,40,.36)",
    "rgba(206,90,50,.5)",
    "rgba(196,50,45,.62)",
    "rgba(170,20,60,.8)",
)


class Rollouts:
    """One visitor's page: what is asked for, the list, and the group that is open."""

    def __init__(self, library: Library, run: str, wanted: Wanted) -> None:
        self.run = library.open(run)
        self.run.list_rollouts()
        self.wanted, self.after = wanted, 0
        self.count = 0

    def build(self) -> None:
        """Make the page."""
        self._filters()
        self.state = text("", "r1-soft")
        self.history = ui.column().classes("w-full gap-1")
        self.open = ui.column().classes("w-full gap-2 r1-open")
        self.list = ui.column().classes("w-full gap-2")
        self.more = ui.button("more", on_click=self.show_more).props("flat no-caps")
        ui.timer(0.1, self.search, once=True)

    async def search(self) -> None:
        """Show the first page of what is asked for."""
        self.after, self.count = 0, 0
        self.list.clear()
        self.open.clear()
        self._show_history()
        await self.show_more()

    async def show_more(self) -> None:
        """Add the next page."""
        page: Page = await asyncio.to_thread(self.run.index.find, self.wanted, self.after, MOST)
        self.count += len(page.rollouts)
        with self.list:
            for kept in page.rollouts:
                self._entry(kept)
        self.after = page.after or 0
        self.more.set_visibility(page.after is not None)
        self.more.set_text("search on" if self.wanted.text else "more")
        self.state.set_text(printable(self._state_in_words(page)))

    def _state_in_words(self, page: Page) -> str:
        of = f" of {page.count:,}" if page.count is not None else ""
        words = f"{self.count:,}{of} rollouts"
        if self.wanted.text and page.after is not None:
            return f"{words}; {page.share:.0%} of the files searched, the newest first"
        if page.share < 1.0:
            return f"{words}; {page.share:.0%} of the run is indexed so far"
        return words

    def _filters(self) -> None:
        index = self.run.index
        trainings = [f"{stage}/{part}" if part else stage for stage, part, _ in index.trainings()]
        wanted = self.wanted
        with ui.row().classes("w-full items-end gap-3"):
            search = ui.input("search text", value=wanted.text).props("dense outlined clearable")
            search.classes("w-64").on("keydown.enter", lambda: self._ask(text=search.value or ""))
            search.on("clear", lambda: self._ask(text=""))
            ui.keyboard(
                lambda event: (
                    search.run_method("focus") if str(event.key) == "/" and event.action.keydown else None
                )
            )
            search.tooltip("Enter searches; key / goes here")
            of = f"{wanted.stage}/{wanted.part}" if wanted.part else wanted.stage
            self._choice("training", [ALL, *trainings], of or ALL, self._ask_training)
            self._number("from step", wanted.first, lambda value: self._ask(first=value))
            self._number("to step", wanted.last, lambda value: self._ask(last=value))
            tasks = sorted({*index.tasks(), *([wanted.task] if wanted.task else [])})
            self._choice(
                "task", [ALL, *tasks], wanted.task or ALL, lambda value: self._ask(task=_asked(value))
            )
            self._choice(
                "verdict",
                [ALL, *VERDICTS],
                wanted.verdict or ALL,
                lambda value: self._ask(verdict=_asked(value)),
            )
            self._choice(
                "cut off", [ALL, "cut off", "ended"], ALL, lambda value: self._ask(cut=_CUT.get(value))
            )
            self._number("reward from", wanted.lowest, lambda value: self._ask(lowest=value), whole=False)
            self._number("to", wanted.highest, lambda value: self._ask(highest=value), whole=False)
            if wanted.problem:
                with ui.row().classes("items-center gap-1"):
                    text(f"problem {wanted.problem}", "r1-mono")
                    ui.link("all problems", address("/rollouts", run=self.run.name)).classes("r1-link")

    def _choice(self, label: str, options: Sequence[str], value: str, ask: Any) -> None:
        options = [*options, *([value] if value not in options else [])]
        made = (
            ui.select(options, value=value, label=label).props("dense outlined options-dense").classes("w-36")
        )

        async def changed(event: Any) -> None:
            await ask(event.value)

        made.on_value_change(changed)

    def _number(self, label: str, value: float | None, ask: Any, whole: bool = True) -> None:
        made = ui.number(label, value=value).props("dense outlined debounce=500").classes("w-24")

        async def changed(event: Any) -> None:
            given = event.value
            await ask(None if given is None else int(given) if whole else float(given))

        made.on_value_change(changed)

    async def _ask(self, **changes: Any) -> None:
        kept = {name: getattr(self.wanted, name) for name in Wanted.__dataclass_fields__}
        self.wanted = Wanted(**{**kept, **changes})
        await self.search()

    async def _ask_training(self, value: str) -> None:
        stage, _, part = _asked(value).partition("/")
        await self._ask(stage=stage, part=part)

    def _entry(self, kept: KeptRollout) -> None:
        """One line of the list: click or Enter opens its group."""
        with ui.element("div").classes("r1-card w-full cursor-pointer") as card:
            card.props("tabindex=0 role=button").mark("rollout")
            card.style(f"border-left: 4px solid {COLOURS[kept.verdict]}")
            text(numbers_in_words(kept), "r1-soft")
            text(_shortened(kept.prompt, 160))
            text(_shortened(kept.response or kept.text, 220), "r1-mono")
        card.on("click", lambda: self._open_group(kept))
        card.on("keydown.enter", lambda: self._open_group(kept))

    def _open_group(self, kept: KeptRollout) -> None:
        group = self.run.index.group_of(kept)
        self.open.clear()
        with self.open, ui.element("div").classes("r1-card w-full"):
            with ui.row().classes("w-full items-center gap-3"):
                text(
                    f"{kept.training_name()}, step {kept.step}: {len(group)} rollouts of a problem",
                    "font-bold",
                )
                follow = address("/rollouts", run=self.run.name, problem=kept.problem)
                ui.link("this problem in all steps", follow).classes("r1-link")
                self._why(kept)
                ui.space()
                ui.button(icon="close", on_click=self.open.clear).props('flat dense round aria-label="close"')
            with_formulas(kept.prompt)
            if kept.truth is not None:
                text(f"right answer: {kept.truth}", "r1-soft")
            with ui.element("div").classes("r1-group w-full"):
                for one in group:
                    show_rollout(one, one.place == kept.place)
        ui.run_javascript(f"document.getElementById('c{self.open.id}')?.scrollIntoView()")

    def _why(self, kept: KeptRollout) -> None:
        """A link to the update that learned from this rollout, where it was kept."""
        step = update_with(self.run.index.run_dir, kept, self.run.index.steps(kept.stage, kept.part))
        if step is not None:
            of = {"run": self.run.name, "stage": kept.stage, "step": step, "problem": kept.problem}
            link = ui.link("why: replay this update", address("/why", **of), new_tab=True)
            link.classes("r1-link").mark("why").tooltip("takes some seconds; opens in another tab")

    def _show_history(self) -> None:
        self.history.clear()
        if not self.wanted.problem:
            return
        found = self.run.index.history_of(self.wanted.problem)
        with self.history:
            if found:
                ui.echart(history_chart(found)).classes("r1-chart r1-card")
            else:
                text("this problem is not indexed (yet)", "r1-soft")


_CUT = {"cut off": True, "ended": False}


def show_rollout(kept: KeptRollout, chosen: bool) -> None:
    """One rollout of a group: its numbers, why it is not better, its thinking (folded), its answer, its
    tokens."""
    card = ui.element("div").classes("r1-card")
    card.style(
        f"border-top: 4px solid {COLOURS[kept.verdict]};" + ("outline: 2px solid #3b6fb5" if chosen else "")
    )
    with card:
        text(f"{MARKS[kept.verdict]} {kept.verdict}", "font-bold")
        text(numbers_in_words(kept, with_place=False), "r1-soft")
        for why in kept.why():
            text(why, "r1-soft")
        for name, failure in kept.failures.items():
            with ui.expansion(f"failure of {printable(name)}").classes("w-full").props("dense"):
                text(failure, "r1-mono")
        if kept.thinking:
            with (
                ui.expansion(f"thinking, {len(kept.thinking):,} characters").classes("w-full").props("dense")
            ):
                with_formulas(kept.thinking)
        with_formulas(kept.response or "(no answer)", "q-mt-sm")
        if kept.tokens is not None:
            _tokens_folded(kept.tokens)


@dataclass(frozen=True, slots=True)
class Measure:
    """What tokens are coloured by: its name, what the colours say, where each begins, and the value [T] of a
    token's colour with its number in words; empty where the run has not kept it."""

    name: str
    says: str
    begins: Sequence[float]
    values: Callable[[Tokens], list[tuple[float, str]]]


MEASURES = (
    Measure(
        "log-probability",
        "The redder, the less likely the token was when it was sampled.",
        LOW,
        lambda tokens: [(-value, f"log-probability {value:.3f}") for value in tokens.logprobs],
    ),
    Measure(
        "entropy",
        "The redder, the more open it was which token comes (entropy of the learner's distribution).",
        LOW,
        lambda tokens: [(value, f"entropy {value:.3f}") for value in tokens.entropies],
    ),
    Measure(
        "gap",
        "The redder, the more learner and engine differ about the token.",
        APART,
        lambda tokens: [
            (abs(learned - sampled), f"learner {learned:.4f}, engine {sampled:.4f}")
            for learned, sampled in zip(tokens.learned, tokens.logprobs, strict=False)
        ],
    ),
)


def _tokens_folded(tokens: Tokens) -> None:
    """The tokens with their colours, made when they are unfolded: they are many."""
    there = {measure.name: measure for measure in MEASURES if measure.values(tokens)}
    fold = ui.expansion(f"tokens ({len(tokens.texts):,})").classes("w-full").props("dense")
    with fold:
        if len(there) > 1:
            choice = ui.toggle(list(there), value="log-probability", on_change=lambda: show())
            choice.props('dense no-caps unelevated size=sm padding="3px 8px"').mark("colour by")
        place = ui.column().classes("w-full gap-1")

    def show() -> None:
        measure = there.get(choice.value if len(there) > 1 else "", MEASURES[0])
        place.clear()
        with place:
            text(measure.says, "r1-soft")
            with ui.element("div").classes("r1-text r1-mono"):
                for piece, shade, tip in coloured(tokens, measure):
                    span = TextElement(tag="span", text=piece)
                    span.style(f"background: {shade}").props["title"] = tip

    fold.on_value_change(lambda event: show() if event.value else place.clear())


def coloured(tokens: Tokens, measure: Measure = MEASURES[0]) -> list[tuple[str, str, str]]:
    """(text, shade, title) of tokens; neighbours without colour are one, to keep long texts light."""
    found: list[tuple[str, str, str]] = []
    for piece, (value, words) in zip(tokens.texts, measure.values(tokens), strict=True):
        shade = SHADES[sum(value >= low for low in measure.begins)]
        shown = printable(piece)
        if found and shade == SHADES[0] == found[-1][1]:
            found[-1] = (found[-1][0] + shown, shade, "")
        else:
            found.append((shown, shade, "" if shade == SHADES[0] else words))
    return found


def numbers_in_words(kept: KeptRollout, with_place: bool = True) -> str:
    """Reward, parts, advantage and length; with the place where it was sampled."""
    words = [f"{kept.training_name()}, step {kept.step}, {kept.task}"] if with_place else []
    words += [f"reward {kept.reward:.3g}"] if kept.reward is not None else []
    words += [f"{name} {value:.3g}" for name, value in kept.parts.items() if value is not None]
    words += [f"advantage {kept.advantage:+.3g}"] if kept.advantage is not None else []
    words += [f"{kept.length:,} tokens"] if kept.length is not None else []
    words += ["cut off"] if kept.cut else []
    return ", ".join(words)


def history_chart(found: Sequence[ProblemStep]) -> dict[str, Any]:
    """The share of right rollouts of a problem, step by step, a curve for each training."""
    names = dict.fromkeys((one.stage, one.part) for one in found)
    series = [
        {
            "type": "line",
            "name": "/".join(filter(None, key)),
            "showSymbol": True,
            "data": [
                [one.step, round(one.right / one.rollouts, 4)]
                for one in found
                if (one.stage, one.part) == key
            ],
        }
        for key in names
    ]
    return {
        "animation": False,
        "textStyle": {"color": INK},
        "title": {
            "text": "share of right rollouts of this problem",
            "textStyle": {"fontSize": 13, "color": INK},
        },
        "legend": {"bottom": 0, "textStyle": {"color": INK}},
        "tooltip": {"trigger": "axis", "renderMode": "richText"},
        "grid": {"left": 8, "right": 14, "top": 34, "bottom": 28, "containLabel": True},
        "xAxis": {"type": "value", "axisLabel": {"color": INK}, "splitLine": {"show": False}},
        "yAxis": {
            "type": "value",
            "min": 0,
            "max": 1,
            "axisLabel": {"color": INK},
            "splitLine": {"lineStyle": {"color": GRID}},
        },
        "series": series,
    }


def _asked(value: str) -> str:
    return "" if value == ALL else value


def _shortened(content: str, most: int) -> str:
    line = " ".join(content.split())
    return line if len(line) <= most else f"{line[:most]} ..."


def rollouts_page(library: Library, run: str, stage: str, step: str, problem: str, search: str) -> None:
    """Make the page of rollouts for a visitor; the keys come from its address."""
    stage, _, part = stage.partition("/")
    number = int(step) if step.isdecimal() and len(step) < 12 else None
    wanted = Wanted(stage=stage, part=part, first=number, last=number, problem=problem, text=search)
    page = Rollouts(library, run, wanted)
    with page_frame(library, page.run.name, "/rollouts"):
        page.build()
