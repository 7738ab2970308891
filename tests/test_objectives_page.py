"""benchmarks/objectives.py: the page of compared objectives, from runs of all settings and of some."""

import json
from pathlib import Path

import objectives
import pytest
from figure_fakes import evaluation, model_figures, write_stage

from r1kit.config import ConfigError

GRPO = {"epsilon": 10.0, "steps": 32, "problems": 16, "group": 8}
LEARNER = {"optimizer": {"kind": "adamw", "learning_rate": 2e-4}}


def write_run(run, scores, revision, seed):
    """A finished run at this revision whose settings reach these pass@1."""
    run.mkdir(parents=True)
    environment = {"command": "r1kit run recipes/objectives.yaml", "cpus": 2, "platform": "Linux-x86_64"}
    (run / "env.json").write_text(json.dumps({**environment, "versions": {}, "git": revision}))
    (run / "recipe.yaml").write_text(f"name: objectives\nseed: {seed}\n")
    (run / "metrics.jsonl").write_text("")
    for name in scores:
        config = {"grpo": {**GRPO, "epsilon": 10.0 if name == "grpo" else 0.2}, "learner": LEARNER}
        write_stage(run, name, "r1_zero", **config)
    models = {name: model_figures(score) for name, score in scores.items()}
    makers = {name: f"@{name}" for name in models}
    write_stage(run, "evaluate", "evaluate", inputs=[*models], report=evaluation(models), models=makers)
    return run


def write_runs(folder, by_seed, revision):
    return [
        str(write_run(folder / revision / f"objectives-{seed}", scores, revision, seed))
        for seed, scores in enumerate(by_seed)
    ]


@pytest.fixture
def page(tmp_path):
    """The page of three settings at revision aaa..., and the runs of two of them at revision bbb..."""
    first = write_runs(
        tmp_path,
        [
            {"grpo": 0.50, "scale_rl": 0.60, "dapo": 0.40},
            {"grpo": 0.52, "scale_rl": 0.63, "dapo": 0.43},
            {"grpo": 0.54, "scale_rl": 0.64, "dapo": 0.44},
        ],
        "a" * 40,
    )
    page = tmp_path / "docs/objectives-compared.md"
    page.parent.mkdir()
    objectives.main([*first, "--out", str(page)])
    return page


@pytest.fixture
def again(tmp_path):
    return write_runs(
        tmp_path,
        [
            {"grpo": 0.70, "scale_rl": 0.71},
            {"grpo": 0.72, "scale_rl": 0.70},
            {"grpo": 0.74, "scale_rl": 0.78},
        ],
        "b" * 40,
    )


def rows(part):
    """The first cells and the verdicts of a part's table of settings, by name."""
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {cell[0].strip("`"): (cell[2].partition("<br>")[0], cell[6]) for cell in cells}


def test_verdict_is_that_of_students_t_over_the_differences_of_each_seed(page):
    text = page.read_text()
    # scale_rl: differences .10 .11 .10, mean .1033, error .0058 / sqrt(3) = .0033; t(2) 4.30.
    assert rows(text)["scale_rl"] == ("0.623", "+0.103 ± 0.003, better")
    # dapo: -.10 -.09 -.10
    assert rows(text)["dapo"] == ("0.423", "-0.097 ± 0.003, worse")
    assert objectives.verdict([0.01, -0.02, 0.04]).endswith("not significant")
    assert "Better than the first line: `scale_rl`. Worse: `dapo`." in text
    assert f"Measured 2027-01-15 at revision {'a' * 7}\n" in text


def test_runs_of_some_settings_keep_the_others_apart_with_date_and_revision(page, again):
    old = page.with_name("figures").joinpath("objectives.svg").read_bytes()
    objectives.main([*again, "--out", str(page), "--keep", str(page), "--because", "biases moved"])
    new, kept = page.read_text().split("\n## ")[1:]
    assert new.startswith("Measured 2027-01-15 at revision bbbbbbb\n")
    assert kept.startswith("Not measured again since 2027-01-15, revision aaaaaaa: biases moved\n")
    # The new lines are compared with the new reference: .01 -.02 .04 are not significant.
    assert rows(new) == {"grpo": ("0.720", "–"), "scale_rl": ("0.730", "+0.010 ± 0.017, not significant")}
    # The kept line keeps its numbers and its own reference; what was measured again is gone.
    assert rows(kept) == {"grpo": ("0.520", "–"), "dapo": ("0.423", "-0.097 ± 0.003, worse")}
    assert "Better than the first line: none. Worse: `dapo`. The other 0 are" in kept
    assert "of 1 comparisons" in kept and "of 1 comparisons" in new
    assert "figures/objectives-aaaaaaa.svg" in kept and "source revision " + "a" * 40 in kept
    assert (page.parent / "figures/objectives-aaaaaaa.svg").read_bytes() == old


def test_writing_the_kept_page_again_changes_nothing(page, again):
    words = [*again, "--out", str(page), "--keep", str(page), "--because"]
    objectives.main([*words, "biases moved"])
    text, drawing = page.read_text(), (page.parent / "figures/objectives-aaaaaaa.svg").read_bytes()
    objectives.main([*words, "another reason"])
    assert page.read_text() == text
    assert (page.parent / "figures/objectives-aaaaaaa.svg").read_bytes() == drawing


def test_page_without_headings_is_one_measurement(page, again):
    """Pages were written so while all their lines were measured together."""
    text = page.read_text()
    page.write_text(text.replace(f"## Measured 2027-01-15 at revision {'a' * 7}\n\n", ""))
    objectives.main([*again, "--out", str(page), "--keep", str(page), "--because", "biases moved"])
    new, kept = page.read_text().split("\n## ")[1:]
    assert list(rows(new)) == ["grpo", "scale_rl"] and list(rows(kept)) == ["grpo", "dapo"]
    assert "Every line starts from the same base" in kept


def test_nothing_is_kept_of_settings_that_are_all_measured_again(page, tmp_path):
    scores = {"grpo": 0.7, "scale_rl": 0.7, "dapo": 0.7}
    words = write_runs(tmp_path, [scores, scores], "c" * 40)
    objectives.main([*words, "--out", str(page), "--keep", str(page), "--because", "biases moved"])
    assert page.read_text().count("\n## ") == 1 and "aaaaaaa" not in page.read_text()


def test_runs_of_two_revisions_are_not_compared(tmp_path, again):
    other = write_run(tmp_path / "other", {"grpo": 0.5, "scale_rl": 0.6}, "c" * 40, 3)
    with pytest.raises(ConfigError, match=r"objectives-0: b{40}, other: c{40}"):
        objectives.page([objectives.read(Path(again[0])), objectives.read(other)])
    unknown = write_run(tmp_path / "unknown", {"grpo": 0.5}, None, 4)
    with pytest.raises(ConfigError, match="unknown: not recorded"):
        objectives.page([objectives.read(unknown)])


def test_runs_without_the_reference_are_refused(tmp_path):
    run = write_run(tmp_path / "run", {"scale_rl": 0.6}, "a" * 40, 0)
    with pytest.raises(ConfigError, match="'grpo' is not measured"):
        objectives.page([objectives.read(run)])


def test_kept_lines_need_a_reason_and_a_dated_page(page, again, capsys):
    with pytest.raises(SystemExit):
        objectives.main([*again, "--out", str(page), "--keep", str(page)])
    assert "--because REASON" in capsys.readouterr().err
    page.write_text(page.read_text().replace("source revision", "at"))
    with pytest.raises(SystemExit, match="no line with date and source revision"):
        objectives.main([*again, "--out", str(page), "--keep", str(page), "--because", "biases moved"])
