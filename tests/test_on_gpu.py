"""What a GPU computes is what the processor computes: sampling through captured steps, updates, and a whole
recipe. Skipped where PyTorch finds no GPU; `make gpu` runs it first."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import VOCABULARY, learner_config, model, random_rows

from r1kit.engine.requests import Requests
from r1kit.engine.slot_decoder import WINDOW, SlotDecoder, as_it_is
from r1kit.engine.torch_decoder import TorchDecoder
from r1kit.model.decoder import LanguageModel
from r1kit.train.learner import Learner
from r1kit.train.objectives import CrossEntropy, Objective
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig
from r1kit.types import Completion, Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here")

STOPS = np.array([5, 17, 40])
PRESETS = ("nano", "student")  # latent attention with experts, and grouped-query attention
CLOSE = 2e-4  # between two devices' float32 sums


@pytest.fixture(autouse=True)
def exact_products() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def prompts(count: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, VOCABULARY, int(draw.integers(1, 20))).astype(np.int32) for _ in range(count)]


def completed(decoder: SlotDecoder | TorchDecoder, sampling: Sampling, count: int = 11) -> list[Completion]:
    given = prompts(count)
    requests = Requests(given, sampling, range(len(given)), (0, 0), None)
    decoder.complete(requests, lambda: None)
    return [one for group in requests.completions(0) for one in group]


def on_gpu(preset: str) -> LanguageModel:
    return model(preset=preset).cuda()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(n=3, max_tokens=2 * WINDOW + 3),
        Sampling(n=2, max_tokens=20, temperature=0.8, top_p=0.9, top_k=40),
        Sampling(n=1, max_tokens=300),  # the captured step of a longer cache
    ],
)
def test_captured_steps_draw_what_single_steps_draw(preset: str, sampling: Sampling) -> None:
    network = on_gpu(preset)
    captured = completed(SlotDecoder(network, STOPS, "float32", 8), sampling)
    single = completed(SlotDecoder(network, STOPS, "float32", 8, as_it_is), sampling)
    assert [one.token_ids.tolist() for one in captured] == [one.token_ids.tolist() for one in single]
    for one, other in zip(captured, single, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=CLOSE)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_gpu_draws_what_the_processor_draws(preset: str) -> None:
    """A draw that falls on the boundary of two tokens may differ, so a few rollouts in a hundred may."""
    sampling = Sampling(n=8, max_tokens=24)
    here = completed(TorchDecoder(model(preset=preset), STOPS, "float32", 64), sampling)
    there = completed(SlotDecoder(on_gpu(preset), STOPS, "float32", 32), sampling)
    same = [
        one.token_ids.tolist() == other.token_ids.tolist() for one, other in zip(here, there, strict=True)
    ]
    assert np.mean(same) >= 0.95
    for one, other in zip(here, there, strict=True):
        if one.token_ids.tolist() == other.token_ids.tolist():
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=CLOSE)


@pytest.mark.parametrize("preset", PRESETS)
def test_new_weights_are_used_by_steps_that_were_captured_before(preset: str) -> None:
    network, sampling = on_gpu(preset), Sampling(n=2, max_tokens=20)
    decoder = SlotDecoder(network, STOPS, "bfloat16", 8)
    before = completed(decoder, sampling)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.2)
    after = completed(decoder, sampling)
    fresh = completed(SlotDecoder(network, STOPS, "bfloat16", 8), sampling)
    assert [one.token_ids.tolist() for one in after] == [one.token_ids.tolist() for one in fresh]
    assert [one.token_ids.tolist() for one in after] != [one.token_ids.tolist() for one in before]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "objective", [CrossEntropy(), PolicyLoss(PolicyLossConfig())], ids=["cross-entropy", "grpo"]
)
def test_an_update_is_that_of_the_processor(preset: str, objective: Objective) -> None:
    rows, learners = random_rows(13), []
    for network in (model(preset=preset), on_gpu(preset)):
        learner = Learner(network, learner_config())
        found = [learner.update(rows, objective, 0.3) for _ in range(3)]
        learners.append((network, found))
    (here, ours), (there, theirs) = learners
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=CLOSE, rel=CLOSE)
    for (name, weight), other_weight in zip(here.named_parameters(), there.parameters(), strict=True):
        difference = (weight - other_weight.cpu()).norm() / weight.norm().clamp(min=1e-6)
        assert difference < 5e-3, name


@pytest.mark.parametrize("preset", PRESETS)
def test_compiled_layers_compute_the_same_updates(preset: str) -> None:
    losses = []
    for compiled in (False, True):
        config = learner_config().model_copy(update={"compiled": compiled, "precision": "bfloat16"})
        learner = Learner(on_gpu(preset), config)
        losses.append([learner.update(random_rows(13, n), CrossEntropy(), 1.0)["loss"] for n in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[1][-1] != losses[1][0]


def test_a_recipe_runs_on_the_gpu(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[1] / "recipes/nano.yaml"
    keys = ["runtime.device=cuda", "runtime.processes=1", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "r1kit", "run", str(recipe), *keys]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row.get("stage") == "pretrain" and "loss" in row]
    assert losses and losses[-1] < losses[0]
