"""The engine's products in 8 bits: whole numbers that equal numpy's exactly, with the processor's instruction
and without it, and sampling with them."""

import ctypes
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from r1kit.config import ConfigError, R1kitError
from r1kit.engine.compiled import SOURCE, library
from r1kit.engine.native import NativeEngine
from r1kit.model.compile_kernels import KernelsUnavailableError, compile_source
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.recipe.recipe import load
from r1kit.runtime.local import LocalConfig
from r1kit.types import Completion, Sampling


def available() -> bool:
    try:
        library()
    except KernelsUnavailableError:
        return False
    return True


needs_kernels = pytest.mark.skipif(not available(), reason="the kernels do not run on this machine")
PROGRAM = """
%s
#include "%s/matrix.h"
using namespace r1;
extern "C" __attribute__((visibility("default")))
void products(const float* w, int outputs, int inputs, const uint16_t* x, int rows, float* out, int add) {
    Arena memory(1);
    Matrix<Half> matrix;
    matrix.shape(outputs, inputs, true, memory);
    matrix.fill(0, outputs, w, inputs);
    product<Half>(x, inputs, rows, matrix, out, outputs, add, 1);
}
"""


@pytest.fixture(scope="module", params=["instruction", "plain"])
def products(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The engine's matrix products alone, compiled with the processor's instruction or with plain code."""
    if not available():
        pytest.skip("the kernels do not run on this machine")
    folder = tmp_path_factory.mktemp("products")
    source = folder / "products.cpp"
    source.write_text(PROGRAM % ("#define R1_PLAIN" if request.param == "plain" else "", SOURCE.parent))
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None
    compile_source(source, compiler, folder / "products.so")
    return ctypes.CDLL(str(folder / "products.so"))


def multiplied(
    calls: ctypes.CDLL, w: np.ndarray, x: torch.Tensor, before: np.ndarray | None = None
) -> np.ndarray:
    out = np.zeros((len(x), len(w)), dtype=np.float32) if before is None else before.copy()
    calls.products(
        ctypes.c_void_p(w.ctypes.data), len(w), w.shape[1], ctypes.c_void_p(x.data_ptr()), len(x),
        ctypes.c_void_p(out.ctypes.data), int(before is not None),
    )  # fmt: skip
    return out


def reference(w: np.ndarray, x: torch.Tensor, before: np.ndarray | None = None) -> np.ndarray:
    """Scales are the largest absolute number over 127, whole numbers round to the nearest even, sums are
    whole; the result is rounded once, with what is added."""
    exact, most = x.float().numpy(), np.float32(127)
    w_scales, x_sizes = np.abs(w).max(1) / most, np.abs(exact).max(1)
    whole_w = np.rint(w / np.where(w_scales > 0, w_scales, 1)[:, None]).astype(np.int64)
    factors = np.where(x_sizes > 0, most / np.where(x_sizes > 0, x_sizes, 1), 0).astype(np.float32)
    whole_x = np.rint(exact * factors[:, None]).astype(np.int64)
    assert np.abs(whole_w).max() <= 127 and np.abs(whole_x).max() <= 127
    sums = (whole_x @ whole_w.T).astype(np.float32).astype(np.longdouble)
    scaled = sums * ((x_sizes / most)[:, None] * w_scales[None])
    return (scaled if before is None else scaled + before).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 13, 64])
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 4), (70, 34), (64, 130), (200, 66), (3, 2)])
def test_products_equal_whole_numbers_to_the_bit(
    products: ctypes.CDLL, rows: int, outputs: int, inputs: int
) -> None:
    drawn = np.random.default_rng(rows * inputs)
    w = drawn.normal(size=(outputs, inputs)).astype(np.float32)
    x = torch.from_numpy(drawn.normal(size=(rows, inputs)) * drawn.exponential(size=(rows, 1))).to(
        torch.bfloat16
    )
    w[0], x[0, 0] = 0.0, 0.0
    if rows > 1:
        x[1] = 0.0
    found = multiplied(products, w, x)
    np.testing.assert_array_equal(found, reference(w, x))
    before = drawn.normal(size=found.shape).astype(np.float32)
    np.testing.assert_array_equal(multiplied(products, w, x, before), reference(w, x, before))


def test_the_largest_sums_are_exact(products: ctypes.CDLL) -> None:
    inputs = 1 << 16
    w, x = np.ones((16, inputs), dtype=np.float32), torch.ones(2, inputs, dtype=torch.bfloat16)
    w[1], x[1] = -1.0, -1.0
    found = multiplied(products, w, x)
    np.testing.assert_array_equal(found, reference(w, x))
    assert found[0, 0] == pytest.approx(inputs) and found[0, 1] == pytest.approx(-inputs)


def test_numbers_that_are_not_finite_stay_visible(products: ctypes.CDLL) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        w, x = np.ones((16, 8), dtype=np.float32), torch.ones(2, 8, dtype=torch.bfloat16)
        x[1, 3] = bad
        found = multiplied(products, w, x)
        assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
        w[2, 5] = bad
        assert np.isnan(multiplied(products, w, x[:1])).sum(1).tolist() == [1]


ATTENTION = """
%s
#include "%s/attention.h"

using namespace r1;

// Keys and values are written one by one into pages that hold noise: ``seen`` positions of a prompt that all
// rows share, and each row's own, of which row r has own - r.
extern "C" __attribute__((visibility("default")))
void attend(const uint16_t* queries, const uint16_t* keys, const uint16_t* values, int rows, int per_row,
            int seen, int own, int key, int value, float scale, float* out) {
    CacheShape<Half> shape;
    shape.layers = 2, shape.heads = 2, shape.key = key, shape.value = value, shape.eight = true;
    std::vector<std::vector<uint32_t>> memory;
    memory.reserve(64);
    const auto filled = [&](const uint16_t* ks, const uint16_t* vs, int length) {
        Pages pages;
        for (int t = 0; t < length; t++) {
            if (t %% PAGE == 0) {
                memory.emplace_back(shape.page_size(), 0xffffffffu);
                pages.push_back(memory.back().data());
            }
            shape.write_key(pages.back(), 1, 1, t %% PAGE, ks + t * key);
            shape.write_value(pages.back(), 1, 1, t %% PAGE, vs + t * value);
        }
        return pages;
    };
    const Pages prompt = filled(keys, values, seen);
    std::vector<Pages> owned;
    for (int r = 0; r < rows; r++) {
        const int first = seen + r * own;
        owned.push_back(filled(keys + first * key, values + first * value, own - r));
    }
    std::vector<Span> spans;
    for (int r = 0; r < rows; r++) spans.push_back({&prompt, seen, &owned[r], own - r});
    HeadAttention<Half> attention(shape, 1, 1, per_row, scale);
    attention(reinterpret_cast<const uint32_t*>(queries), spans.data(), rows, out);
}
"""


@needs_kernels
@pytest.mark.parametrize("instruction", [True, False], ids=["instruction", "plain"])
@pytest.mark.parametrize(
    ("rows", "per_row", "seen", "own", "key", "value"),
    [
        (1, 1, 5, 1, 16, 16),
        (3, 2, 70, 67, 48, 32),
        (5, 4, 64, 130, 80, 64),
        (2, 1, 0, 40, 36, 20),
        (3, 3, 20, 30, 34, 20),
    ],
)
def test_attention_to_keys_and_values_in_8_bits(
    tmp_path: Path, rows: int, per_row: int, seen: int, own: int, key: int, value: int, instruction: bool
) -> None:
    """Against numpy: queries, keys and values are whole numbers of their largest one, a softmax over both
    parts, float64."""
    source, made = tmp_path / "attend.cpp", tmp_path / "attend.so"
    source.write_text(ATTENTION % ("" if instruction else "#define R1_PLAIN", SOURCE.parent))
    compiler = shutil.which("g++") or "clang++"
    compile_source(source, compiler, made)
    drawn = torch.Generator().manual_seed(seen + own)
    positions = seen + rows * own
    queries = torch.randn(rows * per_row, key, generator=drawn).bfloat16()
    keys, values = (
        (
            torch.randn(positions, width, generator=drawn) * torch.rand(positions, 1, generator=drawn)
        ).bfloat16()
        for width in (key, value)
    )
    keys[-1], queries[0] = 0.0, 0.0
    width, scale = -(-value // 16) * 16, key**-0.5
    found = torch.zeros(rows * per_row, width)
    addresses = [ctypes.c_void_p(x.data_ptr()) for x in (queries, keys, values, found)]
    ctypes.CDLL(str(made)).attend(
        *addresses[:3], rows, per_row, seen, own, key, value, ctypes.c_float(scale), addresses[3]
    )

    def rounded(x: torch.Tensor) -> np.ndarray:
        most = x.float().abs().amax(1, keepdim=True)
        factors = torch.where(most > 0, torch.full_like(most, 127) / most, 0)  # in float32
        return (torch.round(x.float() * factors).double() * (most.double() / 127)).numpy()

    all_queries, all_keys, all_values = rounded(queries), rounded(keys), rounded(values)
    for query in range(rows * per_row):
        row = query // per_row
        first = seen + row * own
        seen_by = [*range(seen), *range(first, first + own - row)]
        logits = all_keys[seen_by] @ all_queries[query] * scale
        weights = np.exp(logits - logits.max())
        wanted = weights @ all_values[seen_by] / weights.sum()
        np.testing.assert_allclose(found[query, :value].numpy(), wanted, atol=2e-5)


DENSE = ModelConfig(
    family="qwen3", vocab_size=96, width=48, layers=2, heads=4, kv_heads=2, head_dim=16, ffn_width=80,
    max_positions=200, init_std=0.15,
)  # fmt: skip
SPARSE = ModelConfig(
    family="deepseek_v3", vocab_size=96, width=48, layers=2, heads=4, ffn_width=80, kv_rank=40, q_rank=28,
    nope_dim=24, rope_dim=8, v_dim=20, experts=4, active_experts=2, shared_experts=1, expert_width=24,
    dense_layers=1, max_positions=200, init_std=0.15,
)  # fmt: skip


@cache
def model_of(config: ModelConfig) -> LanguageModel:
    return LanguageModel(config, seed=3)


def sampled(
    config: ModelConfig, prompts: list[np.ndarray], batch_rows: int = 64, n: int = 4, precision: str = "int8"
):  # type: ignore[no-untyped-def]
    engine = NativeEngine(model_of(config), [2], precision=precision, batch_rows=batch_rows)  # type: ignore[arg-type]
    return engine.generate(
        prompts, Sampling(max_tokens=40, n=n, seed=1), seeds=[int(p.sum()) for p in prompts]
    )


def prompts_of(count: int) -> list[np.ndarray]:
    drawn = np.random.default_rng(0)
    return [drawn.integers(3, 96, int(drawn.integers(3, 90))).astype(np.int64) for _ in range(count)]


@needs_kernels
@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_a_completion_does_not_depend_on_its_company(config: ModelConfig) -> None:
    prompts = prompts_of(6)
    together, one_row = sampled(config, prompts), sampled(config, prompts, batch_rows=1)
    alone = [group for prompt in prompts for group in sampled(config, [prompt], batch_rows=3)]
    for whole, single, lone in zip(together, one_row, alone, strict=True):
        for a, b, c in zip(whole, single, lone, strict=True):
            for other in (b, c):
                np.testing.assert_array_equal(a.token_ids, other.token_ids)
                np.testing.assert_array_equal(a.logprobs, other.logprobs)


@needs_kernels
@pytest.mark.parametrize(("config", "largest"), [(DENSE, 0.06), (SPARSE, 0.15)], ids=["dense", "sparse"])
def test_log_probabilities_are_near_the_models(config: ModelConfig, largest: float) -> None:
    """Rounding to 8 bits moves a sampled token's log-probability further from the model's in float32 than
    bfloat16 does, and not far."""
    model, prompts, means = model_of(config).eval(), prompts_of(6), {}
    for precision in ("int8", "bfloat16"):
        apart = []
        for prompt, group in zip(prompts, sampled(config, prompts, precision=precision), strict=True):
            for completion in group:
                ids = torch.from_numpy(np.concatenate([prompt, completion.token_ids])).long()
                with torch.no_grad():
                    logits = model.logits(model(ids[None, :-1]).hidden_BTD[0]).log_softmax(-1)
                exact = logits[len(prompt) - 1 :].gather(1, ids[len(prompt) :, None])[:, 0].numpy()
                apart.append(np.abs(exact - completion.logprobs))
        means[precision] = float(np.concatenate(apart).mean())
    assert means["bfloat16"] < means["int8"] < largest


@needs_kernels
def test_new_weights_are_sampled_from() -> None:
    model = LanguageModel(DENSE, seed=3)
    engine = NativeEngine(model, [2], precision="int8")
    prompts, sampling = prompts_of(3), Sampling(max_tokens=20, n=2, seed=1)
    first = engine.generate(prompts, sampling)
    again = engine.generate(prompts, sampling)
    changed = LanguageModel(DENSE, seed=4)
    engine.load(changed.state_dict(), 1)
    second, fresh = (
        engine.generate(prompts, sampling),
        NativeEngine(changed, [2], precision="int8").generate(prompts, sampling),
    )

    def same(one: list[list[Completion]], other: list[list[Completion]]) -> bool:
        return [c.logprobs.tolist() for g in one for c in g] == [
            c.logprobs.tolist() for g in other for c in g
        ]

    assert same(first, again) and same(second, fresh) and not same(first, second)


def test_where_8_bits_do_not_work_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = NativeEngine(model_of(DENSE), [2], precision="int8", kernels=False)
    with pytest.raises(
        R1kitError, match=r"8 bits through r1kit's own kernels only.*engine_precision: bfloat16"
    ):
        without.generate(prompts_of(1), Sampling(max_tokens=2))
    assert [reason for _, reason in LocalConfig(engine_precision="int8", device="meta").input_errors()][
        -1
    ].startswith("int8 needs")
    if available():
        assert list(LocalConfig(engine_precision="int8").input_errors()) == []
    monkeypatch.setattr(
        "r1kit.model.compile_kernels.in_use", lambda source: (None, "this processor is a toaster")
    )
    ((path, reason),) = LocalConfig(engine_precision="int8").input_errors()
    assert path == ("engine_precision",) and "toaster" in reason and "bfloat16" in reason
    assert list(LocalConfig(engine_precision="bfloat16").input_errors()) == []
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nruntime: {kind: local, engine_precision: int4}\nstages: []\n")
    with pytest.raises(ConfigError, match="engine_precision"):
        load(recipe)
