"""Replay one update of GRPO or a variant, and say what each token did to it.

The loss L is a function of the trained tokens' log-probabilities l_t and, where it has an entropy bonus, of
the entropies H_t of their distributions. So its gradient is a sum over tokens,

    g = sum_t g_t,   g_t = c_t grad l_t + e_t grad H_t,   c_t = dL/dl_t,   e_t = dL/dH_t

and a token's share of it is its part along the whole:

    share_t = <g_t, g> / <g, g>,   sum_t share_t = 1

A share below zero pulls against the update. <grad l_t, g> is the slope of l_t along g, which is the same for
all tokens at once: two passes, with the weights moved a little along g and against it. Shares are computed in
float64, where the error of a slope is about 1e-8. Everything else is computed as the training computed it,
with the same learner, and the update is then applied, for the probabilities after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from r1kit.train.advantage_rows import group_advantages, policy_row
from r1kit.train.grpo import GRPOConfig, describe_update, rows_of
from r1kit.train.kept_updates import KeptUpdate
from r1kit.train.learner import Learner, Metrics
from r1kit.train.objectives import Objective, Predictions
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import PolicyLoss
from r1kit.train.rollouts import Phase, Policy, describe
from r1kit.types import Rollout, Row, Score

MOVE = 3e-7  # how far the weights are moved along the gradient, of their norm
_UNKNOWN = ("time/", "lang/", "reward/failed")  # metrics that the kept rollouts do not determine


@dataclass(frozen=True, slots=True)
class Replayed:
    """What an update did to one rollout. ``advantage`` is None where it is not one number a rollout.

    Of its sampled tokens, [T] each: ``sampled_T`` are the log-probabilities of sampling, ``before_T`` and
    ``after_T`` those of the learner around the update, ``entropy_T`` the entropies before it; ``slope_T`` is
    c_t, ``share_T`` the share of the gradient, ``clipped_T`` whether the bound cuts the token's gradient. A
    rollout that is not ``trained`` on has zeros there."""

    rollout: Rollout
    score: Score
    advantage: float | None
    trained: bool
    sampled_T: np.ndarray
    before_T: np.ndarray
    after_T: np.ndarray
    entropy_T: np.ndarray
    slope_T: np.ndarray
    share_T: np.ndarray
    clipped_T: np.ndarray


@dataclass(frozen=True, slots=True)
class Replay:
    """A whole update: its ``metrics`` as the training logs them, its rollouts by group, and the norm of its
    gradient in float64."""

    metrics: Metrics
    groups: Sequence[Sequence[Replayed]]
    exact_norm: float


def known_metrics(update: KeptUpdate) -> Metrics:
    """The metrics of rewards and lengths that the kept rollouts determine; none where the update is a part
    of its phase only."""
    found = describe(update.part) if update.whole_phase else {}
    return {name: value for name, value in found.items() if not name.startswith(_UNKNOWN)}


def advantages_of(part: Phase, config: GRPOConfig, weights: Mapping[str, float]) -> list[list[float | None]]:
    """The advantage of each rollout, by group; None where it is not one number."""
    found = group_advantages(part, config, weights)
    if found is None:
        return [[None] * len(group) for group in part.groups]
    return [[float(value) for value in advantages_G] for advantages_G in found]


def replay(policy: Policy, exact: Learner, update: KeptUpdate, config: GRPOConfig) -> Replay:
    """Make the update again with ``policy.learner``, which has the weights before it and then those after it.
    ``exact`` is another learner on the same model, in float64, whose weights are set."""
    learner, part = policy.learner, update.part
    rows = rows_of(policy, part, config, update.weights, update.seed)
    everything = [
        policy_row(rollout, temperature=config.temperature) for group in part.groups for rollout in group
    ]
    before, entropies = learner.logprobs(everything), learner.entropies(everything)
    if not isinstance(learner, Learner):
        raise TypeError(f"a learner in this process is needed, not {type(learner).__name__}")
    exact.copy_from(learner)
    parts = _Parts(exact, rows, PolicyLoss(config))
    metrics: Metrics = {"rows": 0.0}
    if rows:
        scale = config.schedule.scale(update.step, config.steps)
        summed = learner.update(rows, PolicyLoss(config), scale)
        metrics = describe_update(summed, len(rows), has_gap=not part.old_PG)
    after = learner.logprobs(everything)
    places = {row.name: place for place, row in enumerate(rows)}
    numbers = iter(zip(everything, before, after, entropies, strict=True))
    groups = [
        [
            _replayed(rollout, score, advantage, parts, places, *next(numbers))
            for rollout, score, advantage in zip(group, scores, advantages, strict=True)
        ]
        for group, scores, advantages in zip(
            part.groups, part.scores_PG, advantages_of(part, config, update.weights), strict=True
        )
    ]
    return Replay(known_metrics(update) | metrics, groups, parts.norm)


def _replayed(
    rollout: Rollout, score: Score, advantage: float | None, parts: "_Parts", places: Mapping[str, int],
    row: Row, before_T: np.ndarray, after_T: np.ndarray, entropy_T: np.ndarray,
) -> Replayed:  # fmt: skip
    place = places.get(row.name)
    none = np.zeros(len(row.token_ids))
    slope_T, share_T, clipped_T = (
        (none, none, none.astype(bool))
        if place is None
        else (parts.slopes[place], parts.shares[place], parts.clipped[place] > 0)
    )
    own = row.mask
    return Replayed(
        rollout,
        score,
        advantage,
        place is not None,
        rollout.completion.logprobs,
        before_T[own],
        after_T[own],
        entropy_T[own],
        slope_T[own],
        share_T[own],
        clipped_T[own],
    )


class _Parts:
    """Of the trained ``rows``, aligned with their token ids: c_t, shares, and which tokens are clipped;
    ``norm`` is that of the whole gradient."""

    def __init__(self, exact: Learner, rows: Sequence[Row], objective: PolicyLoss) -> None:
        self.norm = 0.0
        self.slopes, self.shares, self.clipped = (
            [np.zeros(len(row.token_ids)) for row in rows] for _ in range(3)
        )
        if not rows:
            return
        exact.model.eval()
        batches = exact.batches(rows, share=True)
        gradient = gradient_of(exact, batches, objective)
        self.norm = float(torch.sqrt(sum((part**2).sum() for part in gradient.values())))  # type: ignore[arg-type]
        along = slopes_along(exact, batches, gradient)
        for batch, (logprob_BT, entropy_BT) in zip(batches, along, strict=True):
            slope_BT, of_entropy_BT, cut_BT = _loss_slopes(exact, batch, objective)
            share_BT = (slope_BT * logprob_BT + of_entropy_BT * entropy_BT) / max(self.norm**2, 1e-300)
            for found, values_BT in (
                (self.slopes, slope_BT), (self.shares, share_BT), (self.clipped, cut_BT.double())
            ):  # fmt: skip
                _scatter(found, batch, values_BT)


def gradient_of(
    exact: Learner, batches: Sequence[Batch], objective: Objective
) -> dict[torch.nn.Parameter, Tensor]:
    """The gradient of the loss of all batches, for each trained parameter."""
    exact.placement.forget()
    for batch in batches:
        loss, _ = exact.batch_loss(batch, objective)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    found = {
        parameter: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for parameter in exact.parameters
    }
    exact.placement.forget()
    return found


@torch.no_grad()
def slopes_along(
    exact: Learner, batches: Sequence[Batch], direction: Mapping[torch.nn.Parameter, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The slopes of every trained token's log-probability and entropy [B, T] along a direction in the space
    of the weights, by central differences. The weights are as before afterwards."""
    length = float(torch.sqrt(sum((part**2).sum() for part in direction.values())))  # type: ignore[arg-type]
    weights = float(torch.sqrt(sum((parameter**2).sum() for parameter in direction)))  # type: ignore[arg-type]
    if not length:
        zero = [torch.zeros_like(batch.weights_BT, dtype=torch.float64) for batch in batches]
        return [(zeros_BT, zeros_BT) for zeros_BT in zero]
    kept = {parameter: parameter.clone() for parameter in direction}
    step = MOVE * max(weights, 1.0) / length
    sides = []
    for sign in (1.0, -1.0):
        for parameter, part in direction.items():
            parameter.copy_(kept[parameter] + sign * step * part)
        sides.append([_predict(exact, batch) for batch in batches])
    for parameter, old in kept.items():
        parameter.copy_(old)
    return [
        (
            (ahead.logprobs_BT - behind.logprobs_BT) / (2 * step),
            (ahead.entropy_BT - behind.entropy_BT) / (2 * step),
        )
        for ahead, behind in zip(*sides, strict=True)
    ]


def _loss_slopes(exact: Learner, batch: Batch, objective: PolicyLoss) -> tuple[Tensor, Tensor, Tensor]:
    """c_t and e_t [B, T], and which tokens are clipped [B, T]."""
    with torch.no_grad():
        seen = _predict(exact, batch)
    logprobs_BT = seen.logprobs_BT.detach().requires_grad_()
    entropy_BT = seen.entropy_BT.detach().requires_grad_()
    predictions = replace(seen, logprobs_BT=logprobs_BT, entropy_BT=entropy_BT)
    loss, _ = objective(predictions, batch)
    found = torch.autograd.grad(loss, (logprobs_BT, entropy_BT), allow_unused=True)
    slope_BT, of_entropy_BT = (torch.zeros_like(logprobs_BT) if one is None else one for one in found)
    _, cut_BT = objective.gain(predictions, batch)
    return slope_BT * batch.mask_BT, of_entropy_BT * batch.mask_BT, cut_BT


def _predict(exact: Learner, batch: Batch) -> Predictions:
    found: Predictions = exact.root(exact.root.predictions, batch, True)
    return found


def _scatter(found: Sequence[np.ndarray], batch: Batch, values_BT: Tensor) -> None:
    """Write numbers of a batch's targets to the rows that they belong to, aligned with token ids."""
    values, owners, positions = (
        some.detach().cpu().numpy() for some in (values_BT, batch.rows_BT, batch.positions_BT)
    )
    lines, columns = np.nonzero(owners >= 0)
    for line, column in zip(lines.tolist(), columns.tolist(), strict=True):
        found[owners[line, column]][positions[line, column] + 1] = values[line, column]
