"""Supervised fine-tuning of the base model again (DeepSeek-R1, Nature version, supplement B.3.3 and B.4.2).

In the paper: 800k samples (600k reasoning by rejection sampling, 200k general), two to three epochs, from
V3-Base and not from the RL checkpoint. ``data`` are JSON Lines files of {"prompt", "completion"} (TRL's
columns), written by other stages or by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from r1kit.chat import Chat, Prompt, problem_of
from r1kit.config import InputError, R1kitError
from r1kit.data.sources import BadRows, pairs, read_pair
from r1kit.jsonl import first_error
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, model_of
from r1kit.stages.results import finish
from r1kit.stages.stage import Context, Stage, StagePlan, TrainingPhase
from r1kit.train.learner import LearnerConfig
from r1kit.train.supervised import SupervisedConfig, finetune, response_row
from r1kit.types import Row


class SFT(Stage):
    """Fine-tune ``init`` on ``data``. ``bad_rows: quarantine`` leaves out rows that cannot be read, up to 5 %
    of a file (jsonl.py)."""

    writes: ClassVar[tuple[str, ...]] = ("model", "report.json")

    stage: Literal["sft"] = "sft"
    init: str = "@pretrain"
    data: list[str] = ["@rejection_sampling/data.jsonl"]
    bad_rows: BadRows = "error"
    talk: PromptStyle = PromptStyle()
    training: SupervisedConfig = SupervisedConfig()
    learner: LearnerConfig = LearnerConfig()

    def input_errors(self) -> Iterator[InputError]:
        for place, file in enumerate(self.data):
            if file and not file.startswith("@"):
                error = first_error(Path(file).expanduser(), read_pair, self.bad_rows)
                if error is not None:
                    yield ("data", place), error

    def run(self, ctx: Context) -> None:
        rows = []
        for file in self.data:
            found = pairs(ctx.path(file), self.bad_rows)
            if not found and not file.startswith("@"):  # a stage may have kept nothing
                raise R1kitError(f'{file}: no rows; a row is {{"prompt": ..., "completion": ...}}')
            rows += found
        finetune_on(ctx, self.init, rows, self.talk, self.training, self.learner)

    def plan(self) -> StagePlan:
        return StagePlan(phases=(tuning_phase(self.init, self.learner, self.training, tuple(self.data)),))


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


def finetune_on(
    ctx: Context,
    init: str,
    written: list[tuple[Prompt, str]],
    talk: PromptStyle,
    training: SupervisedConfig,
    learner_config: LearnerConfig,
) -> None:
    """Train ``init`` on (prompt, response) texts and export it to ctx.out/model."""
    model = model_of(ctx.path(init))
    chat = talk.chat(model)
    rows = [training_row(chat, prompt, response) for prompt, response in written]
    kept = [row for row in rows if len(row.token_ids) <= learner_config.context + 1]
    if len(kept) < len(rows):
        ctx.log.info(
            f"{len(rows) - len(kept)} of {len(rows)} rows left out, longer than learner.context "
            f"{learner_config.context}"
        )
    if not kept:
        ctx.log.info(f"no rows to train on: the model is that of {init}, unchanged")
    learner = ctx.runtime.learner(model, learner_config)
    order = derive_seed(ctx.seed, "order")
    last = finetune(learner, kept, training, order, ctx.log, ctx.out, ctx.identities)
    finish(ctx, learner, facts={"rows": len(kept), "too_long": len(rows) - len(kept), **last})


def training_row(chat: Chat, prompt: Prompt, response: str) -> Row:
    """A written response as a row. What completions begin with belongs to the prompt, as in sampling. A
    response that begins with it, as every sampled one does, is trained on from there; any other response is
    trained on as a whole."""
    problem, stem = problem_of(prompt), chat.begun.rstrip()
    if stem and response.startswith(stem):
        rest = response.removeprefix(stem).removeprefix(chat.begun.removeprefix(stem))
        return response_row(chat.prompt_ids(problem), chat.response_ids(rest))
    return response_row(chat.prompt_ids(problem, opening=""), chat.response_ids(response))
