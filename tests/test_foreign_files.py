"""Files that r1kit did not write: a run writes through no link, takes no place, and removes none."""

import io
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import recipe_fakes
from rich.console import Console

from r1kit.config import ConfigError, R1kitError
from r1kit.files import odd_below, open_to_append, remove_at_once, remove_tree, write_whole
from r1kit.jsonl import write_jsonl
from r1kit.log import Log
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import Recipe, build
from r1kit.runs.execute import StageError, Summary, run
from r1kit.runs.fingerprint import note_finished
from r1kit.runtime import RUNTIMES
from r1kit.stages.results import finish
from r1kit.stages.stage import Context, Stage

TWO = """\
name: tiny
stages:
  - {stage: write, name: base}
  - {stage: write, name: last, init: "@base/data.jsonl"}
"""
PRECIOUS = "precious\n"


@pytest.fixture(autouse=True)
def fake_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")
    monkeypatch.setitem(sys.modules, "r1kit.report", recipe_fakes.report)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return recipe_of(tmp_path, TWO)


def recipe_of(folder: Path, text: str, *changes: str) -> Recipe:
    file = folder / "tiny.yaml"
    file.write_text(text)
    return build(read_layers(file, [f"out={folder}/run", *changes]), recipe_fakes.STAGES)


def execute(recipe: Recipe, **options: object) -> tuple[Summary, str]:
    screen = io.StringIO()
    return run(recipe, console=Console(file=screen, width=300), **options), screen.getvalue()  # type: ignore[arg-type]


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; the lock aside, which each process writes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# Links


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of TWO."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")
        patch.setitem(sys.modules, "r1kit.report", recipe_fakes.report)
        recipe = recipe_of(tmp_path_factory.mktemp("whole"), TWO)
        execute(recipe)
    return recipe.run_dir


LINKED = (
    "lock", "recipe.yaml", "env.json", "metrics.jsonl", "finished.json", "report.md", "report.html",
    "report.json", "stages", "samples", "logs", "stages/base", "stages/base.partial", "stages/elsewhere",
    "stages/base/data.jsonl", "stages/base/model", "stages/last.partial/train_state",
    "samples/base", "samples/base/step_000001.jsonl", "logs/base.txt",
)  # fmt: skip


@pytest.mark.parametrize(
    "options", [{}, {"fresh": True}, {"redo_from": "base"}], ids=["run", "fresh", "from"]
)
@pytest.mark.parametrize("name", LINKED)
def test_a_link_in_a_run_is_an_error_and_nothing_is_written(
    name: str, options: dict[str, object], recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, recipe.run_dir)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for inner in ("stage.json", "data.jsonl", "precious"):
        (elsewhere / inner).write_text(PRECIOUS)
    link = recipe.run_dir / name
    if link.exists():
        link.rename(tmp_path / "moved")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere / "precious" if "." in link.name else elsewhere)
    before = content_of(recipe.run_dir), content_of(elsewhere)
    with pytest.raises(ConfigError) as error:
        execute(recipe, **options)
    assert str(error.value).startswith(f"{link}: a link to {elsewhere}")
    assert "r1kit follows no link in a run's folder; nothing was changed" in str(error.value)
    assert (content_of(recipe.run_dir), content_of(elsewhere)) == before and link.is_symlink()


def test_a_pipe_in_a_run_is_an_error_and_not_waited_for(recipe: Recipe) -> None:
    execute(recipe)
    for name in ("lock", "metrics.jsonl"):
        file = recipe.run_dir / name
        before = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(ConfigError, match=rf"{name}: a pipe, socket or device, where a run has its own"):
            execute(recipe)
        file.unlink()
        file.write_bytes(before)
    assert set(execute(recipe)[0].states.values()) == {"done"}


def test_links_that_are_not_the_run_s_are_nothing_to_r1kit(tmp_path: Path) -> None:
    """The run's folder, or one above it, on another disk; a link of the user's next to r1kit's files; a
    temporary name of an earlier version."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    (tmp_path / "precious").write_text(PRECIOUS)
    for name in ("notes", "recipe.yaml.tmp", "env.json.tmp", "metrics.jsonl.tmp"):
        (tmp_path / "disk" / name).symlink_to(tmp_path / "precious")
    recipe = recipe_of(tmp_path, TWO)
    execute(recipe)
    assert set(execute(recipe)[0].states.values()) == {"done"}
    _, screen = execute(recipe, fresh=True)
    left = "env.json.tmp, metrics.jsonl.tmp, notes, recipe.yaml.tmp"
    assert f"{recipe.run_dir}: left, not written by r1kit: {left}\n" in screen
    assert (tmp_path / "precious").read_text() == PRECIOUS
    assert (tmp_path / "disk/stages/last/data.jsonl").is_file() and (tmp_path / "run").is_symlink()


def test_nothing_is_written_or_removed_through_a_link_that_comes_later(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text(PRECIOUS)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text(PRECIOUS)
    for name, target in (("link", "precious"), ("dangling", "nowhere"), ("place", "folder")):
        (tmp_path / name).symlink_to(target)
    for name in ("link", "dangling", "place"):
        path = tmp_path / name
        for write in (lambda p: write_whole(p, "x"), lambda p: write_jsonl(p, [{}]), open_to_append):
            with pytest.raises(R1kitError, match=rf"{name}: a link to \w+, where r1kit writes a file"):
                write(path)
    for remove in (remove_tree, remove_at_once):
        with pytest.raises(
            R1kitError, match="place: a link to folder, where r1kit has a folder; nothing was"
        ):
            remove(tmp_path / "place")
    assert content_of(tmp_path) == {"precious": PRECIOUS.encode(), "folder/file": PRECIOUS.encode()} | {
        "link": PRECIOUS.encode()
    }
    assert not (tmp_path / "nowhere").exists()
    assert {path.name for path, _ in odd_below(tmp_path)} == {"link", "dangling", "place"}
    (folder / "inner").symlink_to(tmp_path / "precious")
    remove_at_once(folder)  # a link within a folder is removed, and not what it leads to
    assert not folder.exists() and (tmp_path / "precious").read_text() == PRECIOUS


class Moves(recipe_fakes.Write):
    """Writes as its parent does; before its third step something else happens to the run's folder."""

    stage: Literal["moves"] = "moves"  # type: ignore[assignment]
    happens: ClassVar[Callable[[], object]] = int

    def run(self, ctx: Context) -> None:
        step = ctx.log.step

        def after_the_second(number: int, total: int, metrics: Any) -> None:
            if number == 2:
                type(self).happens()
            step(number, total, metrics)

        ctx.log.step = after_the_second  # type: ignore[method-assign, assignment]
        super().run(ctx)


PLACES = {
    "the folder above": ("top", "top"),
    "the folder above that": (".", "top/run"),
    "the run": ("top/run", "run"),
    "its stages": ("top/run/stages", "stages"),
    "its stage": ("top/run/stages/base.partial", r"base\.partial"),
    "its samples": ("top/run/samples", "samples"),
}


@pytest.mark.parametrize("how", ["a link", "another folder", "gone"])
@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_is_moved_during_the_run_stops_it_and_nothing_is_written_elsewhere(
    place: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "a link" and place not in ("the folder above", "the run"):
        pytest.skip("a folder that r1kit makes again, or cannot be without")
    world = tmp_path / "world"
    (world / "top").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    moved, _ = PLACES[place]
    here, away = (world / moved), tmp_path / "away"
    there = tmp_path / "elsewhere"
    before: dict[str, bytes] = {}

    def happens() -> None:
        (world / "top/run/samples").mkdir(exist_ok=True)
        shutil.copytree(here, there)  # so that every file has its namesake there
        before.update(content_of(there))
        here.rename(away)
        if how == "a link":
            here.symlink_to(there)
        elif how == "another folder":
            shutil.copytree(there, here)

    monkeypatch.setattr(Moves, "happens", happens)
    file = tmp_path / "tiny.yaml"
    file.write_text("name: tiny\nstages: [{stage: moves, name: base}]\n")
    stages = {**recipe_fakes.STAGES, "moves": Moves}
    recipe = build(read_layers(file, [f"out={world}/top/run"]), stages)
    with pytest.raises(StageError, match="no longer the folder in which this run began"):
        execute(recipe)
    assert content_of(there) == before
    assert how != "another folder" or content_of(here) == before
    if here.is_symlink():
        here.unlink()
    elif here.is_dir():
        shutil.rmtree(here)
    away.rename(here)
    monkeypatch.setattr(Moves, "happens", int)
    execute(recipe)
    rows = (world / "top/run/stages/base/data.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0, 1, 2]


def test_links_above_a_run_that_were_there_before_it_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "top").symlink_to(tmp_path / "disk")
    file = tmp_path / "tiny.yaml"
    file.write_text(TWO)
    execute(build(read_layers(file, [f"out={tmp_path}/top/run"]), recipe_fakes.STAGES))
    assert (tmp_path / "disk/run/stages/last/data.jsonl").is_file()


class Models(Stage):
    """Exports a model. Something else writes ``foreign`` into its folder, before or after the export."""

    stage: Literal["models"] = "models"
    foreign: ClassVar[str] = ""
    early: ClassVar[bool] = False
    writes: ClassVar[tuple[str, ...]] = ("model",)

    def run(self, ctx: Context) -> None:
        if self.early:
            self._put(ctx)
        finish(ctx, {"own": 1})  # type: ignore[arg-type]
        if not self.early:
            self._put(ctx)

    def _put(self, ctx: Context) -> None:
        if self.foreign:
            (ctx.out / "model" / self.foreign).parent.mkdir(parents=True, exist_ok=True)
            (ctx.out / "model" / self.foreign).write_text(PRECIOUS)


def run_models(folder: Path, foreign: str = "", early: bool = False) -> str:
    """Run the one stage; returns what was printed."""
    file = folder / "tiny.yaml"
    file.write_text("name: tiny\nstages: [{stage: models, name: base}]\n")
    recipe = build(read_layers(file, [f"out={folder}/run"]), {"models": Models})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Models, "foreign", foreign)
        patch.setattr(Models, "early", early)
        return execute(recipe)[1]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("name", ["notes.txt", "special_tokens_map.json", "inner/own.py", "model.bin"])
def test_a_file_in_a_model_s_folder_that_the_stage_did_not_write_is_no_result_of_it(
    name: str, early: bool, tmp_path: Path
) -> None:
    screen = run_models(tmp_path, name, early)
    final = tmp_path / "run/stages/base"
    record = json.loads((final / "stage.json").read_text())
    assert {"model/config.json"} == {path for path in record["outputs"] if path != "model/r1kit.json"}
    kept = final / "moved_files/model" / name if early else final / "model" / name
    assert kept.read_text() == PRECIOUS
    assert f"{name}: not written by the stage" in screen
    assert not (final / "kept_marks").exists()


def test_a_model_without_other_files_has_no_warning(tmp_path: Path) -> None:
    screen = run_models(tmp_path)
    assert "not written" not in screen and not (tmp_path / "run/stages/base/moved_files").exists()


def test_a_model_that_changes_between_its_export_and_its_record_is_damage(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"model/config\.json: changed since the stage wrote it"):
        run_models(tmp_path, "config.json")
    run_models(tmp_path, "config.json", early=True)  # the export replaces it
    assert json.loads((tmp_path / "run/stages/base/model/config.json").read_text()) == {"own": 1}


def test_a_hard_link_s_other_name_keeps_its_content(recipe: Recipe, tmp_path: Path) -> None:
    """As after cp --link: the copy of a run stays as it was when the run goes on."""
    execute(recipe)
    copy = tmp_path / "copy"
    copy.mkdir()
    names = ("lock", "metrics.jsonl", "recipe.yaml", "env.json")
    for name in names:
        os.link(recipe.run_dir / name, copy / name)
    before = {name: (copy / name).read_bytes() for name in names}
    with Log(recipe.run_dir, "more") as log:
        log.step(0, 1, {"loss": 1.0})
    execute(recipe)
    assert {name: (copy / name).read_bytes() for name in names} == before
    assert (recipe.run_dir / "metrics.jsonl").read_bytes().startswith(before["metrics.jsonl"])


# Folders that hold other things


def test_a_folder_without_a_run_keeps_all_its_files(recipe: Recipe, tmp_path: Path) -> None:
    run_dir = recipe.run_dir
    for name in ("logs/my.log", "samples/a.wav", "stages/act1/script.txt", "report.md", "notes.txt"):
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text(PRECIOUS)
    before = content_of(run_dir)
    for options in ({}, {"fresh": True}, {"redo_from": "base"}):
        with pytest.raises(ConfigError) as error:
            execute(recipe, **options)  # type: ignore[arg-type]
        assert str(error.value) == (
            f"{run_dir} holds no run of r1kit, but other files where a run's would be: report.md, stages, "
            "samples, logs; nothing was changed. Choose another folder with --out DIR"
        )
    assert content_of(run_dir) == before and not (run_dir / "lock").exists()


@pytest.mark.parametrize("name", ["recipe.yaml", "env.json", "metrics.jsonl", "stages/act1/stage.json"])
def test_a_file_of_the_user_s_is_not_overwritten(name: str, recipe: Recipe) -> None:
    file = recipe.run_dir / name
    file.parent.mkdir(parents=True)
    file.write_text('{"name": "mine"}')
    with pytest.raises(
        ConfigError, match=f"holds no run of r1kit, but other files .*: {name.split('/')[0]};"
    ):
        execute(recipe)
    assert file.read_text() == '{"name": "mine"}'


def test_a_lock_of_another_program_is_not_overwritten(recipe: Recipe) -> None:
    recipe.run_dir.mkdir()
    (recipe.run_dir / "lock").write_text(PRECIOUS)
    with pytest.raises(ConfigError, match="lock: not written by r1kit, whose lock is in this place; nothing"):
        execute(recipe)
    assert (recipe.run_dir / "lock").read_text() == PRECIOUS
    (recipe.run_dir / "lock").write_text("4242\n")  # as a killed process leaves it
    assert set(execute(recipe)[0].states.values()) == {"new"}


def test_fresh_needs_a_run_or_an_empty_folder(recipe: Recipe) -> None:
    recipe.run_dir.mkdir()
    execute(recipe, fresh=True)  # empty
    execute(recipe, fresh=True)  # a run
    other = recipe_of(recipe.run_dir.parent, TWO, f"out={recipe.run_dir.parent}/other")
    other.run_dir.mkdir()
    (other.run_dir / "notes.txt").write_text(PRECIOUS)
    with pytest.raises(ConfigError, match=r"--fresh: .*other holds no run of r1kit, but notes\.txt; nothing"):
        execute(other, fresh=True)
    assert [path.name for path in other.run_dir.iterdir()] == ["notes.txt"]
    assert set(execute(other)[0].states.values()) == {"new"}  # other files are no obstacle to a run


def test_fresh_leaves_and_names_what_r1kit_did_not_write(recipe: Recipe) -> None:
    execute(recipe)
    with Log(recipe.run_dir, "base") as log:
        log.rollouts(3, [{"text": "a"}])
    foreign = (
        "logs/base.txt.old", "logs/my.log", "notes.txt", "samples/a.wav", "samples/base/step_x.jsonl",
        "stages/act1/script.txt",
    )  # fmt: skip
    own = ("logs/base.txt", "report.md", "report.html")
    for name in (*foreign, *own):
        (recipe.run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (recipe.run_dir / name).write_text(PRECIOUS)
    summary, screen = execute(recipe, fresh=True)
    assert set(summary.states.values()) == {"new"}
    assert f"{recipe.run_dir}: left, not written by r1kit: {', '.join(foreign)}\n" in screen
    assert all((recipe.run_dir / name).read_text() == PRECIOUS for name in foreign)
    assert not any((recipe.run_dir / name).exists() for name in (*own, "samples/base/step_000003.jsonl"))


@pytest.mark.parametrize("options", [{"fresh": True}, {"redo_from": "last"}], ids=["fresh", "from"])
@pytest.mark.parametrize("name", ["notes.txt", "model/notes.txt", "another/stage.json"])
def test_a_foreign_file_in_a_stage_is_named_before_anything_is_removed(
    name: str, options: dict[str, object], recipe: Recipe
) -> None:
    execute(recipe)
    file = recipe.run_dir / "stages/last" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(PRECIOUS)
    before = content_of(recipe.run_dir)
    with pytest.raises(ConfigError) as error:
        execute(recipe, **options)
    assert str(error.value) == (
        "a stage is to be redone, and its folder holds files that are not in its record (stage.json):\n"
        f"  {file}\nNothing was removed. Move these files away, then rerun."
    )
    assert content_of(recipe.run_dir) == before
    file.unlink()
    states = execute(recipe, **options)[0].states
    assert states == {"base": "new" if "fresh" in options else "done", "last": "new"}


def test_a_folder_in_a_new_stage_s_place_is_named(recipe: Recipe) -> None:
    for place in ("last", "last.partial"):
        execute(recipe)
        (recipe.run_dir / "stages/last/stage.json").unlink()
        (recipe.run_dir / "stages/last").rename(recipe.run_dir / "stages" / place)
        with pytest.raises(R1kitError, match=rf"{place}/stage\.json: damaged: it is missing"):
            execute(recipe)
        with pytest.raises(ConfigError, match=rf"{place}/data\.jsonl\nNothing was removed"):
            execute(recipe, fresh=True)
        assert (recipe.run_dir / "stages" / place / "data.jsonl").is_file()
        (recipe.run_dir / "stages" / place / "data.jsonl").unlink()


def test_what_a_killed_process_leaves_is_removed(recipe: Recipe) -> None:
    """Temporary files of every folder, a stage that was being removed, and an empty folder of a stage; other
    names are not touched."""
    mark = "0123456789abcdef"
    names = [
        f".recipe.yaml.{mark}.tmp", f"samples/base/.step_000001.jsonl.{mark}.tmp",
        f"stages/.old.{mark}.tmp/a", f"logs/.base.txt.{mark}.tmp",
        f"stages/base.partial/.stage.json.{mark}.tmp",
    ]  # fmt: skip
    near = (".recipe.yaml.tmp", f"recipe.yaml.{mark}.tmp", f".x.{mark[:-1]}.tmp")
    execute(recipe)
    (recipe.run_dir / "stages/base.partial").mkdir()
    for name in (*names, *near):
        (recipe.run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (recipe.run_dir / name).write_text("half")
    assert set(execute(recipe)[0].states.values()) == {"done"}
    assert not any((recipe.run_dir / name).exists() for name in names)
    assert all((recipe.run_dir / name).exists() for name in near)


def test_a_run_that_was_killed_before_its_first_record_continues(recipe: Recipe) -> None:
    (recipe.run_dir / "stages").mkdir(parents=True)
    (recipe.run_dir / "lock").write_text("4242\n")
    (recipe.run_dir / "stages/.writable.0123456789abcdef.tmp").write_text("")
    assert set(execute(recipe)[0].states.values()) == {"new"}
    for name in ("stages", "metrics.jsonl", "recipe.yaml"):
        path = recipe.run_dir / name
        remove_tree(path) if path.is_dir() else path.unlink()
    (recipe.run_dir / "samples/base").mkdir(parents=True, exist_ok=True)
    assert set(execute(recipe)[0].states.values()) == {"new"}  # env.json is the first file that is written


# Modes and temporary names


def test_files_with_commands_are_the_user_s_alone(recipe: Recipe, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        execute(recipe)
        note_finished(read_layers(tmp_path / "tiny.yaml", [f"out={recipe.run_dir}"]), recipe.run_dir)
    finally:
        os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in recipe.run_dir.iterdir()}
    private = {name: 0o600 for name in ("recipe.yaml", "env.json", "lock", "finished.json")}
    assert modes == {**private, "metrics.jsonl": 0o644, "stages": 0o755}
    assert stat.S_IMODE(recipe.run_dir.stat().st_mode) == 0o755
    assert json.loads((recipe.run_dir / "env.json").read_text())["command"]


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'"):
        write_whole(tmp_path / "a", "new")
    assert content_of(tmp_path) == {"a": b"old"}
