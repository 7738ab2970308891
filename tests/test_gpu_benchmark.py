"""benchmarks/gpu.py on the CPU with a tiny model: what it writes, and what it does where something is
missing. Nothing is timed."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_world import model, model_directory

from r1kit.model.config import ModelConfig
from r1kit.model.decoder import parameter_count
from r1kit.train.objectives import CrossEntropy

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("gpu")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_every_line_is_measured_and_written(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- gpu -->\nNot measured.\n<!-- /gpu -->\n")
    arguments = ["--device", "cpu", "--tiny", "--out", str(tmp_path), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--model", str(tmp_path / "none")])
    assert gpu.main() == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == [
        "decoding/tiny/1", "decoding/tiny/4", "learning/tiny", "agreement/tiny", "steps",
    ]  # fmt: skip
    assert all(found[name]["tokens_per_s"] > 0 for name in list(found)[:3])
    assert 0 < found["agreement/tiny"]["mean_gap"] <= found["agreement/tiny"]["largest_gap"] < 0.1
    assert "make real" in found["steps"]["missing"]
    assert page.read_text() == "<!-- gpu -->\nNot measured.\n<!-- /gpu -->\n"  # a CPU's figures stay off it
    assert "mean nothing" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2 and not (tmp_path / "out").exists()
    assert "finds no GPU" in capsys.readouterr().err


def test_lines_that_do_not_fit_or_have_no_time_say_so(gpu: ModuleType, tmp_path: Path) -> None:
    session = gpu.Session(torch.device("cpu"), gpu.SMALL, tmp_path / "gpu.json", float("inf"))

    def full() -> dict[str, float]:
        raise torch.cuda.OutOfMemoryError("out of memory")

    session.line("large", full)
    session.deadline = 0.0
    session.line("late", lambda: {"tokens_per_s": 1.0})
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "too small" in found["large"]["missing"] and "no time" in found["late"]["missing"]
    said = gpu.table(
        found | {"steps": {"steps": 10, "seconds": 60.0, "rollout": 0.3, "update": 1.0}}, "a card"
    )
    assert "| large |" in said and "10 in 60.0 s" in said and "a card" in said


def test_only_the_marked_part_of_the_page_is_filled(gpu: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gpu -->\nold\n<!-- /gpu -->\nafter\n")
    gpu.fill_page(page, "new")
    assert page.read_text() == "before\n<!-- gpu -->\nnew\n<!-- /gpu -->\nafter\n"
    page.write_text("before\n<!-- gpu -->\nold\n")
    with pytest.raises(ValueError, match="no part"):
        gpu.fill_page(page, "new")
    real = (BENCHMARKS.parent / "docs/performance.md").read_text()
    assert all(real.count(mark) == 1 for mark in gpu.MARKS)


def test_the_shapes_are_those_of_qwen() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    shapes = importlib.import_module("gpu").SHAPES
    sys.path.remove(str(BENCHMARKS))
    for name, millions in (("0.5b", 494), ("1.5b", 1544)):  # their model cards: 0.49B and 1.54B
        count = parameter_count(ModelConfig.parse(dict(shapes[name]), "shape")).total
        assert round(count / 1e6) == millions


def test_updates_of_the_benchmark_change_the_model(gpu: ModuleType, tmp_path: Path) -> None:
    session = gpu.Session(torch.device("cpu"), gpu.SMALL, tmp_path / "gpu.json", float("inf"))
    learner = gpu.learner_of(session, model())
    rows = gpu.trained_rows(gpu.SMALL, 320)
    first = learner.update(rows, CrossEntropy(), 1.0)["loss"]
    assert learner.update(rows, CrossEntropy(), 1.0)["loss"] < first


def test_steps_of_r1_zero_run_on_a_models_folder(gpu: ModuleType, tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "model")
    session = gpu.Session(torch.device("cpu"), gpu.SMALL, tmp_path / "gpu.json", float("inf"))
    found = gpu.zero_steps(session, folder, tmp_path)
    assert "missing" not in found, found
    assert found["steps"] == 1 and found["mean_length"] > 0
    (folder / "model.safetensors").unlink()
    assert "ended with" in gpu.zero_steps(session, folder, tmp_path)["missing"]
