"""Code that a recipe names: when it is imported, what is accepted, and what ``show`` lists."""

import json
import os
import py_compile
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forked
from typer.testing import CliRunner, Result

from r1kit.commands.cli import app
from r1kit.config import ConfigError
from r1kit.files import hash_file
from r1kit.rewards.table import OWN_REWARD
from r1kit.runs.provenance import named_files
from r1kit.runtime.runtime import RUNTIME
from r1kit.stages.rl import ALGORITHM
from r1kit.stages.stage import STAGE
from r1kit.tasks.habits import OWN_HABITS
from r1kit.tasks.task import TASK
from r1kit.user_code import Shape, find_code, imports, load_name

CODE = """
import pathlib
pathlib.Path("PWNED").write_text("imported")
from subprocess import getoutput
from functools import partial
import os
from r1kit.runtime import RuntimeConfig
from r1kit.stages.stage import Stage
from r1kit.train.rl_loop import RLConfig

class A(Stage):
    stage: str = "evil.py:A"
    reads: list[str] = []
    def run(self, ctx): ...
class Empty(Stage):
    stage: str = "evil.py:Empty"
class Where(RuntimeConfig):
    kind: str = "evil.py:Where"
    def start(self): ...
class How(RLConfig):
    more: float = 0.5
    def build(self, policy, rewards, make_learner): ...
class Engine:
    def __init__(self, model, stop_ids): ...
    def generate(self, prompts, sampling, seeds=None, done=None): ...
    def stream(self, prompt, sampling, seed): ...
    def load(self, weights, version): ...
    def examine(self, token_ids, temperature): ...
class Quiz:
    name = "quiz"
    def problems(self, split): return []
    def check(self, problem, answer): ...
class Shrug:
    def check(self, problem): ...
quiz = Quiz()
def own(rollouts): return [0.0] * len(rollouts)
def trl(completions, answer, **columns): return []
def asked(problem, answers): return []
def one(text): return []
def two(rollouts, more): return []
def documents(seed, word="a"):
    yield word
def no_documents(seed): return seed
short = lambda rollouts: []
bound = partial(own)
HABITS = {"long": lambda thinking: True}
SHELL = {"long": os.system}
NUMBER = 3
"""

RECIPE = """
name: x
runtime: {kind: "evil.py:Where", many: 3}
stages:
  - {stage: "evil.py:A", name: a, other: 1}
  - stage: r1_zero
    init: "@a"
    tasks: {"evil.py:Quiz": 1, "evil.py:quiz": 1}
    rewards:
      "evil.py:own": 1.0
      judge: {endpoint: "https://judge.example/v1", model: m, key_variable: MY_KEY}
    rl: {algorithm: "evil.py:How", more: 0.1}
  - stage: pretrain
    model: {preset: nano}
    tokens: 9000
    tokenizer: 400
    corpus: {generated: {"evil.py:documents": 1.0}}
  - stage: cold_start
    init: "@a"
    rollouts_from: ["@a"]
    tasks: {"evil.py:Quiz": 1}
    rewriter: "evil.py:own"
  - stage: reward_models
    init: "@a"
    preferences: "evil.py:asked"
    safety: "evil.py:asked"
    prompts: {"evil.py:Quiz": 1}
  - {stage: evaluate, models: {m: "@r1_zero"}, tasks: {"evil.py:Quiz": 1}, habits: "evil.py:HABITS"}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(CODE)
    (tmp_path / "x.yaml").write_text(RECIPE)
    yield tmp_path
    for name in [name for name, module in sys.modules.items() if is_below(module, tmp_path)]:
        del sys.modules[name]  # else helper processes of later tests import it, in another folder


def r1kit(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize(
    "words",
    [["show", "x.yaml"], ["show", "x.yaml", "--json"], ["plan", "x.yaml"], ["run", "x.yaml", "--dry-run"]],
)
def test_commands_that_look_at_a_recipe_import_none_of_its_code(words: list[str], here: Path) -> None:
    result = r1kit(*words)
    assert result.exception is None, result.exception
    assert not (here / "PWNED").exists()
    if "--json" not in words:
        output = result.output
        assert "not imported, so only its file and name were checked, not its parameters: evil.py:" in output
        assert "(--trust imports it, which runs it)" in output


@pytest.mark.parametrize("command", [["show"], ["run", "--dry-run"]])
def test_with_trust_the_code_is_imported_and_its_keys_are_checked(command: list[str], here: Path) -> None:
    result = r1kit(*command, "x.yaml", "--trust")
    assert (here / "PWNED").exists()
    assert "unknown key 'many'" in str(result.exception) and "unknown key 'other'" in str(result.exception)


def test_what_can_be_checked_without_importing_is(here: Path) -> None:
    changes = {
        "stages.a.stage=gone.py:A": "gone.py: no such file",
        "stages.a.stage=evil.py:B": "evil.py has no 'B'; name something that evil.py defines",
        "stages.a.stage=evil.py:own": "this is a function (rollouts)",
        "runtime.kind=evil.py:NUMBER": "this is the value 3; a runtime is",
        'stages.r1_zero.rewards={"evil.py:A": 1}': "this is a class; a reward is a function (rollouts), or",
        'stages.r1_zero.rewards={"evil.py:one": 1}': "this is a function (text); a reward is",
        'stages.r1_zero.rewards={"broken.py:f": 1}': "broken.py:2: cannot be imported: not Python",
        'stages.r1_zero.rewards={"package.inner:f": 1}': "package.inner has no 'f'",
    }
    (here / "broken.py").write_text("\ndef f(:\n")
    (here / "package").mkdir()
    (here / "package/__init__.py").write_text("open('PWNED', 'w')")
    (here / "package/inner.py").write_text("open('PWNED', 'w')")
    for change, message in changes.items():
        assert message.replace(" (rollouts)", "") in str(r1kit("show", "x.yaml", change).exception).replace(
            " (rollouts)", ""
        ), change
    assert named_files({"rewards": {"package.inner:f": 1, "os.path:join": 1}}).keys() == {"package.inner:f"}
    assert not (here / "PWNED").exists()


def test_show_lists_what_a_recipe_imports_reads_and_sends(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    digest = hash_file(here / "evil.py")
    said = r1kit(
        "show", "x.yaml", "stages.r1_zero.init=my/model", "stages.evaluate.tasks={test.jsonl: 1}"
    ).output
    for name in ("A", "Where", "Quiz", "quiz", "own", "How", "documents", "asked", "HABITS"):
        assert f"# imports evil.py:{name}  ({here / 'evil.py'}, SHA-256 {digest})" in said
    assert "# reads model my/model (not there)  [stages.r1_zero.init]" in said
    assert "# reads data test.jsonl (not there)  [stages.evaluate.tasks]" in said
    assert "# reads recipe x.yaml  [recipe]" in said
    words = "sends texts to https://judge.example/v1 (model m) with the key in $MY_KEY"
    assert f"# stages.r1_zero.rewards.judge: {words}" in said
    uses = json.loads(r1kit("show", "x.yaml", "--json").stdout)["uses"]
    assert uses["sends"] == [
        {
            "key": "stages.r1_zero.rewards.judge",
            "endpoint": "https://judge.example/v1",
            "model": "m",
            "key_variable": "MY_KEY",
            "key_is_set": True,
        }
    ]
    assert {one["sha256"] for one in uses["imports"]} == {digest}
    assert "sk-secret-123" not in said + json.dumps(uses)


def test_run_prints_the_code_before_it_imports_it(here: Path, forked: Forked) -> None:
    (here / "evil.py").write_text(CODE + '\nprint("RUNS NOW")\n')
    done = forked.run("-m", "r1kit", "run", "x.yaml")
    listed = f"imports evil.py:A  ({here / 'evil.py'}, SHA-256 {hash_file(here / 'evil.py')})"
    assert done.returncode == 2 and done.stdout.index(listed) < done.stdout.index("RUNS NOW")


@pytest.mark.parametrize(
    "name",
    [
        "subprocess:getoutput", "os:system", "builtins:eval", "shutil:rmtree", "pathlib:Path",
        "functools:partial",
        "os.path:join", "json:loads", "importlib:import_module", "antigravity:x", "sys:exit", "__main__:app",
        "_posixsubprocess:fork_exec", f"{os.__file__}:system", f"{subprocess.__file__}:getoutput",
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [OWN_REWARD, TASK, STAGE, RUNTIME])
def test_the_standard_library_has_no_code_for_a_recipe(name: str, shape: Shape) -> None:
    for allowed in (True, False):
        with imports(allowed), pytest.raises(ConfigError, match="is part of Python's standard library"):
            load_name(name, shape)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("evil.py:getoutput", OWN_REWARD, r"this is a function \(cmd, .*; a reward is a function"),
        ("evil.py:bound", OWN_REWARD, "this is an object of the type partial; a reward is a function"),
        ("evil.py:quiz", OWN_REWARD, "this is an object of the type Quiz"),
        ("evil.py:os", OWN_REWARD, "this is a module"),
        ("evil.py:Quiz", OWN_REWARD, "this is a class"),
        ("evil.py:two", OWN_REWARD, r"this is a function \(rollouts, more\)"),
        ("evil.py:own", TASK, r"this is a function; a task is a class or an object with a name, problems"),
        ("evil.py:Shrug", TASK, "this is another class; a task is"),
        ("evil.py:bound", TASK, "this is an object of the type partial; a task is"),
        ("evil.py:Quiz", STAGE, "this is another class; a stage is a class on"),
        ("evil.py:Stage", STAGE, "this is another class"),
        ("evil.py:Empty", STAGE, "this is another class; a stage is a class on .* with run"),
        ("evil.py:RuntimeConfig", RUNTIME, "this is another class"),
        ("evil.py:A", ALGORITHM, "this is another class; an algorithm is a subclass"),
        ("evil.py:SHELL", OWN_HABITS, "object of the type dict; a set of habits is a mapping"),
        ("torch:load", OWN_REWARD, r"torch:load: this is a function \(f, "),
        ("yaml:unsafe_load", OWN_REWARD, r"this is a function \(stream\)"),
        ("numpy:array", OWN_REWARD, "function"),
        ("pip.__main__:x", OWN_REWARD, "no 'x'|no Python file"),
        ("evil.py:__builtins__", OWN_REWARD, "has no '__builtins__'"),
        ("evil.py:__import__", OWN_REWARD, "has no '__import__'"),
        ("evil.py:", OWN_REWARD, "does not name code"),
        ("evil:own.x", OWN_REWARD, "does not name code"),
        ("evil.py:own\n", OWN_REWARD, "does not name code"),
        ("../evil:own", OWN_REWARD, "does not name code"),
    ],
)  # fmt: skip
def test_code_without_the_form_of_its_key_is_refused(name: str, shape: Shape, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_name(name, shape)


def is_below(module: object, folder: Path) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(folder))


def test_a_function_from_elsewhere_is_refused_even_if_its_parameters_fit(here: Path) -> None:
    (here / "mine.py").write_text("from r1kit.rewards.rules import *\nfrom elsewhere import own\n")
    place = here / "site-packages"
    place.mkdir()
    (place / "elsewhere.py").write_text("def own(rollouts): return []\n")
    sys.path.insert(0, str(place))
    try:
        with pytest.raises(ConfigError, match=r"it is defined in elsewhere, not in mine\.py; name the file"):
            load_name("mine.py:own", OWN_REWARD)
        assert load_name("elsewhere:own", OWN_REWARD)([1]) == []
    finally:
        sys.path.remove(str(place))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("evil.py:own", OWN_REWARD), ("evil.py:trl", OWN_REWARD), ("evil.py:short", OWN_REWARD),
        ("evil.py:Quiz", TASK), ("evil.py:quiz", TASK), ("evil.py:A", STAGE), ("evil.py:Where", RUNTIME),
        ("evil.py:How", ALGORITHM), ("evil.py:HABITS", OWN_HABITS),
    ],
)  # fmt: skip
def test_code_with_the_form_of_its_key_is_accepted_and_checked_the_same_without_importing(
    name: str, shape: Shape, here: Path
) -> None:
    assert find_code(name, shape).file == here / "evil.py" and not (here / "PWNED").exists()
    with imports(False):
        load_name(name, shape)
    assert not (here / "PWNED").exists()
    load_name(name, shape)
    assert (here / "PWNED").exists()


def test_the_text_of_a_file_is_run_and_never_a_compiled_copy(here: Path) -> None:
    (here / "forged.py").write_text("def own(rollouts): return ['text']\n")
    when = os.stat(here / "forged.py")
    (here / "other.py").write_text("def own(rollouts): return ['copy']\n")
    os.utime(here / "other.py", ns=(when.st_atime_ns, when.st_mtime_ns))
    cache = Path(py_compile.compile("other.py", doraise=True) or "")
    cache.rename(str(cache).replace("other", "forged"))
    assert load_name("forged.py:own", OWN_REWARD)([]) == ["text"]


def test_a_local_module_with_the_name_of_an_imported_package_is_refused(here: Path) -> None:
    (here / "numpy.py").write_text("def own(rollouts): return []\n")
    with pytest.raises(ConfigError, match=r"has the name of another module, .*numpy/__init__\.py; rename"):
        load_name("numpy:own", OWN_REWARD)


def test_a_runs_own_recipe_is_not_imported_by_the_commands_that_read_the_run(here: Path) -> None:
    stage = here / "runs/x/stages/a"
    stage.mkdir(parents=True)
    (here / "runs/x/recipe.yaml").write_text(RECIPE)
    (stage / "stage.json").write_text(
        json.dumps({"stage": "evil.py:A", "name": "a", "config": {"x": "evil.py:A"}})
    )
    for words in (
        ["chat", "runs/x"],
        ["export", "runs/x", "--to", "y"],
        ["verify", "runs/x"],
        ["eval", "runs/x", "--tasks", "chain"],
    ):
        r1kit(*words)
    assert not (here / "PWNED").exists()
