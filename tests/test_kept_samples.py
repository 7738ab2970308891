"""What training keeps of its rollouts: the checker's reason, the advantage that the update uses, tokens."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_world import learner_config, model, tokenizer

from r1kit.chat import Chat
from r1kit.rewards import WeightedReward
from r1kit.rewards.reward import Explained
from r1kit.rewards.rules import accuracy
from r1kit.rewards.scoring import score
from r1kit.train.advantage_rows import Recomputed, group_advantages, make_rows
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import Learner
from r1kit.train.rl_loop import token_views
from r1kit.train.rollouts import (
    TOKEN_ROLLOUTS,
    TOKENS_KEPT,
    Phase,
    Policy,
    TokenView,
    records,
    shortened,
)
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


def view(one: Rollout) -> TokenView:
    ids, logprobs_T = one.completion.token_ids, one.completion.logprobs
    return TokenView([f"t{i}" for i in ids], logprobs_T, logprobs_T + 0.1, np.full(len(ids), 0.5))


def test_tokens_are_kept_of_the_first_rollouts_only_and_no_more_than_so_many() -> None:
    totals = [[0.0, 1.0, 0.0]] * 4
    advantages: list[Any] = [np.array([0.5, 1.0, -1.5]), None, np.zeros(3), None]
    found = phase(totals, TOKENS_KEPT + 9)
    seen = [view(shortened(one)) for group in found.groups for one in group][:TOKEN_ROLLOUTS]
    lines = records(found, 11, advantages, seen)
    assert len(lines) == 11 and ["tokens" in line for line in lines] == [True] * TOKEN_ROLLOUTS + [False] * 3
    kept: Any = lines[0]["tokens"]
    assert kept["texts"] == [f"t{i}" for i in range(5, 5 + TOKENS_KEPT)]
    assert len(kept["logprobs"]) == TOKENS_KEPT and kept["logprobs"][0] == -1.23456
    assert kept["learned"][0] == -1.13456 and kept["entropies"] == [0.5] * TOKENS_KEPT
    assert [line.get("advantage") for line in lines[:7]] == [0.5, 1.0, -1.5, None, None, None, 0.0]
    assert json.loads(json.dumps(lines)) == lines
    assert not any("tokens" in line or "advantage" in line for line in records(phase(totals), 12))


def test_the_kept_numbers_of_tokens_are_those_of_the_learner_before_it_learns() -> None:
    network = model(init_std=0.05)
    learner = Learner(network, learner_config(context=TOKENS_KEPT + 64))
    found = phase([[0.0, 1.0]] * 6, tokens=7)
    policy = Policy(learner, None, Chat(tokenizer()))  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    views = token_views(
        policy, found, GRPOConfig(problems=6, group=2, updates_per_rollout=1, temperature=0.7)
    )
    assert len(views) == TOKEN_ROLLOUTS
    rollouts = [one for group in found.groups for one in group]
    for one, own in zip(rollouts, views, strict=False):
        ids = torch.from_numpy(np.concatenate([one.prompt_ids, one.completion.token_ids]).astype(np.int64))
        with torch.no_grad():
            logs_TV = (network.logits(network(ids[None, :-1]).hidden_BTD)[0] / 0.7).log_softmax(-1)[1:]
        expected_T = logs_TV.gather(1, ids[2:, None])[:, 0]
        assert own.learned_T == pytest.approx(expected_T.numpy(), abs=1e-4)
        assert own.entropy_T == pytest.approx(-(logs_TV.exp() * logs_TV).sum(-1).numpy(), abs=1e-4)
        assert np.array_equal(own.logprobs_T, one.completion.logprobs) and len(own.texts) == 7
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_shortened_rollout_keeps_the_choices_of_experts_that_its_tokens_had() -> None:
    long = rollout(0, 0, TOKENS_KEPT + 5)
    experts = np.zeros((2 + TOKENS_KEPT + 5 - 1, 1, 2), dtype=np.uint8)
    cut = shortened(replace(long, completion=replace(long.completion, experts=experts))).completion
    assert len(cut.token_ids) == len(cut.logprobs) == TOKENS_KEPT
    assert cut.experts is not None and len(cut.experts) == 2 + TOKENS_KEPT - 1
    assert shortened(rollout(0, 0, 3)).completion.token_ids.tolist() == [5, 6, 7]


def test_the_pieces_of_a_text_are_the_text() -> None:
    for text in ("start with 4*6=24, after that <think> 8</think>\n  x", "什么 é", ""):
        ids = tokenizer().encode(text)
        pieces = tokenizer().pieces(ids)
        assert len(pieces) == len(ids)
        if text.isascii():
            assert "".join(pieces) == text
