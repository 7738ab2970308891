"""A group's prompt stands once in a line: losses, gradients, expert loads and scores are those of rows that
each carry their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import Summing
from torch import Tensor

from r1kit.model import fused
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.foreign import row_places
from r1kit.train import learner as learner_module
from r1kit.train.dealing import deal, deal_rows
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import Needs, Predictions
from r1kit.train.packing import Batch, pack
from r1kit.types import Row

GROUPED = ModelConfig(
    family="qwen3",
    vocab_size=50,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn_width=48,
    tie_embeddings=True,
    init_std=0.2,
)
LATENT = ModelConfig(
    family="deepseek_v3", vocab_size=50, width=32, layers=2, heads=2, ffn_width=48, kv_rank=16, q_rank=None,
    nope_dim=8, rope_dim=8, v_dim=16,
    experts=4, active_experts=2, shared_experts=1, expert_width=16, dense_layers=1, mtp_depth=1, init_std=0.2,
)  # fmt: skip


class _Weighted:
    """The sum of weight x advantage x log-probability, with whatever else a loss may add."""

    def __init__(self, balance: float = 0.0, mtp: float = 0.0) -> None:
        self.needs = Needs(mtp_weight=mtp, balance_weight=balance)

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return -(predictions.logprobs_BT * batch.advantages_BT * batch.weights_BT * batch.mask_BT).sum(), {}


def _rows(experts: tuple[int, int] | None = None, prompt: int = 11) -> list[Row]:
    """Three groups of four rows, the last of which has a prompt too short to share."""
    drawn, rows = np.random.default_rng(0), []
    for length in (prompt, prompt // 2, 2):
        beginning = drawn.integers(1, 50, length)
        replayed = (
            None if experts is None else np.argsort(drawn.random((length, 1, 4)), axis=-1)[..., : experts[1]]
        )
        for _ in range(4):
            own = int(drawn.integers(1, 9))
            mask = np.arange(length + own) >= length
            row = Row(
                np.concatenate([beginning, drawn.integers(1, 50, own)]).astype(np.int32),
                mask,
                1 / own,
                float(drawn.normal()),
                temperature=0.8,
            )
            if replayed is not None:
                rest = (
                    np.argsort(drawn.random((own - 1, 1, 4)), axis=-1)[..., : experts[1]]
                    if experts
                    else replayed
                )
                row = replace(row, experts=np.concatenate([replayed, rest]).astype(np.uint8))
            rows.append(row)
    return rows


def _summed(
    config: ModelConfig,
    rows: list[Row],
    objective: _Weighted,
    context: int,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
    share: bool,
) -> Tensor:
    """What an update adds over processes: gradients, expert loads, statistics."""
    with monkeypatch.context() as patched:
        if not share:
            patched.setattr(
                learner_module, "pack", lambda rows, context, lines, share, joined: pack(rows, context, lines)
            )
        seen: list[Tensor] = []
        learner = Learner(
            LanguageModel(config),
            LearnerConfig(context=context, lines=4, precision=precision),
            Summing(lambda flat: seen.append(flat.clone()) or flat),  # type: ignore[func-returns-value]
        )
        learner.update(rows, objective, 1.0)
    return seen[0]


def _shared_and_plain_agree(
    config: ModelConfig,
    rows: list[Row],
    objective: _Weighted,
    context: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared, plain = (
        _summed(config, rows, objective, context, "float64", monkeypatch, share) for share in (True, False)
    )
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(shared, plain, rtol=1e-6, atol=1e-6)


def _kernels_agree(rows: list[Row], context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused.usable(torch.zeros(1)):
        pytest.skip("the kernels do not run on this machine")
    shared = _summed(GROUPED, rows, _Weighted(), context, "bfloat16", monkeypatch, True)
    exact = _summed(GROUPED, rows, _Weighted(), context, "float64", monkeypatch, False)
    assert torch.nn.functional.cosine_similarity(shared.double(), exact.double(), dim=0) > 0.9995


@pytest.mark.parametrize("context", [24, 64])
@pytest.mark.parametrize(
    ("config", "objective", "experts"),
    [
        (GROUPED, _Weighted(), None),
        (LATENT, _Weighted(0.3, 0.2), None),
        (LATENT, _Weighted(0.3, 0.2), (1, 2)),
    ],
    ids=["grouped", "latent", "replayed"],
)
def test_an_update_is_the_same(
    config: ModelConfig,
    objective: _Weighted,
    experts: tuple[int, int] | None,
    context: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _shared_and_plain_agree(config, _rows(experts), objective, context, monkeypatch)


def test_kernels_see_the_shared_prompt_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _kernels_agree(_rows(prompt=90), 256, monkeypatch)


def test_a_prompt_stands_once_and_every_trained_position_is_its_rows_own() -> None:
    rows = _rows()
    batches = pack(rows, 64, 4, share=True)
    used = sum(int((batch.segments_BT > 0).sum()) for batch in batches)
    lengths = [len(row.token_ids) - 1 for row in rows]
    assert used == sum(lengths) - 3 * (11 - 2) - 3 * (5 - 2)
    for batch in batches:
        assert bool((batch.rows_BT[batch.mask_BT] >= 0).all())
    assert sum(int(batch.mask_BT.sum()) for batch in batches) == sum(int(row.mask.sum()) for row in rows)


def test_rows_that_begin_alike_but_replayed_other_experts_share_nothing() -> None:
    rows = _rows((1, 2))[:2]
    assert rows[0].experts is not None
    changed = rows[0].experts.copy()
    changed[0] = 3 - changed[0]
    assert pack(rows, 64, 4, share=True)[0].beginnings_BT is not None
    assert pack([replace(rows[0], experts=changed), rows[1]], 64, 4, share=True)[0].beginnings_BT is None


def _examples_first(
    common: int = 70, groups: int = 3, experts: bool = False, size: int = 3, least: int = 2
) -> list[Row]:
    """Groups whose prompts begin with the same ``common`` tokens, then a row of its own that does too, and a
    group that begins otherwise."""
    drawn, rows = np.random.default_rng(1), []
    beginning, other = drawn.integers(1, 50, common), drawn.integers(1, 50, common)
    chosen = drawn.integers(0, 4, (common + 40, 1, 2)) if experts else None
    for group in range(groups + 2):
        start = beginning if group <= groups else other
        prompt = np.concatenate([start, drawn.integers(1, 50, 5 + group)])
        for _ in range(1 if group == groups else size):
            own = int(drawn.integers(least, least + 10))
            ids = np.concatenate([prompt, drawn.integers(1, 50, own)]).astype(np.int32)
            row = Row(ids, np.arange(len(ids)) >= len(prompt), 1 / own, float(drawn.normal()))
            if chosen is not None:
                row = replace(row, experts=np.sort(chosen[: len(ids) - 1], axis=-1).astype(np.uint8))
            rows.append(row)
    return rows


def _seen_by_trained(batch: Batch) -> dict[tuple[int, int], list[int]]:
    """For each trained position (row, place in the row) the tokens that it sees, by following the segments
    that a segment continues."""
    found = {}
    assert batch.beginnings_BT is not None
    for line in range(len(batch.tokens_BT)):
        segments, starts = batch.segments_BT[line].tolist(), batch.beginnings_BT[line].tolist()
        tokens, after = batch.tokens_BT[line].tolist(), dict(zip(segments, starts, strict=True))
        for t in batch.mask_BT[line].nonzero()[:, 0].tolist():
            chain, number = [], segments[t]
            while number:
                chain.insert(0, number)
                number = after[number]
            seen = [tokens[i] for n in chain for i in range(len(segments)) if segments[i] == n and i <= t]
            found[int(batch.rows_BT[line, t]), int(batch.positions_BT[line, t])] = seen
    return found


@pytest.mark.parametrize("context", [128, 256, 2048])
def test_worked_examples_before_all_prompts_stand_once_in_a_line(context: int) -> None:
    rows = _examples_first()
    batches = pack(rows, context, 1, share=True, joined=True)
    seen = {}
    for batch in batches:
        seen |= _seen_by_trained(batch)
    assert len(seen) == sum(int(row.mask.sum()) for row in rows)
    for (number, position), tokens in seen.items():
        assert tokens == rows[number].token_ids[: position + 1].tolist()
    if context == 2048:  # 3 groups, a row and a group that begins otherwise: prompts end two positions early
        used = int((batches[0].segments_BT > 0).sum())
        own = sum(int(row.mask.sum()) + 1 for row in rows)
        # The row of its own has no second prompt of its kind: all but the common part is its own.
        prompts = [75 - 2 - 69, 76 - 2 - 69, 77 - 2 - 69, 78 - 2 - 69, 79 - 2]
        assert len(batches) == 1 and used == 69 + sum(prompts) + own


@pytest.mark.parametrize("context", [170, 400])
@pytest.mark.parametrize(
    ("config", "objective", "experts"),
    [
        (GROUPED, _Weighted(), False),
        (LATENT, _Weighted(0.3, 0.2), False),
        (LATENT, _Weighted(0.3, 0.2), True),
    ],
    ids=["grouped", "latent", "replayed"],
)
def test_an_update_with_shared_examples_is_the_same(
    config: ModelConfig, objective: _Weighted, experts: bool, context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _examples_first(experts=experts)
    batches = pack(rows, context, 4, share=True)
    assert (
        max(len(set(b.beginnings_BT.flatten().tolist())) for b in batches if b.beginnings_BT is not None) > 2
    )
    _shared_and_plain_agree(config, rows, objective, context, monkeypatch)


def test_kernels_see_shared_examples_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _kernels_agree(_examples_first(common=100), 512, monkeypatch)


def test_examples_with_other_replayed_experts_and_short_ones_are_not_shared() -> None:
    def most_levels(rows: list[Row]) -> int:
        (batch,) = pack(rows, 4096, 1, share=True)
        found = 0
        for segments, starts in zip(batch.segments_BT.tolist(), batch.beginnings_BT.tolist(), strict=True):  # type: ignore[union-attr]
            after = dict(zip(segments, starts, strict=True))
            found = max(found, *(1 + bool(after[a]) for a in after.values() if a))
        return found

    rows = _examples_first(experts=True, groups=2)
    assert most_levels(rows) == 2
    assert most_levels(_examples_first(common=40)) == 1
    changed = []
    for number, row in enumerate(rows):
        assert row.experts is not None
        experts = row.experts.copy()
        experts[3] = number // 3
        changed.append(replace(row, experts=experts))
    assert most_levels(changed) == 1


def test_a_line_grows_by_at_most_half_to_hold_a_group() -> None:
    rows = _examples_first(common=30, size=8)[:8]
    whole = pack(rows, 4096, 1, share=True, joined=True)
    used = int((whole[0].segments_BT > 0).sum())
    least = -(-used * 2 // 3)
    for context, fits in ((least, True), (least - 1, False)):
        found = pack(rows, context, 1, share=True, joined=True)
        assert (len(found) == 1) == fits
        assert all(int((b.segments_BT > 0).sum()) <= (1.5 * context if fits else context) for b in found)
    assert len(pack(rows, least, 1, share=True)) > 1  # lines that pay for their padding keep their length


def test_whole_groups_are_dealt_where_prompts_are_long() -> None:
    long = _examples_first(common=300, groups=4)[:12]
    short = _examples_first(common=4, groups=4, least=60)[:12]
    by_length = deal([len(row.token_ids) for row in long], 2)
    dealt = deal_rows(long, 2, share=True)
    assert sorted(i for own in dealt for i in own) == list(range(12))
    assert all(len({i // 3 for i in own}) == 2 for own in dealt) and dealt != by_length
    assert deal_rows(long, 2, share=False) == by_length and deal_rows(long, 1, share=True) == [
        deal([len(row.token_ids) for row in long], 1)[0]
    ]
    assert deal_rows(short, 2, share=True) == deal([len(row.token_ids) for row in short], 2)
    # One group cannot be split without computing its prompt twice, but then one process would do nothing.
    one = long[:3]
    assert deal_rows(one, 2, share=True) in ([[0, 1, 2], []], deal([len(row.token_ids) for row in one], 2))


def test_the_places_of_a_row_begin_with_all_that_it_continues() -> None:
    rows = _examples_first()
    (batch,) = pack(rows, 4096, 1, share=True)
    tokens = batch.tokens_BT.flatten()
    found = sorted(tokens[places].tolist() for places in row_places(batch.segments_BT, batch.beginnings_BT))
    assert found == sorted(row.token_ids[:-1].tolist() for row in rows)
