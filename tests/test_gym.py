"""reasoning-gym as tasks, where it is installed."""

import importlib.util

import pytest

from r1kit.config import ConfigError
from r1kit.tasks.gym import Gym

installed = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")


@installed
def test_gold_answers_are_correct_and_junk_is_wrong():
    for name in ("basic_arithmetic", "prime_factorization"):
        task = Gym(name, size=12)
        problems = [*task.problems("train"), *task.problems("held_out")]
        assert len({p.id for p in problems}) == len(problems) > 5
        for problem in problems:
            assert task.check(problem, problem.answer).outcome == "correct"
            for junk in ("", "junk ×", "1" * 5000, None, "\\boxed{-1}"):
                assert task.check(problem, junk).outcome == "wrong"
        assert task.problems("train") == Gym(name, size=12).problems("train")


@installed
def test_an_unknown_task_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'countdown'"):
        Gym("countdwn").problems("train")


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is not None, reason="reasoning-gym is installed")
def test_without_the_package_the_error_says_what_to_install():
    with pytest.raises(ConfigError, match="r1kit\\[gym\\]"):
        Gym("countdown").problems("train")
