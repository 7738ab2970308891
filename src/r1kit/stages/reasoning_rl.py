"""Reasoning RL, the first RL stage of R1 (DeepSeek-R1, Nature version, section 3.2.1): from the cold start,
with language consistency.

In the paper: R1-Zero's rewards plus the share of target-language words in the thinking, added with weight 1
(eq. 7); clip 10. It lowers accuracy slightly and makes the thinking readable."""

from typing import Literal

from r1kit.stages.r1_zero import R1Zero
from r1kit.stages.recipe_names import RewardSpec


class ReasoningRL(R1Zero):
    """R1-Zero's stage with another start and one more reward."""

    stage: Literal["reasoning_rl"] = "reasoning_rl"  # type: ignore[assignment]
    init: str = "@cold_start"  # the model that it starts from
    rewards: RewardSpec = {"accuracy": 1.0, "format": 1.0, "language": 1.0}
