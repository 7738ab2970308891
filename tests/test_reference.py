"""The pages of the reference are what the code says: recipe keys, commands, exit codes, files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import make_commands
import make_recipe_keys
import pytest
from forked import Forked
from pydantic import BaseModel

from r1kit.config import Config
from r1kit.stages import STAGES
from r1kit.train.grpo import GRPOConfig
from r1kit.train.optimizers import OptimizerConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src/r1kit"


def rows(section: str) -> dict[str, list[str]]:
    """The rows of a section of the page, by their key."""
    page = (DOCS / "recipe-keys.md").read_text(encoding="utf-8")
    text = page.partition(f"\n### {section}\n")[2].partition("\n### ")[0]
    cells = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in text.splitlines() if line.startswith("| `")]
    return {line[0].strip("`"): line[1:] for line in cells}


def test_the_pages_are_current() -> None:
    for maker in (make_recipe_keys, make_commands):
        assert maker.PAGE.read_text(encoding="utf-8") == maker.page(), "run: make reference"


def test_every_key_of_a_recipe_is_explained() -> None:
    missing = [
        f"{kind.__name__}.{key}: a comment behind the field, or a sentence with ``{key}`` in the docstring"
        for kind in make_recipe_keys.reachable()
        for key in kind.model_fields
        if not make_recipe_keys.explained(kind, key)[0]
    ]
    assert not missing, "\n".join(missing)


def test_every_stage_and_each_of_its_keys_is_there() -> None:
    for name, stage in STAGES.items():
        assert set(rows(name)) == set(stage.model_fields)
    assert {"epsilon", "beta", "group", "algorithm", "why"} <= set(rows("GRPOConfig"))


def test_defaults_units_and_sources_of_the_paper() -> None:
    """Against the paper's numbers (R1, section 2.1), written out here."""
    grpo = rows("GRPOConfig")
    for key, value, unit in (
        ("problems", "32", "problems"),
        ("group", "16", "completions per problem"),
        ("steps", "10400", "optimizer updates"),
        ("beta", "0.001", "weight"),
    ):
        assert grpo[key][1:3] == [f"`{value}`", unit] and grpo[key][4] == "R1, section 2.1", grpo[key]
    assert (
        rows("LocalConfig")["deadline_s"][2] == "seconds"
        and rows("DatasetConfig")["memory_limit_mb"][2] == "MB"
    )


def test_a_default_is_what_the_configuration_has() -> None:
    shown = rows("OptimizerConfig")
    given = OptimizerConfig()
    for key in ("learning_rate", "beta1", "grad_clip"):
        assert float(shown[key][1].strip("`")) == getattr(given, key)
    assert (
        rows("r1_zero")["watch"][1] == "`null`" and GRPOConfig().why == GRPOConfig.model_fields["why"].default
    )


class Shown(Config):
    """``first`` counts; ``second`` does not (2402.03300, eq. 3). It is text.

    ``third`` is a rule."""

    first: int = 1
    second: str = ""
    third: bool = False
    fourth: float = 0.5  # of all rows
    fifth: int | None = None


def test_an_explanation_is_found_where_it_is_written() -> None:
    found = {key: make_recipe_keys.explained(Shown, key) for key in Shown.model_fields}
    assert found == {
        "first": ("`first` counts", ""),
        "second": ("`second` does not. It is text", "2402.03300, eq. 3"),
        "third": ("a rule", ""),
        "fourth": ("of all rows", ""),
        "fifth": ("", ""),
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(int, True), (float | None, True), (str, False), (list[int], False), (bool, False), (int | str, True)],
)
def test_numbers_have_units_and_other_types_have_none(kind: object, expected: bool) -> None:
    assert make_recipe_keys.is_number(kind) is expected


def test_every_command_has_its_options() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    for command, option in (
        ("run", "--dry-run"),
        ("eval", "--suite"),
        ("why", "--step"),
        ("serve", "--port"),
    ):
        section = page.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
        assert f"`{option}" in section, f"{command} {option}"
        shown = subprocess.run(
            [sys.executable, "-m", "r1kit", command, "--help"],
            capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
        ).stdout  # fmt: skip
        assert option in shown


def test_exit_codes_are_the_code_s() -> None:
    page = (
        (DOCS / "reference.md")
        .read_text(encoding="utf-8")
        .partition("## Exit codes")[2]
        .partition("\n## ")[0]
    )
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    code = "\n".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py"))
    written = {
        int(found)
        for found in re.findall(r"(?:typer\.Exit\(|sys\.exit\(|exit_code = |exit_code: int = )(\d+)", code)
    }
    assert shown - {0} >= written and {1, 2, 3, 4, 130} <= shown


def test_variables_of_the_environment_are_the_code_s() -> None:
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    code = "\n".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py"))
    read = set(re.findall(r"\bR1KIT_[A-Z_]+\b", code)) - {
        "R1KIT_RAY_SESSION"
    }  # set by r1kit for its own actors
    assert read and {name for name in read if f"`{name}" not in page} == set()
    assert {name for name in re.findall(r"R1KIT_[A-Z_]+", page) if name not in code} == set()


def test_the_files_of_a_run_are_described(tmp_path: Path, forked: Forked) -> None:
    """A finished stage's files, as a run of one stage leaves them."""
    (tmp_path / "r.yaml").write_text(
        "name: one\nruntime: {kind: local, processes: 1}\nstages:\n  - {stage: pretrain, "
        "model: {preset: nano}, tokens: 2000, tokenizer: 300, corpus: {generated: {miniature: 1.0}}}\n"
    )
    forked.run("-m", "r1kit", "run", "r.yaml", folder=tmp_path).check_returncode()
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    run = tmp_path / "runs/one"
    top = [path.name for path in run.iterdir() if path.is_file()]
    inner = [
        path.name for path in (run / "stages/pretrain").iterdir() if path.name not in ("init", "tokenizer")
    ]
    assert {"metrics.jsonl", "finished.json"} <= set(top) and {"stage.json", "model"} <= set(inner)
    assert [name for name in [*top, *inner] if f"{name}`" not in page and f"{name}/`" not in page] == []
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert {"stage", "step", "time"} <= set(row)


def test_reachable_configurations_are_strict() -> None:
    assert all(issubclass(kind, BaseModel) for kind in make_recipe_keys.reachable())
    assert len(make_recipe_keys.reachable()) > 40
