"""Labels of people for reward models: models answer prompts, pairs of their answers are put into an order,
and an annotator says which answer is better.

In the paper people and DeepSeek-V3 did this once (DeepSeek-R1, Nature version, section 3.1). Here it is a
stage, so that a recipe can go round: sample, label, train the reward model, train the policy, sample again.
Which pairs come first is decided by chance or by reward models of an earlier round (data/label_choice.py).

With ``annotator: person`` the run stops here until enough pairs are labelled: the page ``/label`` of
``r1kit ui RUN`` writes RUN/labels/STAGE.jsonl, and the same command continues. Any other annotator
(rewards/annotators.py) labels by itself."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from r1kit.chat import parse, prompt_column
from r1kit.config import R1kitError
from r1kit.data.label_agreement import agreement
from r1kit.data.label_choice import Strategy, disagreement_order, margin_order, random_order, spread
from r1kit.data.labels import (
    JUDGED,
    PREFERENCES,
    VERDICTS,
    Label,
    Pair,
    judge,
    judged_pairs,
    pair_of,
    read_labels,
    wins_of,
)
from r1kit.data.prompt_choice import only_chosen
from r1kit.files import hash_text, refuse_odd
from r1kit.jsonl import write_jsonl
from r1kit.records import label_file
from r1kit.rewards.annotators import Annotator, check_annotator, load_annotator
from r1kit.stages.judgements import ask_models
from r1kit.stages.models import PromptStyle
from r1kit.stages.recipe_names import RequiredTasks, log_tasks
from r1kit.stages.results import report
from r1kit.stages.sampling import answers_of
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan, WaitingError
from r1kit.tasks import load_tasks
from r1kit.train.learner import LearnerConfig
from r1kit.train.preference import read_values, text_row
from r1kit.types import Problem, Response, Rollout, Sampling

PERSON = "person"
POOL = 12  # pairs of a prompt that are candidates
SCRIPTED = "scripted"  # the name under which an annotator that is no person labels

Answers = dict[str, tuple[str, str]]  # whole responses and their models, by answer


class LabelPairs(Stage):
    """Each of ``models`` answers ``problems`` of the ``prompts`` ``samples`` times. pairs.jsonl has the pairs
    of different answers in the order in which they are shown: by ``choose``, at most ``pairs_per_prompt`` of
    a prompt before all further ones. ``scorers`` are the reward_models stages that margin (one) and
    disagreement (two or more) need. labels.jsonl has the labels (data/labels.py), after those of
    ``earlier``.

    An annotator that is no person scores both answers of a pair; a difference of at most ``tie`` is a tie,
    and two answers below ``bad_below`` are both bad. ``chosen``: a file of prompts that the stage choose has
    written, of which the first ``problems`` are answered."""

    writes: ClassVar[tuple[str, ...]] = ("pairs.jsonl", "labels.jsonl", "report.json")

    stage: Literal["label"] = "label"
    models: list[str] = Field(["@sft"], min_length=1)
    prompts: RequiredTasks = {}
    chosen: str = ""
    problems: int = Field(200, ge=1)
    samples: int = Field(4, ge=1)
    choose: Strategy = "random"
    scorers: list[str] = []
    labels: int = Field(60, ge=1)  # after so many the stage ends
    pairs_per_prompt: int = Field(1, ge=1)
    annotator: str = PERSON  # person: on the page Label; else a scorer's name
    options: dict[str, Any] = Field(default_factory=dict)  # of the annotator
    tie: float = Field(0.0, ge=0.0)
    bad_below: float | None = None
    earlier: str = ""
    temperature: float = 1.0
    max_tokens: int = 112
    talk: PromptStyle = PromptStyle()
    learner: LearnerConfig = LearnerConfig()

    @model_validator(mode="after")
    def _annotator_is_known(self) -> "LabelPairs":
        if self.annotator != PERSON:
            check_annotator(self.annotator, self.options)
        elif self.options:
            raise ValueError("options go with an annotator that is no person")
        return self

    @model_validator(mode="after")
    def _strategy_has_its_models(self) -> "LabelPairs":
        least = {"random": 0, "margin": 1, "disagreement": 2}[self.choose]
        if len(self.scorers) < least:
            raise ValueError(
                f"choose: {self.choose} needs {least} reward model{'s' if least > 1 else ''} (given: "
                f"{len(self.scorers)}); name stages that train them, for instance scorers: "
                f'["@reward_models"], or choose: random'
            )
        return self

    def plan(self) -> StagePlan:
        each = float(self.problems * self.samples)
        phases = tuple(SamplingPhase(each, self.max_tokens, model, self.samples) for model in self.models)
        return StagePlan(sampled_tokens=each * self.max_tokens * len(self.models), phases=phases)

    def run(self, ctx: Context) -> None:
        earlier = read_labels(ctx.path(self.earlier)) if self.earlier else []
        problems, pairs = self._pairs(ctx, {label.pair for label in earlier})
        if not pairs:
            raise R1kitError(
                f"no prompt has two answers that differ ({self.samples} samples each); raise samples or "
                "temperature"
            )
        write_jsonl(ctx.out / "pairs.jsonl", [pair.as_row() for pair in pairs])
        own = self._scripted(ctx, problems, pairs) if self.annotator != PERSON else self._given(ctx)
        write_jsonl(ctx.out / "labels.jsonl", [label.as_row() for label in (*earlier, *own)])
        self._report(ctx, pairs, own, len(earlier))

    def _pairs(self, ctx: Context, without: set[str]) -> tuple[dict[str, Problem], list[Pair]]:
        """The prompts by the pairs' ids, and the pairs in the order in which they are shown."""
        problems = self._problems(ctx)
        answers: list[Answers] = [{} for _ in problems]
        for place, model in enumerate(self.models):
            for found, group in zip(answers, self._sampled(ctx, model, place, problems), strict=True):
                for rollout in group:
                    if rollout.answer:
                        found.setdefault(rollout.answer, (rollout.text, model))
        of: dict[str, Problem] = {}
        pool = []
        for problem, found in zip(problems, answers, strict=True):
            own = [
                pair_of(prompt_column(problem), one, other, (first, second))
                for (one, first), (other, second) in combinations(found.values(), 2)
            ]
            random.Random(f"pairs/{ctx.seed}/{problem.id}").shuffle(own)
            pool += [pair for pair in own[:POOL] if pair.id not in without and pair.id not in of]
            of |= {pair.id: problem for pair in own[:POOL]}
        order = spread(self._order(ctx, of, pool), [of[pair.id].id for pair in pool], self.pairs_per_prompt)
        return of, [pool[place] for place in order]

    def _problems(self, ctx: Context) -> list[Problem]:
        tasks = load_tasks(self.prompts)
        log_tasks(ctx, tasks)
        every = {p.id: p for task, _ in tasks.values() for p in task.problems("train")}
        if self.chosen:
            return only_chosen(ctx.path(self.chosen), every)[: self.problems]
        rng = random.Random(f"prompts/{ctx.seed}")
        return rng.sample(list(every.values()), min(self.problems, len(every)))

    def _sampled(
        self, ctx: Context, reference: str, place: int, problems: list[Problem]
    ) -> list[list[Rollout]]:
        sampling = Sampling(self.samples, self.temperature, max_tokens=self.max_tokens)
        return answers_of(ctx, reference, place, self.talk, problems, sampling)

    def _order(self, ctx: Context, of: Mapping[str, Problem], pool: Sequence[Pair]) -> list[int]:
        chance = random_order(len(pool), ctx.seed)
        if self.choose == "random" or not pool:
            return chance
        shuffled = [pool[place] for place in chance]  # so that equal margins are in no order
        margins_ZY = np.array([self._margins(ctx, scorer, of, shuffled) for scorer in self.scorers])
        order = (
            disagreement_order(margins_ZY) if self.choose == "disagreement" else margin_order(margins_ZY[0])
        )
        return [chance[place] for place in order]

    def _margins(
        self, ctx: Context, scorer: str, of: Mapping[str, Problem], pairs: Sequence[Pair]
    ) -> np.ndarray:
        """v_first - v_second [pairs] of a helpful reward model, which reads the answers alone."""
        model = ctx.path(scorer) / "helpful"
        if not model.is_dir():
            raise R1kitError(
                f"scorers: {scorer} has no helpful model; name a stage of reward_models that has"
            )
        learner, chat = ctx.runtime.learner(model, self.learner, scalar_head=True), self.talk.chat(model)
        rows = [
            text_row(chat, of[pair.id], _answer_of(text), self.learner.context)
            for pair in pairs
            for text in (pair.first, pair.second)
        ]
        values = read_values(learner, rows)
        ctx.runtime.release(learner)
        margins_Y: np.ndarray = values[0::2] - values[1::2]
        return margins_Y

    def _given(self, ctx: Context) -> list[Label]:
        """What people have labelled. Raises WaitingError where that is not enough yet."""
        file = label_file(ctx.run, ctx.name)
        refuse_odd(file)
        labels = read_labels(file) if file.exists() else []
        judged = judged_pairs(labels)
        if judged < self.labels:
            raise WaitingError(
                f"{judged} of {self.labels} pairs are labelled in {file}. Label the others on the page "
                f"Label:\n  r1kit ui {ctx.run}"
            )
        return labels

    def _scripted(self, ctx: Context, of: Mapping[str, Problem], pairs: Sequence[Pair]) -> list[Label]:
        annotator = load_annotator(self.annotator, self.options, ask_models(ctx, self.talk, ctx.seed))
        rng = random.Random(f"labels/{ctx.seed}")
        chosen = list(pairs[: self.labels])
        return list(label_by(annotator, [(of[p.id], p) for p in chosen], rng, self.tie, self.bad_below))

    def _report(self, ctx: Context, pairs: Sequence[Pair], own: Sequence[Label], earlier: int) -> None:
        counts = Counter(label.verdict for label in own)
        agreed = agreement(own)
        preferences = sum(counts[name] for name in PREFERENCES)
        ctx.log.info(
            f"{len(pairs)} pairs, {sum(counts[name] for name in JUDGED)} labels ({preferences} preferences)"
            + (f" and {earlier} of earlier rounds" if earlier else "")
        )
        if agreed.annotators > 1:
            ctx.log.info(agreed.in_words())
        if wins := wins_of(own):
            ctx.log.info("the better answer is of: " + ", ".join(f"{name} {n}" for name, n in wins.items()))
        given = {name: counts[name] for name in VERDICTS if counts[name]}
        annotators = len({label.annotator for label in own})
        report(
            ctx, pairs=len(pairs), labels=len(own), preferences=preferences, earlier=earlier,
            annotators=annotators, agreement=agreed.alpha, verdicts=given, wins=wins,
        )  # fmt: skip


def label_by(
    annotator: Annotator,
    asked: Sequence[tuple[Problem, Pair]],
    rng: random.Random,
    tie: float = 0.0,
    bad_below: float | None = None,
) -> Iterator[Label]:
    """The labels that an annotator's scores give; a pair of which it leaves out an answer is skipped. They
    follow from the arguments alone: ids are hashes, and times are 0."""
    responses = [
        (Response(p.first, _answer_of(p.first)), Response(p.second, _answer_of(p.second))) for _, p in asked
    ]
    scored = annotator([(problem, both) for (problem, _), both in zip(asked, responses, strict=True)], rng)
    for place, ((_, pair), both, found) in enumerate(zip(asked, responses, scored, strict=True)):
        values = {response.text: value for value, response in found}
        verdict = "skip"
        if all(response.text in values for response in both):
            verdict = verdict_of(values[both[0].text], values[both[1].text], tie, bad_below)
        label = judge(pair, SCRIPTED, verdict, seed=place)
        yield replace(label, id=hash_text(f"{pair.id}/{place}")[:32], time=0.0)


def verdict_of(first: float, second: float, tie: float, bad_below: float | None) -> str:
    """The verdict of two scores."""
    if bad_below is not None and max(first, second) < bad_below:
        return "both_bad"
    if abs(first - second) <= tie:
        return "tie"
    return "better" if first > second else "worse"


def _answer_of(text: str) -> str:
    parsed = parse(text)
    return text if parsed is None else parsed[1]
