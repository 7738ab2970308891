"""Export a finished model: its Hugging Face folder with a card that says how it was made and measured.

The folder says the same in r1kit.json, for programs: with it, `r1kit chat` and `r1kit eval` ask the model as
it was trained, and a run that starts from it names it, its base model and their licences in its exports."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1kit.commands.prompt_card import asked_of, chat_template_of, prompt_section, writes_prompt
from r1kit.config import ConfigError
from r1kit.figures import BY_NAME
from r1kit.files import temporary_name
from r1kit.marks import mark_damages, mark_files
from r1kit.model.ancestry import licence_of, name_of
from r1kit.model.conversion import DTYPES, convert
from r1kit.recipe.inputs import MODEL_KEYS, texts
from r1kit.records import (
    NOTES,
    Ancestor,
    DamageError,
    FinishedStage,
    ModelNotes,
    check_model,
    find_stage_with_model,
    finished_stages,
    prompt_settings,
    read_json,
    read_notes,
    stage_folder,
    write_notes,
)
from r1kit.report.run import (
    Measured,
    measured_models,
    read_environment,
    read_evaluation,
    require_read_files,
)
from r1kit.runs.verify import link_damages, raise_damages
from r1kit.stages.models import PromptStyle
from r1kit.terminal import printable


def export_model(run_dir: Path, stage: str | None, to: Path, dtype: str | None = None) -> Path:
    """Copy a stage's model to the new folder ``to``, with its notes (r1kit.json) and hashes, and write its
    README.md there. ``dtype``, a key of DTYPES, rounds the weights; without it they are copied as they are.

    Raises ConfigError where the run or the stage has no finished model, or where ``to`` already holds
    something, and DamageError where the model, or what the card reads, is not as r1kit wrote it."""
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir}: no such folder")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: not a type that is written; choose {', '.join(DTYPES)}")
    chosen = find_stage_with_model(run_dir, stage)
    check_model(chosen.model)
    lineage = _lineage(run_dir, chosen)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} already holds something: name a new folder")
    partial = temporary_name(to)
    try:
        _copy(chosen, partial)
        if dtype is not None:
            convert(partial, DTYPES[dtype])
        notes = _notes(run_dir, chosen, lineage)
        notes = notes.model_copy(update={"talk": _with_template(partial, notes.talk)})
        card = model_card(run_dir, chosen, notes, partial)
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


def _copy(stage: FinishedStage, to: Path, part: str = "model") -> None:
    """Copy the files that the stage wrote in a folder of its own. Raises DamageError where a copy is not what
    was written."""
    prefix = f"{part}/"
    outputs = stage.record.outputs.items()
    marks = {name.removeprefix(prefix): mark for name, mark in outputs if name.startswith(prefix)}
    for name in marks:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stage.folder / part / name, to / name)
    if found := list(mark_damages(to, marks, "the stage")):
        raise DamageError("\n".join([*found, "The copy failed: repair the disk, then export again."]))


def _notes(run_dir: Path, stage: FinishedStage, lineage: Sequence[FinishedStage]) -> ModelNotes:
    """What the exported folder says of itself: the model's own notes, with all that it was made from."""
    own = read_notes(stage.model) or ModelNotes()
    ancestors = list(own.lineage)
    for made in lineage:
        ancestors += _models_read(made)
        digest = stage_folder(run_dir, made.name).record_hash() or ""
        ancestors.append(Ancestor(name=made.name, kind=made.kind, sha256=digest))
    unique: dict[tuple[str, str], Ancestor] = {}
    for ancestor in ancestors:
        unique.setdefault((ancestor.kind, ancestor.sha256), ancestor)
    return own.model_copy(
        update={
            "talk": prompt_settings(stage.model),
            "lineage": tuple(unique.values()),
            "files": {},
        }
    )


def _models_read(stage: FinishedStage) -> list[Ancestor]:
    """The models from elsewhere that a stage's configuration names: weights that it began with, teachers."""
    found = []
    for path, text in texts(stage.record.config, ()):
        digest = stage.record.files.get(text)
        if digest is not None and set(MODEL_KEYS) & set(map(str, path)):
            folder = Path(text).expanduser()
            is_there = folder.is_dir()
            name, licence = (name_of(folder), licence_of(folder)) if is_there else (folder.name, None)
            found.append(Ancestor(name=name, kind="model", sha256=digest, license=licence))
    return found


def _with_template(folder: Path, talk: dict[str, Any] | None) -> dict[str, Any] | None:
    """Give the exported folder the chat template with which the model was trained; return the prompt settings
    that fit it. A template's file of the recipe becomes the folder's own, and where r1kit wrote the prompts
    without the folder's template, that writes them for a single question too."""
    if talk is None or not (folder / "tokenizer.json").is_file():
        return talk
    if str(talk.get("template")).endswith(".jinja"):
        shutil.copyfile(Path(talk["template"]).expanduser(), folder / "chat_template.jinja")
        _repeat_template(folder)
        return {**talk, "template": "model"}
    chat = PromptStyle.parse(talk, f"{folder}: talk").chat(folder)
    asked = asked_of(chat)
    if chat.template != "model" and asked.is_exact and not writes_prompt(chat, asked):
        text = chat_template_of(asked, chat.tokenizer.chat_template)
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
        _repeat_template(folder)
    return {**talk, "template": chat.template}


def _repeat_template(folder: Path) -> None:
    """Write the folder's chat template into tokenizer_config.json too, where older readers look."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    if "chat_template" in settings:
        settings["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        path.write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")


def model_card(run_dir: Path, stage: FinishedStage, notes: ModelNotes, folder: Path) -> str:
    """The card: header, prompt, lineage, recipe, evaluation with its protocol, command, versions, limits.
    ``folder``: where the model has been copied to."""
    lineage = _lineage(run_dir, stage)
    environment = read_environment(run_dir)
    sections = [
        _header(stage, notes),
        f"# {run_dir.name}: {stage.name}\n\nMade by r1kit: the DeepSeek-R1 recipe, stage `{stage.kind}`.",
        "## Prompt\n\n" + _prompt(stage, notes, folder),
        "## Lineage\n\n" + _lineage_table(notes),
        "## Recipe\n\n" + _recipe_table(lineage),
        "## Evaluation\n\n" + _evaluation(run_dir, stage),
        f"## Command\n\n```\n{environment.get('command', 'unknown')}\n```",
        "## Versions\n\n"
        + _table(("package", "version"), [(name, v) for name, v in stage.record.versions.items()]),
        "## Limits\n\nTrained and measured on the tasks above only. Its thinking is text that was "
        "rewarded for its result, not a "
        "faithful account of how the answer came about." + _stale_prediction(stage),
    ]
    return "\n\n".join(sections) + "\n"


def _header(stage: FinishedStage, notes: ModelNotes) -> str:
    family = read_json(stage.model / "config.json").get("model_type", "deepseek_v3")
    origin = {"license": notes.license, "base_model": notes.base_model}
    header = {
        **{key: value for key, value in origin.items() if value is not None},
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["r1kit", "reasoning", stage.kind, family],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}\n---"


def _prompt(stage: FinishedStage, notes: ModelNotes, folder: Path) -> str:
    if notes.talk is None or not (folder / "tokenizer.json").is_file():
        return "Its stage wrote no prompts: it continues a text."
    return prompt_section(folder, notes.talk, stage.record.config)


def _lineage_table(notes: ModelNotes) -> str:
    """All that the model was made from, in words and as a table."""
    models = [ancestor for ancestor in notes.lineage if ancestor.kind == "model"]
    chain = " → ".join(f"`{ancestor.name}`" for ancestor in notes.lineage)
    if notes.base_model is not None:
        origin = (
            f"Its weights began as `{notes.base_model}`, under the licence {notes.license or '(not stated)'}."
        )
    else:
        origin = "" if models else "Trained from random weights."
    rows = [
        (f"`{ancestor.name}`", ancestor.kind, ancestor.license or "", f"`{ancestor.sha256}`")
        for ancestor in notes.lineage
    ]
    table = _table(("made from", "kind", "licence", "SHA-256"), rows)
    return "\n\n".join(part for part in (origin, chain, table) if part)


def _stale_prediction(stage: FinishedStage) -> str:
    """A sentence for a model whose multi-token prediction was not trained with the rest: only losses with
    ``training.mtp_weight`` train it, so RL and DPO do not."""
    layers = read_json(stage.model / "config.json").get("num_nextn_predict_layers")
    training = stage.record.config.get("training")
    if not layers or (isinstance(training, dict) and training.get("mtp_weight")):
        return ""
    return (
        f" Stage `{stage.name}` trained the model without its multi-token-prediction layer, which still "
        "predicts for the model as it was before. Speculative decoding with it gives the same text, but "
        "fewer of its drafts are accepted; supervised training with `training: {mtp_weight: 0.1}` trains it "
        "again."
    )


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


def _recipe_table(lineage: Sequence[FinishedStage]) -> str:
    rows = []
    for stage in lineage:
        config = {key: value for key, value in stage.record.config.items() if key not in ("stage", "name")}
        keys = "; ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in config.items())
        rows.append(
            (
                f"`{stage.name}`",
                stage.kind,
                f"{stage.record.seconds:.0f} s",
                keys.replace("|", "\\|"),
            )
        )
    return _table(("stage", "kind", "time", "settings"), rows)


def _evaluation(run_dir: Path, stage: FinishedStage) -> str:
    found = _measured(run_dir, stage)
    if found is None:
        return "This run holds no evaluation of this model."
    figures, protocol = found.figures, found.protocol
    rows = [(name.replace("@n", f"@{protocol.n}"), value(figures)) for name, value in BY_NAME.items()]
    rows.insert(1, ("standard error of pass@1", figures.overall.pass_1_stderr))
    rows += [(f"{task}: pass@1", scores.pass_1) for task, scores in figures.tasks.items()]
    table = _table(("measure", "value"), [(name, f"{x:.3f}") for name, x in rows if x is not None])
    return f"{table}\n\n{protocol.in_words()}"


def _measured(run_dir: Path, stage: FinishedStage) -> Measured | None:
    """The figures of this stage's model, from the first evaluation that has them."""
    for other in finished_stages(run_dir):
        if other.kind == "evaluate":
            require_read_files(run_dir, other)
            for model in measured_models(other, read_evaluation(other)).values():
                if model.stage == stage.name:
                    return model
    return None


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])
