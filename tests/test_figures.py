"""The frozen figures and their file: what is written is read back, anything else is an error that names file
and key."""

import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from figure_fakes import PROTOCOL, evaluation, model_figures

from r1kit.config import ConfigError
from r1kit.figures import BY_NAME, FACTS, Evaluation, Example, Habit, finite, read, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "report.json"


def whole() -> Evaluation:
    models = {
        "base": model_figures(0.12, {"worked": Habit(0.2, None, 50.0)}, direct=0.1),
        "r1_zero": model_figures(0.82, pass_1_stderr=None),
    }
    examples = (Example("3+4=?", "7", "chain", {"base": "<think>好</think>7", "r1_zero": ""}),)
    return replace(evaluation(models, {"both": ("base", "r1_zero")}), examples=examples)


def test_what_is_written_is_read_back(file: Path) -> None:
    write(file, whole())
    assert read(Evaluation, file) == whole()
    plain = json.loads(file.read_text())
    assert set(plain) == {"protocol", "models", "examples", "controls"}
    assert plain["models"]["base"]["overall"]["pass@1"] == 0.12
    assert plain["models"]["base"]["overall"]["cons@n"] == pytest.approx(0.22)
    assert plain["models"]["r1_zero"]["overall"]["pass@1_stderr"] is None
    assert plain["protocol"]["n"] == 16 and plain["protocol"]["direct_n"] == 4


def test_figures_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        whole().models["base"].overall.pass_1 = 1.0  # type: ignore[misc]


def change(file: Path, *path: str, to: object) -> None:
    content = json.loads(file.read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    file.write_text(json.dumps(content))


def test_a_figure_of_another_name_is_an_error_in_both_directions(file: Path) -> None:
    write(file, whole())
    content = json.loads(file.read_text())
    overall = content["models"]["base"]["overall"]
    overall["accuracy"] = overall.pop("pass@1")
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as error:
        read(Evaluation, file)
    lines = str(error.value).splitlines()
    assert f"{file}: models.base.overall.pass@1: missing" in lines
    assert f"{file}: models.base.overall.accuracy: no figure has this name" in lines
    assert "--from STAGE" in lines[-1]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("models", "base", "overall", "pass@1"), "0.12"),
        (("models", "base", "overall", "pass@1"), None),
        (("models", "base", "overall", "problems"), 1.5),
        (("models", "base", "direct"), True),
        (("protocol", "n"), "16"),
        (("controls", "both"), "base"),
        (("models", "base", "habits", "worked"), 0.2),
    ],
)
def test_a_figure_of_another_type_is_an_error_that_names_its_key(
    file: Path, path: tuple[str, ...], value: object
) -> None:
    write(file, whole())
    change(file, *path, to=value)
    with pytest.raises(ConfigError, match=f"{file}: {'.'.join(path)}: "):
        read(Evaluation, file)


def test_a_whole_number_may_stand_for_a_share(file: Path) -> None:
    write(file, whole())
    change(file, "models", "base", "overall", "pass@1", to=1)
    assert read(Evaluation, file).models["base"].overall.pass_1 == 1.0


def test_a_missing_or_torn_file_is_an_error_that_names_it(file: Path) -> None:
    with pytest.raises(ConfigError, match=f"{file}: no such file"):
        read(Evaluation, file)
    file.write_text('{"models": ')
    with pytest.raises(ConfigError, match=f"{file}: not JSON"):
        read(Evaluation, file)


def test_a_number_that_is_not_finite_is_null(file: Path) -> None:
    assert finite({"a": math.nan, "b": [1.5, {"c": math.inf}], "d": 2, "e": "x"}) == {
        "a": None,
        "b": [1.5, {"c": None}],
        "d": 2,
        "e": "x",
    }
    write(file, replace(whole().models["base"], direct=math.nan))
    assert json.loads(file.read_text(), parse_constant=pytest.fail)["direct"] is None


def test_facts_of_a_stage_need_their_own_figures_and_leave_others_alone(file: Path) -> None:
    file.write_text(json.dumps({"rows": 170, "too_long": 0, "loss": 1, "optim/grad_norm": 0.5}))
    facts = read(FACTS["sft"], file)
    assert (facts.rows, facts.too_long, facts.loss) == (170, 0, 1.0)
    file.write_text(json.dumps({"kept": 170, "too_long": 0}))
    with pytest.raises(ConfigError, match=f"{file}: rows: missing"):
        read(FACTS["sft"], file)


def test_figures_by_name_are_those_of_the_model() -> None:
    model = model_figures(0.5, direct=0.25, general=0.75, length=30.0)
    found = {name: value(model) for name, value in BY_NAME.items()}
    assert found == {
        "pass@1": 0.5,
        "pass@n": 0.99,
        "cons@n": 0.6,
        "format": 0.9,
        "language": 0.6,
        "length": 30.0,
        "general": 0.75,
        "direct": 0.25,
    }
    assert BY_NAME["general"](model_figures(0.5, general=None)) is None


def test_a_protocol_in_words_names_every_number_of_samples() -> None:
    assert PROTOCOL.in_words() == (
        "Protocol: 104 held-out problems, 16 samples of each, at most 96 tokens, temperature 1, top-p 1; "
        "answers without thinking: 4 samples of each problem; general prompts: 40, 4 samples of each, scored "
        "by gold_score."
    )
    alone = replace(PROTOCOL, direct_n=None, general=None, temperature=0.6, top_p=0.95)
    assert alone.in_words().endswith("at most 96 tokens, temperature 0.6, top-p 0.95.")
