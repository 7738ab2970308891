"""``r1kit eval``: one model's figures on held-out problems, by the same protocol as the evaluation stage."""

from collections.abc import Sequence
from pathlib import Path

from r1kit.figures import Evaluation
from r1kit.records import prompt_settings
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig
from r1kit.stages.evaluate import Evaluate


def measure(model: Path, tasks: Sequence[str], n: int, limit: int) -> Evaluation:
    """Evaluate the model in directory ``model``: at most ``limit`` problems of each task, ``n`` completions
    each.

    Returns what the evaluation stage writes, protocol included. Raises ConfigError for an unknown task.
    """
    settings = {"models": {}, "tasks": {name: 1.0 for name in tasks}, "problems": limit, "n": n}
    talk = prompt_settings(model)
    stage = Evaluate.parse({**settings, **({"talk": talk} if talk else {})}, "r1kit eval")
    runtime = start(LocalConfig.parse({}, "runtime"))
    try:
        held_out = stage.load_held_out()
        found, _ = stage.measure(runtime.engine(model), stage.talk.chat(model), held_out, direct=True)
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
            shares = f"{row.cons_n:>10.3f}{row.format:>9.3f}{row.language:>10.3f}"
            lines.append(
                f"{name:<16}{row.problems:>9}{f'{row.pass_1:.3f}{error}':>17}{shares}{row.length:>8.1f}"
            )
        if figures.direct is not None:
            lines.append(f"forced to answer without thinking: pass@1 {figures.direct:.3f}")
    return "\n".join([*lines, evaluation.protocol.in_words()])
