"""One phase behind: while a phase is learned from, the engine already plays the next one, with the weights of
before these updates.

    the phase that begins at step s is sampled by version max(0, s - updates_per_rollout) of the weights, and
    learned from by version s and on

So what a phase is sampled by is a function of its step alone, and not of how fast anybody is. The engine
samples from a learner that never learns (``Player.behind``); it takes the weights while nothing is being
played, and they are part of every saved state, since a training that continues plays the pending phase again.
What the lag costs in truth is paid for by an importance weight (corrections.py), as in AReaL (2505.24298).
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import numpy as np

from r1kit.config import ConfigError, R1kitError
from r1kit.train.advantage_rows import UpdateConfig, policy_row
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.rollouts import Phase, Player
from r1kit.train.worker_thread import Beside, carry_on

BEHIND = "behind"  # the name of the weights in a saved state
_LOOKED_AT = 8  # rollouts whose log-probabilities are computed again with the weights that sampled them

Play = Callable[[int, Callable[[], None]], Phase]


class Phases:
    """A training's phases by their first step: ``take`` plays one, or waits for it where ``begin`` has had it
    played meanwhile.

    A context manager: what is being played at its end is stopped, and forgotten. ``play(first, heed)`` plays
    a phase."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._pending: Beside[None, Phase] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pending is not None:
            self._pending.__exit__(None, None, None)

    def begin(self, first: int) -> None:
        """Have the phase that begins at this step played in a thread of its own."""
        self._pending = Beside(lambda hand_over: self._play(first, lambda: hand_over(None)))
        self._pending.__enter__()

    def take(self, first: int) -> Phase:
        """The phase that begins at this step. ``scoring_s`` of one that was played meanwhile counts as far as
        it was waited for."""
        if self._pending is None:
            return self._play(first, carry_on)
        began, pending = time.perf_counter(), self._pending
        phase = pending.result()
        self._pending = None
        return replace(phase, scoring_s=min(phase.scoring_s, time.perf_counter() - began))


def version_of(first: int, updates_per_rollout: int) -> int:
    """The version of the weights that sample the phase which begins at this step."""
    return max(0, first - updates_per_rollout)


def require_behind(player: Player, off_policy: int) -> None:
    """Raise ConfigError where the player has no weights for what the configuration says, or weights that it
    has no use for."""
    if bool(off_policy) != (player.behind is not None):
        raise ConfigError(
            f"off_policy: {off_policy} with {'a' if player.behind else 'no'} learner behind: give "
            "Player one exactly where it is 1"
        )


def hand_over(player: Player, version: int) -> None:
    """Let the engine sample from the learner's weights as they are now."""
    if player.behind is not None:
        player.behind.copy_from(player.learner)
    player.engine.load((player.behind or player.learner).weights(), version)


def follow(player: Player, phase: Phase, config: UpdateConfig, first: int) -> Metrics:
    """With a learner behind: look at a phase once more with the weights that sampled it, then take the newest
    ones for what is played next."""
    if player.behind is None:
        return {}
    found = {
        "sampling/rounding_mean": rounding(
            player.behind, phase, config, version_of(first, config.updates_per_rollout)
        )
    }
    hand_over(player, first)
    return found


def rounding(behind: LearnerProtocol, phase: Phase, config: UpdateConfig, version: int) -> float:
    """The mean |difference| between what the engine said of some rollouts and what the weights say that
    sampled them: the lag is not in it. Raises R1kitError for rollouts of another version than theirs."""
    strangers = sorted(
        {rollout.completion.version for group in phase.groups for rollout in group} - {version}
    )
    if strangers:
        raise R1kitError(
            f"rollouts that version {version} of the weights was to sample come from version "
            f"{strangers[0]}: the engine was not handed the weights. "
            "Continue the run from its last saved state: the gate before its first step says what differs"
        )
    rows = [policy_row(group[0], temperature=config.temperature) for group in phase.groups[:_LOOKED_AT]]
    gaps = [
        np.abs(own_T - row.old_logprobs)[row.mask]
        for own_T, row in zip(behind.logprobs(rows), rows, strict=True)
    ]
    return float(np.concatenate(gaps).mean())
