"""A stream of problems: a function of its seed, by weight between tasks, in shuffled epochs within each."""

from collections import Counter

import pytest

from r1kit.config import ConfigError
from r1kit.data.curriculum import CurriculumConfig
from r1kit.data.mixture import STATE, Mixture
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


@pytest.mark.parametrize("curriculum", [None, CurriculumConfig(easy=0.9, rest=2)])
def test_the_same_problems_in_another_order_are_the_stream_of_that_seed(curriculum) -> None:
    kept = {"keep": lambda problem: len(problem.prompt) < 4, "curriculum": curriculum}
    changes = {8: {"a": 0.0, "b": 1.0, "off": 2.0}}
    moved = Mixture(TASKS, "train", 1, **kept, changes=changes)
    moved.draw(13)
    other = moved.reordered(2)
    assert ids(other.draw(60)) == ids(Mixture(TASKS, "train", 2, **kept).draw(60))
    assert ids(other.first(9)) == ids(Mixture(TASKS, "train", 2, **kept).first(9))
    assert (other.curriculum is None) == (curriculum is None)
    assert curriculum is None or other.curriculum is not moved.curriculum  # each learns from its own scores
    still = Mixture(TASKS, "train", 1, **kept, changes=changes)
    still.draw(13)
    assert ids(moved.at(8).draw(50)) == ids(still.at(8).draw(50))  # not moved by the other


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


# Weights that change at a step


CHANGED = {"a": (Few("a", 5), 1.0), "b": (Few("b", 7), 0.0)}


def steps_of(mixture: Mixture, steps: range, each: int = 4) -> list[str]:
    return [problem.id for step in steps for problem in mixture.at(step).draw(each)]


def test_weights_change_at_their_step_and_epochs_go_on_across_it() -> None:
    mixture = Mixture(CHANGED, "train", 6, changes={501: {"a": 1.0, "b": 3.0}})
    before, after = steps_of(mixture, range(501)), steps_of(mixture, range(501, 1001))
    assert len(before) % 5 == 4  # the change falls within an epoch of five
    assert {problem[0] for problem in before} == {"a"}
    # 2,000 draws at 3/4: the deviation is 19.4
    assert abs(sum(problem.startswith("b") for problem in after) - 1500) < 80
    own = [problem for problem in before + after if problem.startswith("a/")]
    epochs = [own[start : start + 5] for start in range(0, len(own) - 4, 5)]
    assert all(len(set(epoch)) == 5 for epoch in epochs)
    assert before == steps_of(Mixture({"a": CHANGED["a"]}, "train", 6), range(501))


@pytest.mark.parametrize("stopped", [2, 5, 6, 9])
def test_a_stream_with_changes_continues_where_it_was_saved(stopped: int) -> None:
    """The number of problems of a step varies, as dynamic sampling makes it."""
    counts = [3, 9, 4, 1, 7, 5, 2, 8, 3, 6]

    def stream(mixture: Mixture, steps: range) -> list[str]:
        return [problem.id for step in steps for problem in mixture.at(step).draw(counts[step])]

    changes = {5: {"a": 1.0, "b": 1.0}, 8: {"b": 1.0}}
    straight = stream(Mixture(CHANGED, "train", 7, changes=changes), range(10))
    interrupted = Mixture(CHANGED, "train", 7, changes=changes)
    found = stream(interrupted, range(stopped))
    assert interrupted.saves_state and not Mixture(CHANGED, "train", 7).saves_state
    resumed = Mixture(CHANGED, "train", 7, changes=changes)
    resumed.restore(interrupted.saved()[STATE])
    assert found + stream(resumed, range(stopped, 10)) == straight


def test_a_step_without_any_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="no task has a weight above zero"):
        Mixture(CHANGED, "train", 8, changes={3: {"a": 0.0, "b": 0.0}})
