"""What training keeps of its rollouts: the checker's reason, the advantage that the update uses, tokens."""

import json
from typing import Any

import numpy as np
import pytest
from small_world import tokenizer

from r1kit.rewards import WeightedReward
from r1kit.rewards.reward import Explained
from r1kit.rewards.rules import accuracy
from r1kit.rewards.scoring import score
from r1kit.train.advantage_rows import Recomputed, group_advantages, make_rows
from r1kit.train.grpo import GRPOConfig
from r1kit.train.rollouts import TOKEN_ROLLOUTS, TOKENS_KEPT, Phase, records
from r1kit.types import Completion, Problem, Rollout, Score, Verdict

TOTALS = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 2.0, float("nan")]]


def rollout(group: int, index: int, tokens: int = 4) -> Rollout:
    ids = np.arange(5, 5 + tokens, dtype=np.int32)
    completion = Completion(ids, np.linspace(-1.23456, 0, tokens, dtype=np.float32), "stop")
    return Rollout(Problem(f"p{group}", "sums", "?", "1"), index, ids[:2], completion, "x", None, None, group)


def phase(totals: list[list[float]] = TOTALS, tokens: int = 4) -> Phase:
    groups = [[rollout(g, i, tokens) for i in range(len(own))] for g, own in enumerate(totals)]
    return Phase(groups, [[Score(total, {"sums": total}) for total in own] for own in totals], len(totals), 1)


class Checker:
    name = "sums"

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        return Verdict("wrong", "7, not 8") if problem.id == "p0" else Verdict("correct")


def test_a_score_has_the_reason_of_its_verdict_and_is_otherwise_the_same() -> None:
    reward = WeightedReward("accuracy", 2.0, accuracy({"sums": Checker()}))
    wrong, right = score([rollout(0, 0), rollout(1, 0)], [reward])
    assert (wrong, right) == (Score(0.0, {"accuracy": 0.0}), Score(2.0, {"accuracy": 1.0}))
    assert wrong.reasons == {"accuracy": "7, not 8"} and right.reasons == {}
    assert type(wrong.parts["accuracy"]) is float and isinstance(Explained(0.5, "half"), float)


@pytest.mark.parametrize(
    "keys", [{}, {"advantage": "batch_std"}, {"even_filter": True}, {"advantage": "rloo"}]
)
def test_the_kept_advantage_is_that_of_the_training_row(keys: dict[str, Any]) -> None:
    config = GRPOConfig(problems=3, group=3, updates_per_rollout=1, beta=0.0, **keys)
    found = group_advantages(phase(), config, {"sums": 1.0})
    assert found is not None
    trained = {row.name: row.advantage for row in make_rows(phase(), config, {"sums": 1.0}, Recomputed(), 0)}
    assert 4 <= len(trained) <= 5
    for group, own in enumerate(found):
        for index, advantage in enumerate(own):
            assert trained.get(f"p{group}/{group}/{index}", 0.0) == advantage


def test_the_advantage_is_the_papers_and_missing_where_it_is_not_one_number() -> None:
    config = GRPOConfig(problems=3, group=3, updates_per_rollout=1, beta=0.0)
    (first, second, _) = group_advantages(phase(), config, {"sums": 1.0}) or []
    deviation = (((2 / 3) ** 2 + 2 * (1 / 3) ** 2) / 2) ** 0.5 + 1e-4
    assert first == pytest.approx([2 / 3 / deviation, -1 / 3 / deviation, -1 / 3 / deviation], rel=1e-6)
    assert not second.any()
    for keys in ({"advantage": "reinforce_pp"}, {"beta": 0.1, "kl": "k1", "kl_in": "reward"}):
        other = GRPOConfig(problems=3, group=3, updates_per_rollout=1, **keys)  # type: ignore[arg-type]
        assert group_advantages(phase(), other, {"sums": 1.0}) is None


def test_tokens_are_kept_of_the_first_rollouts_only_and_no_more_than_so_many() -> None:
    totals = [[0.0, 1.0, 0.0]] * 4
    advantages: list[Any] = [np.array([0.5, 1.0, -1.5]), None, np.zeros(3), None]
    lines = records(phase(totals, TOKENS_KEPT + 9), 11, advantages, lambda ids: [f"t{i}" for i in ids])
    assert len(lines) == 11 and ["tokens" in line for line in lines] == [True] * TOKEN_ROLLOUTS + [False] * 3
    kept: Any = lines[0]["tokens"]
    assert kept["texts"] == [f"t{i}" for i in range(5, 5 + TOKENS_KEPT)]
    assert len(kept["logprobs"]) == TOKENS_KEPT and kept["logprobs"][0] == -1.2346
    assert [line.get("advantage") for line in lines[:7]] == [0.5, 1.0, -1.5, None, None, None, 0.0]
    assert json.loads(json.dumps(lines)) == lines
    assert not any("tokens" in line or "advantage" in line for line in records(phase(totals), 12))


def test_the_pieces_of_a_text_are_the_text() -> None:
    for text in ("start with 4*6=24, after that <think> 8</think>\n  x", "什么 é", ""):
        ids = tokenizer().encode(text)
        pieces = tokenizer().pieces(ids)
        assert len(pieces) == len(ids)
        if text.isascii():
            assert "".join(pieces) == text
