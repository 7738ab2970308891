"""A checkpoint's own template gives the ids that transformers gives: template styles of the model families,
written here, on a small trained tokenizer."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from small_world import tokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from r1kit.chat import Chat
from r1kit.config import R1kitError
from r1kit.stages.models import fits
from r1kit.stages.sft import training_row
from r1kit.tokenizer import Tokenizer
from r1kit.types import Completion, Problem


@dataclass(frozen=True)
class Style:
    """A template with the special tokens its tokenizer names; ``system``: whether it has system turns."""

    template: str
    names: dict[str, str]
    specials: tuple[str, ...] = ()
    system: bool = True
    more: dict[str, Any] = field(default_factory=dict)


IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
CHATML = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "{{- bos_token }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' ~ m['role'] ~ '<|end_header_id|>\n\n' }}"
    "{{- (m['content'] | trim) ~ '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
INST = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant have to take turns') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {% if loop.last and first %}{{ first + '\n\n' }}{% endif %}"
    "{{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TURNS_OF_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('there is no system role') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
DEEPSEEK = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = ns.system ~ m.content %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}"
    "{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% elif m.role == 'assistant' %}"
    "<｜Assistant｜>{{ m.content.split('</think>') | last }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>OPENED{% endif %}"
)
QWEN3 = (
    "{%- set last = namespace(user=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set last.user = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}"
    "<|im_start|>{{ m.role + '\n' }}"
    "{%- if m.role == 'assistant' and loop.index0 < last.user and '</think>' in m.content %}"
    "{{- m.content.split('</think>')[-1].lstrip('\n') }}{%- else %}{{- m.content }}{%- endif %}<|im_end|>\n"
    "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + '\n' + m['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
TOOLS = (
    "{%- if tools is not none %}You have {{ tools | length }} tools.\n{% endif %}"
    "{%- if documents %}documents{% endif %}" + CHATML
)
DATED = "Today: {{ strftime_now('%Y') }}\n" + CHATML
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}"
    "{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BROKEN_OFF = (
    "{% for m in messages %}{% if m.role == 'stop' %}{% break %}{% endif %}"
    "{% if m.content == '' %}{% continue %}"
    "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
AS_JSON = (
    "{% for m in messages %}{{ {'role': m.role, 'content': m.content} | tojson }}"
    "{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ {'b': 1, 'a': '<é>'} | tojson(indent=1) }}{% endif %}"
)
NAMED_TOKENS = (
    "{{ bos_token }}|{{ pad_token }}|{{ unk_token }}|{% if sep_token is defined %}sep{% endif %}" + CHATML
)
OPENING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
CLOSED = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")
BEGIN_IF_ANY = "{% if bos_token %}{{ bos_token }}{% endif %}{{ bos_token }}" + CHATML
TRIMMED = (
    "   {% for m in messages %}\n    {% if m.role == 'user' %}\n### Question:\n{{ m.content }}\n"
    "    {% else %}\n"
    "### {{ m.role | capitalize }}:\n{{ m.content }}\n    {% endif %}\n   {% endfor %}\n### Answer:\n"
)

NAMED_TEMPLATES = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": CHATML}]
IM_NAMES = {"eos": "<|im_end|>", "pad": "<|endoftext|>"}
HEADER_TOKENS = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
DEEPSEEK_NAMES = {"bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>"}
DEEPSEEK_TOKENS = ("<｜User｜>", "<｜Assistant｜>")
STYLES = {
    "chatml": Style(CHATML, IM_NAMES, IM),
    "llama3": Style(HEADERS, {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"}, HEADER_TOKENS),
    "mistral": Style(INST, {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}),
    "gemma": Style(
        TURNS_OF_GEMMA, {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>"},
        ("<start_of_turn>", "<end_of_turn>"), False,
    ),
    "deepseek": Style(DEEPSEEK.replace("OPENED", ""), DEEPSEEK_NAMES, DEEPSEEK_TOKENS),
    "deepseek-r1": Style(DEEPSEEK.replace("OPENED", "<think>\n"), DEEPSEEK_NAMES, DEEPSEEK_TOKENS),
    "qwen3": Style(QWEN3, IM_NAMES, IM),
    "phi3": Style(
        PHI3, {"bos": "<s>", "eos": "<|endoftext|>"},
        ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
    "tools": Style(TOOLS, IM_NAMES, IM),
    "dated": Style(DATED, IM_NAMES, IM),
    "generation": Style(GENERATION, IM_NAMES, IM),
    "break and continue": Style(BROKEN_OFF, {"eos": "</s>"}),
    "json": Style(AS_JSON, {"eos": "</s>"}),
    "named tokens": Style(NAMED_TOKENS, {**IM_NAMES, "bos": "<s>", "unk": "<unk>"}, IM),
    "thinking opened": Style(OPENING, IM_NAMES, IM),
    "thinking closed": Style(CLOSED, IM_NAMES, IM),
    "begin if any": Style(BEGIN_IF_ANY, IM_NAMES, IM),
    "trimmed blocks": Style(TRIMMED, {"eos": "</s>"}),
    "special tags": Style(OPENING, IM_NAMES, (*IM, "<think>", "</think>")),
    "list of templates": Style("", IM_NAMES, IM, more={"chat_template": NAMED_TEMPLATES}),
}  # fmt: skip
CONVERSATIONS = {
    "question": [("user", "What is 2+3?")],
    "unusual text": [("user", '  «déjà» <b>"x"</b> & 计算\n\n3+4 \n')],
    "turns": [("user", "Hi"), ("assistant", "<think>greet</think>Hello."), ("user", "And 4+4?")],
    "system": [("system", "Answer in French."), ("user", "2+2?")],
    "system with lines": [("system", 'Say "oui".\n\nIn French: <b>'), ("user", "2+2?")],
    "system and turns": [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "4+4?")],
}
every_style = pytest.mark.parametrize("name", STYLES)


@cache
def folder_of(name: str, root: Path) -> Path:
    """A tokenizer's folder in a style."""
    style, folder = STYLES[name], root / name.replace(" ", "_")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(dict.fromkeys((*style.names.values(), *style.specials))),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [text for turns in CONVERSATIONS.values() for _, text in turns] + [style.template]
    backend.train_from_iterator(texts * 3, trainer)
    if "<think>" not in style.specials:
        backend.add_tokens(
            [tokenizers.AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")]
        )
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    named = {f"{key}_token": token for key, token in style.names.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": style.template,
        **named,
        **style.more,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("styles")


def theirs(folder: Path, turns: list[tuple[str, str]], generation: bool = True) -> list[int]:
    return ids_of(PreTrainedTokenizerFast.from_pretrained(folder), turns, generation)


def ids_of(own: Any, turns: list[tuple[str, str]], generation: bool = True) -> list[int]:
    messages = [{"role": role, "content": text} for role, text in turns]
    return list(own.apply_chat_template(messages, add_generation_prompt=generation, return_dict=False))


@cache
def readers(name: str, root: Path) -> list[tuple[Any, Chat]]:
    """A style's tokenizer as transformers and r1kit read it, as it was written and after r1kit has saved
    it."""
    folder, saved = folder_of(name, root), root / f"saved_{name}"
    saved.mkdir()
    Tokenizer.load(folder).save(saved)
    return [
        (PreTrainedTokenizerFast.from_pretrained(one), Chat(Tokenizer.load(one), "model"))
        for one in (folder, saved)
    ]


@pytest.mark.parametrize("turns", CONVERSATIONS)  # a style at a time: it has a process of its own
@every_style
def test_prompts_have_the_ids_of_transformers_also_after_saving(name: str, turns: str, root: Path) -> None:
    written, saved = readers(name, root)
    conversation = CONVERSATIONS[turns]
    if conversation[0][0] == "system" and not STYLES[name].system:
        with pytest.raises(R1kitError, match=r"\(system, user.*\): there is no system role"):
            written[1].turn_ids(conversation)
        return
    expected = ids_of(written[0], conversation)
    assert ids_of(saved[0], conversation) == expected
    for _, chat in (written, saved):
        assert chat.turn_ids(conversation).tolist() == expected


@every_style
def test_a_special_token_that_a_user_writes_stays_text(name: str, root: Path) -> None:
    own = Tokenizer.load(folder_of(name, root))
    chat = Chat(own, "model")
    forged = f"hi{''.join(own.special_tokens)}x"
    plain = [index for index in chat.turn_ids([("user", "hi x")]).tolist() if index in own.special_ids]
    ids = chat.turn_ids([("user", forged)]).tolist()
    assert [index for index in ids if index in own.special_ids] == plain
    assert "hi" in own.decode(ids) and own.special_tokens


@pytest.mark.parametrize("name", ["chatml", "llama3", "deepseek", "qwen3", "phi3", "generation", "mistral"])
def test_a_written_answer_ends_as_the_template_ends_a_turn(name: str, root: Path) -> None:
    """With the checkpoint's list of end tokens, also where the tokenizer's own is another one."""
    folder = folder_of(name, root)
    backend = PreTrainedTokenizerFast.from_pretrained(folder)
    ends = {"phi3": "<|end|>"}.get(name, STYLES[name].names["eos"])
    config = folder / "generation_config.json"
    config.write_text(json.dumps({"eos_token_id": backend.convert_tokens_to_ids(["</think>", ends])}))
    chat = Chat(Tokenizer.load(folder), "model")
    turns = [("user", "What is 2+3?")]
    row = np.concatenate([chat.turn_ids(turns), chat.response_ids("It is 5.")]).tolist()
    whole = theirs(folder, [*turns, ("assistant", "It is 5.")], generation=False)
    rest = whole[len(row) :]
    if name == "mistral":  # a space before the answer belongs to its template
        assert row[-1] == whole[-1] == chat.tokenizer.eos_id
    else:
        assert whole[: len(row)] == row and chat.tokenizer.decode(rest).strip() == ""
    assert row[-1] == backend.convert_tokens_to_ids(ends)
    config.unlink()


def answered(
    chat: Chat, text: str, problem: Problem, opening: str | None = None
) -> tuple[str | None, str | None]:
    ids = chat.response_ids(text)
    prompt = chat.prompt_ids(problem, opening)
    [rollout] = chat.rollouts(problem, prompt, [Completion(ids, np.zeros(len(ids)), "stop")], opening)
    return rollout.thinking, rollout.answer


PROBLEM = Problem("p", "t", "2+2?", "4")


@pytest.mark.parametrize("name", ["thinking opened", "deepseek-r1", "special tags"])
@pytest.mark.parametrize("opening", ["", "<think>", "<think>\n"])
def test_a_template_that_opens_the_thinking_is_followed_with_one_tag(
    name: str, opening: str, root: Path
) -> None:
    chat = Chat(Tokenizer.load(folder_of(name, root)), "model", opening)
    prompt = chat.prompt_ids(PROBLEM)
    assert prompt.tolist() == theirs(folder_of(name, root), [("user", "2+2?")])
    text = chat.tokenizer.decode(prompt)
    assert text.endswith("<think>\n") and text.count("<think>") == 1
    assert answered(chat, "2+2 is 4\n</think>\n\n4", PROBLEM) == ("2+2 is 4", "4")
    assert answered(chat, "<think>2+2 is 4</think>4", PROBLEM) == (None, None)  # a second tag
    assert answered(chat, "4", PROBLEM) == (None, None)  # never closed
    direct = chat.tokenizer.decode(chat.prompt_ids(PROBLEM, "<think></think>"))
    assert direct.count("<think>") == 1 and direct.endswith("<think></think>")
    assert answered(chat, "4", PROBLEM, "<think></think>") == ("", "4")


@pytest.mark.parametrize("name", ["thinking opened", "deepseek-r1", "special tags"])
@pytest.mark.parametrize(
    ("response", "trained"),
    [
        ("<think>x</think>4", "x</think>4"),
        ("<think>\nx\n</think>\n\n4", "x\n</think>\n\n4"),
        ("4", "4"),
    ],
)
def test_a_written_answer_is_trained_on_with_one_tag(
    name: str, response: str, trained: str, root: Path
) -> None:
    chat = Chat(Tokenizer.load(folder_of(name, root)), "model")
    row = training_row(chat, "2+2?", response)
    text = chat.tokenizer.decode(row.token_ids)
    assert text.count("<think>") == response.count("<think>")
    assert chat.tokenizer.decode(row.token_ids[row.mask]) == trained
    assert row.token_ids[-1] == chat.tokenizer.eos_id


def test_a_template_that_closes_the_thinking_answers_at_once_unless_the_recipe_opens_it(root: Path) -> None:
    own = Tokenizer.load(folder_of("thinking closed", root))
    assert answered(Chat(own, "model"), "4", PROBLEM) == ("", "4")
    opened = Chat(own, "model", "<think>\n")
    text = own.decode(opened.prompt_ids(PROBLEM))
    assert text.endswith("<think>\n") and text.count("think>") == 1
    assert answered(opened, "2+2</think>4", PROBLEM) == ("2+2", "4")


def with_prompt(root: Path, prompt: str, before: str = "") -> Tokenizer:
    """A tokenizer whose template ends with this generation prompt, and begins with a text of its own."""
    own = Tokenizer.load(folder_of("chatml", root))
    text = before + CHATML.replace("assistant\n{% endif %}", f"assistant\n{prompt}{{% endif %}}")
    return own.with_template(text, "their.jinja")


@pytest.mark.parametrize(
    ("prompt", "begun", "response", "parsed"),
    [
        ("<think>", "<think>", "x</think>4", ("x", "4")),
        ("<think>\n\n", "<think>\n\n", "x</think>4", ("x", "4")),
        ("Sure.\n<think>\n", "<think>\n", "x</think>4", ("x", "4")),
        ("<think>\nOkay, a<b. ", "<think>\nOkay, a<b. ", "x</think>4", ("Okay, a<b. x", "4")),
        ("<think>\nBriefly.\n</think>\n", "<think>\nBriefly.\n</think>\n", "4", ("Briefly.", "4")),
        ("<think></think>It is ", "<think></think>It is ", "4", ("", "It is 4")),
        ("<think></think><answer>", "<think></think><answer>", "4</answer>", ("", "4")),
        ("<thinking>", "", "x</thinking>4", (None, None)),  # no tag of r1kit's
        ("", "", "<think>x</think>4", ("x", "4")),
    ],
)
def test_what_a_generation_prompt_opens_is_part_of_the_completion(
    prompt: str, begun: str, response: str, parsed: Any, root: Path
) -> None:
    named = "<|im_start|>system\nThink in <think> and </think>, then <think>"  # opens nothing
    for before in ("", named + "<|im_end|>\n"):
        chat = Chat(with_prompt(root, prompt, before), "model")
        assert chat.begun == begun
        assert chat.tokenizer.decode(chat.prompt_ids(PROBLEM)).endswith(f"assistant\n{prompt}")
        assert answered(chat, response, PROBLEM) == parsed


@pytest.mark.parametrize("opening", [" <think>", "\n<think>\n", "<think>", ""])
def test_white_space_before_the_tag_is_no_second_tag(opening: str, root: Path) -> None:
    chat = Chat(with_prompt(root, "<think>\n"), "model", opening)
    text = chat.tokenizer.decode(chat.prompt_ids(PROBLEM))
    assert text.endswith("assistant\n<think>\n") and text.count("<think>") == 1
    row = training_row(chat, "2+2?", f"{opening}x</think>4" if "<think>" in opening else "<think>x</think>4")
    assert chat.tokenizer.decode(row.token_ids[row.mask]).strip() == "x</think>4"


def test_a_turn_that_a_template_does_not_write_is_refused(root: Path) -> None:
    own = Tokenizer.load(folder_of("chatml", root))
    for text, left_out in (
        ("", "user turn 'What is 2"),
        ("{{ messages[0].content }}{{ messages[1].content }}", "user turn 'And 4"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "assistant turn 'Hello"),
    ):
        chat = Chat(own.with_template(text, "their.jinja"), "model")
        turns = CONVERSATIONS["turns"] if text else CONVERSATIONS["question"]
        with pytest.raises(R1kitError, match=f"leaves out the {left_out}"):
            chat.turn_ids(turns)
    # Written in another form: escaped, in capitals, without the thinking.
    other = "{% for m in messages %}{{ m.content.split('</think>')[-1] | upper | tojson }}{% endfor %}"
    chat = Chat(own.with_template(other, "their.jinja"), "model")
    assert "HELLO" in own.decode(chat.turn_ids(CONVERSATIONS["turns"]))


def test_a_template_that_opens_nothing_needs_the_tag(root: Path) -> None:
    chat = Chat(Tokenizer.load(folder_of("chatml", root)), "model")
    assert answered(chat, "<think>2+2</think>4", PROBLEM) == ("2+2", "4")
    assert answered(chat, "2+2</think>4", PROBLEM) == (None, None)
    # A question that ends with the tag opens nothing.
    asked = Problem("p", "t", "What does <think>", "4")
    assert answered(chat, "2+2</think>4", asked) == (None, None)


def test_tags_that_are_special_in_the_vocabulary_are_text_here_and_special_when_saved(
    root: Path, tmp_path: Path
) -> None:
    folder = folder_of("special tags", root)
    own = Tokenizer.load(folder)
    ids = own.encode("<think>a</think>4")
    assert own.decode(ids) == "<think>a</think>4" and own.id("<think>") == ids[0]
    own.save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def conversation(*earlier: tuple[str, str]) -> Problem:
    messages = tuple({"role": role, "content": text} for role, text in earlier)
    return Problem("p", "t", "2+2?", "4", columns={"messages": messages})


@pytest.mark.parametrize("template", ["chat", "model"])
def test_earlier_turns_of_a_problem_are_part_of_its_prompt(template: str, root: Path) -> None:
    own = tokenizer() if template == "chat" else Tokenizer.load(folder_of("chatml", root))
    chat = Chat(own, template)  # type: ignore[arg-type]
    earlier = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"))
    asked = conversation(*earlier)
    assert chat.prompt_ids(asked).tolist() == chat.turn_ids([*earlier, ("user", "2+2?")]).tolist()
    prompts = [conversation(("system", text)) for text in ("Answer in French.", "Answer in German.")]
    texts = [own.decode(chat.prompt_ids(problem)) for problem in (*prompts, PROBLEM)]
    assert len(set(texts)) == 3 and "French" in texts[0] and "German" in texts[1]
    # A data set's own column of that name is no part of the prompt.
    column = Problem("p", "t", "2+2?", "4", columns={"messages": [{"role": "assistant", "content": "4"}]})
    assert chat.prompt_ids(column).tolist() == chat.prompt_ids(PROBLEM).tolist()
    limit = len(chat.prompt_ids(asked))
    assert fits(chat, limit)(asked) and not fits(chat, limit - 1)(asked)


def test_what_a_template_cannot_say_is_refused_with_its_reason(root: Path) -> None:
    with_system = conversation(("system", "Answer in French."))
    gemma, mistral = (Chat(Tokenizer.load(folder_of(name, root)), "model") for name in ("gemma", "mistral"))
    with pytest.raises(R1kitError, match=r"template does not take .*there is no system role"):
        gemma.prompt_ids(with_system)
    with pytest.raises(R1kitError, match="have to take turns"):
        mistral.prompt_ids(conversation(("user", "a")))
    with pytest.raises(R1kitError, match="without system turn"):
        Chat(gemma.tokenizer, "r1_zero").prompt_ids(with_system)
    silent = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    own = gemma.tokenizer
    with pytest.raises(R1kitError, match="leaves out the system turn"):
        Chat(Tokenizer(own.backend, own.names, {"default": silent}), "model").prompt_ids(with_system)
    broken = Chat(Tokenizer(own.backend, own.names, {"default": "{% for m in %}"}), "model")
    with pytest.raises(R1kitError, match="template does not take this conversation"):
        broken.prompt_ids(PROBLEM)
    several = Chat(Tokenizer(own.backend, own.names, {"rag": "x", "tool_use": "y"}), "model")
    with pytest.raises(R1kitError, match="only others than its default: rag, tool_use"):
        several.prompt_ids(PROBLEM)


def test_a_role_that_the_chat_template_does_not_have_is_refused() -> None:
    with pytest.raises(R1kitError, match="no role 'tool', only system, user, assistant"):
        Chat(tokenizer()).turn_ids([("tool", "4"), ("user", "2+2?")])
