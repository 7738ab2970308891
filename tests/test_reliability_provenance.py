"""What a run was made from: a change is refused with its difference, an allowed one is recorded, a damaged
file is named."""

import hashlib
import io
import json
import re
import sys
from pathlib import Path

import pytest
import recipe_fakes
from rich.console import Console

import r1kit
from r1kit.commands import doctor
from r1kit.commands.cli import app, main
from r1kit.config import ConfigError
from r1kit.marks import seal
from r1kit.model import compile_kernels as build_kernels
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import Recipe, build
from r1kit.records import DamageError, StageFolder, StageRecord, mark_outputs
from r1kit.runs import provenance
from r1kit.runs.execute import StageError, run
from r1kit.runs.fingerprint import find_finished, note_finished
from r1kit.runs.provenance import named_files
from r1kit.runs.survey import survey
from r1kit.runs.verify import as_lines, examine
from r1kit.runtime import RUNTIMES
from r1kit.runtime.local import LocalConfig

TWO = """\
name: tiny
stages:
  - {stage: write, name: base, init: DATA}
  - {stage: write, name: last, init: "@base/data.jsonl"}
"""


@pytest.fixture(autouse=True)
def fake_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")
    monkeypatch.setitem(sys.modules, "r1kit.report", recipe_fakes.report)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "1+1?"}\n')
    return file


@pytest.fixture
def recipe(tmp_path: Path, data: Path) -> Recipe:
    return made(tmp_path, TWO)


def made(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    (tmp_path / "tiny.yaml").write_text(text.replace("DATA", str(tmp_path / "mine.jsonl")))
    return build(
        read_layers(tmp_path / "tiny.yaml", [f"out={tmp_path}/run", *overrides]), recipe_fakes.STAGES
    )


def execute(recipe: Recipe, **options: bool) -> dict[str, str]:
    return dict(run(recipe, console=Console(file=io.StringIO()), **options).states)  # type: ignore[arg-type]


def record(recipe: Recipe, stage: str) -> dict:  # type: ignore[type-arg]
    return json.loads((recipe.run_dir / "stages" / stage / "stage.json").read_text())


def states(recipe: Recipe) -> list[str]:
    return [standing.state for standing in survey(recipe)]


def test_a_stage_records_its_inputs_and_outputs_by_content(recipe: Recipe, data: Path) -> None:
    execute(recipe)
    base = record(recipe, "base")
    assert base["files"] == {str(data): provenance.hash_file(data)}  # type: ignore[attr-defined]
    assert (
        base["outputs"]["data.jsonl"]["bytes"] == (recipe.run_dir / "stages/base/data.jsonl").stat().st_size
    )
    assert (
        base["setting"]["code"] == provenance.code_hash()
        and base["setting"]["versions"]["torch"]
        and base["setting"]["runtime"]["processes"] == 1
    )


def test_one_changed_byte_of_the_data_is_refused_and_may_be_allowed(recipe: Recipe, data: Path) -> None:
    execute(recipe)
    kept = (recipe.run_dir / "stages/base/stage.json").read_bytes()
    data.write_text('{"prompt": "1+2?"}\n')
    with pytest.raises(
        ConfigError,
        match=r"base: .*mine\.jsonl: its content has changed \(SHA-256 \w{12} -> "
        r"\w{12}\)\n(.|\n)*--allow-change",
    ):
        execute(recipe)
    assert states(recipe) == ["changed", "done"]
    assert execute(recipe, allow_change=True) == {"base": "done", "last": "done"}
    allowed = json.loads((recipe.run_dir / "stages/base/allowed.json").read_text())["changes"]
    assert len(allowed) == 1 and "mine.jsonl" in allowed[0]["differences"][0] and allowed[0]["at"] > 0
    assert (recipe.run_dir / "stages/base/stage.json").read_bytes() == kept and states(recipe) == [
        "done",
        "done",
    ]
    data.write_text('{"prompt": "1+3?"}\n')
    assert states(recipe) == ["changed", "done"]


def test_a_finished_run_is_not_taken_for_finished_when_its_data_has_changed(
    recipe: Recipe, tmp_path: Path, data: Path
) -> None:
    execute(recipe)
    layers = read_layers(tmp_path / "tiny.yaml", [f"out={tmp_path}/run"])
    note_finished(layers, recipe.run_dir)
    assert find_finished(layers) == recipe.run_dir
    data.write_text("{}\n")
    assert find_finished(layers) is None


def test_an_unfinished_stage_is_not_continued_by_other_code_or_elsewhere(tmp_path: Path, data: Path) -> None:
    stopped = made(tmp_path, TWO + "  - {stage: fail, how: interrupt, init: '@last'}\n")
    with pytest.raises(Exception, match="interrupted"):
        execute(stopped)
    assert states(stopped) == ["done", "done", "continue"]
    partial = tmp_path / "run/stages/fail.partial/stage.json"
    written = json.loads(partial.read_text())
    setting = written["setting"]
    changed = {
        **setting,
        "code": "0" * 64,
        "versions": {**setting["versions"], "torch": "1.0"},
        "runtime": {**setting["runtime"], "processes": 4},
    }
    partial.write_text(json.dumps(seal({**written, "setting": changed})))
    with pytest.raises(ConfigError) as error:
        execute(stopped)
    message = str(error.value)
    assert f"fail: r1kit's own code: 000000000000 -> {provenance.code_hash()[:12]}" in message
    assert 'fail: versions.torch: "1.0" -> ' in message and "fail: runtime.processes: 4 -> 1" in message
    with pytest.raises(Exception, match="interrupted"):
        execute(stopped, allow_change=True)
    allowed = json.loads(partial.read_text())
    assert (
        allowed["setting"] == setting
        and len(allowed["allowed"][0]["differences"]) == 3
        and states(stopped)[2] == "continue"
    )


def test_an_unfinished_stage_with_another_configuration_is_refused_with_the_difference(
    tmp_path: Path, data: Path
) -> None:
    text = TWO + "  - {stage: fail, how: interrupt, init: '@last'}\n"
    with pytest.raises(Exception, match="interrupted"):
        execute(made(tmp_path, text))
    changed = made(tmp_path, text, "stages.fail.how=bug")
    with pytest.raises(ConfigError, match='fail: how: "interrupt" -> "bug"'):
        execute(changed)
    with pytest.raises(StageError, match="ZeroDivisionError"):
        execute(changed, allow_change=True)
    partial = json.loads((tmp_path / "run/stages/fail.partial/stage.json").read_text())
    assert partial["config"]["how"] == "bug" and partial["allowed"][0]["differences"] == [
        'how: "interrupt" -> "bug"'
    ]


def test_a_stage_does_not_read_an_input_that_is_damaged(tmp_path: Path, data: Path) -> None:
    execute(made(tmp_path, TWO))
    file = tmp_path / "run/stages/last/data.jsonl"
    file.write_text(file.read_text().replace('"step": 1', '"step": 7'))
    longer = made(tmp_path, TWO + "  - {stage: write, name: more, init: '@last/data.jsonl'}\n")
    with pytest.raises(
        DamageError,
        match=r"run is damaged:\n  .*last/data\.jsonl: its SHA-256 is not(.|\n)*--from last",
    ):
        execute(longer)
    # Where the user redoes a stage, damage elsewhere does not stop that, but no stage reads it.
    with pytest.raises(
        StageError,
        match=r"its input @last is damaged:\n  .*last/data\.jsonl: its SHA-256 is not(.|\n)*--from last",
    ):
        run(longer, redo_from="more", console=Console(file=io.StringIO()))
    assert not (tmp_path / "run/stages/more").exists()


def test_a_stage_whose_finished_files_were_lost_before_its_renaming_is_done_again(recipe: Recipe) -> None:
    execute(recipe)
    folder = recipe.run_dir / "stages/last"
    wanted = (folder / "data.jsonl").read_text()
    partial = folder.rename(folder.with_name("last.partial"))
    (partial / "data.jsonl").write_text(wanted[:-30])
    lines = wanted.splitlines(keepends=True)
    (partial / "data.jsonl").write_text("".join(lines[:-1]))
    execute(recipe)
    assert (folder / "data.jsonl").read_text() == wanted


def test_verify_names_every_damaged_file_and_exits_with_1(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(recipe)
    examined = examine(recipe.run_dir)
    text = "\n".join(as_lines(examined))
    assert not examined.damages and "whole: 2 files of 2 stages are as they were written" in text
    assert "from @base" in text and "mine.jsonl" in text
    monkeypatch.setattr(sys, "argv", ["r1kit", "verify", str(recipe.run_dir)])

    def verified() -> tuple[int, str]:
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0), capsys.readouterr().out
        return 0, capsys.readouterr().out

    assert verified()[0] == 0
    damaged = recipe.run_dir / "stages/last/data.jsonl"
    whole = damaged.read_bytes()
    for content, says in ((whole[:-1], "bytes,"), (whole.replace(b"0", b"1"), "SHA-256"), (None, "missing")):
        if content is None:
            damaged.unlink()
        else:
            damaged.write_bytes(content)
        code, printed = verified()
        assert (
            code == 1
            and f"DAMAGED: {damaged}" in printed
            and says in printed
            and printed.endswith("damaged: 1\n")
        )
    damaged.write_bytes(whole)
    (recipe.run_dir / "stages/base/stage.json").write_text("{}")
    code, printed = verified()
    assert code != 0 and "base" in printed


def test_verify_sees_records_metrics_and_foreign_files(recipe: Recipe, tmp_path: Path) -> None:
    execute(recipe)
    note_finished(read_layers(tmp_path / "tiny.yaml", [f"out={tmp_path}/run"]), recipe.run_dir)
    file = recipe.run_dir / "stages/last/stage.json"
    file.write_text(json.dumps(seal({**json.loads(file.read_text()), "attempts": 2})))
    metrics = recipe.run_dir / "metrics.jsonl"
    metrics.write_text(
        "".join(
            line for number, line in enumerate(metrics.read_text().splitlines(keepends=True)) if number != 1
        )
    )
    (recipe.run_dir / "stages/last/mine.txt").write_text("")
    examined = examine(recipe.run_dir)
    assert [damage.partition(": ")[2] for damage in examined.damages] == [
        "of the rows that stage base wrote 1 are missing",
        f"not the record that was there when the run ended (by {recipe.run_dir / 'finished.json'})",
        f"of the lines that the run wrote 1 are missing (by {recipe.run_dir / 'finished.json'})",
        "step 2 of base after step 0",
    ]
    assert examined.notes == ("last: not written by the stage: mine.txt",)
    with pytest.raises(ConfigError, match="no run here"):
        examine(tmp_path / "nowhere")


def test_files_of_a_configuration_are_found_by_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data.jsonl", "reward.py", "tasks"):
        Path(name).write_text(name)
    for model in ("model", "init"):
        Path(model).mkdir()
        Path(model, "config.json").write_text(model)
    config = {
        "init": "model",
        "data": ["data.jsonl"],
        "rewards": {"reward.py:odd": 1.0},
        "tasks": {"x": 1},
        "from": "@data.jsonl",
        "say": "no\nfile",
    }
    assert set(named_files(config)) == {"model", "data.jsonl", "reward.py:odd"}
    before = named_files(config)["model"]
    Path("model/more").write_text("")
    assert named_files(config)["model"] != before


def test_the_command_line_offers_what_the_messages_name() -> None:
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {"run", "verify"} <= names


def test_an_unfinished_stage_is_not_continued_with_other_kernels(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"engine": "engine-0123", "learner": "fused-4567"}
    monkeypatch.setattr(recipe_fakes.FakeRuntime, "kernels", lambda self: dict(found), raising=False)
    stopped = made(tmp_path, TWO + "  - {stage: fail, how: interrupt, init: '@last'}\n")
    with pytest.raises(Exception, match="interrupted"):
        execute(stopped)
    assert states(stopped)[2] == "continue"
    found |= {"engine": "PyTorch", "MKL_CBWR": "AVX2"}
    with pytest.raises(
        ConfigError,
        match=r'fail: kernels\.engine: "engine-0123" -> "PyTorch"\n  fail: kernels\.MKL_CBWR: \(absent\) -> '
        r'"AVX2"',
    ):
        execute(stopped)
    assert states(stopped)[:2] == ["done", "done"]  # what is finished is kept as it is
    with pytest.raises(Exception, match="interrupted"):
        execute(stopped, allow_change=True)
    partial = json.loads((tmp_path / "run/stages/fail.partial/stage.json").read_text())
    assert (
        partial["setting"]["kernels"] == found
        and 'kernels.engine: "engine-0123" -> "PyTorch"' in partial["allowed"][0]["differences"]
    )
    assert states(stopped)[2] == "continue"


def test_the_kernels_in_use_are_named_by_what_they_were_compiled_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def environment_of(**environment: str) -> dict[str, str]:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(build_kernels, "kernels", build_kernels.load)  # without its memory
            return LocalConfig().kernels()

    here = environment_of()
    assert set(here) == {"engine", "learner"} and environment_of() == here
    without = environment_of(CXX="", PATH=str(tmp_path))
    assert set(without.values()) == {"PyTorch (r1kit doctor says why)"}
    assert LocalConfig(device="cuda").kernels() == without
    assert environment_of(MKL_CBWR="AVX2") == {**here, "MKL_CBWR": "AVX2"}
    if here != without:  # the machine has what the kernels need
        for user, name in (("engine", "engine"), ("learner", "fused")):  # what made them, and their SHA-256
            assert re.fullmatch(rf"{name}-[0-9a-f]{{16}} [0-9a-f]{{64}}", here[user])
        compiler = tmp_path / "g++"
        compiler.write_text("#!/bin/sh\n[ $1 = --version ] && echo another one && exit\nexit 1\n")
        compiler.chmod(0o755)
        assert (
            environment_of(CXX=str(compiler), XDG_CACHE_HOME=str(tmp_path)) == without
        )  # a compiler that fails


@pytest.mark.slow
def test_doctor_says_which_kernels_run_or_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = LocalConfig().kernels()
    for finding, name in zip(doctor.examine_kernels(), ("engine", "learner"), strict=True):
        assert finding.subject == "kernels" and finding.detail.startswith(f"{name}: {here[name].split()[0]}")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    for finding in doctor.examine_kernels():
        assert finding.level == "note" and "PyTorch, since" in finding.detail and finding.fix
        assert "there is no C++ compiler" in finding.detail or "the processor has no" in finding.detail


def exit_code(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["r1kit", *words])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"name": "base"}', '{"stage": "write", "name": "base", "Seconds": 1}', "\x00"]
)
def test_a_damaged_record_is_one_error_with_one_exit_code_whoever_reads_it(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    execute(recipe)
    file = recipe.run_dir / "stages/base/stage.json"
    file.write_text(damage)
    monkeypatch.setattr("r1kit.stages.STAGES", recipe_fakes.STAGES)
    run_dir, yaml_file = str(recipe.run_dir), str(tmp_path / "tiny.yaml")
    said = {}
    for words in (
        ["run", yaml_file, "--out", run_dir],
        ["run", yaml_file, "--out", run_dir, "--dry-run"],
        ["plan", yaml_file, "--out", run_dir],
        ["chat", run_dir],
        ["export", run_dir, "--to", str(tmp_path / "given")],
    ):
        assert exit_code(monkeypatch, *words) == 1, words
        said[words[0]] = capsys.readouterr().err
    assert len(set(said.values())) == 1, said
    assert f"{file}: damaged" in said["run"] and "--from base" in said["run"]
    assert exit_code(monkeypatch, "verify", run_dir) == 1
    assert f"DAMAGED: {file}: damaged" in capsys.readouterr().out
    # The fix that the message names works.
    assert set(run(recipe, redo_from="base", console=Console(file=io.StringIO())).states.values()) == {"new"}
    assert exit_code(monkeypatch, "verify", run_dir) == 0


def test_a_damaged_list_of_accepted_changes_is_named(recipe: Recipe, data: Path) -> None:
    execute(recipe)
    data.write_text("{}\n")
    execute(recipe, allow_change=True)
    file = recipe.run_dir / "stages/base/allowed.json"
    file.write_text(file.read_text()[:-5])
    with pytest.raises(DamageError, match=r"base/allowed\.json: damaged"):
        execute(recipe)


def test_the_records_name_stands_once_in_the_source() -> None:
    package = Path(r1kit.__file__).parent
    found = [file for file in package.rglob("*.py") for _ in range(file.read_text().count("stage.json"))]
    assert [str(file.relative_to(package)) for file in found] == ["records.py"]


def test_the_hash_of_the_code_covers_the_whole_package() -> None:
    package = Path(r1kit.__file__).parent
    covered = {str(file.relative_to(package)) for file in provenance.source_files()}
    everything = {str(file.relative_to(package)) for file in package.rglob("*.py")}
    assert everything <= covered and "train/grpo.py" in covered and "config.py" in covered
    assert any(name.endswith(".cpp") or name.endswith(".h") for name in covered)


def test_records_that_were_written_are_read_as_they_were(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path / "stages/zero")
    assert folder.finished() is None and folder.begun() is None and folder.record_hash() is None
    record = StageRecord(
        stage="r1_zero", name="zero", config={"grpo": {"steps": 3, "lr": 1e-6}}, seed=2**63 - 1,
        inputs={"base": "a" * 64}, files={"x.jsonl": "b" * 64}, started=1.5,
    )  # fmt: skip
    folder.begin(record)
    assert folder.begun() == record and folder.finished() is None
    (folder.partial / "data.jsonl").write_text("x")
    finished = record.model_copy(update={"outputs": mark_outputs(folder.partial), "finished": 2.0})
    folder.write(finished)
    folder.finish()
    assert folder.finished() == finished and folder.begun() is None
    assert finished.outputs["data.jsonl"].bytes == 1 and list(finished.outputs) == ["data.jsonl"]
    # The identity is a hash of these six, written out: what else a record holds does not count.
    names = ("stage", "name", "config", "seed", "inputs", "files")
    text = json.dumps({name: getattr(record, name) for name in names}, sort_keys=True, ensure_ascii=False)
    assert finished.digest() == record.digest() == hashlib.sha256(text.encode()).hexdigest()
    assert record.digest() != record.model_copy(update={"seed": 1}).digest()
    folder.remove()
    assert not folder.final.exists()


def test_a_stage_that_stopped_before_it_wrote_anything_starts_over_when_its_cause_is_fixed(
    tmp_path: Path, data: Path
) -> None:
    text = TWO + "  - {stage: fail, how: config, init: DATA, work: WORK}\n"
    for work, state in (("false", "new"), ("true", "changed")):
        data.write_text('{"prompt": "1+1?"\n')
        failing = made(tmp_path, text.replace("WORK", work), f"out={tmp_path}/{work}")
        with pytest.raises(StageError, match=r"not JSON.*\n.*Fix the cause, then rerun"):
            execute(failing)
        assert states(failing)[2] == "continue"
        data.write_text('{"prompt": "1+1?"}\n')
        assert states(failing)[2] == state
