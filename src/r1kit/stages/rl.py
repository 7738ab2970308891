"""What the RL stages share: the algorithm that a recipe names, and the training from a model."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from r1kit.chat import Chat
from r1kit.config import ConfigError, Unloaded
from r1kit.data.curriculum import CurriculumConfig
from r1kit.data.mixture import Mixture
from r1kit.rewards import WeightedReward
from r1kit.seeds import derive_seed
from r1kit.stages.held_out_watch import HeldOutWatch, WatchConfig
from r1kit.stages.models import PromptStyle, fits, longest_prompt
from r1kit.stages.preflight import examine, phases_of, report
from r1kit.stages.recipe_names import log_tasks
from r1kit.stages.results import finish
from r1kit.stages.stage import Context, SamplingPhase, StagePlan, TrainingPhase
from r1kit.tasks.task import Task
from r1kit.train import checkpoint, rl_loop
from r1kit.train.agreement_gate import ENOUGH, MOST_SAMPLES
from r1kit.train.grpo import GRPOConfig
from r1kit.train.hand_over import require_trainable
from r1kit.train.kept_updates import UpdateKeeper, state_bytes
from r1kit.train.learner import LearnerConfig, LearnerProtocol, Metrics
from r1kit.train.preflight import Mode, Preflight
from r1kit.train.reward_hacking import StopTraining
from r1kit.train.rl_loop import RLConfig
from r1kit.train.rollouts import TOKEN_ROLLOUTS, Policy, Watch
from r1kit.types import Sampling
from r1kit.user_code import Shape, load_name


class UnloadedAlgorithm(RLConfig, Unloaded):
    """The stand-in of an algorithm outside r1kit whose code was not imported; of its keys only those that
    every algorithm has are checked."""


def _is_algorithm(found: type) -> bool:
    return issubclass(found, RLConfig) and found.build is not RLConfig.build


ALGORITHM = Shape(
    "an algorithm",
    "a subclass of r1kit.train.rl_loop.RLConfig with build",
    is_class=_is_algorithm,
    stand_in=UnloadedAlgorithm,
)


def _own_algorithm(given: Any) -> Any:
    """The configuration of an algorithm outside r1kit; the key ``algorithm`` names its class."""
    if not isinstance(given, Mapping):
        return given
    name = given.get("algorithm")
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(
            "algorithm: name a class of your own as file.py:Class (r1kit's own algorithms have the keys "
            f"grpo and ppo instead of rl; given: {name!r})"
        )
    try:
        found: type[RLConfig] = load_name(name, ALGORITHM)
    except ConfigError as error:
        raise ValueError(f"algorithm: {error}") from error
    return found.parse(given, name)


OwnAlgorithm = Annotated[SerializeAsAny[RLConfig], BeforeValidator(_own_algorithm)]


def one_algorithm(data: Any) -> Any:
    """Check that a stage's configuration gives at most one of ``grpo``, ``ppo`` and ``rl``. Set ``grpo``, the
    default, to None if another is given. Raises ValueError naming those that are given together."""
    if not isinstance(data, dict):
        return data
    given = [name for name in ("grpo", "ppo", "rl") if data.get(name) is not None]
    if len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} are given together: a stage trains by one algorithm; remove one, or set "
            f"{given[0]}: null where a recipe that this one extends has it"
        )
    return data if given in ([], ["grpo"]) else {**data, "grpo": None}


def plan_of(
    config: RLConfig,
    init: str,
    learner: LearnerConfig,
    critics: int = 0,
    mode: Mode = "off",
    watches: tuple[SamplingPhase, ...] = (),
    judges: int = 0,
) -> StagePlan:
    """The plan of an RL training from ``init``, with every completion at its maximal length: the pre-flight
    (``mode``), the gate, the training, and its ``watches``. A phase's questions are split among its updates,
    so every sampled token is trained on once. ``judges`` models score the rollouts and are held besides."""
    completions = float(config.steps * config.problems * config.group)
    tokens, at_once = (
        completions * config.max_tokens,
        config.updates_per_rollout * config.problems * config.group,
    )
    viewed = min(1.0, TOKEN_ROLLOUTS / at_once)  # of a phase's rollouts: train/rl_loop.py, token_views
    return StagePlan(
        steps=float(config.steps),
        sampled_tokens=tokens,
        tokens=tokens,
        phases=(
            *(phases_of(config) if mode != "off" else ()),
            *gate_phases(config),
            SamplingPhase(completions, config.max_tokens, group=config.group, at_once=float(at_once)),
            TrainingPhase(
                learner,
                init,
                updates=float(config.steps),
                rows=completions,
                row_tokens=config.max_tokens,
                passes=float(config.needs_reference + critics) + viewed,
                frozen=int(config.needs_reference) + lagged_learners(config.lag),
                critics=critics,
                saves=config.steps / (config.updates_per_rollout * config.save_every),
                judges=judges,
            ),
            *watches,
        ),
    )


def gate_phases(config: RLConfig) -> tuple[SamplingPhase, ...]:
    """What the gate samples before the training, and once more after the first updates."""
    if not config.gate_problems:
        return ()
    again = config.lag == 0 and config.steps > config.updates_per_rollout
    gate = SamplingPhase(
        float(config.gate_problems * MOST_SAMPLES), min(config.max_tokens, rl_loop.GATE_TOKENS),
        group=MOST_SAMPLES, purpose="gate", enough=float(ENOUGH),
    )  # fmt: skip
    return (gate,) * (1 + again)


def training_problems(
    ctx: Context,
    tasks: Mapping[str, tuple[Task, float]],
    chat: Chat,
    limit: int,
    stream: str,
    curriculum: CurriculumConfig | None = None,
    changes: Mapping[int, Mapping[str, float]] = {},
) -> Mixture:
    """The stream of training problems whose prompts have at most ``limit`` tokens. The number of problems
    left out is logged. ``stream`` names its seed; ``changes``: step -> weights of the tasks from that step
    on."""
    mixture = Mixture(
        tasks, "train", derive_seed(ctx.seed, stream), fits(chat, limit), curriculum, ctx.log.info, changes
    )
    for name, count in mixture.left_out.items():
        ctx.log.info(f"{name}: {count} problems left out, whose prompts are longer than {limit} tokens")
    return mixture


def together(watches: Sequence[Watch]) -> Watch:
    """Several watches as one."""

    def watch(policy: Policy, step: int) -> Metrics:
        return {name: value for own in watches for name, value in own(policy, step).items()}

    return watch


def held_out_watch(
    config: WatchConfig | None,
    rl: RLConfig,
    tasks: Mapping[str, tuple[Task, float]],
    style: PromptStyle,
    init: Path,
) -> list[Watch]:
    """The watch that a recipe asks an RL stage for, if any. ``tasks`` are the stage's own."""
    if config is None:
        return []
    sampling = Sampling(1, rl.temperature, 1.0, rl.max_tokens)
    steps, stride = rl.steps, rl.updates_per_rollout
    return [HeldOutWatch(config, tasks, style.chat(init), init, sampling, steps, stride)]


def reinforce(
    ctx: Context,
    init: Path,
    style: PromptStyle,
    config: RLConfig,
    learner_config: LearnerConfig,
    tasks: Mapping[str, tuple[Task, float]],
    rewards: Sequence[WeightedReward],
    watches: Sequence[Watch] = (),
    changes: Mapping[int, Mapping[str, float]] = {},
    mode: Mode = "off",
) -> None:
    """RL from the model in ``init`` by the algorithm of ``config``; the result is exported to
    ctx.out/model. ``changes``: step -> weights of the tasks from that step on; ``mode``: of the pre-flight,
    which a resumed training has behind it."""
    log_tasks(ctx, tasks)
    learners: list[LearnerProtocol] = []

    def learner(scalar_head: bool = False) -> LearnerProtocol:
        learners.append(ctx.runtime.learner(init, learner_config, scalar_head))
        return learners[-1]

    learned = learner()
    reference = learner() if config.needs_reference else None
    lagged = learner() if config.needs_lagged else None
    kept = tuple(learner() for _ in range(lagged_learners(config.lag) - 1))
    engine = ctx.runtime.engine_of(lagged or learned)
    require_trainable(engine)
    policy = Policy(learned, engine, style.chat(init), reference, lagged, ctx.runtime.hand_over, kept)
    limit = longest_prompt(config.max_tokens, init, context=learner_config.context)
    mixture = training_problems(ctx, tasks, policy.chat, limit, "problems", config.curriculum, changes)
    found: Metrics = {}
    if mode != "off" and not checkpoint.exists(ctx.out):
        found = report(ctx, mode, examine(ctx, engine, policy.chat, mixture, config, rewards))
    algorithm = config.build(policy, rewards, learner)
    watch = together(watches) if watches else None
    keeper = keeper_of(ctx, config, init, learner_config, rewards)
    with contextlib.suppress(StopTraining):
        rl_loop.train(algorithm, mixture, ctx.seed, ctx.log, ctx.out, watch, ctx.identities, found, keeper)
    finish(ctx, learned, engine, *learners[1:], talk=style)


def keeper_of(
    ctx: Context, config: RLConfig, init: Path, learner: LearnerConfig, rewards: Sequence[WeightedReward]
) -> UpdateKeeper | None:
    """What keeps updates of a training for ``r1kit why``; None for an algorithm that is not replayed."""
    if not isinstance(config, GRPOConfig):
        return None
    weights = {reward.name: reward.weight for reward in rewards}
    size = state_bytes(init, learner)
    return UpdateKeeper(ctx.out, config.why, config, weights, config.steps, size, ctx.log)


def lagged_learners(lag: int) -> int:
    """How many learners hold older weights for a lag of so many phases (train/off_policy.py)."""
    return lag + 1 if lag > 1 else lag


def examine_model(
    ctx: Context,
    init: Path,
    style: PromptStyle,
    config: RLConfig,
    learner_config: LearnerConfig,
    tasks: Mapping[str, tuple[Task, float]],
    rewards: Sequence[WeightedReward],
) -> Preflight:
    """The pre-flight of a training by ``reinforce``, without a learner."""
    chat = style.chat(init)
    limit = longest_prompt(config.max_tokens, init, context=learner_config.context)
    mixture = Mixture(tasks, "train", ctx.seed, fits(chat, limit), config.curriculum)  # in any order
    engine = ctx.runtime.engine(init)
    try:
        return examine(ctx, engine, chat, mixture, config, rewards)
    finally:
        ctx.runtime.release(engine)
