"""The bands that CI lays on the miniature: noise passes, a broken or missing stage does not."""

import importlib.util
from pathlib import Path

import pytest


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
    figures = {"pass@1": 0.8, "format": 0.97, "language": 0.95, "length": 45.0, "general": 0.7}
    low = {"pretrain": {"pass@1": 0.12, "format": 0.45, "length": 22.0}, "student_base": {"pass@1": 0.05}}
    special = {"r1_zero": {"language": 0.55, "general": 0.45}, "distill": {"pass@1": 0.6}}
    stages = [
        {"name": name, "eval": {**figures, **low.get(name, {}), **special.get(name, {})}}
        for name in bands.BANDS
    ]
    return {"seconds": 800.0, "peak_rss_mb": 2500.0, "stages": stages}


def test_sound_run_passes(bands, sound):
    assert bands.complaints(sound) == []


@pytest.mark.parametrize(
    ("stage", "measure", "value"),
    [
        ("r1_zero", "pass@1", 0.13),
        ("sft", "format", 0.3),
        ("distill", "pass@1", None),
        ("alignment_rl", "pass@1", float("nan")),
    ],
)
def test_broken_stage_fails(bands, sound, stage, measure, value):
    next(entry for entry in sound["stages"] if entry["name"] == stage)["eval"][measure] = value
    assert any(line.startswith(f"{stage}: {measure} is ") for line in bands.complaints(sound))


def test_missing_stage_and_endless_run_fail(bands, sound):
    sound["stages"] = [stage for stage in sound["stages"] if stage["name"] != "reward_models"]
    assert bands.complaints({**sound, "seconds": 7200.0}) == [
        "reward_models: the stage is missing",
        "the run: seconds is 7200.0, not within 0 to 3600.0",
    ]
    assert len(bands.complaints({})) > len(bands.BANDS)
