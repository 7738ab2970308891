"""The trackers of a recipe: ``track: [tensorboard, {kind: wandb, project: r1, online: true}]``."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from r1kit.config import Config

Kind = Literal["tensorboard", "wandb", "trackio"]
KINDS: tuple[Kind, ...] = ("tensorboard", "wandb", "trackio")


class TrackConfig(Config):
    """One tracker. ``project`` is its name for runs that belong together (default: the run's name);
    tensorboard has none. With ``online`` wandb and trackio send metrics to where the user is logged in."""

    kind: Kind  # the tracker
    project: str = Field(default="", max_length=128)
    online: bool = False

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_its_kind(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @field_validator("project")
    @classmethod
    def _project_is_a_name(cls, project: str) -> str:
        if project and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", project):
            raise ValueError(f"letters, digits, '_', '-' and '.' only (given: {project!r})")
        return project

    def in_words(self) -> str:
        """What the tracker does with the metrics."""
        if self.online and self.kind != "tensorboard":
            return f"track: sends metrics and the numbers of the configuration, no texts, to {self.kind}"
        return f"track: {self.kind} writes to the run's folder tracking/{self.kind}, and sends nothing"
