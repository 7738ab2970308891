"""RL trainings that had nothing to learn from: the metric ``silent/NAME`` is 1 in the rows of a phase that
taught nothing (train/silent_phases.py logs it), and ``why_silent`` reads the rows of a whole training."""

from collections.abc import Mapping, Sequence
from typing import Any

SILENT = "silent/"
# Name -> what is the matter, and what to do.
SILENT_CAUSES = {
    "no_rewards": "it has no rewards; name some under rewards:",
    "not_applicable": (
        "no reward applied to any rollout (all were None); check that the rewards can score these tasks"
    ),
    "failed": "every reward failed; samples/ and the log say why",
    "cut_off": (
        "every completion was cut off at max_tokens; raise max_tokens, or begin with a model that ends its "
        "answers (its end token, its template)"
    ),
    "equal": (
        "all rollouts that are compared with one another earned the same; use easier or harder problems, "
        "larger groups, or a reward that differs between them"
    ),
}


def why_silent(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the training that logged these rows, one a step, could not learn; None where a phase of it could,
    or where it has no rewards to learn from. The cause is the most frequent one."""
    scored = [row for row in rows if "reward/zero_std_groups" in row]
    found = [next((name for name in SILENT_CAUSES if row.get(SILENT + name)), None) for row in scored]
    names = [name for name in found if name is not None]
    if not names or len(names) < len(found):
        return None
    return SILENT_CAUSES[max(SILENT_CAUSES, key=names.count)]
