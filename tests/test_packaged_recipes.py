"""Recipes by their names, in any folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from forked import Forked

from r1kit.config import ConfigError
from r1kit.recipe.packaged import find_recipe, packaged_recipes

ROOT = Path(__file__).parents[1]


def test_every_recipe_has_a_name() -> None:
    assert packaged_recipes() == {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}


def test_a_file_comes_first_and_a_name_stands_for_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path("nano")) == ROOT / "recipes/nano.yaml"
    for given in ("nano.yaml", "recipes/nano", "absent/nano.yaml"):  # names of files, which may be missing
        assert find_recipe(Path(given)) == Path(given)
    Path("nano").write_text("name: mine\n")
    assert find_recipe(Path("nano")) == Path("nano")


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"nanno: no such file, .* Did you mean nano\? They are: .*mini"):
        find_recipe(Path("nanno"))


def test_the_command_line_takes_names(tmp_path: Path, forked: Forked) -> None:
    shown = forked.run("-m", "r1kit", "show", "nano", folder=tmp_path)
    assert shown.returncode == 0 and "pretrain" in shown.stdout
    wrong = forked.run("-m", "r1kit", "show", "nanno", folder=tmp_path)
    assert wrong.returncode == 2 and "Did you mean nano?" in wrong.stderr and "Traceback" not in wrong.stderr


def test_a_wheel_contains_the_recipes(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"r1kit/recipes/{path.name}" for path in (ROOT / "recipes").iterdir() if path.is_file()} <= names
