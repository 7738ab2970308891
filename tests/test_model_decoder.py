"""What the decoder computes, against transformers' layers, brute force and hand computation."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from r1kit.config import ConfigError, R1kitError
from r1kit.model.attention import Mask, attend
from r1kit.model.config import PRESETS, ModelConfig
from r1kit.model.config_json import config_json
from r1kit.model.decoder import LanguageModel, members, parameter_count, restarting_positions
from r1kit.model.experts import Experts, Gate, MixtureOfExperts, balance_loss
from r1kit.model.huggingface import to_disk

SHAPES: dict[str, ModelConfig] = {
    "latent": ModelConfig.preset("nano", init_std=0.15),
    "latent, query rank, groups": ModelConfig.preset(
        "nano",
        init_std=0.15,
        q_rank=24,
        experts=8,
        active_experts=3,
        groups=4,
        groups_kept=2,
        tie_embeddings=False,
    ),
    "grouped": ModelConfig.preset("student", vocab_size=256, init_std=0.15),
}
each_shape = pytest.mark.parametrize("name", SHAPES)


def build(config: ModelConfig, seed: int = 1) -> LanguageModel:
    return LanguageModel(config, seed=seed).eval()


def draw(*shape: int, top: int = 256, seed: int = 3) -> Tensor:
    return torch.randint(0, top, shape, generator=torch.Generator().manual_seed(seed))


def logits(model: LanguageModel, tokens_BT: Tensor, **rest: Any) -> Tensor:
    with torch.no_grad():
        return model.logits(model(tokens_BT, **rest).hidden_BTD)


def close(actual: Tensor, expected: Tensor, tolerance: float = 2e-5) -> bool:
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0))


@each_shape
def test_decoding_ragged_rows_with_a_cache_equals_the_whole_sequence(name: str) -> None:
    model, tokens_BT = build(SHAPES[name]), draw(3, 40)
    lengths_B, rows = torch.tensor([3, 20, 11]), torch.arange(3)
    expected = logits(model, tokens_BT)
    cache = model.new_cache(3, 41)
    prefill = logits(model, tokens_BT[:, :20], cache=cache)
    cache.lengths_B = lengths_B  # the rest of the right-padded prompts is garbage, to be overwritten
    assert close(prefill[rows, lengths_B - 1], expected[rows, lengths_B - 1])
    for step in range(17):
        places_B = lengths_B + step
        one = logits(model, tokens_BT[rows, places_B][:, None], cache=cache)
        assert close(one[:, 0], expected[rows, places_B])
    assert cache.lengths_B.tolist() == (lengths_B + 17).tolist()


@each_shape
def test_several_tokens_at_once_extend_a_ragged_cache(name: str) -> None:
    model, tokens_BT = build(SHAPES[name]), draw(2, 30)
    expected, cache = logits(model, tokens_BT), model.new_cache(2, 40)
    logits(model, tokens_BT[:, :9], cache=cache)
    cache.lengths_B = torch.tensor([9, 4])
    chunk = torch.stack((tokens_BT[0, 9:20], tokens_BT[1, 4:15]))
    assert close(logits(model, chunk, cache=cache), torch.stack((expected[0, 9:20], expected[1, 4:15])))


@each_shape
def test_selected_rows_go_on_alone(name: str) -> None:
    model, tokens_BT = build(SHAPES[name]), draw(3, 12)
    cache = model.new_cache(3, 20)
    logits(model, tokens_BT[:, :8], cache=cache)
    cache.lengths_B = torch.tensor([8, 2, 5])
    picked = cache.select(torch.tensor([2, 2, 1]))
    assert (picked.lengths_B.tolist(), picked.longest) == ([5, 5, 2], 5)
    new = draw(3, 1, seed=9)
    actual = logits(model, new, cache=picked)[:, 0]
    for row, (source, length) in enumerate(((2, 5), (2, 5), (1, 2))):
        alone = torch.cat((tokens_BT[source, :length], new[row]))[None]
        assert close(actual[row], logits(model, alone)[0, -1])
    assert cache.lengths_B.tolist() == [8, 2, 5]


def test_a_full_cache_says_how_long_it_must_be() -> None:
    model = build(SHAPES["grouped"])
    cache = model.new_cache(1, 16)
    logits(model, draw(1, 16), cache=cache)
    with pytest.raises(R1kitError, match="holds 16 positions but a row needs 17"):
        logits(model, draw(1, 1), cache=cache)


@each_shape
def test_packed_segments_compute_what_separate_rows_compute(name: str) -> None:
    model, tokens_BT = build(SHAPES[name]), draw(1, 23)
    segments_BT = torch.tensor([[1] * 9 + [2] * 5 + [3] * 6 + [0] * 3])
    packed = logits(model, tokens_BT, segments_BT=segments_BT)[0]
    apart = [logits(model, piece)[0] for piece in tokens_BT[:, :20].split((9, 5, 6), dim=1)]
    assert close(packed[:20], torch.cat(apart))
    assert packed.isfinite().all()
    explicit = torch.tensor([[*range(9), *range(5), *range(6), *range(3)]])
    assert restarting_positions(segments_BT).tolist() == explicit.tolist()
    assert torch.equal(logits(model, tokens_BT, positions_BT=explicit, segments_BT=segments_BT)[0], packed)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("rows", [1, 2])
def test_both_attention_paths_equal_brute_force(
    kv_heads: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, *shape, generator=generator)
        for shape in ((5, 6, 8), (9, kv_heads, 8), (9, kv_heads, 4))
    )
    visible = torch.rand(rows, 5, 9, generator=generator) < 0.6
    visible[..., 0] = True
    expected = torch.empty(2, 5, 6, 4)
    for b in range(2):
        for t in range(5):
            for h in range(6):
                seen = visible[b % rows, t].nonzero().flatten()
                keys, values = k[b, seen, h * kv_heads // 6], v[b, seen, h * kv_heads // 6]
                expected[b, t, h] = torch.softmax(0.3 * keys @ q[b, t, h], 0) @ values
    mask = Mask.of(visible, torch.float32)
    assert close(attend(q, k, v, mask, 0.3), expected, 1e-6)
    monkeypatch.setattr("r1kit.model.attention.EXPLICIT_PAIRS", 0)
    assert close(attend(q, k, v, mask, 0.3), expected, 1e-6)


@each_shape
def test_the_fused_path_gives_the_same_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens_BT = build(SHAPES[name]), draw(2, 20)
    expected = logits(model, tokens_BT)
    monkeypatch.setattr("r1kit.model.attention.EXPLICIT_PAIRS", 0)
    assert close(logits(model, tokens_BT), expected)


def transformers_twin(model: LanguageModel) -> Any:
    """transformers' class with the same weights, built without going through files."""
    config = transformers.AutoConfig.for_model(
        **config_json(model.config, torch.float32), attn_implementation="eager"
    )
    twin = transformers.AutoModelForCausalLM.from_config(config)
    further = f"model.layers.{model.config.layers}."  # multi-token prediction
    named = {
        name: tensor
        for name, tensor in to_disk(model.config, model.state_dict())
        if not name.startswith(further)
    }
    for layer in range(model.config.layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        own = {name: named.pop(name) for name in list(named) if name.startswith(prefix)}
        if own:
            each = [
                [own[f"{prefix}{e}.{kind}_proj.weight"] for e in range(len(own) // 3)]
                for kind in ("gate", "up", "down")
            ]
            gate, up, down = (torch.stack(tensors) for tensors in each)
            named |= {f"{prefix}gate_up_proj": torch.cat((gate, up), dim=1), f"{prefix}down_proj": down}
    missing, unexpected = twin.load_state_dict(named, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    twin.tie_weights()
    return twin.eval()


@pytest.mark.parametrize("name", ["latent, query rank, groups", "latent"])
def test_gradients_of_every_parameter_equal_transformers(name: str) -> None:
    model = build(SHAPES[name])
    twin, x, y = transformers_twin(model), draw(3, 24), draw(3, 24, seed=4)
    F.cross_entropy(model.logits(model(x).hidden_BTD).flatten(0, 1), y.flatten()).backward()
    F.cross_entropy(twin(x).logits.flatten(0, 1), y.flatten()).backward()
    theirs = {key: parameter.grad for key, parameter in twin.named_parameters()}
    compared = 0
    ours = {key: p.grad for key, p in model.named_parameters() if not key.startswith("mtp_layers")}
    for key, grad in ours.items():
        assert grad is not None, key
        if ".experts." in key:
            stacked = theirs[
                "model." + key.replace("gate_proj", "gate_up_proj").replace(".up_proj", ".gate_up_proj")
            ]
            half = grad.shape[1]
            expected = (
                stacked if "down" in key else stacked[:, :half] if "gate_proj" in key else stacked[:, half:]
            )
        else:
            expected = theirs["lm_head.weight" if key == "lm_head.weight" else f"model.{key}"]
        assert close(grad, expected, 1e-5), key
        compared += 1
    assert compared > 25


def test_gradients_of_dense_families_equal_transformers() -> None:
    model = build(SHAPES["grouped"])
    twin, x, y = transformers_twin(model), draw(2, 20), draw(2, 20, seed=4)
    F.cross_entropy(model.logits(model(x).hidden_BTD).flatten(0, 1), y.flatten()).backward()
    F.cross_entropy(twin(x).logits.flatten(0, 1), y.flatten()).backward()
    theirs = dict(twin.named_parameters())
    for key, parameter in model.named_parameters():
        assert close(parameter.grad, theirs[f"model.{key}"].grad, 1e-5), key


def test_a_step_along_the_gradient_of_all_losses_changes_them_as_finite_differences_say() -> None:
    model = LanguageModel(ModelConfig.preset("nano", init_std=0.15, scalar_head=True), seed=1).train()
    x, y = draw(2, 16), draw(2, 16, seed=4)

    def loss() -> Tensor:
        out = model(x, balance=True)
        predicted = model.mtp(out.last_BTD, y)
        main = F.cross_entropy(model.logits(out.hidden_BTD).flatten(0, 1), y.flatten())
        further = F.cross_entropy(model.logits(predicted).flatten(0, 1), x.flatten())
        return main + further + out.balance_BS.sum() + model.values(out.hidden_BTD).square().mean()

    loss().backward()
    grads = [parameter.grad for parameter in model.parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)
    slope = float(sum(grad.double().square().sum() for grad in grads if grad is not None))
    step = 2e-3 / slope**0.5
    ends = []
    with torch.no_grad():
        for sign in (1, -2):  # to +step, then to -step
            for parameter, grad in zip(model.parameters(), grads, strict=True):
                parameter.add_(sign * step * grad)
            ends.append(float(loss()))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=0.01)


def test_multi_token_prediction_equals_equations_21_to_23_with_transformers_layer() -> None:
    model = build(ModelConfig.preset("nano", init_std=0.15, mtp_depth=2))
    generator, tokens_BT = torch.Generator().manual_seed(0), draw(2, 15)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # norms of ones would hide a norm left out before another
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
        out = model(tokens_BT)
        first = model.mtp(out.last_BTD, tokens_BT.roll(-1, 1))
        second = model.mtp(first, tokens_BT.roll(-2, 1), depth=2)
    assert close(first, predicted_by_hand(model, 0, out.hidden_BTD, tokens_BT.roll(-1, 1)))
    assert close(second, predicted_by_hand(model, 1, first, tokens_BT.roll(-2, 1)))
    with pytest.raises(R1kitError, match="depth 3 was asked for, but the model has mtp_depth 2"):
        model.mtp(first, tokens_BT, depth=3)


@torch.no_grad()
def predicted_by_hand(model: LanguageModel, depth: int, hidden_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
    """norms and concatenation written out; the decoder layer is transformers', as the second layer of an
    otherwise equal model."""

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    own = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(("layers.1.", "mtp_layers"))
    }
    prefix = f"mtp_layers.{depth}."
    extra = {
        name.removeprefix(prefix): tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(prefix)
    }
    outside = ("enorm", "hnorm", "eh_proj", "shared_head")
    own |= {f"layers.1.{name}": tensor for name, tensor in extra.items() if not name.startswith(outside)}
    carrier = LanguageModel(model.config.model_copy(update={"mtp_depth": 0}))
    carrier.load_state_dict(own)
    twin = transformers_twin(carrier)
    embedded = model.embed_tokens.weight[tokens_BT]
    merged = (
        torch.cat((norm(embedded, extra["enorm.weight"]), norm(hidden_BTD, extra["hnorm.weight"])), -1)
        @ extra["eh_proj.weight"].T
    )
    positions = torch.arange(tokens_BT.shape[1])[None]
    causal = torch.full((tokens_BT.shape[1],) * 2, -torch.inf).triu(1)[None, None]
    rotary = twin.model.rotary_emb(merged, positions)
    return norm(
        twin.model.layers[1](merged, attention_mask=causal, position_embeddings=rotary),
        extra["shared_head.norm.weight"],
    )


def test_prediction_does_not_look_across_segments() -> None:
    model, tokens_BT = build(SHAPES["latent"]), draw(1, 14)
    segments_BT = torch.tensor([[1] * 8 + [2] * 6])
    with torch.no_grad():
        packed = model.mtp(
            model(tokens_BT, segments_BT=segments_BT).last_BTD, tokens_BT, segments_BT=segments_BT
        )
        alone = model.mtp(model(tokens_BT[:, 8:]).last_BTD, tokens_BT[:, 8:])
    assert close(packed[:, 8:], alone)


def test_the_bias_chooses_but_does_not_weigh_and_groups_limit_the_choice() -> None:
    routing = {
        "experts": 4,
        "active_experts": 1,
        "groups": 2,
        "groups_kept": 1,
        "route_scale": 2.0,
        "normalise_gates": False,
    }
    config = ModelConfig.preset("nano", width=8, **routing)
    gate = Gate(config)
    with torch.no_grad():
        # Affinities of a token along e_0: expert 1 is the single best, but group {2, 3} has the larger sum of
        # two.
        gate.weight.zero_()
        gate.weight[:, 0] = torch.tensor([-4.0, 3.0, 1.0, 2.0])
    token = torch.zeros(1, 8).index_fill(1, torch.tensor([0]), 1.0)
    _, chosen_NA, gates_NA = gate(token)
    assert chosen_NA.tolist() == [[3]]
    assert gates_NA.item() == pytest.approx(2.0 * torch.tensor(2.0).sigmoid().item())
    gate.e_score_correction_bias += torch.tensor([0.0, 0.0, 0.5, 0.0])
    _, chosen_NA, gates_NA = gate(token)
    assert chosen_NA.tolist() == [[2]]
    assert gates_NA.item() == pytest.approx(2.0 * torch.tensor(1.0).sigmoid().item())


def test_experts_equal_a_loop_over_tokens_and_idle_experts_get_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    experts = Experts(5, 8, 16)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(generator=generator)
    x_ND = torch.randn(30, 8, generator=generator)
    chosen_NA = torch.rand(30, 4, generator=generator).topk(2).indices  # expert 4 never
    gates_NA = torch.rand(30, 2, generator=generator)
    out_ND = experts(x_ND, chosen_NA, gates_NA)
    for n in range(30):
        expected = torch.zeros(8)
        for expert, gate in zip(chosen_NA[n], gates_NA[n], strict=True):
            hidden = F.silu(experts.gate_proj[expert] @ x_ND[n]) * (experts.up_proj[expert] @ x_ND[n])
            expected += gate * experts.down_proj[expert] @ hidden
        assert close(out_ND[n], expected)
    out_ND.sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None
        assert (
            torch.equal(parameter.grad[4], torch.zeros_like(parameter.grad[4]))
            and parameter.grad[:4].abs().sum() > 0
        )


def test_balance_loss_equals_a_hand_computation_and_skips_padding() -> None:
    scores_BTE = torch.tensor([[[0.9, 0.1, 0.5], [0.8, 0.4, 0.4], [0.1, 0.1, 0.9]]])
    segments_BT = torch.tensor([[1, 1, 0]])
    # top 1: expert 0 twice -> f = 3/(1 x 2) x [2, 0, 0]; P_0 = (0.9/1.5 + 0.8/1.6) / 2 = 0.55
    assert balance_loss(scores_BTE, 1, members(segments_BT)).tolist() == [pytest.approx([3 * 0.55])]
    # with the third token: f = [2, 0, 1]; P_0 = (0.6 + 0.5 + 1/11) / 3, P_2 = (1/3 + 0.25 + 9/11) / 3
    expected = 2 * (1.1 + 1 / 11) / 3 + (1 / 3 + 0.25 + 9 / 11) / 3
    assert balance_loss(scores_BTE, 1, members(torch.ones(1, 3))).tolist() == [pytest.approx([expected])]
    # every row of a line by itself: the first two tokens, then the third, whose affinities alone count
    parts = balance_loss(scores_BTE, 1, members(torch.tensor([[1, 1, 2]])))
    assert parts.tolist() == [pytest.approx([3 * 0.55, 3 * 9 / 11])]
    level = torch.full((2, 8, 4), 0.5)
    assert balance_loss(level, 2, members(torch.ones(2, 8))).tolist() == [
        [pytest.approx(1.0)],
        [pytest.approx(1.0)],
    ]


def test_loads_are_counted_in_training_only_and_biases_follow_them() -> None:
    model = LanguageModel(SHAPES["latent"], seed=1)
    segments_BT = torch.tensor([[1] * 10 + [0] * 6] * 2)
    model.eval()
    assert model(draw(2, 16)).balance_BS.shape == (2, 0)
    assert [load.tolist() for load in model.expert_loads()] == [[0] * 4, [0] * 4]
    model.train()
    out = model(draw(2, 16), segments_BT=segments_BT, balance=True)
    loads = model.expert_loads()
    assert [int(load.sum()) for load in loads] == [
        2 * 10 * 2,
        0,
    ]  # two experts for each of 20 present tokens; prediction did not run
    assert out.balance_BS.shape == (2, 1) and out.balance_BS.requires_grad
    model(draw(2, 16, seed=8), segments_BT=segments_BT)
    assert int(model.expert_loads()[0].sum()) == 80

    model.adjust_biases(0.01, loads=[torch.tensor([30, 10, 20, 20]), torch.zeros(4, dtype=torch.int64)])
    biases = [
        module.gate.e_score_correction_bias
        for module in model.modules()
        if isinstance(module, MixtureOfExperts)
    ]
    assert biases[0].tolist() == pytest.approx([-0.01, 0.01, 0.0, 0.0])
    assert biases[1].tolist() == [0.0] * 4
    assert [int(load.sum()) for load in model.expert_loads()] == [0, 0]


def test_bias_steps_level_the_load() -> None:
    model, tokens_BT = LanguageModel(SHAPES["latent"], seed=2).train(), draw(16, 32)

    def spread() -> float:
        with torch.no_grad():
            model(tokens_BT)
        return float(model.expert_loads()[0].float().std())

    before = spread()
    for _ in range(60):
        model.adjust_biases(0.01)
        after = spread()
    assert after < 0.2 * before


@each_shape
def test_autocast_stays_near_float32_and_returns_float32_logits(name: str) -> None:
    model, tokens_BT = build(SHAPES[name].model_copy(update={"init_std": 0.05})), draw(2, 32)
    exact = logits(model, tokens_BT).log_softmax(-1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = logits(model, tokens_BT)
        cache = model.new_cache(2, 32)
        logits(model, tokens_BT[:, :31], cache=cache)
        cached = logits(model, tokens_BT[:, 31:], cache=cache)
    assert rough.dtype == cached.dtype == torch.float32 and cache.layers[0].dtype == torch.bfloat16
    assert (rough.log_softmax(-1) - exact).abs().mean() < 0.02
    assert (cached[:, 0].log_softmax(-1) - exact[:, -1]).abs().mean() < 0.02


def test_the_same_seed_builds_the_same_model_and_steps_repeat_bit_for_bit() -> None:
    def grads() -> list[Tensor]:
        model = LanguageModel(SHAPES["latent"], seed=5).train()
        out = model(draw(4, 32), balance=True)
        (model.logits(out.hidden_BTD).logsumexp(-1).mean() + out.balance_BS.mean()).backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(grads(), grads(), strict=True))
    embedded = LanguageModel(ModelConfig.preset("mini"), seed=7).embed_tokens.weight.detach()
    assert float(embedded.std()) == pytest.approx(ModelConfig.preset("mini").init_std, rel=0.02)
    assert not torch.equal(embedded, LanguageModel(ModelConfig.preset("mini"), seed=8).embed_tokens.weight)


@pytest.mark.parametrize(
    ("preset", "total", "active"),
    [  # the published sizes, and what the two miniatures are meant to be
        ("v3-671b", 671.03e9, 37.55e9),
        ("v2-lite", 15.71e9, 2.66e9),
        ("qwen2.5-1.5b", 1.78e9, 1.78e9),
        ("qwen2.5-7b", 7.62e9, 7.62e9),
        ("qwen2.5-14b", 14.77e9, 14.77e9),
        ("qwen2.5-32b", 32.76e9, 32.76e9),
        ("llama-8b", 8.03e9, 8.03e9),
        ("llama-70b", 70.55e9, 70.55e9),
        ("mini", 1.459e6, 0.795e6),
        ("student", 0.40e6, 0.40e6),
    ],
)
def test_presets_have_their_sizes(preset: str, total: float, active: float) -> None:
    count = parameter_count(ModelConfig.preset(preset))
    assert (count.total, count.active) == (pytest.approx(total, rel=2e-3), pytest.approx(active, rel=5e-3))


def test_the_count_of_a_real_model_is_what_it_holds() -> None:
    model = LanguageModel(ModelConfig.preset("nano"))
    count = parameter_count(model.config)
    assert count.total + count.mtp == sum(parameter.numel() for parameter in model.parameters())
    assert (
        count.total - count.active == 2 * 3 * 32 * 32
    )  # two idle experts of three matrices in one sparse layer


def test_every_preset_is_valid_and_overrides_are_checked() -> None:
    for preset in PRESETS:
        assert ModelConfig.preset(preset, vocab_size=777).vocab_size == 777
    with pytest.raises(ConfigError, match="there is no 'big'; known: nano, mini"):
        ModelConfig.preset("big")
    with pytest.raises(ConfigError, match="unknown key 'expert': did you mean 'experts'"):
        ModelConfig.preset("mini", expert=3)
    with pytest.raises(ConfigError, match="needs kv_rank"):
        ModelConfig.preset("mini", kv_rank=None)
    with pytest.raises(ConfigError, match="family 'qwen3' has no experts"):
        ModelConfig.preset("student", experts=8)
    with pytest.raises(ConfigError, match="family 'qwen3' has no multi-token prediction"):
        ModelConfig.preset("student", mtp_depth=1)
    with pytest.raises(ConfigError, match=r"groups \(3\) must divide experts \(8\)"):
        ModelConfig.preset("mini", groups=3)
    with pytest.raises(ConfigError, match=r"active_experts \(9\) do not fit"):
        ModelConfig.preset("mini", active_experts=9)


def test_configurations_are_checked_without_importing_torch() -> None:
    code = (
        "import sys; from r1kit.model.config import ModelConfig; ModelConfig.preset('mini'); assert "
        "'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
