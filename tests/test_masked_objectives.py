"""Masked language modelling and next-sentence prediction: what is masked, what attention sees, losses and
gradients against transformers' and finite differences, and that a resumed training deals as before."""

import json
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from small_world import (
    KilledError,
    Mortal,
    learner_config,
    logged,
    model,
    quiet_log,
    random_rows,
    same_weights,
)
from torch import Tensor
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertPooler

import r1kit
from r1kit.config import ConfigError
from r1kit.data.fim import FIM, FIMConfig, with_fim_tokens
from r1kit.data.masking import MASK, Masking, corrupted, pair_rows, with_mask_token
from r1kit.model import fused
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.stages.pretrain import Pretrain
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import Learner
from r1kit.train.objective_mix import MixedLoss, ObjectiveMix, ObjectiveWeights
from r1kit.train.objectives import CrossEntropy
from r1kit.train.packing import pack
from r1kit.train.supervised import SupervisedConfig, text_row, train, update_batches
from r1kit.types import Row

CONTEXT = 64


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = list(islice(documents(3, CorpusMix()), 200))
    return with_mask_token(with_fim_tokens(Tokenizer.train(texts, 316)))


@pytest.fixture(scope="module")
def masking(tokenizer: Tokenizer) -> Masking:
    return Masking.of(tokenizer, 0.15)


@pytest.fixture(scope="module")
def rows(tokenizer: Tokenizer) -> list[Row]:
    texts = list(islice(documents(9, CorpusMix()), 60))
    ids = [np.concatenate([tokenizer.start_ids, one]) for one in tokenizer.encode_batch(texts, special=True)]
    return [text_row(one[: CONTEXT + 1]) for one in ids]


def network(tokenizer: Tokenizer, seed: int = 1, **shape: object) -> LanguageModel:
    made = model(seed, vocab_size=tokenizer.vocab_size, **shape)
    made.add_pair_head(5)
    return made


def test_fifteen_percent_are_chosen_and_eighty_ten_ten_of_them_change(masking: Masking) -> None:
    rng = np.random.default_rng(0)
    ids = rng.choice(masking.ordinary, 200_000)
    inputs, chosen = corrupted(ids, masking, rng)
    assert chosen.sum() == 30_000
    assert np.array_equal(inputs[~chosen], ids[~chosen])
    masked = (inputs == masking.mask)[chosen].mean()
    kept = (inputs == ids)[chosen].mean()
    ordinary = len(masking.ordinary)
    # A random token may be the original one.
    assert masked == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / 30_000) ** 0.5)
    assert kept == pytest.approx(0.1 + 0.1 / ordinary, abs=4 * (0.1 * 0.9 / 30_000) ** 0.5)
    random = inputs[chosen & (inputs != masking.mask) & (inputs != ids)]
    assert len(set(random.tolist())) > 0.9 * ordinary
    assert not masking.is_special[random].any()


def test_special_tokens_are_never_chosen_and_one_token_always_is(tokenizer: Tokenizer) -> None:
    masking = Masking.of(tokenizer, 0.15)
    ids = np.array([masking.begin, masking.ordinary[5], masking.end], dtype=np.int32)
    for seed in range(20):
        row = masking.masked(ids, np.random.default_rng(seed))
        assert row.targets is not None and row.bidirectional
        assert np.flatnonzero(row.mask).tolist() == [2]  # position 1 predicts targets[2]
        assert row.targets[2] == masking.ordinary[5]
    inputs, chosen = corrupted(ids[:1], masking, np.random.default_rng(0))
    assert inputs.tolist() == ids[:1].tolist() and not chosen.any()
    inputs, chosen = corrupted(ids, replace(masking, rate=0.0), np.random.default_rng(0))
    assert inputs.tolist() == ids.tolist() and not chosen.any()


def test_half_of_the_pairs_continue_and_the_others_are_another_documents(
    masking: Masking, rows: list[Row]
) -> None:
    whole = [row.token_ids for row in rows if masking.halves(row.token_ids, CONTEXT - 3) is not None]
    found = pair_rows(whole, replace(masking, rate=0.0), CONTEXT, np.random.default_rng(1))
    assert len(found) == len(whole) > 40
    assert sum(row.label == 0 for row in found) == len(whole) // 2
    halves = [masking.halves(ids, CONTEXT - 3) for ids in whole]
    for place, row in enumerate(found):
        ids = row.token_ids[:-1]
        assert len(ids) <= CONTEXT and ids[0] == masking.begin and ids[-1] == masking.end
        middle = int(np.flatnonzero(ids[:-1] == masking.end)[0])
        first, second = ids[1:middle], ids[middle + 1 : -1]
        own = halves[place]
        assert own is not None and np.array_equal(first, own[0])
        if row.label == 1:
            assert np.array_equal(second, own[1])
        else:
            others = [
                half[1][: len(second)].tolist() for at, half in enumerate(halves) if at != place and half
            ]
            assert second.tolist() in others
    assert pair_rows(whole[:1], masking, CONTEXT, np.random.default_rng(0))[0].label == 1
    assert masking.halves(masking.ordinary[:5], CONTEXT) is None


def test_documents_are_cut_at_the_end_of_a_sentence(tokenizer: Tokenizer, masking: Masking) -> None:
    ids = tokenizer.encode("One bird sat here for long. It flew away then")
    halves = masking.halves(ids, CONTEXT)
    assert halves is not None
    assert tokenizer.decode(halves[0]) == "One bird sat here for long."


@pytest.mark.parametrize("preset", ["nano", "student"])
@pytest.mark.parametrize("dtype", ["float32", "kernels"])
def test_bidirectional_attention_sees_both_sides_and_no_other_segment(preset: str, dtype: str) -> None:
    if dtype == "kernels" and not fused.usable(torch.zeros(1)):
        pytest.skip("the kernels do not run on this machine")
    made = model(preset=preset, dense_layers=2) if preset == "nano" else model(preset=preset)
    tokens = torch.randint(0, 300, (1, 80), generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[1] * 50 + [2] * 26 + [0] * 4])
    changed = tokens.clone()
    changed[0, 40] = (changed[0, 40] + 7) % 300

    def hidden(given: Tensor, both: bool) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "kernels"):
            return made(given, segments_BT=segments, bidirectional=both).hidden_BTD[0].float()

    if dtype == "kernels":
        with torch.autocast("cpu", torch.bfloat16):
            assert made.skips_the_unseen()
    both = (hidden(tokens, True) - hidden(changed, True)).abs().amax(-1)
    causal = (hidden(tokens, False) - hidden(changed, False)).abs().amax(-1)
    assert (both[:50] > 0).all() and (both[50:] == 0).all()
    assert (causal[:40] == 0).all() and (causal[40:50] > 0).all() and (causal[50:] == 0).all()


def test_packed_bidirectional_rows_are_what_each_is_alone(masking: Masking, rows: list[Row]) -> None:
    made = model(vocab_size=320)
    rng = np.random.default_rng(0)
    mixed = [masking.masked(row.token_ids[:CONTEXT], rng) for row in rows[:6]] + rows[6:9]
    batches = pack(mixed, CONTEXT, 8, share=True)
    assert [batch.bidirectional for batch in batches] == [False, True]
    for batch in batches:
        out = made(
            batch.tokens_BT, batch.positions_BT, batch.segments_BT, bidirectional=batch.bidirectional
        ).hidden_BTD
        for index in set(batch.rows_BT.flatten().tolist()) - {-1}:
            row = mixed[index]
            alone_BT = torch.from_numpy(row.token_ids[:-1].astype(np.int64))[None]
            bias = None
            if row.bidirectional:  # the whole square, without segments
                bias = made(alone_BT, bidirectional=True).hidden_BTD[0]
            else:
                bias = made(alone_BT).hidden_BTD[0]
            torch.testing.assert_close(out[batch.rows_BT == index], bias, rtol=1e-4, atol=1e-4)


def _transformers_loss(made: LanguageModel, rows: list[Row], shares: dict[str, float]) -> Tensor:
    """BertForPreTraining's loss, each part by its share: nn.CrossEntropyLoss over the masked tokens of all
    rows (-100 elsewhere), and over the classes after transformers' own pooler; plus the next-token loss."""
    assert made.pair_head is not None
    pooler = BertPooler(BertConfig(hidden_size=made.config.width, num_attention_heads=1, num_hidden_layers=1))
    pooler = pooler.to(made.embed_tokens.weight.dtype)
    logits, labels, pooled, classes, plain, nexts = [], [], [], [], [], []
    for row in rows:
        ids_BT = torch.from_numpy(row.token_ids[:-1].astype(np.int64))[None]
        hidden_BTD = made(ids_BT, bidirectional=row.bidirectional).hidden_BTD
        logits_TV = hidden_BTD[0] @ made.lm_head.weight.T
        if not row.bidirectional:
            plain.append(logits_TV)
            nexts.append(torch.from_numpy(row.token_ids[1:].astype(np.int64)))
            continue
        assert row.targets is not None
        target = torch.from_numpy(row.targets[1:].astype(np.int64))
        logits.append(logits_TV)
        labels.append(torch.where(torch.from_numpy(row.mask[1:]), target, -100))
        if row.label >= 0:
            weights = {"dense.weight": made.pair_head.dense.weight, "dense.bias": made.pair_head.dense.bias}
            pooled.append(torch.func.functional_call(pooler, weights, (hidden_BTD,))[0])
            classes.append(row.label)
    scores = F.linear(torch.stack(pooled), made.pair_head.out.weight, made.pair_head.out.bias)
    loss = torch.nn.CrossEntropyLoss()
    return (
        shares["mlm"] * loss(torch.cat(logits), torch.cat(labels))
        + shares["nsp"] * loss(scores, torch.tensor(classes))
        + shares["next_token"] * loss(torch.cat(plain), torch.cat(nexts))
    )


def _dealt(tokenizer: Tokenizer, rows: list[Row], **weights: float) -> tuple[ObjectiveMix, list[Row]]:
    mix = ObjectiveMix(ObjectiveWeights(**weights), tokenizer, CONTEXT, seed=4)
    return mix, mix.weighted(mix.dealt(rows, 3))


def test_the_loss_is_transformers_and_its_gradient_that_of_finite_differences(
    tokenizer: Tokenizer, rows: list[Row]
) -> None:
    made = network(tokenizer, dense_layers=2).double()
    config = learner_config(CONTEXT).model_copy(update={"precision": "float64"})
    learner = Learner(made, config)
    _, dealt = _dealt(tokenizer, rows[:24], next_token=1.0, mlm=0.6, nsp=0.4)
    assert {row.label for row in dealt} == {-1, 0, 1} and {row.bidirectional for row in dealt} == {
        True,
        False,
    }
    shares = {"next_token": 0.5, "mlm": 0.3, "nsp": 0.2}
    batches = learner.batches(dealt)

    def total() -> Tensor:
        return torch.stack([learner.batch_loss(batch, MixedLoss())[0] for batch in batches]).sum()

    ours, theirs = total(), _transformers_loss(made, dealt, shares)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    ours.backward()
    assert made.pair_head is not None
    checked = {
        "embedding": made.embed_tokens.weight, "attention": made.layers[0].self_attn.q_proj.weight,
        "pooler": made.pair_head.dense.weight, "classes": made.pair_head.out.bias,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for name, parameter in checked.items():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        assert parameter.grad is not None
        slope, step = float((parameter.grad * direction).sum()), 1e-5
        with torch.no_grad():
            parameter += step * direction
            above = float(total())
            parameter -= 2 * step * direction
            below = float(total())
            parameter += step * direction
        assert slope == pytest.approx((above - below) / (2 * step), rel=1e-4), name
        assert abs(slope) > 1e-4, name


def test_multi_token_prediction_is_not_trained_where_it_would_see_its_target(
    tokenizer: Tokenizer, rows: list[Row]
) -> None:
    learner = Learner(network(tokenizer), learner_config(CONTEXT))
    _, both = _dealt(tokenizer, rows[:8], next_token=0.0, mlm=1.0)
    assert learner.update(both, MixedLoss(mtp_weight=0.3), 0.0)["mtp"] == 0
    assert learner.update(rows[:8], MixedLoss(mtp_weight=0.3), 0.0)["mtp"] > 0


def test_where_processes_add_gradients_up_a_bidirectional_batch_reaches_every_layer(
    tokenizer: Tokenizer, rows: list[Row]
) -> None:
    """With weights that are shared out all processes compute the same layers, whatever rows they have."""
    _, dealt = _dealt(tokenizer, rows[:8], next_token=1.0, mlm=1.0)
    reached, losses = [], []
    for kind in (False, True):
        learner = Learner(model(vocab_size=tokenizer.vocab_size), learner_config(CONTEXT))
        learner.root.reaches_all = True
        own = [row for row in dealt if row.bidirectional is kind]
        batch = learner.batches(own)[0]
        loss, statistics = learner.batch_loss(batch, MixedLoss(mtp_weight=0.3, balance_weight=0.1))
        loss.backward()
        reached.append({name for name, p in learner.model.named_parameters() if p.grad is not None})
        losses.append(float(statistics["mtp"].detach()))
    assert reached[0] == reached[1] and any(name.startswith("mtp_layers") for name in reached[1])
    assert losses[0] > 0 and losses[1] == 0


def test_a_mix_of_next_tokens_alone_is_cross_entropy() -> None:
    rows = random_rows(6)
    losses = [
        Learner(model(), learner_config()).update(rows, objective(mtp_weight=0.3), 1.0)
        for objective in (CrossEntropy, MixedLoss)
    ]
    assert all(losses[0][name] == losses[1][name] for name in losses[0])


def test_documents_are_dealt_by_the_weights_and_as_the_update_s_number_says(
    tokenizer: Tokenizer, rows: list[Row]
) -> None:
    mix = ObjectiveMix(ObjectiveWeights(next_token=2, mlm=1, nsp=1), tokenizer, CONTEXT, seed=4)
    counts = np.zeros(3)
    for update in range(40):
        dealt = mix.dealt(rows, update)
        pairs = sum(row.label >= 0 for row in dealt)
        counts += [
            sum(not row.bidirectional for row in dealt),
            sum(r.bidirectional for r in dealt) - pairs,
            pairs,
        ]
    assert counts.sum() == 40 * len(rows)
    assert np.allclose(counts / counts.sum(), [0.5, 0.25, 0.25], atol=0.06)  # few are too short for a pair
    again = ObjectiveMix(mix.weights, tokenizer, CONTEXT, seed=4)
    for one, other in zip(mix.dealt(rows, 7), again.dealt(rows, 7), strict=True):
        assert np.array_equal(one.token_ids, other.token_ids) and one.label == other.label
    assert any(
        not np.array_equal(one.token_ids, other.token_ids)
        for one, other in zip(mix.dealt(rows, 7), mix.dealt(rows, 8), strict=False)
    )


def test_a_document_whose_middle_was_moved_is_trained_on_next_tokens(tokenizer: Tokenizer) -> None:
    fim = FIM.of(FIMConfig(rate=1.0), tokenizer, 0)
    cut = fim.cuts(0, "a bird and a stone; a river and a tree; 1 + 2 = 3")
    assert cut is not None
    ids = fim.join(tokenizer.encode_batch([cut.prefix, cut.middle, cut.suffix]), cut.suffix_first)
    mix = ObjectiveMix(ObjectiveWeights(next_token=0, mlm=1), tokenizer, CONTEXT, seed=0)
    assert not mix.dealt([text_row(ids)], 0)[0].bidirectional
    plain = text_row(tokenizer.encode("a bird and a stone; a river"))
    assert mix.dealt([plain], 0)[0].bidirectional


def test_a_killed_training_of_all_objectives_continues_bit_for_bit(
    tmp_path: Path, tokenizer: Tokenizer, rows: list[Row]
) -> None:
    mix = ObjectiveMix(ObjectiveWeights(mlm=1.0, nsp=2.0), tokenizer, CONTEXT, seed=2)
    plain = list(update_batches(iter(rows), repeat(600)))
    batches = mix.batches(lambda start: iter(plain[start:]))
    config = SupervisedConfig(save_every=2, mtp_weight=0.3)
    settings = learner_config(CONTEXT).model_copy(update={"pair_head": True})
    steps = len(plain)
    assert steps >= 5
    whole = Learner(model(vocab_size=tokenizer.vocab_size), settings)
    last = train(whole, batches, steps, config, quiet_log(tmp_path), tmp_path / "whole", mix=mix)
    assert {"mlm_loss", "nsp_loss", "nsp_accuracy", "mtp_loss", "loss"} <= set(last)
    dying = Mortal(model(vocab_size=tokenizer.vocab_size), settings)
    dying.dies_at = 3
    with pytest.raises(KilledError):
        train(dying, batches, steps, config, quiet_log(tmp_path), tmp_path / "killed", mix=mix)
    resumed = Learner(model(2, vocab_size=tokenizer.vocab_size), settings)
    train(resumed, batches, steps, config, quiet_log(tmp_path), tmp_path / "killed", mix=mix)
    assert same_weights(whole.model, resumed.model)


def test_the_exported_model_has_no_head_for_pairs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    made = network(tokenizer)
    save_pretrained(made, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.pair_head is None
    ids_BT = torch.arange(9)[None]
    assert torch.equal(loaded(ids_BT).hidden_BTD, made(ids_BT).hidden_BTD)


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    bare = Tokenizer.train(["a bird"], 300)
    with pytest.raises(ConfigError, match="the tokenizer has none such as"):
        Masking.of(bare, 0.15)


def test_the_mask_token_is_kept_with_the_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.names["mask"] == MASK
    assert Masking.of(loaded, 0.15).mask == Masking.of(tokenizer, 0.15).mask


@pytest.mark.parametrize(
    ("objectives", "packed", "message"),
    [
        ({"next_token": 0.0}, {}, "a weight above 0"),
        ({"mlm": -1.0}, {}, "greater than or equal to 0"),
        ({"nsp": 0.1}, {"document_masks": False}, "cuts documents in two"),
    ],
)
def test_mixes_that_cannot_be_trained_are_refused(objectives: dict, packed: dict, message: str) -> None:
    corpus = {"packed": {"sources": {"web": {"path": "x.jsonl"}}, **packed}}
    with pytest.raises((ConfigError, ValidationError), match=message):
        Pretrain(model={"preset": "nano"}, tokens=1000, corpus=corpus, objectives=objectives)


RECIPE = """
name: mixed
runtime: {{kind: local, processes: {processes}}}
stages:
  - stage: pretrain
    model: {{preset: nano, max_positions: 128}}
    tokens: 4000
    tokenizer: 330
    corpus: {{packed: {{sources: {{web: {{path: {web}}}}}, fim: {{rate: 0.3}}}}}}
    objectives: {{next_token: 1.0, mlm: 0.5, nsp: 0.5}}
    learner: {{context: 64, lines: 8, precision: float32, optimizer: {{kind: adamw}}}}
    training: {{batch_tokens: 1024, mtp_weight: 0.3}}
"""


@pytest.mark.slow
def test_all_objectives_in_one_stage_with_one_process_and_with_two(tmp_path: Path) -> None:
    web = tmp_path / "web.jsonl"
    texts = islice(documents(3, CorpusMix()), 250)
    web.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = {}
    for processes in (1, 2):
        recipe = tmp_path / f"{processes}.yaml"
        recipe.write_text(RECIPE.format(web=web, processes=processes))
        r1kit.run(r1kit.load(str(recipe), [f"out={tmp_path}/run{processes}"]))
        found[processes] = [row for row in logged(tmp_path / f"run{processes}") if row["stage"] == "pretrain"]
    names = ("loss", "mlm_loss", "nsp_loss", "nsp_accuracy", "mtp_loss")
    for one, two in zip(found[1], found[2], strict=True):
        assert {name: one[name] for name in names if name in one} == pytest.approx(
            {name: two[name] for name in names if name in two}, rel=1e-4
        )
    assert set(names) <= {name for row in found[1] for name in row}
    tokenizer = Tokenizer.load(tmp_path / "run1/stages/pretrain/model")
    assert tokenizer.vocab_size == 330 and tokenizer.has(MASK) and tokenizer.has("<｜fim▁begin｜>")
