"""The command line: quick to answer, exact in its exit codes, clear in its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import recipe_fakes
import typer
import yaml

from r1kit.commands.cli import normalize_overrides

TINY = (
    "name: tiny\nstages:\n  - {stage: write, name: base}\n  - {stage: write, name: zero, init: "
    "'@base/data.jsonl'}\n"
)


@pytest.fixture
def r1kit(tmp_path, forked):
    """Run the command line over the fake stages, in an empty folder with tiny.yaml in it."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    environment = {**os.environ, "COLUMNS": "140"}

    def r1kit(*words: str) -> subprocess.CompletedProcess[str]:
        return forked.run(recipe_fakes.__file__, *words, folder=tmp_path, environment=environment)

    return r1kit


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["doctor", "--help"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys, r1kit.commands.cli\n"
        f"sys.argv = ['r1kit', *{words!r}]\n"
        "try:\n    r1kit.commands.cli.main()\n"
        "except SystemExit as error:\n    assert not error.code\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'numpy', 'r1kit.config', 'yaml', 'psutil', "
        "'ray', 'vllm'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert output.splitlines()[-1] == "heavy: []" and "Usage" in output


def test_overrides_are_accepted_in_three_spellings():
    words = ["a.b=c", "--stages.zero.lr", "1e-6", "--seed=3", "--runtime.processes", "2"]
    assert normalize_overrides(words, "my run") == [
        "a.b=c",
        "stages.zero.lr=1e-6",
        "seed=3",
        "runtime.processes=2",
        'out="my run"',
    ]
    with pytest.raises(typer.BadParameter, match="did you mean '--fresh'"):
        normalize_overrides(["--fersh"])
    with pytest.raises(typer.BadParameter, match="needs a value"):
        normalize_overrides(["--seed"])


@pytest.mark.slow
def test_run_runs_and_says_when_there_is_nothing_to_do(r1kit, tmp_path):
    first = r1kit("run", "tiny.yaml", "--stages.base.optimizer.steps", "2", "seed=4")
    assert first.returncode == 0, first.stderr
    assert "all stages are done" in first.stdout
    record = json.loads((tmp_path / "runs/tiny/stages/base/stage.json").read_text())
    assert record["config"]["optimizer"]["steps"] == 2
    command = json.loads((tmp_path / "runs/tiny/env.json").read_text())["command"]
    assert command.endswith("run tiny.yaml stages.base.optimizer.steps=2 seed=4")
    second = r1kit("run", "tiny.yaml", "stages.base.optimizer.steps=2", "seed=4")
    assert second.returncode == 0 and "done already; nothing to do" in second.stdout
    changed = r1kit("run", "tiny.yaml", "seed=4")
    assert changed.returncode == 2 and "base: optimizer.steps: 2 -> 3" in changed.stderr


def test_json_output_is_json_alone(r1kit, tmp_path):
    shown = json.loads(r1kit("run", "tiny.yaml", "--json").stdout)
    assert shown["run"] == "runs/tiny" and shown["states"] == {"base": "new", "zero": "new"}
    assert json.loads(r1kit("run", "tiny.yaml", "--json").stdout)["run"] == "runs/tiny"


def test_dry_run_touches_nothing(r1kit, tmp_path):
    shown = r1kit("run", "tiny.yaml", "--dry-run")
    assert shown.returncode == 0 and shown.stdout.split() == ["base", "would", "run", "zero", "would", "run"]
    assert not (tmp_path / "runs").exists()


def test_show_prints_the_resolved_recipe_and_explains_a_key(r1kit):
    shown = yaml.safe_load(r1kit("show", "tiny.yaml", "seed=9").stdout)
    assert shown["seed"] == 9 and shown["stages"][0]["optimizer"]["lr"] == 1e-3
    shown = r1kit("show", "tiny.yaml", "--explain", "stages.zero.init").stdout
    assert shown == "stages.zero.init = '@base/data.jsonl'  (tiny.yaml:4)\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "none.yaml"], 2, "none.yaml: no such file"),
        (["run", "tiny.yaml", "stages.zero.inti=x"], 2, "did you mean 'init'"),
        (["run", "tiny.yaml", "--fersh"], 2, "did you mean '--fresh'"),
        (["run", "tiny.yaml", "stages.zero.init=none.jsonl"], 2, "none.jsonl: no such file"),
        (["run", "tiny.yaml", "--out", "tiny.yaml/x"], 2, "cannot be written"),
        (["rnu", "tiny.yaml"], 2, "No such command 'rnu'"),
        (["run", "tiny.yaml", "--sandbox", "landlok"], 2, "did you mean 'landlock'"),
        (["doctor", "--sandbox=none"], 2, "known: auto, namespaces, landlock"),
        (["chat", "nowhere"], 2, "nowhere: no such folder"),
        (["chat", "."], 2, "neither a model"),
        (["export", "nowhere", "--to", "x"], 2, "nowhere: no such folder"),
    ],
)
def test_error_is_printed_without_traceback_and_with_its_exit_code(r1kit, words, code, says):
    done = r1kit(*words)
    assert done.returncode == code, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
