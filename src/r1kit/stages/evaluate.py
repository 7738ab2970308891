"""Evaluation of every stage's model on held-out problems: the paper's table 3.

pass@1 is the share of correct samples, averaged over problems. A sample is correct if it has the exact
format, ended by itself and has the right answer. The standard error is over problems, because the n samples
of one problem are not independent. cons@n is the share of problems whose most frequent answer is right (ties:
the answer that came first). The protocol is part of the figures. Its defaults are those of training:
temperature 1 and no top-p."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from r1kit import figures
from r1kit.chat import Chat, prompt_column
from r1kit.config import Config, suggest
from r1kit.engine import Engine
from r1kit.figures import Evaluation, Example, GeneralScores, ModelFigures
from r1kit.log import prompt_text
from r1kit.rewards import WeightedReward, load_rewards
from r1kit.seeds import derive_seed
from r1kit.stages.model_figures import Groups, summarise, summarise_general
from r1kit.stages.models import PromptStyle, prompt_style_of
from r1kit.stages.recipe_names import RewardSpec, TaskSpec, log_tasks
from r1kit.stages.sampling import sample
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan
from r1kit.tasks import REASONING, load_tasks
from r1kit.tasks.habits import Habits, load_habits
from r1kit.tasks.task import Task, size_of
from r1kit.types import Problem, Rollout, Sampling

NO_THINKING = "<think></think>"  # forced direct answers: the completion begins after an empty thinking


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What models are measured on: problems with the tasks that check them, general prompts with the rewards
    that score them, and the habits that are counted."""

    tasks: Mapping[str, Task]
    problems: Sequence[Problem]
    habits: Habits
    general: Sequence[Problem]
    scoring: Sequence[WeightedReward]


class GeneralPrompts(Config):
    """Prompts without an answer that a rule could check: at most ``problems`` held-out ones of each task in
    ``prompts``, ``n`` answers to each. ``score`` names rewards, whose weighted sum is the score: the
    miniature's gold_score, a judge, or your own file.py:function."""

    prompts: TaskSpec
    score: RewardSpec
    problems: int = Field(500, ge=1)
    n: int = Field(4, ge=1)

    @field_validator("prompts", "score")
    @classmethod
    def _names_something(cls, spec: dict[str, Any]) -> dict[str, Any]:
        if not spec:
            raise ValueError("name at least one; without general prompts leave out general")
        return spec


class Evaluate(Stage):
    """``models``: name -> "@stage". ``problems`` per task x ``n`` samples each; ``examples`` problems are
    shown with every model's text. Models in ``direct`` also answer without thinking, ``direct_n`` times;
    ``controls`` are the models to compare with one another, by title; ``habits`` (r1kit.tasks.habits) is what
    is counted in their thinking."""

    writes: ClassVar[tuple[str, ...]] = ("report.json",)

    stage: Literal["evaluate"] = "evaluate"
    models: dict[str, str]
    tasks: TaskSpec = {}
    problems: int = Field(52, ge=1)
    n: int = Field(16, ge=1)
    temperature: float = 1.0
    top_p: float = 1.0  # sample from the likeliest tokens that have so much
    max_tokens: int = 112
    direct: list[str] = []
    direct_n: int = Field(4, ge=1)
    general: GeneralPrompts | None = None  # prompts without a checkable answer, and their score
    habits: str | None = None
    examples: int = Field(3, ge=0)
    controls: dict[str, list[str]] = {}
    talk: PromptStyle = PromptStyle()

    @field_validator("tasks")
    @classmethod
    def _tasks_are_named(cls, tasks: dict[str, Any]) -> dict[str, Any]:
        if not tasks:
            raise ValueError(
                "name the tasks whose held-out problems are solved: {test: {kind: dataset, held_out: "
                "test.jsonl}}, or the miniature's: {reasoning: 1.0}"
            )
        return tasks

    @field_validator("habits")
    @classmethod
    def _habits_are_known(cls, habits: str | None) -> str | None:
        if habits is not None:
            load_habits(habits)
        return habits

    @model_validator(mode="after")
    def _named_models_are_there(self) -> Self:
        named = {"direct": self.direct}
        named |= {f"controls.{title}": names for title, names in self.controls.items()}
        for key, names in named.items():
            for name in names:
                if name not in self.models:
                    raise ValueError(f"{key}: no model {name!r} in models: {suggest(name, self.models)}")
        return self

    def plan(self) -> StagePlan:
        tasks = sum(len(REASONING) if name == "reasoning" else 1 for name in self.tasks)
        problems = float(self.problems * max(1, tasks))
        general = self.general
        prompts, n = 0.0, 0
        if general is not None:
            known = [size_of(task, "held_out") for task, _ in load_tasks(general.prompts).values()]
            prompts = sum(min(float(general.problems), general.problems if k is None else k) for k in known)
            n = general.n
        phases = tuple(
            SamplingPhase(count * each, self.max_tokens, model, each)
            for name, model in self.models.items()
            for count, each in (
                (problems, self.n), (problems, self.direct_n if name in self.direct else 0), (prompts, n)
            )
            if count and each
        )  # fmt: skip
        sampled = sum(phase.completions * phase.max_tokens for phase in phases)
        return StagePlan(sampled_tokens=sampled, phases=phases)

    def run(self, ctx: Context) -> None:
        """Measure every model and write the Evaluation to report.json."""
        log_tasks(ctx, load_tasks(self.tasks))
        held_out = self.load_held_out()
        found: dict[str, ModelFigures] = {}
        shown: dict[str, list[Rollout]] = {}
        for number, (name, reference) in enumerate(self.models.items()):
            model = ctx.model(reference)
            engine = ctx.runtime.engine(model)
            chat = prompt_style_of(model, self.talk).chat(model)
            found[name], groups = self.measure(engine, chat, held_out, direct=name in self.direct)
            ctx.runtime.release(engine)
            shown[name] = _first_samples(groups, self.examples)
            overall = found[name].overall
            headline = {"accuracy": overall.pass_1, "completions/mean_length": overall.length}
            ctx.log.step(number, len(self.models), headline)
        controls = {title: tuple(names) for title, names in self.controls.items()}
        protocol = self.protocol(held_out, direct=bool(self.direct))
        figures.write(ctx.out / figures.REPORT, Evaluation(protocol, found, _examples(shown), controls))

    def load_held_out(self) -> HeldOut:
        """Everything that the recipe names to measure models on."""
        tasks = {name: task for name, (task, _) in load_tasks(self.tasks).items()}
        problems = [p for task in tasks.values() for p in task.problems("held_out")[: self.problems]]
        habits = load_habits(self.habits) if self.habits is not None else {}
        if self.general is None:
            return HeldOut(tasks, problems, habits, [], [])
        prompts = {name: task for name, (task, _) in load_tasks(self.general.prompts).items()}
        general = [p for task in prompts.values() for p in task.problems("held_out")[: self.general.problems]]
        return HeldOut(tasks, problems, habits, general, load_rewards(self.general.score, prompts))

    def protocol(self, held_out: HeldOut, direct: bool) -> figures.Protocol:
        """How models are measured; ``direct``: whether any of them has to answer without thinking."""
        general = None
        if self.general is not None:
            names = ", ".join(self.general.score)
            general = figures.GeneralProtocol(len(held_out.general), self.general.n, names)
        return figures.Protocol(
            problems=len(held_out.problems),
            n=self.n,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            direct_n=self.direct_n if direct else None,
            general=general,
        )

    def measure(
        self, engine: Engine, chat: Chat, held_out: HeldOut, direct: bool
    ) -> tuple[ModelFigures, list[list[Rollout]]]:
        """The figures of one model, and its rollouts. Every model gets the same problems and seeds."""
        groups = sample(engine, chat, held_out.problems, self._sampling(self.n), derive_seed(0, "evaluate"))
        found = summarise(
            groups,
            held_out.tasks,
            held_out.habits,
            self._direct(engine, chat, held_out) if direct else None,
            self._general(self.general, engine, chat, held_out) if self.general else None,
        )
        return found, groups

    def _direct(self, engine: Engine, chat: Chat, held_out: HeldOut) -> float:
        """pass@1 when completions begin after an empty thinking."""
        sampling, seed = self._sampling(self.direct_n), derive_seed(0, "direct")
        groups = sample(engine, chat, held_out.problems, sampling, seed, NO_THINKING)
        return summarise(groups, held_out.tasks).overall.pass_1

    def _general(
        self, general: GeneralPrompts, engine: Engine, chat: Chat, held_out: HeldOut
    ) -> GeneralScores:
        """The mean score of each prompt's answers, over all prompts and by the prompts' column ``kind``."""
        groups = sample(engine, chat, held_out.general, self._sampling(general.n), derive_seed(0, "general"))
        return summarise_general(groups, held_out.scoring)

    def _sampling(self, n: int) -> Sampling:
        return Sampling(n, self.temperature, self.top_p, self.max_tokens)


def _first_samples(groups: Groups, count: int) -> list[Rollout]:
    """The first sample of the first problem of each of the last ``count`` tasks, whether it is right or
    wrong."""
    first: dict[str, Rollout] = {}
    for group in groups:
        first.setdefault(group[0].problem.task, group[0])
    return list(first.values())[-count:] if count else []


def _examples(shown: Mapping[str, Sequence[Rollout]]) -> tuple[Example, ...]:
    """The samples of every model, which are for the same problems, problem by problem."""
    return tuple(
        Example(
            problem=prompt_text(prompt_column(samples[0].problem)),
            answer=samples[0].problem.answer,
            task=samples[0].problem.task,
            outputs={name: one.text for name, one in zip(shown, samples, strict=True)},
        )
        for samples in zip(*shown.values(), strict=True)
    )
