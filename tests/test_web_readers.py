"""What the pages read: metrics that grow, rollouts by an index and by text, states of stages, recipes."""

import fcntl
import json
import math
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from web_fakes import HOSTILE, rollout, write_run, write_samples

from r1kit.web.curves import lines_of, option, plots_of
from r1kit.web.kept_rollouts import read_kept
from r1kit.web.library import library_of
from r1kit.web.metric_rows import MetricRows, smoothed, thinned
from r1kit.web.recipes import differences, planned_stages
from r1kit.web.rollout_index import RolloutIndex, Wanted, cache_file
from r1kit.web.run_view import RunView


def whole_index(run: Path, cache: Path | None = None) -> RolloutIndex:
    index = RolloutIndex(run, cache)
    index.list_files()
    while index.refresh():
        pass
    return index


def test_metrics_are_read_as_they_grow_and_again_where_rows_were_replaced(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    metrics = MetricRows(run)
    metrics.refresh()
    (training,) = metrics.trainings.values()
    steps, values = training.points("reward/mean")
    assert list(steps) == list(range(6)) and values == training.columns["reward/mean"].values
    assert training.step_seconds() == 2.0 and training.last("reward/mean") == 5 / 6
    whole = (run / "metrics.jsonl").read_bytes()
    new = json.dumps({"stage": "zero", "step": 6, "time": 1012.0, "reward/mean": 0.5}) + "\n"
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(new.encode()[:20])  # a row that is being written
        file.flush()
        metrics.refresh()
        assert metrics.rows() == 6 and metrics.damaged == 0
        file.write(new.encode()[20:])
    metrics.refresh()
    assert metrics.rows() == 7
    lines = whole.splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:3]) + new.replace("6,", "3,", 1).encode() * 9)
    metrics.refresh()
    assert metrics.rows() == 12 and next(iter(metrics.trainings.values())).steps[3] == 3


def test_metrics_in_pieces_are_those_read_at_once_and_damaged_lines_are_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    damaged = b'{"stage": "zero", "step"\n[1]\n{"stage": 5, "step": 1}\n\xff\n{"step": 1}\n\n'
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(content + damaged + content.replace(b'"zero"', b'"two"'))
    pieces, whole = MetricRows(run), MetricRows(run)
    whole.refresh()
    while pieces.refresh(100):
        pass
    assert [one.name for one in whole.trainings.values()] == ["zero", "two"] and whole.damaged == 5
    assert pieces.rows() == whole.rows() == 12 and pieces.damaged == 5
    assert [list(one.steps) for one in pieces.trainings.values()] == [list(range(6))] * 2


def test_a_thinned_curve_keeps_its_spikes_and_smoothing_is_the_corrected_mean() -> None:
    values = [float(place % 7) for place in range(1000)]
    values[503], values[777] = 99.0, -99.0
    found = thinned(list(range(1000)), values, 40)
    assert len(found) <= 40 and {(503, 99.0), (777, -99.0)} <= set(found)
    assert [step for step, _ in found] == sorted(step for step, _ in found)
    values[500:506] = [math.nan] * 3 + values[503:504] + [math.nan] * 2  # what is not a number hides no spike
    assert (503, 99.0) in thinned(list(range(1000)), values, 40)
    points = [(0, 2.0), (1, 4.0), (2, 1.0)]
    expected = [2.0, (0.5 * 2 + 4) / 1.5, (0.25 * 2 + 0.5 * 4 + 1) / 1.75]
    assert [value for _, value in smoothed(points, 0.5)] == pytest.approx(expected)
    assert smoothed(points, 0.0) == points


def test_every_filter_finds_what_reading_all_files_finds(tmp_path: Path) -> None:
    """The index against brute force over the lines, for filters drawn by chance."""
    rng = random.Random(3)
    kept = []
    for stage, step in [("zero", 0), ("zero", 1), ("align", 0)]:
        lines = [
            rollout(
                f"{rng.choice(['sum', 'word'])}/{rng.randrange(4)}",
                index,
                rng.choice([0.0, 1.0]),
                finish=rng.choice(["stop", "length"]),
                text=rng.choice(["alpha BETA", 'gamma "quoted" \n line', "Äpfel 12"]),
                failures=rng.choice([{}, {}, {"judge": "down"}]),
            )
            for index in range(40)
        ]
        lines[0]["parts"] = {}
        file = write_samples(tmp_path, stage, step, lines)
        kept += [
            read_kept(line, stage, "", step, place)
            for place, line in enumerate(file.read_bytes().splitlines())
        ]
    index = whole_index(tmp_path)
    choices: dict[str, list[Any]] = {
        "stage": ["", "zero", "align"],
        "first": [None, 1],
        "last": [None, 0],
        "task": ["", "sum"],
        "problem": ["", "word/2"],
        "verdict": ["", "right", "wrong", "failed", "not judged"],
        "cut": [None, True, False],
        "lowest": [None, 0.5],
        "highest": [None, 0.5],
        "text": ["", "beta", '"quoted" \n', "äPFEL", "nowhere"],
    }
    several = 0
    for _ in range(150):
        wanted = Wanted(**{name: rng.choice([values[0], *values]) for name, values in choices.items()})
        found, after = [], 0
        while True:
            page = index.find(wanted, after, most=7, seconds=60.0)
            found += page.rollouts
            if page.after is None:
                break
            after = page.after
        expected = [
            one
            for one in kept
            if one is not None
            and wanted.fits(one)
            and (not wanted.stage or one.stage == wanted.stage)
            and (wanted.first is None or one.step >= wanted.first)
            and (wanted.last is None or one.step <= wanted.last)
        ]
        assert Counter(map(place_of, found)) == Counter(map(place_of, expected))
        several += len(expected) > 7
    assert several > 5


def place_of(kept: Any) -> tuple[str, int, int]:
    return kept.stage, kept.step, kept.place


def test_the_index_follows_new_replaced_and_removed_files_and_survives_its_own_damage(tmp_path: Path) -> None:
    run, cache = write_run(tmp_path / "run", steps=3), tmp_path / "cache" / "index.sqlite"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    index = whole_index(run, cache)
    assert index.find(Wanted()).count == 18
    newest = index.find(Wanted(), most=1).rollouts[0]
    assert (newest.step, newest.place) == (2, 0)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before  # nothing is written there
    write_samples(run, "zero", 3, [rollout("new/9", 0, 1.0)])
    (run / "samples/zero/step_000000.jsonl").unlink()
    index.list_files()
    while index.refresh():
        pass
    assert index.find(Wanted()).count == 13 and index.find(Wanted(problem="new/9")).count == 1
    index.close()
    again = RolloutIndex(run, cache)
    assert not again.list_files() and again.find(Wanted()).count == 13  # all of it is known
    again.close()
    for name in os.listdir(cache.parent):
        (cache.parent / name).write_bytes(b"no database" * 500)
    assert whole_index(run, cache).find(Wanted()).count == 13


def test_links_and_other_names_in_samples_are_not_opened(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1)
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps(rollout("secret/1", 0, 1.0)) + "\n")
    (run / "samples/zero/step_000007.jsonl").symlink_to(secret)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/step_000001.jsonl").write_text(secret.read_text())
    (run / "samples/linked").symlink_to(tmp_path / "elsewhere")
    (run / "samples/zero/other.jsonl").write_text(secret.read_text())
    os.mkfifo(run / "samples/zero/step_000008.jsonl")
    index = whole_index(run)
    assert index.find(Wanted()).count == 6 and index.find(Wanted(text="secret")).rollouts == []


def test_a_group_and_the_history_of_a_problem(tmp_path: Path) -> None:
    index = whole_index(write_run(tmp_path / "run"))
    one = index.find(Wanted(problem="word/2", first=2, last=2)).rollouts[1]
    group = index.group_of(one)
    assert [(kept.problem, kept.index) for kept in group] == [("word/2", 0), ("word/2", 1), ("word/2", 2)]
    history = index.history_of("word/2")
    assert [(found.step, found.rollouts, found.right) for found in history] == [
        (step, 3, min(step, 3)) for step in range(6)
    ]


@pytest.mark.parametrize(
    ("changes", "verdict", "why"),
    [
        ({}, "wrong", ["accuracy is 0: another number"]),
        (
            {"reasons": {}, "finish": "length"},
            "wrong",
            ["accuracy is 0: the completion was cut off at max_tokens"],
        ),
        ({"parts": {"accuracy": 1.0}}, "right", []),
        ({"parts": {"accuracy": None, "helpful": 0.4}}, "not judged", []),
        (
            {"failures": {"judge": "Traceback\nValueError: no"}, "parts": {}},
            "failed",
            ["judge: ValueError: no"],
        ),
    ],
)
def test_why_a_reward_is_zero(changes: dict[str, Any], verdict: str, why: list[str]) -> None:
    kept = read_kept(json.dumps(rollout("a/1", 0, 0.0, **changes)).encode(), "zero", "", 0, 0)
    assert kept is not None and kept.verdict == verdict and kept.why() == why


@pytest.mark.parametrize(
    ("text", "thinking", "response"),
    [
        ("<think>a</think>b", "a", "b"),
        ("a</think>b", "a", "b"),  # the template opened it
        ("<think>cut", "cut", ""),
        ("plain", None, "plain"),
    ],
)
def test_thinking_and_response_are_separated(text: str, thinking: str | None, response: str) -> None:
    kept = read_kept(json.dumps({"text": text}).encode(), "zero", "", 0, 0)
    assert kept is not None and (kept.thinking, kept.response) == (thinking, response)


def test_lines_of_any_shape_are_rollouts_or_none() -> None:
    odd: list[Any] = [None, 5, "x", [], {}, {"text": 5}, [1, 2], True, -1.5]
    for line in [b"", b"\xff", b"[", *(json.dumps(one).encode() for one in odd)]:
        assert read_kept(line, "s", "", 0, 0) is None
    for name in rollout("a/1", 0, 0.0):
        for value in odd:
            kept = read_kept(json.dumps({**rollout("a/1", 0, 0.0), name: value}).encode(), "s", "", 0, 0)
            assert (kept is None) == (name == "text" and not isinstance(value, str))
            if kept is not None:
                assert kept.verdict and kept.why() is not None


def test_states_of_stages_and_that_a_lock_is_seen_without_being_taken(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "lock").write_text("1\n")
    view = RunView(run)
    view.refresh()
    assert not view.is_running
    assert [(stage.name, stage.state, stage.step) for stage in view.stages] == [
        ("base", "waiting", None),
        ("zero", "interrupted", 6),
    ]
    (run / "stages/zero.partial").mkdir(parents=True)
    with (run / "lock").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        view.refresh()
        stage = view.stages[1]
        assert view.is_running and stage.state == "running" and stage.left_s == (10 - 6) * 2.0
        assert "Nothing new for" in view.quiet(now=1010.0 + 700.0) and view.quiet(now=1010.0 + 500.0) == ""
    view.refresh()
    assert not view.is_running and view.quiet(now=9e9) == ""


def test_a_broken_run_is_shown_with_what_is_wrong(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "recipe.yaml").write_text("stages: [")
    (run / "stages/zero").mkdir(parents=True)
    (run / "stages/zero/stage.json").write_text("{")
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes() + b"broken\n")
    view = RunView(run)
    view.refresh()
    assert [(stage.name, stage.state) for stage in view.stages] == [("zero", "damaged")]
    assert len(view.troubles) == 3 and view.metrics.rows() == 6


def test_charts_have_each_metric_once_and_bands_where_rules_fired(tmp_path: Path) -> None:
    view = RunView(write_run(tmp_path / "run"))
    view.refresh()
    (training,) = view.metrics.trainings.values()
    plots = plots_of([training])
    assert Counter(name for plot in plots for name in plot.metrics) == Counter(
        ["reward/mean", "completions/clipped_ratio", "time/step"]
    )
    (plot,) = [plot for plot in plots if "completions/clipped_ratio" in plot.metrics]
    lines = lines_of(plot, [("one", training), ("two", training)])
    drawn = option(plot, lines, training.signs, 0.5)["series"]
    assert [one["name"] for one in drawn] == ["one", "one", "two", "two"]
    (band,) = [one["markArea"]["data"] for one in drawn if "markArea" in one]
    assert (band[0][0]["xAxis"], band[0][1]["xAxis"]) == (2, 5)


def test_what_differs_between_two_recipes_is_named_by_stage() -> None:
    stage = {"stage": "r1_zero", "name": "zero", "init": "@base", "grpo": {"steps": 10}}
    one = {
        "seed": 0,
        "out": "a",
        "stages": [{"stage": "pretrain", "tokens": 5000, "training": {"batch_tokens": 50}}, stage],
    }
    other = {"seed": 1, "out": "b", "stages": [{**stage, "grpo": {"steps": 20, "beta": 0.1}}]}
    assert differences(one, other) == [
        ("seed", "0", "1"),
        ("stages.pretrain.stage", "pretrain", "-"),
        ("stages.pretrain.tokens", "5000", "-"),
        ("stages.pretrain.training.batch_tokens", "50", "-"),
        ("stages.zero.grpo.steps", "10", "20"),
        ("stages.zero.grpo.beta", "-", "0.1"),
    ]
    assert [(s.name, s.reads, s.steps) for s in planned_stages(one)] == [
        ("pretrain", (), 100),
        ("zero", ("base",), 10),
    ]


def test_a_folder_of_runs_is_all_of_them_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in enumerate(("old", "new")):
        run = write_run(tmp_path / "runs" / name)
        for path in (run, run / "metrics.jsonl"):
            os.utime(path, (1000 + place, 1000 + place))
    (tmp_path / "runs/other").mkdir()
    assert library_of([tmp_path / "runs"]).names == ["new", "old"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = cache_file(tmp_path / "runs/new")
    assert found is not None and found.parent == tmp_path / "cache/r1kit/ui"
    assert found != cache_file(tmp_path / "runs/old") and HOSTILE
