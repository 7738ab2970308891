"""The pre-flight as a stage uses it (train/preflight.py): its problems, its mode, its words in the log."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from r1kit.chat import Chat
from r1kit.data.mixture import Mixture
from r1kit.engine import Engine
from r1kit.rewards import WeightedReward
from r1kit.seeds import derive_seed
from r1kit.stages.stage import Context, SamplingPhase
from r1kit.train import preflight
from r1kit.train.learnable import ENOUGH
from r1kit.train.learner import Metrics
from r1kit.train.preflight import Mode, NothingToLearnError, Preflight
from r1kit.train.rl_loop import RLConfig


def _as_word(given: Any) -> Any:
    # YAML reads off and on as false and true.
    return {False: "off", True: "warn"}[given] if isinstance(given, bool) else given


PreflightMode = Annotated[Mode, BeforeValidator(_as_word)]


def phases_of(config: RLConfig) -> tuple[SamplingPhase, ...]:
    """What the pre-flight of a training samples: the groups by which it measures the speed, and those that it
    judges, in two rounds."""
    group = min(config.group, ENOUGH)
    judged = min(preflight.ROLLOUTS, config.steps * config.problems * config.group) // group or 1
    first, brief = float(preflight.FEWEST * group), min(1 + preflight.PROBE_TOKENS, config.max_tokens)
    rounds = float(-(-judged // 2) * group)
    return (
        SamplingPhase(2 * first, 1, group=group, at_once=first, purpose="preflight"),
        SamplingPhase(first, brief, group=group, purpose="preflight"),
        SamplingPhase(
            float(judged * group), config.max_tokens, group=group, at_once=rounds, purpose="preflight",
            seconds=preflight.SECONDS,
        ),
    )  # fmt: skip


def examine(
    ctx: Context,
    engine: Engine,
    chat: Chat,
    mixture: Mixture,
    config: RLConfig,
    rewards: Sequence[WeightedReward],
) -> Preflight:
    """Examine a training before it starts. Its problems are those of ``mixture``, the training's, in another
    order."""
    seed = derive_seed(ctx.seed, "preflight")
    problems = mixture.reordered(derive_seed(seed, "problems"))
    return preflight.fly(engine, chat, problems, rewards, config, config.key, seed)


def report(ctx: Context, mode: Mode, found: Preflight) -> Metrics:
    """Log what was found and return its metrics. Raises NothingToLearnError where the mode is stop and
    nothing can be learned."""
    for line in found.lines():
        ctx.log.info(line)
    if mode == "stop" and found.hopeless:
        words = "; ".join(finding.in_words() for finding in found.findings)
        raise NothingToLearnError(
            f"nothing can be learned as it is: {words}. (preflight: warn starts the training all the same)"
        )
    return found.metrics()
