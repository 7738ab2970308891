"""Every end token that a checkpoint lists ends a completion: in both decoders, in RL, and in transformers on
what r1kit exports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from small_world import VOCABULARY, learner_config, tokenizer
from tokenizers import models
from transformers import AutoModelForCausalLM

from r1kit.chat import Chat
from r1kit.config import R1kitError
from r1kit.engine.native import NativeEngine
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig
from r1kit.stages.models import PromptStyle, keep_template
from r1kit.tokenizer import Tokenizer
from r1kit.train.advantage_rows import policy_row
from r1kit.types import Completion, Problem, Sampling

PROBLEM = Problem("p", "t", "Compute 1+2.", "3")
DENSE = {
    "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn_width": 48, "init_std": 0.3
}  # fmt: skip
FAMILIES: dict[str, ModelConfig] = {
    "qwen2": ModelConfig.parse({"family": "qwen2", "vocab_size": VOCABULARY, **DENSE}, "test"),
    "llama": ModelConfig.parse({"family": "llama", "vocab_size": VOCABULARY, **DENSE}, "test"),
    "deepseek_v3": ModelConfig.preset("nano", vocab_size=VOCABULARY, init_std=0.3, mtp_depth=0),
}
MOST = 12


def greedy(model: LanguageModel, ends: Any, kernels: bool | None = None) -> Completion:
    engine = NativeEngine(model, ends, kernels=kernels)
    prompt = Chat(tokenizer()).prompt_ids(PROBLEM)
    return engine.generate([prompt], Sampling(max_tokens=MOST, temperature=0.0))[0][0]


def source(folder: Path, family: str) -> tuple[Path, int, int]:
    """A checkpoint as others write it, whose lists name the tokens at two places of its greedy text: the
    later one in generation_config.json, the earlier one in config.json. Returns folder, token and length."""
    model = LanguageModel(FAMILIES[family], seed=3)
    save_pretrained(model, folder)
    tokenizer().save(folder)
    text = greedy(model, [tokenizer().eos_id]).token_ids.tolist()
    assert len(text) == MOST  # the tokenizer's own end token does not end it
    first = next(place for place in range(3, MOST) if text[place] not in text[:place])
    change(folder / "generation_config.json", eos_token_id=[tokenizer().eos_id, text[MOST - 1]])
    change(folder / "config.json", eos_token_id=[text[first]], pad_token_id=None, bos_token_id=None)
    return (
        folder,
        text[first],
        next(place for place, token in enumerate(text, 1) if token in (text[first], text[-1])),
    )


def change(file: Path, **more: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_model_stops_where_r1kit_does_and_both_where_its_source_lists(
    family: str, tmp_path: Path
) -> None:
    folder, token, length = source(tmp_path / "source", family)
    runtime = start(LocalConfig.parse({"processes": 1, "engine_precision": "float32"}, "runtime"))
    try:
        learner = runtime.learner(folder, learner_config())
        runtime.export(learner, tmp_path / "model")
        prompt = Chat(tokenizer()).prompt_ids(PROBLEM)
        sampling = Sampling(max_tokens=MOST, temperature=0.0)
        found = [
            engine.generate([prompt], sampling)[0][0]
            for engine in (runtime.engine_of(learner), runtime.engine(tmp_path / "model"))
        ]
    finally:
        runtime.close()
    assert [(len(one.token_ids), one.finish) for one in found] == [(length, "stop")] * 2
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    prompt_BT = torch.from_numpy(prompt.astype(np.int64))[None]
    text = theirs.generate(prompt_BT, max_new_tokens=MOST, do_sample=False)[0, len(prompt) :]
    assert text.tolist() == found[0].token_ids.tolist()
    written = json.loads((tmp_path / "model/config.json").read_text())
    own = Tokenizer.load(tmp_path / "model")
    assert token in written["eos_token_id"] and written["eos_token_id"][0] == own.eos_id
    assert (written["bos_token_id"], written["pad_token_id"]) == (own.bos_id, own.pad_id)
    assert json.loads((tmp_path / "model/generation_config.json").read_text())["eos_token_id"] == list(
        own.end_ids
    )


@pytest.mark.parametrize("kernels", [None, False])
def test_each_listed_token_stops_either_decoder_and_no_other_does(
    kernels: bool | None, tmp_path: Path
) -> None:
    model = load_pretrained(source(tmp_path, "llama")[0])
    free = greedy(model, [tokenizer().eos_id], kernels)
    text = free.token_ids.tolist()
    assert (len(text), free.finish) == (MOST, "length")
    for ends in ([text[4], text[9]], [text[9]], [text[2], VOCABULARY + 5]):
        found = greedy(model, [tokenizer().eos_id, *ends], kernels)
        length = next(place for place, token in enumerate(text, 1) if token in ends)
        assert (found.token_ids.tolist(), found.finish) == (text[:length], "stop")


def test_in_rl_each_end_token_ends_a_rollout_and_is_trained(tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    other = tokenizer().pad_id  # a special token that the checkpoint lists
    plain = tokenizer().id("t")  # and an ordinary one
    change(tmp_path / "generation_config.json", eos_token_id=[tokenizer().eos_id, other, plain])
    own = Tokenizer.load(tmp_path)
    assert own.end_ids == (own.eos_id, other, plain)
    chat, body = Chat(own), own.encode("<think>1+2=3</think>3")
    prompt = chat.prompt_ids(PROBLEM)
    for end in own.end_ids:
        ids = np.append(body, end).astype(np.int32)
        [rollout] = chat.rollouts(PROBLEM, prompt, [Completion(ids, np.full(len(ids), -1.0), "stop")])
        assert (rollout.thinking, rollout.answer) == ("1+2=3", "3")
        assert rollout.text == "<think>1+2=3</think>3"
        row = policy_row(rollout)
        assert row.token_ids[row.mask].tolist() == ids.tolist()
    # A special token that is not at the end is a stray, an end token or not.
    ids = np.array([*body[:3], other, *body[3:], own.eos_id], dtype=np.int32)
    [rollout] = chat.rollouts(PROBLEM, prompt, [Completion(ids, np.full(len(ids), -1.0), "stop")])
    assert rollout.answer is None


@pytest.mark.parametrize("listed", [True, False])
def test_the_token_with_which_a_template_ends_a_turn_ends_a_completion_listed_or_not(
    listed: bool, tmp_path: Path
) -> None:
    """Here PAD is such a token: a template of another maker, over r1kit's vocabulary."""
    own = tokenizer()
    written = "{% for m in messages %}<｜User｜>{{ m.content }} \n<｜▁pad▁｜>{% endfor %}"
    template = written + "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
    own.with_template(template, "their.jinja").save(tmp_path)
    if listed:
        change(tmp_path / "generation_config.json", eos_token_id=[own.pad_id])
    style = PromptStyle(template="model")
    chat = style.chat(tmp_path)
    assert chat.turn_end == own.pad_id
    assert chat.stop == (() if listed else (own.names["pad"],))
    body = own.encode("<think>1+2=3</think>3")
    assert chat.response_ids("3")[-1] == own.pad_id
    for end in (own.pad_id, own.eos_id):
        ids = np.append(body, end).astype(np.int32)
        [rollout] = chat.rollouts(PROBLEM, body, [Completion(ids, np.zeros(len(ids)), "stop")])
        assert (rollout.answer, rollout.text) == ("3", "<think>1+2=3</think>3")
    model = LanguageModel(FAMILIES["llama"], seed=3)
    free = greedy(model, [own.eos_id])
    with torch.no_grad():  # a model that writes the token as the first
        model.lm_head.weight[own.pad_id] = 50 * model.lm_head.weight[free.token_ids[0]]
    engine = NativeEngine(model, chat.tokenizer.end_ids, decode=own.decode_all)
    sampling = Sampling(max_tokens=MOST, temperature=0.0, stop=chat.stop)
    [[found]] = engine.generate([Chat(own).prompt_ids(PROBLEM)], sampling)
    assert (found.token_ids.tolist(), found.finish) == ([own.pad_id], "stop")
    # What is exported has it in its list, for other programs.
    keep_template(style, tmp_path)
    assert set(Tokenizer.load(tmp_path).end_ids) == {own.eos_id, own.pad_id}
    assert style.chat(tmp_path).stop == ()


def test_a_template_that_ends_a_turn_with_text_adds_no_end_token(tmp_path: Path) -> None:
    template = "{% for m in messages %}<｜User｜>{{ m.content }} over.<｜▁pad▁｜>{% endfor %}"
    tokenizer().with_template(template, "their.jinja").save(tmp_path)
    chat = PromptStyle(template="model").chat(tmp_path)
    assert (chat.turn_end, chat.stop) == (None, ())
    assert chat.response_ids("3")[-1] == tokenizer().eos_id
    before = sorted((file.name, file.read_bytes()) for file in tmp_path.iterdir())
    keep_template(PromptStyle(template="model"), tmp_path)
    assert sorted((file.name, file.read_bytes()) for file in tmp_path.iterdir()) == before


def test_end_tokens_are_also_found_in_the_part_on_texts_and_without_one_of_the_tokenizer(
    tmp_path: Path,
) -> None:
    own = tokenizer()
    own.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": [own.pad_id]}}))
    assert Tokenizer.load(tmp_path).end_ids == (own.eos_id, own.pad_id)
    (tmp_path / "config.json").write_text(
        json.dumps({"eos_token_id": own.eos_id, "text_config": {"eos_token_id": [own.pad_id]}})
    )
    assert Tokenizer.load(tmp_path).end_ids == (own.eos_id,)
    names = ("bos", "pad")
    backend = tokenizers.Tokenizer(models.WordLevel({"1": 0, "a": 1, "<s>": 2, "<end>": 3}, "1"))
    backend.add_special_tokens(["<s>", "<end>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    settings = {f"{name}_token": "<s>" for name in names}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 0]}))
    (tmp_path / "config.json").unlink()
    found = Tokenizer.load(tmp_path)
    assert (found.names["eos"], found.end_ids) == ("<end>", (3, 0))
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(R1kitError, match=r"tokenizer_config\.json: no eos_token"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("value", ["<|end|>", [2, None], True, {"id": 2}])
def test_what_is_no_token_id_is_refused_by_file(value: Any, tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    change(tmp_path / "generation_config.json", eos_token_id=value)
    with pytest.raises(R1kitError, match=r"generation_config\.json: eos_token_id is .*give a token id"):
        Tokenizer.load(tmp_path)
