"""Labels in a file: none that was given is lost, and stages that train read from each what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from r1kit.config import R1kitError
from r1kit.data import labels as store_module
from r1kit.data.labels import (
    JUDGED,
    Label,
    LabelStore,
    Pair,
    append_row,
    judge,
    pair_of,
    read_labels,
    shown_swapped,
    wins_of,
    write_answer,
)
from r1kit.data.preferences import preferences_error, read_labelled, read_preferences
from r1kit.data.sources import pairs as written_rows
from r1kit.files import open_to_append
from r1kit.stages.dpo import DPO
from r1kit.stages.sft import SFT


def pair(number: int = 0) -> Pair:
    return pair_of(f"Where is tea {number}?", "Gladly! Here.", "No. There.", ("@one", "@two"))


def give(file: Path, *labels: Label) -> LabelStore:
    store = LabelStore(file)
    for label in labels:
        store.add(label)
    return store


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_preference_has_trls_columns_and_who_when_and_how_it_was_shown(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    give(file, judge(pair(), "ann", "better", 7, 4.26), judge(pair(), "ben", "worse", 8))
    better, worse = rows_of(file)
    assert (better["chosen"], better["rejected"]) == ("Gladly! Here.", "No. There.")
    assert (worse["chosen"], worse["rejected"]) == ("No. There.", "Gladly! Here.")
    assert better["prompt"] == "Where is tea 0?" and better["annotator"] == "ann"
    assert (better["seconds"], better["seed"], better["models"]) == (4.3, 7, ["@one", "@two"])
    assert better["label"] != worse["label"] and better["pair"] == worse["pair"]


def test_a_pair_is_the_same_in_both_orders_and_each_side_is_shown_at_the_left() -> None:
    assert pair_of("p", "a", "b", ("x", "y")) == pair_of("p", "b", "a", ("y", "x"))
    assert pair_of("p", "a", "b").id != pair_of("q", "a", "b").id != pair_of("q", "a", "c").id
    swapped = [shown_swapped(seed) for seed in range(1000)]
    assert 430 < sum(swapped) < 570 and swapped == [shown_swapped(seed) for seed in range(1000)]
    with pytest.raises(R1kitError, match="the same"):
        pair_of("p", "a", "a")


ADDING = """
import sys
from pathlib import Path
from r1kit.data.labels import LabelStore, judge, pair_of
store = LabelStore(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    label = judge(pair_of(f"{sys.argv[2]} {number}?", "yes", "no"), sys.argv[2], "better", number)
    store.add(label)
    print(label.id, flush=True)
"""


def adding(file: Path, name: str, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", ADDING, str(file), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_process_loses_no_label_that_it_gave(tmp_path: Path) -> None:
    file, given = tmp_path / "labels.jsonl", []
    for attempt in range(3):
        process = adding(file, f"ann {attempt}", 100_000)
        assert process.stdout is not None
        given += [process.stdout.readline().strip() for _ in range(15)]
        process.kill()
        given += process.stdout.read().split()
        process.wait()
    give(file, judge(pair(), "ben", "tie", 0))
    found = {label.id for label in read_labels(file)}
    assert len(given) >= 45 and set(given) <= found
    assert len(found) <= len(given) + 1 + 3  # one a process may have been written and not reported


@pytest.mark.slow
def test_several_processes_add_to_one_file(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    processes = [adding(file, name, 40) for name in ("ann", "ben", "cat")]
    given = [process.communicate()[0].split() for process in processes]
    assert [len(own) for own in given] == [40, 40, 40]
    assert {label.id for label in read_labels(file)} == {name for own in given for name in own}


TAILS = {
    "half a row": b'{"label": "x", "verd',
    "half a character": '{"label": "é'.encode()[:-1],
    "zeros of a power cut": b"\0" * 300,
    "a number": b"12",
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_an_unfinished_last_line_is_set_aside_with_a_warning(tmp_path: Path, tail: bytes, capsys) -> None:
    file = tmp_path / "labels.jsonl"
    give(file, judge(pair(), "ann", "better", 0))
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    assert len(read_preferences(file)) == 1  # training reads what was given
    assert "labels.jsonl:2: unfinished, left out" in capsys.readouterr().err
    assert len(read_labels(file)) == 1 and file.read_bytes() == whole + tail
    store = give(file, judge(pair(1), "ann", "worse", 0))
    assert file.read_bytes().startswith(whole) and tail not in file.read_bytes().split(b"\n")
    assert [label.verdict for label in store.labels()] == ["better", "worse"]
    assert (tmp_path / "labels.jsonl.torn").read_bytes() == tail + b"\n"
    assert "unfinished last line is moved to labels.jsonl.torn" in store.warnings[0]


def test_a_whole_last_line_without_its_end_stays(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    give(file, judge(pair(), "ann", "better", 0))
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    store = give(file, judge(pair(1), "ann", "worse", 0))
    assert [label.verdict for label in store.labels()] == ["better", "worse"]
    assert not (tmp_path / "labels.jsonl.torn").exists()


@pytest.mark.parametrize("call", ["fsync", "short write"])
def test_a_label_that_is_not_on_the_disk_is_not_given(tmp_path: Path, monkeypatch, call: str) -> None:
    file = tmp_path / "labels.jsonl"
    store = give(file, judge(pair(), "ann", "better", 0))
    before = file.read_bytes()

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    class Short:
        def __init__(self, inner):
            self.inner = inner

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

        def fileno(self):
            return self.inner.fileno()

        def write(self, line):
            return self.inner.write(line[:10])

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", broken)
    else:
        opened = open_to_append
        monkeypatch.setattr(store_module, "open_to_append", lambda path: Short(opened(path)))
    with pytest.raises(OSError):
        store.add(judge(pair(1), "ann", "worse", 0))
    assert file.read_bytes() == before and len(store.labels()) == 1
    monkeypatch.undo()
    store.add(judge(pair(1), "ann", "worse", 0))
    assert len(store.labels()) == 2


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine\n")
    (tmp_path / "labels.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(R1kitError, match="a link"):
        append_row(tmp_path / "labels.jsonl", {"label": "x"})
    assert (tmp_path / "other").read_text() == "mine\n"


def test_undo_revokes_the_annotators_own_last_label_and_rewrites_nothing(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    store = give(
        file,
        judge(pair(), "ann", "better", 0),
        judge(pair(1), "ann", "tie", 0),
        judge(pair(), "ben", "worse", 0),
    )
    before = file.read_bytes()
    undone = store.undo("ann")
    assert undone is not None and undone.verdict == "tie"
    assert [(label.annotator, label.verdict) for label in store.labels()] == [
        ("ann", "better"),
        ("ben", "worse"),
    ]
    assert store.undo("ann") is not None and store.undo("ann") is None and store.undo("new") is None
    assert file.read_bytes().startswith(before) and len(rows_of(file)) == 5
    assert [label.verdict for label in read_labels(file)] == ["worse"]


def test_wins_are_counted_where_two_models_answered() -> None:
    same = pair_of("p", "a", "b", ("@one", "@one"))
    given = [
        judge(pair(), "ann", "better", 0),  # first: "Gladly! Here.", of @one
        judge(pair(), "ben", "worse", 0),
        judge(pair(1), "ann", "worse", 0),
        judge(pair(2), "ann", "tie", 0),
        judge(same, "ann", "better", 0),
    ]
    assert wins_of(given) == {"@one": 1, "@two": 2} and wins_of(given[3:]) == {}


def test_a_later_label_of_a_pair_replaces_an_earlier_one_until_it_is_undone(tmp_path: Path) -> None:
    store = give(
        tmp_path / "labels.jsonl",
        judge(pair(), "ann", "skip", 0),
        judge(pair(), "ann", "better", 0),
        judge(pair(), "ann", "worse", 0),
    )
    assert [label.verdict for label in store.labels()] == ["worse"]
    store.undo("ann")
    assert [label.verdict for label in store.labels()] == ["better"]


def all_kinds(file: Path) -> None:
    """Every verdict on a pair of its own, a revoked one, and one of two annotators who disagree."""
    store = LabelStore(file)
    for number, verdict in enumerate(JUDGED):
        store.add(judge(pair(number), "ann", verdict, 0, unsafe=["second"] if verdict == "unsafe" else ()))
    store.add(judge(pair(0), "ben", "worse", 0))
    store.add(judge(pair(8), "ann", "skip", 0))
    store.add(write_answer("Where is rice?", "<think>I look.</think>Here.", "ann"))
    store.add(judge(pair(9), "ann", "better", 0))
    store.undo("ann")


def test_each_stage_reads_from_labels_what_is_meant_for_it(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    all_kinds(file)
    found = [(one.problem.prompt, one.chosen.answer) for one in read_preferences(file)]
    assert found == [
        ("Where is tea 0?", "Gladly! Here."),  # better
        ("Where is tea 1?", "No. There."),  # worse
        ("Where is tea 0?", "No. There."),  # the second annotator disagrees
    ]
    safety = {(one.problem.prompt[-2], one.text): one.safe for one in read_labelled(file)}
    assert len(safety) == 10 and [key for key, safe in safety.items() if not safe] == [("4", "No. There.")]
    assert written_rows(file) == [("Where is rice?", "<think>I look.</think>Here.")]
    assert not list(SFT(data=[str(file)]).input_errors())
    assert not list(DPO(pairs=str(file), held_out="").input_errors())


def test_labels_may_stand_in_one_file_with_other_rows(tmp_path: Path) -> None:
    file, own = tmp_path / "both.jsonl", tmp_path / "labels.jsonl"
    all_kinds(own)
    plain = {"prompt": "p", "chosen": "good", "rejected": "bad", "label": 1, "verdict": "x"}
    named = {**plain, "prompt": "q", "label": "a data set's own"}
    lines = [json.dumps(plain), json.dumps(named)]
    file.write_text("\n".join(lines) + "\n" + own.read_text() + own.read_text())
    assert [one.problem.prompt for one in read_preferences(file)] == [
        "p", "q", "Where is tea 0?", "Where is tea 1?", "Where is tea 0?",
    ]  # fmt: skip


BROKEN = {
    "verdict": "verdict is 'bettter'",
    "rejected": "column 'rejected' is missing",
    "prompt": "column 'prompt' is missing",
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_a_broken_label_is_named_by_file_and_line(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "labels.jsonl"
    give(file, judge(pair(), "ann", "better", 0), judge(pair(1), "ann", "better", 0))
    rows = rows_of(file)
    rows[1][wrong] = "bettter" if wrong == "verdict" else None
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(R1kitError, match=f"labels.jsonl:2: {BROKEN[wrong]}"):
        read_labels(file)
    if wrong != "verdict":  # training needs the columns only
        with pytest.raises(R1kitError, match=f"labels.jsonl:2: {BROKEN[wrong]}"):
            read_preferences(file)
    store = LabelStore(file)
    assert len(store.labels()) == 1 and "labels.jsonl:2: " in store.warnings[0]


def test_a_file_without_a_usable_label_is_an_error_before_the_run(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    give(file, judge(pair(), "ann", "tie", 0))
    assert "no rows" in str(preferences_error(file))
    with pytest.raises(R1kitError, match="no rows"):
        read_preferences(file)


def test_labels_that_say_nothing_are_refused(tmp_path: Path) -> None:
    for verdict, unsafe in (("good", ()), ("unsafe", ()), ("unsafe", ("left",))):
        with pytest.raises(R1kitError):
            judge(pair(), "ann", verdict, 0, unsafe=unsafe)
    with pytest.raises(R1kitError, match="name"):
        judge(pair(), " \n", "tie", 0)
    with pytest.raises(R1kitError, match="empty"):
        write_answer("p", "  ", "ann")


def test_a_label_that_readers_would_refuse_for_its_size_is_not_given(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    with pytest.raises(R1kitError, match="at most 4 MB"):
        give(file, write_answer("p", "x" * 5_000_000, "ann"))
    assert not file.exists()


def test_a_text_that_is_no_unicode_is_stored_as_one_that_is(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    give(file, write_answer("p", "half \ud800 a character", "ann"))
    assert written_rows(file) == [("p", "half ? a character")]
