"""The pages that collect labels, driven by NiceGUI's simulated user: by keys and by buttons."""

import json
from pathlib import Path
from typing import Any

import pytest
from label_fakes import pairs_of, write_waiting_run
from test_web_pages import needs_pages
from web_fakes import HOSTILE, with_user

from r1kit.data.labels import pair_of, read_labels
from r1kit.data.preferences import read_preferences
from r1kit.data.sources import pairs as written_rows
from r1kit.records import label_file
from r1kit.web.library import library_of

pytestmark = needs_pages


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_waiting_run(tmp_path / "run", pairs_of(6), 4)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1kit.web import label

    monkeypatch.setattr(label, "TOO_SOON_S", 0.0)


def press(user: Any, key: str, **more: Any) -> None:
    from nicegui import ui

    held = dict.fromkeys(("altKey", "ctrlKey", "metaKey", "shiftKey"), False)
    event = {"action": "keydown", "repeat": False, "key": key, "code": key, "location": 0, **held, **more}
    user.find(ui.keyboard).trigger("key", event)


def seen_at(user: Any, side: str) -> str:
    """The answer that is shown at one side."""
    from nicegui.elements.mixins.text_element import TextElement

    (card,) = user.find(marker=side).elements
    texts = [one.text for one in card.descendants() if isinstance(one, TextElement)]
    return next(text for text in texts if "Shelf" in text)


def verdicts(run: Path) -> list[str]:
    return [label.verdict for label in read_labels(label_file(run, "label_1"))]


def test_a_name_is_asked_for_and_keys_give_labels(run: Path) -> None:
    async def look(user: Any) -> None:
        await user.open("/label")
        await user.should_see("Your name goes into the file")
        user.find(marker="name").type("Ann B")
        user.find(marker="begin").click()
        await user.should_see("0 of 4 pairs, 0 by you", retries=20)
        await user.should_not_see("@one")  # blind
        left = seen_at(user, "left")
        press(user, "1")
        await user.should_see("1 of 4 pairs, 1 by you")
        right = seen_at(user, "right")
        press(user, "2")
        await user.should_see("2 of 4 pairs, 2 by you")
        found = [pair.chosen.answer for pair in read_preferences(label_file(run, "label_1"))]
        assert found == [left, right]
        for key in ("3", "4"):
            press(user, key)
        await user.should_see("Enough pairs are labelled")
        press(user, "s")
        press(user, "z")  # the skipped pair is back
        await user.should_see("Where is tea 4?")
        for ignored in ({"ctrlKey": True}, {"repeat": True}, {"action": "keyup"}):
            press(user, "1", **ignored)
        await user.should_see("4 of 4 pairs, 4 by you")
        press(user, "5")
        await user.should_see("left is unsafe (1)")
        press(user, "2")
        await user.should_see("5 of 4 pairs, 5 by you")
        press(user, "1")
        await user.should_see("Every pair is labelled")
        press(user, "3")  # nothing is shown, nothing is given

    with_user(library_of([run]), look)
    labels = read_labels(label_file(run, "label_1"))
    assert {label.annotator for label in labels} == {"Ann B"} and len(labels) == 6
    assert [label.verdict for label in labels[2:5]] == ["tie", "both_bad", "unsafe"]
    assert len(labels[4].unsafe) == 1


def test_the_board_says_that_the_run_waits_for_people(run: Path) -> None:
    async def look(user: Any) -> None:
        await user.open("/")
        await user.should_see("for people: the page Label")

    with_user(library_of([run]), look)


def test_buttons_do_what_keys_do_and_undo_shows_the_pair_again(run: Path) -> None:
    async def look(user: Any) -> None:
        await user.open("/label?run=run&annotator=ann")
        await user.should_see("Where is tea 0?")
        user.find("tie (3)").click()
        await user.should_see("Where is tea 1?")
        user.find("undo (z)").click()
        await user.should_see("Where is tea 0?")
        await user.should_see("0 of 4 pairs")
        user.find("undo (z)").click()
        await user.should_see("no label of yours to undo")
        user.find("unsafe (5)").click()
        user.find("cancel (Esc)").click()
        user.find("both bad (4)").click()
        await user.should_see("Where is tea 1?")

    with_user(library_of([run]), look)
    assert verdicts(run) == ["both_bad"]


def test_a_key_right_after_a_pair_is_shown_is_not_for_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from r1kit.web import label

    async def look(user: Any) -> None:
        await user.open("/label?annotator=ann")
        monkeypatch.setattr(label, "TOO_SOON_S", 60.0)
        press(user, "1")
        await user.should_see("0 of 4 pairs")

    with_user(library_of([run]), look)
    assert not label_file(run, "label_1").exists()


def test_two_annotators_share_pairs_and_see_how_far_they_agree(run: Path) -> None:
    pytest.importorskip("krippendorff")

    async def look(user: Any) -> None:
        await user.open("/label?annotator=ann")
        await user.should_see("no pair has two annotators yet")
        for key in "343434":
            press(user, key)
        await user.open("/label?annotator=ben")
        for key in "343433":
            press(user, key)
        await user.should_see("agreement of 2 annotators on 6 pairs: Krippendorff's alpha")

    with_user(library_of([run]), look)


def test_a_label_that_cannot_be_written_is_said_and_the_pair_stays(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def broken(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    async def look(user: Any) -> None:
        await user.open("/label?annotator=ann")
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", broken)
            press(user, "1")
            await user.should_see("Not saved:")
            await user.should_see("Where is tea 0?")
        press(user, "3")
        await user.should_see("Where is tea 1?")

    with_user(library_of([run]), look)


def test_answers_are_written_and_corrected(run: Path) -> None:
    async def look(user: Any) -> None:
        await user.open("/write?annotator=ann")
        await user.should_see("Where is tea 0?")
        user.find(marker="answer").type("On the shelf.")
        user.find(marker="save").click()
        await user.should_see("1 answers written by you")
        user.find("the left answer").click()
        user.find(marker="answer").clear().type("Corrected.")
        user.find(marker="save").click()
        await user.should_see("2 answers written by you")
        user.find(marker="save").click()
        await user.should_see("Not saved: the answer is empty")

    with_user(library_of([run]), look)
    file = label_file(run, "label_1")
    first, second = written_rows(file)
    assert first == ("Where is tea 0?", "On the shelf.")
    assert second[0] == "Where is tea 1?" and second[1].endswith("</think>Corrected.")
    assert [row["verdict"] for row in map(json.loads, file.read_text().splitlines())] == [
        "written",
        "corrected",
    ]


def test_what_models_and_annotators_say_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pair = pair_of(HOSTILE, f"<think>{HOSTILE}</think>{HOSTILE} a", f"{HOSTILE} b", (HOSTILE, HOSTILE))
    run = write_waiting_run(tmp_path / "run", [pair], 4)

    async def look(user: Any) -> None:
        from urllib.parse import quote

        from nicegui import ElementFilter

        for page in ("/label", "/write"):
            await user.open(f"{page}?annotator={quote(HOSTILE)}")
            await user.should_see(HOSTILE)
            with user.client:
                elements = list(ElementFilter())
            assert not {element.tag for element in elements} & {"script", "img", "iframe"}
            assert not any("innerHTML" in element.props for element in elements)

    with_user(library_of([run]), look)


def test_a_run_without_such_a_stage_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from web_fakes import write_run

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    async def look(user: Any) -> None:
        for page in ("/label", "/write"):
            await user.open(page)
            await user.should_see("No stage of this run waits for labels")

    with_user(library_of([write_run(tmp_path / "plain")]), look)
