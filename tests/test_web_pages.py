"""The pages: driven by NiceGUI's simulated user, without a browser; and who may ask for them."""

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from web_fakes import HOSTILE, rollout, with_user, write_run, write_samples

from r1kit.commands.cli import app
from r1kit.web.library import library_of
from r1kit.web.security import COOKIE, LARGEST_BODY, Gate

HAS_PAGES = importlib.util.find_spec("nicegui") is not None
needs_pages = pytest.mark.skipif(not HAS_PAGES, reason="the extra ui is not installed (make ui)")


def answered(
    gate: Gate, kind: str = "http", path: str = "/", query: str = "", **headers: str
) -> dict[str, Any]:
    """The first message that a request gets as an answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def receive() -> Any:
        return {}

    scope = {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(gate(scope, receive, send))
    return sent[0]


async def passed(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"host": "127.0.0.1:8470"}, True),
        ({"host": "localhost:8470", "origin": "http://localhost:8470"}, True),
        ({"host": "[::1]:8470"}, True),
        ({"host": "evil.example"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "127.0.0.1@evil.example"}, False),
        ({}, False),
        ({"host": "127.0.0.1:8470", "origin": "http://evil.example"}, False),
        ({"host": "127.0.0.1:8470", "origin": "http://127.0.0.1:9999"}, False),
        ({"host": "127.0.0.1:8470", "origin": "null"}, False),
        ({"host": "127.0.0.1", "content_length": str(LARGEST_BODY)}, True),
        ({"host": "127.0.0.1", "content_length": str(LARGEST_BODY + 1)}, False),
        ({"host": "127.0.0.1", "content_length": "-5"}, False),
    ],
)
def test_only_this_machine_and_the_pages_themselves_may_ask(
    kind: str, headers: dict[str, str], passes: bool
) -> None:
    found = answered(Gate(passed), kind, **headers)
    assert (found.get("status") == 200 or found["type"] == "websocket.accept") == passes


@pytest.mark.parametrize(("pieces", "passes"), [(4, True), (5, False)])
def test_a_body_without_a_stated_length_is_read_up_to_the_largest(pieces: int, passes: bool) -> None:
    piece = {"type": "http.request", "body": b"x" * (LARGEST_BODY // 4), "more_body": True}
    coming = [piece] * pieces
    got: list[str] = []

    async def receive() -> Any:
        return coming.pop() if coming else {"type": "http.request", "body": b"", "more_body": False}

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        while got[-1:] != ["http.disconnect"] and (message := await receive()).get("more_body", True):
            got.append(message["type"])

    scope = {"type": "http", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")]}
    asyncio.run(Gate(reads)(scope, receive, receive))
    assert got == ["http.request"] * 4 + ([] if passes else ["http.disconnect"])


def test_answers_forbid_to_load_from_elsewhere() -> None:
    headers = dict(answered(Gate(passed), host="localhost")["headers"])
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-frame-options"] == b"DENY"


def test_pages_for_other_machines_need_the_token() -> None:
    gate = Gate(passed, token="right")
    for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": f"{COOKIE}=wrong; other=right"}):
        for kind in ("http", "websocket"):
            found = answered(gate, kind, host="node7:80", **headers)
            assert found.get("status", 401) == 401 and found["type"] != "websocket.accept"
    assert answered(gate, query="token=wrong", host="node7")["status"] == 401
    brought = answered(gate, path="/rollouts", query="token=right", host="node7")
    assert brought["status"] == 303 and dict(brought["headers"])[b"location"] == b"/rollouts"
    assert (
        answered(gate, path="//evil.example/x", query="token=right", host="node7")["headers"][0][1]
        == b"/evil.example/x"
    )
    cookie = dict(brought["headers"])[b"set-cookie"].decode()
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    for headers in ({"authorization": "Bearer right"}, {"cookie": f"a=b; {cookie.partition(';')[0]}"}):
        assert answered(gate, host="node7:80", **headers)["status"] == 200
        assert answered(gate, host="node7:80", origin="http://evil", **headers)["status"] == 403


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_run(tmp_path / "run")


@needs_pages
def test_the_board_shows_stages_health_and_curves(run: Path) -> None:
    from nicegui import ui

    async def look(user: Any) -> None:
        await user.open("/")
        await user.should_see("Most completions are cut off")
        await user.should_see("interrupted, step 6 of 10")
        charts = user.find(ui.echart).elements
        titles = {chart.options.get("title", {}).get("text") for chart in charts}
        assert {"reward", "cut off at max_tokens", "seconds of a step"} <= titles
        await user.open("/?run=no-such-run&stage=../../etc")
        await user.should_see("Most completions are cut off")

    with_user(library_of([run]), look)


@needs_pages
def test_the_board_goes_on_to_the_next_training_unless_another_was_chosen(run: Path) -> None:
    from nicegui import ui

    def begins(stage: str, time: float) -> None:
        with (run / "metrics.jsonl").open("a") as rows:
            rows.write(json.dumps({"stage": stage, "step": 0, "time": time, "reward/mean": 0.5}) + "\n")
        while opened_library.open("run").look():
            pass

    def choice(user: Any) -> Any:
        return next(one for one in user.find(ui.select).elements if one.props.get("label") == "training")

    async def shows(user: Any, stage: str) -> None:
        for _ in range(100):
            if choice(user).value != stage:
                await asyncio.sleep(0.1)
        assert choice(user).value == stage

    async def look(user: Any) -> None:
        await user.open("/")
        await shows(user, "zero")
        begins("second", 2000.0)
        await shows(user, "second")
        choice(user).set_value("zero")  # a person goes back, and stays there
        begins("third", 3000.0)
        await asyncio.sleep(3.0)
        await shows(user, "zero")
        assert "third" in choice(user).options
        choice(user).set_value("third")  # back at the newest, the board goes on again
        begins("fourth", 4000.0)
        await shows(user, "fourth")

    opened_library = library_of([run])
    with_user(opened_library, look)


@needs_pages
def test_a_rollout_is_found_by_text_and_its_group_opens(run: Path) -> None:
    write_samples(
        run, "zero", 9, [rollout("odd/7", 0, 0.0, text="<think>first \\(\\frac{1}{2}\\)</think>needle")]
    )

    async def look(user: Any) -> None:
        library = opened_library
        while library.open("run").look():
            pass
        await user.open("/rollouts?text=NEEDLE")
        await user.should_see("1 rollouts", retries=20)
        user.find(marker="rollout").click()
        await user.should_see("1 rollouts of a problem", retries=20)
        await user.should_see("accuracy is 0: another number")
        await user.should_see("thinking, 21 characters")
        await user.open("/rollouts?problem=word/2")
        await user.should_see("18 of 18 rollouts", retries=20)

    opened_library = library_of([run])
    with_user(opened_library, look)


@needs_pages
def test_what_a_model_says_is_text_wherever_it_stands(run: Path) -> None:
    """No element of the page has hostile text as its HTML, and none is an element that the text names."""
    from nicegui import ElementFilter

    hostile = rollout(
        HOSTILE,
        0,
        0.0,
        task=HOSTILE,
        prompt=f"$x^2$ {HOSTILE} $\\text{{{HOSTILE}}}$",
        text=f"<think>{HOSTILE}</think>{HOSTILE} \\(\\href{{javascript:alert(1)}}{{x}}\\)",
        reasons={"accuracy": HOSTILE},
        tokens={"texts": [HOSTILE], "logprobs": [-9.0]},
    )
    write_samples(run, "zero", 9, [hostile])

    async def look(user: Any) -> None:
        while opened.open("run").look():
            pass
        await user.open("/rollouts?stage=zero&step=9")
        await user.should_see("1 of 1 rollouts", retries=20)
        user.find(marker="rollout").click()
        await user.should_see("1 rollouts of a problem", retries=20)
        with user.client:
            elements = list(ElementFilter())
        assert elements and not {element.tag for element in elements} & {"script", "img", "iframe"}
        assert not any("innerHTML" in element.props for element in elements)

    opened = library_of([run])
    with_user(opened, look)


@needs_pages
def test_formulas_become_mathml_of_known_elements_only() -> None:
    from r1kit.web.mathematics import DRAWN, mathml, pieces

    found = list(pieces(r"so \(\frac{1}{2}\), $5 and $6 stay, \boxed{x^{2}} and $$a<b$$"))
    assert [formula for _, formula in found if formula] == [r"\frac{1}{2}", r"\boxed{x^{2}}", "a<b"]
    assert (
        "".join(written for written, _ in found)
        == r"so \(\frac{1}{2}\), $5 and $6 stay, \boxed{x^{2}} and $$a<b$$"
    )
    tree = mathml(r"\frac{1}{2}")
    assert tree is not None and [one.tag for one in tree.iter()][2:] == ["mfrac", "mrow", "mn", "mrow", "mn"]
    for formula in (
        r"\href{javascript:alert(1)}{x}",
        r"\text{<script>x</script>}",
        r"\frac{",
        "\x00",
        "{" * 500,
    ):
        tree = mathml(formula)
        assert tree is None or {one.tag for one in tree.iter()} <= DRAWN


def test_watch_prints_the_board_as_text(run: Path) -> None:
    result = CliRunner().invoke(app, ["watch", str(run)])
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    assert "zero interrupted 6/10" in words and "reward/mean" in words
    assert "zero, step 2: Most completions are cut off" in words
    missing = CliRunner().invoke(app, ["watch", str(run.parent)])
    assert missing.exit_code != 0 and "no run of r1kit" in str(missing.exception)


def test_ui_names_a_folder_without_a_run(tmp_path: Path) -> None:
    if not HAS_PAGES:
        pytest.skip("the extra ui is not installed (make ui)")
    result = CliRunner().invoke(app, ["ui", str(tmp_path)])
    assert result.exit_code != 0 and "no run of r1kit, and no folder of runs" in str(result.exception)
