"""Whether an RL training has anything to learn from. A phase is silent where no rollout is better than
another one that it is compared with; a training whose phases are all silent leaves the policy as it was, or
moves it by the KL penalty alone.

``cause`` looks at one phase, and the loop logs what it finds (figures/silent.py); ``Silence`` warns while the
training runs."""

import math
from collections.abc import Sequence
from typing import Literal

from r1kit.figures import SILENT_CAUSES
from r1kit.train.rollouts import Phase, teaches
from r1kit.types import Score

Compared = Literal["groups", "parts", "phase"]

PATIENCE = 3  # silent phases in a row before the warning


def cause(phase: Phase, compared: Compared, overlong_filter: bool) -> str | None:
    """Why a phase teaches nothing, a name of SILENT_CAUSES; None where it teaches something, or where the
    algorithm has no scores.

    ``compared``: rollouts by their totals within their "groups", by each of the "parts" of their rewards
    there, or with the whole "phase"; ``overlong_filter``: those that were cut off are not trained on."""
    scores = [score for group in phase.scores_PG for score in group]
    if not scores:
        return None
    if not any(score.parts for score in scores):
        return "no_rewards"
    if all(math.isnan(score.total) for score in scores):
        return "failed"
    if all(value is None for score in scores for value in score.parts.values()):
        return "not_applicable"
    cut = all(rollout.completion.finish == "length" for group in phase.groups for rollout in group)
    if _differ(phase.scores_PG, compared):
        return "cut_off" if cut and overlong_filter else None
    return "cut_off" if cut else "equal"


def _differ(scores_PG: Sequence[Sequence[Score]], compared: Compared) -> bool:
    if compared == "phase":
        return teaches([score.total for group in scores_PG for score in group])
    if compared == "groups":
        return any(teaches([score.total for score in group]) for group in scores_PG)
    names = {name for group in scores_PG for score in group for name in score.parts}
    return any(
        teaches([value for score in group if (value := score.parts.get(name)) is not None])
        for group in scores_PG
        for name in names
    )


class Silence:
    """Counts silent phases in a row."""

    def __init__(self) -> None:
        self._row = 0

    def feed(self, step: int, found: str | None) -> str:
        """A warning after PATIENCE silent phases in a row, once for each such row; else ""."""
        self._row = self._row + 1 if found else 0
        if self._row != PATIENCE or found is None:
            return ""
        return f"step {step}: the last {PATIENCE} phases taught nothing: {SILENT_CAUSES[found]}"
