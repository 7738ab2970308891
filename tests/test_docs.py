"""The documentation is held against the code: layers are as drawn, metrics and stages are described. Commands
and links: test_docs_site.py."""

import re
from pathlib import Path

import pytest
from import_graph import imports, modules_in

from r1kit.figures import SILENT, SILENT_CAUSES
from r1kit.stages import STAGES

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/r1kit"

# Packages by layer, as docs/architecture.md draws them: an import goes to a lower layer, or further right
# within one.
LAYERS = {
    8: ("__main__", "commands", "web", "serve"),
    7: ("planning", "runs", "report", "recipe"),
    6: ("stages",),
    5: ("runtime",),
    4: ("train",),
    3: ("data", "engine", "rewards", "trackers"),
    2: ("tasks", "sandbox", "chat"),
    1: ("model", "tokenizer", "templates", "template_worker"),
    0: (
        "watchdog",
        "log",
        "health",
        "interruption",
        "records",
        "log_files",
        "figures",
        "jsonl",
        "language",
        "user_code",
        "endpoints",
        "addresses",
        "marks",
        "files",
        "memory",
        "seeds",
        "console",
        "terminal",
        "config",
        "types",
    ),
}


def heights(layers):
    return {
        package: (layer, -place)
        for layer, packages in layers.items()
        for place, package in enumerate(packages)
    }


def upward_imports(source, layers):
    """Every import of ``source`` (a folder that holds the package r1kit) that does not point down."""
    height, modules = heights(layers), modules_in(source)
    found = []
    for name, file in modules.items():
        if name == "r1kit":  # the public names, each imported on first use
            continue
        here = name.split(".")[1]
        assert here in height, f"{name}: give {here!r} a place in LAYERS and in docs/architecture.md"
        for line, module in imports(file, modules, name):
            there = module.split(".")[1] if "." in module else here
            if there != here and height[there] >= height[here]:
                found.append(f"{name}:{line}: {here} imports {there}, which is not below it")
    return found


def test_imports_point_down_the_layers():
    upward = upward_imports(SOURCE.parent, LAYERS)
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize(
    "line",
    [
        "import r1kit.tasks.check",
        "from r1kit.tasks import check",
        "from ..tasks.check import compare",
        "from importlib import import_module; import_module('r1kit.tasks.check')",
        "def late():\n    return find_spec('r1kit.tasks.check')",
        "__import__('r1kit.tasks')",
        "SERVICE = 'r1kit.tasks.check:compare'",
    ],
)
def test_an_upward_import_is_found_however_it_is_written(tmp_path, line):
    package = tmp_path / "r1kit"
    texts = {"tasks/check.py": "from r1kit.sandbox import pool", "sandbox/pool.py": "import os\n"}
    for name, text in {
        "__init__.py": "",
        "tasks/__init__.py": "",
        "sandbox/__init__.py": "",
        **texts,
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    layers = {2: ("tasks", "sandbox")}
    assert upward_imports(tmp_path, layers) == []
    (package / "sandbox/pool.py").write_text(f"'r1kit.tasks is above'\n{line}\n")
    found = upward_imports(tmp_path, layers)
    assert found and all("sandbox imports tasks" in one for one in found)


def test_architecture_draws_these_layers():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = {
        int(layer): tuple(re.findall(r"`(\w+)/?`", packages))
        for layer, packages in re.findall(r"^\| L(\d) \| ([^|]+) \|", text, re.MULTILINE)
    }
    assert drawn == LAYERS


def test_every_stage_has_its_page():
    index = (ROOT / "docs/stages.md").read_text(encoding="utf-8")
    assert [name for name in STAGES if f"(stages/{name}.md)" not in index] == []


def test_the_keys_of_a_stage_page_exist():
    """The first word of a key's path is a field of the stage's configuration, so a renamed field cannot stay
    in the docs."""
    wrong = []
    for name, stage in STAGES.items():
        page = (ROOT / f"docs/stages/{name}.md").read_text(encoding="utf-8")
        inputs = page.partition("## Inputs")[2].partition("\n\n")[0]
        keys_to_turn = page.partition("## Keys to turn")[2]
        assert inputs and keys_to_turn, f"{name}.md needs the sections Inputs and Keys to turn"
        for cell in re.findall(r"^\| (`.*?) \|", inputs + keys_to_turn, re.MULTILINE):
            keys = [re.match(r"[\w]+", code)[0] for code in re.findall(r"`([^`]+)`", cell)]  # type: ignore[index]
            wrong += [f"{name}: {key}" for key in keys if not _is_key(stage, key)]
    assert not wrong


def _is_key(stage, key):
    """A field of the stage, or of the corpus's layout, whose names the pretraining page lists in short."""
    fields = set(stage.model_fields)
    if "corpus" in fields:
        fields |= set(stage.model_fields["corpus"].default.layout.__class__.model_fields)
    return key in fields


METRIC = re.compile(
    r'"((?:reward|completions|policy|critic|optim|sampling|curriculum|silent|preflight|distill|time|watch|moe|lang)/[a-z_/]+)"'
)


def test_every_metric_is_on_its_page():
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    written = {
        name
        for folder in ("train", "stages")
        for file in (SOURCE / folder).glob("*.py")
        for name in METRIC.findall(file.read_text(encoding="utf-8"))
    }
    written |= {SILENT + name for name in SILENT_CAUSES}
    assert {"policy/entropy", "critic/loss", "curriculum/resting", "silent/equal"} <= written
    assert {name for name in written if f"`{name}`" not in page} == set()


def test_every_metric_of_the_page_is_written_by_the_code():
    """A name that is renamed in the code must not stay on the page. The names of rewards are put in."""
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    code = "\n".join(file.read_text(encoding="utf-8") for file in sorted(SOURCE.rglob("*.py")))
    shown = [name for name in re.findall(r"`([a-z]+/[a-z_/]+)`", page) if METRIC.fullmatch(f'"{name}"')]
    gone = [
        name
        for name in shown
        if name not in code
        and name.rpartition("/")[2] not in {"mean", *SILENT_CAUSES, "entropy", "kl_ref", "clipped"}
    ]
    assert len(shown) > 30 and not gone


def test_readme_has_exactly_one_place_for_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- results -->") == text.count("<!-- /results -->") == 1
