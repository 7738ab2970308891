"""The recipe's rewards as TRL calls them."""

from collections.abc import Sequence

import numpy as np

from r1kit.chat import Chat
from r1kit.rewards import WeightedReward, score
from r1kit.types import Completion, Problem


class Rules:
    """The recipe's rewards as TRL calls them: the weighted sum, from the sampled ids."""

    def __init__(self, chat: Chat, rewards: Sequence[WeightedReward], problems: Sequence[Problem]) -> None:
        self.chat, self.rewards, self.problems = chat, rewards, problems
        self.__name__ = "rules"
        self.right, self.tokens = list[float](), 0

    def __call__(
        self, completion_ids: Sequence[Sequence[int]], place: Sequence[int], **columns: object
    ) -> list[float]:
        rollouts = []
        for at, ids in zip(place, completion_ids, strict=True):
            problem = self.problems[at]
            completion = self._completion(ids)
            rollouts += self.chat.rollouts(problem, self.chat.prompt_ids(problem), [completion], number=at)
        scores = score(rollouts, self.rewards)
        self.right += [each.parts["accuracy"] or 0.0 for each in scores]
        self.tokens += sum(map(len, completion_ids))
        return [each.total for each in scores]

    def _completion(self, ids: Sequence[int]) -> Completion:
        ended = bool(ids) and ids[-1] in self.chat.tokenizer.end_ids
        return Completion(
            np.array(ids, dtype=np.int32),
            np.zeros(len(ids), dtype=np.float32),
            "stop" if ended else "length",
        )
