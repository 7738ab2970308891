"""The compiled kernels against the decoder in float32, against the PyTorch path, and against themselves in
other company."""

from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r1kit.config import R1kitError
from r1kit.engine.compiled import SOURCE, Session, library
from r1kit.engine.native import NativeEngine
from r1kit.model.compile_kernels import KernelsUnavailableError, compile_source
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.experts import Gate
from r1kit.types import Completion, Sampling

VOCABULARY, STOPS = 96, (2, 3)


def available() -> bool:
    try:
        library()
    except KernelsUnavailableError:
        return False
    return True


pytestmark = pytest.mark.skipif(not available(), reason="the kernels do not run on this machine")

DENSE = {
    "vocab_size": VOCABULARY,
    "width": 48,
    "layers": 2,
    "heads": 4,
    "ffn_width": 80,
    "max_positions": 700,
    "init_std": 0.15,
}
LATENT = {
    "nope_dim": 24,
    "rope_dim": 8,
    "v_dim": 20,
    "kv_rank": 40,
    "expert_width": 24,
    "active_experts": 2,
    "dense_layers": 1,
}
SHAPES = {
    "qwen3": {"family": "qwen3", "kv_heads": 2, "head_dim": 16, "tie_embeddings": True},
    "qwen2": {"family": "qwen2", "kv_heads": 1, "head_dim": 12},
    "llama": {
        "family": "llama", "kv_heads": 4, "head_dim": 64,
        "rope_scaling": {"kind": "llama3", "factor": 8.0, "original_positions": 64},
    },
    "latent": {**LATENT, "family": "deepseek_v3", "experts": 4, "tie_embeddings": True, "mtp_depth": 1},
    "latent compressed": {
        **LATENT, "family": "deepseek_v3", "experts": 12, "groups": 4, "groups_kept": 2, "q_rank": 28,
        "shared_experts": 2, "route_scale": 1.5,
        "rope_scaling": {"kind": "yarn", "factor": 4.0, "original_positions": 64, "mscale": 1.0,
        "mscale_all_dim": 1.0},
    },
    "phi3": {"family": "phi3", "kv_heads": 2, "head_dim": 12},
    "qwen3_moe": {
        "family": "qwen3_moe", "kv_heads": 2, "head_dim": 16, "experts": 6, "active_experts": 2,
        "expert_width": 24, "normalise_gates": False, "dense_layers": 1,
    },
    "deepseek_v2": {
        **LATENT, "family": "deepseek_v2", "experts": 12, "groups": 4, "groups_kept": 2, "shared_experts": 2,
        "route_scale": 1.5, "normalise_gates": False,
    },
}  # fmt: skip


@cache
def model_of(shape: str) -> LanguageModel:
    model = LanguageModel(ModelConfig(**{**DENSE, **SHAPES[shape]}), seed=5)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for (
            name,
            tensor,
        ) in (
            model.state_dict().items()
        ):  # norms that are one and biases that are zero would hide their absence
            if tensor.dim() == 1:
                tensor.add_(
                    torch.randn(tensor.shape, generator=generator),
                    alpha=0.02 if "correction" in name else 0.2,
                )
    return model.eval()


def prompts_of(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(4, VOCABULARY, size=length) for length in lengths]


def expected_logprobs(
    model: LanguageModel, prompt: np.ndarray, completion: Completion, temperature: float = 1.0
) -> np.ndarray:
    tokens_BT = torch.from_numpy(np.concatenate((prompt, completion.token_ids)))[None].long()
    with torch.no_grad():
        logits_TV = model.logits(model(tokens_BT).hidden_BTD)[0, len(prompt) - 1 : -1] / temperature
    return logits_TV.log_softmax(-1)[
        torch.arange(len(completion.token_ids)), tokens_BT[0, len(prompt) :]
    ].numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_log_probabilities_are_those_of_the_decoder(shape: str) -> None:
    """Prompts and completions end on, before and behind the borders of the cache's pages and of what is
    prefilled at once."""
    model, prompts = model_of(shape), prompts_of(1, 63, 64, 65, 300)
    sampling = Sampling(n=3, max_tokens=70, temperature=0.9, top_p=0.95)
    for prompt, group in zip(
        prompts, NativeEngine(model, [-1], kernels=True).generate(prompts, sampling), strict=True
    ):
        for completion in group:
            assert completion.finish == "length" and len(completion.token_ids) == 70
            np.testing.assert_allclose(
                completion.logprobs, expected_logprobs(model, prompt, completion, 0.9), atol=3e-4
            )


@pytest.mark.parametrize("shape", ["qwen3", "latent"])
def test_bfloat16_stays_within_two_hundredths(shape: str) -> None:
    config = ModelConfig(**{**DENSE, **SHAPES[shape], "width": 128, "init_std": 0.03})
    if (
        config.experts
    ):  # two of two: rounding turns a close choice between experts, and the jump is the model's own
        config = config.model_copy(update={"experts": 2})
    model, prompts = LanguageModel(config, seed=2).eval(), prompts_of(20, 64)
    gaps = []
    for prompt, group in zip(
        prompts,
        NativeEngine(model, [-1], precision="bfloat16", kernels=True).generate(
            prompts, Sampling(n=4, max_tokens=80)
        ),
        strict=True,
    ):
        gaps += [
            np.abs(completion.logprobs - expected_logprobs(model, prompt, completion)) for completion in group
        ]
    assert 0 < np.concatenate(gaps).max() < 0.02


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(4, max_tokens=24),
        Sampling(2, 0.7, 0.9, 24, top_k=20, min_p=0.02),
        Sampling(1, 0.0, max_tokens=24),
    ],
)
def test_the_same_seeds_draw_the_same_tokens_as_without_kernels(shape: str, sampling: Sampling) -> None:
    prompts, seeds = prompts_of(3, 17, 40), [7, 8, 9]
    ours = NativeEngine(model_of(shape), STOPS, kernels=True).generate(prompts, sampling, seeds)
    plain = NativeEngine(model_of(shape), STOPS, kernels=False).generate(prompts, sampling, seeds)
    for left, right in zip(chain(*ours), chain(*plain), strict=True):
        assert left.token_ids.tolist() == right.token_ids.tolist() and left.finish == right.finish
        np.testing.assert_allclose(left.logprobs, right.logprobs, atol=3e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", ["qwen3", "qwen2", "latent compressed"])
def test_a_completion_is_the_same_bits_whatever_is_sampled_with_it(shape: str, precision: str) -> None:
    model, prompts, seeds = model_of(shape), prompts_of(5, 80, 1, 33), [1, 2, 3, 4]

    def sampled(order: list[int], n: int, **settings: int) -> list[tuple[list[int], bytes, str]]:
        engine = NativeEngine(model, STOPS, precision=precision, kernels=True, **settings)
        groups = engine.generate(
            [prompts[i] for i in order], Sampling(n=n, max_tokens=40), [seeds[i] for i in order]
        )
        inverse = [groups[order.index(i)] for i in sorted(order)]
        return [
            (c.token_ids.tolist(), c.logprobs.tobytes(), c.finish) for group in inverse for c in group[:2]
        ]

    crowd = sampled([0, 1, 2, 3], 7)
    assert crowd == sampled([3, 1, 0, 2], 7, batch_rows=5) == sampled([2, 0, 3, 1], 2, batch_rows=1)
    assert crowd[2:4] == sampled([1], 3)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert crowd == sampled([0, 1, 2, 3], 7)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", ["qwen3", "latent compressed"])
def test_beginnings_that_prompts_have_in_common_are_computed_once_and_change_no_bit(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *ends = prompts_of(140, 200, 3, 9, 30, 1)
    prompts = [np.concatenate([first, end]) for end in ends]
    prompts += [np.concatenate([second, end]) for end in ends[:2]]
    prompts += [first[:129], first[:128], second[:64], ends[2]]
    taken: list[int] = []
    note = Session.prompt

    def noted(*arguments: Any) -> int:
        taken.append(arguments[5] if len(arguments) > 5 else 0)
        return note(*arguments)

    monkeypatch.setattr(Session, "prompt", noted)
    sampling, seeds = Sampling(n=2, max_tokens=20, experts=True), list(range(len(prompts)))
    engine = NativeEngine(model_of(shape), STOPS, kernels=True, batch_rows=6)
    together = engine.generate(prompts, sampling, seeds)
    assert taken == [0, 128, 128, 128, 0, 192, 128, 64, 0, 0]
    for prompt, seed, group in zip(prompts, seeds, together, strict=True):
        alone = NativeEngine(model_of(shape), STOPS, kernels=True).generate([prompt], sampling, [seed])[0]
        for ours, own in zip(group, alone, strict=True):
            assert ours.token_ids.tolist() == own.token_ids.tolist()
            assert ours.logprobs.tobytes() == own.logprobs.tobytes()
            assert ours.experts is not None and own.experts is not None
            assert np.array_equal(ours.experts, own.experts)


def test_a_stream_yields_what_generate_returns() -> None:
    (prompt,) = prompts_of(9)
    engine = NativeEngine(model_of("latent"), STOPS, kernels=True)
    for seed in range(5):
        alone = engine.generate([prompt], Sampling(max_tokens=30), [seed])[0][0]
        assert list(engine.stream(prompt, Sampling(max_tokens=30), seed)) == alone.token_ids.tolist()


def test_a_stream_under_way_is_not_disturbed_by_another_call() -> None:
    prompt, short = prompts_of(9, 2)
    engine = NativeEngine(model_of("qwen3"), [-1], kernels=True)
    expected = engine.generate([prompt], Sampling(max_tokens=90), [4])[0][0]
    stream = engine.stream(prompt, Sampling(max_tokens=90), 4)
    tokens = [next(stream)]
    engine.generate([short], Sampling(max_tokens=1))
    assert [*tokens, *stream] == expected.token_ids.tolist()


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.6},
        {"top_p": 0.7},
        {"top_k": 5},
        {"min_p": 0.3},
        {"temperature": 1.5, "top_p": 0.8, "top_k": 9, "min_p": 0.1},
    ],
    ids=str,
)
def test_drawn_tokens_follow_the_filtered_distribution(how: dict[str, float]) -> None:
    model = LanguageModel(
        ModelConfig(**{**DENSE, **SHAPES["qwen3"], "vocab_size": 24, "layers": 1, "init_std": 0.25}), seed=3
    ).eval()
    prompt, draws = np.array([5, 9]), 20_000
    sampling = Sampling(n=draws, max_tokens=1, **how)
    (group,) = NativeEngine(model, [-1], batch_rows=draws, kernels=True).generate([prompt], sampling, [11])
    counts = np.bincount([int(completion.token_ids[0]) for completion in group], minlength=24)
    with torch.no_grad():
        logits = (
            model.logits(model(torch.from_numpy(prompt)[None]).hidden_BTD)[0, -1].double().numpy()
            / sampling.temperature
        )
    whole = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    kept = sorted(range(24), key=lambda token: -whole[token])[: sampling.top_k or None]
    reached = np.cumsum(whole[kept]) / whole[kept].sum()
    kept = kept[: int((reached < sampling.top_p).sum()) + 1 if sampling.top_p < 1 else None]
    kept = [token for token in kept if whole[token] >= sampling.min_p * whole.max()]
    assert set(np.flatnonzero(counts)) <= set(kept) and (not how or "temperature" in how or len(kept) < 24)
    expected = draws * whole[kept] / whole[kept].sum()
    chi_square, freedom = float(((counts[kept] - expected) ** 2 / expected).sum()), len(kept) - 1
    # A correct sampler exceeds mean + 4.5 deviations about once in 3,000 draws; the seeds are fixed, so this
    # does not flicker.
    assert chi_square < freedom + 4.5 * np.sqrt(2 * freedom)
    for completion in group[:50]:
        assert completion.logprobs[0] == pytest.approx(np.log(whole[completion.token_ids[0]]), abs=1e-4)


@pytest.mark.parametrize("kernels", [True, False])
def test_the_experts_on_record_are_those_of_a_forward_pass(kernels: bool) -> None:
    model, prompts = model_of("latent compressed"), prompts_of(1, 20, 7)
    engine = NativeEngine(model, STOPS, kernels=kernels, batch_rows=4)
    groups = engine.generate(prompts, Sampling(n=3, max_tokens=12, experts=True))
    gates = [module for module in model.layers.modules() if isinstance(module, Gate)]
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            chosen: list[torch.Tensor] = []

            def keep(_gate, _inputs, outputs, chosen=chosen):
                chosen.append(outputs[1])

            hooks = [gate.register_forward_hook(keep) for gate in gates]
            with torch.no_grad():
                model(torch.from_numpy(np.concatenate((prompt, completion.token_ids[:-1])))[None].long())
            for hook in hooks:
                hook.remove()
            assert completion.experts is not None and completion.experts.dtype == np.uint8
            assert np.array_equal(np.sort(completion.experts), np.sort(torch.stack(chosen, dim=1).numpy()))


def test_experts_are_on_record_only_where_asked_and_where_there_are_any() -> None:
    (prompt,) = prompts_of(4)
    assert (
        NativeEngine(model_of("latent"), STOPS).generate([prompt], Sampling(max_tokens=3))[0][0].experts
        is None
    )
    dense = (
        NativeEngine(model_of("qwen3"), [-1])
        .generate([prompt], Sampling(max_tokens=3, experts=True))[0][0]
        .experts
    )
    assert dense is not None and dense.shape == (6, 0, 0)


@pytest.mark.parametrize("quietly", [False, True])
def test_changed_weights_are_noticed_without_load(quietly: bool) -> None:
    model = LanguageModel(ModelConfig(**{**DENSE, **SHAPES["qwen3"]}), seed=1).eval()
    engine, (prompt,) = NativeEngine(model, [-1], kernels=True), prompts_of(6)
    before = engine.generate([prompt], Sampling(max_tokens=5))[0][0]
    with torch.no_grad():
        for parameter in model.parameters():
            written = parameter.data if quietly else parameter
            written.mul_(1.3)
    after = engine.generate([prompt], Sampling(max_tokens=5))[0][0]
    np.testing.assert_allclose(after.logprobs, expected_logprobs(model, prompt, after), atol=3e-4)
    assert not np.allclose(before.logprobs, after.logprobs)


@pytest.mark.parametrize("kernels", [True, False])
def test_a_stop_string_ends_a_completion_at_the_token_that_completes_it(kernels: bool) -> None:
    def decode(ids: list[int]) -> str:
        return "".join(chr(97 + token % 26) for token in ids)

    model, prompts, seeds = model_of("qwen3"), prompts_of(3, 5), [1, 2]
    sampling = Sampling(n=12, max_tokens=40)
    free = NativeEngine(model, STOPS, kernels=kernels).generate(prompts, sampling, seeds)
    texts = [decode(c.token_ids.tolist()) for group in free for c in group]
    stop = (texts[0][10:12], texts[1][20:23])
    engine = NativeEngine(model, STOPS, kernels=kernels, decode=decode, batch_rows=7)
    cut = engine.generate(prompts, Sampling(n=12, max_tokens=40, stop=stop), seeds)
    ended = 0
    for before, after in zip(chain(*free), chain(*cut), strict=True):
        text = decode(before.token_ids.tolist())
        ends = [text.index(string) + len(string) for string in stop if string in text]
        length = min([*ends, len(text)])
        assert after.token_ids.tolist() == before.token_ids[:length].tolist()
        assert after.finish == ("stop" if ends else before.finish)
        np.testing.assert_allclose(after.logprobs, before.logprobs[:length], atol=3e-4)
        ended += bool(ends)
    assert ended >= 2
    first = cut[0][0]
    assert (
        list(engine.stream(prompts[0], Sampling(n=12, max_tokens=40, stop=stop), seeds[0]))
        == first.token_ids.tolist()
    )


def test_stop_strings_without_a_decoder_and_ids_beyond_the_vocabulary_are_refused() -> None:
    engine = NativeEngine(model_of("qwen3"), STOPS)
    with pytest.raises(R1kitError, match="decode=tokenizer"):
        engine.generate(prompts_of(2), Sampling(stop=("x",)))
    with pytest.raises(R1kitError, match=r"prompt 1 has a token id outside the model's vocabulary of 96"):
        engine.generate([np.array([4]), np.array([4, 96])], Sampling(max_tokens=2))


def test_diverged_weights_are_an_error() -> None:
    model = LanguageModel(ModelConfig(**{**DENSE, **SHAPES["qwen3"]}), seed=1)
    with torch.no_grad():
        model.layers[1].self_attn.o_proj.weight[0, 0] = float("nan")
    with pytest.raises(R1kitError, match="not finite"):
        NativeEngine(model, STOPS, kernels=True).generate(prompts_of(3), Sampling(max_tokens=2))


def test_what_the_kernels_cannot_do_is_said_or_left_to_pytorch(tmp_path: Path) -> None:
    odd = LanguageModel(ModelConfig(**{**DENSE, **SHAPES["qwen3"], "width": 47}), seed=1)
    with pytest.raises(KernelsUnavailableError, match="even widths"):
        NativeEngine(odd, STOPS, kernels=True).generate(prompts_of(3), Sampling(max_tokens=2))
    assert NativeEngine(odd, [-1]).generate(prompts_of(3), Sampling(max_tokens=2))[0][0].finish == "length"
    with pytest.raises(KernelsUnavailableError, match="failed"):
        compile_source(SOURCE, "false", tmp_path / "kernels.so")
    assert not list(tmp_path.iterdir())
