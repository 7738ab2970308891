"""A pretrained model for longer texts: YaRN as its paper and transformers have it, the stage that trains it
further, and the needle."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_world import logged, model, model_directory, tokenizer
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import r1kit
from r1kit.config import ConfigError, R1kitError
from r1kit.model.config import ModelConfig
from r1kit.model.config_json import read_config
from r1kit.model.huggingface import load_pretrained
from r1kit.stages.extended import ExtendConfig, write_beginning
from r1kit.stages.pretrain import Pretrain
from r1kit.tasks import load_tasks
from r1kit.tasks.needle import Needle

FACTOR, ORIGINAL, THETA = 4.0, 512, 10_000.0


def _frequencies_of_the_paper(dim: int) -> list[float]:
    """2309.00071, eq. 17 to 20, a pair at a time; the ramp's ends rounded as in its released code."""
    found = []
    ends = [dim * math.log(ORIGINAL / (turns * 2 * math.pi)) / (2 * math.log(THETA)) for turns in (32, 1)]
    low, high = max(0, math.floor(ends[0])), min(dim - 1, math.ceil(ends[1]))
    for pair in range(dim // 2):
        theta = THETA ** (-2 * pair / dim)
        ramp = min(1.0, max(0.0, (pair - low) / (high - low)))
        found.append((1 - ramp) * theta + ramp * theta / FACTOR)
    return found


@pytest.mark.parametrize("preset", ["nano", "student"])
def test_an_extended_model_is_what_the_paper_and_transformers_compute(tmp_path: Path, preset: str) -> None:
    source = model_directory(tmp_path / "source", preset=preset, mtp_depth=0)
    written = write_beginning(source, tmp_path / "long", ExtendConfig(factor=FACTOR))
    assert written.max_positions == 2048
    theirs = AutoConfig.from_pretrained(tmp_path / "long")
    ours = load_pretrained(tmp_path / "long")
    assert ours.config == written
    frequencies, factor = ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    torch.testing.assert_close(ours.frequencies, frequencies)
    paper = torch.tensor(_frequencies_of_the_paper(written.rotary_dim))
    torch.testing.assert_close(ours.frequencies, paper)
    assert not torch.allclose(ours.frequencies, model(preset=preset).frequencies)
    temperature = 0.1 * math.log(FACTOR) + 1
    if preset == "student":  # the whole head is rotated: cosine and sine carry it, for query and key
        assert factor == pytest.approx(temperature)
    else:  # a part of it is: the softmax's scale carries it
        assert factor == pytest.approx(1.0)
        wide = written.nope_dim + written.rope_dim
        assert ours.layers[0].self_attn.scale == pytest.approx(temperature**2 / math.sqrt(wide))
    tokens_BT = torch.from_numpy(np.random.default_rng(0).integers(0, 300, (1, 700)))  # beyond the old length
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "long", dtype=torch.float32)
    with torch.no_grad():
        found, expected = ours.logits(ours(tokens_BT).hidden_BTD), reference(tokens_BT).logits
    assert float((found - expected).abs().max()) < 2e-3 * float(expected.abs().max())
    for name, tensor in load_pretrained(source).state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"rope_scaling": {"kind": "yarn", "factor": 2.0, "original_positions": 512}},
            "has rope_scaling 'yarn' already",
        ),
        ({"family": "mistral", "sliding_window": 64}, "slides over 64 positions"),
    ],
)
def test_models_that_cannot_be_extended_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExtendConfig(factor=2.0).applied(ModelConfig.preset("student", **config))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "either the shape of a new model"),
        ({"model": {"preset": "nano"}, "init": "@first"}, "either the shape of a new model"),
        ({"init": "@first", "tokenizer": 320}, "leave tokenizer out"),
        ({"model": {"preset": "nano"}, "extend": {"factor": 2}}, "name it under init"),
        ({"init": "@first", "extend": {"factor": 1}}, "greater than 1"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict, message: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=message):
        Pretrain(tokens=100, corpus={"generated": {"miniature": 1.0}}, **keys)


RECIPE = """
name: long
runtime: {{kind: local, processes: 1}}
stages:
  - stage: pretrain
    model: {{preset: nano, max_positions: 64}}
    tokens: 2000
    tokenizer: 320
    corpus: {{generated: {{miniature: 1.0}}}}
    learner: {{context: 64, lines: 8, optimizer: {{kind: adamw}}}}
    training: {{batch_tokens: 1024}}
  - stage: pretrain
    name: long
    init: "@pretrain"
    {extend}
    tokens: 2000
    corpus: {{tasks: {{needle: {{sentences: 8}}}}}}
    learner: {{context: 200, lines: 4, optimizer: {{kind: adamw}}}}
    training: {{batch_tokens: 1024}}
"""


@pytest.mark.slow
def test_a_second_stage_trains_the_extended_model_further(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(extend="extend: {factor: 4}"))
    r1kit.run(r1kit.load(str(recipe), [f"out={tmp_path}/run"]))
    written = json.loads((tmp_path / "run/stages/long/model/config.json").read_text())
    assert written["max_position_embeddings"] == 256
    assert written["rope_scaling"]["rope_type"] == "yarn" and written["rope_scaling"]["factor"] == 4.0
    assert written["rope_scaling"]["original_max_position_embeddings"] == 64
    assert read_config(tmp_path / "run/stages/long/model").rope_scaling is not None
    assert [row["step"] for row in logged(tmp_path / "run") if row["stage"] == "long"] == [0]
    recipe.write_text(RECIPE.format(extend=""))
    with pytest.raises(
        R1kitError, match=r"learner\.context: 200 is longer than the 64 positions .*factor: 4"
    ):
        r1kit.run(r1kit.load(str(recipe), [f"out={tmp_path}/other"]))


def test_a_needle_stands_at_its_depth_and_its_number_is_of_one_split() -> None:
    task = Needle("far", size=80, sentences=20, depths=(0.0, 0.5, 1.0))
    train, held_out = (task.problems(split) for split in ("train", "held_out"))
    assert len(train) == 80 and len(held_out) == 10 and task.problems("train") == train
    assert not {one.answer for one in train} & {one.answer for one in held_out}
    for one in train:
        sentences = [part for part in one.prompt.replace("?", ".").split(".") if part.strip()]
        assert len(sentences) == 22 and sentences[-1].strip() == "What is the pass key"
        place = next(at for at, part in enumerate(sentences) if str(one.answer) in part)
        assert place == round(one.columns["depth"] * 20)
        assert one.prompt.count(str(one.answer)) == 1
    assert set(Counter(one.columns["depth"] for one in train).values()) == {26, 27}


def test_a_needle_is_judged_by_its_digits() -> None:
    ((task, weight),) = load_tasks({"needle": {"digits": 4, "sentences": 3, "weight": 2}}).values()
    one = task.problems("train")[0]
    assert weight == 2 and len(one.answer) == 4
    assert task.check(one, one.answer).outcome == "correct"
    assert task.check(one, f"\\boxed{{{one.answer}}}").outcome == "correct"
    assert task.check(one, str(one.answer)[:-1]).outcome == "wrong"
    assert task.check(one, None).outcome == "wrong"


@pytest.mark.parametrize(
    "options",
    [{"digits": 0}, {"digits": 13}, {"sentences": 0}, {"size": 100, "digits": 1}, {"depths": [1.2]}],
)
def test_needles_that_cannot_be_drawn_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.needle"):
        load_tasks({"needle": options})


def test_the_tokenizer_stays_that_of_the_beginning(tmp_path: Path) -> None:
    source = model_directory(tmp_path / "source")
    write_beginning(source, tmp_path / "next", None)
    assert read_config(tmp_path / "next") == read_config(source)
    ids = tokenizer().encode("Compute 7*8+9.")
    assert r1kit.Tokenizer.load(tmp_path / "next").encode("Compute 7*8+9.").tolist() == ids.tolist()
