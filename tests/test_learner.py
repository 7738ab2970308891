"""One update: its gradient is that of the plain loss, however rows are packed, and nothing bad is ever applied."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import (
    Spied,
    assert_same_gradients,
    full_logprobs,
    gradients_of,
    learner_config,
    model,
    random_rows,
    same_weights,
    shuffled,
)
from torch import Tensor
from transformers import AutoModelForCausalLM

from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.train.learner import Learner
from r1kit.train.objectives import CrossEntropy
from r1kit.types import Row


def plain_loss(model: LanguageModel, rows: list[Row]) -> Tensor:
    """-sum(weight log p), row by row, over all logits."""
    model.train()
    return torch.stack([-(full_logprobs(model, row) * torch.from_numpy(row.mask[1:])).sum() * row.weight for row in rows]).sum()


def plain_mtp_loss(model: LanguageModel, rows: list[Row]) -> Tensor:
    """-sum(weight log P(t_{i+2} | t_1..t_i, t_{i+1})), row by row: DeepSeek-V3 eq. 21-24 at depth 1."""
    losses = []
    for row in rows:
        tokens_BT = torch.from_numpy(row.token_ids.astype(np.int64))[None]
        last_BTD = model(tokens_BT[:, :-2]).last_BTD
        logprobs_TV = model.logits(model.mtp(last_BTD, tokens_BT[:, 1:-1]))[0].log_softmax(-1)
        two_ahead = logprobs_TV.gather(1, tokens_BT[0, 2:, None])[:, 0]
        losses.append(-(two_ahead * torch.from_numpy(row.mask[2:])).sum() * row.weight)
    return torch.stack(losses).sum()


def test_the_gradient_is_that_of_the_plain_loss() -> None:
    spied, rows = Spied(), random_rows(9)
    loss = plain_loss(spied.model, rows)
    gradients, expected = gradients_of(spied.model, loss), float(loss.detach())
    metrics = spied.learner.update(rows, CrossEntropy(), 0.0)
    assert_same_gradients(spied.gradients(), gradients)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["tokens"] == sum(int(row.mask[1:].sum()) for row in rows)
    assert metrics["grad_norm"] == pytest.approx(float(torch.cat([g.flatten() for g in gradients.values()]).norm()), rel=1e-4)


@pytest.mark.parametrize("preset", ["nano", "student"])
def test_the_gradient_is_that_of_transformers_loss(preset: str, tmp_path: Path) -> None:
    spied, rows = Spied(preset=preset), random_rows(6)
    save_pretrained(spied.model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).train()
    total = torch.zeros(())
    for row in rows:
        tokens_BT = torch.from_numpy(row.token_ids.astype(np.int64))[None]
        labels_BT = torch.where(torch.from_numpy(row.mask)[None], tokens_BT, -100)
        labels_BT[:, 0] = -100
        total = total + theirs(input_ids=tokens_BT, labels=labels_BT).loss * int((labels_BT != -100).sum()) * row.weight
    total.backward()
    metrics = spied.learner.update(rows, CrossEntropy(), 0.0)
    assert metrics["loss"] == pytest.approx(float(total.detach()), rel=1e-5)
    expected = {name.removeprefix("model."): p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    ours = spied.gradients()
    shared = {name: gradient for name, gradient in expected.items() if name in ours and ours[name].shape == gradient.shape}
    assert {"embed_tokens.weight", "norm.weight"} <= set(shared) and len(shared) >= 15
    assert_same_gradients({name: ours[name] for name in shared}, shared, 2e-5)


@pytest.mark.parametrize(("context", "lines", "order"), [(24, 1, 0), (24, 7, 1), (64, 2, 2), (200, 30, 3)])
def test_the_gradient_does_not_depend_on_the_split_or_the_order(context: int, lines: int, order: int) -> None:
    rows = random_rows(14)
    reference, split = Spied(learner_config(64, 4)), Spied(learner_config(context, lines))
    objective = CrossEntropy(mtp_weight=0.3)
    expected = reference.learner.update(rows, objective, 0.0)
    metrics = split.learner.update(shuffled(rows, order), objective, 0.0)
    assert_same_gradients(split.gradients(), reference.gradients())
    assert {name: metrics[name] for name in ("tokens", "nats", "mtp", "loss")} == pytest.approx(
        {name: expected[name] for name in ("tokens", "nats", "mtp", "loss")}, rel=1e-5
    )


def test_the_multi_token_loss_is_the_one_written_by_hand() -> None:
    spied, rows = Spied(learner_config(50, 3)), random_rows(8)
    mtp = plain_mtp_loss(spied.model.train(), rows)
    gradients = gradients_of(spied.model, plain_loss(spied.model, rows) + 0.3 * plain_mtp_loss(spied.model, rows))
    spied.model.adjust_biases(0.0)  # the hand-written passes were counted too
    metrics = spied.learner.update(rows, CrossEntropy(mtp_weight=0.3), 0.0)
    assert metrics["mtp"] == pytest.approx(float(mtp.detach()), rel=1e-5)
    assert_same_gradients(spied.gradients(), gradients)


def test_the_balance_loss_is_the_models_weighted_by_each_lines_share() -> None:
    row = replace(random_rows(1, seed=4)[0], weight=0.05)
    spied = Spied()
    tokens_BT = torch.from_numpy(row.token_ids.astype(np.int64))[None]
    balance = spied.model.train()(tokens_BT[:, :-1], balance=True).balance_BS.sum() * row.weight * int(row.mask[1:].sum())
    expected = float((plain_loss(spied.model, [row]) + 0.5 * balance).detach())
    spied.model.adjust_biases(0.0)
    assert spied.learner.update([row], CrossEntropy(balance_weight=0.5), 0.0)["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_experts_biases_move_by_gamma_against_their_load() -> None:
    spied = Spied()
    gate = spied.model.layers[1].mlp.gate
    loads: list[Tensor] = []
    spied.learner.reduce = lambda flat: loads.append(spied.model.expert_loads()[0].clone()) or flat  # type: ignore[func-returns-value]
    spied.learner.update(random_rows(9), CrossEntropy(), 0.0)
    load_E = loads[0].double()
    assert load_E.sum() == 2 * sum(len(row.token_ids) - 1 for row in random_rows(9))  # two active experts a token, no padding
    expected = 0.001 * torch.sign(load_E.mean() - load_E)
    torch.testing.assert_close(gate.e_score_correction_bias, expected.float())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_gradient_that_is_not_a_number_is_not_applied(kind: str) -> None:
    poisoned, clean = Spied(learner_config(kind=kind)), Spied(learner_config(kind=kind))
    rows = random_rows(5)
    before = {name: tensor.clone() for name, tensor in poisoned.model.named_parameters()}
    metrics = poisoned.learner.update([replace(rows[0], weight=float("nan")), *rows[1:]], CrossEntropy(), 1.0)
    assert metrics["skipped"] == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in poisoned.model.named_parameters())
    assert all(not optimizer.state for optimizer in poisoned.learner.optimizers)
    assert same_weights(poisoned.model, clean.model)  # the experts' biases included
    for spied in (poisoned, clean):
        assert spied.learner.update(rows, CrossEntropy(), 1.0)["skipped"] == 0.0
    assert same_weights(poisoned.model, clean.model)
    assert (poisoned.learner.version, clean.learner.version) == (1, 1)


def test_the_gradient_is_clipped_to_the_configured_norm() -> None:
    rows = random_rows(5)
    free, clipped = Spied(), Spied(learner_config(grad_clip=1e-3))
    norm = free.learner.update(rows, CrossEntropy(), 0.0)["grad_norm"]
    assert clipped.learner.update(rows, CrossEntropy(), 1.0)["grad_norm"] == pytest.approx(norm, rel=1e-6)  # as it was before
    moments = [state["exp_avg"] / 0.1 for state in clipped.learner.optimizers[0].state.values()]
    assert float(torch.cat([m.flatten() for m in moments]).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_an_update_without_rows_changes_nothing() -> None:
    spied, untouched = Spied(), Spied()
    metrics = spied.learner.update([], CrossEntropy(), 1.0)
    assert metrics["tokens"] == metrics["loss"] == metrics["grad_norm"] == 0.0
    assert same_weights(spied.model, untouched.model)


def test_rows_without_trained_tokens_change_nothing() -> None:
    spied, untouched = Spied(), Spied()
    rows = [replace(row, mask=np.zeros(len(row.token_ids), dtype=bool)) for row in random_rows(2)]
    assert spied.learner.update(rows, CrossEntropy(), 1.0)["tokens"] == 0.0
    assert all(torch.equal(p, q) for p, q in zip(spied.model.parameters(), untouched.model.parameters(), strict=True))


def test_the_schedules_factor_scales_every_optimizers_rate() -> None:
    spied = Spied(learner_config(kind="muon", learning_rate=1e-3))
    spied.learner.update(random_rows(2), CrossEntropy(), 0.25)
    rates = {group["lr"] for optimizer in spied.learner.optimizers for group in optimizer.param_groups}
    assert rates == {0.25e-3, 0.25 * 0.02}


def test_a_value_is_the_scalar_heads_number_after_reading_its_token() -> None:
    spied = Spied(learner_config(40, 2), scalar_head=True)
    rows = random_rows(7)
    for row, values in zip(rows, spied.learner.values(rows), strict=True):
        tokens_BT = torch.from_numpy(row.token_ids.astype(np.int64))[None]
        with torch.no_grad():
            expected = spied.model.eval().values(spied.model(tokens_BT).hidden_BTD)[0].numpy()
        np.testing.assert_allclose(values[:-1], expected[:-1], atol=2e-5)
        assert values[-1] == 0


def test_copying_weights_makes_the_reference_equal_to_the_policy() -> None:
    policy, reference = Spied(), Spied(seed=2)
    reference.learner.copy_from(policy.learner)
    assert same_weights(policy.model, reference.model)
    policy.learner.update(random_rows(3), CrossEntropy(), 1.0)
    assert not same_weights(policy.model, reference.model)


def test_bfloat16_log_probabilities_are_near_those_of_float32() -> None:
    rows = random_rows(6)
    exact = Learner(model(), learner_config())
    rough = Learner(model(), learner_config().model_copy(update={"precision": "bfloat16"}))
    ours, theirs = np.concatenate(rough.logprobs(rows)), np.concatenate(exact.logprobs(rows))
    assert ours.dtype == np.float32 and 0 < np.abs(ours - theirs).max() < 0.3
    assert theirs.min() > -40
