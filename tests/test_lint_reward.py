"""The reward lint: what it counts, what cannot silence it, and what happens where ruff is missing or ends."""

import numpy as np
import pytest

from r1kit.config import ConfigError
from r1kit.rewards import REWARDS, load_rewards, score
from r1kit.rewards.lint import count_findings, find_ruff
from r1kit.types import Completion, Problem, Rollout

TESTED = Problem("p", "d", "Write f.", "", columns={"tests": "assert f(1) == 2", "entry_point": "f"})


def rollout(answer, index=0, problem=TESTED):
    completion = Completion(np.zeros(3, dtype=np.int32), np.zeros(3), "stop")
    return Rollout(problem, index, np.zeros(1, dtype=np.int32), completion, answer or "", None, answer)


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("def f(x):\n    return x + 1", 1.0),
        ("import os\ndef f(x):\n    return x + 1", 0.8),  # an unused import
        (
            "import os\ndef f(x):\n    y = 2\n    return z",
            0.4,
        ),  # and an unused variable, and an undefined name
        ("import os  # noqa\ndef f(x):\n    return x + 1", 0.8),
        ("# ruff: noqa\nimport os\ndef f(x):\n    return x + 1", 0.8),
        ("import a, b, c, d, e, g\ndef f(x):\n    return x + 1", 0.0),
        ("def f(x) return x", 0.0),
        ("I do not know.", 0.0),
        (None, 0.0),
        ("class Solution:\n    def f(self, x: List[int]) -> Optional[int]:\n        return x[0]", 1.0),
        ("def f(x: List[int]):\n    return x[0]", 0.8),
    ],
)
def test_each_finding_takes_a_fifth(program, value):
    (found,) = REWARDS["lint"]({})([rollout(program and f"So:\n```python\n{program}\n```")])
    assert found == pytest.approx(value)


def test_it_is_a_reward_of_a_recipe_with_a_limit_and_for_programs_only():
    rewards = load_rewards({"lint": {"weight": 0.5, "limit": 2}}, [])
    other = Problem("q", "e", "2+2?", "4")
    (bad, none) = score([rollout("import os\ndef f(): pass"), rollout("4", 1, other)], rewards)
    assert (bad.total, bad.parts["lint"], none.parts["lint"]) == (0.25, 0.5, None)
    with pytest.raises(ConfigError, match=r"rewards\.lint: limit must be a whole number"):
        load_rewards({"lint": {"limit": 0}}, [])


def test_equal_programs_have_equal_scores_in_any_batch():
    programs = [f"import os\nx{n} = {n}\n" for n in range(20)] + ["import os\nimport re\n"]
    ruff = find_ruff()
    assert count_findings(ruff, programs) == {p: count_findings(ruff, [p])[p] for p in programs}


def test_without_ruff_the_recipe_is_refused_with_the_fix(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r'pip install "r1kit\[lint\]"'):
        load_rewards({"lint": 1.0}, [])


def test_a_ruff_that_ends_is_a_failure_and_a_program_that_ends_it_is_worth_nothing(tmp_path):
    (failed,) = count_findings("/bin/false", ["x = 1\n"]).values()
    assert failed != failed and "ruff cannot be run" in failed.reason
    brittle = tmp_path / "ruff"
    brittle.write_text(
        f'#!/bin/sh\nfor last; do :; done\ngrep -q crash "$last"/*.py && exit 2\nexec {find_ruff()} "$@"\n'
    )
    brittle.chmod(0o755)
    assert count_findings(str(brittle), ["crash = 1\n", "import os\n"]) == {
        "crash = 1\n": None,
        "import os\n": 1,
    }
