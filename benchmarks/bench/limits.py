"""The most that the machine can do, from its peak rates and the cost of a token.

Decoding B rows reads every weight once and every row's cache, and multiplies; the limit is the slower of the
two, with perfect overlap. Learning costs three forward passes (Kaplan et al. 2020, section 2.1), with a
group's prompt computed once; its limit is the peak of matrix products. Peaks are measured in the same run, on
one core, in processor seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

from r1kit.model.config import ModelConfig
from r1kit.model.decoder import parameter_count

BYTES = 2  # of a bf16 number


@dataclass(frozen=True, slots=True)
class Peaks:
    """FLOP per second of bf16 and float32 products of 1024 x 1024 matrices; bytes per second from memory."""

    bf16: float
    fp32: float
    stream: float

    @property
    def products(self) -> float:
        """The faster of the two: without bf16 instructions the same products run as float32 ones."""
        return max(self.bf16, self.fp32)


@dataclass(frozen=True, slots=True)
class Span:
    """Positions ``begin`` to ``end`` of a text, of which ``trained`` predict a trained token. A group's
    prompt is one span of its own."""

    begin: int
    end: int
    trained: int


def product_parameters(config: ModelConfig) -> int:
    """Parameters that one token is multiplied with: the active ones with the head, without the embedding's
    lookup."""
    active = parameter_count(config).active
    return active if config.tie_embeddings else active - config.vocab_size * config.width


def attention_flops(config: ModelConfig, seen: float) -> float:
    """FLOP of one token's attention over ``seen`` positions: scores and sum; over latents in the absorbed
    form (DeepSeek-V2, 2.1.2)."""
    if config.family == "deepseek_v3":
        assert config.kv_rank and config.rope_dim
        per_head = 2 * config.kv_rank + config.rope_dim
    else:
        assert config.head_dim
        per_head = 2 * config.head_dim
    return 2.0 * config.layers * config.heads * per_head * seen


def cache_bytes(config: ModelConfig) -> int:
    """Bytes that one cached position holds over all layers, in bf16."""
    if config.family == "deepseek_v3":
        assert config.kv_rank and config.rope_dim
        return BYTES * config.layers * (config.kv_rank + config.rope_dim)
    assert config.kv_heads and config.head_dim
    return BYTES * config.layers * 2 * config.kv_heads * config.head_dim


def decode_limit(config: ModelConfig, peaks: Peaks, prompt: int, lengths: Sequence[int]) -> float:
    """The most tokens per second for completions of these lengths, decoded together from the start, live rows
    only."""
    weights = BYTES * parameter_count(config).total
    seconds = 0.0
    for step in range(max(lengths)):
        live, seen = sum(length > step for length in lengths), prompt + step + 1
        flops = live * (2 * product_parameters(config) + attention_flops(config, seen))
        seconds += max(flops / peaks.products, (weights + live * seen * cache_bytes(config)) / peaks.stream)
    return sum(lengths) / seconds


def learn_limit(config: ModelConfig, peaks: Peaks, spans: Sequence[Span]) -> float:
    """The most trained tokens per second for one step on these spans, if only trained positions go through
    the head."""
    head = config.vocab_size * config.width
    flops = 0.0
    for span in spans:
        body = 2 * (product_parameters(config) - head) + attention_flops(
            config, (span.begin + span.end + 1) / 2
        )
        flops += 3 * ((span.end - span.begin) * body + span.trained * 2 * head)
    return sum(span.trained for span in spans) / (flops / peaks.products)
