"""Reward models: the two-pass gradient is the loss's own, and a simple taste is learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import Spied, assert_same_gradients, gradients_of, learner_config, tokenizer
from torch import Tensor

from r1kit.chat import Chat
from r1kit.tasks.miniature.general import General
from r1kit.train.preference import (
    RewardModel,
    RewardTraining,
    label_accuracy,
    pair_accuracy,
    pairwise_slopes,
    pointwise_slopes,
    read_values,
    text_row,
    train_pairwise,
    train_pointwise,
    value_row,
)
from r1kit.types import Completion, Labelled, Preference, Problem, Response, Rollout

CHAT = Chat(tokenizer())
PROBLEM = Problem("p", "general", "How do I make tea?", None)
TEXTS = (
    "Gladly! boil the water.",
    "no",
    "wait three minutes, add the leaves",
    "Sorry",
    "x" * 30,
    "Good luck!",
)


def a_pair(problem: Problem, chosen: str, rejected: str) -> Preference:
    """Two responses whose thinking says the opposite, since only the answers may count."""
    better, worse = (
        Response(f"<think>{thought}</think>{text}", text)
        for text, thought in ((chosen, rejected), (rejected, chosen))
    )
    return Preference(problem, better, worse)


def spied_judge(**optimizer: object) -> Spied:
    return Spied(learner_config(context=96, lines=3, **optimizer), scalar_head=True)


def value_of(spied: Spied, text: str) -> Tensor:
    """The scalar head's number after the end token, from a forward pass of prompt, text and end alone."""
    ids = np.concatenate([CHAT.prompt_ids(PROBLEM), CHAT.response_ids(text)])
    return spied.model.values(spied.model(torch.from_numpy(ids.astype(np.int64))[None]).hidden_BTD)[0, -1]


def test_slopes_are_the_derivatives_of_the_two_losses() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, labels = (
        torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)
    )
    loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
    ours = pairwise_slopes(chosen.detach().numpy(), rejected.detach().numpy())
    for found, expected in zip(ours, torch.autograd.grad(loss, (chosen, rejected)), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9)
    targets = (labels.detach() > 0).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(chosen, targets)
    np.testing.assert_allclose(
        pointwise_slopes(chosen.detach().numpy(), targets.numpy()),
        torch.autograd.grad(loss, chosen)[0].numpy(),
        rtol=1e-9,
    )


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_slopes_equal_finite_differences(scale: float) -> None:
    rng = np.random.default_rng(0)
    chosen, rejected, labels = (
        scale * rng.normal(size=5),
        scale * rng.normal(size=5),
        np.array([1.0, 0, 0, 1, 1]),
    )

    def pairwise(chosen_Y: np.ndarray, rejected_Y: np.ndarray) -> float:
        return float(np.mean(np.log1p(np.exp(rejected_Y - chosen_Y))))

    def pointwise(values_B: np.ndarray) -> float:
        probability_B = 1 / (1 + np.exp(-values_B))
        return float(-np.mean(labels * np.log(probability_B) + (1 - labels) * np.log1p(-probability_B)))

    steps = 1e-5 * np.eye(5)
    better, worse = pairwise_slopes(chosen, rejected)
    np.testing.assert_allclose(
        better,
        [(pairwise(chosen + d, rejected) - pairwise(chosen - d, rejected)) / 2e-5 for d in steps],
        atol=1e-9,
    )
    np.testing.assert_allclose(
        worse,
        [(pairwise(chosen, rejected + d) - pairwise(chosen, rejected - d)) / 2e-5 for d in steps],
        atol=1e-9,
    )
    mild = chosen / scale
    np.testing.assert_allclose(
        pointwise_slopes(mild, labels),
        [(pointwise(mild + d) - pointwise(mild - d)) / 2e-5 for d in steps],
        atol=1e-9,
    )


def test_slopes_of_values_far_apart_are_finite() -> None:
    far = np.array([-2000.0, 2000.0])
    with np.errstate(over="raise"):
        np.testing.assert_array_equal(pairwise_slopes(far, -far), [[-0.5, 0], [0.5, 0]])
        np.testing.assert_array_equal(pointwise_slopes(far, np.array([1.0, 0.0])), [-0.5, 0.5])


def test_the_update_moves_along_the_gradient_of_finite_differences() -> None:
    """The Bradley-Terry loss through packing, forward, slopes and backward, along the gradient and along a
    random direction."""
    spied = spied_judge(learning_rate=0.0)
    pairs = [a_pair(PROBLEM, TEXTS[0], TEXTS[1]), a_pair(PROBLEM, TEXTS[2], TEXTS[3])]
    train_pairwise(spied.learner, CHAT, pairs, RewardTraining(96, 2, 1, seed=0))
    ours = {name: gradient.double() for name, gradient in spied.gradients().items()}
    norm = sum(float(gradient.square().sum()) for gradient in ours.values()) ** 0.5
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: torch.randn(gradient.shape, generator=generator) * gradient.abs()
        for name, gradient in ours.items()
    }

    def loss_at(step: float, direction: dict[str, Tensor]) -> float:
        before = {name: parameter.detach().clone() for name, parameter in spied.model.named_parameters()}
        with torch.no_grad():
            for name, parameter in spied.model.named_parameters():
                parameter.add_(step * direction[name])
            margins = [
                float(value_of(spied, pair.chosen.answer) - value_of(spied, pair.rejected.answer))
                for pair in pairs
            ]
            for name, parameter in spied.model.named_parameters():
                parameter.copy_(before[name])
        return float(np.mean(np.log1p(np.exp(-np.array(margins)))))

    for direction in (ours, noise):
        length = sum(float(part.square().sum()) for part in direction.values()) ** 0.5
        unit = {name: part / length for name, part in direction.items()}
        expected = (loss_at(1e-3, unit) - loss_at(-1e-3, unit)) / 2e-3
        assert abs(sum(float((ours[name] * unit[name]).sum()) for name in ours) - expected) < 2e-3 * norm


def test_a_value_is_read_after_the_end_token() -> None:
    spied = spied_judge()
    rows = [text_row(CHAT, PROBLEM, text, 96) for text in TEXTS]
    with torch.no_grad():
        spied.model.eval()
        expected = [float(value_of(spied, text)) for text in TEXTS]
    np.testing.assert_allclose(read_values(spied.learner, rows), expected, atol=2e-5)


def test_the_two_passes_give_the_gradient_of_the_bradley_terry_loss() -> None:
    spied = spied_judge()
    pairs = [
        a_pair(PROBLEM, TEXTS[0], TEXTS[1]),
        a_pair(PROBLEM, TEXTS[2], TEXTS[3]),
        a_pair(PROBLEM, TEXTS[5], TEXTS[4]),
    ]
    margins = torch.stack(
        [value_of(spied, pair.chosen.answer) - value_of(spied, pair.rejected.answer) for pair in pairs]
    )
    loss = -torch.nn.functional.logsigmoid(margins).mean()
    expected = gradients_of(spied.model, loss)
    history = train_pairwise(spied.learner, CHAT, pairs, RewardTraining(96, 3, 1, seed=0))
    assert_same_gradients(spied.gradients(), expected)
    assert history[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert history[0]["accuracy"] == sum(margin > 0 for margin in margins.tolist()) / 3


def test_the_two_passes_give_the_gradient_of_the_cross_entropy() -> None:
    spied = spied_judge()
    labelled = [
        Labelled(PROBLEM, text, safe)
        for text, safe in zip(TEXTS[:4], (True, False, False, True), strict=True)
    ]
    values = torch.stack([value_of(spied, one.text) for one in labelled])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(values, torch.tensor([1.0, 0, 0, 1]))
    expected = gradients_of(spied.model, loss)
    history = train_pointwise(spied.learner, CHAT, labelled, RewardTraining(96, 4, 1, seed=0))
    assert_same_gradients(spied.gradients(), expected)
    assert history[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


def test_a_simple_taste_is_learned_and_holds_on_held_out_prompts() -> None:
    taste = {
        split: [a_pair(p, "boil Good luck!", "boil the water") for p in list(General().problems(split))[:24]]
        for split in ("train", "held_out")
    }
    spied = spied_judge(learning_rate=3e-3)
    before = pair_accuracy(spied.learner, CHAT, taste["held_out"], 96)
    history = train_pairwise(spied.learner, CHAT, taste["train"], RewardTraining(96, 12, 3, seed=0))
    assert len(history) == 6 and history[-1]["loss"] < 0.3 < history[0]["loss"]
    assert pair_accuracy(spied.learner, CHAT, taste["held_out"], 96) == 1.0 >= before
    swapped = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in taste["held_out"]]
    assert pair_accuracy(spied.learner, CHAT, swapped, 96) == 0.0


def test_labels_are_learned_from_the_whole_response() -> None:
    problems = list(General().problems("train"))[:16]
    labelled = [
        Labelled(p, f"<think>{thought}</think>ok", thought == "I must not")
        for p in problems
        for thought in ("I must not", "boil")
    ]
    spied = spied_judge(learning_rate=5e-3)
    train_pointwise(spied.learner, CHAT, labelled, RewardTraining(96, 16, 8, seed=0))
    assert label_accuracy(spied.learner, CHAT, labelled, 96) == 1.0


def test_a_long_text_is_cut_but_keeps_its_end_token() -> None:
    prompt = CHAT.prompt_ids(PROBLEM)
    row = text_row(CHAT, PROBLEM, "water " * 100, 60)
    eos = tokenizer().eos_id
    assert len(row.token_ids) == 61 and row.token_ids[-2:].tolist() == [eos, eos]
    assert row.token_ids[: len(prompt)].tolist() == prompt.tolist() and int(row.mask.sum()) == 1
    short = text_row(CHAT, PROBLEM, "water", 60)
    np.testing.assert_array_equal(short.token_ids, value_row(prompt, CHAT.response_ids("water")).token_ids)


def rollout(text: str, answer: str | None) -> Rollout:
    return Rollout(
        PROBLEM,
        0,
        CHAT.prompt_ids(PROBLEM),
        Completion(CHAT.response_ids(text), np.zeros(1, np.float32), "stop"),
        text,
        None,
        answer,
    )


@pytest.mark.parametrize("summary_only", [True, False])
def test_scores_are_standardised_values_of_what_the_judge_may_read(summary_only: bool) -> None:
    spied = spied_judge()
    rollouts = [
        rollout("<think>a</think>boil", "boil"),
        rollout("nothing", None),
        rollout("<think>b</think>wait", "wait"),
    ]
    judge = RewardModel(spied.learner, CHAT, 96, summary_only, mean=0.1, std=0.5)
    spied.model.eval()
    with torch.no_grad():
        values = [
            float(value_of(spied, str(r.answer) if summary_only else r.text)) for r in rollouts if r.answer
        ]
    expected = [1 / (1 + np.exp(-(value - 0.1) / 0.5)) for value in values]
    np.testing.assert_allclose(judge.scores(rollouts), [expected[0], 0.0, expected[1]], atol=1e-4)
    assert judge.scores([]) == []
