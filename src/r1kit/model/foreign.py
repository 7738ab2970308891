"""Models that r1kit's own network does not compute, through transformers' classes, behind the same interface:
``LanguageModel``'s.

Learner and decoder need hidden states before the head, the head's weight, packed lines, and a cache of rows
of different lengths. transformers' classes differ in their masks, positions and windows, so nothing is asked
of them beyond plain causal rows:

    packed line     every segment becomes a row of its own, with the beginning that it shares in front, padded
                    at the end; causal attention needs no mask for that. Results are put back in the line's
                    order.
    cache           rows are padded in front, so that the distance of two positions is that of their places,
                    as sliding windows and ALiBi need; keys and values go through ``DynamicCache``

This is several times slower than the own network: rows of a batch are as long as the longest, and a decoding
step copies the cache."""

import inspect
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from r1kit.config import ConfigError, R1kitError
from r1kit.files import read_object
from r1kit.model.attention import Cache
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import DecoderOutput, LanguageModel
from r1kit.model.norms import Linear, at_least_float32
from r1kit.model.sources import without_progress_bars

SLOWER = "computed by transformers' own class, which is several times slower than r1kit's network"
# config.json's factors on logits: granite divides by the first, cohere multiplies with the second.
_DIVIDED, _MULTIPLIED = "logits_scaling", "logit_scale"
_CLOSE = {torch.float32: 1e-4, torch.float64: 1e-4}  # how far logits may differ in a check, as a share
_ROUGHLY = 0.05  # the same in other dtypes
COMPUTED = ("rotary_emb.inv_freq", ".masked_bias")  # tensors that older files hold, and nothing reads
_NUMBER = re.compile(r"\.\d+\.")
_NO_CACHE = (
    "does not decode through a cache of keys and values (a state-space model?), which r1kit's engine needs: "
    "choose another model"
)
_NO_PLAIN_HEAD = (
    "the logits of model_type {!r} are not hidden states times the head's weight (soft capping, or a bias), "
    "which r1kit's learner needs: choose another model"
)


def foreign_config(directory: Path, content: Mapping[str, Any], reason: str) -> ModelConfig:
    """The configuration of a model that transformers computes; ``reason``: why r1kit's network does not.

    Raises ConfigError where transformers has no causal language model for it either. Code that the folder
    brings is not run."""
    theirs, path = _their_config(directory, reason), directory / "config.json"
    text = theirs.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "seq_length", None) or 2048
    rope = getattr(text, "rope_parameters", None) or {}
    # Frequencies change at once for all positions when a text becomes longer than this.
    switch = rope.get("original_max_position_embeddings") or getattr(
        text, "original_max_position_embeddings", None
    )
    exact = min(positions, switch) if rope.get("rope_type") == "longrope" and switch else positions
    width = text.hidden_size
    shape = {
        "family": "transformers",
        "model_type": theirs.model_type,
        "vocab_size": text.vocab_size,
        "width": width,
        "layers": text.num_hidden_layers,
        "heads": getattr(text, "num_attention_heads", None) or 1,
        "ffn_width": getattr(text, "intermediate_size", None) or 4 * width,
        "max_positions": exact,
        "stated_positions": positions if exact < positions else None,
        "tie_embeddings": bool(getattr(theirs, "tie_word_embeddings", False)),
        "scalar_head": content.get("scalar_head", False),
    }
    return ModelConfig.parse(shape, str(path))


def _their_config(directory: Path, reason: str) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    path = directory / "config.json"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # older names in config.json are read all the same
            theirs: Any = AutoConfig.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
        known = type(theirs) in MODEL_FOR_CAUSAL_LM_MAPPING
    except Exception as error:  # a boundary: config.json may hold anything
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{path}: {reason}; nor does transformers read it: {type(error).__name__}: {said}"
        ) from None
    if not known:
        raise ConfigError(f"{path}: {reason}; nor has transformers a causal language model for it")
    return theirs


def load_foreign(
    directory: Path, config: ModelConfig, device: torch.device | str, dtype: torch.dtype | None
) -> "ForeignModel":
    """Load the weights; every number of them has to be in the folder. Raises R1kitError."""
    from transformers import AutoModelForCausalLM

    theirs = _their_config(directory, "not computed by r1kit's network")
    without_dropout(theirs)
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        with without_progress_bars():
            inner, found = load(
                directory,
                config=theirs,
                dtype="auto" if dtype is None else dtype,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # a boundary: the library raises whatever the files lead it to
        said = " ".join(str(error).split())[:300]
        raise R1kitError(
            f"{directory}: cannot be loaded by transformers: {type(error).__name__}: {said}"
        ) from error
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(name for name in map(str, found.get(kind) or ()) if not name.endswith(COMPUTED)):
            more = " ..." if len(names) > 5 else ""
            raise R1kitError(
                f"{directory}: the weights do not fit config.json; {kind.partition('_')[0]}: "
                f"{', '.join(names[:5])}{more} ({len(names)}); correct config.json, or download the model "
                "again"
            )
    model = ForeignModel(inner.to(device), config, read_object(directory / "config.json"))
    model.check(directory)
    return model


def check_foreign(directory: Path, names: Collection[str]) -> None:
    """Raise R1kitError for a model that ``load_foreign`` would refuse, as far as its configuration and the
    names of its tensors show it. Tensors that transformers renames when it loads (experts) are not looked
    for."""
    from transformers import AutoModelForCausalLM

    theirs = _their_config(directory, "not computed by r1kit's network")
    make: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        inner = make(theirs, trust_remote_code=False)
    if getattr(inner, "_is_stateful", False):
        raise R1kitError(f"{directory}: model_type {theirs.model_type!r} {_NO_CACHE}")
    if getattr(theirs.get_text_config(), "final_logit_softcapping", None):
        raise R1kitError(f"{directory}: {_NO_PLAIN_HEAD.format(theirs.model_type)}")
    there = {name.removeprefix(f"{inner.base_model_prefix}.") for name in names}
    tied = set(getattr(inner, "_tied_weights_keys", None) or ())
    missing = [
        name
        for name, _ in inner.named_parameters()
        if name.removeprefix(f"{inner.base_model_prefix}.") not in there
        and name not in tied
        and "expert" not in name
    ]
    if missing:
        raise R1kitError(
            f"{directory}: the weights do not fit config.json; missing: {', '.join(missing[:5])} "
            f"({len(missing)}); download the model again"
        )
    known = {name.removeprefix(f"{inner.base_model_prefix}.") for name in inner.state_dict()}
    if surplus := sorted(name for name in there - known if _NUMBER.sub(".0.", name, count=1) in known):
        raise R1kitError(
            f"{directory}: the weights have more layers than config.json; unexpected: "
            f"{', '.join(surplus[:5])} ({len(surplus)}); correct config.json, or download the model again"
        )


def without_dropout(theirs: Any) -> None:
    """Set every probability of dropout to zero, in place: the tokens of a rollout were sampled without
    any."""
    for part in {id(part): part for part in (theirs, theirs.get_text_config())}.values():
        for name, value in vars(part).items():
            if ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, int | float):
                setattr(part, name, type(value)(0))


class ForeignCache(Cache):
    """Keys and values of every layer, [B, H, X, K] each, padded in front: a row's last ``lengths_B`` places
    are filled."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], lengths_B: Tensor) -> None:
        self.pairs = pairs
        self._lengths_B = lengths_B

    @property
    def lengths_B(self) -> Tensor:
        return self._lengths_B

    @lengths_B.setter
    def lengths_B(self, lengths_B: Tensor) -> None:
        """Drop the newest positions of rows that become shorter. A row without positions is only masked."""
        drop_B = torch.where(lengths_B > 0, self._lengths_B - lengths_B, 0)
        if self.pairs and bool((drop_B > 0).any()):
            places_BX = torch.arange(self.places, device=drop_B.device) - drop_B[:, None]
            self.pairs = [(_moved(k, places_BX), _moved(v, places_BX)) for k, v in self.pairs]
        self._lengths_B = lengths_B
        longest = int(lengths_B.max()) if len(lengths_B) else 0
        if longest < self.places:
            self.pairs = [
                (k[:, :, self.places - longest :], v[:, :, self.places - longest :]) for k, v in self.pairs
            ]

    @property
    def places(self) -> int:
        """X, the number of places of each row."""
        return self.pairs[0][0].shape[2] if self.pairs else 0

    def select(self, index_B: Tensor) -> "ForeignCache":
        pairs = [(k.index_select(0, index_B), v.index_select(0, index_B)) for k, v in self.pairs]
        return ForeignCache(pairs, self._lengths_B.index_select(0, index_B))

    def joined(self, other: Cache) -> "ForeignCache":
        assert isinstance(other, ForeignCache)
        wide = max(self.places, other.places)
        pairs = [
            (
                torch.cat((_widened(k, wide), _widened(k2, wide))),
                torch.cat((_widened(v, wide), _widened(v2, wide))),
            )
            for (k, v), (k2, v2) in zip(self.pairs, other.pairs, strict=True)
        ]
        return ForeignCache(pairs, torch.cat((self._lengths_B, other._lengths_B)))


def _moved(x_BHXK: Tensor, places_BX: Tensor) -> Tensor:
    """Each row with its places read from those given; negative ones are padding."""
    index = places_BX.clamp(min=0)[:, None, :, None].expand(-1, x_BHXK.shape[1], -1, x_BHXK.shape[3])
    return x_BHXK.gather(2, index)


def _widened(x_BHXK: Tensor, places: int) -> Tensor:
    return nn.functional.pad(x_BHXK, (0, 0, places - x_BHXK.shape[2], 0))


class ForeignModel(LanguageModel):
    """transformers' causal language model ``inner``; ``card`` is the content of its config.json."""

    def __init__(self, inner: Any, config: ModelConfig, card: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        self.config, self.card = config, card
        self.inner = inner
        self.mtp_layers = nn.ModuleList()
        self.value_head = Linear(config.width, 1, bias=False) if config.scalar_head else None
        if self.value_head is not None:
            self.value_head.to(self.device)
        self._takes_positions = "position_ids" in inspect.signature(inner.base_model.forward).parameters
        self._factor = 1.0  # on hidden states, where logits are a multiple of hidden states times the head

    @property
    def embed_tokens(self) -> Any:  # type: ignore[override]
        return self.inner.get_input_embeddings()

    @property
    def lm_head(self) -> Any:  # type: ignore[override]
        return self.inner.get_output_embeddings()

    @property
    def layers(self) -> Any:  # type: ignore[override]
        """The longest list of modules: the decoder's layers."""
        lists = [module for module in self.inner.modules() if isinstance(module, nn.ModuleList)]
        return max(lists, key=len)

    def parts(self) -> dict[str, nn.Module]:
        return {"embed_tokens": self.embed_tokens} | {
            f"layers.{i}": layer for i, layer in enumerate(self.layers)
        }

    def with_scalar_head(self) -> "ForeignModel":
        """The same model with a scalar head, drawn from a fixed seed."""
        config = self.config.model_copy(update={"scalar_head": True})
        model = ForeignModel(self.inner, config, {**self.card, "scalar_head": True})
        model._factor = self._factor
        assert model.value_head is not None
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            model.value_head.weight.copy_(torch.randn(1, config.width, generator=generator) * config.init_std)
        return model

    def skips_the_unseen(self) -> bool:
        return False

    def new_cache(self, rows: int, length: int, dtype: torch.dtype | None = None) -> ForeignCache:
        return ForeignCache([], torch.zeros(rows, dtype=torch.int64, device=self.device))

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
        """As ``LanguageModel.forward``. Positions are those of the rows; experts are not replayed. Raises
        R1kitError for ``bidirectional``."""
        if bidirectional:
            raise R1kitError(
                "a model that runs through transformers' own class is causal: leave out objectives.mlm and "
                "objectives.nsp, and probe it without --both-sides"
            )
        if cache is not None:
            assert isinstance(cache, ForeignCache)
            hidden_BTD = self._cached(tokens_BT, cache)
        elif segments_BT is None:
            hidden_BTD = self._rows(tokens_BT)
        else:
            hidden_BTD = self._packed(tokens_BT, segments_BT, beginnings_BT)
        segments = int(segments_BT.max()) if balance and segments_BT is not None else int(balance)
        balance_BS = at_least_float32(hidden_BTD.new_zeros(len(hidden_BTD), segments))
        return DecoderOutput(hidden_BTD, hidden_BTD, balance_BS)

    def _rows(self, tokens_BT: Tensor, **context: Any) -> Tensor:
        found = self.inner.base_model(input_ids=tokens_BT, **({"use_cache": False} | context))
        hidden_BTD: Tensor = found.last_hidden_state
        return hidden_BTD if self._factor == 1.0 else hidden_BTD * self._factor

    def _packed(self, tokens_BT: Tensor, segments_BT: Tensor, beginnings_BT: Tensor | None) -> Tensor:
        """Hidden states [B, T, D] of packed lines; zero for padding."""
        rows = list(row_places(segments_BT, beginnings_BT))
        flat = tokens_BT.flatten()
        pieces, source = [], torch.zeros(tokens_BT.numel(), dtype=torch.int64)
        filled = 1  # place 0 holds the zeros of padding
        for chosen in _by_length(rows, tokens_BT.numel()):
            longest = max(len(rows[i]) for i in chosen)
            places = torch.stack([nn.functional.pad(rows[i], (0, longest - len(rows[i]))) for i in chosen])
            hidden_RLD = self._rows(flat[places.to(flat.device)])
            pieces.append(hidden_RLD.flatten(0, 1))
            for number, i in enumerate(chosen):
                source[rows[i]] = filled + number * longest + torch.arange(len(rows[i]))
            filled += len(chosen) * longest
        together = torch.cat([pieces[0].new_zeros(1, pieces[0].shape[1]), *pieces])
        return together.index_select(0, source.to(together.device)).view(*tokens_BT.shape, -1)

    def _cached(self, tokens_BT: Tensor, cache: ForeignCache) -> Tensor:
        """Append T tokens to every row."""
        from transformers import DynamicCache

        T, before = tokens_BT.shape[1], cache.places
        past: Any = DynamicCache()
        for number, (k, v) in enumerate(cache.pairs):
            past.update(k, v, number)
        steps = torch.arange(before + T, device=tokens_BT.device)
        context: dict[str, Any] = {"past_key_values": past, "use_cache": True}
        context["attention_mask"] = (steps >= before - cache.lengths_B[:, None]).long()
        if self._takes_positions:
            context["position_ids"] = cache.lengths_B[:, None] + torch.arange(T, device=tokens_BT.device)
        hidden_BTD = self._rows(tokens_BT, **context)
        cache.pairs = [(layer.keys, layer.values) for layer in past.layers]
        cache._lengths_B = cache.lengths_B + T
        return hidden_BTD

    @torch.no_grad()
    def check(self, directory: Path) -> None:
        """Compare hidden states times head, and a step with the cache, with the class's own logits on four
        tokens. Raises R1kitError where they differ, as with soft-capped logits or a head with a bias."""
        training, self.inner.training = self.inner.training, False
        self.inner.eval()
        tokens_1T = torch.tensor([[3, 1, 4, 2]], device=self.device) % self.config.vocab_size
        theirs_TV = at_least_float32(self.inner(input_ids=tokens_1T, use_cache=False).logits[0])
        close = _CLOSE.get(self.embed_tokens.weight.dtype, _ROUGHLY)
        most = float(theirs_TV.abs().max())
        factors = [1.0, 1 / self.card.get(_DIVIDED, 1), float(self.card.get(_MULTIPLIED, 1) or 1)]
        for factor in factors:
            self._factor = factor
            ours_TV = self.logits(self(tokens_1T).hidden_BTD[0])
            if float((ours_TV - theirs_TV).abs().max()) <= close * most:
                break
        else:
            raise R1kitError(f"{directory}: {_NO_PLAIN_HEAD.format(self.config.model_type)}")
        cache = self.new_cache(1, 4)
        pieces = (tokens_1T[:, :2], tokens_1T[:, 2:3], tokens_1T[:, 3:])
        stepped_TD = torch.cat([self(piece, cache=cache).hidden_BTD[0] for piece in pieces])
        if float((self.logits(stepped_TD) - theirs_TV).abs().max()) > close * most:
            raise R1kitError(f"{directory}: model_type {self.config.model_type!r} {_NO_CACHE}")
        self.inner.train(training)

    def disk_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights under transformers' names, each tensor once."""
        seen: set[int] = set()
        for name, tensor in self.inner.state_dict().items():
            if tensor.data_ptr() not in seen:  # a tied head is the embedding
                seen.add(tensor.data_ptr())
                yield name, tensor

    def save(self, directory: Path, shard_bytes: int, rounded: torch.dtype | None = None) -> None:
        """Write the weights under transformers' names, and config.json as it was, with the dtype of now or
        that of ``rounded``."""
        weights: dict[str, Tensor] | None = None
        if rounded is not None:
            state = self.inner.state_dict()
            weights = {n: w.to(rounded) if w.is_floating_point() else w for n, w in state.items()}
        with without_progress_bars():
            self.inner.save_pretrained(directory, max_shard_size=shard_bytes, state_dict=weights)
        dtype = str(rounded or self.embed_tokens.weight.dtype).removeprefix("torch.")
        named = {"dtype": dtype} if "dtype" in self.card else {"torch_dtype": dtype}
        content = {**self.card, **named, **({"scalar_head": True} if self.config.scalar_head else {})}
        (directory / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def row_places(segments_BT: Tensor, beginnings_BT: Tensor | None) -> Iterator[Tensor]:
    """The flat places, in order, of every row of packed lines: those of its shared beginnings, then its own.
    A beginning that is shared is no row."""
    for line, numbers in enumerate(segments_BT.cpu()):
        start = line * len(numbers)
        places = {int(n): start + (numbers == n).nonzero()[:, 0] for n in numbers.unique() if n != 0}
        after: dict[int, int] = {}
        if beginnings_BT is not None:
            owners = beginnings_BT[line].cpu()
            after = {n: int(owners[own[0] - start]) for n, own in places.items()}
        shared = {beginning for beginning in after.values() if beginning}
        for n, own in places.items():
            if n not in shared:
                chain = [own]
                while n := after.get(n, 0):
                    chain.insert(0, places[n])
                yield torch.cat(chain)


def _by_length(rows: Sequence[Tensor], most: int) -> Iterator[list[int]]:
    """Rows of about the same length together, so many that they have at most ``most`` places with padding."""
    chosen: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        if chosen and (len(chosen) + 1) * len(rows[chosen[0]]) > most:
            yield chosen
            chosen = []
        chosen.append(i)
    if chosen:
        yield chosen
