"""Export a finished model: its Hugging Face folder with a card that says how it was made and measured."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1kit.config import ConfigError
from r1kit.figures import BY_NAME
from r1kit.files import temporary_name
from r1kit.marks import mark_damages
from r1kit.records import (
    ADAPTER,
    DamageError,
    FinishedStage,
    check_model,
    find_stage_with_model,
    finished_stages,
    read_json,
    write_exported,
)
from r1kit.report.run import (
    Measured,
    measured_models,
    read_environment,
    read_evaluation,
    require_read_files,
)
from r1kit.runs.verify import link_damages, raise_damages
from r1kit.terminal import printable


def export_model(run_dir: Path, stage: str | None, to: Path, adapter: bool = False) -> Path:
    """Copy a stage's model to the new folder ``to``, with a list of hashes, and write its README.md there;
    with ``adapter`` only its adapters, in peft's layout.

    Raises ConfigError where the run or the stage has no finished model, or where ``to`` already holds
    something, and DamageError where the model, or what the card reads, is not as r1kit wrote it."""
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir}: no such folder")
    chosen = find_stage_with_model(run_dir, stage)
    check_model(chosen.model)
    if adapter and not (chosen.model / ADAPTER).is_dir():
        raise ConfigError(
            f"stage {chosen.name} of {run_dir} has no adapters: it was trained without learner.lora; export "
            "the whole model, without --adapter"
        )
    card = model_card(run_dir, chosen)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} already holds something: name a new folder")
    partial = temporary_name(to)
    try:
        _copy(chosen, partial, adapter)
        write_exported(partial)
        (partial / "README.md").write_text(printable(card), encoding="utf-8")
        if to.exists():
            to.rmdir()
        partial.rename(to)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ConfigError(f"{to} cannot be written: {error.strerror or error}") from None
    return to


def _copy(stage: FinishedStage, to: Path, adapter: bool) -> None:
    """Copy the files of the stage's model that the stage wrote, or those of its adapters. Raises DamageError
    where a copy is not what was written."""
    source = stage.model / ADAPTER if adapter else stage.model
    prefix = f"{stage.model.name}/{ADAPTER}/" if adapter else f"{stage.model.name}/"
    outputs = stage.record.outputs.items()
    marks = {name.removeprefix(prefix): mark for name, mark in outputs if name.startswith(prefix)}
    if not adapter:
        marks = {name: mark for name, mark in marks.items() if not name.startswith(f"{ADAPTER}/")}
    for name in marks:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, to / name)
    if found := list(mark_damages(to, marks, "the stage")):
        raise DamageError("\n".join([*found, "The copy failed: repair the disk, then export again."]))


def model_card(run_dir: Path, stage: FinishedStage) -> str:
    """The card: header, lineage, recipe, evaluation with its protocol, command, versions, limits."""
    lineage = _lineage(run_dir, stage)
    environment = read_environment(run_dir)
    sections = [
        _header(stage),
        f"# {run_dir.name}: {stage.name}\n\nMade by r1kit: the DeepSeek-R1 recipe, stage `{stage.kind}`.",
        "## Lineage\n\n" + " → ".join(f"`{ancestor.name}`" for ancestor in lineage),
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


def _header(stage: FinishedStage) -> str:
    family = read_json(stage.model / "config.json").get("model_type", "deepseek_v3")
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["r1kit", "reasoning", stage.kind, family],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False).strip()}\n---"


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
