"""A fingerprint of a model's weights and computation, so that two copies that should agree can be compared
part by part.

A learner reads a text in one pass, an engine token by token through its cache. ``take_fingerprint`` records,
for either way, a hash of every tensor, the hidden states after every part of every layer, and the
log-probabilities."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from r1kit.model.adapters import Weights
from r1kit.model.decoder import LanguageModel

Mark = tuple[tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``marks``: shape and hash of every tensor (``mark``). ``hidden``: the states [T, D] float32 by part, in
    the order in which they are computed. ``logprobs_T``: the log-probabilities of the text's tokens, 0 for
    the first one. ``version``: that of the weights."""

    version: int
    marks: Mapping[str, Mark]
    hidden: Mapping[str, np.ndarray]
    logprobs_T: np.ndarray


def mark(tensor: Tensor) -> Mark:
    """Shape and hash of a tensor's numbers as bfloat16, so that weights kept in bfloat16 and in float32 have
    the same mark."""
    numbers = tensor.detach().to(device="cpu", dtype=torch.bfloat16).contiguous().view(torch.int16).numpy()
    return tuple(tensor.shape), hashlib.blake2b(numbers.tobytes(), digest_size=8).hexdigest()


def marks(weights: Mapping[str, Tensor]) -> dict[str, Mark]:
    """The mark of every tensor, by name."""
    return {name: mark(tensor) for name, tensor in weights.items()}


@torch.no_grad()
def take_fingerprint(
    model: LanguageModel,
    token_ids: np.ndarray,
    temperature: float,
    version: int,
    step_from: int | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Fingerprint:
    """The fingerprint of ``model`` on a text [T], read in one pass, or with a cache and token by token from
    position ``step_from`` on. ``weights`` are what is marked: by default all of the model's.

    Products run in the dtype of the autocast around the call. The training mode is restored afterwards."""
    training = model.training
    model.eval()
    try:
        with _watched(model) as seen:
            hidden_TD = _read(model, token_ids, step_from)
    finally:
        model.train(training)
    logits_TV = model.logits(hidden_TD) / temperature
    found_T = (
        logits_TV[:-1]
        .log_softmax(-1)
        .gather(1, torch.as_tensor(token_ids[1:], dtype=torch.int64, device=model.device)[:, None])[:, 0]
    )
    hidden = {name: torch.cat(parts)[: len(token_ids)].float().cpu().numpy() for name, parts in seen.items()}
    return Fingerprint(
        version,
        marks(Weights(model) if weights is None else weights),
        hidden,
        np.concatenate([[0.0], found_T.float().cpu().numpy()]).astype(np.float32),
    )


def _read(model: LanguageModel, token_ids: np.ndarray, step_from: int | None) -> Tensor:
    tokens_1T = torch.as_tensor(token_ids.astype(np.int64), device=model.device)[None]
    if step_from is None:
        return model(tokens_1T, segments_BT=torch.ones_like(tokens_1T)).hidden_BTD[0]  # type: ignore[no-any-return]
    cache = model.new_cache(1, len(token_ids))
    pieces = [tokens_1T[:, :step_from], *torch.split(tokens_1T[:, step_from:], 1, dim=1)]
    return torch.cat([model(piece, cache=cache).hidden_BTD[0] for piece in pieces])


@contextmanager
def _watched(model: LanguageModel) -> Iterator[dict[str, list[Tensor]]]:
    """Record the output of each part in every pass, by the names of the parameters."""
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        part.register_forward_hook(_keeper(seen.setdefault(name, []))) for name, part in model.parts().items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _keeper(kept: list[Tensor]) -> Callable[..., None]:
    def keep(_part: nn.Module, _given: Any, result: Any) -> None:
        output = result[0] if isinstance(result, tuple) else result
        kept.append(output[0].detach())

    return keep
