"""Stages by what they write, with scripted models: figures by brute force, filters, judges, and errors that
say what to do."""

import io
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scripted import context
from small_world import model_directory, tokenizer

from r1kit.chat import Chat
from r1kit.config import ConfigError, R1kitError
from r1kit.figures import (
    Evaluation,
    Example,
    GeneralProtocol,
    GeneralScores,
    Habit,
    Protocol,
    read,
)
from r1kit.log import Log
from r1kit.records import KEPT
from r1kit.rewards import WeightedReward, load_rewards
from r1kit.stages import STAGES
from r1kit.stages.corpus_documents import document_rows
from r1kit.stages.distill import Distill, with_general
from r1kit.stages.dpo import DPO
from r1kit.stages.evaluate import Evaluate
from r1kit.stages.general import general_rows
from r1kit.stages.model_figures import consensus, summarise, summarise_general
from r1kit.stages.models import PromptStyle
from r1kit.stages.pretrain import Pretrain
from r1kit.stages.r1_zero import R1Zero
from r1kit.stages.reasoning_rl import ReasoningRL
from r1kit.stages.recipe_names import rules
from r1kit.stages.rejection_sampling import RejectionSampling
from r1kit.stages.results import report
from r1kit.stages.rl import reinforce
from r1kit.stages.sampling import train_problems
from r1kit.stages.sft import SFT
from r1kit.tasks import General, Procedural, load_tasks
from r1kit.tasks.documents import write_summary
from r1kit.tasks.habits import load_habits
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.tasks.miniature.general import gold_score, reference_answer
from r1kit.tasks.miniature.worked_solutions import HABITS, Worked, write_readable
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import LearnerConfig
from r1kit.train.reward_hacking import StopTraining
from r1kit.train.rollouts import Policy
from r1kit.types import Completion, Problem, Rollout, Row, Verdict


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("base") / "model").parent


TASK = load_tasks({"chain": {"weight": 1, "size": 200}})
BY_PROMPT = {p.prompt: p for split in ("train", "held_out") for p in TASK["chain"][0].problems(split)}


def solution(problem: Problem, answer: str | None = None, language: str | None = None) -> str:
    work: Worked = TASK["chain"][0].kind.solve(problem.columns["parameters"], lambda value: value)  # type: ignore[attr-defined]
    thinking = write_readable(work.steps, work.answer, language or problem.language, random.Random(1))
    return f"<think>{thinking}</think><answer>{work.answer if answer is None else answer}</answer>"


def group_of(problem: Problem, texts: Sequence[str], finish: str = "stop") -> list[Rollout]:
    chat = Chat(tokenizer())
    completions = [Completion(chat.response_ids(t), np.zeros(1, np.float32), finish) for t in texts]  # type: ignore[arg-type]
    return chat.rollouts(problem, chat.prompt_ids(problem), completions)


def direct(answer: object) -> str:
    return f"<think></think><answer>{answer}</answer>"


def test_the_figures_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    problems = list(TASK["chain"][0].problems("held_out"))[:12]
    # Small numbers, so that votes tie and wrong answers agree.
    answers = [
        [
            str(int(str(p.answer)) + int(rng.integers(0, 3))) if rng.random() < 0.8 else "none"
            for _ in range(6)
        ]
        for p in problems
    ]
    groups = [
        group_of(p, [direct(a) if a != "none" else "nothing" for a in own])
        for p, own in zip(problems, answers, strict=True)
    ]
    right = np.array([[a == p.answer for a in own] for p, own in zip(problems, answers, strict=True)])
    winners = []
    for problem, own in zip(problems, answers, strict=True):
        votes = Counter(a for a in own if a != "none").most_common()  # in order of appearance where equal
        winners.append(bool(votes) and votes[0][0] == problem.answer)
    figures = summarise(groups, {"chain": TASK["chain"][0]})
    overall = figures.overall
    assert overall.pass_1 == pytest.approx(right.mean())
    assert overall.pass_1_stderr == pytest.approx(right.mean(1).std(ddof=1) / 12**0.5)
    assert overall.pass_n == right.any(1).mean()
    assert overall.cons_n == np.mean(winners)
    assert overall.format == pytest.approx(np.mean([[a != "none" for a in own] for own in answers]))
    assert overall.length == pytest.approx(
        np.mean([len(r.completion.token_ids) for group in groups for r in group])
    )
    assert overall.problems == 12 and figures.tasks == {"chain": overall}
    assert sum(level.problems for level in figures.by_difficulty) == 12
    for level in figures.by_difficulty:
        places = [i for i, p in enumerate(problems) if p.difficulty == level.difficulty]
        assert level.problems == len(places) and level.pass_1 == pytest.approx(right[places].mean())
    assert (figures.habits, figures.direct, figures.general) == ({}, None, None)


def test_what_cannot_be_measured_is_none() -> None:
    problem = replace(PROBLEM, difficulty=None)
    figures = summarise([group_of(problem, ["nothing"] * 2)], {"chain": TASK["chain"][0]}, HABITS)
    assert figures.overall.pass_1_stderr is None  # one problem has no spread
    assert figures.by_difficulty == ()
    assert figures.habits["recheck"] == Habit(0.0, None, None)


PROBLEM = next(iter(BY_PROMPT.values()))
TRUTH = int(str(PROBLEM.answer))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([TRUTH, TRUTH, 77], 1.0),
        ([77, 77, TRUTH], 0.0),
        ([TRUTH, 77], 1.0),  # a tie goes to the answer that came first
        ([77, TRUTH], 0.0),
        (["none", "none", "none", TRUTH], 1.0),  # what follows no template has no vote
        (["none", "none"], 0.0),
        ([77, TRUTH, f"0{TRUTH}", f"\\boxed{{{TRUTH}}}", 77], 1.0),  # written differently, voted together
        ([77, f"{TRUTH} or 77", f"{TRUTH} or 77", 77], 0.0),
    ],
)
def test_the_consensus_is_the_most_frequent_answer(answers: list[object], expected: float) -> None:
    task = TASK["chain"][0]
    group = group_of(PROBLEM, ["nothing" if a == "none" else direct(a) for a in answers])
    right = [float(task.check(r.problem, r.answer).outcome == "correct") for r in group]
    assert consensus(group, right, task.vote_key) == expected  # type: ignore[attr-defined]


def test_a_completion_that_was_cut_off_is_not_right() -> None:
    groups = [group_of(PROBLEM, [direct(TRUTH)] * 3, "length"), group_of(PROBLEM, [direct(TRUTH)] * 3)]
    figures = summarise([groups[0]], {"chain": TASK["chain"][0]})
    assert figures.overall.pass_1 == figures.overall.cons_n == 0.0 and figures.truncated == 1.0
    whole = summarise([groups[1]], {"chain": TASK["chain"][0]})
    assert whole.overall.pass_1 == 1.0 and whole.truncated == 0.0


def test_habits_are_shares_of_rollouts_and_how_those_fare() -> None:
    texts = [
        f"<think>first 1+1=2, check 2-1=1, right, so {TRUTH}</think><answer>{TRUTH}</answer>",
        f"<think>first 1+1=3, wait 1+1=2, so {TRUTH}</think><answer>77</answer>",
        direct(TRUTH),
        "nothing",
    ]
    figures = summarise([group_of(PROBLEM, texts)], {"chain": TASK["chain"][0]}, HABITS)
    lengths = [len(Chat(tokenizer()).response_ids(text)) for text in texts]
    assert figures.habits == {
        "worked": Habit(0.5, 0.5, (lengths[0] + lengths[1]) / 2),
        "recheck": Habit(0.25, 1.0, lengths[0]),
        "step_back": Habit(0.25, 0.0, lengths[1]),
    }
    asks = {"asks": lambda thinking: thinking.endswith("?")}
    assert summarise([group_of(PROBLEM, texts)], {"chain": TASK["chain"][0]}, asks).habits["asks"].share == 0


def test_habits_are_named_by_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("HABITS = {'long': lambda thinking: len(thinking) > 9}\nNONE = 3\n")
    assert load_habits("worked_solutions") is HABITS
    assert load_habits("mine.py:HABITS")["long"]("x" * 10) and not load_habits("mine.py:HABITS")["long"]("x")
    for name, said in {
        "worked_solution": "did you mean 'worked_solutions'",
        "mine.py:NONE": "a set of habits is a mapping from the name of a habit to a function",
    }.items():
        with pytest.raises(ConfigError, match=f"habits: .*{said}"):
            Evaluate.parse({"models": {}, "tasks": {"chain": 1.0}, "habits": name}, "recipe")


def test_general_answers_are_scored_by_the_rewards_that_the_recipe_names() -> None:
    prompts = list(General().problems("held_out"))[:6]
    answers = [[reference_answer(p, random.Random(n), 0.5) for n in range(3)] for p in prompts]
    groups = [
        group_of(p, [f"<think>a</think>{a}" for a in own]) for p, own in zip(prompts, answers, strict=True)
    ]
    found = summarise_general(groups, load_rewards({"gold_score": 1.0}, {}))
    scores = [np.mean([gold_score(p, a) for a in own]) for p, own in zip(prompts, answers, strict=True)]
    assert found.score == pytest.approx(np.mean(scores)) and 0 < found.score < 1
    assert found.stderr == pytest.approx(np.std(scores, ddof=1) / 6**0.5)
    kinds = {p.columns["kind"] for p in prompts}
    assert set(found.kinds) == kinds and len(kinds) > 1
    for kind in kinds:
        own = [score for p, score in zip(prompts, scores, strict=True) if p.columns["kind"] == kind]
        assert found.kinds[kind] == pytest.approx(np.mean(own))


def test_general_answers_that_were_not_scored_are_no_zeros() -> None:
    def half(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [{"a": 0.5, "b": None}.get(str(r.answer), 1.0) for r in rollouts]

    plain = [Problem(f"p{n}", "own", "Hello?", None) for n in range(2)]  # prompts without a column kind
    groups = [
        group_of(p, [f"<think>x</think>{a}" for a in own]) for p, own in zip(plain, ("ab", "bb"), strict=True)
    ]
    found = summarise_general(groups, [WeightedReward("half", 2.0, half)])
    assert found == GeneralScores(1.0, None, {"own": 1.0})  # 2 x 0.5 of the only answer that was scored
    with pytest.raises(R1kitError, match=r"general\.score: gold_score gave no answer a score"):
        summarise_general(groups, load_rewards({"gold_score": 1.0}, {}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": {}}, "tasks: name the tasks whose held-out problems"),
        ({"direct": ["bsae"]}, "direct: no model 'bsae' in models: did you mean 'base'"),
        ({"controls": {"coin": ["base", "zero"]}}, r"controls\.coin: no model 'zero' in models"),
        ({"general": {"prompts": {"general": 1.0}}}, r"general\.score: "),
        ({"general": {"prompts": {"general": 1.0}, "score": {}}}, r"general\.score: name at least one"),
        (
            {"general": {"prompts": {"general": 1.0}, "score": {"gold_scor": 1.0}}},
            "did you mean 'gold_score'",
        ),
    ],
)
def test_an_evaluation_that_names_what_is_not_there_is_refused(change: dict[str, object], said: str) -> None:
    whole = {"models": {"base": "@base"}, "tasks": {"chain": 1.0}}
    assert Evaluate.parse(whole, "recipe").general is None
    with pytest.raises(ConfigError, match=said):
        Evaluate.parse({**whole, **change}, "recipe")
    with pytest.raises(ConfigError, match="tasks: name the tasks"):
        Evaluate.parse({"models": {"base": "@base"}}, "recipe")


def test_an_evaluation_whose_checker_fails_stops_instead_of_blaming_the_model() -> None:
    class Broken(Procedural):
        def check_batch(self, problems: Sequence[Problem], answers: Sequence[str | None]) -> list[Verdict]:
            return [Verdict("failed", "the sandbox is gone")] * len(problems)

    with pytest.raises(
        R1kitError, match=r"task chain: 4 of 4 answers could not be judged .*the sandbox is gone"
    ):
        summarise([group_of(PROBLEM, ["a"] * 4)], {"chain": Broken("chain")})


def test_an_evaluation_asks_held_out_problems_and_writes_its_protocol(tmp_path: Path, base: Path) -> None:
    asked: list[str] = []

    def script(prompt: str, index: int) -> str:
        asked.append(prompt)
        problem = BY_PROMPT.get(prompt)
        return solution(problem, None if index % 2 == 0 else "77") if problem else direct("你好")

    stage = Evaluate(
        models={"a": "@base", "b": "@base"},
        tasks={"chain": {"size": 200}},
        problems=5,
        n=4,
        direct=["b"],
        direct_n=3,
        general={"prompts": {"general": 1.0}, "score": {"gold_score": 1.0}, "n": 2, "problems": 30},
        habits="worked_solutions",
        examples=1,
        controls={"twice": ["b", "a"]},
    )
    ctx = context(tmp_path, base, script)
    stage.run(ctx)
    found = read(Evaluation, ctx.out / "report.json")
    a, b = found.models["a"], found.models["b"]
    assert a.overall.pass_1 == 0.5 and a.overall.pass_n == 1.0 and a.overall.problems == 5
    assert found.protocol == Protocol(
        problems=5,
        n=4,
        temperature=1.0,
        top_p=1.0,
        max_tokens=stage.max_tokens,
        direct_n=3,
        general=GeneralProtocol(problems=30, n=2, scored_by="gold_score"),
    )
    assert a.direct is None and b.direct == 0.0  # <think></think> twice is no answer
    assert a.habits["worked"].share == 1.0 and found.controls == {"twice": ("b", "a")}
    general = General().problems("held_out")[:30]
    held_out = [*itertools.islice(TASK["chain"][0].problems("held_out"), 5), *general]
    counts = Counter(asked)
    assert set(counts) == {p.prompt for p in held_out} | {f"{p.prompt}<think></think>" for p in held_out[:5]}
    for place, problem in enumerate(held_out):  # two models
        assert counts[problem.prompt] == 2 * (4 if place < 5 else 2)
        assert counts[f"{problem.prompt}<think></think>"] == (3 if place < 5 else 0)
    first = held_out[0]
    assert found.examples == (
        Example(first.prompt, first.answer, "chain", {name: solution(first) for name in "ab"}),
    )
    assert a.general is not None and a.general.score == pytest.approx(
        np.mean([gold_score(p, "你好") for p in general])
    )


def test_rejection_sampling_keeps_different_correct_solutions_in_the_prompts_language(
    tmp_path: Path, base: Path
) -> None:
    other = {"en": "zh", "zh": "en"}

    def script(prompt: str, index: int) -> str:
        problem = BY_PROMPT[prompt]
        right = solution(problem)
        return (
            right,
            right,
            solution(problem, language=other[problem.language]),
            solution(problem, "77"),
            "nothing",
        )[index]

    ctx = context(tmp_path, base, script)
    RejectionSampling(
        init="@base",
        tasks={"chain": {"size": 200}},
        general="general",
        problems=30,
        samples=5,
        general_share=0.25,
    ).run(ctx)
    rows = [json.loads(line) for line in (ctx.out / "data.jsonl").read_text().splitlines()]
    facts = json.loads((ctx.out / "report.json").read_text())
    solved = [row for row in rows if row["prompt"] in BY_PROMPT]
    assert len({row["prompt"] for row in solved}) == len(solved) == facts["kept"]
    assert all(row["completion"] == solution(BY_PROMPT[row["prompt"]]) for row in solved)
    assert facts["sampled"] == 5 * facts["kept"] and facts["correct"] == 3 * facts["kept"]
    assert facts["general"] == len(rows) - len(solved) == round(facts["kept"] / 3)
    train = {p.prompt for task in (TASK["chain"][0], General()) for p in task.problems("train")}
    assert all(row["prompt"] in train for row in rows)


def test_distillation_teaches_correct_answers_and_well_formed_general_ones(
    tmp_path: Path, base: Path
) -> None:
    def script(prompt: str, index: int) -> str:
        problem = BY_PROMPT.get(prompt)
        if problem is None:
            return "<think>a</think>hello" if "capital" in prompt or "首都" in prompt else "hello"
        return solution(problem, None if index == 0 else "77")

    ctx = context(tmp_path, base, script)
    stage = Distill(
        student="@base",
        teacher="@base",
        tasks={"chain": {"size": 200}},
        general={"general": 1.0},
        problems=10,
        samples=2,
        training={"epochs": 0.05},
    )
    stage.run(ctx)
    rows = [json.loads(line) for line in (ctx.out / "data.jsonl").read_text().splitlines()]
    solved = [row for row in rows if row["prompt"] in BY_PROMPT]
    assert len(solved) == 10 and all(
        row["completion"] == solution(BY_PROMPT[row["prompt"]]) for row in solved
    )
    capitals = {p.prompt for p in General().problems("train") if "capital" in p.prompt or "首都" in p.prompt}
    assert {row["prompt"] for row in rows} - set(BY_PROMPT) == capitals
    assert json.loads((ctx.out / "report.json").read_text())["rows"] == len(rows)
    assert (ctx.out / "model/config.json").is_file()


def test_distillation_may_go_on_with_what_the_student_writes_and_continues_where_it_was(
    tmp_path: Path, base: Path
) -> None:
    asked: list[str] = []

    def script(prompt: str, index: int) -> str:
        asked.append(prompt)
        return solution(BY_PROMPT[prompt]) if prompt in BY_PROMPT else "<think>a</think>hello"

    ctx = context(tmp_path, base, script)
    on_policy = {"steps": 2, "problems": 2, "group": 2, "max_tokens": 6}
    stage = Distill(
        student="@base",
        teacher="@base",
        tasks={"chain": {"size": 200}},
        general={"general": 1.0},
        problems=4,
        samples=1,
        training={"epochs": 0.05},
        on_policy=on_policy,
    )
    stage.run(ctx)
    facts = json.loads((ctx.out / "report.json").read_text())
    assert (
        facts["rows"] > 0 and facts["on_policy_divergence"] is not None and (ctx.out / "data.jsonl").is_file()
    )
    assert (
        (ctx.out / "model/config.json").is_file()
        and (ctx.out / "sft/model/config.json").is_file()
        and not (ctx.out / "train_state").exists()
    )
    parts = [
        row
        for row in map(json.loads, ctx.log.metrics_file.read_text().splitlines())
        if row.get("part") == "on_policy"
    ]
    assert [row["step"] for row in parts] == [0, 1] and abs(
        parts[0]["distill/divergence"]
    ) < 0.01  # student and teacher are still one model
    asked.clear()
    (ctx.out / "model/config.json").unlink()
    stage.run(replace(ctx, log=Log(tmp_path, "stage", Console(file=io.StringIO()))))
    assert not asked and (ctx.out / "model/config.json").is_file()
    mixed = with_general(load_tasks(stage.tasks), load_tasks({"general": 5.0}))
    assert set(mixed) == {"chain", "general"} and mixed["general"][1] == pytest.approx(1 / 3)


def test_fine_tuning_reads_files_of_ones_own_and_counts_what_is_too_long(tmp_path: Path, base: Path) -> None:
    file = tmp_path / "own.jsonl"
    rows = [{"prompt": "1+1?", "completion": "2"}, {"prompt": "1+1?", "completion": "2 " * 300}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ctx = context(tmp_path, base)
    SFT(init=str(base), data=[str(file)], training={"epochs": 1.0}, learner={"context": 64}).run(ctx)
    facts = json.loads((ctx.out / "report.json").read_text())
    assert (facts["rows"], facts["too_long"]) == (1, 1) and facts["loss"] > 0
    file.write_text('{"prompt": "a"}\n')
    with pytest.raises(R1kitError, match=r"own\.jsonl:1: column 'completion' is missing"):
        SFT(init="@base", data=[str(file)]).run(ctx)
    with pytest.raises(ConfigError, match=r"^nowhere\.jsonl: no such file"):
        SFT(init="@base", data=["nowhere.jsonl"]).run(ctx)


def test_preferences_are_learned_without_a_reward_model(tmp_path: Path, base: Path) -> None:
    for split in ("train", "other"):
        rows = [
            {"prompt": f"{split} {i}?", "chosen": "boil Good luck!", "rejected": "boil"} for i in range(16)
        ]
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "rejected": "x " * 300}])
        )
    ctx = context(tmp_path, base)
    learner = {"context": 64, "precision": "float32", "optimizer": {"learning_rate": 2e-3}}
    DPO(
        init="@base",
        pairs=str(tmp_path / "train.jsonl"),
        held_out=str(tmp_path / "other.jsonl"),
        dpo={"batch": 8, "epochs": 3},
        learner=learner,
    ).run(ctx)
    facts = json.loads((ctx.out / "report.json").read_text())
    assert (facts["pairs"], facts["held_out_pairs"], facts["held_out_accuracy"]) == (16, 16, 1.0) and facts[
        "held_out_margin"
    ] > 0
    assert (ctx.out / "model/config.json").is_file()
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    with pytest.raises(R1kitError, match=r"train\.jsonl:1: column 'rejected' is missing"):
        DPO(init="@base", pairs=str(tmp_path / "train.jsonl"), held_out="").run(ctx)


def test_a_training_that_the_watch_ends_keeps_its_model(tmp_path: Path, base: Path) -> None:
    def stop(policy: Policy, step: int) -> dict[str, float]:
        raise StopTraining

    ctx = context(tmp_path, base)
    tasks, rewards = rules({"format": 1.0}, {"chain": {"size": 40}})
    config = GRPOConfig(steps=4, problems=1, group=2, updates_per_rollout=1, max_tokens=4)
    reinforce(ctx, base / "model", PromptStyle(), config, LearnerConfig(), tasks, rewards, [stop])
    assert (ctx.out / "model/config.json").is_file() and not ctx.log.metrics_file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [R1Zero, ReasoningRL])
def test_the_rl_stages_run_by_ppo_where_the_recipe_says_so(
    kind: type[R1Zero], tmp_path: Path, base: Path
) -> None:
    ctx = context(tmp_path, base)
    config = {
        "steps": 2,
        "problems": 2,
        "group": 2,
        "updates_per_rollout": 1,
        "max_tokens": 6,
        "save_every": 1,
        "gae_lambda": 0.95,
    }
    stage = kind(init="@base", tasks={"chain": {"size": 40}}, ppo=config)
    plan = stage.plan()
    assert (plan.steps, plan.sampled_tokens, plan.tokens) == (2, 2 * 2 * 2 * 6, 2 * 2 * 2 * 6)
    stage.run(ctx)
    rows = [json.loads(line) for line in ctx.log.metrics_file.read_text().splitlines()]
    assert (
        len(rows) == 2
        and all(row["critic/loss"] >= 0 for row in rows)
        and rows[0]["policy/kl_ref"] == pytest.approx(0, abs=0.2)
    )
    assert {entry.name for entry in ctx.out.iterdir()} - {KEPT} == {"model"}
    assert not json.loads((ctx.out / "model/config.json").read_text()).get("scalar_head")
    with pytest.raises(ConfigError, match=r"ppo: unknown key 'lambda'"):
        kind.parse({"ppo": {"lambda": 1.0}}, "recipe")


@pytest.mark.parametrize(("others", "share", "count"), [(78, 0.22, 22), (0, 0.2, 4), (100, 0.0, 0)])
def test_general_rows_are_their_share_of_all_rows(others: int, share: float, count: int) -> None:
    tasks = load_tasks({"general": 1.0})
    rows = general_rows(tasks, others, share, 1)
    assert len(rows) == count and rows == general_rows(tasks, others, share, 1)
    assert general_rows({}, others, share, 1) == []
    train = {p.prompt for p in General().problems("train")}
    assert all(prompt in train and text.startswith("<think>") for prompt, text in rows)


def test_training_problems_come_once_each_and_never_from_the_held_out_ones() -> None:
    problems = train_problems({"chain": {"size": 50}, "mul": {"size": 50, "weight": 1}}, 80, 1)
    assert len({p.id for p in problems}) == len(problems) > 60
    held_out = {p.id for name in ("chain", "mul") for p in Procedural(name, 50).problems("held_out")}
    assert not held_out & {p.id for p in problems}


def test_pretraining_predicts_every_token_of_every_document_once() -> None:
    own = tokenizer()
    texts = [text for text, _ in zip(documents(1, CorpusMix()), range(40), strict=False)]
    rows = list(document_rows(iter(texts), own, 16))
    assert all(
        2 <= len(row.token_ids) <= 17 and row.mask.tolist() == [False] + [True] * (len(row.token_ids) - 1)
        for row in rows
    )
    expected = [[own.bos_id, *own.encode(text, special=True).tolist(), own.eos_id] for text in texts]
    assert [t for row in rows for t in row.token_ids[1:].tolist()] == [t for ids in expected for t in ids[1:]]
    starts = [row.token_ids[0] for row in rows]
    assert starts.count(own.bos_id) == len(texts)


def test_the_first_documents_come_until_they_have_made_their_share_of_the_tokens() -> None:
    stage = Pretrain.parse(
        {
            "model": {"preset": "nano"},
            "tokens": 3000,
            "corpus": {
                "generated": {"miniature": {"drills": 0.0, "general": 1.0}},
                "first": {"share": 0.4, "generated": {"miniature": {"drills": 1.0, "general": 0.0}}},
            },
        },
        "recipe",
    )
    own = tokenizer()

    def some(count: int) -> list[Row]:
        return list(itertools.islice(stage.corpus.rows(3000, own, 160, 5), count))

    is_fact = [own.decode(row.token_ids)[0].isdigit() for row in some(200)]
    first = is_fact.index(False)
    rows = some(first)
    tokens = [len(row.token_ids) for row in rows]
    assert sum(tokens[:-1]) < 0.4 * 3000 <= sum(tokens)  # the last one is the one that reaches the share
    assert not any(is_fact[first:])
    assert first < 100  # nor do they come again


@pytest.mark.parametrize(
    ("corpus", "more", "message"),
    [
        ({"generated": {"miniature": 1.0}, "first": {"share": 0.5}}, {}, "corpus.first: name its documents"),
        ({"first": {"share": 0.5, "generated": {"miniature": 1.0}}}, {}, "corpus: name what to read"),
        (
            {"generated": {"miniature": 1.0}, "first": {"share": 1.0, "generated": {"miniature": 1.0}}},
            {},
            "corpus.first.share",
        ),
        (
            {"files": {"a.jsonl": 1.0}, "first": {"share": 0.5, "generated": {"miniature": 1.0}}},
            {"curriculum": {"by": "length"}},
            "leave corpus.first out, or curriculum",
        ),
        (
            {
                "packed": {"sources": {"a": {"path": "a.jsonl"}}},
                "first": {"share": 0.5, "generated": {"miniature": 1.0}},
            },
            {},
            "first out, or packed",
        ),
        (
            {"generated": {"miniature": 1.0}, "first": {"share": 0.5, "generated": {"miniatur": 1.0}}},
            {},
            "did you mean 'miniature'",
        ),
    ],
)
def test_first_documents_that_make_no_sense_are_refused(
    corpus: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Pretrain.parse({"model": {"preset": "nano"}, "tokens": 100, "corpus": corpus, **more}, "recipe")


def test_what_a_report_could_not_measure_is_null(tmp_path: Path, base: Path) -> None:
    ctx = context(tmp_path, base)
    report(ctx, a=float("nan"), b={"c": [1.5, float("inf")]}, d=2)
    assert json.loads((ctx.out / "report.json").read_text(), parse_constant=pytest.fail) == {
        "a": None,
        "b": {"c": [1.5, None]},
        "d": 2,
    }


def test_a_configuration_given_in_part_keeps_the_stages_own_default() -> None:
    corpus = {"generated": {"miniature": 1.0}}
    plain = Pretrain(model={"preset": "nano"}, tokens=1, corpus=corpus)
    changed = Pretrain(
        model={"preset": "nano"},
        tokens=1,
        corpus=corpus,
        training={"mtp_weight": 0.1},
        learner={"optimizer": {"learning_rate": 1e-4}},
    )
    assert changed.training == plain.training.model_copy(update={"mtp_weight": 0.1})
    assert (
        changed.training.schedule.kind == "wsd"
        and changed.learner.optimizer.kind == "muon"
        and changed.learner.context == plain.learner.context
    )
    keys = {"grpo": {"steps": 5}, "tasks": {"chain": 1}, "prompts": {"general": 1}}
    aligned = STAGES["alignment_rl"].parse(keys, "stage")
    assert aligned.grpo.temperature == 0.7  # type: ignore[attr-defined]
    assert SFT(training={"schedule": {"warmup": 3}}).training.schedule.kind == "cosine"
    with pytest.raises(ConfigError, match="training: unknown key 'mtp_wait': did you mean 'mtp_weight'"):
        Pretrain.parse({"model": {}, "tokens": 1, "training": {"mtp_wait": 1}}, "recipe")


def test_a_reference_is_a_stages_model_or_a_plain_directory(tmp_path: Path, base: Path) -> None:
    ctx = context(tmp_path, base)
    for reference in (str(base), str(base / "model"), "@base", "@base/model"):
        assert ctx.model(reference) == base / "model"
    with pytest.raises(ConfigError, match="names no finished stage"):
        ctx.model("@other")
    with pytest.raises(ConfigError, match=r"nowhere: no such folder.*a GGUF file"):
        ctx.model("nowhere")
    assert write_summary("3", "xx") == "\\boxed{3}"
