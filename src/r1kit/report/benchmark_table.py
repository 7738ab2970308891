"""Tables of benchmark results, in Markdown and HTML, with the paper's column; and lm-eval's result format.

Results of different protocols are not put side by side without saying so: each difference has a note under
the table, also those between this protocol and the paper's."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1kit.figures.benchmark_analysis import Analysis, Comparison
from r1kit.figures.benchmarks import BenchmarkResult, ProblemResult
from r1kit.tasks.benchmarks import EXCLUDED, PAPER_TEMPERATURE, PAPER_TOKENS, PAPER_TOP_P

HEADER = (
    "benchmark", "model", "score", "95 % interval", "pass@k", "cons@k", "truncated", "format", "language",
    "length",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under their header, and notes."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """The table and its notes in Markdown."""
        lines = [_line(self.header), _line(["---"] * len(self.header)), *map(_line, self.rows)]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]) + "\n"

    def html(self) -> str:
        """The same as a page."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        notes = "\n".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return (
            '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Benchmarks</title>\n<style>body'
            "{font-family:sans-serif}td,th{border:1px solid #999;padding:.2em .5em}table{border-collapse:"
            f"collapse}}</style>\n<table>\n<tr>{head}</tr>\n{body}\n</table>\n<ul>\n{notes}\n</ul></html>\n"
        )


def table_of(results: Sequence[BenchmarkResult], paper_model: str = "R1") -> Table:
    """One row for each result, those of a benchmark next to each other, with the paper's score of
    ``paper_model``."""
    order = list(dict.fromkeys(result.benchmark for result in results))
    ordered = [result for name in order for result in results if result.benchmark == name]
    notes: list[str] = []
    for name in order:
        own = [result for result in ordered if result.benchmark == name]
        notes.append(f"{own[0].title}: {own[0].setting.in_words()}; {own[0].setting.metric}.")
        notes += [
            f"{own[0].title}: NOT the same protocol: {other.model} against {own[0].model}: "
            f"{'; '.join(found)}."
            for other in own[1:]
            if (found := own[0].setting.differences(other.setting))
        ]
        notes += [
            f"{one.title}, {one.model}: {one.contamination.in_words()}."
            if one.contamination is not None
            else f"{one.title}, {one.model}: training data not checked (--trained-on FILE)."
            for one in own
        ]
        notes += [
            f"{own[0].title}: NOT the paper's protocol: {', '.join(found)}."
            for found in [differences_from_paper(own[0])]
            if found and paper_model in own[0].paper
        ]
    notes.append(f"Not measured here: {'; '.join(f'{name}: {why}' for name, why in EXCLUDED.items())}.")
    header = (*HEADER, f"paper, {paper_model}")
    return Table(header, tuple(_cells(one, paper_model) for one in ordered), tuple(notes))


def differences_from_paper(result: BenchmarkResult) -> list[str]:
    """In what a result's protocol differs from the paper's, as far as that is printed."""
    setting = result.setting
    pairs = (
        ("k", setting.k, result.paper_k),
        ("temperature", setting.temperature, PAPER_TEMPERATURE),
        ("top-p", setting.top_p, PAPER_TOP_P),
        ("at most tokens", setting.max_tokens, PAPER_TOKENS),
    )
    return [f"{name} {own:g} (paper {its:g})" for name, own, its in pairs if its is not None and own != its]


def analysis_lines(title: str, analysis: Analysis) -> list[str]:
    """The analysis of one model on one benchmark, in Markdown."""
    lines = [f"## {title}", ""]
    for name, levels in (("difficulty", analysis.by_difficulty), ("category", analysis.by_category)):
        if levels:
            lines += [_line((name, "problems", "pass@1", "length")), _line(["---"] * 4)]
            lines += [
                _line((one.name, str(one.problems), f"{100 * one.pass_1:.1f}", f"{one.length:.0f}"))
                for one in levels
            ]
            lines.append("")
    known = (
        ("length against difficulty (rank correlation)", analysis.length_against_difficulty, 1.0),
        ("reflection words per 1,000 tokens", analysis.reflection, 1.0),
        ("share of words in the problem's language, %", analysis.language, 100.0),
        ("majority vote less pass@1, points", analysis.majority_gain, 100.0),
        ("samples that end in a loop, %", analysis.repeated, 100.0),
    )
    lines += [f"- {name}: {'-' if value is None else f'{unit * value:.2f}'}" for name, value, unit in known]
    curve = ", ".join(f"{k}: {100 * value:.1f}" for k, value in analysis.pass_k.items())
    return [*lines, *([f"- pass@k: {curve}"] if curve else []), ""]


def comparison_lines(title: str, first: str, second: str, found: Comparison) -> list[str]:
    """The comparison of two models on one benchmark."""
    crossing = "no crossing" if found.crossing is None else f"the curves cross at k = {found.crossing:.1f}"
    lines = [f"{title}: {first} against {second}: {found.test.in_words()}; pass@k: {crossing}"]
    return [*lines, *(f"{title}: NOT the same protocol or problems: {note}" for note in found.notes)]


def lm_eval_results(results: Sequence[BenchmarkResult]) -> str:
    """The results of one model in the format of lm-eval's results_*.json."""
    found: dict[str, Any] = {
        "results": {
            one.benchmark: {
                "alias": one.title,
                "pass@1,none": one.figures.pass_1,
                "pass@1_stderr,none": "N/A" if one.figures.stderr is None else one.figures.stderr,
                "score,none": one.figures.score,
                **({} if one.figures.cons is None else {f"cons@{one.setting.k},none": one.figures.cons}),
                **{f"pass@{k},none": value for k, value in one.figures.pass_k.items() if k > 1},
            }
            for one in results
        },
        "configs": {one.benchmark: _config(one) for one in results},
        "versions": {one.benchmark: one.setting.task[:12] for one in results},
        "n-shot": {one.benchmark: 0 for one in results},
        "higher_is_better": {one.benchmark: {"pass@1": True} for one in results},
        "n-samples": {
            one.benchmark: {"original": one.setting.problems, "effective": one.figures.problems}
            for one in results
        },
        "config": {"model": "r1kit", "model_args": results[0].model if results else ""},
    }
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def lm_eval_samples(result: BenchmarkResult, problems: Sequence[ProblemResult]) -> str:
    """The samples of one benchmark in the format of lm-eval's samples_*.jsonl, a line for each problem."""
    rows: list[Mapping[str, Any]] = [
        {
            "doc_id": number,
            "doc": {"id": problem.id, "question": problem.question},
            "target": problem.gold,
            "arguments": {"gen_args_0": {"arg_0": problem.question}},
            "resps": [[sample.text for sample in problem.samples]],
            "filtered_resps": [sample.vote or "" for sample in problem.samples],
            "metrics": ["pass@1"],
            "pass@1": sum(problem.scores) / len(problem.scores) if problem.scores else None,
        }
        for number, problem in enumerate(problems)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _config(result: BenchmarkResult) -> dict[str, Any]:
    setting = result.setting
    kwargs = {
        "temperature": setting.temperature,
        "top_p": setting.top_p,
        "max_gen_toks": setting.max_tokens,
        "do_sample": setting.temperature > 0,
    }
    return {
        "task": result.benchmark, "doc_to_text": setting.prompt, "output_type": "generate_until",
        "repeats": setting.k, "num_fewshot": 0, "generation_kwargs": kwargs,
        "metadata": {"task_hash": setting.task, "data_hash": setting.data, "code_hash": setting.code},
    }  # fmt: skip


def _cells(result: BenchmarkResult, paper_model: str) -> tuple[str, ...]:
    figures, k = result.figures, result.setting.k
    low, high = figures.interval
    if result.setting.metric == "rating":
        error = "" if figures.rating_stderr is None else f" ± {figures.rating_stderr:.0f}"
        score = f"{figures.score:.0f}{error} (above {figures.percentile or 0:.1f} %)"
    else:
        error = "" if figures.stderr is None else f" ± {100 * figures.stderr:.1f}"
        score = f"{figures.score:.1f}{error}"
    most = max(figures.pass_k, default=0)
    passed = f"{100 * figures.pass_k[most]:.1f} (k={most})" if most > 1 else "-"
    paper = result.paper.get(paper_model)
    return (
        result.title, result.model, score, f"{100 * low:.1f} to {100 * high:.1f}", passed,
        "-" if figures.cons is None or k == 1 else f"{100 * figures.cons:.1f}",
        f"{100 * figures.truncated:.1f} %", f"{100 * figures.followed:.1f} %",
        "-" if figures.language is None else f"{100 * figures.language:.1f} %",
        f"{figures.length:.0f} {result.setting.length_unit}", "-" if paper is None else f"{paper:g}",
    )  # fmt: skip


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
