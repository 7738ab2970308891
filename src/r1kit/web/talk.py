"""The playground: a question, and the answers of one or more of a run's models side by side as they come."""

import asyncio
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import background_tasks, ui

from r1kit.chat import Turn, turns_of
from r1kit.config import R1kitError
from r1kit.terminal import printable
from r1kit.types import Problem
from r1kit.web.library import Library
from r1kit.web.page_frame import page_frame, text
from r1kit.web.recipes import recipe_of
from r1kit.web.talk_answers import MOST_QUESTION, Answer, Settings, give
from r1kit.web.talk_cards import AnswerCard, question_card
from r1kit.web.talk_models import MOST_LOADED, SAMPLING, ModelPool, Talker, main_result, talkers
from r1kit.web.talk_picker import ProblemPicker
from r1kit.web.talk_problems import RunTasks
from r1kit.web.talk_share import Exchange, as_json, as_markdown

MOST_EXCHANGES = 50  # on a page; the oldest leaves it
MOST_TOKENS = 8192  # of an answer
LOOK_S = 0.1  # between two looks at answers that are written
MODELS_S = 2.0  # between two looks for a stage that has finished
LARGEST_SEED = 2**32


@dataclass(eq=False, slots=True)
class Asked:
    """A question on the page: its box, its answers' cards, and the seed that was set when it was asked (None:
    any) with how often it was tried since."""

    exchange: Exchange
    box: ui.column
    cards: list[AnswerCard]
    seed: int | None = None
    tries: int = 0


class Talk:
    """One visitor's page: what is set, the questions with their answers, and what is being written."""

    def __init__(self, library: Library, pool: ModelPool, run: str, tasks: RunTasks) -> None:
        self.run, self.pool, self.tasks = library.open(run), pool, tasks
        self.talkers = talkers(self.run.view.folder)
        self.asked: list[Asked] = []
        self.running: dict[AnswerCard, asyncio.Task[None]] = {}
        self.problem: Problem | None = None
        self.rng = random.Random()

    def build(self) -> None:
        """Make the page."""
        self.nothing = text("No stage of this run has finished with a model yet.", "r1-card r1-mild w-full")
        self.nothing.set_visibility(not self.talkers)
        self._settings()
        ProblemPicker(self.tasks, self.pick).build()
        self.list = ui.column().classes("w-full gap-4")
        self._question_field()
        self.timer = ui.timer(LOOK_S, self.look, active=False)
        ui.timer(MODELS_S, self._look_for_models)
        ui.context.client.on_delete(self.stop)

    def _settings(self) -> None:
        main = main_result(self.talkers)
        with ui.row().classes("w-full items-center gap-2"):
            self.models = ui.select(
                self._titles(), multiple=True, value=[main.stage] if main else [], label="models"
            )
            self.models.props("dense outlined options-dense use-chips").classes("r1-models").mark("models")
            self.temperature = _number("temperature", SAMPLING.temperature, 0, 2, 0.1)
            self.seed = _number("seed", None, 0, LARGEST_SEED, 1)
            self.seed.tooltip("empty: another one each time")
            self.most = _number("at most tokens", SAMPLING.max_tokens, 1, MOST_TOKENS, 1)
            self.follows = ui.switch("continue the conversation").props("dense").mark("follows")
            self.follows.tooltip("off: each question alone, as the models were trained")
            self.unfolded = ui.switch("unfold thinking", value=True).props("dense").mark("unfolded")
            share = ui.button("share").props("flat dense no-caps").classes("q-ml-auto")
            with share.mark("share"), ui.menu():
                ui.menu_item("as Markdown", lambda: self._share("md"))
                ui.menu_item("as JSON", lambda: self._share("json"))

    def _question_field(self) -> None:
        with ui.element("div").classes("r1-asking w-full"):
            self.picked = text("", "r1-soft")
            with ui.row().classes("w-full items-end gap-2 no-wrap"):
                self.question = ui.textarea(placeholder="Ask a question").classes("grow").mark("question")
                self.question.props(
                    f'outlined autogrow dense maxlength={MOST_QUESTION} aria-label="question"'
                )
                self.question.on("keydown.enter.exact.prevent", self.ask)
                self.question.on("keydown.esc", self.stop)
                self.question.on_value_change(self._show_picked)
                send = ui.button(icon="send", on_click=self.ask).mark("send")
                send.props('round dense aria-label="ask"').tooltip("Enter; Shift+Enter begins a line")
                self.stopper = ui.button(icon="stop", on_click=self.stop).mark("stop")
                self.stopper.props('round dense outline aria-label="stop"').tooltip("Esc in the question")
                self.stopper.set_visibility(False)

    def _titles(self) -> dict[str, str]:
        return {one.stage: one.title for one in self.talkers}

    async def _look_for_models(self) -> None:
        """A stage of a run that goes on may have finished."""
        found = await asyncio.to_thread(talkers, self.run.view.folder)
        if found != self.talkers:
            self.talkers = found
            kept = [name for name in self.models.value or [] if name in self._titles()]
            main = main_result(found)
            self.models.set_options(self._titles(), value=kept or ([main.stage] if main else []))
            self.nothing.set_visibility(not found)

    def pick(self, problem: Problem) -> None:
        """Write a problem of a task as the question."""
        self.problem = problem
        self.question.set_value(problem.prompt)
        self._show_picked()

    def _show_picked(self) -> None:
        question, words = self.question.value or "", ""
        if self.problem is not None and question:
            known = f"problem {self.problem.id} of {self.problem.task}"
            is_same = self._problem_of(question) is not None
            words = f"{known}: its check will judge" if is_same else f"{known}, changed: no check will judge"
        self.picked.set_text(printable(words))

    def _problem_of(self, question: str) -> Problem | None:
        """The problem that was picked, where this is its text."""
        return self.problem if self.problem is not None and self.problem.prompt == question else None

    def ask(self) -> None:
        """Ask the question that is written."""
        question = self.question.value
        if not self._may_ask(question):
            return
        exchange = Exchange(question, self._problem_of(question), bool(self.follows.value))
        self.question.set_value("")
        with self.list:
            asked = Asked(exchange, ui.column().classes("w-full gap-2").mark("exchange"), [])
        self.asked.append(asked)
        self._answer(asked)
        for old in self.asked[:-MOST_EXCHANGES]:
            self._remove(old)
        ui.run_javascript("window.scrollTo(0, document.body.scrollHeight)")

    def _ask_again(self, asked: Asked, question: Any) -> None:
        """Ask in the place of an earlier question; what continued the conversation from it is removed."""
        if not self._may_ask(question):
            return
        exchange, place = asked.exchange, self.asked.index(asked)
        if question != exchange.question:
            problem = exchange.problem
            exchange.problem = problem if problem is not None and problem.prompt == question else None
            exchange.question, asked.tries = question, -1
        after = self.asked[place + 1 :]
        more = next((n for n, one in enumerate(after) if not one.exchange.follows), len(after))
        for one in after[:more]:
            self._remove(one)
        self._answer(asked, again=True)

    def _may_ask(self, question: Any) -> bool:
        if not isinstance(question, str) or not question.strip():
            return False
        fault = ""
        if len(question) > MOST_QUESTION:
            fault = f"the question has {len(question):,} characters; at most {MOST_QUESTION:,} are asked"
        elif not self._chosen():
            fault = "choose a model"
        elif self.running:
            fault = "answers are being written: stop them, or wait"
        if fault:
            ui.notify(fault, type="warning")
        return not fault

    def _chosen(self) -> list[Talker]:
        wanted = self.models.value if isinstance(self.models.value, list) else []
        return [one for one in self.talkers if one.stage in wanted][:MOST_LOADED]

    def _answer(self, asked: Asked, again: bool = False) -> None:
        """Let the chosen models answer a question."""
        settings = self.sampling(asked, again)
        asked.exchange.answers = [Answer(one, settings) for one in self._chosen()]
        asked.box.clear()
        with asked.box:
            question_card(asked.exchange, lambda question: self._ask_again(asked, question))
            with ui.element("div").classes("r1-answers w-full"):
                asked.cards = [self._card(asked, answer) for answer in asked.exchange.answers]
        for card in asked.cards:
            self._start(asked, card)

    def _card(self, asked: Asked, answer: Answer) -> AnswerCard:
        return AnswerCard(answer, bool(self.unfolded.value), lambda card: self._retry(asked, card))

    def _retry(self, asked: Asked, card: AnswerCard) -> None:
        """Sample one answer again."""
        if card in self.running or asked not in self.asked:
            return
        place = asked.exchange.answers.index(card.answer)
        card.begin(Answer(card.answer.talker, self.sampling(asked, again=True)))
        asked.exchange.answers[place] = card.answer
        self._start(asked, card)

    def sampling(self, asked: Asked, again: bool) -> Settings:
        """What is set. With a seed a retry takes the next one, without any other."""
        seed = _within(self.seed.value, 0, LARGEST_SEED)
        given = None if seed is None else int(seed)
        asked.tries = asked.tries + 1 if again and given == asked.seed else 0
        asked.seed = given
        chosen = self.rng.randrange(LARGEST_SEED) if given is None else given + asked.tries
        temperature = _within(self.temperature.value, 0, 2)
        most = _within(self.most.value, 1, MOST_TOKENS)
        return Settings(
            chosen,
            SAMPLING.temperature if temperature is None else temperature,
            SAMPLING.max_tokens if most is None else int(most),
        )

    def _start(self, asked: Asked, card: AnswerCard) -> None:
        turns = self.turns(asked, card.answer.talker)
        work = give(card.answer, self.pool, turns, asked.exchange.problem, self.tasks)
        self.running[card] = background_tasks.create(work, name="an answer of the playground")
        self.timer.activate()
        self.stopper.set_visibility(True)

    def turns(self, asked: Asked, talker: Talker) -> list[Turn]:
        """The question, after the conversation that it continues, as this model had it."""
        exchange = asked.exchange
        own = [("user", exchange.question)] if exchange.problem is None else turns_of(exchange.problem)
        earlier: list[Turn] = []
        for one in self.asked[: self.asked.index(asked)]:
            earlier = earlier if one.exchange.follows else []
            earlier += _said(one.exchange, talker)
        return [*earlier, *own] if exchange.follows else own

    def look(self) -> None:
        """Show what has come since the last look."""
        for card in list(self.running):
            if self.running[card].done():
                del self.running[card]
            card.show()
        if not self.running:
            self.timer.deactivate()
            self.stopper.set_visibility(False)

    def stop(self) -> None:
        """Stop what is being written; its places in the batches are free."""
        for task in self.running.values():
            task.cancel()

    def _remove(self, asked: Asked) -> None:
        for card in asked.cards:
            if (task := self.running.pop(card, None)) is not None:
                task.cancel()
        self.asked.remove(asked)
        asked.box.delete()

    def _share(self, kind: str) -> None:
        exchanges = [one.exchange for one in self.asked]
        if not exchanges:
            ui.notify("there is nothing to share yet", type="warning")
            return
        name = re.sub(r"[^\w.-]+", "-", self.run.name).strip("-.") or "run"
        make, media = (as_markdown, "text/markdown") if kind == "md" else (as_json, "application/json")
        ui.download.content(make(self.run.name, exchanges), f"{name}-talk.{kind}", media)


def _said(exchange: Exchange, talker: Talker) -> Sequence[Turn]:
    """A question with a model's answer to it, without its thinking; nothing where it gave none."""
    for answer in exchange.answers:
        if answer.talker == talker and answer.text:
            return [("user", exchange.question), ("assistant", answer.text)]
    return []


def _number(label: str, value: float | None, least: float, most: float, step: float) -> ui.number:
    made = ui.number(label, value=value, min=least, max=most, step=step).props("dense outlined")
    return made.classes("w-24").mark(label)


def _within(value: Any, least: float, most: float) -> float | None:
    """A number of a field, brought into its range; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return min(max(value, least), most)


def _recipe(library: Library, run: str) -> Mapping[str, Any]:
    try:
        return recipe_of(library.open(run).view.folder)
    except R1kitError:  # the board says what is wrong with it
        return {}


async def talk_page(library: Library, pool: ModelPool, run: str, make: type[Talk] = Talk) -> None:
    """Make the playground for a visitor."""
    name = library.open(run).name
    tasks = await asyncio.to_thread(RunTasks, _recipe(library, name))
    page = make(library, pool, name, tasks)
    with page_frame(library, name, "/talk"):
        page.build()
