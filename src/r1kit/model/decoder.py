"""The language model: pre-norm decoder layers, multi-token prediction (DeepSeek-V3 eq. 21-25) and a scalar
head for reward models.

A line of a batch may hold several documents (``segments_BT``; 0 is padding): a token attends only to its own
segment. With a cache, T new tokens are appended to every row at that row's own length. Parameters carry the
checkpoints' names, so ``huggingface.py`` only stacks and renames."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from r1kit.config import R1kitError
from r1kit.model.attention import SOFTMAX_MULTIPLE, Cache, CacheView, GroupedAttention, LatentAttention, Mask
from r1kit.model.config import ModelConfig
from r1kit.model.experts import MixtureOfExperts, SwiGLU
from r1kit.model.norms import Linear, RMSNorm, at_least_float32, half_product
from r1kit.model.packed_attention import (
    earlier_segments,
    kernel_takes,
    ranges_of_both_sides,
    visible_ranges,
)
from r1kit.model.products import working_dtype
from r1kit.model.rotary import Rotation, rotary_frequencies


@dataclass(frozen=True, slots=True)
class DecoderOutput:
    """``hidden_BTD`` after the final norm, ``last_BTD`` before it, ``balance_BS`` the balance loss of each
    line's segments 1..S: summed over layers, without alpha; S is 0 unless it was requested."""

    hidden_BTD: Tensor
    last_BTD: Tensor
    balance_BS: Tensor


@dataclass(frozen=True, slots=True)
class SharedInputs:
    """The inputs that all layers of one forward pass share. ``members_BST``: which positions belong to which
    segment, for the balance loss."""

    rotation: Rotation
    mask: Mask
    present_BT: Tensor | None  # False: padding; or a number: how many rows share the position
    members_BST: Tensor | None = None


class DecoderLayer(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(self, config: ModelConfig, sparse: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = LatentAttention(config) if config.latent else GroupedAttention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp: MixtureOfExperts | SwiGLU = (
            MixtureOfExperts(config) if sparse else SwiGLU(config.width, config.ffn_width)
        )

    def forward(
        self, x_BTD: Tensor, shared: SharedInputs,
        cache: CacheView | None = None, replayed_BTA: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        update = self.self_attn(self.input_layernorm(x_BTD), shared.rotation, shared.mask, cache)
        x_BTD, normed = self.post_attention_layernorm.after(x_BTD, update)
        if isinstance(self.mlp, MixtureOfExperts):
            update, balance_BS = self.mlp(normed, shared.present_BT, shared.members_BST, replayed_BTA)
            return x_BTD + update, balance_BS
        return x_BTD + self.mlp(normed), None


class PredictionLayer(DecoderLayer):
    """One depth of multi-token prediction: M [norm(Emb(t)); norm(h)], a decoder layer, and the norm before
    the shared head.

    The embedding comes first in the concatenation, as in the released weights (eq. 21 prints it second).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, sparse=True)
        self.enorm = RMSNorm(config.width, config.norm_eps)
        self.hnorm = RMSNorm(config.width, config.norm_eps)
        self.eh_proj = Linear(2 * config.width, config.width, bias=False)
        self.shared_head = nn.ModuleDict({"norm": RMSNorm(config.width, config.norm_eps)})

    def predict(self, previous_BTD: Tensor, embedded_BTD: Tensor, shared: SharedInputs) -> Tensor:
        """The hidden state [B, T, D] that predicts one token further than ``previous_BTD`` did."""
        merged = self.eh_proj(torch.cat((self.enorm(embedded_BTD), self.hnorm(previous_BTD)), dim=-1))
        hidden_BTD, _ = self(merged, shared)
        return self.shared_head["norm"](hidden_BTD)  # type: ignore[no-any-return]


class PairHead(nn.Module):
    """BERT's classification head (Devlin et al. 2019, section 3.1): tanh of a linear layer at the first
    position, then two logits; in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.out = Linear(width, 2)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            pooled = torch.tanh(_in_float32(hidden_ND, self.dense))
            return _in_float32(pooled, self.out).log_softmax(-1)


def _in_float32(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(at_least_float32(x), at_least_float32(layer.weight), at_least_float32(layer.bias))


class Embedding(nn.Embedding):
    """A table that leaves its weights to ``LanguageModel.initialise``."""

    def reset_parameters(self) -> None:
        pass


class LanguageModel(nn.Module):
    """A decoder of one of the families of model/config.py, on whatever device its parameters are; ``seed``
    draws the initial weights."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        if config.family == "transformers":
            raise R1kitError(
                "family 'transformers' is computed by transformers' own class: load it from a folder"
            )
        self.config = config
        self.base = ""  # the hash of the weights that are not trained, where adapters are (adapters.py)
        self.recomputes = False  # keep only what enters each layer for the backward pass
        self.embed_tokens = Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(
            DecoderLayer(config, sparse=config.sparse and i >= config.dense_layers)
            for i in range(config.layers)
        )
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.lm_head = Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.mtp_layers = nn.ModuleList(PredictionLayer(config) for _ in range(config.mtp_depth))
        self.value_head = Linear(config.width, 1, bias=False) if config.scalar_head else None
        self.pair_head: PairHead | None = None  # only while it is trained: add_pair_head
        # Not a buffer: frequencies stay float32 when the model is cast.
        self.frequencies, self._magnitude = rotary_frequencies(config)
        if self.device.type != "meta":
            self.initialise(seed)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self.embed_tokens.weight.device

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw every matrix from N(0, init_std^2) (DeepSeek-V3 section 4.2); norms are one, biases zero."""
        generator = torch.Generator(self.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, self.config.init_std, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        cache: Cache | None = None,
        experts_BTLA: Tensor | None = None,
        balance: bool = False,
        beginnings_BT: Tensor | None = None,
        bidirectional: bool = False,
    ) -> DecoderOutput:
        """Run the decoder over token ids [B, T].

        Positions default to 0, 1, ... within each segment, or, with a cache, continue from each row's length.
        A cache grows by T positions per row; it cannot be combined with segments. ``experts_BTLA``: the
        experts to take in each of the L layers with experts (-1: the layer's own choice). ``balance``:
        compute the balance loss. ``beginnings_BT``: the segment that a token's segment continues (0: none),
        for rows that begin alike; it requires ``positions_BT``. ``bidirectional``: a token attends to all of
        its own segment, not only to itself and what is before it."""
        x_BTD = self.embed_tokens(tokens_BT)
        if torch.is_autocast_enabled(x_BTD.device.type):
            x_BTD = at_least_float32(x_BTD)  # the sum over layers, also of weights kept in bfloat16
        if cache is None:
            views: Sequence[CacheView | None] = [None] * len(self.layers)
            shared = self._shared_inputs(x_BTD, positions_BT, segments_BT, beginnings_BT, bidirectional)
        elif segments_BT is None and not bidirectional:
            views, shared = self._cached_inputs(x_BTD, positions_BT, cache)
        else:
            raise R1kitError("forward: a cache holds one causal sequence per row; leave segments_BT out")
        if balance:
            numbers_BT = torch.ones_like(tokens_BT) if segments_BT is None else segments_BT
            shared = replace(shared, members_BST=members(numbers_BT, beginnings_BT))
        balances = []
        for layer, view, replayed_BTA in zip(self.layers, views, self._replayed(experts_BTLA), strict=True):
            x_BTD, balance_BS = self._run(layer, x_BTD, shared, view, replayed_BTA)
            if balance_BS is not None:
                balances.append(balance_BS)
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        rows = 0 if shared.members_BST is None else shared.members_BST.shape[1]
        balance_BS = (
            torch.stack(balances).sum(0) if balances else at_least_float32(x_BTD.new_zeros(len(x_BTD), rows))
        )
        return DecoderOutput(self.norm(x_BTD), x_BTD, balance_BS)

    def _run(
        self, layer: nn.Module, x_BTD: Tensor, shared: SharedInputs,
        view: CacheView | None, replayed_BTA: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """One layer. With ``recomputes`` its inner tensors are not kept for the backward pass but computed
        again there; that second pass counts no expert loads."""
        if not (self.recomputes and torch.is_grad_enabled() and view is None):
            return layer(x_BTD, shared, view, replayed_BTA)  # type: ignore[no-any-return]
        found: tuple[Tensor, Tensor | None] = checkpoint(
            layer, x_BTD, shared, view, replayed_BTA, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), self._uncounted()),
        )  # fmt: skip
        return found

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        for mixture in self._mixtures():
            mixture.counts = False
        try:
            yield
        finally:
            for mixture in self._mixtures():
                mixture.counts = True

    def _replayed(self, experts_BTLA: Tensor | None) -> list[Tensor | None]:
        """For each layer the experts to take; None for a layer that chooses itself or has none."""
        if experts_BTLA is None:
            return [None] * len(self.layers)
        sparse = [isinstance(layer.mlp, MixtureOfExperts) for layer in self.layers]
        if experts_BTLA.shape[2] != sum(sparse):
            raise R1kitError(
                f"experts were recorded for {experts_BTLA.shape[2]} layers, but {sum(sparse)} of this "
                "model's layers have experts"
            )
        recorded = iter(experts_BTLA.long().unbind(2))
        return [next(recorded) if has_experts else None for has_experts in sparse]

    def _rotation(self, positions_BT: Tensor) -> Rotation:
        self.frequencies = self.frequencies.to(positions_BT.device)
        return Rotation.at(positions_BT, self.frequencies, self._magnitude)

    def parts(self) -> dict[str, nn.Module]:
        """The modules whose outputs are hidden states, by the names of the parameters, in the order in which
        they are computed."""
        parts: dict[str, nn.Module] = {"embed_tokens": self.embed_tokens}
        for number, layer in enumerate(self.layers):
            for inner in ("self_attn", "mlp"):
                parts[f"layers.{number}.{inner}"] = layer.get_submodule(inner)
            parts[f"layers.{number}"] = layer
        return parts | {"norm": self.norm}

    def skips_the_unseen(self) -> bool:
        """Whether attention within packed lines skips what no token attends to, in the current precision.
        Long lines then cost no more than short ones."""
        weight = self.embed_tokens.weight
        return kernel_takes(weight, working_dtype(weight), self._head_widths())

    def _head_widths(self) -> tuple[int, int]:
        """The widths of a head's keys and values."""
        config = self.config
        if config.latent:
            return (config.nope_dim or 0) + (config.rope_dim or 0), config.v_dim or 0
        return config.head_dim or 0, config.head_dim or 0

    def _shared_inputs(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor | None,
        segments_BT: Tensor | None,
        beginnings_BT: Tensor | None = None,
        bidirectional: bool = False,
    ) -> SharedInputs:
        if bidirectional:
            return self._of_both_sides(x_BTD, positions_BT, segments_BT)
        steps_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
        dtype = working_dtype(x_BTD)
        if segments_BT is None:
            return SharedInputs(
                self._rotation(steps_T[None] if positions_BT is None else positions_BT),
                Mask.causal(steps_T, dtype),
                None,
            )
        if kernel_takes(x_BTD, dtype, self._head_widths()):
            mask = Mask(None, visible_ranges(segments_BT, beginnings_BT))
        else:
            same_BTX = segments_BT[:, :, None] == segments_BT[:, None, :]
            for earlier_BT in () if beginnings_BT is None else earlier_segments(segments_BT, beginnings_BT):
                same_BTX |= (earlier_BT[:, :, None] == segments_BT[:, None, :]) & (
                    segments_BT[:, None, :] != 0
                )
            mask = Mask.of(same_BTX & (steps_T[:, None] >= steps_T), dtype)
        rotation = self._rotation(restarting_positions(segments_BT) if positions_BT is None else positions_BT)
        return SharedInputs(
            rotation, mask, segments_BT != 0 if beginnings_BT is None else readers(segments_BT, beginnings_BT)
        )

    def _of_both_sides(
        self, x_BTD: Tensor, positions_BT: Tensor | None, segments_BT: Tensor | None
    ) -> SharedInputs:
        """The inputs of layers whose tokens attend to all of their own segment."""
        dtype = working_dtype(x_BTD)
        if segments_BT is None:
            segments_BT = torch.ones(x_BTD.shape[:2], dtype=torch.int64, device=x_BTD.device)
        if kernel_takes(x_BTD, dtype, self._head_widths()):
            mask = Mask(None, ranges_of_both_sides(segments_BT))
        else:
            mask = Mask.of(segments_BT[:, :, None] == segments_BT[:, None, :], dtype)
        rotation = self._rotation(restarting_positions(segments_BT) if positions_BT is None else positions_BT)
        return SharedInputs(rotation, mask, segments_BT != 0)

    def _cached_inputs(
        self, x_BTD: Tensor, positions_BT: Tensor | None, cache: Cache
    ) -> tuple[list[CacheView], SharedInputs]:
        B, T, _ = x_BTD.shape
        fresh, seen = cache.longest == 0, cache.reserve(T)
        places_BT = cache.lengths_B[:, None] + torch.arange(T, device=x_BTD.device)
        rows_B1 = torch.arange(B, device=x_BTD.device)[:, None]
        views = [CacheView(layer, rows_B1, places_BT, seen, fresh) for layer in cache.layers]
        if fresh:
            return views, self._shared_inputs(x_BTD, positions_BT, None)
        visible_BTX = torch.arange(seen, device=x_BTD.device) <= places_BT[..., None]
        mask = Mask.of(visible_BTX, working_dtype(x_BTD))
        return views, SharedInputs(
            self._rotation(places_BT if positions_BT is None else positions_BT), mask, None
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Unnormalised log-probabilities [..., V] in float32; the product runs in autocast's dtype where that
        is on, else in float32. On a GPU its sums then stay in float32 too, outside of training: rounded to
        bfloat16, a logit of 20 would be wrong by up to 0.06."""
        if torch.is_autocast_enabled(hidden.device.type):
            if hidden.device.type == "cuda" and not torch.is_grad_enabled():
                with torch.autocast("cuda", enabled=False):
                    logits_NV = half_product(hidden.flatten(0, -2), self.lm_head.weight)
                return logits_NV.view(*hidden.shape[:-1], -1)
            return self.lm_head(hidden).float()  # type: ignore[no-any-return]
        return F.linear(at_least_float32(hidden), at_least_float32(self.lm_head.weight))

    def mtp(
        self,
        last_BTD: Tensor,
        next_tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        depth: int = 1,
        beginnings_BT: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] for ``logits`` that predict ``depth`` tokens further than usual
        (DeepSeek-V3 eq. 21-23).

        ``last_BTD`` is DecoderOutput.last_BTD for depth 1, then the result for the depth before. It passes
        the final norm first: the released weights expect a normed state (eq. 21's RMSNorm, ``hnorm``, is a
        further one). ``next_tokens_BT[b, t]`` is token t + depth."""
        if not 1 <= depth <= len(self.mtp_layers):
            raise R1kitError(
                f"mtp: depth {depth} was asked for, but the model has mtp_depth {len(self.mtp_layers)}"
            )
        embedded_BTD = self.embed_tokens(next_tokens_BT)
        layer = self.mtp_layers[depth - 1]
        assert isinstance(layer, PredictionLayer)
        previous_BTD = self.norm(last_BTD) if depth == 1 else last_BTD
        return layer.predict(
            previous_BTD,
            embedded_BTD,
            self._shared_inputs(embedded_BTD, positions_BT, segments_BT, beginnings_BT),
        )

    def values(self, hidden_BTD: Tensor) -> Tensor:
        """The scalar head's number per position [B, T], float32."""
        if self.value_head is None:
            raise R1kitError("values: this model has no scalar head; build it with scalar_head: true")
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            return F.linear(at_least_float32(hidden_BTD), at_least_float32(self.value_head.weight)).squeeze(
                -1
            )

    def add_pair_head(self, seed: int) -> None:
        """Add the head of next-sentence prediction with weights drawn from ``seed``. It is trained and saved
        with the training, and is not part of the model that is exported."""
        generator = torch.Generator().manual_seed(seed)
        head = PairHead(self.config.width)
        for parameter in head.parameters():
            parameter.data.normal_(
                0.0, self.config.init_std if parameter.dim() > 1 else 0.0, generator=generator
            )
        self.pair_head = head.to(self.device)

    def pair_logprobs(self, hidden_ND: Tensor) -> Tensor:
        """Log-probabilities [N, 2] in float32 that the second half of a pair is another document's, and that
        it is the next one."""
        if self.pair_head is None:
            raise R1kitError("pair_logprobs: this model has no head for pairs; call add_pair_head first")
        return self.pair_head(hidden_ND)  # type: ignore[no-any-return]

    def new_cache(self, rows: int, length: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache for ``rows`` rows of at most ``length`` positions, in the dtype that matrix products
        run in unless given."""
        config = self.config
        if config.latent:
            assert config.kv_rank and config.rope_dim
            shape: tuple[int, ...] = (config.kv_rank + config.rope_dim,)
        else:
            assert config.kv_heads and config.head_dim
            shape = (config.kv_heads, 2 * config.head_dim)
        dtype = dtype or working_dtype(self.embed_tokens.weight)
        positions = -(-length // SOFTMAX_MULTIPLE) * SOFTMAX_MULTIPLE
        # Zeros, not garbage: a masked position still enters the product with weight 0, and 0 x NaN is NaN.
        layers = [
            torch.zeros(rows, positions, *shape, dtype=dtype, device=self.device)
            for _ in range(config.layers)
        ]
        return Cache(layers, torch.zeros(rows, dtype=torch.int64, device=self.device))

    def _mixtures(self) -> list[MixtureOfExperts]:
        return [
            layer.mlp for layer in (*self.layers, *self.mtp_layers) if isinstance(layer.mlp, MixtureOfExperts)
        ]

    def expert_loads(self) -> list[Tensor]:
        """Assignments per expert [E] of each sparse layer (multi-token prediction's last) since the last
        ``adjust_biases``."""
        return [mixture.loads_E for mixture in self._mixtures()]

    def adjust_biases(self, gamma: float, loads: Sequence[Tensor] | None = None) -> None:
        """Take one step of loss-free balancing (DeepSeek-V3 section 2.1.2) and reset the counts.

        ``loads`` are ``expert_loads`` summed over processes; by default the model's own.
        """
        mixtures = self._mixtures()
        for mixture, loads_E in zip(mixtures, self.expert_loads() if loads is None else loads, strict=True):
            mixture.adjust_bias(gamma, loads_E)


def members(segments_BT: Tensor, beginnings_BT: Tensor | None = None) -> Tensor:
    """[B, S, T], True if position t belongs to segment s of its line or to one that s continues; s runs from
    1 to the largest number in use."""
    numbers_S = torch.arange(1, int(segments_BT.max()) + 1, device=segments_BT.device)
    own_BST = segments_BT[:, None, :] == numbers_S[:, None]
    if beginnings_BT is None:
        return own_BST
    found_BST = own_BST
    for earlier_BT in earlier_segments(segments_BT, beginnings_BT):
        earlier_BS1 = (own_BST * earlier_BT[:, None, :]).amax(-1, keepdim=True)
        found_BST = found_BST | ((segments_BT[:, None, :] == earlier_BS1) & (earlier_BS1 != 0))
    return found_BST


def readers(segments_BT: Tensor, beginnings_BT: Tensor) -> Tensor:
    """How many rows share each position [B, T]: 0 for padding, more than 1 for a shared beginning."""
    begins_BT = torch.ones_like(segments_BT)
    begins_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    none_BS = segments_BT.new_zeros(len(segments_BT), int(segments_BT.max()) + 1)
    direct_BS = none_BS.scatter_add(1, beginnings_BT, begins_BT)
    rows_BT = begins_BT * (direct_BS.gather(1, segments_BT) == 0)  # where a row's own segment begins
    sharing_BS = none_BS
    for earlier_BT in earlier_segments(segments_BT, beginnings_BT):
        sharing_BS = sharing_BS.scatter_add(1, earlier_BT, rows_BT)
    return sharing_BS.gather(1, segments_BT).clamp(min=1) * (segments_BT != 0)


def restarting_positions(segments_BT: Tensor) -> Tensor:
    """Positions [B, T] that begin at 0 wherever a new segment begins."""
    steps_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    begins = torch.ones_like(segments_BT, dtype=torch.bool)
    begins[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return steps_T - torch.where(begins, steps_T, 0).cummax(dim=1).values


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """``total`` and ``active`` (what one token passes through, with embedding and head); ``mtp``, multi-token
    prediction, is in neither."""

    total: int
    active: int
    mtp: int


@lru_cache(maxsize=32)  # a plan asks for the same configuration many times
def parameter_count(config: ModelConfig) -> ParameterCount:
    """Count the parameters of a configuration without allocating any; tied weights count once."""
    with torch.device("meta"):
        model = LanguageModel(config)
    mtp = sum(parameter.numel() for parameter in model.mtp_layers.parameters())
    total = sum(parameter.numel() for parameter in model.parameters()) - mtp
    idle = 0
    if config.experts and config.active_experts and config.expert_width:
        idle = (
            config.moe_layers
            * (config.experts - config.active_experts)
            * 3
            * config.width
            * config.expert_width
        )
    return ParameterCount(total, total - idle, mtp)
