"""The bands of the miniature that CI checks: noise passes, a broken or missing stage does not."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from figure_fakes import PROTOCOL, model_figures

from r1kit.figures import BY_NAME, RunFigures, StageFigures, write


@pytest.fixture(scope="module")
def bands():
    specification = importlib.util.spec_from_file_location(
        "bands", Path(__file__).parents[1] / ".ci/bands.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def sound(bands):
    """A report in the middle of every band."""
    common = {"pass_1": 0.8, "format": 0.97, "language": 0.95, "length": 45.0, "general": 0.7}
    low = {"pretrain": {"pass_1": 0.12, "format": 0.45, "length": 22.0}, "student_base": {"pass_1": 0.05}}
    special = {"r1_zero": {"language": 0.55, "general": 0.45}, "distill": {"pass_1": 0.6}}
    stages = tuple(
        StageFigures(
            stage=name,
            name=name,
            model=None,
            seconds=60.0,
            figures=model_figures(**{**common, **low.get(name, {}), **special.get(name, {})}),
            protocol=PROTOCOL,
        )
        for name in bands.BANDS
    )
    return RunFigures(seconds=800.0, peak_rss_mb=2500.0, stages=stages, controls={})


def with_figures(run, name, figures):
    changed = [replace(stage, figures=figures) if stage.name == name else stage for stage in run.stages]
    return replace(run, stages=tuple(changed))


def test_sound_run_passes(bands, sound):
    assert bands.complaints(sound) == []


@pytest.mark.parametrize(
    ("stage", "measure", "figures"),
    [
        ("r1_zero", "pass@1", model_figures(0.13)),
        ("sft", "format", model_figures(0.8, format=0.3)),
        ("distill", "pass@1", None),
        ("alignment_rl", "pass@1", model_figures(float("nan"))),
        ("alignment_rl", "general", model_figures(0.8, general=None)),
    ],
)
def test_broken_stage_fails(bands, sound, stage, measure, figures):
    found = bands.complaints(with_figures(sound, stage, figures))
    assert any(line.startswith(f"{stage}: {measure} is ") for line in found)


def test_missing_stage_and_endless_run_fail(bands, sound):
    kept = tuple(stage for stage in sound.stages if stage.name != "reward_models")
    assert bands.complaints(replace(sound, stages=kept, seconds=7200.0, peak_rss_mb=None)) == [
        "reward_models: the stage is missing",
        "the run: seconds is 7200.0, not within 0 to 3600.0",
        "the run: peak_rss_mb is None, not within 0 to 4500.0",
    ]


def test_every_band_is_of_a_figure_that_there_is(bands):
    named = {figure for table in bands.BANDS.values() for figure in table}
    assert named | {figure for _, figure, _, _ in bands.GAINS} <= set(BY_NAME)


def test_a_report_of_another_version_is_named(bands, sound, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bands.py", str(tmp_path)])
    write(tmp_path / "report.json", sound)
    bands.main()
    (tmp_path / "report.json").write_text('{"seconds": 3.0}')
    with pytest.raises(SystemExit, match=r"report\.json: stages: missing"):
        bands.main()
