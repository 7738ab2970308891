"""The plan of a recipe: a model's numbers, memory, operations, time and what fits, against other counts."""

import io
import json
import re
import shutil
import struct
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recipe_fakes
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from r1kit.commands.cli import app
from r1kit.commands.plan import as_table, footer
from r1kit.config import ConfigError
from r1kit.model.config import ModelConfig
from r1kit.model.config_json import save_config
from r1kit.model.decoder import LanguageModel
from r1kit.model.kernel_cache import cache_folder
from r1kit.planning import fit, rates
from r1kit.planning.former import former_run
from r1kit.planning.learners import LearnerFacts, facts_of
from r1kit.planning.machines import GPUs, Learned, Sampled, ThisMachine, decoding_steps
from r1kit.planning.memory import (
    Memory,
    activations,
    held_by_frozen,
    held_by_learner,
    layer_bytes,
    trained_parameters,
    while_learning,
)
from r1kit.planning.operations import bytes_per_step, cache_numbers, forward_operations, training_operations
from r1kit.planning.place import Place
from r1kit.planning.plan import (
    Assumptions,
    PhaseCost,
    StageCost,
    plan_recipe,
)
from r1kit.planning.products import MOST, Compiled, Met, distinct, kinds, possible_widths, products_of
from r1kit.planning.rates import Product, Rates, fleet_of, measured_product, measured_rates
from r1kit.planning.rows import characters_per_token, count_rows, counting, estimating
from r1kit.planning.shapes import shape_of, shape_of_keys, shape_of_name
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build, load
from r1kit.records import stage_folder
from r1kit.runs.execute import run
from r1kit.runtime import RUNTIMES
from r1kit.stages.models import PromptStyle
from r1kit.stages.pretrain import TOKENIZER_DOCUMENTS
from r1kit.stages.sft import training_row
from r1kit.stages.stage import StagePlan
from r1kit.tasks.miniature.general import General
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.train.supervised import text_row, weighted

ROOT = Path(__file__).parents[1]
SMALL = ModelConfig(
    family="llama", vocab_size=300, width=64, layers=3, heads=4, kv_heads=2, head_dim=16, ffn_width=96,
    tie_embeddings=True,
)  # fmt: skip
FAST = Rates(0.1, 1e-3, 3e-4, ((1, 0.01), (16, 0.02), (64, 0.05)), 1e9)
ZERO = """\
name: planned
runtime: {kind: local, processes: %d}
stages:
  - stage: r1_zero
    init: %s
    tasks: {chain: 1.0}
    %s
    learner: {context: 256, lines: 2}
"""


def by_hand(config, untied=0):
    """Parameters of a dense network, written out."""
    layer = config.width * config.head_dim * 2 * (config.heads + config.kv_heads)
    layer += 3 * config.width * config.ffn_width + 2 * config.width
    return (1 + untied) * config.vocab_size * config.width + config.layers * layer + config.width


def write_model(folder, config=SMALL, **changed):
    folder.mkdir(parents=True)
    save_config(config, folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    return folder


def zero_recipe(tmp_path, algorithm="grpo: {steps: 4, problems: 2, group: 8, max_tokens: 64}", processes=1):
    model = tmp_path / "model"
    if not model.exists():
        write_model(model)
    file = tmp_path / "planned.yaml"
    file.write_text(ZERO % (processes, model, algorithm))
    return file


def here(**changed):
    return replace(ThisMachine(1, 8e9, rates=FAST, product=Product(0.0, 0.0)), **changed)


# A model's numbers


def test_a_folder_is_counted_from_its_config(tmp_path):
    shape, remark = shape_of_name(str(write_model(tmp_path / "m")))
    assert shape is not None and remark == ""
    assert shape.parameters == by_hand(SMALL) == sum(p.numel() for p in LanguageModel(SMALL).parameters())
    assert shape.cached == 2 * 2 * 16
    untied, _ = shape_of_name(str(write_model(tmp_path / "u", tie_word_embeddings=False)))
    assert untied is not None and untied.parameters - shape.parameters == 300 * 64
    assert untied.active == shape.active  # looking a row up is no product


def test_a_family_that_r1kit_cannot_run_is_counted_too(tmp_path):
    folder = write_model(tmp_path / "m", model_type="granite")
    shape, _ = shape_of_name(str(folder))
    assert shape is not None and shape.config is None
    assert shape.parameters == pytest.approx(by_hand(SMALL), rel=2e-3)
    sparse = write_model(
        tmp_path / "e", model_type="qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    )
    found, _ = shape_of_name(str(sparse))
    assert found is not None
    experts = 3 * 4 * 3 * 64 * 32  # layers x experts x matrices x width x inner width
    assert found.expert_parameters == experts
    idle = experts / 2
    assert found.parameters - found.active == pytest.approx(idle)


def gguf_bytes(fields, tensors):
    def text(word):
        return struct.pack("<Q", len(word)) + word.encode()

    found = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    for name, value in fields.items():
        if isinstance(value, str):
            found += text(name) + struct.pack("<I", 8) + text(value)
        elif isinstance(value, list):
            found += text(name) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        else:
            found += text(name) + struct.pack("<II", 4, value)
    for name, shape in tensors.items():
        found += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape)
        found += struct.pack("<IQ", 3, 0)
    return found


FIELDS = {
    "general.architecture": "llama", "llama.embedding_length": 64, "llama.block_count": 3,
    "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.feed_forward_length": 96,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}  # fmt: skip


def test_a_gguf_file_is_counted_from_its_header_alone(tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf_bytes(FIELDS, {"token_embd.weight": (64, 3), "blk.0.attn_q.weight": (64, 64)}))
    shape, remark = shape_of_name(str(file))
    assert shape is not None and remark == ""
    assert (shape.parameters, shape.vocabulary, shape.kv_heads) == (64 * 3 + 64 * 64, 3, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"GGUF", b"nothing", gguf_bytes(FIELDS, {})[:60],
        gguf_bytes({**FIELDS, "llama.block_count": "many"}, {}),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60),
    ],
)  # fmt: skip
def test_a_damaged_gguf_header_is_named_and_not_guessed(tmp_path, content):
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    shape, remark = shape_of_name(str(file))
    assert shape is None and "m.gguf" in remark


def test_a_model_that_is_not_here_has_the_shape_of_its_name_or_none(monkeypatch):
    shape, remark = shape_of_name("models/Qwen2.5-1.5B")
    assert shape is not None and "not here" in remark
    assert shape.parameters == shape_of_keys({"preset": "qwen2.5-1.5b"}, None).parameters
    shape, remark = shape_of_name("no/such/folder")
    assert shape is None and "size is unknown" in remark


def test_a_hub_id_is_counted_by_its_config_alone_and_a_silent_hub_is_named(monkeypatch, tmp_path):
    folder, asked = write_model(tmp_path / "m"), []

    def download(repository, file, revision, **rest):
        asked.append((repository, file, revision))
        return str(folder / file)

    monkeypatch.setattr("r1kit.planning.shapes.hub_answers", lambda: True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", type("Hub", (), {"hf_hub_download": download}))
    shape, _ = shape_of_name("org/name@v2")
    assert shape is not None and shape.parameters == by_hand(SMALL)
    assert asked == [("org/name", "config.json", "v2")]

    def refuse(*words, **rest):
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "huggingface_hub", type("Hub", (), {"hf_hub_download": refuse}))
    shape, remark = shape_of_name("org/name")
    assert shape is None and "the hub does not answer" in remark and "folder" in remark


# Operations and memory


def test_operations_of_products_are_those_that_torch_counts():
    model, tokens = LanguageModel(SMALL), 32
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.logits(model(torch.zeros(1, tokens, dtype=torch.long)).hidden_BTD)
    products = ("aten.mm", "aten.addmm")
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if str(op) in products)
    attention = SMALL.layers * SMALL.heads * 2 * 2 * 16 * tokens * (tokens / 2)
    planned = forward_operations(shape_of(SMALL), tokens, tokens)
    norms = 2 * tokens * (2 * SMALL.layers + 1) * SMALL.width  # counted as if they were products
    assert planned - attention - norms == pytest.approx(counted)
    assert training_operations(shape_of(SMALL), tokens, tokens) == 3 * planned
    assert training_operations(shape_of(SMALL), tokens, tokens, again=True) == 4 * planned


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"optimizer": {"moments": "int8"}},
        {"weights": "bfloat16"},
        {"weights": "bfloat16", "optimizer": {"moments": "int8"}},
        {"optimizer": {"kind": "muon"}},
    ],
)
def test_what_a_learner_holds_is_what_the_formula_says(keys):
    learner = Learner(LanguageModel(SMALL), LearnerConfig.parse({"context": 64, "lines": 2, **keys}, "it"))
    learner.update(weighted([text_row(np.arange(40, dtype=np.int32))]), CrossEntropy(), 1.0)
    state = [value for o in learner.optimizers for s in o.state.values() for value in s.values()]
    moments = sum(tensor.nbytes for tensor in state if tensor.numel() > 1)
    held = held_by_learner(shape_of(SMALL), facts_of(learner.config))
    few = 0.3 if keys.get("optimizer", {}).get("kind") == "muon" else 0.02  # norms; Muon's embedding has two
    assert held.weights == pytest.approx(sum(p.nbytes for p in learner.parameters), rel=0.02)
    assert held.moments == pytest.approx(moments, rel=few)


def test_a_cache_has_as_many_numbers_as_the_models_own():
    for config in (SMALL, ModelConfig.preset("nano")):
        cache = LanguageModel(config).new_cache(3, 128)
        counted = sum(layer.numel() for layer in cache.layers)
        assert cache_numbers(shape_of(config), 3 * 128) == counted


def saved_bytes(config, positions):
    """Bytes of activations that autograd saves in a forward pass in bfloat16, weights and their copies left
    out."""
    model, found = LanguageModel(config), {}
    weights = Counter(p.numel() for p in model.parameters())

    def keep(tensor):
        if tensor.numel() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.zeros(1, positions, dtype=torch.long)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        kept = model(tokens, torch.arange(positions)[None], torch.ones_like(tokens))
    assert kept.hidden_BTD.requires_grad
    return sum(found.values())


def test_activations_are_what_autograd_saves():
    wide = SMALL.model_copy(
        update={"width": 192, "heads": 6, "kv_heads": 2, "head_dim": 32, "ffn_width": 512}
    )
    facts = LearnerFacts(256, 1)
    measured = saved_bytes(wide, 250) - saved_bytes(wide, 122)
    assert activations(shape_of(wide), facts, 128) == pytest.approx(measured, rel=0.15)


def test_keys_of_the_learner_save_what_they_should():
    shape = shape_of(SMALL)
    full = LearnerFacts(256, 2)
    learned = while_learning(shape, full, 512)
    again = while_learning(shape, replace(full, checkpointing=True), 512)
    assert again.activations < 0.6 * learned.activations and again.gradients == learned.gradients
    deep = shape_of(SMALL.model_copy(update={"layers": 30}))
    recomputed = activations(deep, replace(full, checkpointing=True), 512)
    assert recomputed < 0.35 * activations(deep, full, 512)
    lora = replace(full, rank=4)
    matrices = [  # (inputs, outputs) of a layer's seven matrices
        (64, 64), (64, 32), (64, 32), (64, 64), (64, 96), (64, 96), (96, 64),
    ]  # fmt: skip
    adapters = SMALL.layers * 4 * sum(a + b for a, b in matrices)
    assert trained_parameters(shape, lora) == adapters
    assert held_by_learner(shape, lora).moments == 8 * adapters
    assert held_by_frozen(shape, lora, 1).total == 0 < held_by_frozen(shape, full, 1).total
    small = replace(full, weights=2.0, moment=1.0)
    assert held_by_learner(shape, small).total == shape.parameters * (2 + 2)


def test_the_facts_of_a_learner_are_those_of_its_keys():
    keys = {"gradient_checkpointing": True, "weights": "bfloat16", "lora": {"rank": 8}}
    facts = facts_of(LearnerConfig.parse({**keys, "optimizer": {"moments": "int8"}}, "learner"))
    assert (facts.checkpointing, facts.weights, facts.rank) == (True, 2.0, 8) and 1 < facts.moment < 1.05
    assert facts.gradients == 4.0  # sums of gradients are float32 whatever the weights are
    plain = facts_of(LearnerConfig())
    assert (plain.checkpointing, plain.weights, plain.rank, plain.moment) == (False, 4.0, 0, 4.0)


# Time


def test_a_decoding_step_lies_between_what_was_measured():
    assert FAST.step(1) == 0.01 and FAST.step(16) == pytest.approx(0.02) and FAST.step(64) == 0.05
    assert FAST.step(8.5) == pytest.approx(0.015)
    assert FAST.step(128) == pytest.approx(0.05 + 64 * 0.03 / 48)
    assert FAST.step(0.2) == 0.01


def simulated_steps(lengths, at_once):
    """Steps of continuous batching: a row that ends makes place for a waiting one."""
    waiting, live, steps = list(lengths), [], 0
    while waiting or live:
        while waiting and len(live) < at_once:
            live.append(waiting.pop(0))
        live = [left - 1 for left in live if left > 1]
        steps += 1
    return steps


def test_steps_of_a_call_are_those_of_continuous_batching():
    assert decoding_steps(8, 64, 20, 100) == 100 == simulated_steps([100] + [9] * 7, 64)
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 100, 2000).tolist()
    steps = decoding_steps(2000, 50, float(np.mean(lengths)), 100)
    assert steps == pytest.approx(simulated_steps(lengths, 50), rel=0.05)


def test_a_small_machine_is_measured_once_and_remembered(tmp_path, monkeypatch):
    kernels = cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if kernels is not None and kernels.is_dir():  # so that they are not compiled again
        shutil.copytree(kernels, tmp_path / "r1kit", ignore=shutil.ignore_patterns("models", "rates.json"))
    asked = (shape_of(ModelConfig.preset("nano")), LearnerFacts(128, 2), 1, 1, "float32")
    first = measured_rates(*asked)
    assert first.trained > 0 and first.read > 0 and [rows for rows, _ in first.steps] == [1, 16, 64]

    def refuse(method):
        raise AssertionError("measured again")

    monkeypatch.setattr("r1kit.planning.rates.multiprocessing.get_context", refuse)
    assert measured_rates(*asked) == first
    (tmp_path / "r1kit/rates.json").write_text("{broken")
    with pytest.raises(AssertionError, match="measured again"):
        measured_rates(*asked)


# A recipe


class Planned(recipe_fakes.Write):
    def plan(self):
        own = {"parameters": 1e6, "active_parameters": 5e5} if self.name == "base" else {}
        return StagePlan(tokens=2e6, sampled_tokens=1e6, steps=10, **own)


def test_what_has_run_is_reported_as_measured_and_what_is_unknown_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")
    monkeypatch.setitem(sys.modules, "r1kit.report", recipe_fakes.report)
    file = tmp_path / "tiny.yaml"
    file.write_text(
        "name: tiny\nstages:\n  - {stage: write, name: base}\n  - {stage: write, name: zero, init: "
        "'@base/data.jsonl'}\n"
    )
    recipe = build(read_layers(file, [f"out={tmp_path}/run"]), {"write": Planned})
    base, zero = plan_recipe(recipe, here())
    assert zero.parameters == 1e6 and zero.active_parameters == 5e5 and zero.tokens == 2e6
    assert zero.basis == "unknown" and "gives no phases" in zero.missing[0]
    run(recipe, console=Console(file=io.StringIO()))
    base, _ = plan_recipe(recipe, here())
    record = stage_folder(recipe.run_dir, "base").finished()
    assert base.basis == "measured" and base.seconds == record.seconds
    table = as_table([base, zero], 80, footer([base, zero], here(), Assumptions()))
    assert "gives no phases" in table and "  ~" not in table


def test_every_sampled_token_is_trained_on_once(tmp_path):
    spec = "grpo: {steps: 4, problems: 2, group: 8, max_tokens: 64, updates_per_rollout: %d}"
    for updates in (1, 4):
        file = zero_recipe(tmp_path, spec % updates)
        (stage,) = plan_recipe(load(file), here(), Assumptions(length=0.5, prompt=16))
        assert stage.sampled_tokens == 4 * 2 * 8 * 32
        assert stage.tokens == 4 * 2 * 8 * (32 + 16 / 8)


def parts(tmp_path, algorithm, processes=1):
    (stage,) = plan_recipe(load(zero_recipe(tmp_path, algorithm)), here(processes=processes))
    return next(phase.memory for phase in stage.phases if phase.kind == "learning")


def test_reference_lagged_weights_critic_and_replicas_are_counted(tmp_path):
    keys = "steps: 4, problems: 2, group: 8, max_tokens: 64"
    plain = parts(tmp_path, f"grpo: {{{keys}, beta: 0.0}}")
    weights = 4 * by_hand(SMALL)
    assert plain.frozen == 0 and plain.weights == weights and plain.copies == 2 * 2 * by_hand(SMALL)
    assert parts(tmp_path, f"grpo: {{{keys}, beta: 0.1}}").frozen == weights
    assert (
        parts(tmp_path, f"grpo: {{{keys}, beta: 0.1, off_policy: 1, correction: truncate}}").frozen
        == 2 * weights
    )
    assert parts(tmp_path, f"ppo: {{{keys}, beta: 0.0}}").moments == 2 * plain.moments
    two = parts(tmp_path, f"grpo: {{{keys}, beta: 0.1}}", processes=2)
    # Processes share weights, moments and the reference, and each has gradients of its own.
    assert (two.weights, two.frozen, two.moments) == (weights, weights, plain.moments)
    assert two.gradients == 2 * plain.gradients


def test_what_processes_cannot_share_is_counted_for_each():
    work = Learned(4096.0, 4.0, 128.0, 128.0, 0.0, 1, 0, 0.0)
    for keys, copies in (
        ({}, 1),
        ({"weights": "bfloat16", "optimizer": {"moments": "int8"}}, 1),
        ({"optimizer": {"kind": "muon"}}, 2),
        ({"lora": {"rank": 4}}, 2),
        ({"precision": "float64"}, 2),
    ):
        facts = facts_of(LearnerConfig.parse({"context": 128, "lines": 1, **keys}, "it"))
        one, two = (
            here(processes=processes).learning(shape_of(SMALL), facts, work, Memory())[1]
            for processes in (1, 2)
        )
        assert (two.weights, two.moments) == (copies * one.weights, copies * one.moments), keys
        assert two.gradients == 2 * one.gradients


def test_lengths_of_a_former_run_are_expected(tmp_path):
    rows = [{"stage": "r1_zero", "completions/mean_length": n} for n in (10.0, 14.0)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    former = former_run(tmp_path)
    assert former.lengths == {"r1_zero": 12.0} and former.rows == {}
    (stage,) = plan_recipe(load(zero_recipe(tmp_path)), here(), Assumptions(lengths=former.lengths))
    assert stage.sampled_tokens == 4 * 2 * 8 * 12
    with pytest.raises(ConfigError, match="--former"):
        former_run(tmp_path / "none")


def test_rows_that_a_former_run_trained_on_are_expected(tmp_path):
    steps = [{"stage": "r1_zero", "completions/mean_length": 12.0, "rows": n} for n in (3.0, 5.0, 0.0)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    for name, facts in (
        ("distill", {"rows": 7, "mean_length": 9.5}), ("judges", {"helpful_pairs": 4, "safety_responses": 6})
    ):  # fmt: skip
        (tmp_path / "stages" / name).mkdir(parents=True)
        (tmp_path / "stages" / name / "report.json").write_text(json.dumps(facts))
    former = former_run(tmp_path)
    assert former.lengths == {"r1_zero": 12.0, "distill": 9.5}
    assert former.rows == {"r1_zero": 8.0, "distill": 7.0, "judges/helpful": 8.0, "judges/safety": 6.0}
    recipe = load(zero_recipe(tmp_path))
    (most,) = plan_recipe(recipe, here(), Assumptions(lengths=former.lengths, prompt=16))
    (fewer,) = plan_recipe(recipe, here(), Assumptions(lengths=former.lengths, prompt=16, rows=former.rows))
    assert most.tokens == 4 * 2 * 8 * (12 + 2) and fewer.tokens == 8 * (12 + 2)
    assert fewer.sampled_tokens == most.sampled_tokens


def test_rows_of_a_data_file_are_counted_from_its_beginning(tmp_path):
    file = tmp_path / "rows.jsonl"
    row = json.dumps({"prompt": "p" * 35, "completion": "c" * 35}) + "\n"
    file.write_text(row * 5000)
    counted = count_rows(file, estimating())
    assert counted is not None
    rows, tokens = counted
    assert rows == pytest.approx(5000, rel=0.01)
    assert tokens == pytest.approx(70 / 3.47 + 4, abs=0.6)  # log2(50,000) bits a token, 4.5 a character
    assert count_rows(tmp_path / "none.jsonl", estimating()) is None
    file.write_text(json.dumps({"prompt": "p" * 35, "chosen": "c" * 35, "rejected": "r" * 350}) + "\n")
    assert count_rows(file, estimating()) == (2.0, pytest.approx((24 + 115) / 2, abs=1))


def test_smaller_vocabularies_have_shorter_tokens():
    assert characters_per_token(None) == pytest.approx(3.5, abs=0.1)
    assert characters_per_token(768) == pytest.approx(2.1, abs=0.1)


class Talking(recipe_fakes.Write):
    talk: PromptStyle = PromptStyle()


def test_rows_are_counted_with_the_template_where_the_tokenizer_is_here(tmp_path):
    write_model(tmp_path / "m")
    text = "".join(f"question {n} answer {n * n} " for n in range(300))
    Tokenizer.train([text], 300).save(tmp_path / "m")
    stage, row = Talking(stage="write"), {"prompt": "question 3", "completion": "<think>9</think>9"}
    known = counting(stage, str(tmp_path / "m"), (), 300)
    chat = PromptStyle().chat(tmp_path / "m")
    assert known(row) == [len(training_row(chat, row["prompt"], row["completion"]).token_ids)]
    assert known({"text": "a row of another kind"}) == estimating(300)({"text": "a row of another kind"})
    unknown = counting(stage, str(tmp_path / "nothing"), (), 300)
    assert unknown(row) == estimating(300)(row)


# What is done besides training


def test_preflight_gate_and_watch_are_phases(tmp_path):
    algorithm = "grpo: {steps: 20, problems: 8, group: 8, updates_per_rollout: 1, max_tokens: 300}"
    watch = "\n    watch: {every: 5, problems: 6, n: 2}"
    (stage,) = plan_recipe(load(zero_recipe(tmp_path, algorithm + watch)), here())
    times = {name: [p for p in stage.phases if p.purpose == name] for name in ("preflight", "gate", "watch")}
    # Two short probes of the speed, then 256 rollouts in two rounds.
    assert [(phase.tokens, phase.times) for phase in times["preflight"]] == [
        (64, 2), (32 * 17, 1), (256 * 150, 2)
    ]  # fmt: skip
    # Before the training and after the first updates: 8 problems once, which have enough tokens.
    assert [(phase.tokens, phase.times) for phase in times["gate"]] == [(8 * 150, 1)] * 2
    # Before steps 0, 5, 10 and 15, and at the end.
    assert [(phase.tokens, phase.times) for phase in times["watch"]] == [(5 * 12 * 150, 5)]
    assert stage.sampled_tokens == 20 * 64 * 150  # the data alone

    short = algorithm.replace("max_tokens: 300", "max_tokens: 20, gate_problems: 4")
    (brief,) = plan_recipe(load(zero_recipe(tmp_path, short + "\n    preflight: off")), here())
    assert {phase.purpose for phase in brief.phases} == {"gate", "data"}
    gates = [phase for phase in brief.phases if phase.purpose == "gate"]
    assert [(phase.tokens, phase.times) for phase in gates] == [(4 * 8 * 10, 2)] * 2  # still too few tokens
    without = short.replace("gate_problems: 4", "gate_problems: 0")
    (bare,) = plan_recipe(load(zero_recipe(tmp_path, without + "\n    preflight: off")), here())
    assert [phase.kind for phase in bare.phases] == ["sampling", "learning"]


def test_a_preflight_takes_no_longer_than_it_allows_itself(tmp_path):
    algorithm = "grpo: {steps: 20, problems: 8, group: 8, max_tokens: 60}"
    recipe = load(zero_recipe(tmp_path, algorithm))
    slow = here(rates=replace(FAST, steps=((1, 1.0), (16, 2.0), (64, 5.0))))
    for machine, most in ((slow, 30.0), (here(), None)):
        (stage,) = plan_recipe(recipe, machine)
        *_, judged = (phase for phase in stage.phases if phase.purpose == "preflight")
        assert judged.seconds == most if most else judged.seconds < 30.0


def test_the_gate_reads_what_it_has_sampled():
    work = Sampled(16.0, 1.0, 20.0, 20.0, 10.0, 2, held=True)
    shape = shape_of(SMALL)
    sampled, _ = here().sampling(shape, None, work)
    read, _ = here().sampling(shape, None, replace(work, passes=1.0))
    assert read - sampled == pytest.approx((16 * 20 + 8 * 10) * FAST.read)


def test_a_plan_draws_no_problems(monkeypatch):
    def refuse(self, split):
        raise AssertionError("problems are drawn")

    monkeypatch.setattr("r1kit.tasks.countdown.Countdown.problems", refuse)
    costs = plan_recipe(load(ROOT / "recipes/countdown.yaml"), here(processes=2))
    assert [cost.basis for cost in costs] == ["estimate"] * 3


DISTIL = """\
name: planned
runtime: {kind: local, processes: 1}
stages:
  - stage: distill
    student: %s
    teacher: %s
    problems: 50
    samples: 2
    max_tokens: 32
    general: %s
    tasks: %s
"""


def test_distillation_counts_the_prompts_that_it_has(tmp_path):
    model, prompts = write_model(tmp_path / "m"), tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a question"}\n' * 16)
    for tasks, asked in (("{}", 14), ("{chain: 1.0}", 14 + 50)):  # an eighth of the file is held out
        file = tmp_path / "distil.yaml"
        file.write_text(DISTIL % (model, model, prompts, tasks))
        (stage,) = plan_recipe(load(file), here(), Assumptions(length=1.0, prompt=8))
        assert stage.sampled_tokens == asked * 2 * 32
        assert stage.tokens == asked * 2 * (32 + 8) * 2  # two epochs


def test_an_annotators_answers_are_sampled(tmp_path):
    costs = {
        c.name: c for c in plan_recipe(load(ROOT / "recipes/nano.yaml"), here(), Assumptions(length=0.5))
    }
    prompts = sum(len(General().problems(split)) for split in ("train", "held_out"))
    stage = costs["reward_models"]
    assert stage.sampled_tokens == prompts * 2 * 12
    assert [phase.kind for phase in stage.phases] == ["sampling"] * 2 + ["learning"] * 2
    assert all(cost.basis == "estimate" for cost in costs.values())


def test_a_stage_makes_an_engine_of_each_model_once(tmp_path):
    model, prompts = write_model(tmp_path / "m"), tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a question"}\n' * 16)
    file = tmp_path / "distil.yaml"
    file.write_text(DISTIL % (model, model, prompts, "{chain: 1.0}"))  # two phases of one teacher
    place = Place(stage=1.0, engine=2.0, read=1e6)
    (free,) = plan_recipe(load(file), here(place=Place()))
    (stage,) = plan_recipe(load(file), here(place=place))
    read = 4 * by_hand(SMALL) / 1e6  # by the engine, and by the learner
    assert stage.seconds - free.seconds == pytest.approx(1.0 + 2.0 + 2 * read)
    assert here(place=place).besides([], False) == 1.0
    assert here(place=replace(place, document=0.001)).besides([], True) == 1.0 + TOKENIZER_DOCUMENTS * 0.001


def test_moments_come_after_the_activations_of_the_first_update():
    facts, shape = LearnerFacts(context=256, lines=2), shape_of(SMALL)
    two = Learned(1024.0, 2.0, 256.0, 256.0, 0.0, 0, 0, 0.0, full=True)
    _, both = here().learning(shape, facts, two, Memory())
    _, first = here().learning(shape, facts, replace(two, updates=1.0, tokens=512.0), Memory())
    assert first.moments == 0  # activations are more here
    assert first.total == pytest.approx(both.total - both.moments)
    wide = shape_of(SMALL.model_copy(update={"width": 1024, "ffn_width": 4096}))
    few = replace(two, updates=1.0, tokens=16.0, longest=16.0)
    _, step = here().learning(wide, facts, few, Memory())
    assert step.activations == 0 and step.moments == 8 * wide.parameters  # moments are more here


def test_multi_token_prediction_is_one_more_layer():
    facts, shape = LearnerFacts(context=256, lines=2), shape_of(SMALL)
    plain = Learned(4096.0, 8.0, 256.0, 256.0, 0.0, 0, 0, 0.0, full=True)
    seconds, memory = here().learning(shape, facts, plain, Memory())
    longer, larger = here().learning(shape, facts, replace(plain, ahead=0.5), Memory())
    assert longer - seconds == pytest.approx(4096 * FAST.trained * 0.5 / 3)
    assert larger.activations - memory.activations == 512 * layer_bytes(shape, facts)
    assert larger.logits == 2 * memory.logits


def test_the_parts_of_an_update_add_up():
    facts, shape = LearnerFacts(context=256, lines=2), shape_of(SMALL)
    rates = replace(FAST, batch=0.5, row=0.25, disk=1e30)
    work = Learned(4096.0, 2.0, 256.0, 256.0, 0.0, 0, 0, 0.0, rows=16.0)
    seconds, _ = here(rates=rates).learning(shape, facts, work, Memory())
    batches = 2 * 4  # 2,048 tokens of an update in lines of 512 positions
    assert seconds == pytest.approx(2 * 0.1 + batches * 0.5 + 16 * 0.25 + 4096 * 1e-3)


def test_muon_is_measured_as_what_it_is():
    muon = facts_of(LearnerConfig.parse({"optimizer": {"kind": "muon"}}, "learner"))
    assert muon.optimizer == "muon" and facts_of(LearnerConfig()).optimizer == "adamw"


# Compiled products


def test_different_widths_are_counted_and_not_every_batch():
    draw = np.random.default_rng(0)
    counts = [len(set(draw.integers(0, 40, 60).tolist())) for _ in range(200)]
    assert distinct(40, 60) == pytest.approx(float(np.mean(counts)), rel=0.03)
    assert distinct(40, 0) == 0 and distinct(1, 5) == 1
    assert [possible_widths(most) for most in (8, 100, 512, 4992)] == [1, 7, 32, 32]
    assert Met(whole=500, most=4096).widths == 2 and Met(whole=500, most=4096).share == 0
    assert Met(others=500, most=4096).widths == pytest.approx(32)


def test_holes_in_the_heap_of_a_small_model_are_counted_by_the_widths_that_it_met(tmp_path):
    facts, shape = LearnerFacts(context=256, lines=2), shape_of(SMALL)
    full = Learned(4096.0, 8.0, 256.0, 256.0, 0.0, 0, 0, 0.0, full=True)
    many = replace(full, full=False, updates=500.0, tokens=500 * 512.0)
    _, one_width = here().learning(shape, facts, full, Memory())
    _, all_widths = here().learning(shape, facts, many, Memory())
    assert all_widths.activations == pytest.approx(3 * one_width.activations, rel=0.01)
    large = shape_of_keys({"preset": "qwen2.5-1.5b"}, None)
    pairs = [here().learning(large, facts, work, Memory())[1].activations for work in (full, many)]
    assert pairs[0] == pairs[1]  # its memory is returned before every update


def test_products_are_kept_from_stage_to_stage_and_have_a_limit():
    shape = shape_of(SMALL)
    assert kinds(shape) == 4  # 64 to 64 (queries, out), 64 to 32, 64 to 96, 96 to 64
    met = Met(others=10.0, most=512.0)
    once = Compiled().after(shape, met)
    assert once.count == products_of(shape, met) == 3 * 4 * met.widths
    again = once.after(shape, met)
    assert once.count < again.count < 2 * once.count  # some widths are the same
    other = again.after(shape_of(ModelConfig.preset("nano")), met)
    assert other.count > again.count
    for _ in range(40):
        other = other.after(replace(shape, width=shape.width + len(other.met)), met)
    assert other.count == MOST


def test_compiled_products_take_memory_and_time(tmp_path):
    recipe = load(zero_recipe(tmp_path, processes=2))
    (none,) = plan_recipe(recipe, here(processes=2))
    (some,) = plan_recipe(recipe, here(processes=2, product=Product(5e5, 0.01)))
    learning = [next(p for p in cost.phases if p.kind == "learning") for cost in (none, some)]
    count = (learning[1].memory.program - learning[0].memory.program) / 2 / 5e5
    assert count > 10 and learning[1].seconds - learning[0].seconds == pytest.approx(count * 0.01)


@pytest.mark.slow
def test_what_a_product_takes_is_measured():
    product = measured_product(shape_of(SMALL), "float32", 1)
    assert 0 <= product.memory < 5e6 and 0 <= product.seconds < 1


def test_pure_rl_of_the_paper_takes_the_papers_gpu_hours():
    recipe = load(ROOT / "recipes/r1-full.yaml")
    plans = {p.name: p for p in plan_recipe(recipe, GPUs(fleet_of("h800:512")), Assumptions(length=0.2))}
    hours = plans["r1_zero"].gpu_hours + plans["r1_zero_long"].gpu_hours
    assert hours == pytest.approx(101_000, rel=0.25)
    pretraining = plans["pretrain"].gpu_hours  # DeepSeek-V3's report, table 1: 2.664M H800 hours
    assert pretraining == pytest.approx(2.664e6, rel=0.25)


def test_a_decoding_step_of_few_rows_reads_the_experts_that_they_take():
    shape = shape_of_keys({"preset": "v3-671b"}, None)
    one, many = bytes_per_step(shape, 1, 0, 1.0), bytes_per_step(shape, 10_000, 0, 1.0)
    assert one == pytest.approx(shape.active, rel=1e-6)
    everything = shape.active + shape.expert_parameters * (1 - 8 / 256)
    assert many == pytest.approx(everything, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "says"), [("h101", "h100"), ("h100:none", "number of GPUs"), ("h100:0", "")]
)
def test_gpus_that_are_not_in_the_table_are_refused(text, says):
    with pytest.raises(ConfigError, match=f"--gpu {text}.*{says}"):
        fleet_of(text)
    assert fleet_of("h100:8", 0.5).compute_share == 0.5


# What fits


def test_the_change_that_is_proposed_makes_it_fit(tmp_path):
    recipe = load(zero_recipe(tmp_path, processes=2))
    (stage,) = plan_recipe(recipe, here(processes=2))
    enough = stage.memory_mb * 1e6
    assert fit.misfits(plan_recipe(recipe, here(processes=2, limit=enough))) == []
    less = here(processes=2, limit=enough - 1)
    misfit = fit.misfits(plan_recipe(recipe, less))
    assert [cost.name for cost in misfit] == ["r1_zero"]
    change = fit.fitting_change(recipe, less, Assumptions())
    assert change == "runtime.processes=1"
    assert "runtime.processes=1" in fit.in_words(misfit, less, change)
    hopeless = here(limit=1e6)
    assert fit.fitting_change(recipe, hopeless, Assumptions()) is None
    assert "no single change" in fit.in_words(misfit, hopeless, None)


@pytest.mark.parametrize("key", ["batch", "max_tokens"])
def test_solving_finds_the_largest_value_that_fits(tmp_path, key):
    spec = "grpo: {steps: 4, problems: 64, group: 8, max_tokens: 4096}"
    file = zero_recipe(tmp_path, spec)
    text = file.read_text().replace("context: 256, lines: 2", "context: 8192, lines: 16")
    file.write_text(text)
    recipe, machine = load(file), here(limit=1e9)
    found = fit.solve(recipe, machine, Assumptions(), fit.key_of(key))
    largest = re.search(r": (\d+) is the largest", found)
    assert largest
    value = int(largest[1])

    def misfits(value):
        name = {"batch": "lines: 16", "max_tokens": "max_tokens: 4096"}[key]
        own = file.with_name("changed.yaml")
        changed = text.replace(name, f"{name.split(':')[0]}: {value}")
        if key == "max_tokens":
            changed = changed.replace("context: 8192", f"context: {max(256, 2 * value)}")
        own.write_text(changed)
        return fit.misfits(plan_recipe(load(own), machine))

    assert 1 < value < 4096 and not misfits(value) and misfits(value + 1)


def test_solving_an_unknown_key_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--solve bach: did you mean 'batch'"):
        fit.key_of("bach")
    assert "no stage samples" in fit.solve(
        load(ROOT / "recipes/nano.yaml").model_copy(update={"stages": ()}),
        here(),
        Assumptions(),
        "max_tokens",
    )


def test_the_command_ends_with_3_where_it_does_not_fit(tmp_path):
    file = zero_recipe(tmp_path, "grpo: {steps: 4, problems: 512, group: 256, max_tokens: 128}")
    file.write_text(file.read_text().replace("lines: 2", "lines: 1000000"))
    command = ["plan", str(file), "--gpu", "l4", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 3, result.output
    assert "it fits with learner.lines=" in result.stderr
    plans = json.loads(result.stdout)
    learning = next(phase for phase in plans[0]["phases"] if phase["kind"] == "learning")
    assert plans[0]["fits"] is False and learning["memory"]["activations"] > 24e9
    lines = re.search(r"learner\.lines=(\d+)", result.stderr)
    assert lines
    fitting = [*command, "--price", "2", f"stages.r1_zero.learner.lines={lines[1]}"]
    result = CliRunner().invoke(app, fitting)
    assert result.exit_code != 3  # the folder has no weights, which the check of all files finds
    (plan,) = json.loads(result.stdout)
    assert plan["price"] == pytest.approx(2 * plan["gpu_hours"]) and plan["basis"] == "estimate"


# The table


LARGE = StageCost(
    "rejection_sampling", 6.71e11, 3.76e10, 1.48e13, 1.38e11, 234_567, 10_736_422, 1.1e14, "estimate",
    fits=False,
)  # fmt: skip
MEASURED = StageCost("sft", 1.49e6, 8.28e5, None, 538_000, None, 24.2, 107.4, "measured")
UNKNOWN = StageCost("x", None, None, None, None, None, None, None, "unknown", missing=("init",))


def test_the_table_keeps_its_columns_apart_on_eighty_columns():
    table = as_table([LARGE, MEASURED, UNKNOWN])
    header, *rows = table.splitlines()[:4]
    assert header.split() == ["stage", "model", "trained", "sampled", "steps", "memory", "time"]
    cells = [re.split(r"  +", row) for row in rows]
    large = ["rejection_sampling", "671B", "14.8T", "138B", "235k", "!10.7 TB", "~> 1 year"]
    assert cells[0] == large
    assert cells[1] == ["sft", "1.49M", "-", "538k", "-", "24 MB", "107 s"]
    assert cells[2] == ["x", *"------"]


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_of_the_table_is_too_wide(width):
    memory = Memory(*(1e9 * n for n in range(1, 10)))
    phase = PhaseCost("learning", "", 1e9, 1e20, 3e5, memory)
    priced = replace(LARGE, price=123456.0, gpu_hours=5e4, phases=(phase,), missing=("a key " * 30,))
    costs = [priced, MEASURED, UNKNOWN]
    table = as_table(costs, width, footer(costs, here(), Assumptions()))
    assert max(map(len, table.splitlines())) <= width
    assert ("active" in table.splitlines()[0]) == (width == 100) and "price" in table.splitlines()[0]
    assert "a key a key" in table and "most memory: rejection_sampling" in table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.04, "2.0 s"),
        (119, "119 s"),
        (401, "6.7 min"),
        (7300, "2.0 h"),
        (3e5, "3.5 days"),
        (4.2e8, "> 1 year"),
    ],
)
def test_a_plan_gives_a_time_in_one_unit(seconds, text):
    plan = replace(UNKNOWN, seconds=seconds, basis="measured")
    assert as_table([plan]).splitlines()[1].endswith(f"  {text}")


def test_every_gpu_of_the_table_has_a_source_and_sensible_numbers():
    for gpu in rates.GPUS.values():
        assert gpu.source and 1e10 < gpu.memory < 1e12 and 1e11 < gpu.bandwidth < 1e14


def test_engines_of_their_own_are_counted_with_their_weights_and_their_programs(tmp_path):
    """Two learners and three engines on Ray; the other side: two replicas that sample themselves."""
    shape, _ = shape_of_name(str(write_model(tmp_path / "m")))
    facts = LearnerFacts(context=64, lines=2, shared=True)
    work = Sampled(48.0, 1.0, 20.0, 32.0, 8.0, 4, held=True)
    seconds, together = here(processes=2, engines=3).sampling(shape, facts, work)
    one_third = here().sampling(shape, facts, replace(work, completions=16.0))  # what one of them samples
    assert seconds == pytest.approx(one_third[0])
    assert together.weights == 3 * 4 * shape.parameters
    assert together.copies == 3 * one_third[1].copies and together.cache == 3 * one_third[1].cache
    assert together.program == 330e6 + 5 * 280e6 + 680e6
    assert here(processes=2).sampling(shape, facts, work)[1].weights == 0

    update = Learned(1000.0, 1.0, 64.0, 64.0, 0.0, 0, 0, 0.0)
    _, apart = here(processes=2, engines=3).learning(shape, facts, update, together)
    _, replicas = here(processes=2).learning(shape, facts, update, Memory())
    own = facts.weights * shape.parameters  # replicas of one machine hold them once, learners on Ray each
    assert replicas.weights == own and apart.weights == 2 * own + together.weights
    assert apart.moments == 2 * replicas.moments and apart.activations == replicas.activations
    phase = PhaseCost("learning", "", 1e9, 1e20, 3e5, apart)
    lines = footer([replace(LARGE, phases=(phase,))], here(processes=2, engines=3), Assumptions())
    assert any("2 learners and 3 engines" in line for line in lines)
