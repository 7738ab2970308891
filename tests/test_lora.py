"""Adapters: forward pass and gradient are those of the papers' formulas and of peft; states are small and
resume bit for bit; engine and learner agree."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_world import Spied, learner_config, model, model_directory, random_rows, same_weights
from torch import Tensor
from transformers import AutoModelForCausalLM

from r1kit.config import ConfigError
from r1kit.engine.native import NativeEngine
from r1kit.model.adapters import AdaptedLinear, AdapterShape, Weights, adapt, adapters
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.model.norms import Linear
from r1kit.records import ADAPTER
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.train import checkpoint
from r1kit.train.checkpoint import StateError
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.lora import LoRAConfig, save_adapters
from r1kit.train.objectives import CrossEntropy
from r1kit.types import Sampling

FORMS = [
    LoRAConfig(rank=4, alpha=8),
    LoRAConfig(rank=4, alpha=8, rslora=True),
    LoRAConfig(rank=4, alpha=8, dora=True),
]


def configured(form: LoRAConfig, **optimizer: object) -> LearnerConfig:
    return learner_config(**optimizer).model_copy(update={"lora": form})


def stir(network: torch.nn.Module, seed: int = 3) -> None:
    """Move every adapter away from zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in adapters(network).values():
            module.lora_B.normal_(0, 0.1, generator=generator)
            if module.lora_magnitude is not None:
                drawn = torch.rand(len(module.lora_magnitude), generator=generator)
                module.lora_magnitude.mul_(0.5 + drawn.to(module.lora_magnitude))


def steps(learner: Learner, first: int, last: int) -> None:
    for step in range(first, last):
        learner.update(random_rows(4, seed=step), CrossEntropy(), 1.0)


def by_hand(x: Tensor, base: Linear, parts: dict[str, Tensor], scale: float) -> Tensor:
    """The equations of LoRA (2106.09685) and DoRA (2402.09353, section 4.3: the length gets no gradient)."""
    weight = base.weight + scale * parts["lora_B"] @ parts["lora_A"]
    if "lora_magnitude" in parts:
        weight = parts["lora_magnitude"][:, None] * weight / weight.detach().square().sum(1).sqrt()[:, None]
    found = x @ weight.T
    return found if base.bias is None else found + base.bias


@pytest.mark.parametrize("form", FORMS, ids=["lora", "rslora", "dora"])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_gradient_are_the_papers(form: LoRAConfig, bias: bool) -> None:
    torch.manual_seed(0)
    base = Linear(7, 5, bias=bias).double()
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter)
    adapted = AdaptedLinear(base, form.shape, "q_proj")
    stir(torch.nn.ModuleList([adapted]))
    parts = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in adapted.named_parameters()
        if name.startswith("lora_")
    }
    x, slope = torch.randn(3, 7, dtype=torch.float64, requires_grad=True), torch.randn(3, 5).double()
    scale = 8 / 4**0.5 if form.rslora else 8 / 4
    expected = by_hand(x, base, parts, scale)
    found = adapted(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad((expected * slope).sum(), [x, *parts.values()])
    given = torch.autograd.grad((found * slope).sum(), [x, *(getattr(adapted, name) for name in parts)])
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        x @ adapted.whole().T + (0 if base.bias is None else base.bias), found, rtol=1e-12, atol=1e-12
    )
    assert not base.weight.requires_grad and not adapted.weight.requires_grad


@pytest.mark.parametrize("form", FORMS, ids=["lora", "rslora", "dora"])
@pytest.mark.parametrize("preset", ["nano", "student"])
def test_training_begins_at_the_model_itself_and_trains_adapters_only(form: LoRAConfig, preset: str) -> None:
    plain, spied = Spied(preset=preset), Spied(configured(form), preset=preset)
    rows = random_rows(5)
    for ours, theirs in zip(spied.learner.logprobs(rows), plain.learner.logprobs(rows), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    steps(spied.learner, 0, 2)
    before, after = plain.model.state_dict(), spied.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert set(after) - set(before) == {
        name for name, parameter in spied.model.named_parameters() if parameter.requires_grad
    }
    assert all(float(module.lora_B.detach().abs().max()) > 0 for module in adapters(spied.model).values())
    assert list(Weights(spied.model)) == list(before)


@pytest.mark.parametrize("form", FORMS, ids=["lora", "rslora", "dora"])
@pytest.mark.parametrize("preset", ["student", "nano"])
def test_logits_and_gradients_are_those_of_peft(form: LoRAConfig, preset: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    ours = model(preset=preset, mtp_depth=0) if preset == "nano" else model(preset=preset)
    ours = ours.double()
    save_pretrained(ours, tmp_path / "base")
    adapt(ours, form.shape)
    stir(ours)
    save_adapters(ours, form, tmp_path / "adapter", str(tmp_path / "base"))
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.float64, experts_implementation="eager"
    )
    theirs = peft.PeftModel.from_pretrained(
        base, tmp_path / "adapter", is_trainable=True, autocast_adapter_dtype=False
    )
    ours.train(), theirs.train()
    tokens_BT = torch.randint(0, 320, (2, 11), generator=torch.Generator().manual_seed(0))
    our_logits = torch.nn.functional.linear(ours(tokens_BT).hidden_BTD, ours.lm_head.weight)
    their_logits = theirs(input_ids=tokens_BT).logits.to(our_logits)
    # transformers computes norms and rotations in float32 whatever the model's precision is
    torch.testing.assert_close(our_logits, their_logits, rtol=0, atol=1e-5)
    assert len(adapters(ours)) >= 8
    for number, (name, module) in enumerate(adapters(ours).items()):
        torch.manual_seed(number)
        x = torch.randn(3, module.in_features, dtype=torch.float64, requires_grad=True)
        slope = torch.randn(3, module.out_features, dtype=torch.float64)
        other = theirs.get_submodule(f"base_model.model.model.{name}")
        trained = [module.lora_A, module.lora_B, module.lora_magnitude]
        same = [other.lora_A["default"].weight, other.lora_B["default"].weight]
        if form.dora:
            same.append(other.lora_magnitude_vector["default"].weight)
        found, expected = module(x), other(x)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for given, wanted in zip(
            torch.autograd.grad((found * slope).sum(), [x, *trained[: len(same)]]),
            torch.autograd.grad((expected * slope).sum(), [x, *same]),
            strict=True,
        ):
            torch.testing.assert_close(given, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS[1:], ids=["rslora", "dora"])
def test_adapters_are_saved_under_pefts_names_and_shapes(form: LoRAConfig, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    save_pretrained(model(preset="student"), tmp_path / "base")
    ours = load_pretrained(tmp_path / "base")
    adapt(ours, form.shape, ["q_proj", "down_proj"])
    save_adapters(ours, form, tmp_path / "ours", "base")
    settings = {"r": 4, "lora_alpha": 8, "use_rslora": form.rslora, "use_dora": form.dora}
    wanted = peft.LoraConfig(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **settings)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), wanted)
    theirs.save_pretrained(tmp_path / "theirs")
    files = [load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs")]
    shapes = [{name: tensor.shape for name, tensor in file.items()} for file in files]
    assert shapes[0] == shapes[1]
    configs = [json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs")]
    compared = set(configs[0]) - {"base_model_name_or_path", "target_modules"}
    assert {key: configs[0][key] for key in compared} == {key: configs[1][key] for key in compared}
    assert sorted(configs[0]["target_modules"]) == sorted(configs[1]["target_modules"])


def test_a_target_that_the_model_lacks_is_an_error_that_names_those_it_has() -> None:
    with pytest.raises(ConfigError, match=r"w_proj: this model has no such projection.*q_proj"):
        adapt(model(preset="student"), AdapterShape(4, 2.0), ["q_proj", "w_proj"])
    chosen = model(preset="student")
    adapt(chosen, AdapterShape(4, 2.0), ["q_proj", "v_proj"])
    assert {name.rpartition(".")[2] for name in adapters(chosen)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("form", FORMS, ids=["lora", "rslora", "dora"])
def test_a_merged_model_computes_the_same(form: LoRAConfig, tmp_path: Path) -> None:
    spied = Spied(configured(form, learning_rate=1e-2))
    steps(spied.learner, 0, 3)
    save_pretrained(spied.model, tmp_path)
    merged = Learner(load_pretrained(tmp_path), learner_config())
    rows = random_rows(6, seed=9)
    for ours, theirs in zip(merged.logprobs(rows), spied.learner.logprobs(rows), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5)
    assert "lora_A" not in "".join(load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("kernels", [None, False], ids=["compiled", "pytorch"])
@pytest.mark.parametrize("preset", ["nano", "student"])
def test_the_engine_samples_from_the_newest_adapters(kernels: bool | None, preset: str) -> None:
    spied = Spied(configured(FORMS[2], learning_rate=1e-2), preset=preset)
    engine = NativeEngine(spied.model, [0], kernels=kernels)
    prompts, sampling = [np.arange(1, 6)], Sampling(3, 1.0, max_tokens=12)
    first = engine.generate(prompts, sampling, [5])
    steps(spied.learner, 0, 4)
    engine.load(spied.learner.weights(), 4)
    second = engine.generate(prompts, sampling, [5])
    plain = Spied(preset=preset)
    plain.model.load_state_dict(dict(Weights(spied.model)))
    expected = NativeEngine(plain.model, [0], kernels=kernels).generate(prompts, sampling, [5])
    for found, wanted in zip(second[0], expected[0], strict=True):
        np.testing.assert_array_equal(found.token_ids, wanted.token_ids)
        np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=2e-4)
    assert any(not np.array_equal(a.logprobs, b.logprobs) for a, b in zip(first[0], second[0], strict=True))
    assert second[0][0].version == 4


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("form", [FORMS[0], FORMS[2]], ids=["lora", "dora"])
def test_resuming_is_bit_identical_and_states_hold_adapters_only(
    form: LoRAConfig, kind: str, tmp_path: Path
) -> None:
    config = configured(form, learning_rate=1e-2, kind=kind)
    straight, first, second = Spied(config), Spied(config), Spied(config)
    steps(straight.learner, 0, 6)
    steps(first.learner, 0, 3)
    first.learner.save(tmp_path, {"step": 3})
    second.learner.restore(tmp_path)
    steps(second.learner, 3, 6)
    assert same_weights(straight.model, second.model)
    file = checkpoint.find(tmp_path) / checkpoint.FILE
    trained = {name for name, p in first.model.named_parameters() if p.requires_grad}
    stored = {name.removeprefix("model.") for name in load_file(file) if name.startswith("model.")}
    assert stored == trained | {name for name, _ in first.model.named_buffers()}
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["base"] == first.model.base


def test_a_state_of_adapters_on_other_weights_is_refused(tmp_path: Path) -> None:
    config = configured(FORMS[0])
    first, other = Spied(config), Spied(config, seed=2)
    steps(first.learner, 0, 1)
    first.learner.save(tmp_path, {"step": 1})
    with pytest.raises(StateError, match="adapters on other weights"):
        other.learner.restore(tmp_path)
    whole = Spied(learner_config(), seed=1)
    with pytest.raises(StateError, match="another model"):
        whole.learner.restore(tmp_path)


def same_storage(one: LanguageModel, other: LanguageModel) -> bool:
    theirs = dict(other.named_parameters())
    shared = [
        (name, p) for name, p in one.named_parameters() if "lora_" not in name and "value_head" not in name
    ]
    return bool(shared) and all(p.data_ptr() == theirs[name].data_ptr() for name, p in shared)


def test_learners_on_one_model_share_its_weights_and_not_their_adapters(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "base")
    runtime, config = LocalRuntime(LocalConfig(processes=1, engine_precision="float32")), configured(FORMS[0])
    policy, reference = runtime.learner(folder, config), runtime.learner(folder, config)
    critic, whole = (
        runtime.learner(folder, config, scalar_head=True),
        runtime.learner(folder, learner_config()),
    )
    models = [one.local().model for one in (policy, reference, critic)]
    assert same_storage(models[0], models[1]) and same_storage(models[0], models[2])
    assert not same_storage(whole.local().model, models[0])
    rows = random_rows(4)
    before = reference.logprobs(rows)
    policy.update(rows, CrossEntropy(), 1.0)
    policy.update(rows, CrossEntropy(), 1.0)
    changed = policy.logprobs(rows)
    for still, original, moved in zip(reference.logprobs(rows), before, changed, strict=True):
        np.testing.assert_array_equal(still, original)
        assert not np.array_equal(moved, original)
    reference.copy_from(policy)
    for copied, original in zip(reference.logprobs(rows), changed, strict=True):
        np.testing.assert_array_equal(copied, original)
    assert models[2].value_head is not None and models[2].value_head.weight.requires_grad
    runtime.export(policy, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / ADAPTER).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    runtime.close()


def run_of(make: Callable[[], LocalRuntime], folder: Path) -> list[np.ndarray]:
    runtime = make()
    learner = runtime.learner(folder, configured(FORMS[0], learning_rate=1e-2))
    for step in range(2):
        learner.update(random_rows(6, seed=step), CrossEntropy(), 1.0)
    found = learner.logprobs(random_rows(6, seed=7))
    runtime.close()
    return found


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "base")
    one, two = (
        run_of(lambda n=n: LocalRuntime(LocalConfig(processes=n)), folder)  # type: ignore[misc]
        for n in (1, 2)
    )
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
