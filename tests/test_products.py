"""bfloat16 products on processors without instructions for them: PyTorch's own results, and the kernels'
rounding and sums number by number."""

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from r1kit.engine.compiled import library
from r1kit.model import compile_kernels, products
from r1kit.model.compile_kernels import COMMON, KernelsUnavailableError, compile_source, load
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel

PROGRAM = """
%s
#include <cstdint>
#include "%s"
#define SEEN extern "C" __attribute__((visibility("default")))
SEEN void round_all(const float* from, uint16_t* to, long count) {
    for (long i = 0; i < count; i += 32)
        _mm512_storeu_si512(
            to + i, r1::round_halves(_mm512_loadu_ps(from + i), _mm512_loadu_ps(from + i + 16)));
}
SEEN void dot_all(const void* a, const void* b, const float* c, float* to) {
    _mm512_storeu_ps(to, r1::dot_halves(_mm512_loadu_ps(c), _mm512_loadu_si512(a), _mm512_loadu_si512(b)));
}
"""


@pytest.fixture(params=[True, False], ids=["no instruction", "instruction"])
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(products, "half_is_slow", lambda: request.param)
    return bool(request.param)


@pytest.fixture(scope="module", params=["own way", "plain"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The file that knows bfloat16, compiled as for this processor, and as for one without the
    instructions."""
    try:
        library()
    except KernelsUnavailableError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("halves")
    (folder / "halves.cpp").write_text(
        PROGRAM % ("#define R1_PLAIN" if request.param == "plain" else "", COMMON)
    )
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None
    compile_source(folder / "halves.cpp", compiler, folder / "halves.so")
    return ctypes.CDLL(str(folder / "halves.so"))


def address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def test_the_kernels_round_every_kind_of_number_as_pytorch_does(kernels: ctypes.CDLL) -> None:
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    tiny = (upper & 0x7F800000) == 0  # the instructions take numbers below 2^-126 as zero
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        numbers = np.where(tiny, upper & 0x80000000, upper | lower).astype(np.uint32).view(np.float32)
        found = np.empty(len(numbers), dtype=np.uint16)
        kernels.round_all(address(numbers), address(found), ctypes.c_long(len(numbers)))
        wanted = torch.from_numpy(numbers).bfloat16()
        rounded = torch.from_numpy(found.view(np.int16)).view(torch.bfloat16)
        assert torch.equal(rounded.isnan(), wanted.isnan())
        there = ~wanted.isnan()
        assert torch.equal(rounded[there].view(torch.int16), wanted[there].view(torch.int16))


def test_factors_are_rounded_as_pytorch_rounds(slow: bool) -> None:
    """Every kind of number, 65,536 and 9 of them, and ways to lie in memory; what is not ``fresh`` stays."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    tiny = (upper & 0x7F800000) == 0  # the instructions take numbers below 2^-126 as zero
    kept = torch.float32 if slow else torch.bfloat16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        bits = np.where(tiny, upper & 0x80000000, upper | lower).astype(np.uint32)
        whole = torch.from_numpy(np.append(bits, bits[16_000:16_009]).view(np.float32))
        for numbers in (whole, whole[:65_536].view(256, 256).t(), whole[::3], torch.empty(0)):
            before, wanted = numbers.clone(), numbers.bfloat16()
            found = products.factor(numbers, torch.bfloat16)
            assert found.dtype == kept and found.shape == numbers.shape
            assert torch.equal(found.float().nan_to_num(7.0), wanted.float().nan_to_num(7.0))
            assert torch.equal(numbers.nan_to_num(7.0), before.nan_to_num(7.0))
            found = products.factor(numbers.clone(), torch.bfloat16, fresh=True)
            assert torch.equal(found.float().nan_to_num(7.0), wanted.float().nan_to_num(7.0))


def test_other_precisions_are_left_alone(slow: bool) -> None:
    numbers = torch.randn(40, dtype=torch.float64)
    assert torch.equal(products.factor(numbers, torch.float64, fresh=True), numbers)
    single = numbers.float()
    assert products.factor(single, torch.float32, fresh=True).data_ptr() == single.data_ptr()
    wide = products.factor(numbers, torch.bfloat16)
    assert torch.equal(wide.double(), numbers.bfloat16().double())


def test_a_product_of_words_adds_two_exact_products(kernels: ctypes.CDLL) -> None:
    drawn = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, generator=drawn).bfloat16() for _ in range(2))
    c = torch.randn(16, generator=drawn)
    found = np.empty(16, dtype=np.float32)
    words = [half.view(torch.int16).numpy() for half in (a, b)]
    kernels.dot_all(*map(address, words), address(c.numpy()), address(found))
    exact = (a.double() * b.double()).view(16, 2)
    once = (c.double() + exact[:, 1]).float()  # the upper number first
    wanted = (once.double() + exact[:, 0]).float()
    # The instruction itself may sum in another order.
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-6, rtol=0)


def both(call: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result of a product in autocast, and the gradients of its inputs."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        out = call(*leaves)
    up = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    out.backward(up)  # type: ignore[no-untyped-call]
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        most = float(other.abs().max())
        torch.testing.assert_close(one.float(), other.float(), atol=most / 128, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_a_projection_is_autocasts(slow: bool, bias: bool, half: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    x, weight, b = (torch.randn(*shape, generator=drawn) for shape in ((2, 7, 48), (33, 48), (33,)))
    given = [x.bfloat16() if half else x, weight.bfloat16() if half else weight, *([b] if bias else [])]
    assert_close(both(products.linear, *given), both(F.linear, *given))


def test_a_projections_result_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "half_is_slow", lambda: True)
    drawn = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 64, generator=drawn), torch.randn(9, 64, generator=drawn)
    with torch.autocast("cpu", torch.bfloat16):
        found = products.linear(x, weight)
    exact = x.bfloat16().double() @ weight.bfloat16().double().t()
    off = (found.double() - exact).abs()
    assert (off <= exact.abs() * 2**-8 + 1e-5).all() and not torch.equal(found.double(), exact)
    outside = products.linear(x, weight)  # without autocast nothing is rounded
    assert torch.equal(outside, F.linear(x, weight))


def test_each_experts_rows_are_multiplied_with_its_own_matrix(slow: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    x, weight = torch.randn(48, 32, generator=drawn), torch.randn(3, 16, 32, generator=drawn)
    ends = torch.tensor([16, 16, 48], dtype=torch.int32)  # the second has no row

    def by_hand(x: Tensor, weight: Tensor) -> Tensor:
        rows = x.bfloat16().tensor_split([16, 16])
        return torch.cat([run @ one.bfloat16().t() for run, one in zip(rows, weight, strict=True)])

    found = both(lambda x, weight: products.grouped(x.bfloat16(), weight, ends), x, weight)
    assert_close(found, both(by_hand, x, weight))
    assert not found[2][1].any()


@pytest.mark.parametrize("family", ["qwen3", "deepseek_v3"])
def test_a_whole_model_learns_the_same_either_way(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        "qwen3": {"kv_heads": 2, "head_dim": 16},
        "deepseek_v3": {
            "nope_dim": 24, "rope_dim": 8, "v_dim": 20, "kv_rank": 40, "expert_width": 24, "experts": 4,
            "active_experts": 2, "dense_layers": 1,
        },
    }[family]  # fmt: skip
    config = ModelConfig.parse(
        {"family": family, "vocab_size": 96, "width": 48, "layers": 2, "heads": 4, "ffn_width": 80, **keys},
        "the test",
    )
    tokens = torch.randint(0, 96, (2, 24), generator=torch.Generator().manual_seed(0))

    def gradients(slow: bool) -> list[Tensor]:
        monkeypatch.setattr(products, "half_is_slow", lambda: slow)
        model = LanguageModel(config, seed=0)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(tokens).hidden_BTD
            model.logits(hidden).float().logsumexp(-1).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert float((one - other).norm()) <= 0.03 * float(other.norm()) + 1e-6


@pytest.mark.parametrize(
    ("flags", "machine", "slow"),
    [
        ("fpu avx512f avx512_vnni", "x86_64", True),
        ("fpu avx2", "x86_64", True),
        ("fpu avx512f avx512_bf16", "x86_64", False),
        ("fpu avx512f amx_bf16", "x86_64", False),
        ("fp asimd bf16", "aarch64", False),
        ("", "x86_64", False),  # not known: PyTorch decides
    ],
)
def test_only_processors_known_to_lack_the_instructions_are_slow(
    flags: str, machine: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "processor_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr("platform.machine", lambda: machine)
    products.half_is_slow.cache_clear()
    try:
        assert products.half_is_slow() is slow
    finally:
        products.half_is_slow.cache_clear()


def test_a_change_of_the_file_that_kernels_share_makes_new_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "kernels" / "one.cpp"
    source.parent.mkdir()
    source.write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        before, again = load(source).name, load(source).name
    except KernelsUnavailableError as error:
        pytest.skip(str(error))
    changed = tmp_path / COMMON.name
    changed.write_text(COMMON.read_text() + "// changed\n")
    monkeypatch.setattr(compile_kernels, "COMMON", changed)
    assert before == again != load(source).name
