"""Whether a training has taught a model anything: the verdict of ``r1kit prove``, from held-out problems.

The trained model is compared, problem by problem, with its base, with controls that were trained from the
same base with rewards that cannot teach the task, and with itself when each question is swapped for another.
Every comparison is the one-sided sign-flip test over problems. A model is called *learned* only if it beats
all of them, so the largest p-value is that of the verdict (an intersection-union test: at its level without
a correction for the number of comparisons).

That test takes the models as they are. Trainings differ by chance too: a coin as reward also moves a model.
So the gain over the base must also be more than three times the largest change, up or down, of the trainings
by a coin. If the trained model were one more training by a coin, and changes were normal, that alone would be
so in about 3 % of runs with two coins (tests/test_prove.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from r1kit.figures.statistics import PairedTest, paired_test

Verdict = Literal["learned", "noise", "artefact"]

ALPHA = 0.05
DRIFTS = 3.0  # of the largest change by a coin, which a gain must exceed
BASE, SWAPPED = "base", "swapped prompts"


@dataclass(frozen=True, slots=True)
class Against:
    """The trained model against one other, and the one-sided p-value of being better."""

    name: str
    other: float
    test: PairedTest
    p_value: float


@dataclass(frozen=True, slots=True)
class Proof:
    """The verdict and what it rests on. ``drift`` is the largest change of the base by a coin; ``p_value``
    the largest of the comparisons that decide."""

    verdict: Verdict
    p_value: float
    reason: str
    trained: float
    drift: float
    comparisons: Sequence[Against]


def prove(
    trained: Sequence[float],
    base: Sequence[float],
    coins: Sequence[Sequence[float]],
    controls: Mapping[str, Sequence[float]],
    swapped: Sequence[float] = (),
) -> Proof:
    """Decide from each problem's share of right answers, in one order of problems: of the trained model, of
    its base, of the trainings by a coin, of the other controls by name, and of the trained model under
    swapped prompts (empty: not measured)."""
    others = {f"coin {number}": own for number, own in enumerate(coins, 1)} | dict(controls)
    gain = against(BASE, trained, base)
    compared = [against(name, trained, own) for name, own in others.items()]
    blind = [against(SWAPPED, trained, swapped)] if len(swapped) else []
    drift = max((abs(_mean(own) - _mean(base)) for own in coins), default=0.0)
    every = [gain, *compared, *blind]
    verdict, reason = _decide(gain, [*compared, *blind], drift)
    return Proof(verdict, max(one.p_value for one in every), reason, _mean(trained), drift, every)


def _decide(gain: Against, others: Sequence[Against], drift: float) -> tuple[Verdict, str]:
    points = 100 * gain.test.difference
    if gain.p_value >= ALPHA:
        return "noise", f"the change over the base ({points:+.1f} points) is within what chance explains"
    if gain.test.difference <= DRIFTS * drift:
        return "noise", (
            f"the gain of {points:.1f} points is not more than {DRIFTS:g} times the change by a coin as "
            f"reward ({100 * drift:.1f} points)"
        )
    equal = [one.name for one in others if one.p_value >= ALPHA]
    if equal:
        return "artefact", f"the gain of {points:.1f} points is not more than that of: {', '.join(equal)}"
    return "learned", f"{points:.1f} points more than the base, and more than every control"


def against(name: str, trained: Sequence[float], other: Sequence[float]) -> Against:
    """Compare two models on the same problems; the p-value is that of the trained one being better."""
    test = paired_test(trained, other)
    p_value = test.p_value / 2 if test.difference > 0 else 1.0 - test.p_value / 2
    return Against(name, _mean(other), test, p_value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
