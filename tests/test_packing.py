"""Packing: every row once, whole, shifted once, seen by itself alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import Spied, full_logprobs, learner_config, random_rows

from r1kit.config import R1kitError
from r1kit.data.best_fit import place
from r1kit.train.packing import pack
from r1kit.types import Row


def best_fit_decreasing(lengths: list[int], context: int) -> list[list[int]]:
    """By brute force: the longest first, each into the fullest bin that still holds it."""
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        spare = [context - sum(lengths[i] for i in chosen) for chosen in bins]
        fitting = [number for number, free in enumerate(spare) if free >= lengths[index]]
        if fitting:
            bins[min(fitting, key=lambda number: spare[number])].append(index)
        else:
            bins.append([index])
    return bins


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=40))
def test_rows_are_placed_once_each_as_brute_force_places_them(lengths: list[int]) -> None:
    bins = place(lengths, 30)
    assert sorted(i for chosen in bins for i in chosen) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in chosen) <= 30 for chosen in bins)
    fills = lambda found: sorted(sum(lengths[i] for i in chosen) for chosen in found)  # noqa: E731
    assert fills(bins) == fills(best_fit_decreasing(lengths, 30))
    assert bins == place(lengths, 30)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(("context", "lines"), [(24, 1), (40, 3), (200, 50)])
def test_every_row_can_be_read_back_from_the_batches(context: int, lines: int, joined: bool) -> None:
    rows = random_rows(30)
    found: dict[int, bool] = {}
    for batch in pack(rows, context, lines, joined=joined):
        assert 0 < int((batch.segments_BT > 0).any(1).sum()) <= (1 if joined else lines)
        assert int((batch.segments_BT > 0).sum(1).max()) <= (lines * context if joined else context)
        for index in set(batch.rows_BT.flatten().tolist()) - {-1}:
            row, here = rows[index], batch.rows_BT == index
            assert index not in found and len(set(torch.nonzero(here)[:, 0].tolist())) == 1
            assert row.old_logprobs is not None and row.ref_logprobs is not None
            for tensor, expected in (
                (batch.tokens_BT, row.token_ids[:-1]),
                (batch.targets_BT, row.token_ids[1:]),
                (batch.mask_BT, row.mask[1:]),
                (batch.positions_BT, np.arange(len(row.token_ids) - 1)),
                (batch.old_logprobs_BT, row.old_logprobs[1:]),
                (batch.ref_logprobs_BT, row.ref_logprobs[1:]),
            ):
                np.testing.assert_array_equal(tensor[here].numpy(), expected)
            assert bool((batch.weights_BT[here] == float(np.float32(row.weight))).all()) and bool(
                (batch.advantages_BT[here] == float(np.float32(row.advantage))).all()
            )
            assert len(set(batch.segments_BT[here].tolist())) == 1
            found[index] = True
    assert sorted(found) == list(range(len(rows)))


def test_segments_separate_rows_of_a_line_and_padding_is_segment_zero() -> None:
    for batch in pack(random_rows(30), 60, 4):
        for owners, segments in zip(batch.rows_BT.tolist(), batch.segments_BT.tolist(), strict=True):
            pairs = dict.fromkeys(zip(owners, segments, strict=True))
            assert len(pairs) == len(set(owners)) == len(set(segments))
            assert all((owner == -1) == (segment == 0) for owner, segment in pairs)
            assert sorted(set(segments) - {0}) == list(range(1, len(set(segments) - {0}) + 1))
        padding = batch.rows_BT == -1
        assert not batch.mask_BT[padding].any() and not batch.weights_BT[padding].any()


def test_a_row_that_does_not_fit_is_an_error_that_says_what_to_change() -> None:
    rows = [Row(np.arange(40, dtype=np.int32), np.ones(40, dtype=bool), 1.0)]
    with pytest.raises(
        R1kitError,
        match=r"row of 40 tokens does not fit into context 38; raise learner\.context or lower max_tokens",
    ):
        pack(rows, 38, 2)
    with pytest.raises(R1kitError, match=r"does not fit into context 38"):
        pack(rows, 38, 2, joined=True)
    assert len(pack(rows, 39, 2)) == 1  # 40 tokens are 39 inputs


def test_rows_that_predict_nothing_take_no_place() -> None:
    single = Row(np.array([5], dtype=np.int32), np.array([True]), 1.0)
    assert pack([], 16, 2) == [] and pack([single], 16, 2) == []
    batch = pack([single, *random_rows(1)], 32, 2)[0]
    assert set(batch.rows_BT.flatten().tolist()) - {-1} == {1}


@pytest.mark.parametrize(("context", "lines"), [(24, 1), (47, 3), (160, 8)])
def test_packed_log_probabilities_equal_those_of_each_row_alone(context: int, lines: int) -> None:
    spied = Spied(learner_config(context, lines))
    rows = random_rows(12)
    packed = spied.learner.logprobs(rows)
    for row, found in zip(rows, packed, strict=True):
        with torch.no_grad():
            expected = full_logprobs(spied.model.eval(), row).numpy()
        np.testing.assert_allclose(found[1:], np.where(row.mask[1:], expected, 0), atol=2e-5)
        assert found[0] == 0
