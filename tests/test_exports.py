"""Exported models: transformers gives r1kit's greedy text and stops where it does; dtype, licence, base,
lineage and prompt settings go from model to model."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from small_world import VOCABULARY, learner_config, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from r1kit.chat import Chat, problem_of
from r1kit.commands.cli import main
from r1kit.commands.export import export_model
from r1kit.config import ConfigError, R1kitError
from r1kit.model.config import ModelConfig
from r1kit.model.conversion import convert
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.records import check_model, prompt_settings, read_notes, stage_folder
from r1kit.runs.execute import run
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig
from r1kit.stages.models import PromptStyle
from r1kit.tokenizer import Tokenizer
from r1kit.types import Sampling

DENSE = {
    "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn_width": 48, "init_std": 0.1,
    "max_positions": 256, "vocab_size": VOCABULARY,
}  # fmt: skip
FAMILIES = {
    "qwen2": ModelConfig.parse({"family": "qwen2", **DENSE}, "test"),
    "qwen3": ModelConfig.parse({"family": "qwen3", "tie_embeddings": True, **DENSE}, "test"),
    "llama": ModelConfig.parse({"family": "llama", **DENSE}, "test"),
    "deepseek_v3": ModelConfig.preset("nano", vocab_size=VOCABULARY, init_std=0.1, mtp_depth=0),
}
QUESTION = "Compute 1+2."
ANSWER = "<think>1+2=3</think>3"
# The turn of another model: it ends with a second end token, where the tokenizer's own is r1kit's.
TURNS = (
    "{% for m in messages %}<" + "{{ m['role'] }}>{{ m['content'] }}<｜▁pad▁｜>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}\n"
)
CARD = "---\nlicense: apache-2.0\nbase_model: someone/else\n---\n# A base\n"
MOST = 40


def base(
    folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, template: str = TURNS,
    width: int = 32,
) -> Path:  # fmt: skip
    """A small checkpoint from elsewhere: two end tokens, a chat template and a licence of its own."""
    dense = FAMILIES[family].head_dim is not None
    changes = {"width": width, **({"head_dim": width // 4} if dense else {})}
    save_pretrained(LanguageModel(FAMILIES[family].model_copy(update=changes), seed=3), folder, dtype=dtype)
    own = tokenizer()
    Tokenizer(own.backend, own.names, {"default": template}, [own.pad_id]).save(folder)
    change(folder / "generation_config.json", temperature=0.6, do_sample=True, repetition_penalty=1.3)
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
    return folder


def change(file: Path, **more: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


def finetuned(here: Path, init: Path, talk: dict[str, Any], updates: int = 40, **stage: Any) -> Path:
    """The folder of a run that fine-tunes ``init`` on one answer, long enough that it gives it."""
    rows = [{"prompt": QUESTION, "completion": ANSWER}]
    (here / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    recipe = {
        "name": "made",
        "out": str(here / "run"),
        "runtime": {"processes": 1, "engine_precision": "float32"},
        "stages": [
            {
                "stage": "sft",
                "init": str(init),
                "data": [str(here / "rows.jsonl")],
                "talk": talk,
                "allow_empty": True,  # the R1-Zero prompt is longer than the context
                "training": {"epochs": updates, "batch_tokens": 1, "schedule": {"kind": "constant"}},
                "learner": {"context": 128, "lines": 1, "precision": "float32",
                            "optimizer": {"learning_rate": 0.01}},
                **stage,
            }
        ],
    }  # fmt: skip
    (here / "made.yaml").write_text(yaml.safe_dump(recipe))
    layers = read_layers(here / "made.yaml")
    run(build(layers), layers=layers)
    return here / "run"


def sampled(model: Path, talk: dict[str, Any]) -> tuple[list[int], list[int], str]:
    """r1kit's greedy completion of the question: the prompt's ids, the completion's and the text."""
    chat = PromptStyle.parse(talk, "talk").chat(model)
    runtime = start(LocalConfig.parse({"engine_precision": "float32", "processes": 1}, "runtime"))
    try:
        prompt = chat.prompt_ids(problem_of(QUESTION))
        sampling = Sampling(max_tokens=MOST, temperature=0.0)
        found = runtime.engine(model).generate([prompt], sampling)[0][0]
    finally:
        runtime.close()
    [rollout] = chat.rollouts(problem_of(QUESTION), prompt, [found])
    assert found.finish == "stop"
    return prompt.tolist(), found.token_ids.tolist(), rollout.text


def generated(model: Path, prompt: list[int]) -> list[int]:
    theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    prompt_BT = torch.tensor([prompt])
    output = theirs.generate(
        prompt_BT, attention_mask=torch.ones_like(prompt_BT), max_new_tokens=MOST, do_sample=False
    )
    return list(output[0, len(prompt) :].tolist())


def code_of(card: Path) -> str:
    """The Python of a model card."""
    return card.read_text().partition("```python\n")[2].partition("```")[0]


def run_code(code: str, folder: Path) -> str:
    """What the card's code finds, with this question, in the model's folder."""
    values: dict[str, Any] = {}
    here = Path.cwd()
    os.chdir(folder)
    try:
        exec(code.replace('"What is 17 + 25?"', repr(QUESTION)), values)
    finally:
        os.chdir(here)
    return str(values["answer"])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_model_gives_the_same_text_in_transformers_and_stops_where_r1kit_does(
    family: str, tmp_path: Path
) -> None:
    talk = {"template": "model", "opening": "<think>"} if family == "qwen2" else {"template": "model"}
    run_dir = finetuned(tmp_path, base(tmp_path / "base", family), talk)
    folder = export_model(run_dir, None, tmp_path / "given")
    prompt, completion, text = sampled(folder, talk)
    assert text == ANSWER and completion[-1] == tokenizer().pad_id  # the second end token
    for model in (folder, run_dir / "stages/sft/model"):
        assert generated(model, prompt) == completion
    ask = pipeline("text-generation", model=str(folder), dtype=torch.float32)
    [found] = ask([{"role": "user", "content": QUESTION}], max_new_tokens=MOST, do_sample=False)
    assert found["generated_text"][-1]["content"] == ANSWER.removeprefix(talk.get("opening", ""))
    whole = tokenizer().decode(prompt, special=True)
    [continued] = ask(whole, max_new_tokens=MOST, do_sample=False, return_full_text=False)
    assert continued["generated_text"] == ANSWER.removeprefix(talk.get("opening", ""))
    assert run_code(code_of(folder / "README.md"), folder) == ANSWER


@pytest.mark.parametrize(
    "talk",
    [
        {"template": "chat"},
        {"template": "chat", "opening": "<think>"},
        {"template": "r1_zero", "opening": " <think>"},
        {"template": "r1_zero"},
    ],
)
def test_a_message_is_asked_as_in_training_by_the_exported_chat_template(
    talk: dict[str, Any], tmp_path: Path
) -> None:
    run_dir = finetuned(tmp_path, base(tmp_path / "base", template=f"\n{TURNS}"), talk, updates=1)
    folder = export_model(run_dir, None, tmp_path / "given")
    theirs = AutoTokenizer.from_pretrained(folder)
    for question in (QUESTION, 'Two lines:\n"a" \\ b {{ c }} 七'):
        ids = (
            PromptStyle.parse(talk, "talk")
            .chat(run_dir / "stages/sft/model")
            .prompt_ids(problem_of(question))
        )
        messages = [{"role": "user", "content": question}]
        found = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert found == ids.tolist()
        settings = prompt_settings(folder)
        assert settings is not None
        own = PromptStyle.parse(settings, "talk").chat(folder)
        np.testing.assert_array_equal(
            own.prompt_ids(problem_of(question)), ids
        )  # and so does r1kit, by r1kit.json
    # A conversation is left to the template that the base has.
    turns = [*messages, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    text = theirs.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    plain = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert text == plain.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text.startswith("\n<user>") and text.endswith(
        "<assistant>b<｜▁pad▁｜><user>c<｜▁pad▁｜><assistant>"
    )


EXAMPLES = [
    {"prompt": 'Say "a"\n{{ b }}.', "completion": "<think>x</think>7"},
    {"prompt": "2", "completion": "3"},
]


@pytest.mark.parametrize(
    "talk",
    [
        {"examples": EXAMPLES, "opening": "<think>"},
        {"system": "Be 'brief'.\\n"},
        {"system": "Be brief.", "examples": EXAMPLES},
        {"opening": "<think>\n"},
        {},
    ],
)
def test_what_a_recipe_adds_to_the_models_template_is_in_the_exported_one(
    talk: dict[str, Any], tmp_path: Path
) -> None:
    talk = {"template": "model", **talk}
    run_dir = finetuned(tmp_path, base(tmp_path / "base", template=f"\n{TURNS}\n"), talk, updates=1)
    folder = export_model(run_dir, None, tmp_path / "given")
    theirs, settings = AutoTokenizer.from_pretrained(folder), prompt_settings(folder)
    assert settings is not None
    as_trained = PromptStyle.parse(talk, "talk").chat(run_dir / "stages/sft/model")
    own = PromptStyle.parse(settings, "talk").chat(folder)
    assert own.begun == as_trained.begun == talk.get("opening", "")
    one = [("user", QUESTION)]
    for turns in (one, [*one, ("assistant", "b"), ("user", "{% c %}")], [("system", "Own."), *one]):
        messages = [{"role": role, "content": text} for role, text in turns]
        ids = as_trained.turn_ids(turns).tolist()
        found = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert found == ids == own.turn_ids(turns).tolist()


def test_a_frame_that_the_template_would_write_otherwise_stays_with_r1kit(tmp_path: Path) -> None:
    """Answers begin with this text here; a template cannot say so unless it opens a thought."""
    talk = {"template": "model", "opening": "Well: "}
    run_dir = finetuned(tmp_path, base(tmp_path / "base"), talk, updates=1)
    folder = export_model(run_dir, None, tmp_path / "given")
    settings = prompt_settings(folder)
    assert settings is not None and settings["opening"] == "Well: "
    assert PromptStyle.parse(settings, "talk").chat(folder).begun == "Well: "
    assert (folder / "chat_template.jinja").read_text() == TURNS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_weights_keep_the_dtype_of_the_original_and_are_rounded_once(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    source = base(tmp_path / "base", family, dtype)
    runtime = start(LocalConfig.parse({"processes": 1}, "runtime"))
    try:
        learner = runtime.learner(source, learner_config())
        with torch.no_grad():
            for tensor in learner.weights().values():
                tensor.add_(1e-4 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)))
        weights = {name: tensor.clone() for name, tensor in learner.weights().items()}
        learner.save(tmp_path / "state", {"step": 1})
        runtime.export(learner, tmp_path / "model")
    finally:
        runtime.close()
    saved = load_file(tmp_path / "model/model.safetensors")
    bias = {name for name in saved if name.endswith("e_score_correction_bias")}
    assert {saved[name].dtype for name in saved if name not in bias} == {dtype}
    assert {saved[name].dtype for name in bias} <= {torch.float32} and bool(bias) == (family == "deepseek_v3")
    again = load_pretrained(tmp_path / "model").state_dict()
    for name, tensor in weights.items():
        expected = tensor if name.endswith("e_score_correction_bias") else tensor.to(dtype)
        assert torch.equal(again[name], expected), name
    with safe_open(next((tmp_path / "state").rglob("state.safetensors")), framework="pt") as state:
        assert {state.get_tensor(name).dtype for name in state.keys()} == {torch.float32}  # noqa: SIM118
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == dtype


def test_a_run_on_a_bfloat16_checkpoint_can_be_exported_in_another_dtype(tmp_path: Path) -> None:
    run_dir = finetuned(
        tmp_path, base(tmp_path / "base", dtype=torch.bfloat16), {"template": "model"}, updates=2
    )
    kept = load_file(export_model(run_dir, None, tmp_path / "kept") / "model.safetensors")
    wide_folder = export_model(run_dir, None, tmp_path / "wide", "float32")
    wide = load_file(wide_folder / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    for name, tensor in wide.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, kept[name].float())
    assert json.loads((wide_folder / "config.json").read_text())["torch_dtype"] == "float32"
    check_model(wide_folder)  # its hashes are those of what was written
    with pytest.raises(ConfigError, match=r"--dtype int8: .*float32, bfloat16, float16"):
        export_model(run_dir, None, tmp_path / "never", "int8")
    assert not (tmp_path / "never").exists()


def test_conversion_of_shards_and_of_numbers_that_do_not_fit(tmp_path: Path) -> None:
    model = LanguageModel(FAMILIES["deepseek_v3"], seed=0)
    save_pretrained(model, tmp_path, shard_bytes=20_000)
    shards = sorted(file.name for file in tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    convert(tmp_path, torch.bfloat16)
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == shards
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    stored = {name: tensor for file in shards for name, tensor in load_file(tmp_path / file).items()}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values())
    for name, tensor in load_pretrained(tmp_path).state_dict().items():
        own = model.state_dict()[name]
        assert torch.equal(tensor, own if name.endswith("e_score_correction_bias") else own.bfloat16())
    with torch.no_grad():
        model.embed_tokens.weight[0, 0] = 1e5
    save_pretrained(model, tmp_path / "large")
    with pytest.raises(R1kitError, match=r"embed_tokens\.weight has numbers up to 1e\+05.*use bfloat16"):
        convert(tmp_path / "large", torch.float16)


def test_base_model_licence_and_lineage_go_from_model_to_model_and_into_the_card(tmp_path: Path) -> None:
    source = base(tmp_path / "base")
    change(source / "config.json", _name_or_path="org/small-base")
    run_dir = finetuned(tmp_path, source, {"template": "model"}, updates=1)
    folder = export_model(run_dir, None, tmp_path / "given")
    assert (folder / "LICENSE").read_text() == (source / "LICENSE").read_text()
    card = (folder / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["license"], header["base_model"]) == ("apache-2.0", "org/small-base")
    notes = read_notes(folder)
    assert notes is not None and notes.talk is not None and notes.talk["template"] == "model"
    record = stage_folder(run_dir, "sft").finished()
    assert record is not None
    expected = [
        ("org/small-base", "model", record.files[str(source)], "apache-2.0"),
        ("sft", "sft", stage_folder(run_dir, "sft").record_hash(), None),
    ]
    assert [(a.name, a.kind, a.sha256, a.license) for a in notes.lineage] == expected
    assert all(digest in card for _, _, digest, _ in expected if digest)
    # A run that starts from the exported model names all of it.
    (tmp_path / "next").mkdir()
    again = export_model(
        finetuned(tmp_path / "next", folder, {"template": "model"}, updates=1), None, tmp_path / "again"
    )
    later = read_notes(again)
    assert later is not None and (later.base_model, later.license) == ("org/small-base", "apache-2.0")
    assert [a.name for a in later.lineage] == ["org/small-base", "sft", "given", "sft"]
    assert (again / "LICENSE").is_file()


@pytest.mark.parametrize(
    ("card", "files", "licence"),
    [
        ("---\nlicense: mit\n---\n", {}, "mit"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", {"LICENSE": "Qwen"}, "qwen-research"),
        ("# no front matter\n", {"LICENSE.txt": "Apache License Version 2.0"}, "apache-2.0"),
        ("---\nlicense: [broken\n---\n", {"LICENSE": "Permission is hereby granted, free of\ncharge"}, "mit"),
        (None, {"LICENSE": "All rights reserved."}, "other"),
        (None, {"licences.json": "Apache License Version 2.0"}, None),
        (None, {}, None),
    ],
)
def test_a_licence_is_read_from_the_card_or_the_licence_file_and_never_guessed(
    card: str | None, files: dict[str, str], licence: str | None, tmp_path: Path
) -> None:
    source = base(tmp_path / "base")
    (source / "LICENSE").unlink()
    (source / "README.md").unlink()
    if card is not None:
        (source / "README.md").write_text(card)
    for name, text in files.items():
        (source / name).write_text(text)
    runtime = start(LocalConfig.parse({"processes": 1}, "runtime"))
    try:
        runtime.export(runtime.learner(source, learner_config()), tmp_path / "model")
    finally:
        runtime.close()
    notes = read_notes(tmp_path / "model")
    assert notes is not None and (notes.base_model, notes.license) == ("base", licence)
    copied = {name for name in files if name.upper().startswith("LICENSE")}
    assert {file.name for file in (tmp_path / "model").glob("LIC*")} == copied


def test_a_model_trained_from_random_weights_has_no_base(tmp_path: Path) -> None:
    recipe = f"""
name: own
out: {tmp_path}/run
runtime: {{processes: 1}}
stages:
  - stage: pretrain
    model: {{preset: nano}}
    tokens: 600
    tokenizer: 320
    corpus: {{generated: {{miniature: 1.0}}}}
    learner: {{context: 64, lines: 4}}
    training: {{batch_tokens: 300}}
"""
    (tmp_path / "own.yaml").write_text(recipe)
    layers = read_layers(tmp_path / "own.yaml")
    run(build(layers), layers=layers)
    folder = export_model(tmp_path / "run", None, tmp_path / "given")
    card, notes = (folder / "README.md").read_text(), read_notes(folder)
    assert notes is not None and (notes.base_model, notes.license, notes.talk) == (None, None, None)
    header = yaml.safe_load(card.split("---")[1])
    assert "base_model" not in header and "license" not in header
    assert "Trained from random weights." in card and "it continues a text" in card


def test_generation_settings_are_kept_but_those_that_change_the_text_or_the_end(tmp_path: Path) -> None:
    source = base(tmp_path / "base")
    change(source / "generation_config.json", max_new_tokens=5, stop_strings=["x"], top_k=20, own_key=7)
    own = Tokenizer.load(source)
    own.save(tmp_path / "saved")
    written = json.loads((tmp_path / "saved/generation_config.json").read_text())
    assert written == {
        "bos_token_id": own.bos_id, "eos_token_id": [own.eos_id, own.pad_id], "pad_token_id": own.pad_id,
        "temperature": 0.6, "do_sample": True, "top_k": 20, "own_key": 7,
    }  # fmt: skip
    # Without a padding token generation pads with the end token; config.json names none.
    names = {name: token for name, token in own.names.items() if name != "pad"}
    assert names != own.names
    bare = Tokenizer(own.backend, names, {"default": TURNS})
    save_pretrained(LanguageModel(FAMILIES["llama"], seed=0), tmp_path / "bare")
    bare.save(tmp_path / "bare")
    written = json.loads((tmp_path / "bare/generation_config.json").read_text())
    assert (written["pad_token_id"], written["eos_token_id"]) == (own.eos_id, own.eos_id)
    assert json.loads((tmp_path / "bare/config.json").read_text())["pad_token_id"] is None


def test_a_changed_note_of_an_exported_model_is_damage(tmp_path: Path) -> None:
    run_dir = finetuned(tmp_path, base(tmp_path / "base"), {"template": "chat"}, updates=1)
    folder = export_model(run_dir, None, tmp_path / "given")
    check_model(folder)
    change(folder / "r1kit.json", talk={"template": "r1_zero"})
    with pytest.raises(R1kitError, match=r"r1kit\.json: damaged: sha256"):
        check_model(folder)


def test_a_device_that_is_missing_is_refused_before_a_stage_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    run_dir = finetuned(tmp_path, base(tmp_path / "base"), {"template": "model"}, updates=1)
    recipe = str(tmp_path / "made.yaml")

    def said(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["r1kit", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    for command in (["run", recipe], ["run", recipe, "--dry-run"]):
        code, text = said(*command, "runtime.device=cuda", f"--out={tmp_path / 'other'}")
        assert code == 2 and "runtime.device" in text and "runtime.device=cpu" in text, text
        assert not list((tmp_path / "other").glob("stages/*"))
    code, text = said("run", recipe, "runtime.device=gpu", f"--out={tmp_path / 'other'}")
    assert code == 2 and "write cpu, cuda or cuda:0" in text
    code, text = said("plan", recipe, "--gpu", "h800", "runtime.device=cuda", f"--out={tmp_path / 'other'}")
    assert code == 0, text  # a plan may be for another machine
    # What is finished needs no device.
    assert said("run", recipe, "--dry-run")[0] == 0 and (run_dir / "stages/sft").is_dir()


def test_an_override_of_a_mapping_replaces_it_whole(tmp_path: Path) -> None:
    text = (
        "name: a\nstages:\n  - {stage: evaluate, models: {A: '@one', B: '@two'}, tasks: {chain: 1.0}, n: 3}\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    [stage] = read_layers(tmp_path / "a.yaml", ["stages.evaluate.models={C: some/folder}"]).data["stages"]
    assert stage["models"] == {"C": "some/folder"} and stage["n"] == 3
    [stage] = read_layers(tmp_path / "a.yaml", ["stages.evaluate.models.C=some/folder"]).data["stages"]
    assert stage["models"] == {"A": "@one", "B": "@two", "C": "some/folder"}


def real_model() -> Path:
    """The folder of SmolLM2-135M-Instruct, where there is one."""
    named = os.environ.get("R1KIT_SMOLLM2", "models/SmolLM2-135M-Instruct")
    if not (Path(named) / "model.safetensors").is_file():
        pytest.skip("needs SmolLM2-135M-Instruct: R1KIT_SMOLLM2=its folder")
    return Path(named)


@pytest.mark.slow
def test_smollm2_gives_the_same_text_and_stops(tmp_path: Path) -> None:
    source = real_model()
    runtime = start(LocalConfig.parse({"engine_precision": "float32", "processes": 1}, "runtime"))
    try:
        runtime.export(runtime.learner(source, learner_config()), tmp_path / "model")
    finally:
        runtime.close()
    chat = Chat(Tokenizer.load(tmp_path / "model"), "model")
    engine = start(LocalConfig.parse({"engine_precision": "float32", "processes": 1}, "runtime")).engine(
        tmp_path / "model"
    )
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    for question in ("What is the capital of France?", "Say hello in one word."):
        prompt = chat.prompt_ids(problem_of(question))
        [[found]] = engine.generate([prompt], Sampling(max_tokens=60, temperature=0.0))
        prompt_BT = torch.tensor([prompt.tolist()])
        output = theirs.generate(prompt_BT, max_new_tokens=60, do_sample=False)[0, len(prompt) :]
        assert output.tolist() == found.token_ids.tolist() and found.finish == "stop"
    assert theirs.generation_config.eos_token_id == chat.tokenizer.eos_id


IN_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    folder, prompt, most = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    engine = LLM(model=folder, dtype="float32", max_model_len=200, enforce_eager=True)
    settings = SamplingParams(temperature=0.0, max_tokens=most)
    [output] = engine.generate({"prompt_token_ids": prompt}, settings)
    found = output.outputs[0]
    print("FOUND " + json.dumps([list(found.token_ids), found.text, found.finish_reason]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_vllm_gives_the_same_text_and_stops(family: str, tmp_path: Path) -> None:
    """The folder as vLLM opens it without r1kit (make test-vllm)."""
    program = os.environ.get("R1KIT_VLLM_PYTHON")
    if not program:
        pytest.skip("needs R1KIT_VLLM_PYTHON, an interpreter with vLLM")
    talk = {"template": "model"}
    init = base(tmp_path / "base", family, width=128)  # heads of 32: vLLM on a CPU has none of 8
    folder = export_model(finetuned(tmp_path, init, talk), None, tmp_path / "given")
    prompt, completion, text = sampled(folder, talk)
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    (tmp_path / "in_vllm.py").write_text(IN_VLLM)
    words = [program, "-I", str(tmp_path / "in_vllm.py"), str(folder), json.dumps(prompt), str(MOST)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr[-2000:]
    ids, theirs, finish = json.loads(done.stdout.partition("FOUND ")[2])
    assert finish == "stop" and ids == completion and text.endswith(theirs.strip())


@pytest.mark.slow
def test_llama_cpp_converts_an_exported_model_with_its_end_tokens_and_template(tmp_path: Path) -> None:
    folder = os.environ.get("R1KIT_LLAMA_CPP", "")
    converter = Path(folder) / "convert_hf_to_gguf.py"
    if not folder or not converter.is_file() or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs llama.cpp's converter (R1KIT_LLAMA_CPP=its folder) and the package gguf")
    source = real_model()  # llama.cpp knows its tokenizer
    runtime = start(LocalConfig.parse({"processes": 1}, "runtime"))
    try:
        runtime.export(runtime.learner(source, learner_config()), tmp_path / "model")
    finally:
        runtime.close()
    out = tmp_path / "model.gguf"
    words = [
        sys.executable,
        str(converter),
        str(tmp_path / "model"),
        "--outfile",
        str(out),
        "--outtype",
        "bf16",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    from gguf import GGUFReader  # type: ignore[import-not-found]

    fields = {name: field.contents() for name, field in GGUFReader(str(out)).fields.items()}
    own = Tokenizer.load(source)
    assert fields["tokenizer.ggml.eos_token_id"] == own.eos_id
    assert fields["tokenizer.ggml.bos_token_id"] == own.bos_id
    assert fields["tokenizer.chat_template"] == own.chat_template


def test_a_template_of_the_recipes_own_goes_with_the_exported_model(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from r1kit.stages.stage import Stage\n"
        "from r1kit.train.learner import LearnerConfig\n"
        "class Own(Stage):\n"
        "    stage: str = ''\n"
        "    init: str\n"
        "    talk: dict = {}\n"
        "    def run(self, ctx):\n"
        "        learner = ctx.runtime.learner(ctx.path(self.init), LearnerConfig())\n"
        "        ctx.runtime.export(learner, ctx.out / 'model')\n"
    )
    template = tmp_path / "mine.jinja"
    template.write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    stage = {"stage": f"{tmp_path}/own.py:Own", "name": "own", "init": str(base(tmp_path / "base"))}
    recipe = {
        "name": "made",
        "out": str(tmp_path / "run"),
        "runtime": {"processes": 1},
        "stages": [{**stage, "talk": {"template": str(template)}}],
    }
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(recipe))
    layers = read_layers(tmp_path / "made.yaml")
    run(build(layers), layers=layers)
    folder = export_model(tmp_path / "run", "own", tmp_path / "given")
    assert prompt_settings(folder) == {"template": "model"}
    theirs = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": QUESTION}]
    text = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == f"[{QUESTION}]"
    check_model(folder)
    template.unlink()
    with pytest.raises(ConfigError, match=r"mine\.jinja: no such file"):
        export_model(tmp_path / "run", "own", tmp_path / "never")
    assert not list(tmp_path.glob("*never*"))


def test_a_stages_other_models_are_exported_by_the_folder_and_a_reward_model_as_what_it_is(
    tmp_path: Path,
) -> None:
    """A stage that leaves a reward model in a folder of its own, as reward_models does."""
    (tmp_path / "scorer.py").write_text(
        "from typing import Literal\n"
        "from r1kit.stages.stage import Stage\n"
        "from r1kit.train.learner import LearnerConfig\n"
        "class Scorer(Stage):\n"
        "    stage: str = ''\n"
        "    init: str\n"
        "    def run(self, ctx):\n"
        "        learner = ctx.runtime.learner(ctx.path(self.init), LearnerConfig(), scalar_head=True)\n"
        "        ctx.runtime.export(learner, ctx.out / 'helpful')\n"
    )
    source = base(tmp_path / "base", dtype=torch.bfloat16)
    recipe = {
        "name": "made",
        "out": str(tmp_path / "run"),
        "runtime": {"processes": 1},
        "stages": [{"stage": f"{tmp_path}/scorer.py:Scorer", "name": "judge", "init": str(source)}],
    }
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(recipe))
    layers = read_layers(tmp_path / "made.yaml")
    run(build(layers), layers=layers)
    with pytest.raises(ConfigError, match="no model 'model'; its models: judge/helpful"):
        export_model(tmp_path / "run", "judge", tmp_path / "never")
    folder = export_model(tmp_path / "run", "judge/helpful", tmp_path / "given")
    card = (folder / "README.md").read_text()
    assert "A reward model" in card and "pipeline_tag" not in card
    notes = read_notes(folder)
    assert notes is not None and (notes.base_model, notes.license) == ("base", "apache-2.0")
    assert load_file(folder / "value_head.safetensors")["value_head.weight"].dtype == torch.float32
    assert load_file(folder / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
    again = load_pretrained(folder)
    assert again.value_head is not None
