"""Active learning: which prompts are worth a label or samples (data/prompt_choice.py). Not in the paper.

The models of ``models`` answer candidate prompts a few times; the prompts on which they are least sure are
written to prompts.jsonl, and the stages label and rejection_sampling read them (``chosen:
"@choose/prompts.jsonl"``). ``choose: random`` is the control at the same budget."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from r1kit.config import R1kitError
from r1kit.data.prompt_choice import (
    Uncertainty,
    chosen_row,
    closeness,
    disagreement,
    most_uncertain,
    read_chosen,
    token_entropy,
    vote_entropy,
)
from r1kit.jsonl import write_jsonl
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, fits, longest_prompt, sampling_style
from r1kit.stages.recipe_names import RequiredTasks, log_tasks
from r1kit.stages.results import report
from r1kit.stages.sampling import answers_of, train_problems
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan
from r1kit.tasks import load_tasks, vote_key
from r1kit.tasks.task import Task
from r1kit.train.learner import LearnerConfig
from r1kit.train.preference import read_values, text_row
from r1kit.types import Problem, Rollout, Sampling

Groups = list[list[Rollout]]  # a model's answers, by problem


class Choose(Stage):
    """Choose ``budget`` of ``problems`` candidates of ``tasks``, by ``choose``. ``models`` answer each
    ``samples`` times; ``ensemble`` needs two or more, ``margin`` a reward_models stage (``scorer``).
    ``without``: files of earlier choices, which are no candidates."""

    writes: ClassVar[tuple[str, ...]] = ("prompts.jsonl", "report.json")

    stage: Literal["choose"] = "choose"
    models: list[str] = Field(["@sft"], min_length=1)
    tasks: RequiredTasks = {}
    choose: Uncertainty = "votes"
    scorer: str = ""
    problems: int = Field(1000, ge=1)
    budget: int = Field(100, ge=1)
    samples: int = Field(4, ge=1)
    without: list[str] = []
    temperature: float = 1.0
    max_tokens: int = 112
    talk: PromptStyle = PromptStyle()
    learner: LearnerConfig = LearnerConfig()

    @model_validator(mode="after")
    def _strategy_has_what_it_needs(self) -> Self:
        if self.choose == "ensemble" and len(self.models) < 2:
            raise ValueError("choose: ensemble needs two models or more; name them in models")
        if self.choose == "margin" and not self.scorer:
            raise ValueError('choose: margin needs a reward model (scorer: "@reward_models")')
        if self.choose in ("votes", "margin") and self.samples * len(self.models) < 2:
            raise ValueError(f"choose: {self.choose} compares a prompt's answers; set samples to 2 or more")
        return self

    def plan(self) -> StagePlan:
        if self.choose == "random":
            return StagePlan(rows=float(self.budget))
        each = float(self.problems * self.samples)
        phases = tuple(SamplingPhase(each, self.max_tokens, model, self.samples) for model in self.models)
        tokens = each * self.max_tokens * len(self.models)
        return StagePlan(sampled_tokens=tokens, phases=phases, rows=float(self.budget))

    def run(self, ctx: Context) -> None:
        tasks = load_tasks(self.tasks)
        log_tasks(ctx, tasks)
        known = {name for file in self.without for name in read_chosen(ctx.path(file))}
        keeps = [
            fits(
                sampling_style(ctx.model(name), self.talk).chat(ctx.model(name)),
                longest_prompt(self.max_tokens, ctx.model(name)),
            )
            for name in self.models
        ]
        candidates = train_problems(
            self.tasks,
            self.problems,
            derive_seed(ctx.seed, "candidates"),
            lambda problem: problem.id not in known and all(keep(problem) for keep in keeps),
        )
        scores = self._scores(ctx, candidates, tasks)
        places = most_uncertain(scores, self.budget, ctx.seed)
        write_jsonl(
            ctx.out / "prompts.jsonl", [chosen_row(candidates[place], scores[place]) for place in places]
        )
        mean, chosen = _mean(scores), _mean([scores[place] for place in places])
        ctx.log.info(
            f"{len(places)} of {len(candidates)} prompts chosen by {self.choose}: uncertainty {chosen:.3f} "
            f"on average, {mean:.3f} of all"
        )
        report(
            ctx, candidates=len(candidates), chosen=len(places), choose=self.choose,
            uncertainty_of_chosen=chosen, uncertainty=mean,
        )  # fmt: skip

    def _scores(
        self, ctx: Context, problems: Sequence[Problem], tasks: dict[str, tuple[Task, float]]
    ) -> list[float]:
        """How uncertain the models are about each problem."""
        if self.choose == "random":
            return [0.0] * len(problems)
        by_model = [self._sampled(ctx, name, place, problems) for place, name in enumerate(self.models)]
        groups = [[rollout for own in found for rollout in own] for found in zip(*by_model, strict=True)]
        if self.choose == "entropy":
            return [token_entropy(rollout.completion.logprobs for rollout in group) for group in groups]
        if self.choose == "margin":
            return self._closeness(ctx, groups)
        votes = [[votes_of(tasks[group[0].problem.task][0], group) for group in found] for found in by_model]
        by_problem = list(zip(*votes, strict=True))
        if self.choose == "ensemble":
            return [disagreement(own) for own in by_problem]
        return [vote_entropy([vote for one in own for vote in one]) for own in by_problem]

    def _sampled(self, ctx: Context, reference: str, place: int, problems: Sequence[Problem]) -> Groups:
        sampling = Sampling(self.samples, self.temperature, max_tokens=self.max_tokens)
        return answers_of(ctx, reference, place, self.talk, problems, sampling)

    def _closeness(self, ctx: Context, groups: Groups) -> list[float]:
        """How close the two best answers of each group are by the reward model."""
        model = ctx.path(self.scorer) / "helpful"
        if not model.is_dir():
            raise R1kitError(
                f"scorer: {self.scorer} has no helpful model; name a stage of reward_models that has"
            )
        learner, chat = ctx.runtime.learner(model, self.learner, scalar_head=True), self.talk.chat(model)
        answers = [list(dict.fromkeys(r.answer for r in group if r.answer)) for group in groups]
        rows = [
            text_row(chat, group[0].problem, answer, self.learner.context)
            for group, own in zip(groups, answers, strict=True)
            for answer in own
        ]
        values: Any = iter(read_values(learner, rows) if rows else np.zeros(0))
        ctx.runtime.release(learner)
        return [closeness([float(next(values)) for _ in own]) for own in answers]


def votes_of(task: Task, group: Sequence[Rollout]) -> list[str | None]:
    """The votes of a group's answers, as the task counts them; None for one without an answer."""
    there = [rollout.answer for rollout in group if rollout.answer is not None]
    grouped = getattr(task, "vote_keys", None)
    single = getattr(task, "vote_key", vote_key)
    keys = iter(grouped(there) if grouped is not None else [single(answer) for answer in there])
    return [None if rollout.answer is None else next(keys) for rollout in group]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return sum(finite) / len(finite) if finite else 0.0
