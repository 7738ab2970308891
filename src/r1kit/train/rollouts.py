"""Sample and score a group of rollouts for each problem, and draw further problems for groups whose rewards
are all equal.

Dynamic sampling (DAPO 2503.14476, section 3.2): such a group has no advantage and no gradient, so further
problems are drawn in its place, for at most ``dynamic_sampling`` rounds. If groups are still missing then,
the first groups with equal rewards fill the phase; they cause no gradient. The curriculum
(data/curriculum.py) observes every sampled group, used or not.

Rewards that allow it score a complete group while other groups are still being sampled (rewards/ahead.py)."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from r1kit.chat import Chat, prompt_column
from r1kit.config import Config, ConfigError
from r1kit.data.curriculum import CurriculumConfig, require_correctness
from r1kit.data.mixture import STATE, Mixture
from r1kit.engine import Done, Engine
from r1kit.language import language_share
from r1kit.rewards import Ahead, Failure, WeightedReward, score
from r1kit.seeds import derive_seed
from r1kit.train import checkpoint
from r1kit.train.hand_over import HandOver, load_weights
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.worker_thread import WorkerThread, do_nothing
from r1kit.types import Completion, Problem, Rollout, Sampling, Score

TOKEN_ROLLOUTS, TOKENS_KEPT = 8, 512  # rollouts of a phase with their tokens in the samples, tokens of each


class RolloutConfig(Config):
    """R1-Zero's setting (DeepSeek-R1, Nature version, section 2.1): 32 questions x 16 rollouts per update, 16
    updates per rollout phase, temperature 1. A phase holds problems x updates_per_rollout questions.
    ``dynamic_sampling`` is the largest number of further draws. ``replay_experts``: the learner of a mixture
    of experts routes every token as the engine did ("keep routing", DeepSeek-V3.2)."""

    problems: int = Field(default=32, ge=1)  # per update (R1, section 2.1)
    group: int = Field(default=16, ge=1)  # rollouts of each problem (R1, section 2.1)
    updates_per_rollout: int = Field(default=16, ge=1)  # updates that share a phase (R1, section 2.1)
    temperature: float = Field(default=1.0, gt=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)  # sample from the likeliest tokens that have so much
    max_tokens: int = Field(default=32_768, ge=1)
    dynamic_sampling: int = Field(default=0, ge=0)
    replay_experts: bool = False
    curriculum: CurriculumConfig | None = None  # skip problems by the pass rate of their last group

    @model_validator(mode="after")
    def _sampling_keeps_every_token(self) -> "RolloutConfig":
        if self.top_p < 1.0:
            raise ValueError(
                f"top_p: {self.top_p:g} would leave out unlikely tokens when rollouts are sampled, while the "
                "learner's log-probabilities are those of the whole vocabulary: the gradient is then biased, "
                "and no importance weight corrects it. Use top_p: 1 for training (evaluation may use "
                "any), or a lower temperature"
            )
        return self


@dataclass(frozen=True, slots=True)
class Policy:
    """A learner, and an engine that samples from its weights. ``reference`` (None without one) is the model
    that the policy should stay near; the training loop refreshes it. ``lagged`` (None without one) is a
    second learner that is not trained; the engine samples from it instead, and ``kept`` keep the weights of
    phases to come where the lag is more than one phase (off_policy.py). ``hand_over`` is
    the runtime's, which knows where learner and engine are."""

    learner: LearnerProtocol
    engine: Engine
    chat: Chat
    reference: LearnerProtocol | None = None
    lagged: LearnerProtocol | None = None
    hand_over: HandOver = load_weights
    kept: tuple[LearnerProtocol, ...] = ()


# Measures the policy after so many steps; returns metrics, none where it is not due.
Watch = Callable[[Policy, int], Metrics]


@dataclass(frozen=True, slots=True)
class TokenView:
    """Tokens of a rollout for the samples: their ``texts``, their log-probabilities under the engine that
    sampled them and under the learner before it learns from them, and the entropies of the learner's
    distributions in nats, [T] each."""

    texts: Sequence[str]
    logprobs_T: np.ndarray
    learned_T: np.ndarray
    entropy_T: np.ndarray

    def as_dict(self) -> dict[str, object]:
        """The tokens as a sample's line has them."""
        numbers = {"logprobs": self.logprobs_T, "learned": self.learned_T, "entropies": self.entropy_T}
        return {"texts": list(self.texts)} | {
            name: [round(float(value), 5) for value in values_T] for name, values_T in numbers.items()
        }


@dataclass(frozen=True, slots=True)
class Phase:
    """The rollouts of one phase with their scores (none where the algorithm has no rewards). ``drawn``
    problems were taken from the mixture in ``rounds`` rounds, and scoring went on for ``scoring_s`` seconds
    after the sampling. ``old_PG``: log-probabilities [T] of prompt and completion (zero at the prompt) under
    the learner that began the phase, empty where the algorithm does not use them. ``failures``: the rewards
    that failed, and why. ``resting``: how many problems the curriculum passes over now; None without one."""

    groups: list[list[Rollout]]
    scores_PG: list[list[Score]]
    drawn: int
    rounds: int
    scoring_s: float = 0.0
    old_PG: Sequence[Sequence[np.ndarray]] = ()
    failures: Sequence[Failure] = ()
    resting: int | None = None

    def part(self, places: Sequence[int]) -> "Phase":
        """The same phase with the groups at these places only."""
        return replace(
            self,
            groups=[self.groups[place] for place in places],
            scores_PG=[self.scores_PG[place] for place in places] if self.scores_PG else [],
            old_PG=[self.old_PG[place] for place in places] if self.old_PG else (),
        )


def restore_stream(
    mixture: Mixture,
    config: RolloutConfig,
    rewards: Sequence[WeightedReward],
    out: Path,
    start: int,
    drawn: int,
) -> None:
    """Restore the stream of problems as of step ``start``: skip ``drawn`` problems, or with a curriculum load
    the state saved in ``out``."""
    if (mixture.curriculum and mixture.curriculum.config) != config.curriculum:
        raise ConfigError(
            "curriculum: the configuration of the training differs from that of the Mixture; give both "
            "the same"
        )
    if mixture.curriculum is not None:
        require_correctness(reward.name for reward in rewards)
    if mixture.saves_state and start:
        mixture.restore(checkpoint.read(out, start, STATE))
    else:
        mixture.draw(drawn)


def collect(
    policy: Policy,
    mixture: Mixture,
    rewards: Sequence[WeightedReward],
    config: RolloutConfig,
    seed: int,
    on_poll: Callable[[], None] = do_nothing,
) -> Phase:
    """Sample and score the groups of a phase, with dynamic sampling (see the top of the module). ``seed`` is
    the seed of the phase. ``on_poll`` is called repeatedly; an exception from it ends the phase."""
    wanted = config.problems * config.updates_per_rollout
    uneven: list[tuple[list[Rollout], list[Score]]] = []
    even: list[tuple[list[Rollout], list[Score]]] = []
    failures: list[Failure] = []
    drawn = rounds = 0
    scoring_s = 0.0
    while len(uneven) < wanted and rounds <= config.dynamic_sampling:
        missing = wanted - len(uneven)
        ahead = Ahead(rewards)
        groups, ended = sample_and_ask(
            policy,
            mixture.draw(missing),
            config,
            derive_seed(seed, rounds) if rounds else seed,
            ahead,
            on_poll,
            first=drawn,
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
    """Whether a group's rewards differ by more than rounding (0.1 + 0.2 and 0.3 do not). A nan (not judged)
    is ignored."""
    judged = [reward for reward in rewards if not math.isnan(reward)]
    return len(judged) > 1 and not math.isclose(max(judged), min(judged), rel_tol=1e-12, abs_tol=1e-12)


def sample(
    policy: Policy, problems: Sequence[Problem], config: RolloutConfig, seed: int
) -> list[list[Rollout]]:
    """A group of rollouts for each problem."""
    prompts, sampling, seeds = _requests(policy, problems, config, seed)
    completions = policy.engine.generate(prompts, sampling, seeds)
    return [
        policy.chat.rollouts(problem, prompt, group, number=number)
        for number, (problem, prompt, group) in enumerate(zip(problems, prompts, completions, strict=True))
    ]


def sample_and_ask(
    policy: Policy,
    problems: Sequence[Problem],
    config: RolloutConfig,
    seed: int,
    ahead: Ahead,
    on_poll: Callable[[], None] = do_nothing,
    first: int = 0,
) -> tuple[list[list[Rollout]], float]:
    """As ``sample``, and compute the early rewards of complete groups while others are being sampled. Also
    return when sampling ended (time.perf_counter). Groups are numbered from ``first``.

    The engine works in a second thread, the rewards in this one.
    """
    prompts, sampling, seeds = _requests(policy, problems, config, seed)
    found: dict[int, list[Rollout]] = {}

    def take(completed: Mapping[int, list[Completion]]) -> list[Rollout]:
        fresh = {
            place: policy.chat.rollouts(problems[place], prompts[place], group, number=first + place)
            for place, group in completed.items()
            if place not in found
        }
        found.update(fresh)
        return [rollout for group in fresh.values() for rollout in group]

    def generate(done: Done) -> list[list[Completion]]:
        return policy.engine.generate(prompts, sampling, seeds, done)

    with WorkerThread(generate, on_poll) as sampling_thread:
        for portions in sampling_thread:
            ahead.ask([rollout for completed in portions for rollout in take(completed)])
        take(dict(enumerate(sampling_thread.result())))
    return [found[place] for place in range(len(problems))], sampling_thread.ended


def _requests(
    policy: Policy, problems: Sequence[Problem], config: RolloutConfig, seed: int
) -> tuple[list[np.ndarray], Sampling, list[int]]:
    """Prompts, how to sample, and a seed for each prompt."""
    prompts = [policy.chat.prompt_ids(problem) for problem in problems]
    sampling = Sampling(
        config.group,
        config.temperature,
        config.top_p,
        config.max_tokens,
        stop=policy.chat.stop,
        experts=config.replay_experts,
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
    """What a phase looked like: lengths, languages, rewards, and how many groups had nothing to teach."""
    rollouts = [rollout for group in phase.groups for rollout in group]
    lengths = np.array([len(rollout.completion.token_ids) for rollout in rollouts])
    metrics = {
        "completions/mean_length": float(lengths.mean()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(np.mean([r.completion.finish == "length" for r in rollouts])),
    }
    if phase.scores_PG:
        metrics |= _describe_rewards(phase)
    if phase.rounds > 1:
        metrics |= {"sampling/rounds": float(phase.rounds), "sampling/drawn": float(phase.drawn)}
    if phase.resting is not None:
        metrics["curriculum/resting"] = float(phase.resting)
    thinkings = [(r.thinking, r.problem.language) for r in rollouts if r.thinking]
    shares = [
        share for thinking, language in thinkings if (share := language_share(thinking, language)) is not None
    ]
    if thinkings:  # nan, a gap in the log, where no thinking has words
        metrics["lang/target_ratio"] = float(np.mean(shares)) if shares else math.nan
    return metrics


def _describe_rewards(phase: Phase) -> Metrics:
    scores = [score for group in phase.scores_PG for score in group]
    totals = [[score.total for score in group] for group in phase.scores_PG]
    judged = [total for group in totals for total in group if not math.isnan(total)]
    metrics = {
        "reward/mean": float(np.mean(judged)) if judged else math.nan,
        "reward/zero_std_groups": float(np.mean([not teaches(group) for group in totals])),
        "reward/failed": len({failure.rollout for failure in phase.failures}) / max(1, len(scores)),
        "time/reward": phase.scoring_s,
    }
    for name in scores[0].parts if scores else ():
        values = [
            value for score in scores if (value := score.parts[name]) is not None and not math.isnan(value)
        ]
        if values:
            metrics[f"reward/{name}/mean"] = float(np.mean(values))
    return metrics


def records(
    phase: Phase,
    most: int,
    advantages_PG: Sequence[np.ndarray | None] = (),
    seen: Sequence[TokenView] = (),
) -> list[dict[str, object]]:
    """The first ``most`` rollouts of a phase, and all rollouts that a reward failed on, as lines of the
    sample store.

    ``advantages_PG``: those of each group, None where they are not known. ``seen``: the tokens of the first
    rollouts, which are kept with them."""
    failed: dict[tuple[str, int, int], dict[str, str]] = {}
    for failure in phase.failures:
        failed.setdefault(failure.rollout, {})[failure.reward] = failure.detail
    rollouts = [rollout for group in phase.groups for rollout in group]
    scores: Sequence[Score | None] = [score for group in phase.scores_PG for score in group]
    scores = scores or [None] * len(rollouts)
    kept = [
        pair
        for place, pair in enumerate(zip(rollouts, scores, strict=True))
        if place < most or pair[0].key in failed
    ]
    known = {
        rollout.key: round(float(advantage), 6)
        for group, advantages_G in zip(phase.groups, advantages_PG, strict=False)
        if advantages_G is not None
        for rollout, advantage in zip(group, advantages_G, strict=True)
    }
    lines = []
    for place, (rollout, found) in enumerate(kept):
        line = record(rollout, found, failed.get(rollout.key, {}))
        line |= {"advantage": known[rollout.key]} if rollout.key in known else {}
        line |= {"tokens": seen[place].as_dict()} if place < len(seen) else {}
        lines.append(line)
    return lines


def shortened(rollout: Rollout) -> Rollout:
    """The rollout with its first TOKENS_KEPT tokens only."""
    completion = rollout.completion
    ids, logprobs = completion.token_ids[:TOKENS_KEPT], completion.logprobs[:TOKENS_KEPT]
    experts = completion.experts
    if experts is not None:
        experts = experts[: len(rollout.prompt_ids) + len(ids) - 1]
    cut = replace(completion, token_ids=ids, logprobs=logprobs, experts=experts)
    return replace(rollout, completion=cut)


def record(rollout: Rollout, score: Score | None, failures: Mapping[str, str]) -> dict[str, object]:
    """A rollout as one line of the sample store. ``failures``: reward -> traceback or reason."""
    line: dict[str, object] = {
        "problem": rollout.problem.id,
        "task": rollout.problem.task,
        "prompt": prompt_column(rollout.problem),
        "group": rollout.group,
        "index": rollout.index,
        "text": rollout.text,
        "answer": rollout.answer,
        "truth": rollout.problem.answer,
        "finish": rollout.completion.finish,
        "length": len(rollout.completion.token_ids),
    }
    if score is not None:
        line |= {"reward": score.total, "parts": dict(score.parts)}
        line |= {"reasons": dict(score.reasons)} if score.reasons else {}
    return line | {"failures": dict(failures)} if failures else line
