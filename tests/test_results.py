"""benchmarks/results.py: what it makes of finished runs, against numbers worked out by hand."""

import json
import re
import sys
from dataclasses import fields, replace
from xml.etree import ElementTree

import pytest
import results
from figure_fakes import PROTOCOL, evaluation, model_figures, write_stage

from r1kit.figures import FACTS, Evaluation, read, write


def figures(pass_1, cons=None, **changes):
    return model_figures(
        pass_1, **{"cons_n": cons or pass_1, "format": 0.98, "language": 0.97, "general": 0.7, **changes}
    )


def write_run(run, zero=0.82, controls=False):
    """A run whose numbers are in the middle of what is wanted, but for R1-Zero's accuracy."""
    run.mkdir(parents=True)
    environment = {
        "command": f"r1kit run recipes/mini.yaml seed=1 --out {run}",
        "cpus": 2,
        "platform": "Linux-9.9-secret-host-x86_64-with-glibc2.36",
    }
    (run / "env.json").write_text(
        json.dumps({**environment, "versions": {"torch": "2.13.0"}, "git": "abc123"})
    )
    (run / "recipe.yaml").write_text("name: mini\nseed: 1\n")
    write_stage(run, "pretrain", "pretrain", report={"steps": 1464, "tokens": 6_000_000, "loss": 0.7})
    write_stage(run, "r1_zero", "r1_zero", inputs=["pretrain"], seconds=30.0)
    facts = {"rows": 4300, "too_long": 0}
    write_stage(run, "distill", "distill", inputs=["r1_zero"], seconds=40.0, report=facts)
    models = {"base": figures(0.1, 0.5, language=0.6, length=20.0, general=0.4, format=0.4)}
    models["r1_zero"] = figures(zero, 0.95, language=0.5, general=0.5, format=0.95, direct=0.08)
    models |= {
        name: figures(0.83, 0.95, direct=0.1)
        for name in ("cold_start", "reasoning_rl", "sft", "alignment_rl")
    }
    makers = {"base": "@pretrain", "r1_zero": "@r1_zero"}
    write_stage(
        run,
        "evaluate",
        "evaluate",
        inputs=["pretrain", "r1_zero", "distill"],
        report=evaluation(models),
        models=makers,
    )
    rows = [
        {
            "stage": "r1_zero",
            "step": step,
            "reward/accuracy/mean": 0.1 * step,
            "completions/mean_length": 20 + step,
        }
        for step in range(9)
    ]
    if controls:
        write_controls(run)
        rows += [
            {"stage": "hacking", "step": 10 * i, "watch/judges": 0.5 + 0.1 * i, "watch/gold": 0.8 - 0.2 * i}
            for i in range(4)
        ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def write_controls(run):
    steps = {"steps_without_preference": 0, "steps_with_preference": 200}
    write_stage(run, "hacking", "alignment_rl", inputs=["r1_zero"], seconds=500.0, report=steps)
    write_stage(run, "student_rl_1e-4", "r1_zero", inputs=["pretrain"], seconds=70.0)
    write_stage(run, "student_rl_3e-4", "r1_zero", inputs=["pretrain"], seconds=60.0)
    models = {"language": figures(0.82, language=0.96), "no_language": figures(0.83, language=0.88)}
    models |= {"base": figures(0.1), "random_reward": figures(0.09)}
    models |= {"distill": figures(0.3), "student_rl_1e-4": figures(0.05), "student_rl_3e-4": figures(0.08)}
    makers = {"student_rl_1e-4": "@student_rl_1e-4", "student_rl_3e-4": "@student_rl_3e-4"}
    report = evaluation(models, {"the language reward": ("language", "no_language")})
    write_stage(run, "controls", "evaluate", inputs=["hacking"], report=report, models=makers)


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "docs/stages").mkdir(parents=True)
    (tmp_path / "README.md").write_text("before\n<!-- results -->\nstale\n<!-- /results -->\nafter\n")
    (tmp_path / "docs/stages/r1_zero.md").write_text("# R1-Zero\n<!-- results -->\n<!-- /results -->\n")
    return tmp_path / "docs/results.md"


def row_of(text, start):
    """The cells of the first table line that begins with this text."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_spread_is_mean_extremes_and_sample_deviation():
    assert results.spread([0.8, 0.82, 0.9, None]) == "0.840 (0.800..0.900; sd 0.053)"
    assert results.spread([0.8]) == "0.800"
    assert results.spread([None]) == "–"


def test_time_and_memory_of_a_run_on_one_process_are_not_those_of_the_recipe(docs, tmp_path):
    found = [results.read(write_run(tmp_path / f"runs/mini-{seed}", 0.8)) for seed in (0, 1)]
    found[1].run.recipe["runtime"] = {"processes": 1}  # type: ignore[index]
    assert [run.recipe_seconds() for run in found] == [90.0, None]
    assert [run.recipe_peak_mb() for run in found] == [1000.0, None]
    results.write(found, docs)
    assert row_of(docs.read_text(), "**all**") == ["**all**", "90"]


def test_mean_curve_takes_each_step_from_the_runs_that_have_it():
    assert sys.modules["figures"].mean_curve([[(1, 0.2), (2, 0.4)], [(2, 0.6), (3, 1.0)]]) == [
        (1, 0.2),
        (2, 0.5),
        (3, 1.0),
    ]


def test_page_has_every_part_and_only_numbers_of_the_runs(docs, tmp_path):
    runs = [
        results.read(write_run(tmp_path / f"runs/mini-{seed}", zero))
        for seed, zero in enumerate((0.82, 0.84))
    ]
    results.write(runs, docs)
    text = docs.read_text()
    assert "2027-01-15" in text and "2 cores" in text and "Linux x86_64" in text and "torch 2.13.0" in text
    assert row_of(text, "r1_zero")[1] == "0.830<br>(0.820..0.840; sd 0.014)"
    assert row_of(text, "mini-1") == [
        "mini-1",
        "1",
        "`r1kit run recipes/mini.yaml seed=1 --out mini-1`",
        "–",
        "90 s",
        "1000 MB",
    ]
    assert PROTOCOL.in_words() in text
    assert "Not run: `make controls`" in text


def test_no_page_names_a_folder_or_a_host(docs, tmp_path):
    written = results.write([results.read(write_run(tmp_path / "runs/mini-0"))], docs)
    for file in written:
        assert str(tmp_path) not in file.read_text() and "secret" not in file.read_text()


def test_missed_target_is_said_in_results_and_readme(docs, tmp_path):
    results.write([results.read(write_run(tmp_path / "runs/mini-0", zero=0.7))], docs)
    assert row_of(docs.read_text(), "R1-Zero's pass@1")[1:] == ["≥ 0.8", "0.700", "**does not hold**"]
    assert (
        "Not reached: R1-Zero's pass@1: 0.700 (target ≥ 0.8)"
        in (docs.parent.parent / "README.md").read_text()
    )


def test_target_met_by_some_seeds_only_is_no_more_than_that(docs, tmp_path):
    runs = [results.read(write_run(tmp_path / f"runs/mini-{zero}", zero)) for zero in (0.79, 0.82, 0.83)]
    results.write(runs, docs)
    assert row_of(docs.read_text(), "R1-Zero's pass@1")[3] == "**holds on average only** (2 of 3)"
    readme = (docs.parent.parent / "README.md").read_text()
    assert "Reached by the mean of the runs and not by each of them: R1-Zero's pass@1: 0.813" in readme
    assert "Every target" not in readme


def test_what_was_not_measured_gets_no_verdict(tmp_path):
    run = results.read(write_run(tmp_path / "runs/mini-0"))
    assert all(claim.judged([run]) == ("–", "not measured") for claim in results.CONTROL_CLAIMS)


def test_controls_are_compared_and_take_no_part_in_the_times(docs, tmp_path):
    run = results.read(write_run(tmp_path / "runs/mini-0", controls=True))
    assert run.total_seconds() == 90.0
    results.write([run], docs)
    text = docs.read_text()
    assert row_of(text, "how much lower it is without")[2] == "0.080"
    assert row_of(text, "the distilled student against the best by RL")[2:] == ["3.75", "**holds**"]
    assert row_of(text, "RL had at least as much time")[2] == "1.50"
    assert row_of(text, "and of the held-out gold score")[2] == "-0.600"
    assert "the best student by RL is student_rl_3e-4 (60 s); distillation took 40 s" in text


def test_figures_are_drawings_and_are_shown_where_they_exist(docs, tmp_path):
    written = results.write([results.read(write_run(tmp_path / "runs/mini-0", controls=True))], docs)
    drawn = [file for file in written if file.suffix == ".svg"]
    assert {file.stem for file in drawn} == {"r1_zero", "r1_zero_length", "hacking", "direct"}
    for file in drawn:
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
    for page in (docs, docs.parent / "stages/r1_zero.md"):
        shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())
        assert shown and all((page.parent / name).is_file() for name in shown)


def test_marked_places_are_filled_again_and_the_rest_is_left(docs, tmp_path):
    runs = [results.read(write_run(tmp_path / "runs/mini-0"))]
    results.write(runs, docs)
    readme = docs.parent.parent / "README.md"
    first = readme.read_text()
    results.write(runs, docs)
    assert readme.read_text() == first
    assert (
        first.startswith("before\n<!-- results -->\n")
        and first.endswith("\n<!-- /results -->\nafter\n")
        and "stale" not in first
    )


def test_page_without_its_marks_is_an_error(docs, tmp_path):
    (docs.parent / "stages/r1_zero.md").write_text("# R1-Zero\n")
    with pytest.raises(results.R1kitError, match=r"r1_zero\.md.*exactly one"):
        results.write([results.read(write_run(tmp_path / "runs/mini-0"))], docs)


def test_a_figure_or_fact_of_another_name_is_an_error_and_no_dash(tmp_path):
    run = results.read(write_run(tmp_path / "runs/mini-0"))
    assert run.figure("r1_zero", "cons@n") == 0.95 and run.figure("missing", "pass@1") is None
    with pytest.raises(KeyError, match="cons@16"):
        run.figure("r1_zero", "cons@16")
    with pytest.raises(KeyError, match="accuracy"):
        run.figure("missing", "accuracy")
    assert run.fact("pretrain", "tokens") == 6_000_000 and run.fact("missing", "tokens") is None
    with pytest.raises(AttributeError, match="token_count"):
        run.fact("pretrain", "token_count")


def test_every_fact_of_a_page_is_one_that_its_stage_reports():
    for name, page in results.PAGES.items():
        assert not page.facts or set(page.facts) <= {field.name for field in fields(FACTS[name])}


def test_models_of_different_protocols_are_not_compared(tmp_path):
    runs = [results.read(write_run(tmp_path / f"runs/mini-{seed}")) for seed in (0, 1)]
    assert results.protocol(runs).startswith(PROTOCOL.in_words())
    file = runs[1].run.folder / "stages/evaluate/report.json"
    write(file, replace(read(Evaluation, file), protocol=replace(PROTOCOL, n=4)))
    assert "different protocols" in results.protocol([runs[0], results.read(runs[1].run.folder)])


def test_run_without_evaluation_is_refused_in_words(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="empty: no finished stage evaluates"):
        results.main([str(tmp_path / "empty"), "--out", str(tmp_path / "results.md")])
