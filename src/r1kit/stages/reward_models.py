"""Reward models for what rules cannot check (DeepSeek-R1, Nature version, section 3.1).

In the paper: helpfulness from 66,000 pairs, judged four times by DeepSeek-V3 in random order, kept where
scores differ by more than one and lengths are comparable, pairwise loss, reading only the final summary;
safety from 106,000 labelled responses, pointwise loss, reading everything. Here pairs come from a file, or
from an annotator that scores the model's own answers to ``prompts``; labelled responses likewise. Pairs are
also written as whole responses, for learning from preferences without a reward model (dpo)."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from r1kit.chat import Chat, prompt_column
from r1kit.config import InputError, R1kitError
from r1kit.data.preferences import pairs_of
from r1kit.jsonl import write_jsonl
from r1kit.rewards.annotators import Annotator, load_annotator, load_labeller
from r1kit.seeds import derive_seed
from r1kit.stages.general import prompts_in
from r1kit.stages.judgements import (
    PreferenceSource,
    SafetySource,
    Source,
    ask_models,
    read_labels,
    read_pairs,
)
from r1kit.stages.kept import clear, keep
from r1kit.stages.models import PromptStyle
from r1kit.stages.recipe_names import TaskSpec, log_tasks
from r1kit.stages.results import report
from r1kit.stages.sampling import mean_length, sample
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan, TrainingPhase
from r1kit.tasks import load_tasks
from r1kit.train.learner import LearnerConfig, LearnerProtocol, Metrics
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.preference import (
    RewardTraining,
    label_accuracy,
    pair_accuracy,
    pair_rows,
    read_values,
    train_pairwise,
    train_pointwise,
)
from r1kit.types import Labelled, Preference, Response, Rollout, Sampling

PAIRS = {"train": "pairs.jsonl", "held_out": "pairs_held_out.jsonl"}
# Pairs whose scores give the helpful model's mean and deviation: of 400 values the deviation is known to 4 %.
SCORED_PAIRS = 200

Groups = Mapping[str, list[list[Rollout]]]  # of the model's answers, by split
Judgement = TypeVar("Judgement", Preference, Labelled)
Train = Callable[[LearnerProtocol, Chat, Sequence[Judgement], RewardTraining], list[Metrics]]


class RewardModels(Stage):
    """Scalar-head copies of ``init``: helpful/ from ``preferences`` and safety/ from ``safety``, of which one
    may be null. pairs.jsonl and pairs_held_out.jsonl hold the pairs (TRL's columns).

    For an annotator, ``init`` answers each of ``prompts`` ``samples`` times (weights of tasks are ignored). A
    pair is kept if its scores differ by more than ``min_difference`` (the paper's is 1, with scores up to 10)
    and the longer answer has at most ``length_ratio`` times the characters of the shorter. At most
    ``pairs_per_prompt`` pairs are kept per prompt. ``max_pairs`` limits all pairs, also those of a file."""

    writes: ClassVar[tuple[str, ...]] = (
        "helpful",
        "safety",
        "pairs.jsonl",
        "pairs_held_out.jsonl",
        "report.json",
    )

    stage: Literal["reward_models"] = "reward_models"
    init: str = "@sft"
    prompts: TaskSpec = {}
    preferences: PreferenceSource | None = None
    safety: SafetySource | None = None
    samples: int = Field(8, ge=2)
    min_difference: float = Field(1.0, ge=0.0)
    length_ratio: float | None = Field(None, ge=1.0)
    pairs_per_prompt: int = Field(5, ge=1)
    max_pairs: int | None = Field(None, ge=1)
    batch: int = Field(64, ge=1)  # pairs of an update
    epochs: int = Field(3, ge=1)  # passes over the pairs
    max_tokens: int = 112
    talk: PromptStyle = PromptStyle()
    learner: LearnerConfig = LearnerConfig(optimizer=OptimizerConfig(learning_rate=5e-4))

    @model_validator(mode="after")
    def _has_something_to_learn_from(self) -> "RewardModels":
        sources = [source for source in (self.preferences, self.safety) if source is not None]
        if not sources:
            raise ValueError(
                "reward_models needs preferences (pairs), safety (labelled responses), or both: name a file "
                "or an annotator for each, for instance preferences: pairs.jsonl"
            )
        judging = [source.annotator for source in sources if source.annotator]
        if judging and not self.prompts:
            raise ValueError(
                f"prompts: {' and '.join(judging)} judge the model's own answers; name what it answers, for "
                "instance prompts: {general: {kind: prompts, train: prompts.jsonl}}"
            )
        return self

    def input_errors(self) -> Iterator[InputError]:
        for key, source in (("preferences", self.preferences), ("safety", self.safety)):
            if source is not None:
                yield from (((key, *path), error) for path, error in source.input_errors())

    def plan(self) -> StagePlan:
        sources = {"helpful": self.preferences, "safety": self.safety}
        answered = {name: prompts_in(self.prompts, name) for name in PAIRS}
        judged = any(source is not None and source.annotator for source in sources.values())
        sampling = tuple(
            SamplingPhase(count * self.samples, self.max_tokens, self.init, self.samples)
            for count in answered.values()
            if judged and count
        )
        training = tuple(
            self._training_phase(name, source, answered["train"])
            for name, source in sources.items()
            if source is not None
        )
        tokens = sum(phase.completions * phase.max_tokens for phase in sampling)
        return StagePlan(sampled_tokens=tokens or None, phases=(*sampling, *training))

    def _training_phase(self, name: str, source: Source, prompts: float | None) -> TrainingPhase:
        """The training of one model, on as many pairs or labelled responses as there may be."""
        most = None if source.file or prompts is None else prompts * self.samples
        rows, per_update = most, float(self.batch)
        if name == "helpful":
            limits = [float(self.max_pairs)] if self.max_pairs is not None and not source.file else []
            each = min(self.pairs_per_prompt, math.comb(self.samples, 2))
            limits += [] if most is None or prompts is None else [prompts * each]
            rows, per_update = (2 * min(limits) if limits else None), 2.0 * self.batch
        updates = None if rows is None else math.ceil(rows / per_update) * float(self.epochs)
        return TrainingPhase(
            self.learner, self.init, updates=updates, rows=rows, row_tokens=self.max_tokens,
            data=(source.file,) if source.file else (), epochs=float(self.epochs), passes=1.0, part=name,
        )  # fmt: skip

    def run(self, ctx: Context) -> None:
        chat = self.talk.chat(ctx.model(self.init))
        judged = any(source is not None and source.annotator for source in (self.preferences, self.safety))
        answers = {name: self._answers(ctx, chat, name) for name in PAIRS} if judged else {}
        facts: Metrics = {}
        if self.preferences is not None:
            pairs = self._pairs(ctx, chat, self.preferences, answers)
            for name, file in PAIRS.items():
                write_jsonl(ctx.out / file, [as_row(pair) for pair in pairs[name]])
            facts |= self._helpful(ctx, chat, pairs)
        if self.safety is not None:
            facts |= self._safety(ctx, chat, self._labelled(ctx, chat, self.safety, answers))
        sampled = [group for groups in answers.values() for group in groups]
        report(ctx, **facts, mean_length=mean_length(sampled))

    def _answers(self, ctx: Context, chat: Chat, name: str) -> list[list[Rollout]]:
        """Groups of the model's answers to all prompts of a split."""
        tasks = load_tasks(self.prompts)
        if name == "train":
            log_tasks(ctx, tasks)
        engine = ctx.runtime.engine(ctx.model(self.init))
        groups = sample(
            engine,
            chat,
            [problem for task, _ in tasks.values() for problem in task.problems(name)],
            Sampling(self.samples, max_tokens=self.max_tokens),
            derive_seed(ctx.seed, name),
        )
        ctx.runtime.release(engine)
        return groups

    def _pairs(
        self, ctx: Context, chat: Chat, source: PreferenceSource, answers: Groups
    ) -> dict[str, list[Preference]]:
        """Pairs by split."""
        if source.file:
            found = read_pairs(ctx, source, chat, self.learner.context)
            limited = {
                name: self._limited(own, random.Random(f"pairs/{ctx.seed}")) for name, own in found.items()
            }
        else:
            models = ask_models(ctx, self.talk, ctx.seed)
            annotator = load_annotator(source.annotator, source.options, models)
            limited = {name: self._annotated(groups, annotator, ctx.seed) for name, groups in answers.items()}
        if not limited["train"]:
            raise R1kitError(
                f"stage {ctx.name!r}: there are no pairs to learn from; "
                + (
                    f"{source.file} needs more rows"
                    if source.file
                    else f"no two answers differ by more than min_difference {self.min_difference:g}"
                )
            )
        return limited

    def _annotated(
        self, groups: Sequence[Sequence[Rollout]], annotator: Annotator, seed: int
    ) -> list[Preference]:
        """Pairs of a split's answers, as the annotator scores them."""
        rng = random.Random(f"pairs/{seed}")
        asked = [(group[0].problem, different_answers(group)) for group in groups]
        found: list[Preference] = []
        for (problem, _), scored in zip(asked, annotator(asked, rng), strict=True):
            pairs = pairs_of(problem, scored, self.min_difference, self.length_ratio)
            rng.shuffle(pairs)
            found += pairs[: self.pairs_per_prompt]
        return self._limited(found, rng)

    def _limited(self, pairs: list[Preference], rng: random.Random) -> list[Preference]:
        rng.shuffle(pairs)
        return pairs[: self.max_pairs]

    def _labelled(
        self, ctx: Context, chat: Chat, source: SafetySource, answers: Groups
    ) -> dict[str, list[Labelled]]:
        """Labelled responses by split."""
        if source.file:
            labelled = read_labels(ctx, source, chat, self.learner.context)
        else:
            label = load_labeller(source.annotator, source.options)
            labelled = {}
            for name, groups in answers.items():
                rng = random.Random(f"safety/{ctx.seed}")
                labelled[name] = list(label(groups, rng))
                rng.shuffle(labelled[name])
        kinds = {one.safe for one in labelled["train"]}
        if len(kinds) < 2:
            only = "safe" if True in kinds else "unsafe"
            raise R1kitError(
                f"stage {ctx.name!r}: the safety model needs safe and unsafe responses; "
                + (f"all {len(labelled['train'])} are labelled {only}" if kinds else "there are none")
                + ". Add the others, or leave the safety model out (safety: null)"
            )
        return labelled

    def _helpful(self, ctx: Context, chat: Chat, pairs: dict[str, list[Preference]]) -> Metrics:
        learner = self._trained(ctx, chat, "helpful", train_pairwise, pairs["train"])
        context, held_out = self.learner.context, pairs["held_out"]
        values = read_values(learner, pair_rows(chat, pairs["train"][:SCORED_PAIRS], context))
        accuracy = pair_accuracy(learner, chat, held_out, context) if held_out else math.nan
        self._export(ctx, learner, "helpful")
        return {
            "helpful_pairs": len(pairs["train"]),
            "helpful_accuracy": accuracy,
            "helpful_held_out_pairs": len(held_out),
            "helpful_mean": float(values.mean()),
            "helpful_std": float(values.std() + 1e-6),
        }

    def _safety(self, ctx: Context, chat: Chat, labelled: dict[str, list[Labelled]]) -> Metrics:
        learner = self._trained(ctx, chat, "safety", train_pointwise, labelled["train"])
        held_out = labelled["held_out"]
        accuracy = label_accuracy(learner, chat, held_out, self.learner.context) if held_out else math.nan
        self._export(ctx, learner, "safety")
        return {
            "safety_responses": len(labelled["train"]),
            "safety_accuracy": accuracy,
            "safety_held_out": len(held_out),
        }

    def _trained(
        self, ctx: Context, chat: Chat, name: str, train: Train[Judgement], judgements: list[Judgement]
    ) -> LearnerProtocol:
        """A copy of ``init`` with a scalar head, trained on ``judgements``; its steps are logged."""
        learner: LearnerProtocol = ctx.runtime.learner(ctx.model(self.init), self.learner, scalar_head=True)
        how = RewardTraining(self.learner.context, self.batch, self.epochs, derive_seed(ctx.seed, name))
        history, log = train(learner, chat, judgements, how), ctx.log.part(name)
        for step, metrics in enumerate(history):
            log.step(step, len(history), metrics)
        log.close()
        return learner

    def _export(self, ctx: Context, learner: LearnerProtocol, name: str) -> None:
        clear(ctx, name)
        ctx.runtime.export(learner, ctx.out / name)
        keep(ctx, name)
        ctx.runtime.release(learner)


def different_answers(group: Sequence[Rollout]) -> list[Response]:
    """The answers of a group, each once, as the first rollout has it."""
    found: dict[str, Response] = {}
    for rollout in group:
        if rollout.answer:
            found.setdefault(rollout.answer, Response(rollout.text, rollout.answer))
    return list(found.values())


def as_row(pair: Preference) -> dict[str, Any]:
    """A pair of whole responses as a row of a file."""
    return {"prompt": prompt_column(pair.problem), "chosen": pair.chosen.text, "rejected": pair.rejected.text}
