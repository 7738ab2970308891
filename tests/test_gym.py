"""reasoning-gym as tasks: with the package where it is installed, else with a small one of the same shape."""

import importlib.util
import sys

import pytest

from r1kit.config import ConfigError
from r1kit.tasks import gym as module
from r1kit.tasks import load_tasks
from r1kit.tasks.gym import Gym

installed = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)

# Two tasks: a scorer that calls eval on the answer as several of the package do, and one that raises on junk.
PACKAGE = """
class Data:
    def __init__(self, task, size, seed=0, low=0):
        self.task, self.size, self.seed, self.low = task, size, seed, low
    def __getitem__(self, place):
        number = self.low + self.seed + place
        metadata = {"difficulty": 1, "pair": (number, 1)}
        return {"question": f"What is {number} + 1?", "answer": str(number + 1), "metadata": metadata}
    def score_answer(self, answer, entry):
        if self.task == "evaluated":
            return 1.0 if eval(answer) == sum(entry["metadata"]["pair"]) else 0.01
        return 1.0 if int(answer) == int(entry["answer"]) else 0.5
def create_dataset(task, size, **options):
    if "odd" in options:
        raise TypeError("unexpected keyword argument 'odd'")
    return Data(task, size, **options)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The small package, for this process by its path and for the sandbox as text."""
    folder = tmp_path / "reasoning_gym"
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "factory.py").write_text('DATASETS = {"evaluated": None, "whole_number": None}')
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("reasoning_gym", "reasoning_gym.factory"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(
        module, "SCORER", module.SCORER.replace("from reasoning_gym import create_dataset", PACKAGE)
    )
    yield
    for name in ("reasoning_gym", "reasoning_gym.factory"):
        sys.modules.pop(name, None)


def test_a_recipe_names_the_tasks(fake):
    tasks = load_tasks(
        {
            "whole_number": {"kind": "gym", "size": 20, "weight": 2},
            "sums": {"kind": "gym", "task": "evaluated", "size": 20, "low": 5},
        }
    )
    assert {name: weight for name, (_, weight) in tasks.items()} == {"whole_number": 2.0, "sums": 1.0}
    for name, (task, _) in tasks.items():
        problems = [*task.problems("train"), *task.problems("held_out")]
        assert len(problems) == 20 and {problem.task for problem in problems} == {name}
        verdicts = task.check_batch(problems, [problem.answer for problem in problems])  # type: ignore[attr-defined]
        assert [verdict.outcome for verdict in verdicts] == ["correct"] * 20


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"gym": 1}, "name one of"),
        ({"evaluatd": {"kind": "gym"}}, "did you mean 'evaluated'"),
        ({"evaluated": {"kind": "gym", "size": 0}}, "size"),
        ({"evaluated": {"kind": "gym", "odd": 3}}, "refuses the options"),
    ],
)
def test_a_wrong_name_or_option_is_refused_with_the_fix(fake, spec, message):
    with pytest.raises(ConfigError, match=message):
        next(iter(load_tasks(spec).values()))[0].problems("train")


@pytest.mark.parametrize("task", ["evaluated", "whole_number"])
def test_junk_is_wrong_and_runs_no_program(fake, task, tmp_path):
    canary = tmp_path / "canary"
    junk = [
        "",
        "junk",
        "1/0",
        "7" * 9000,
        None,
        "\\boxed{-1}",
        "[" * 500,
        f"__import__('os').system('touch {canary}')",
        "print(1)",
        "-1",
        f"open('{canary}', 'w')",
        "exit()",
        "quit()",
    ]
    made = Gym("own", task=task, size=3)
    problem = [*made.problems("train"), *made.problems("held_out")][0]
    assert {made.check(problem, answer).outcome for answer in junk[:11]} == {"wrong"}
    assert not canary.exists()
    verdicts = made.check_batch([problem] * 4, [junk[11], problem.answer, "nonsense", junk[12]])
    assert [verdict.outcome for verdict in verdicts] == ["wrong", "correct", "wrong", "wrong"]


def test_an_answer_that_never_ends_is_wrong_and_spares_its_neighbours(fake, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.5)
    made = Gym("own", task="evaluated", size=3)
    problem = [*made.problems("train"), *made.problems("held_out")][0]
    assert [
        v.outcome for v in made.check_batch([problem] * 2, ["[0 for x in iter(int, 1)]", problem.answer])
    ] == ["wrong", "correct"]


@installed
def test_gold_answers_are_correct_and_junk_is_wrong():
    for name in ("basic_arithmetic", "prime_factorization", "spiral_matrix"):
        task = Gym(name, size=12)
        problems = [*task.problems("train"), *task.problems("held_out")]
        assert len({p.id for p in problems}) == len(problems) > 5
        assert {v.outcome for v in task.check_batch(problems, [p.answer for p in problems])} == {"correct"}
        for junk in ("", "junk ×", "1" * 5000, None, "\\boxed{-1}"):
            assert {v.outcome for v in task.check_batch(problems, [junk] * len(problems))} == {"wrong"}
        assert task.problems("train") == Gym(name, size=12).problems("train")


@pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is not None, reason="reasoning-gym is installed"
)
def test_without_the_package_the_error_says_what_to_install():
    with pytest.raises(ConfigError, match="r1kit\\[gym\\]"):
        Gym("countdown").problems("train")
