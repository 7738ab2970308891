"""Decoding through the kernels: weights are packed once per version, and each step of all live rollouts is
one call.

Products run in the engine's precision with float32 sums; ``int8`` keeps weights in 8 bits, rounds what they
multiply to 8 bits row by row (kernels/eight.h), and is bfloat16 in all else. A completion is bit-identical
whatever else is sampled in the same batch, and with whatever is tried ahead (``speculate``: the most tokens,
kernels/session.h)."""

import ctypes
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine.random_draws import DIVERGED
from r1kit.engine.requests import LIVE, Requests
from r1kit.memory import return_memory
from r1kit.model import compile_kernels
from r1kit.model.adapters import Weights
from r1kit.model.attention import LATENT_NORM_EPS, latent_scale
from r1kit.model.compile_kernels import KernelsUnavailableError
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.mapped import give_back
from r1kit.model.rotary import Rotation, rotary_frequencies

SOURCE = Path(__file__).parent / "kernels" / "engine.cpp"
# Waiting rollouts are admitted when one place in this many is free: several rows then share a prompt's pass
# over the weights.
FREE_SHARE = 16
# The kernels return after so many steps, so that interruptions are handled and completed prompts reported;
# with stop strings, also to search for them.
STEPS_AT_ONCE, SEARCH_EVERY = 16, 8
PAGE = 64  # positions of a page of the cache: kernels/cache.h
MOST_BEGINNINGS = 8  # prompts of a call that are kept for their first pages
FORMATS = {"float32": 0, "bfloat16": 1, "int8": 2}  # as kernels/engine.cpp numbers them
MOST_TRIED = 11  # tokens ahead: fewer than the places of a step that tries any (kernels/session.h)
TRIED_IN_TALK = 3  # tokens ahead, for a conversation: the least that brings most (benchmarks/speculate.py)
PIECE = 4096  # rows of the head that are packed at a time
MOST_INPUTS = 1 << 16  # of a product in 8 bits: its 32-bit sums are then exact
_DIVERGED_STATUS = -1  # what kernels/session.h returns for logits that are not finite


def library() -> ctypes.CDLL:
    """The loaded kernels, compiled at first use (model/compile_kernels.py). Raises
    KernelsUnavailableError."""
    return compile_kernels.library(SOURCE)


def _shape_fields() -> list[tuple[str, type]]:
    whole = (
        "latent vocabulary width layers heads kv_heads head_dim ffn_width q_rank kv_rank nope_dim "
        "rope_dim v_dim dense_layers experts "
        "active_experts shared_width expert_width groups groups_kept normalise_gates softmax_gates "
        "head_norms threads"
    )
    return [(name, ctypes.c_int32) for name in whole.split()] + [
        (name, ctypes.c_float) for name in ("norm_eps", "latent_eps", "scale", "route_scale")
    ]


class _Shape(ctypes.Structure):
    """``Shape`` of kernels/network.h."""

    _fields_ = _shape_fields()

    @classmethod
    def of(cls, config: ModelConfig, threads: int) -> "_Shape":
        latent = config.latent
        scale = latent_scale(config) if latent else (config.head_dim or 1) ** -0.5
        return cls(
            latent=latent, vocabulary=config.vocab_size, width=config.width, layers=config.layers,
            heads=config.heads, kv_heads=config.kv_heads or 0, head_dim=config.head_dim or 0,
            ffn_width=config.ffn_width, q_rank=config.q_rank or 0, kv_rank=config.kv_rank or 0,
            nope_dim=config.nope_dim or 0, rope_dim=config.rope_dim or 0, v_dim=config.v_dim or 0,
            dense_layers=config.layers - config.moe_layers, experts=config.experts or 0,
            active_experts=config.active_experts or 0,
            shared_width=config.shared_width,
            expert_width=config.expert_width or 0, groups=config.groups, groups_kept=config.groups_kept,
            normalise_gates=config.normalise_gates, softmax_gates=config.softmax_gates,
            head_norms=config.head_norms, threads=threads,
            norm_eps=config.norm_eps, latent_eps=LATENT_NORM_EPS, scale=scale, route_scale=config.route_scale,
        )  # fmt: skip


class Drawing(ctypes.Structure):
    """``Drawing`` of kernels/drawing.h."""

    _fields_ = [
        ("temperature", ctypes.c_float),
        ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float),
        ("top_k", ctypes.c_int32),
    ]


def _record_fields() -> list[tuple[str, type]]:
    whole = {"most": ctypes.c_int32, "most_tops": ctypes.c_int32}
    names = (
        "tokens logprobs lengths finished experts most limits drawings tops top_tokens top_logprobs most_tops"
    )
    return [(name, whole.get(name, ctypes.c_void_p)) for name in names.split()]


class Record(ctypes.Structure):
    """``Record`` of kernels/session.h."""

    _fields_ = _record_fields()


def address_of(array: np.ndarray | None) -> int | None:
    """Where an array's numbers are, for a Record."""
    return None if array is None else array.ctypes.data


def check_supported(model: torch.nn.Module) -> None:
    """Raise KernelsUnavailableError if the kernels do not compute this model."""
    if not isinstance(model, LanguageModel) or model.config.family == "transformers":
        raise KernelsUnavailableError("the kernels compute r1kit's own decoder only")
    if model.device.type != "cpu":
        raise KernelsUnavailableError(f"the model is on {model.device.type}, the kernels run on the CPU")
    config = model.config
    sizes = (
        config.width, config.ffn_width, config.head_dim, config.q_rank, config.kv_rank, config.nope_dim,
        config.rope_dim, config.v_dim, config.expert_width,
    )  # fmt: skip
    if any((size or 0) % 2 for size in sizes) or config.rotary_dim > 1024:
        raise KernelsUnavailableError("the kernels need even widths and at most 1024 rotated dimensions")


class Session:
    """Rollouts inside the kernels; they write what they draw into the arrays of ``record``, which the caller
    keeps alive. Raises R1kitError for logits that are not finite, and where the memory is not enough."""

    def __init__(
        self, calls: ctypes.CDLL, network: int, drawing: Drawing, record: Record, stop_ids: np.ndarray,
        speculate: int = 0,
    ) -> None:  # fmt: skip
        self._calls = calls
        # Calls that only note something: getting the interpreter's lock back would take longer than they do.
        self._quick = ctypes.PyDLL("kernels", handle=calls._handle)
        stops = stop_ids.astype(np.int32)
        calls.r1_session.restype = ctypes.c_void_p
        calls.r1_page_bytes.restype = ctypes.c_int64
        self._handle = ctypes.c_void_p(
            calls.r1_session(
                ctypes.c_void_p(network),
                ctypes.byref(drawing),
                ctypes.byref(record),
                *self._array(stops),
                len(stops),
                speculate,
            )
        )
        self.page_bytes = int(calls.r1_page_bytes(self._handle))

    def prompt(
        self, ids: np.ndarray, users: int, experts: np.ndarray | None = None, like: int = -1, shared: int = 0
    ) -> int:
        """Note a prompt, int32 [T], for so many rollouts; return its number, which is given again when they
        have ended. ``admit`` computes it, with all others that wait. Its first ``shared`` positions, a
        multiple of PAGE and fewer than T, are copied from the prompt ``like``. ``experts`` is filled with the
        experts chosen, and kept alive by the caller."""
        calls = self._calls if shared else self._quick
        return self._checked(
            calls.r1_prompt(
                self._handle, *self._array(ids), len(ids), users, *self._array(experts), like, shared
            )
        )

    def hold(self, number: int, change: int) -> None:
        """Count so many users of a prompt more, or fewer; one without users is forgotten."""
        self._quick.r1_hold(self._handle, number, change)

    def admit(self, rollouts: np.ndarray, numbers: np.ndarray, keys: np.ndarray) -> int:
        """Compute what prompts wait, give rollouts [R] int32 of the prompts ``numbers`` [R] int32 a row each
        and draw their first tokens
        with the keys [R] uint64; return how many rows are live."""
        return self._checked(
            self._calls.r1_admit(
                self._handle,
                len(rollouts),
                *self._array(rollouts),
                *self._array(numbers),
                *self._array(keys),
            )
        )

    def decode(self, steps: int, enough: int) -> int:
        """Run at most ``steps`` steps, until at most ``enough`` rows are live; return how many are."""
        return self._checked(self._calls.r1_decode(self._handle, steps, enough))

    def end(self) -> int:
        """Drop rows that the caller has marked as finished; return how many are live."""
        return self._checked(self._calls.r1_end(self._handle))

    def close(self) -> None:
        """Free everything."""
        self._calls.r1_session_free(self._handle)

    @staticmethod
    def _array(array: np.ndarray | None) -> tuple[ctypes.c_void_p]:
        return (ctypes.c_void_p(address_of(array)),)

    @staticmethod
    def _checked(status: int) -> int:
        if status == _DIVERGED_STATUS:
            raise R1kitError(DIVERGED)
        if status < 0:
            raise R1kitError("out of memory for the key-value cache: lower batch_rows or max_tokens")
        return status


class _Group:
    """The rollouts of one call, and the session that decodes them."""

    def __init__(self, requests: Requests, session: Session) -> None:
        self._requests, self.session = requests, session
        self._numbers: dict[int, int] = {}
        self._beginnings: list[int] = []  # prompts whose first pages others copy; held until the end

    def admit(self, rollouts: Sequence[int]) -> int:
        """Give each rollout a row, computing its prompt if necessary; return how many rows are live."""
        requests, n = self._requests, self._requests.sampling.n
        for prompt in dict.fromkeys(rollout // n for rollout in rollouts):
            if prompt not in self._numbers:
                self._numbers[prompt] = self._compute(prompt, n)
        indices = np.array(rollouts, dtype=np.int32)
        numbers = np.array([self._numbers[rollout // n] for rollout in rollouts], dtype=np.int32)
        return self.session.admit(indices, numbers, requests.keys_R[indices])

    def _compute(self, prompt: int, users: int) -> int:
        """Note a prompt. Whole pages that it has in common with an earlier one, such as worked examples or a
        system prompt, are copied from that."""
        ids, experts = self._requests.prompts[prompt], self._requests.prompt_experts
        pages, like = max(((self._pages(ids, other), other) for other in self._beginnings), default=(0, -1))
        own = experts[prompt] if experts else None
        if pages:
            shared = pages * PAGE
            number = self.session.prompt(ids, users, own, self._numbers[like], shared)
            if experts and own is not None:
                own[:shared] = experts[like][:shared]
            return number
        number = self.session.prompt(ids, users, own)
        if len(ids) > PAGE and len(self._beginnings) < MOST_BEGINNINGS:
            self._beginnings.append(prompt)
            self.session.hold(number, 1)
        return number

    def _pages(self, ids: np.ndarray, other: int) -> int:
        """How many whole pages the beginnings of a prompt and of an ``other`` have in common, without the
        last token of either."""
        theirs = self._requests.prompts[other]
        length = min(len(ids), len(theirs)) - 1
        different = np.flatnonzero(ids[:length] != theirs[:length])
        return int(different[0] if len(different) else length) // PAGE


class CompiledDecoder:
    """Decodes with a packed copy of ``model``'s weights, which is packed again when they change. ``lean``:
    they never change, and take no memory of their own after that where they lie in a file. Raises
    KernelsUnavailableError."""

    def __init__(
        self, model: LanguageModel, stop_ids: np.ndarray, precision: str, batch_rows: int,
        speculate: int = 0, lean: bool = False,
    ) -> None:  # fmt: skip
        check_supported(model)
        if precision == "int8" and max(model.config.width, model.config.ffn_width) > MOST_INPUTS:
            raise KernelsUnavailableError(f"products in 8 bits have at most {MOST_INPUTS:,} inputs")
        self._calls = library()
        self.model, self.stop_ids, self.batch_rows = model, stop_ids, batch_rows
        self.speculate, self.lean = speculate, lean
        self._calls.r1_network.restype = ctypes.c_void_p
        shape = _Shape.of(model.config, torch.get_num_threads())
        self._network: int | None = self._calls.r1_network(ctypes.byref(shape), FORMATS[precision])
        if self._network is None:
            raise R1kitError(
                "out of memory for the engine's copy of the weights: use a smaller model or "
                "precision bfloat16"
            )
        weakref.finalize(self, self._calls.r1_network_free, ctypes.c_void_p(self._network))
        self._packed: dict[str, list[tuple[int, int, float]]] = {}
        self._embedding = model.embed_tokens.weight
        self._positions = 0

    def complete(self, requests: Requests, pause: Callable[[], None]) -> None:
        """Finish every rollout; call ``pause`` after every few steps."""
        group = self._group(requests)
        try:
            self._complete(requests, group, pause)
        finally:
            group.session.close()

    def _complete(self, requests: Requests, group: _Group, pause: Callable[[], None]) -> None:
        waiting, live = list(range(len(requests.keys_R))), 0
        steps = SEARCH_EVERY if requests.sampling.stop else STEPS_AT_ONCE
        enough = self.batch_rows - max(1, self.batch_rows // FREE_SHARE)
        while waiting or live:
            if waiting and live <= enough:
                free = self.batch_rows - live
                live, waiting = group.admit(waiting[:free]), waiting[free:]
            live = group.session.decode(steps, enough if waiting else 0)
            if requests.sampling.stop and requests.cut_at_strings(
                np.flatnonzero(requests.lengths_R > requests.searched_R).tolist()
            ):
                live = group.session.end()
            pause()

    def stream(self, requests: Requests) -> Iterator[int]:
        """Yield the tokens of the only rollout."""
        group, read = self._group(requests), 0
        try:
            group.admit([0])
            while True:
                if requests.sampling.stop:
                    requests.cut_at_strings([0])
                new = requests.tokens_RT[0, read : requests.lengths_R[0]].tolist()
                yield from new
                read += len(new)
                if requests.finished_R[0] != LIVE:
                    return
                group.session.decode(1, 0)
        finally:
            group.session.close()

    def open(self, record: Record, positions: int, drawing: Drawing) -> Session:
        """A session with the newest weights, for sequences of at most so many positions. ``drawing`` is for
        a record that does not say how each rollout is drawn."""
        self._renew()
        if positions > self._positions:  # a running session may still need the longer table
            self._turn(positions)
        assert self._network is not None
        return Session(self._calls, self._network, drawing, record, self.stop_ids, self.speculate)

    def _group(self, requests: Requests) -> _Group:
        sampling = requests.sampling
        drawing = Drawing(sampling.temperature, sampling.top_p, sampling.min_p, sampling.top_k)
        record = Record(
            address_of(requests.tokens_RT), address_of(requests.logprobs_RT), address_of(requests.lengths_R),
            address_of(requests.finished_R), address_of(requests.experts_RTLA), sampling.max_tokens,
        )  # fmt: skip
        return _Group(requests, self.open(record, requests.longest, drawing))

    def _turn(self, positions: int) -> None:
        """Give the kernels the cosines and sines of this many positions."""
        rotation = Rotation.at(torch.arange(positions)[None], *rotary_frequencies(self.model.config))
        cos, sin = rotation.cos.contiguous(), rotation.sin.contiguous()
        pointers = (
            ctypes.c_void_p(cos.data_ptr()),
            ctypes.c_void_p(sin.data_ptr()),
            ctypes.c_int64(cos.numel()),
        )
        self._calls.r1_rotation(ctypes.c_void_p(self._network), *pointers)
        self._positions = positions

    def _renew(self) -> None:
        """Pack the weights that have changed since they were packed, with their adapters merged. A lean
        decoder's do not change, and looking at them would read them again."""
        if self.lean and self._packed:
            return
        if self.lean:
            return_memory()  # what reading the tokenizer has left: weights need larger pieces
        weights = Weights(self.model)
        for name in weights:
            now = [_mark(part) for part in weights.parts(name)]
            if self._packed.get(name) != now and not name.startswith(("mtp_layers.", "value_head.")):
                self._take(name, weights.exact(name), weights.parts(name) if self.lean else ())
                self._packed[name] = now

    def _take(self, name: str, tensor: Tensor, in_files: Sequence[Tensor]) -> None:
        """Give the kernels a weight: the head piece by piece, experts one by one. The memory of ``in_files``
        is given back after each piece."""
        layer = -1
        if name.startswith("layers."):
            _, index, name = name.split(".", 2)
            layer = int(index)
        if name == "embed_tokens.weight":
            self._embedding = tensor = tensor.detach().float().contiguous()  # the kernels read it in place
        pieces = dict(enumerate(tensor if tensor.dim() == 3 else tensor[None]))
        if name == "lm_head.weight":
            pieces = {first: tensor[first : first + PIECE] for first in range(0, len(tensor), PIECE)}
        for part, piece in pieces.items():
            exact = piece.detach().float().contiguous()
            rows, columns = len(exact), exact[0].numel()
            address = ctypes.c_void_p(exact.data_ptr())
            if self._calls.r1_take(
                ctypes.c_void_p(self._network), layer, name.encode(), part, address, rows, columns
            ):
                raise R1kitError(f"the kernels do not know the parameter {name!r}")
            for original in in_files:
                give_back(original)


def _mark(tensor: Tensor) -> tuple[int, int, float]:
    """Identifies the state of a parameter: its address, PyTorch's count of writes, and a sum over some of its
    numbers, for writes that PyTorch does not count."""
    flat = tensor.detach().reshape(-1)
    some = flat[:: max(1, len(flat) // 64)].double()
    version = 0 if tensor.is_inference() else tensor._version
    return (
        tensor.data_ptr(),
        version,
        float((some * torch.arange(1, len(some) + 1, dtype=torch.float64)).sum()),
    )
