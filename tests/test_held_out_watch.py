"""``watch``: pass@1 on held-out problems while RL and SFT stages train. It measures the weights it says,
moves no number of the training, resumes, and is shown in the log and the report."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from preflight.made_recipes import CASES, make
from rich.console import Console
from small_world import KilledError, logged, model_directory

from r1kit.config import ConfigError, R1kitError
from r1kit.engine import ENGINE
from r1kit.log import Log
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import StageError, run
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.stages.held_out_watch import HeldOutWatch, WatchConfig
from r1kit.stages.models import PromptStyle
from r1kit.stages.sft import SFT
from r1kit.tasks import load_tasks
from r1kit.types import Sampling
from r1kit.user_code import imports, load_name

WATCH = {"tasks": {"chain": 1.0}, "every": 2, "problems": 6, "n": 2, "max_tokens": 80}


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("init") / "model", init_std=0.05)


def sft(folder: Path, init: Path, watch: Any = WATCH) -> dict[str, Any]:
    rows = [{"prompt": f"{i} + 1", "completion": f"<think>{i} and 1</think>{i + 1}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "stage": "sft",
        "init": str(init),
        "data": [str(folder / "rows.jsonl")],
        "training": {"batch_tokens": 200, "epochs": 1, "save_every": 1},
        "learner": {"context": 200, "lines": 4, "precision": "float32", "optimizer": {"learning_rate": 1e-2}},
        "watch": watch,
    }


def rl(folder: Path, init: Path, watch: Any = WATCH, phase: int = 1, steps: int = 5) -> dict[str, Any]:
    (folder / "own.py").write_text(
        "def first(rollouts):\n    return [float(r.index == 0) for r in rollouts]\n"
    )
    return {
        "stage": "r1_zero",
        "init": str(init),
        "tasks": {"chain": 1.0},
        "rewards": {f"{folder / 'own.py'}:first": 1.0},
        "grpo": {
            "steps": steps, "problems": 2, "group": 4, "updates_per_rollout": phase, "max_tokens": 8,
            "beta": 0.0, "save_every": 1,
        },
        "learner": {"context": 200, "lines": 4, "precision": "float32", "optimizer": {"learning_rate": 1e-2}},
        "preflight": "off",
        "watch": watch,
    }  # fmt: skip


def start(folder: Path, out: str, stage: dict[str, Any]) -> str:
    recipe = {
        "name": "watched",
        "out": str(folder / out),
        "runtime": {"processes": 1, "engine_precision": "float32"},
        "stages": [stage],
    }
    (folder / f"{out}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    shown, layers = io.StringIO(), read_layers(folder / f"{out}.yaml", [])
    run(build(layers), layers=layers, console=Console(file=shown, width=1000))
    return shown.getvalue()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, stage: str) -> bytes:
    return (folder / f"stages/{stage}/model/model.safetensors").read_bytes()


def trained(folder: Path) -> list[dict[str, Any]]:
    rows = logged(folder)
    return [{n: v for n, v in row.items() if not n.startswith(("watch/", "time"))} for row in rows]


@pytest.mark.parametrize("kind", [rl, sft])
def test_a_training_has_the_same_numbers_whether_it_is_watched(kind: Any, tmp_path: Path, init: Path) -> None:
    shown = start(tmp_path, "watched", kind(tmp_path, init))
    start(tmp_path, "alone", kind(tmp_path, init, None))
    name = kind(tmp_path, init)["stage"]
    assert trained(tmp_path / "watched") == trained(tmp_path / "alone")
    assert weights(tmp_path / "watched", name) == weights(tmp_path / "alone", name)
    rows = rows_of(tmp_path / "watched")
    assert [row["step"] for row in rows if "watch/pass_1" in row] == list(range(0, len(rows), 2))
    assert [row["step"] for row in rows if "watch/last_pass_1" in row] == [len(rows) - 1]
    assert "held-out 0.000 ± 0.000" in shown
    assert not any("watch/" in key for row in rows_of(tmp_path / "alone") for key in row)


@pytest.mark.parametrize("kind", [rl, sft])
def test_the_first_and_the_last_measurement_are_of_the_first_and_the_last_model(
    kind: Any, tmp_path: Path, init: Path
) -> None:
    """Measured again with an engine on the models' folders. They differ in length."""
    start(tmp_path, "run", kind(tmp_path, init))
    rows, stage = rows_of(tmp_path / "run"), kind(tmp_path, init)["stage"]
    runtime = LocalRuntime(LocalConfig(processes=1, engine_precision="float32"))
    found = []
    for model in (init, tmp_path / f"run/stages/{stage}/model"):
        chat = PromptStyle().chat(model)
        watch = HeldOutWatch(WatchConfig(**WATCH), {}, chat, model, Sampling(1), steps=100)
        found.append(watch.measure(runtime.engine(model), 0)["watch/length"])
    runtime.close()
    assert found == [rows[0]["watch/length"], rows[-1]["watch/last_length"]]
    assert found[0] != found[1]


def test_a_measurement_is_the_share_of_right_samples_with_its_error_over_problems(
    tmp_path: Path, init: Path
) -> None:
    """Of a scripted model that is right on even numbers only: half of the problems at 1, the others at 0."""
    case = next(one for one in CASES if one.name == "all_or_nothing")
    folder = make(case, tmp_path / "made", init).parent
    lines = [f'{{"prompt": "What is {a} + 5?", "answer": "{a + 5}"}}\n' for a in range(10, 20)]
    (folder / "held.jsonl").write_text("".join(lines))
    tasks = load_tasks({"held": {"kind": "dataset", "held_out": str(folder / "held.jsonl")}})
    with imports(True):
        engine = load_name(f"{folder / 'sampler.py'}:Sampler", ENGINE)(None, [])
    watch = HeldOutWatch(
        WatchConfig(problems=10, n=3), tasks, PromptStyle().chat(init), init, Sampling(1, max_tokens=200), 100
    )
    found = watch.measure(engine, 10)
    assert found["watch/pass_1"] == 0.5
    assert found["watch/pass_1_stderr"] == pytest.approx((10 * 0.25 / 9) ** 0.5 / 10**0.5)  # ten of 0 and 1
    assert watch.measure(engine, 11) == {} and "watch/last_pass_1" in watch.measure(engine, 100)


@pytest.mark.parametrize(("kind", "update"), [(rl, 4), (sft, 3)])
def test_a_watched_training_resumes_with_the_same_measurements(
    kind: Any, update: int, tmp_path: Path, init: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path, "whole", kind(tmp_path, init))
    learner = LocalRuntime.learner

    def mortal(self: LocalRuntime, *arguments: Any) -> Any:
        made: Any = learner(self, *arguments)
        update_of, done = made.update, []

        def dies(*given: Any) -> Any:
            done.append(1)
            if len(done) == update:
                raise KilledError
            return update_of(*given)

        made.update = dies
        return made

    with monkeypatch.context() as patch, pytest.raises(StageError):
        patch.setattr(LocalRuntime, "learner", mortal)
        start(tmp_path, "killed", kind(tmp_path, init))
    start(tmp_path, "killed", kind(tmp_path, init))
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")


def test_rl_measures_at_the_beginning_of_a_phase_and_logs_it_once(tmp_path: Path, init: Path) -> None:
    start(tmp_path, "run", rl(tmp_path, init, WATCH | {"every": 3}, phase=2, steps=10))
    rows = rows_of(tmp_path / "run")
    # Phases begin at 0, 2, 4, 6, 8; a multiple of 3 lies at 0, 3, 6, 9, of which 3 and 9 wait for 4 and none.
    assert [row["step"] for row in rows if "watch/pass_1" in row] == [0, 4, 6]


def test_the_report_draws_the_measurements(tmp_path: Path, init: Path) -> None:
    start(tmp_path, "run", rl(tmp_path, init))
    report = (tmp_path / "run/report.md").read_text()
    section = report.partition("Held-out accuracy while stages train")[2]
    assert "| r1_zero | 0 | 0.0 ± 0.0 |" in section and "| r1_zero | 5 | 0.0 ± 0.0 |" in section
    assert "Held-out accuracy while stages train" in (tmp_path / "run/report.html").read_text()


def test_the_log_line_keeps_the_last_measurement(tmp_path: Path) -> None:
    shown = io.StringIO()
    log = Log(tmp_path, "s", Console(file=shown, width=200))
    log.step(0, 3, {"loss": 1.0, "watch/pass_1": 0.25, "watch/pass_1_stderr": 0.05})
    log.step(1, 3, {"loss": 1.0})
    log.step(2, 3, {"loss": 1.0, "watch/last_pass_1": 0.5, "watch/last_pass_1_stderr": 0.04})
    lines = shown.getvalue().splitlines()
    assert [line.partition("held-out ")[2][:13] for line in lines] == ["0.250 ± 0.050"] * 2 + [
        "0.500 ± 0.040"
    ]


def test_a_watch_without_problems_is_refused(tmp_path: Path, init: Path) -> None:
    with pytest.raises(ConfigError, match=r"watch.tasks: name the tasks whose held-out problems"):
        SFT.parse({"data": [], "watch": {"every": 5}}, "recipe")
    (tmp_path / "train.jsonl").write_text('{"prompt": "What is 1 + 1?", "answer": "2"}\n')
    tasks = load_tasks({"mine": {"kind": "dataset", "train": str(tmp_path / "train.jsonl")}})
    with pytest.raises(R1kitError, match="the split 'held_out' is empty"):
        HeldOutWatch(WatchConfig(), tasks, PromptStyle().chat(init), init, Sampling(1, max_tokens=20), 10)
