"""The head in parts: log-probabilities, entropies and gradients of the whole, in the memory of a part."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from r1kit.train import lm_head
from r1kit.train.lm_head import logits_of, part_rows, token_logprobs


def drawn(
    positions: int, width: int, vocabulary: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(positions, width, generator=generator, dtype=dtype).requires_grad_()
    weight_VD = torch.randn(vocabulary, width, generator=generator, dtype=dtype).requires_grad_()
    targets_N = torch.randint(0, vocabulary, (positions,), generator=generator)
    return hidden_ND, weight_VD, targets_N, torch.rand(positions, generator=generator) + 0.5


def plain(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperatures_N: Tensor | None
) -> tuple[Tensor, Tensor]:
    """By autograd through all logits."""
    logits_NV = hidden_ND @ weight_VD.t()
    if temperatures_N is not None:
        logits_NV = logits_NV / temperatures_N[:, None]
    logprobs_NV = logits_NV.log_softmax(-1)
    return logprobs_NV.gather(1, targets_N[:, None])[:, 0], -(logprobs_NV.exp() * logprobs_NV).sum(-1)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("warm", [True, False])
def test_values_and_gradients_are_those_of_all_logits(
    parts: int, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_head, "ROW_STEP", 1)
    monkeypatch.setattr(lm_head, "PART_LOGITS", 37 * -(-10 // parts))
    assert -(-10 // part_rows(37)) == parts
    hidden_ND, weight_VD, targets_N, temperatures_N = drawn(10, 6, 37)
    given = temperatures_N if warm else None
    slopes = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for used in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
        found, expected = (
            one(hidden_ND, weight_VD, targets_N, given, *rest)
            for one, rest in ((token_logprobs, (torch.float64, True)), (plain, ()))
        )
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
        our_grads, their_grads = (
            torch.autograd.grad(
                sum(u * (s * t).sum() for u, s, t in zip(used, slopes, pair, strict=True) if u),
                (hidden_ND, weight_VD),
            )
            for pair in (found, expected)
        )
        for one, other in zip(our_grads, their_grads, strict=True):
            torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11)


def test_the_gradient_is_that_of_finite_differences() -> None:
    hidden_ND, weight_VD, targets_N, temperatures_N = drawn(3, 4, 5)
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs(h, w, targets_N, temperatures_N.double(), torch.float64, True),
        (hidden_ND, weight_VD),
    )


def test_in_float32_parts_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_ND, weight_VD, targets_N, _ = drawn(1024, 16, 4000, torch.float32)
    whole = token_logprobs(hidden_ND, weight_VD, targets_N, None, torch.float32)[0]
    expected = torch.autograd.grad(whole.sum(), (hidden_ND, weight_VD))
    monkeypatch.setattr(lm_head, "PART_LOGITS", 4000 * 256)
    assert part_rows(4000) == 256
    parts = token_logprobs(hidden_ND, weight_VD, targets_N, None, torch.float32)[0]
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(parts.sum(), (hidden_ND, weight_VD)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_without_being_asked_no_entropy_is_computed() -> None:
    hidden_ND, weight_VD, targets_N, _ = drawn(4, 3, 9)
    assert token_logprobs(hidden_ND, weight_VD, targets_N, None, torch.float64)[1].tolist() == [0.0] * 4
    assert (
        float(token_logprobs(hidden_ND, weight_VD, targets_N, None, torch.float64, True)[1].detach().min())
        > 0
    )


def test_a_bfloat16_product_keeps_a_float32_softmax() -> None:
    hidden_ND, weight_VD, targets_N, _ = drawn(64, 32, 500, torch.float32)
    exact, rough = (
        token_logprobs(hidden_ND, weight_VD, targets_N, None, dtype)[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.float32
    reference = (
        (hidden_ND.bfloat16() @ weight_VD.bfloat16().t())
        .float()
        .log_softmax(-1)
        .gather(1, targets_N[:, None])[:, 0]
    )
    torch.testing.assert_close(rough, reference, atol=1e-5, rtol=1e-5)
    assert 1e-3 < float((exact - rough).detach().abs().max()) < 0.5


MEASURE = """
import re, torch
from pathlib import Path
from r1kit.train import lm_head
lm_head.ROW_STEP, lm_head.PART_LOGITS = 64, 64 * 150_000
torch.set_num_threads(1)
weight_VD = torch.randn(150_000, 8, requires_grad=True)

def peak_mb(positions, parts):
    hidden_ND = torch.randn(positions, 8, requires_grad=True)
    targets_N = torch.randint(0, 150_000, (positions,))
    if parts:
        found_N = lm_head.token_logprobs(hidden_ND, weight_VD, targets_N, None, torch.float32)[0]
    else:
        found_N = -torch.nn.functional.cross_entropy(hidden_ND @ weight_VD.t(), targets_N, reduction="none")
    found_N.sum().backward()
    # Of this program alone: ru_maxrss also has what the process that started it held.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

print(peak_mb(128, True), peak_mb(320, True), peak_mb(320, False))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_positions_times_vocabulary() -> None:
    """The largest resident memory of a process that takes gradients through a vocabulary of 150,000, in parts
    and then at once."""
    done = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True)
    few, many, whole = map(float, done.stdout.split())
    logits_mb = 320 * 150_000 * 4 / 2**20  # 183, of which the first measurement had 73
    assert many - few < 0.15 * logits_mb, (few, many)
    assert whole - many > 0.8 * logits_mb, (many, whole)


@pytest.mark.parametrize("shape", [(1, 2, 1), (5, 6, 63), (6, 34, 64), (7, 30, 65), (13, 96, 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_logits_are_sums_of_exact_products(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, width, vocabulary = shape
    hidden_ND, weight_VD, _, _ = drawn(rows, width, vocabulary, torch.float32)
    hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach().to(dtype)
    exact_NV = hidden_ND.bfloat16().double() @ weight_VD.bfloat16().double().t()
    found_NV = logits_of(hidden_ND, weight_VD, None, torch.bfloat16, mixed=True)
    assert found_NV.dtype == torch.float32
    torch.testing.assert_close(found_NV.double(), exact_NV, atol=1e-5, rtol=1e-5)
    one_NV = logits_of(hidden_ND[:1], weight_VD, None, torch.bfloat16, mixed=True)
    assert torch.equal(one_NV, found_NV[:1])


def test_the_mixed_head_is_within_its_stated_error_of_the_float32_head() -> None:
    """SmolLM2's width and logits of its size (standard deviation 7): log-probabilities within 0.1, on average
    within 0.02; gradients within 2 % of the largest entry and 1 % in norm."""
    hidden_ND, weight_VD, targets_N, _ = drawn(256, 576, 3000, torch.float32)
    with torch.no_grad():
        weight_VD *= 7 / 24
    exact, rounded, rough = (
        token_logprobs(hidden_ND, weight_VD, targets_N, None, dtype, mixed=mixed)[0]
        for dtype, mixed in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True))
    )
    gaps = (exact - rough).detach().abs()
    assert 1e-4 < float(gaps.max()) < 0.1 and float(gaps.mean()) < 0.02
    assert float((exact - rounded).detach().abs().mean()) > 1.3 * float(gaps.mean())
    for ours, theirs in zip(
        torch.autograd.grad(rough.sum(), (hidden_ND, weight_VD)),
        torch.autograd.grad(exact.sum(), (hidden_ND, weight_VD)),
        strict=True,
    ):
        assert float((ours - theirs).abs().max()) < 0.02 * float(theirs.abs().max())
        assert float((ours - theirs).norm()) < 0.01 * float(theirs.norm())


def test_frozen_weights_get_no_gradient_and_cost_none() -> None:
    hidden_ND, weight_VD, targets_N, _ = drawn(8, 6, 40)
    expected = torch.autograd.grad(
        token_logprobs(hidden_ND, weight_VD, targets_N, None, torch.float64)[0].sum(), hidden_ND
    )[0]
    weight_VD.requires_grad_(False)
    found = token_logprobs(hidden_ND, weight_VD, targets_N, None, torch.float64)[0].sum()
    found.backward()
    torch.testing.assert_close(hidden_ND.grad, expected)
    assert weight_VD.grad is None
