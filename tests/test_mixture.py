"""A stream of problems: a function of its seed, by weight between tasks, in shuffled epochs within each."""

from collections import Counter

import pytest

from r1kit.config import ConfigError
from r1kit.data.mixture import Mixture
from r1kit.types import Problem, Verdict


class Few:
    """A task of a few problems."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count

    def problems(self, split: str) -> list[Problem]:
        return [Problem(f"{self.name}/{split}/{i}", self.name, "?" * i, None) for i in range(self.count)]

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        return Verdict("unverifiable")


def ids(problems: list[Problem]) -> list[str]:
    return [problem.id for problem in problems]


TASKS = {"a": (Few("a", 5), 3.0), "b": (Few("b", 7), 1.0), "off": (Few("off", 3), 0.0)}


def test_the_stream_is_a_function_of_its_seed_and_not_of_how_it_is_drawn() -> None:
    whole = ids(Mixture(TASKS, "train", 1).draw(60))
    pieces = Mixture(TASKS, "train", 1)
    assert [i for count in (1, 0, 29, 30) for i in ids(pieces.draw(count))] == whole
    assert ids(Mixture(TASKS, "train", 2).draw(60)) != whole


def test_every_problem_comes_once_in_each_epoch_of_its_task() -> None:
    drawn = ids(Mixture(TASKS, "train", 3).draw(200))
    for name, size in (("a", 5), ("b", 7)):
        own = [i for i in drawn if i.startswith(f"{name}/")]
        epochs = [own[start : start + size] for start in range(0, len(own) - size + 1, size)]
        assert len(epochs) > 5 and all(len(set(epoch)) == size for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 3  # in an order of its own


def test_tasks_come_by_weight_and_one_without_weight_never() -> None:
    counts = Counter(problem.task for problem in Mixture(TASKS, "train", 4).draw(4000))
    assert set(counts) == {"a", "b"} and 0.72 < counts["a"] / 4000 < 0.78


def test_problems_that_are_not_kept_are_counted() -> None:
    mixture = Mixture(TASKS, "held_out", 5, keep=lambda problem: len(problem.prompt) < 4)
    assert mixture.left_out == {"a": 1, "b": 3}
    assert {problem.id for problem in mixture.draw(200)} == {
        f"{name}/held_out/{i}" for name in "ab" for i in range(4)
    }


@pytest.mark.parametrize(
    ("tasks", "keep", "message"),
    [
        ({}, True, "no task has a weight above zero"),
        ({"off": TASKS["off"]}, True, "no task has a weight above zero"),
        ({"none": (Few("none", 0), 1.0)}, True, "task none: the split 'train' has no problems"),
        ({"a": TASKS["a"]}, False, "all 5 prompts are too long; raise context or lower max_tokens"),
    ],
)
def test_a_stream_without_problems_is_refused(
    tasks: dict[str, tuple[Few, float]], keep: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Mixture(tasks, "train", 0, lambda problem: keep)
