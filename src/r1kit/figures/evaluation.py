"""The figures of an evaluation: what was measured of every model, and how.

Shares lie between 0 and 1, lengths are in tokens. None means that something was not measured: there was too
little to measure it on, or the recipe did not name it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures of the samples of some problems; n is the number of samples of each, in the protocol."""

    __pydantic_config__ = STRICT

    problems: int
    pass_1: Annotated[float, Field(alias="pass@1")]  # the mean share of a problem's samples that are right
    pass_1_stderr: Annotated[
        float | None, Field(alias="pass@1_stderr")
    ]  # over problems; None for a single one
    pass_n: Annotated[float, Field(alias="pass@n")]  # share of problems with at least one right sample
    cons_n: Annotated[float, Field(alias="cons@n")]  # share of problems whose most frequent answer is right
    format: float
    language: float | None  # None where no thinking has words
    length: float


@dataclass(frozen=True, slots=True)
class DifficultyScores:
    """Figures of the problems that their tasks give the same difficulty."""

    __pydantic_config__ = STRICT

    difficulty: float
    problems: int
    pass_1: Annotated[float, Field(alias="pass@1")]
    length: float


@dataclass(frozen=True, slots=True)
class Habit:
    """How often the thinking shows a habit, and the accuracy and mean length of the responses that show it
    (None where none does)."""

    __pydantic_config__ = STRICT

    share: float
    accuracy: float | None
    length: float | None


@dataclass(frozen=True, slots=True)
class GeneralScores:
    """The mean score of the answers to general prompts, with its standard error over prompts, and by kind of
    prompt."""

    __pydantic_config__ = STRICT

    score: float
    stderr: float | None
    kinds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """All figures of one model. ``direct`` is pass@1 when it has to answer without thinking; ``truncated`` is
    the share of samples that were cut off at the longest length. ``pass_k`` has pass@k for some k, empty in
    reports of an older r1kit."""

    __pydantic_config__ = STRICT

    overall: Scores
    tasks: Mapping[str, Scores]
    by_difficulty: tuple[DifficultyScores, ...]
    truncated: float
    habits: Mapping[str, Habit]
    direct: float | None
    general: GeneralScores | None
    pass_k: Annotated[Mapping[int, float], Field(alias="pass@k")] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GeneralProtocol:
    """How general prompts were measured: ``scored_by`` names the scoring functions."""

    __pydantic_config__ = STRICT

    problems: int
    n: int
    scored_by: str


@dataclass(frozen=True, slots=True)
class Protocol:
    """How models were measured: ``n`` samples of each problem, ``direct_n`` where they have to answer without
    thinking (None where that was not measured)."""

    __pydantic_config__ = STRICT

    problems: int
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    direct_n: int | None
    general: GeneralProtocol | None

    def in_words(self) -> str:
        """The protocol as one sentence."""
        said = (
            f"Protocol: {self.problems} held-out problems, {self.n} samples of each, at most "
            f"{self.max_tokens} tokens, temperature {self.temperature:g}, top-p {self.top_p:g}"
        )
        if self.direct_n is not None:
            said += f"; answers without thinking: {self.direct_n} samples of each problem"
        if self.general is not None:
            said += (
                f"; general prompts: {self.general.problems}, {self.general.n} samples of each, scored by "
                f"{self.general.scored_by}"
            )
        return f"{said}."


@dataclass(frozen=True, slots=True)
class Example:
    """A problem and every model's first sample for it, by the model's name."""

    __pydantic_config__ = STRICT

    problem: str
    answer: str | None
    task: str
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluate stage writes. ``controls`` names the models to compare with one another, by title."""

    __pydantic_config__ = STRICT

    protocol: Protocol
    models: Mapping[str, ModelFigures]
    examples: tuple[Example, ...]
    controls: Mapping[str, tuple[str, ...]]


# The figures that tables and bands name, by that name.
BY_NAME: Mapping[str, Callable[[ModelFigures], float | None]] = {
    "pass@1": lambda model: model.overall.pass_1,
    "pass@n": lambda model: model.overall.pass_n,
    "cons@n": lambda model: model.overall.cons_n,
    "format": lambda model: model.overall.format,
    "language": lambda model: model.overall.language,
    "length": lambda model: model.overall.length,
    "general": lambda model: None if model.general is None else model.general.score,
    "direct": lambda model: model.direct,
}
