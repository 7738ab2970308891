"""The native engine on real models: what it samples and records, against a plain forward pass and against
transformers."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from r1kit.engine.native import NativeEngine
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.types import Sampling

VOCABULARY, STOPS = 96, (2, 3)


@cache
def model_of(preset: str) -> LanguageModel:
    # A wide initialisation: with nearly uniform predictions a wrong cache row or position would hardly show.
    return LanguageModel(ModelConfig.preset(preset, vocab_size=VOCABULARY, init_std=0.15), seed=5)


def ragged_prompts(count: int = 7) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(4, VOCABULARY, size=length) for length in random.integers(1, 20, size=count)]


def logprobs_of(
    logits_TV: torch.Tensor, prompt: np.ndarray, completion: np.ndarray, temperature: float = 1.0
) -> np.ndarray:
    picked = (logits_TV[len(prompt) - 1 : -1].float() / temperature).log_softmax(-1)
    return picked[torch.arange(len(completion)), torch.from_numpy(completion).long()].numpy()


@pytest.mark.parametrize("preset", ["nano", "student"])
def test_recorded_log_probabilities_equal_a_forward_pass_without_cache_and_that_of_transformers(
    preset: str, tmp_path: Path
) -> None:
    model = model_of(preset)
    save_pretrained(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    prompts = ragged_prompts()
    groups = NativeEngine(model, STOPS, batch_rows=8).generate(
        prompts, Sampling(n=3, max_tokens=24, temperature=0.8, top_p=0.95)
    )
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            tokens_BT = torch.from_numpy(np.concatenate((prompt, completion.token_ids)))[None].long()
            with torch.no_grad():
                ours_TV = model.eval().logits(model(tokens_BT).hidden_BTD)[0]
                theirs_TV = theirs(tokens_BT).logits[0]
            for logits_TV in (ours_TV, theirs_TV):
                expected = logprobs_of(logits_TV, prompt, completion.token_ids, 0.8)
                np.testing.assert_allclose(completion.logprobs, expected, atol=2e-4)


@pytest.mark.parametrize("preset", ["nano", "student"])
def test_greedy_completions_equal_those_of_transformers(preset: str, tmp_path: Path) -> None:
    model = model_of(preset)
    save_pretrained(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    prompts = ragged_prompts(5)
    groups = NativeEngine(model, STOPS).generate(prompts, Sampling(max_tokens=20, temperature=0.0))
    for prompt, (completion,) in zip(prompts, groups, strict=True):
        tokens = theirs.generate(
            torch.from_numpy(prompt)[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=list(STOPS),
            pad_token_id=0,
        )[0, len(prompt) :]
        assert completion.token_ids.tolist() == tokens.tolist()


@pytest.mark.parametrize("preset", ["nano", "student"])
def test_the_same_seed_samples_the_same_tokens_alone_and_in_a_crowd(preset: str) -> None:
    model, prompts = model_of(preset), ragged_prompts()
    sampling, seeds = Sampling(n=4, max_tokens=16), list(range(40, 47))
    crowd = NativeEngine(model, STOPS).generate(prompts, sampling, seeds)
    reordered = NativeEngine(model, STOPS, batch_rows=5).generate(prompts[::-1], sampling, seeds[::-1])[::-1]
    for place, prompt in enumerate(prompts):
        (alone,) = NativeEngine(model, STOPS).generate([prompt], sampling, [seeds[place]])
        streamed = list(NativeEngine(model, STOPS).stream(prompt, sampling, seeds[place]))
        assert streamed == alone[0].token_ids.tolist()
        for a, b, c in zip(crowd[place], reordered[place], alone, strict=True):
            assert a.token_ids.tolist() == b.token_ids.tolist() == c.token_ids.tolist()


def test_bfloat16_sampling_stays_close_to_float32() -> None:
    model, prompts = model_of("nano"), ragged_prompts()
    groups = NativeEngine(model, STOPS, precision="bfloat16").generate(prompts, Sampling(n=4, max_tokens=16))
    gaps = []
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            with torch.no_grad():
                tokens_BT = torch.from_numpy(np.concatenate((prompt, completion.token_ids)))[None].long()
                expected = logprobs_of(
                    model.eval().logits(model(tokens_BT).hidden_BTD)[0], prompt, completion.token_ids
                )
            gaps.append(np.abs(completion.logprobs - expected))
    assert 0 < np.concatenate(gaps).mean() < 0.05


def test_a_model_that_has_sampled_still_trains() -> None:
    model = LanguageModel(ModelConfig.preset("nano", vocab_size=VOCABULARY), seed=1).train()
    NativeEngine(model, STOPS).generate(ragged_prompts(2), Sampling(max_tokens=4))
    output = model(torch.arange(4, 12)[None])
    model.logits(output.hidden_BTD).logsumexp(-1).sum().backward()
    assert model.training and all(
        layer.self_attn.o_proj.weight.grad.abs().sum() > 0 for layer in model.layers
    )
