"""Models as other makers write them (no begin or padding token, lists of end tokens, templates that end or
open a turn in their own way): what is exported stops in transformers where r1kit does, after the same
text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import tokenizer
from test_exports import ANSWER, FAMILIES, MOST, QUESTION, TURNS, change, finetuned, generated, sampled
from transformers import pipeline

from r1kit.commands.export import export_model
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.tokenizer import Tokenizer

END = "<｜▁pad▁｜>"  # the second end token of TURNS
BEGINS = "{{ bos_token }}" + TURNS
OPENS = TURNS.replace("<assistant>{% endif %}", "<assistant><think>\n{% endif %}")
PLAIN_END = TURNS.replace(
    END, "<end>"
)  # a text, not a token: a turn then ends with the tokenizer's own token
NAMED_END = TURNS.replace(END, "{{ eos_token }}")


def write(folder: Path, family: str, template: str, names: dict[str, str], ends: list[int]) -> Path:
    save_pretrained(LanguageModel(FAMILIES[family], seed=3), folder)
    Tokenizer(tokenizer().backend, names, {"default": template}, ends).save(folder)
    return folder


def without(*left_out: str) -> dict[str, str]:
    return {name: text for name, text in tokenizer().names.items() if name not in left_out}


def whole(folder: Path) -> None:
    """Nothing is changed."""


def end_only_in_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    change(folder / "config.json", eos_token_id=[tokenizer().pad_id, tokenizer().eos_id])


def end_only_in_generation_config(folder: Path) -> None:
    change(folder / "config.json", eos_token_id=None, bos_token_id=None, pad_token_id=None)


def one_end_and_other_settings(folder: Path) -> None:
    change(
        folder / "generation_config.json", eos_token_id=tokenizer().pad_id, max_length=20, min_new_tokens=30,
        do_sample=True, top_k=3, suppress_tokens=[tokenizer().pad_id], forced_eos_token_id=tokenizer().eos_id,
    )  # fmt: skip


Damage = Callable[[Path], None]
VARIANTS: dict[str, tuple[str, str, dict[str, str], Damage]] = {
    "no begin token": ("llama", TURNS, without("bos"), whole),
    "no padding token": ("qwen2", TURNS, without("pad"), whole),
    "neither": ("deepseek_v3", NAMED_END, without("bos", "pad"), whole),
    "a template that writes the begin token": ("llama", BEGINS, without(), whole),
    "a template that opens the thinking": ("qwen3", OPENS, without(), whole),
    "a template whose turns end with a text": ("llama", PLAIN_END, without(), whole),
    "a template that ends turns with the end token": ("qwen2", NAMED_END, without("bos"), whole),
    "end tokens only in config.json": ("llama", TURNS, without("bos"), end_only_in_config),
    "end tokens only in generation_config.json": ("qwen3", TURNS, without(), end_only_in_generation_config),
    "settings that would change text and end": ("deepseek_v3", TURNS, without(), one_end_and_other_settings),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_exported_model_stops_where_r1kit_does(variant: str, tmp_path: Path) -> None:
    family, template, names, damage = VARIANTS[variant]
    ordinary = tokenizer().id("t")
    listed = [tokenizer().pad_id, ordinary] if "t" not in ANSWER else [tokenizer().pad_id]
    source = write(tmp_path / "base", family, template, names, listed)
    damage(source)
    talk: dict[str, Any] = {"template": "model"}
    run_dir = finetuned(tmp_path, source, talk)
    folder = export_model(run_dir, None, tmp_path / "given")
    prompt, completion, text = sampled(folder, talk)
    assert text.replace("\n", "") == ANSWER and len(completion) < MOST
    assert generated(folder, prompt) == completion
    assert generated(run_dir / "stages/sft/model", prompt) == completion
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert completion[-1] in (ends if isinstance(ends, list) else [ends])
    ask = pipeline("text-generation", model=str(folder), dtype=torch.float32)
    [found] = ask([{"role": "user", "content": QUESTION}], max_new_tokens=MOST, do_sample=False)
    said = found["generated_text"][-1]["content"]
    assert said == (ANSWER.removeprefix("<think>") if template == OPENS else ANSWER)
