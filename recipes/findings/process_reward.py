"""A process reward: every step of a thinking is judged by a model of steps, and no one looks at the answer.

The model is a logistic regression on the digits of one equation, fitted to labelled steps of the corpus's own
kinds of problems, half of them slipped. It is right on most steps that are like those. It does not see
whether a step belongs to the problem, or whether steps are missing: what a policy can use."""

import random
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from r1kit.tasks.miniature.corpus import draw_train_parameters
from r1kit.tasks.miniature.procedural import KINDS
from r1kit.types import Rollout

_STEP = re.compile(r"(?<![\d*/+-])(\d{1,3})([-+*/])(\d{1,3})=(\d{1,3})(?![\d*/+-])")
_SLIPS = (-10, -2, -1, 1, 2, 10)
_BINS = 1 << 15
_PROBLEMS = 4000  # whose steps are labelled


def process(rollouts: Sequence[Rollout]) -> list[float | None]:
    """The mean over a thinking's steps of the model's probability that the step is right; 0 without steps."""
    return [step_score(rollout.thinking or "") for rollout in rollouts]


def step_score(text: str) -> float:
    """The mean probability that the steps of a text are right; 0 where it has none."""
    found = steps_of(text)
    return float(np.mean(probabilities(found))) if found else 0.0


def steps_of(text: str) -> list[tuple[int, str, int, int]]:
    """Every equation of two numbers in a text: left, operator, right, result."""
    return [(int(a), sign, int(b), int(c)) for a, sign, b, c in _STEP.findall(text)]


def is_right(step: tuple[int, str, int, int]) -> bool:
    """Whether the equation holds; a quotient is the whole part."""
    a, sign, b, c = step
    return c == {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else -1}[sign]


def labelled_steps(seed: int, problems: int = _PROBLEMS) -> list[tuple[tuple[int, str, int, int], bool]]:
    """Steps of training problems, each result slipped in half of the cases, with their labels."""
    rng = random.Random(f"steps/{seed}")
    found = []
    for _ in range(problems):
        kind = KINDS[rng.choice(("chain", "mul", "eq"))]
        work = kind.solve(
            draw_train_parameters(kind, rng),
            lambda value: max(0, value + rng.choice(_SLIPS)) if rng.random() < 0.5 else value,
        )
        found += [(step, is_right(step)) for text in work.steps for step in steps_of(text)]
    return found


def probabilities(steps: Sequence[tuple[int, str, int, int]]) -> np.ndarray:
    """The model's probability [steps] that each step is right."""
    return 1.0 / (1.0 + np.exp(-fitted()[_features(steps)].sum(1)))


@lru_cache(maxsize=1)
def fitted() -> np.ndarray:
    """The weights [bins] of the model, by gradient descent on the labelled steps of seed 0."""
    labelled = labelled_steps(0)
    places = _features([step for step, _ in labelled])
    labels = np.array([label for _, label in labelled], dtype=float)
    weights, rng = np.zeros(_BINS), np.random.default_rng(0)
    for epoch in range(12):
        for chosen in np.array_split(rng.permutation(len(labels)), 60):
            wanted = labels[chosen] - 1.0 / (1.0 + np.exp(-weights[places[chosen]].sum(1)))
            np.add.at(weights, places[chosen], (0.5 / (1 + epoch / 4) * wanted)[:, None])
    return weights


def _features(steps: Sequence[tuple[int, str, int, int]]) -> np.ndarray:
    """The bins [steps, 3] of each step: its last digits, its tens, and its operands' rough sizes."""
    found = []
    for a, sign, b, c in steps:
        code = "+-*/".index(sign)
        last = code * 1000 + (a % 10) * 100 + (b % 10) * 10 + c % 10
        tens = 4000 + code * 1331 + min(a // 10, 10) * 121 + min(b // 10, 10) * 11 + min(c // 10, 10)
        sizes = 9324 + code * 400 + min(b, 19) * 20 + min(c // 5, 19)
        found.append((last, tens, sizes))
    return np.array(found, dtype=np.int64).reshape(-1, 3)
