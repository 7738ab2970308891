"""What the RL and sampling stages share: a model with its tokenizer, template and engine, and the RL stages'
walk."""

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from r1kit.chat import Chat, TemplateName
from r1kit.config import Config
from r1kit.data.mixture import Mixture
from r1kit.engine import Engine
from r1kit.model.huggingface import read_config
from r1kit.records import prompt_settings
from r1kit.rewards import WeightedReward, load_rewards
from r1kit.seeds import derive_seed
from r1kit.stages.stage import Context
from r1kit.tasks import load_tasks
from r1kit.tasks.task import Task
from r1kit.tokenizer import Tokenizer
from r1kit.train import checkpoint, grpo, ppo
from r1kit.train.learner import LearnerConfig
from r1kit.train.reward_hacking import StopTraining
from r1kit.train.rollouts import Player, Watch
from r1kit.types import Problem, Rollout, Sampling


def _known_tasks(spec: dict[str, Any]) -> dict[str, Any]:
    load_tasks(spec)
    return spec


def _known_rewards(spec: dict[str, Any]) -> dict[str, Any]:
    load_rewards(spec, {})
    return spec


# Names and options are checked with the recipe; files are read when problems are needed.
TaskSpec = Annotated[dict[str, Any], AfterValidator(_known_tasks)]
RewardSpec = Annotated[dict[str, Any], AfterValidator(_known_rewards)]


class Talk(Config):
    """How prompts are written for the model: the template (chat.py) and the text that every completion is
    made to start with."""

    template: TemplateName = "chat"
    opening: str = ""

    def chat(self, model: Path) -> Chat:
        return Chat(Tokenizer.load(model), self.template, self.opening)


def talk_of(model: Path, otherwise: Talk) -> Talk:
    """How the stage that made this model wrote its prompts, so that it is asked as it was trained;
    ``otherwise`` for any other model."""
    settings = prompt_settings(model)
    return otherwise if settings is None else Talk.parse(settings, f"{model.parent / 'stage.json'}: talk")


def model_of(folder: Path) -> Path:
    """The Hugging Face directory that a reference names: a stage's folder holds it as model/, any other
    directory is one itself."""
    return folder / "model" if (folder / "model").is_dir() else folder


def reinforce(
    ctx: Context,
    init: Path,
    talk: Talk,
    config: grpo.GRPOConfig | ppo.PPOConfig,
    learner_config: LearnerConfig,
    tasks: Mapping[str, tuple[Task, float]],
    rewards: Sequence[WeightedReward],
    watch: Watch | None = None,
    changes: Mapping[int, Mapping[str, float]] = {},
) -> None:
    """RL from the model in ``init``, by GRPO or by PPO; the result is exported to ctx.out/model. PPO's critic
    starts as the same model. ``changes``: step -> weights of the tasks from that step on."""
    tell_tasks(ctx, tasks)
    learner = ctx.runtime.learner(init, learner_config)
    reference = ctx.runtime.learner(init, learner_config) if config.beta else None
    behind = (
        ctx.runtime.learner(init, learner_config)
        if isinstance(config, grpo.GRPOConfig) and config.off_policy
        else None
    )
    player = Player(learner, ctx.runtime.engine_of(behind or learner), talk.chat(init), reference, behind)
    room = min(learner_config.context + 1, read_config(init).max_positions) - config.max_tokens
    mixture = Mixture(
        tasks,
        "train",
        derive_seed(ctx.seed, "problems"),
        fits(player.chat, room),
        config.curriculum,
        ctx.log.info,
        changes,
    )
    tell_left_out(ctx, mixture, room)
    with contextlib.suppress(StopTraining):
        if isinstance(config, ppo.PPOConfig):
            critic = ctx.runtime.learner(init, learner_config, scalar_head=True)
            ppo.train(config, player, critic, mixture, rewards, ctx.seed, ctx.log, ctx.out, watch)
            ctx.runtime.release(critic)
        else:
            grpo.train(config, player, mixture, rewards, ctx.seed, ctx.log, ctx.out, watch)
    ctx.runtime.export(learner, ctx.out / "model")
    checkpoint.discard(ctx.out)
    ctx.runtime.release(
        player.engine, learner, *(spare for spare in (reference, behind) if spare is not None)
    )


def rules(rewards: RewardSpec, tasks: TaskSpec) -> tuple[dict[str, tuple[Task, float]], list[WeightedReward]]:
    """The tasks and rewards that a recipe names."""
    loaded = load_tasks(tasks)
    return loaded, load_rewards(rewards, {name: task for name, (task, _) in loaded.items()})


def tell_tasks(ctx: Context, tasks: Mapping[str, tuple[Task, float]]) -> None:
    """Say what was read of the user's files, where a task has something to say about itself."""
    for task, _ in tasks.values():
        about = getattr(task, "about", None)
        if about is not None:
            ctx.log.info(about())


def tell_left_out(ctx: Context, mixture: Mixture, room: int) -> None:
    """Say how many training problems have a prompt that is too long."""
    for name, count in mixture.left_out.items():
        ctx.log.info(
            f"{name}: {count} problems left out, whose prompts are longer than the {room} tokens there "
            "is room for"
        )


def fits(chat: Chat, room: int) -> Callable[[Problem], bool]:
    """Whether a problem's prompt has at most ``room`` tokens. A byte-level token is at least a byte, so few
    texts need to be encoded."""
    frame = len(chat.prompt_ids(Problem("", "", "", None)))
    return lambda problem: (
        frame + len(problem.prompt.encode()) <= room or len(chat.prompt_ids(problem)) <= room
    )


def sample(
    engine: Engine,
    chat: Chat,
    problems: Sequence[Problem],
    sampling: Sampling,
    seed: int,
    opening: str | None = None,
) -> list[list[Rollout]]:
    """A group of rollouts per problem; seeds depend on the problem alone, not on its neighbours."""
    prompts = [chat.prompt_ids(problem, opening) for problem in problems]
    groups = engine.generate(prompts, sampling, [derive_seed(seed, problem.id) for problem in problems])
    return [
        chat.rollouts(problem, prompt, group, opening)
        for problem, prompt, group in zip(problems, prompts, groups, strict=True)
    ]


def report(ctx: Context, **facts: Any) -> None:
    """Write the stage's report.json; the run's report reads it. JSON has no nan: what could not be measured
    is null."""
    (ctx.out / "report.json").write_text(
        json.dumps(_finite(facts), indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
