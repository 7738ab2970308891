"""A question and an answer as the playground shows them. Every text of a model is made as a text."""

from collections.abc import Callable

from nicegui import ui

from r1kit.terminal import printable
from r1kit.web.mathematics import with_formulas
from r1kit.web.page_frame import text
from r1kit.web.talk_answers import MOST_QUESTION, Answer
from r1kit.web.talk_share import Exchange, in_words, time_in_words, verdict_in_words

_COLOURS = {"correct": "#3a8f5c", "wrong": "#c0392b", "unverifiable": "#8a8f98", "failed": "#d59a1f"}
_MARKS = {"correct": "✓", "wrong": "✗", "unverifiable": "·", "failed": "!"}


class AnswerCard:
    """An answer: ``begin`` shows a new one, ``show`` what it has by now. ``retry`` gets this card."""

    def __init__(self, answer: Answer, unfolded: bool, retry: Callable[["AnswerCard"], None]) -> None:
        self.answer = answer
        with ui.element("div").classes("r1-card").mark("answer"):
            with ui.row().classes("w-full items-center gap-2 no-wrap"):
                text(answer.talker.title, "font-bold")
                ui.space()
                again = ui.button(icon="refresh", on_click=lambda: retry(self)).mark("retry-answer")
                again.props('flat dense round size=sm aria-label="retry this answer"')
            self.state = text("", "r1-soft").mark("state")
            self.thinking = ui.expansion("thinking", value=unfolded).classes("w-full")
            self.thinking.props("dense").mark("thinking")
            self.body = ui.column().classes("w-full gap-0")
            self.verdict = ui.column().classes("w-full gap-0")
        self.begin(answer)

    def begin(self, answer: Answer) -> None:
        """Show another answer in the place of the one before."""
        self.answer = answer
        self._clear()
        with self.thinking:
            self.thought = text("", "r1-soft")
        with self.body:
            self.written = text("").mark("written")
        self.show()

    def show(self) -> None:
        """Show what there is by now; of a finished answer its formulas and its verdict too."""
        answer = self.answer
        self.state.set_text(printable(in_words(answer)))
        spent = time_in_words(answer.thinking_seconds)
        self.thinking.set_text(f"thinking, {spent}, {answer.thinking_tokens:,} tokens")
        self.thinking.set_visibility(bool(answer.thinking))
        if answer.is_over:
            self._show_whole()
        else:
            self.thought.set_text(printable(answer.thinking))
            self.written.set_text(printable(answer.text))

    def _clear(self) -> None:
        for part in (self.thinking, self.body, self.verdict):
            part.clear()

    def _show_whole(self) -> None:
        answer = self.answer
        self._clear()
        with self.thinking:
            with_formulas(answer.thinking, "r1-soft")
        with self.body:
            with_formulas(answer.text or ("" if answer.error else "(no answer)"))
        if (judged := answer.judged) is not None:
            with self.verdict:
                mark = _MARKS.get(judged.outcome, "·")
                words = text(f"{mark} {verdict_in_words(answer)}", "r1-verdict q-mt-sm").mark("verdict")
                words.style(f"border-left: 4px solid {_COLOURS.get(judged.outcome, '#8a8f98')}")


def question_card(exchange: Exchange, ask: Callable[[str], None]) -> None:
    """A question, to be retried or edited; ``ask`` gets the text to ask in its place."""
    with ui.element("div").classes("r1-card r1-question w-full"):
        with ui.row().classes("w-full items-start gap-2 no-wrap"):
            place = ui.column().classes("grow gap-0")
            edit = ui.button(icon="edit", on_click=lambda: _edit(exchange, place, ask)).mark("edit")
            edit.props('flat dense round size=sm aria-label="edit the question"')
            again = ui.button(icon="refresh", on_click=lambda: ask(exchange.question)).mark("retry")
            again.props('flat dense round size=sm aria-label="retry"')
        _show_question(exchange, place)


def _show_question(exchange: Exchange, place: ui.column) -> None:
    place.clear()
    with place:
        with_formulas(exchange.question)
        if exchange.problem is not None:
            text(f"problem {exchange.problem.id} of {exchange.problem.task}", "r1-soft")


def _edit(exchange: Exchange, place: ui.column, ask: Callable[[str], None]) -> None:
    place.clear()
    with place:
        written = ui.textarea(value=exchange.question).classes("w-full").mark("edited")
        written.props(f'outlined autogrow dense autofocus maxlength={MOST_QUESTION} aria-label="question"')
        with ui.row().classes("gap-2"):
            send = ui.button("ask", on_click=lambda: ask(written.value)).mark("ask-edited")
            send.props("dense no-caps")
            leave = ui.button("leave it", on_click=lambda: _show_question(exchange, place))
            leave.props("flat dense no-caps")
