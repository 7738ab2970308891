"""Recipes: layers, where every key came from, and one clear error for each mistake before anything starts."""

import enum
from pathlib import Path
from typing import Any, Literal

import pytest
import recipe_fakes
import yaml

from r1kit.config import ConfigError
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import Recipe, build, explain, load, resolved
from r1kit.runtime import RUNTIMES
from r1kit.stages import STAGES
from r1kit.stages.stage import Stage

GOOD = """\
name: tiny
stages:
  - {stage: write, name: base}
  - stage: write
    name: zero
    init: "@base/data.jsonl"
    optimizer:
      steps: 5
      lr: 1e-6
  - {stage: write, name: both, sources: {"@zero": 0.5}}
"""


@pytest.fixture(autouse=True)
def fake_runtime(monkeypatch):
    monkeypatch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")


@pytest.fixture
def read(tmp_path):
    """Write a recipe and load it."""

    def read(text: str, *overrides: str) -> Recipe:
        file = tmp_path / "tiny.yaml"
        file.write_text(text)
        return load(file, overrides, recipe_fakes.STAGES)

    return read


def complaint(read, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(text, *overrides)
    return str(error.value)


def test_defaults_file_and_command_line_are_layered(read):
    recipe = read(GOOD, "seed=7", "stages.zero.optimizer.steps=9", "stages.base.optimizer.tables={b: 2}")
    base, zero, _ = recipe.stages
    assert recipe.seed == 7 and recipe.run_dir == Path("runs/tiny")
    assert zero.optimizer.steps == 9 and zero.optimizer.lr == 1e-6
    assert base.optimizer.steps == 3 and base.optimizer.tables == {"b": 2.0}
    assert zero.inputs() == ["base"] and recipe.stages[2].inputs() == ["zero"]


def test_extended_file_lies_below(read, tmp_path):
    (tmp_path / "base.yaml").write_text(GOOD + "seed: 3\n")
    recipe = read(
        "extends: base.yaml\nname: other\nstages: {zero: {optimizer: {steps: 8}}}\n", "stages.both=null"
    )
    assert recipe.name == "other" and recipe.seed == 3
    assert [stage.name for stage in recipe.stages] == ["base", "zero"]
    assert recipe.stages[1].optimizer.steps == 8 and recipe.stages[1].optimizer.lr == 1e-6


def test_extending_recipe_can_add_a_stage_behind_the_others(read, tmp_path):
    (tmp_path / "base.yaml").write_text(GOOD)
    recipe = read(
        "extends: base.yaml\nname: other\nstages:\n  twin: {stage: write, init: '@zero/data.jsonl'}\n"
    )
    assert [stage.name for stage in recipe.stages] == ["base", "zero", "both", "twin"]
    message = complaint(read, "extends: base.yaml\nname: other\nstages:\n  twin: {stage: write, inti: x}\n")
    assert "tiny.yaml:4: stages.twin: unknown key 'inti'" in message


def test_lists_replace_mappings_merge_null_switches_off(read, tmp_path):
    (tmp_path / "base.yaml").write_text(GOOD)
    listed = read("extends: base.yaml\nstages: [{stage: write}]\n")
    assert [stage.name for stage in listed.stages] == ["write"]
    off = read(GOOD, "stages.zero.optimizer=null", "stages.base.optimizer.tables={a: null, b: 1}")
    assert off.stages[1].optimizer is None and off.stages[0].optimizer.tables == {"b": 1.0}


def merged(tmp_path: Path, below: str, above: str, *overrides: str) -> dict[str, Any]:
    """The stage ``zero`` of one layer of YAML on another."""
    (tmp_path / "below.yaml").write_text("stages:\n- {stage: zero, " + below + "}\n")
    (tmp_path / "above.yaml").write_text(f"extends: below.yaml\nstages: {{zero: {{{above}}}}}\n")
    return read_layers(tmp_path / "above.yaml", overrides).data["stages"][0]


@pytest.mark.parametrize("key", ["tasks", "prompts", "general", "corpus", "rewards"])
def test_what_a_stage_learns_from_replaces_what_an_extended_file_names(tmp_path, key):
    below, mine = f"{key}: {{toy: 1, other: 2}}", {"mine": {"kind": "dataset"}}
    assert merged(tmp_path, below, f"{key}: {{mine: {{kind: dataset}}}}")[key] == mine
    assert merged(tmp_path, below, "")[key] == {"toy": 1, "other": 2}
    edited = merged(tmp_path, below, f"{key}: {{toy: null, mine: {{kind: dataset}}}}")[key]
    assert edited == {"toy": None, "other": 2} | mine
    assert merged(tmp_path, f"grpo: {{{below}}}", f"grpo: {{steps: 3, {key}: {{a: 1}}}}")["grpo"] == {
        key: {"a": 1},
        "steps": 3,
    }


def test_other_mappings_of_an_extended_file_merge(tmp_path):
    assert merged(tmp_path, "grpo: {steps: 1, group: 2}", "grpo: {steps: 3}")["grpo"] == {
        "steps": 3,
        "group": 2,
    }


@pytest.mark.parametrize("key", ["rewards", "tasks", "grpo"])
def test_a_mapping_given_whole_on_the_command_line_replaces_and_a_dotted_key_edits(tmp_path, key):
    below = f"{key}: {{a: 1, b: 2}}"
    assert merged(tmp_path, below, "", f"stages.zero.{key}={{c: 3}}")[key] == {"c": 3}
    assert merged(tmp_path, below, "", f"stages.zero.{key}.c=3")[key] == {"a": 1, "b": 2, "c": 3}
    assert merged(tmp_path, below, "", f"stages.zero.{key}={{a: null, c: 3}}")[key] == {
        "a": None,
        "b": 2,
        "c": 3,
    }
    assert merged(tmp_path, below, "", f"stages.zero={{{key}: {{c: 3}}}}")["stage"] == "zero"
    assert merged(tmp_path, below, "", f"stages={{zero: {{{key}: {{c: 3}}}}}}")["stage"] == "zero"


def test_explain_names_the_layer_that_replaced(tmp_path):
    (tmp_path / "base.yaml").write_text(GOOD)
    (tmp_path / "tiny.yaml").write_text("extends: base.yaml\n")
    layers = read_layers(tmp_path / "tiny.yaml", ["stages.zero.optimizer={steps: 2}"])
    recipe = build(layers, recipe_fakes.STAGES)
    assert explain(recipe, layers, "stages.zero.optimizer")[:2] == [
        "stages.zero.optimizer.steps = 2  (command line (stages.zero.optimizer={steps: 2}))",
        f"stages.zero.optimizer.lr = {recipe_fakes.Optimizer().lr}  (default)",
    ]


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-6", 1e-6), ("-2E+3", -2000.0), ("1_000", 1000.0), ("5", 5.0), ("1.5e3", 1500.0)],
)
def test_numbers_are_numbers(read, written, value):
    assert read(GOOD.replace("1e-6", written)).stages[1].optimizer.lr == value
    assert read(GOOD, f"stages.zero.optimizer.lr={written}").stages[1].optimizer.lr == value


def test_every_key_knows_where_it_came_from(tmp_path):
    (tmp_path / "base.yaml").write_text(GOOD)
    (tmp_path / "tiny.yaml").write_text("extends: base.yaml\nstages:\n  zero:\n    optimizer: {steps: 8}\n")
    layers = read_layers(tmp_path / "tiny.yaml", ["seed=4"])
    recipe = build(layers, recipe_fakes.STAGES)
    assert explain(recipe, layers, "seed") == ["seed = 4  (command line (seed=4))"]
    assert explain(recipe, layers, "stages.zero.optimizer") == [
        f"stages.zero.optimizer.steps = 8  ({tmp_path}/tiny.yaml:4)",
        f"stages.zero.optimizer.lr = 1e-06  ({tmp_path}/base.yaml:9)",
        "stages.zero.optimizer.tables.a = 1.0  (default)",
    ]
    with pytest.raises(ConfigError, match=r"stages\.zero\.optimiser: .*did you mean 'optimizer'"):
        explain(recipe, layers, "stages.zero.optimiser.lr")


def test_merged_anchor_keeps_its_lines(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(
        "name: tiny\nstages:\n  - stage: write\n    name: a\n    optimizer: &base\n      steps: 4\n    "
        "  lr: 0.5\n"
        "  - {stage: write, name: b, optimizer: {<<: *base, lr: 0.25}}\n"
    )
    layers = read_layers(file)
    recipe = build(layers, recipe_fakes.STAGES)
    assert (recipe.stages[1].optimizer.steps, recipe.stages[1].optimizer.lr) == (4, 0.25)  # type: ignore[attr-defined]
    assert explain(recipe, layers, "stages.b.optimizer.steps") == [
        f"stages.b.optimizer.steps = 4  ({file}:6)"
    ]
    assert explain(recipe, layers, "stages.b.optimizer.lr") == [f"stages.b.optimizer.lr = 0.25  ({file}:8)"]


def test_resolved_recipe_is_a_recipe_that_resolves_to_itself(read):
    recipe = read(GOOD)
    assert read(yaml.safe_dump(resolved(recipe))) == recipe


def test_stage_of_the_users_own_is_imported(read, tmp_path):
    code = (
        "from r1kit.stages.stage import Stage\n\nclass Chess(Stage):\n    games: int = 1\n\n    def "
        "run(self, ctx):\n        pass\n"
    )
    (tmp_path / "mine.py").write_text(code)
    stage = read(f"name: mine\nstages: [{{stage: '{tmp_path}/mine.py:Chess', games: 3}}]\n").stages[0]
    assert stage.name == "Chess" and stage.games == 3
    assert "has no 'Ches'; did you mean 'Chess'?" in complaint(
        read, f"name: mine\nstages: [{{stage: '{tmp_path}/mine.py:Ches'}}]\n"
    )


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("name: zero", "name: zero\n    inti: x"), 6, "zero: unknown key 'inti': did you mean 'init'?"),
        (("steps: 5", "step: 5"), 8, "zero.optimizer: unknown key 'step': did you mean 'steps'?"),
        (("name: tiny", "nmae: tiny"), 1, "unknown key 'nmae': did you mean 'name'?"),
        (("stage: write\n", "stage: wriet\n"), 4, "unknown stage 'wriet': did you mean 'write'?"),
        (("steps: 5", "steps: five"), 8, "zero.optimizer.steps: Input should be a valid integer"),
        (("steps: 5", "steps: [5]"), 8, "(given: [5])"),
        (("optimizer:", "optimizer: 5 #"), 0, "zero.optimizer: "),
        (
            ("@base/", "@bsae/"),
            6,
            "zero.init: '@bsae/data.jsonl' names no stage of this recipe: did you mean 'base'?",
        ),
        (("@base/", "@zero/"), 6, "zero.init: '@zero/data.jsonl' is the stage itself"),
        (
            ("name: base}", 'name: base, init: "@extra"}\n  - {stage: write, name: extra, init: "@base"}'),
            3,
            "wait for each other",
        ),
        (("name: base}", 'name: base, init: "@both"}'), 3, "wait for each other"),
        (("name: zero", "name: base"), 4, "a second stage is named 'base' (the first: "),
        (("name: zero", "name: ze/ro"), 5, "stages.ze/ro.name: a stage's name is also its folder"),
        (("name: tiny", "name: a/b"), 1, "a recipe's name is also its folder"),
        (
            ("name: tiny", "name: tiny\nruntime: {kind: lokal}"),
            2,
            "unknown kind 'lokal': did you mean 'local'?",
        ),
        (("name: tiny", "name: tiny\nruntime: {kind: local, procs: 2}"), 2, "runtime: unknown key 'procs'"),
        (("name: tiny", "name: tiny\nname: twice"), 2, "key 'name' is given twice (first at line 1)"),
        (("name: tiny", "name: [tiny"), 2, "not valid YAML"),
        (("stage: write\n", "kind: write\n"), 4, "a stage is a mapping with the key 'stage'"),
        (("name: tiny", "name: tiny\nextends: nowhere.yaml"), 2, "nowhere.yaml: no such file"),
        (("name: tiny", "name: tiny\nextends: tiny.yaml"), 0, "extend each other in a circle"),
        (("name: tiny", "name: tiny\nout: 'runs/{nmae}'"), 2, "with {name} for the recipe's name"),
    ],
)
def test_mistake_is_one_clear_error_with_its_line(read, change, line, says):
    text = GOOD.replace(*change, 1)  # type: ignore[call-arg]
    assert text != GOOD
    if change[0] == "optimizer:":
        text = text.replace("      steps: 5\n      lr: 1e-6\n", "")
    message = complaint(read, text)
    assert says in message and "\n" not in message, message
    if line:
        assert f"tiny.yaml:{line}: " in message, message


def test_reference_to_a_later_stage_says_where_that_is(read):
    text = GOOD.replace("name: base}", 'name: base, init: "@later"}') + "  - {stage: write, name: later}\n"
    message = complaint(read, text)
    assert (
        "tiny.yaml:3: stages.base.init: '@later' comes later (" in message
        and "tiny.yaml:11): move it before 'base'" in message
    )


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages.zeor.init=x", "command line (stages.zeor.init=x): no stage 'zeor': did you mean 'zero'?"),
        (
            "stages.zero.optimizer.stpes=3",
            "command line (stages.zero.optimizer.stpes=3): stages.zero.optimizer: unknown key 'stpes'",
        ),
        ("stages.zero.optimizer.steps=x", "zero.optimizer.steps: Input should be a valid integer"),
        ("seed", "'seed' is no override: write key=value"),
        ("seed=[1", "the value is not YAML"),
        ("sede=1", "unknown key 'sede': did you mean 'seed'?"),
    ],
)
def test_mistaken_override_is_named(read, override, says):
    message = complaint(read, GOOD, override)
    assert says in message and "command line" in message and "\n" not in message


def test_all_mistakes_are_listed_at_once(read):
    message = complaint(
        read, GOOD.replace("steps: 5", "step: 5").replace("name: base}", "name: base, inti: x}")
    )
    assert (
        "tiny.yaml:3: stages.base: unknown key 'inti'" in message
        and "tiny.yaml:8: " in message
        and len(message.splitlines()) == 2
    )


def test_missing_file_and_missing_stages_are_named(read, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load(tmp_path / "none.yaml")
    assert "stages: a list with at least one stage is needed" in complaint(read, "name: x\n")
    assert "this file holds a str" in complaint(read, "only words\n")
    assert "name: this key is needed" in complaint(read, "stages: [{stage: write}]\n")


UNQUOTED = """\
name: tiny
stages:
  - {stage: write, name: base}
  - stage: write
    name: zero
    init: @base/data.jsonl
    sources: {@base: 0.5, "@base/data.jsonl": 1}
"""


def test_a_value_that_begins_with_at_needs_no_quotes(read, tmp_path):
    quoted = UNQUOTED.replace("init: @base/data.jsonl", 'init: "@base/data.jsonl"').replace(
        "{@base", '{"@base"'
    )
    assert read(UNQUOTED) == read(quoted)
    zero = read(GOOD, "stages.zero.init=@base", "stages.zero.sources={@base: 2}").stages[1]
    assert zero.init == "@base" and zero.sources == {"@base": 2.0}
    (tmp_path / "list.yaml").write_text("a: [@x, '@y', b@z]\nb:\n  - @x\n  - c: @d  # why\n")
    assert read_layers(tmp_path / "list.yaml").data == {
        "a": ["@x", "@y", "b@z"],
        "b": ["@x", {"c": "@d"}],
    }


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ("`base`", "a value that begins with ` needs quotes: '`...'"),
        ("%base", "a value that begins with % needs quotes: '%...'"),
        ("*base", "a value that begins with * needs quotes: '*...'"),
        ("!base", "a value that begins with ! needs quotes: '!...'"),
        ("\tbase", "indent with spaces, not with tabs"),
    ],
)
def test_a_value_that_yaml_refuses_names_its_fix(read, value, fix):
    assert fix in complaint(read, GOOD, f"stages.zero.init={value}")
    assert fix in complaint(read, GOOD.replace('"@base/data.jsonl"', value))
    assert read(GOOD, f"stages.zero.init='{value.strip()}'").stages[1].init == value.strip()


class Surrogate(enum.Enum):
    CLIP = "clip"
    CISPO = "cispo"


class Choosy(Stage):
    stage: Literal["choosy"] = "choosy"
    surrogate: Literal["clip", "cispo"] = "clip"
    masks: tuple[Literal["truncated", "repeated"], ...] = ()
    kind: Surrogate = Surrogate.CLIP
    steps: int | Literal["all"] = 1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "surrogate=clipp",
            "surrogate: Input should be 'clip' or 'cispo' (given: 'clipp'); did you mean 'clip'?",
        ),
        (
            "masks=[repeated, trunkated]",
            "masks.1: Input should be 'truncated' or 'repeated' (given: 'trunkated'); ",
        ),
        ("masks=[trunkated]", "did you mean 'truncated'?"),
        ("kind=cisppo", "(given: 'cisppo'); did you mean 'cispo'?"),
        ("steps=al", "did you mean 'all'?"),
    ],
)
def test_a_misspelled_choice_names_the_nearest_one(tmp_path, override, says):
    (tmp_path / "x.yaml").write_text("name: x\nstages: [{stage: choosy}]\n")
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "x.yaml", [f"stages.choosy.{override}"], {"choosy": Choosy})
    assert says in str(error.value)
    with pytest.raises(ConfigError) as direct:
        Choosy.parse(yaml.safe_load("{" + override.replace("=", ": ") + "}"), "here")
    assert says in str(direct.value) and str(direct.value).startswith("here: ")


def test_a_choice_that_is_near_none_lists_them_all_and_a_right_one_passes(tmp_path):
    with pytest.raises(ConfigError) as error:
        Choosy.parse({"surrogate": "quux"}, "here")
    assert str(error.value) == "here: surrogate: Input should be 'clip' or 'cispo' (given: 'quux')"
    assert Choosy.parse({"surrogate": "cispo", "masks": ["repeated"], "kind": "clip"}, "here").masks == (
        "repeated",
    )


REAL = """\
name: real
stages:
  - {stage: pretrain, model: {preset: nano}, tokens: 1000, corpus: {generated: {miniature: 1.0}}}
  - stage: r1_zero
    init: "@pretrain"
    rewards: {accuracy: 1.0}
    tasks: {mul: 1.0, mine: {kind: dataset, train: a.jsonl}}
    grpo: {steps: 5}
"""


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rewards.acuracy=1", "stages.r1_zero.rewards: unknown reward 'acuracy': did you mean 'accuracy'?"),
        ("rewards.accuracy=high", "stages.r1_zero.rewards.accuracy: the weight must be a finite number"),
        ("rewards.cosine={limits: 3}", "stages.r1_zero.rewards.cosine: unknown option 'limits'"),
        ("tasks.mine.trian=b.jsonl", "stages.r1_zero.tasks.mine: unknown key 'trian': did you mean 'train'?"),
        ("tasks.mine.check=maths", "stages.r1_zero.tasks.mine: check: Input should be 'math'"),
        ("tasks.chian=1", "stages.r1_zero.tasks: unknown task 'chian': did you mean 'chain'?"),
        ("grpo.surrogate=clipp", "stages.r1_zero.grpo.surrogate: Input should be "),
        ("grpo.stpes=3", "stages.r1_zero.grpo: unknown key 'stpes': did you mean 'steps'?"),
        ("grpo={stpes: 3}", "stages.r1_zero.grpo: unknown key 'stpes': did you mean 'steps'?"),
    ],
)
def test_the_error_of_an_override_names_the_override(tmp_path, override, says):
    (tmp_path / "real.yaml").write_text(REAL)
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "real.yaml", [f"stages.r1_zero.{override}"], STAGES)
    assert str(error.value).startswith(f"command line (stages.r1_zero.{override}): {says}"), error.value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("accuracy: 1.0", "acuracy: 1.0"), "real.yaml:6: stages.r1_zero.rewards: unknown reward 'acuracy'"),
        (
            ("{steps: 5}", "\n      steps: 5\n      stpes: 5"),
            "real.yaml:10: stages.r1_zero.grpo: unknown key",
        ),
        (("train: a", "\n      trian: a"), "real.yaml:8: stages.r1_zero.tasks.mine: unknown key 'trian'"),
    ],
)
def test_the_same_mistake_in_the_file_names_its_line(tmp_path, change, says):
    (tmp_path / "real.yaml").write_text(REAL.replace(*change))
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "real.yaml", ["stages.r1_zero.grpo.steps=4"], STAGES)
    assert says in str(error.value)
