"""What a recipe names outside of itself is looked at before stage 1: every file, column, model and piece of
code, all at once, each with the line of the recipe."""

import json
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import recipe_fakes
from small_world import model_directory

from r1kit.commands.cli import main
from r1kit.config import Config, ConfigError
from r1kit.recipe.inputs import check_inputs
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import StageError, run
from r1kit.runtime import RUNTIMES
from r1kit.stages.stage import Stage

ROW = {"prompt": "1+1?", "completion": "2", "chosen": "2", "rejected": "3", "answer": "2", "text": "one"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a good data file of every kind in it."""
    monkeypatch.chdir(tmp_path)
    row = ROW | {"entry_point": "f", "solutions": ["def f(): pass"]}
    (tmp_path / "good.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def errors(text: str, *overrides: str, table: Any = None) -> list[str]:
    """The lines of what is wrong with the inputs of a recipe, none where nothing is."""
    Path("mine.yaml").write_text(text)
    layers = read_layers(Path("mine.yaml"), overrides)
    recipe = build(layers, table)
    try:
        check_inputs(recipe, layers)
    except ConfigError as error:
        return str(error).splitlines()
    return []


# One stage of every kind that reads files; GOOD stands for a file that is there with all columns.
DATA = """\
name: mine
stages:
  - stage: pretrain
    model: {preset: nano}
    tokens: 1000
    corpus: {files: {GOOD: 1.0}}
  - stage: sft
    init: @pretrain
    data: ["GOOD"]
  - stage: dpo
    pairs: GOOD
    held_out: GOOD
  - stage: unit_tests
    problems: GOOD
  - stage: evaluate
    models: {SFT: @sft}
    tasks:
      sums: {kind: dataset, held_out: GOOD}
"""


def test_a_recipe_whose_inputs_are_all_there_passes(here: Path) -> None:
    assert errors(DATA.replace("GOOD", "good.jsonl")) == []


def test_every_missing_file_is_named_at_once_with_its_line_and_key(here: Path) -> None:
    found = errors(DATA.replace("GOOD", "typo.jsonl"))
    wanted = [
        "mine.yaml:6: stages.pretrain.corpus.files.typo.jsonl: ",
        "mine.yaml:9: stages.sft.data.0: ",
        "mine.yaml:11: stages.dpo.pairs: ",
        "mine.yaml:12: stages.dpo.held_out: ",
        "mine.yaml:14: stages.unit_tests.problems: ",
        "mine.yaml:18: stages.evaluate.tasks.sums.held_out: ",
    ]
    assert [line[: len(start)] for line, start in zip(found, wanted, strict=True)] == wanted
    assert all(f"typo.jsonl: no such file (looked up from {here})" in line for line in found)


@pytest.mark.parametrize(
    ("missing", "lines"),
    [
        ("text", ["stages.pretrain.corpus.files.bad.jsonl: bad.jsonl:1: column 'text' is missing"]),
        ("completion", ["stages.sft.data.0: bad.jsonl:1: column 'completion' is missing"]),
        ("chosen", ["stages.dpo.pairs: bad", "stages.dpo.held_out: bad"]),
        ("entry_point", ["stages.unit_tests.problems: bad.jsonl:1: column 'entry_point' is missing"]),
        ("answer", ["stages.evaluate.tasks.sums.held_out: bad.jsonl:1: no column for the answer"]),
    ],
)
def test_a_column_that_a_stage_needs_is_looked_at(here: Path, missing: str, lines: list[str]) -> None:
    row = {**ROW, "entry_point": "f", "solutions": []}
    (here / "bad.jsonl").write_text(json.dumps({key: row[key] for key in row if key != missing}) + "\n")
    found = errors(DATA.replace("GOOD", "bad.jsonl"))
    assert len(found) == len(lines), found
    assert all(line in text for line, text in zip(lines, found, strict=True)), found


PREFERENCES = """\
name: mine
stages:
  - stage: pretrain
    model: {preset: nano}
    tokens: 1000
    corpus: {files: {good.jsonl: 1.0}}
  - stage: reward_models
    init: @pretrain
    preferences: PAIRS
    safety: {file: LABELS, held_out: LABELS}
  - stage: rejection_sampling
    init: @pretrain
    tasks: {sums: {kind: dataset, train: good.jsonl}}
    general: PROMPTS
  - stage: alignment_rl
    init: @pretrain
    tasks: {sums: {kind: dataset, train: good.jsonl}}
    prompts: {mine: {kind: prompts, train: PROMPTS, held_out: PROMPTS, bad_rows: BAD}}
"""


def own_files(pairs: str, labels: str, prompts: str, bad_rows: str = "error") -> list[str]:
    text = PREFERENCES.replace("PAIRS", pairs).replace("LABELS", labels).replace("PROMPTS", prompts)
    return errors(text.replace("BAD", bad_rows))


def test_pairs_labels_and_prompts_are_looked_at_with_their_columns(here: Path) -> None:
    rows = {
        "pairs": {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        "labels": {"prompt": "Hi", "response": "Hello!", "safe": True},
        "prompts": {"question": "Hi"},
        "no_rejected": {"prompt": "Hi", "chosen": "Hello!"},
        "no_label": {"prompt": "Hi", "response": "Hello!", "safe": "yes"},
        "no_prompt": {"text": "Hi"},
    }
    for name, row in rows.items():
        (here / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert own_files("pairs.jsonl", "labels.jsonl", "prompts.jsonl") == []
    found = own_files("no_rejected.jsonl", "no_label.jsonl", "no_prompt.jsonl")
    wanted = [
        "mine.yaml:9: stages.reward_models.preferences.file: no_rejected.jsonl:1: column 'rejected'",
        "mine.yaml:10: stages.reward_models.safety.file: no_label.jsonl:1: ",
        "mine.yaml:14: stages.rejection_sampling.general: no_prompt.jsonl:1: column 'prompt'",
        "mine.yaml:18: stages.alignment_rl.prompts.mine.train: no_prompt.jsonl:1: column 'prompt'",
    ]
    assert [line[: len(start)] for line, start in zip(found, wanted, strict=True)] == wanted
    (here / "mixed.jsonl").write_text(
        json.dumps(rows["no_prompt"]) + "\n" + json.dumps(rows["prompts"]) + "\n"
    )
    found = own_files("@pretrain/report.json", "labels.jsonl", "mixed.jsonl", "quarantine")
    assert len(found) == 1 and "stages.rejection_sampling.general: mixed.jsonl:1" in found[0]


def test_a_first_row_that_is_bad_may_be_put_aside_where_the_recipe_says_so(here: Path) -> None:
    (here / "mixed.jsonl").write_text("{\n" + json.dumps(ROW) + "\n")
    base = (
        "{stage: pretrain, name: base, model: {preset: nano}, tokens: 10, corpus: {files: {good.jsonl: 1}}}"
    )
    text = f"name: mine\nstages:\n  - {base}\n  - {{stage: sft, init: @base, data: [mixed.jsonl]}}\n"
    assert "mixed.jsonl:1: not JSON" in errors(text)[0]
    assert errors(text, "stages.sft.bad_rows=quarantine") == []
    (here / "mixed.jsonl").write_text("{\n" * 30)
    assert len(errors(text, "stages.sft.bad_rows=quarantine")) == 1


def test_other_formats_and_files_without_rows_are_refused(here: Path) -> None:
    (here / "empty.jsonl").write_text("")
    (here / "rows.parquet").write_text("PAR1")
    text = DATA.replace("GOOD", "good.jsonl")
    assert "empty.jsonl: no rows" in errors(text, "stages.dpo.pairs=empty.jsonl")[0]
    assert "Parquet is not read" in errors(text, "stages.sft.data=[rows.parquet]")[0]


def test_a_missing_file_of_an_override_is_named_with_the_override(here: Path) -> None:
    (line,) = errors(DATA.replace("GOOD", "good.jsonl"), "stages.evaluate.tasks.sums.held_out=nowhere.jsonl")
    override = "command line (stages.evaluate.tasks.sums.held_out=nowhere.jsonl)"
    assert line.startswith(f"{override}: stages.evaluate.tasks.sums.held_out: nowhere.jsonl: no such file")


MODEL = "name: mine\nstages:\n  - {stage: sft, init: MODEL, data: [good.jsonl]}\n"


def test_a_models_folder_has_to_be_one_that_r1kit_can_read(here: Path) -> None:
    model_directory(here / "model")
    assert errors(MODEL.replace("MODEL", "model")) == []
    (here / "stage").mkdir()
    (here / "model").rename(here / "stage/model")  # a stage's folder of another run
    assert errors(MODEL.replace("MODEL", "stage")) == []
    config = here / "stage/model/config.json"
    whole = json.loads(config.read_text())
    config.write_text(json.dumps(whole | {"model_type": "mamba"}))
    assert "model_type 'mamba' does not decode through a cache" in errors(MODEL.replace("MODEL", "stage"))[0]
    config.write_text(json.dumps(whole | {"model_type": "olmo2"}))
    assert "the weights do not fit config.json; missing: " in errors(MODEL.replace("MODEL", "stage"))[0]
    config.write_text(json.dumps(whole | {"model_type": "unheard_of"}))
    assert "model_type 'unheard_of' is not supported" in errors(MODEL.replace("MODEL", "stage"))[0]
    config.write_text(json.dumps(whole))
    (here / "stage/model/tokenizer.json").unlink()
    assert "no tokenizer.json" in errors(MODEL.replace("MODEL", "stage"))[0]
    for weights in (here / "stage/model").glob("*.safetensors"):
        weights.unlink()
    assert "no model.safetensors" in errors(MODEL.replace("MODEL", "stage"))[0]
    (line,) = errors(MODEL.replace("MODEL", "stage/Qwen2.5-7B"))
    assert line.startswith("mine.yaml:3: stages.sft.init: stage/Qwen2.5-7B: no such folder (looked up from ")
    assert errors(MODEL.replace("MODEL", "Qwen/Qwen2.5-7B")) == [], (
        "a model of the hub, which a run downloads"
    )


class Preferences(Config):
    pairs: str = ""


class Mine(Stage):
    """A stage that says nothing of its inputs: what its texts look like decides."""

    stage: Literal["mine"] = "mine"
    preferences: Preferences = Preferences()
    prompts: dict[str, Any] = {}
    general: dict[str, Any] = {}
    files: list[str] = []
    rewriter: dict[str, Any] = {}
    opening: str = ""
    tokenizer: str = ""
    models: dict[str, str] = {}


MINE = {"mine": Mine}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("preferences.pairs", "pairs.jsonl", "pairs.jsonl: no such file"),
        ("files", "[good.jsonl, prompts.csv]", "files.1: prompts.csv: no such file"),
        ("prompts", "{mine: {kind: dataset, train: x.jsonl}}", "prompts.mine.train: x.jsonl: no such file"),
        ("prompts", "{x.jsonl: 1}", "x.jsonl: no such file"),
        ("general", "{m: {kind: dataset, held_out: x.jsonl}}", "general.m.held_out: x.jsonl: no such file"),
        ("rewriter", "{code: my.py:rewrite}", "rewriter.code: my.py: no such file"),
        ("rewriter", "{folder: ./nowhere}", "rewriter.folder: ./nowhere: no such file or folder"),
        ("tokenizer", "nowhere", "tokenizer: nowhere: no such folder"),
        ("models", "{a: nowhere}", "models.a: nowhere: no such folder"),
    ],
)
def test_texts_that_look_like_inputs_are_looked_at_at_any_depth(
    here: Path, key: str, value: str, says: str
) -> None:
    (line,) = errors("name: x\nstages: [{stage: mine}]\n", f"stages.mine.{key}={value}", table=MINE)
    assert f"stages.mine.{key.split('.')[0]}" in line and says in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("preferences.pairs", "good.jsonl"),
        ("prompts", "{mine: {kind: dataset, train: good.jsonl}}"),
        ("files", "[good.jsonl]"),
        ("files", '["https://example.org/data.jsonl", "Say it in three lines or as data.json", "and/or"]'),
        ("opening", "/no_think/ x.jsonl"),
        ("rewriter", "{rule: identity, model: gpt/oss, temperature: 0.7}"),
        ("rewriter", '{endpoint: "http://127.0.0.1:8000/v1", code: good.py:rewrite}'),
    ],
)
def test_other_texts_are_left_alone(here: Path, key: str, value: str) -> None:
    (here / "good.py").write_text("")
    assert errors("name: x\nstages: [{stage: mine}]\n", f"stages.mine.{key}={value}", table=MINE) == []


def test_a_task_of_the_users_own_may_say_what_it_needs(here: Path) -> None:
    (here / "own.py").write_text(
        "from pathlib import Path\n\nclass Own:\n    name = 'own'\n\n    def __init__(self, board):\n"
        "        self.board = board\n\n    def problems(self, split):\n        return []\n\n"
        "    def check(self, problem, answer):\n        return None\n\n    def input_errors(self):\n"
        "        if not Path(self.board).exists():\n            yield ('board',), 'draw a board first'\n"
    )
    text = "name: x\nstages: [{stage: mine, prompts: {'own.py:Own': {board: chess}}}]\n"
    (line,) = errors(text, table=MINE)
    assert line == "mine.yaml:2: stages.mine.prompts.own.py:Own.board: draw a board first"
    (here / "chess").write_text("")
    assert errors(text, table=MINE) == []


# A plan for GPUs measures nothing on this machine.
@pytest.mark.parametrize("words", [["run"], ["run", "--dry-run"], ["plan", "--gpu", "h800"]])
def test_a_typo_in_the_last_stage_ends_every_command_with_2_before_the_first(
    here: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine.yaml").write_text(
        DATA.replace("GOOD", "good.jsonl").replace("held_out: good.jsonl}", "held_out: typo.jsonl}")
    )
    monkeypatch.setattr(sys, "argv", ["r1kit", words[0], "mine.yaml", *words[1:]])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "mine.yaml:18: stages.evaluate.tasks.sums.held_out: typo.jsonl: no such file" in said
    assert not list(here.glob("runs/mine/stages/*"))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")
    monkeypatch.setitem(sys.modules, "r1kit.report", recipe_fakes.report)


def test_a_finished_stage_no_longer_needs_its_files_but_starting_over_does(here: Path, fakes: None) -> None:
    (here / "tiny.yaml").write_text(
        "name: tiny\nstages:\n  - {stage: write, name: base, init: good.jsonl}\n"
        "  - {stage: write, name: more, init: @base/data.jsonl}\n"
    )
    layers = read_layers(here / "tiny.yaml", [f"out={here}/run"])
    recipe = build(layers, recipe_fakes.STAGES)
    run(recipe, layers=layers)
    (here / "good.jsonl").unlink()
    assert set(run(recipe, layers=layers).states.values()) == {"done"}
    with pytest.raises(ConfigError, match=r"tiny\.yaml:3: stages\.base\.init: good\.jsonl: no such file"):
        run(recipe, fresh=True, layers=layers)
    assert (here / "run/stages/base/data.jsonl").is_file()  # nothing was removed
    with pytest.raises(ConfigError, match=r"^tiny: stages\.base\.init: good\.jsonl"):
        run(recipe, fresh=True)  # without layers the recipe's name is the place


@pytest.mark.slow
def test_a_reference_to_a_file_that_a_stage_never_writes_is_an_error_of_the_recipe(here: Path) -> None:
    text = DATA.replace("GOOD", "good.jsonl")
    says = r"stages\.sft\.data\.0: '@pretrain/dta': stage 'pretrain' writes no 'dta'"
    with pytest.raises(ConfigError, match=says):
        errors(text, "stages.sft.data=[@pretrain/dta]")
    with pytest.raises(ConfigError, match=r"'@dpo/modle': .* did you mean 'model'"):
        errors(text, "stages.evaluate.models={DPO: @dpo/modle}")
    assert errors(text, "stages.evaluate.models={DPO: @dpo/model}") == []
    with pytest.raises(StageError):  # a stage that does not say what it writes is asked when it has run
        Path("tiny.yaml").write_text(
            "name: tiny\nstages: [{stage: write, name: a}, {stage: write, name: b, init: @a/other}]\n"
        )
        run(build(read_layers(Path("tiny.yaml"), []), recipe_fakes.STAGES))
