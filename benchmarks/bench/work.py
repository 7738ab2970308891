"""What is measured: shapes of models, kinds of work, and which peer does the same. Names are those of the
ratios in bench.json.

    rollout   P prompts x G completions: tokens sampled
    grpo      one whole GRPO step at beta 0 with one update per rollout: tokens sampled
    learner   one optimizer step of next-token prediction on rows: tokens predicted
    lone      one completion of one prompt, r1kit alone: tokens sampled

``uniform``: every completion has ``new_tokens`` tokens, every row all its positions. ``ragged``: every token
of a completion ends it with the same chance, so that the mean length is that of lengths drawn evenly from 20
to 256; the learner's rows are drawn evenly from those."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["rollout", "grpo", "learner"]
Lengths = Literal["uniform", "ragged"]

_DENSE = {"family": "qwen3", "head_dim": 64, "tie_embeddings": True, "init_std": 0.02, "max_positions": 2048}
LARGE_MODEL = "135m"  # SmolLM2-135M's shape
SHAPES: dict[str, dict[str, Any]] = {
    "7m": {
        **_DENSE, "vocab_size": 4096, "width": 256, "layers": 6, "heads": 4, "kv_heads": 4, "ffn_width": 1024,
    },
    "30m": {
        **_DENSE, "vocab_size": 8192, "width": 512, "layers": 8, "heads": 8, "kv_heads": 8, "ffn_width": 1408,
    },
    "dsv3": {
        "family": "deepseek_v3", "vocab_size": 4096, "width": 256, "layers": 6, "heads": 4, "ffn_width": 1024,
        "tie_embeddings": True, "init_std": 0.02, "max_positions": 2048, "q_rank": 96, "kv_rank": 64,
        "nope_dim": 32, "rope_dim": 32, "v_dim": 64, "dense_layers": 1, "experts": 8, "active_experts": 2,
        "shared_experts": 1, "expert_width": 256,
    },
    LARGE_MODEL: {
        **_DENSE, "family": "llama", "vocab_size": 49_152, "width": 576, "layers": 30, "heads": 9,
        "kv_heads": 3, "ffn_width": 1536, "rope_theta": 100_000.0,
    },
}  # fmt: skip
# A single row at a time, as in a conversation: shapes, and the tokens that are sampled.
LONE: dict[str, tuple[dict[str, Any], int]] = {
    "7m": (SHAPES["7m"], 1024),
    "30m": (SHAPES["30m"], 512),
    "500m": (
        {
            "family": "qwen2", "vocab_size": 151_936, "width": 896, "layers": 24, "heads": 14, "kv_heads": 2,
            "head_dim": 64, "ffn_width": 4864, "tie_embeddings": True, "init_std": 0.02,
            "max_positions": 2048,
        },
        64,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Size:
    """The amount of work: ``problems`` x ``group`` completions of at most ``new_tokens`` after
    ``prompt_tokens``; the learner's rows; how many pairs are measured."""

    problems: int = 8
    group: int = 8
    prompt_tokens: int = 64
    new_tokens: int = 256
    learner_rows: int = 32
    repeats: int = 3

    @property
    def rows(self) -> int:
        return self.problems * self.group

    @property
    def shortest(self) -> int:
        return max(1, self.new_tokens * 20 // 256)


FULL = Size()
# What is other for a large model, by kind of work: so many times the small ones' work would take hours.
LARGE: dict[str, dict[str, int]] = {
    "grpo": {"problems": 2, "new_tokens": 128},
    "learner": {"learner_rows": 4, "new_tokens": 512},
}
QUICK = Size(problems=4, group=4, prompt_tokens=32, new_tokens=48, learner_rows=8, repeats=1)


@dataclass(frozen=True, slots=True)
class Work:
    """One line of the comparison. ``cores`` 1 compares tokens per CPU-second, 2 tokens per second of the
    clock. ``precision`` is that of r1kit's rollouts; the peers' is the one in which they are quickest."""

    kind: Kind
    model: str
    lengths: Lengths
    peers: tuple[str, ...]
    cores: int = 1
    precision: Literal["bfloat16", "int8"] = "bfloat16"

    @property
    def name(self) -> str:
        eight = "/int8" if self.precision == "int8" else ""
        return f"{self.kind}/{self.model}/{self.lengths}{eight}"

    def sized(self, size: Size) -> Size:
        """The amount of this work, of ``size`` in general."""
        full = replace(size, repeats=FULL.repeats) == FULL
        return replace(size, **LARGE[self.kind]) if self.model == LARGE_MODEL and full else size

    def ratio_name(self, peer: str) -> str:
        return f"{self.name}/vs_{peer}" + ("" if self.cores == 1 else f"/{self.cores}cores")


PLAN = (
    Work("rollout", "7m", "uniform", ("hf", "vllm_cpu")),
    Work("rollout", "7m", "ragged", ("hf", "vllm_cpu")),
    Work("rollout", "30m", "uniform", ("hf", "vllm_cpu")),
    Work("rollout", "30m", "ragged", ("hf", "vllm_cpu")),
    Work("rollout", "7m", "uniform", ("vllm_cpu",), precision="int8"),
    Work("rollout", "7m", "ragged", ("vllm_cpu",), precision="int8"),
    Work("rollout", "30m", "uniform", ("vllm_cpu",), precision="int8"),
    Work("rollout", "dsv3", "uniform", ("hf",)),
    Work("rollout", "dsv3", "ragged", ("hf",)),
    Work("grpo", "7m", "uniform", ("trl",)),
    Work("grpo", "7m", "ragged", ("trl",)),
    Work("grpo", "30m", "uniform", ("trl",)),
    Work("grpo", "dsv3", "uniform", ("trl",)),
    Work("grpo", "7m", "uniform", ("trl",), precision="int8"),
    Work("grpo", "7m", "ragged", ("trl",), precision="int8"),
    Work("grpo", "30m", "uniform", ("trl",), precision="int8"),
    Work("grpo", "dsv3", "uniform", ("trl",), precision="int8"),
    Work("learner", "7m", "uniform", ("hf", "hf_bf16")),
    Work("learner", "7m", "ragged", ("hf", "hf_bf16")),
    Work("learner", "30m", "ragged", ("hf", "hf_bf16")),
    Work("learner", "dsv3", "ragged", ("hf",)),
    Work("grpo", LARGE_MODEL, "uniform", ("trl",)),
    Work("grpo", LARGE_MODEL, "uniform", ("trl",), precision="int8"),
    Work("learner", LARGE_MODEL, "uniform", ("hf", "hf_bf16")),
    Work("rollout", "7m", "uniform", ("hf", "vllm_cpu"), cores=2),
    Work("grpo", "7m", "uniform", ("trl",), cores=2),
    Work("grpo", "7m", "ragged", ("trl",), cores=2),
    Work("grpo", "30m", "uniform", ("trl",), cores=2),
    Work("grpo", "dsv3", "uniform", ("trl",), cores=2),
    Work("learner", "7m", "ragged", ("hf",), cores=2),
)


def chosen(words: Sequence[str], plan: Sequence[Work] = PLAN) -> list[Work]:
    """The works of which some ratio's name begins with one of ``words``; all of them without words. Only the
    peers that fit are kept."""
    if not words:
        return list(plan)
    found = []
    for work in plan:
        peers = tuple(
            peer for peer in work.peers if any(work.ratio_name(peer).startswith(word) for word in words)
        )
        if peers:
            found.append(replace(work, peers=peers))
    return found


def mean_length(size: Size) -> float:
    """The mean of lengths drawn evenly from the shortest to ``new_tokens``."""
    return (size.shortest + size.new_tokens) / 2


def expected_length(chance: float, longest: int) -> float:
    """The mean length where every token is the last with ``chance`` and none follows the ``longest``-th: sum
    over t of P(length >= t)."""
    return (1 - (1 - chance) ** longest) / chance


def ending_chance(size: Size) -> float:
    """The chance per token for which ``expected_length`` is ``mean_length``, by bisection."""
    low, high = 1e-9, 1.0
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (
            (middle, high) if expected_length(middle, size.new_tokens) > mean_length(size) else (low, middle)
        )
    return low


def prompts(size: Size, vocabulary: int, first_word: int) -> list[list[int]]:
    """P lists of word ids; with the three ids of the template each prompt has ``prompt_tokens`` tokens."""
    rng = random.Random("prompts")
    return [
        [rng.randrange(first_word, vocabulary) for _ in range(size.prompt_tokens - 3)]
        for _ in range(size.problems)
    ]


def learner_rows(size: Size, lengths: Lengths, vocabulary: int, first_word: int) -> list[list[int]]:
    """Rows of token ids. Each has one more token than positions, so a row of ``new_tokens`` positions
    predicts as many."""
    rng = random.Random("rows")
    counts = [
        size.new_tokens if lengths == "uniform" else rng.randint(size.shortest, size.new_tokens)
        for _ in range(size.learner_rows)
    ]
    return [[rng.randrange(first_word, vocabulary) for _ in range(count + 1)] for count in counts]
