"""Export a finished model: its Hugging Face folder with a card that says how it was made and measured.

The folder says the same in r1kit.json, for programs: with it, `r1kit chat` and `r1kit eval` ask the model as
it was trained, and a run that starts from it names it, its base model and their licences in its exports."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1kit.chat import Chat
from r1kit.commands.model_card import model_card
from r1kit.commands.prompt_card import (
    asked_of,
    asks_alike,
    chat_template_of,
    framed_template_of,
    writes_prompt,
)
from r1kit.config import ConfigError
from r1kit.files import temporary_name
from r1kit.marks import mark_damages, mark_files
from r1kit.model.ancestry import licence_of, name_of
from r1kit.model.conversion import DTYPES, convert
from r1kit.recipe.inputs import MODEL_KEYS, texts
from r1kit.records import (
    ADAPTER,
    NOTES,
    Ancestor,
    DamageError,
    FinishedStage,
    ModelNotes,
    check_model,
    find_stage_with_model,
    finished_stages,
    is_model,
    read_json,
    read_notes,
    stage_folder,
    write_notes,
)
from r1kit.runs.verify import link_damages, raise_damages
from r1kit.stages.models import PromptStyle
from r1kit.terminal import printable

FRAME = ("system", "examples", "opening", "thinking")  # prompt settings that a chat template can write itself

JINJA = (".jinja", ".jinja2", ".j2")  # suffixes of a recipe's own chat template


def export_model(
    run_dir: Path, stage: str | None, to: Path, dtype: str | None = None, adapter: bool = False
) -> Path:
    """Copy a stage's model to the new folder ``to``, with its notes (r1kit.json) and hashes, and write its
    README.md there. ``stage`` is a name, or NAME/FOLDER for another model than the stage's result
    (reward_models/helpful). ``dtype``, a key of DTYPES, rounds the weights; without it they are copied as
    they are. With ``adapter`` only the adapters are copied, in peft's layout.

    Raises ConfigError where the run or the stage has no finished model, or where ``to`` already holds
    something, and DamageError where the model, or what the card reads, is not as r1kit wrote it."""
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir}: no such folder")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: not a type that is written; choose {', '.join(DTYPES)}")
    chosen, part = _choose(run_dir, stage)
    check_model(chosen.folder / part)
    if adapter and not (chosen.folder / part / ADAPTER).is_dir():
        raise ConfigError(
            f"stage {chosen.name} of {run_dir} has no adapters: it was trained without learner.lora; export "
            "the whole model, without --adapter"
        )
    if adapter and dtype is not None:
        raise ConfigError("--dtype rounds whole models; leave it out with --adapter")
    lineage = _lineage(run_dir, chosen)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} already holds something: name a new folder")
    partial = temporary_name(to)
    try:
        _copy(chosen, f"{part}/{ADAPTER}" if adapter else part, partial)
        if dtype is not None:
            convert(partial, DTYPES[dtype])
        notes = _notes(run_dir, chosen, part, lineage)
        if not adapter:
            notes = notes.model_copy(update={"talk": _with_template(partial, notes.talk)})
        card = model_card(run_dir, chosen, notes, partial, lineage)
        write_notes(partial, notes.model_copy(update={"files": mark_files(partial, (NOTES,))}))
        (partial / "README.md").write_text(printable(card), encoding="utf-8")
        if to.exists():
            to.rmdir()
        partial.rename(to)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ConfigError(f"{to} cannot be written: {error.strerror or error}") from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return to


def _choose(run_dir: Path, name: str | None) -> tuple[FinishedStage, str]:
    """The stage, and the folder in it, of the model that is meant."""
    own, _, part = (name or "").partition("/")
    stages = {stage.name: stage for stage in finished_stages(run_dir)}
    if own not in stages or (is_model(stages[own].model) and part in ("", "model")):
        return find_stage_with_model(run_dir, own or None), "model"
    folders = sorted(path.parent for path in stages[own].folder.rglob("config.json") if path.is_file())
    parts = [folder.relative_to(stages[own].folder).as_posix() for folder in folders]
    if part not in parts:
        there = ", ".join(f"{own}/{known}" for known in parts) or "none"
        raise ConfigError(f"{run_dir}: stage {own!r} has no model {part or 'model'!r}; its models: {there}")
    return stages[own], part


def _copy(stage: FinishedStage, part: str, to: Path) -> None:
    """Copy the files that the stage wrote in a folder of its own, without adapters inside it. Raises
    DamageError where a copy is not what was written."""
    prefix = f"{part}/"
    outputs = stage.record.outputs.items()
    marks = {name.removeprefix(prefix): mark for name, mark in outputs if name.startswith(prefix)}
    marks = {name: mark for name, mark in marks.items() if not name.startswith(f"{ADAPTER}/")}
    for name in marks:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stage.folder / part / name, to / name)
    if found := list(mark_damages(to, marks, "the stage")):
        raise DamageError("\n".join([*found, "The copy failed: repair the disk, then export again."]))


def _notes(run_dir: Path, stage: FinishedStage, part: str, lineage: Sequence[FinishedStage]) -> ModelNotes:
    """What the exported folder says of itself: the model's own notes, with all that it was made from."""
    own = read_notes(stage.folder / part) or ModelNotes()
    ancestors = list(own.lineage)
    for made in lineage:
        ancestors += _models_read(made)
        digest = stage_folder(run_dir, made.name).record_hash() or ""
        ancestors.append(Ancestor(name=made.name, kind=made.kind, sha256=digest))
    unique: dict[tuple[str, str], Ancestor] = {}
    for ancestor in ancestors:
        unique.setdefault((ancestor.kind, ancestor.sha256), ancestor)
    talk = own.talk if own.talk is not None else stage.record.config.get("talk")
    return own.model_copy(update={"talk": talk, "lineage": tuple(unique.values()), "files": {}})


def _models_read(stage: FinishedStage) -> list[Ancestor]:
    """The models from elsewhere that a stage's configuration names: weights that it began with, teachers."""
    found = []
    for path, text in texts(stage.record.config, ()):
        digest = stage.record.files.get(text)
        if digest is not None and set(MODEL_KEYS) & set(map(str, path)):
            folder = Path(text).expanduser()
            name, licence = text, None  # of the hub, or no longer there
            if folder.is_dir():
                name, licence = name_of(folder), licence_of(folder)
            found.append(Ancestor(name=name, kind="model", sha256=digest, license=licence))
    return found


def _with_template(folder: Path, talk: dict[str, Any] | None) -> dict[str, Any] | None:
    """Give the exported folder the chat template with which the model was trained; return the prompt settings
    that fit it. A template's file of the recipe becomes the folder's own, and where r1kit wrote the prompts
    without the folder's template, that writes them for a single question too."""
    if talk is None or not (folder / "tokenizer.json").is_file():
        return talk
    if str(talk.get("template")).endswith(JINJA):
        template = Path(talk["template"]).expanduser()
        if not template.is_file():
            raise ConfigError(
                f"{template}: no such file; it is the chat template with which the model was trained; "
                "bring it back, then export again from the same folder"
            )
        shutil.copyfile(template, folder / "chat_template.jinja")
        _repeat_template(folder)
        talk = {**talk, "template": "model"}
    chat = PromptStyle.parse(talk, f"{folder}: talk").chat(folder)
    asked = asked_of(chat)
    if chat.template == "model":
        return _with_frame(folder, talk, chat)
    if asked.is_exact and not writes_prompt(chat, asked):
        text = chat_template_of(asked, chat.tokenizer.chat_template)
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
        _repeat_template(folder)
    return {**talk, "template": chat.template}


def _with_frame(folder: Path, talk: dict[str, Any], chat: Chat) -> dict[str, Any]:
    """Write what the recipe adds to the model's own template into it, so that transformers and vLLM add it
    too; return the settings that are left. Where the template then writes another prompt, it stays as it
    was, and the settings are r1kit's alone."""
    own, file = {**talk, "template": "model"}, folder / "chat_template.jinja"
    left = {name: value for name, value in own.items() if name not in FRAME}
    if left == own or not any(own[name] not in (None, "", [], ()) for name in own.keys() - left.keys()):
        return own
    before = file.read_text(encoding="utf-8") if file.is_file() else None
    file.write_text(framed_template_of(chat), encoding="utf-8")
    if asks_alike(PromptStyle.parse(left, f"{folder}: talk").chat(folder), chat):
        _repeat_template(folder)
        return left
    file.unlink() if before is None else file.write_text(before, encoding="utf-8")
    return own


def _repeat_template(folder: Path) -> None:
    """Write the folder's chat template into tokenizer_config.json too, where older readers look."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    if "chat_template" in settings:
        settings["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        path.write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")


def _lineage(run_dir: Path, stage: FinishedStage) -> list[FinishedStage]:
    """Every stage behind this one, itself last, in the order in which they were made. Raises DamageError
    where a stage was not made from the record of another that is there."""
    stages = {known.name: known for known in finished_stages(run_dir)}
    behind, waiting = {stage.name}, [stage.name]
    while waiting:
        reader = stages.get(waiting.pop())
        new = [name for name in (reader.record.inputs if reader else {}) if name not in behind]
        behind.update(new)
        waiting += new
    lineage = [known for known in stages.values() if known.name in behind]
    if found := [damage for known in lineage for damage in link_damages(run_dir, known)]:
        raise_damages(run_dir, found)
    return lineage
