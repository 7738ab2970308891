"""The report of a run: a pure function of its folder, written as report.md, report.html and report.json.

It shows what the paper shows: every stage against every task (Nature version, table 3), R1-Zero's accuracy
and length while it trains (figures 1 and 3 there), language consistency, forced direct answers, the student,
and the same problems answered by every stage's model. What a run did not measure is left out, with a line
that says so."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1kit.files import write_whole
from r1kit.log import duration
from r1kit.records import FinishedStage, is_model
from r1kit.report import sentences
from r1kit.report.charts import Bars, Level, Line, Point, bar_chart, line_chart, smooth
from r1kit.report.document import (
    Block,
    Command,
    Document,
    Figure,
    Listing,
    Paragraph,
    Section,
    Table,
    html,
    markdown,
)
from r1kit.report.sentences import Cast, Measured, Run, cast, consensus_key, number, percent, read_run

LANGUAGE_METRICS = ("lang/target_ratio", "reward/language/mean")
EVAL_KEYS = ("pass@1", "pass@1_stderr", "cons@16", "format", "language", "length", "general", "tasks")
CURVE_TABLE_ROWS = 10


def write(run_dir: Path) -> Path:
    """Write report.md, report.html and report.json into the run's folder; return report.md.

    Raises ConfigError when a file of the run is not the JSON that it should be.
    """
    run = read_run(run_dir)
    document = compose(run)
    write_whole(
        run_dir / "report.json",
        json.dumps(summarise(run), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    )
    write_whole(run_dir / "report.html", html(document))
    write_whole(run_dir / "report.md", markdown(document))
    return run_dir / "report.md"


def summarise(run: Run) -> dict[str, Any]:
    """The report for programs. Numbers that are not finite become null."""
    return {
        "seconds": round(_seconds(run), 3),
        "peak_rss_mb": _peak(run),
        "stages": [
            {
                "stage": stage.kind,
                "name": stage.name,
                "model": str(stage.model.relative_to(run.folder)) if is_model(stage.model) else None,
                "seconds": number(stage.record.seconds),
                "eval": _finite(_eval(run, stage)),
            }
            for stage in run.stages
        ],
        "controls": _finite(run.controls),
    }


def _eval(run: Run, stage: FinishedStage) -> dict[str, Any] | None:
    model = run.model(stage.name)
    if model is None:
        return None
    return {
        key: value
        for key, value in model.figures.items()
        if key in (*EVAL_KEYS, consensus_key(model.figures))
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _seconds(run: Run) -> float:
    return sum(number(stage.record.seconds) or 0.0 for stage in run.stages)


def _peak(run: Run) -> float | None:
    peaks = [peak for stage in run.stages if (peak := number(stage.record.peak_rss_mb)) is not None]
    return max(peaks, default=None)


def compose(run: Run) -> Document:
    """The whole report as a document."""
    parts = cast(run)
    sections: list[tuple[str, Callable[[Run, Cast], list[Block]], str]] = [
        (
            "Every stage, every task",
            _stage_table,
            "No stage of this run was evaluated: add an `evaluate` stage to the recipe.",
        ),
        (
            "Accuracy and length while R1-Zero trains",
            _zero_curves,
            "This run has no R1-Zero stage with recorded steps.",
        ),
        (
            "Why the length changes, and what checking does",
            _habits,
            "There is no evaluation of both R1-Zero and its base to compare.",
        ),
        (
            "Language consistency",
            _language,
            "No stage of this run recorded language consistency while it trained.",
        ),
        ("What thinking is worth", _direct, "Forced direct answers were not measured in this run."),
        ("By difficulty", _difficulty, "Results by difficulty were not recorded in this run."),
        ("General prompts and the reward models", _general, "General prompts were not measured in this run."),
        ("The student", _student, "No student was distilled in this run."),
        (
            "The same problems, answered by every stage",
            _examples,
            "No example answers were kept in this run.",
        ),
        (
            "Controls",
            _controls,
            "This run has no controls; its differences between stages are not isolated from chance or "
            "from each other.",
        ),
        ("What every stage did", _stages, "No stage of this run is finished."),
        ("The run", _facts, ""),
        ("What to do next", _next, "There is no finished model to talk to."),
    ]
    made = [Section(title, build(run, parts) or [Paragraph(missing)]) for title, build, missing in sections]
    subtitle = f"{len(run.stages)} finished stages, {duration(_seconds(run))}"
    return Document(f"The R1 recipe: {run.name}", subtitle, sentences.headline(run), made)


def _stage_table(run: Run, parts: Cast) -> list[Block]:
    if not run.models:
        return []
    tasks = list(dict.fromkeys(task for model in run.models for task in model.figures.get("tasks", {})))
    votes = next((key for model in run.models if (key := consensus_key(model.figures))), "cons@16")
    rows = [_task_row(run.models, task, votes) for task in tasks]
    rows.append(
        [
            "**all tasks: pass@1**",
            *_best([_pass_at_1(model.figures) for model in run.models], _numbers(run.models, "pass@1")),
        ]
    )
    several = [
        key
        for key in dict.fromkeys(key for model in run.models for key in model.figures)
        if key.startswith("pass@")
    ]
    for key in (votes, *(key for key in several if key not in ("pass@1", "pass@1_stderr"))):
        rows.append([f"all tasks: {key}", *(percent(model.number(key)) for model in run.models)])
    for key, label in (("format", "format"), ("language", "language consistency")):
        rows.append([label, *(percent(model.number(key)) for model in run.models)])
    rows.append(["length (tokens)", *(_plain(model.number("length")) for model in run.models)])
    rows.append(
        [
            "general prompts",
            *(percent(model.number("general"), model.number("general_stderr")) for model in run.models),
        ]
    )
    rows.append(["forced direct answers", *(percent(model.number("direct")) for model in run.models)])
    note = (
        "In percent, except length. Of each task: pass@1 ± its standard error over problems, and below "
        f"it {votes}, the share of problems whose "
        "most frequent answer is right. A 95 % interval is about two standard errors to each side. The "
        "highest pass@1 of a line is bold. A "
        f"standard error of 0.0 means that all problems came out alike, not that the figure is exact."
    )
    table = Table(
        "Every stage's model on held-out problems.", ["", *(model.name for model in run.models)], rows, note
    )
    said = [sentences.say_consensus(run.models), _protocol(run.models)]
    return [table, *(Paragraph(text) for text in said if text)]


def _task_row(models: Sequence[Measured], task: str, votes: str) -> list[str]:
    figures = [model.figures.get("tasks", {}).get(task, {}) for model in models]
    cells = _best(
        [_pass_at_1(found) for found in figures], [number(found.get("pass@1")) for found in figures]
    )
    counts = {found["n"] for found in figures if "n" in found}
    label = f"{task} (n = {counts.pop()})" if len(counts) == 1 else task
    return [
        label,
        *(f"{cell}\n{percent(number(found.get(votes)))}" for cell, found in zip(cells, figures, strict=True)),
    ]


def _pass_at_1(figures: Mapping[str, Any]) -> str:
    return percent(number(figures.get("pass@1")), number(figures.get("pass@1_stderr")))


def _numbers(models: Sequence[Measured], key: str) -> list[float | None]:
    return [model.number(key) for model in models]


def _best(cells: Sequence[str], values: Sequence[float | None]) -> list[str]:
    known = [value for value in values if value is not None]
    best = max(known, default=None) if len(set(known)) > 1 else None
    return [
        f"**{cell}**" if value is not None and value == best else cell
        for cell, value in zip(cells, values, strict=True)
    ]


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _protocol(models: Sequence[Measured]) -> str:
    protocols = {
        json.dumps(model.figures["protocol"], sort_keys=True)
        for model in models
        if "protocol" in model.figures
    }
    if len(protocols) != 1:
        return (
            "The models were measured under different protocols; see report.json."
            if protocols
            else "The protocol was not recorded."
        )
    protocol = json.loads(protocols.pop())
    return (
        "Protocol: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in protocol.items()) + "."
    )


def _zero_curves(run: Run, parts: Cast) -> list[Block]:
    if parts.zero is None:
        return []
    accuracy, length = (
        run.curve(parts.zero, "reward/accuracy/mean"),
        run.curve(parts.zero, "completions/mean_length"),
    )
    base, zero = run.model(parts.base), run.model(parts.zero)
    blocks: list[Block] = []
    if accuracy:
        levels = [
            Level(f"{model.name}, held out", value, 5)
            for model in (base, zero)
            if model and (value := model.number("pass@1")) is not None
        ]
        votes = consensus_key(zero.figures) if zero else None
        if zero and votes and (value := zero.number(votes)) is not None:
            levels.append(Level(f"{zero.name}, {votes}", value, 1))
        caption = (
            "Accuracy on the training problems of each step: thin as measured, thick smoothed. Dashed: "
            "held-out problems before and after, "
            "one sample (pass@1) and the majority of samples. Compare the paper's figure on AIME "
            "accuracy during training."
        )
        blocks.append(
            _curves("Accuracy of R1-Zero", {"training": accuracy}, "accuracy", caption, levels, (0.0, 1.0))
        )
    if length:
        caption = (
            "Mean length of a response on the training problems. Compare the paper's figure on response "
            "length during training."
        )
        blocks.append(
            _curves("Response length of R1-Zero", {"training": length}, "tokens per response", caption)
        )
    return blocks


def _curves(
    title: str,
    curves: Mapping[str, Sequence[Point]],
    y_label: str,
    caption: str,
    levels: Sequence[Level] = (),
    y_range: Point | None = None,
) -> Figure:
    """Curves over steps, each thin as measured and thick smoothed over a twelfth of its steps."""
    lines = [Line(name, points, colour, faint=True) for colour, (name, points) in enumerate(curves.items())]
    lines += [
        Line(name, smooth(points, len(points) // 12), colour)
        for colour, (name, points) in enumerate(curves.items())
    ]
    steps = max((len(points) for points in curves.values()), default=0)
    chosen = (
        sorted({round(place * (steps - 1) / (CURVE_TABLE_ROWS - 1)) for place in range(CURVE_TABLE_ROWS)})
        if steps
        else []
    )
    smoothed = [smooth(points, len(points) // 12) for points in curves.values()]
    rows = [
        [f"{place + 1}", *(f"{points[place][1]:.3g}" if place < len(points) else "–" for points in smoothed)]
        for place in chosen
    ]
    numbers = Table(f"{title} (smoothed)", ["step", *curves], rows)
    return Figure(line_chart(title, lines, "step", y_label, levels, y_range), caption, numbers)


def _habits(run: Run, parts: Cast) -> list[Block]:
    base, zero = run.model(parts.base), run.model(parts.zero)
    if base is None or zero is None:
        return []
    keys = {
        "worked_share": "responses that work it out, %",
        "worked_length": "tokens of those",
        "recheck_share": "responses that re-check, %",
        "recheck_accuracy": "those are right, %",
        "wait_share": "responses that take a step back, %",
        "wait_accuracy": "those are right, %",
        "truncated": "cut off at the limit, %",
    }
    counted = [key for key in keys if any(model.number(key) is not None for model in run.models)]
    blocks: list[Block] = [
        Paragraph(" ".join(told))
        for told in (sentences.say_length(base, zero), sentences.say_checking(base, zero))
        if told
    ]
    if counted:
        rows = [
            [
                keys[key],
                *(
                    _plain(model.number(key)) if key.endswith("length") else percent(model.number(key))
                    for model in run.models
                ),
            ]
            for key in counted
        ]
        blocks.append(
            Table(
                "How the models think, counted in their evaluation samples.",
                ["", *(model.name for model in run.models)],
                rows,
            )
        )
    else:
        blocks.append(Paragraph("Working, re-checking and stepping back were not counted in this run."))
    return blocks


def _language(run: Run, parts: Cast) -> list[Block]:
    curves = {}
    for stage in run.stages:
        found = next((curve for metric in LANGUAGE_METRICS if (curve := run.curve(stage.name, metric))), None)
        if found:
            curves[stage.name] = found
    zero, final = run.model(parts.zero), run.model(parts.final)
    said = " ".join(sentences.say_final(zero, final)) if zero and final and zero is not final else ""
    blocks: list[Block] = [Paragraph(said)] if said else []
    if curves:
        caption = (
            "Share of the thinking that is in the prompt's language, on the training problems of each step."
        )
        blocks.append(
            _curves(
                "Language consistency in training", curves, "language consistency", caption, (), (0.0, 1.0)
            )
        )
    elif blocks:
        blocks.append(Paragraph("No stage of this run recorded language consistency while it trained."))
    return blocks


def _direct(run: Run, parts: Cast) -> list[Block]:
    models = [model for model in run.models if model.number("direct") is not None]
    if not models:
        return []
    series = [
        Bars("thinking first", _numbers(models, "pass@1"), _numbers(models, "pass@1_stderr"), 0),
        Bars("answering at once", _numbers(models, "direct"), [None] * len(models), 1),
    ]
    rows = [
        [model.name, percent(model.number("pass@1")), percent(model.number("direct"))] for model in models
    ]
    table = Table("pass@1 with and without thinking, %", ["", "thinking first", "answering at once"], rows)
    chart = bar_chart(
        "Thinking against direct answers", [model.name for model in models], series, "pass@1", (0.0, 1.0)
    )
    said = [sentences.say_direct(model) for model in models if model.stage in (parts.zero, parts.final)]
    caption = (
        "pass@1 on the same problems when the model may think, and when an empty thinking is put before "
        "its answer."
    )
    return [*(Paragraph(text) for text in said), Figure(chart, caption, table)]


def _difficulty(run: Run, parts: Cast) -> list[Block]:
    stages = dict.fromkeys((parts.base, parts.zero, parts.final))
    chosen = [model for name in stages if (model := run.model(name)) and model.figures.get("by_difficulty")]
    levels = sorted({level for model in chosen for level in model.figures["by_difficulty"]}, key=_as_number)
    if len(levels) < 2:
        return []
    lines, rows = [], []
    for colour, model in enumerate(chosen):
        found = model.figures["by_difficulty"]
        points = [
            (_as_number(level), value)
            for level in levels
            if (value := number(found.get(level, {}).get("pass@1"))) is not None
        ]
        lines.append(Line(model.name, points, colour))
    for level in levels:
        cells = [
            percent(number(model.figures["by_difficulty"].get(level, {}).get("pass@1"))) for model in chosen
        ]
        counts = [model.figures["by_difficulty"].get(level, {}).get("n") for model in chosen]
        rows.append([level, *cells, str(next((count for count in counts if count is not None), "–"))])
    table = Table(
        "pass@1 by difficulty, %", ["difficulty", *(model.name for model in chosen), "problems"], rows
    )
    chart = line_chart(
        "pass@1 by difficulty", lines, "difficulty, as the task rates it", "pass@1", (), (0.0, 1.0)
    )
    return [
        Figure(
            chart,
            "pass@1 on held-out problems by difficulty; the numbers say how many problems each level has.",
            table,
        )
    ]


def _as_number(level: str) -> float:
    try:
        return float(level)
    except ValueError:
        return math.inf


def _general(run: Run, parts: Cast) -> list[Block]:
    kinds = list(
        dict.fromkeys(kind for model in run.models for kind in model.figures.get("general_kinds", {}))
    )
    blocks: list[Block] = []
    if kinds:
        models = [model for model in run.models if "general_kinds" in model.figures]
        rows = [
            [kind, *(percent(number(model.figures["general_kinds"].get(kind))) for model in models)]
            for kind in kinds
        ]
        rows.append(
            [
                "**all**",
                *(percent(model.number("general"), model.number("general_stderr")) for model in models),
            ]
        )
        blocks.append(
            Table("Gold score on held-out general prompts, %.", ["", *(model.name for model in models)], rows)
        )
    said = sentences.say_judges(run)
    if said and parts.final:
        curves = {
            "judges": run.curve(parts.final, "watch/judges"),
            "gold": run.curve(parts.final, "watch/gold"),
        }
        caption = (
            "The judges' own score and the gold score on held-out general prompts while the final model "
            "trains. Compare the paper's figure 6."
        )
        blocks += [Paragraph(" ".join(said)), _curves("Judges and gold", curves, "score", caption)]
    if not blocks and any(model.number("general") is not None for model in run.models):
        blocks.append(
            Paragraph("General prompts were measured as a whole only; they are a line of the stage table.")
        )
    return blocks


def _student(run: Run, parts: Cast) -> list[Block]:
    said = sentences.say_student(run)
    models = [
        model for name in (parts.student, parts.distilled, parts.student_rl) if (model := run.model(name))
    ]
    if not said or not models:
        return []
    rows = [
        [
            m.name,
            _pass_at_1(m.figures),
            percent(m.number(consensus_key(m.figures) or "")),
            percent(m.number("general")),
        ]
        for m in models
    ]
    return [
        Paragraph(" ".join(said)),
        Table("The student, %.", ["", "pass@1", "majority", "general prompts"], rows),
    ]


def _examples(run: Run, parts: Cast) -> list[Block]:
    blocks: list[Block] = []
    for place, example in enumerate(run.examples, 1):
        truth = example.get("answer")
        heading = f"Problem {place}, {example.get('task', 'task unknown')}"
        entries = [("problem", str(example.get("problem", "")))]
        entries += [] if truth is None else [("right answer", str(truth))]
        entries += [(str(name), str(text)) for name, text in example.get("outputs", {}).items()]
        blocks.append(Listing(heading, entries))
    return blocks and [
        Paragraph("One sample of every model for the same problems, letter for letter."),
        *blocks,
    ]


def _controls(run: Run, parts: Cast) -> list[Block]:
    if not run.controls:
        return []
    blocks: list[Block] = []
    for title, control in run.controls.items():
        rows = (
            {str(name): _leaves(figures) for name, figures in control.items()}
            if isinstance(control, Mapping)
            else {"": _leaves(control)}
        )
        columns = list(dict.fromkeys(key for leaves in rows.values() for key in leaves))
        table = [[name, *(leaves.get(key, "–") for key in columns)] for name, leaves in rows.items()]
        blocks.append(Table(f"Control: {title}.", ["", *columns], table))
    return blocks


def _leaves(value: Any, prefix: str = "") -> dict[str, str]:
    """The scalars of nested data by dotted name; lists are only counted."""
    if isinstance(value, Mapping):
        return {
            key: leaf
            for name, inner in value.items()
            for key, leaf in _leaves(inner, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {
        prefix or "value": f"{len(value)} values"
        if isinstance(value, list)
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    }


def _stages(run: Run, parts: Cast) -> list[Block]:
    if not run.stages:
        return []
    rows = []
    for stage in run.stages:
        seconds, peak = number(stage.record.seconds), number(stage.record.peak_rss_mb)
        inputs = "\n".join(stage.record.inputs) or "–"
        row = [
            stage.name,
            stage.kind,
            inputs,
            duration(seconds) if seconds is not None else "–",
            "–" if peak is None else f"{peak:.0f}",
        ]
        rows.append([*row, _scalars(stage)])
    return [
        Table(
            "The stages in the recipe's order.",
            ["", "kind", "reads", "time", "peak MB", "what it reports"],
            rows,
        )
    ]


def _scalars(stage: FinishedStage, most: int = 6) -> str:
    """The stage's own figures in short, one a line."""
    found = {
        key: value
        for key, value in stage.report().items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    lines = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value:,}"
        for key, value in found.items()
    ]
    return (
        "\n".join([*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]) or "–"
    )


def _facts(run: Run, parts: Cast) -> list[Block]:
    peak, environment = _peak(run), run.environment
    recorded: Mapping[str, str] = next(
        (stage.record.versions for stage in run.stages if stage.record.versions), {}
    )
    versions = environment.get("versions") or recorded
    facts = {
        "time of all stages": duration(_seconds(run)),
        "peak memory": "not recorded" if peak is None else f"{peak:.0f} MB",
        "seed": str(run.recipe.get("seed", "not recorded")),
        "platform": str(environment.get("platform", "not recorded")),
        "processors": str(environment.get("cpus", "not recorded")),
        "sandbox for programs": str(environment.get("sandbox", "not recorded")),
        "source revision": str(environment.get("git") or "not recorded"),
        **{name: str(version) for name, version in versions.items()},
    }
    blocks: list[Block] = [Table("Facts.", ["", "value"], [[name, value] for name, value in facts.items()])]
    if environment.get("command"):
        blocks += [Paragraph("Made by:"), Command([str(environment["command"])])]
    return blocks


def _next(run: Run, parts: Cast) -> list[Block]:
    models = [stage.name for stage in run.stages if is_model(stage.model)]
    if not models:
        return []
    chosen = parts.final if parts.final in models else models[-1]
    lines = [
        f"r1kit chat {run.folder}" if chosen == parts.final else f"r1kit chat {run.folder} --stage {chosen}"
    ]
    if parts.zero in models and parts.zero != chosen:
        lines.append(f"r1kit chat {run.folder} --stage {parts.zero}")
    lines.append(f"r1kit export {run.folder} --stage {chosen} --to {run.name}-{chosen}")
    return [
        Paragraph(
            "Talk to the result, compare it with R1-Zero, or take the model away as a Hugging Face folder:"
        ),
        Command(lines),
    ]
