"""Byte-level BPE with single digits and R1's special tokens, stored as the Hugging Face files that every
engine reads.

Numbers are split into single digits, so that arithmetic works on digits and not on chunks that are frequent
in the corpus (DeepSeek-V3 and Qwen do much the same). All 256 bytes are in the alphabet, so every text can be
encoded."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from r1kit.config import R1kitError

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
SPECIALS = (BOS, EOS, PAD, USER, ASSISTANT)
# Ordinary text, but each tag is always one token, as in R1's vocabulary.
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# Letters with their leading space; other signs one by one, so that a bracket is never part of a longer
# token.
_PIECES = r" ?[A-Za-z]+|[\u4e00-\u9fff]{1,8}| ?[^\s\p{L}\p{N}]|\s+| ?\p{L}+"

# A conversation as DeepSeek-R1 tokenizes it. In a served conversation earlier thinking is dropped; training
# keeps every token (chat.py).
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}<｜User｜>{{ m['content'] }}"
    "{% else %}<｜Assistant｜>{{ m['content'].split('</think>')[-1] if not loop.last else m['content'] "
    "}}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)


class Tokenizer:
    """Text to ids and back. ``encode`` adds no special tokens; special tokens that are spelled out in a text
    stay text unless ``special=True``, so that a user's text cannot forge the end of a turn."""

    def __init__(
        self, backend: tokenizers.Tokenizer, bos: str, eos: str, pad: str, chat_template: str | None
    ) -> None:
        self.backend = backend
        self.chat_template = chat_template
        self.names = {"bos": bos, "eos": eos, "pad": pad}
        missing = [token for token in self.names.values() if backend.token_to_id(token) is None]
        if missing:
            raise R1kitError(
                f"tokenizer: special tokens {missing} are not in the vocabulary; name the right ones in "
                "tokenizer_config.json"
            )
        self.bos_id, self.eos_id, self.pad_id = self.id(bos), self.id(eos), self.id(pad)
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self.special_tokens = tuple(token.content for token in added.values() if token.special)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges from ``texts``; the 256 bytes, the special tokens and the tags are always in the
        vocabulary."""
        floor = 256 + len(SPECIALS) + len(TAGS)
        if vocab_size < floor:
            raise R1kitError(
                f"vocab_size {vocab_size} is too small: bytes, special tokens and tags alone need {floor}"
            )
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(TAGS),
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator((_without_tags(text) for text in texts), trainer)
        backend.add_tokens([tokenizers.AddedToken(tag, normalized=False, special=False) for tag in TAGS])
        return cls(backend, BOS, EOS, PAD, CHAT_TEMPLATE)

    @property
    def vocab_size(self) -> int:
        """The number of token ids, special tokens included."""
        return self.backend.get_vocab_size()

    def id(self, token: str) -> int:
        """The id of one token; raise R1kitError if the vocabulary has none of that text."""
        index = self.backend.token_to_id(token)
        if index is None:
            raise R1kitError(f"tokenizer: {token!r} is not a single token of this vocabulary")
        return int(index)

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """Ids [T] int32 of a text, as ``encode_batch``."""
        return self.encode_batch([text], special)[0]

    def encode_batch(self, texts: Sequence[str], special: bool = False) -> list[np.ndarray]:
        """Ids [T] int32 of each text. With ``special``, special tokens in the text become their ids (for our
        own templates only)."""
        self.backend.encode_special_tokens = not special
        return [
            np.asarray(e.ids, dtype=np.int32)
            for e in self.backend.encode_batch(list(texts), add_special_tokens=False)
        ]

    def decode(self, ids: Sequence[int] | np.ndarray, special: bool = False) -> str:
        """The text of ids, without special tokens unless ``special``. Tags such as <think> are text and
        always stay."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=not special))

    def decode_batch(self, ids: Sequence[np.ndarray], special: bool = False) -> list[str]:
        """The text of each row of ids, as ``decode``."""
        return list(self.backend.decode_batch([i.tolist() for i in ids], skip_special_tokens=not special))

    def save(self, directory: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, as transformers and vLLM read
        them."""
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.encode_special_tokens = False
        self.backend.save(str(directory / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.names["bos"],
            "eos_token": self.names["eos"],
            "pad_token": self.names["pad"],
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000,
        }
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
            (directory / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")
        (directory / "tokenizer_config.json").write_text(
            json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8"
        )

    @classmethod
    def load(cls, directory: Path | str) -> "Tokenizer":
        """Read a Hugging Face tokenizer directory (tokenizer.json; slow-only tokenizers are refused)."""
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise R1kitError(
                f"{directory}: no tokenizer.json; r1kit reads fast tokenizers only (save it with "
                "transformers' AutoTokenizer)"
            )
        settings = directory / "tokenizer_config.json"
        config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        template = config.get("chat_template")
        if (directory / "chat_template.jinja").is_file():
            template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
        eos = _token(config.get("eos_token")) or EOS
        return cls(
            tokenizers.Tokenizer.from_file(str(path)),
            bos=_token(config.get("bos_token")) or eos,  # Qwen has no begin token
            eos=eos,
            pad=_token(config.get("pad_token")) or eos,
            chat_template=template if isinstance(template, str) else None,
        )


def _token(value: object) -> str | None:
    return value.get("content") if isinstance(value, dict) else value  # type: ignore[return-value]


def _without_tags(text: str) -> str:
    for tag in TAGS:
        text = text.replace(tag, "\n")
    return text
