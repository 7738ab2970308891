"""What the policy plays: a group of rollouts for each problem, scored, and topped up where a group has
nothing to teach.

Dynamic sampling (DAPO 2503.14476, section 3.2): a group whose rollouts all earn the same has no advantage and
no gradient, so further problems are drawn in its place, for at most ``dynamic_sampling`` rounds. What is
still missing then is filled with the even groups that came first, which cost sampling but no learning. Every
group that was played, taken or not, tells the curriculum (data/curriculum.py) how its problem went.

A group that is complete is scored while others are still being sampled, as far as a reward may be asked early
(rewards/ahead.py)."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from r1kit.chat import Chat
from r1kit.config import ConfigError
from r1kit.data.curriculum import CurriculumConfig, require_correctness
from r1kit.data.mixture import STATE, Mixture
from r1kit.engine import Done, Engine
from r1kit.language import language_share
from r1kit.log import Log
from r1kit.rewards import Ahead, Failure, WeightedReward, score
from r1kit.seeds import derive_seed
from r1kit.train import agreement_gate, checkpoint
from r1kit.train.agreement_gate import GateConfig
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.worker_thread import Beside, carry_on
from r1kit.types import Completion, Problem, Rollout, Sampling, Score


class RolloutConfig(GateConfig):
    """R1-Zero's setting (DeepSeek-R1, Nature version, section 2.1): 32 questions x 16 rollouts per update, 16
    updates per rollout phase, temperature 1. A phase holds problems x updates_per_rollout questions.
    ``dynamic_sampling`` is the largest number of further draws. ``replay_experts``: the learner of a mixture
    of experts routes every token as the engine did ("keep routing", DeepSeek-V3.2)."""

    problems: int = Field(default=32, ge=1)
    group: int = Field(default=16, ge=1)
    updates_per_rollout: int = Field(default=16, ge=1)
    temperature: float = Field(default=1.0, gt=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(default=32_768, ge=1)
    dynamic_sampling: int = Field(default=0, ge=0)
    replay_experts: bool = False
    curriculum: CurriculumConfig | None = None


@dataclass(frozen=True, slots=True)
class Player:
    """A policy that can play and learn: learner and engine share weights; ``reference`` is None where beta is
    0. ``behind``: a learner that never learns, which the engine samples from in the learner's stead
    (off_policy.py)."""

    learner: LearnerProtocol
    engine: Engine
    chat: Chat
    reference: LearnerProtocol | None = None
    behind: LearnerProtocol | None = None


# What is measured during the training, every ``watch_every`` steps, of the policy as it is at a step.
Watch = Callable[[Player, int], Metrics]


@dataclass(frozen=True, slots=True)
class Phase:
    """The scored rollouts of one phase; ``drawn`` problems were taken from the mixture for it in ``rounds``
    rounds, and scoring went on for ``scoring_s`` seconds after the sampling. ``old_PG``: log-probabilities
    [T] of prompt and completion (zero at the prompt) under the learner that began the phase, empty where
    nobody needs them. ``failures``: where a reward could not be had, and why. ``resting``: problems that the
    curriculum, where there is one, now passes over."""

    groups: list[list[Rollout]]
    scores_PG: list[list[Score]]
    drawn: int
    rounds: int
    scoring_s: float = 0.0
    old_PG: Sequence[Sequence[np.ndarray]] = ()
    failures: Sequence[Failure] = ()
    resting: int | None = None


GATE_TOKENS = 256  # a completion at most, so that the gate costs little where completions are long


def agree(player: Player, mixture: Mixture, config: RolloutConfig, seed: int, version: int, log: Log) -> None:
    """Open the gate (gate.py): engine and learner compute the same, or training does not start."""
    if not config.gate_problems:
        return
    most = min(config.max_tokens, GATE_TOKENS)
    sampling = Sampling(1, config.temperature, config.top_p, most, experts=config.replay_experts)
    found = agreement_gate.check(
        player, mixture.first(config.gate_problems), sampling, derive_seed(seed, "gate"), version, config
    )
    log.info(
        f"engine and learner agree: over {found['gate/tokens']:.0f} sampled tokens log-probabilities "
        f"differ by {found['gate/gap_mean']:.1e} on "
        f"average, {found['gate/gap_max']:.1e} at most"
    )


def take_up(
    mixture: Mixture,
    config: RolloutConfig,
    rewards: Sequence[WeightedReward],
    out: Path,
    start: int,
    drawn: int,
) -> None:
    """Bring the stream of problems to where it was at step ``start``: past the ``drawn`` ones, or with a
    curriculum as it was saved in ``out``."""
    if (mixture.curriculum and mixture.curriculum.config) != config.curriculum:
        raise ConfigError(
            "curriculum: the training's configuration has another one than its problems; give Mixture "
            "the same"
        )
    if mixture.curriculum is not None:
        require_correctness(reward.name for reward in rewards)
    if mixture.saves_state and start:
        mixture.restore(checkpoint.read(out, start, STATE))
    else:
        mixture.draw(drawn)


def collect(
    player: Player,
    mixture: Mixture,
    rewards: Sequence[WeightedReward],
    config: RolloutConfig,
    seed: int,
    heed: Callable[[], None] = carry_on,
) -> Phase:
    """Play and score a phase's worth of groups; see dynamic sampling on top. ``seed`` is the phase's own;
    ``heed`` is called now and then, and what it raises ends the phase."""
    wanted = config.problems * config.updates_per_rollout
    uneven: list[tuple[list[Rollout], list[Score]]] = []
    even: list[tuple[list[Rollout], list[Score]]] = []
    failures: list[Failure] = []
    drawn = rounds = 0
    scoring_s = 0.0
    while len(uneven) < wanted and rounds <= config.dynamic_sampling:
        missing = wanted - len(uneven)
        ahead = Ahead(rewards)
        groups, ended = play_ahead(
            player, mixture.draw(missing), config, derive_seed(seed, rounds) if rounds else seed, ahead, heed
        )
        scores_PG = judge(groups, ahead.informed(), failures)
        scoring_s += time.perf_counter() - ended
        for group, scores in zip(groups, scores_PG, strict=True):
            differ = not config.dynamic_sampling or teaches([one.total for one in scores])
            (uneven if differ else even).append((group, scores))
            mixture.observe(group[0].problem, scores)
        drawn, rounds = drawn + missing, rounds + 1
    chosen = uneven + even[: wanted - len(uneven)]
    return Phase(
        [group for group, _ in chosen],
        [scores for _, scores in chosen],
        drawn,
        rounds,
        scoring_s,
        failures=failures,
        resting=mixture.resting(),
    )


def teaches(rewards: Sequence[float]) -> bool:
    """Whether a group's rewards differ, so that some rollout is better than another; what is nan was not
    judged."""
    judged = [reward for reward in rewards if not math.isnan(reward)]
    return len(judged) > 1 and max(judged) > min(judged)


def play(
    player: Player, problems: Sequence[Problem], config: RolloutConfig, seed: int
) -> list[list[Rollout]]:
    """A group of rollouts for each problem."""
    prompts, sampling, seeds = _asked(player, problems, config, seed)
    completions = player.engine.generate(prompts, sampling, seeds)
    return [
        player.chat.rollouts(problem, prompt, group)
        for problem, prompt, group in zip(problems, prompts, completions, strict=True)
    ]


def play_ahead(
    player: Player,
    problems: Sequence[Problem],
    config: RolloutConfig,
    seed: int,
    ahead: Ahead,
    heed: Callable[[], None] = carry_on,
) -> tuple[list[list[Rollout]], float]:
    """What ``play`` returns, with rewards asked about groups while others are being sampled; and when
    sampling ended, by time.perf_counter.

    The engine works in a thread of its own, rewards in this one.
    """
    prompts, sampling, seeds = _asked(player, problems, config, seed)
    found: dict[int, list[Rollout]] = {}

    def take(completed: Mapping[int, list[Completion]]) -> list[Rollout]:
        fresh = {
            place: player.chat.rollouts(problems[place], prompts[place], group)
            for place, group in completed.items()
            if place not in found
        }
        found.update(fresh)
        return [rollout for group in fresh.values() for rollout in group]

    def sample(done: Done) -> list[list[Completion]]:
        return player.engine.generate(prompts, sampling, seeds, done)

    with Beside(sample, heed) as sampled:
        for told in sampled:
            ahead.ask([rollout for completed in told for rollout in take(completed)])
        take(dict(enumerate(sampled.result())))
    return [found[place] for place in range(len(problems))], sampled.ended


def _asked(
    player: Player, problems: Sequence[Problem], config: RolloutConfig, seed: int
) -> tuple[list[np.ndarray], Sampling, list[int]]:
    """Prompts, how to sample, and a seed for each prompt."""
    prompts = [player.chat.prompt_ids(problem) for problem in problems]
    sampling = Sampling(
        config.group, config.temperature, config.top_p, config.max_tokens, experts=config.replay_experts
    )
    return prompts, sampling, [derive_seed(seed, place, problem.id) for place, problem in enumerate(problems)]


def judge(
    groups: Sequence[Sequence[Rollout]],
    rewards: Sequence[WeightedReward],
    failures: list[Failure] | None = None,
) -> list[list[Score]]:
    """Scores by group; all rollouts are scored together, so that programs and judges work in batches.
    Failures are added to ``failures``."""
    flat = score([rollout for group in groups for rollout in group], rewards, failures)
    found = iter(flat)
    return [[next(found) for _ in group] for group in groups]


def describe(phase: Phase) -> Metrics:
    """What a rollout phase looked like: rewards, lengths, and how many groups had nothing to teach."""
    groups, scores_PG = phase.groups, phase.scores_PG
    scores = [score for scores in scores_PG for score in scores]
    lengths = np.array([len(rollout.completion.token_ids) for group in groups for rollout in group])
    cut = [rollout.completion.finish == "length" for group in groups for rollout in group]
    totals = [[score.total for score in scores] for scores in scores_PG]
    judged = [total for group in totals for total in group if not math.isnan(total)]
    metrics = {
        "reward/mean": float(np.mean(judged)) if judged else math.nan,
        "reward/zero_std_groups": float(np.mean([not teaches(group) for group in totals])),
        "completions/mean_length": float(lengths.mean()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(np.mean(cut)),
        "reward/failed": len({(failure.problem, failure.index) for failure in phase.failures})
        / max(1, len(scores)),
        "time/reward": phase.scoring_s,
    }
    if phase.rounds > 1:
        metrics |= {"sampling/rounds": float(phase.rounds), "sampling/drawn": float(phase.drawn)}
    if phase.resting is not None:
        metrics["curriculum/resting"] = float(phase.resting)
    thinkings = [(r.thinking, r.problem.language) for group in groups for r in group if r.thinking]
    shares = [
        share for thinking, language in thinkings if (share := language_share(thinking, language)) is not None
    ]
    if shares:
        metrics["lang/target_ratio"] = float(np.mean(shares))
    for name in scores[0].parts if scores else ():
        values = [
            value for score in scores if (value := score.parts[name]) is not None and not math.isnan(value)
        ]
        if values:
            metrics[f"reward/{name}/mean"] = float(np.mean(values))
    return metrics


def records(phase: Phase, most: int) -> list[dict[str, object]]:
    """The first rollouts of a phase, and all that a reward failed on, as lines of the sample store."""
    failed: dict[tuple[str, int], dict[str, str]] = {}
    for failure in phase.failures:
        failed.setdefault((failure.problem, failure.index), {})[failure.reward] = failure.detail
    scored = [
        (r, s)
        for group, scores in zip(phase.groups, phase.scores_PG, strict=True)
        for r, s in zip(group, scores, strict=True)
    ]
    kept = [
        pair
        for place, pair in enumerate(scored)
        if place < most or (pair[0].problem.id, pair[0].index) in failed
    ]
    return [
        record(rollout, score, failed.get((rollout.problem.id, rollout.index), {})) for rollout, score in kept
    ]


def record(rollout: Rollout, score: Score, failures: Mapping[str, str]) -> dict[str, object]:
    """A rollout as one line of the sample store. ``failures``: reward -> traceback or reason."""
    line: dict[str, object] = {
        "problem": rollout.problem.id,
        "prompt": rollout.problem.prompt,
        "index": rollout.index,
        "text": rollout.text,
        "truth": rollout.problem.answer,
        "finish": rollout.completion.finish,
        "length": len(rollout.completion.token_ids),
        "reward": score.total,
        "parts": dict(score.parts),
    }
    return line | {"failures": dict(failures)} if failures else line
