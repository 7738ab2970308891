"""The shape of a network, as one strict configuration for all families.

``deepseek_v3`` is DeepSeek-V3's decoder (arXiv 2412.19437, section 2): latent attention, sparse experts,
multi-token prediction. ``deepseek_v2`` (2405.04434) has the same attention and a softmax over its experts.
``qwen2``, ``qwen3`` and ``llama`` are the dense families that DeepSeek-R1 was distilled into; ``mistral`` and
``phi3`` compute what llama does, ``qwen3_moe`` has qwen3's attention and experts. Every other model is
computed by transformers' own class (``transformers``, see foreign.py). Nothing here imports torch, so that a
recipe can be checked without it. A recipe names a shape as in ``ModelConfig.preset("mini",
vocab_size=512)``."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from r1kit.config import Config, ConfigError

Family = Literal[
    "deepseek_v3", "deepseek_v2", "qwen2", "qwen3", "qwen3_moe", "llama", "mistral", "phi3", "transformers"
]
LATENT = ("deepseek_v3", "deepseek_v2")  # with latent attention
SPARSE = (*LATENT, "qwen3_moe")  # with experts


class RopeScaling(Config):
    """How rotary frequencies are scaled for lengths beyond those trained on: YaRN (arXiv 2309.00071) or Llama
    3.1's rule.

    ``mscale`` and ``mscale_all_dim`` are DeepSeek's: the second also multiplies the softmax scale by (0.1
    mscale ln factor + 1)^2."""

    kind: Literal["yarn", "llama3"]  # the rule
    factor: float = Field(ge=1.0)  # how many times longer
    original_positions: int = Field(gt=0)  # the length trained on
    beta_fast: float = 32.0  # YaRN: more turns than this stay as they are
    beta_slow: float = 1.0  # YaRN: fewer turns than this are stretched whole
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None  # YaRN: multiplies queries and keys
    low_freq_factor: float = 1.0  # Llama: longer waves are stretched whole
    high_freq_factor: float = 4.0  # Llama: shorter waves stay as they are

    @model_validator(mode="after")
    def _check_ramp(self) -> Self:
        if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("llama3 needs low_freq_factor < high_freq_factor")
        return self


class ModelConfig(Config):
    """Everything that determines the tensors of a ``LanguageModel`` and what it computes.

    Latent attention (deepseek_v3, deepseek_v2): ``q_rank`` None projects queries directly; ``kv_rank`` is the
    cached latent; per head ``nope_dim`` without and ``rope_dim`` with rotation (its key shared by all heads),
    values of ``v_dim``. Experts: the first ``dense_layers`` layers are dense, the rest hold ``experts`` of
    ``expert_width``, of which ``active_experts`` see a token, plus ``shared_experts``; routing is limited to
    ``groups_kept`` of ``groups``. ``scalar_head`` adds one number per position (reward models).

    ``max_positions`` is the longest text for which the network computes what the checkpoint says. Where that
    is less than the checkpoint's own number, because attention beyond it would slide or turn otherwise,
    ``stated_positions`` keeps that number, and ``sliding_window`` the window. ``model_type`` is the
    architecture's name where transformers computes it."""

    family: Family = "deepseek_v3"  # the architecture, and how the folder is written
    vocab_size: int = Field(gt=0)  # of the tokenizer, or more
    width: int = Field(gt=0)  # of the hidden states
    layers: int = Field(gt=0)  # of attention and feed-forward
    heads: int = Field(gt=0)  # of attention
    ffn_width: int = Field(gt=0)  # of a dense layer's feed-forward
    kv_heads: int | None = None  # of grouped-query attention; null: as many as heads
    head_dim: int | None = None  # null: width / heads
    rope_theta: float = 10_000.0  # the base of the rotary wavelengths
    rope_scaling: RopeScaling | None = None  # beyond the lengths trained on
    norm_eps: float = 1e-6  # added to the mean square
    tie_embeddings: bool = False  # the head is the embedding
    max_positions: int = Field(default=4096, gt=0)
    init_std: float = Field(default=0.006, gt=0)  # of the first weights (DeepSeek-V3, section 4.2)

    q_rank: int | None = None
    kv_rank: int | None = None
    nope_dim: int | None = None
    rope_dim: int | None = None
    v_dim: int | None = None

    dense_layers: int = 0
    experts: int | None = None
    active_experts: int | None = None
    shared_experts: int = 1
    expert_width: int | None = None
    groups: int = 1
    groups_kept: int = 1
    route_scale: float = 1.0  # multiplies the gates
    normalise_gates: bool = True  # the chosen gates add to one
    mtp_depth: int = Field(default=0, ge=0)  # layers that predict further tokens; DeepSeek-V3: 1

    scalar_head: bool = False
    sliding_window: int | None = None
    stated_positions: int | None = None
    model_type: str = ""

    @model_validator(mode="after")
    def _check_family(self) -> Self:
        if self.family == "transformers":
            return self
        needed = (LATENT_KEYS if self.latent else DENSE_KEYS) | (EXPERT_KEYS if self.sparse else frozenset())
        missing = sorted(key for key in needed if getattr(self, key) is None)
        if missing:
            raise ValueError(f"family {self.family!r} needs {', '.join(missing)}")
        foreign = (LATENT_KEYS | DENSE_KEYS | EXPERT_KEYS) - needed & self.model_fields_set
        if given := sorted(key for key in foreign if getattr(self, key) is not None):
            raise ValueError(
                f"family {self.family!r} has no {', '.join(given)}: remove the key or change the family"
            )
        if self.sparse:
            self._check_routing()
        if not self.latent and self.heads % self._known(self.kv_heads):
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.family != "deepseek_v3" and self.mtp_depth:
            raise ValueError(f"family {self.family!r} has no multi-token prediction: leave mtp_depth at 0")
        if self.rotary_dim % 2:
            raise ValueError(f"the rotated dimension must be even, not {self.rotary_dim}")
        return self

    def _check_routing(self) -> None:
        experts, active = self._known(self.experts), self._known(self.active_experts)
        if self.latent and self.shared_experts < 1:
            raise ValueError(
                "shared_experts must be at least 1: the checkpoint format has no model without one"
            )
        if not 1 <= self.groups_kept <= self.groups or experts % self.groups:
            kept = f"groups_kept ({self.groups_kept})"
            raise ValueError(
                f"groups ({self.groups}) must divide experts ({experts}), and {kept} be between 1 and groups"
            )
        if self.family == "deepseek_v3" and experts // self.groups < 2:
            raise ValueError("a group needs at least two experts: its score is the sum of its best two")
        if self.family == "deepseek_v2" and self.normalise_gates:
            raise ValueError(
                "deepseek_v2 does not normalise the gates of the chosen experts: normalise_gates: false"
            )
        if not 1 <= active <= experts // self.groups * self.groups_kept:
            raise ValueError(f"active_experts ({active}) do not fit into the kept groups")
        if not 0 <= self.dense_layers <= self.layers:
            raise ValueError(
                f"dense_layers ({self.dense_layers}) must be between 0 and layers ({self.layers})"
            )

    @staticmethod
    def _known(value: int | None) -> int:
        if value is None:  # unreachable after validation; for the type checker
            raise ConfigError("this family has no such dimension")
        return value

    @property
    def latent(self) -> bool:
        """Whether attention is latent (MLA)."""
        return self.family in LATENT

    @property
    def sparse(self) -> bool:
        """Whether layers hold experts."""
        return self.family in SPARSE

    @property
    def softmax_gates(self) -> bool:
        """Whether affinities to experts are a softmax over all of them, without a routing bias, in the place
        of DeepSeek-V3's sigmoids."""
        return self.sparse and self.family != "deepseek_v3"

    @property
    def head_norms(self) -> bool:
        """Whether the queries and keys of each head are normalised."""
        return self.family in ("qwen3", "qwen3_moe")

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.family == "qwen2"

    @property
    def rotary_dim(self) -> int:
        """How many dimensions of a query are rotated: rope_dim, or the whole head without latent
        attention."""
        return self._known(self.rope_dim if self.latent else self.head_dim)

    @property
    def moe_layers(self) -> int:
        """How many of the main model's layers hold experts."""
        return self.layers - self.dense_layers if self.sparse else 0

    @property
    def shared_width(self) -> int:
        """The width of all shared experts of a layer together; 0 without any."""
        return self.shared_experts * self._known(self.expert_width) if self.latent else 0

    @classmethod
    def preset(cls, preset: str, /, **overrides: Any) -> Self:
        """The named shape with some keys replaced; raise ConfigError for an unknown name or key."""
        if preset not in PRESETS:
            raise ConfigError(f"model.preset: there is no {preset!r}; known: {', '.join(PRESETS)}")
        return cls.parse({**PRESETS[preset], **overrides}, f"model preset {preset!r}")


LATENT_KEYS = frozenset({"kv_rank", "nope_dim", "rope_dim", "v_dim"})
EXPERT_KEYS = frozenset({"experts", "active_experts", "expert_width"})
DENSE_KEYS = frozenset({"kv_heads", "head_dim"})


def _latent(**shape: Any) -> dict[str, Any]:
    return {"family": "deepseek_v3", **shape}


def _qwen(width: int, layers: int, heads: int, kv_heads: int, ffn_width: int, **rest: Any) -> dict[str, Any]:
    base = {
        "family": "qwen2",
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "ffn_width": ffn_width,
    }
    return {
        **base,
        "head_dim": 128,
        "vocab_size": 152_064,
        "max_positions": 131_072,
        "init_std": 0.02,
        **rest,
    }


def _llama(width: int, layers: int, heads: int, ffn_width: int) -> dict[str, Any]:
    scaling = {
        "kind": "llama3",
        "factor": 8.0,
        "original_positions": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    base = {
        "family": "llama",
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": 8,
        "head_dim": 128,
        "ffn_width": ffn_width,
    }
    rest = {
        "vocab_size": 128_256,
        "max_positions": 131_072,
        "rope_theta": 500_000.0,
        "norm_eps": 1e-5,
        "init_std": 0.02,
    }
    return {**base, **rest, "rope_scaling": scaling}


# The dense shapes are those of the released DeepSeek-R1-Distill checkpoints; v3-671b is DeepSeek-V3 section
# 4.2 with YaRN to 128K (section 4.3); v2-lite is DeepSeek-V2 appendix B with V3's gate. nano, mini and
# student are r1kit's own, sized for two CPU cores.
PRESETS: dict[str, dict[str, Any]] = {
    "nano": _latent(
        vocab_size=256, width=32, layers=2, heads=2, ffn_width=64, q_rank=None, kv_rank=16, nope_dim=16,
        rope_dim=16, v_dim=16, dense_layers=1, experts=4, active_experts=2, expert_width=32,
        max_positions=512, init_std=0.02, mtp_depth=1, tie_embeddings=True,
    ),
    "mini": _latent(
        vocab_size=512, width=128, layers=4, heads=4, ffn_width=320, q_rank=None, kv_rank=64, nope_dim=32,
        rope_dim=16, v_dim=32, dense_layers=1, experts=8, active_experts=2, expert_width=96,
        max_positions=512, init_std=0.02, mtp_depth=1, tie_embeddings=True,
    ),
    "student": {
        "family": "qwen3", "vocab_size": 512, "width": 96, "layers": 3, "heads": 3, "kv_heads": 1,
        "head_dim": 32, "ffn_width": 320, "max_positions": 512, "init_std": 0.02, "tie_embeddings": True,
    },
    "v2-lite": _latent(
        vocab_size=102_400, width=2048, layers=27, heads=16, ffn_width=10_944, q_rank=None, kv_rank=512,
        nope_dim=128, rope_dim=64, v_dim=128, dense_layers=1, experts=64, active_experts=6, shared_experts=2,
        expert_width=1408, max_positions=4096,
    ),
    "v3-671b": _latent(
        vocab_size=129_280, width=7168, layers=61, heads=128, ffn_width=18_432, q_rank=1536, kv_rank=512,
        nope_dim=128, rope_dim=64, v_dim=128, dense_layers=3, experts=256, active_experts=8,
        expert_width=2048, groups=8, groups_kept=4, route_scale=2.5, mtp_depth=1, max_positions=163_840,
        rope_scaling={"kind": "yarn", "factor": 40.0, "original_positions": 4096, "mscale": 1.0,
        "mscale_all_dim": 1.0},
    ),
    "qwen2.5-1.5b": _qwen(1536, 28, 12, 2, 8960, vocab_size=151_936),
    "qwen2.5-7b": _qwen(3584, 28, 28, 4, 18_944),
    "qwen2.5-14b": _qwen(5120, 48, 40, 8, 13_824, rope_theta=1_000_000.0, norm_eps=1e-5),
    "qwen2.5-32b": _qwen(5120, 64, 40, 8, 27_648, rope_theta=1_000_000.0, norm_eps=1e-5),
    "llama-8b": _llama(4096, 32, 32, 14_336),
    "llama-70b": _llama(8192, 80, 64, 28_672),
}  # fmt: skip
