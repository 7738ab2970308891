"""From the rollouts' page: tokens coloured by three measures, and the link to a replay."""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from web_fakes import HOSTILE, rollout, with_user, write_run, write_samples

from r1kit.web.kept_rollouts import KeptRollout, Tokens, read_kept
from r1kit.web.library import library_of
from r1kit.web.why import Replays, number_of, update_with

needs_pages = pytest.mark.skipif(
    importlib.util.find_spec("nicegui") is None, reason="the extra ui is not installed (make ui)"
)
TOKENS = {
    "texts": ["a", " b", "c"],
    "logprobs": [-0.01, -4.0, -0.02],
    "learned": [-0.01, -4.05, -0.52],
    "entropies": [0.01, 2.0, 0.0],
}


def kept(**changes: Any) -> KeptRollout:
    found = read_kept(json.dumps(rollout("sum/1", 0, 0.0, **changes)).encode(), "zero", "", 4, 0)
    assert found is not None
    return found


@needs_pages
def test_tokens_are_coloured_by_what_is_asked_for() -> None:
    from r1kit.web.rollouts import MEASURES, SHADES, coloured

    tokens = kept(tokens=TOKENS).tokens
    assert tokens is not None
    shades = {
        measure.name: [(text, SHADES.index(shade), tip) for text, shade, tip in coloured(tokens, measure)]
        for measure in MEASURES
    }
    assert shades == {
        "log-probability": [("a", 0, ""), (" b", 4, "log-probability -4.000"), ("c", 0, "")],
        "entropy": [("a", 0, ""), (" b", 3, "entropy 2.000"), ("c", 0, "")],
        "gap": [
            ("a", 0, ""),
            (" b", 3, "learner -4.0500, engine -4.0000"),
            ("c", 5, "learner -0.5200, engine -0.0200"),
        ],
    }
    old = Tokens(["a"], [-1.0])
    assert [measure.name for measure in MEASURES if measure.values(old)] == ["log-probability"]


@pytest.mark.parametrize("odd", [None, 3, [1.0], ["x", "y", "z"], [None] * 3, {"a": 1}])
def test_odd_measures_of_tokens_are_left_out(odd: Any) -> None:
    found = kept(tokens={**TOKENS, "entropies": odd}).tokens
    assert found is not None and list(found.entropies) == [] and list(found.learned) == TOKENS["learned"]
    assert kept(tokens={**TOKENS, "logprobs": odd}).tokens is None


def write_update(run: Path, step: int, lines: list[Any], folder: str = "zero.partial") -> None:
    file = run / "stages" / folder / "updates" / f"step_{step:08d}" / "rollouts.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))


def test_the_update_of_a_rollout_is_found_in_its_phase_only(tmp_path: Path) -> None:
    own = rollout("sum/1", 0, 0.0)
    write_update(tmp_path, 4, [rollout("other/1", 0, 0.0)])
    write_update(tmp_path, 5, [rollout("other/2", 0, 0.0), own])
    write_update(tmp_path, 8, [own])
    assert update_with(tmp_path, kept(), [0, 4, 8]) == 5
    assert update_with(tmp_path, kept(), [0, 4, 5]) is None  # step 5 begins another phase
    assert update_with(tmp_path, kept(text="another text"), [0, 4, 8]) is None
    assert update_with(tmp_path / "none", kept(), [4]) is None


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"problem": 1}', "\x00"])
def test_a_damaged_update_has_no_rollout(tmp_path: Path, line: str) -> None:
    write_update(tmp_path, 4, [line + "\n", rollout("sum/1", 0, 0.0)], "zero")
    assert update_with(tmp_path, kept(), [4]) is None


@needs_pages
def test_the_page_offers_the_measures_and_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = write_run(tmp_path / "run")
    line = rollout("odd/7", 0, 0.0, tokens=TOKENS)
    write_samples(run, "zero", 9, [line])
    write_update(run, 9, [line])
    library = library_of([run])

    async def look(user: Any) -> None:
        while library.open("run").look():
            pass
        await user.open("/rollouts?stage=zero&step=9")
        await user.should_see("1 of 1 rollouts", retries=20)
        user.find(marker="rollout").click()
        await user.should_see("why: replay this update", retries=20)
        (link,) = user.find(marker="why").elements
        assert link.props["href"] == "/why?run=run&stage=zero&step=9&problem=odd%2F7"
        (toggle,) = user.find(marker="colour by").elements
        assert [option["label"] for option in toggle.props["options"]] == [
            "log-probability", "entropy", "gap",
        ]  # fmt: skip
        await user.open("/rollouts?stage=zero&step=3")
        await user.should_see("6 of 6 rollouts", retries=20)

    with_user(library, look)


SCRIPT = """
import sys
out = next(word[6:] for word in sys.argv if word.startswith("--out="))
if "--step=7" in sys.argv:
    sys.exit("r1kit: step 7 was not kept <b>")
open(out, "w").write(" ".join(sys.argv[1:-1]))
"""


def test_a_replay_is_made_by_another_process_and_its_error_is_text(tmp_path: Path) -> None:
    replays = Replays((sys.executable, "-c", SCRIPT))
    status, page = asyncio.run(replays.page(tmp_path, "zero", "3", "--help"))
    assert (status, page) == (200, f"why {tmp_path} --stage=zero --step=3 --problem=--help")
    status, page = asyncio.run(Replays((sys.executable, "-c", SCRIPT)).page(tmp_path, "zero", "7", "p"))
    assert status == 404 and "step 7 was not kept &lt;b&gt;" in page
    for step in ("", "-1", "x", "1" * 30, "²"):
        assert number_of(step) is None
        assert asyncio.run(replays.page(tmp_path, "zero", step, "p"))[0] == 404
    status, page = asyncio.run(Replays(("/no/such/program",)).page(tmp_path, HOSTILE, "3", "\x00"))
    assert status == 404 and "<script" not in page
