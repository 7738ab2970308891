"""The GRPO family by name: what each algorithm sets, so that the paper's setting and today's practice are
both one line of a recipe.

An algorithm is nothing but values for the keys of ``GRPOConfig``; a key that the recipe writes itself wins
over the algorithm's. What an algorithm leaves out stays at R1's value. The equations stand with the keys:
surrogates.py, policy_loss.py, advantages.py, tokens.py, corrections.py; docs/objectives.md lays them side by
side."""

from collections.abc import Mapping
from typing import Any

PLAIN: Mapping[str, Any] = {
    "beta": 0.0,
    "epsilon": 0.2,
}  # no reference, PPO's clip: what most papers after R1 start from
DAPO: Mapping[str, Any] = {**PLAIN, "epsilon_high": 0.28, "aggregation": "token"}

ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {},  # DeepSeekMath 2402.03300, with DeepSeek-R1's values: the defaults
    "dr_grpo": {**PLAIN, "advantage": "group_mean", "aggregation": "constant"},  # 2503.20783
    "dapo": {
        **DAPO,
        "dynamic_sampling": 10,
    },  # 2503.14476; its length penalty is a reward, its overlong filter a key of its own
    "gspo": {
        "surrogate": "gspo",
        "beta": 0.0,
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
    },  # 2507.18071, section 5.1
    "cispo": {"surrogate": "cispo", "beta": 0.0, "aggregation": "token"},  # MiniMax-M1 2506.13585
    "gmpo": {"surrogate": "gmpo", "beta": 0.0, "epsilon": 0.4},  # 2507.20673
    "sapo": {"surrogate": "sapo", "beta": 0.0},  # 2511.20347
    "rloo": {
        "surrogate": "reinforce",
        "advantage": "rloo",
        "aggregation": "sequence",
        "kl": "k1",
        "kl_in": "reward",
    },  # 2402.14740
    "reinforce_pp": {
        "advantage": "reinforce_pp",
        "epsilon": 0.2,
        "aggregation": "token",
        "kl": "k1",
        "kl_in": "reward",
    },  # 2501.03262
    "reinforce_pp_baseline": {
        "advantage": "reinforce_pp_baseline",
        "epsilon": 0.2,
        "aggregation": "token",
        "kl": "k2",
    },  # 2501.03262
    "maxrl": {**PLAIN, "advantage": "maxrl", "aggregation": "constant"},  # 2602.02710
    "pass_at_k": {**DAPO, "advantage": "pass_at_k"},  # 2508.10751
    "gdpo": {"advantage": "gdpo", "epsilon": 0.2},  # 2601.05242
    "entropy_tokens": {**DAPO, "tokens": "entropy"},  # 2506.01939, on DAPO
    "clip_cov": {"beta": 0.0, "epsilon": 1.0, "aggregation": "token", "tokens": "clip_cov"},  # 2505.22617
    "kl_cov": {
        "beta": 0.0,
        "epsilon": 1e6,
        "aggregation": "token",
        "tokens": "kl_cov",
    },  # 2505.22617: the penalty stands in for the clip
    "deepseek_v32": {
        "advantage": "group_mean",
        "epsilon": 0.2,
        "kl_unbiased": True,
        "correction": "sequence_mask",
    },  # 2512.02556
    "scale_rl": {
        "surrogate": "cispo",
        "beta": 0.0,
        "advantage": "batch_std",
        "aggregation": "prompt",
    },  # 2510.13786
    "modern": {
        **DAPO,
        "advantage": "group_mean",
        "correction": "truncate",
    },  # what open trainers settled on by 2026: docs/objectives.md
}
