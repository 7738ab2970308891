"""Decoding in slots, on the CPU: the same tokens as the decoder that looks at every token, whatever slots,
windows and captured steps there are."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from small_world import full_logprobs, model

from r1kit.config import R1kitError
from r1kit.engine.random_draws import draw, draw_unchecked, rollout_keys, uniforms
from r1kit.engine.requests import Requests
from r1kit.engine.slot_decoder import WINDOW, SlotDecoder, uniforms_of
from r1kit.engine.torch_decoder import TorchDecoder
from r1kit.model.adapters import AdapterShape, adapt, adapters
from r1kit.model.attention import Mask, attend
from r1kit.model.decoder import LanguageModel
from r1kit.model.device_attention import attend_on_device
from r1kit.types import Completion, Row, Sampling

STOPS = np.array([5, 17, 40])


def prompts(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 320, int(rng.integers(1, 20))).astype(np.int32) for _ in range(count)]


def finished(decoder: Any, given: list[np.ndarray], sampling: Sampling, decode: Any = None) -> Any:
    requests = Requests(given, sampling, range(len(given)), (0, 0), decode)
    decoder.complete(requests, lambda: None)
    return requests.completions(0)


def assert_same(
    ours: list[list[Completion]], theirs: list[list[Completion]], tolerance: float = 1e-5
) -> None:
    for one, other in zip(chain(*ours), chain(*theirs), strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.finish == other.finish
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=tolerance)


def assert_near(found: list[list[Completion]], network: LanguageModel) -> None:
    """The log-probabilities are about those that float32 weights give the same tokens."""
    for prompt, group in zip(prompts(3), found, strict=True):
        for one in group:
            token_ids = np.concatenate((prompt, one.token_ids))
            row = Row(token_ids, np.arange(len(token_ids)) >= len(prompt), 1.0)
            exact = full_logprobs(network, row).detach().numpy()[len(prompt) - 1 :]
            assert np.abs(exact - one.logprobs).mean() < 0.03


@pytest.mark.parametrize("preset", ["nano", "student"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(n=3, max_tokens=WINDOW),
        Sampling(n=2, max_tokens=2 * WINDOW + 3, temperature=0.8, top_p=0.9, top_k=40),
        Sampling(n=1, max_tokens=1),
        Sampling(n=1, max_tokens=20, temperature=0.0),
    ],
)
def test_slots_draw_what_the_other_decoder_draws(preset: str, sampling: Sampling) -> None:
    network = model(preset=preset)
    theirs = finished(TorchDecoder(network, STOPS, "float32", 64), prompts(7), sampling)
    for rows in (8, 24):  # fewer slots than rollouts: they leave and enter
        assert_same(finished(SlotDecoder(network, STOPS, "float32", rows), prompts(7), sampling), theirs)


def test_one_decoder_serves_calls_of_all_sizes_and_new_weights() -> None:
    network = model()
    decoder = SlotDecoder(network, STOPS, "float32", 8)
    for count, longest in ((3, 40), (9, 300), (2, 5)):
        sampling = Sampling(n=2, max_tokens=longest)
        other = TorchDecoder(network, STOPS, "float32", 64)
        assert_same(finished(decoder, prompts(count), sampling), finished(other, prompts(count), sampling))
        with torch.no_grad():
            network.layers[0].mlp.down_proj.weight.mul_(1.5)


def test_a_copy_in_bfloat16_follows_the_weights_and_merges_adapters() -> None:
    network = model()
    decoder = SlotDecoder(network, STOPS, "bfloat16", 8)
    sampling = Sampling(n=2, max_tokens=20)
    assert_near(finished(decoder, prompts(3), sampling), network)
    with torch.no_grad():
        network.layers[0].mlp.down_proj.weight.mul_(3.0)
    before = finished(decoder, prompts(3), sampling)
    assert_near(before, network)
    adapted = model()
    adapt(adapted, AdapterShape(4, 2.0))
    for module in adapters(adapted).values():
        torch.nn.init.normal_(module.lora_B, std=0.2, generator=torch.Generator().manual_seed(1))
    merged = model()
    for name, module in adapters(adapted).items():
        with torch.no_grad():
            merged.get_submodule(name).weight.copy_(module.whole())
    ours = finished(SlotDecoder(adapted, STOPS, "bfloat16", 8), prompts(3), sampling)
    assert_same(ours, finished(SlotDecoder(merged, STOPS, "bfloat16", 8), prompts(3), sampling))
    assert [c.token_ids.tolist() for c in ours[0]] != [c.token_ids.tolist() for c in before[0]]


def test_stop_strings_end_rollouts_within_a_window() -> None:
    def decode(ids: Any) -> str:
        return "".join(f"<{i}>" for i in ids)

    network, sampling = model(), Sampling(n=2, max_tokens=40)
    free = finished(TorchDecoder(network, STOPS, "float32", 64), prompts(5), sampling)
    third = int(max((c for group in free for c in group), key=lambda c: len(c.token_ids)).token_ids[2])
    stopped = Sampling(n=2, max_tokens=40, stop=(f"<{third}>",))
    theirs = finished(TorchDecoder(network, STOPS, "float32", 64), prompts(5), stopped, decode)
    ours = finished(SlotDecoder(network, STOPS, "float32", 8), prompts(5), stopped, decode)
    assert_same(ours, theirs)
    assert [len(c.token_ids) for g in ours for c in g] != [len(c.token_ids) for g in free for c in g]


class Recorded:
    """A capture that runs a step a few times first, as a graph's warm-up does, and counts replays."""

    def __init__(self) -> None:
        self.captured, self.replayed = 0, 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        for _ in range(3):
            step()

        def replay() -> None:
            self.replayed += 1
            step()

        return replay


def test_trial_runs_before_a_capture_change_nothing_and_a_step_is_captured_once() -> None:
    network, sampling, capture = model(), Sampling(n=2, max_tokens=290), Recorded()
    decoder = SlotDecoder(network, np.array([-1]), "float32", 16, capture)
    theirs = finished(TorchDecoder(network, np.array([-1]), "float32", 64), prompts(4), sampling)
    assert_same(finished(decoder, prompts(4), sampling), theirs)
    assert capture.captured == 2  # up to 256 positions, and beyond
    replayed = capture.replayed
    assert_same(finished(decoder, prompts(4), sampling), theirs)
    assert capture.captured == 2 and capture.replayed == 2 * replayed


def test_a_call_that_was_interrupted_leaves_nothing_behind() -> None:
    network, sampling = model(), Sampling(n=2, max_tokens=100)
    decoder = SlotDecoder(network, np.array([-1]), "float32", 8)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoder.complete(Requests(prompts(4), sampling, range(4), (0, 0), None), interrupt)
    theirs = finished(TorchDecoder(network, np.array([-1]), "float32", 64), prompts(4, seed=1), sampling)
    assert_same(finished(decoder, prompts(4, seed=1), sampling), theirs)


def test_logits_that_are_not_finite_are_an_error_and_the_next_call_works() -> None:
    network, sampling = model(), Sampling(n=1, max_tokens=8)
    decoder = SlotDecoder(network, STOPS, "float32", 8)
    kept = network.layers[0].mlp.down_proj.weight.detach().clone()
    with torch.no_grad():
        network.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(R1kitError, match="diverged"):
        finished(decoder, prompts(2), sampling)
    with torch.no_grad():
        network.layers[0].mlp.down_proj.weight.copy_(kept)
    theirs = finished(TorchDecoder(network, STOPS, "float32", 64), prompts(2), sampling)
    assert_same(finished(decoder, prompts(2), sampling), theirs)


def test_random_numbers_on_the_device_are_those_of_the_rollouts_keys() -> None:
    keys_B = rollout_keys([0, 1, 2**63, 2**64 - 1, 12345], 40).reshape(-1)
    steps_B = np.arange(len(keys_B), dtype=np.int64) * 997
    ours = uniforms_of(torch.from_numpy(keys_B.view(np.int64)), torch.from_numpy(steps_B))
    assert ours.tolist() == uniforms(keys_B, steps_B).tolist()


def test_only_the_rows_that_count_must_be_finite() -> None:
    logits_BV = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    numbers_B = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    tokens_B, logprobs_B = draw(logits_BV, numbers_B, Sampling())
    logits_BV[1] = torch.nan
    counted = torch.tensor([True, False, True])
    some_B, found_B, finite = draw_unchecked(logits_BV, numbers_B, Sampling(), counted)
    assert bool(finite) and not bool(draw_unchecked(logits_BV, numbers_B, Sampling())[2])
    assert some_B[[0, 2]].tolist() == tokens_B[[0, 2]].tolist() and 0 <= int(some_B[1]) < 9
    assert found_B[[0, 2]].tolist() == logprobs_B[[0, 2]].tolist()


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize(("heads", "shared"), [(6, 6), (6, 2), (4, 1)])
def test_attention_of_a_gpu_is_that_of_the_cpu(tokens: int, heads: int, shared: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, length, width, 16, generator=generator, requires_grad=True)
        for length, width in ((tokens, heads), (32, shared), (32, shared))
    )
    visible = torch.arange(32) <= torch.tensor([[9], [20]])[..., None] + torch.arange(tokens)[:, None]
    mask = Mask.of(visible, torch.float32)
    ours = attend_on_device(q, k, v, mask.bias_BTX, 0.25)
    theirs = attend(q, k, v, mask, 0.25)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(theirs.shape, generator=generator)
    for one, other in zip(
        torch.autograd.grad(ours, (q, k, v), upstream),
        torch.autograd.grad(theirs, (q, k, v), upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_causal_attention_of_a_gpu_needs_no_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 12, heads, 8, generator=generator) for heads in (4, 2, 2))
    mask = Mask.causal(torch.arange(12), torch.float32)
    torch.testing.assert_close(attend_on_device(q, k, v, None, 0.3), attend(q, k, v, mask, 0.3))
