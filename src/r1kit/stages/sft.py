"""Supervised fine-tuning of the base model again (DeepSeek-R1, Nature version, supplement B.3.3 and B.4.2).

In the paper: 800k samples (600k reasoning by rejection sampling, 200k general), two to three epochs, from
V3-Base and not from the RL checkpoint. ``data`` are JSON Lines files of {"prompt", "completion"} or
{"messages"} (TRL's columns), or ShareGPT's {"conversations"}, written by other stages or by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from r1kit.chat import Chat, Prompt, problem_of
from r1kit.config import InputError, R1kitError
from r1kit.data.sources import BadRows, Turns, pairs, read_pairs
from r1kit.jsonl import first_error
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, model_of
from r1kit.stages.results import finish
from r1kit.stages.stage import Context, Stage
from r1kit.train.learner import LearnerConfig
from r1kit.train.supervised import SupervisedConfig, finetune, response_row
from r1kit.types import Row


class SFT(Stage):
    """Fine-tune ``init`` on ``data``. Of a conversation (``messages``) the last assistant turn is trained on,
    with ``turns: all`` each of them. ``bad_rows: quarantine`` leaves out rows that cannot be read, up to 5 %
    of a file (jsonl.py). Without any row the stage stops; ``allow_empty`` keeps the model as it is
    instead."""

    writes: ClassVar[tuple[str, ...]] = ("model", "report.json")

    stage: Literal["sft"] = "sft"
    init: str = "@pretrain"
    data: list[str] = ["@rejection_sampling/data.jsonl"]
    turns: Turns = "last"
    bad_rows: BadRows = "error"
    allow_empty: bool = False
    talk: PromptStyle = PromptStyle()
    training: SupervisedConfig = SupervisedConfig()
    learner: LearnerConfig = LearnerConfig()

    def input_errors(self) -> Iterator[InputError]:
        for place, file in enumerate(self.data):
            if file and not file.startswith("@"):
                error = first_error(Path(file).expanduser(), read_pairs, self.bad_rows)
                if error is not None:
                    yield ("data", place), error

    def run(self, ctx: Context) -> None:
        rows = []
        for file in self.data:
            found = pairs(ctx.path(file), self.bad_rows, self.turns)
            if not found and not file.startswith("@"):  # a stage may have kept nothing
                raise R1kitError(f'{file}: no rows; a row is {{"prompt": ..., "completion": ...}}')
            rows += found
        finetune_on(ctx, self.init, rows, self.talk, self.training, self.learner, self.allow_empty)


def finetune_on(
    ctx: Context,
    init: str,
    written: list[tuple[Prompt, str]],
    talk: PromptStyle,
    training: SupervisedConfig,
    learner_config: LearnerConfig,
    allow_empty: bool = False,
) -> None:
    """Train ``init`` on (prompt, response) texts and export it to ctx.out/model. Raises R1kitError where
    there is nothing to train on, unless ``allow_empty``."""
    model = model_of(ctx.path(init))
    chat = talk.chat(model)
    rows = [training_row(chat, prompt, response) for prompt, response in written]
    kept = [row for row in rows if len(row.token_ids) <= learner_config.context + 1]
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
    learner = ctx.runtime.learner(model, learner_config)
    order = derive_seed(ctx.seed, "order")
    last = finetune(learner, kept, training, order, ctx.log, ctx.out, ctx.identities)
    facts = {"rows": len(kept), "too_long": len(rows) - len(kept), **last}
    finish(ctx, learner, facts=facts, talk=talk)


def training_row(chat: Chat, prompt: Prompt, response: str) -> Row:
    """A written response as a row. What completions begin with belongs to the prompt, as in sampling. A
    response that begins with it, as every sampled one does, is trained on from there; any other response is
    trained on as a whole."""
    problem, stem = problem_of(prompt), chat.begun.rstrip()
    if stem and response.startswith(stem):
        rest = response.removeprefix(stem).removeprefix(chat.begun.removeprefix(stem))
        return response_row(chat.prompt_ids(problem), chat.response_ids(rest))
    return response_row(chat.prompt_ids(problem, opening=""), chat.response_ids(response))
