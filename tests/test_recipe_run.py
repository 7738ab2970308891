"""Running a recipe: a stage is whole or not there; what is finished is kept; what changed is never
overwritten unasked."""

import fcntl
import functools
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import recipe_fakes
from rich.console import Console
from waiting import LIMIT_S, wait_until

from r1kit.config import ConfigError
from r1kit.marks import seal
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import InterruptedRunError, StageError, run
from r1kit.runs.fingerprint import find_finished, note_finished
from r1kit.runs.survey import survey
from r1kit.runtime import RUNTIMES
from r1kit.seeds import derive_seed

THREE = """\
name: tiny
stages:
  - {stage: write, name: base}
  - {stage: write, name: zero, init: "@base/data.jsonl"}
  - {stage: write, name: aside}
  - {stage: write, name: last, init: "@zero/data.jsonl"}
"""


@pytest.fixture(autouse=True)
def fake_runtime(monkeypatch):
    monkeypatch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")
    monkeypatch.setitem(sys.modules, "r1kit.report", recipe_fakes.report)


@pytest.fixture
def layers(tmp_path):
    def layers(text: str, *overrides: str):
        file = tmp_path / "tiny.yaml"
        file.write_text(text)
        return read_layers(file, [f"out={tmp_path}/{{name}}", *overrides])

    return layers


@pytest.fixture
def recipe(layers):
    return lambda text, *overrides: build(layers(text, *overrides), recipe_fakes.STAGES)


def execute(recipe, **options):
    return run(recipe, console=Console(file=io.StringIO()), **options)


def record(recipe, stage):
    return json.loads((recipe.run_dir / "stages" / stage / "stage.json").read_text())


def data(recipe, stage):
    return (recipe.run_dir / "stages" / stage / "data.jsonl").read_text()


def states(recipe, redo_from=None):
    return {standing.stage.name: standing.state for standing in survey(recipe, redo_from)}


def test_stages_run_once_and_record_what_made_them(recipe):
    tiny = recipe(THREE, "seed=5")
    summary = execute(tiny, command="r1kit run tiny.yaml")
    assert set(summary.states.values()) == {"new"} and list(summary.states) == [
        "base",
        "zero",
        "aside",
        "last",
    ]
    zero = record(tiny, "zero")
    assert zero["config"] == tiny.stages[1].model_dump(mode="json") and zero["seed"] == derive_seed(5, "zero")
    assert zero["versions"]["python"] and zero["seconds"] >= 0 and list(zero["inputs"]) == ["base"]
    assert json.loads(data(tiny, "zero").splitlines()[0]) == {
        "step": 0,
        "seed": derive_seed(5, "zero"),
        "input": len(data(tiny, "base")),
    }
    assert json.loads((tiny.run_dir / "env.json").read_text())["command"] == "r1kit run tiny.yaml"
    assert build(read_layers(tiny.run_dir / "recipe.yaml"), recipe_fakes.STAGES) == tiny
    before = (tiny.run_dir / "metrics.jsonl").read_text()
    assert set(execute(tiny).states.values()) == {"done"}
    assert (tiny.run_dir / "metrics.jsonl").read_text() == before


def test_changed_configuration_is_refused_with_its_difference(recipe):
    tiny = recipe(THREE)
    execute(tiny)
    kept = data(tiny, "zero")
    changed = recipe(THREE, "stages.zero.optimizer.steps=4", "stages.zero.optimizer.tables.b=2")
    with pytest.raises(ConfigError) as error:
        execute(changed)
    message = str(error.value)
    assert (
        "zero: optimizer.steps: 3 -> 4" in message and "zero: optimizer.tables.b: (absent) -> 2.0" in message
    )
    assert "--from zero" in message and "--fresh" in message
    assert data(tiny, "zero") == kept and set(states(tiny).values()) == {"done"}


def test_from_redoes_a_stage_and_what_depends_on_it_only(recipe):
    tiny = recipe(THREE)
    execute(tiny)
    started = {name: record(tiny, name)["started"] for name in ("base", "zero", "aside", "last")}
    changed = recipe(THREE, "stages.zero.optimizer.steps=4")
    assert states(changed, "zero") == {"base": "done", "zero": "new", "aside": "done", "last": "new"}
    execute(changed, redo_from="zero")
    redone = {name for name, time in started.items() if record(tiny, name)["started"] != time}
    assert redone == {"zero", "last"}
    assert len(data(tiny, "zero").splitlines()) == 4
    assert set(states(changed).values()) == {"done"}


def test_seed_of_the_recipe_counts_as_a_change(recipe):
    execute(recipe(THREE))
    with pytest.raises(ConfigError, match="base: the recipe's seed"):
        execute(recipe(THREE, "seed=1"))


def test_matched_stages_share_a_seed(recipe):
    tiny = recipe(
        "name: tiny\nstages:\n  - {stage: write, name: a}\n  - {stage: write, name: b, seed_of: a}\n  "
        "- {stage: write, name: c}\n"
    )
    execute(tiny)
    assert data(tiny, "a") == data(tiny, "b") != data(tiny, "c")


def test_stage_made_again_changes_those_that_read_it(recipe):
    tiny = recipe(THREE)
    execute(tiny)
    file = tiny.run_dir / "stages/zero/stage.json"
    file.write_text(json.dumps(seal({**record(tiny, "zero"), "seconds": 99.0})))
    with pytest.raises(ConfigError, match="last: its input @zero was made again"):
        execute(tiny)


def test_fresh_forgets_the_run_and_nothing_else(recipe):
    tiny = recipe(THREE)
    execute(tiny)
    (tiny.run_dir / "notes.txt").write_text("mine")
    changed = recipe(THREE, "seed=1")
    assert set(execute(changed, fresh=True).states.values()) == {"new"}
    assert (tiny.run_dir / "notes.txt").read_text() == "mine"
    assert len((tiny.run_dir / "metrics.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("how", "says"), [("config", "data.jsonl:3: not JSON"), ("bug", "ZeroDivisionError: division by zero (")]
)
def test_failing_stage_is_one_message_and_loses_nothing(recipe, how, says):
    tiny = recipe(THREE + f"  - {{stage: fail, how: {how}, init: '@last'}}\n")
    with pytest.raises(StageError) as error:
        execute(tiny, command="r1kit run tiny.yaml")
    message = str(error.value)
    assert message.startswith(f"stage 'fail' failed: {says}")
    assert "Finished and kept: base, zero, aside, last." in message and message.endswith(
        "Fix the cause, then rerun:\n  r1kit run tiny.yaml"
    )
    assert states(tiny) == {
        "base": "done",
        "zero": "done",
        "aside": "done",
        "last": "done",
        "fail": "continue",
    }
    assert (tiny.run_dir / "logs/fail.txt").exists() == (how == "bug")


def test_interruption_says_how_to_continue(recipe):
    with pytest.raises(InterruptedRunError, match="interrupted in stage 'fail'") as error:
        execute(recipe("name: tiny\nstages: [{stage: fail, how: interrupt}]\n"), command="r1kit run x.yaml")
    assert str(error.value).endswith("r1kit run x.yaml")


def test_reference_to_a_file_that_the_stage_did_not_write_is_named(recipe):
    tiny = recipe(THREE.replace("@base/data.jsonl", "@base/model"))
    with pytest.raises(
        StageError, match=r"'@base/model': stage 'base' wrote no 'model'; it wrote: data\.jsonl, stage\.json"
    ) as error:
        execute(tiny)
    assert str(error.value).count("'zero'") == 1  # the failing stage is named once
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl: no such file"):
        execute(recipe("name: other\nstages: [{stage: write, init: nowhere.jsonl}]\n"))


def test_unwritable_out_is_an_error_before_any_work(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"out: .*file/run cannot be written: .*--out DIR"):
        execute(recipe(THREE, f"out={tmp_path}/file/run"))


def test_second_process_is_refused(recipe):
    tiny = recipe(THREE)
    tiny.run_dir.mkdir()
    with (tiny.run_dir / "lock").open("w") as lock:
        lock.write("4242\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"another process \(id 4242\) works on this run"):
            execute(tiny)
    assert set(execute(tiny).states.values()) == {"new"}


def test_unknown_stage_of_from_is_refused(recipe):
    with pytest.raises(ConfigError, match="no stage 'zeor': did you mean 'zero'"):
        execute(recipe(THREE), redo_from="zeor")


def test_finished_run_is_known_by_its_fingerprint(recipe, layers):
    tiny, asked = recipe(THREE), layers(THREE)
    execute(tiny)
    assert find_finished(asked) is None
    note_finished(asked, tiny.run_dir)
    assert find_finished(asked) == tiny.run_dir
    assert find_finished(layers(THREE, "seed=1")) is None
    (tiny.run_dir / "stages/aside/stage.json").unlink()
    assert find_finished(asked) is None


def start(file: Path, folder: Path, *, hold: int | None = None) -> subprocess.Popen[str]:
    """A run in another process, which waits at step ``hold`` of a stage that has so many."""
    command = [sys.executable, recipe_fakes.__file__, "run", str(file), "--out", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    environment |= {} if hold is None else {"R1KIT_TEST_HOLD": str(hold)}
    # A job in the background of a shell ignores SIGINT, and so do its children unless they ask for it again.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=listen
    )


SLOW = (
    "name: slow\nstages:\n  - {stage: write, name: base}\n  - {stage: write, name: zero, optimizer: "
    "{steps: 10}}\n"
)


def wait_for_lines(file: Path, lines: int, process: subprocess.Popen[str]) -> None:
    def reached() -> bool:
        assert process.poll() is None, process.communicate()
        return file.exists() and len(file.read_text().splitlines()) >= lines

    wait_until(reached, f"{lines} lines in {file}")


@pytest.mark.slow
def test_killed_run_continues_where_it_was(tmp_path):
    (tmp_path / "slow.yaml").write_text(SLOW)
    process = start(tmp_path / "slow.yaml", tmp_path / "run", hold=5)
    wait_for_lines(tmp_path / "run/stages/zero.partial/data.jsonl", 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "run/stages/zero").exists()
    written = (tmp_path / "run/stages/zero.partial/data.jsonl").read_text()
    base = (tmp_path / "run/stages/base/stage.json").read_text()
    again = start(tmp_path / "slow.yaml", tmp_path / "run")
    out, error = again.communicate(timeout=LIMIT_S)
    assert again.returncode == 0, error
    assert "base: done" in out and "zero: continues" in out
    assert (tmp_path / "run/stages/base/stage.json").read_text() == base
    final = (tmp_path / "run/stages/zero/data.jsonl").read_text()
    assert final.startswith(written) and [json.loads(line)["step"] for line in final.splitlines()] == list(
        range(10)
    )
    assert not (tmp_path / "run/stages/zero.partial").exists()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["stage"] == "zero"] == list(range(10))
    assert json.loads((tmp_path / "run/stages/zero/stage.json").read_text())["attempts"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_exits_130_and_says_how_to_continue(tmp_path, number):
    (tmp_path / "slow.yaml").write_text(SLOW)
    process = start(tmp_path / "slow.yaml", tmp_path / "run", hold=5)
    wait_for_lines(tmp_path / "run/stages/zero.partial/data.jsonl", 5, process)
    second = start(tmp_path / "slow.yaml", tmp_path / "run")
    _, refusal = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 2 and f"another process (id {process.pid}) works on this run" in refusal
    process.send_signal(number)
    _, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert "interrupted in stage 'zero'. Finished and kept: base." in error and "Traceback" not in error
    assert f"run {tmp_path}/slow.yaml" in error
