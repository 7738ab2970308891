"""Why do engine and learner differ? Their parts are compared until one cause is left.

First the weights are compared by fingerprint, tensor by tensor and process by process. Then the hidden states
of each part of the network are compared on the same text: the learner reads it in one pass, the engine token
by token. If all of that agrees, the engine sampled with another temperature or prompt than the learner
assumes, which is tried out. The remaining cause is the engine's decoder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from torch import Tensor

from r1kit.chat import Chat, TemplateName
from r1kit.config import R1kitError
from r1kit.engine import Engine
from r1kit.model.fingerprint import Mark, mark
from r1kit.train.hand_over import HandOver
from r1kit.train.learner import LearnerProtocol
from r1kit.types import Completion, Problem, Row

EXAMINED_TOKENS = 64  # of a completion: enough to see a difference, and quickly read one by one
PARTS_DIFFER = 0.05  # relative difference of a hidden state; rounding in bfloat16 leaves about 0.01
_TEMPLATES: tuple[TemplateName, ...] = ("chat", "r1_zero", "model")


class Sides(Protocol):
    """The two sides that are compared, and the template of the prompts."""

    @property
    def learner(self) -> LearnerProtocol: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def chat(self) -> Chat: ...

    @property
    def hand_over(self) -> HandOver: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """A sampled completion, and the row that the learner would train on."""

    problem: Problem
    completion: Completion
    row: Row

    @property
    def prompt_ids(self) -> np.ndarray:
        ids: np.ndarray = self.row.token_ids[~self.row.mask]
        return ids

    @property
    def excerpt(self) -> np.ndarray:
        """The prompt and the completion's first tokens."""
        ids: np.ndarray = self.row.token_ids[: len(self.prompt_ids) + EXAMINED_TOKENS]
        return ids

    def after(self, prompt_ids: np.ndarray) -> Row:
        """The row as if its completion followed another prompt."""
        token_ids = np.concatenate([prompt_ids, self.completion.token_ids]).astype(np.int32)
        mask = np.arange(len(token_ids)) >= len(prompt_ids)
        return replace(self.row, token_ids=token_ids, mask=mask, old_logprobs=None, experts=None)


def gaps(learner: LearnerProtocol, probes: Sequence[Probe], rows: Sequence[Row] | None = None) -> np.ndarray:
    """|difference| [N] of all sampled tokens' log-probabilities; ``rows`` stand in for the probes' own."""
    rows = rows or [probe.row for probe in probes]
    found = learner.logprobs_and_entropies(rows)
    gaps_N: np.ndarray = np.abs(
        np.concatenate(
            [
                ours[row.mask] - probe.completion.logprobs
                for (ours, _), row, probe in zip(found, rows, probes, strict=True)
            ]
        )
    )
    return gaps_N


def wrong_weights(sides: Sides, probe: Probe) -> str:
    """Which tensors differ between the learner's first process and all other copies, including the engine's;
    "" if none differ or a side cannot be examined."""
    learners, engines = (  # weights alone count here, so two tokens of text are enough
        side.examine(probe.excerpt[:2], probe.row.temperature) for side in (sides.learner, sides.engine)
    )
    if not learners:
        return ""
    weights, ours = sides.learner.weights(), learners[0].marks
    copies = [(f"the learner (process {process})", found) for process, found in enumerate(learners)][1:]
    copies += [(f"the engine (process {process})", found) for process, found in enumerate(engines)]
    for who, theirs in copies:
        wrong = [
            text
            for name in sorted({*ours, *theirs.marks})
            if (text := _difference(name, ours, theirs.marks, weights))
        ]
        if wrong:
            more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            return f"the weights of {who} are not the learner's: {'; '.join(wrong[:4])}{more}"
    return ""


def _difference(
    name: str, ours: Mapping[str, Mark], theirs: Mapping[str, Mark], weights: Mapping[str, Tensor]
) -> str:
    if name not in theirs or name not in ours:
        return f"{name} is {'missing' if name in ours else 'unknown to the learner'}"
    if ours[name] == theirs[name]:
        return ""
    twins = [other for other, found in ours.items() if found == theirs[name]]
    if len(twins) == 1:  # fresh norms are all alike, so they name no tensor
        return f"{name} holds {twins[0]}"
    if name in weights and weights[name].dim() >= 2 and mark(weights[name].mT) == theirs[name]:
        return f"{name} is transposed"
    if ours[name][0] != theirs[name][0]:
        return f"{name} has shape {list(theirs[name][0])} instead of {list(ours[name][0])}"
    return f"{name} differs (it was not copied, or comes from another version)"


def cause(sides: Sides, probes: Sequence[Probe], allowed: float) -> str:
    """One sentence that says why the log-probabilities differ by more than ``allowed`` on average although
    the weights agree."""
    return (
        _other_state(sides, probes[0])
        or _other_temperature(sides.learner, probes, allowed)
        or _other_prompt(sides, probes, allowed)
        or _other_decoder(sides, probes[0], allowed)
        or "Weights, hidden states, temperature and prompt were looked at as far as the engine shows "
        "them, and agree: compare the precisions "
        "(runtime.engine_precision, learner.precision), or raise gate_mean and gate_max if so much "
        "rounding is meant"
    )


def _other_state(sides: Sides, probe: Probe) -> str:
    """The first part of the network whose output differs; the same text, read in one pass and token by
    token."""
    learners, engines = (
        side.examine(probe.excerpt, probe.row.temperature) for side in (sides.learner, sides.engine)
    )
    if not learners or not engines:
        return ""
    ours, theirs = learners[0], engines[0]
    for part, state_TD in ours.hidden.items():
        difference_T = np.linalg.norm(theirs.hidden[part] - state_TD, axis=1) / np.maximum(
            np.linalg.norm(state_TD, axis=1), 1e-12
        )
        typical = float(np.median(difference_T))
        if not typical <= PARTS_DIFFER:
            return (
                f"The weights agree, but {part} computes something else in the engine: its output differs "
                f"by {typical:.0%}, all before it agrees"
            )
    return ""


def _other_temperature(learner: LearnerProtocol, probes: Sequence[Probe], allowed: float) -> str:
    temperature = probes[0].row.temperature
    if temperature == 1.0:
        return ""
    plain = gaps(learner, probes, [replace(probe.row, temperature=1.0) for probe in probes])
    if plain.mean() <= allowed:
        return (
            f"The engine's log-probabilities are those at temperature 1, but it sampled at {temperature:g}, "
            "where the learner computes them"
        )
    return ""


def _other_prompt(sides: Sides, probes: Sequence[Probe], allowed: float) -> str:
    """Whether the completions fit another prompt template better than the one in their rows."""
    for description, prompts in _ways_to_ask(sides.chat, probes):
        rows = [probe.after(prompt_ids) for probe, prompt_ids in zip(probes, prompts, strict=True)]
        if all(
            np.array_equal(row.token_ids, probe.row.token_ids)
            for row, probe in zip(rows, probes, strict=True)
        ):
            continue
        try:
            explained = gaps(sides.learner, probes, rows).mean() <= allowed
        except R1kitError:  # longer than the learner's context
            continue
        if explained:
            return (
                f"The completions follow from a prompt written {description}, but the rows hold the prompt "
                f"of template {sides.chat.template!r}"
            )
    return ""


def _ways_to_ask(chat: Chat, probes: Sequence[Probe]) -> Iterator[tuple[str, list[np.ndarray]]]:
    start, own = chat.tokenizer.start_ids, [probe.prompt_ids for probe in probes]
    yield "without its first token", [ids[1:] for ids in own]
    yield "with two start tokens", [np.concatenate([start, ids]) for ids in own]
    openings = tuple(dict.fromkeys(("", chat.opening, "<think>\n")))
    for template in _TEMPLATES:
        for opening in openings:
            try:
                written = [
                    replace(chat, template=template, opening=opening).prompt_ids(probe.problem)
                    for probe in probes
                ]
            except R1kitError:  # a template that this tokenizer does not have
                continue
            begins = f" that opens with {opening!r}" if opening else ""
            yield f"with template {template!r}{begins}", written


def _other_decoder(sides: Sides, probe: Probe, allowed: float) -> str:
    examinations = sides.engine.examine(probe.excerpt, probe.row.temperature)
    if not examinations:
        return ""
    own_T = examinations[0].logprobs_T[len(probe.prompt_ids) :]
    difference = float(np.abs(own_T - probe.completion.logprobs[: len(own_T)]).mean())
    if difference <= allowed:
        return ""
    return (
        "The engine's own model, read token by token, agrees with the learner; what its decoder "
        f"reported differs from it by {difference:.3g} on "
        f"average: its kernels or its packed copy of the weights are wrong"
    )
