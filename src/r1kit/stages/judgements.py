"""Where the judgements come from that reward models learn: a file, or an annotator that judges the model's
own answers (rewards/annotators.py)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, model_validator

from r1kit.chat import Chat
from r1kit.config import Config, InputError, R1kitError
from r1kit.data import preferences
from r1kit.jsonl import SUFFIXES, BadRows
from r1kit.rewards.annotators import check_annotator, check_labeller
from r1kit.rewards.pair_judge import Ask
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, prompt_style_of
from r1kit.stages.sampling import sample
from r1kit.stages.stage import Context
from r1kit.types import Labelled, Preference, Problem, Sampling

Row = TypeVar("Row", Preference, Labelled)


class Source(Config):
    """A ``file`` of judgements, with a file of ``held_out`` ones if there is one; or the name of an
    ``annotator`` with its ``options``. A plain text is short for one of the two."""

    file: str = ""
    held_out: str = ""
    bad_rows: BadRows = "error"  # stop at a row that cannot be used, or leave it out
    annotator: str = ""
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_short_form(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        return {"file": data} if data.startswith("@") or data.endswith(SUFFIXES) else {"annotator": data}

    @model_validator(mode="after")
    def _is_a_file_or_an_annotator(self) -> "Source":
        if bool(self.file) == bool(self.annotator):
            raise ValueError("name a file of judgements (file: FILE.jsonl) or an annotator, one of the two")
        if self.annotator and self.held_out:
            raise ValueError("held_out goes with a file; an annotator judges answers to held-out prompts")
        if self.file and self.options:
            raise ValueError("options go with an annotator")
        return self

    def file_errors(self, first_error: Callable[[Path, BadRows], str | None]) -> Iterator[InputError]:
        """What ``first_error`` finds in the files, by key; a file of another stage is not written yet."""
        for key, file in (("file", self.file), ("held_out", self.held_out)):
            if file and not file.startswith("@"):
                error = first_error(Path(file).expanduser(), self.bad_rows)
                if error is not None:
                    yield (key,), error


class PreferenceSource(Source):
    """Preference pairs; an annotator scores answers."""

    @model_validator(mode="after")
    def _annotator_is_known(self) -> "PreferenceSource":
        if self.annotator:
            check_annotator(self.annotator, self.options)
        return self

    def input_errors(self) -> Iterator[InputError]:
        """What is wrong with the files of pairs, as their first rows show."""
        return self.file_errors(preferences.preferences_error)


class SafetySource(Source):
    """Responses labelled safe or unsafe; an annotator labels them."""

    @model_validator(mode="after")
    def _labeller_is_known(self) -> "SafetySource":
        if self.annotator:
            check_labeller(self.annotator, self.options)
        return self

    def input_errors(self) -> Iterator[InputError]:
        """What is wrong with the files of labelled responses, as their first rows show."""
        return self.file_errors(preferences.labelled_error)


def read_pairs(ctx: Context, source: Source, chat: Chat, context: int) -> dict[str, list[Preference]]:
    """The pairs of the source's files by split, without those that are longer than ``context`` tokens."""

    def texts(pair: Preference) -> Sequence[str]:
        return pair.chosen.answer, pair.rejected.answer

    return _read(ctx, source, preferences.read_preferences, _Fits(chat, context), texts)


def read_labels(ctx: Context, source: Source, chat: Chat, context: int) -> dict[str, list[Labelled]]:
    """The labelled responses of the source's files by split, without those longer than ``context`` tokens."""
    return _read(
        ctx, source, preferences.read_labelled, _Fits(chat, context), lambda labelled: (labelled.text,)
    )


def _read(
    ctx: Context,
    source: Source,
    read: Callable[[Path, BadRows], list[Row]],
    fits: "_Fits",
    texts: Callable[[Row], Sequence[str]],
) -> dict[str, list[Row]]:
    held_out = read(ctx.path(source.held_out), source.bad_rows) if source.held_out else None
    rows = preferences.split(read(ctx.path(source.file), source.bad_rows), held_out)
    kept = {name: [row for row in own if fits(row.problem, texts(row))] for name, own in rows.items()}
    counts = ", ".join(f"{len(own)} {name.replace('_', ' ')}" for name, own in kept.items())
    left_out = sum(map(len, rows.values())) - sum(map(len, kept.values()))
    ctx.log.info(
        f"{Path(source.file).name}: {counts} rows"
        + (f"; {left_out} left out, longer than learner.context {fits.context}" if left_out else "")
    )
    return kept


class _Fits:
    """Whether a prompt with each of its texts has at most ``context`` tokens."""

    def __init__(self, chat: Chat, context: int) -> None:
        self.chat, self.context = chat, context

    def __call__(self, problem: Problem, texts: Sequence[str]) -> bool:
        used = len(self.chat.prompt_ids(problem, opening=""))
        return used + max(len(self.chat.response_ids(text)) for text in texts) <= self.context


def ask_models(ctx: Context, talk: PromptStyle, seed: int) -> Callable[[str, float, int], Ask]:
    """Models of the run, or of a folder, as judges: each is loaded to answer and released again. A model's
    thinking is left out of its reply."""

    def open_model(reference: str, temperature: float, max_tokens: int) -> Ask:
        model = ctx.model(reference)
        chat = prompt_style_of(model, talk).chat(model)

        def ask(questions: Sequence[str]) -> list[str | R1kitError]:
            problems = [Problem(str(place), "judge", text, None) for place, text in enumerate(questions)]
            engine = ctx.runtime.engine(model)
            groups = sample(
                engine,
                chat,
                problems,
                Sampling(1, temperature, max_tokens=max_tokens),
                derive_seed(seed, "judge"),
            )
            ctx.runtime.release(engine)
            return [r.text if r.answer is None else r.answer for group in groups for r in group]

        return ask

    return open_model
