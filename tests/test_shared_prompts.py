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
from r1kit.train import learner as learner_module
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
    rows = _rows(experts)
    shared, plain = (
        _summed(config, rows, objective, context, "float64", monkeypatch, share) for share in (True, False)
    )
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(shared, plain, rtol=1e-6, atol=1e-6)


def test_kernels_see_the_shared_prompt_too(monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused.usable(torch.zeros(1)):
        pytest.skip("the kernels do not run on this machine")
    rows = _rows(prompt=90)
    shared = _summed(GROUPED, rows, _Weighted(), 256, "bfloat16", monkeypatch, True)
    exact = _summed(GROUPED, rows, _Weighted(), 256, "float64", monkeypatch, False)
    assert torch.nn.functional.cosine_similarity(shared.double(), exact.double(), dim=0) > 0.9995


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
