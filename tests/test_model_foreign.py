"""Models through transformers' own class: loaded, trained, decoded and saved as the network's own are."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_world
import torch
import transformers
from rich.console import Console
from safetensors.torch import load_file, save_file

from r1kit.config import ConfigError, R1kitError
from r1kit.engine.native import NativeEngine
from r1kit.model.config_json import read_config
from r1kit.model.decoder import LanguageModel
from r1kit.model.fingerprint import take_fingerprint
from r1kit.model.foreign import ForeignModel, row_places
from r1kit.model.huggingface import check_pretrained, load_pretrained, save_pretrained
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import run
from r1kit.runtime.replica import with_scalar_head
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import Needs, Predictions
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.packing import Batch
from r1kit.types import Row, Sampling

VOCABULARY = 64
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128,
    "initializer_range": 0.15, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MAKERS: dict[str, Callable[[], Any]] = {
    # A window of 5 slides within every text of these tests.
    "gemma3_text": lambda: transformers.Gemma3TextConfig(
        **SMALL, head_dim=8, sliding_window=5, layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=8, final_logit_softcapping=None,
    ),
    "olmo2": lambda: transformers.Olmo2Config(**SMALL),
    "olmo3": lambda: transformers.Olmo3Config(
        **SMALL, sliding_window=5, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.15,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    ),
    "granite": lambda: transformers.GraniteConfig(**SMALL, logits_scaling=4.0, embedding_multiplier=2.0),
}  # fmt: skip
STOPS = (2, 3)


def folder_of(name: str, place: Path) -> Path:
    """A small random checkpoint as transformers saves it."""
    torch.manual_seed(7)
    model: Any = transformers.AutoModelForCausalLM.from_config(MAKERS[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(place)
    return place


def theirs_of(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def some_tokens(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits_of(model: LanguageModel, hidden_BTD: torch.Tensor) -> torch.Tensor:
    return model.logits(hidden_BTD)


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_logits_are_those_of_transformers_and_survive_saving(name: str, tmp_path: Path) -> None:
    folder, x = folder_of(name, tmp_path / "theirs"), some_tokens(2, 40)
    config = read_config(folder)
    assert (config.family, config.model_type, config.vocab_size) == ("transformers", name, VOCABULARY)
    check_pretrained(folder)
    ours = load_pretrained(folder).eval()
    assert isinstance(ours, ForeignModel)
    expected = theirs_of(folder)(x).logits
    assert expected.std() > 0.1
    assert (logits_of(ours, ours(x).hidden_BTD) - expected).abs().max() <= 1e-4 * expected.abs().max()
    save_pretrained(ours, tmp_path / "again", shard_bytes=20_000)
    assert (tmp_path / "again" / "model.safetensors.index.json").is_file()
    again = theirs_of(tmp_path / "again")(x).logits
    assert torch.equal(again, expected)
    assert read_config(tmp_path / "again") == config


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_packed_lines_give_every_row_the_states_it_has_alone(name: str, tmp_path: Path) -> None:
    model = load_pretrained(folder_of(name, tmp_path)).eval()
    rows = [some_tokens(1, length, seed)[0] for seed, length in enumerate((9, 14, 4))]
    shared = some_tokens(1, 6, 9)[0]
    # line 0: rows 0 and 1; line 1: a beginning, its two rows (1's and 2's tokens), padding
    pieces = [
        (0, rows[0], 1, 0),
        (0, rows[1], 2, 0),
        (1, shared, 1, 0),
        (1, rows[1][:8], 2, 1),
        (1, rows[2], 3, 1),
    ]
    tokens, segments, beginnings = (torch.zeros(2, 24, dtype=torch.int64) for _ in range(3))
    at, places = [0, 0], []
    for line, piece, number, beginning in pieces:
        span = slice(at[line], at[line] + len(piece))
        tokens[line, span], segments[line, span], beginnings[line, span] = piece, number, beginning
        places.append((line, span))
        at[line] = span.stop
    found = model(tokens, None, segments, beginnings_BT=beginnings).hidden_BTD
    alone = [pieces[0][1], pieces[1][1], shared]
    after = [torch.cat((shared, pieces[3][1])), torch.cat((shared, pieces[4][1]))]
    expected = [model(row[None]).hidden_BTD[0] for row in alone]
    expected += [model(row[None]).hidden_BTD[0, len(shared) :] for row in after]
    for (line, span), wanted in zip(places, expected, strict=True):
        torch.testing.assert_close(found[line, span], wanted, atol=1e-5, rtol=1e-4)
    assert not found[1, at[1] :].any()
    assert sorted(len(row) for row in row_places(segments, beginnings)) == [9, 10, 14, 14]


@pytest.mark.parametrize("name", MAKERS)
def test_the_engine_records_the_log_probabilities_of_a_plain_forward_pass(name: str, tmp_path: Path) -> None:
    """Prompts of different lengths, rows that finish and rows that join later: 4 rows at a time of 15."""
    folder = folder_of(name, tmp_path)
    model, theirs = load_pretrained(folder), theirs_of(folder)
    random = np.random.default_rng(3)
    prompts = [random.integers(4, VOCABULARY, size=length) for length in (3, 17, 1, 9, 12)]
    engine = NativeEngine(model, STOPS, batch_rows=4)
    groups = engine.generate(prompts, Sampling(n=3, max_tokens=24, temperature=0.8))
    lengths = set()
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            lengths.add(len(completion.token_ids))
            tokens_BT = torch.from_numpy(np.concatenate((prompt, completion.token_ids)))[None].long()
            with torch.no_grad():
                logits_TV = theirs(tokens_BT).logits[0, len(prompt) - 1 : -1] / 0.8
            expected = logits_TV.log_softmax(-1)[
                torch.arange(len(completion.token_ids)), tokens_BT[0, len(prompt) :]
            ]
            np.testing.assert_allclose(completion.logprobs, expected.numpy(), atol=2e-4)
    assert len(lengths) > 1
    alone = NativeEngine(model, STOPS).generate([prompts[1]], Sampling(n=1, max_tokens=8, temperature=0.0))
    streamed = list(NativeEngine(model, STOPS).stream(prompts[1], Sampling(max_tokens=8, temperature=0.0), 0))
    assert streamed == alone[0][0].token_ids.tolist()


@pytest.mark.parametrize("name", ["gemma3_text", "gpt2"])
def test_in_bfloat16_the_engine_stays_close_to_float32(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    model, theirs = load_pretrained(folder), theirs_of(folder)
    prompts = [some_tokens(1, length, length)[0].numpy() for length in (4, 9)]
    gaps = []
    for prompt, group in zip(
        prompts,
        NativeEngine(model, STOPS, precision="bfloat16").generate(prompts, Sampling(n=4, max_tokens=16)),
        strict=True,
    ):
        for completion in group:
            tokens_BT = torch.from_numpy(np.concatenate((prompt, completion.token_ids)))[None].long()
            with torch.no_grad():
                logprobs_TV = theirs(tokens_BT).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            picked = logprobs_TV[torch.arange(len(completion.token_ids)), tokens_BT[0, len(prompt) :]]
            gaps.append(np.abs(completion.logprobs - picked.numpy()))
    assert 0 < np.concatenate(gaps).mean() < 0.1


class Weighted:
    """-sum of weight times log-probability."""

    needs = Needs()

    def __call__(
        self, predictions: Predictions, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return -(predictions.logprobs_BT * batch.weights_BT * batch.mask_BT).sum(), {}


def row(tokens: torch.Tensor, prompt: int, weight: float) -> Row:
    mask = np.arange(len(tokens)) >= prompt
    return Row(token_ids=tokens.numpy(), mask=mask, weight=weight)


@pytest.mark.parametrize("name", MAKERS)
def test_an_update_takes_the_gradient_of_the_direct_computation(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    prompt = some_tokens(1, 6, 1)[0]
    tails = [some_tokens(1, length, seed)[0] for seed, length in enumerate((5, 9, 12))]
    rows = [row(torch.cat((prompt, tail)), 6, 0.1 * (i + 1)) for i, tail in enumerate(tails)]
    rows.append(row(some_tokens(1, 11, 8)[0], 3, -0.4))

    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    loss = torch.zeros(())
    for one in rows:
        ids = torch.from_numpy(one.token_ids)
        logprobs = theirs(ids[None]).logits[0, :-1].log_softmax(-1)
        picked = logprobs[torch.arange(len(ids) - 1), ids[1:]]
        loss = loss - (picked * torch.from_numpy(one.mask[1:]) * one.weight).sum()
    loss.backward()
    expected = torch.sqrt(sum(p.grad.square().sum() for p in theirs.parameters() if p.grad is not None))

    config = LearnerConfig(context=40, lines=2, precision="float32", optimizer=OptimizerConfig(grad_clip=1e9))
    learner = Learner(load_pretrained(folder), config)
    model = learner.model.train()
    total = torch.zeros(())
    for batch in learner.batches(rows, share=True):
        assert batch.beginnings_BT is not None
        part, _ = learner.batch_loss(batch, Weighted())
        part.backward()
        total = total + part.detach()
    torch.testing.assert_close(total, loss.detach(), atol=1e-4, rtol=1e-4)
    mine = dict(model.inner.named_parameters())
    for key, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(mine[key].grad, parameter.grad, atol=1e-4, rtol=1e-3, msg=key)
    model.zero_grad()
    metrics = learner.update(rows, Weighted(), 1.0)
    assert metrics["grad_norm"] == pytest.approx(float(expected), rel=1e-3) and learner.version == 1


@pytest.mark.parametrize("name", ["gpt2", "olmo2"])  # with a tied head and without
def test_a_saved_state_restores_weights_and_moments(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / "model")
    rows = [row(some_tokens(1, 11, seed)[0], 3, 0.5) for seed in (1, 2)]
    config = LearnerConfig(context=40, lines=2, precision="float32")
    first, second = (Learner(load_pretrained(folder), config) for _ in range(2))
    first.update(rows, Weighted(), 1.0)
    first.save(tmp_path / "states", {"step": 1}, owners=("me",))
    assert second.restore(tmp_path / "states", owners=("me",))["step"] == 1
    for learner in (first, second):
        learner.update(rows, Weighted(), 1.0)
    before = load_pretrained(folder).state_dict()
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
        assert not value.is_floating_point() or not torch.equal(value, before[key]), key


def test_a_scalar_head_is_added_saved_and_loaded(tmp_path: Path) -> None:
    folder, x = folder_of("olmo2", tmp_path / "a"), some_tokens(1, 12)
    scorer = with_scalar_head(load_pretrained(folder).eval())
    values = scorer.values(scorer(x).hidden_BTD)
    assert values.shape == (1, 12) and values.std() > 0
    save_pretrained(scorer, tmp_path / "b")
    again = load_pretrained(tmp_path / "b").eval()
    assert again.config.scalar_head and torch.equal(again.values(again(x).hidden_BTD), values)
    assert torch.equal(theirs_of(tmp_path / "b")(x).logits, theirs_of(folder)(x).logits)


def test_no_token_is_dropped_in_training(tmp_path: Path) -> None:
    """GPT-2's configuration has dropout of 0.1, which a rollout was not sampled with."""
    model = load_pretrained(folder_of("gpt2", tmp_path)).train()
    x = some_tokens(1, 20)
    assert torch.equal(model(x).hidden_BTD, model(x).hidden_BTD)
    assert json.loads((tmp_path / "config.json").read_text())["resid_pdrop"] == 0.1
    save_pretrained(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["resid_pdrop"] == 0.1


def test_learner_and_engine_have_the_same_fingerprint(tmp_path: Path) -> None:
    model = load_pretrained(folder_of("olmo2", tmp_path))
    text = some_tokens(1, 30)[0].numpy()
    whole, stepped = (take_fingerprint(model, text, 1.0, 0, step_from=at) for at in (None, 10))
    assert whole.marks == stepped.marks and whole.hidden.keys() == stepped.hidden.keys()
    assert {"embed_tokens", "layers.0", "layers.1"} <= whole.hidden.keys()
    np.testing.assert_allclose(whole.logprobs_T, stepped.logprobs_T, atol=1e-4)
    for name, states in whole.hidden.items():
        np.testing.assert_allclose(states, stepped.hidden[name], atol=1e-3, err_msg=name)


def test_weights_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    folder = folder_of("olmo2", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(R1kitError, match=r"do not fit config\.json; missing: model\.norm\.weight \(1\)"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("read", [check_pretrained, load_pretrained])
def test_layers_beyond_those_of_the_configuration_are_unexpected(
    name: str, read: Any, tmp_path: Path
) -> None:
    folder = folder_of(name, tmp_path)
    read(folder)
    content = json.loads((folder / "config.json").read_text())
    key = "n_layer" if "n_layer" in content else "num_hidden_layers"
    fewer = {key: content[key] - 1}
    if "layer_types" in content:
        fewer["layer_types"] = content["layer_types"][:-1]
    (folder / "config.json").write_text(json.dumps({**content, **fewer}))
    with pytest.raises(R1kitError, match=rf"unexpected: .*\.{content[key] - 1}\..*correct config\.json"):
        read(folder)


def test_a_tensor_that_nothing_reads_is_refused_unless_older_files_have_it(tmp_path: Path) -> None:
    folder = folder_of("olmo2", tmp_path)
    path = folder / "model.safetensors"
    weights = load_file(path)
    older = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file({**weights, **older}, path, metadata={"format": "pt"})
    load_pretrained(folder)
    save_file({**weights, "model.extra.weight": torch.ones(4)}, path, metadata={"format": "pt"})
    with pytest.raises(R1kitError, match=r"unexpected: model\.extra\.weight \(1\)"):
        load_pretrained(folder)


def test_soft_capped_logits_are_refused_with_the_reason(tmp_path: Path) -> None:
    folder = folder_of("gemma3_text", tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "final_logit_softcapping": 1.0}))
    with pytest.raises(R1kitError, match="soft capping"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [{"model_type": "unheard_of"}, {"model_type": "t5"}, {"model_type": "x", "auto_map": {"A": "a.B"}}],
)
def test_what_transformers_does_not_compute_either_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of("olmo2", tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(
        ConfigError, match=rf"model_type '{change['model_type']}' is not supported.*transformers"
    ):
        read_config(folder)


RECIPE = """\
name: small
seed: 3
runtime: {{kind: local, processes: {processes}, engine_precision: float32}}
stages:
  - stage: r1_zero
    init: {init}
    tasks: {{reasoning: 1.0}}
    rewards: {{accuracy: 1.0, format: 0.1}}
    grpo: {{steps: 2, problems: 2, group: 4, max_tokens: 12, save_every: 1, beta: 0.01}}
    learner: {{context: 128, lines: 4, precision: float32, optimizer: {{kind: adamw, learning_rate: 1e-3}}}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3_text", "gpt2"])
def test_reinforcement_learning_runs_with_a_model_through_transformers_class(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of GRPO with a reference, saved after each; the model that comes out is transformers' own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SMALL, "vocab_size", small_world.VOCABULARY)
    config = MAKERS[name]()
    config.vocab_size = small_world.VOCABULARY
    torch.manual_seed(7)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained("start")
    small_world.tokenizer().save(tmp_path / "start")
    Path("small.yaml").write_text(RECIPE.format(init="start", processes=1))
    layers = read_layers(Path("small.yaml"), ["out=run"])
    shown = io.StringIO()
    run(build(layers), layers=layers, console=Console(file=shown, width=200))
    assert shown.getvalue().count("computed by transformers' own class") == 1
    made = tmp_path / "run/stages/r1_zero/model"
    theirs = theirs_of(made)
    assert theirs.config.model_type == name
    before = load_pretrained(tmp_path / "start").inner.state_dict()
    changed = [key for key, value in theirs.state_dict().items() if not torch.equal(value, before[key])]
    assert len(changed) > 10
    log = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert len(log) >= 2
