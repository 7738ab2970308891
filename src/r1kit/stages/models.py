"""A model as a stage uses it: its folder, its prompt template, and which prompts fit its context."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import field_validator, model_validator

from r1kit.chat import Chat, TemplateName, default_template, turns_of
from r1kit.config import Config, R1kitError, suggest
from r1kit.data.sources import pairs
from r1kit.model.config_json import read_config
from r1kit.records import prompt_settings
from r1kit.tokenizer import Tokenizer, read_template
from r1kit.types import Problem

JINJA = (".jinja", ".jinja2", ".j2")


class ShownExample(Config):
    """A question with its answer that is shown before every question."""

    prompt: str  # the question
    completion: str  # its whole answer, thinking included


class PromptStyle(Config):
    """How prompts are written for the model (``talk`` in a recipe).

    ``template``: ``chat``, ``r1_zero`` or ``model`` (chat.py), or a Jinja file; null, the default, is
    ``chat`` where the vocabulary has DeepSeek's turn tokens, else the checkpoint's own template. ``system``
    is the system turn. ``examples`` come before every question; they are no data, so decontamination does
    not count them. ``opening`` is the text that every completion is made to start with, besides what the
    template itself opens. ``stop`` are texts that end a completion, such as ``</answer>``; the special token
    with which the checkpoint's template ends a turn is always one of them, or an end token. ``thinking``
    turns the thinking of a checkpoint's template on or off (``enable_thinking``)."""

    template: str | None = None
    system: str = ""
    examples: tuple[ShownExample, ...] = ()
    opening: str = ""
    stop: tuple[str, ...] = ()
    thinking: bool | None = None

    @field_validator("template")
    @classmethod
    def _template_is_known(cls, template: str | None) -> str | None:
        names = get_args(TemplateName)
        if template is not None and template not in names and not template.endswith(JINJA):
            raise ValueError(f"no template {template!r}: {suggest(template, names)}, or name a .jinja file")
        return template

    @field_validator("stop", mode="before")
    @classmethod
    def _one_text_is_a_list(cls, stop: Any) -> Any:
        return (stop,) if isinstance(stop, str) else stop

    @field_validator("stop")
    @classmethod
    def _stop_is_not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if not all(stop):
            raise ValueError(
                'an empty text would end every completion at once; leave it out: stop: ["</answer>"]'
            )
        return stop

    @model_validator(mode="after")
    def _one_instruction(self) -> "PromptStyle":
        if self.system and self.template == "r1_zero":
            raise ValueError(
                "system: the r1_zero template has its own instruction (Table 1); leave system out, or use "
                "template: chat, model or a .jinja file"
            )
        return self

    def chat(self, model: Path) -> Chat:
        """Prompts for the model in this folder. Raises R1kitError with the fix where its tokenizer cannot
        write them."""
        tokenizer, template = Tokenizer.load(model), self.template
        if template is not None and template.endswith(JINJA):
            tokenizer, template = tokenizer.with_template(_jinja(template), template), "model"
        try:
            name: TemplateName = template or default_template(tokenizer)  # type: ignore[assignment]
            chat = Chat(
                tokenizer,
                name,
                self.opening,
                self.system,
                tuple((shown.prompt, shown.completion) for shown in self.examples),
                self.stop,
                self.thinking,
            )
            chat.check()
            end = chat.turn_end
        except R1kitError as error:
            raise R1kitError(f"talk, for the model in {model}: {error}") from None
        if end is None or end in tokenizer.end_ids:
            return chat
        return replace(chat, stop=(*chat.stop, tokenizer.decode([end], special=True)))

    def in_words(self, model: Path) -> str:
        """One line for readers: how a model is prompted."""
        chat = self.chat(model)
        said = [f"template {self.template or chat.template}"]
        said += [f"a system turn of {len(self.system)} characters"] if self.system else []
        said += [f"{len(self.examples)} examples before the question"] if self.examples else []
        said += [f"completions begin with {chat.begun!r}"] if chat.begun else []
        said += [f"and end at {' or '.join(map(repr, self.stop))}"] if self.stop else []
        return ", ".join(said)


def _jinja(file: str) -> str:
    path = Path(file).expanduser()
    if not path.is_file():
        raise R1kitError(f"talk.template: {file}: no such file (looked up from {Path.cwd()})")
    return read_template(path)


def prompt_style_of(model: Path, otherwise: PromptStyle) -> PromptStyle:
    """How the stage that made this model wrote its prompts, so that it is prompted as it was trained;
    ``otherwise`` for any other model."""
    settings = prompt_settings(model)
    if settings is None:
        return otherwise
    if str(settings.get("template")).endswith(JINJA):  # the model's folder has it (keep_template)
        settings["template"] = "model"
    return PromptStyle.parse(settings, f"{model.parent}: talk")


def sampling_style(model: Path, given: PromptStyle) -> PromptStyle:
    """How a stage that only samples from a model prompts it: as its recipe says, else as the model was
    trained."""
    return prompt_style_of(model, given) if given == PromptStyle() else given


def changed_style(model: Path, examples: Path | None = None, **given: Any) -> PromptStyle:
    """How a command prompts a model: as it was trained, with what the user gives in its place (None: not
    given). ``examples`` is a file of rows with prompt and completion. Raises ConfigError."""
    style = prompt_style_of(model, PromptStyle()).model_dump(mode="json")
    style |= {name: value for name, value in given.items() if value is not None}
    if examples is not None:
        style["examples"] = read_examples(examples)
    return PromptStyle.parse(style, "prompt settings")


def read_examples(file: Path) -> list[dict[str, str]]:
    """The examples of a file, one a row with prompt and completion. Raises R1kitError naming the row."""
    found: Iterable[Any] = pairs(file)
    rows = []
    for number, (prompt, completion) in enumerate(found, 1):
        if not isinstance(prompt, str):
            raise R1kitError(
                f"{file}:{number}: an example is one question and its answer, not a conversation"
            )
        rows.append({"prompt": prompt, "completion": completion})
    return rows


def keep_template(style: PromptStyle, model: Path) -> None:
    """Write a template file of the recipe into the folder of a model that was trained with it, as its own
    template, so that the model is complete without the file. The token with which the template ends a turn
    becomes an end token there, so that other programs stop where r1kit does."""
    chat = style.chat(model)
    tokenizer, end = chat.tokenizer, chat.turn_end
    if end is not None:
        tokenizer = tokenizer.with_end(end)
    if (style.template or "").endswith(JINJA) or tokenizer.end_ids != chat.tokenizer.end_ids:
        tokenizer.save(model)


def longest_prompt(max_tokens: int, *models: Path, context: int | None = None) -> int:
    """How many tokens a prompt may have, so that it and a completion fit the positions of all ``models`` and,
    where they are trained on, the learner's ``context``."""
    limits = [read_config(model).max_positions for model in models]
    return min(limits if context is None else [context + 1, *limits]) - max_tokens


def fits(chat: Chat, limit: int) -> Callable[[Problem], bool]:
    """Whether a problem's prompt has at most ``limit`` tokens. A byte-level token has at least one byte, so a
    text with few bytes need not be encoded; conversations are always encoded."""
    frame = len(chat.prompt_ids(Problem("", "", "", None)))

    def fit(problem: Problem) -> bool:
        short = len(turns_of(problem)) == 1 and frame + len(problem.prompt.encode()) <= limit
        return short or len(chat.prompt_ids(problem)) <= limit

    return fit
