"""Reward models on what a recipe names: pairs and labels from files, annotators, a language model as judge;
and the pages' examples with nothing but the user's own files."""

import json
import random
import re
import runpy
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preference_world import SMALL, context, group_of, labels, printed, read, taste, write
from scripted import ScriptedRuntime, endpoint
from small_world import model_directory
from typer.testing import CliRunner

from r1kit.commands.cli import app
from r1kit.config import ConfigError, R1kitError
from r1kit.data.preferences import pairs_of, read_labelled, read_preferences, split
from r1kit.recipe.recipe import load
from r1kit.rewards.annotators import load_annotator, load_labeller, load_scorer, score_by
from r1kit.rewards.pair_judge import PairJudge, draw_pairs
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.stages.reward_models import RewardModels, as_row, different_answers
from r1kit.tasks import Procedural, load_tasks
from r1kit.tasks.miniature.general import REFUSALS, General, gold_score, reference_thinking
from r1kit.types import Problem, Response

pytestmark = pytest.mark.timeout(600)  # a busy machine is slow, not broken
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("base") / "model").parent


# Files of pairs and labels

USER = {"role": "user", "content": "Hi"}


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "score": 3, "source": None},
        {"prompt": [USER], "chosen": says("Hello!"), "rejected": says("What?")},
        {"chosen": [USER, *says("Hello!")], "rejected": [USER, *says("What?")]},
        {"chosen": "Hi Hello!", "rejected": "Hi What?"},
        {"prompt": "Hi", "chosen": "<think>a</think>Hello!", "rejected": "<think>b</think>What?"},
    ],
    ids=["standard", "more columns", "messages", "implicit messages", "implicit", "thinking"],
)
def test_pairs_are_read_in_all_of_trls_forms(row: dict[str, Any], tmp_path: Path) -> None:
    (pair,) = read_preferences(write(tmp_path / "pairs.jsonl", [row]))
    assert (pair.problem.prompt, pair.chosen.answer, pair.rejected.answer) == ("Hi", "Hello!", "What?")
    if row.get("chosen") == "<think>a</think>Hello!":
        assert pair.chosen.text == row["chosen"]


def test_a_common_start_ends_with_a_whole_word(tmp_path: Path) -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is black."}
    (pair,) = read_preferences(write(tmp_path / "pairs.jsonl", [row]))
    assert (pair.problem.prompt, pair.chosen.answer, pair.rejected.answer) == (
        "The sky is",
        "blue.",
        "black.",
    )


GOOD = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi", "chosen": "Hello!"}, "column 'rejected' is missing or not a text"),
        ({"prompt": "Hi", "completion": "Hello!"}, "column 'chosen' is missing or not a text"),
        ({**GOOD, "rejected": "Hello!"}, "chosen and rejected are the same"),
        ({**GOOD, "rejected": "<think>a</think>Hello!"}, "chosen and rejected have the same answer"),
        ({**GOOD, "rejected": None}, "column 'rejected' is missing or not a text"),
        ({**GOOD, "chosen": {"text": "Hello!"}}, "column 'chosen' is missing or not a text"),
        ({**GOOD, "chosen": ["Hello!"]}, "column 'chosen': a conversation is a list of turns"),
        ({**GOOD, "chosen": "  "}, "chosen is empty"),
        ({**GOOD, "prompt": ""}, "prompt is empty"),
        ({**GOOD, "chosen": "<think>Hello!"}, "a response with <think> must be"),
        ({"chosen": "Hello!", "rejected": "What?"}, "prompt is empty"),
        (
            {"chosen": [USER, *says("a")], "rejected": [{**USER, "content": "b"}, *says("c")]},
            "chosen and rejected begin with different prompts",
        ),
        (
            {"prompt": [USER, *says("a")], "chosen": says("b"), "rejected": says("c")},
            "column 'prompt': a prompt ends with a user turn",
        ),
        ([GOOD], "a row must be an object"),
    ],
)
def test_a_pair_that_cannot_be_used_is_named_by_file_and_row(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(R1kitError, match=rf"pairs\.jsonl:2: {re.escape(message)}"):
        read_preferences(write(tmp_path / "pairs.jsonl", [GOOD, row]))
    rows = [*({**GOOD, "prompt": f"Hi {i}"} for i in range(30)), row]
    assert len(read_preferences(write(tmp_path / "pairs.jsonl", rows), "quarantine")) == 30
    assert read(tmp_path / "pairs.jsonl.bad.jsonl")[0]["line"] == 31


def test_the_turns_before_a_prompt_are_kept(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    before = [system, USER, *says("a")]
    whole = {name: [*before, USER, *says(text)] for name, text in (("chosen", "b"), ("rejected", "c"))}
    rows = [{"prompt": [*before, USER], "chosen": says("b"), "rejected": says("c")}, whole]
    for row in rows:
        (pair,) = read_preferences(write(tmp_path / "pairs.jsonl", [row]))
        assert pair.problem.columns["messages"] == tuple(before)
        assert (pair.chosen.answer, pair.rejected.answer) == ("b", "c")


def test_missing_and_empty_files_are_errors(tmp_path: Path, base: Path) -> None:
    with pytest.raises(R1kitError, match=r"pairs\.jsonl: no rows; a row is an object such as .*chosen"):
        read_preferences(write(tmp_path / "pairs.jsonl", []))
    with pytest.raises(R1kitError, match=r"labels\.jsonl: no rows; a row is an object such as .*safe"):
        read_labelled(write(tmp_path / "labels.jsonl", []))
    for source in ({"preferences": "nowhere.jsonl"}, {"safety": {"file": "nowhere.jsonl"}}):
        with pytest.raises(ConfigError, match=r"^nowhere\.jsonl: no such file"):
            RewardModels(init="@base", **source).run(context(tmp_path, base))


SAFE = {"prompt": "Hi", "response": "Hello!", "safe": True}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "Hi", "response": "Hello!"},
            "column 'safe' must be true or false; the row has: prompt, response",
        ),
        ({**SAFE, "safe": "yes"}, "column 'safe' must be true or false (given: 'yes')"),
        ({**SAFE, "safe": 1}, "column 'safe' must be true or false (given: 1)"),
        ({"prompt": "Hi", "safe": True}, "column 'response' is missing or not a text"),
        ({**SAFE, "response": ""}, "response is empty"),
        ({"response": "Hello!", "safe": True}, "column 'prompt' is missing or not a text"),
    ],
)
def test_a_label_that_cannot_be_used_is_named_by_file_and_row(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(R1kitError, match=rf"labels\.jsonl:2: {re.escape(message)}"):
        read_labelled(write(tmp_path / "labels.jsonl", [SAFE, row]))


def test_labels_are_read_as_texts_and_as_messages(tmp_path: Path) -> None:
    rows = [
        {**SAFE, "response": "<think>a</think>Hello!"},
        {"prompt": [USER], "completion": says("Go away."), "safe": False},
    ]
    found = read_labelled(write(tmp_path / "labels.jsonl", rows))
    assert [(one.problem.prompt, one.text, one.safe) for one in found] == [
        ("Hi", "<think>a</think>Hello!", True),
        ("Hi", "Go away.", False),
    ]


def test_what_is_measured_is_never_trained_on(tmp_path: Path) -> None:
    rows = [{**GOOD, "prompt": f"Say {i // 2}"} for i in range(600)]  # two pairs a prompt
    pairs = read_preferences(write(tmp_path / "pairs.jsonl", rows))
    found = split(pairs, None)
    train, held_out = ({pair.problem.prompt for pair in found[name]} for name in ("train", "held_out"))
    assert not train & held_out and len(found["train"]) + len(found["held_out"]) == 600
    assert 18 <= len(held_out) <= 57  # 300/8 expected, deviation 5.7
    shared = "one two three four five six seven eight nine ten"
    rows = [{**GOOD, "prompt": f"Say {shared}"}, {**GOOD, "prompt": " say  4 "}, {**GOOD, "prompt": "Say 5"}]
    train_rows = read_preferences(write(tmp_path / "pairs.jsonl", rows))
    other = [{**GOOD, "prompt": "Say 4"}, {**GOOD, "prompt": f"{shared}!"}]
    found = split(train_rows, read_preferences(write(tmp_path / "other.jsonl", other)))
    assert [pair.problem.prompt for pair in found["train"]] == ["Say 5"] and len(found["held_out"]) == 2


# The stage's configuration


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "reward_models needs preferences .* safety .* or both"),
        ({"preferences": {"file": "a.jsonl", "annotator": "judge"}}, "one of the two"),
        ({"preferences": {}}, "one of the two"),
        ({"preferences": "gold_scor"}, "unknown annotator 'gold_scor': did you mean 'gold_score'"),
        (
            {"preferences": {"annotator": "gold_score", "options": {"noize": 1}}},
            "unknown option 'noize': did you mean 'noise'",
        ),
        ({"safety": "refusal"}, "unknown labeller 'refusal': did you mean 'refusals'"),
        ({"preferences": "gold_score"}, "prompts: gold_score judge the model's own answers"),
        ({"preferences": {"file": "a.jsonl", "options": {"times": 2}}}, "options go with an annotator"),
        ({"preferences": {"annotator": "judge", "held_out": "a.jsonl"}}, "held_out goes with a file"),
        (
            {"preferences": "no_such_file.py:score", "prompts": {"general": 1}},
            "no_such_file.py: no such file",
        ),
        ({"preferences": {"fiel": "a.jsonl"}}, "unknown key 'fiel': did you mean 'file'"),
    ],
)
def test_sources_that_make_no_sense_are_refused_with_the_recipe(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RewardModels.parse(given, "recipe.yaml")


def test_a_plain_text_is_short_for_a_file_or_an_annotator() -> None:
    for text in ("pairs.jsonl", "@other/pairs.jsonl", "a/b.jsonl.gz"):
        stage = RewardModels(preferences=text, safety=text)
        assert (stage.preferences.file, stage.safety.file) == (text, text)
    stage = RewardModels(preferences="gold_score", safety="refusals", prompts={"general": 1})
    assert (stage.preferences.annotator, stage.safety.annotator) == ("gold_score", "refusals")
    assert "@other/pairs.jsonl" in [
        text for _, text in RewardModels(preferences="@other/pairs.jsonl").references()
    ]


# Annotators


def no_models(model: str, temperature: float, max_tokens: int) -> Any:
    raise AssertionError("no model is needed")


def test_pairs_are_those_that_differ_enough_and_have_comparable_lengths() -> None:
    problem = Problem("p", "t", "?", None)
    answers = {"aaaa": 5.0, "bb": 3.5, "c": 3.0, "dddddddd": 1.0}
    scored = [(score, Response(text, text)) for text, score in answers.items()]
    rng = random.Random(1)
    for least, ratio in ((1.0, None), (1.0, 2.0), (0.0, 4.0), (4.0, None)):
        rng.shuffle(scored)
        found = {(p.chosen.answer, p.rejected.answer) for p in pairs_of(problem, scored, least, ratio)}
        expected = {
            (high, low)
            for high in answers
            for low in answers
            if answers[high] - answers[low] > least
            and (ratio is None or 1 / ratio <= len(high) / len(low) <= ratio)
        }
        assert found == expected
    assert ("bb", "c") not in {
        (p.chosen.answer, p.rejected.answer) for p in pairs_of(problem, scored, 0.5, None)
    }


def test_the_miniatures_annotator_without_noise_prefers_what_the_gold_score_prefers() -> None:
    problems = list(General().problems("train"))[:80]
    texts = ["<think>a</think>Gladly!", "<think>b</think>x", "<think>c</think>x", "nothing"]
    groups = [group_of(problem, texts) for problem in problems]
    asked = [(group[0].problem, different_answers(group)) for group in groups]
    assert all(
        response in ([Response(texts[0], "Gladly!"), Response(texts[1], "x")])
        for _, own in asked
        for response in own
    )
    annotate = load_annotator("gold_score", {"noise": 0.0}, no_models)
    scored = list(annotate(asked, random.Random(1)))
    pairs = [
        p for (problem, _), own in zip(asked, scored, strict=True) for p in pairs_of(problem, own, 0.2, None)
    ]
    assert len(pairs) > 40 and all(pair.problem.columns["kind"] != "forbidden" for pair in pairs)
    written = 0
    for pair in pairs:
        better, worse = (gold_score(pair.problem, r.answer) for r in (pair.chosen, pair.rejected))
        assert better - worse > 0.2
        for response in (pair.chosen, pair.rejected):
            own = {"Gladly!": texts[0], "x": texts[1]}.get(response.answer)
            thinking = f"<think>{reference_thinking(pair.problem)}</think>{response.answer}"
            assert response.text == (own or thinking)
            written += own is None
        assert as_row(pair) == {
            "prompt": pair.problem.prompt,
            "chosen": pair.chosen.text,
            "rejected": pair.rejected.text,
        }
    assert written > 40
    noisy = load_annotator("gold_score", {"noise": 0.5}, no_models)
    differences = [
        score - gold_score(problem, response.answer)
        for (problem, _), own in zip(asked, noisy(asked, random.Random(1)), strict=True)
        for score, response in own
    ]
    assert np.std(differences) == pytest.approx(0.5, rel=0.2) and abs(np.mean(differences)) < 0.15


def test_only_help_with_a_forbidden_request_is_unsafe() -> None:
    problems = list(General().problems("train"))
    groups = [
        group_of(p, [f"<think>a</think>{REFUSALS[p.language]}", "<think>a</think>boil the water", "cut"])
        for p in problems
    ]
    labelled = list(load_labeller("refusals", {})(groups, random.Random(1)))
    for one in labelled:
        if one.problem.columns["kind"] != "forbidden":
            assert one.safe
        else:
            assert one.safe == (REFUSALS[one.problem.language] in one.text.partition("</think>")[2])
    assert 0.2 < sum(not one.safe for one in labelled) / len(labelled) < 0.8


MY_JUDGE = """\
def shorter(problem, answers):
    return [None if "skip" in answer else -len(answer) for answer in answers]

def polite(problem, responses):
    return [None if problem.prompt == "skip" else "please" in text for text in responses]

def short_by_one(problem, answers):
    return [1.0] * (len(answers) - 1)

def words(problem, answers):
    return ["good"] * len(answers)

def infinite(problem, answers):
    return [float("inf")] * len(answers)

NUMBER = 3
"""


def test_annotators_labellers_and_scorers_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_judge.py").write_text(MY_JUDGE)
    problem = Problem("p", "t", "Hi", None)
    responses = [Response(f"<think>a</think>{answer}", answer) for answer in ("long one", "skip me", "short")]
    annotate = load_annotator("my_judge.py:shorter", {}, no_models)
    assert list(annotate([(problem, responses)], random.Random(0))) == [
        [(-8.0, responses[0]), (-5.0, responses[2])]
    ]
    label = load_labeller("my_judge.py:polite", {})
    groups = [group_of(problem, ["please", "now"]), group_of(Problem("q", "t", "skip", None), ["please"])]
    assert [(one.text, one.safe) for one in label(groups, random.Random(0))] == [
        ("please", True),
        ("now", False),
    ]
    for name, message in (
        ("short_by_one", "returned 1 scores for 2 answers"),
        ("words", "returned 'good'; a score is a finite number"),
        ("infinite", "returned inf; a score is a finite number"),
    ):
        with pytest.raises(R1kitError, match=message):
            score_by(load_scorer(f"my_judge.py:{name}"), name, problem, ["a", "b"])
    with pytest.raises(R1kitError, match=r"my_judge\.py:shorter returned \[-6, -3\].*return True \(safe\)"):
        list(load_labeller("my_judge.py:shorter", {})(groups[:1], random.Random(0)))
    with pytest.raises(ConfigError, match=r"NUMBER: this is the value .*; a judge of answers is a function"):
        load_scorer("my_judge.py:NUMBER")
    with pytest.raises(ConfigError, match="annotators of your own take no options"):
        load_annotator("my_judge.py:shorter", {"noise": 1}, no_models)


# A language model as judge


def asked_of(question: str) -> dict[str, str]:
    """What a judge is shown: {"request", "a", "b"}."""
    found: dict[str, str] = json.loads(question.partition("\n\n")[2])
    return found


def test_a_judge_sees_each_pair_four_times_in_random_order_and_scores_are_means() -> None:
    """The judge likes length, and whatever stands first: with as many turns in either place the means of two
    answers keep their difference."""
    questions: list[dict[str, str]] = []

    def ask(asked: Sequence[str]) -> list[str | R1kitError]:
        questions.extend(asked_of(question) for question in asked)
        return [
            json.dumps({"analysis": "...", "a": len(shown["a"]) + 2, "b": len(shown["b"])})
            for shown in map(asked_of, asked)
        ]

    judge = PairJudge(lambda model, temperature, most: ask, model="@sft")
    problems = [Problem(str(i), "t", f"request {i}", None) for i in range(200)]
    responses = [Response("<think>hidden</think>x", "x"), Response("<think>hidden</think>xxxx", "xxxx")]
    scored = list(judge([(problem, responses) for problem in problems], random.Random(5)))
    assert len(questions) == 4 * 200
    first = sum(question["a"] == "x" for question in questions)
    assert 330 < first < 470  # 400 expected, deviation 14
    for problem, own in zip(problems, scored, strict=True):
        shown = [question for question in questions if question["request"] == problem.prompt]
        assert len(shown) == 4 and {question["a"] for question in shown} <= {"x", "xxxx"}
        times = sum(question["a"] == "x" for question in shown)
        assert own == [(1 + 2 * times / 4, responses[0]), (4 + 2 * (4 - times) / 4, responses[1])]
    assert not any("hidden" in str(question) for question in questions)


def test_every_answer_is_compared_in_every_round() -> None:
    rng = random.Random(3)
    for count in range(2, 8):
        seen = set()
        for _ in range(60):
            pairs = draw_pairs(count, rng)
            assert all(a != b for a, b in pairs) and {i for pair in pairs for i in pair} == set(range(count))
            assert len(pairs) == (count + 1) // 2
            seen |= set(pairs)
        assert count > 4 or len(seen) == count * (count - 1)  # all pairs, both ways round
    assert draw_pairs(1, rng) == draw_pairs(0, rng) == []


def test_replies_that_cannot_be_read_are_left_out_and_too_many_stop_the_stage() -> None:
    good = '{"a": 7, "b": 2}'
    responses = [Response("x", "x"), Response("y", "y")]
    asked = [(Problem("p", "t", "?", None), responses), (Problem("q", "t", "?", None), responses)]

    def replies(*texts: str | R1kitError) -> list[list[tuple[float, Response]]]:
        judge = PairJudge(lambda model, temperature, most: lambda questions: list(texts), model="m", times=2)
        return list(judge(asked, random.Random(0)))

    bad = ["no idea", '{"a": 11, "b": 2}', R1kitError("no answer")]
    assert [len(own) for own in replies(good, good, good, good)] == [2, 2]
    for one in bad:
        kept = replies(good, one, good, one)
        assert [len(own) for own in kept] == [2, 2] and all(
            sorted(s for s, _ in own) == [2.0, 7.0] for own in kept
        )
    assert [len(own) for own in replies(good, good, *bad[:2])] == [2, 0]
    with pytest.raises(
        R1kitError, match=r"no verdict in 3 of 4 comparisons; .*The first: the judge's reply holds no"
    ):
        replies(good, *bad)
    with pytest.raises(ConfigError, match="judge: name the model"):
        load_annotator("judge", {}, no_models)


def test_a_judge_may_be_an_endpoint() -> None:
    responses = [Response("x", "x"), Response("y", "y")]
    reply = 'I think {"analysis": "so", "a": 9, "b": 4}'
    with endpoint(lambda request: reply) as (address, calls):
        judge = load_annotator("judge", {"endpoint": address, "model": "j", "times": 3}, no_models)
        (scored,) = judge([(Problem("p", "t", "?", None), responses)], random.Random(1))
    assert len(calls) == 3 and sum(score for score, _ in scored) == 13.0
    with endpoint(lambda request: 404) as (address, _):
        judge = load_annotator("judge", {"endpoint": address, "model": "j", "times": 1}, no_models)
        with pytest.raises(R1kitError, match=r"no verdict in 1 of 1 comparisons.*404"):
            list(judge([(Problem("p", "t", "?", None), responses)], random.Random(1)))


def test_a_model_of_the_run_may_judge_and_its_pairs_are_kept(tmp_path: Path, base: Path) -> None:
    """The policy answers at three lengths; the judge, after some thinking, likes the short ones."""
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"Say {i}"} for i in range(60)])

    def script(prompt: str, index: int) -> str:
        if '"request"' not in prompt:
            return f"<think>a</think>{'so ' * (index + 1)}"
        shown = json.loads(prompt[prompt.index('{"request"') :])
        scores = {name: 10 - len(shown[name]) / 2 for name in ("a", "b")}
        return f"<think>let me see</think>{json.dumps(scores)}"

    ctx = context(tmp_path, base, ScriptedRuntime(script))
    stage = RewardModels(
        init="@base",
        prompts={"mine": {"kind": "prompts", "train": str(prompts)}},
        preferences={"annotator": "judge", "options": {"model": "@base"}},
        samples=3,
        epochs=1,
        max_pairs=40,
        learner=SMALL,
    )
    stage.run(ctx)
    rows = read(ctx.out / "pairs.jsonl")
    assert len(rows) == 40 and all(len(row["chosen"]) < len(row["rejected"]) for row in rows)
    assert all(row["chosen"].startswith("<think>a</think>so") for row in rows)
    train = {
        problem.prompt for task, _ in load_tasks(stage.prompts).values() for problem in task.problems("train")
    }
    held_out = read(ctx.out / "pairs_held_out.jsonl")
    assert {row["prompt"] for row in rows} <= train and not train & {row["prompt"] for row in held_out}
    facts = json.loads((ctx.out / "report.json").read_text())
    assert facts["helpful_pairs"] == 40 and facts["helpful_held_out_pairs"] == len(held_out) > 0
    assert not (ctx.out / "safety").exists() and "safety_accuracy" not in facts
    equal = stage.model_copy(update={"min_difference": 9.0})
    with pytest.raises(
        R1kitError, match="there are no pairs to learn from; no two answers differ by more than min"
    ):
        equal.run(ctx)


# Reward models from files


def test_reward_models_learn_from_files_without_sampling(tmp_path: Path, base: Path) -> None:
    pairs, safety = write(tmp_path / "own.jsonl", taste(160)), write(tmp_path / "labels.jsonl", labels(120))
    longer = {**taste(1, 999)[0], "rejected": "so " * 200}
    write(pairs, [*taste(160), longer])

    class NoEngine(LocalRuntime):
        def engine(self, model: Path) -> Any:
            raise AssertionError("a file of pairs needs no sampling")

    ctx = context(tmp_path, base, NoEngine(LocalConfig(processes=1)))
    RewardModels(
        init="@base", preferences=str(pairs), safety=str(safety), batch=16, epochs=3, learner=SMALL
    ).run(ctx)
    facts = json.loads((ctx.out / "report.json").read_text())
    train, held_out = read(ctx.out / "pairs.jsonl"), read(ctx.out / "pairs_held_out.jsonl")
    assert facts["helpful_pairs"] == len(train) and facts["helpful_held_out_pairs"] == len(held_out) > 8
    assert sorted(map(str, train + held_out)) == sorted(map(str, taste(160)))
    assert "1 left out, longer than learner.context 96" in printed(ctx)
    assert facts["helpful_accuracy"] > 0.9 and facts["safety_accuracy"] > 0.9
    assert all((ctx.out / name / "value_head.safetensors").is_file() for name in ("helpful", "safety"))
    (tmp_path / "none").mkdir()
    stage = RewardModels(
        init="@base", preferences={"file": str(pairs), "held_out": str(pairs)}, learner=SMALL
    )
    with pytest.raises(R1kitError, match=r"there are no pairs to learn from; .*own\.jsonl needs more rows"):
        stage.run(context(tmp_path / "none", base))  # all of them are held out


def test_labels_of_one_kind_teach_nothing(tmp_path: Path, base: Path) -> None:
    rows = [row for row in labels(60) if row["safe"]]
    stage = RewardModels(init="@base", safety=str(write(tmp_path / "labels.jsonl", rows)), learner=SMALL)
    with pytest.raises(
        R1kitError, match=r"needs safe and unsafe responses; all \d+ are labelled safe.*safety: null"
    ):
        stage.run(context(tmp_path, base))


# Everything of the user's own, from the page


BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_pages_examples_run_on_files_of_ones_own_and_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for page in ("reward_models", "alignment_rl"):
        blocks = BLOCK.findall((ROOT / "docs/stages" / f"{page}.md").read_text(encoding="utf-8"))
        for _, name, text in blocks:
            if name:
                Path(name).write_text(text, encoding="utf-8")
        for line in (line for kind, _, text in blocks if kind == "bash" for line in text.splitlines()):
            program, *words = shlex.split(line)
            if program == "python":
                runpy.run_path(words[0], run_name="__main__")
                continue
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, result.output
    recipe = load(Path("own-alignment.yaml"))
    for stage in recipe.stages:
        tasks = load_tasks({**getattr(stage, "tasks", {}), **getattr(stage, "prompts", {})})
        assert not any(isinstance(task, General | Procedural) for task, _ in tasks.values())
    stages = Path("runs/own-preferences/stages")
    facts = json.loads((stages / "reward_models/report.json").read_text())
    assert facts["helpful_held_out_pairs"] >= 15 and facts["helpful_accuracy"] > 0.75
    assert facts["safety_held_out"] >= 15 and facts["safety_accuracy"] > 0.75
    judged = json.loads((stages / "judged/report.json").read_text())
    assert judged["helpful_pairs"] >= 15 and judged["helpful_accuracy"] > 0.75
    assert all(
        "Gladly" in row["chosen"] and "Gladly" not in row["rejected"]
        for row in read(stages / "judged/pairs.jsonl")
    )
    rows = [row for row in read(Path("runs/own-preferences/metrics.jsonl")) if row["stage"] == "alignment_rl"]
    assert [row["step"] for row in rows] == list(range(16))
    assert [row["step"] for row in rows if "watch/gold" in row] == [4, 8, 12]
    scored = [row["step"] for row in rows if "reward/helpful/mean" in row]
    assert len(scored) >= 10 and min(scored) >= 4
    assert any("reward/safety/mean" in row for row in rows)
    assert rows[-1]["reward/helpful/mean"] > rows[scored[0]]["reward/helpful/mean"]


def test_the_errors_on_the_page_are_those_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/stages/reward_models.md").read_text(encoding="utf-8").splitlines()
    for before, row in ((2, {"prompt": "Hi", "chosen": "Hello!"}), (3, {**GOOD, "rejected": "Hello!"})):
        write(Path("pairs.jsonl"), [GOOD] * before + [row])
        with pytest.raises(R1kitError) as error:
            read_preferences(Path("pairs.jsonl"))
        assert str(error.value).splitlines()[0] in page
