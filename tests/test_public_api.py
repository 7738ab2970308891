"""The public names: each resolves and is documented, importing the package loads nothing heavy, and a recipe
runs through them."""

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import r1kit

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", r1kit.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    thing = getattr(r1kit, name)
    assert thing.__module__.startswith("r1kit.") and inspect.getdoc(thing)
    undocumented = []
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if (
            not member.startswith("_")
            and inspect.isfunction(function)
            and not inspect.getdoc(getattr(thing, member))
        ):
            undocumented.append(member)
    assert not undocumented


def test_the_names_that_users_build_on_are_public_and_stand_once() -> None:
    wanted = {"Recipe", "load", "run", "Config", "Reward", "Runtime", "Task", "Stage", "Engine"}
    assert wanted <= set(r1kit.__all__) <= set(dir(r1kit))
    source = (ROOT / "src/r1kit/__init__.py").read_text(encoding="utf-8")
    assert all(len(re.findall(rf" as {name}\b|\"{name}\"", source)) == 1 for name in r1kit.__all__)
    scope: dict[str, object] = {}
    exec("from r1kit import *", scope)
    assert set(r1kit.__all__) <= set(scope)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'chek_math'"):
        r1kit.chek_math  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import r1kit, sys; print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.slow
def test_a_submodule_that_is_imported_later_does_not_replace_a_public_name() -> None:
    code = (
        "from r1kit import run, load\nimport r1kit.runs.execute, r1kit.recipe.recipe, r1kit.commands.cli\n"
        "import r1kit\nassert r1kit.run is run is r1kit.runs.execute.run and callable(run)\n"
        "assert r1kit.load is load is r1kit.recipe.recipe.load and callable(load)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_recipe_is_loaded_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    kept = ("pretrain", "r1_zero")
    every = [stage.name for stage in r1kit.load("recipes/nano.yaml").stages]
    without = [f"stages.{name}=null" for name in reversed(every) if name not in kept]
    recipe = r1kit.load(
        Path("recipes/nano.yaml"), [f"out={tmp_path}/nano", "stages.pretrain.tokens=8000", *without]
    )
    assert isinstance(recipe, r1kit.Recipe) and recipe.run_dir == tmp_path / "nano"
    summary = r1kit.run(recipe)
    assert summary.states == {"pretrain": "new", "r1_zero": "new"}
    rows = [json.loads(line) for line in (tmp_path / "nano/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["stage"] == "r1_zero"] == [0, 1, 2, 3]
    assert r1kit.load_pretrained(tmp_path / "nano/stages/r1_zero/model").config.vocab_size == 320
    assert set(r1kit.run(recipe).states.values()) == {"done"}


def test_the_reference_is_what_the_docstrings_make() -> None:
    specification = importlib.util.spec_from_file_location("make_api", ROOT / "docs/make_api.py")
    assert specification and specification.loader
    make_api = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(make_api)
    assert (ROOT / "docs/api.md").read_text(encoding="utf-8") == make_api.page(), "out of date: make api"
