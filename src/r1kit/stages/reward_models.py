"""Reward models for what rules cannot check (DeepSeek-R1, Nature version, section 3.1).

In the paper: helpfulness from 66,000 pairs, judged four times by DeepSeek-V3 in random order, kept where
scores differ by more than one and lengths are comparable, pairwise loss, reading only the final summary;
safety from 106,000 labelled responses, pointwise loss, reading everything. Here the judge is the miniature's
gold score seen through noise; pairs are the SFT model's own answers and written ones. They are also written
as whole responses, for learning from preferences without a reward model (dpo)."""

import random
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from r1kit.data.sources import write_jsonl
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, model_of
from r1kit.stages.results import report
from r1kit.stages.sampling import sample
from r1kit.stages.stage import Context, Stage
from r1kit.tasks.miniature.general import REFUSALS, General, gold_score, reference_answer, reference_thinking
from r1kit.train.learner import LearnerConfig, Metrics
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.preference import (
    Labelled,
    Pair,
    label_accuracy,
    pair_accuracy,
    read_values,
    text_row,
    train_pairwise,
    train_pointwise,
)
from r1kit.types import Problem, Rollout, Sampling


class RewardModels(Stage):
    """Two scalar-head copies of ``init`` in helpful/ and safety/, each with the mean and deviation of its
    scores; pairs.jsonl and pairs_held_out.jsonl hold the pairs (TRL's columns prompt, chosen, rejected)."""

    writes: ClassVar[tuple[str, ...]] = (
        "helpful",
        "safety",
        "pairs.jsonl",
        "pairs_held_out.jsonl",
        "report.json",
    )

    stage: Literal["reward_models"] = "reward_models"
    init: str = "@sft"
    samples: int = Field(8, ge=2)
    judge_noise: float = Field(0.08, ge=0.0)
    min_difference: float = Field(0.1, ge=0.0)
    max_pairs: int = Field(900, ge=1)
    batch: int = Field(64, ge=1)
    epochs: int = Field(3, ge=1)
    max_tokens: int = 112
    talk: PromptStyle = PromptStyle()
    learner: LearnerConfig = LearnerConfig(optimizer=OptimizerConfig(learning_rate=5e-4))

    def run(self, ctx: Context) -> None:
        answers = {split: self._answers(ctx, split) for split in ("train", "held_out")}
        pairs = {split: self._pairs(found, ctx.seed) for split, found in answers.items()}
        for split, file in (("train", "pairs.jsonl"), ("held_out", "pairs_held_out.jsonl")):
            write_jsonl(ctx.out / file, whole_responses(pairs[split], answers[split]))
        found = self._helpful(ctx, pairs)
        found |= self._safety(ctx, {split: _labelled(found, ctx.seed) for split, found in answers.items()})
        report(ctx, **found)

    def _answers(self, ctx: Context, split: str) -> list[list[Rollout]]:
        model = model_of(ctx.path(self.init))
        chat, engine = self.talk.chat(model), ctx.runtime.engine(model)
        groups = sample(
            engine,
            chat,
            General().problems(split),
            Sampling(self.samples, max_tokens=self.max_tokens),
            derive_seed(ctx.seed, split),
        )
        ctx.runtime.release(engine)
        return groups

    def _pairs(self, groups: list[list[Rollout]], seed: int) -> list[Pair]:
        """Pairs whose judged scores differ enough, alternately with the shorter and the longer text chosen
        where there is a choice."""
        rng = random.Random(f"pairs/{seed}")
        found = []
        for group in groups:
            problem = group[0].problem
            if problem.columns["kind"] == "forbidden":
                continue
            texts = [r.answer for r in group if r.answer] + [
                reference_answer(problem, rng, q) for q in (1.0, 0.6)
            ]
            judged = sorted(
                (gold_score(problem, text) + rng.gauss(0.0, self.judge_noise), text)
                for text in dict.fromkeys(texts)
            )
            pairs = [
                (low, high)
                for i, low in enumerate(judged)
                for high in judged[i + 1 :]
                if high[0] - low[0] > self.min_difference
            ]
            rng.shuffle(pairs)
            found += [Pair(problem, high[1], low[1]) for low, high in pairs[:5]]
        rng.shuffle(found)
        return found[: self.max_pairs]

    def _helpful(self, ctx: Context, pairs: dict[str, list[Pair]]) -> Metrics:
        model = model_of(ctx.path(self.init))
        chat, learner = self.talk.chat(model), ctx.runtime.learner(model, self.learner, scalar_head=True)
        history = train_pairwise(
            learner,
            chat,
            pairs["train"],
            self.learner.context,
            self.batch,
            self.epochs,
            derive_seed(ctx.seed, "helpful"),
        )
        _log(ctx, "helpful", history)
        texts = [
            (pair.problem, text) for pair in pairs["train"][:200] for text in (pair.chosen, pair.rejected)
        ]
        values = read_values(learner, [text_row(chat, p, text, self.learner.context) for p, text in texts])
        accuracy = pair_accuracy(learner, chat, pairs["held_out"], self.learner.context)
        ctx.runtime.export(learner, ctx.out / "helpful")
        ctx.runtime.release(learner)
        return {
            "helpful_pairs": len(pairs["train"]),
            "helpful_accuracy": accuracy,
            "helpful_held_out_pairs": len(pairs["held_out"]),
            "helpful_mean": float(values.mean()),
            "helpful_std": float(values.std() + 1e-6),
        }

    def _safety(self, ctx: Context, labelled: dict[str, list[Labelled]]) -> Metrics:
        model = model_of(ctx.path(self.init))
        chat, learner = self.talk.chat(model), ctx.runtime.learner(model, self.learner, scalar_head=True)
        history = train_pointwise(
            learner,
            chat,
            labelled["train"],
            self.learner.context,
            self.batch,
            self.epochs,
            derive_seed(ctx.seed, "safety"),
        )
        _log(ctx, "safety", history)
        accuracy = label_accuracy(learner, chat, labelled["held_out"], self.learner.context)
        ctx.runtime.export(learner, ctx.out / "safety")
        ctx.runtime.release(learner)
        return {
            "safety_responses": len(labelled["train"]),
            "safety_accuracy": accuracy,
            "safety_held_out": len(labelled["held_out"]),
        }


def whole_responses(pairs: Sequence[Pair], groups: Sequence[Sequence[Rollout]]) -> list[dict[str, str]]:
    """The pairs with their thinking: the rollout's own where the answer was sampled, a written one where it
    was written."""
    sampled = {
        (r.problem.id, r.answer): r.text for group in groups for r in reversed(group) if r.answer is not None
    }

    def whole(problem: Problem, answer: str) -> str:
        return sampled.get((problem.id, answer)) or f"<think>{reference_thinking(problem)}</think>{answer}"

    return [
        {
            "prompt": p.problem.prompt,
            "chosen": whole(p.problem, p.chosen),
            "rejected": whole(p.problem, p.rejected),
        }
        for p in pairs
    ]


def _labelled(groups: list[list[Rollout]], seed: int) -> list[Labelled]:
    """Responses to all kinds of prompts; unsafe is what helps with a forbidden request. Written ones balance
    the classes."""
    rng = random.Random(f"safety/{seed}")
    found = []
    for group in groups:
        problem = group[0].problem
        forbidden = problem.columns["kind"] == "forbidden"
        for rollout in group[: len(group) if forbidden else 1]:
            found.append(Labelled(problem, rollout.text, not forbidden or _refuses(problem, rollout.answer)))
        if forbidden:
            for quality, safe in ((1.0, True), (0.0, False), (0.0, False)):
                text = (
                    f"<think>{reference_thinking(problem)}</think>{reference_answer(problem, rng, quality)}"
                )
                found.append(Labelled(problem, text, safe))
    rng.shuffle(found)
    return found


def _refuses(problem: Problem, answer: str | None) -> bool:
    return answer is not None and REFUSALS[problem.language] in answer


def _log(ctx: Context, part: str, history: list[Metrics]) -> None:
    log = ctx.log.part(part)
    for step, metrics in enumerate(history):
        log.step(step, len(history), metrics)
    log.close()
