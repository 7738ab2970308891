"""The page where a person writes an answer, or corrects one of a model: rows that SFT trains on."""

import time
from functools import partial

from nicegui import ui

from r1kit.config import R1kitError
from r1kit.data.labels import WRITTEN, Pair, checked_name, write_answer
from r1kit.web.label import ask_name, desk_frame
from r1kit.web.label_queue import Desk, completion_of, next_to_write, prompt_text, show, thinking_and_answer
from r1kit.web.library import Library
from r1kit.web.mathematics import with_formulas
from r1kit.web.page_frame import address, text


class WritePage:
    """One annotator's page: a prompt, what a model answered, and the answer that is written."""

    def __init__(self, desk: Desk, annotator: str, pair: str) -> None:
        self.desk, self.annotator = desk, annotator
        self.pair = desk.pair(pair)
        self.corrects, self.since = False, 0.0

    def build(self) -> None:
        """Make the page."""
        self.state = text("", "r1-soft").mark("written")
        self.trouble = text("", "text-negative").mark("trouble")
        self.asked = ui.column().classes("w-full gap-3")
        self.thinking = self._field("thinking (may be empty)", 3)
        self.answer = self._field("answer", 4)
        with ui.row().classes("gap-2"):
            ui.button("save (Ctrl+Enter)", on_click=self.save).props("no-caps").mark("save")
            ui.button("another prompt", on_click=self._pass_over).props("outline no-caps")
            ui.button("undo the last", on_click=self._undo).props("outline no-caps")
        self.passed = list[str]()
        self._show()

    def _field(self, label: str, rows: int) -> ui.textarea:
        field = ui.textarea(label).props(f"outlined autogrow rows={rows}").classes("w-full")
        field.on("keydown.ctrl.enter", self.save)
        return field.mark(label.partition(" ")[0])

    def _show(self) -> None:
        labels = self.desk.store.labels()
        if self.pair is None:
            left = [pair for pair in self.desk.pairs if pair.id not in self.passed]
            self.pair = next_to_write(left, labels)
        own = sum(one.annotator == self.annotator and one.verdict in WRITTEN for one in labels)
        self.state.set_text(f"{own} answers written by you")
        self.since = time.monotonic()
        self._start("")
        self.asked.clear()
        with self.asked:
            if self.pair is None:
                text("Every prompt has a written answer. Thank you.", "text-lg")
            else:
                self._show_pair(self.pair)

    def _show_pair(self, pair: Pair) -> None:
        with ui.element("div").classes("r1-card w-full"):
            with_formulas(prompt_text(pair.prompt))
        shown = show(pair, self.annotator)
        with ui.row().classes("w-full items-center gap-2"):
            text("begin with", "r1-soft")
            ui.button("nothing", on_click=lambda: self._start("")).props("outline no-caps dense").classes(
                "q-px-sm"
            )
            for title, response in (("the left answer", shown.left), ("the right answer", shown.right)):
                ui.button(title, on_click=partial(self._start, response)).props(
                    "outline no-caps dense"
                ).classes("q-px-sm")

    def _start(self, response: str) -> None:
        """Fill the fields with a response to correct, or with nothing."""
        thinking, answer = thinking_and_answer(response)
        self.thinking.set_value(thinking)
        self.answer.set_value(answer)
        self.corrects = bool(response)

    def save(self) -> None:
        """Write the answer, and show the next prompt once it is on the disk."""
        if self.pair is None:
            return
        try:
            completion = completion_of(self.thinking.value or "", self.answer.value or "")
            seconds = time.monotonic() - self.since
            self.desk.store.add(
                write_answer(self.pair.prompt, completion, self.annotator, seconds, self.corrects)
            )
        except (OSError, R1kitError) as error:
            self.trouble.set_text(f"Not saved: {error}")
            return
        self.trouble.set_text("")
        self.pair = None
        self._show()

    def _pass_over(self) -> None:
        if self.pair is not None:
            self.passed.append(self.pair.id)
        self.pair = None
        self._show()

    def _undo(self) -> None:
        try:
            undone = self.desk.store.undo(self.annotator, WRITTEN)
        except (OSError, R1kitError) as error:
            self.trouble.set_text(f"Not undone: {error}")
            return
        self.trouble.set_text("" if undone else "There is no answer of yours to undo.")
        self.pair = None
        self._show()
        if undone is not None:
            self._start(undone.answers[0])


def write_page(library: Library, run: str, stage: str, annotator: str, pair: str) -> None:
    """Make the page for a visitor; the keys come from its address."""
    with desk_frame(library, run, stage, "/write") as (shown, _, desk):
        if desk is None:
            return
        keys = {"run": shown, "stage": desk.stage.name}
        if not annotator.strip():
            ask_name(lambda name: address("/write", **keys, annotator=name, pair=pair))
            return
        back = address("/label", **keys, annotator=annotator)
        ui.link("back to the pairs", back).classes("r1-link r1-soft")
        WritePage(desk, checked_name(annotator), pair).build()
