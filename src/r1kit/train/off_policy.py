"""One phase behind: while the policy learns from a phase, the engine samples the next one, with the weights
from before these updates.

    the phase that begins at step s is sampled by version max(0, s - updates_per_rollout) of the weights, and
    learned from by version s and on

So the weights that sample a phase depend on its step only, not on timing. The engine samples from a second
learner that is not trained (``Policy.lagged``). It gets new weights between two phases. Its weights are part
of every saved state, because a resumed training samples the pending phase again. The algorithm corrects for
the lag with an importance weight (corrections.py), as in AReaL (2505.24298)."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import numpy as np

from r1kit.config import ConfigError, R1kitError
from r1kit.train.advantage_rows import policy_row
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.rollouts import Phase, Policy, RolloutConfig
from r1kit.train.worker_thread import WorkerThread, do_nothing

LAGGED = "lagged"  # the name of these weights in a saved state
_COMPARED = 8  # rollouts whose log-probabilities are computed again with the weights that sampled them

Collect = Callable[[int, Callable[[], None]], Phase]


class Phases:
    """The phases of a training, by first step. ``take`` collects a phase, or waits for it if ``begin`` has
    started it.

    A context manager: a phase that is still being collected at its end is stopped and dropped.
    ``collect(first, on_poll)`` collects a phase."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._pending: WorkerThread[None, Phase] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pending is not None:
            self._pending.stop()

    def begin(self, first: int) -> None:
        """Collect the phase that begins at this step in a second thread."""
        self._pending = WorkerThread[None, Phase](
            lambda hand_over: self._collect(first, lambda: hand_over(None))
        ).start()

    def take(self, first: int) -> Phase:
        """The phase that begins at this step. Where it was collected in the second thread, ``scoring_s``
        counts only what this call waited for."""
        if self._pending is None:
            return self._collect(first, do_nothing)
        began, pending = time.perf_counter(), self._pending
        phase = pending.result()
        self._pending = None
        return replace(phase, scoring_s=min(phase.scoring_s, time.perf_counter() - began))


def version_of(first: int, updates_per_rollout: int) -> int:
    """The version of the weights that sample the phase which begins at this step."""
    return max(0, first - updates_per_rollout)


def require_lagged(policy: Policy, needed: bool) -> None:
    """Raise ConfigError if the policy has no lagged weights although the configuration needs them, or has
    them although it does not."""
    if needed != (policy.lagged is not None):
        raise ConfigError(
            f"off_policy: {int(needed)} with {'a' if policy.lagged else 'no'} lagged learner: give "
            "Policy one exactly where it is 1"
        )


def hand_over(policy: Policy, version: int) -> None:
    """Let the engine sample from the learner's weights as they are now."""
    if policy.lagged is not None:
        policy.lagged.copy_from(policy.learner)
    policy.hand_over(policy.lagged or policy.learner, policy.engine, version)


def follow(policy: Policy, phase: Phase, config: RolloutConfig, first: int) -> Metrics:
    """With lagged weights: compare a phase with the weights that sampled it, then hand the newest weights to
    the engine for the next phase."""
    if policy.lagged is None:
        return {}
    found = {
        "sampling/rounding_mean": rounding(
            policy.lagged, phase, config, version_of(first, config.updates_per_rollout)
        )
    }
    hand_over(policy, first)
    return found


def rounding(lagged: LearnerProtocol, phase: Phase, config: RolloutConfig, version: int) -> float:
    """The mean |difference| between the engine's log-probabilities of some rollouts and those computed with
    the same, lagged weights, so without the effect of the lag. Raises R1kitError for rollouts that another
    version of the weights sampled."""
    others = sorted({rollout.completion.version for group in phase.groups for rollout in group} - {version})
    if others:
        raise R1kitError(
            f"rollouts that version {version} of the weights was to sample come from version "
            f"{others[0]}: the engine was not handed the weights. "
            "Continue the run from its last saved state: the gate before its first step says what differs"
        )
    rows = [policy_row(group[0], temperature=config.temperature) for group in phase.groups[:_COMPARED]]
    gaps = [
        np.abs(own_T - row.old_logprobs)[row.mask]
        for own_T, row in zip(lagged.logprobs(rows), rows, strict=True)
    ]
    return float(np.concatenate(gaps).mean())
