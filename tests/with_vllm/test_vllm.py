"""vLLM as the engine: ``make test-vllm``. R1KIT_VLLM_PYTHON names its interpreter; without it these tests are
skipped. docs/scale.md has what they measured."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_world import learner_config, tokenizer
from small_world import model as nano

from r1kit.chat import Chat
from r1kit.config import R1kitError
from r1kit.engine.hand_over import hand_over
from r1kit.engine.native import NativeEngine
from r1kit.engine.vllm import PYTHON, VLLMConfig, VLLMEngine
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.recipe.recipe import load
from r1kit.runs.execute import run
from r1kit.train.agreement_gate import GateConfig, check
from r1kit.train.learner import Learner
from r1kit.train.rollouts import Policy
from r1kit.types import Completion, Problem, Row, Sampling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no interpreter with vLLM"),
]

DENSE = {
    "vocab_size": 320, "width": 128, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn_width": 256,
    "max_positions": 256, "init_std": 0.15,
}  # fmt: skip
LATENT = {  # the shape of the latent cache that vLLM's MLA computes: 512 + 64
    "family": "deepseek_v3", "vocab_size": 320, "width": 128, "layers": 2, "dense_layers": 1, "heads": 4,
    "q_rank": 64, "kv_rank": 512, "nope_dim": 64, "rope_dim": 64, "v_dim": 64, "ffn_width": 256,
    "experts": 8, "active_experts": 2, "shared_experts": 1, "expert_width": 64, "max_positions": 256,
    "init_std": 0.1, "tie_embeddings": True,
}  # fmt: skip
PROMPTS = [np.random.default_rng(i).integers(5, 300, 12).astype(np.int32) for i in range(6)]
SAMPLING = Sampling(n=2, max_tokens=60)


def built(family: str, init_std: float = 0.15) -> LanguageModel:
    if family == "deepseek_v3":
        return nano(1)  # experts, prediction layer, tied head, a latent cache of 32 + 8
    if family == "latent":
        return LanguageModel(ModelConfig.parse(LATENT, "test"), seed=1)
    own = {"tie_embeddings": family == "qwen2", "init_std": init_std}
    return LanguageModel(ModelConfig.parse({"family": family, **DENSE, **own}, "test"), seed=1)


def connected(family: str, folder: Path, init_std: float = 0.15, **keys: Any) -> tuple[Learner, VLLMEngine]:
    model = built(family, init_std)
    save_pretrained(model, folder)
    tokenizer().save(folder)
    learner = Learner(model, learner_config(context=255))
    return learner, VLLMConfig(**{"dtype": "float32", **keys}).connect(folder)


def gaps(learner: Learner, groups: list[list[Completion]], temperature: float = 1.0) -> np.ndarray:
    """|difference| of all sampled tokens' log-probabilities."""
    rows, sampled = [], []
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for one in group:
            ids = np.concatenate([prompt, one.token_ids]).astype(np.int32)
            rows.append(Row(ids, np.arange(len(ids)) >= len(prompt), 1.0, 0.0, temperature=temperature))
            sampled.append(one.logprobs)
    found = zip(learner.logprobs(rows), rows, sampled, strict=True)
    return np.concatenate([np.abs(own[row.mask] - theirs) for own, row, theirs in found])


def disturb(model: LanguageModel) -> None:
    """Change every matrix by a tenth of its deviation."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * 0.1 * parameter.std())


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "deepseek_v3", "latent"])
def test_exported_models_open_sample_and_stop_as_r1kits_engine_and_follow_the_learner(
    family: str, tmp_path: Path
) -> None:
    learner, engine = connected(family, tmp_path)
    try:
        groups = engine.generate(PROMPTS, SAMPLING, range(6))
        print(f"{family}: gap {gaps(learner, groups).mean():.1e} {gaps(learner, groups).max():.1e}")
        assert gaps(learner, groups).mean() < 1e-5 and gaps(learner, groups).max() < 1e-3
        again = engine.generate(PROMPTS[2:3], SAMPLING, [2])
        assert [one.token_ids.tolist() for one in again[0]] == [one.token_ids.tolist() for one in groups[2]]
        for one in [one for group in groups for one in group]:
            ends = np.isin(one.token_ids, tokenizer().end_ids)
            assert ends[-1] == (one.finish == "stop") and not ends[:-1].any()
        for temperature in (0.7, 0.0):
            some = engine.generate(PROMPTS, Sampling(max_tokens=20, temperature=temperature), range(6))
            assert gaps(learner, some, temperature or 1.0).max() < 1e-3
        greedy = Sampling(max_tokens=40, temperature=0.0)
        native = NativeEngine(learner.model, tokenizer().end_ids, decode=tokenizer().decode_all)
        for ours, theirs in zip(
            native.generate(PROMPTS, greedy, range(6)),
            engine.generate(PROMPTS, greedy, range(6)),
            strict=True,
        ):
            assert ours[0].token_ids.tolist() == theirs[0].token_ids.tolist()
            assert ours[0].finish == theirs[0].finish
        disturb(learner.model)
        assert gaps(learner, groups).mean() > 0.02
        for version in (1, 2):  # the same prompts: a prefix cache that stayed would show
            hand_over(learner.named_weights, engine, version, 1200.0)
            groups = engine.generate(PROMPTS, SAMPLING, range(6))
            print(f"{family} after load {version}: {gaps(learner, groups).mean():.1e}")
            assert {one.version for group in groups for one in group} == {version}
            assert gaps(learner, groups).mean() < 1e-5 and gaps(learner, groups).max() < 1e-3
    finally:
        engine.close()


def test_bfloat16_differs_by_rounding_only(tmp_path: Path) -> None:
    learner, engine = connected("qwen2", tmp_path, init_std=0.05, dtype="bfloat16")
    try:
        found = gaps(learner, engine.generate(PROMPTS, SAMPLING, range(6)))
        print(f"bfloat16: {found.mean():.1e} {found.max():.1e}")
        assert 1e-5 < found.mean() < 0.02 and found.max() < 1.0
    finally:
        engine.close()


@pytest.fixture
def forced(tmp_path: Path) -> Iterator[Policy]:
    """Experts, and an engine that loads in place where it would start again by itself."""
    learner, engine = connected("latent", tmp_path, reload="in_place")

    def bring(source: Any, _engine: Any, version: int) -> None:
        hand_over(source.named_weights, engine, version, 1200.0)

    yield Policy(learner, engine, Chat(tokenizer()), hand_over=bring)
    engine.close()


def test_the_gate_catches_experts_that_vllm_damages_when_it_loads_in_place(forced: Policy) -> None:
    problems = [Problem(f"p{i}", "sums", f"What is {i} + {i}?", str(2 * i)) for i in range(4)]
    config, sampling = GateConfig(), Sampling(max_tokens=100)
    assert check(forced, problems, sampling, 3, 0, config)["gate/gap_mean"] < 1e-5
    with pytest.raises(R1kitError, match="first new weights") as error:
        check(forced, problems, sampling, 3, 1, config, again=True)
    print(error.value)
    assert "vLLM on a CPU does that to experts" in str(error.value) and "reload: restart" in str(error.value)


RECIPE: dict[str, Any] = {
    "name": "vllm",
    "stages": [
        {
            "stage": "pretrain", "tokens": 500_000, "tokenizer": 512,
            "corpus": {"generated": {"miniature": 1.0}},
            "model": {"preset": "student", "family": "qwen2"}, "training": {"mtp_weight": 0.0},
        },
        {
            "stage": "r1_zero", "init": "@pretrain", "tasks": {"reasoning": 1.0},
            "rewards": {"accuracy": 1.0, "format": 1.0},
            "grpo": {
                "steps": 24, "problems": 8, "group": 8, "updates_per_rollout": 1, "max_tokens": 48,
                "beta": 0.0, "advantage": "group_mean", "schedule": {"kind": "constant", "warmup": 2},
            },
            "learner": {
                "context": 192, "lines": 8, "optimizer": {"kind": "adamw", "learning_rate": 1e-3},
            },
        },
    ],
}  # fmt: skip


def test_r1_zero_through_vllm_learns_as_with_the_native_engine(tmp_path: Path) -> None:
    rewards: dict[str, list[float]] = {}
    steps: dict[str, list[dict[str, Any]]] = {}
    pretrained = str(tmp_path / "native/stages/pretrain/model")
    zero = {**RECIPE["stages"][1], "init": pretrained}
    for name, engine in (("native", "native"), ("vllm", {"kind": "vllm"})):
        stages = RECIPE["stages"] if name == "native" else [zero]  # from the same pretrained model
        runtime = {"kind": "local", "processes": 1, "engine": engine}
        content = {**RECIPE, "runtime": runtime, "stages": stages, "out": str(tmp_path / name)}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        run(load(tmp_path / f"{name}.yaml"))
        rows = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        steps[name] = [row for row in rows if row["stage"] == "r1_zero" and "reward/mean" in row]
        rewards[name] = [row["reward/mean"] for row in steps[name]]
        print(name, [round(value, 3) for value in rewards[name]])
    own = [row["sampling/logp_gap_mean"] for row in steps["vllm"]]
    rise = {name: float(np.mean(found[-6:]) - np.mean(found[:6])) for name, found in rewards.items()}
    print("mean gap", float(np.mean(own)), "largest of an update", max(own), "rises", rise)
    assert len(own) == 24 and max(own) <= 0.02
    assert rise["native"] > 0.05 and rise["vllm"] > 0.5 * rise["native"]
