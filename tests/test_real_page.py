"""benchmarks/real.py: the page says what was measured, what was missed, and what was not measured."""

import json
from pathlib import Path

import pytest
import real
from figure_fakes import evaluation, model_figures, write_stage
from public_data import ROOT

from r1kit.config import R1kitError

PAGE = "# A real model\n\n<!-- results -->\n<!-- /results -->\n\nAfter.\n"


def write_run(run: Path, models: dict[str, dict], control: float | None = None, seed: int = 0) -> None:
    run.mkdir(parents=True)
    environment = {
        "command": "r1kit run /home/someone/recipes/real.yaml",
        "cpus": 2,
        "platform": "Linux-x86_64",
    }
    (run / "env.json").write_text(json.dumps({**environment, "versions": {}, "git": "a" * 40}))
    (run / "recipe.yaml").write_text(f"name: real\nseed: {seed}\nruntime: {{processes: 2}}\n")
    rows = [{"stage": "r1_zero", "step": step, "reward/accuracy/mean": step / 10} for step in range(5)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_stage(run, "r1_zero", "r1_zero", seconds=300.0)
    figures = {name: model_figures(values.pop("pass_1"), **values) for name, values in models.items()}
    write_stage(
        run, "evaluate", "evaluate", inputs=["r1_zero"], report=evaluation(figures),
        models={name: f"@{name}" for name in figures},
    )  # fmt: skip
    if control is not None:
        write_stage(run, "random_reward", "r1_zero")
        report = evaluation({"random_reward": model_figures(control)}, {"a coin": ("random_reward",)})
        write_stage(
            run, "controls", "evaluate", inputs=["random_reward"], report=report,
            models={"random_reward": "@random_reward"},
        )  # fmt: skip


def page(folder: Path) -> str:
    out = folder / "docs" / "real.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text(PAGE)
    real.write(folder / "runs", out)
    return out.read_text()


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_without_runs_everything_is_not_measured_yet(tmp_path):
    text = page(tmp_path)
    assert text.startswith("# A real model") and text.endswith("After.\n")
    for one in (real.WORDS, real.COUNTDOWN, *real.OTHERS):
        assert section(text, one.title).startswith(f"\nNot measured yet: `{one.command}`.")
    assert not (tmp_path / "docs/figures").exists()


def test_three_seeds_are_averaged_and_targets_judged(tmp_path):
    for number, after in enumerate((0.5, 0.6, 0.7)):
        models = {"base": {"pass_1": 0.1}, "r1_zero": {"pass_1": after, "format": 0.97}}
        write_run(tmp_path / f"runs/real-{number}", models, control=0.12, seed=number)
    words = section(page(tmp_path), real.WORDS.title)
    assert "0.600 (0.500..0.700; sd 0.100)" in words and "`random_reward` (control) | 0.120" in words
    assert "over that of the original: 6.00, wanted 3 or more, reached" in words
    assert "Format of R1-Zero: 0.97, wanted 0.95 or more, reached" in words
    assert "seeds 0, 1, 2" in words and "5.2 minutes of stages" in words and "not measured yet" not in words
    assert "/home" not in words and "figures/real.svg" in words
    assert (tmp_path / "docs/figures/real.svg").read_text().startswith("<svg")


def test_a_target_that_was_missed_and_seeds_that_were_not_run_are_named(tmp_path):
    write_run(tmp_path / "runs/real-1", {"base": {"pass_1": 0.2}, "r1_zero": {"pass_1": 0.5, "format": 0.9}})
    write_run(tmp_path / "runs/countdown-0", {"base": {"pass_1": 0.2}, "r1_zero": {"pass_1": 0.49}})
    text = page(tmp_path)
    words, countdown = section(text, real.WORDS.title), section(text, real.COUNTDOWN.title)
    assert "2.50, wanted 3 or more, **missed**" in words and "0.90, wanted 0.95 or more, **missed**" in words
    assert (
        "Seeds not measured yet: 2 of 3" in words
        and "| `random_reward` (control) | not measured yet" in words
    )
    assert "pass@1 of R1-Zero: 0.49, wanted 0.5 or more, **missed**" in countdown


def test_a_part_whose_runs_are_gone_stays_and_one_that_is_measured_again_does_not(tmp_path):
    models = {"base": {"pass_1": 0.1}, "r1_zero": {"pass_1": 0.625, "format": 0.97}}
    write_run(tmp_path / "runs/real-0", {name: {**values} for name, values in models.items()})
    page(tmp_path)
    out = tmp_path / "docs" / "real.md"
    (tmp_path / "runs/real-0").rename(tmp_path / "runs/countdown-0")
    before = section(out.read_text(), real.WORDS.title)
    real.write(tmp_path / "runs", out)
    text = out.read_text()
    assert section(text, real.WORDS.title) == before and "0.625" in before
    assert "0.625" in section(text, real.COUNTDOWN.title) and text.count("## Word problems\n") == 1
    write_run(tmp_path / "runs/real-1", {**models, "r1_zero": {"pass_1": 0.5, "format": 0.97}}, seed=1)
    real.write(tmp_path / "runs", out)
    assert "0.625" not in section(out.read_text(), real.WORDS.title)
    assert out.read_text().endswith("<!-- /results -->\n\nAfter.\n")


def test_an_unfinished_run_is_left_out_and_named(tmp_path, capsys):
    (tmp_path / "runs/real-0/stages").mkdir(parents=True)
    assert "Not measured yet" in section(page(tmp_path), real.WORDS.title)
    assert "real-0" in capsys.readouterr().err


def test_a_page_without_its_marks_is_refused(tmp_path):
    out = tmp_path / "real.md"
    with pytest.raises(R1kitError, match="no such file"):
        real.write(tmp_path, out)
    out.write_text("# no marks\n")
    with pytest.raises(R1kitError, match="exactly one"):
        real.write(tmp_path, out)


def test_the_commands_of_the_page_exist():
    goals = (ROOT / "Makefile").read_text(encoding="utf-8")
    for one in (real.WORDS, real.COUNTDOWN, *real.OTHERS):
        if one.command.startswith("make "):
            assert f"\n{one.command.removeprefix('make ')}:" in goals
        else:
            assert (ROOT / one.command.split()[-1]).is_file()
