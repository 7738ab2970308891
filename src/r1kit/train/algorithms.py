"""The GRPO family by name: which keys each algorithm sets, so that the paper's setting and today's practice
are both one line of a recipe.

An algorithm is a set of values for the keys of ``GRPOConfig``. A key given in the recipe overrides the
algorithm's value; a key that the algorithm does not set keeps R1's value. The equations are in surrogates.py,
policy_loss.py, advantages.py, token_selection.py and corrections.py; docs/objectives.md compares them."""

from collections.abc import Mapping
from typing import Any

# No reference, PPO's clip: what most papers after R1 start from.
PLAIN: Mapping[str, Any] = {"beta": 0.0, "epsilon": 0.2}
DAPO: Mapping[str, Any] = {**PLAIN, "epsilon_high": 0.28, "aggregation": "token"}

ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    # DeepSeekMath 2402.03300, with DeepSeek-R1's values: the defaults
    "grpo": {},
    # 2503.20783
    "dr_grpo": {**PLAIN, "advantage": "group_mean", "aggregation": "constant"},
    # 2503.14476; its length penalty is a reward, its overlong filter a separate key
    "dapo": {**DAPO, "dynamic_sampling": 10},
    # 2507.18071, section 5.1
    "gspo": {"surrogate": "gspo", "beta": 0.0, "epsilon": 3e-4, "epsilon_high": 4e-4},
    # MiniMax-M1 2506.13585
    "cispo": {"surrogate": "cispo", "beta": 0.0, "aggregation": "token"},
    # 2507.20673
    "gmpo": {"surrogate": "gmpo", "beta": 0.0, "epsilon": 0.4},
    # 2511.20347
    "sapo": {"surrogate": "sapo", "beta": 0.0},
    # 2402.14740; without a ratio only one update a rollout is right
    "rloo": {
        "surrogate": "reinforce",
        "updates_per_rollout": 1,
        "advantage": "rloo",
        "aggregation": "sequence",
        "kl": "k1",
        "kl_in": "reward",
    },
    # 2501.03262
    "reinforce_pp": {
        "advantage": "reinforce_pp",
        "epsilon": 0.2,
        "aggregation": "token",
        "kl": "k1",
        "kl_in": "reward",
    },
    # 2501.03262
    "reinforce_pp_baseline": {
        "advantage": "reinforce_pp_baseline",
        "epsilon": 0.2,
        "aggregation": "token",
        "kl": "k2",
    },
    # 2602.02710; the published code averages over tokens and has a dual clip of 3
    "maxrl": {**PLAIN, "advantage": "maxrl", "aggregation": "constant"},
    # 2508.10751
    "pass_at_k": {**DAPO, "advantage": "pass_at_k"},
    # 2601.05242
    "gdpo": {"advantage": "gdpo", "epsilon": 0.2},
    # 2506.01939, on DAPO
    "entropy_tokens": {**DAPO, "tokens": "entropy"},
    # 2505.22617
    "clip_cov": {"beta": 0.0, "epsilon": 1.0, "aggregation": "token", "tokens": "clip_cov"},
    # 2505.22617: the penalty takes the place of the clip
    "kl_cov": {"beta": 0.0, "epsilon": 1e6, "aggregation": "token", "tokens": "kl_cov"},
    # 2512.02556
    "deepseek_v32": {
        "advantage": "group_mean",
        "epsilon": 0.2,
        "kl_unbiased": True,
        "correction": "sequence_mask",
    },
    # 2510.13786, section 4
    "scale_rl": {
        "surrogate": "cispo",
        "beta": 0.0,
        "advantage": "reinforce_pp_baseline",
        "even_filter": True,
        "aggregation": "prompt",
    },
    # what open trainers settled on by 2026: docs/objectives.md
    "modern": {**DAPO, "advantage": "group_mean", "correction": "truncate"},
}
