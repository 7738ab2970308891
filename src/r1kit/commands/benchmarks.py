"""``r1kit eval --benchmarks``: a model on benchmarks, its tables and files, the comparison with another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1kit.config import ConfigError, R1kitError
from r1kit.figures import benchmark_analysis as analysis
from r1kit.figures.benchmark_contests import enter_contests, read_contests
from r1kit.figures.benchmarks import BenchmarkResult
from r1kit.files import write_whole
from r1kit.jsonl import SUFFIXES, read_jsonl
from r1kit.marks import hash_tree
from r1kit.model.config_json import read_config
from r1kit.report import benchmark_table as tables
from r1kit.rewards.benchmark_judges import Judge, endpoint_judge
from r1kit.runs.provenance import code_hash
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig
from r1kit.stages.benchmarks import (
    EndpointResponder,
    EngineResponder,
    Measurement,
    measure_benchmark,
    read_results,
)
from r1kit.stages.models import PromptStyle, prompt_style_of
from r1kit.tasks.benchmarks import Card

ENDPOINT = ("http://", "https://")
PAPER_MODELS = ("R1", "R1-Zero", "R1-Dev1", "R1-Dev2", "R1-Dev3", "DeepSeek-V3")


@dataclass(frozen=True, slots=True)
class Job:
    """Which benchmarks are measured how, and where the files go. ``paper``: the model of the paper's column;
    ``trained_on``: files of training data; ``style``: how a model folder is prompted (None: as it was
    trained); ``name``: the model's name at an endpoint;
    ``standings``: a file of contests with their human competitors."""

    cards: tuple[Card, ...]
    how: Measurement
    out: Path
    stage: str | None = None
    name: str | None = None
    style: PromptStyle | None = None
    paper: str = "R1"
    standings: Path | None = None


def is_endpoint(model: str) -> bool:
    """Whether a model is named by the address of a server."""
    return model.startswith(ENDPOINT)


def measure_model(model: str, folder: Path | None, job: Job, say: Any = print) -> list[BenchmarkResult]:
    """Measure a model, at an endpoint where ``folder`` is None, on all benchmarks of a job, and write the
    files of each and of all to the job's folder."""
    if job.paper not in PAPER_MODELS:
        raise ConfigError(f"--paper {job.paper}: the paper's models are {', '.join(PAPER_MODELS)}")
    trained_on = job.how.trained_on or (() if folder is None else training_files(Path(model)))
    how = replace(job.how, trained_on=trained_on, code=code_hash())
    texts = (lambda: training_texts(trained_on)) if trained_on else None
    if folder is None:
        responder: Any = EndpointResponder(f"{job.name or model}", model, job.name or "default")
        results = [measure_benchmark(card, responder, how, job.out, texts, say) for card in job.cards]
    else:
        runtime = start(LocalConfig.parse({}, "runtime"))
        try:
            style = job.style or prompt_style_of(folder, PromptStyle())
            responder = EngineResponder(
                model, hash_tree(folder), style.in_words(folder), runtime.engine(folder), style.chat(folder),
                read_config(folder).max_positions,
            )  # fmt: skip
            results = [measure_benchmark(card, responder, how, job.out, texts, say) for card in job.cards]
        finally:
            runtime.close()
    write_tables(results, job.out, job.paper)
    return results


def write_tables(results: Sequence[BenchmarkResult], out: Path, paper: str = "R1") -> str:
    """Write table.md, table.html, analysis.md and lm-eval's files next to the results; returns the table."""
    table = tables.table_of(results, paper)
    write_whole(out / "table.md", table.markdown())
    write_whole(out / "table.html", table.html())
    lines = ["# Analysis", ""]
    for result in results:
        _, problems = read_results(out / f"{result.benchmark}.jsonl")
        lines += tables.analysis_lines(f"{result.title}, {result.model}", analysis.analyse(problems))
        write_whole(out / f"samples_{result.benchmark}.jsonl", tables.lm_eval_samples(result, problems))
    write_whole(out / "analysis.md", "\n".join(lines))
    write_whole(out / "results.json", tables.lm_eval_results(results))
    return table.markdown()


def compare_folders(first: Path, second: Path, cards: Sequence[Card], names: tuple[str, str]) -> list[str]:
    """Compare two folders of results, benchmark by benchmark, in words."""
    lines = []
    for card in cards:
        (one, own), (two, other) = (read_results(side / f"{card.name}.jsonl") for side in (first, second))
        found = analysis.compare(own, other, one.differences(two))
        lines += tables.comparison_lines(card.title, *names, found)
    return lines


def contest_lines(job: Job) -> list[str]:
    """How the model does in the contests of the job's file of standings, a line for each benchmark that has
    problems with a contest."""
    if job.standings is None:
        return []
    contests = read_contests(job.standings)
    lines = []
    for card in job.cards:
        if card.metric == "rating":
            _, problems = read_results(job.out / f"{card.name}.jsonl")
            lines.append(
                f"{card.title}: {enter_contests(problems, contests, card.limits.attempts).in_words()}"
            )
    if not lines:
        raise ConfigError("--standings is for benchmarks of contests, such as --benchmarks codeforces")
    return lines


def result_folder(named: str, cards: Sequence[Card]) -> Path | None:
    """The folder of results that ``--against`` names; None where it names a model."""
    folder = Path(named)
    if not any((folder / f"{card.name}.jsonl").is_file() for card in cards):
        return None
    missing = [card.name for card in cards if not (folder / f"{card.name}.jsonl").is_file()]
    if missing:
        raise R1kitError(
            f"{folder}: no results of {', '.join(missing)}; measure them there, or leave them out"
        )
    return folder


def make_judge(endpoint: str | None, model: str | None) -> Judge | None:
    """The judge that the command names, None for none."""
    if endpoint is None:
        return None
    if model is None:
        raise ConfigError("--judge needs the judge's name at its endpoint: --judge-model NAME")
    return endpoint_judge(endpoint, model)


def training_files(run: Path) -> tuple[Path, ...]:
    """The data that a run's models were trained on, as far as it is in files: data.jsonl of its stages, and
    the data files that its recipe names for anything but held-out problems. None for a folder without
    recipe."""
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        return ()
    own = sorted(run.glob("stages/*/data.jsonl"))
    named = dict.fromkeys(_named_files(yaml.safe_load(recipe.read_text(encoding="utf-8"))))
    return (*own, *(file for file in named if file.is_file()))


def _named_files(value: Any, key: str = "") -> Iterator[Path]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named_files(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _named_files(inner, key)
    elif isinstance(value, str) and value.endswith(SUFFIXES) and key not in ("held_out", "decontaminate"):
        yield Path(value).expanduser()


def training_texts(files: Sequence[Path]) -> Iterator[str]:
    """All texts in the rows of files: every column, also of inner objects and lists."""
    for file in files:
        for _, row in read_jsonl(file):
            yield from _texts(row)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def run_benchmarks(
    model: str, job: Job, resolve: Any, against: str | None = None, say: Any = print
) -> tuple[list[BenchmarkResult], list[str]]:
    """Measure a model and, where ``against`` names one, another by the same protocol (or read its folder of
    results). Returns the results of the first and the comparison in words. ``resolve``: from a name and a
    stage to a model's folder."""
    results = measure_model(model, None if is_endpoint(model) else resolve(model, job.stage), job, say)
    contests = contest_lines(job)
    if against is None:
        return results, contests
    other = result_folder(against, job.cards)
    if other is None:
        theirs = replace(job, out=job.out / "against", stage=None, style=None)
        folder = None if is_endpoint(against) else resolve(against, None)
        more = measure_model(against, folder, theirs, say)
        table = tables.table_of([*results, *more], job.paper)
        write_whole(job.out / "table.md", table.markdown())
        write_whole(job.out / "table.html", table.html())
        other = theirs.out
    lines = compare_folders(job.out, other, job.cards, (model, against))
    write_whole(job.out / "comparison.md", "\n".join(f"- {line}" for line in lines) + "\n")
    return results, [*contests, *lines]


def default_folder(model: str, stage: str | None) -> Path:
    """Where results are written without --out: evaluations/MODEL in the current folder."""
    shown = model.rstrip("/").rpartition("/")[2] if is_endpoint(model) else Path(model).resolve().name
    return Path("evaluations") / (f"{shown}-{stage}" if stage else shown)
