"""A run whose stages have nano models, for the tests of the playground."""

import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from small_world import model_directory, tokenizer
from web_fakes import write_run

from r1kit.engine.live import LiveBatch
from r1kit.records import ModelNotes, StageRecord, mark_outputs, stage_folder, write_notes
from r1kit.serve.served import Served
from r1kit.stages.models import PromptStyle
from r1kit.web.talk_models import LIMITS, SAMPLING, Talker

STAGES = {"base": "pretrain", "zero": "r1_zero", "student": "distill"}


def finish_stage(
    run: Path, name: str, kind: str, finished: float, seed: int = 1, opening: str = "", **overrides: object
) -> Path:
    """Give the run a finished stage with a model, whose completions begin with ``opening``; return its
    folder."""
    folder = stage_folder(run, name)
    record = StageRecord(stage=kind, name=name)
    folder.begin(record)
    model_directory(folder.partial / "model", seed, **overrides)
    if overrides:
        never_end(folder.partial / "model")
    if opening:
        talk = PromptStyle(opening=opening).model_dump(mode="json")
        write_notes(folder.partial / "model", ModelNotes(talk=talk))
    outputs = mark_outputs(folder.partial)
    folder.write(record.model_copy(update={"outputs": outputs, "finished": finished}))
    folder.finish()
    return folder.final / "model"


def never_end(model: Path) -> None:
    """Let a model with tied embeddings never end at temperature 0: the logit of an end token is always 0."""
    file, embedding = model / "model.safetensors", "model.embed_tokens.weight"
    weights = load_file(file)
    weights[embedding][list(tokenizer().end_ids)] = 0.0
    save_file(weights, file, {"format": "pt"})


def talking_run(run: Path, tasks: str = "{mul: 1, own.py:Chess: 1}", **overrides: object) -> Path:
    """A run of three finished stages with models, one unfinished stage, and a recipe with tasks."""
    write_run(run)
    (run / "recipe.yaml").write_text(
        "name: small\nstages:\n- {stage: pretrain, name: base}\n"
        f"- {{stage: r1_zero, name: zero, init: '@base', tasks: {tasks}, grpo: {{steps: 10}}}}\n"
    )
    for place, (name, kind) in enumerate(STAGES.items()):
        finish_stage(run, name, kind, 1000.0 + place, seed=place + 1, **overrides)
    stage_folder(run, "late").begin(StageRecord(stage="sft", name="late"))
    return run


class SlowBatch:
    """A running batch that draws one token in 10 ms, so that an answer can be stopped while it is written."""

    def __init__(self, batch: LiveBatch) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def step(self, steps: int) -> None:
        time.sleep(0.01)
        self._batch.step(1)


class BrokenBatch(SlowBatch):
    """A running batch that raises in ``method``."""

    def __init__(self, batch: LiveBatch, method: str) -> None:
        super().__init__(batch)
        self._method = method

    def __getattribute__(self, name: str) -> Any:
        if name in ("join", "step") and name == object.__getattribute__(self, "_method"):
            raise ValueError("out of order")
        return super().__getattribute__(name)


def broken_once(talker: Talker, method: str) -> Served:
    """A served model whose first batch raises in ``method``, and whose next is sound."""
    served = Served.load(talker.folder, talker.stage, SAMPLING, LIMITS)
    opened, made = served.engine.open, []

    def open_batch(rows: int, positions: int, memory: int) -> LiveBatch:
        made.append(opened(rows, positions, memory))
        return BrokenBatch(made[0], method) if len(made) == 1 else made[-1]

    served.engine.open = open_batch
    return served


def slowly(talker: Talker) -> Served:
    """A served model with such a batch."""
    served = Served.load(talker.folder, talker.stage, SAMPLING, LIMITS)
    opened = served.engine.open
    served.engine.open = lambda *given: SlowBatch(opened(*given))
    return served
