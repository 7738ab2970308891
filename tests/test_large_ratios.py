"""Log ratios far beyond what exp can hold: where a gradient is 0 by definition it is 0 and not nan, and
within the ordinary range nothing has changed by a bit."""

import math
from collections.abc import Callable

import pytest
import torch
from small_world import Spied
from torch import Tensor

from r1kit.train.objectives import Predictions
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig
from r1kit.train.surrogates import Surrogate
from r1kit.types import Row

SURROGATES: tuple[Surrogate, ...] = Surrogate.__args__  # type: ignore[attr-defined]
FAR = (100.0, 1000.0, -100.0, -1000.0)


def config(**keys: object) -> PolicyLossConfig:
    return PolicyLossConfig.parse({"beta": 0.0, "epsilon": 0.2, "epsilon_high": 0.28} | keys, "loss")


def batch_of(
    log_ratio: Tensor, advantage: Tensor, log_ref: float = 0.5, rows: Tensor | None = None
) -> tuple[Tensor, Batch]:
    """Tokens [1, T] with these log ratios, log-probabilities of -2 when they were sampled, by default each a
    row of its own; and the batch."""
    zeros_BT = torch.zeros_like(log_ratio)
    logprobs_BT = (log_ratio - 2).requires_grad_()
    named = {
        "mask_BT": torch.ones_like(log_ratio, dtype=torch.bool),
        "rows_BT": torch.arange(log_ratio.shape[1])[None] if rows is None else rows,
        "weights_BT": zeros_BT + 0.25,
        "advantages_BT": advantage,
        "old_logprobs_BT": zeros_BT - 2,
        "ref_logprobs_BT": logprobs_BT.detach() + log_ref,
        "penalties_BT": zeros_BT,
    }
    return logprobs_BT, Batch(**{name: named.get(name, zeros_BT.long()) for name in Batch.__slots__})


def gradient(
    settings: PolicyLossConfig,
    log_ratio: Tensor,
    advantage: Tensor,
    log_ref: float = 0.5,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    logprobs_BT, batch = batch_of(log_ratio, advantage, log_ref, rows)
    loss, statistics = PolicyLoss(settings)(Predictions(logprobs_BT, torch.zeros_like(log_ratio)), batch)
    assert all(bool(value.isfinite()) for value in statistics.values())
    (found_BT,) = torch.autograd.grad(loss, logprobs_BT)
    return loss.detach(), found_BT


def slope(surrogate: str, log_ratio: float, advantage: float, dual: bool) -> float:
    """d gain / d log pi of a row of one token, by the definitions; inf where it is larger than float32."""
    ratio = math.exp(log_ratio) if log_ratio < 88 else math.inf
    if advantage == 0:
        return 0.0
    if surrogate == "reinforce":
        return advantage
    if surrogate == "cispo":
        return min(ratio, 5.0) * advantage
    if surrogate == "sapo":  # 4 s (1 - s) rho A, which vanishes on both sides
        return 0.0
    if surrogate == "gmpo":
        inside = log_ratio < 0.28 if advantage > 0 else log_ratio > -0.2
        return ratio * advantage if inside else 0.0
    inside = ratio < 1.28 if advantage > 0 else ratio > 0.8
    if dual and advantage < 0 and ratio > 3:
        return 0.0
    return ratio * advantage if inside else 0.0


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_token_that_has_moved_very_far_has_the_gradient_of_the_definition(
    surrogate: str, dual: bool, far: float, advantage: float
) -> None:
    """Next to an ordinary token, whose gradient must be what it is alone."""
    if dual and surrogate not in ("clip", "gspo", "gspo_token"):
        pytest.skip("has no dual clip")
    settings = config(surrogate=surrogate, **({"dual_clip": 3.0} if dual else {}))
    loss, found = gradient(settings, torch.tensor([[0.1, far]]), torch.tensor([[1.0, advantage]]))
    _, alone = gradient(settings, torch.tensor([[0.1]]), torch.tensor([[1.0]]))
    expected = -0.25 * slope(surrogate, far, advantage, dual)
    assert torch.equal(found[0, 0], alone[0, 0])
    if math.isinf(expected):  # A < 0 and no bound: the definition itself overflows, and the update is skipped
        assert advantage < 0 and not bool(loss.isfinite()) and not bool(found[0, 1].isfinite())
    else:
        assert bool(loss.isfinite()) and float(found[0, 1]) == pytest.approx(expected, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("surrogate", ["gspo", "gspo_token", "gmpo"])
def test_so_does_a_row_whose_mean_has_moved_very_far(surrogate: str) -> None:
    """Three tokens, one of them by 3000: the mean is 1000. A > 0 is beyond the bound; A = 0 has no gain."""
    rows = torch.zeros(1, 3, dtype=torch.long)
    moved = torch.tensor([[0.0, 3000.0, 0.1]])
    for advantage in (0.0, 1.0):
        loss, found = gradient(config(surrogate=surrogate), moved, torch.full((1, 3), advantage), 0.5, rows)
        assert bool(loss.isfinite()) and bool(found.isfinite().all())
        bounded = surrogate != "gmpo" or advantage == 0  # gmpo bounds the tokens: the other two still count
        assert (
            not found.any()
            if bounded
            else found[0].tolist()
            == pytest.approx(
                [-0.25 * math.exp((0.28 + 0.1) / 3), 0.0, -0.25 * math.exp((0.28 + 0.1) / 3)], rel=1e-5
            )
        )


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_rollout_without_advantage_keeps_the_gradient_of_its_divergence(surrogate: str, far: float) -> None:
    """k3's gradient is 1 - exp(log pi_ref - log pi), whatever the ratio to the policy that sampled."""
    settings = config(surrogate=surrogate, beta=0.1)
    loss, found = gradient(settings, torch.tensor([[far]]), torch.tensor([[0.0]]))
    assert bool(loss.isfinite())
    assert float(found) == pytest.approx(0.1 * 0.25 * (1 - math.exp(0.5)), rel=1e-4)


@pytest.mark.parametrize(
    ("log_ratio", "log_ref"),
    [(-100.0, 100.0), (-1000.0, 1000.0), (0.0, 100.0), (0.5, 70.0), (-30.0, 61.0), (-100.0, -3.0)],
)
def test_the_unbiased_divergence_has_its_own_gradient_however_far_the_reference_is(
    log_ratio: float, log_ref: float
) -> None:
    """d/dlog pi of rho k3 is -rho log(pi_ref / pi): finite where k3 itself overflows."""
    settings = config(beta=0.1, kl_unbiased=True)
    loss, found = gradient(settings, torch.tensor([[log_ratio]]), torch.tensor([[0.0]]), log_ref)
    expected = -0.1 * 0.25 * math.exp(log_ratio) * log_ref
    assert bool(loss.isfinite()) and float(found) == pytest.approx(expected, rel=1e-5, abs=1e-30)


def naive(surrogate: str, log_ratio: Tensor, logprobs: Tensor, advantage: Tensor) -> Tensor:
    """The gains of rows of one token, with nothing bounded before exp."""
    ratio = torch.exp(log_ratio)
    if surrogate == "reinforce":
        return advantage * logprobs
    if surrogate == "cispo":
        return ratio.detach().clamp(max=5.0) * advantage * logprobs
    if surrogate == "sapo":
        tau = torch.where(advantage > 0, 1.0, 1.05)
        return torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantage
    if surrogate == "gmpo":
        return advantage * torch.exp(
            torch.where(advantage > 0, log_ratio.clamp(max=0.28), log_ratio.clamp(min=-0.2))
        )
    if surrogate == "gspo_token":
        ratio = torch.exp(log_ratio.detach() + log_ratio - log_ratio.detach())
    return torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_within_the_ordinary_range_not_a_bit_has_changed(surrogate: str) -> None:
    generator = torch.Generator().manual_seed(0)
    log_ratio = torch.cat([torch.linspace(-20, 20, 4001), torch.randn(4000, generator=generator)])[None]
    advantage = torch.randn(log_ratio.shape, generator=generator)
    advantage[0, ::7] = 0.0
    logprobs_BT, batch = batch_of(log_ratio, advantage)
    loss, _ = PolicyLoss(config(surrogate=surrogate))(
        Predictions(logprobs_BT, torch.zeros_like(log_ratio)), batch
    )
    found = torch.autograd.grad(loss, logprobs_BT)[0]
    plain_BT = logprobs_BT.detach().clone().requires_grad_()
    gain = naive(surrogate, plain_BT - batch.old_logprobs_BT, plain_BT, advantage)
    plain = -(gain * batch.weights_BT).sum() + (batch.penalties_BT * plain_BT).sum()
    expected = torch.autograd.grad(plain, plain_BT)[0]
    assert torch.equal(loss.detach(), plain.detach())
    assert torch.equal(found, expected) and float(found.abs().max()) > 0


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_nor_has_it_in_the_unbiased_divergence(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    log_ratio, log_ref = (3 * torch.randn(1, 4000, generator=generator) for _ in range(2))

    def both(of: Callable[[Tensor], Tensor]) -> Tensor:
        logprobs_BT = (log_ratio - 2).requires_grad_()
        return torch.autograd.grad(of(logprobs_BT), logprobs_BT)[0]

    _, batch = batch_of(log_ratio, torch.zeros_like(log_ratio))
    reference_BT = log_ratio - 2 + log_ref

    def ours(logprobs_BT: Tensor) -> Tensor:
        named = {name: getattr(batch, name) for name in Batch.__slots__} | {"ref_logprobs_BT": reference_BT}
        settings = config(beta=1.0, kl=kind, kl_unbiased=True)
        return PolicyLoss(settings)(Predictions(logprobs_BT, torch.zeros_like(log_ratio)), Batch(**named))[0]

    def plain(logprobs_BT: Tensor) -> Tensor:
        log_ref_BT = reference_BT - logprobs_BT
        estimate = -log_ref_BT if kind == "k1" else torch.exp(log_ref_BT) - log_ref_BT - 1
        return (torch.exp(logprobs_BT - batch.old_logprobs_BT) * estimate * batch.weights_BT).sum()

    assert torch.equal(both(ours), both(plain))


def test_an_update_with_such_a_token_is_applied() -> None:
    """Through the learner: the engine reported -1000 for one token. Its row has A > 0 and the clip, so the
    update is that of the other row alone."""
    spied, other = Spied(), Spied()
    ids, mask = torch.arange(1, 9).int().numpy(), torch.arange(8).ge(3).numpy()
    (own_T,) = spied.learner.logprobs([Row(ids, mask, 1.0)])
    far_T = own_T.copy()
    far_T[mask] = -1000.0
    rows = [Row(ids, mask, 0.1, 1.0, far_T), Row(ids, mask, 0.1, -1.0, own_T)]
    assert spied.learner.update(rows, PolicyLoss(config()), 1.0)["skipped"] == 0
    assert other.learner.update(rows[1:], PolicyLoss(config()), 1.0)["skipped"] == 0
    theirs = other.gradients()
    assert max(float(gradient.abs().max()) for gradient in theirs.values()) > 0
    for name, found in spied.gradients().items():
        torch.testing.assert_close(found, theirs[name], rtol=1e-4, atol=1e-7)
