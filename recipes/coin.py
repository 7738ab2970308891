"""A reward that knows nothing, for the control run: a fair coin for each rollout, whatever it says."""

from collections.abc import Sequence

from r1kit.seeds import derive_seed
from r1kit.types import Rollout


def coin(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(derive_seed(r.problem.id, r.index, "coin") % 2) for r in rollouts]
