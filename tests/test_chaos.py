"""benchmarks/chaos.py: what its kinds of damage do, how it chooses and counts, and a small part of it on a
run of its recipe, with r1kit as it is and with a check taken out."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import psutil
import pytest
from chaos.clusters import SESSION, is_own, left_of, listening_outside, sessions_of
from chaos.damage import OF_FILES, OF_FOLDERS, Source, describe
from chaos.page import note, table
from chaos.runs import Tally, contents, differences, fingerprint
from chaos.targets import Donors, Target, kind_of
from chaos.world import World
from forked import Forked

ROOT = Path(__file__).parents[1]
KINDS = ("states: manifests", "states: tensors", "states: texts")
# Runs the program that its words name, with the check of states taken out.
BLIND = """\
import runpy, sys
import r1kit.train.checkpoint as checkpoint
checkpoint.damage_of = lambda state, owners=(): None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
RECORD = {"stage": "sft", "name": "sft", "config": {"a": 1}, "seed": 3, "outputs": {"x": 1}, "finished": 12.5}


def source(folder: Path, *others: Path) -> Source:
    outside = folder / "outside"
    outside.mkdir(exist_ok=True)
    return Source(random.Random(0), others, outside)


# Damage


@pytest.mark.parametrize("name", OF_FILES)
def test_every_damage_changes_a_file(tmp_path: Path, name: str) -> None:
    file, other = tmp_path / "rows.json", tmp_path / "other.json"
    file.write_text('{"step": 10, "loss": 2.5}\n{"step": 11, "loss": 2.4}\n{"step": 12, "loss": 2.3}\n')
    other.write_text('{"step": 99}\n')
    before = describe(file)
    OF_FILES[name](file, source(tmp_path, other))
    assert describe(file) != before


@pytest.mark.parametrize("name", OF_FOLDERS)
def test_every_damage_changes_a_folder(tmp_path: Path, name: str) -> None:
    folder, other = tmp_path / "model", tmp_path / "other"
    for place in (folder, other):
        place.mkdir()
        (place / "config.json").write_text(place.name)
    before = describe(folder)
    OF_FOLDERS[name](folder, source(tmp_path, other))
    assert describe(folder) != before


def test_one_bit_is_one_bit(tmp_path: Path) -> None:
    file = tmp_path / "tensor.safetensors"
    file.write_bytes(bytes(100))
    OF_FILES["one bit"](file, source(tmp_path))
    assert sum(byte.bit_count() for byte in file.read_bytes()) == 1


def test_an_edited_digit_leaves_json(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    for number in range(20):
        file.write_text('{"a": 123, "b": [4.5, 6]}')
        OF_FILES["digit"](file, Source(random.Random(number), (), tmp_path))
        found = json.loads(file.read_text())
        assert set(found) == {"a", "b"} and found != {"a": 123, "b": [4.5, 6]}


def test_what_cannot_be_done_is_left_undone(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"1\n2\n3\n")
    for name in ("lose line", "digit", "key", "other JSON", "foreign"):
        OF_FILES[name](file, source(tmp_path))
    assert file.read_bytes() == b"1\n2\n3\n"


# Choosing, comparing, counting


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cache/r1kit/fused-1.so", "kernels"),
        ("run/stages/a.partial/train_state/step_00000002/manifest.json", "states: manifests"),
        ("run/stages/a.partial/sft/train_state/step_00000002/state.safetensors", "states: tensors"),
        ("run/stages/a.partial/train_state/step_00000002/curriculum.json", "states: texts"),
        ("run/stages/a.partial/sampled/reasoning_00000000.jsonl", "sampled chunks"),
        ("run/stages/a/stage.json", "records of stages"),
        ("run/stages/a/model/model.safetensors", "weights"),
        ("run/stages/a/model/tokenizer.json", "tokenizers"),
        ("run/stages/a/model/config.json", "model configurations"),
        ("run/stages/a/report.json", "reports of stages"),
        ("run/stages/a/data.jsonl", "data of stages"),
        ("run/samples/a/step_000000.jsonl", "samples"),
        ("run/metrics.jsonl", "log"),
        ("run/report.md", "report of the run"),
        ("run/lock", "lock"),
        ("run/recipe.yaml", "recipe.yaml"),
    ],
)
def test_kinds_of_files(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def run_folder(folder: Path, seconds: float, loss: float, output: int = 1) -> Path:
    (folder / "stages/sft").mkdir(parents=True)
    record = {**RECORD, "finished": seconds, "outputs": {"x": output}}
    (folder / "stages/sft/stage.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 0, "time": seconds, "loss": loss}) + "\n")
    (folder / "env.json").write_text(str(seconds))
    return folder


def test_times_do_not_differ_and_everything_else_does(tmp_path: Path) -> None:
    first, later = (fingerprint(run_folder(tmp_path / str(s), s, 2.5)) for s in (1.0, 2.0))
    assert differences(first, later) == []
    worse = fingerprint(run_folder(tmp_path / "worse", 1.0, 2.6))
    assert differences(first, worse) == ["metrics.jsonl"]
    other = fingerprint(run_folder(tmp_path / "other", 1.0, 2.5, output=2))
    assert differences(first, other) == ["stages/sft/stage.json"]
    (tmp_path / "worse/samples").mkdir()
    (tmp_path / "worse/samples/step.jsonl").write_text("")
    assert "samples/step.jsonl" in contents(tmp_path / "worse")


def test_the_table_replaces_what_is_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- chaos -->\nnot measured yet\n<!-- /chaos -->\nafter\n")
    tally = Tally("mutations", "weights")
    for outcome in ("identical", "recovered", "refused", "refused", "wrong"):
        tally.count(1, outcome)
    note([tally], 90.0, 7, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- /chaos -->\nafter\n")
    assert "| weights | 5 mutations | 1 | 1 | 2 | 1 |" in text and "not measured" not in text
    assert "seed 7" in table([tally], 90.0, 7, date(2026, 1, 2))


# Several processes


@pytest.mark.parametrize(
    ("address", "own"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.7", False), ("::ffff:10.0.0.7", False)],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(address: str, own: bool) -> None:
    assert is_own(address) == own


def test_a_process_that_listens_everywhere_and_what_is_left_of_a_session_are_named(tmp_path: Path) -> None:
    code = (
        "import socket, sys\ns = socket.create_server((sys.argv[1], 0))\nprint(flush=True)\nsys.stdin.read()"
    )
    environment = {**os.environ, SESSION: str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code, address], stdin=-1, stdout=-1, env=environment)
        for address in ("127.0.0.1", "0.0.0.0")
    ]
    try:
        for one in started:
            assert one.stdout is not None and one.stdout.readline()
        processes = [psutil.Process(one.pid) for one in started]
        (named,) = listening_outside(processes)
        assert "0.0.0.0" in named
        assert sessions_of([*processes, psutil.Process()]) == {str(tmp_path)}
        assert len(left_of({str(tmp_path)}, 0.0)) == 3  # the folder and two processes
        assert left_of({str(tmp_path / "other")}, 0.0) == [] == left_of(set(), 0.0)
    finally:
        for one in started:
            one.kill()
            one.wait()
    assert left_of({str(tmp_path)}, 0.0) == [str(tmp_path)]


def test_every_kind_of_world_has_its_command_and_its_name() -> None:
    worlds = [
        World(Path("w"), 1),
        World(Path("w"), 2),
        World(Path("w"), 2, "fsdp"),
        World(Path("w"), 2, "ray"),
    ]
    last = [world.command(3)[-1] for world in worlds]
    assert last[:2] == ["runtime.processes=1", "runtime.processes=2"]
    assert "kind: fsdp, learners: 2," in last[2] and "kind: ray, learners: 2, engines: 2," in last[3]
    assert len({world.label for world in worlds}) == 4
    assert [world.words for world in worlds[1:]] == ["--processes 2", "--only fsdp", "--only ray"]


def test_a_part_of_a_state_can_be_exchanged_for_that_of_another_process(tmp_path: Path) -> None:
    folder = tmp_path / "moments/0"
    names = {
        f"stages/sft.partial/train_state/step_0000000{step}/state.0000{rank}.safetensors": f"{step}{rank}"
        for step in (1, 2) for rank in (0, 1)
    }  # fmt: skip
    for name, text in {**names, "stages/sft.partial/train_state/step_00000002/manifest.json": "{}"}.items():
        file = folder / "sft-state" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "moments/0.json").write_text(json.dumps({"sft-state": "sft"}))
    (tmp_path / "cache").mkdir()
    world = World(tmp_path, 2, "fsdp")
    (moment,) = world.moments()
    target = Target(moment, f"run/{list(names)[2]}", "states: tensors")
    found = Donors(world).of(target, moment.folder / list(names)[2])
    assert sorted(path.read_text() for path in found) == ["10", "11", "21"]


# A part of it


@pytest.fixture
def chaos(tmp_path: Path, forked: Forked) -> Callable[..., tuple[int, str]]:
    """Run benchmarks/chaos.py with some words: (exit code, what it printed). All runs share the folder of the
    recipe's undisturbed run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    common = ["--processes", "1", "--workers", "1", "--no-foreign", "--keep", tmp_path / "keep"]

    def run(*words: str, blind: bool = False) -> tuple[int, str]:
        starter = ["-c", BLIND] if blind else []
        given = [*starter, ROOT / "benchmarks/chaos.py", *common, *words]
        ended = forked.run(*given, environment=environment)
        return ended.returncode, ended.stderr + ended.stdout

    return run


@pytest.mark.slow
def test_damaged_states_are_never_used_and_a_check_that_is_taken_out_is_noticed(
    chaos: Callable[..., tuple[int, str]],
) -> None:
    kinds = [word for kind in KINDS for word in ("--kind", kind)]
    code, printed = chaos("--only", "mutations", "--mutations", "6", *kinds)
    assert code == 0 and printed.splitlines()[-1] == "wrong: 0", printed
    assert sum(map(int, re.findall(r"recovered with a warning: (\d+)", printed))) > 0, printed

    words = ("--only", "mutations", "--mutations", "16", "--kind", "states: tensors", "--until-wrong")
    code, printed = chaos(*words, blind=True)
    last = re.fullmatch(r"wrong: (\d+)", printed.splitlines()[-1])
    assert code == 1 and last and int(last[1]) > 0, printed
    again = re.search(r"again: python benchmarks/chaos.py (--only mutations --case \d+ .*)", printed)
    assert again
    assert chaos(*again[1].split(), blind=True)[0] == 1
    assert chaos(*again[1].split())[0] == 0
