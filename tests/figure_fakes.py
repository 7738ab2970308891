"""Made-up figures of an evaluation, as the evaluate stage writes them, and stages of a finished run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1kit.figures import (
    DifficultyScores,
    Evaluation,
    GeneralProtocol,
    GeneralScores,
    Habit,
    ModelFigures,
    Protocol,
    Scores,
    write,
)

PROTOCOL = Protocol(
    problems=104,
    n=16,
    temperature=1.0,
    top_p=1.0,
    max_tokens=96,
    direct_n=4,
    general=GeneralProtocol(40, 4, "gold_score"),
)


def scores(pass_1: float, **changes: Any) -> Scores:
    made = Scores(
        problems=52,
        pass_1=pass_1,
        pass_1_stderr=0.02,
        pass_n=0.99,
        cons_n=min(1.0, pass_1 + 0.1),
        format=0.9,
        language=0.6,
        length=45.0,
    )
    return replace(made, **changes)


def model_figures(
    pass_1: float,
    habits: Mapping[str, Habit] | None = None,
    direct: float | None = None,
    general: float | None = 0.5,
    **changes: Any,
) -> ModelFigures:
    """A model of this pass@1; ``changes`` are those of its overall scores."""
    return ModelFigures(
        overall=scores(pass_1, **{"problems": 104, "pass_1_stderr": 0.012, **changes}),
        tasks={task: scores(pass_1) for task in ("chain", "code|<b>")},
        by_difficulty=(
            DifficultyScores(difficulty=10.0, problems=4, pass_1=pass_1 / 2, length=60.0),
            DifficultyScores(difficulty=3.0, problems=9, pass_1=pass_1, length=30.0),
        ),
        truncated=0.0,
        habits=habits or {},
        direct=direct,
        general=None if general is None else GeneralScores(general, None, {"open": general}),
    )


def evaluation(
    models: Mapping[str, ModelFigures], controls: Mapping[str, tuple[str, ...]] | None = None
) -> Evaluation:
    return Evaluation(PROTOCOL, models, (), controls or {})


def write_stage(
    run: Path,
    name: str,
    kind: str,
    *,
    inputs: Sequence[str] = (),
    report: Any = None,
    seconds: float = 10.0,
    **config: Any,
) -> None:
    """A finished stage of this kind, configuration and report in the run's folder."""
    folder = run / "stages" / name
    folder.mkdir(parents=True)
    record = {
        "stage": kind,
        "name": name,
        "config": config,
        "seed": 0,
        "files": {},
        "setting": {},
        "outputs": {},
        "inputs": {name: "0" for name in inputs},
        "seconds": seconds,
    }
    (folder / "stage.json").write_text(
        json.dumps({**record, "peak_rss_mb": 1000.0, "finished": 1_800_000_000.0})
    )
    if report is not None:
        write(folder / "report.json", report)
