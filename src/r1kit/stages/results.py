"""What a stage leaves: its model, and its report."""

from collections.abc import Mapping
from typing import Any

from r1kit import figures
from r1kit.engine import Engine
from r1kit.stages.kept import clear, keep
from r1kit.stages.models import PromptStyle, keep_template
from r1kit.stages.stage import Context
from r1kit.train import checkpoint
from r1kit.train.learner import LearnerProtocol


def finish(
    ctx: Context,
    learner: LearnerProtocol,
    *others: LearnerProtocol | Engine,
    facts: Mapping[str, Any] | None = None,
    talk: PromptStyle | None = None,
) -> None:
    """End a training stage: export the learner to ctx.out/model with the template file of ``talk``, if it
    names one; write ``facts`` as its report, remove the training states, and release the learner and
    ``others``."""
    clear(ctx, "model")
    ctx.runtime.export(learner, ctx.out / "model")
    if talk is not None:
        keep_template(talk, ctx.out / "model")
    keep(ctx, "model")
    if facts is not None:
        report(ctx, **facts)
    checkpoint.discard(ctx.out)
    ctx.runtime.release(learner, *others)


def report(ctx: Context, **facts: Any) -> None:
    """Write the stage's report.json; the run's report reads it (r1kit.figures.facts). JSON has no nan: what
    could not be measured is null."""
    figures.write(ctx.out / figures.REPORT, facts)
