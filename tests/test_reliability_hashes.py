"""Nothing that is damaged is used: every byte of a finished run, its records, its log, its models."""

import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recipe_fakes
from rich.console import Console

from r1kit.commands.cli import main
from r1kit.commands.export import export_model
from r1kit.config import R1kitError
from r1kit.log import Log
from r1kit.log_files import mark_log
from r1kit.marks import hash_once, seal
from r1kit.recipe.layers import Layers, read_layers
from r1kit.recipe.recipe import Recipe, build
from r1kit.records import DamageError, StageFolder, StageRecord, check_model, find_model, mark_outputs
from r1kit.report.run import read_run
from r1kit.runs.execute import run
from r1kit.runs.fingerprint import find_finished, note_finished
from r1kit.runs.verify import examine, require_whole
from r1kit.runtime import RUNTIMES

TEXT = """\
name: tiny
stages:
  - {stage: write, name: base}
  - {stage: write, name: last, init: "@base/data.jsonl"}
"""


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")
    monkeypatch.setitem(sys.modules, "r1kit.report", recipe_fakes.report)
    monkeypatch.setattr("r1kit.stages.STAGES", recipe_fakes.STAGES)


def layers_of(folder: Path, text: str = TEXT) -> Layers:
    (folder / "tiny.yaml").write_text(text)
    return read_layers(folder / "tiny.yaml", [f"out={folder}/run"])


def recipe_of(folder: Path, text: str = TEXT) -> Recipe:
    return build(layers_of(folder, text), recipe_fakes.STAGES)


def execute(recipe: Recipe, **options: Any) -> dict[str, str]:
    return dict(run(recipe, console=Console(file=io.StringIO()), **options).states)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with rollouts."""
    recipe = recipe_of(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")
        patch.setitem(sys.modules, "r1kit.report", recipe_fakes.report)
        patch.setattr(recipe_fakes.Write, "run", with_rollouts(recipe_fakes.Write.run))
        execute(recipe)
    return recipe.run_dir


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of that run, of which is noted that it has finished."""
    shutil.copytree(whole, tmp_path / "run")
    note_finished(layers_of(tmp_path), tmp_path / "run")
    return tmp_path / "run"


def with_rollouts(write: Callable[..., None]) -> Callable[..., None]:
    def wrapped(self: Any, ctx: Any) -> None:
        ctx.log.rollouts(0, [{"text": "one"}, {"text": "two"}])
        write(self, ctx)

    return wrapped


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["r1kit", *words])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def results(run_dir: Path) -> dict[str, Any]:
    """All that a run has made, without times."""
    files = {
        str(path.relative_to(run_dir)): path.read_bytes()
        for folder in ("stages", "samples")
        for path in sorted((run_dir / folder).rglob("*.jsonl"))
    }
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {**files, "rows": [{k: v for k, v in row.items() if k != "time"} for row in rows]}


# ------------------------------------------------------------- the log (reproduction F8)


def test_verify_names_each_damage_to_the_log_with_file_and_line(finished: Path) -> None:
    metrics, samples = finished / "metrics.jsonl", finished / "samples/base"
    whole = metrics.read_text()
    lines = whole.splitlines(keepends=True)
    cases: dict[str, tuple[str, str]] = {
        "a digit": (
            whole.replace('"loss": 0.5', '"loss": 0.6', 1),
            f"{metrics}:2: not a row that stage base",
        ),
        "a time": (
            lines[0].replace('"time": 1', '"time": 2') + "".join(lines[1:]),
            f"{metrics}:1: not a line",
        ),
        "last rows": ("".join(lines[:-2]), f"{metrics}: of the rows that stage last wrote 2 are missing"),
        "an added row": (whole + lines[-1], f"{metrics}:{len(lines) + 1}: not a row that stage last"),
        "another stage": (
            whole + '{"stage": "zzz", "step": 0, "time": 1}\n',
            f"{metrics}:{len(lines) + 1}: not a line that the run wrote",
        ),
        "half a line": (
            lines[0] + lines[1][:20] + "\n" + "".join(lines[2:]),
            f"{metrics}:2: damaged: not JSON",
        ),
        "another order": ("".join(reversed(lines)), f"{metrics}: its lines are in another order"),
    }
    for how, (content, says) in cases.items():
        metrics.write_text(content)
        found = examine(finished).damages
        assert any(damage.startswith(says) for damage in found), (how, found)
        with pytest.raises(DamageError):
            require_whole(finished)
    metrics.unlink()
    assert f"{metrics}: missing, with the 3 rows of stage base" in examine(finished).damages
    metrics.write_text(whole)
    assert examine(finished).damages == ()
    change(samples / "step_000000.jsonl", "one", "won")
    assert (
        "step_000000.jsonl: its SHA-256 is not that of what the stage wrote" in examine(finished).damages[0]
    )
    (samples / "step_000007.jsonl").write_text("{}\n")
    assert any("step_000007.jsonl: not written by stage base" in one for one in examine(finished).damages)
    shutil.rmtree(samples)
    assert examine(finished).damages == (
        f"{samples}: missing, with the 1 files of rollouts that stage base wrote",
    )


def test_no_report_is_made_from_a_damaged_log(finished: Path) -> None:
    assert len(read_run(finished).metrics) == 6
    change(finished / "metrics.jsonl", '"loss": 0.5', '"loss": 0.6')
    with pytest.raises(DamageError, match=r"no report is made from damaged files:\n.*metrics\.jsonl:2: "):
        read_run(finished)


def test_the_marks_of_a_log_do_not_depend_on_times_or_on_other_stages(tmp_path: Path) -> None:
    quiet = Console(file=io.StringIO())
    for name in ("together", "apart"):
        (tmp_path / name).mkdir()
    logs = {stage: Log(tmp_path / "together", stage, quiet) for stage in ("a", "b")}
    for step in range(3):
        for log in logs.values():
            log.step(step, 3, {"loss": step / 2, "time/update": 0.1})
    for stage in ("b", "a"):
        alone = Log(tmp_path / "apart", stage, quiet)
        for step in range(3):
            alone.step(step, 3, {"loss": step / 2, "time/update": 0.2})
    one, other = (mark_log(tmp_path / name, "a") for name in ("together", "apart"))
    assert one == other and len(one.rows) == 3 * 8
    assert one != mark_log(tmp_path / "apart", "b")


# ------------------------------------------- a bad byte in metrics.jsonl (reproduction F15)


@pytest.mark.parametrize("damage", ["byte", "half a line"])
def test_a_damaged_line_of_metrics_is_named_where_a_stage_would_go_on(damage: str, tmp_path: Path) -> None:
    quiet = Console(file=io.StringIO())
    for stage in ("base", "last"):
        log = Log(tmp_path, stage, quiet)
        for step in range(2):
            log.step(step, 2, {"loss": 1.0})
    file = tmp_path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:30] + b"\xff" + lines[1][30:] if damage == "byte" else lines[1][:30] + b"\n"
    file.write_bytes(b"".join(lines))
    says = rf"{file}:2: damaged: not (UTF-8|JSON).*Bring back a copy of the file, or redo the stage"
    for act in (lambda: Log(tmp_path, "third", quiet).step(0, 1, {}), Log(tmp_path, "last", quiet).forget):
        with pytest.raises(R1kitError, match=says):
            act()
    assert file.read_bytes() == b"".join(lines)
    Log(tmp_path, "base", quiet).forget()  # --from base: its damaged line goes with it
    assert file.read_bytes() == b"".join(lines[2:])


# ------------------------------------------------------------- records (reproduction F16)


@pytest.mark.parametrize("content", ["{}", "[]", "null", "[1]", '"x"', "", "{", "1", '{"a": ' * 5000, "\xff"])
@pytest.mark.parametrize("stage", ["base", "last"])
def test_a_record_of_another_form_never_makes_a_stage_new(stage: str, content: str, finished: Path) -> None:
    file = finished / "stages" / stage / "stage.json"
    file.write_text(content, encoding="latin-1")
    before = (finished / "stages" / stage / "data.jsonl").read_bytes()
    with pytest.raises(DamageError, match=rf"(?s){file}: damaged: .*--from {stage}"):
        execute(recipe_of(finished.parent))
    assert (finished / "stages" / stage / "data.jsonl").read_bytes() == before
    assert any(f"{file}: damaged" in damage for damage in examine(finished).damages)
    assert execute(recipe_of(finished.parent), redo_from="base") == {"base": "new", "last": "new"}


def test_each_key_of_a_record_is_needed_and_of_its_type(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = StageFolder(finished / "stages/base")
    file = folder.final / "stage.json"
    whole = json.loads(file.read_text())
    assert set(whole) == {*StageRecord.model_fields, "sha256"}
    for key in whole:
        without = {name: value for name, value in whole.items() if name != key}
        renamed = {(f"{name}x" if name == key else name): value for name, value in whole.items()}
        for changed in (renamed, {**whole, key: {"x": [1]}}, {**whole, key: "x"}):
            file.write_text(json.dumps(changed))
            with pytest.raises(DamageError, match=rf"{file}: damaged: .*({key}|sha256)"):
                folder.finished()
        file.write_text(json.dumps(without))
        if key != "sha256":
            with pytest.raises(DamageError, match=rf"{file}: damaged: .*({key}|sha256)"):
                folder.finished()
    # Without its hash it is a record of an older r1kit: used, with a warning.
    assert folder.finished() is not None
    assert f"{file}: it has no hash of its own, because an older r1kit wrote it" in capsys.readouterr().err
    file.write_text(json.dumps({**whole, "finished": None}))
    with pytest.raises(DamageError, match="sha256"):
        folder.finished()


def test_a_lost_or_exchanged_record_is_damage(finished: Path) -> None:
    base, last = (finished / "stages" / name / "stage.json" for name in ("base", "last"))
    kept = last.read_bytes()
    shutil.copy(base, last)
    with pytest.raises(DamageError, match="name: the record of stage 'base', in the folder of 'last'"):
        execute(recipe_of(finished.parent))
    last.unlink()
    with pytest.raises(DamageError, match=rf"{last}: damaged: it is missing, and the folder has files"):
        execute(recipe_of(finished.parent))
    last.write_bytes(kept)
    assert execute(recipe_of(finished.parent)) == {"base": "done", "last": "done"}


# ------------------------------------------- what is read is checked (reproduction F7)


def model_run(folder: Path) -> Path:
    """A finished run with a model, without training."""
    stage = StageFolder(folder / "run/stages/sft")
    record = StageRecord(stage="sft", name="sft")
    stage.begin(record)
    (stage.partial / "model").mkdir()
    (stage.partial / "model/config.json").write_text('{"model_type": "qwen2"}')
    (stage.partial / "model/model.safetensors").write_bytes(bytes(range(256)) * 40)
    stage.write(record.model_copy(update={"outputs": mark_outputs(stage.partial), "finished": 2.0}))
    stage.finish()
    return folder / "run"


def flip(file: Path, place: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(bytes(content))


def test_a_damaged_model_is_not_exported_or_talked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = model_run(tmp_path)
    model = run_dir / "stages/sft/model"
    given = export_model(run_dir, None, tmp_path / "given")
    assert find_model(run_dir) == model and find_model(model) == model and find_model(given) == given
    (given / "README.md").write_text("my own card")
    check_model(given)
    for folder, words in (
        (model, ["export", str(run_dir), "--to", str(tmp_path / "more")]),
        (model, ["chat", str(run_dir), "--prompt", "x"]),
        (model, ["eval", str(model), "--tasks", "chain"]),
        (given, ["chat", str(given), "--prompt", "x"]),
        (given, ["eval", str(given), "--tasks", "chain"]),
    ):
        flip(folder / "model.safetensors", -100)
        assert command(monkeypatch, *words) == 1, words
        said = capsys.readouterr().err
        assert f"{folder}: this model is not as r1kit wrote it" in said
        assert f"{folder}/model.safetensors: its SHA-256 is not that of what" in said
        flip(folder / "model.safetensors", -100)
        (folder / "chat_template.jinja").write_text("{{ 1 }}")
        assert command(monkeypatch, *words) == 1, words
        assert "chat_template.jinja: not written with this model; remove it" in capsys.readouterr().err
        (folder / "chat_template.jinja").unlink()
    assert not (tmp_path / "more").exists()


def test_a_model_from_elsewhere_is_used_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert find_model(folder) == folder


def test_a_finished_run_that_is_damaged_is_not_called_done(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(finished.parent / "tiny.yaml"), "--out", str(finished)]
    assert find_finished(layers_of(finished.parent)) == finished
    flip(finished / "stages/last/data.jsonl", 5)
    for execution in ("quick", "compared"):
        with monkeypatch.context() as patch:
            if execution == "compared":
                patch.setattr("r1kit.runs.fingerprint.find_finished", lambda layers: None)
            assert command(patch, *words) == 1
        said = capsys.readouterr().err
        assert f"{finished} is damaged:\n    {finished}/stages/last/data.jsonl: its SHA-256 is not" in said
        assert "--from last" in said
    assert execute(recipe_of(finished.parent), redo_from="last") == {"base": "done", "last": "new"}


def test_a_damaged_list_of_what_was_finished_is_compared_again(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = finished / "finished.json"
    for content in ("{}", "[]", "null", json.dumps(seal({"fingerprint": 3, "stages": {}})), "{"):
        file.write_text(content)
        assert find_finished(layers_of(finished.parent)) is None
        assert f"warning: {file}: damaged" in capsys.readouterr().err
        assert any(f"{file}: damaged" in damage for damage in examine(finished).damages)
    assert execute(recipe_of(finished.parent)) == {"base": "done", "last": "done"}


def test_a_hash_is_remembered_only_while_a_file_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = hash_once(file)
    file.write_bytes(b"two")  # of the same size, at once
    assert hash_once(file) != first
    file.write_bytes(b"one")
    assert hash_once(file) == first


# ------------------------------------------------------------- every file, every region


def mutations(rng: random.Random, content: bytes, count: int) -> list[bytes]:
    """Flipped bits over the whole file, and pieces cut, emptied, doubled and zeroed."""
    found = [content[: len(content) // 2], content[:-1], b"", content + content[-20:], bytes(len(content))]
    for number in range(count):
        place = min(len(content) - 1, int(len(content) * (number + rng.random()) / count))
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        found.append(bytes(flipped))
    return [one for one in found if one != content]


def means_the_same(one: bytes, other: bytes) -> bool:
    """Whether two contents are the same JSON: a newline less at the end is no damage."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("part", range(2))
def test_whatever_is_damaged_a_run_is_identical_or_refused(
    part: int, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """About 300 mutations of the files of a small finished run: verify names the file, and a run that goes on
    has the same results."""
    rng, wanted = random.Random(part), results(finished)
    recipe, tried = recipe_of(finished.parent), 0
    kept = finished.parent / "kept"
    shutil.copytree(finished, kept)
    files = [path for path in sorted(kept.rglob("*")) if path.is_file() and path.name != "lock"]
    for file in files:
        name = file.relative_to(kept)
        for content in mutations(rng, file.read_bytes(), 8):
            shutil.rmtree(finished)
            shutil.copytree(kept, finished)
            (finished / name).write_bytes(content)
            found = examine(finished).damages
            if not means_the_same(file.read_bytes(), content):
                assert any(str(finished / name) in damage for damage in found), name
            try:
                execute(recipe)
            except R1kitError as error:
                assert str(finished) in str(error)
            else:
                assert results(finished) == wanted, (name, content)
            tried += 1
    assert tried >= 80, tried


def test_a_file_among_the_rollouts_that_is_none_is_named(finished: Path) -> None:
    """Another file of rollouts would be read as the stage's, so it is damage; any other file is a note."""
    folder = next(path for path in sorted((finished / "samples").iterdir()) if path.is_dir())
    (folder / "stranger.bin").write_bytes(b"\0")
    examined = examine(finished)
    assert not examined.damages
    assert f"{folder.name}: not written by the stage: samples/{folder.name}/stranger.bin" in examined.notes
    (finished / "samples/notes.txt").write_text("mine")
    assert "not written by r1kit: samples/notes.txt" in examine(finished).notes


def test_rows_of_a_stage_that_has_not_begun_are_a_note(finished: Path) -> None:
    """A log of a later moment of the same run: its rows are right, but their stage is not there yet."""
    later = finished / "stages/last"
    shutil.rmtree(later)
    (finished / "finished.json").unlink()
    examined = examine(finished)
    assert not examined.damages
    where = finished / "metrics.jsonl"
    assert f"{where}: rows of stage last, which has not begun; its next run removes them" in examined.notes


def test_a_file_that_a_stage_does_not_write_is_not_in_its_record(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{}\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "stranger.bin").write_bytes(b"\0")
    assert set(mark_outputs(tmp_path)) == {"data.jsonl", "model/config.json", "stranger.bin"}
    assert set(mark_outputs(tmp_path, ("data.jsonl", "model"))) == {"data.jsonl", "model/config.json"}
