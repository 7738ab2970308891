"""The learner's kernels against the same operations in PyTorch, float64 where the kernel computes in
float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from r1kit.config import R1kitError
from r1kit.model import fused, packed_attention

needs_kernels = pytest.mark.skipif(
    not fused.usable(torch.zeros(1)), reason="the kernels do not run on this machine"
)
pytestmark = needs_kernels
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 1.5e-2}


def _drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def _exact(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def _agree(found: Tensor | None, exact: Tensor | None, dtype: torch.dtype) -> None:
    assert found is not None and exact is not None
    assert found.shape == exact.shape
    assert (found.double() - exact).abs().max() <= ROUNDING[dtype] * (1 + exact.abs().max())


def _slopes_agree(
    found: Tensor, exact: Tensor, inputs: list[Tensor], exact_inputs: list[Tensor], dtype: torch.dtype
) -> None:
    _agree(found, exact, dtype)
    slope = _drawn(*found.shape, seed=9).detach().to(found.dtype)
    for one, other in zip(
        torch.autograd.grad(found, inputs, slope),
        torch.autograd.grad(exact, exact_inputs, slope.double()),
        strict=True,
    ):
        _agree(one, other, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu_and_its_slopes(dtype: torch.dtype) -> None:
    gate, up = _drawn(3, 7, 37, dtype=dtype), _drawn(3, 7, 37, dtype=dtype, seed=1)
    exact = _exact(gate, up)
    _slopes_agree(fused.swiglu(gate, up), F.silu(exact[0]) * exact[1], [gate, up], exact, dtype)


def test_swiglu_of_large_and_broken_numbers() -> None:
    gate = torch.tensor([-1e30, -200.0, 0.0, 200.0, 1e30, float("nan")])
    torch.testing.assert_close(fused.swiglu(gate, torch.ones(6)), F.silu(gate), equal_nan=True)


@pytest.mark.parametrize(
    ("read", "written"),
    [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)],
)
@pytest.mark.parametrize("width", [24, 256])
def test_norm_and_its_slopes(read: torch.dtype, written: torch.dtype, width: int) -> None:
    x, weight = _drawn(5, 60, width, dtype=read), _drawn(width, seed=1)
    exact = _exact(x, weight)
    _slopes_agree(
        fused.norm(x, weight, 1e-5, written),
        F.rms_norm(exact[0], (width,), exact[1], 1e-5),
        [x, weight],
        exact,
        written,
    )


@pytest.mark.parametrize("written", [torch.float32, torch.bfloat16])
def test_norm_of_a_sum_and_the_slopes_that_pass_it_by(written: torch.dtype) -> None:
    x, added, weight = _drawn(5, 60, 40), _drawn(5, 60, 40, dtype=written, seed=2), _drawn(40, seed=1)
    exact = _exact(x, added, weight)
    total, normed = fused.add_norm(x, added, weight, 1e-5)
    exact_total = exact[0] + exact[1]
    exact_normed = F.rms_norm(exact_total, (40,), exact[2], 1e-5)
    _agree(total, exact_total, torch.float32)
    _slopes_agree(total.to(written) * normed, exact_total * exact_normed, [x, added, weight], exact, written)
    only_total, _ = fused.add_norm(x, added, weight, 1e-5)
    assert torch.equal(torch.autograd.grad(only_total.sum(), added)[0], torch.ones_like(added))


@pytest.mark.parametrize("neighbours", [True, False])
@pytest.mark.parametrize("rotated", [16, 48, 64])
def test_rotation_turns_back(neighbours: bool, rotated: int) -> None:
    x = _drawn(2, 5, 3, rotated + 8)
    angles = torch.rand(2, 5, 1, rotated // 2, generator=torch.Generator().manual_seed(0)) * 6
    cos, sin = angles.cos(), angles.sin()
    exact = _exact(x)[0]
    part, exact_part = x[..., 8:], exact[..., 8:]
    first, second = (
        (exact_part[..., 0::2], exact_part[..., 1::2]) if neighbours else exact_part.chunk(2, dim=-1)
    )
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    _slopes_agree(fused.rotate(part, cos, sin, neighbours), turned, [x], [exact], torch.float32)


@pytest.mark.parametrize("temperature", [None, 0.7])
def test_logits_to_logprobs_entropy_and_slopes(temperature: float | None) -> None:
    logits, targets = _drawn(33, 101) * 5, torch.arange(33)
    temperatures = None if temperature is None else torch.full((33,), temperature)
    exact = _exact(logits)[0]
    logs = (exact / (temperature or 1.0)).log_softmax(-1)
    logprobs, entropy = logs.gather(1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1)
    of_logprob, of_entropy = _drawn(33, seed=3).detach(), _drawn(33, seed=4).detach()
    (slopes,) = torch.autograd.grad((logprobs * of_logprob + entropy * of_entropy).sum(), exact)
    given = (logits / (temperature or 1.0)).detach().contiguous()
    normaliser, found, found_entropy = fused.normalise(given, targets, True)
    _agree(found, logprobs, torch.float32)
    _agree(found_entropy, entropy, torch.float32)
    assert found_entropy is not None
    fused.logits_to_slopes(given, targets, normaliser, found_entropy, of_logprob, of_entropy, temperatures)
    _agree(given, slopes, torch.float32)


def test_a_logit_that_is_no_number_is_not_hidden() -> None:
    logits = torch.zeros(2, 40)
    logits[1, 17] = float("nan")
    normaliser, logprobs, _ = fused.normalise(logits, torch.zeros(2, dtype=torch.int64), False)
    assert normaliser.isnan().tolist() == [False, True] == logprobs.isnan().tolist()


SEGMENTS = torch.tensor([[1] * 70 + [2] * 50 + [3] * 40 + [0] * 9, [1] * 20 + [2] * 149])
BEGINNINGS = torch.tensor([[0] * 70 + [1] * 50 + [1] * 40 + [0] * 9, [0] * 20 + [1] * 149])
# Segment 2 and 4 continue 1, 3 continues 2, 5 continues 4; in the second line nothing continues anything.
NESTED = torch.tensor([[1] * 41 + [2] * 30 + [3] * 29 + [4] * 20 + [5] * 40 + [0] * 9, [1] * 90 + [2] * 79])
CONTINUED = torch.tensor([[0] * 41 + [1] * 30 + [2] * 29 + [1] * 20 + [4] * 40 + [0] * 9, [0] * 169])


def _seen(segments_BT: Tensor, beginnings_BT: Tensor) -> Tensor:
    """The definition, pair by pair."""
    B, T = segments_BT.shape
    seen = torch.zeros(B, T, T, dtype=torch.bool)
    for b in range(B):
        for t in range(T):
            for s in range(t + 1):
                number, after = int(segments_BT[b, t]), int(beginnings_BT[b, t])
                chain = {number}
                while after:
                    chain.add(after)
                    after = int(beginnings_BT[b][segments_BT[b] == after][0])
                seen[b, t, s] = int(segments_BT[b, s]) in chain
    return seen


@pytest.mark.parametrize("case", [(SEGMENTS, None), (SEGMENTS, BEGINNINGS), (NESTED, CONTINUED)])
def test_visible_ranges_follow_their_definition(case: tuple[Tensor, Tensor | None]) -> None:
    segments, beginnings = case
    steps = torch.arange(segments.shape[1])
    own, *pairs = packed_attention.visible_ranges(segments, beginnings)[:, :, :, None].unbind(1)
    within = (steps >= own) & (steps <= steps[:, None])
    for start, end in zip(pairs[::2], pairs[1::2], strict=True):
        within |= (steps >= start) & (steps < end)
    assert torch.equal(
        within, _seen(segments, torch.zeros_like(segments) if beginnings is None else beginnings)
    )


def test_too_many_beginnings_are_refused() -> None:
    line = torch.arange(1, 8)[None]
    with pytest.raises(R1kitError, match="continues more than 4 others"):
        packed_attention.visible_ranges(line, line - 1)


@pytest.mark.parametrize(("heads", "kv_heads", "key", "value"), [(4, 2, 32, 32), (3, 3, 48, 16)])
@pytest.mark.parametrize("case", ["alone", "shared", "nested"])
def test_attention_within_segments_and_its_slopes(
    heads: int, kv_heads: int, key: int, value: int, case: str
) -> None:
    segments, beginnings = {
        "alone": (SEGMENTS, torch.zeros_like(SEGMENTS)),
        "shared": (SEGMENTS, BEGINNINGS),
        "nested": (NESTED, CONTINUED),
    }[case]
    B, T = segments.shape
    q = _drawn(B, T, heads, key, dtype=torch.bfloat16)
    k = _drawn(B, T, kv_heads, key, dtype=torch.bfloat16, seed=1)
    v = _drawn(B, T, kv_heads, value + 8, dtype=torch.bfloat16, seed=2)
    exact = _exact(q, k, v)
    wide = [
        some.repeat_interleave(heads // kv_heads, dim=2).transpose(1, 2)
        for some in (exact[1], exact[2][..., 8:])
    ]
    scores = exact[0].transpose(1, 2) @ wide[0].transpose(2, 3) * 0.3
    masked = scores.masked_fill(~_seen(segments, beginnings)[:, None], -torch.inf)
    expected = (masked.softmax(-1) @ wide[1]).transpose(1, 2)
    found = packed_attention.attend_within(
        q, k, v[..., 8:], packed_attention.visible_ranges(segments, beginnings), 0.3
    )
    _slopes_agree(found, expected, [q, k, v], exact, torch.bfloat16)


@pytest.mark.parametrize(("heads", "kv_heads", "key", "value"), [(4, 2, 32, 32), (3, 3, 48, 16)])
def test_attention_to_both_sides_within_segments_and_its_slopes(
    heads: int, kv_heads: int, key: int, value: int
) -> None:
    segments = torch.tensor([[1] * 70 + [2] * 3 + [3] * 40 + [0] * 7, [1] * 120])
    T = segments.shape[1]
    ranges = packed_attention.ranges_of_both_sides(segments)
    steps = torch.arange(T)
    own, start, end = ranges[:, :, :, None].unbind(1)
    within = ((steps >= own) & (steps <= steps[:, None])) | ((steps >= start) & (steps < end))
    same = segments[:, :, None] == segments[:, None, :]
    padding = (segments == 0)[:, :, None]
    assert torch.equal(within, torch.where(padding, same & (steps <= steps[:, None]), same))
    q = _drawn(2, T, heads, key, dtype=torch.bfloat16)
    k = _drawn(2, T, kv_heads, key, dtype=torch.bfloat16, seed=1)
    v = _drawn(2, T, kv_heads, value, dtype=torch.bfloat16, seed=2)
    exact = _exact(q, k, v)
    wide = [some.repeat_interleave(heads // kv_heads, dim=2).transpose(1, 2) for some in exact[1:]]
    scores = exact[0].transpose(1, 2) @ wide[0].transpose(2, 3) * 0.3
    expected = (scores.masked_fill(~within[:, None], -torch.inf).softmax(-1) @ wide[1]).transpose(1, 2)
    found = packed_attention.attend_within(q, k, v, ranges, 0.3)
    _slopes_agree(found, expected, [q, k, v], exact, torch.bfloat16)


@needs_kernels
@pytest.mark.parametrize(
    "shape", [(3, 16, 16), (2, 48, 48), (2, 80, 128), (5, 17, 33), (2, 1, 5), (1, 96, 320), (2, 33, 34)]
)
def test_muons_iteration_is_the_one_of_pytorch_with_factors_in_bfloat16(shape: tuple[int, ...]) -> None:
    """Against the same steps in float64 with the same roundings of factors: a factor that falls on the other
    side of a rounding moves the result by a few units of bfloat16's last place, 2^-8 of numbers up to 1."""

    def halves(x: Tensor) -> Tensor:
        return x.float().bfloat16().double()

    a, b, c = coefficients = (3.4445, -4.7750, 2.0315)
    matrices = _drawn(*shape).detach() * torch.tensor([1e-3, 1.0, 40.0, 7.0, 1e3])[: shape[0], None, None]
    x = halves(matrices.double() / (matrices.double().norm(dim=(1, 2), keepdim=True) + 1e-7))
    for steps in range(1, 6):
        gram = halves(x @ x.mT)
        x = halves(a * x + halves(b * gram + c * gram @ gram) @ x)
        found = fused.orthogonalise(matrices, steps, coefficients)
        assert found.shape == matrices.shape and torch.equal(found, found.bfloat16().float())
        assert (found - x).abs().max() <= 2e-2 and (found - x).abs().mean() <= 1e-3
    assert torch.equal(fused.orthogonalise(matrices[-1:], 5, coefficients)[0], found[-1])  # each by itself
    assert not fused.orthogonalise(torch.zeros(1, 20, 20), 5, coefficients).any()
    broken = matrices.clone()
    broken[0, 0, 0] = torch.nan
    assert fused.orthogonalise(broken, 5, coefficients)[0].isnan().all()


def test_tensors_without_memory_of_their_own_are_refused() -> None:
    class Wrapped(torch.Tensor):
        """What a DTensor is: a subclass whose address is not that of its numbers."""

    plain = torch.ones(2, 16)
    assert fused.usable(plain, torch.nn.Parameter(plain))
    assert not fused.usable(plain, plain.as_subclass(Wrapped))
    with FakeTensorMode():
        assert not fused.usable(torch.ones(2, 16))
