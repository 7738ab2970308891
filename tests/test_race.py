"""benchmarks/race.py: when a side has reached the target, what is counted, the same problems and rewards on
both sides, and what the page says; nothing is timed."""

import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import race
import race_page
import race_trl_rules
import race_work
from bench.race import Measured, Side
from public_data import ROOT
from small_world import model_directory, tokenizer

import r1kit
from r1kit.chat import Chat
from r1kit.config import R1kitError
from r1kit.rewards import WeightedReward
from r1kit.stages.r1_zero import R1Zero
from r1kit.types import Problem

LITTLE = ("grpo.problems=2", "grpo.group=2", "grpo.max_tokens=6", "grpo.gate_problems=0")


class FakeSide:
    """Spends 10 processor seconds for an order, of which 2 are for writing the weights."""

    def __init__(self, wall_s=20.0):
        self.orders, self.wall_s = [], wall_s

    def measure(self, order, seconds):
        self.orders.append(order)
        step = sum(each["steps"] for each in self.orders)
        reply = {"saving": {"cpu_s": 2.0, "wall_s": 5.0}, "step": step, "right": 0.5}
        return Measured(100, 10.0, self.wall_s, 300.0 + step, reply)


def judged(*values):
    left = iter(values)
    return SimpleNamespace(pass_1=lambda folder: next(left))


def test_a_side_ends_at_the_first_measurement_that_reaches_the_target(tmp_path):
    side = FakeSide()
    found = race.pace(side, judged(0.2, 0.799, 0.8, 0.1), 3, 256, 60, 0.8, 1000.0, tmp_path)
    assert found["reached"] == {
        "step": 9, "cpu_s": 24.0, "wall_s": 45.0, "tokens": 100, "right": 0.5, "pass_1": 0.8,
    }  # fmt: skip
    assert [point["pass_1"] for point in found["points"]] == [0.2, 0.799, 0.8]
    assert [order["steps"] for order in side.orders] == [3, 3, 3] and found["peak_mb"] == 309


def test_a_side_is_cut_off_where_its_budget_is_used(tmp_path):
    noted = []
    found = race.pace(FakeSide(), judged(*[0.1] * 9), 3, 256, 60, 0.8, 20.0, tmp_path, noted.append)
    assert [each["budget"] for each in noted] == [8.0, 16.0, 24.0]  # what an interrupted side has used
    assert found["reached"] is None and [point["cpu_s"] for point in found["points"]] == [8.0, 16.0, 24.0]
    ended = race.pace(FakeSide(), judged(*[0.1] * 9), 3, 256, 8, 0.8, 1000.0, tmp_path)
    assert ended["reached"] is None and len(ended["points"]) == 2  # the schedule has no third time 3 updates


def settings_of(stage):
    grpo = stage.grpo
    return (
        grpo.advantage, grpo.aggregation, grpo.epsilon_high, grpo.problems, grpo.group,
        grpo.schedule.warmup, stage.learner.optimizer.learning_rate, grpo.schedule.kind, grpo.steps,
    )  # fmt: skip


def test_a_setting_of_trl_is_the_same_algorithm_in_r1kits_words(tmp_path):
    setting = race_work.Setting(1e-4, "constant", 90, "dr_grpo", "group", 0.3, 2, 16, 4)
    changed = race_work.stage_of(tmp_path, setting.changes())
    assert settings_of(changed) == ("group_std", "constant", 0.3, 16, 4, 2, 1e-4, "constant", 90)
    recipe = race_work.stage_of(tmp_path)
    same = race_work.stage_of(tmp_path, race.SAME.changes())
    assert settings_of(same) == settings_of(recipe)


def test_the_course_of_the_real_model_is_its_recipe_but_for_the_number_of_steps_and_of_problems(tmp_path):
    recipe = r1kit.load(race_work.RECIPES / "real.yaml", [f"stages.r1_zero.init={tmp_path}"]).stages[0]
    assert isinstance(recipe, R1Zero) and recipe.grpo is not None
    raced = race_work.stage_of(tmp_path, course="real")
    changed = recipe.grpo.model_copy(update={"steps": 120, "problems": 4})
    assert raced == recipe.model_copy(update={"grpo": changed}) and recipe.grpo.schedule.kind == "constant"
    assert settings_of(race_work.stage_of(tmp_path, race.REAL.changes(), "real")) == settings_of(raced)
    assert race.REAL.experts == ""  # the model has none, and transformers is not asked for a way


def test_the_rewards_of_trls_side_are_r1kits(tmp_path):
    words = tokenizer()
    problems = [Problem("a", "t", "1+1?", "2"), Problem("b", "t", "2+2?", "4")]

    def right(rollouts):
        return [float(rollout.answer == rollout.problem.answer) for rollout in rollouts]

    rewards = [WeightedReward("accuracy", 1.0, right), WeightedReward("ended", 0.5, ended)]
    rules = race_trl_rules.Rules(Chat(words), rewards, problems)
    written = [words.encode("<think>x</think><answer>2</answer>").tolist() for _ in range(3)]
    written[0] = [*written[0], words.eos_id]  # right, and ends
    written[2] = [*written[2], words.eos_id]  # the same text, of the other problem
    assert rules(completion_ids=written, place=[0, 0, 1], prompts=["", "", ""]) == [1.5, 0.0, 0.5]
    assert rules.right == [1.0, 0.0, 0.0] and rules.tokens == sum(map(len, written))


def ended(rollouts):
    return [float(rollout.completion.finish == "stop") for rollout in rollouts]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_r1kits_side_is_the_recipes_stage_on_the_stream_that_trl_gets(tmp_path, precision):
    """Two orders; the samples on the disk have the problems that ``stream_of`` draws, and the weights that
    were written after each order can be read and differ."""
    base = model_directory(tmp_path / "base", max_positions=256)
    changes = [f"stages.r1_zero.{change}" for change in LITTLE]
    changes += ["stages.r1_zero.learner.context=192", "stages.r1_zero.learner.lines=2"]
    odd = tmp_path / "odd.py"  # a model without training is never right, and would learn nothing
    odd.write_text(
        "def odd(rollouts):\n    return [float(r.completion.token_ids[0] % 2) for r in rollouts]\n"
    )
    changes.append(f'stages.r1_zero.rewards={{accuracy: 1.0, "{odd}:odd": 1.0}}')
    source = Path(r1kit.__file__).parents[1]
    side = Side(
        Path(sys.executable), str(ROOT / "benchmarks/race_r1kit.py"), sorted(os.sched_getaffinity(0)),
        tmp_path / "log", [source], 1,
    )  # fmt: skip
    try:
        scratch = tmp_path / "scratch"
        spec = {"base": str(base), "scratch": str(scratch), "seed": 5, "changes": changes}
        side.ask({**spec, "course": "mini", "engine_precision": precision}, 120)
        for name in ("first", "second"):
            done = side.measure({"steps": 2, "rows": 4, "folder": str(tmp_path / name)})
            assert done.reply["saving"]["cpu_s"] < done.cpu_s and 4 <= done.tokens <= 2 * 4 * 6
    finally:
        side.close()
    weights = [r1kit.load_pretrained(tmp_path / name).embed_tokens.weight for name in ("first", "second")]
    assert not weights[0].equal(weights[1])
    _, _, mixture = race_work.stream_of(race_work.stage_of(base, changes), base, 5)
    drawn = [problem.prompt for problem in mixture.draw(8)]
    samples = sorted((scratch / "samples" / "r1_zero").glob("step_*.jsonl"))
    rows = [json.loads(line) for file in samples for line in file.read_text().splitlines()]
    assert [row["prompt"] for row in rows[::2]][: len(drawn)] == drawn[: len(rows) // 2]


def run(reached=None, points=(), **more):
    plain = {
        "peak_mb": 900,
        "budget": 100.0,
        "load": 1.0,
        "date": "2026-11-28",
        "revision": "abc",
        "setting": {},
    }
    return {**plain, "points": list(points), "reached": reached, **more}


def point(step, cpu_s, pass_1, wall_s=None):
    return {
        "step": step,
        "cpu_s": cpu_s,
        "wall_s": wall_s or 2 * cpu_s,
        "tokens": 1000,
        "right": 0.5,
        "pass_1": pass_1,
    }


def content(**runs):
    return {
        "machine": {"processor": "P"}, "target": 0.8, "peers": {"trl": "1"}, "tries": {},
        "runs": {name.replace("_", "/"): found for name, found in runs.items()},
    }  # fmt: skip


def test_ratios_are_taken_seed_by_seed_and_a_side_that_was_cut_off_is_a_lower_bound():
    own = [point(3, 5.0, 0.5), point(6, 10.0, 0.81)]
    other = [point(30, 50.0, 0.82)]
    runs = content(
        r1kit_0=run(own[-1], own), trl_0=run(other[-1], other),
        r1kit_1=run(own[0], own[:1]), trl_1=run(point(9, 100.0, 0.85), [point(9, 100.0, 0.85)]),
    )["runs"]  # fmt: skip
    assert race_page.ratios(runs, "trl", "cpu_s") == ([5.0, 20.0], True)
    assert "TRL's GRPOTrainer took **12.5** (5.0..20.0) times the processor time" in race_page.ratios_line(
        runs
    )
    runs[f"{race_page.IN_8_BITS}/1"] = run(point(6, 4.0, 0.8), [point(6, 4.0, 0.8)])
    said = race_page.ratios_line(runs).splitlines()
    assert "**25.0** (25.0..25.0) times the processor time" in said[1] and "rollouts in 8 bits" in said[1]
    assert "rollouts in 8 bits took **0.8** (0.8..0.8) times" in said[2] and "of *r1kit*" in said[2]
    runs["trl/1"] = run(None, [point(9, 100.0, 0.7)])
    assert race_page.ratios(runs, "trl", "cpu_s") == ([5.0, 20.0], False)
    assert "at least **12.5**" in race_page.ratios_line(runs)
    runs["trl/1"] = run(None, [], failed="out of memory")
    assert race_page.ratios(runs, "trl", "cpu_s") == ([5.0], True)


def test_the_page_has_a_row_for_each_side_and_seed(tmp_path):
    own, other = [point(6, 10.0, 0.81)], [point(9, 200.0, 0.74)]
    found = content(r1kit_0=run(own[0], own), trl_0=run(None, other), trl_1=run(failed="no wheel"))
    found["tries"] = {"larger steps": run(None, other, setting=vars_of(race.MINI_TRIES["larger steps"]))}
    text = race_page.compose(found, race.MINI_TRIES)
    assert "| r1kit, seed 0 | 6 | 1,000 | 10 | 1.7 | 20 | 0.810 | 900 |" in text
    assert (
        "| TRL's GRPOTrainer, seed 0 | 9 | 1,000 | not reached within 200 | 22.2 | 400 | 0.740 | 900 |"
        in text
    )
    assert "failed: no wheel" in text and "learning rate 0.001, linear over 100 updates" in text
    assert race_page.compose({**found, "runs": {}}, race.MINI_TRIES) == "Not measured yet."


def vars_of(setting):
    return {name: getattr(setting, name) for name in setting.__slots__}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A race whose sides take the given seconds; notes what is run."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    one = race.Race(tmp_path / "out", tmp_path, base, 0.8, 20.0)
    one.seen = []  # type: ignore[attr-defined]

    def paced(side, seed, setting, budget, note):
        one.seen.append((side, seed, setting, budget))  # type: ignore[attr-defined]
        seconds = {"r1kit": 10.0}.get(side, 100.0 if setting and setting.learning_rate == 1e-3 else 300.0)
        end = point(9, min(seconds, budget), 0.8 if seconds < budget else 0.5)
        return run(end if seconds < budget else None, [end], budget=budget)

    monkeypatch.setattr(one, "paced", paced)
    return one


def test_every_setting_is_tried_no_longer_than_the_best_and_the_best_is_raced(started):
    started.run("runs", "r1kit/0", "r1kit", 0, None, race.LONG)
    assert race.tries(started, 0, False, math.inf, list(race.MINI_TRIES))
    with pytest.raises(R1kitError, match="known are 'as in the recipe'"):
        race.tries(started, 0, False, math.inf, ["faster"])
    budgets = [budget for _, _, setting, budget in started.seen if setting]
    assert list(race.MINI_TRIES)[2] == "larger steps"  # the one that is quicker here
    assert budgets == [200.0] * 3 + [100.0] * (len(race.MINI_TRIES) - 3)
    assert started.best() == ("larger steps", race.MINI_TRIES["larger steps"])
    started.seen.clear()
    assert race.seeds(started, [0, 1], True, math.inf)
    assert [(side, seed) for side, seed, _, _ in started.seen] == [
        ("r1kit", 0), (race.IN_8_BITS, 0), ("r1kit", 1), ("trl", 1), ("r1kit", 1), (race.IN_8_BITS, 1),
    ]  # fmt: skip
    assert started.content["runs"]["trl/0"] == started.content["tries"]["larger steps"]
    started.seen.clear()
    assert race.seeds(started, [0, 1], True, math.inf) and not started.seen
    started.content["runs"]["r1kit/1"]["failed"] = "out of memory"  # measured again, unlike one that was slow
    assert race.seeds(started, [0, 1], True, math.inf) and len(started.seen) == 1
    started.seen.clear()
    assert race.seeds(started, [1], True, math.inf, "half the batch", ["r1kit as trl"])
    assert started.seen[0][:3] == ("r1kit", 1, race.MINI_TRIES["half the batch"]) and len(started.seen) == 1
    started.seen.clear()
    assert not race.seeds(started, [2], True, -math.inf) and not started.seen  # no time left


def test_the_work_of_each_of_r1kits_sides_is_its_own(started, tmp_path, monkeypatch):
    """Only the side in 8 bits samples with the quantised engine, and its learner corrects that; the side with
    TRL's setting has TRL's numbers."""
    asked = []

    class Asked(FakeSide):
        def __init__(self, *given):
            super().__init__()

        def ask(self, spec, seconds):
            asked.append(spec)

        def close(self):
            pass

    monkeypatch.setattr(race, "Side", Asked)
    monkeypatch.setattr(race, "Judge", lambda base, course: None)
    monkeypatch.setattr(race, "pace", lambda side, judge, steps, rows, *rest: {"steps": steps, "rows": rows})
    pairs = race.MINI_TRIES["pairs"]
    found = [
        race.Race.paced(started, side, 0, setting, 1.0, lambda found: None)
        for side, setting in (("r1kit", None), (race.IN_8_BITS, None), ("r1kit", pairs))
    ]
    assert [spec["engine_precision"] for spec in asked] == ["bfloat16", "int8", "bfloat16"]
    recipe, quantised, as_trl = (race.stage_of(started.base, spec["changes"], "mini").grpo for spec in asked)
    assert [grpo.correction for grpo in (recipe, quantised, as_trl)] == ["none", "truncate", "none"]
    assert quantised.model_copy(update={"correction": "none"}) == recipe
    assert (as_trl.problems, as_trl.group) == (64, 2) and found == [{"steps": 6, "rows": 128}] * 3


def test_results_of_another_base_are_refused_and_stay(started, tmp_path, monkeypatch):
    started.run("runs", "r1kit/0", "r1kit", 0, None, race.LONG)
    kept = started.file.read_bytes()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})  # a side has one of them
    again = race.Race(tmp_path / "out", tmp_path, started.base, 0.8, 20.0)
    assert "r1kit/0" in again.content["runs"]
    with pytest.raises(R1kitError, match="have another target; give this race"):
        race.Race(tmp_path / "out", tmp_path, started.base, 0.7, 20.0)
    (started.base / "model.safetensors").write_bytes(b"others")
    with pytest.raises(R1kitError, match="have another base"):
        race.Race(tmp_path / "out", tmp_path, started.base, 0.8, 20.0)
    assert started.file.read_bytes() == kept
