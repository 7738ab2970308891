"""Active learning: uncertainties by hand, the stage choose, and the stages that read its choice; the judge of
correctness where no rule applies."""

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from scripted import context, endpoint
from small_world import model_directory

from r1kit.config import ConfigError, R1kitError
from r1kit.data.prompt_choice import (
    closeness,
    disagreement,
    most_uncertain,
    read_chosen,
    token_entropy,
    vote_entropy,
)
from r1kit.rewards.pair_judge import in_both_orders
from r1kit.stages.choose import Choose
from r1kit.stages.correctness import is_correct
from r1kit.stages.label import LabelPairs
from r1kit.stages.rejection_sampling import RejectionSampling


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("base") / "model").parent


def test_uncertainties_by_hand():
    assert vote_entropy(["7", "7", "8", "8"]) == pytest.approx(math.log(2))
    assert vote_entropy(["7"] * 4) == 0.0
    assert vote_entropy(["7", "7", "7", None]) == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    )
    assert token_entropy([np.array([-1.0, -3.0]), np.array([-2.0])]) == pytest.approx(2.0)
    assert token_entropy([]) == 0.0
    assert closeness([1.0, 0.2, 0.9]) == pytest.approx(-0.1) and closeness([0.3]) == -math.inf


def test_an_ensemble_that_guesses_alike_does_not_disagree():
    guess = ["1", "2"]
    assert disagreement([guess, guess]) == pytest.approx(0.0)
    assert disagreement([["1", "1"], ["2", "2"]]) == pytest.approx(math.log(2))
    assert vote_entropy([*guess, *guess]) == vote_entropy(
        ["1", "1", "2", "2"]
    )  # by votes alone the two are equal
    mixed = disagreement([["1", "1"], ["1", "2"]])
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) - 0.5 * math.log(2)
    assert mixed == pytest.approx(by_hand)
    with pytest.raises(R1kitError, match="two models or more"):
        disagreement([guess])


def test_an_engine_without_log_probabilities_cannot_choose_by_entropy():
    with pytest.raises(R1kitError, match="choose by votes"):
        token_entropy([np.array([np.nan])])


def test_the_most_uncertain_come_first_and_equal_ones_by_chance():
    assert most_uncertain([0.1, 0.9, 0.5], 2, 0) == [1, 2]
    assert {tuple(most_uncertain([0.0, 0.0, 1.0], 2, seed)) for seed in range(20)} == {(2, 0), (2, 1)}


def row_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def sums(tmp_path):
    rows = [{"prompt": f"{n}+1?", "answer": str(n + 1)} for n in range(10, 30)]
    held_out = row_file(tmp_path / "held_out.jsonl", [{"prompt": "1+2?", "answer": "3"}])
    return {
        "sums": {"kind": "dataset", "train": row_file(tmp_path / "train.jsonl", rows), "held_out": held_out}
    }


def unsure(prompt, index):
    """Sure of every sum but 13 and 17: of 13 all answers differ, of 17 half."""
    number = int("".join(c for c in prompt.partition("+")[0] if c.isdigit()))
    off = index if number == 13 else index % 2 if number == 17 else 0
    return f"<think>I add one.</think>{number + 1 + off}"


def chosen(ctx, sums, **keys):
    Choose(models=["@base"], tasks=sums, problems=20, max_tokens=64, **keys).run(ctx)
    return [json.loads(line) for line in (ctx.out / "prompts.jsonl").read_text().splitlines()]


def test_what_the_model_is_unsure_of_is_chosen(tmp_path, base, sums):
    rows = chosen(context(tmp_path, base, unsure), sums, choose="votes", budget=2)
    assert [row["prompt"] for row in rows] == ["13+1?", "17+1?"]
    assert rows[0]["uncertainty"] == pytest.approx(math.log(4), abs=1e-6)


def test_earlier_choices_are_no_candidates(tmp_path, base, sums):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = chosen(context(tmp_path / "a", base, unsure), sums, choose="votes", budget=1)
    file = str(tmp_path / "a/out/prompts.jsonl")
    second = chosen(context(tmp_path / "b", base, unsure), sums, choose="votes", budget=1, without=[file])
    assert [first[0]["prompt"], second[0]["prompt"]] == ["13+1?", "17+1?"]


def test_random_choice_samples_nothing(tmp_path, base, sums):
    def fail(prompt, index):
        raise AssertionError("sampled")

    assert len(chosen(context(tmp_path, base, fail), sums, choose="random", budget=5)) == 5


def test_rejection_sampling_and_labels_read_the_choice(tmp_path, base, sums):
    (tmp_path / "choose").mkdir()
    rows = chosen(context(tmp_path / "choose", base, unsure), sums, choose="votes", budget=3)
    file = str(tmp_path / "choose/out/prompts.jsonl")
    (tmp_path / "rs").mkdir()
    ctx = context(tmp_path / "rs", base, unsure)
    RejectionSampling(
        init="@base", tasks=sums, chosen=file, samples=4, keep=4, problems=2, max_tokens=64
    ).run(ctx)
    written = [json.loads(line) for line in (ctx.out / "data.jsonl").read_text().splitlines()]
    rates = {row["prompt"]: row["pass_rate"] for row in written}
    assert rates == {"13+1?": 0.25, "17+1?": 0.5}
    (tmp_path / "label").mkdir()
    ctx = context(tmp_path / "label", base, unsure)
    stage = LabelPairs(
        models=["@base"], prompts=sums, chosen=file, annotator="taste", labels=2, problems=3, max_tokens=64
    )
    stage.run(ctx)
    pairs = [json.loads(line) for line in (ctx.out / "pairs.jsonl").read_text().splitlines()]
    assert {pair["prompt"] for pair in pairs} == {"13+1?", "17+1?"} <= {row["prompt"] for row in rows}


@pytest.mark.parametrize(
    "rows, said",
    [
        ([], "no chosen prompts"),
        ([{"id": "a"}, {"id": "a"}], "chosen twice"),
        ([{"name": "a"}], r"c.jsonl:1: .*'id'"),
        ([{"id": [3]}], r"c.jsonl:1"),
    ],
)
def test_a_file_that_is_no_choice_is_refused(tmp_path, rows, said):
    with pytest.raises(R1kitError, match=said):
        read_chosen(tmp_path / "c.jsonl" if row_file(tmp_path / "c.jsonl", rows) else tmp_path)


def test_a_choice_of_other_tasks_is_refused(tmp_path, base, sums):
    file = row_file(tmp_path / "c.jsonl", [{"id": "other/1"}])
    stage = RejectionSampling(init="@base", tasks=sums, chosen=file, max_tokens=64)
    with pytest.raises(R1kitError, match=r"1 of 1 chosen prompts are not among .*'other/1'"):
        stage.run(context(tmp_path, base, unsure))


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"choose": "ensemble"}, "two models"),
        ({"choose": "margin"}, "needs a reward model"),
        ({"choose": "votes", "samples": 1}, "samples to 2"),
    ],
)
def test_a_strategy_has_what_it_needs(keys, said):
    with pytest.raises(ConfigError, match=said):
        Choose.parse({"tasks": {"chain": 1.0}, **keys}, "choose")


@pytest.mark.parametrize(
    "reply, verdict",
    [
        ('{"analysis": "same", "correctness": "correct"}', True),
        ('So: {"correctness": "Incorrect", "analysis": "no"}.', False),
        ('{"correctness": "correct"} {"correctness": "incorrect"}', None),
        ('{"correctness": "partly"}', None),
        ('{"correctness": true}', None),
        ("correct", None),
        ("", None),
    ],
)
def test_only_a_clear_verdict_counts(reply, verdict):
    assert is_correct(reply) is verdict


@pytest.mark.parametrize("count", [2, 5, 6])
def test_a_judge_of_pairs_sees_each_pair_in_both_orders(count):
    rng = random.Random(count)
    shown = list(in_both_orders(count, 4, rng))
    assert Counter(shown) == Counter((b, a) for a, b in shown)
    each = (count + 1) // 2
    assert shown[each : 2 * each] == [(b, a) for a, b in shown[:each]]
    assert len(shown) == 4 * each and len(list(in_both_orders(count, 3, rng))) == 3 * each
    assert list(in_both_orders(1, 4, rng)) == []


def test_a_judge_decides_where_no_rule_applies(tmp_path, base):
    rows = [{"prompt": f"Who wrote book {n}?", "response": f"Writer {n}"} for n in range(12)]
    held_out = row_file(tmp_path / "h.jsonl", [{"prompt": "Who?", "response": "Me"}])
    tasks = {
        "facts": {"kind": "prompts", "train": row_file(tmp_path / "t.jsonl", rows), "held_out": held_out}
    }

    def judge(request):
        shown = json.loads(request["messages"][0]["content"].rpartition("\n\n")[2])
        if shown["question"] == "Who wrote book 3?":
            return "I cannot say."
        same = shown["reference"] == shown["answer"]
        return json.dumps({"analysis": "-", "correctness": "correct" if same else "incorrect"})

    def answer(prompt, index):
        number = prompt.partition("book ")[2].partition("?")[0]
        return f"<think>I know book {number}.</think>Writer {number if index == 0 else 99}"

    keys = {"init": "@base", "tasks": tasks, "problems": 12, "samples": 2, "max_tokens": 64}
    with endpoint(judge) as (address, _):
        ctx = context(tmp_path, base, answer)
        RejectionSampling(**keys, judge={"endpoint": address, "model": "j"}).run(ctx)
    found = [json.loads(line) for line in (ctx.out / "data.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in found} == {f"Who wrote book {n}?" for n in range(12) if n != 3}
    assert all(row["completion"].endswith(row["prompt"][15:-1]) and row["pass_rate"] == 0.5 for row in found)
    (tmp_path / "without").mkdir()
    ctx = context(tmp_path / "without", base, answer)
    RejectionSampling(**keys).run(ctx)
    assert (ctx.out / "data.jsonl").read_text() == ""
