"""The page that asks which of two answers is better: blind, in random order, by keyboard or buttons."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from nicegui import ui
from nicegui.events import KeyEventArguments

from r1kit.config import R1kitError
from r1kit.data.label_agreement import agreement
from r1kit.data.labels import Label, checked_name, judge
from r1kit.web.label_queue import Desk, Shown, label_stages, prompt_text, show, thinking_and_answer
from r1kit.web.library import Library, OpenRun
from r1kit.web.mathematics import with_formulas
from r1kit.web.page_frame import address, page_frame, text

# A key that comes so soon after a pair is shown was pressed for the pair before it.
TOO_SOON_S = 0.15
CHOICES = (
    ("1", "left is better", "better"),
    ("2", "right is better", "worse"),
    ("3", "tie", "tie"),
    ("4", "both bad", "both_bad"),
    ("5", "unsafe", "unsafe"),
)
UNSAFE = (("1", "left is unsafe", (True,)), ("2", "right is unsafe", (False,)), ("3", "both", (True, False)))
KEY_NAMES = {"Escape": "Esc"}
STYLE = """
.r1-pair { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.r1-share { flex: 1 1 120px; width: auto; }
.r1-keys { position: sticky; bottom: 0; padding: 8px 0; background: #fff;
           display: grid; gap: 6px; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); }
.body--dark .r1-keys { background: var(--q-dark-page); }
"""


class LabelPage:
    """One annotator's page: the pair that is shown, and what is pressed."""

    def __init__(self, desk: Desk, annotator: str, write: Callable[[str], str]) -> None:
        self.desk, self.annotator, self.write = desk, annotator, write
        self.shown: Shown | None = None
        self.since, self.asks_unsafe = 0.0, False

    def build(self) -> None:
        """Make the page."""
        ui.add_css(STYLE)
        with ui.row().classes("w-full items-center gap-4"):
            self.progress = text("", "r1-soft").mark("progress")
            self.bar = ui.linear_progress(0, show_value=False).classes("r1-share").props("rounded size=10px")
            self.bar.props('aria-label="share of the pairs that are labelled"')
            self.agreed = text("", "r1-soft")
        self.trouble = text("", "text-negative").mark("trouble")
        self.pair = ui.column().classes("w-full gap-3")
        self.keys = ui.element("div").classes("r1-keys w-full")
        ui.keyboard(self._on_key, ignore=["input", "textarea"])
        self._next()

    def _next(self, again: Label | None = None) -> None:
        """Show the next pair, or the one of a label that was undone."""
        pair = self.desk.pair(again.pair) if again is not None else None
        shown = show(pair, self.annotator) if pair is not None else self.desk.next_for(self.annotator)
        self.shown, self.asks_unsafe, self.since = shown, False, time.monotonic()
        progress = self.desk.progress(self.annotator)
        self.progress.set_text(progress.in_words())
        self.bar.set_value(progress.share)
        self.agreed.set_text(agreement(self.desk.store.labels()).in_words())
        self._say("\n".join(self.desk.store.warnings[-3:]))
        self.pair.clear()
        with self.pair:
            if self.shown is None:
                text("Every pair is labelled. Thank you.", "text-lg")
            else:
                self._show(self.shown)
        if 0 < progress.wanted <= progress.judged:
            with self.pair:
                text(
                    "Enough pairs are labelled: the command that waits can be run again. You may go on.",
                    "r1-soft",
                )
        self._show_keys()

    def _show(self, shown: Shown) -> None:
        with ui.element("div").classes("r1-card w-full"):
            with_formulas(prompt_text(shown.pair.prompt))
        with ui.element("div").classes("r1-pair w-full"):
            for title, response in (("Left", shown.left), ("Right", shown.right)):
                thinking, answer = thinking_and_answer(response)
                with ui.element("div").classes("r1-card").mark(title.lower()):
                    text(title, "r1-soft")
                    with_formulas(answer)
                    if thinking:
                        fold = ui.expansion(f"thinking, {len(thinking):,} characters")
                        with fold.classes("w-full").props("dense"):
                            with_formulas(thinking)
        ui.link("write a better answer", self.write(shown.pair.id)).classes("r1-link r1-soft")

    def _show_keys(self) -> None:
        self.keys.clear()
        with self.keys:
            for key, title, pressed in self._choices():
                button = ui.button(f"{title} ({KEY_NAMES.get(key, key)})", on_click=pressed)
                button.props("outline no-caps dense").classes("q-py-sm")

    def _on_key(self, event: KeyEventArguments) -> None:
        modified = event.modifiers.ctrl or event.modifiers.alt or event.modifiers.meta
        if not event.action.keydown or event.action.repeat or modified:
            return
        if time.monotonic() - self.since < TOO_SOON_S:
            return
        pressed = {key: what for key, _, what in self._choices()}.get(str(event.key))
        if pressed is not None:
            pressed()

    def _choices(self) -> list[tuple[str, str, Callable[[], None]]]:
        """What can be pressed now: key, title, and what it does."""
        found: list[tuple[str, str, Callable[[], None]]] = []
        if self.asks_unsafe:
            found += [(key, title, partial(self._unsafe, sides)) for key, title, sides in UNSAFE]
            return [*found, ("Escape", "cancel", self._cancel)]
        if self.shown is not None:
            found += [(key, title, partial(self._give, verdict)) for key, title, verdict in CHOICES]
            found.append(("s", "skip", partial(self._give, "skip")))
        return [*found, ("z", "undo", self._undo)]

    def _give(self, verdict: str) -> None:
        if self.shown is None:
            return
        if verdict == "unsafe":
            self.asks_unsafe = True
            self._show_keys()
            return
        if verdict in ("better", "worse"):
            verdict = self.shown.verdict_of_left(verdict == "better")
        self._keep(verdict, ())

    def _unsafe(self, left: tuple[bool, ...]) -> None:
        if self.shown is not None:
            self._keep("unsafe", tuple(sorted(self.shown.side(side) for side in left)))

    def _cancel(self) -> None:
        self.asks_unsafe = False
        self._show_keys()

    def _keep(self, verdict: str, unsafe: tuple[str, ...]) -> None:
        """Write the label; the next pair is shown once it is on the disk."""
        assert self.shown is not None
        seconds = time.monotonic() - self.since
        label = judge(self.shown.pair, self.annotator, verdict, self.shown.seed, seconds, unsafe)
        try:
            self.desk.store.add(label)
        except (OSError, R1kitError) as error:
            self._say(f"Not saved: {error}")
            return
        self._next()

    def _undo(self) -> None:
        try:
            undone = self.desk.store.undo(self.annotator)
        except (OSError, R1kitError) as error:
            self._say(f"Not undone: {error}")
            return
        if undone is None:
            self._say("There is no label of yours to undo.")
        else:
            self._next(undone)

    def _say(self, words: str) -> None:
        self.trouble.set_text(words)
        self.trouble.set_visibility(bool(words))


def open_desk(run: OpenRun, stage: str) -> tuple[list[str], Desk | None]:
    """The names of a run's stages that are labelled, and the desk of one of them: the wanted, or the first.
    Raises R1kitError where its files cannot be read."""
    with run.lock:
        stages = label_stages(run.view.folder, run.view.recipe)
    if not stages:
        return [], None
    chosen = next((one for one in stages if one.name == stage), stages[0])
    return [one.name for one in stages], Desk(run.view.folder, chosen)


def ask_name(ask: Callable[[str], str]) -> None:
    """Ask for the annotator's name; ``ask`` makes the address to go on with."""
    text("Your name goes into the file with each label; it is how agreement is measured.", "r1-soft")
    name = ui.input("your name").props("outlined dense autofocus").mark("name")

    def begin() -> None:
        if (name.value or "").strip():
            ui.navigate.to(ask(checked_name(name.value)))

    name.on("keydown.enter", begin)
    ui.button("begin", on_click=begin).props("no-caps").mark("begin")


NO_STAGE = (
    "No stage of this run waits for labels. A recipe has a stage label for it, whose annotator is person: "
    "recipes/feedback.yaml with stages.label_1.annotator=person, and docs/feedback.md is a walk through it."
)


@contextmanager
def desk_frame(
    library: Library, run: str, stage: str, path: str
) -> Iterator[tuple[str, list[str], Desk | None]]:
    """The frame of a page for labels, with the run's name, the names of its label stages, and what is to be
    labelled; None, and a sentence on the page, where there is nothing."""
    opened = library.open(run)
    with page_frame(library, opened.name, path):
        names: list[str] = []
        desk: Desk | None = None
        try:
            names, desk = open_desk(opened, stage)
            if desk is None:
                text(NO_STAGE)
        except R1kitError as error:
            text(str(error), "text-negative")
        yield opened.name, names, desk


def label_page(library: Library, run: str, stage: str, annotator: str) -> None:
    """Make the page for a visitor; the keys come from its address."""
    with desk_frame(library, run, stage, "/label") as (shown, names, desk):
        if desk is None:
            return
        own = desk.stage.name

        def here(**keys: str) -> str:
            given = {"run": shown, "stage": own, "annotator": annotator, **keys}
            return address("/label", **given)

        with ui.row().classes("w-full items-center gap-3"):
            for name in names:
                link = ui.link(name, here(stage=name)).classes("r1-link")
                link.classes("font-bold" if name == own else "")
            if annotator.strip():
                text(f"annotator {annotator}", "r1-soft")
                ui.link("another name", address("/label", run=shown, stage=own)).classes("r1-link r1-soft")
        if desk.stage.done:
            text(
                f"{own} has finished: what is labelled now is kept, and counts once the stage is run again "
                f"(--from {own}).",
                "r1-soft",
            )
        if not annotator.strip():
            ask_name(lambda name: here(annotator=name))
            return
        keys = {"run": shown, "stage": own, "annotator": annotator}
        LabelPage(desk, checked_name(annotator), lambda pair: address("/write", **keys, pair=pair)).build()
