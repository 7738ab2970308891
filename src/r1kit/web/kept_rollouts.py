"""A rollout as the sample store keeps it (train/rollouts.py ``record``), read with care: a line may come from
an older r1kit, another program, or a damaged file, so every field has a value where it is missing or odd."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from r1kit.health import number
from r1kit.log import prompt_text

Verdict = Literal["right", "wrong", "not judged", "failed"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "not judged", "failed")
_END = "</think>"
_BEGIN = "<think>"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The sampled tokens of a rollout, the first ones where it is long: ``texts``, their ``logprobs`` when
    they were sampled, those that the learner computed (``learned``), and the ``entropies`` of the learner's
    distributions. The last two are empty where the run has not kept them."""

    texts: Sequence[str]
    logprobs: Sequence[float]
    learned: Sequence[float] = ()
    entropies: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class KeptRollout:
    """One line of samples/: where it is kept, and what it says. ``place`` is its line, from 0."""

    stage: str
    part: str
    step: int
    place: int
    problem: str
    task: str
    prompt: str
    text: str
    truth: str | None
    group: int
    index: int
    reward: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    advantage: float | None = None
    answer: str | None = None
    cut: bool = False
    length: int | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    tokens: Tokens | None = None

    def training_name(self) -> str:
        return f"{self.stage}/{self.part}" if self.part else self.stage

    @property
    def verdict(self) -> Verdict:
        """What the accuracy reward says of it."""
        if self.failures:
            return "failed"
        value = self.parts.get("accuracy")
        if value is None:
            return "not judged"
        return "right" if value >= 1.0 else "wrong"

    @property
    def thinking(self) -> str | None:
        """What stands before the end of the thinking, or all of a text that is cut off within it; None where
        there is no thinking."""
        before, end, _ = self.text.partition(_END)
        if not end and _BEGIN not in self.text:
            return None
        return before.replace(_BEGIN, "", 1).strip("\n")

    @property
    def response(self) -> str:
        """What stands after the thinking."""
        _, end, after = self.text.partition(_END)
        if not end:
            return "" if _BEGIN in self.text else self.text
        return after.strip("\n")

    def why(self) -> list[str]:
        """For each reward below 1 the reason that its verdict gives, and what else explains it."""
        found = [f"{name}: {_last_line(detail)}" for name, detail in self.failures.items()]
        for name, value in self.parts.items():
            if value is None or value >= 1.0:
                continue
            if reason := self.reasons.get(name):
                found.append(f"{name} is {value:g}: {reason}")
            elif name == "accuracy":
                found.append(f"{name} is {value:g}: {self._guess()}")
        return found

    def _guess(self) -> str:
        if self.cut:
            return "the completion was cut off at max_tokens"
        return "the run has not kept the checker's reason"


def read_kept(line: bytes, stage: str, part: str, step: int, place: int) -> KeptRollout | None:
    """The rollout of a line of samples/; None for a line that is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return None
    problem = _text(row.get("problem")) or ""
    truth = row.get("truth")
    return KeptRollout(
        stage=stage,
        part=part,
        step=step,
        place=place,
        problem=problem,
        task=_text(row.get("task")) or problem.partition("/")[0],
        prompt=_prompt(row.get("prompt")),
        text=row["text"],
        truth=None if truth is None else str(truth),
        group=_whole(row.get("group")) or 0,
        index=_whole(row.get("index")) or 0,
        reward=number(row.get("reward")),
        parts={name: number(value) for name, value in _mapping(row.get("parts")).items()},
        advantage=number(row.get("advantage")),
        answer=_text(row.get("answer")),
        cut=row.get("finish") == "length",
        length=_whole(row.get("length")),
        reasons={name: str(value) for name, value in _mapping(row.get("reasons")).items()},
        failures={name: str(value) for name, value in _mapping(row.get("failures")).items()},
        tokens=_tokens(row.get("tokens")),
    )


def _tokens(found: Any) -> Tokens | None:
    texts = _mapping(found).get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    logprobs, learned, entropies = (
        _numbers(_mapping(found).get(name), len(texts)) for name in ("logprobs", "learned", "entropies")
    )
    return None if logprobs is None else Tokens(texts, logprobs, learned or (), entropies or ())


def _numbers(found: Any, count: int) -> list[float] | None:
    """So many numbers; None for anything else."""
    if not isinstance(found, list) or len(found) != count or any(number(value) is None for value in found):
        return None
    return found


def _prompt(found: Any) -> str:
    try:
        return "" if found is None else prompt_text(found)
    except (KeyError, TypeError):
        return str(found)


def _text(found: Any) -> str | None:
    return found if isinstance(found, str) else None


def _whole(found: Any) -> int | None:
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
