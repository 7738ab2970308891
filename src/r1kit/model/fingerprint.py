"""What one side of training holds and computes, so that two sides that should agree can be compared part by
part.

A learner reads a text in one pass, an engine token by token through its cache. ``examine`` notes, for either
way, a fingerprint of every tensor, the hidden states behind every part of every layer, and the
log-probabilities at the end."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from r1kit.model.decoder import LanguageModel

Mark = tuple[tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class Examination:
    """``marks`` name every tensor's state (``mark``); ``hidden`` are the states [T, D] float32 by part, in
    the order in which they are computed; ``logprobs_T`` the log-probabilities of the text's tokens, the first
    one's 0; ``version`` that of the weights."""

    version: int
    marks: Mapping[str, Mark]
    hidden: Mapping[str, np.ndarray]
    logprobs_T: np.ndarray


def mark(tensor: Tensor) -> Mark:
    """Shape and hash of a tensor's numbers as bfloat16, so that a side that keeps weights in bfloat16 has the
    marks of one in float32."""
    numbers = tensor.detach().to(device="cpu", dtype=torch.bfloat16).contiguous().view(torch.int16).numpy()
    return tuple(tensor.shape), hashlib.blake2b(numbers.tobytes(), digest_size=8).hexdigest()


def marks(weights: Mapping[str, Tensor]) -> dict[str, Mark]:
    return {name: mark(tensor) for name, tensor in weights.items()}


@torch.no_grad()
def examine(
    model: LanguageModel,
    token_ids: np.ndarray,
    temperature: float,
    version: int,
    step_from: int | None = None,
) -> Examination:
    """Examine ``model`` on a text [T]: in one pass, or with a cache and one token at a time from place
    ``step_from`` on.

    Products run in the dtype of the autocast around the call. The mode, training or not, is left as it was.
    """
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
    return Examination(
        version,
        marks(model.state_dict()),
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
    """Keep what each part returns, pass by pass; the parts by the names of their parameters."""
    seen: dict[str, list[Tensor]] = {}
    parts: dict[str, nn.Module] = {"embed_tokens": model.embed_tokens}
    for number, layer in enumerate(model.layers):
        for inner in ("self_attn", "mlp"):
            parts[f"layers.{number}.{inner}"] = layer.get_submodule(inner)
        parts[f"layers.{number}"] = layer
    parts["norm"] = model.norm
    hooks = [part.register_forward_hook(_keeper(seen.setdefault(name, []))) for name, part in parts.items()]
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
