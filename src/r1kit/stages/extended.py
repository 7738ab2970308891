"""A pretrained model as the beginning of a further pretraining, for longer texts where wanted: YaRN (Peng et
al. 2309.00071; DeepSeek-V3, section 4.3, in two phases from 4K to 32K and 128K).

    theta_i' = (1 - r_i) theta_i / s + r_i theta_i
    softmax(q k^T / (t sqrt(K))),    1 / sqrt(t) = 0.1 ln s + 1

with s the factor and r_i a ramp over how often pair i turns within the old length. The weights stay;
``rope_scaling`` and the new length go into config.json, so transformers and vLLM compute the same. In latent
attention the temperature is written as DeepSeek's ``mscale`` and ``mscale_all_dim``, since only a part of a
head is rotated."""

from pathlib import Path

from pydantic import Field

from r1kit.config import Config, ConfigError
from r1kit.model.ancestry import inherit
from r1kit.model.config import ModelConfig, RopeScaling
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.tokenizer import Tokenizer


class ExtendConfig(Config):
    """YaRN by ``factor``, with its paper's ramp (``beta_fast``, ``beta_slow``: turns within the old length).
    ``original_positions``: the length that the model was trained on, by default its ``max_positions``."""

    factor: float = Field(gt=1.0)
    original_positions: int | None = Field(None, ge=1)
    beta_fast: float = Field(32.0, gt=0.0)
    beta_slow: float = Field(1.0, gt=0.0)

    def applied(self, config: ModelConfig) -> ModelConfig:
        """The configuration for texts ``factor`` times as long. Raises ConfigError for a model that is
        scaled already, or that r1kit's network does not compute."""
        if config.family == "transformers":
            raise ConfigError(
                "extend: transformers' own class computes this model; write rope_scaling into its config.json"
            )
        if config.rope_scaling is not None:
            kind = config.rope_scaling.kind
            raise ConfigError(
                f"extend: the model has rope_scaling {kind!r} already and reads {config.max_positions} "
                "positions; leave extend out, and raise learner.context up to that"
            )
        if config.sliding_window is not None:
            raise ConfigError(
                f"extend: this model's attention slides over {config.sliding_window} positions, so a longer "
                "text has no use for YaRN; leave extend out"
            )
        original = self.original_positions or config.max_positions
        scaling = RopeScaling(
            kind="yarn", factor=self.factor, original_positions=original,
            beta_fast=self.beta_fast, beta_slow=self.beta_slow,
            mscale=1.0 if config.latent else None, mscale_all_dim=1.0 if config.latent else None,
        )  # fmt: skip
        longest = int(original * self.factor)
        return config.model_copy(update={"rope_scaling": scaling, "max_positions": longest})


def write_beginning(source: Path, target: Path, extend: ExtendConfig | None) -> ModelConfig:
    """Write the model of the folder ``source`` into ``target``, for longer texts where ``extend`` says so;
    return its configuration."""
    model = load_pretrained(source)
    if extend is not None:
        model.config = extend.applied(model.config)
    save_pretrained(model, target)
    Tokenizer.load(source).save(target)
    inherit(source, target)
    return model.config
