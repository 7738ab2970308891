"""One update: its gradient is that of the plain loss, however rows are packed, and nothing bad is ever
applied."""

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import (
    Spied,
    Summing,
    assert_same_gradients,
    full_logprobs,
    gradients_of,
    learner_config,
    model,
    quiet_log,
    random_rows,
    same_weights,
    shuffled,
)
from torch import Tensor
from transformers import AutoModelForCausalLM

from r1kit.config import R1kitError
from r1kit.engine.native import NativeEngine
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.stages import STAGES
from r1kit.train import supervised
from r1kit.train.learner import Learner, LearnerConfig, Metrics
from r1kit.train.objectives import CrossEntropy, Objective, Predictions
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig
from r1kit.train.supervised import SupervisedConfig
from r1kit.types import Row, Sampling


def plain_loss(model: LanguageModel, rows: list[Row]) -> Tensor:
    """-sum(weight log p), row by row, over all logits."""
    model.train()
    return torch.stack(
        [
            (full_logprobs(model, row) * torch.from_numpy(row.mask[1:])).sum() * -float(row.weight)
            for row in rows
        ]
    ).sum()


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
    assert metrics["grad_norm"] == pytest.approx(
        float(torch.cat([g.flatten() for g in gradients.values()]).norm()), rel=1e-4
    )


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
        total = (
            total
            + theirs(input_ids=tokens_BT, labels=labels_BT).loss * int((labels_BT != -100).sum()) * row.weight
        )
    total.backward()
    metrics = spied.learner.update(rows, CrossEntropy(), 0.0)
    assert metrics["loss"] == pytest.approx(float(total.detach()), rel=1e-5)
    expected = {
        name.removeprefix("model."): p.grad for name, p in theirs.named_parameters() if p.grad is not None
    }
    ours = spied.gradients()
    shared = {
        name: gradient
        for name, gradient in expected.items()
        if name in ours and ours[name].shape == gradient.shape
    }
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
    gradients = gradients_of(
        spied.model, plain_loss(spied.model, rows) + 0.3 * plain_mtp_loss(spied.model, rows)
    )
    spied.model.adjust_biases(0.0)  # the hand-written passes were counted too
    metrics = spied.learner.update(rows, CrossEntropy(mtp_weight=0.3), 0.0)
    assert metrics["mtp"] == pytest.approx(float(mtp.detach()), rel=1e-5)
    assert_same_gradients(spied.gradients(), gradients)


def test_the_balance_loss_is_the_models_weighted_by_each_rows_share() -> None:
    row = replace(random_rows(1, seed=4)[0], weight=0.05)
    spied = Spied()
    tokens_BT = torch.from_numpy(row.token_ids.astype(np.int64))[None]
    balance = (
        spied.model.train()(tokens_BT[:, :-1], balance=True).balance_BS.sum()
        * row.weight
        * int(row.mask[1:].sum())
    )
    expected = float((plain_loss(spied.model, [row]) + 0.5 * balance).detach())
    spied.model.adjust_biases(0.0)
    assert spied.learner.update([row], CrossEntropy(balance_weight=0.5), 0.0)["loss"] == pytest.approx(
        expected, rel=1e-5
    )


def test_the_experts_biases_move_by_gamma_against_their_load() -> None:
    spied = Spied(learner_config().model_copy(update={"bias_rate": 0.001}))
    gate = spied.model.layers[1].mlp.gate
    loads: list[Tensor] = []
    spied.learner.group = Summing(lambda flat: loads.append(spied.model.expert_loads()[0].clone()) or flat)  # type: ignore[func-returns-value]
    spied.learner.update(random_rows(9), CrossEntropy(), 0.0)
    load_E = loads[0].double()
    assert load_E.sum() == 2 * sum(
        len(row.token_ids) - 1 for row in random_rows(9)
    )  # two active experts a token, no padding
    expected = 0.001 * torch.sign(load_E.mean() - load_E)
    torch.testing.assert_close(gate.e_score_correction_bias, expected.float())


def test_at_learning_rate_zero_an_rl_update_leaves_the_policy_as_it_is_to_the_last_bit() -> None:
    """Biases of experts move the policy without a gradient: off, unless the key says otherwise."""
    rows = random_rows(9)
    for config, same in (
        (learner_config(), True),
        (learner_config().model_copy(update={"bias_rate": 0.001}), False),
    ):
        spied = Spied(config)
        before = spied.learner.logprobs(rows)
        for _ in range(16):
            spied.learner.update(rows, PolicyLoss(PolicyLossConfig(epsilon=0.2)), 0.0)
        after = spied.learner.logprobs(rows)
        moved = [bool((old_T != new_T).any()) for old_T, new_T in zip(before, after, strict=True)]
        assert any(moved) != same


def test_experts_are_balanced_in_pretraining_alone_and_where_the_key_says_so() -> None:
    mine = {"context": 64}  # a recipe's own learner section keeps the stage's default
    for name, stage in STAGES.items():
        if "learner" not in stage.model_fields:
            continue
        kind = stage.model_fields["learner"].annotation
        assert isinstance(kind, type) and issubclass(kind, LearnerConfig)
        default = stage.model_fields["learner"].default
        rates = {kind(**mine).bias_rate, default.bias_rate}
        assert rates == {0.001 if name == "pretrain" else 0.0}, name
        assert kind(**mine, bias_rate=0.01).bias_rate == 0.01


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
    assert clipped.learner.update(rows, CrossEntropy(), 1.0)["grad_norm"] == pytest.approx(
        norm, rel=1e-6
    )  # as it was before
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
    assert all(
        torch.equal(p, q) for p, q in zip(spied.model.parameters(), untouched.model.parameters(), strict=True)
    )


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


@pytest.mark.parametrize("head", ["float32", "bfloat16"])
def test_the_heads_precision_is_its_own(head: str) -> None:
    rows = random_rows(12)
    config = learner_config().model_copy(update={"precision": "bfloat16", "head": head})
    exact, rough = Learner(model(), learner_config()), Learner(model(), config)
    hidden: list[Tensor] = []
    rough.model.norm.register_forward_hook(lambda _module, _given, result: hidden.append(result.detach()))
    found = np.concatenate(rough.logprobs(rows))
    gap = np.abs(found - np.concatenate(exact.logprobs(rows)))[found != 0].mean()
    # the head alone, on the same hidden states, in its precision
    weight = rough.model.lm_head.weight.detach()
    dtype = getattr(torch, head)
    (batch,) = rough.batches(rows)
    logprobs_BTV = (hidden[0].to(dtype) @ weight.to(dtype).t()).float().log_softmax(-1)
    expected = logprobs_BTV.gather(-1, batch.targets_BT[..., None])[..., 0][batch.mask_BT]
    owners, places = batch.rows_BT[batch.mask_BT], batch.positions_BT[batch.mask_BT] + 1
    ours = np.array(
        [
            rough.logprobs(rows)[row][place]
            for row, place in zip(owners.tolist(), places.tolist(), strict=True)
        ]
    )
    np.testing.assert_allclose(ours, expected.numpy(), atol=2e-5)
    assert gap > 1e-4


def test_a_bfloat16_head_alone_already_costs_agreement_and_is_not_the_default() -> None:
    rows = random_rows(20, seed=2)
    truth = [full_logprobs(model(), row).detach().numpy() for row in rows]
    gaps = {}
    for head in ("float32", "bfloat16"):
        found = Learner(model(), learner_config().model_copy(update={"head": head})).logprobs(rows)
        gaps[head] = np.concatenate(
            [
                np.abs(ours[1:] - theirs)[row.mask[1:]]
                for ours, theirs, row in zip(found, truth, rows, strict=True)
            ]
        )
    assert gaps["float32"].max() < 2e-5 and gaps["bfloat16"].mean() > 1e-3
    assert LearnerConfig().head == "float32"


def test_log_probabilities_and_entropies_are_those_at_the_rows_temperature() -> None:
    learner = Learner(model(), learner_config(40, 3))
    rows = [replace(row, temperature=(1.0, 0.7, 1.3)[place % 3]) for place, row in enumerate(random_rows(9))]
    for row, found, entropies in zip(rows, learner.logprobs(rows), learner.entropies(rows), strict=True):
        tokens_BT = torch.from_numpy(row.token_ids.astype(np.int64))[None]
        with torch.no_grad():
            logprobs_TV = (
                learner.model.logits(learner.model(tokens_BT[:, :-1]).hidden_BTD)[0] / row.temperature
            ).log_softmax(-1)
        expected = logprobs_TV.gather(1, tokens_BT[0, 1:, None])[:, 0].numpy()
        np.testing.assert_allclose(found[1:], np.where(row.mask[1:], expected, 0), atol=2e-5)
        np.testing.assert_allclose(
            entropies[1:],
            np.where(row.mask[1:], -(logprobs_TV.exp() * logprobs_TV).sum(-1).numpy(), 0),
            atol=2e-5,
        )


def test_both_in_one_pass_are_those_of_two_where_rows_share_their_prompt() -> None:
    learner = Learner(model(), learner_config(40, 3))
    prompt = np.arange(3, 12, dtype=np.int32)
    rows = []
    for row in random_rows(6):
        ids = np.concatenate([prompt, row.token_ids])
        rows.append(Row(ids, np.arange(len(ids)) >= len(prompt), 1.0, temperature=0.7))
    rows += random_rows(2, seed=5)
    apart = zip(learner.logprobs(rows), learner.entropies(rows), strict=True)
    for (logprobs_T, entropy_T), (ours_T, own_T) in zip(
        apart, learner.logprobs_and_entropies(rows), strict=True
    ):
        np.testing.assert_allclose(ours_T, logprobs_T, atol=2e-5)
        np.testing.assert_allclose(own_T, entropy_T, atol=2e-5)
        assert own_T.any()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_before_the_first_step_the_ratio_to_the_engine_is_one(temperature: float) -> None:
    learner = Learner(model(), learner_config(80, 3))
    engine = NativeEngine(learner.model, [0], kernels=False)
    prompts = [np.arange(3 + place, dtype=np.int32) for place in range(6)]
    groups = engine.generate(prompts, Sampling(n=2, temperature=temperature, max_tokens=20), list(range(6)))
    rows = [
        Row(np.concatenate([p, c.token_ids]).astype(np.int32), np.arange(len(p) + len(c.token_ids)) >= len(p),
        1.0, temperature=temperature) for p, group in zip(prompts, groups, strict=True) for c in group
    ]  # fmt: skip
    sampled = np.concatenate([c.logprobs for group in groups for c in group])
    ours = np.concatenate([found[row.mask] for found, row in zip(learner.logprobs(rows), rows, strict=True)])
    np.testing.assert_allclose(ours, sampled, atol=5e-5)
    if temperature != 1.0:
        cold = np.concatenate(
            [
                f[r.mask]
                for f, r in zip(
                    learner.logprobs([replace(r, temperature=1.0) for r in rows]), rows, strict=True
                )
            ]
        )
        assert np.abs(cold - sampled).mean() > 0.05


def perturbed_rollout(learner: Learner, seed: int = 0) -> tuple[list[Row], list[np.ndarray]]:
    """Rows with the experts of a model whose gates were shaken, and the log-probabilities with that routing
    but the learner's own weights."""
    rng, rows, expected = np.random.default_rng(seed), [], []
    for row in random_rows(9, seed=7):
        experts_TLA = np.argsort(rng.random((len(row.token_ids) - 1, 1, 4)), axis=-1)[..., :2].astype(
            np.uint8
        )
        rows.append(replace(row, experts=experts_TLA))
        gate = learner.model.layers[1].mlp.gate
        own, forced = gate.choose, torch.from_numpy(experts_TLA[:, 0].astype(np.int64))
        gate.choose = lambda _scores, forced=forced: forced
        with torch.no_grad():
            expected.append(full_logprobs(learner.model.eval(), row).numpy())
        gate.choose = own
    return rows, expected


def test_replayed_experts_give_the_rollouts_log_probabilities() -> None:
    learner = Learner(model(), learner_config(60, 3))
    rows, expected = perturbed_rollout(learner)
    for row, found, wanted in zip(rows, learner.logprobs(rows), expected, strict=True):
        np.testing.assert_allclose(found[1:], np.where(row.mask[1:], wanted, 0), atol=2e-5)
    free = learner.logprobs([replace(row, experts=None) for row in rows])
    assert (
        max(
            np.abs(found[1:] - np.where(r.mask[1:], wanted, 0)).max()
            for r, found, wanted in zip(rows, free, expected, strict=True)
        )
        > 0.01
    )


def test_the_gates_of_replayed_experts_keep_their_gradient() -> None:
    spied = Spied(learner_config(60, 3))
    rows, _ = perturbed_rollout(spied.learner)
    spied.learner.update(rows, CrossEntropy(), 0.0)
    gate, found = spied.model.layers[1].mlp.gate, spied.gradients()["layers.1.mlp.gate.weight"]
    direction = torch.randn(gate.weight.shape, generator=torch.Generator().manual_seed(0)).double()

    def loss_at(step: float) -> float:
        # float64, and the choice is the rollout's: the loss is smooth in the gate
        moved = Spied(learner_config(60, 3).model_copy(update={"precision": "float64"}))
        with torch.no_grad():
            moved.model.layers[1].mlp.gate.weight.add_(step * direction)
        logprobs = [found.astype(np.float64) for found in moved.learner.logprobs(rows)]
        return -math.fsum(
            float((found * row.mask).sum()) * row.weight for found, row in zip(logprobs, rows, strict=True)
        )

    slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2
    assert float((found.double() * direction).sum()) == pytest.approx(slope, rel=2e-3) and abs(slope) > 1e-4


def test_a_choice_of_minus_one_is_the_models_own() -> None:
    learner, rows = Learner(model(), learner_config(60, 3)), random_rows(5)
    free = learner.logprobs(rows)
    open_rows = [
        replace(row, experts=np.full((len(row.token_ids) - 1, 1, 2), -1, dtype=np.int16)) for row in rows[:3]
    ] + rows[3:]
    for ours, theirs in zip(learner.logprobs(open_rows), free, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_experts_of_another_model_are_refused() -> None:
    row = random_rows(1)[0]
    wrong = replace(row, experts=np.zeros((len(row.token_ids) - 1, 3, 2), dtype=np.uint8))
    with pytest.raises(
        R1kitError, match="experts were recorded for 3 layers, but 1 of this model's layers have experts"
    ):
        Learner(model(), learner_config()).logprobs([wrong])
    other = replace(row, experts=np.zeros((len(row.token_ids) - 1, 1, 2), dtype=np.uint8))
    with pytest.raises(R1kitError, match="experts of different shapes"):
        Learner(model(), learner_config()).logprobs([wrong, other])


def test_a_skipped_update_names_its_rows() -> None:
    spied, rows = (
        Spied(learner_config(40, 2)),
        [replace(row, name=f"sum-{place}/0") for place, row in enumerate(random_rows(7))],
    )
    assert spied.learner.fault() == ""
    bad = [
        *rows[:3],
        replace(rows[3], weight=float("nan")),
        rows[4],
        replace(rows[5], weight=float("inf")),
        replace(rows[6], name=""),
    ]
    assert spied.learner.update(bad, CrossEntropy(), 1.0)["skipped"] == 1.0
    fault = spied.learner.fault()
    assert (
        "update 1 was not applied: grad_norm, loss not finite; rows: sum-3/0, sum-5/0" in fault
        and "sum-4" not in fault
    )
    spied.learner.update([replace(bad[3], name="")], CrossEntropy(), 1.0)
    assert "row 0 of process 0" in spied.learner.fault()


def test_a_statistic_that_is_not_finite_skips_the_update() -> None:
    class Counting(CrossEntropy):
        def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            loss, statistics = super().__call__(predictions, batch)
            return loss, statistics | {"nats": statistics["nats"] * float("nan")}

    spied, untouched = Spied(), Spied()
    assert spied.learner.update(random_rows(3), Counting(), 1.0)["skipped"] == 1.0
    assert same_weights(spied.model, untouched.model)
    assert "nats not finite; every row is finite by itself" in spied.learner.fault()


def test_the_state_saved_last_survives_the_stop(tmp_path: Path) -> None:
    spied, rows = Spied(learner_config(40, 2)), random_rows(3)
    spied.learner.update(rows, CrossEntropy(), 1.0)
    spied.learner.save(tmp_path, {"step": 1})
    with pytest.raises(R1kitError, match="The last saved state is untouched"):
        for _ in range(3):
            spied.learner.update([replace(rows[0], weight=float("nan"))], CrossEntropy(), 1.0)
    again = Spied(learner_config(40, 2), seed=9)
    assert again.learner.restore(tmp_path)["step"] == 1 and same_weights(again.model, spied.model)
    assert again.learner.update(rows, CrossEntropy(), 1.0)["skipped"] == 0.0


def test_three_skipped_updates_in_a_row_stop_the_run_and_two_do_not() -> None:
    spied, rows = Spied(learner_config(40, 2)), random_rows(3)
    bad = [replace(rows[0], weight=float("nan"), name="p1/2"), *rows[1:]]
    for _ in range(2):
        for _ in range(2):
            assert spied.learner.update(bad, CrossEntropy(), 1.0)["skipped"] == 1.0
        assert spied.learner.update(rows, CrossEntropy(), 1.0)["skipped"] == 0.0
    before = {name: tensor.clone() for name, tensor in spied.model.state_dict().items()}
    with pytest.raises(
        R1kitError,
        match=r"3 updates in a row could not be applied.*update 3 was not applied.*p1/2.*lower "
        r"learner\.optimizer",
    ):
        for _ in range(3):
            spied.learner.update(bad, CrossEntropy(), 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in spied.model.state_dict().items())


def test_weights_that_are_not_finite_are_named() -> None:
    spied = Spied()
    with torch.no_grad():
        spied.model.layers[1].self_attn.o_proj.weight[0, 0] = float("inf")
    spied.learner.update(random_rows(2), CrossEntropy(), 1.0)
    assert "the weights themselves are not finite: layers.1.self_attn.o_proj.weight" in spied.learner.fault()


def test_every_process_learns_which_rows_of_the_others_are_at_fault() -> None:
    """Two learners that add their tensors up, as processes do; each has rows of its own."""
    rows = [replace(row, name=f"p{place}") for place, row in enumerate(random_rows(4))]
    shares = [
        [rows[0], replace(rows[1], weight=float("nan"))],
        [replace(rows[2], weight=float("inf")), rows[3]],
    ]
    meeting, sums, messages = threading.Barrier(2), [torch.zeros(0), torch.zeros(0)], ["", ""]
    texts = [b"", b""]

    def process(rank: int) -> None:
        def reduce(flat: Tensor) -> Tensor:
            meeting.wait()
            sums[rank] = flat
            meeting.wait()
            return sums[0] + sums[1]

        def gather(own: bytes) -> list[bytes]:
            texts[rank] = own
            meeting.wait()
            return list(texts)

        group = Summing(reduce, rank, 2)
        group.gather = gather  # type: ignore[method-assign]
        learner = Learner(model(), learner_config(), group)
        learner.update(shares[rank], CrossEntropy(), 1.0)
        messages[rank] = learner.fault()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert messages[0] == messages[1] and messages[0].endswith("rows: p1, p2")


def test_weights_in_bfloat16_are_trained_as_float32_master_weights() -> None:
    coarse = model().to(torch.bfloat16)
    learner = Learner(
        coarse,
        learner_config(learning_rate=1e-5, beta1=0.9, beta2=0.99).model_copy(
            update={"precision": "bfloat16"}
        ),
    )
    assert (
        all(p.dtype == torch.float32 for p in coarse.parameters())
        and coarse.lm_head.weight is coarse.embed_tokens.weight
    )
    weight = coarse.layers[0].self_attn.o_proj.weight
    before, steps = weight.detach().clone(), 5
    for _ in range(steps):
        learner.update(random_rows(4), CrossEntropy(), 1.0)
    moved = (weight.detach() - before).abs()
    # Adam moves every weight by about the rate at each step: 1e-5 next to weights of 0.15, which bfloat16
    # would round away
    assert 0.5 * steps * 1e-5 < float(moved.median()) < 1.5 * steps * 1e-5
    assert float(((before + 5e-5).bfloat16() == before.bfloat16()).float().mean()) > 0.9
    assert all(value.dtype == torch.float32 for value in learner.optimizers[0].state[weight].values())  # type: ignore[index]


class Poisoning(Learner):
    """A learner to which the weight of a row called poisoned is not a number."""

    def update(self, rows: Sequence[Row], objective: Objective, scale: float) -> Metrics:
        return super().update(
            [replace(row, weight=math.nan) if row.name == "poisoned" else row for row in rows],
            objective,
            scale,
        )


def test_what_was_wrong_with_a_skipped_update_stands_in_the_log(tmp_path: Path) -> None:
    """Through a whole supervised training: the poisoned row is named and its update is not applied; the
    others are."""
    learner = Poisoning(model(), learner_config())
    good = Row(np.arange(5, 15, dtype=np.int32), np.ones(10, dtype=bool), 1.0, name="good")
    poisoned = replace(good, name="poisoned")
    log = quiet_log(tmp_path)
    updates = [[good], [good, poisoned], [good]]
    supervised.train(learner, lambda start: iter(updates[start:]), 3, SupervisedConfig(), log, tmp_path)
    written = log.console.file.getvalue()  # type: ignore[attr-defined]
    assert "update 2 was not applied" in written and "poisoned" in written and "good" not in written
    assert learner.version == 2


@pytest.mark.parametrize("preset", ["nano", "student"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recomputing_layers_changes_no_bit_and_counts_each_expert_once(preset: str, precision: str) -> None:
    rows, objective = random_rows(9), CrossEntropy(balance_weight=0.01, mtp_weight=0.3)
    if preset == "student":
        objective = CrossEntropy()
    given = learner_config().model_copy(update={"precision": precision})
    plain = Spied(given, preset=preset)
    again = Spied(given.model_copy(update={"gradient_checkpointing": True}), preset=preset)
    expected = plain.learner.update(rows, objective, 1.0)
    assert again.learner.update(rows, objective, 1.0) == expected
    assert torch.equal(again.flat, plain.flat)
    assert same_weights(again.model, plain.model)


def kept_bytes(checkpointing: bool) -> int:
    """How much memory one micro-batch keeps for its backward pass, without the weights."""
    spied = Spied(
        learner_config(64, 4).model_copy(update={"gradient_checkpointing": checkpointing}), layers=8
    )
    spied.model.train()
    own = {parameter.untyped_storage().data_ptr() for parameter in spied.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = spied.learner.batch_loss(spied.learner.batches(random_rows(20))[0], CrossEntropy())
    assert loss.requires_grad
    return sum(kept.values())


def test_recomputing_layers_keeps_only_what_enters_them() -> None:
    assert kept_bytes(checkpointing=True) < 0.3 * kept_bytes(checkpointing=False)
