"""The loop of reinforcement learning, the same for every algorithm.

    resume -> for each phase: draw problems -> sample -> score -> learn (``updates_per_rollout`` updates)
              -> hand the weights to the engine -> save; log and alarms with every update

GRPO and its variants, PPO and on-policy distillation each implement ``Algorithm``: how a phase is collected,
what an update learns from it, and which other learners belong to a saved state. The loop does the rest: it
refreshes the reference, splits a phase into updates, applies the lag of ``off_policy``, resumes, saves, and
raises the alarm.

An interrupted training resumes bit-identically. So an algorithm must not keep state from one phase to the
next, except in its ``companions``."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
from pydantic import Field

from r1kit.data.mixture import Mixture
from r1kit.figures import PREFLIGHT, SILENT
from r1kit.log import Log
from r1kit.rewards import WeightedReward
from r1kit.seeds import derive_seed
from r1kit.train import agreement_gate, checkpoint
from r1kit.train.advantage_rows import policy_row
from r1kit.train.agreement_gate import GapAlarm, GateConfig
from r1kit.train.kept_updates import REFERENCE, UpdateKeeper
from r1kit.train.learnable import Compared, LearningAlarm, gather, setting_of, silent_cause
from r1kit.train.learner import LearnerProtocol, Metrics, log_fault
from r1kit.train.off_policy import (
    LAGGED,
    ManyAhead,
    OneAhead,
    Phases,
    follow,
    hand_over,
    require_lagged,
    version_of,
)
from r1kit.train.optimizers import ScheduleConfig
from r1kit.train.rollouts import (
    TOKEN_ROLLOUTS,
    Phase,
    Policy,
    RolloutConfig,
    TokenView,
    Watch,
    describe,
    records,
    restore_stream,
    shortened,
)
from r1kit.types import Sampling

GATE_TOKENS = 256  # of a completion at most, so that the gate costs little where completions are long
KEPT_ROLLOUTS = 32  # of a phase, as text
ONCE = ("watch/", PREFLIGHT)  # metrics of a phase's first step alone

Part = TypeVar("Part")  # the input of one update of an algorithm
MakeLearner = Callable[[bool], LearnerProtocol]  # on the initial model; True adds a scalar head


class RLConfig(RolloutConfig, GateConfig):
    """The keys of every RL training. A step is one update; ``updates_per_rollout`` updates share a rollout
    phase, whose problems are split at random among them. Every ``reference_refresh`` updates the reference,
    if there is one, is replaced by the policy (R1: 400; 0: never). ``save_every`` counts rollout phases.
    R1-Zero trained for 10,400 steps.

    An algorithm is a subclass with its own keys and ``build``. ``algorithm`` is its name in a recipe, and
    ``key`` where its keys stand in a stage."""

    key: ClassVar[str] = "rl"
    algorithm: str = ""
    steps: int = Field(default=10_400, ge=1)  # updates (R1, section 2.1)
    reference_refresh: int = Field(default=400, ge=0)
    schedule: ScheduleConfig = ScheduleConfig()
    save_every: int = Field(default=10, ge=1)

    @property
    def needs_reference(self) -> bool:
        """Whether ``build`` expects a policy with a reference."""
        return False

    @property
    def compared(self) -> Compared:
        """With which others a rollout is compared (learnable.py)."""
        return "phase"

    @property
    def needs_lagged(self) -> bool:
        """Whether the engine samples ahead, with lagged weights (off_policy.py)."""
        return False

    @property
    def lag(self) -> int:
        """By how many phases the engine's weights are behind (off_policy.py)."""
        return int(self.needs_lagged)

    def build(
        self, policy: Policy, rewards: Sequence[WeightedReward], make_learner: MakeLearner
    ) -> "Algorithm[Any]":
        """The algorithm of this configuration. ``make_learner`` makes one more learner on the initial model,
        for instance a critic."""
        raise NotImplementedError(f"{type(self).__name__}.build")


class Algorithm(Protocol[Part]):
    """What the loop requires of an algorithm. ``rewards`` may be empty."""

    @property
    def config(self) -> RLConfig: ...

    @property
    def policy(self) -> Policy: ...

    @property
    def rewards(self) -> Sequence[WeightedReward]: ...

    def collect(self, mixture: Mixture, seed: int, on_poll: Callable[[], None]) -> Phase:
        """Draw problems, sample and score the groups of a phase (rollouts.collect does). ``on_poll`` is
        called repeatedly; an exception from it ends the phase. With lagged weights this runs in another
        thread, at the same time as ``learn``."""
        ...

    def prepare(self, phase: Phase, deals: Sequence[Sequence[int]]) -> tuple[Sequence[Part], Metrics]:
        """Make what each update learns from, before the first update changes the policy. ``deals`` has the
        indices of the groups of each update."""
        ...

    def learn(self, part: Part, step: int, seed: int) -> Metrics:
        """One update."""
        ...

    def companions(self) -> Mapping[str, LearnerProtocol]:
        """Other trained learners that belong to a saved state, by name, such as a critic."""
        ...


@runtime_checkable
class ComparesGroups(Protocol):
    """An algorithm that can say the advantages of an update's groups before it learns, for the samples."""

    @property
    def config(self) -> RLConfig: ...

    def advantages(self, part: Phase) -> list[np.ndarray] | None:
        """The advantages [G] of each group; None where a rollout's is not one number."""
        ...


def train(
    algorithm: Algorithm[Part],
    mixture: Mixture,
    seed: int,
    log: Log,
    out: Path,
    watch: Watch | None = None,
    owners: Sequence[str] = (),
    preflight: Metrics | None = None,
    keeper: UpdateKeeper | None = None,
) -> Metrics:
    """Run ``config.steps`` updates and return the last step's metrics. Resume if an interrupted training of
    one of ``owners`` saved its state in ``out`` (checkpoint.py). ``watch`` measures at the beginning of every
    phase and at the end; ``preflight`` is logged with the first phase; ``keeper`` keeps some updates."""
    config, policy = algorithm.config, algorithm.policy
    require_lagged(policy, config.lag)
    start, drawn = resume(algorithm, out, owners) if checkpoint.exists(out) else (0, 0)
    if keeper is not None:
        keeper.check(start)
    restore_stream(mixture, config, algorithm.rewards, out, start, drawn)
    check_agreement(policy, mixture, config, seed, start, log)
    load_lagged_weights(policy, config, start, out, owners)
    alarm, learning = GapAlarm(config), LearningAlarm(setting_of(config.key, config, algorithm.rewards))
    metrics: Metrics = {}
    with ahead(algorithm, mixture, seed, start) as phases:
        for first in range(start, config.steps, config.updates_per_rollout):
            began, after = time.perf_counter(), first + config.updates_per_rollout
            phase = phases.take(first)
            drawn, stream = drawn + phase.drawn, phases.stream()
            sampled = time.perf_counter()
            found = follow(policy, phase, config, first, config.lag)
            found |= (preflight or {}) if first == 0 else {}
            found |= watch(phases.measured(first), first) if watch else {}
            if policy.lagged is not None and after < config.steps:
                phases.begin(after)
            found |= describe(phase) | {"time/rollout": sampled - began - phase.scoring_s}
            found |= judge_learning(phase, config, first, learning, log)
            advantages_PG = sampled_advantages(algorithm, phase, first, seed)
            seen = token_views(policy, phase, config)
            log.rollouts(first, records(phase, KEPT_ROLLOUTS, advantages_PG, seen))
            metrics = learn_phase(algorithm, phase, first, seed, found, alarm, log, watch, keeper)
            if policy.lagged is None and first == start and after < config.steps and config.gate_problems:
                check_agreement(policy, mixture, config, seed, after, log, again=True)
            elif policy.lagged is None:
                hand_over(policy, after)
            due = (first // config.updates_per_rollout + 1) % config.save_every == 0
            progress = {"step": after, "drawn": drawn}
            others = companions(algorithm, after)
            log.save_point(due, policy.learner.save, out, progress, stream, others, owners)
    return metrics


def ahead(algorithm: Algorithm[Part], mixture: Mixture, seed: int, start: int) -> Phases:
    """The phases of a training from step ``start`` on, collected as far ahead as its lag allows."""
    config = algorithm.config

    def collect(first: int, on_poll: Callable[[], None]) -> Phase:
        return algorithm.collect(mixture.at(first), derive_seed(seed, "rollout", first), on_poll)

    if config.lag < 2:
        return OneAhead(collect, algorithm.policy, mixture.saved)
    firsts = range(start, config.steps, config.updates_per_rollout)
    return ManyAhead(collect, algorithm.policy, mixture.saved, firsts, config.lag)


def learn_phase(
    algorithm: Algorithm[Part],
    phase: Phase,
    first: int,
    seed: int,
    found: Metrics,
    alarm: GapAlarm,
    log: Log,
    watch: Watch | None = None,
    keeper: UpdateKeeper | None = None,
) -> Metrics:
    """The updates of the phase that begins at step ``first``, each logged with ``found``, the metrics of the
    phase. Return the last one's. After the last step of all ``watch`` measures the final weights."""
    config, policy = algorithm.config, algorithm.policy
    metrics: Metrics = {}
    deals = deals_of(phase, config, first, seed)
    refresh_reference(policy, config, first)
    parts, prepared = algorithm.prepare(phase, deals)
    for step, part in enumerate(parts, start=first):
        began = time.perf_counter()
        if step > first:
            refresh_reference(policy, config, step)
            found = {name: value for name, value in found.items() if not name.startswith(ONCE)}
        drawn = derive_seed(seed, "tokens", step)
        if keeper is not None:
            keeper.keep(step, drawn, part, policy, phase, config.reference_refresh)
        learned = algorithm.learn(part, step, drawn)
        metrics = found | prepared | learned
        if step == first and (warning := alarm.feed(step, disagreement(metrics))):
            log.info(f"warning: {warning}")
        log_fault(policy.learner, learned, log)
        metrics |= {"time/update": time.perf_counter() - began}
        if watch and step + 1 == config.steps:
            policy.hand_over(policy.learner, policy.engine, config.steps)
            metrics |= watch(policy, config.steps)
        log.step(step, config.steps, metrics)
    return metrics


def judge_learning(phase: Phase, config: RLConfig, first: int, alarm: LearningAlarm, log: Log) -> Metrics:
    """Warn where the last phases teach nothing (learnable.py). Return the cause where this one does not."""
    if not any(phase.scores_PG):
        return {}
    filtered = getattr(config, "overlong_filter", False)
    for warning in alarm.feed(first, gather(phase, config.compared, filtered)):
        log.info(f"warning: {warning}")
    silent = silent_cause(phase, config.compared, filtered)
    return {SILENT + silent: 1.0} if silent else {}


def deals_of(phase: Phase, config: RLConfig, first: int, seed: int) -> list[list[int]]:
    """The indices of the groups of each update of the phase that begins at step ``first``."""
    return deal(len(phase.groups), config, derive_seed(seed, "split", first))[: config.steps - first]


def sampled_advantages(
    algorithm: Algorithm[Part], phase: Phase, first: int, seed: int
) -> list[np.ndarray | None]:
    """The advantages of each group of a phase, None for groups whose algorithm does not say them."""
    found: list[np.ndarray | None] = [None] * len(phase.groups)
    if not isinstance(algorithm, ComparesGroups) or not any(phase.scores_PG):
        return found
    for places in deals_of(phase, algorithm.config, first, seed):
        own = algorithm.advantages(phase.part(places))
        for place, advantages_G in zip(places, own or (), strict=False):
            found[place] = advantages_G
    return found


def token_views(policy: Policy, phase: Phase, config: RLConfig) -> list[TokenView]:
    """The first tokens of a phase's first rollouts, as engine and learner see them before the phase's first
    update, for the samples. This reads the learner and changes nothing in it."""
    rollouts = [shortened(rollout) for group in phase.groups for rollout in group][:TOKEN_ROLLOUTS]
    rows = [policy_row(rollout, temperature=config.temperature) for rollout in rollouts]
    learned = policy.learner.logprobs_and_entropies(rows)
    return [
        TokenView(
            policy.chat.tokenizer.pieces(rollout.completion.token_ids),
            rollout.completion.logprobs,
            learned_T[row.mask],
            entropy_T[row.mask],
        )
        for rollout, row, (learned_T, entropy_T) in zip(rollouts, rows, learned, strict=True)
    ]


def deal(groups: int, config: RolloutConfig, seed: int) -> list[list[int]]:
    """Split the groups of a phase at random among its updates: the indices of the groups of each."""
    order = np.random.default_rng(seed).permutation(groups).tolist()
    return [
        order[number * config.problems : (number + 1) * config.problems]
        for number in range(config.updates_per_rollout)
    ]


def disagreement(metrics: Metrics) -> float:
    """The difference of engine and learner with the same weights."""
    return metrics.get("sampling/rounding_mean", metrics.get("sampling/logp_gap_mean", 0.0))


def check_agreement(
    policy: Policy,
    mixture: Mixture,
    config: RLConfig,
    seed: int,
    version: int,
    log: Log,
    again: bool = False,
) -> None:
    """The gate (agreement_gate.py), which hands the weights over: engine and learner compute the same, or
    training does not start; ``again`` after the first updates, where it stops. Lagged weights are compared in
    every phase (off_policy.py)."""
    if not config.gate_problems:
        return
    most = min(config.max_tokens, GATE_TOKENS)
    sampling = Sampling(1, config.temperature, config.top_p, most, experts=config.replay_experts)
    problems, drawn = mixture.first(config.gate_problems), derive_seed(seed, "gate")
    found = agreement_gate.check(policy, problems, sampling, drawn, version, config, again)
    when = " on the first new weights" if again else ""
    log.info(
        f"engine and learner agree{when}: over {found['gate/tokens']:.0f} sampled tokens log-probabilities "
        f"differ by {found['gate/gap_mean']:.1e} on "
        f"average, {found['gate/gap_max']:.1e} at most"
    )


def resume(algorithm: Algorithm[Part], out: Path, owners: Sequence[str] = ()) -> tuple[int, int]:
    """Restore policy, engine, reference and the algorithm's companions from the state in ``out``. Return the
    next step, and how many problems were drawn before it."""
    policy = algorithm.policy
    progress = policy.learner.restore(out, "", owners)
    start = progress["step"]
    hand_over(policy, start)
    restored = {**moved_reference(policy, algorithm.config, start), **algorithm.companions()}
    for name, learner in restored.items():
        learner.restore(out, name, owners)
    return start, progress["drawn"]


def load_lagged_weights(
    policy: Policy, config: RLConfig, start: int, out: Path, owners: Sequence[str] = ()
) -> None:
    """Load the lagged weights that sample the phase at ``start``, if the policy has any. This comes after the
    gate, which compares the engine with the learner."""
    if policy.lagged is None or not start:
        return
    for name, keeper in kept_learners(policy).items():
        keeper.restore(out, name, owners)
    if not policy.kept:
        version = version_of(start, config.updates_per_rollout)
        policy.hand_over(policy.lagged, policy.engine, version)


def kept_learners(policy: Policy) -> dict[str, LearnerProtocol]:
    """Who keeps weights that will sample phases to come, by the name in a saved state."""
    if policy.kept:
        return {f"{LAGGED}_{number}": keeper for number, keeper in enumerate(policy.kept)}
    return {LAGGED: policy.lagged} if policy.lagged is not None else {}


def refresh_reference(policy: Policy, config: RLConfig, step: int) -> None:
    """Every ``reference_refresh`` steps the policy becomes the reference."""
    every = config.reference_refresh
    if policy.reference is not None and every and step and step % every == 0:
        policy.reference.copy_from(policy.learner)


def companions(algorithm: Algorithm[Part], step: int) -> dict[str, LearnerProtocol]:
    """The learners saved with the policy after ``step`` steps: a reference that is no longer the initial
    model, lagged weights, and the algorithm's own learners."""
    return {
        **moved_reference(algorithm.policy, algorithm.config, step),
        **kept_learners(algorithm.policy),
        **algorithm.companions(),
    }


def moved_reference(policy: Policy, config: RLConfig, step: int) -> dict[str, LearnerProtocol]:
    """The reference after ``step`` steps if it is no longer the initial model and has to be saved; else
    nothing."""
    if policy.reference is None or not config.reference_refresh or step <= config.reference_refresh:
        return {}
    return {REFERENCE: policy.reference}
