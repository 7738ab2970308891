"""Do engine and learner compute the same? Checked before the first update, and watched during training.

Before training, the engine gets the learner's weights and samples, and the learner computes the
log-probabilities of the sampled tokens. The two may differ by rounding only. If they differ by more, the run
does not start, because its probability ratios would be wrong from the first step. diagnose.py finds the
cause.

The same is done once more when the engine gets new weights for the first time, after the first updates: an
engine can be right about the weights that it started with and damage those that it loads later.

Measured on the trained miniature, 800 to 2,200 tokens, as mean and largest |difference| of log-probabilities:
5e-7 and 1e-5 in float32 (2e-3 at most where one token went to another expert), 0.0004 to 0.002 and 0.16 in
bfloat16 with a float32 head, 0.0008 to 0.004 and 0.15 with a bfloat16 head."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field

from r1kit.config import Config, R1kitError
from r1kit.health import GAP
from r1kit.seeds import derive_seed
from r1kit.train.advantage_rows import policy_row
from r1kit.train.diagnose import Probe, Sides, cause, gaps, wrong_weights
from r1kit.train.learner import Metrics
from r1kit.types import Problem, Sampling

ENOUGH, MOST_SAMPLES = 512, 8  # tokens for a mean; samples of a problem at most
EXCEPTIONS = 200  # one token in so many may be above gate_max: one that rounding sent to another expert


class GateConfig(Config):
    """``gate_problems`` problems are sampled before training (0: no gate), again if the answers have few
    tokens. The run does not start if the mean |difference| of log-probabilities is above ``gate_mean``, or
    that of more than one token in 200 above ``gate_max``. An update on fresh rollouts whose mean is above
    ``gap_alarm`` gives a warning; ``gap_patience`` of them in a row stop the run. The defaults are five
    times what bfloat16 costs the miniature; 1e-4 and 0.05 fit a run in float32."""

    gate_problems: int = Field(default=8, ge=0)
    gate_mean: float = Field(default=0.02, gt=0.0)
    gate_max: float = Field(default=1.0, gt=0.0)
    gap_alarm: float = Field(default=GAP, gt=0.0)
    gap_patience: int = Field(default=3, ge=1)


class GapAlarm:
    """Watches the mean |difference| of log-probabilities in updates on fresh rollouts, where only rounding
    should differ."""

    def __init__(self, config: GateConfig) -> None:
        self.config = config
        self._above = 0

    def feed(self, step: int, gap: float) -> str:
        """A warning, or "" at or below ``gap_alarm``. Raises R1kitError after ``gap_patience`` updates in a
        row above it."""
        limit = self.config.gap_alarm
        if gap <= limit:  # false for nan, too
            self._above = 0
            return ""
        self._above += 1
        warning = (
            f"step {step}: engine and learner differ by {gap:.3g} per token on fresh rollouts (gap_alarm "
            f"{limit:g})"
        )
        if self._above < self.config.gap_patience:
            return warning
        raise R1kitError(
            f"{warning}, {self._above} updates in a row: the engine samples from other weights than "
            "the learner has, for instance older ones. "
            f"Continue the run from its last saved state: the gate before its first step says what differs"
        )


def check(
    sides: Sides,
    problems: Sequence[Problem],
    sampling: Sampling,
    seed: int,
    version: int,
    config: GateConfig,
    again: bool = False,
) -> Metrics:
    """Hand the learner's weights to the engine as ``version``, sample completions for ``problems`` (one or
    more), and compare. ``again``: the first weights have passed, and these are the first new ones.

    Raises R1kitError that names what differs.
    """
    sides.hand_over(sides.learner, sides.engine, version)
    probes = sample_enough(sides, problems, sampling, seed)
    stale = sorted({probe.completion.version for probe in probes} - {version})
    if stale:
        raise _stopped(
            f"stale rollouts: they were sampled by version {stale[0]} of the weights, and the learner "
            f"is at version {version}",
            again,
        )
    if reason := wrong_weights(sides, probes[0]):
        raise _stopped(reason, again)
    gaps_N = gaps(sides.learner, probes)
    mean, largest = float(gaps_N.mean()), float(gaps_N.max())
    judged = float(np.sort(gaps_N)[-1 - len(gaps_N) // EXCEPTIONS])  # nan is sorted last
    if mean <= config.gate_mean and judged <= config.gate_max:  # false for nan, too: the mean is nan
        return {"gate/tokens": float(len(gaps_N)), "gate/gap_mean": mean, "gate/gap_max": largest}
    raise _stopped(
        f"log-probabilities of {len(gaps_N)} sampled tokens differ by {mean:.3g} on average and "
        f"{largest:.3g} at most (allowed: gate_mean {config.gate_mean:g}, and gate_max {config.gate_max:g} "
        f"for all but {len(gaps_N) // EXCEPTIONS} of them). {cause(sides, probes, config.gate_mean)}",
        again,
    )


def sample_enough(sides: Sides, problems: Sequence[Problem], sampling: Sampling, seed: int) -> list[Probe]:
    """One completion for each problem, then as many more as are expected to give ``ENOUGH`` tokens: in
    bfloat16 a token that is routed to another expert differs by up to 1, which would dominate the mean over
    a few dozen tokens."""
    probes: list[Probe] = []
    sampled, more = 0, 1
    while more:
        drawn = derive_seed(seed, sampled) if sampled else seed
        probes += sample(sides, problems, sampling, drawn, more)
        sampled += more
        tokens = sum(len(probe.completion.token_ids) for probe in probes)
        missing = math.ceil((ENOUGH - tokens) * sampled / max(tokens, 1))
        more = min(max(missing, 0), MOST_SAMPLES - sampled)
    return probes


def sample(
    sides: Sides, problems: Sequence[Problem], sampling: Sampling, seed: int, n: int = 1
) -> list[Probe]:
    """``n`` completions for each problem, with the rows that the learner would train on."""
    prompts = [sides.chat.prompt_ids(problem) for problem in problems]
    groups = sides.engine.generate(
        prompts, replace(sampling, n=n), [derive_seed(seed, "gate", problem.id) for problem in problems]
    )
    return [
        Probe(problem, rollout.completion, policy_row(rollout, temperature=sampling.temperature or 1.0))
        for problem, prompt_ids, group in zip(problems, prompts, groups, strict=True)
        for rollout in sides.chat.rollouts(problem, prompt_ids, group)
    ]


def _stopped(reason: str, again: bool) -> R1kitError:
    if not again:
        return R1kitError(f"engine and learner do not agree, so training does not start: {reason}")
    return R1kitError(
        "engine and learner agreed before training and do not agree on the first new weights, so training "
        "stops: the engine damages or keeps weights when it loads new ones into a running model. vLLM on a "
        "CPU does that to experts; with engine: {kind: vllm, reload: restart} a new process loads them. "
        f"Found: {reason}"
    )
