"""Stages of recipes/data-choice.yaml: solved problems as rows, rows without held-out numbers, documents of
two kinds, and the loss of models on held-out documents."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

from pydantic import Field

from r1kit.data.corpus import load_generators
from r1kit.data.prompt_choice import only_chosen
from r1kit.data.substitution import numbers_in
from r1kit.jsonl import read_jsonl, write_jsonl
from r1kit.stages.recipe_names import TaskSpec
from r1kit.stages.results import report
from r1kit.stages.sampling import train_problems
from r1kit.stages.stage import Context, Stage
from r1kit.tasks import KINDS, load_tasks
from r1kit.tasks.miniature.procedural import exact
from r1kit.tasks.miniature.worked_solutions import write_readable
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import LearnerConfig
from r1kit.train.paced import losses_of
from r1kit.train.supervised import text_row
from r1kit.types import Problem


def solution_of(problem: Problem, rng: random.Random) -> str:
    """A worked solution of the miniature's problems and of word problems."""
    if "solution" in problem.columns:
        return str(problem.columns["solution"])
    work = KINDS[problem.task].solve(problem.columns["parameters"], exact)
    return write_readable(work.steps, work.answer, problem.language, rng)


class Solved(Stage):
    """``count`` training problems with their solutions, or the ``chosen`` ones, as rows for sft; ``level`` is
    the number of steps. ``also``: a file of further rows."""

    stage: str = "recipes/data_choice.py:Solved"
    tasks: TaskSpec
    count: int = Field(ge=1)
    chosen: str = ""
    also: str = ""

    def run(self, ctx: Context) -> None:
        tasks = load_tasks(self.tasks)
        if self.chosen:
            every = {p.id: p for task, _ in tasks.values() for p in task.problems("train")}
            problems = only_chosen(ctx.path(self.chosen), every)[: self.count]
        else:
            problems = train_problems(self.tasks, self.count, ctx.seed)
        rng = random.Random(ctx.seed)
        rows = [
            {
                "id": problem.id,
                "prompt": problem.prompt,
                "completion": f"<think>{solution_of(problem, rng)}</think>{problem.answer}",
                "level": problem.difficulty,
            }
            for problem in problems
        ]
        write_jsonl(ctx.out / "prompts.jsonl", [{"id": row["id"]} for row in rows])
        rows += [row for _, row in read_jsonl(ctx.path(self.also))] if self.also else []
        write_jsonl(ctx.out / "data.jsonl", rows)
        report(ctx, rows=len(rows))


class Joined(Stage):
    """The rows of ``parents`` and of ``augmented``, without those of the latter whose numbers are those of a
    held-out problem of ``tasks``: their stories differ, so the run of ten words does not find them."""

    stage: str = "recipes/data_choice.py:Joined"
    parents: str
    augmented: str
    tasks: TaskSpec

    def run(self, ctx: Context) -> None:
        held_out = {
            tuple(sorted(numbers_in(problem.prompt)))
            for task, _ in load_tasks(self.tasks).values()
            for problem in task.problems("held_out")
        }
        rows = [row for _, row in read_jsonl(ctx.path(self.parents))]
        parents = {tuple(sorted(numbers_in(row["prompt"]))) for row in rows}
        new = [row for _, row in read_jsonl(ctx.path(self.augmented))]
        kept = []
        for row in new:
            numbers = tuple(sorted(numbers_in(row["prompt"])))
            if numbers not in held_out or numbers in parents:
                kept.append({"prompt": row["prompt"], "completion": _bare(row["completion"])})
        write_jsonl(ctx.out / "data.jsonl", [*rows, *kept])
        report(ctx, rows=len(rows) + len(kept), parents=len(rows), dropped=len(new) - len(kept))


def _bare(completion: str) -> str:
    """The answer alone after the thinking, as the parents have it."""
    thinking, _, answer = completion.rpartition("</think>")
    return f"{thinking}</think>{answer.partition('{')[2].rpartition('}')[0] or answer}"


class Documents(Stage):
    """Two kinds of documents, in files of training and held-out ones: ``solved`` problems of ``tasks``, and
    ``others`` of the generators."""

    stage: str = "recipes/data_choice.py:Documents"
    tasks: TaskSpec
    generated: dict[str, Any] = {"miniature": 1.0}
    solved: int = 600
    others: int = 6000
    held_out: int = 200

    def run(self, ctx: Context) -> None:
        rng = random.Random(ctx.seed)
        tasks = load_tasks(self.tasks)
        for split, count in (("train", self.solved), ("held_out", self.held_out)):
            problems = [p for task, _ in tasks.values() for p in task.problems(split)][:count]
            texts = [f"{p.prompt}\n{solution_of(p, rng)}\n{p.answer}" for p in problems]
            write_jsonl(ctx.out / f"solved_{split}.jsonl", [{"text": text} for text in texts])
        (generator,) = load_generators(self.generated)
        stream = generator.documents(ctx.seed)
        for split, count in (("train", self.others), ("held_out", self.held_out)):
            texts = list(itertools.islice(stream, count))
            write_jsonl(ctx.out / f"others_{split}.jsonl", [{"text": text} for text in texts])
        report(ctx, solved=self.solved, others=self.others)


class HeldOutLoss(Stage):
    """The loss per token, in nats, of ``models`` on at most ``rows`` texts of each of ``files``."""

    stage: str = "recipes/data_choice.py:HeldOutLoss"
    models: dict[str, str]
    files: dict[str, str]
    rows: int = Field(500, ge=1)
    learner: LearnerConfig = LearnerConfig()

    def run(self, ctx: Context) -> None:
        found: dict[str, dict[str, float]] = {}
        for name, reference in self.models.items():
            model = ctx.model(reference)
            learner, tokenizer = ctx.runtime.learner(model, self.learner), Tokenizer.load(model)
            found[name] = {
                kind: loss_on(learner, tokenizer, _texts(ctx.path(file), self.rows), self.learner.context)
                for kind, file in self.files.items()
            }
            ctx.runtime.release(learner)
            ctx.log.info(f"{name}: " + ", ".join(f"{kind} {loss:.4f}" for kind, loss in found[name].items()))
        report(ctx, losses=found)


def _texts(path: Path, count: int) -> list[str]:
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    rows = (json.loads(line) for file in files for line in file.open(encoding="utf-8"))
    return [row["text"] for row in itertools.islice(rows, count)]


def loss_on(learner: Any, tokenizer: Tokenizer, texts: list[str], context: int) -> float:
    """The mean over all tokens of the texts, each cut into pieces of the context."""
    pieces = []
    for text in texts:
        ids = [*tokenizer.start_ids.tolist(), *tokenizer.encode(text).tolist(), tokenizer.eos_id]
        pieces += [ids[start : start + context + 1] for start in range(0, max(1, len(ids) - 1), context)]
    import numpy as np

    rows = [text_row(np.asarray(piece, dtype=np.int32)) for piece in pieces if len(piece) > 1]
    losses = losses_of(learner, rows)
    sizes = [len(row.token_ids) - 1 for row in rows]
    return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
