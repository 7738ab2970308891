"""What a run's folder holds: stages in order, their records and reports, their models."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError, suggest
from r1kit.files import hash_text

STATES = "train_state"  # folder of training state (train/checkpoint.py)
SAMPLED = "sampled"  # rollouts of a stage that makes data, chunk by chunk (stages/sampling.py)

# What a stage's result depends on, as stage.json records it.
IDENTITY = ("stage", "name", "config", "seed", "inputs", "files")
_DEPTH = 4  # how far below a stage's folder its training state may lie

# Whom to talk to: the paper's final model, else what comes nearest to it. A student or a reward model is
# asked for by name.
PREFERRED_KINDS = ("alignment_rl", "sft", "reasoning_rl", "r1_zero", "cold_start", "pretrain")


@dataclass(frozen=True, slots=True)
class FinishedStage:
    """A finished stage of a run: its folder, and what stage.json records of it."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.record.get("name", self.folder.name))

    @property
    def kind(self) -> str:
        return str(self.record.get("stage", "unknown"))

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def report(self) -> dict[str, Any]:
        """The stage's own report.json, empty where it wrote none."""
        return read_json(self.folder / "report.json")


def finished_stages(run_dir: Path) -> list[FinishedStage]:
    """The finished stages in the order in which they were finished."""
    files = run_dir.glob("stages/*/stage.json")
    stages = [
        FinishedStage(file.parent, read_json(file))
        for file in files
        if not file.parent.name.endswith(".partial")
    ]
    return sorted(stages, key=lambda stage: stage.record.get("finished", 0.0))


def is_model(folder: Path) -> bool:
    """Whether the folder is a Hugging Face model's."""
    return (folder / "config.json").is_file()


def has_model(run_dir: Path) -> bool:
    return any(is_model(stage.model) for stage in finished_stages(run_dir))


def find_stage_with_model(run_dir: Path, name: str | None) -> FinishedStage:
    """The finished stage of that name, or the run's main result. Raises ConfigError where there is none with
    a model."""
    stages = {stage.name: stage for stage in finished_stages(run_dir) if is_model(stage.model)}
    if not stages:
        raise ConfigError(
            f"{run_dir}: neither a model (config.json) nor a run with a finished model (stages/*/model)"
        )
    if name is not None:
        if name not in stages:
            raise ConfigError(
                f"{run_dir} has no finished stage {name!r} with a model: {suggest(name, stages)}"
            )
        return stages[name]
    by_preference = [
        stage for kind in PREFERRED_KINDS for stage in reversed(stages.values()) if stage.kind == kind
    ]
    return by_preference[0] if by_preference else list(stages.values())[-1]


def find_model(run_or_model: Path, stage: str | None = None) -> Path:
    """The model's folder that the user means: the folder itself, or that of a run's stage. Raises ConfigError
    where there is none."""
    if not run_or_model.is_dir():
        raise ConfigError(f"{run_or_model}: no such folder")
    if is_model(run_or_model):
        return run_or_model
    return find_stage_with_model(run_or_model, stage).model


def prompt_settings(model: Path) -> dict[str, Any] | None:
    """How the stage that made this model wrote its prompts ({"template", "opening"}), None for a model from
    elsewhere."""
    talk = read_json(model.parent / "stage.json").get("config", {}).get("talk")
    return dict(talk) if isinstance(talk, dict) else None


def identity_hash(record: Mapping[str, Any]) -> str:
    """One hash for all that a stage's result depends on."""
    return hash_text(
        json.dumps({key: record.get(key) for key in IDENTITY}, sort_keys=True, ensure_ascii=False)
    )


def owners(folder: Path) -> list[str]:
    """The identities that a file in this folder of a stage may come from: the stage's own, then those that
    --allow-change let it have been begun with. Empty where the folder is no stage's."""
    for above in (folder, *folder.parents[: _DEPTH - 1]):
        record = read_json(above / "stage.json")
        if record:
            return [identity_hash(record), *(change["identity"] for change in record.get("allowed", []))]
    return []


def read_json(file: Path) -> dict[str, Any]:
    """The file's JSON object, empty where there is no file. Raises ConfigError where it is something else."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({error}): redo that stage") from None
    return found
