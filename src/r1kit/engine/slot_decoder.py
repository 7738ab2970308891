"""Decoding on a device whose work is queued, such as a GPU: nothing waits for a token.

Rollouts live in slots. A slot is a row of a cache of fixed size, with the rollout's key, its length and
whether it still runs, all on the device. One step draws a token for every slot, writes it into a window of
``WINDOW`` columns and feeds it to the model, so all steps have the same shapes: on CUDA a step is captured
once as a graph and then replayed (``capture``). After ``WINDOW`` steps the window is read, rollouts that have
finished leave, and waiting ones take their slots. What a slot draws after its end is ignored. On CUDA a
step's layers are compiled by torch.compile as well, which joins their many small operations to few kernels.

The numbers that tokens are drawn with are those of random_draws.py, computed on the device, so a rollout
does not depend on its slot. On the same logits the tokens are those of torch_decoder.py. The weights are a
copy in bfloat16, refreshed at the beginning of every call, since reading them is what a step costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine.random_draws import DIVERGED, draw_unchecked
from r1kit.engine.requests import FULL, LIVE, STOP, Requests
from r1kit.model.adapters import Weights
from r1kit.model.attention import Cache
from r1kit.model.compiled_layers import compile_layers, compiler_of
from r1kit.model.decoder import LanguageModel
from r1kit.model.precision import keep_matrices
from r1kit.types import Sampling

WINDOW = 16  # steps between two looks at what was drawn
SEEN_STEP = 256  # attention reads a multiple of this many positions, each with a captured step of its own
_ROWS = 8  # slots are a multiple of this
_WARM_UPS = 2  # runs before a capture, in which libraries choose their kernels

Capture = Callable[[Callable[[], None]], Callable[[], None]]


class SlotCache(Cache):
    """A cache whose rows advance on the device, each only while its slot runs; ``seen`` positions are
    read."""

    def __init__(self, layers: list[Tensor], running_B: Tensor) -> None:
        self.running_B, self.seen = running_B, 0
        super().__init__(layers, torch.zeros(len(running_B), dtype=torch.int64, device=running_B.device))
        self.longest = 1  # never empty: prompts are computed elsewhere

    def reserve(self, tokens: int) -> int:
        return self.seen

    def advance(self, tokens: int) -> None:
        self._lengths_B += self.running_B * tokens


@dataclass(slots=True)
class _Slots:
    """The state of B slots on the device. ``keys_B`` and ``steps_B`` name a rollout's next random number."""

    cache: SlotCache
    running_B: Tensor
    logits_BV: Tensor
    keys_B: Tensor
    steps_B: Tensor
    column: Tensor
    tokens_BW: Tensor
    logprobs_BW: Tensor
    finite: Tensor

    def __len__(self) -> int:
        return len(self.keys_B)


class SlotDecoder:
    """Decodes ``model``'s weights in ``batch_rows`` slots. ``capture`` makes a step from a step: by default
    a CUDA graph on CUDA, and the step itself elsewhere. ``compiler``: torch.compile's backend for the layers
    of a step of the copied weights; by default "inductor" on CUDA where Triton is installed, and none
    elsewhere."""

    def __init__(
        self, model: LanguageModel, stop_ids: np.ndarray, precision: str, batch_rows: int,
        capture: Capture | None = None, compiler: str | None = None,
    ) -> None:  # fmt: skip
        self.model, self.precision, self.batch_rows = model, precision, batch_rows
        self.device = model.device
        self.stop_ids_S = torch.from_numpy(stop_ids).to(self.device)
        on_gpu = self.device.type == "cuda"
        # The products of experts in float32 wait for the device, which a graph cannot hold.
        graphs = on_gpu and (precision == "bfloat16" or not model.config.sparse)
        self.capture = capture or (as_graph if graphs else as_it_is)
        self.compiler = compiler or compiler_of(self.device)
        self._copied: LanguageModel | None = None
        self._slots: _Slots | None = None
        self._steps: dict[tuple[Any, ...], Callable[[], None]] = {}

    def complete(self, requests: Requests, pause: Callable[[], None]) -> None:
        """Finish every rollout; call ``pause`` after every window."""
        with self._inference():
            model = self._refreshed()
            slots = self._prepared(requests)
            waiting = list(range(len(requests.keys_R)))
            of_slot_B = np.full(len(slots), -1)
            lengths_B = np.zeros(len(slots), dtype=np.int64)
            while waiting or (of_slot_B >= 0).any():
                free = np.flatnonzero(of_slot_B < 0)[: len(waiting)]
                if len(free):
                    entering = np.array(waiting[: len(free)])
                    waiting = waiting[len(free) :]
                    of_slot_B[free] = entering
                    lengths_B[free] = self._enter(model, requests, slots, free, entering)
                self._window(model, requests, slots, int(lengths_B[of_slot_B >= 0].max()))
                lengths_B += WINDOW
                self._read(requests, slots, of_slot_B)
                pause()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        half = self.precision == "bfloat16"
        try:
            with (
                torch.inference_mode(),
                # Casts that autocast keeps would be part of a captured step, and stale in the next call.
                torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False),
            ):
                yield
        finally:
            self.model.train(training)

    def _refreshed(self) -> LanguageModel:
        """The model to decode with: the copy in bfloat16 with the newest weights, or the model itself."""
        if self.precision != "bfloat16":
            return self.model
        if self._copied is None:
            config = self.model.config.model_copy(update={"scalar_head": False})
            with torch.device(self.device):
                self._copied = LanguageModel(config)
            keep_matrices(self._copied, torch.bfloat16)
            self._copied.eval()
            if self.compiler is not None:
                compile_layers(self._copied, self.compiler)
        weights = Weights(self.model)
        for name, tensor in self._copied.state_dict().items():
            tensor.copy_(weights[name])  # in place: captured steps read these addresses
        return self._copied

    def _prepared(self, requests: Requests) -> _Slots:
        """Slots that are large enough for every rollout, those of the call before where they are."""
        rows = min(self.batch_rows, -(-len(requests.keys_R) // _ROWS) * _ROWS)
        longest = -(-(requests.longest + WINDOW) // SEEN_STEP) * SEEN_STEP
        slots = self._slots
        if slots is None or len(slots) != rows or slots.cache.capacity < longest:
            self._steps.clear()
            slots = self._slots = self._new_slots(rows, longest)
        slots.running_B.zero_()  # a call that was interrupted leaves some running
        return slots

    def _new_slots(self, rows: int, longest: int) -> _Slots:
        dtype: torch.dtype = getattr(torch, self.precision)
        running_B = torch.zeros(rows, dtype=torch.bool, device=self.device)
        cache = SlotCache(self.model.new_cache(rows, longest, dtype=dtype).layers, running_B)

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        return _Slots(
            cache, running_B, zeros(rows, self.model.config.vocab_size, dtype=torch.float32), zeros(rows),
            zeros(rows), zeros(1), zeros(rows, WINDOW), zeros(rows, WINDOW, dtype=torch.float32),
            torch.ones((), dtype=torch.bool, device=self.device),
        )  # fmt: skip

    def _enter(
        self, model: LanguageModel, requests: Requests, slots: _Slots, free: np.ndarray, entering: np.ndarray
    ) -> np.ndarray:
        """Compute the prompts of these rollouts, each once, and put their caches into slots; the lengths of
        the prompts [B]."""
        prompts_P, prompt_B = np.unique(entering // requests.sampling.n, return_inverse=True)
        lengths_P = np.array([len(requests.prompts[prompt]) for prompt in prompts_P])
        tokens_PT = np.zeros((len(prompts_P), lengths_P.max()), dtype=np.int64)
        for row, prompt in enumerate(prompts_P):
            tokens_PT[row, : lengths_P[row]] = requests.prompts[prompt]
        cache = model.new_cache(len(prompts_P), int(lengths_P.max()), dtype=getattr(torch, self.precision))
        with torch.compiler.set_stance("force_eager"):  # prompts have shapes of all kinds
            hidden_PTD = model(self._tensor(tokens_PT), cache=cache).hidden_BTD
        last_PD = hidden_PTD[torch.arange(len(prompts_P), device=self.device), self._tensor(lengths_P) - 1]
        logits_PV = model.logits(last_PD)
        places, rows = self._tensor(free), self._tensor(prompt_B)
        for layer, computed in zip(slots.cache.layers, cache.layers, strict=True):
            layer[places, : computed.shape[1]] = computed[rows]
        slots.logits_BV[places] = logits_PV[rows]
        slots.cache.lengths_B[places] = self._tensor(lengths_P[prompt_B])
        slots.keys_B[places] = self._tensor(requests.keys_R[entering].view(np.int64))
        slots.steps_B[places] = 0
        slots.running_B[places] = True
        found: np.ndarray = lengths_P[prompt_B]
        return found

    def _window(self, model: LanguageModel, requests: Requests, slots: _Slots, longest: int) -> None:
        """WINDOW steps of all slots, of which none waits for the device."""
        seen = min(-(-(longest + WINDOW) // SEEN_STEP) * SEEN_STEP, slots.cache.capacity)
        sampling = requests.sampling
        key = (
            seen, sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.max_tokens,
        )  # fmt: skip
        slots.cache.seen = seen
        slots.column.zero_()
        if key not in self._steps:
            self._steps[key] = self._captured(model, slots, sampling)
        step = self._steps[key]
        for _ in range(WINDOW):
            step()

    def _captured(self, model: LanguageModel, slots: _Slots, sampling: Sampling) -> Callable[[], None]:
        """A step with the present ``seen``. Its trial runs change nothing: slots that do not run only
        rewrite the place of their next token, and the rest is put back."""
        kept = [tensor.clone() for tensor in (slots.running_B, slots.logits_BV, slots.column)]
        slots.running_B.zero_()
        step = self.capture(lambda: self._step(model, slots, sampling))
        for tensor, before in zip((slots.running_B, slots.logits_BV, slots.column), kept, strict=True):
            tensor.copy_(before)
        return step

    def _step(self, model: LanguageModel, slots: _Slots, sampling: Sampling) -> None:
        """Draw a token for every slot, note it, and compute the logits of the next."""
        numbers_B = uniforms_of(slots.keys_B, slots.steps_B)
        tokens_B, logprobs_B, finite = draw_unchecked(slots.logits_BV, numbers_B, sampling, slots.running_B)
        slots.finite &= finite
        slots.tokens_BW.index_copy_(1, slots.column, tokens_B[:, None])
        slots.logprobs_BW.index_copy_(1, slots.column, logprobs_B[:, None])
        slots.column += 1
        slots.column.clamp_(max=WINDOW - 1)
        slots.steps_B += slots.running_B
        stopped_B = (tokens_B[:, None] == self.stop_ids_S).any(1)
        slots.running_B &= ~stopped_B & (slots.steps_B < sampling.max_tokens)
        hidden_B1D = model(tokens_B[:, None], cache=slots.cache).hidden_BTD
        slots.logits_BV.copy_(model.logits(hidden_B1D[:, 0]))

    def _read(self, requests: Requests, slots: _Slots, of_slot_B: np.ndarray) -> None:
        """Note what the window holds; free the slots of rollouts that have finished. Raises R1kitError where
        logits were not finite."""
        tokens_BW, logprobs_BW = slots.tokens_BW.cpu().numpy(), slots.logprobs_BW.cpu().numpy()
        if not bool(slots.finite):
            slots.finite.fill_(True)
            slots.running_B.zero_()
            raise R1kitError(DIVERGED)
        stop_ids, most = self.stop_ids_S.cpu().numpy(), requests.sampling.max_tokens
        taken = np.flatnonzero(of_slot_B >= 0)
        for slot in taken:
            rollout = of_slot_B[slot]
            start = int(requests.lengths_R[rollout])
            drawn = tokens_BW[slot, : most - start]
            ends = np.flatnonzero(np.isin(drawn, stop_ids))
            count = int(ends[0]) + 1 if len(ends) else len(drawn)
            requests.tokens_RT[rollout, start : start + count] = drawn[:count]
            requests.logprobs_RT[rollout, start : start + count] = logprobs_BW[slot, :count]
            requests.lengths_R[rollout] += count
            full = start + count == most
            requests.finished_R[rollout] = STOP if len(ends) else FULL if full else LIVE
        if requests.sampling.stop:
            requests.cut_at_strings(of_slot_B[taken])
        ended = taken[requests.finished_R[of_slot_B[taken]] != LIVE]
        if len(ended):
            slots.running_B[self._tensor(ended)] = False
            of_slot_B[ended] = -1

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def as_it_is(step: Callable[[], None]) -> Callable[[], None]:
    """The capture of a device without graphs."""
    return step


def as_graph(step: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of a step, which one call to the device replays."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def uniforms_of(keys_B: Tensor, steps_B: Tensor) -> Tensor:
    """``random_draws.uniforms`` on the device: float64 [B], from keys as int64 with the same bits."""
    return _shifted(_mixed(keys_B + _mixed(steps_B)), 11).double() * 2.0**-53


def _mixed(x: Tensor) -> Tensor:
    """``random_draws.mix`` of int64 with the same bits: products and sums wrap around alike."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits with zeros from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x
