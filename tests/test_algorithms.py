"""Each name of the GRPO family sets its paper's values, and nothing that the recipe has set itself."""

import re
from pathlib import Path
from typing import Any

import pytest

from r1kit.config import ConfigError
from r1kit.train.advantages import AdvantageConfig
from r1kit.train.algorithms import ALGORITHMS
from r1kit.train.grpo import GRPOConfig
from r1kit.train.policy_loss import PolicyLossConfig
from r1kit.train.ppo import PPOConfig
from r1kit.train.token_selection import TokensConfig


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_name_is_one_line_of_a_recipe_and_says_what_its_paper_says(name: str) -> None:
    config = GRPOConfig.parse({"algorithm": name}, "grpo")
    assert {key: getattr(config, key) for key in ALGORITHMS[name]} == dict(ALGORITHMS[name])
    untouched = set(GRPOConfig.model_fields) - set(ALGORITHMS[name]) - {"algorithm"}
    assert all(getattr(config, key) == getattr(GRPOConfig(), key) for key in untouched)


def test_names_mean_different_things() -> None:
    assert len({tuple(sorted(values.items())) for values in ALGORITHMS.values()}) == len(ALGORITHMS)


PAPERS: dict[str, dict[str, Any]] = {
    "grpo": {
        "epsilon": 10.0,
        "beta": 0.001,
        "advantage": "group_std",
        "aggregation": "rollout",
        "kl": "k3",
        "kl_in": "loss",
        "correction": "none",
    },
    "dr_grpo": {"beta": 0.0, "epsilon": 0.2, "advantage": "group_mean", "aggregation": "constant"},
    "dapo": {
        "beta": 0.0,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "advantage": "group_std",
        "aggregation": "token",
    },
    "gspo": {"epsilon": 3e-4, "epsilon_high": 4e-4, "aggregation": "rollout", "beta": 0.0},
    "cispo": {"cispo_max": 5.0, "aggregation": "token", "beta": 0.0},
    "gmpo": {"epsilon": 0.4, "epsilon_high": None, "aggregation": "rollout"},
    "sapo": {"sapo_positive": 1.0, "sapo_negative": 1.05},
    "rloo": {"kl": "k1", "kl_in": "reward", "aggregation": "sequence", "updates_per_rollout": 1},
    "entropy_tokens": {"tokens": "entropy", "epsilon_high": 0.28},
    "deepseek_v32": {"kl": "k3", "kl_unbiased": True, "correction": "sequence_mask"},
    "scale_rl": {
        "surrogate": "cispo",
        "cispo_max": 5.0,
        "advantage": "reinforce_pp_baseline",
        "even_filter": True,
        "aggregation": "prompt",
    },
}


@pytest.mark.parametrize("name", PAPERS)
def test_these_are_the_published_values(name: str) -> None:
    config = GRPOConfig(algorithm=name)
    assert {key: getattr(config, key) for key in PAPERS[name]} == PAPERS[name]


def test_the_shares_of_tokens_are_the_papers() -> None:
    assert [
        GRPOConfig(algorithm=name).share for name in ("grpo", "entropy_tokens", "clip_cov", "kl_cov")
    ] == [1.0, 0.2, 2e-4, 2e-4]


def test_the_recipes_own_key_wins() -> None:
    config = GRPOConfig.parse({"algorithm": "dapo", "epsilon_high": 0.5, "aggregation": "prompt"}, "grpo")
    assert (config.epsilon, config.epsilon_high, config.aggregation, config.beta) == (0.2, 0.5, "prompt", 0.0)


@pytest.mark.parametrize("updates", [2, 16])
def test_several_updates_without_a_ratio_are_refused_with_the_fix(updates: int) -> None:
    for config in (GRPOConfig, PPOConfig):
        reinforce = {"surrogate": "reinforce", "updates_per_rollout": updates, "reference_refresh": 0}
        with pytest.raises(ConfigError, match=r"has no ratio.*updates_per_rollout: 1, or surrogate: clip"):
            config.parse(reinforce, "grpo")
        assert config.parse(reinforce | {"surrogate": "clip"}, "grpo").updates_per_rollout == updates
        assert config.parse(reinforce | {"updates_per_rollout": 1}, "grpo").surrogate == "reinforce"
    with pytest.raises(ConfigError, match="has no ratio"):
        GRPOConfig.parse({"algorithm": "rloo", "updates_per_rollout": updates}, "grpo")
    clipped = GRPOConfig.parse(
        {"algorithm": "rloo", "updates_per_rollout": updates, "surrogate": "clip"}, "grpo"
    )
    assert (clipped.advantage, clipped.updates_per_rollout) == ("rloo", updates)


def test_truncated_sampling_is_refused_where_a_policy_learns_from_its_own_samples() -> None:
    for config in (GRPOConfig, PPOConfig):
        with pytest.raises(ConfigError, match=r"top_p: 0\.9 .*gradient is then biased.*Use top_p: 1"):
            config.parse({"top_p": 0.9}, "grpo")
        for key in ("top_k", "min_p"):
            with pytest.raises(ConfigError, match=key):
                config.parse({key: 1}, "grpo")


def test_off_policy_needs_a_ratio_or_a_weight() -> None:
    with pytest.raises(ConfigError, match="add correction: truncate"):
        GRPOConfig.parse({"off_policy": 1}, "grpo")
    masked = {"off_policy": 1, "correction": "sequence_mask", "updates_per_rollout": 1}
    assert GRPOConfig.parse(masked, "grpo").sequence_mask == 0.5
    assert GRPOConfig.parse(masked | {"surrogate": "reinforce", "correction": "truncate"}, "grpo").off_policy
    with pytest.raises(ConfigError, match="surrogate: reinforce has none; use surrogate: clip"):
        GRPOConfig.parse(masked | {"surrogate": "reinforce"}, "grpo")


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown algorithm 'dappo': known are grpo, dr_grpo, dapo"):
        GRPOConfig.parse({"algorithm": "dappo"}, "grpo")


def test_every_name_and_every_key_has_its_place_on_the_page() -> None:
    page = (Path(__file__).parent.parent / "docs/objectives.md").read_text(encoding="utf-8")
    table = page.partition("## By name")[2].partition("\n## ")[0]
    rows = [
        re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")
    ]
    assert [name for row in rows for name in row] == list(ALGORITHMS)
    keys = {key for part in (PolicyLossConfig, AdvantageConfig, TokensConfig) for key in part.model_fields}
    assert {key for key in keys if f"`{key}`" not in page and f"`{key}:" not in page} == set()
