"""The models: random weights and a word-level tokenizer, written once as Hugging Face directories that every
side opens.

The length of completions is a property of the weights, so no engine has to be configured for it. Every
embedding gets the same component along one direction, which the final hidden states then share; the end
token's weight along it sets its logit, and with it the chance, the same at every position, that a token ends
the completion."""

import math
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.tokenizer import ASSISTANT, BOS, CHAT_TEMPLATE, EOS, PAD, SPECIALS, USER, Tokenizer

FIRST_WORD = len(SPECIALS)
NEVER = 1e-9


def words(ids: list[int]) -> str:
    """The text whose tokens are these ids."""
    return " ".join(f"w{index}" for index in ids)


def prompt_text(ids: list[int]) -> str:
    """A prompt as r1kit's chat template writes it, for sides that take text."""
    return f"{BOS} {USER} {words(ids)} {ASSISTANT}"


def word_tokenizer(vocabulary: int) -> Tokenizer:
    """A tokenizer of exactly ``vocabulary`` tokens: the special ones, then w5, w6, ... separated by
    spaces."""
    table = {token: index for index, token in enumerate(SPECIALS)} | {
        f"w{index}": index for index in range(FIRST_WORD, vocabulary)
    }
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token=PAD))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(SPECIALS))
    return Tokenizer(backend, {"bos": BOS, "eos": EOS, "pad": PAD}, {"default": CHAT_TEMPLATE})


@torch.no_grad()
def set_ending(model: LanguageModel, eos_id: int, chance: float) -> None:
    """Change the tied embeddings so that the end token has ``chance`` at every position, on average over
    random texts."""
    table_VD = model.embed_tokens.weight
    generator = torch.Generator().manual_seed(1)
    direction_D = torch.randn(table_VD.shape[1], generator=generator)
    direction_D /= direction_D.norm()
    table_VD += table_VD.norm(dim=1).mean() * direction_D
    tokens_BT = torch.randint(FIRST_WORD, len(table_VD), (8, 128), generator=generator)
    hidden_ND = model.eval()(tokens_BT).hidden_BTD.flatten(0, 1).float()
    logits_NV = hidden_ND @ table_VD.T
    own_N, others_N = (
        logits_NV[:, eos_id].clone(),
        logits_NV.index_fill(1, torch.tensor([eos_id]), -math.inf).logsumexp(1),
    )
    table_VD[eos_id] += _weight(own_N - others_N, hidden_ND @ direction_D, chance) * direction_D


def _weight(odds_N: Tensor, along_N: Tensor, chance: float) -> float:
    """The x for which sigmoid(odds + x along) is ``chance`` on average, by bisection."""
    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if float((odds_N + middle * along_N).sigmoid().mean()) < chance else (low, middle)
        )
    return low


def make(folder: Path, config: ModelConfig, chance: float) -> Path:
    """Write model and tokenizer into ``folder``, unless they are there; return it."""
    if not (folder / "tokenizer.json").is_file():
        model = LanguageModel(config, seed=0)
        tokenizer = word_tokenizer(config.vocab_size)
        set_ending(model, tokenizer.eos_id, chance)
        save_pretrained(model, folder)
        tokenizer.save(folder)
    return folder
