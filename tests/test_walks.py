"""The walks of docs/architecture.md are those of the code: a small run is profiled, and every file that a
walk names has been called."""

import re
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest
from typer.testing import CliRunner

from r1kit.commands.cli import app
from r1kit.recipe.recipe import load

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/r1kit"
NOT_CALLED = {"train/dpo.py", "train/supervised.py"}  # named as alternatives: rl_loop.py "(or ...)"


def walk(title: str) -> list[list[str]]:
    """The files below src/r1kit that each row of a walk's table links in its second column."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?:\d+|[a-z]+) \| ([^|]+) \|", section, re.MULTILINE)
    return [re.findall(r"\(\.\./src/r1kit/([\w/]+\.py)\)", row) for row in rows]


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of which a run of pretrain and r1_zero, its verification and its export call a function."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(f"{SOURCE}/"):
            found.add(frame.f_code.co_filename.removeprefix(f"{SOURCE}/"))

    folder = tmp_path_factory.mktemp("walks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        names = [stage.name for stage in load("recipes/nano.yaml").stages]
        left_out = [f"stages.{name}=null" for name in reversed(names) if name not in ("pretrain", "r1_zero")]
        keys = ["stages.pretrain.tokens=8000", "stages.r1_zero.grpo.beta=0.01", "stages.r1_zero.grpo.steps=2"]
        run = str(folder / "run")
        lines = (
            ["run", "recipes/nano.yaml", *left_out, *keys, "--out", run],
            ["verify", run],
            ["export", run, "--to", str(folder / "model")],
        )
        sys.setprofile(note)
        threading.setprofile(note)
        try:
            for line in lines:
                result = CliRunner().invoke(app, line)
                assert result.exit_code == 0, result.output
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return found


def test_a_rollout_passes_at_most_twelve_files_from_recipe_to_gradient(called: set[str]) -> None:
    files = [file for row in walk("A rollout's walk") for file in row]
    assert 8 <= len(files) == len(set(files)) <= 12
    assert set(files) - called == set()


@pytest.mark.parametrize("title", ["A recipe's walk", "A checkpoint's walk"])
def test_a_walk_names_files_that_are_called(called: set[str], title: str) -> None:
    files = {file for row in walk(title) for file in row}
    assert len(files) >= 8
    assert files - called - NOT_CALLED == set()


def test_files_that_such_a_run_does_not_need_are_not_called(called: set[str]) -> None:
    assert {"train/dpo.py", "train/ppo.py", "train/distillation.py", "rewards/judge.py"}.isdisjoint(called)
