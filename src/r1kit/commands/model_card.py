"""The card of an exported model: how it was made, from what, how it was measured, and how it is asked."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1kit.commands.prompt_card import prompt_section
from r1kit.figures import BY_NAME
from r1kit.records import FinishedStage, ModelNotes, finished_stages, read_json
from r1kit.report.run import (
    Measured,
    measured_models,
    read_environment,
    read_evaluation,
    require_read_files,
)


def model_card(
    run_dir: Path, stage: FinishedStage, notes: ModelNotes, folder: Path, lineage: Sequence[FinishedStage]
) -> str:
    """The card: header, prompt, lineage, recipe, evaluation with its protocol, command, versions, limits.
    ``folder``: where the model has been copied to; ``lineage``: the run's stages behind it, itself last."""
    config = read_json(folder / "config.json")
    environment = read_environment(run_dir)
    sections = [
        _header(stage, notes, config),
        f"# {run_dir.name}: {stage.name}\n\nMade by r1kit: the DeepSeek-R1 recipe, stage `{stage.kind}`.",
        "## Prompt\n\n" + _prompt(stage, notes, folder, config),
        "## Lineage\n\n" + _lineage_table(notes),
        "## Recipe\n\n" + _recipe_table(lineage),
        "## Evaluation\n\n" + _evaluation(run_dir, stage),
        f"## Command\n\n```\n{environment.get('command', 'unknown')}\n```",
        "## Versions\n\n"
        + _table(("package", "version"), [(name, v) for name, v in stage.record.versions.items()]),
        "## Limits\n\nTrained and measured on the tasks above only. Its thinking is text that was "
        "rewarded for its result, not a "
        "faithful account of how the answer came about." + _stale_prediction(stage, config),
    ]
    return "\n\n".join(sections) + "\n"


def _header(stage: FinishedStage, notes: ModelNotes, config: Mapping[str, Any]) -> str:
    family, is_scorer = config.get("model_type", "deepseek_v3"), config.get("scalar_head")
    origin = {"license": notes.license, "base_model": notes.base_model}
    header = {
        **{key: value for key, value in origin.items() if value is not None},
        "library_name": "transformers",
        **({} if is_scorer else {"pipeline_tag": "text-generation"}),
        "tags": ["r1kit", "reasoning", stage.kind, family],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}\n---"


def _prompt(stage: FinishedStage, notes: ModelNotes, folder: Path, config: Mapping[str, Any]) -> str:
    if config.get("scalar_head"):
        return (
            "A reward model: it gives a text a number and writes none. r1kit reads its head "
            "(`value_head.safetensors`); transformers opens the network without it."
        )
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


def _stale_prediction(stage: FinishedStage, config: Mapping[str, Any]) -> str:
    """A sentence for a model whose multi-token prediction was not trained with the rest: only losses with
    ``training.mtp_weight`` train it, so RL and DPO do not."""
    layers = config.get("num_nextn_predict_layers")
    training = stage.record.config.get("training")
    if not layers or (isinstance(training, dict) and training.get("mtp_weight")):
        return ""
    return (
        f" Stage `{stage.name}` trained the model without its multi-token-prediction layer, which still "
        "predicts for the model as it was before. Speculative decoding with it gives the same text, but "
        "fewer of its drafts are accepted; supervised training with `training: {mtp_weight: 0.1}` trains it "
        "again."
    )


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
