"""``r1kit eval``: one model's figures on held-out problems, by the same protocol as the evaluation stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1kit.records import prompt_settings
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig
from r1kit.stages.evaluate import Evaluate, evaluate_directory


def measure(model: Path, tasks: Sequence[str], n: int, limit: int) -> dict[str, Any]:
    """Evaluate the model in directory ``model``: at most ``limit`` problems of each task, ``n`` completions
    each.

    Returns the evaluation stage's figures, protocol included. Raises ConfigError for an unknown task.
    """
    settings = {
        "models": {},
        "tasks": {name: 1.0 for name in tasks},
        "problems": limit,
        "n": n,
        "general": False,
    }
    talk = prompt_settings(model)
    stage = Evaluate.parse({**settings, **({"talk": talk} if talk else {})}, "r1kit eval")
    runtime = start(LocalConfig.parse({}, "runtime"))
    try:
        return evaluate_directory(runtime, model, stage)
    finally:
        runtime.close()


def as_table(figures: Mapping[str, Any]) -> str:
    """The figures as text: one line over all tasks, one per task, and the protocol."""
    votes = next((name for name in figures if name.startswith("cons@")), "cons")
    lines = [
        f"{'task':<16}{'problems':>9}{'pass@1':>17}{votes:>10}{'format':>9}{'language':>10}{'length':>8}"
    ]
    rows = [("all", figures), *figures.get("tasks", {}).items()]
    for name, row in rows:
        pass_1 = f"{row['pass@1']:.3f} ± {row['pass@1_stderr']:.3f}"
        shares = f"{row[votes]:>10.3f}{row['format']:>9.3f}{row['language']:>10.3f}"
        lines.append(f"{name:<16}{row['n']:>9}{pass_1:>17}{shares}{row['length']:>8.1f}")
    if "direct" in figures:
        lines.append(f"forced to answer without thinking: pass@1 {figures['direct']:.3f}")
    protocol = ", ".join(f"{key} {value}" for key, value in figures.get("protocol", {}).items())
    return "\n".join([*lines, f"protocol: {protocol}"])
