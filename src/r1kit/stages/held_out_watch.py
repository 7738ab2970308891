"""Measure pass@1 on held-out problems while a stage trains: ``watch`` of the RL and SFT stages.

The figures are those of the evaluation (model_figures.py): a sample is right if it has the exact format,
ended by itself and has the right answer; the standard error is over problems. Every measurement has the same
problems and the same seeds, so two of them differ by the weights alone. A training's numbers do not depend on
whether it is watched. Nothing is kept between measurements, so a resumed training measures the same."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from r1kit.chat import Chat
from r1kit.config import Config, ConfigError
from r1kit.engine import Engine
from r1kit.seeds import derive_seed
from r1kit.stages.model_figures import summarise
from r1kit.stages.models import fits, longest_prompt
from r1kit.stages.recipe_names import TaskSpec
from r1kit.stages.sampling import sample
from r1kit.stages.stage import SamplingPhase
from r1kit.tasks import load_tasks
from r1kit.tasks.task import Task
from r1kit.train.learner import Metrics
from r1kit.train.rollouts import Policy
from r1kit.types import Problem, Sampling

DURING = ("watch/pass_1", "watch/pass_1_stderr", "watch/format", "watch/length")
LAST = ("watch/last_pass_1", "watch/last_pass_1_stderr", "watch/last_format", "watch/last_length")


class WatchConfig(Config):
    """pass@1 with its standard error on ``problems`` held-out problems of ``tasks`` (by default the stage's
    own), ``n`` samples of each, every ``every`` steps and after the last one. RL measures at the beginning of
    a rollout phase. ``temperature`` and ``max_tokens`` are those of the training where RL has them; SFT
    samples at temperature 1 and at most 512 tokens."""

    tasks: TaskSpec = {}
    every: int = Field(10, ge=1)
    problems: int = Field(64, ge=1)
    n: int = Field(4, ge=1)
    temperature: float | None = Field(None, ge=0.0)
    max_tokens: int | None = Field(None, ge=1)


def watch_phases(
    config: WatchConfig | None, steps: float, max_tokens: int, stride: int = 1
) -> tuple[SamplingPhase, ...]:
    """What a watch samples in a training of ``steps`` steps, of which ``stride`` share a rollout phase;
    ``max_tokens`` are the training's own. Nothing without a watch."""
    if config is None or not config.problems:
        return ()
    at_once = float(config.problems * config.n)
    return (
        SamplingPhase(
            at_once * measurements(config.every, steps, stride), config.max_tokens or max_tokens,
            group=config.n, at_once=at_once, purpose="watch",
        ),
    )  # fmt: skip


def measurements(every: int, steps: float, stride: int = 1, first: int = 0) -> int:
    """How often a watch measures: before every phase that holds a multiple of ``every`` steps, from step
    ``first`` on, and after the last step."""
    before = sum(1 for step in range(0, int(steps), stride) if step >= first and step % every < stride)
    return before + 1


class HeldOutWatch:
    """Measures every ``config.every`` steps of ``steps``, at the first of every ``stride`` steps (those of a
    rollout phase)."""

    def __init__(
        self,
        config: WatchConfig,
        tasks: Mapping[str, tuple[Task, float]],
        chat: Chat,
        model: Path,
        sampling: Sampling,
        steps: int,
        stride: int = 1,
    ) -> None:
        """``tasks`` are the stage's own. Raises ConfigError where there are no held-out problems that fit."""
        self.config, self.chat, self.steps, self.stride = config, chat, steps, stride
        own = load_tasks(config.tasks) if config.tasks else tasks
        self.tasks = {name: task for name, (task, _) in own.items()}
        temperature = sampling.temperature if config.temperature is None else config.temperature
        limit = sampling.max_tokens if config.max_tokens is None else config.max_tokens
        self.sampling = Sampling(config.n, temperature, 1.0, limit)
        self.problems = self._choose(longest_prompt(limit, model))

    def __call__(self, policy: Policy, step: int) -> Metrics:
        """Measure a policy of RL after ``step`` steps, if that is due."""
        return self.measure(policy.engine, step)

    def is_due(self, step: int) -> bool:
        return step >= self.steps or step % self.config.every < self.stride

    def measure(self, engine: Engine, step: int) -> Metrics:
        """What is logged after ``step`` steps: nothing where no measurement is due. The last measurement has
        names of its own, because its row may have one of before the step too."""
        if not self.is_due(step):
            return {}
        groups = sample(engine, self.chat, self.problems, self.sampling, derive_seed(0, "watch"))
        found = summarise(groups, self.tasks).overall
        values = (found.pass_1, found.pass_1_stderr or 0.0, found.format, found.length)
        return dict(zip(LAST if step >= self.steps else DURING, values, strict=True))

    def _choose(self, limit: int) -> list[Problem]:
        """The first held-out problems whose prompts fit, the same number of each task."""
        fit = fits(self.chat, limit)
        each = -(-self.config.problems // max(1, len(self.tasks)))
        found = []
        for name, task in self.tasks.items():
            own = [problem for problem in task.problems("held_out") if fit(problem)][:each]
            if not own:
                raise ConfigError(
                    f"watch: task {name} has no held-out problems whose prompts have at most {limit} tokens; "
                    "give it a held_out file, name other tasks under watch.tasks, or set watch: null"
                )
            found += own
        return found[: max(self.config.problems, len(self.tasks))]
