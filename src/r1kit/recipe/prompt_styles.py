"""Whether the models of a recipe can be prompted as its stages say (``talk``), before anything runs.

A stage's ``init`` is a folder, or ``@stage``: then the tokenizer is that of the folder which that stage began
with, however many stages lie between. A tokenizer that a stage trains itself has r1kit's turns and template.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1kit.config import InputError, R1kitError
from r1kit.stages.stage import Stage

TRAINED = ("init", "student")  # keys of the model that is prompted as ``talk`` says
ASKED = ("teacher", "rollouts_from", "models")  # of models that are prompted as they were trained, if known


def style_errors(stage: Stage, stages: Sequence[Stage]) -> Iterator[InputError]:
    """What is wrong with a stage's ``talk``, by key path within the stage. Folders that are not there are not
    looked at, because ``check_inputs`` lists them."""
    style = getattr(stage, "talk", None)
    if style is None:
        return
    from r1kit.stages.models import PromptStyle, prompt_style_of  # imports torch

    if not isinstance(style, PromptStyle):
        return
    for key in (*TRAINED, *ASKED):
        for name in _names(getattr(stage, key, None)):
            folder = begun_with(name, stages)
            if folder is None:
                continue
            known = key in ASKED or (style == PromptStyle() and not hasattr(stage, "learner"))
            try:
                (prompt_style_of(folder, style) if known else style).chat(folder)
            except R1kitError as error:
                yield ("talk",), str(error)


def begun_with(name: str, stages: Sequence[Stage]) -> Path | None:
    """The folder with the tokenizer of the model that a text names; None where a stage trains it itself, or
    nothing is there."""
    seen: set[str] = set()
    while name.startswith("@"):
        stage = next((one for one in stages if one.name == name[1:].partition("/")[0]), None)
        if stage is None or stage.name in seen:
            return None
        seen.add(stage.name)
        name = next((known for key in TRAINED for known in _names(getattr(stage, key, None))), "")
    folder = Path(name).expanduser()
    folder = folder / "model" if (folder / "model").is_dir() else folder
    return folder if name and (folder / "tokenizer.json").is_file() else None


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (name for name in value.values() if isinstance(name, str))
    elif isinstance(value, list | tuple):
        yield from (name for name in value if isinstance(name, str))
