"""Byte-level BPE with single digits and R1's special tokens, stored as the Hugging Face files that every
engine reads.

Numbers are split into single digits, so that arithmetic works on digits and not on chunks that are frequent
in the corpus (DeepSeek-V3 and Qwen do much the same). All 256 bytes are in the alphabet, so every text can be
encoded."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from r1kit.config import R1kitError, is_panic
from r1kit.files import pointer_error, read_object

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


# Keys of generation_config.json with which transformers would write another text than r1kit samples, or stop
# elsewhere. What else a model's maker has set there is kept.
UNLIKE_TRAINING = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_time", "stop_strings",
    "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id", "repetition_penalty",
    "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "guidance_scale", "watermarking_config",
    "num_beams", "num_beam_groups", "num_return_sequences", "penalty_alpha", "dola_layers", "length_penalty",
    "early_stopping", "diversity_penalty", "constraints", "force_words_ids", "prompt_lookup_num_tokens",
    "assistant_early_exit",
)  # fmt: skip

# What tokenizer_config.json calls the special tokens that a template may use.
NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Tokenizer:
    """Text to ids and back. ``encode`` adds no special tokens; special tokens that are spelled out in a text
    stay text unless ``special=True``, so that a user's text cannot forge the end of a turn. The tags (TAGS)
    are text, also where a vocabulary marks them as special.

    ``names``: the special tokens by their short names ("eos" is needed, "bos" and "pad" may be absent).
    ``end_ids`` all end a completion; the tokenizer's own end token is always the first of them.
    ``templates``: the chat templates by name. ``max_length`` is kept for transformers' sake only. ``saved``:
    the text of tokenizer.json where it differs from the backend's. ``template_file``: the file of the
    default template, for messages. ``generation``: what generation_config.json has besides, which is written
    back without the keys of UNLIKE_TRAINING."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        names: Mapping[str, str],
        templates: Mapping[str, str] = {},
        end_ids: Sequence[int] = (),
        max_length: float | None = None,
        saved: str | None = None,
        template_file: str = "",
        generation: Mapping[str, Any] = {},
    ) -> None:
        self.backend = backend
        self.names = dict(names)
        self.templates = dict(templates)
        self.max_length = max_length
        self.template_file = template_file
        self.generation = {
            key: value
            for key, value in generation.items()
            if key not in UNLIKE_TRAINING and not key.startswith("_")
        }
        self._saved = saved
        missing = [token for token in self.names.values() if backend.token_to_id(token) is None]
        if missing:
            raise R1kitError(
                f"tokenizer: special tokens {missing} are not in the vocabulary; name the right ones in "
                "tokenizer_config.json"
            )
        self.eos_id = self.id(self.names["eos"])
        self.bos_id = self.id(self.names["bos"]) if "bos" in self.names else None
        self.pad_id = self.id(self.names.get("pad", self.names["eos"]))
        self.end_ids = tuple(dict.fromkeys((self.eos_id, *end_ids)))
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self.special_tokens = tuple(token.content for token in added.values() if token.special)

    @property
    def chat_template(self) -> str | None:
        """The template of conversations: the one named "default"; None where there is none."""
        return self.templates.get("default")

    @property
    def start_ids(self) -> np.ndarray:
        """What a text begins with: the begin token [1] int32, or nothing [0] where the tokenizer has none or
        puts none before a text (it may only be the sign of a turn, as SmolLM2's is)."""
        return np.asarray([self.bos_id] if self._begins_texts else [], dtype=np.int32)

    @property
    def _begins_texts(self) -> bool:
        """Whether the begin token stands before every text: DeepSeek's and r1kit's own does, another where
        tokenizer.json adds it, which is what transformers goes by."""
        if self.bos_id is None or self.names["bos"] == BOS:
            return self.bos_id is not None
        self.backend.encode_special_tokens = False
        return self.backend.encode("1", add_special_tokens=True).ids[:1] == [self.bos_id]

    def has(self, token: str) -> bool:
        """Whether the vocabulary has a token of exactly this text."""
        return self.backend.token_to_id(token) is not None

    def with_template(self, text: str, file: str) -> "Tokenizer":
        """This tokenizer with another default chat template; ``file`` is where it is from, for messages."""
        return self._changed({**self.templates, "default": text}, self.end_ids, file)

    def with_end(self, index: int) -> "Tokenizer":
        """This tokenizer with one more end token."""
        return self._changed(self.templates, (*self.end_ids, index), self.template_file)

    def _changed(self, templates: Mapping[str, str], end_ids: Sequence[int], file: str) -> "Tokenizer":
        return Tokenizer(
            self.backend,
            self.names,
            templates,
            end_ids,
            self.max_length,
            self._saved,
            file,
            generation=self.generation,
        )

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
        return cls(
            backend,
            {"bos": BOS, "eos": EOS, "pad": PAD},
            {"default": CHAT_TEMPLATE},
            max_length=1_000_000,
        )

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

    def decode_all(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids with special tokens, in which stop texts are searched."""
        return self.decode(ids, special=True)

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The text of each id by itself, with its leading space. A token that is a part of a character only
        is a replacement character."""
        known = sorted({int(i) for i in ids})
        once = self.backend.decode_batch([[i] for i in known], skip_special_tokens=False)
        twice = self.backend.decode_batch([[i, i] for i in known], skip_special_tokens=False)
        # Some decoders drop the space at the beginning of a text, but not the one between two tokens.
        found = {
            i: str(two[len(one) :] if two.startswith(one) else one)
            for i, one, two in zip(known, once, twice, strict=True)
        }
        return [found[int(i)] for i in ids]

    def decode_batch(self, ids: Sequence[np.ndarray], special: bool = False) -> list[str]:
        """The text of each row of ids, as ``decode``."""
        return list(self.backend.decode_batch([i.tolist() for i in ids], skip_special_tokens=not special))

    def save(self, directory: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json, generation_config.json and the chat templates, as
        transformers and vLLM read them; where the folder has a config.json, its ids of begin, end and padding
        too, so that they stop where r1kit does."""
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.encode_special_tokens = False
        if self._saved is None:
            self.backend.save(str(directory / "tokenizer.json"))
        else:
            (directory / "tokenizer.json").write_text(self._saved, encoding="utf-8")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{name}_token": token for name, token in self.names.items()},
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
        }
        if self.max_length is not None:
            config["model_max_length"] = self.max_length
        if list(self.templates) == ["default"]:
            config["chat_template"] = self.chat_template
        _write_json(directory / "tokenizer_config.json", config)
        self._save_templates(directory)
        self._save_ids(directory)

    def _save_ids(self, directory: Path) -> None:
        ids = {
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.end_ids) if len(self.end_ids) > 1 else self.eos_id,
            "pad_token_id": self.pad_id if "pad" in self.names else None,
        }
        given = {name: value for name, value in ids.items() if value is not None}
        # Generation pads with the end token where there is no other. In config.json that would be wrong: the
        # embedding of a padding token is not trained.
        padded = {"pad_token_id": self.pad_id} | self.generation | given
        _write_json(directory / "generation_config.json", padded)
        if (directory / "config.json").is_file():
            content = json.dumps(read_object(directory / "config.json") | ids, indent=2, sort_keys=True)
            (directory / "config.json").write_text(content + "\n", encoding="utf-8")

    def _save_templates(self, directory: Path) -> None:
        for name, template in self.templates.items():
            file = directory / "chat_template.jinja"
            if name != "default":
                file = directory / "chat_templates" / f"{name}.jinja"
                file.parent.mkdir(exist_ok=True)
            file.write_text(template, encoding="utf-8")

    @classmethod
    def load(cls, directory: Path | str) -> "Tokenizer":
        """Read a Hugging Face tokenizer directory (tokenizer.json; slow-only tokenizers are refused). What
        ends a completion is the end token of the tokenizer, and those that generation_config.json and
        config.json list. Raises R1kitError naming file and fix."""
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise R1kitError(
                f"{directory}: no tokenizer.json; r1kit reads fast tokenizers only (save it with "
                "transformers' AutoTokenizer)"
            )
        backend, saved = _read_backend(path)
        settings = directory / "tokenizer_config.json"
        config = read_object(settings) if settings.is_file() else {}
        names, ends = _read_names(directory, config), _read_end_ids(directory)
        if "eos" not in names:
            listed = [token for index in ends if (token := backend.id_to_token(index)) is not None]
            named = EOS if backend.token_to_id(EOS) is not None else next(iter(listed), None)
            if named is None:
                raise R1kitError(
                    f"{settings}: no eos_token; name there the one token that ends a completion, as a text"
                )
            names["eos"] = named
        _check_vocabulary(path, backend)
        _check_names(directory, names, backend)
        longest = config.get("model_max_length")
        own_file = directory / "chat_template.jinja"
        return cls(
            backend,
            names,
            _read_templates(directory, config),
            ends,
            longest if isinstance(longest, int | float) else None,
            saved,
            str(own_file if own_file.is_file() else settings),
            _read_generation(directory),
        )


def _read_backend(path: Path) -> tuple[tokenizers.Tokenizer, str | None]:
    """The tokenizer of tokenizer.json with its tags as ordinary text, and the file's text where it marks them
    as special."""
    content = read_object(path)
    added = content.get("added_tokens")
    marked = [
        token
        for token in (added if isinstance(added, list) else [])
        if isinstance(token, dict) and token.get("content") in TAGS and token.get("special")
    ]
    for token in marked:
        token["special"] = False
    try:
        if not marked:
            return tokenizers.Tokenizer.from_file(str(path)), None
        backend = tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
        return backend, path.read_text(encoding="utf-8")
    except BaseException as error:  # the library raises bare Exceptions, and panics
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise R1kitError(
            f"{path}: not a tokenizer that can be read ({error}); copy it again, or save it with "
            "transformers' AutoTokenizer"
        ) from None


def _read_names(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by short name, as transformers finds them: special_tokens_map.json counts where
    tokenizer_config.json does not list the added tokens. An end token is taken from either file."""
    path = directory / "special_tokens_map.json"
    mapped = read_object(path) if path.is_file() else {}
    given = {**config, **mapped} if "added_tokens_decoder" not in config else config
    found = {name: _token(given.get(f"{name}_token")) for name in NAMES}
    found["eos"] = found["eos"] or _token(mapped.get("eos_token"))
    return {name: token for name, token in found.items() if token}


def _read_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by name: files of their own, else those of tokenizer_config.json, a text or a list
    of named ones."""
    files = {file.stem: file for file in sorted((directory / "chat_templates").glob("*.jinja"))}
    if (directory / "chat_template.jinja").is_file():
        files["default"] = directory / "chat_template.jinja"
    if files:
        return {name: read_template(file) for name, file in files.items()}
    given = config.get("chat_template")
    if isinstance(given, str):
        return {"default": given}
    if isinstance(given, list):
        given = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
    if not isinstance(given, dict):
        return {}
    return {str(name): text for name, text in given.items() if isinstance(text, str)}


def read_template(file: Path) -> str:
    """The text of a chat template's file. Raises R1kitError naming the file."""
    try:
        if error := pointer_error(file):
            raise R1kitError(error)
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise R1kitError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise R1kitError(
            f"{file}: not UTF-8 ({error.reason} at byte {error.start}); copy the file again"
        ) from None


def _check_vocabulary(path: Path, backend: tokenizers.Tokenizer) -> None:
    """Raise R1kitError where ordinary text has no ids, or ids of ordinary text are beyond the model's
    embedding (config.json of the same folder)."""
    try:
        probe = backend.encode("1 a", add_special_tokens=False).ids
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise R1kitError(f"{path}: it cannot encode '1 a' ({error}); copy the file again") from None
    if not probe:
        raise R1kitError(f"{path}: its vocabulary has no token for '1 a'; copy the file again")
    config = path.with_name("config.json")
    rows = read_object(config).get("vocab_size") if config.is_file() else None
    if not isinstance(rows, int):
        return
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab(with_added_tokens=False)
    token, largest = max(vocabulary.items(), key=lambda entry: entry[1], default=("", -1))
    for index, other in added.items():
        if not other.special and index > largest:
            token, largest = other.content, index
    if largest >= rows:
        raise R1kitError(
            f"{path}: token {token!r:.40} has the id {largest}, but {config} has vocab_size {rows}; the two "
            "files are of different models"
        )


def _check_names(directory: Path, names: Mapping[str, str], backend: tokenizers.Tokenizer) -> None:
    """Raise R1kitError where a special token of the settings is not in the vocabulary."""
    missing = {name: token for name, token in names.items() if backend.token_to_id(token) is None}
    if missing:
        listed = ", ".join(f"{name}_token {token!r:.40}" for name, token in missing.items())
        files = [directory / "tokenizer_config.json", directory / "special_tokens_map.json"]
        there = " or ".join(str(file) for file in files if file.is_file())
        raise R1kitError(
            f"{there}: {listed} is not in the vocabulary of tokenizer.json; name the right special tokens"
        )


def _read_end_ids(directory: Path) -> list[int]:
    """The end tokens that generation_config.json and config.json list, in this order. A model of texts and
    pictures has its list in the part on texts."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        content = read_object(path) if path.is_file() else {}
        part = content.get("text_config")
        value = content.get("eos_token_id")
        if value is None and isinstance(part, dict):
            value = part.get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(index, int) and not isinstance(index, bool) and index < 2**31 for index in ids):
            raise R1kitError(f"{path}: eos_token_id is {value!r}; give a token id, or a list of them")
        found += [index for index in ids if index >= 0]
    return found


def _read_generation(directory: Path) -> dict[str, Any]:
    """What generation_config.json has besides the end tokens."""
    path = directory / "generation_config.json"
    found = read_object(path) if path.is_file() else {}
    return {key: value for key, value in found.items() if key != "eos_token_id"}


def _token(value: object) -> str | None:
    token = value.get("content") if isinstance(value, dict) else value
    return token if isinstance(token, str) else None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _without_tags(text: str) -> str:
    for tag in TAGS:
        text = text.replace(tag, "\n")
    return text
