"""benchmarks/findings.py and ablation.py: the claims fit their recipes, arms differ from their control in one
key, and tests and verdicts are what the file of claims says, on numbers worked out by hand."""

from types import SimpleNamespace
from typing import Any

import ablation
import findings
import numpy as np
import paired
import pytest
from tree_search import search

from r1kit.config import ConfigError
from r1kit.recipe.layers import Layers, read_layers
from r1kit.recipe.recipe import build, load, resolved
from r1kit.runs.execute import run
from r1kit.types import Completion, Problem, Rollout

CLAIMS = findings.read_claims(findings.CLAIMS)
WITH_RECIPE = [claim for claim in CLAIMS if claim.recipe]


def values(numbers, steps=None):
    names = [f"p{place}" for place in range(len(numbers))]
    return paired.Values(
        dict(zip(names, numbers, strict=True)), dict(zip(names, steps or [2.0] * len(numbers), strict=True))
    )


@pytest.mark.parametrize("claim", WITH_RECIPE, ids=lambda claim: claim.title)
def test_every_value_of_a_claim_is_a_stage_of_its_recipe(claim):
    recipe = load(findings.CLAIMS.parent / claim.recipe)
    stages = {stage.name for stage in recipe.stages}
    measures = {word for words in findings.MEASURES for word in words.split(", ")}
    for name in claim.names():
        model, _, measure = name.rpartition(".")
        stage, _, decoding = model.partition("@")
        assert stage in stages and measure in measures and decoding in paired.DECODINGS
        assert (decoding == "programs") == (claim.recipe == "programs.yaml")
    assert claim.tests and claim.recipe in findings.ORDER


def test_a_claim_without_a_recipe_says_why():
    assert all(claim.not_built or claim.not_testable for claim in CLAIMS if not claim.recipe)
    assert [claim.number for claim in CLAIMS] == list(range(1, len(CLAIMS) + 1))


# Arm, its control, and the key of the stage in which they differ.
ONE_KEY = [
    ("pure-rl.yaml", "coin", "zero", "rewards"),
    ("format-reward.yaml", "no_format", "zero", "rewards"),
    ("language-reward.yaml", "language", "zero", "rewards"),
    ("length-cap.yaml", "raised", "kept", "grpo.max_tokens"),
    ("clip-range.yaml", "clip_02", "clip_10", "grpo.epsilon"),
    ("ppo.yaml", "ppo_95", "ppo_100", "ppo.gae_lambda"),
    ("reference.yaml", "reference_refreshed", "reference_fixed", "grpo.reference_refresh"),
    ("verifier-noise.yaml", "positive_30", "negative_30", "rewards"),
    ("process-reward.yaml", "process", "zero", "rewards"),
    ("sizes.yaml", "small_zero", "tiny_zero", "init"),
    ("programs.yaml", "by_examples", "by_tests", "tasks.programs.answer"),
    ("programs.yaml", "by_tests_and_speed", "by_tests", "rewards"),
    ("programs.yaml", "by_tests_and_lint", "by_tests", "rewards"),
]


@pytest.mark.parametrize(("recipe", "arm", "control", "key"), ONE_KEY, ids=lambda value: str(value))
def test_an_arm_differs_from_its_control_in_one_key(recipe, arm, control, key):
    found = {stage["name"]: stage for stage in resolved(load(findings.CLAIMS.parent / recipe))["stages"]}

    def flat(value, path=""):
        if not isinstance(value, dict) or path == "rewards":
            return {path: value}
        return {
            name: leaf for k, v in value.items() for name, leaf in flat(v, f"{path}.{k}".strip(".")).items()
        }

    one, other = flat(found[arm]), flat(found[control])
    differs = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    assert differs - {"name"} == {key}


def test_all_recipes_have_the_same_zero_and_base():
    found = {}
    for name in findings.ORDER:
        recipe = resolved(load(findings.CLAIMS.parent / name))
        for stage in recipe["stages"]:
            assert found.setdefault(stage["name"], stage) == stage, (name, stage["name"])
    assert {"base", "zero", *ablation.ARMS} <= found.keys()


def test_a_seed_has_stages_of_its_own_and_the_base_in_common():
    layers = read_layers(findings.CLAIMS.parent / "stages.yaml")
    written = layers.data["stages"]
    assert [stage["name"] for stage in paired.seeded(written, 0)] == [
        stage.get("name", stage["stage"]) for stage in written
    ]
    recipe = build(Layers({**layers.data, "stages": paired.seeded(written, 2)}))
    found: dict[str, Any] = {stage.name: stage for stage in recipe.stages}
    assert list(found) == ["base", *(f"{stage['name']}_2" for stage in written[1:])]
    assert found["zero_2"].init == "@base" and found["cold_start_2"].rollouts_from == ["@zero_2"]
    programs = paired.seeded(read_layers(findings.CLAIMS.parent / "programs.yaml").data["stages"], 2)
    assert [stage["name"] for stage in programs[:3]] == ["program_base", "test_writing_2", "by_tests_2"]
    assert programs[2]["tasks"]["programs"]["train"] == "@test_writing_2/data.jsonl"
    assert found["sft_2"].data == ["@rejection_sampling_2/data.jsonl"] and found["zero_2"].seed_of == "zero_2"


def test_a_difference_is_averaged_over_seeds_for_each_problem():
    pairs = [(values([1.0, 0.5, 0.5]), values([0.0, 0.5, 0.0])), (values([0.0, 1.0, 0.5]), values([0.0] * 3))]
    found = paired.difference(pairs)
    assert found.seeds == pytest.approx([0.5, 0.5])
    assert found.test.difference == pytest.approx(0.5) and found.one_sign
    # by hand: the problems' means are .5, .5, .5; all signs: 2 of 8 are as far from 0
    assert found.test.p_value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("expect", "gaps", "wanted"),
    [
        ("higher", [[0.2] * 12, [0.1] * 12, [0.1] * 12], True),
        ("higher", [[0.4] * 12, [0.1] * 12, [-0.01] * 12], False),  # one seed has the other sign
        ("higher", [[0.2, -0.2] * 6] * 3, False),
        ("lower", [[-0.2] * 12] * 3, True),
        ("lower", [[0.2] * 12] * 3, False),
        ({"at_most": 0.05}, [[0.04] * 12] * 3, True),
        ({"at_most": 0.05}, [[0.06] * 12] * 3, False),
        ({"at_most": 0.05}, [[0.3, -0.3] * 6] * 3, False),  # too uncertain
        ({"at_least": -0.03}, [[-0.02] * 12] * 3, True),
        ({"at_least": -0.03}, [[-0.04] * 12] * 3, False),
        ({"within": 0.05}, [[0.04] * 12] * 3, True),
        ({"within": 0.05}, [[-0.06] * 12] * 3, False),
        ({"within": 0.05}, [[0.06] * 12] * 3, False),
    ],
)
def test_each_expectation_on_both_sides(expect, gaps, wanted):
    pairs = [(values([0.5 + gap for gap in seed]), values([0.5] * len(seed))) for seed in gaps]
    assert findings.holds(expect, paired.difference(pairs)) is wanted


def test_more_on_hard_compares_the_gains_of_the_two_classes():
    steps = [2.0] * 20 + [4.0] * 20
    base = values([0.5] * 20 + [0.1] * 20, steps)
    hard = values([0.6] * 20 + [0.5] * 20, steps)
    found = paired.more_on_hard([(hard, base)] * 3)
    assert found.seeds == pytest.approx([0.3] * 3) and found.holds
    easy = values([0.9] * 20 + [0.2] * 20, steps)
    assert not paired.more_on_hard([(easy, base)] * 3).holds


def test_rises_is_spearmans_correlation_with_the_steps():
    steps = [float(2 + place % 3) for place in range(60)]
    up, down = [10 * step for step in steps], [-step for step in steps]
    assert paired.rises([values(up, steps)] * 3, draws=200).seeds == pytest.approx([1.0] * 3)
    assert paired.rises([values(up, steps)] * 3, draws=200).holds
    assert not paired.rises([values(down, steps)] * 3, draws=200).holds
    noise = np.random.default_rng(0).normal(size=60).tolist()
    assert not paired.rises([values(noise, steps)] * 3, draws=200).holds


def test_the_model_of_steps_is_mostly_right_and_can_be_exploited():
    own = paired.step_score.__globals__  # the module, imported once
    assert own["steps_of"]("start with 12+35=47, 等等47-8=38，so 38") == [(12, "+", 35, 47), (47, "-", 8, 38)]
    assert [own["is_right"](step) for step in ((12, "+", 35, 47), (47, "-", 8, 38), (17, "/", 5, 3))] == [
        *(True, False, True)
    ]
    fresh = own["labelled_steps"](1, 600)
    labels = np.array([label for _, label in fresh])
    called = own["probabilities"]([step for step, _ in fresh]) > 0.5
    assert 0.3 < labels.mean() < 0.7
    assert 0.8 < np.mean(called == labels) < 1.0
    assert own["step_score"]("no step at all") == 0.0
    assert own["step_score"]("1+1=2, 1+1=2") == own["step_score"]("1+1=2")  # steps of no problem are as good


class Letters:
    """A model that continues each beginning by each of the digits 1 to 4, and ends after three."""

    tokenizer = SimpleNamespace(
        end_ids=(9,), decode=lambda ids: "".join(str(one) for one in ids.tolist() if one != 9)
    )
    longest = 0

    def prompt_ids(self, problem):
        return np.array([0], dtype=np.int32)

    def generate(self, prompts, sampling, seeds):
        self.longest = max(self.longest, len(prompts))
        assert len(seeds) == len(set(seeds)) == len(prompts)
        ends = [len(prompt) == 3 for prompt in prompts]
        return [
            [
                Completion(np.array([digit, *[9] * end]), np.zeros(1), "stop")
                for digit in range(1, sampling.n + 1)
            ]
            for end in ends
        ]

    def rollouts(self, problem, prompt, completions):
        text = self.tokenizer.decode(completions[0].token_ids)
        return [Rollout(problem, 0, prompt, completions[0], text, "", text)]


@pytest.mark.parametrize(("beams", "found"), [(1, "411"), (2, "344"), (3, "344")])
def test_a_search_keeps_the_best_beginnings_of_each_step(beams, found):
    # 4 is the best beginning, and leads nowhere: only a wider beam finds what 3 leads to.
    def value(text):
        return {"4": 0.9, "3": 0.8}.get(
            text, 0.7 + int(text) / 1e4 if text[0] == "3" else 0.5 - int(text) / 1e4
        )

    letters = Letters()
    problems = [Problem("a", "t", "", "1"), Problem("b", "t", "", "1")]
    rollouts = search(letters, letters, problems, value, beams=beams, branches=4)
    assert [(one.text, one.group, one.completion.finish) for one in rollouts] == [
        (found, 0, "stop"),
        (found, 1, "stop"),
    ]
    assert letters.longest == 2 * min(beams, 3)


def claim(**changes):
    test = {"value": "zero.right", "against": "base.right", "expect": "higher"}
    plain = {"number": 1, "title": "A", "paper": "B", "recipe": "pure-rl.yaml", "tests": [test]}
    return findings.Finding.parse({**plain, **changes}, "claims")


def test_no_verdict_without_three_seeds(monkeypatch):
    measured = {"zero": 0.8, "base": 0.2}
    done = {0, 1}
    monkeypatch.setattr(
        findings,
        "values",
        lambda name, seed: values([measured[name.split(".")[0]]] * 12) if seed in done else None,
    )
    found = findings.judge(claim(), range(3))
    assert found.verdict == "not run yet" and "2 of 3 seeds" in findings.page([found])
    done.add(2)
    assert findings.judge(claim(), range(3)).verdict == "reproduced"
    measured["zero"] = 0.1
    page = findings.page([findings.judge(claim(), range(3))])
    assert "**not reproduced**" in page and "does not hold" in page
    assert findings.judge(claim(not_built="there is none", tests=[]), range(3)).verdict == "not built"


def measured(numbers, monkeypatch):
    monkeypatch.setattr(findings, "values", lambda name, seed: numbers.get(name.split(".")[0]))


def test_figures_are_kept_until_a_newer_run_or_another_test(tmp_path, monkeypatch):
    kept, page = tmp_path / "kept.jsonl", tmp_path / "docs" / "findings.md"
    drawing = tmp_path / "docs" / "figures" / "finding-1.svg"
    first = {"zero": values([0.8] * 12), "base": values([0.2] * 12)}
    measured(first, monkeypatch)
    findings.write([claim()], range(3), page, kept)
    written = page.read_text()
    assert "1 claims: 1 reproduced" in written and "| `zero.right` | 0.800 | 0.800 0.800 0.800 |" in written
    drawing.unlink()
    measured({}, monkeypatch)  # the run is gone
    findings.write([claim()], range(3), page, kept)
    assert page.read_text() == written and not drawing.exists()
    other = claim(tests=[{"value": "zero.right", "against": "base.right", "expect": "lower"}])
    findings.write([other], range(3), page, tmp_path / "copy.jsonl")
    assert "not run yet" in page.read_text()
    (tmp_path / "copy.jsonl").write_text(kept.read_text())
    findings.write([other], range(3), page, tmp_path / "copy.jsonl")  # the figures of another test
    assert "not run yet" in page.read_text() and (tmp_path / "copy.jsonl").read_text() == ""
    measured(first | {"zero": values([0.1] * 12)}, monkeypatch)
    findings.write([claim()], range(3), page, kept)
    assert "1 not reproduced" in page.read_text() and "0.800" not in kept.read_text()


def test_the_committed_figures_are_of_the_claims_as_they_stand():
    kept = findings.read_kept(CLAIMS, findings.KEPT)
    assert len(kept) == len(findings.KEPT.read_text().splitlines())
    for one in kept.values():
        assert len(one.seeds) >= findings.FEWEST_SEEDS and one.day
        assert all(len(means) == len(one.seeds) for means in one.means.values())
    page = (findings.CLAIMS.parents[2] / "docs" / "findings.md").read_text()
    judged = [kept.get(claim.number, findings.Judged(claim, [], {}, [], "")) for claim in CLAIMS]
    assert page == findings.page(judged)


def test_an_unknown_test_is_refused():
    with pytest.raises(ConfigError, match="no test 'bigger'"):
        claim(tests=[{"value": "zero.right", "expect": "bigger"}])


def test_the_ablation_compares_seeds_that_have_both():
    full = ablation.Arm("full", [0, 1], {"right": [values([0.5] * 4), values([0.7] * 4)]})
    arm = ablation.Arm("no_sft", [1], {"right": [values([0.4] * 4)]})
    found = ablation.gap(arm, full, "right")
    assert found is not None and found.seeds == pytest.approx([-0.3])
    assert ablation.gap(ablation.Arm("no_sft", [2], {"right": [values([0.4])]}), full, "right") is None


def difference_of(left_out, seeds, p_value):
    mean = sum(seeds) / len(seeds)
    return ablation.Gap(left_out, "right", mean, mean - 0.02, mean + 0.02, p_value, seeds)


def test_the_ablation_names_the_differences_that_all_seeds_agree_on():
    found = ablation.in_words(
        [
            difference_of("SFT", [-0.2, -0.1, -0.3], 0.001),
            difference_of("the cold start", [0.2, 0.3, -0.01], 0.001),  # one seed has the other sign
            difference_of("reasoning RL", [-0.1, -0.1, -0.1], 0.06),
        ]
    )
    assert found.startswith("**Without SFT, the share of right answers falls by 0.200 (-0.220 to -0.180).**")
    assert "cold start" not in found and "reasoning" not in found
    none = ablation.in_words([difference_of("SFT", [-0.1, 0.1, 0.1], 0.9)])
    assert none == "No stage has an effect that all seeds agree on."


def test_the_page_of_the_ablation_is_written_from_what_was_kept(tmp_path, monkeypatch):
    scores = {"full": [0.5] * 12, "no_sft": [0.4] * 12}
    monkeypatch.setattr(ablation, "day_of_run", lambda: "2026-01-02")
    monkeypatch.setattr(
        ablation,
        "values",
        lambda name, seed: values(own) if (own := scores.get(name.split(".")[0])) else None,
    )
    page, kept = tmp_path / "ablation.md", tmp_path / "kept.json"
    ablation.write(range(3), page, kept)
    written = page.read_text()
    assert "Without SFT, the share of right answers falls by 0.100" in written and "2026-01-02" in written
    scores.clear()
    ablation.write(range(3), page, kept)
    assert page.read_text() == written
    ablation.write(range(3), page, tmp_path / "none.json")
    assert "Not measured yet" in page.read_text()


def tiny(value: Any) -> Any:
    """A recipe's plain data with the least of everything that costs time."""
    least = {
        "steps": 1,
        "problems": 4,
        "group": 2,
        "samples": 2,
        "updates_per_rollout": 1,
        "tokens": 4096,
        "rows": 4,
        "epochs": 1,
        "max_pairs": 8,
        "save_every": 1,
        "max_tokens": 24,
    }
    if isinstance(value, dict):
        small = {key: least[key] if key in least else tiny(inner) for key, inner in value.items()}
        allowed = {"allow_empty": True} if value.get("stage") in ("sft", "distill", "cold_start") else {}
        return {**small, **allowed}
    return [tiny(inner) for inner in value] if isinstance(value, list) else value


# One stage of each kind and setting; the others differ from one of these in a number.
KINDS = (
    *("base", "zero", "ppo_95", "process", "small_base", "small_distilled"),
    *("cold_start", "reasoning_rl", "rejection_sampling", "sft", "reward_models", "hacking", "full"),
)


@pytest.mark.slow
def test_every_kind_of_stage_runs_and_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(paired, "RUN", tmp_path / "run")
    monkeypatch.setattr(paired, "PROBLEMS", 2)
    monkeypatch.setattr(paired, "GENERAL", 2)
    stages: dict[str, dict[str, Any]] = {}
    for name in findings.ORDER:
        layers = read_layers(findings.CLAIMS.parent / name)
        for stage in layers.data["stages"]:
            named = stage.get("name", stage["stage"])
            if named in KINDS:
                stages.setdefault(named, tiny(stage))
    assert set(stages) == set(KINDS)
    data = {**layers.data, "out": str(tmp_path / "run"), "stages": list(stages.values())}
    run(build(Layers(data, source="tiny")))
    for name in (
        "zero@shown.right",
        "zero@greedy.repeats",
        "sft.language",
        "full.general",
        "process.step_score",
    ):
        found = paired.values(name, 0)
        assert found is not None and len(found.by_problem) <= 6
    searched = paired.values("zero@searched.right", 0)
    assert searched is not None and len(searched.by_problem) == 6
    assert paired.values("zero.right", 1) is None  # another seed has not been trained
    with pytest.raises(ConfigError, match="no decoding 'warm'"):
        paired.values("zero@warm.right", 0)
    with pytest.raises(ConfigError, match="no measure 'wrong'"):
        paired.values("zero.wrong", 0)
