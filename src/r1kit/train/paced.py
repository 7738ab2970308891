"""Fine-tuning in an order: the updates of a curriculum (data/pacing.py).

They are as many tokens as without one: rows are drawn until ``epochs`` times all their tokens were."""

from collections.abc import Sequence

from r1kit.data.pacing import SupervisedCurriculum, by_difficulty, paced_places, rarities
from r1kit.seeds import derive_seed
from r1kit.train.learner import LearnerProtocol
from r1kit.train.supervised import SupervisedConfig, update_batches
from r1kit.types import Row

_AT_ONCE = 256  # rows whose losses are computed in one call


def losses_of(learner: LearnerProtocol, rows: Sequence[Row]) -> list[float]:
    """The mean loss of each row's trained tokens, in nats; 0 for a row without any."""
    found: list[float] = []
    for start in range(0, len(rows), _AT_ONCE):
        chunk = rows[start : start + _AT_ONCE]
        for row, logprobs in zip(chunk, learner.logprobs(chunk), strict=True):
            trained = logprobs[row.mask[: len(logprobs)]]
            found.append(-float(trained.mean()) if len(trained) else 0.0)
    return found


def measured_difficulties(rows: Sequence[Row], by: str) -> list[float]:
    """The length of each row, or the rarity of its tokens."""
    if by == "length":
        return [float(len(row.token_ids)) for row in rows]
    return rarities([row.token_ids for row in rows])


def paced_batches(
    rows: Sequence[Row],
    difficulties: Sequence[float],
    curriculum: SupervisedCurriculum,
    config: SupervisedConfig,
    seed: int,
) -> list[list[Row]]:
    """The updates of a curriculum over ``rows`` with these ``difficulties``."""
    order = by_difficulty(difficulties, derive_seed(seed, "difficulty"))
    sizes = [len(row.token_ids) for row in rows]
    total = round(config.epochs * sum(sizes))
    places = paced_places(order, sizes, total, curriculum.pacing, seed)
    return list(update_batches((rows[place] for place in places), config.sizes()))
