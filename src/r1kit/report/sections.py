"""The sections of a run's report: tables, charts and paragraphs made of its figures.

A section is a function of the run and its roles; it returns no blocks where the run did not measure what it
shows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from r1kit.figures import FACTS, PREFLIGHT, ModelFigures, Scores
from r1kit.figures.reflection import WORDS
from r1kit.health import find_signs
from r1kit.log import duration
from r1kit.records import FinishedStage, is_model
from r1kit.report import sentences
from r1kit.report.charts import Bars, Level, Line, Point, bar_chart, line_chart, smooth
from r1kit.report.document import Block, Command, Figure, Link, Listing, Paragraph, Table
from r1kit.report.paper_distillation import distillation_table
from r1kit.report.reflection import reflection_curve
from r1kit.report.run import Measured, Measurement, Roles, Run, number, peak_mb_of, read_facts, seconds_of
from r1kit.report.sentences import percent, votes_of

LANGUAGE_METRICS = ("lang/target_ratio", "reward/language/mean")
CURVE_TABLE_ROWS = 10  # of a curve as a table
FINDINGS = "docs/findings.md"
_FEWEST_FOLDED = 2  # lines with which all problems begin
DASH = "–"
HABITS = {
    sentences.WORKED: "responses that work the problem out",
    sentences.RECHECK: "responses that check a result again",
    sentences.STEP_BACK: 'responses that take something back ("wait")',
}

Value = Callable[[ModelFigures], float | None]


def stage_table(run: Run, roles: Roles) -> list[Block]:
    """Every model against every task."""
    models = run.models
    if not models:
        return []
    rows = [_task_row(models, task) for task in _names(model.figures.tasks for model in models)]
    overall = [model.figures.overall for model in models]
    votes = votes_of(models)
    rows += [
        ["**all tasks: pass@1**", *_best([_pass_1(scores) for scores in overall], overall)],
        [f"all tasks: {votes}", *(percent(scores.cons_n) for scores in overall)],
        [f"all tasks: {votes.replace('cons', 'pass')}", *(percent(scores.pass_n) for scores in overall)],
        ["exact format", *(percent(scores.format) for scores in overall)],
        ["language consistency", *(percent(scores.language) for scores in overall)],
        ["length (tokens)", *(f"{scores.length:.1f}" for scores in overall)],
        [_with_count("answers without thinking", direct_counts(models)), *map(_direct, models)],
        [_with_count("general prompts", general_counts(models)), *map(_general, models)],
    ]
    note = (
        "In percent, except the length. A task's cell: pass@1 ± its standard error over problems, and below "
        f"it {votes}, the share of problems whose most frequent answer is right. The true value lies within "
        "two standard errors in about 95 % of cases. The highest pass@1 of a line is bold. "
        f"{votes.replace('cons', 'pass')}: the share of problems with at least one right sample. Exact "
        "format: samples that follow the template and end by themselves. Language consistency: the share of "
        "the thinking's words that are in the problem's language."
    )
    table = Table("Every stage's model on held-out problems.", ["", *_model_names(models)], rows, note)
    said = [sentences.say_consensus(models), *_protocols(models)]
    return [table, *(Paragraph(text) for text in said if text)]


def _task_row(models: Sequence[Measured], task: str) -> list[str]:
    scores = [model.figures.tasks.get(task) for model in models]
    cells = _best([DASH if own is None else _pass_1(own) for own in scores], scores)
    counts = {own.problems for own in scores if own is not None}
    label = f"{task} ({counts.pop()} problems)" if len(counts) == 1 else task
    below = [DASH if own is None else percent(own.cons_n) for own in scores]
    return [label, *(f"{cell}\n{vote}" for cell, vote in zip(cells, below, strict=True))]


def _pass_1(scores: Scores) -> str:
    return percent(scores.pass_1, scores.pass_1_stderr)


def _best(cells: Sequence[str], scores: Sequence[Scores | None]) -> list[str]:
    """The cells, with the highest pass@1 in bold unless all are equal."""
    values = {own.pass_1 for own in scores if own is not None}
    best = max(values) if len(values) > 1 else None
    return [
        f"**{cell}**" if own is not None and own.pass_1 == best else cell
        for cell, own in zip(cells, scores, strict=True)
    ]


def _direct(model: Measured) -> str:
    return percent(model.figures.direct)


def _general(model: Measured) -> str:
    general = model.figures.general
    return DASH if general is None else percent(general.score, general.stderr)


def direct_counts(models: Sequence[Measured]) -> set[int]:
    """The numbers of samples per problem with which models were measured without thinking."""
    return {model.protocol.direct_n for model in models if model.protocol.direct_n is not None}


def general_counts(models: Sequence[Measured]) -> set[int]:
    """The numbers of answers per general prompt with which models were measured."""
    return {model.protocol.general.n for model in models if model.protocol.general is not None}


def _with_count(label: str, counts: set[int]) -> str:
    return f"{label} ({' or '.join(map(str, sorted(counts)))} samples)" if counts else label


def _protocols(models: Sequence[Measured]) -> list[str]:
    """The protocol of the models in words; with several, the models of each."""
    named: dict[str, list[str]] = {}
    for model in models:
        named.setdefault(model.protocol.in_words(), []).append(model.name)
    if len(named) == 1:
        return list(named)
    return ["The models were measured under different protocols, so their figures cannot be compared."] + [
        f"{', '.join(names)}: {words}" for words, names in named.items()
    ]


def zero_curves(run: Run, roles: Roles) -> list[Block]:
    """Accuracy and length of R1-Zero over its steps."""
    if roles.zero is None:
        return []
    accuracy = run.curve(roles.zero, "reward/accuracy/mean")
    length = run.curve(roles.zero, "completions/mean_length")
    blocks: list[Block] = []
    if accuracy:
        caption = (
            "Accuracy on the training problems of each step: thin as measured, thick smoothed. Dashed: "
            "accuracy on held-out problems before and after training, of one sample (pass@1) and of the most "
            "frequent answer. Compare the paper's figure on AIME accuracy during training."
        )
        levels = _held_out_levels(run.model(roles.base), run.model(roles.zero))
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


def _held_out_levels(base: Measured | None, zero: Measured | None) -> list[Level]:
    levels = [
        Level(f"{model.name}, held out", model.figures.overall.pass_1, 5) for model in (base, zero) if model
    ]
    if zero:
        levels.append(Level(f"{zero.name}, {votes_of([zero])}", zero.figures.overall.cons_n, 1))
    return levels


def _curves(
    title: str,
    curves: Mapping[str, Sequence[Point]],
    y_label: str,
    caption: str,
    levels: Sequence[Level] = (),
    y_range: Point | None = None,
) -> Figure:
    """Curves over steps, each thin as measured and thick smoothed over a twelfth of its steps."""
    smoothed = {name: smooth(points, len(points) // 12) for name, points in curves.items()}
    lines = [Line(name, points, colour, faint=True) for colour, (name, points) in enumerate(curves.items())]
    lines += [Line(name, points, colour) for colour, (name, points) in enumerate(smoothed.items())]
    steps = max(len(points) for points in curves.values())
    chosen = sorted(
        {round(place * (steps - 1) / (CURVE_TABLE_ROWS - 1)) for place in range(CURVE_TABLE_ROWS)}
    )
    rows = [
        [
            f"{place + 1}",
            *(f"{points[place][1]:.3g}" if place < len(points) else DASH for points in smoothed.values()),
        ]
        for place in chosen
    ]
    numbers = Table(f"{title} (smoothed)", ["step", *curves], rows)
    return Figure(line_chart(title, lines, "step", y_label, levels, y_range), caption, numbers)


def watched(run: Run, roles: Roles) -> list[Block]:
    """pass@1 on held-out problems while stages train, and what their pre-flights found."""
    curves = {stage.name: run.watched(stage.name) for stage in run.stages}
    curves = {name: points for name, points in curves.items() if points}
    blocks: list[Block] = [Paragraph(text) for text in preflights(run)]
    if not curves:
        return blocks
    title = "Held-out accuracy while stages train"
    lines = [
        Line(name, [(step, value) for step, value, _ in points], colour)
        for colour, (name, points) in enumerate(curves.items())
    ]
    rows = [
        [name, f"{step:.0f}", percent(value, error)]
        for name, points in curves.items()
        for step, value, error in _spread_out(points)
    ]
    table = Table(f"{title}: pass@1, %.", ["stage", "steps", "pass@1"], rows)
    caption = (
        "pass@1 on held-out problems after so many steps, ± its standard error over problems. Every "
        "measurement of a stage has the same problems and seeds."
    )
    return [*blocks, Figure(line_chart(title, lines, "step", "pass@1", (), (0.0, 1.0)), caption, table)]


def _spread_out(points: Sequence[Measurement]) -> list[Measurement]:
    """At most CURVE_TABLE_ROWS of the measurements, evenly, the first and the last among them."""
    last = len(points) - 1
    places = {round(place * last / (CURVE_TABLE_ROWS - 1)) for place in range(CURVE_TABLE_ROWS)}
    return [points[place] for place in sorted(places)]


def preflights(run: Run) -> list[str]:
    """A sentence for each stage that a pre-flight examined."""
    said = []
    for stage in run.stages:
        rows = [row for row in run.metrics if row.get("stage") == stage.name and "part" not in row]
        first = next((row for row in rows if f"{PREFLIGHT}groups" in row), None)
        if first is not None:
            said.append(sentences.say_preflight(stage.name, first))
    return said


def habits(run: Run, roles: Roles) -> list[Block]:
    """Why the length changed, and how often models check themselves."""
    base, zero = run.model(roles.base), run.model(roles.zero)
    if base is None or zero is None:
        return []
    said = (sentences.say_length(base, zero), sentences.say_checking(base, zero))
    blocks: list[Block] = [Paragraph(" ".join(words)) for words in said if words]
    rows = []
    for name in _names(model.figures.habits for model in run.models):
        found = [model.figures.habits.get(name) for model in run.models]
        lengths = [own.length if own else None for own in found]
        rows += [
            [f"{HABITS.get(name, name)}, %", *(percent(own.share if own else None) for own in found)],
            ["of these, right, %", *(percent(own.accuracy if own else None) for own in found)],
            ["of these, mean length in tokens", *(f"{x:.1f}" if x is not None else DASH for x in lengths)],
        ]
    rows.append(
        [
            "responses cut off at the longest length, %",
            *(percent(model.figures.truncated) for model in run.models),
        ]
    )
    title = "How the models think, counted in the samples of their evaluation."
    return [*blocks, Table(title, ["", *_model_names(run.models)], rows)]


def health(run: Run, roles: Roles) -> list[Block]:
    """The health rules that fired, with what to try."""
    rows = [
        [
            f"{sign.stage}/{sign.part}" if sign.part else sign.stage,
            str(sign.step) if sign.step == sign.until else f"{sign.step} to {sign.until}",
            f"{sign.rule.title}: {sign.seen}",
            sign.change,
        ]
        for sign in find_signs(run.metrics)
    ]
    header = ["training", "steps", "what was seen", "try"]
    return [Table("The health rules that fired.", header, rows)] if rows else []


def language(run: Run, roles: Roles) -> list[Block]:
    """Language consistency while stages train, and what the stages after R1-Zero changed."""
    curves = {}
    for stage in run.stages:
        found = next((curve for metric in LANGUAGE_METRICS if (curve := run.curve(stage.name, metric))), None)
        if found:
            curves[stage.name] = found
    zero, final = run.model(roles.zero), run.model(roles.final)
    blocks: list[Block] = []
    if zero and final and zero is not final:
        blocks.append(Paragraph(sentences.say_final(zero, final)))
    if curves:
        title, caption = (
            "Language consistency in training",
            "Share of the thinking that is in the problem's language, on the training problems of each step.",
        )
        blocks.append(_curves(title, curves, "language consistency", caption, (), (0.0, 1.0)))
    return blocks


def direct(run: Run, roles: Roles) -> list[Block]:
    """pass@1 with and without thinking."""
    models = [model for model in run.models if model.figures.direct is not None]
    if not models:
        return []
    overall = [model.figures.overall for model in models]
    series = [
        Bars("thinking first", [own.pass_1 for own in overall], [own.pass_1_stderr for own in overall], 0),
        Bars("at once", [model.figures.direct for model in models], [None] * len(models), 1),
    ]
    rows = [[m.name, percent(m.figures.overall.pass_1), percent(m.figures.direct)] for m in models]
    note = (
        f"Without thinking: {' or '.join(map(str, sorted(direct_counts(models))))} samples of each problem."
    )
    table = Table(
        "pass@1 with and without thinking, %.", ["", "thinking first", "answering at once"], rows, note
    )
    chart = bar_chart("Thinking and direct answers", _model_names(models), series, "pass@1", (0.0, 1.0))
    said = [sentences.say_direct(model) for model in models if model.stage in (roles.zero, roles.final)]
    caption = (
        "pass@1 on the same problems when the model may think first, and when its response is made to begin "
        "with an empty thinking."
    )
    return [*(Paragraph(text) for text in said), Figure(chart, caption, table)]


def difficulty(run: Run, roles: Roles) -> list[Block]:
    """pass@1 of the base, R1-Zero and the final model by the problems' difficulty."""
    stages = dict.fromkeys((roles.base, roles.zero, roles.final))
    chosen = [model for name in stages if (model := run.model(name))]
    scores = {m.name: {own.difficulty: own for own in m.figures.by_difficulty} for m in chosen}
    levels = sorted({level for own in scores.values() for level in own})
    if len(levels) < 2:
        return []
    lines = [
        Line(name, [(level, own[level].pass_1) for level in levels if level in own], colour)
        for colour, (name, own) in enumerate(scores.items())
    ]
    rows = []
    for level in levels:
        found = [own.get(level) for own in scores.values()]
        count = next(own.problems for own in found if own is not None)
        rows.append([f"{level:g}", *(percent(own.pass_1 if own else None) for own in found), str(count)])
    header = ["difficulty", *scores, "problems"]
    table = Table("pass@1 by difficulty, %.", header, rows)
    x_label = "difficulty, as the task rates it"
    chart = line_chart("pass@1 by difficulty", lines, x_label, "pass@1", (), (0.0, 1.0))
    caption = "pass@1 on held-out problems by difficulty; the table has the number of problems of each level."
    return [Figure(chart, caption, table)]


def pass_at_k(run: Run, roles: Roles) -> list[Block]:
    """pass@k of the base, R1-Zero, the final model and the student over k."""
    stages = dict.fromkeys((roles.base, roles.zero, roles.final, roles.distilled))
    chosen = [m for name in stages if (m := run.model(name)) and len(m.figures.pass_k) > 1]
    if not chosen:
        return []
    lines = [
        Line(model.name, [(math.log2(k), value) for k, value in sorted(model.figures.pass_k.items())], colour)
        for colour, model in enumerate(chosen)
    ]
    numbers = sorted({k for model in chosen for k in model.figures.pass_k})
    rows = [[str(k), *(percent(model.figures.pass_k.get(k)) for model in chosen)] for k in numbers]
    table = Table("pass@k, %.", ["k", *(model.name for model in chosen)], rows)
    chart = line_chart("pass@k", lines, "log2 of k", "pass@k", (), (0.0, 1.0))
    caption = (
        "Share of held-out problems that at least one of k samples solves, estimated without bias from all "
        "samples (arXiv 2107.03374). Where the curve of a trained model ends below its base's, training has "
        "made right answers more frequent without making more problems solvable (arXiv 2504.13837)."
    )
    return [Figure(chart, caption, table)]


def reflection(run: Run, roles: Roles) -> list[Block]:
    """Words of reflection in the rollouts of the RL stages."""
    curves = {stage.name: reflection_curve(run.folder, stage.name) for stage in run.stages}
    curves = {name: points for name, points in curves.items() if any(value for _, value in points)}
    if not curves:
        return []
    lines = [Line(name, points, colour, faint=True) for colour, (name, points) in enumerate(curves.items())]
    lines += [
        Line(name, smooth(points, len(points) // 12), colour)
        for colour, (name, points) in enumerate(curves.items())
    ]
    rows = [
        [name, *(f"{_mean(part):.2f}" for part in (points[:tenth], points[-tenth:]))]
        for name, points in curves.items()
        for tenth in [max(1, len(points) // 10)]
    ]
    table = Table("Words of reflection per 1,000 tokens.", ["stage", "first tenth", "last tenth"], rows)
    caption = (
        f"Words of reflection ({', '.join(WORDS)}) per 1,000 tokens of the rollouts that were kept: thin as "
        "counted, thick smoothed. Words of other languages are not counted. The paper's R1-Zero uses them "
        "five to seven times as often at the end as at the beginning."
    )
    chart = line_chart("Words of reflection", lines, "step", "words per 1,000 tokens")
    return [Figure(chart, caption, table)]


def _mean(points: Sequence[Point]) -> float:
    return sum(value for _, value in points) / len(points)


def general(run: Run, roles: Roles) -> list[Block]:
    """Scores of general prompts by kind, and the reward models against the gold score."""
    found = [(model, model.figures.general) for model in run.models]
    scored = [(model, own) for model, own in found if own is not None]
    blocks: list[Block] = []
    if scored:
        rows = [
            [kind, *(percent(own.kinds.get(kind)) for _, own in scored)]
            for kind in _names(own.kinds for _, own in scored)
        ]
        rows.append(["**all**", *(percent(own.score, own.stderr) for _, own in scored)])
        names = {model.protocol.general.scored_by for model, _ in scored if model.protocol.general}
        title = f"Score of the answers to held-out general prompts ({' or '.join(sorted(names))}), %."
        blocks.append(Table(title, ["", *(model.name for model, _ in scored)], rows))
    said = sentences.say_judges(run, roles.final)
    if said and roles.final:
        curves = {
            "reward models": run.curve(roles.final, "watch/judges"),
            "gold": run.curve(roles.final, "watch/gold"),
        }
        caption = (
            "The reward models' own score and the gold score on held-out general prompts while the final "
            "model trains. Compare the paper's figure 6."
        )
        title = "Reward models and gold score"
        blocks += [Paragraph(" ".join(said)), _curves(title, curves, "score", caption)]
    return blocks


def student(run: Run, roles: Roles) -> list[Block]:
    """The student before and after distillation, and the same student trained by RL."""
    said = sentences.say_student(run, roles)
    if not said:
        return []
    names = (roles.student, roles.distilled, roles.student_rl)
    models = [model for name in names if (model := run.model(name))]
    rows = [
        [m.name, _pass_1(m.figures.overall), percent(m.figures.overall.cons_n), _general(m)] for m in models
    ]
    header = ["", "pass@1", votes_of(models), "general prompts"]
    return [
        Paragraph(" ".join(said)),
        Table("The student, %.", header, rows),
        *_next_to_the_paper(run, roles),
    ]


def _next_to_the_paper(run: Run, roles: Roles) -> list[Block]:
    """The paper's table of distilled models, where the run has one."""
    distilled = run.model(roles.distilled)
    if distilled is None:
        return []
    base = roles.student or DASH
    students = [(distilled, base)]
    students += [(by_rl, f"{base} by RL")] if (by_rl := run.model(roles.student_rl)) else []
    return [distillation_table(students)]


def examples(run: Run, roles: Roles) -> list[Block]:
    """The same problems, answered by every model."""
    blocks: list[Block] = []
    shared, problems = fold([example.problem for example in run.examples])
    if shared:
        blocks.append(Listing("Every problem begins with these lines", [("shared", shared)]))
    for place, (example, problem) in enumerate(zip(run.examples, problems, strict=True), 1):
        entries = [("problem", problem)]
        entries += [] if example.answer is None else [("right answer", example.answer)]
        blocks.append(Listing(f"Problem {place}, task {example.task}", [*entries, *example.outputs.items()]))
    if not blocks:
        return []
    return [Paragraph("One sample of every model for the same problems, exactly as it was written."), *blocks]


def fold(problems: Sequence[str]) -> tuple[str, list[str]]:
    """(The lines with which all problems begin, the problems without them): worked examples and a system
    turn are the same in each. Nothing is folded where that is one line, or a whole problem."""
    lines = [problem.splitlines() for problem in problems]
    together = list(zip(*lines, strict=False)) if len(lines) > 1 else []
    differing = (place for place, same in enumerate(together) if len(set(same)) > 1)
    common = min([next(differing, len(together)), *(len(own) - 1 for own in lines)])
    if common < _FEWEST_FOLDED:
        return "", list(problems)
    return "\n".join(lines[0][:common]), [
        "\n".join([f"[{common} shared lines]", *own[common:]]) for own in lines
    ]


def controls(run: Run, roles: Roles) -> list[Block]:
    """Models that differ in one thing, side by side."""
    columns: dict[str, Value] = {
        "exact format": lambda model: model.overall.format,
        "language consistency": lambda model: model.overall.language,
        "general prompts": lambda model: None if model.general is None else model.general.score,
    }
    return [
        Table(
            f"Control: {title}. In percent, except the length.",
            ["", "pass@1", *columns, "length (tokens)"],
            [
                [
                    model.name,
                    _pass_1(model.figures.overall),
                    *(percent(value(model.figures)) for value in columns.values()),
                    f"{model.figures.overall.length:.1f}",
                ]
                for model in models
            ],
        )
        for title, models in run.controls.items()
    ]


def stages(run: Run, roles: Roles) -> list[Block]:
    """Inputs, time, memory and own figures of every stage."""
    if not run.stages:
        return []
    rows = []
    for stage in run.stages:
        seconds, peak = seconds_of(stage), peak_mb_of(stage)
        row = [
            stage.name,
            stage.kind,
            "\n".join(stage.record.inputs) or DASH,
            DASH if seconds is None else duration(seconds),
            DASH if peak is None else f"{peak:.0f}",
        ]
        rows.append([*row, "\n".join(_own_figures(stage)) or DASH])
    header = ["", "kind", "reads", "time", "peak memory, MB", "its own figures"]
    return [Table("The stages in the recipe's order.", header, rows)]


def _own_figures(stage: FinishedStage) -> list[str]:
    """The figures that a stage reports of itself, one a line: those of its kind, or for a stage of the user's
    own all numbers in its report.json."""
    if stage.kind in FACTS:
        facts = read_facts(stage)
        found = {field.name: getattr(facts, field.name) for field in fields(facts)}
    else:
        found = stage.report()
    return [
        f"{name.replace('_', ' ')} {_short(value)}"
        for name, value in found.items()
        if number(value) is not None
    ]


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def environment(run: Run, roles: Roles) -> list[Block]:
    """Seed, machine, versions and command of the run."""
    recorded: Mapping[str, Any] = run.environment
    facts = {
        "time of all stages": duration(run.seconds),
        "peak memory": "not recorded" if run.peak_mb is None else f"{run.peak_mb:.0f} MB",
        "seed": str(run.recipe.get("seed", "not recorded")),
        "platform": str(recorded.get("platform", "not recorded")),
        "processors": str(recorded.get("cpus", "not recorded")),
        "sandbox for programs": str(recorded.get("sandbox", "not recorded")),
        "source revision": str(recorded.get("git") or "not recorded"),
        **{name: str(version) for name, version in recorded.get("versions", {}).items()},
    }
    table = Table(
        "Seed, machine and versions.", ["", "value"], [[name, value] for name, value in facts.items()]
    )
    if not recorded.get("command"):
        return [table]
    return [table, Paragraph("The run was made by this command:"), Command([str(recorded["command"])])]


def next_steps(run: Run, roles: Roles) -> list[Block]:
    """What to type next."""
    models = [stage.name for stage in run.stages if is_model(stage.model)]
    if not models:
        return []
    chosen = roles.final if roles.final in models else models[-1]
    lines = [f"r1kit chat {run.folder}"]
    lines += [f"r1kit chat {run.folder} --stage {name}" for name in models if name == roles.zero != chosen]
    lines.append(f"r1kit export {run.folder} --stage {chosen} --to {run.name}-{chosen}")
    return [
        Paragraph(
            "Chat with the final model, chat with R1-Zero to compare, or copy the final model as a Hugging "
            "Face folder:"
        ),
        Command(lines),
        _findings_page(run.folder),
    ]


def _findings_page(folder: Path) -> Link:
    """The way from the run's folder to the page of findings, where the run is inside r1kit's checkout."""
    text = "Which of the paper's findings hold at this size, each with a control and three seeds:"
    for steps, above in enumerate(folder.resolve().parents, 1):
        if (above / FINDINGS).is_file() and (above / "recipes" / "findings").is_dir():
            return Link(text, FINDINGS, "../" * steps + FINDINGS)
    return Link(text, f"{FINDINGS} in r1kit's repository")


def _model_names(models: Sequence[Measured]) -> list[str]:
    return [model.name for model in models]


def _names(mappings: Any) -> list[str]:
    """The keys of several mappings, each once, in order of appearance."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))
