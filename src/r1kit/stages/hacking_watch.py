"""Watch alignment RL for reward hacking: measure the reward models' score and a score that is not a reward on
the same prompts during training (DeepSeek-R1, Nature version, figure 6).

If the other score falls while the reward models' score rises, the policy exploits the reward models. The
watch then warns or ends the training (train/reward_hacking.py has the test). Its prompts are neither trained
on nor evaluated, because a figure on prompts that decide when to stop would be biased."""

from collections.abc import Sequence

import numpy as np

from r1kit.config import R1kitError
from r1kit.records import KEPT, WATCH_MARKS
from r1kit.rewards import WeightedReward
from r1kit.rewards.annotators import load_scorer, score_by
from r1kit.seeds import derive_seed
from r1kit.stages.sampling import sample
from r1kit.stages.stage import Context
from r1kit.train import checkpoint
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import Metrics
from r1kit.train.reward_hacking import Measurement, Measurements, Parting, StopTraining
from r1kit.train.rollouts import Policy
from r1kit.types import Problem, Rollout, Sampling

FEWEST_WATCHED = 2  # prompts: with one there is no standard error


class HackingWatch:
    """Measures from step ``first`` on, at the first phase of every ``every`` steps. ``scorer`` names the
    score that is no reward; without one ("") only the reward models' score is logged, and nothing can be
    noticed."""

    def __init__(
        self,
        ctx: Context,
        config: GRPOConfig,
        first: int,
        problems: Sequence[Problem],
        preferences: Sequence[WeightedReward],
        every: int,
        scorer: str,
        stop: bool,
    ) -> None:
        self.config, self.problems, self.preferences, self.stop = config, problems, preferences, stop
        self.name, self.scorer = scorer, load_scorer(scorer) if scorer else None
        self.log, self.seed = ctx.log, derive_seed(ctx.seed, "watch")
        self.steps = [
            step
            for step in range(0, config.steps, config.updates_per_rollout)
            if step >= first and step % every < config.updates_per_rollout
        ]
        done = checkpoint.progress_of(ctx.out, ctx.identities)["step"] if checkpoint.exists(ctx.out) else 0
        measured = sum(step < done for step in self.steps)
        marks = ctx.out / KEPT / WATCH_MARKS
        self.measurements = Measurements(ctx.out / "watch.jsonl", measured, marks, ctx.identities)
        self.warned = False

    def __call__(self, policy: Policy, step: int) -> Metrics:
        """Measure the policy and return what is logged."""
        if step not in self.steps:
            return {}
        config = self.config
        sampling = Sampling(1, config.temperature, config.top_p, config.max_tokens)
        groups = sample(policy.engine, policy.chat, self.problems, sampling, self.seed)
        rollouts = [rollout for group in groups for rollout in group]
        values = zip(*(preference.function(rollouts) for preference in self.preferences), strict=True)
        judges_P = np.array([sum(value for value in own if value is not None) for own in values])
        found = {"watch/judges": float(judges_P.mean())}
        if self.scorer is None:
            return found
        gold_P = np.array([self._score(rollout) for rollout in rollouts])
        parted = self.measurements.add(Measurement(gold_P, judges_P))
        if parted:
            self._warn(parted)
        return {
            "watch/gold": float(gold_P.mean()),
            **found,
            "watch/alarm": float(parted is not None),
        }

    def _score(self, rollout: Rollout) -> float:
        """As from a reward model, a response without an answer gets 0."""
        assert self.scorer is not None
        if rollout.answer is None:
            return 0.0
        (value,) = score_by(self.scorer, self.name, rollout.problem, [rollout.answer])
        if value is None:
            raise R1kitError(
                f"watch.score: {self.name} has no score for an answer to {rollout.problem.prompt!r:.80}"
            )
        return float(value)

    def _warn(self, parted: Parting) -> None:
        """Log the alarm once. Raises StopTraining where the training is to end."""
        if not self.warned:
            self.log.info(
                "warning: the reward models are being hacked: since about step "
                f"{self.steps[parted.best]} their score rose from {parted.judges_best:.3f} to "
                f"{parted.judges_now:.3f} while the score {self.name} fell from {parted.gold_best:.3f} to "
                f"{parted.gold_now:.3f}; "
                + (
                    "the stage ends here"
                    if self.stop
                    else "take a smaller preference_share, or set watch.stop_when_hacked: true"
                )
            )
        self.warned = True
        if self.stop:
            raise StopTraining
