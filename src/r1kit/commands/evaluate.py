"""``r1kit eval``: one model's figures on held-out problems, by the same protocol as the evaluation stage."""

from collections.abc import Sequence
from pathlib import Path

from r1kit.figures import Evaluation
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig
from r1kit.stages.evaluate import Evaluate
from r1kit.stages.models import PromptStyle, prompt_style_of


def measure(
    model: Path,
    tasks: Sequence[str],
    n: int,
    limit: int,
    style: PromptStyle | None = None,
    **settings: float | None,
) -> Evaluation:
    """Evaluate the model in directory ``model``: at most ``limit`` problems of each task, ``n`` completions
    each. ``style`` is how it is prompted, by default as it was trained; ``settings`` are further keys of the
    evaluation stage (max_tokens, temperature; None: its default).

    Returns what the evaluation stage writes, protocol included. Raises ConfigError for an unknown task, and
    R1kitError for prompts that the tokenizer cannot write.
    """
    named = {"models": {}, "tasks": {name: 1.0 for name in tasks}, "problems": limit, "n": n}
    given = {name: value for name, value in settings.items() if value is not None}
    stage = Evaluate.parse({**named, **given}, "r1kit eval")
    chat = (style or prompt_style_of(model, PromptStyle())).chat(model)
    runtime = start(LocalConfig.parse({}, "runtime"))
    try:
        held_out = stage.load_held_out()
        found, _ = stage.measure(runtime.engine(model), chat, held_out, direct=True)
    finally:
        runtime.close()
    return Evaluation(stage.protocol(held_out, direct=True), {str(model): found}, (), {})


def as_table(evaluation: Evaluation) -> str:
    """The figures as text: one line over all tasks, one per task, and the protocol."""
    votes = f"cons@{evaluation.protocol.n}"
    lines = [
        f"{'task':<16}{'problems':>9}{'pass@1':>17}{votes:>10}{'format':>9}{'language':>10}{'length':>8}"
    ]
    for figures in evaluation.models.values():
        for name, row in (("all", figures.overall), *figures.tasks.items()):
            error = "" if row.pass_1_stderr is None else f" ± {row.pass_1_stderr:.3f}"
            language = "-" if row.language is None else f"{row.language:.3f}"
            shares = f"{row.cons_n:>10.3f}{row.format:>9.3f}{language:>10}"
            lines.append(
                f"{name:<16}{row.problems:>9}{f'{row.pass_1:.3f}{error}':>17}{shares}{row.length:>8.1f}"
            )
        if figures.direct is not None:
            lines.append(f"forced to answer without thinking: pass@1 {figures.direct:.3f}")
    return "\n".join([*lines, evaluation.protocol.in_words()])
