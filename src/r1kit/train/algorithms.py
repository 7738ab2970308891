"""The GRPO family by name: what each algorithm sets, so that the paper's setting and today's practice are both one line of a recipe.

An algorithm is nothing but values for the keys of ``GRPOConfig``; a key that the recipe writes itself wins over the algorithm's.
"""

from collections.abc import Mapping
from typing import Any

ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {},  # DeepSeekMath 2402.03300, with DeepSeek-R1's values: the defaults
    "dr_grpo": {"advantage": "group_mean", "aggregation": "constant", "beta": 0.0, "epsilon": 0.2},  # 2503.20783
    "dapo": {"aggregation": "token", "beta": 0.0, "epsilon": 0.2, "epsilon_high": 0.28},  # 2503.14476
}
