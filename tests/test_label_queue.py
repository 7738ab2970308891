"""Which pair an annotator sees next, and what is made of what is pressed and written."""

from pathlib import Path

import pytest
import yaml
from label_fakes import pairs_of, write_waiting_run

from r1kit.config import R1kitError
from r1kit.data.labels import LabelStore, judge, write_answer
from r1kit.records import label_file
from r1kit.web.label_queue import (
    SHARED,
    Desk,
    completion_of,
    label_stages,
    next_pair,
    next_to_write,
    show,
    thinking_and_answer,
)

PAIRS = pairs_of(6)


def judged(annotator: str, *numbers: int, verdict: str = "tie"):
    return [judge(PAIRS[number], annotator, verdict, 0) for number in numbers]


def test_pairs_come_in_order_and_none_twice() -> None:
    seen = []
    while (pair := next_pair(PAIRS, judged("ann", *seen), "ann")) is not None:
        seen.append(PAIRS.index(pair))
    assert seen == [0, 1, 2, 3, 4, 5]


def test_a_second_annotator_begins_with_what_is_new_and_shares_every_fourth() -> None:
    labels = judged("ann", 0, 1)
    assert next_pair(PAIRS, labels, "ben") is PAIRS[2]
    labels += judged("ben", 2, 3, 4)
    assert SHARED == 4 and next_pair(PAIRS, labels, "ben") is PAIRS[0]
    labels += judged("ben", 0)
    assert next_pair(PAIRS, labels, "ben") is PAIRS[5]
    labels += judged("ben", 5)
    assert next_pair(PAIRS, labels, "ben") is PAIRS[1]  # nothing is new: what only ann has judged
    assert next_pair(PAIRS, labels + judged("ben", 1), "ben") is None


def test_a_skipped_pair_is_shown_to_others_as_new() -> None:
    labels = judged("ann", 0, verdict="skip")
    assert next_pair(PAIRS, labels, "ann") is PAIRS[1] and next_pair(PAIRS, labels, "ben") is PAIRS[0]


def test_what_is_pressed_is_about_the_answer_that_was_seen() -> None:
    shown = [show(pair, "ann") for pair in pairs_of(40)]
    assert {one.swapped for one in shown} == {True, False}
    assert shown == [show(pair, "ann") for pair in pairs_of(40)]
    assert [one.swapped for one in shown] != [show(pair, "ben").swapped for pair in pairs_of(40)]
    for one in shown:
        label = judge(one.pair, "ann", one.verdict_of_left(True), one.seed)
        assert label.as_row()["chosen"] == one.left
        label = judge(one.pair, "ann", one.verdict_of_left(False), one.seed)
        assert label.as_row()["chosen"] == one.right
        assert (
            getattr(one.pair, one.side(True)) == one.left and getattr(one.pair, one.side(False)) == one.right
        )


def test_prompts_of_bad_answers_are_written_first_and_each_once() -> None:
    labels = judged("ann", 0) + judged("ann", 3, verdict="both_bad")
    assert next_to_write(PAIRS, labels) is PAIRS[3]
    labels.append(write_answer(PAIRS[3].prompt, "Here.", "ben"))
    assert next_to_write(PAIRS, labels) is PAIRS[0]
    labels += [write_answer(pair.prompt, "Here.", "ann") for pair in PAIRS]
    assert next_to_write(PAIRS, labels) is None


def test_a_written_response_is_read_as_it_was_written() -> None:
    assert completion_of(" I look. ", " Here. ") == "<think>I look.</think>Here."
    assert thinking_and_answer(completion_of("I look.", "Here.")) == ("I look.", "Here.")
    assert completion_of(" ", "Here.") == "Here."
    for thinking, answer in (("a", " "), ("", ""), ("a</think>b", "c"), ("a", "<think>b</think>c")):
        with pytest.raises(R1kitError):
            completion_of(thinking, answer)


@pytest.mark.parametrize("done", [False, True])
def test_stages_of_people_are_found_with_their_pairs(tmp_path: Path, done: bool) -> None:
    run = write_waiting_run(tmp_path / "run", PAIRS, 4, done)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (stage,) = label_stages(run, recipe)
    assert (stage.name, stage.wanted, stage.done) == ("label_1", 4, done)
    desk = Desk(run, stage)
    assert desk.pairs == PAIRS
    LabelStore(label_file(run, "label_1")).add(judged("ann", 2)[0])
    assert desk.progress("ben").in_words() == "1 of 4 pairs, 0 by you"
    assert label_stages(tmp_path, recipe) == [] and label_stages(run, {"stages": [None, 3]}) == []


@pytest.mark.parametrize("linked", ["labels", "labels/label_1.jsonl"])
def test_labels_are_not_written_through_a_link(tmp_path: Path, linked: str) -> None:
    run = write_waiting_run(tmp_path / "run", PAIRS, 4)
    (tmp_path / "elsewhere").mkdir()
    (run / linked).parent.mkdir(exist_ok=True)
    (run / linked).symlink_to(tmp_path / "elsewhere")
    (stage,) = label_stages(run, yaml.safe_load((run / "recipe.yaml").read_text()))
    with pytest.raises(R1kitError, match="a link"):
        Desk(run, stage)


@pytest.mark.parametrize("linked", ["stages", "stages/label_1.partial", "stages/label_1.partial/pairs.jsonl"])
def test_pairs_behind_a_link_and_names_that_are_paths_are_not_shown(tmp_path: Path, linked: str) -> None:
    run = write_waiting_run(tmp_path / "run", PAIRS, 4)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert len(label_stages(run, recipe)) == 1
    (run / linked).rename(tmp_path / "moved")
    (run / linked).symlink_to(tmp_path / "moved")
    assert label_stages(run, recipe) == []
    other = write_waiting_run(tmp_path / "other", PAIRS, 4)
    outside = {"stages": [{"stage": "label", "name": "../../other/stages/label_1", "labels": 4}]}
    assert (tmp_path / "other/stages/label_1.partial/pairs.jsonl").is_file()
    assert label_stages(other, outside) == [] == label_stages(run, outside)
