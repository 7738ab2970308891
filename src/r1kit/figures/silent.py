"""RL trainings that had nothing to learn from: the metric ``silent/NAME`` is 1 in the rows of a phase that
taught nothing (train/learnable.py has the rules), and ``why_silent`` reads the rows of a whole training. The
metrics ``preflight/...`` of a training's first row are what the pre-flight found (train/preflight.py)."""

from collections.abc import Mapping, Sequence
from typing import Any

SILENT = "silent/"
PREFLIGHT = "preflight/"
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
    "format": (
        "next to no completion followed the template, so no answer was read; give the model an opening or "
        "worked examples under talk:, or fine-tune it on the format first"
    ),
    "too_easy": "nearly every rollout was right; use harder problems",
    "too_hard": "next to no rollout was right; use easier problems, larger groups, or a better model",
    "same_text": "the rollouts of a group were all the same text; raise the temperature",
    "equal": (
        "all rollouts that are compared with one another earned the same; use easier or harder problems, "
        "larger groups, or a reward that differs between them"
    ),
}
# Findings that do not make a phase silent: Name -> what is the matter.
DOUBTS = {
    "dominated": "wrong answers earn as much as right ones, because another reward outweighs accuracy",
    "undecided": "too few rollouts were complete in the time of the pre-flight to say",
}
ACCURACY = "reward/accuracy/mean"


def why_silent(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the training that logged these rows, one a step, could not learn; None where a phase of it could,
    or where it has no rewards to learn from. The cause is the most frequent one. A training whose phases had
    other rewards to learn from, but no right answer in any step, could not learn to answer."""
    scored = [row for row in rows if "reward/zero_std_groups" in row]
    found = [next((name for name in SILENT_CAUSES if row.get(SILENT + name)), None) for row in scored]
    names = [name for name in found if name is not None]
    if names and len(names) == len(found):
        return SILENT_CAUSES[max(SILENT_CAUSES, key=names.count)]
    if scored and all(row.get(ACCURACY) == 0 for row in scored):
        return f"no rollout of any of its {len(scored)} steps was right; {SILENT_CAUSES['too_hard']}"
    return None
