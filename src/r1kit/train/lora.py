"""``learner.lora`` in a recipe, and adapters on disk as the library peft writes them.

    adapter_config.json        rank, alpha, targets and the model that the adapters belong to
    adapter_model.safetensors  base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight, ...

Only adapters (and a value head) are trained, so gradients, moments and saved states are as small as they are.
The reference policy is a second set of adapters on the same weights, which begins at zero (runtime/replica.py
shares the weights)."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from r1kit.config import Config
from r1kit.model.adapters import ALL_LINEAR, AdaptedLinear, AdapterShape, adapters
from r1kit.model.decoder import LanguageModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model.model."


class LoRAConfig(Config):
    """Low-rank adapters on ``targets`` (model/adapters.py): the names of projections, such as ``[q_proj,
    v_proj]``, or all. The factor of an adapter is ``alpha`` / ``rank``, with ``rslora`` ``alpha`` /
    sqrt(``rank``). ``dora`` trains the length of every row too. Adapters learn with rates about ten times
    those of whole models. ``seed`` draws their initial values."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0.0)
    targets: Literal["all-linear"] | list[str] = ALL_LINEAR
    dora: bool = False
    rslora: bool = False
    seed: int = 0

    @property
    def shape(self) -> AdapterShape:
        scale = self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
        return AdapterShape(self.rank, scale, self.dora, self.seed)


def save_adapters(model: LanguageModel, config: LoRAConfig, directory: Path, base: str) -> None:
    """Write the adapters of ``model`` into a new directory as peft does. ``base`` is the name or folder of
    the model that they belong to."""
    directory.mkdir(parents=True)
    adapted = adapters(model)
    tensors: dict[str, Tensor] = {}
    for name, module in adapted.items():
        tensors |= {f"{_PREFIX}{name}.{leaf}": tensor for leaf, tensor in _on_disk(module).items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(adapter_json(config, list(adapted), base), indent=2, sort_keys=True)
    (directory / CONFIG).write_text(text + "\n", encoding="utf-8")


def adapter_json(config: LoRAConfig, names: Sequence[str], base: str) -> dict[str, Any]:
    """The content of adapter_config.json, for adapters on the projections ``names``."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in names}),
        "use_dora": config.dora,
        "use_rslora": config.rslora,
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _on_disk(module: AdaptedLinear) -> dict[str, Tensor]:
    """An adapter's tensors under the last part of peft's names."""
    found = {"lora_A.weight": module.lora_A, "lora_B.weight": module.lora_B}
    if module.lora_magnitude is not None:
        found["lora_magnitude_vector"] = module.lora_magnitude
    return {leaf: tensor.detach().cpu().contiguous() for leaf, tensor in found.items()}
