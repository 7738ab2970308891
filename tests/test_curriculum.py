"""A curriculum against schedules made by hand, a simulation of its rule, and itself interrupted."""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_world import learner_config, model, quiet_log, tokenizer

from r1kit.chat import Chat
from r1kit.config import ConfigError, R1kitError
from r1kit.data.curriculum import CurriculumConfig, pass_rate
from r1kit.data.mixture import STATE, Mixture
from r1kit.engine.native import NativeEngine
from r1kit.rewards import WeightedReward
from r1kit.stages import STAGES
from r1kit.train.distillation import OnPolicyConfig
from r1kit.train.grpo import GRPO, GRPOConfig
from r1kit.train.learner import Learner
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Policy, collect, describe
from r1kit.types import Problem, Rollout, Score, Verdict

NAN = float("nan")


class Few:
    """A task of a few problems, of which some state a difficulty."""

    def __init__(self, name: str, count: int, levels: Sequence[float | None] = ()) -> None:
        self.name, self.count, self.levels = name, count, levels or [None] * count

    def problems(self, split: str) -> list[Problem]:
        return [
            Problem(f"{self.name}{i}", self.name, "?", "1", difficulty=self.levels[i])
            for i in range(self.count)
        ]

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        return Verdict("unverifiable")


def scores_of(rate: float | None, group: int = 20) -> list[Score]:
    """The scores of a group with this pass rate; None: it could not be judged."""
    if rate is None:
        return [Score(NAN, {"accuracy": None})] * group
    return [
        Score(float(i < round(rate * group)), {"accuracy": float(i < round(rate * group))})
        for i in range(group)
    ]


def visit(mixture: Mixture, count: int, rate: Callable[[str], float | None]) -> list[str]:
    """Draw a phase's problems, then report how they went."""
    problems = mixture.draw(count)
    for problem in problems:
        mixture.observe(problem, scores_of(rate(problem.id)))
    return [problem.id for problem in problems]


RATES = {"a0": 1.0, "a1": 0.5, "a2": 0.0, "a3": 0.75}


@pytest.mark.parametrize(
    ("curriculum", "epochs"),
    [
        ({"easy": 1.0, "rest": 1}, ["0123", "123", "0123", "123", "0123"]),
        ({"easy": 1.0, "hard": 0.0, "rest": 2}, ["0123", "13", "13", "0123", "13", "13", "0123"]),
        ({"easy": 0.75, "hard": 0.0, "rest": 3}, ["0123", "1", "1", "1", "0123", "1"]),
        ({"easy": 0.75, "rest": 0}, ["0123", "12", "12", "12", "12", "12"]),
        ({"easy": None, "hard": 0.5, "rest": 1}, ["0123", "03", "0123", "03"]),
        ({"easy": 1.0, "hard": 0.75, "rest": 2}, ["0123", "0123", "0123"]),  # all rest, so all come back
    ],
)
def test_problems_rest_as_many_epochs_as_a_hand_counts(curriculum: dict[str, Any], epochs: list[str]) -> None:
    for seed in range(5):
        mixture = Mixture({"a": (Few("a", 4), 1.0)}, "train", seed, curriculum=CurriculumConfig(**curriculum))
        drawn = [visit(mixture, 1, RATES.get)[0][1] for _ in "".join(epochs)]
        found, orders = iter(drawn), []
        for epoch in epochs:
            orders.append("".join(next(found) for _ in epoch))
        assert ["".join(sorted(order)) for order in orders] == epochs


def test_what_has_changed_since_the_last_visit_counts() -> None:
    mixture = Mixture(
        {"a": (Few("a", 2), 1.0)}, "train", 1, curriculum=CurriculumConfig(easy=1.0, hard=0.0, rest=1)
    )
    rates = {"a0": iter([0.0, 1.0, 0.5, 0.5, 1.0]), "a1": iter([0.5] * 20)}
    drawn = Counter(
        visit(mixture, 1, lambda problem: next(rates[problem]))[0]
        for _ in range(2 + 1 + 2 + 1 + 2 + 2 + 2 + 1)
    )
    assert drawn == {"a0": 5, "a1": 8}  # misses the second, fourth and eighth epoch


def test_where_nothing_rests_the_stream_is_the_one_without_a_curriculum() -> None:
    tasks = {"a": (Few("a", 5), 3.0), "b": (Few("b", 7), 1.0)}
    plain = [problem.id for problem in Mixture(tasks, "train", 3).draw(200)]
    followed = Mixture(tasks, "train", 3, curriculum=CurriculumConfig(easy=1.0, hard=0.0))
    assert [one for _ in range(40) for one in visit(followed, 5, lambda problem: 0.5)] == plain
    unjudged = Mixture(tasks, "train", 3, curriculum=CurriculumConfig(easy=1.0, hard=0.0))
    assert [one for _ in range(40) for one in visit(unjudged, 5, lambda problem: None)] == plain


def test_a_task_whose_problems_all_rest_starts_again_and_says_so_once() -> None:
    said: list[str] = []
    tasks = {"a": (Few("a", 3), 1.0), "b": (Few("b", 2), 1.0)}
    mixture = Mixture(tasks, "train", 4, curriculum=CurriculumConfig(rest=0), log=said.append)
    drawn = [visit(mixture, 1, lambda problem: float(problem[0] == "a"))[0] for _ in range(60)]
    own = [problem for problem in drawn if problem[0] == "a"]
    assert len(own) > 20 and all(len(set(own[start : start + 3])) == 3 for start in range(0, len(own) - 2, 3))
    assert said == ["a: all 3 problems rest, so all of them come back (logged once)"]


@pytest.mark.parametrize("rest", [0, 2])
def test_a_phase_that_ends_the_last_epoch_does_not_go_on_with_its_own_last_problem_alone(rest: int) -> None:
    mixture, counts = (
        Mixture({"a": (Few("a", 9), 1.0)}, "train", 4, curriculum=CurriculumConfig(rest=rest)),
        Counter[str](),
    )
    for _ in range(60):
        drawn = visit(mixture, 8, lambda problem: 1.0)
        assert max(Counter(drawn).values()) <= 2
        counts.update(drawn)
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_the_resting_are_counted_in_the_epochs_that_their_tasks_are_in() -> None:
    assert Mixture({"a": (Few("a", 4), 1.0)}, "train", 1).resting() is None
    mixture = Mixture(
        {"a": (Few("a", 4), 1.0)}, "train", 1, curriculum=CurriculumConfig(easy=1.0, hard=0.0, rest=1)
    )
    counts = [mixture.resting()]
    for epoch in (4, 2, 4, 2):
        visit(mixture, epoch, RATES.get)
        counts.append(mixture.resting())
    assert counts == [0, 2, 2, 2, 2]
    visit(mixture, 1, lambda problem: 0.5)  # the first of the fifth epoch, which everybody may come in
    assert mixture.resting() == 0


def test_the_easiest_come_first_in_the_first_epoch_only_and_those_without_a_level_last() -> None:
    levels = [3.0, None, 1.0, 2.0, 1.0, 3.0, 2.0, 1.0]
    tasks = {"a": (Few("a", 8, levels), 1.0), "b": (Few("b", 5), 1.0)}
    orders = set()
    for seed in range(20):
        mixture = Mixture(tasks, "train", seed, curriculum=CurriculumConfig(easiest_first=True))
        own = [problem for _ in range(80) for problem in mixture.draw(1) if problem.task == "a"][:16]
        assert [problem.difficulty for problem in own[:8]] == [1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, None]
        orders.add(tuple(problem.id for problem in own[:8]))
        assert [problem.difficulty for problem in own[8:]] != [problem.difficulty for problem in own[:8]]
    assert len(orders) > 10  # within a level by chance
    with pytest.raises(ConfigError, match="no problem states a difficulty"):
        Mixture({"b": (Few("b", 5), 1.0)}, "train", 0, curriculum=CurriculumConfig(easiest_first=True))


curricula = st.builds(
    lambda easy, hard, rest: CurriculumConfig(easy=easy, hard=hard, rest=rest),
    st.sampled_from([0.5, 0.75, 1.0]),
    st.sampled_from([None, 0.0, 0.25]),
    st.integers(0, 3),
)


@pytest.mark.slow
@given(
    curriculum=curricula, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3), seed=st.integers(0, 999)
)
def test_every_epoch_has_just_those_that_do_not_rest(
    curriculum: CurriculumConfig, sizes: list[int], seed: int
) -> None:
    """Against a simulation that only knows when each may come back."""
    tasks = {name: (Few(name, size), 1.0) for name, size in zip("abc", sizes, strict=False)}
    mixture, chance = Mixture(tasks, "train", seed, curriculum=curriculum), random.Random(seed)
    back = {f"{name}{i}": 0 for name, (task, _) in tasks.items() for i in range(task.count)}
    epoch, due = dict.fromkeys(tasks, -1), {name: set[str]() for name in tasks}
    for _ in range(150):
        rate = chance.choice([0.0, 0.25, 0.5, 0.75, 1.0, None])
        drawn = visit(mixture, 1, lambda problem, rate=rate: rate)[0]  # type: ignore[misc]
        name = drawn[0]
        if not due[name]:
            epoch[name] += 1
            own = {problem for problem in back if problem[0] == name}
            due[name] = {problem for problem in own if back[problem] <= epoch[name]} or own
            back |= dict.fromkeys(own, 0) if len(due[name]) == len(own) else {}
        due[name].remove(drawn)  # KeyError: it rests, or came already
        rests = rate is not None and (
            rate >= (curriculum.easy or 2) or rate <= (-1 if curriculum.hard is None else curriculum.hard)
        )
        back[drawn] = (epoch[name] + 1 + curriculum.rest if curriculum.rest else 10**9) if rests else 0


@given(curriculum=curricula, size=st.integers(2, 8), phase=st.integers(1, 20), seed=st.integers(0, 999))
def test_no_problem_is_lost_however_many_are_drawn_before_their_scores_are_known(
    curriculum: CurriculumConfig, size: int, phase: int, seed: int
) -> None:
    """Problems 0 and 1 always teach and come once an epoch. The others come at most as often, and if they
    rest at all, come back."""
    mixture, chance = (
        Mixture({"a": (Few("a", size), 1.0)}, "train", seed, curriculum=curriculum),
        random.Random(seed),
    )
    missed, counts = Counter[str](), Counter[str]()
    for _ in range(-(-40 * size // phase)):
        for problem in visit(
            mixture, phase, lambda problem: 0.4 if problem in ("a0", "a1") else chance.choice([0.0, 0.5, 1.0])
        ):
            counts[problem] += 1
            missed[problem] = 0
            assert abs(counts["a0"] - counts["a1"]) <= 1
            assert counts[problem] <= counts["a0"] + 1
            if problem == "a0":
                missed.update(f"a{i}" for i in range(1, size))
            assert not curriculum.rest or max(missed.values()) <= curriculum.rest + 2
    assert counts["a0"] >= 39


@pytest.mark.parametrize("phase", [1, 3, 7])
def test_a_stream_interrupted_at_every_phase_goes_on_as_it_would_have(phase: int) -> None:
    tasks = {"a": (Few("a", 6, range(6)), 2.0), "b": (Few("b", 5), 1.0)}
    curriculum = CurriculumConfig(easy=0.75, hard=0.0, rest=2, easiest_first=True)

    def goes(number: int) -> Callable[[str], float | None]:
        return lambda problem: random.Random(f"{number}/{problem}").choice([0.0, 0.25, 0.5, 0.75, 1.0, None])

    straight = Mixture(tasks, "train", 8, curriculum=curriculum)
    visits = [
        (visit(straight, phase, goes(number)), straight.saved(), straight.resting()) for number in range(30)
    ]
    assert len({resting for _, _, resting in visits}) > 2
    text = None
    for number, (drawn, saved, resting) in enumerate(visits):
        resumed = Mixture(
            tasks, "train", 8, curriculum=curriculum
        )  # a new process, that knows only what was saved
        if text is not None:
            resumed.restore(text)
        assert (visit(resumed, phase, goes(number)), resumed.saved(), resumed.resting()) == (
            drawn,
            saved,
            resting,
        )
        text = resumed.saved()[STATE]
    assert json.loads(text or "")["visits"].keys() == {
        *(f"a{i}" for i in range(6)),
        *(f"b{i}" for i in range(5)),
    }


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        ({"a": (Few("a", 4), 1.0), "b": (Few("b", 2), 1.0)}, "task a"),
        ({"a": (Few("a", 3), 1.0)}, "task b"),
        ({"a": (Few("a", 3), 1.0), "b": (Few("b", 2), 1.0), "c": (Few("c", 2), 1.0)}, "task c"),
    ],
    ids=["a data set that grew", "a task less", "a task more"],
)
def test_the_state_of_other_problems_is_refused(tasks: Any, named: str) -> None:
    saved = Mixture(
        {"a": (Few("a", 3), 1.0), "b": (Few("b", 2), 1.0)}, "train", 1, curriculum=CurriculumConfig()
    )
    visit(saved, 4, RATES.get)
    with pytest.raises(R1kitError, match=rf"has other problems than the data \({named}\)"):
        Mixture(tasks, "train", 1, curriculum=CurriculumConfig()).restore(saved.saved()[STATE])


def test_the_pass_rate_is_the_share_of_right_answers_among_those_that_were_judged() -> None:
    right, wrong, part = (
        Score(1.1, {"accuracy": 1.0, "format": 1.0}),
        Score(0.1, {"accuracy": 0.0, "format": 1.0}),
        Score(0.9, {"accuracy": 0.9}),
    )
    failed, unverifiable, elsewhere = (
        Score(NAN, {"accuracy": None}),
        Score(1.0, {"accuracy": None, "judge": 1.0}),
        Score(1.0, {"format": 1.0}),
    )
    other_failed = Score(NAN, {"accuracy": 1.0, "judge": None})
    assert pass_rate([right, wrong, wrong, wrong]) == 0.25
    assert pass_rate([right, part]) == 0.5  # only the whole is right
    assert pass_rate([right, failed, other_failed, unverifiable, wrong]) == 0.5
    assert (
        pass_rate([failed, failed])
        is pass_rate([unverifiable])
        is pass_rate([elsewhere])
        is pass_rate([])
        is None
    )


def policy() -> Policy:
    learner = Learner(model(), learner_config(context=96))
    return Policy(learner, NativeEngine(learner.model, [tokenizer().eos_id]), Chat(tokenizer()))


def even_problems(rollouts: Sequence[Rollout]) -> list[float | None]:
    """Right: all of problem 0, none of problem 1, half of the others."""
    return [{"a0": 1.0, "a1": 0.0}.get(rollout.problem.id, float(rollout.index % 2)) for rollout in rollouts]


@pytest.mark.slow
def test_groups_that_dynamic_sampling_passes_over_are_known_to_the_curriculum() -> None:
    curriculum = CurriculumConfig(easy=1.0, hard=0.0, rest=0)
    config = GRPOConfig(
        problems=3, updates_per_rollout=2, group=2, max_tokens=2, dynamic_sampling=3, curriculum=curriculum
    )
    mixture = Mixture({"a": (Few("a", 6), 1.0)}, "train", 1, curriculum=curriculum)
    first = collect(policy(), mixture, [WeightedReward("accuracy", 1.0, even_problems)], config, 3)
    assert (first.rounds, first.drawn, first.resting) == (
        2,
        8,
        2,
    )  # of all six two teach nothing; the two in their place are of the rest
    assert describe(first)["curriculum/resting"] == 2.0
    second = collect(policy(), mixture, [WeightedReward("accuracy", 1.0, even_problems)], config, 4)
    assert (second.rounds, second.drawn, second.resting) == (
        1,
        6,
        2,
    )  # the rollouts of problems 0 and 1 are saved
    assert all(
        group[0].problem.id in ("a2", "a3", "a4", "a5") for phase in (first, second) for group in phase.groups
    )
    plain = collect(
        policy(),
        Mixture({"a": (Few("a", 6), 1.0)}, "train", 1),
        [WeightedReward("accuracy", 1.0, even_problems)],
        config,
        3,
    )
    assert plain.resting is None and "curriculum/resting" not in describe(plain)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"easy": 0.5, "hard": 0.5}, "hard: 0.5 is not below easy: 0.5"),
        ({"easy": None}, "nothing would change"),
        ({"easy": 1.5}, "easy"),
        ({"rest": -1}, "rest"),
        ({"hrad": 0.1}, "did you mean 'hard'"),
    ],
)
def test_settings_without_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GRPOConfig.parse({"curriculum": given}, "recipe.yaml")


@pytest.mark.parametrize("stage", ["r1_zero", "reasoning_rl", "alignment_rl"])
def test_a_curriculum_without_a_reward_for_right_answers_is_refused_with_the_recipe(stage: str) -> None:
    curriculum: dict[str, Any] = {"grpo": {"curriculum": {"easy": 1.0, "hard": 0.0, "rest": 2}}}
    curriculum |= {"tasks": {"chain": 1}} | ({"prompts": {"general": 1}} if stage == "alignment_rl" else {})
    with pytest.raises(
        ConfigError, match="pass rate, which is the reward 'accuracy'; the rewards here are format"
    ):
        STAGES[stage].parse({"stage": stage, "rewards": {"format": 1.0}, **curriculum}, "recipe.yaml")
    assert STAGES[stage].parse(
        {"stage": stage, "rewards": {"format": 1.0, "accuracy": 0.0}, **curriculum}, "recipe.yaml"
    )
    with pytest.raises(ConfigError, match="the rewards here are format"):
        STAGES["r1_zero"].parse(
            {"tasks": {"chain": 1}, "rewards": {"format": 1.0}, "ppo": {"curriculum": {}}}, "recipe.yaml"
        )


def test_distillation_which_has_no_reward_refuses_a_curriculum() -> None:
    with pytest.raises(ConfigError, match="it needs to know whether an answer is right"):
        OnPolicyConfig.parse({"curriculum": {"easy": 1.0}}, "recipe.yaml")


@pytest.mark.slow
def test_a_training_whose_problems_follow_another_curriculum_does_not_start(tmp_path: Path) -> None:
    config = GRPOConfig(
        problems=1,
        updates_per_rollout=1,
        group=2,
        steps=1,
        beta=0.0,
        gate_problems=0,
        max_tokens=2,
        curriculum=CurriculumConfig(),
    )
    mixture, plain, other = (
        Mixture({"a": (Few("a", 3), 1.0)}, "train", 1, curriculum=one)
        for one in (CurriculumConfig(), None, CurriculumConfig(rest=1))
    )
    rewards = [WeightedReward("accuracy", 1.0, even_problems)]
    for wrong in (plain, other):
        with pytest.raises(ConfigError, match="give both the same"):
            train(GRPO(config, policy(), rewards), wrong, 7, quiet_log(tmp_path), tmp_path)
    with pytest.raises(ConfigError, match="the reward 'accuracy'"):
        mine = [replace(rewards[0], name="mine")]
        train(GRPO(config, policy(), mine), mixture, 7, quiet_log(tmp_path), tmp_path)
