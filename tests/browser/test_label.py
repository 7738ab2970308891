"""Labelling in a real browser: 20 labels by keyboard, one undone; a server that is killed in the middle loses
none; then a reward model trains on them."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

driving: Any = pytest.importorskip("driving")
from label_fakes import write_waiting_run  # noqa: E402
from preference_world import SMALL, context, taste  # noqa: E402
from small_world import model_directory  # noqa: E402
from web_fakes import HOSTILE  # noqa: E402

from r1kit.data.labels import pair_of, read_labels  # noqa: E402
from r1kit.data.preferences import read_preferences  # noqa: E402
from r1kit.records import label_file  # noqa: E402
from r1kit.stages.reward_models import RewardModels  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(driving.missing()), reason=driving.missing()),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    pairs = [pair_of(row["prompt"], row["chosen"], row["rejected"], ("@one", "@two")) for row in taste(40)]
    return write_waiting_run(tmp_path / "run", pairs, 20)


@contextmanager
def killable(run: Path, cache: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """``r1kit ui`` with its process, which the test may kill."""
    command = [sys.executable, "-m", "r1kit", "ui", str(run), "--port", "0", "--no-browser"]
    # NiceGUI takes a server that inherits these for one of its own tests.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        ready, _, _ = select.select([server.stdout], [], [], 120)
        line = server.stdout.readline() if ready else ""
        yield line[line.index("http://") :].split()[0].rstrip("/"), server
    finally:
        server.kill()
        server.wait(timeout=60)


def opened(page: Any, address: str, name: str) -> None:
    """The page once it shows a pair; the server may still be starting."""
    for _ in range(100):
        try:
            page.goto(f"{address}/label?annotator={name}")
            break
        except Exception:
            time.sleep(0.2)
    page.get_by_text("pairs, ").wait_for()
    page.wait_for_function("window.socket === undefined || window.socket.connected")
    time.sleep(1)  # the keyboard listens once the page is mounted


def progress(page: Any) -> str:
    return str(page.get_by_text(" pairs, ").first.inner_text())


def press(page: Any, key: str, judged: int) -> None:
    """Press a key, and wait until the page says how many pairs are judged now."""
    time.sleep(0.5)  # a key that comes sooner was meant for the pair before
    page.keyboard.press(key)
    page.get_by_text(f"{judged} of 20 pairs").wait_for()


def polite_key(page: Any) -> str:
    """The key of the side with the polite answer: a person who reads."""
    left, right = (page.locator(".r1-pair > div").nth(place).inner_text() for place in (0, 1))
    assert ("Gladly" in left) != ("Gladly" in right) and "@one" not in left + right
    return "1" if "Gladly" in left else "2"


def test_twenty_labels_by_keyboard_one_undone_a_kill_and_a_reward_model(run: Path, tmp_path: Path) -> None:
    file = label_file(run, "label_1")
    with driving.chromium() as browser:
        with (
            killable(run, tmp_path / "cache") as (address, server),
            driving.visitor(browser, address) as page,
        ):
            opened(page, address, "ann")
            for judged in range(1, 9):
                press(page, polite_key(page), judged)
            press(page, "z", 7)  # undone
            press(page, polite_key(page), 8)
            server.kill()
            server.wait(timeout=60)
            assert len(read_labels(file)) == 8  # what the page had counted is there
        with file.open("ab") as torn:
            torn.write(b'{"label": "half of')
        with (
            killable(run, tmp_path / "cache") as (address, _),
            driving.visitor(browser, address) as page,
        ):
            opened(page, address, "ann")
            assert progress(page) == "8 of 20 pairs, 8 by you"
            for judged in range(9, 21):
                press(page, polite_key(page), judged)
            page.get_by_text("Enough pairs are labelled").wait_for()
    labels, found = read_labels(file), read_preferences(file)
    assert len(labels) == len(found) == 20 and len({label.pair for label in labels}) == 20
    assert all("Gladly" in pair.chosen.answer for pair in found)
    assert len({label.seed for label in labels}) == 20 and all(label.seconds > 0 for label in labels)
    ctx = context(tmp_path, model_directory(tmp_path / "base/model").parent)
    keys = {"init": "@base", "preferences": str(file), "batch": 8, "epochs": 2, "learner": SMALL}
    RewardModels.parse(keys, "reward_models").run(ctx)
    facts = json.loads((ctx.out / "report.json").read_text())
    assert facts["helpful_pairs"] + facts["helpful_held_out_pairs"] == 20


def test_buttons_on_a_phone_and_an_answer_that_is_written(run: Path, tmp_path: Path) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
    with (
        driving.chromium() as browser,
        killable(run, tmp_path / "cache") as (address, _),
        driving.visitor(browser, address, **phone) as page,
    ):
        opened(page, address, "ben")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"the page is {width} wide, and scrolls sideways"
        for judged, name in enumerate(("tie (3)", "both bad (4)"), 1):
            page.wait_for_timeout(500)  # a tap that comes sooner was meant for the pair before
            page.get_by_role("button", name=name).tap()
            page.get_by_text(f"{judged} of 20 pairs").wait_for()
        page.wait_for_timeout(500)
        page.get_by_role("button", name="unsafe (5)").tap()
        page.get_by_role("button", name="left is unsafe (1)").tap()
        page.get_by_text("3 of 20 pairs").wait_for()
        page.wait_for_timeout(500)
        press(page, "3", 4)  # with a button in focus, keys count still
        page.get_by_text("write a better answer").tap()
        page.get_by_role("textbox", name="answer").fill(f"Here. {HOSTILE}")
        page.get_by_role("button", name="save (Ctrl+Enter)").tap()
        page.get_by_text("1 answers written by you").wait_for()
        assert page.title() != "owned"
    verdicts = [label.verdict for label in read_labels(label_file(run, "label_1"))]
    assert verdicts == ["tie", "both_bad", "unsafe", "tie", "written"]
