"""benchmarks/bench/llama.py and the parts of the benchmark's command: what is compared, what the page says,
what is said where something is missing; nothing is timed."""

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from bench import llama
from bench.models import NEVER, make
from bench.peers import PeerError
from bench.race import Measured
from bench.work import SHAPES
from public_data import ROOT
from safetensors.torch import load_file

from r1kit.model.config import ModelConfig


def measured(tokens, cpu_s):
    return Measured(tokens, cpu_s, 1.0, 321.0, {})


def test_precisions_of_one_class_are_compared_and_each_number_of_rows():
    for model in ("SmolLM2-135M-Instruct", "30m"):
        pairs = [pair for pair in llama.PAIRS if pair.model == model]
        assert [pair.wanted for pair in pairs] == [None, 1.5, 1.5, None, 1.5, 1.5, 2.0, None, None]
    assert [pair.name.removeprefix("30m/") for pair in llama.PAIRS[9:]] == [
        "bfloat16/bf16/1", "bfloat16/bf16/16", "bfloat16/bf16/64", "int8/q8_0/1", "int8/q8_0/16",
        "int8/q8_0/64", "int8/q4_1/1", "int8/q4_1/16", "int8/q4_1/64",
    ]  # fmt: skip


@pytest.mark.parametrize(("rows", "prompts", "group"), [(1, 1, 1), (16, 2, 8), (64, 8, 8)])
def test_rows_are_groups_of_prompts(rows, prompts, group, tmp_path, monkeypatch):
    monkeypatch.setattr(llama, "read_config", lambda folder: SimpleNamespace(vocab_size=49_152))
    pair = llama.Pair(llama.NAME, "int8", "q8_0", rows)
    order = llama.order_of(pair, tmp_path, tmp_path, tmp_path)
    assert (len(order["prompts"]), order["group"]) == (prompts, group)
    assert {len(prompt) for prompt in order["prompts"]} == {llama.PROMPT}
    assert all(20 <= token < 49_152 for prompt in order["prompts"] for token in prompt)


@pytest.mark.parametrize(("seconds", "said"), [(3.0, "reached (1.5)"), (2.0, "**missed** (1.5)")])
def test_the_page_has_rates_and_whether_what_is_wanted_is_reached(seconds, said):
    found = llama.kept({"r1kit": [measured(800, 2.0)] * 3, "llama": [measured(800, seconds)] * 3})
    stamped = found | {"load": 2.0, "date": "2026-11-28", "revision": "abc"}
    text = llama.compose(
        {"machine": {"processor": "P"}, "versions": {"torch": "2", "llama-cpp-python": "0.3"},
         "pairs": {"30m/bfloat16/bf16/16": stamped}}
    )  # fmt: skip
    ratio = f"**{seconds / 2:.2f}** ({seconds / 2:.2f}..{seconds / 2:.2f})"
    row = f"| 30m | bfloat16, bf16 | 16 | 400 | {800 / seconds:,.0f} | {ratio} | {said} | 321 | 321 |"
    assert row in text and "3 pairs" in text and "llama-cpp-python 0.3" in text
    assert llama.compose({}) == "Not measured yet."


def test_without_the_weights_or_the_package_a_line_says_so_and_nothing_is_measured(
    tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise AssertionError("measured")

    monkeypatch.setattr(llama, "measure", refuse)
    monkeypatch.setattr(llama, "FOLDER", tmp_path / "model")
    monkeypatch.setattr(llama, "GGUF", tmp_path / "model.gguf")
    page = tmp_path / "page.md"
    page.write_text("as it was")
    assert llama.compare(tmp_path, tmp_path, 3, False, None, page)
    assert f"{tmp_path / 'model'} and {tmp_path / 'model.gguf'} missing" in capsys.readouterr().out
    (tmp_path / "model").mkdir()
    (tmp_path / "model.gguf").touch()

    def no_compiler(*_):
        raise PeerError("`pip install` failed: no C++ compiler")

    monkeypatch.setattr(llama, "python_of", no_compiler)
    assert llama.compare(tmp_path, tmp_path, 3, False, None, page)
    assert "left out: llama-cpp-python cannot be installed" in capsys.readouterr().out
    assert page.read_text() == "as it was"


def test_measured_pairs_are_kept_and_the_next_call_continues(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    for name, value in {
        "FOLDER": tmp_path / "model", "GGUF": tmp_path / "model", "python_of": lambda *_: tmp_path,
        "versions": lambda *_: {"llama-cpp-python": "0.3"},
    }.items():  # fmt: skip
        monkeypatch.setattr(llama, name, value)
    seen = []

    def measure(pair, *_):
        seen.append(pair.name)
        return {"r1kit": [measured(10, 1.0)], "llama": [measured(10, 2.0)]}

    monkeypatch.setattr(llama, "measure", measure)
    page = tmp_path / "page.md"
    page.write_text("<!-- llama -->\n<!-- /llama -->\n")
    assert not llama.compare(tmp_path, tmp_path, 1, True, 0.0, page) and not seen
    assert llama.compare(tmp_path, tmp_path, 1, True, None, page)
    assert seen == [pair.name for pair in llama.PAIRS] and page.read_text().count("**2.00**") == 18
    assert llama.compare(tmp_path, tmp_path, 1, True, None, page) and len(seen) == 18


def test_a_model_is_written_as_a_gguf_file_with_every_weight(tmp_path):
    gguf = pytest.importorskip("gguf")
    from bench.gguf_file import write_gguf

    shape = SHAPES["30m"] | {"vocab_size": 96, "width": 64, "layers": 2, "heads": 2, "kv_heads": 1}
    folder = make(tmp_path / "model", ModelConfig(**shape), NEVER)
    file = write_gguf(folder, tmp_path / "model-F32.gguf")
    reader = gguf.GGUFReader(file)
    weights = {tensor.name: torch.tensor(tensor.data.copy()) for tensor in reader.tensors}
    ours = load_file(folder / "model.safetensors")
    assert len(weights) == len(ours)
    for theirs, name in {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.1.attn_k.weight": "model.layers.1.self_attn.k_proj.weight",
        "blk.1.attn_q_norm.weight": "model.layers.1.self_attn.q_norm.weight",
        "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }.items():
        assert torch.equal(weights[theirs], ours[name].float())
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["qwen3.attention.head_count_kv"] == 1 and said["qwen3.block_count"] == 2
    assert said["qwen3.vocab_size"] == 96 and said["tokenizer.ggml.model"] == "none"
    assert write_gguf(tmp_path / "nowhere", file) == file  # it is there


@pytest.fixture
def command(monkeypatch):
    """benchmarks/bench.py, whose parts only note that they were called."""
    specification = importlib.util.spec_from_file_location("bench_parts", ROOT / "benchmarks" / "bench.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    called = []
    monkeypatch.setattr(module, "lines", lambda asked, names, size: called.append(("lines", names)) or True)  # type: ignore[func-returns-value]
    monkeypatch.setattr(module.llama, "compare", lambda *given: called.append(("llama", given[-1])) or True)  # type: ignore[func-returns-value]
    monkeypatch.setattr(module.race, "main", lambda words: called.append(("race", words)))
    return SimpleNamespace(main=module.main, called=called, page=module.PAGE)


@pytest.mark.parametrize(
    ("words", "parts"),
    [([], ["lines", "llama"]), (["llama"], ["llama"]), (["race"], ["race"]), (["growth"], ["lines"]),
     (["grpo/7m", "llama"], ["lines", "llama"])],
)  # fmt: skip
def test_a_part_that_is_named_does_not_touch_the_others(command, words, parts):
    command.main(words)
    assert [name for name, _ in command.called] == parts
    if words == ["grpo/7m", "llama"]:
        assert command.called[0] == ("lines", ["grpo/7m"])


@pytest.mark.parametrize(
    ("words", "written"), [([], True), (["--quick"], False), (["--repeats", "2"], False)]
)
def test_fewer_than_three_pairs_write_no_page(command, words, written):
    command.main(["llama", *words])
    assert command.called == [("llama", command.page if written else None)]


def test_the_race_gets_the_commands_options(command, tmp_path):
    command.main(["race", "--out", str(tmp_path), "--resume", "--minutes", "8"])
    assert command.called == [
        ("race", ["--out", str(tmp_path / "race"), "--resume", "--minutes", "8.0"])
    ]  # fmt: skip


class FakeLibrary(ModuleType):
    """llama.cpp's calls as side_llama.py makes them: notes which tokens are fed where, and draws, from the
    logits of a batch's place, the row and position that these belong to."""

    LLAMA_FTYPE_MOSTLY_BF16, LLAMA_FTYPE_MOSTLY_F16, LLAMA_FTYPE_MOSTLY_Q8_0 = 32, 1, 7
    LLAMA_FTYPE_MOSTLY_Q4_1 = 3

    def __init__(self):
        super().__init__("llama_cpp")
        self.fed, self.copied, self.drawn, self.last = [], [], [], []
        for name in (
            "llama_backend_init", "llama_log_set", "llama_memory_clear", "llama_sampler_free",
            "llama_sampler_chain_add", "llama_sampler_init_dist",
        ):  # fmt: skip
            setattr(self, name, lambda *_: None)
        for name in ("llama_model_default_params", "llama_context_default_params"):
            setattr(self, name, SimpleNamespace)
        self.llama_log_callback = lambda function: function
        self.llama_model_load_from_file = lambda *_: "model"
        self.llama_init_from_model = lambda model, wanted: wanted
        self.llama_get_memory = lambda context: "memory"
        self.llama_sampler_chain_default_params = lambda: None
        self.llama_sampler_chain_init = lambda params: len(self.drawn) + 1
        self.llama_memory_seq_cp = lambda memory, head, row, *_: self.copied.append((head, row))

    def llama_batch_init(self, most, *_):
        lists = {name: [0] * most for name in ("token", "pos", "n_seq_id", "logits")}
        return SimpleNamespace(n_tokens=0, seq_id=[[0] for _ in range(most)], **lists)

    def llama_decode(self, context, batch):
        count = range(batch.n_tokens)
        self.last = [
            (batch.token[at], batch.pos[at], batch.seq_id[at][0], batch.logits[at]) for at in count
        ]  # fmt: skip
        self.fed.append(self.last)
        return 0

    def llama_sampler_sample(self, sampler, context, output):
        token, position, row, logits = self.last[output]
        assert logits, "the logits of this place were not asked for"
        self.drawn.append((row, position, token))
        return 100 * row + position + 1


def test_llama_cpp_is_fed_each_rows_own_tokens_up_to_its_length(monkeypatch):
    library = FakeLibrary()
    monkeypatch.setitem(sys.modules, "llama_cpp", library)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "bench"))
    monkeypatch.delitem(sys.modules, "side_llama", raising=False)
    side = importlib.import_module("side_llama")
    prompts = [[7, 8, 9], [17, 18, 19]]
    run = side.start(
        {
            "gguf": "m.Q4_1.gguf",
            "precision": "q4_1",
            "scratch": "/",
            "prompts": prompts,
            "group": 2,
            "new_tokens": 4,
        }
    )
    assert run({"seed": 1, "lengths": [3, 1, 2, 4]}) == {"tokens": 10}
    assert library.copied == [(0, 1), (2, 3)]
    first, *steps = library.fed
    assert [each[:3] for each in first] == [
        (7, 0, 0), (8, 1, 0), (9, 2, 0), (17, 0, 2), (18, 1, 2), (19, 2, 2),
    ]  # fmt: skip
    assert [each[3] for each in first] == [False, False, True] * 2
    # Rows 1 and 3 draw from the logits after the prompt of their group, which row 0 and row 2 have read.
    assert library.drawn[:4] == [(0, 2, 9), (0, 2, 9), (2, 2, 19), (2, 2, 19)]
    assert [[each[1:3] for each in step] for step in steps] == [
        [(3, 0), (3, 2), (3, 3)],  # row 1 has its only token
        [(4, 0), (4, 3)],
        [(5, 3)],
    ]
    assert [each[0] for each in steps[0]] == [3, 203, 203] and [each[0] for each in steps[1]] == [4, 304]
    assert len(library.drawn) == 10
    monkeypatch.delitem(sys.modules, "side_llama")
