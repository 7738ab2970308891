"""The verdict of r1kit prove: its rule by hand and by simulation, its controls, and a whole proof of a tiny
run."""

import itertools
import json

import numpy as np
import proofs
import pytest
from rich.console import Console
from typer.testing import CliRunner

from r1kit.commands.cli import app
from r1kit.config import ConfigError
from r1kit.figures.proof import DRIFTS, against, prove
from r1kit.rewards import load_rewards
from r1kit.stages.problem_scores import swapped
from r1kit.tasks import load_tasks
from r1kit.types import Completion, Problem, Rollout

BASE = [0.1] * 20


def test_the_p_value_is_the_share_of_signs_that_are_as_good():
    trained, other = [0.9, 0.5, 0.7, 0.2, 0.6], [0.1, 0.6, 0.1, 0.1, 0.1]
    gaps = [a - b for a, b in zip(trained, other, strict=True)]
    signs = itertools.product((-1, 1), repeat=5)
    better = [sum(s * g for s, g in zip(flips, gaps, strict=True)) >= sum(gaps) - 1e-12 for flips in signs]
    assert against("other", trained, other).p_value == pytest.approx(sum(better) / 32)
    assert against("other", other, trained).p_value > 0.9


@pytest.mark.parametrize(
    ("trained", "coins", "controls", "blind", "expected"),
    [
        (0.8, (0.12, 0.08), {"format_only": 0.2}, 0.1, "learned"),
        (0.1, (0.12, 0.08), {"format_only": 0.1}, 0.1, "noise"),
        (0.05, (0.12, 0.08), {"format_only": 0.1}, 0.1, "noise"),  # worse than the base
        (0.3, (0.18, 0.1), {"format_only": 0.1}, 0.1, "noise"),  # 0.2 is not more than 3 x 0.08
        (0.8, (0.12, 0.08), {"format_only": 0.8}, 0.1, "artefact"),
        (0.8, (0.12, 0.08), {"format_only": 0.2}, 0.8, "artefact"),  # right without the question
        (0.8, (0.12, 0.08), {"format_only": 0.9}, 0.1, "artefact"),
    ],
)
def test_each_verdict_has_its_case(trained, coins, controls, blind, expected):
    def series(mean):
        return [mean] * 20

    found = prove(
        series(trained),
        BASE,
        [series(coin) for coin in coins],
        {name: series(mean) for name, mean in controls.items()},
        series(blind),
    )
    assert found.verdict == expected, found.reason
    assert found.p_value == max(one.p_value for one in found.comparisons)


def null_run(rng, changes, problems=60, samples=8):
    """Measured models whose true accuracies differ from the base's by what a training changes by chance."""
    difficulty = rng.uniform(0.05, 0.6, problems)
    models = [difficulty] + [np.clip(difficulty + change, 0, 1) for change in changes]
    return [(rng.binomial(samples, model) / samples).tolist() for model in models]


def test_one_more_training_by_a_coin_is_rarely_called_learned():
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(40):
        base, trained, *coins, wrong = null_run(rng, rng.normal(0, 0.05, 4))
        called += prove(trained, base, coins, {"wrong_labels": wrong}).verdict == "learned"
    assert called <= 2


def test_a_training_that_teaches_is_always_called_learned():
    rng = np.random.default_rng(2)
    for _ in range(10):
        base, trained, *coins, wrong = null_run(rng, [0.4, *rng.normal(0, 0.03, 3)])
        assert prove(trained, base, coins, {"wrong_labels": wrong}).verdict == "learned"


def test_a_change_by_chance_exceeds_three_times_that_of_two_coins_in_three_percent():
    drawn = np.random.default_rng(3).normal(size=(200_000, 3))
    share = np.mean(drawn[:, 0] > DRIFTS * np.abs(drawn[:, 1:]).max(1))
    assert 0.025 < share < 0.04


def rollout(problem, answer, index=0):
    text = f"<think>so {answer}</think><answer>{answer}</answer>"
    ids = np.zeros(3, dtype=np.int32)
    return Rollout(problem, index, ids, Completion(ids, ids.astype(np.float32), "stop"), text, "so", answer)


@pytest.fixture(scope="module")
def task():
    return load_tasks({"mul": 1.0})["mul"][0]


def rewards_of(name, task, **options):
    (reward,) = load_rewards({name: {"weight": 1.0, **options}}, {"mul": task})
    return reward.function


@pytest.mark.parametrize(("positive", "negative"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (1.0, 1.0)])
def test_a_noisy_verifier_errs_at_its_rates(task, positive, negative):
    problems = task.problems("train")[:1500]
    reward = rewards_of("noisy_accuracy", task, false_positive=positive, false_negative=negative)
    right = reward([rollout(problem, problem.answer) for problem in problems])
    wrong = reward([rollout(problem, "-1") for problem in problems])
    assert np.mean(right) == pytest.approx(1 - negative, abs=0.04)
    assert np.mean(wrong) == pytest.approx(positive, abs=0.04)
    again = reward([rollout(problem, "-1", index=5) for problem in problems])
    assert again == wrong  # a verdict belongs to the response, not to its place in the group


def test_a_rate_outside_0_to_1_is_refused(task):
    with pytest.raises(ConfigError, match=r"false_positive.*1\.5"):
        rewards_of("noisy_accuracy", task, false_positive=1.5)


def test_wrong_labels_never_accept_the_right_answer(task):
    problems = task.problems("train")[:300]
    reward = rewards_of("wrong_labels", task)
    assert sum(reward([rollout(problem, problem.answer) for problem in problems])) == 0
    accepted = [
        sum(reward([rollout(problem, str(answer)) for answer in range(100)])) for problem in problems[:20]
    ]
    assert accepted == [1.0] * 20  # one other answer is accepted, always the same
    alone = [Problem("a", "one", "1+1", "2")]

    class One:
        name = "one"
        check = check_batch = None

        def problems(self, split):
            return alone

    (lonely,) = load_rewards({"wrong_labels": 1.0}, {"one": One()})
    with pytest.raises(ConfigError, match="no training problem with another answer than '2'"):
        lonely.function([rollout(alone[0], "2")])


def test_a_coin_does_not_read_the_response(task):
    problems = task.problems("train")[:1000]
    coin, other = rewards_of("coin", task), rewards_of("coin", task, seed=1)
    right = coin([rollout(problem, problem.answer) for problem in problems])
    assert right == coin([rollout(problem, "-1") for problem in problems])
    assert set(right) == {0.0, 1.0} and 0.45 < np.mean(right) < 0.55
    assert right != other([rollout(problem, problem.answer) for problem in problems])


def test_swapped_prompts_are_each_shown_once_and_never_with_their_own_problem():
    problems = [Problem(f"{task}{number}", task, "", "1") for task in "ab" for number in range(5)]
    shown = swapped(problems)
    assert sorted(one.id for one in shown) == sorted(one.id for one in problems)
    assert all(
        one.task == other.task and one.id != other.id for one, other in zip(problems, shown, strict=True)
    )


TINY = """
name: tiny
runtime: {kind: local, processes: 1, engine_precision: float32}
stages:
  - stage: pretrain
    model: {preset: nano}
    tokens: 4096
    tokenizer: 320
    corpus: {generated: {miniature: {kinds: [mul]}}}
  - stage: r1_zero
    tasks: {mul: 1.0}
    rewards: {accuracy: 1.0, format: 0.1}
    preflight: "off"
    grpo: {steps: 2, problems: 2, group: 2, max_tokens: 8}
"""


@pytest.mark.slow
def test_a_whole_proof_of_a_run_that_learned_nothing(tmp_path):
    recipe, run = tmp_path / "tiny.yaml", tmp_path / "tiny"
    recipe.write_text(TINY, encoding="utf-8")
    assert CliRunner().invoke(app, ["run", str(recipe), "--out", str(run)]).exit_code == 0
    command = ["prove", str(run), "--steps", "1", "--limit", "4", "--n", "2"]
    first = CliRunner().invoke(app, command)
    out = tmp_path / "tiny-proof" / "r1_zero"
    assert first.exit_code == 0, first.output
    assert "**r1_zero: noise**" in first.output
    written = json.loads((out / "proof.json").read_text(encoding="utf-8"))
    assert written["proof"]["verdict"] == "noise" and written["control_steps"] == 1
    wrong = CliRunner().invoke(app, ["prove", str(run), "--stage", "pretrain"])
    assert wrong.exit_code != 0
    (again,) = proofs.prove_seeds(run, [3], 1, Console(quiet=True))
    assert again.stage == "r1_zero_3" and again.proof.verdict == "noise"


def test_trainings_by_a_coin_differ_in_their_coins_and_rollouts_alone():
    coin = {"name": "coin", "rewards": {"coin": 1.0}, "seed_of": "coin", "grpo": {"steps": 9, "group": 8}}
    stages = proofs.null_stages(coin, 3)
    assert [stage["rewards"] for stage in stages] == [{"coin": {"seed": n}} for n in range(3)]
    assert len({stage["seed_of"] for stage in stages}) == len({stage["name"] for stage in stages}) == 3
    assert all(stage["grpo"] == coin["grpo"] for stage in stages)


def test_each_training_by_a_coin_is_judged_by_the_two_after_it():
    means = [0.9, 0.12, 0.08, 0.11]
    nulls = [[mean] * 20 for mean in means]
    found = proofs.judge_all(proofs.Measured([0.1] * 20, [0.12] * 20, nulls, [[0.0] * 20] * 4))
    assert [proof.verdict for proof in found] == ["learned", "noise", "noise", "noise"]
    # the change by a coin is that of the two that follow, in a circle
    assert [proof.drift for proof in found] == pytest.approx([0.02, 0.02, 0.8, 0.8])
    swapped = proofs.judge_all(proofs.Measured([0.1] * 20, [0.12] * 20, nulls, nulls))
    assert swapped[0].verdict == "artefact"


@pytest.mark.slow
def test_two_trainings_by_a_coin_are_trained_measured_and_judged(tmp_path, monkeypatch):
    small = proofs.RECIPE.read_text(encoding="utf-8").replace("tokens: 800_000", "tokens: 4096")
    recipe = tmp_path / "proofs.yaml"
    recipe.write_text(small.replace("steps: 8, problems: 8, group: 8", "steps: 1, problems: 2, group: 2"))
    monkeypatch.setattr(proofs, "RECIPE", recipe)
    monkeypatch.setattr(proofs, "PROBLEMS", 4)
    out = tmp_path / "run"
    proofs.train_nulls(2, Console(quiet=True), out)
    found = proofs.measure_nulls(2, out)
    assert len(found.nulls) == len(found.swapped) == 2 and len(found.base) == len(found.format) == 4
    assert {proof.verdict for proof in proofs.judge_all(found)} == {"noise"}
    base = (out / "stages" / "base" / "model").resolve()
    proofs.train_nulls(1, Console(quiet=True), tmp_path / "other", base)
    assert proofs.find_subject(tmp_path / "other", "null_0").init == base
    assert not (tmp_path / "other" / "stages" / "base").exists()
