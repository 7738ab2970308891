"""Each page driven as a person would, while a nano recipe trains."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from web_fakes import HOSTILE

Open = Callable[..., Any]
WAIT_MS = 180_000
# The last steps of the curves of the page, added up. Not how many points they have: long curves are thinned.
LAST_STEPS = """() => typeof mounted_app !== 'object' ? 0 : [...document.querySelectorAll('.r1-chart')].map(
  one => {
    const chart = getElement(one)?.chart;
    return chart ? chart.getOption().series.reduce((sum, line) => sum + (line.data.at(-1)?.[0] ?? 0), 0) : 0;
}).reduce((sum, count) => sum + count, 0)"""


def test_the_curves_of_the_board_move_while_the_run_trains(open_page: Open) -> None:
    page = open_page("/", run="nano")
    page.get_by_text("going on;").wait_for()
    # The board goes on to each training that begins, and makes its curves again; this one is long.
    page.locator(".q-select").get_by_text("reasoning_rl").wait_for(timeout=WAIT_MS)
    page.wait_for_function(f"({LAST_STEPS})() > 500", timeout=WAIT_MS)
    before, picture = page.evaluate(LAST_STEPS), page.locator(".r1-chart").first.screenshot()
    page.wait_for_function(f"({LAST_STEPS})() > {before}", timeout=WAIT_MS)
    page.wait_for_timeout(300)
    assert page.locator(".r1-chart").first.screenshot() != picture
    page.keyboard.press("r")
    page.wait_for_url("**/rollouts?run=nano")


def test_a_rollout_is_found_by_search_and_opens(open_page: Open) -> None:
    page = open_page("/rollouts", run="nano", stage="r1_zero")
    first = page.get_by_role("button").filter(has_text="r1_zero, step").first
    page.wait_for_timeout(100)
    while first.count() == 0:  # the stage has not sampled yet
        page.wait_for_timeout(1000)
        page.reload()
    asked = first.locator(".r1-text").nth(1).inner_text()
    page.keyboard.press("/")
    page.wait_for_function("document.activeElement.tagName === 'INPUT'")
    page.keyboard.type(asked[:20])
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"^[\d,]+ rollouts")).wait_for()
    found = page.get_by_role("button").filter(has_text=asked[:20])
    found.first.focus()
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"\d+ rollouts of a problem")).wait_for()
    page.get_by_text("right answer:").wait_for()
    assert page.locator(".r1-group > .r1-card").count() > 1
    page.get_by_role("button", name="close").click()
    page.get_by_text(re.compile(r"\d+ rollouts of a problem")).wait_for(state="detached")


def choose(page: Any, *models: str) -> None:
    """Choose these models too."""
    page.locator(".r1-models").get_by_text("arrow_drop_down").click()
    for model in models:
        page.get_by_role("option", name=re.compile(rf"^{model}\b")).click()
    page.keyboard.press("Escape")
    page.get_by_role("option").first.wait_for(state="detached")


def ask(page: Any, question: str) -> None:
    page.get_by_role("textbox", name="question").fill(question)
    page.keyboard.press("Enter")


def answers(page: Any) -> Any:
    return page.locator(".r1-answers .r1-card")


def state_of(answer: Any) -> str:
    return str(answer.locator(".r1-soft").first.inner_text())


def wait_for_states(page: Any, pattern: str, count: int) -> None:
    """Wait until so many answers, all there are, have a state like this."""
    page.wait_for_function(
        """([pattern, count]) => {
            const cards = [...document.querySelectorAll('.r1-answers .r1-card')];
            return cards.length === count
                && cards.every(one => new RegExp(pattern).test(one.querySelector('.r1-soft').innerText));
        }""",
        arg=[pattern, count],
        timeout=WAIT_MS,
    )


def test_two_models_of_a_run_that_trains_answer_a_problem_side_by_side(
    open_page: Open, training: Path, tmp_path: Path
) -> None:
    page = open_page("/", run="nano")
    while not (training / "stages" / "cold_start").is_dir():
        page.wait_for_timeout(500)
    page.keyboard.press("t")
    page.locator(".r1-models").get_by_text("r1_zero (R1-Zero)").wait_for()
    choose(page, "pretrain")
    page.get_by_role("button", name="random problem").click()
    page.get_by_text("its check will judge").wait_for()
    page.get_by_role("button", name="ask", exact=True).click()
    wait_for_states(page, "^(done|cut off), ", 2)
    first, second = (answers(page).nth(place).bounding_box() for place in (0, 1))
    assert first["y"] == second["y"] and first["x"] + first["width"] <= second["x"]
    page.locator(".r1-verdict").nth(1).wait_for()
    page.get_by_role("button", name="share").click()
    with page.expect_download() as download:
        page.get_by_text("as JSON").click()
    download.value.save_as(tmp_path / "shared.json")
    (exchange,) = json.loads((tmp_path / "shared.json").read_text())["exchanges"]
    assert download.value.suggested_filename == "nano-talk.json"
    assert {answer["verdict"]["outcome"] for answer in exchange["answers"]} <= {"correct", "wrong"}
    assert {answer["model"] for answer in exchange["answers"]} == {"r1_zero", "pretrain"}
    assert (training / "stages" / "reasoning_rl.partial").is_dir()  # it trains


def tokens_of(answer: Any) -> int:
    """How many tokens the answer has by now."""
    found = re.search(r"([\d,]+) tokens in", state_of(answer))
    return int(found[1].replace(",", "")) if found else 0


def wait_until_it_grows(page: Any, answer: Any) -> None:
    before = tokens_of(answer)
    while not before < tokens_of(answer):
        assert not state_of(answer).startswith(("done", "cut off", "failed", "stopped")), state_of(answer)
        page.wait_for_timeout(50)


def test_answers_are_stopped_retried_and_their_question_changed(open_page: Open) -> None:
    page = open_page("/talk", run="slow")
    page.locator(".r1-models").get_by_text("hostile (SFT)").wait_for()
    choose(page, "zero")
    page.get_by_label("temperature").fill("0")
    page.get_by_label("at most tokens").fill("8000")
    ask(page, "What is 3 times 4?")
    first, second = answers(page).nth(0), answers(page).nth(1)
    first.wait_for()
    for answer in (first, second):
        wait_until_it_grows(page, answer)
        wait_until_it_grows(page, answer)
    page.get_by_role("textbox", name="question").focus()
    page.keyboard.press("Escape")
    wait_for_states(page, "^stopped, ", 2)
    stopped = tokens_of(first), tokens_of(second)
    page.wait_for_timeout(500)
    assert stopped == (tokens_of(first), tokens_of(second)) and min(stopped) > 0 and max(stopped) < 8000

    first.get_by_role("button", name="retry this answer").click()
    page.wait_for_function("!document.querySelector('.r1-answers .r1-soft').innerText.startsWith('stopped')")
    wait_until_it_grows(page, first)
    assert state_of(second).startswith("stopped") and tokens_of(second) == stopped[1]
    page.get_by_role("button", name="stop").click()
    wait_for_states(page, "^stopped, ", 2)

    page.get_by_role("button", name="edit the question").click()
    page.locator(".r1-question textarea").fill("What is 5 times 6?")
    page.locator(".r1-question").get_by_role("button", name="ask").click()
    page.locator(".r1-question").get_by_text("What is 5 times 6?").wait_for()
    wait_until_it_grows(page, answers(page).nth(1))
    assert page.locator(".r1-question").count() == 1
    page.get_by_role("button", name="stop").click()
    wait_for_states(page, "^stopped, ", 2)


def test_what_a_model_or_a_person_writes_is_shown_and_never_run(open_page: Open) -> None:
    page = open_page("/talk", run="slow")
    page.locator(".r1-models").get_by_text("hostile (SFT)").wait_for()
    page.get_by_label("at most tokens").fill("3")
    ask(page, f"{HOSTILE} $\\text{{{HOSTILE}}}$ \\(\\href{{javascript:alert(1)}}{{x}}\\)")
    wait_for_states(page, "^(done|cut off), ", 1)
    for place in (page.locator(".r1-question"), answers(page)):
        assert HOSTILE in place.inner_text()
    page.goto(page.url.replace("/talk", "/rollouts") + "&step=9")
    page.get_by_role("button").filter(has_text=HOSTILE).first.click()
    page.get_by_text("1 rollouts of a problem").wait_for()
    assert page.title() == "r1kit: rollouts"
    assert page.locator("img[src=x], a[href^=javascript], .nicegui-content script").count() == 0


@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("path", ["/", "/rollouts", "/talk"])
def test_pages_fit_the_width_of_a_screen(open_page: Open, path: str, width: int) -> None:
    page = open_page(path, {"viewport": {"width": width, "height": 800}}, run="slow")
    page.get_by_role("link", name="Board").wait_for()
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
