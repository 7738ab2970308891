"""Fill in the middle: a document is cut at two places, and its middle is moved to the end, so that a model
learns to write what stands between two texts (Bavarian et al. 2022; DeepSeek-V3, section 4.1: rate 0.1, in
the order prefix, suffix, middle, per document before it is packed).

    PSM    <begin> prefix <hole> suffix <end> middle
    SPM    <begin> <hole> suffix <end> prefix middle

The tokens are DeepSeek's, or those of the tokenizer's family."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from pydantic import Field

from r1kit.config import Config, ConfigError
from r1kit.data.corpora import uniform
from r1kit.seeds import derive_seed
from r1kit.tokenizer import Tokenizer

DEEPSEEK = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")
FAMILIES = (
    DEEPSEEK,
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, SmolLM
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
)
SHORTEST = 3  # characters of a document that is cut


class FIMConfig(Config):
    """``rate``: the share of documents that are cut. ``spm``: of these the share in the order suffix, prefix,
    middle; the others have the prefix first."""

    rate: float = Field(0.1, ge=0, le=1)
    spm: float = Field(0.0, ge=0, le=1)


@dataclass(frozen=True, slots=True)
class FIM:
    """The settings with the ids of the three tokens of a tokenizer, and the seed."""

    config: FIMConfig
    ids: tuple[int, int, int]
    seed: int

    @classmethod
    def of(cls, config: FIMConfig, tokenizer: Tokenizer, seed: int) -> "FIM":
        """Raises ConfigError where the tokenizer has no such tokens."""
        names = next((names for names in FAMILIES if all(map(tokenizer.has, names))), None)
        if names is None:
            raise ConfigError(
                f"fim: the tokenizer has no tokens such as {', '.join(DEEPSEEK)}; train one in this stage "
                "(tokenizer: SIZE), or leave fim out"
            )
        begin, hole, end = map(tokenizer.id, names)
        return cls(config, (begin, hole, end), derive_seed(seed, "fim"))

    def cuts(self, number: int, text: str) -> "Cut | None":
        """Where the document of this number is cut, as a function of number and seed; None where it stays
        whole."""
        if len(text) < SHORTEST:
            return None
        drawn = uniform(np.arange(4 * number, 4 * number + 4, dtype=np.uint64), self.seed)
        if drawn[0] >= self.config.rate:
            return None
        first, last = sorted(int(one * (len(text) + 1)) for one in drawn[2:])
        return Cut(text[:first], text[first:last], text[last:], bool(drawn[1] < self.config.spm))

    def join(self, parts: Sequence[np.ndarray], suffix_first: bool) -> np.ndarray:
        """The ids of a document from those of its prefix, middle and suffix, [T] int32."""
        prefix, middle, suffix = parts
        begin, hole, end = (np.asarray([index], dtype=np.int32) for index in self.ids)
        order = (
            (begin, hole, suffix, end, prefix, middle)
            if suffix_first
            else (begin, prefix, hole, suffix, end, middle)
        )
        return np.concatenate(order)


@dataclass(frozen=True, slots=True)
class Cut:
    """A document in three parts, any of which may be empty."""

    prefix: str
    middle: str
    suffix: str
    suffix_first: bool


def with_fim_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that r1kit has trained, with DeepSeek's three tokens added at the end of its vocabulary."""
    tokenizer.backend.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in DEEPSEEK])
    return Tokenizer(
        tokenizer.backend,
        tokenizer.names,
        tokenizer.templates,
        tokenizer.end_ids,
        tokenizer.max_length,
        template_file=tokenizer.template_file,
        generation=tokenizer.generation,
    )
