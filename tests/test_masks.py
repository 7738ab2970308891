"""The loss touches exactly a completion's tokens, its end token included, in the template shapes of the model
families people train.

Tokenizers in the families' style are made here (their special tokens and turn structure, a small vocabulary);
transformers renders the templates as the independent reference. What the loss depends on is found by
perturbation, not by reading the mask."""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from small_world import learner_config, model
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from r1kit.chat import Chat
from r1kit.tokenizer import Tokenizer
from r1kit.train.advantage_rows import policy_row
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import Learner
from r1kit.train.objectives import CrossEntropy, Objective
from r1kit.train.packing import pack
from r1kit.train.policy_loss import PolicyLoss
from r1kit.train.supervised import response_row
from r1kit.types import Completion, Problem, Row

CHATML = (
    "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\\n' + messages[0]['content'] + "
    "'<|im_end|>\\n' }}"
    "{% elif GREETING %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] != 'system' %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """Special tokens and template of a family. ``bos`` "" is none, ``pad`` "" the end token."""

    specials: tuple[str, ...]
    bos: str
    eos: str
    pad: str
    template: str


CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "qwen2.5": Family(CHATML_TOKENS, "", "<|im_end|>", "<|endoftext|>", CHATML.replace("GREETING", "true")),
    "qwen3": Family(CHATML_TOKENS, "", "<|im_end|>", "<|endoftext|>", CHATML.replace("GREETING", "false")),
    "llama3": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|eot_id|>", "", LLAMA,
    ),
    "deepseek": Family(
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "", DEEPSEEK,
    ),
}  # fmt: skip
TURNS = [("user", "What is 2+3?"), ("assistant", "It is 5."), ("user", "And 4+4?")]
ANSWER = "<think>\n4+4=8\n</think>\n\nIt is 8."


@cache
def directory(name: str, root: Path) -> Path:
    """A checkpoint's tokenizer files in the family's style."""
    family, folder = FAMILIES[name], root / name
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(family.specials), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([ANSWER, "It is 5. What is 2+3? And system user assistant"] * 3, trainer)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    named = (
        {"eos_token": family.eos}
        | ({"bos_token": family.bos} if family.bos else {})
        | ({"pad_token": family.pad} if family.pad else {})
    )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": family.template, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


each_family = pytest.mark.parametrize("name", FAMILIES)


def rendered(folder: Path, turns: list[tuple[str, str]], generation: bool) -> list[int]:
    """transformers' ids of a conversation."""
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    messages = [{"role": role, "content": text} for role, text in turns]
    return list(
        theirs.apply_chat_template(
            messages, add_generation_prompt=generation, tokenize=True, return_dict=False
        )
    )


def rows_of(chat: Chat) -> dict[str, tuple[Row, int]]:
    """A written and a sampled row, one that was cut before its end, and how many tokens at its end each must
    train."""
    prompt, response = chat.turn_ids(TURNS), chat.response_ids(ANSWER)
    sampled = np.linspace(-2, -1, len(response)).astype(np.float32)
    problem = Problem("p", "t", "And 4+4?", "8")
    (whole,) = chat.rollouts(problem, prompt, [Completion(response, sampled, "stop")])
    (cut,) = chat.rollouts(problem, prompt, [Completion(response[:5], sampled[:5], "length")])
    (one,) = chat.rollouts(problem, prompt, [Completion(response[-1:], sampled[-1:], "stop")])
    return {
        "written": (response_row(prompt, response), len(response)),
        "sampled": (policy_row(whole, 1.0, 0.1), len(response)),
        "cut": (policy_row(cut, 1.0, 0.1), 5),
        "only the end token": (policy_row(one, 1.0, 0.1), 1),
    }


@each_family
def test_prompt_and_response_are_what_transformers_renders(name: str, root: Path) -> None:
    folder = directory(name, root)
    tokenizer = Tokenizer.load(folder)
    chat = Chat(tokenizer, "model")
    prompt = chat.turn_ids(TURNS)
    assert prompt.tolist() == rendered(folder, TURNS, True)
    row = response_row(prompt, chat.response_ids(ANSWER))
    whole = rendered(folder, [*TURNS, ("assistant", ANSWER)], False)
    assert whole[: len(row.token_ids)] == row.token_ids.tolist()
    assert (
        tokenizer.decode(whole[len(row.token_ids) :], special=True).strip() == ""
    )  # at most a line end, which is not trained
    assert (tokenizer.pad_id == tokenizer.eos_id) == (not FAMILIES[name].pad)
    assert (
        prompt.tolist().count(tokenizer.eos_id) >= 1
    )  # an earlier turn's end token, which must not be trained


def loss_of(
    learner: Learner, rows: list[Row], objective: Objective, nudge: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """The loss, and the states that become logits [B, T, D]; ``nudge`` moves the logits at one place of one
    line."""
    (batch,) = pack(rows, 120, 4)
    states: list[Tensor] = []

    def hook(_module: torch.nn.Module, _given: object, result: Tensor) -> Tensor:
        result = result.detach().clone()
        if nudge is not None:
            result[nudge] += 0.1 * torch.randn(result.shape[-1], generator=torch.Generator().manual_seed(1))
        states.append(result.requires_grad_())
        return states[-1]

    handle = learner.model.norm.register_forward_hook(hook)
    try:
        return learner.batch_loss(batch, objective)[0], states[0]
    finally:
        handle.remove()


@each_family
@pytest.mark.parametrize("kind", ["pretraining", "policy"])
def test_the_loss_depends_on_the_completions_logits_and_on_no_others(
    name: str, kind: str, root: Path
) -> None:
    chat = Chat(Tokenizer.load(directory(name, root)), "model")
    learner = Learner(model(vocab_size=chat.tokenizer.vocab_size), learner_config(120, 4))
    objective = (
        CrossEntropy() if kind == "pretraining" else PolicyLoss(GRPOConfig.parse({"beta": 0.0}, "test"))
    )
    made = rows_of(chat)
    plain = [row for row, _ in made.values()]
    rows = [
        replace(row, old_logprobs=old_T, advantage=1.0)
        for row, old_T in zip(plain, learner.logprobs(plain), strict=True)
    ]
    (batch,) = pack(rows, 120, 4)
    expected = torch.zeros_like(batch.mask_BT)
    for index, (row, trained) in enumerate(made.values()):
        # the logits at place t predict token t + 1: those of the last ``trained`` tokens stand one place
        # before them
        last = len(row.token_ids) - 2
        expected |= (
            (batch.rows_BT == index) & (batch.positions_BT > last - trained) & (batch.positions_BT <= last)
        )
    loss, states = loss_of(learner, rows, objective)
    (slopes,) = torch.autograd.grad(loss, states)
    assert torch.equal(slopes.abs().sum(-1) > 0, expected)
    assert bool((batch.rows_BT == -1).any())  # padding is there to be left alone
    edges = expected[:, 1:] != expected[:, :-1]  # both sides of every place where training begins or ends
    tried = {(line, column + side) for line, column in edges.nonzero().tolist() for side in (0, 1)}
    assert {bool(expected[place]) for place in tried} == {True, False}
    for line, column in sorted(
        tried | {(line, column) for line in range(len(expected)) for column in (0, 60, 119)}
    ):
        moved, _ = loss_of(learner, rows, objective, (line, column))
        assert (float(moved.detach()) != float(loss.detach())) == bool(expected[line, column]), (line, column)


@each_family
def test_the_end_token_is_learned_and_earlier_turns_are_not(name: str, root: Path) -> None:
    """Training on one row teaches what follows its prompt, the end token included; the gradient of the end
    token's own loss is not zero."""
    chat = Chat(Tokenizer.load(directory(name, root)), "model")
    learner = Learner(model(vocab_size=chat.tokenizer.vocab_size), learner_config(120, 2, learning_rate=1e-2))
    row, trained = rows_of(chat)["written"]
    ends = np.flatnonzero(row.token_ids == chat.tokenizer.eos_id)
    everything = Row(row.token_ids, np.ones(len(row.token_ids), dtype=bool), 1.0)
    before = learner.logprobs([everything])[0]
    for _ in range(12):
        learner.update([Row(row.token_ids, row.mask, 1.0 / trained)], CrossEntropy(), 1.0)
    gained = learner.logprobs([everything])[0] - before
    assert gained[ends[-1]] > 1.0 and ends[-1] == len(row.token_ids) - 1
    assert learner.logprobs([row])[0][ends[:-1]].tolist() == [0.0] * (len(ends) - 1)
    assert gained[-trained:].mean() > 2 * max(0.1, gained[1:-trained].mean())
