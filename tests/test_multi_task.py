"""Fine-tuning on several tasks: how they are mixed, their metrics computed by hand, and the stage."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from small_world import logged, model_directory

import r1kit
from r1kit.config import ConfigError, R1kitError
from r1kit.data.task_mixing import MixingConfig, counts, mixed, rates
from r1kit.rewards.text_metrics import METRICS, text_figures, word_f1
from r1kit.stages.multi_task import TaskFiles, answer_in, read_held_out, task_errors
from r1kit.stages.sft import SFT

SIZES = {"large": 9000, "middle": 900, "small": 100}


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("limit", [None, 500])
def test_rates_are_those_of_the_equation(temperature: float, limit: int | None) -> None:
    counted = {name: min(size, limit or size) for name, size in SIZES.items()}
    powers = {name: size ** (1 / temperature) for name, size in counted.items()}  # the total cancels out
    expected = {name: power / sum(powers.values()) for name, power in powers.items()}
    found = rates(SIZES, MixingConfig(temperature=temperature, limit=limit))
    assert found == pytest.approx(expected) and sum(found.values()) == pytest.approx(1)


def test_a_high_temperature_mixes_equally() -> None:
    assert max(rates(SIZES, MixingConfig(temperature=1e9)).values()) == pytest.approx(1 / 3)


def test_counts_add_up_and_are_no_further_than_one_from_their_share() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    for draws in range(1, 60):
        found = counts(shares, draws)
        assert sum(found.values()) == draws
        assert all(abs(found[name] - share * draws) < 1 for name, share in shares.items())


def test_every_row_of_a_task_comes_before_one_comes_again() -> None:
    rows = {name: [(name, place) for place in range(size // 100)] for name, size in SIZES.items()}
    drawn = mixed(rows, MixingConfig(temperature=2.0), 200, seed=3)
    by_task = Counter(name for name, _ in drawn)
    assert by_task == counts(rates({n: len(r) for n, r in rows.items()}, MixingConfig(temperature=2.0)), 200)
    for name, own in rows.items():
        times = Counter(row for row in drawn if row[0] == name)
        assert max(times.values()) - min(times[row] for row in own) <= 1
    assert drawn == mixed(rows, MixingConfig(temperature=2.0), 200, seed=3)
    assert drawn != mixed(rows, MixingConfig(temperature=2.0), 200, seed=4)
    places = [at for at, (name, _) in enumerate(drawn) if name == "large"]
    assert np.mean(places) == pytest.approx(100, abs=15)  # not one task after the other


def test_exact_match_and_squad() -> None:
    golds = [["the Eiffel Tower", "Eiffel"], ["7"], ["in Paris"]]
    said = ["Eiffel tower.", "8", "Paris, France"]
    assert text_figures("exact", said, golds) == {"exact_match": 0.0}
    found = text_figures("squad", said, golds)
    # "paris france" and "in paris" share one word of two and two: 2 * 1 / 4.
    assert found == pytest.approx({"exact_match": 1 / 3, "f1": (1 + 0 + 0.5) / 3})
    assert word_f1("a the", "an") == 1.0 and word_f1("", "x") == 0.0
    assert word_f1("x x y", "x y y") == pytest.approx(2 / 3)


def test_macro_f1_is_the_mean_over_the_classes() -> None:
    golds = [["a"], ["a"], ["a"], ["b"], ["b"], ["c"]]
    said = ["a", "a", "b", "b", "d", "a"]
    # a: precision 2/3, recall 2/3; b: 1/2, 1/2; c: never said.
    found = text_figures("classification", said, golds)
    assert found == pytest.approx({"accuracy": 0.5, "macro_f1": (2 / 3 + 1 / 2 + 0) / 3})


def test_rouge_against_counts_by_hand() -> None:
    pytest.importorskip("rouge_score")
    found = text_figures("rouge", ["the cat sat down"], [["the cat lay down here"]])
    # 1-grams: the, cat, down of 4 and 5; 2-grams: "the cat" of 3 and 4; longest common: the cat down.
    assert found == pytest.approx({"rouge1": 6 / 9, "rouge2": 2 / 7, "rougeL": 6 / 9})


def test_bleu_and_chrf_against_counts_by_hand() -> None:
    pytest.importorskip("sacrebleu")
    same = text_figures("translation", ["the cat sat on the mat"], [["the cat sat on the mat"]])
    assert same == pytest.approx({"bleu": 100, "chrf": 100})
    found = text_figures("translation", ["the cat sat on a mat"], [["the cat sat on the mat"]])
    # n-grams in common: 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3; no brevity penalty.
    assert found["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert 50 < found["chrf"] < 100
    two = text_figures("translation", ["a b c d", "x y z w"], [["a b c d"], ["q q q q", "x y z w"]])
    assert two["bleu"] == pytest.approx(100)


def test_nothing_to_measure_is_refused() -> None:
    for metric in METRICS:
        with pytest.raises(R1kitError, match=metric):
            text_figures(metric, ["a"], [[]])


def test_an_answer_is_what_stands_in_its_tags_or_all_of_it() -> None:
    assert answer_in("<think>so</think><answer> Paris </answer>") == "Paris"
    assert answer_in(" Paris ") == "Paris" and answer_in("<answer>Paris") == "<answer>Paris"


def _write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_held_out_rows_have_all_their_answers(tmp_path: Path) -> None:
    rows = [
        {"prompt": "capital?", "completion": "Paris", "answers": ["Paris", "city of Paris"]},
        {"prompt": "sum?", "completion": "<think>1+1</think><answer>2</answer>"},
    ]
    found = read_held_out("qa", TaskFiles(train="x", metric="squad"), Path(_write(tmp_path / "a", rows)), 9)
    assert [one.answers for one in found] == [("Paris", "city of Paris"), ("2",)]
    assert len({one.problem.id for one in found}) == 2 and found[1].response.startswith("<think>")
    bad = _write(tmp_path / "b", [{"prompt": "x", "completion": "y", "answers": "y"}])
    with pytest.raises(R1kitError, match="must be a list of texts"):
        read_held_out("qa", TaskFiles(train="x"), Path(bad), 9)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": ["x.jsonl"], "tasks": {"qa": {"train": "y"}}}, "name either files of rows"),
        ({"tasks": {"qa": {"train": "y", "metric": "bleurt"}}}, "metric"),
        ({"mixing": {"temperature": 0.5}}, "greater than or equal to 1"),
        ({"tasks": {"qa": {"train": "y"}}, "watch": {"tasks": {"chain": 1}}}, "leave watch out"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict, message: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=message):
        SFT(**keys)


def test_files_that_are_missing_are_named_before_anything_runs(tmp_path: Path) -> None:
    tasks = {"qa": TaskFiles(train=str(tmp_path / "none.jsonl"))}
    ((key, error),) = task_errors(tasks, "error")
    assert key == ("tasks", "qa", "train") and "none.jsonl" in str(error)


RECIPE = """
name: tasks
runtime: {{kind: local, processes: 1}}
stages:
  - stage: sft
    init: {model}
    tasks:
      colour: {{train: {folder}/colour.jsonl, held_out: {folder}/colour_test.jsonl, metric: classification}}
      double: {{train: {folder}/double.jsonl, held_out: {folder}/double_test.jsonl, metric: exact}}
      program: {{train: {folder}/program.jsonl, held_out: {folder}/program_test.jsonl, metric: pass_at_k}}
    mixing: {{temperature: 2.0, rows: 60}}
    measured: {{every: 2, problems: 4, max_tokens: 8, samples: 2}}
    training: {{batch_tokens: 400, save_every: 1}}
    learner: {{context: 96, lines: 8, precision: float32}}
"""


@pytest.mark.slow
def test_one_stage_trains_and_measures_every_task(tmp_path: Path) -> None:
    rng = random.Random(0)
    model = model_directory(tmp_path / "model")
    for name, count in (("", 24), ("_test", 6)):
        things = [rng.choice(("sky", "sea", "leaf")) for _ in range(count)]
        colour = {"sky": "blue", "sea": "blue", "leaf": "green"}
        _write(
            tmp_path / f"colour{name}.jsonl", [{"prompt": one, "completion": colour[one]} for one in things]
        )
        numbers = [rng.randrange(50) for _ in range(count // 2)]
        _write(
            tmp_path / f"double{name}.jsonl",
            [{"prompt": f"2*{one}", "completion": f"{2 * one}"} for one in numbers],
        )
    _write(tmp_path / "program.jsonl", [{"prompt": "add one", "completion": "def f(x): return x + 1"}] * 4)
    _write(
        tmp_path / "program_test.jsonl",
        [{"prompt": f"add {n}", "test_list": [f"assert f(1) == {1 + n}"]} for n in range(3)],
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=model, folder=tmp_path))
    r1kit.run(r1kit.load(str(recipe), [f"out={tmp_path}/run"]))
    rows = logged(tmp_path / "run")
    names = {
        "task/colour/accuracy", "task/colour/macro_f1", "task/colour/loss", "task/double/exact_match",
        "task/double/loss", "task/program/pass_1",
    }  # fmt: skip
    measured = [row["step"] for row in rows if names <= row.keys()]
    assert measured == [step for step in range(len(rows)) if step % 2 == 0 or step == len(rows) - 1]
    assert rows[0]["task/colour/loss"] > rows[-1]["task/colour/loss"] > 0
    assert math.isfinite(rows[-1]["task/program/pass_1"])
    report = json.loads((tmp_path / "run/stages/sft/report.json").read_text())
    assert report["rows"] == 40 and report["too_long"] == 0
    assert report["task/colour/accuracy"] == rows[-1]["task/colour/accuracy"]
