"""Rollouts that join and leave a running batch: each is what the engine samples of it alone."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from test_engine_kernels import VOCABULARY, available, model_of, prompts_of

from r1kit.engine.live import Asked, CompiledBatch, LiveBatch, TorchBatch
from r1kit.engine.native import NativeEngine
from r1kit.engine.random_draws import rollout_key, rollout_keys
from r1kit.engine.requests import LIVE
from r1kit.types import Sampling

KERNELS = [
    pytest.param(True, marks=pytest.mark.skipif(not available(), reason="the kernels do not run here")),
    False,
]
STOPS = (2, 3)


def asked(prompt: np.ndarray, seed: int, sampling: Sampling, tops: int = 0) -> Asked:
    return Asked(prompt, sampling, int(rollout_keys([seed], 1)[0, 0]), tops)


def drain(batch: LiveBatch, wanted: Sequence[Asked], joins_at: Sequence[int]) -> list[tuple[list, list]]:
    """Sample everything; rollout i joins after ``joins_at[i]`` steps or later, when there is a free place,
    together with all others for which that holds."""
    found: list[tuple[list, list]] = [([], []) for _ in wanted]
    waiting, places, step = sorted(range(len(wanted)), key=lambda i: joins_at[i]), {}, 0
    while waiting or places:
        ready = [wanted[i] for i in waiting if joins_at[i] <= step]
        joined = [waiting.pop(0) for _ in range(batch.fitting(ready))]
        places.update(zip(batch.join([wanted[i] for i in joined]), joined, strict=True))
        for place, i in list(places.items()):
            drawn = batch.drawn(place)
            found[i][0].extend(drawn.token_ids.tolist())
            found[i][1].extend(drawn.logprobs.tolist())
            if drawn.state != LIVE:
                batch.leave([place])
                del places[place]
        batch.step(1 + step % 3)
        step += 1
    return found


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("shape", ["qwen3", "latent"])
def test_a_rollout_is_the_same_alone_and_in_company(shape: str, kernels: bool) -> None:
    engine = NativeEngine(model_of(shape), STOPS, kernels=kernels)
    random = np.random.default_rng(0)
    ways = [
        Sampling(temperature=1.0, max_tokens=9),
        Sampling(temperature=0.0, max_tokens=40),
        Sampling(temperature=0.7, top_p=0.8, max_tokens=23),
        Sampling(temperature=1.3, top_k=5, min_p=0.05, max_tokens=31),
    ]
    prompts = prompts_of(5, 66, 130, 1)
    wanted = [asked(prompts[i % 4], 100 + i, ways[int(random.integers(4))]) for i in range(12)]
    batch = engine.open(rows=4, positions=256, memory=1 << 26)
    assert isinstance(batch, CompiledBatch if kernels else TorchBatch)
    found = drain(batch, wanted, [int(n) for n in random.integers(0, 20, 12)])
    batch.close()
    for i, (ids, logprobs) in enumerate(found):
        alone = engine.generate([wanted[i].prompt], wanted[i].sampling, [100 + i])[0][0]
        assert ids == alone.token_ids.tolist()
        if kernels:
            assert logprobs == alone.logprobs.tolist()


@pytest.mark.skipif(not available(), reason="the kernels do not run here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("together", [False, True])
def test_a_known_beginning_changes_no_bit(precision: str, together: bool) -> None:
    engine = NativeEngine(model_of("latent compressed"), STOPS, precision=precision, kernels=True)
    base = prompts_of(300)[0]
    random = np.random.default_rng(1)
    prompts = [base, base, base[:200], np.append(base[:140], random.integers(4, VOCABULARY, 60)), base[:128]]
    sampling = Sampling(max_tokens=30)
    batch = engine.open(rows=5 if together else 2, positions=400, memory=1 << 26)
    joins_at = [0] * 5 if together else [0, 3, 6, 9, 12]
    found = drain(batch, [asked(prompt, 7, sampling) for prompt in prompts], joins_at)
    # Whole pages of 64, and at least the last token is computed unless the whole prompt is known.
    assert batch.reused == 300 + 192 + 128 + 64
    for prompt, (ids, logprobs) in zip(prompts, found, strict=True):
        alone = engine.generate([prompt], sampling, [7])[0][0]
        assert ids == alone.token_ids.tolist() and logprobs == alone.logprobs.tolist()


@pytest.mark.skipif(not available(), reason="the kernels do not run here")
def test_places_and_memory_are_used_again() -> None:
    engine = NativeEngine(model_of("qwen3"), [-1], kernels=True)
    batch = engine.open(rows=2, positions=256, memory=0)  # memory for one longest sequence
    long = Sampling(max_tokens=100)
    one, other = (asked(prompt, 1, long) for prompt in prompts_of(140, 40))
    for _ in range(300):
        assert batch.fitting([one, one]) == 1  # the pages of two would be too many, two rows are free
        (place,) = batch.join([one])
        assert batch.fitting([one]) == 0
        batch.step(2)
        assert len(batch.drawn(place).token_ids) == 3
        batch.leave([place])
    assert batch.fitting([other]) == 1


@pytest.mark.skipif(not available(), reason="the kernels do not run here")
def test_prompts_that_are_computed_together_are_those_computed_alone() -> None:
    """Lengths at which a pass of 256 positions ends within a prompt, at its end and after several."""
    engine = NativeEngine(model_of("latent compressed"), STOPS, kernels=True)
    lengths = (3, 250, 3, 256, 1, 255, 520, 7, 64, 64)
    wanted = [asked(prompt, 40 + i, Sampling(max_tokens=6)) for i, prompt in enumerate(prompts_of(*lengths))]
    batch = engine.open(rows=len(wanted), positions=600, memory=1 << 28)
    assert batch.fitting(wanted) == len(wanted)
    for i, (ids, logprobs) in enumerate(drain(batch, wanted, [0] * len(wanted))):
        alone = engine.generate([wanted[i].prompt], wanted[i].sampling, [40 + i])[0][0]
        assert ids == alone.token_ids.tolist() and logprobs == alone.logprobs.tolist()


def test_a_key_is_that_of_the_table() -> None:
    for seed in (0, 1, -1, 2**63, 2**64 - 1, 12345678901234567890, -(2**63)):
        assert [rollout_key(seed, i) for i in range(5)] == rollout_keys([seed], 5)[0].tolist()


@pytest.mark.skipif(not available(), reason="the kernels do not run here")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_likeliest_tokens_are_those_of_all_logits(temperature: float) -> None:
    model, prompt = model_of("qwen3"), prompts_of(12)[0]
    engine = NativeEngine(model, [-1], kernels=True)
    batch = engine.open(rows=1, positions=64, memory=0)
    (place,) = batch.join(
        [asked(prompt, 3, Sampling(temperature=temperature, top_k=3, max_tokens=9), tops=20)]
    )
    batch.step(8)
    drawn = batch.drawn(place)
    ids_BT = torch.from_numpy(np.concatenate((prompt, drawn.token_ids)))[None].long()
    with torch.no_grad():
        logits_TV = model.logits(model(ids_BT).hidden_BTD)[0, len(prompt) - 1 : -1]
    expected_TV = (logits_TV / (temperature or 1.0)).log_softmax(-1)
    values, ids = expected_TV.topk(20, dim=-1)
    np.testing.assert_allclose(drawn.top_logprobs, values.numpy(), atol=3e-4)
    gathered = expected_TV.gather(1, torch.from_numpy(drawn.top_ids).long())
    np.testing.assert_allclose(drawn.top_logprobs, gathered.numpy(), atol=3e-4)
    assert (drawn.top_ids[:, 0] == ids[:, 0].numpy()).all()
    assert (drawn.token_ids == drawn.top_ids[:, 0]).all() == (temperature == 0)
