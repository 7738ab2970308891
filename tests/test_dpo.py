"""DPO: the gradient by finite differences and by autograd of the loss as TRL writes it; preferences are
learned; a killed training continues."""

import copy
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_world import (
    KilledError,
    Mortal,
    Spied,
    assert_same_gradients,
    full_logprobs,
    gradients_of,
    learner_config,
    model,
    quiet_log,
    same_weights,
    tokenizer,
)
from torch import Tensor

from r1kit.chat import Chat
from r1kit.model.decoder import LanguageModel
from r1kit.train.dpo import DPOConfig, RowPair, dpo_slopes, evaluate, margins, read_logprobs, train
from r1kit.train.learner import Learner, Metrics
from r1kit.train.supervised import response_row
from r1kit.types import Problem

CHAT = Chat(tokenizer())
TEXTS = (
    ("Gladly! boil the water.", "no"),
    ("wait three minutes", "add the leaves at once"),
    ("yes", "x" * 12),
    ("Good luck!", "Sorry"),
)


def pair(prompt: str, chosen: str, rejected: str) -> RowPair:
    ids = CHAT.prompt_ids(Problem("", "", prompt, None))
    return RowPair(
        response_row(ids, CHAT.response_ids(chosen)), response_row(ids, CHAT.response_ids(rejected))
    )


def pairs() -> list[RowPair]:
    return [pair(f"How {number}?", *texts) for number, texts in enumerate(TEXTS)]


def moved(spied: Spied) -> LanguageModel:
    """A copy of the model as it is, the reference; the model itself is moved away from it."""
    reference = copy.deepcopy(spied.model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in spied.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return reference


def sequence_logprob(of: LanguageModel, row: object) -> Tensor:
    return full_logprobs(of, row)[torch.from_numpy(row.mask[1:])].sum()  # type: ignore[attr-defined, arg-type]


def loss_by_definition(policy: LanguageModel, reference: LanguageModel, beta: float) -> Tensor:
    """As TRL's trainer writes it: the policy's log ratio of chosen to rejected against the reference's."""
    losses = []
    for one in pairs():
        with torch.no_grad():
            ref_logratio = sequence_logprob(reference, one.chosen) - sequence_logprob(reference, one.rejected)
        pi_logratio = sequence_logprob(policy, one.chosen) - sequence_logprob(policy, one.rejected)
        losses.append(-torch.nn.functional.logsigmoid(beta * (pi_logratio - ref_logratio)))
    return torch.stack(losses).mean()


class FromElsewhere(Learner):
    """A learner that reads the reference's log-probabilities first, as ``train`` does of an untouched
    policy."""

    reference: LanguageModel | None = None

    def logprobs(self, rows: object) -> list[np.ndarray]:
        if self.reference is None:
            return super().logprobs(rows)  # type: ignore[arg-type]
        reference, self.reference = self.reference, None
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(reference.state_dict())
        found = super().logprobs(rows)  # type: ignore[arg-type]
        self.model.load_state_dict(own)
        return found


def spied_dpo(beta: float, tmp_path: Path, **overrides: object) -> tuple[Spied, LanguageModel, Metrics]:
    spied = Spied(learner_config(context=64, lines=2, learning_rate=0.0), **overrides)
    spied.learner.__class__ = FromElsewhere
    reference = moved(spied)
    spied.learner.reference = reference  # type: ignore[attr-defined]
    metrics = train(spied.learner, pairs(), DPOConfig(beta=beta, batch=4), 0, quiet_log(tmp_path), tmp_path)
    return spied, reference, metrics


def test_slopes_are_the_derivatives_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen_Y, rejected_Y = (
        3 * torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
    )
    loss = -torch.nn.functional.logsigmoid(0.3 * (chosen_Y - rejected_Y)).mean()
    ours = dpo_slopes(margins(chosen_Y.detach().numpy(), rejected_Y.detach().numpy(), 0.3), 0.3)
    for found, expected in zip(ours, torch.autograd.grad(loss, (chosen_Y, rejected_Y)), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)
    assert np.isfinite(dpo_slopes(np.array([-1e4, 1e4]), 1.0)).all()


def test_loss_and_slopes_are_those_of_trl() -> None:
    """The installed TRL's own loss on given log-probabilities; its trainer is replaced by what the loss reads
    of it."""
    trainer = pytest.importorskip("trl").DPOTrainer
    generator = torch.Generator().manual_seed(4)
    mask = torch.tensor(
        [[0, 0, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]
    )  # two chosen, then two rejected
    logprobs = (torch.randn(4, 4, generator=generator, dtype=torch.float64) * mask[:, 1:]).requires_grad_()
    chosen_Y, rejected_Y = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(4, 4, dtype=torch.float64)
    outputs = SimpleNamespace(log_probs=logprobs, entropy=zeros, mean_logits=zeros, is_top1=zeros > 0)
    alone = SimpleNamespace(device="cpu", gather=lambda found: found, gather_for_metrics=lambda found: found)
    settings = {
        "ld_alpha": None,
        "precompute_ref_logps": True,
        "f_divergence_type": "reverse_kl",
        "label_smoothing": 0.0,
        "use_weighting": False,
    }
    own = {
        "model": SimpleNamespace(training=False),
        "accelerator": alone,
        "aux_loss_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
    }
    fake = SimpleNamespace(
        **settings, **own, loss_types=["sigmoid"], loss_weights=[1.0], beta=0.3, _total_train_tokens=0
    )
    inputs = {
        "input_ids": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": chosen_Y,
        "ref_rejected_logps": rejected_Y,
    }
    loss = trainer._compute_loss(fake, lambda **_: outputs, inputs, False)
    totals = logprobs.detach().sum(1)
    margins_Y = margins((totals[:2] - chosen_Y).numpy(), (totals[2:] - rejected_Y).numpy(), 0.3)
    assert float(loss.detach()) == pytest.approx(float(np.logaddexp(0, -margins_Y).mean()), rel=1e-12)
    slopes = np.concatenate(dpo_slopes(margins_Y, 0.3))
    np.testing.assert_allclose(
        torch.autograd.grad(loss, logprobs)[0].numpy() * mask[:, 1:].numpy(),
        slopes[:, None] * mask[:, 1:].numpy(),
        rtol=1e-12,
    )


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_an_update_has_the_gradient_and_the_loss_of_the_definition(beta: float, tmp_path: Path) -> None:
    spied, reference, metrics = spied_dpo(beta, tmp_path)
    loss = loss_by_definition(spied.model, reference, beta)
    assert_same_gradients(spied.gradients(), gradients_of(spied.model, loss))
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)


def test_the_gradient_is_that_of_finite_differences(tmp_path: Path) -> None:
    """Along random directions of all parameters; the model computes in float32, so the differences are good
    to a thousandth."""
    spied, reference, _ = spied_dpo(0.5, tmp_path, dense_layers=2, init_std=0.05)
    ours, generator, step = spied.gradients(), torch.Generator().manual_seed(1), 2e-3
    for _ in range(3):
        direction = {
            name: torch.randn(p.shape, generator=generator) * ours[name].abs()
            for name, p in spied.model.named_parameters()
        }
        length = sum(float(part.square().sum()) for part in direction.values()) ** 0.5
        values = []
        for sign in (step, -step):
            shifted = copy.deepcopy(spied.model)
            with torch.no_grad():
                for name, parameter in shifted.named_parameters():
                    parameter.add_(sign / length * direction[name])
                values.append(float(loss_by_definition(shifted, reference, 0.5)))
        expected = (values[0] - values[1]) / (2 * step)
        slope = sum(float((ours[name] * direction[name]).sum()) for name in ours) / length
        norm = sum(float(gradient.square().sum()) for gradient in ours.values()) ** 0.5
        assert abs(slope - expected) < 1e-3 * norm


def test_the_chosen_response_gains_on_the_rejected_one_and_so_it_does_on_other_prompts(
    tmp_path: Path,
) -> None:
    learner = Learner(model(init_std=0.05), learner_config(context=64, lines=4, learning_rate=1e-3))
    taste = {
        split: [pair(f"{split} {i}?", "boil Good luck!", "boil the water") for i in range(12)]
        for split in ("train", "other")
    }
    before = read_logprobs(learner, taste["other"])
    last = train(learner, taste["train"], DPOConfig(batch=6, epochs=5), 0, quiet_log(tmp_path), tmp_path)
    assert last["accuracy"] == 1.0 and last["loss"] < 0.6 and last["margin"] > 0.2
    after = read_logprobs(learner, taste["other"])
    assert ((after - before)[:, 0] > (after - before)[:, 1]).all()
    found = evaluate(learner, taste["other"], before, 0.1)
    assert found["accuracy"] == 1.0 and found["margin"] == pytest.approx(
        0.1 * float(np.diff(before - after, axis=1).mean()), rel=1e-6
    )
    turned = evaluate(
        learner, [RowPair(one.rejected, one.chosen) for one in taste["other"]], before[:, ::-1], 0.1
    )
    assert turned["accuracy"] == 0.0


def test_a_training_that_was_killed_continues_bit_for_bit_with_the_reference_it_began_with(
    tmp_path: Path,
) -> None:
    def play(out: Path, dies_at: int = -1) -> Mortal:
        out.mkdir(exist_ok=True)
        learner = Mortal(model(), learner_config(learning_rate=1e-3))
        learner.dies_at = dies_at
        train(learner, pairs(), DPOConfig(batch=2, epochs=3, save_every=2), 5, quiet_log(out), out)
        return learner

    straight = play(tmp_path / "a")
    with pytest.raises(KilledError):
        play(tmp_path / "b", dies_at=3)
    assert same_weights(straight.model, play(tmp_path / "b").model) and straight.version == 6
