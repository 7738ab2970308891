"""How an exported model is asked: in words, as Python code for transformers, and as a chat template.

All three are made from r1kit's own prompt of a question, so that they write what the model was trained on.
The code's texts are compared with that prompt, token by token, before they are given."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from r1kit.chat import Chat, problem_of
from r1kit.config import R1kitError
from r1kit.stages.models import PromptStyle

_PLACE = "QUESTION7F3A"  # a question that no template contains
_PROBES = ("What is 17 + 25?", "a", " Two\nlines: 3 < 4 ")
_ALGORITHMS = ("grpo", "ppo", "rl")  # keys of an algorithm's configuration in a stage's
_MOST_TOKENS = 256  # in the card's code, for a stage that samples nothing
_TEMPLATES = {
    "chat": "DeepSeek's turn tokens around the question",
    "r1_zero": "R1-Zero's plain text around the question (DeepSeek-R1, Table 1)",
    "model": "the model's own chat template",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as text: what stands ``before`` and ``after`` the question, and the ``opening`` of the answer,
    which is tokenized on its own. ``is_exact``: whether these texts give the tokens of r1kit's prompt."""

    before: str
    after: str
    opening: str
    is_exact: bool


def asked_of(chat: Chat) -> Asked:
    """The texts around a question in r1kit's prompt."""
    tokenizer, opening = chat.tokenizer, chat.begun
    without = chat.prompt_ids(problem_of(_PLACE), opening="")
    before, found, after = tokenizer.decode(without, special=True).partition(_PLACE)
    whole = chat.prompt_ids(problem_of(_PLACE))
    opening = tokenizer.decode(whole[len(without) :], special=True) if len(whole) > len(without) else ""
    asked = Asked(before, after, opening, bool(found))
    return Asked(before, after, opening, asked.is_exact and all(_agrees(chat, asked, q) for q in _PROBES))


def _agrees(chat: Chat, asked: Asked, question: str) -> bool:
    """Whether the texts give the tokens of r1kit's prompt of a question."""
    texts = [asked.before + question + asked.after, asked.opening]
    ids = np.concatenate([chat.tokenizer.encode(text, special=True) for text in texts])
    try:
        return np.array_equal(ids, chat.prompt_ids(problem_of(question)))
    except R1kitError:
        return False


def prompt_section(folder: Path, talk: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The card's words and code. ``talk``: the prompt settings (PromptStyle's keys); ``config``: that of the
    stage."""
    chat = PromptStyle.parse(dict(talk), f"{folder}: talk").chat(folder)
    asked, stops = asked_of(chat), _texts(talk.get("stop"))
    sentences = [f"The prompt is {_TEMPLATES.get(chat.template, 'a chat template of the recipe')}."]
    if system := talk.get("system"):
        sentences.append(f"A system text comes first: {json.dumps(system, ensure_ascii=False)}.")
    if examples := talk.get("examples"):
        sentences.append(f"{len(examples)} worked examples come before the question.")
    if asked.opening:
        sentences.append(f"The answer begins with {_code(asked.opening)}, which is part of the prompt.")
    ends = ", ".join(_code(chat.tokenizer.decode([index], special=True)) for index in chat.tokenizer.end_ids)
    sentences.append(f"Sampling stops at {ends}{' and after ' if stops else ''}"
                     f"{', '.join(map(_code, stops))}.")  # fmt: skip
    if in_training := _sampling(config):
        sentences.append(f"In training, completions were sampled with {in_training}.")
    if not asked.is_exact:
        sentences.append(
            "As one text this prompt gives other tokens in transformers; r1kit chat and r1kit eval write it "
            "as it was trained."
        )
        return " ".join(sentences)
    return " ".join(sentences) + "\n\n" + _python(asked, stops, _most_tokens(config))


def _python(asked: Asked, stops: Sequence[str], most: int) -> str:
    stop = (
        f", stop_strings={json.dumps(list(stops), ensure_ascii=False)}, tokenizer=tokenizer" if stops else ""
    )
    return f'''```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)

question = "{_PROBES[0]}"
before = {asked.before!r}
after = {asked.after!r}
opening = {asked.opening!r}
texts = [before + question + after, opening]
ids = [index for text in texts for index in tokenizer(text, add_special_tokens=False)["input_ids"]]
prompt = torch.tensor([ids])
output = model.generate(
    prompt, attention_mask=torch.ones_like(prompt), max_new_tokens={most}, do_sample=False{stop}
)
answer = opening + tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
print(answer)
```'''


def chat_template_of(asked: Asked, otherwise: str | None) -> str:
    """A Jinja template that writes r1kit's prompt for one question; every other conversation is left to the
    template that the tokenizer has."""
    texts = [json.dumps(text, ensure_ascii=False) for text in (asked.before, asked.after + asked.opening)]
    # Jinja drops the newline at a template's end and, as transformers sets it, the one after a block.
    own = (otherwise or "").removesuffix("\n")
    return (
        "{% if messages | length == 1 and messages[0]['role'] == 'user' and add_generation_prompt %}"
        f"{{{{ {texts[0]} + messages[0]['content'] + {texts[1]} }}}}"
        f"{{% else %}}{chr(10) if own.startswith(chr(10)) else ''}{own}{{% endif %}}"
    )


def framed_template_of(chat: Chat) -> str:
    """The model's own template with what ``chat`` adds to every conversation: its system text, its worked
    examples, its way of thinking, and what answers begin with."""
    opened, own = replace(chat, opening="").begun, (chat.tokenizer.chat_template or "").removesuffix("\n")
    system = [{"role": "system", "content": chat.system}] if chat.system else []
    examples = [
        {"role": role, "content": text}
        for pair in chat.examples
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    first, shown = (json.dumps(turns, ensure_ascii=False) for turns in (system, examples))
    thinking = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {str(chat.thinking).lower()} %}}{{% endif %}}"
        for name in (("enable_thinking", "thinking") if chat.thinking is not None else ())
    )
    opening = json.dumps(chat.begun.removeprefix(opened), ensure_ascii=False)
    return (
        f"{thinking}{{% set given = messages[:1] if messages and messages[0]['role'] == 'system' else [] %}}"
        f"{{% set messages = (given or {first}) + {shown} + messages[given | length:] %}}"
        f"{chr(10) if own.startswith(chr(10)) else ''}{own}"
        f"{{% if add_generation_prompt %}}{{{{ {opening} }}}}{{% endif %}}"
    )


def asks_alike(chat: Chat, other: Chat) -> bool:
    """Whether two ways of asking write the same prompts and read answers alike."""
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    try:
        return (
            chat.begun == other.begun
            and all(_same(chat.prompt_ids(problem_of(q)), other.prompt_ids(problem_of(q))) for q in _PROBES)
            and _same(chat.turn_ids(turns), other.turn_ids(turns))
        )
    except R1kitError:
        return False


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other)


def writes_prompt(chat: Chat, asked: Asked) -> bool:
    """Whether the tokenizer's own chat template writes r1kit's prompt of one question."""
    if chat.tokenizer.chat_template is None:
        return False
    own = Chat(chat.tokenizer, "model")
    try:
        return all(
            np.array_equal(own.prompt_ids(problem_of(q)), chat.prompt_ids(problem_of(q))) for q in _PROBES
        )
    except R1kitError:
        return False


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(text) for text in value or ()]


def _sampling(config: Mapping[str, Any]) -> str:
    """Temperature, top-p and length with which a stage sampled, in words."""
    given = _sampler(config)
    words = {"temperature": "temperature {}", "top_p": "top-p {}", "max_tokens": "at most {} tokens"}
    return ", ".join(text.format(given[key]) for key, text in words.items() if given.get(key) is not None)


def _most_tokens(config: Mapping[str, Any]) -> int:
    most = _sampler(config).get("max_tokens")
    return most if isinstance(most, int) else _MOST_TOKENS


def _sampler(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a stage's configuration that says how it samples: itself, or its algorithm's."""
    parts = [config, *(config.get(key) for key in _ALGORITHMS)]
    return next((part for part in parts if isinstance(part, Mapping) and part.get("max_tokens")), {})


def _code(text: str) -> str:
    shown = text.replace("\n", "\\n").replace("`", "'")
    return f"`{shown}`"
