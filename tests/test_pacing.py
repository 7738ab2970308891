"""Curricula of supervised training: pacing functions against their papers' formulas, the order of rows, and
what fine-tuning and pretraining do with it."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from scripted import context
from small_world import model_directory, tokenizer

from r1kit.config import ConfigError, R1kitError
from r1kit.data.corpora import SourceConfig
from r1kit.data.pacing import Pacing, SupervisedCurriculum, by_difficulty, number_in, paced_places, rarities
from r1kit.data.packed_corpus import PackedConfig, Recipe, check_shards, pack_sources
from r1kit.data.sources import numbered_pairs, pairs
from r1kit.data.token_loader import Lines, LineStream, PacedLines
from r1kit.stages.pretrain import Pretrain
from r1kit.stages.sft import SFT
from r1kit.train.paced import losses_of, measured_difficulties, paced_batches
from r1kit.train.supervised import SupervisedConfig, text_row


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("base") / "model").parent


def test_competence_is_that_of_the_papers():
    """Platanios et al. 2019, equations 6 and 8: c(t) = min(1, t (1 - c0)/T + c0), and with the root
    min(1, sqrt(t (1 - c0^2)/T + c0^2)); T is the share ``full`` here."""
    start, full = 0.1, 0.5
    linear, root = (Pacing(kind=kind, start=start, full=full) for kind in ("linear", "root"))
    cubic = Pacing(kind="root", start=start, full=full, power=3.0)
    for t in (0.0, 0.05, 0.2, 0.4, 0.5, 0.9, 1.0):
        assert linear.admitted(t) == pytest.approx(min(1, t * (1 - start) / full + start))
        assert root.admitted(t) == pytest.approx(min(1, math.sqrt(t * (1 - start**2) / full + start**2)))
        assert cubic.admitted(t) == pytest.approx(min(1, (t * (1 - start**3) / full + start**3) ** (1 / 3)))
    step = Pacing(kind="step", start=0.2, full=0.8, steps=4)
    assert [round(step.admitted(t), 3) for t in (0, 0.19, 0.2, 0.39, 0.4, 0.6, 0.8, 1)] == [
        0.2, 0.2, 0.4, 0.4, 0.6, 0.8, 1.0, 1.0,
    ]  # fmt: skip


def test_the_window_admits_and_retires():
    pacing = Pacing(kind="linear", start=0.2, full=1.0, retire=0.5)
    assert pacing.window(0.0, 10) == (0, 2)
    assert pacing.window(0.5, 10) == (2, 6)  # c = .6; half of the way from c0 to 1 retires a quarter
    assert pacing.window(1.0, 10) == (5, 10)
    assert Pacing(start=0.01).window(0.0, 3) == (0, 1)  # one row at least
    assert Pacing(start=1.0, retire=0.9).window(0.7, 4) == (0, 4)


def test_places_come_easiest_first_and_evenly():
    order = [3, 1, 0, 2]
    pacing = Pacing(kind="step", start=0.5, full=0.5, steps=1)
    places = list(paced_places(order, [10] * 4, 4000, pacing, seed=1))
    assert len(places) == 400
    early, late = Counter(places[:199]), Counter(places[203:])
    assert set(early) == {3, 1} and abs(early[3] - early[1]) <= 1
    assert set(late) == {0, 1, 2, 3} and max(late.values()) - min(late.values()) <= 2
    assert places == list(paced_places(order, [10] * 4, 4000, pacing, seed=1))
    assert places != list(paced_places(order, [10] * 4, 4000, pacing, seed=2))
    retiring = pacing.model_copy(update={"retire": 0.5})
    assert set(list(paced_places(order, [10] * 4, 4000, retiring, seed=1))[202:]) == {0, 2}


def test_equal_difficulties_are_in_no_order_and_missing_ones_last():
    column = SupervisedCurriculum(column="level")
    values = [column.difficulty(value) for value in (2.0, None, 1.0, 2.0)]
    assert {tuple(by_difficulty(values, seed)) for seed in range(20)} == {(2, 0, 3, 1), (2, 3, 0, 1)}
    rate = SupervisedCurriculum(pass_rate="rate", easy=1.0, hard=0.0)
    assert by_difficulty([rate.difficulty(value) for value in (0.25, 0.75, 0.5)], 0) == [1, 2, 0]
    assert [rate.leaves_out(value) for value in (1.0, 0.99, 0.0, 0.01, None)] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_rarity_is_the_mean_surprise_of_a_row():
    rows = [np.array([1, 1, 2]), np.array([3])]
    mean = -(2 * math.log(2 / 4) + math.log(1 / 4)) / 3
    assert rarities(rows) == pytest.approx([mean, math.log(4)])
    lengths = measured_difficulties([text_row(row) for row in rows], "length")
    assert lengths == [3.0, 1.0]


@pytest.mark.parametrize("value, number", [(3, 3.0), ("Level 5", 5.0), (0.5, 0.5), ("2", 2.0), (None, None)])
def test_a_number_is_read_from_a_column(value, number):
    assert number_in("f:1", "level", value) == number


@pytest.mark.parametrize("value", ["hard", True, [1], float("nan"), "", {"a": 1}])
def test_what_is_no_number_is_an_error_with_its_place(value):
    with pytest.raises(R1kitError, match=r"f:1: column 'level'"):
        number_in("f:1", "level", value)


@pytest.mark.parametrize(
    "keys, said",
    [
        ({}, "name one difficulty"),
        ({"column": "a", "by": "length"}, "name one difficulty"),
        ({"column": "a", "easy": 0.9}, "easy and hard are pass rates"),
        ({"pass_rate": "r", "easy": 0.3, "hard": 0.5}, "not below easy"),
        ({"by": "length", "pacing": {"start": 0.0}}, "start"),
    ],
)
def test_settings_that_make_no_sense_are_errors(keys, said):
    with pytest.raises(ConfigError, match=said):
        SupervisedCurriculum.parse(keys, "curriculum")


def test_updates_have_as_many_tokens_as_without():
    rows = [text_row(np.arange(4 + n % 7)) for n in range(50)]
    config = SupervisedConfig(epochs=2, batch_tokens=32)
    batches = paced_batches(rows, list(range(50)), SupervisedCurriculum(by="length"), config, 3)
    total = sum(len(row.token_ids) for row in rows)
    drawn = sum(len(row.token_ids) for batch in batches for row in batch)
    assert 2 * total <= drawn < 2 * total + 11
    first = {len(row.token_ids) for row in batches[0]}
    assert first <= {len(row.token_ids) for row in rows[:12]}


def row_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_keep_their_number_and_old_readers_see_no_difference(tmp_path):
    file = row_file(
        tmp_path / "a.jsonl",
        [{"prompt": "1", "completion": "one", "level": "Level 2"}, {"prompt": "2", "completion": "two"}],
    )
    assert numbered_pairs(file, "level") == [(("1", "one"), 2.0), (("2", "two"), None)]
    assert pairs(file) == [("1", "one"), ("2", "two")]
    bad = row_file(tmp_path / "b.jsonl", [{"prompt": "1", "completion": "one", "level": "hard"}])
    assert pairs(bad) == [("1", "one")]
    with pytest.raises(R1kitError, match=r"b.jsonl:1: column 'level' is no number: 'hard'"):
        numbered_pairs(bad, "level")


def tuned(tmp_path, base, rows, **keys):
    ctx = context(tmp_path, base)
    file = row_file(tmp_path / "rows.jsonl", rows)
    stage = SFT(
        init="@base", data=[str(file)], learner={"context": 64, "lines": 2, "precision": "float32"},
        training={"epochs": 2, "batch_tokens": 64}, **keys,
    )  # fmt: skip
    stage.run(ctx)
    return json.loads((ctx.out / "report.json").read_text()), ctx


ROWS = [{"prompt": f"{n}+1", "completion": f"<think></think>{n + 1}", "rate": n / 10} for n in range(11)]


def test_fine_tuning_in_order_leaves_out_by_pass_rate(tmp_path, base):
    curriculum = {"pass_rate": "rate", "easy": 1.0, "hard": 0.0, "pacing": {"kind": "linear"}}
    facts, ctx = tuned(tmp_path, base, ROWS, curriculum=curriculum)
    assert facts["rows"] == 11
    assert "2 of 11 rows left out, by pass rate" in ctx.log.console.file.getvalue()


@pytest.mark.parametrize(
    "curriculum, rows, said",
    [
        ({"column": "levle"}, ROWS, "no row of the data has a column 'levle'"),
        ({"pass_rate": "rate", "easy": 0.01}, [ROWS[5]], "every row is left out"),
    ],
)
def test_a_curriculum_without_rows_stops(tmp_path, base, curriculum, rows, said):
    with pytest.raises(R1kitError, match=said):
        tuned(tmp_path, base, rows, curriculum=curriculum)


def test_a_reference_models_loss_is_the_mean_of_its_log_probabilities(tmp_path, base):
    facts, _ = tuned(tmp_path, base, ROWS, curriculum={"reference": "@base"})
    assert facts["rows"] == 11

    class Counts:
        def logprobs(self, rows):
            return [np.where(row.mask, -np.arange(len(row.mask), dtype=np.float32), 0.0) for row in rows]

    assert losses_of(Counts(), [text_row(np.arange(4)), text_row(np.arange(1))]) == [2.0, 0.0]


def test_lines_are_admitted_by_difficulty_and_a_resumed_stream_is_the_same(tmp_path):
    texts = [{"text": "one two three " * (1 + n % 5)} for n in range(60)]
    file = row_file(tmp_path / "t.jsonl", texts)
    recipe = Recipe(PackedConfig(sources={"t": SourceConfig(path=str(file))}), tokenizer(), 32, 0)
    pack_sources(tmp_path / "tokens", recipe)
    source = Lines.open("t", check_shards(tmp_path / "tokens", 32)["t"])
    order = np.arange(len(source))[::-1].copy()
    pacing = Pacing(kind="step", start=0.25, full=0.5, steps=1)
    stream = LineStream([source], 5, PacedLines((order,), pacing, 200, 9))
    plain = LineStream([source], 5)
    whole = [line[0].tobytes() for line, _ in zip(stream.lines(), range(200), strict=False)]
    easy = {source.line(int(index))[0].tobytes() for index in order[: math.ceil(len(source) / 4)]}
    assert set(whole[:100]) == easy
    assert whole[150:] == [line[0].tobytes() for line, _ in zip(plain.lines(150), range(50), strict=False)]
    assert whole[60:] == [line[0].tobytes() for line, _ in zip(stream.lines(60), range(140), strict=False)]


@pytest.mark.parametrize("by", [{"column": "level"}, {"by": "rarity"}, {"reference": "@base"}])
def test_documents_are_read_in_order(tmp_path, base, by):
    rows = [{"text": f"number {n} " * (1 + n % 3), "level": n} for n in range(20)]
    file = row_file(tmp_path / "d.jsonl", rows)
    ctx = context(tmp_path, base)
    stage = Pretrain(
        model={"preset": "nano"}, tokens=600, tokenizer="@base", corpus={"files": {str(file): 1.0}},
        learner={"context": 32, "lines": 4, "precision": "float32"}, training={"batch_tokens": 128},
        curriculum={**by, "pacing": {"kind": "linear", "start": 0.1}},
    )  # fmt: skip
    stage.run(ctx)
    assert json.loads((ctx.out / "report.json").read_text())["steps"] == 4


@pytest.mark.parametrize("by", ["rarity", "length"])
def test_packed_lines_are_read_in_order(tmp_path, base, by):
    file = row_file(tmp_path / "d.jsonl", [{"text": f"number {n} " * (1 + n % 3)} for n in range(40)])
    ctx = context(tmp_path, base)
    stage = Pretrain(
        model={"preset": "nano"}, tokens=400, tokenizer="@base",
        corpus={"packed": {"sources": {"a": {"path": str(file)}}}},
        learner={"context": 32, "lines": 4, "precision": "float32"}, training={"batch_tokens": 64},
        curriculum={"by": by},
    )  # fmt: skip
    stage.run(ctx)
    assert (ctx.out / "model").is_dir()


@pytest.mark.parametrize(
    "corpus, curriculum",
    [
        ({"generated": {"miniature": 1.0}}, {"by": "length"}),
        ({"packed": {"sources": {"a": {"path": "a.jsonl"}}}}, {"column": "level"}),
    ],
)
def test_a_corpus_without_an_order_is_refused(corpus, curriculum):
    with pytest.raises(ValueError, match="curriculum:"):
        Pretrain(model={"preset": "nano"}, tokens=1, corpus=corpus, curriculum=curriculum)
