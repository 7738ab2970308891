"""The report of a run: a pure function of its folder, written as report.md, report.html and report.json.

It shows what the paper shows: every stage against every task (Nature version, table 3), R1-Zero's accuracy
and length while it trains (figures 1 and 3 there), language consistency, direct answers, the student, and the
same problems answered by every stage's model. Where a run did not measure something the report says so."""

from collections.abc import Callable
from pathlib import Path

from r1kit import figures
from r1kit.figures import REPORT, RunFigures, StageFigures
from r1kit.files import write_whole
from r1kit.log import duration
from r1kit.records import FinishedStage, is_model
from r1kit.report import sections
from r1kit.report.document import Block, Document, Paragraph, Section, html, markdown
from r1kit.report.run import Roles, Run, find_roles, read_rows, read_run, seconds_of, silent_trainings
from r1kit.report.sentences import say_headline
from r1kit.terminal import printable

# Title, the function that makes the section, and the text if it is empty.
SECTIONS: tuple[tuple[str, Callable[[Run, Roles], list[Block]], str], ...] = (
    (
        "Every stage, every task",
        sections.stage_table,
        "No stage of this run was evaluated: add an `evaluate` stage to the recipe.",
    ),
    (
        "Accuracy and length while R1-Zero trains",
        sections.zero_curves,
        "This run has no R1-Zero stage with recorded steps.",
    ),
    (
        "Held-out accuracy while stages train",
        sections.watched,
        "No stage measured held-out problems while it trained: give it a watch.",
    ),
    ("Health of the trainings", sections.health, "No health rule fired."),
    (
        "Why the length changes, and what checking does",
        sections.habits,
        "There is no evaluation of both R1-Zero and its base to compare.",
    ),
    (
        "Words of reflection while stages train",
        sections.reflection,
        "No stage of this run has kept rollouts with words of reflection.",
    ),
    (
        "Language consistency",
        sections.language,
        "No stage of this run recorded language consistency while it trained.",
    ),
    ("What thinking is worth", sections.direct, "Answers without thinking were not measured in this run."),
    ("By difficulty", sections.difficulty, "Results by difficulty were not recorded in this run."),
    ("pass@k", sections.pass_at_k, "pass@k was not recorded in this run."),
    (
        "General prompts and the reward models",
        sections.general,
        "General prompts were not measured in this run.",
    ),
    ("The student", sections.student, "This run has no evaluation of a distilled student."),
    (
        "The same problems, answered by every stage",
        sections.examples,
        "No example answers were kept in this run.",
    ),
    (
        "Controls",
        sections.controls,
        "This run has no controls (runs that differ in one thing only), so a difference between two stages "
        "cannot be traced to a single cause.",
    ),
    ("What every stage did", sections.stages, "No stage of this run is finished."),
    ("How it was run", sections.environment, ""),
    ("What to do next", sections.next_steps, "There is no finished model to chat with."),
)


def write(run_dir: Path) -> Path:
    """Write report.md, report.html and report.json into the run's folder; return report.md.

    Raises ConfigError when a file of the run is not the JSON that it should be.
    """
    run = read_run(run_dir)
    document = compose(run)
    figures.write(run_dir / REPORT, summarise(run))
    write_whole(run_dir / "report.html", printable(html(document)))
    write_whole(run_dir / "report.md", printable(markdown(document)))
    return run_dir / "report.md"


def warnings(run_dir: Path) -> list[str]:
    """What a user should know when a run ends: a sentence for each RL training that could not learn."""
    return silent_trainings(read_rows(run_dir / "metrics.jsonl"))


def summarise(run: Run) -> RunFigures:
    """The report for programs."""
    return RunFigures(
        seconds=round(run.seconds, 3),
        peak_rss_mb=run.peak_mb,
        stages=tuple(_summarise_stage(run, stage) for stage in run.stages),
        controls={
            title: {model.name: model.figures for model in models} for title, models in run.controls.items()
        },
    )


def _summarise_stage(run: Run, stage: FinishedStage) -> StageFigures:
    measured = run.model(stage.name)
    return StageFigures(
        stage=stage.kind,
        name=stage.name,
        model=str(stage.model.relative_to(run.folder)) if is_model(stage.model) else None,
        seconds=seconds_of(stage),
        figures=measured.figures if measured else None,
        protocol=measured.protocol if measured else None,
    )


def compose(run: Run) -> Document:
    """The whole report as a document."""
    roles = find_roles(run)
    made = [Section(title, build(run, roles) or [Paragraph(missing)]) for title, build, missing in SECTIONS]
    subtitle = f"{len(run.stages)} finished stages, {duration(run.seconds)}"
    abstract = [*silent_trainings(run.metrics), *say_headline(run)]
    return Document(f"The R1 recipe: {run.name}", subtitle, abstract, made)
