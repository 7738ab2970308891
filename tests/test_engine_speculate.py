"""Tokens tried ahead (``speculate``): every bit of a completion is what it is without, several tokens come
out of a step where the text repeats, and what is drawn follows the model's probabilities."""

import numpy as np
import pytest
import torch
from test_engine_kernels import DENSE, SHAPES, VOCABULARY, available, model_of

from r1kit.config import ConfigError, R1kitError
from r1kit.engine.live import Asked
from r1kit.engine.native import NativeEngine
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.runtime.local import LocalConfig
from r1kit.types import Sampling

pytestmark = pytest.mark.skipif(not available(), reason="the kernels do not run on this machine")


def repeating(*lengths: int) -> list[np.ndarray]:
    """Prompts that repeat a few tokens, so that something is tried from the first step on."""
    random = np.random.default_rng(7)
    return [np.resize(random.integers(4, VOCABULARY, size=5 + length % 7), length) for length in lengths]


def bits(engine: NativeEngine, prompts: list[np.ndarray], sampling: Sampling) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    groups = engine.generate(prompts, sampling, list(range(len(prompts))))
    for completion in (completion for group in groups for completion in group):
        experts = completion.experts
        noted = b"" if experts is None else experts.tobytes()
        found.append(
            (completion.token_ids.tobytes(), completion.logprobs.tobytes(), completion.finish, noted)
        )
    return found


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", ["qwen3", "qwen2", "latent", "latent compressed", "qwen3_moe"])
def test_no_bit_of_a_completion_changes(shape: str, precision: str) -> None:
    """Completions that end on, before and behind the borders of pages, greedy and drawn, alone and in
    company, with more tokens tried than fit."""
    prompts, experts = repeating(60, 9, 127), "latent" in shape or "moe" in shape
    for sampling in (
        Sampling(1, 0.0, max_tokens=70, experts=experts),
        Sampling(2, 0.4, 0.9, 66, experts=experts),
        Sampling(1, 1.0, max_tokens=5, top_k=3),
    ):
        for settings in ({"speculate": 3}, {"speculate": 11, "batch_rows": 1}, {"speculate": 1}):
            plain, ahead = (
                NativeEngine(model_of(shape), (2, 3), precision=precision, kernels=True, **more)
                for more in ({}, settings)
            )
            assert bits(plain, prompts, sampling) == bits(ahead, prompts, sampling)


def circling() -> LanguageModel:
    """A model without attention: its next token depends on the last one alone, so a greedy rollout soon goes
    round in a circle."""
    model = LanguageModel(ModelConfig(**{**DENSE, **SHAPES["qwen3"]}), seed=5).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".o_proj." in name:
                parameter.zero_()
    return model


def steps_of(speculate: int) -> tuple[list[int], list[int], int]:
    """A greedy rollout in a running batch: its tokens, how many came out of each step, and its state."""
    engine = NativeEngine(circling(), [-1], precision="bfloat16", kernels=True, speculate=speculate)
    batch = engine.open(2, 200, 1 << 24)
    (place,) = batch.join([Asked(repeating(40)[0], Sampling(1, 0.0, max_tokens=60), key=5)])
    tokens, counts, state = batch.drawn(place).token_ids.tolist(), list[int](), 0
    while state == 0:
        batch.step(1)
        drawn = batch.drawn(place)
        tokens += drawn.token_ids.tolist()
        counts.append(len(drawn.token_ids))
        state = drawn.state
    batch.leave([place])
    batch.close()
    return tokens, counts, state


def test_a_step_draws_several_tokens_where_the_text_repeats() -> None:
    plain, single, _ = steps_of(0)
    tokens, counts, state = steps_of(4)
    assert tokens == plain and len(tokens) == 60 and state == 2  # FULL: no token more than was asked for
    assert set(single) == {1}
    assert max(counts) == 5 and len(counts) < len(single) / 2


@pytest.mark.parametrize("speculate", [1, 4, 11])
def test_a_stream_and_stop_texts_are_the_same(speculate: int) -> None:
    def decode(ids: list[int]) -> str:
        return "".join(chr(97 + token % 26) for token in ids)

    def engine(**more: int) -> NativeEngine:
        return NativeEngine(model_of("qwen3"), [-1], kernels=True, decode=decode, **more)

    (prompt,), free = repeating(30), Sampling(1, 0.3, max_tokens=60)
    whole = engine().generate([prompt], free, [3])[0][0].token_ids.tolist()
    assert list(engine(speculate=speculate).stream(prompt, free, 3)) == whole
    for end in (20, 33, 41):
        how = Sampling(1, 0.3, max_tokens=60, stop=(decode(whole[end - 3 : end]),))
        cut = engine().generate([prompt], how, [3])[0][0]
        ahead = engine(speculate=speculate)
        assert 3 <= len(cut.token_ids) <= end and cut.finish == "stop"
        assert ahead.generate([prompt], how, [3])[0][0].token_ids.tolist() == cut.token_ids.tolist()
        assert list(ahead.stream(prompt, how, 3)) == cut.token_ids.tolist()


def test_what_is_drawn_follows_the_models_probabilities() -> None:
    """Chi-square of the first three tokens against the product of probabilities of forward passes. Whatever
    the first token is, it stood behind a 9 before, so what followed it there is tried as the second."""
    config = ModelConfig(**{**DENSE, **SHAPES["qwen3"], "vocab_size": 24, "layers": 1, "init_std": 0.2})
    model, draws = LanguageModel(config, seed=3).eval(), 6_000
    prompt = np.array([token for first in range(24) for token in (9, first, (first + 1) % 24)] + [9])

    def kept(*before: int) -> dict[int, float]:
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([[*prompt, *before]])).hidden_BTD)[0, -1].double()
        top = logits.topk(3)
        return dict(zip(top.indices.tolist(), top.values.softmax(0).tolist(), strict=True))

    expected = {
        (a, b, c): draws * p * q * r
        for a, p in kept().items()
        for b, q in kept(a).items()
        for c, r in kept(a, b).items()
    }
    engine = NativeEngine(model, [-1], batch_rows=2, kernels=True, speculate=3)
    (group,) = engine.generate([prompt], Sampling(n=draws, max_tokens=3, top_k=3), [11])
    counts = dict.fromkeys(expected, 0)
    for completion in group:
        counts[tuple(completion.token_ids.tolist())] += 1
    chi_square = sum((counts[cell] - mean) ** 2 / mean for cell, mean in expected.items())
    freedom = len(expected) - 1
    assert freedom == 26 and min(expected.values()) > 5
    # A correct sampler exceeds this about once in 3,000 draws; the seeds are fixed.
    assert chi_square < freedom + 4.5 * np.sqrt(2 * freedom)


def test_numbers_of_tokens_that_cannot_be_tried_are_refused() -> None:
    for wrong in (-1, 12):
        with pytest.raises(R1kitError, match="speculate"):
            NativeEngine(model_of("qwen3"), [-1], speculate=wrong)
        with pytest.raises(ConfigError, match="speculate"):
            LocalConfig.parse({"speculate": wrong}, "runtime")
    assert LocalConfig.parse({"speculate": 11}, "runtime").speculate == 11
    assert "speculate" in LocalConfig().indifferent()
