"""Supervised fine-tuning of the base model again (DeepSeek-R1, Nature version, supplement B.3.3 and B.4.2).

In the paper: 800k samples (600k reasoning by rejection sampling, 200k general), two to three epochs, from
V3-Base and not from the RL checkpoint. ``data`` are JSON Lines files of {"prompt", "completion"} or
{"messages"} (TRL's columns), or ShareGPT's {"conversations"}, written by other stages or by hand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from r1kit.chat import Chat, Prompt, problem_of, prompt_column
from r1kit.config import InputError, R1kitError
from r1kit.data.labels import not_written
from r1kit.data.pacing import SupervisedCurriculum
from r1kit.data.sources import BadRows, Turns, numbered_pairs, pairs, read_pairs
from r1kit.data.task_mixing import MixingConfig
from r1kit.engine import Engine
from r1kit.jsonl import first_error
from r1kit.model.config_json import read_config
from r1kit.seeds import derive_seed
from r1kit.stages.held_out_watch import HeldOutWatch, WatchConfig, watch_phases
from r1kit.stages.models import PromptStyle
from r1kit.stages.multi_task import (
    TaskEvaluation,
    TaskFiles,
    TaskWatch,
    mixture_line,
    read_held_out,
    task_errors,
    task_updates,
)
from r1kit.stages.results import finish
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan, TrainingPhase
from r1kit.tasks.task import Task
from r1kit.train.learner import LearnerConfig, LearnerProtocol, Metrics
from r1kit.train.paced import losses_of, measured_difficulties, paced_batches
from r1kit.train.supervised import SupervisedConfig, finetune, finetune_batches, response_row, train
from r1kit.types import Row, Sampling

WATCH_TOKENS = 512  # of a completion that the watch samples, where the recipe does not say


class SFT(Stage):
    """Fine-tune ``init`` on ``data``. Of a conversation (``messages``) the last assistant turn is trained on,
    with ``turns: all`` each of them. ``bad_rows: quarantine`` leaves out rows that cannot be read, up to 5 %
    of a file (jsonl.py). Without any row the stage stops; ``allow_empty`` keeps the model as it is
    instead. ``watch`` measures held-out problems while it trains; it needs ``tasks`` of its own. With a
    ``curriculum`` easy rows come first (data/pacing.py).

    In the place of ``data``, ``tasks`` are files with a metric each, mixed as ``mixing`` says and
    ``measured`` while the stage trains (stages/multi_task.py)."""

    writes: ClassVar[tuple[str, ...]] = ("model", "report.json")

    stage: Literal["sft"] = "sft"
    init: str = "@pretrain"
    data: list[str] = ["@rejection_sampling/data.jsonl"]
    tasks: dict[str, TaskFiles] = {}
    mixing: MixingConfig = MixingConfig()
    measured: TaskEvaluation = TaskEvaluation()
    turns: Turns = "last"
    bad_rows: BadRows = "error"
    allow_empty: bool = False
    talk: PromptStyle = PromptStyle()
    training: SupervisedConfig = SupervisedConfig()
    learner: LearnerConfig = LearnerConfig()
    watch: WatchConfig | None = None
    curriculum: SupervisedCurriculum | None = None

    @model_validator(mode="before")
    @classmethod
    def _tasks_are_the_data(cls, data: Any) -> Any:
        """With ``tasks`` the default of ``data`` is no file."""
        if isinstance(data, dict) and data.get("tasks"):
            return {"data": [], **data}
        return data

    @model_validator(mode="after")
    def _watch_has_tasks(self) -> "SFT":
        if self.watch is not None and not self.watch.tasks:
            raise ValueError(
                "watch.tasks: name the tasks whose held-out problems are measured, for instance {test: "
                "{kind: dataset, held_out: test.jsonl}}"
            )
        if self.tasks and self.data:
            raise ValueError("data and tasks: name either files of rows, or tasks with a metric each")
        if self.tasks and self.watch is not None:
            raise ValueError("tasks are measured as `measured` says; leave watch out")
        return self

    def input_errors(self) -> Iterator[InputError]:
        if self.tasks:
            yield from task_errors(self.tasks, self.bad_rows)
            return
        for place, file in enumerate(self.data):
            if file and not file.startswith("@"):
                error = first_error(Path(file).expanduser(), read_pairs, self.bad_rows, not_written)
                if error is not None:
                    yield ("data", place), error

    def run(self, ctx: Context) -> None:
        if self.tasks:
            self._train_tasks(ctx)
            return
        rows = []
        column = self.curriculum.named_column if self.curriculum else ""
        for file in self.data:
            found = numbered_pairs(ctx.path(file), column, self.bad_rows, self.turns)
            if not found and not file.startswith("@"):  # a stage may have kept nothing
                raise R1kitError(f'{file}: no rows; a row is {{"prompt": ..., "completion": ...}}')
            rows += found
        finetune_on(
            ctx,
            self.init,
            [pair for pair, _ in rows],
            self.talk,
            self.training,
            self.learner,
            self.watch,
            allow_empty=self.allow_empty,
            paced=PacedRows(self.curriculum, [value for _, value in rows]) if self.curriculum else None,
        )

    def _train_tasks(self, ctx: Context) -> None:
        """Fine-tune on all tasks, and measure each."""
        model = ctx.model(self.init)
        chat = self.talk.chat(model)
        rows, held_out, held_out_rows = {}, {}, {}
        read = 0
        for name, task in self.tasks.items():
            written = pairs(ctx.path(task.train), self.bad_rows, self.turns)
            read += len(written)
            rows[name] = self._fitting(ctx, name, [training_row(chat, *pair) for pair in written])
            if task.held_out is not None:
                held_out[name] = read_held_out(name, task, ctx.path(task.held_out), self.measured.problems)
                responses = [(one.problem, one.response) for one in held_out[name] if one.response]
                own = [training_row(chat, prompt_column(problem), text) for problem, text in responses]
                held_out_rows[name] = [row for row in own if len(row.token_ids) <= self.learner.context + 1]
        ctx.log.info(mixture_line(rows, self.mixing))
        updates = task_updates(rows, self.mixing, self.training, derive_seed(ctx.seed, "order"))
        learner = ctx.runtime.learner(model, self.learner)
        watch = TaskWatch(self.tasks, held_out, held_out_rows, self.measured, chat, len(updates))
        engines = [ctx.runtime.engine_of(learner)] if held_out else []
        last_measured: Metrics = {}

        def measure(step: int) -> Metrics:
            if not engines or not watch.is_due(step):
                return {}
            ctx.runtime.hand_over(learner, engines[0], step)
            last_measured.update(watch.measure(learner, engines[0]))
            return dict(last_measured)

        last = train(
            learner, lambda start: iter(updates[start:]), len(updates), self.training, ctx.log, ctx.out,
            ctx.identities, measure,
        )  # fmt: skip
        kept = sum(map(len, rows.values()))
        counted = {"rows": kept, "too_long": read - kept}
        finish(ctx, learner, *engines, facts={**counted, **last, **last_measured}, talk=self.talk)

    def _fitting(self, ctx: Context, name: str, rows: list[Row]) -> list[Row]:
        """The rows of a task that fit into the context. Raises R1kitError where there is none."""
        kept = [row for row in rows if len(row.token_ids) <= self.learner.context + 1]
        if not kept:
            raise R1kitError(
                f"tasks.{name}: none of {len(rows)} rows has at most learner.context "
                f"{self.learner.context} tokens; raise it, or give shorter rows"
            )
        if len(kept) < len(rows):
            ctx.log.info(f"{name}: {len(rows) - len(kept)} of {len(rows)} rows left out, too long")
        return kept

    def plan(self) -> StagePlan:
        files = [task.train for task in self.tasks.values()] or self.data
        tuning = tuning_phase(self.init, self.learner, self.training, tuple(files))
        return StagePlan(phases=(tuning, *watched(self.watch, tuning)))


@dataclass(frozen=True, slots=True)
class PacedRows:
    """A curriculum, and what its column says of each row (None: nothing)."""

    curriculum: SupervisedCurriculum
    values: Sequence[float | None]

    def batches(
        self,
        ctx: Context,
        rows: Sequence[Row | None],
        config: SupervisedConfig,
        learner: LearnerConfig,
        seed: int,
    ) -> list[list[Row]]:
        """The updates over ``rows``, of which None stands for one that is too long. Raises R1kitError where
        the curriculum leaves out every row, or no row has the column."""
        curriculum = self.curriculum
        there = [(row, value) for row, value in zip(rows, self.values, strict=True) if row is not None]
        kept = [(row, value) for row, value in there if not curriculum.leaves_out(value)]
        if curriculum.named_column and there and all(value is None for _, value in there):
            raise R1kitError(f"curriculum: no row of the data has a column {curriculum.named_column!r}")
        if there and not kept:
            raise R1kitError("curriculum: every row is left out by its pass rate; change easy or hard")
        if len(kept) < len(there):
            ctx.log.info(f"curriculum: {len(there) - len(kept)} of {len(there)} rows left out, by pass rate")
        left = [row for row, _ in kept]
        if curriculum.reference:
            model = ctx.runtime.learner(ctx.model(curriculum.reference), learner)
            difficulties = losses_of(model, left)
            ctx.runtime.release(model)
        elif curriculum.by:
            difficulties = measured_difficulties(left, curriculum.by)
        else:
            difficulties = [curriculum.difficulty(value) for _, value in kept]
        return paced_batches(left, difficulties, curriculum, config, seed)


def tuning_phase(
    init: str,
    learner: LearnerConfig,
    training: SupervisedConfig,
    data: tuple[str, ...] = (),
    rows: float | None = None,
    row_tokens: int | None = None,
) -> TrainingPhase:
    """The fine-tuning of ``init`` on ``rows`` rows of at most ``row_tokens`` tokens, or on the files
    ``data``."""
    return TrainingPhase(
        learner, init, rows=rows, row_tokens=row_tokens, data=data, epochs=training.epochs,
        batch_tokens=training.batch_tokens,
    )  # fmt: skip


def watched(watch: WatchConfig | None, tuning: TrainingPhase) -> tuple[SamplingPhase, ...]:
    """What a watch samples in a fine-tuning, as far as its number of updates is known before it runs."""
    tokens = tuning.tokens
    if tokens is None and tuning.rows is not None and tuning.row_tokens is not None:
        tokens = tuning.rows * tuning.row_tokens * tuning.epochs
    updates = 0.0 if tokens is None else tokens / (tuning.batch_tokens or tokens)
    return watch_phases(watch, updates, WATCH_TOKENS)


def finetune_on(
    ctx: Context,
    init: str,
    written: list[tuple[Prompt, str]],
    talk: PromptStyle,
    training: SupervisedConfig,
    learner_config: LearnerConfig,
    watch: WatchConfig | None = None,
    tasks: Mapping[str, tuple[Task, float]] = {},
    allow_empty: bool = False,
    paced: PacedRows | None = None,
    facts: Mapping[str, Any] = {},
) -> None:
    """Train ``init`` on (prompt, response) texts and export it to ctx.out/model. ``tasks`` are those that
    ``watch`` measures where it names none. ``paced``: a curriculum over the texts; ``facts``: further
    figures for the stage's report. Raises R1kitError where there is nothing to train on, unless
    ``allow_empty``."""
    model = ctx.model(init)
    chat = talk.chat(model)
    rows = [training_row(chat, prompt, response) for prompt, response in written]
    fitting = [row if len(row.token_ids) <= learner_config.context + 1 else None for row in rows]
    kept = [row for row in fitting if row is not None]
    if len(kept) < len(rows):
        ctx.log.info(
            f"{len(rows) - len(kept)} of {len(rows)} rows left out, longer than learner.context "
            f"{learner_config.context}"
        )
    if not kept and not allow_empty:
        raise R1kitError(
            f"stage {ctx.name!r} has no rows to train on ({len(rows)} before those that are too long were "
            "left out); the log lines above, and those of the stages that wrote its data, say why. Redo them "
            "with more samples, easier problems or weaker filters; allow_empty: true keeps the model of "
            f"{init} unchanged instead"
        )
    if not kept:
        ctx.log.info(f"no rows to train on: the model is that of {init}, unchanged")
    order = derive_seed(ctx.seed, "order")
    ordered = paced.batches(ctx, fitting, training, learner_config, order) if paced and kept else None
    learner = ctx.runtime.learner(model, learner_config)
    steps = len(finetune_batches(kept, training, order) if ordered is None else ordered)
    watching = HeldOutWatch(watch, tasks, chat, model, _sampling(model), steps) if watch and kept else None
    engines = [ctx.runtime.engine_of(learner)] if watching else []
    measure = partial(_measure, ctx, learner, engines[0], watching) if watching else None
    last = finetune(learner, kept, training, order, ctx.log, ctx.out, ctx.identities, measure, ordered)
    counted = {**facts, "rows": len(kept), "too_long": len(rows) - len(kept), **last}
    finish(ctx, learner, *engines, facts=counted, talk=talk)


def _sampling(model: Path) -> Sampling:
    """How the watch samples where the recipe does not say."""
    return Sampling(1, 1.0, 1.0, min(WATCH_TOKENS, read_config(model).max_positions // 2))


def _measure(
    ctx: Context, learner: LearnerProtocol, engine: Engine, watch: HeldOutWatch, step: int
) -> Metrics:
    """Measure the learner after ``step`` updates, if that is due."""
    if not watch.is_due(step):
        return {}
    ctx.runtime.hand_over(learner, engine, step)
    return watch.measure(engine, step)


def training_row(chat: Chat, prompt: Prompt, response: str) -> Row:
    """A written response as a row. What completions begin with belongs to the prompt, as in sampling. A
    response that begins with it, as every sampled one does, is trained on from there; any other response is
    trained on as a whole."""
    problem, stem, said = problem_of(prompt), chat.begun.rstrip(), response.lstrip()
    if stem and said.startswith(stem):
        rest = said.removeprefix(stem).removeprefix(chat.begun.removeprefix(stem))
        return response_row(chat.prompt_ids(problem), chat.response_ids(rest))
    return response_row(chat.prompt_ids(problem, opening=""), chat.response_ids(response))
