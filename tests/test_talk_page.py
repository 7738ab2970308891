"""The playground driven by NiceGUI's simulated user, without a browser."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from talk_fakes import finish_stage, slowly, talking_run
from web_fakes import HOSTILE

from r1kit.web.library import Library, library_of

pytest.importorskip("nicegui", reason="the extra ui is not installed (make ui)")

from nicegui import ElementFilter, ui

from r1kit.web.talk import MOST_EXCHANGES
from r1kit.web.talk_answers import MOST_QUESTION
from r1kit.web.talk_models import ModelPool


def visit(
    library: Library, what: Callable[[Any, Any, ModelPool], Coroutine[Any, Any, None]], **options: Any
) -> None:
    """Call ``what`` with a simulated user, the open page, and the models (``options`` of their pool)."""
    from nicegui.testing.user_simulation import user_simulation

    from r1kit.web.talk import Talk, talk_page

    made: list[Talk] = []

    class Kept(Talk):
        def build(self) -> None:
            made.append(self)
            super().build()

    async def visiting() -> None:
        pool = ModelPool(**options)
        async with user_simulation(root=lambda: None) as user:

            @ui.page("/talk", response_timeout=60)
            async def page(run: str = "") -> None:
                await talk_page(library, pool, run, make=Kept)

            await user.open("/talk")
            await what(user, made[-1], pool)
        await pool.close()

    try:
        asyncio.run(visiting())
    finally:
        library.stop()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return library_of([talking_run(tmp_path / "run", "{mul: 1}")])


def ask(user: Any, page: Any, question: str, tokens: int = 6) -> None:
    page.most.set_value(tokens)
    user.find(marker="question").elements.pop().set_value(question)
    user.find(marker="send").click()


async def finished(page: Any) -> None:
    """Wait until nothing is written any more."""
    while page.running:
        await asyncio.sleep(0.02)


def test_two_models_answer_side_by_side_with_the_same_seed(library: Library) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        await user.should_see("zero (R1-Zero)")
        page.models.set_value(["base", "student"])
        page.seed.set_value(5)
        ask(user, page, "What is 3 + 4?")
        await finished(page)
        answers = page.asked[0].exchange.answers
        assert [(one.talker.stage, one.settings.seed, one.tokens) for one in answers] == [
            ("base", 5, 6), ("student", 5, 6),
        ]  # fmt: skip
        assert answers[0].text != answers[1].text and pool.answers == 0
        assert [one.stage for one in pool.loaded] == ["base", "student"]
        await user.should_see("cut off, 6 tokens")

    visit(library, look)


def test_an_answer_is_stopped_and_retried_with_the_next_seed(library: Library) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        page.seed.set_value(5)
        ask(user, page, "What is 3 + 4?", tokens=100)
        while not page.asked[0].exchange.answers[0].tokens:
            await asyncio.sleep(0.005)
        user.find(marker="stop").click()
        await finished(page)
        first = page.asked[0].exchange.answers[0]
        assert first.state == "stopped" and first.tokens < 100
        await user.should_see("stopped")
        page.most.set_value(4)
        for seed in (6, 7):
            user.find(marker="retry-answer").click()
            await finished(page)
            answer = page.asked[0].exchange.answers[0]
            assert (answer.settings.seed, answer.state, answer.tokens) == (seed, "cut off", 4)
        page.seed.set_value(5)
        user.find(marker="retry").click()
        await finished(page)
        assert page.asked[0].exchange.answers[0].settings.seed == 8 and len(page.asked) == 1
        while pool.answers:
            await asyncio.sleep(0.01)

    visit(library, look, load=slowly)


def test_an_edited_question_is_asked_in_its_place_and_what_followed_it_goes(library: Library) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        for question in ("one", "two", "three", "four"):
            page.follows.set_value(question in ("two", "three"))
            ask(user, page, question)
            await finished(page)
        said = [one.exchange.answers[0].text for one in page.asked]
        talker = page.asked[0].exchange.answers[0].talker
        own = [("user", "one"), ("assistant", said[0]), ("user", "two"), ("assistant", said[1])]
        # The conversation as the model gets it.
        assert page.turns(page.asked[2], talker) == [*own, ("user", "three")]
        assert page.turns(page.asked[3], talker) == [("user", "four")]
        user.find(marker="edit").click()  # the first one
        await user.should_see(marker="edited")
        user.find(marker="edited").elements.pop().set_value("another")
        user.find(marker="ask-edited").click()
        await finished(page)
        assert [one.exchange.question for one in page.asked] == ["another", "four"]

    visit(library, look)


def test_a_problem_is_picked_and_judged_unless_its_text_is_changed(library: Library) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        user.find(marker="random-problem").click()
        await user.should_see("its check will judge", retries=50)
        prompt = page.question.value
        ask(user, page, prompt)
        await finished(page)
        assert page.asked[0].exchange.answers[0].judged.outcome == "wrong"
        await user.should_see("✗ wrong", retries=20)
        ask(user, page, prompt + " ")
        await finished(page)
        assert page.asked[1].exchange.problem is None and page.asked[1].exchange.answers[0].judged is None

    visit(library, look)


@pytest.mark.parametrize(
    ("question", "fault"),
    [("x" * (MOST_QUESTION + 1), "at most"), ("1 + " * 4000, "context"), ("a\ud800b", "surrogate")],
)
def test_odd_questions_are_answered_with_what_is_wrong(library: Library, question: str, fault: str) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        page.seed.set_value(5)  # without a seed an answer may end early, by chance
        ask(user, page, question)
        await finished(page)
        await user.should_see(fault, retries=20)
        assert pool.answers == 0
        ask(user, page, "1?")
        await finished(page)
        assert page.asked[-1].exchange.answers[0].tokens == 6

    visit(library, look)


def test_fields_that_a_program_fills_with_anything_do_no_harm(library: Library) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        for seed, temperature, most in ((-4, 99.0, 1e9), (2.0**40, -1.0, -5)):
            page.seed.set_value(seed)
            page.temperature.set_value(temperature)
            asked = page.asked[0] if page.asked else None
            page.most.set_value(3)
            if asked is None:
                ask(user, page, "1?", tokens=3)
                await finished(page)
            page.most.set_value(most)
            settings = page.sampling(page.asked[0], False)
            assert 0 <= settings.seed <= 2**32 and 0 <= settings.temperature <= 2
            assert 1 <= settings.max_tokens <= 8192
        for odd in (None, 7, [], {"a": 1}, "   "):
            page.question.value = odd
            page.ask()
        page.models.set_value([])
        ask(user, page, "2?")
        assert len(page.asked) == 1
        await user.should_see("choose a model")

    visit(library, look)


def test_what_a_person_or_a_model_writes_is_text(library: Library) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        ask(user, page, f"{HOSTILE} $\\href{{javascript:alert(1)}}{{x}}$")
        await finished(page)
        answer = page.asked[0].exchange.answers[0]
        answer.thinking = answer.text = HOSTILE
        answer.end("failed", HOSTILE)
        page.asked[0].cards[0].show()
        await user.should_see(HOSTILE)
        with user.client:
            elements = list(ElementFilter())
        assert not {element.tag for element in elements} & {"script", "img", "iframe", "a-href"}
        assert not any("innerHTML" in element.props for element in elements)

    visit(library, look)


def test_a_visitor_who_goes_frees_his_place(library: Library) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        ask(user, page, "What is 3 + 4?", tokens=100)
        while not page.asked[0].exchange.answers[0].tokens:
            await asyncio.sleep(0.005)
        user.client.delete()
        while pool.answers:
            await asyncio.sleep(0.01)
        assert page.asked[0].exchange.answers[0].state == "stopped"

    visit(library, look, load=slowly)


def test_the_page_keeps_a_bounded_number_of_questions(library: Library) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        for number in range(MOST_EXCHANGES + 2):
            ask(user, page, f"{number}?", tokens=1)
            await finished(page)
        assert [one.exchange.question for one in page.asked][:: MOST_EXCHANGES - 1] == ["2?", "51?"]

    visit(library, look)


def test_a_stage_that_finishes_meanwhile_can_be_chosen(library: Library) -> None:
    async def look(user: Any, page: Any, pool: ModelPool) -> None:
        assert "later" not in page.models.options
        finish_stage(library.folders["run"], "later", "sft", 2000.0)
        while "later" not in page.models.options:
            await asyncio.sleep(0.1)
        assert page.models.value == ["zero"]

    visit(library, look)
