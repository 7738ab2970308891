"""r1kit's losses and gradients against TRL's own GRPOTrainer in float64: on the same logits, and through a
whole small Qwen3 with TRL's own rollouts. Skipped without the extra ``oracle``.

TRL pads rollouts to a rectangle, r1kit packs rows into lines. Everything else (ratios, clips, divergences,
averages) has to be the same; where the formulas differ docs/objectives.md says so."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r1kit.model.huggingface import load_pretrained, to_disk
from r1kit.train.advantages import AdvantageConfig, estimate
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import Predictions
from r1kit.train.packing import Batch, pack
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig, token_weights
from r1kit.train.token_selection import TokensConfig, choose
from r1kit.types import Row, Score

trl = pytest.importorskip("trl", reason="needs the extra oracle: pip install 'r1kit[oracle]'")

VOCABULARY, MOST = 11, 8
PROMPTS, LENGTHS = [3, 3, 2, 2, 5, 5], [8, 1, 4, 6, 3, 7]
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, MOST, VOCABULARY, dtype=torch.float64, generator=GENERATOR)
COMPLETIONS = torch.randint(VOCABULARY, (6, MOST), generator=GENERATOR)
MASK = torch.arange(MOST) < torch.tensor(LENGTHS)[:, None]
ADVANTAGES = torch.tensor([0.75, -0.5, 1.5, -1.25, 0.5, -0.25], dtype=torch.float64)


def sampled(logits: Tensor) -> Tensor:
    """log p [6, 8] of the completions' tokens."""
    return logits.log_softmax(-1).gather(-1, COMPLETIONS[..., None])[..., 0]


def entropies(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits).entropy()


def moved(distance: float) -> Tensor:
    """Log-probabilities of a policy nearby, as float32 numbers, as rows carry them."""
    noise = torch.randn(
        LOGITS.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(int(1e6 * distance))
    )
    return sampled(LOGITS + distance * noise).float().double()


REFERENCE = moved(0.7)


class Outputs(torch.nn.Module):
    """A model that says what it was made to say, in the way TRL asks."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        blank = torch.zeros(6, input_ids.shape[1] - MOST, dtype=torch.float64)
        both = (torch.cat([blank, values], 1) for values in (sampled(self.logits), entropies(self.logits)))
        return SimpleNamespace(**dict(zip(("log_probs", "entropy"), both, strict=True)))


def trl_loss(
    old: Tensor, settings: dict[str, Any], folder: Path, trainer_class: Any = None, config_class: Any = None
) -> tuple[Tensor, Tensor]:
    """Loss and gradient [6, 8, 11] by TRL's ``_compute_loss``, the trainer made without model, data or
    device."""
    trainer_class, config_class = trainer_class or trl.GRPOTrainer, config_class or trl.GRPOConfig
    args = config_class(
        output_dir=str(folder),
        max_completion_length=MOST,
        use_cpu=True,
        bf16=False,
        report_to="none",
        **settings,
    )
    logits = LOGITS.clone().requires_grad_()
    trainer = trainer_class.__new__(trainer_class)
    trainer.model = Outputs(logits)
    trainer.args, trainer._metrics = args, {"train": defaultdict(list), "eval": defaultdict(list)}
    trainer.accelerator = SimpleNamespace(
        num_processes=1,
        is_main_process=False,
        autocast=lambda: torch.autocast("cpu", enabled=False),
        gather=lambda values: values,
        reduce=lambda values, reduction: values,
        pad_across_processes=lambda values, dim, pad_index: values,
        sync_gradients=True,
    )
    for name in (
        "beta",
        "loss_type",
        "importance_sampling_level",
        "top_entropy_quantile",
        "off_policy_mask_threshold",
        "entropy_coef",
    ):
        setattr(trainer, name, getattr(args, name))
    trainer.epsilon_low, trainer.epsilon_high = (
        args.epsilon,
        args.epsilon if args.epsilon_high is None else args.epsilon_high,
    )
    trainer.max_completion_length, trainer.current_gradient_accumulation_steps = MOST, 1
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = trainer.aux_loss_enabled = (
        trainer.use_adaptive_entropy
    ) = False
    trainer._entropy_bonus_enabled = bool(args.entropy_coef)
    args.steps_per_generation = 1
    prompt = torch.ones(6, max(PROMPTS), dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": COMPLETIONS,
        "completion_mask": MASK.long(),
        "advantages": ADVANTAGES,
        "old_per_token_logps": old,
        "ref_per_token_logps": REFERENCE,
        "num_items_in_batch": MASK.sum(),
    }
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def r1kit_loss(old: Tensor, config: PolicyLossConfig, tokens: TokensConfig) -> tuple[Tensor, Tensor]:
    """Loss and gradient by r1kit: rows packed into several batches of short lines, whose losses are added."""
    logits = LOGITS.clone().requires_grad_()
    old_lists, entropy_lists = (
        [values[i, : LENGTHS[i]].detach().numpy() for i in range(6)] for values in (old, entropies(LOGITS))
    )
    chosen = choose(tokens, old_lists, ADVANTAGES.tolist(), entropy_lists, 0)
    weights = token_weights(LENGTHS, config.aggregation, MOST, groups=[2, 2, 2])
    rows = []
    for i, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        blank = np.zeros(prompt)
        aligned = [
            np.concatenate([blank, values]).astype(np.float32)
            for values in (chosen.learns[i], old_lists[i], REFERENCE[i, :length].numpy())
        ]
        ids = np.concatenate([np.ones(prompt), COMPLETIONS[i, :length].numpy()]).astype(np.int32)
        mask = np.arange(prompt + length) >= prompt
        rows.append(Row(ids, mask, weights[i], float(ADVANTAGES[i]) * aligned[0], aligned[1], aligned[2]))
    total = torch.zeros((), dtype=torch.float64)
    for batch in pack(rows, context=14, lines=1):
        total = total + PolicyLoss(config)(predictions(batch, logits), doubled(batch))[0]
    return total.detach(), torch.autograd.grad(total, logits)[0]


def doubled(batch: Batch) -> Batch:
    floating = {
        name: value.double()
        for name in Batch.__slots__
        if (value := getattr(batch, name)) is not None and value.is_floating_point()
    }
    return Batch(**{name: floating.get(name, getattr(batch, name)) for name in Batch.__slots__})


def predictions(batch: Batch, logits: Tensor) -> Predictions:
    """What a learner would say where ``batch`` trains a token, from the very same logits."""
    places = batch.mask_BT.nonzero(as_tuple=True)
    owners = batch.rows_BT[places]
    steps = batch.positions_BT[places] + 1 - torch.tensor(PROMPTS)[owners]
    assert (batch.targets_BT[places] == COMPLETIONS[owners, steps]).all()
    blank = torch.zeros(batch.mask_BT.shape, dtype=torch.float64)
    return Predictions(
        *(blank.index_put(places, values[owners, steps]) for values in (sampled(logits), entropies(logits)))
    )


DEFAULTS = {"beta": 0.0, "epsilon": 0.2, "epsilon_high": 0.28}
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name: TRL's options, r1kit's
    "GRPO": ({"loss_type": "grpo", "beta": 0.04}, {"aggregation": "rollout", "beta": 0.04}),
    "GRPO, R1's clip": (
        {"loss_type": "grpo", "epsilon": 10.0, "epsilon_high": 10.0, "beta": 0.001},
        {"epsilon": 10.0, "epsilon_high": None, "beta": 0.001},
    ),
    "GRPO, unbiased KL": (
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": True},
        {"beta": 0.04, "kl_unbiased": True},
    ),
    "GRPO, dual clip": ({"loss_type": "grpo", "delta": 1.5}, {"dual_clip": 1.5}),
    "BNPO": ({"loss_type": "bnpo", "beta": 0.04}, {"aggregation": "token", "beta": 0.04}),
    "DAPO": ({"loss_type": "dapo"}, {"aggregation": "token"}),
    "Dr. GRPO": ({"loss_type": "dr_grpo"}, {"aggregation": "constant"}),
    "CISPO": (
        {"loss_type": "cispo", "epsilon_high": 1.3},
        {"surrogate": "cispo", "aggregation": "token", "cispo_max": 1.3},
    ),
    "SAPO": ({"loss_type": "sapo", "beta": 0.04}, {"surrogate": "sapo", "beta": 0.04}),
    "GSPO": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.04},
        {"surrogate": "gspo", "beta": 0.04},
    ),
    "LUSPO": (
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        {"surrogate": "gspo", "aggregation": "sequence"},
    ),
    "entropy bonus": (
        {"loss_type": "dapo", "entropy_coef": 0.3},
        {"aggregation": "token", "entropy_bonus": 0.3},
    ),
    "top entropy": (
        {"loss_type": "dapo", "top_entropy_quantile": 0.2, "beta": 0.04},
        {"aggregation": "token", "tokens": "entropy", "beta": 0.04},
    ),
}


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("name", SAME)
def test_loss_and_gradient_are_trls(name: str, distance: float, tmp_path: Path) -> None:
    trl_options, keys = SAME[name]
    keys = DEFAULTS | keys
    tokens = TokensConfig(tokens=keys.pop("tokens", "all"))
    old = moved(distance) if distance else sampled(LOGITS)
    trl_options = DEFAULTS | {"use_bias_correction_kl": False} | trl_options
    compare(
        trl_loss(old, trl_options, tmp_path), r1kit_loss(old, PolicyLossConfig.parse(keys, "loss"), tokens)
    )


@pytest.mark.parametrize("distance", [0.05, 0.4])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_gmpo_is_trls(distance: float, beta: float, tmp_path: Path) -> None:
    experimental = pytest.importorskip("trl.experimental.gmpo")
    trl_options = {"epsilon": 0.2, "epsilon_high": 0.28, "beta": beta}
    theirs = trl_loss(
        moved(distance), trl_options, tmp_path, experimental.GMPOTrainer, experimental.GMPOConfig
    )
    compare(
        theirs, r1kit_loss(moved(distance), PolicyLossConfig(surrogate="gmpo", **trl_options), TokensConfig())
    )


def compare(theirs: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
    assert float(theirs[1].abs().max()) > 1e-3
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=1e-7)


PROMPT_TEXTS = ["w1 w2 w3"] * 4 + ["w4 w5"] * 4
END = 30


def small_qwen(folder: Path) -> Path:
    """A Qwen3 of random weights with 32 words, on disk as transformers writes it; its padding is its end
    token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    words = Tokenizer(
        models.WordLevel({f"w{i}": i for i in range(30)} | {"<end>": END, "<unk>": 31}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    special = {"eos_token_id": END, "pad_token_id": END, "bos_token_id": None}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            initializer_range=0.2,
            **shape,
            **special,
        )
    )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<end>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def evens(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [float(sum(token % 2 == 0 for token in ids)) for ids in completion_ids]


@pytest.mark.parametrize(
    ("trl_options", "keys"),
    [
        ({"loss_type": "grpo", "beta": 0.04}, {"beta": 0.04}),
        ({"loss_type": "dapo", "scale_rewards": "batch"}, {"aggregation": "token", "advantage": "batch_std"}),
        (
            {"loss_type": "dr_grpo", "scale_rewards": "none"},
            {"aggregation": "constant", "advantage": "group_mean"},
        ),
        ({"loss_type": "grpo", "importance_sampling_level": "sequence"}, {"surrogate": "gspo"}),
        (
            {"loss_type": "cispo", "epsilon_high": 1.05},
            {"surrogate": "cispo", "cispo_max": 1.05, "aggregation": "token"},
        ),
        (
            {"loss_type": "dapo", "multi_objective_aggregation": "normalize_then_sum"},
            {"aggregation": "token", "advantage": "gdpo"},
        ),
    ],
    ids=["GRPO", "DAPO, batch std", "Dr. GRPO", "GSPO", "CISPO", "GDPO"],
)
def test_a_whole_models_gradient_on_trls_own_rollouts_is_trls(
    trl_options: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    """TRL samples, scores and compares; both then learn from its rollouts with weights that have moved since.
    Rewards, advantages, loss and the gradient of every parameter are the same."""
    from datasets import Dataset

    trl_options = DEFAULTS | {"use_bias_correction_kl": False} | trl_options
    advantage, keys = (
        keys.get("advantage", "group_std"),
        DEFAULTS | {name: value for name, value in keys.items() if name != "advantage"},
    )
    args = trl.GRPOConfig(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=6,
        num_iterations=2,
        model_init_kwargs={"dtype": "float32"},
        **trl_options,
    )
    questions = Dataset.from_list([{"prompt": text} for text in PROMPT_TEXTS])
    trainer = trl.GRPOTrainer(str(small_qwen(tmp_path / "model")), evens, args, questions)
    inputs = trainer._generate_and_score_completions([{"prompt": text} for text in PROMPT_TEXTS])
    prompts, completions = (
        unpadded(inputs[f"{of}_ids"], inputs[f"{of}_mask"]) for of in ("prompt", "completion")
    )
    assert len({len(prompt) for prompt in prompts}) == 2 and any(
        ids[-1] == END for ids in completions
    )  # padded on both sides

    rewards = evens([ids.tolist() for ids in completions])
    scores_PG = [
        [Score(reward, {"evens": reward}) for reward in rewards[start : start + 4]] for start in (0, 4)
    ]
    advantages = np.concatenate(estimate(scores_PG, AdvantageConfig(advantage=advantage), {"evens": 1.0}))
    np.testing.assert_allclose(
        advantages, inputs["advantages"].numpy(), rtol=2e-4, atol=1e-6
    )  # a reward is float32 there

    move(trainer.model)
    trainer.model.save_pretrained(tmp_path / "moved")
    trainer.model.double().train()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(
        trainer.model, inputs | {"advantages": torch.from_numpy(advantages).double()}
    )
    loss.backward()
    theirs = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}

    config = PolicyLossConfig.parse(keys, "loss")
    weights = token_weights([len(ids) for ids in completions], config.aggregation, 6, groups=[4, 4])
    rows = []
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        mask = np.arange(len(prompt) + len(completion)) >= len(prompt)
        old, reference = (aligned(inputs.get(f"{of}_per_token_logps"), i, mask) for of in ("old", "ref"))
        rows.append(
            Row(
                np.concatenate([prompt, completion]).astype(np.int32),
                mask,
                weights[i],
                float(advantages[i]),
                old,
                reference,
            )
        )
    found: list[Tensor] = []
    model = load_pretrained(tmp_path / "moved")

    def spy(flat: Tensor) -> Tensor:
        found.append(flat.clone())
        return flat

    metrics = Learner(model, LearnerConfig(context=16, lines=2, precision="float64"), spy).update(
        rows, PolicyLoss(config), 0.0
    )
    sizes = [parameter.numel() for parameter in model.parameters()]
    parts = found[0][: sum(sizes)].split(sizes)
    ours = dict(
        to_disk(
            model.config,
            {name: part.view_as(p) for (name, p), part in zip(model.named_parameters(), parts, strict=True)},
        )
    )
    assert (
        metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-6)
        and ours.keys() == theirs.keys()
    )
    largest = max(float(gradient.abs().max()) for gradient in theirs.values() if gradient is not None)
    for name, gradient in theirs.items():
        torch.testing.assert_close(
            ours[name],
            gradient,
            rtol=1e-5,
            atol=1e-6 * largest,
            msg=lambda text, name=name: f"{name}: {text}",  # type: ignore[misc]
        )


def unpadded(ids: Tensor, mask: Tensor) -> list[np.ndarray]:
    return [row[kept.bool()].numpy() for row, kept in zip(ids, mask, strict=True)]


def move(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def aligned(logprobs: Tensor | None, row: int, mask: np.ndarray) -> np.ndarray | None:
    """Row ``row`` of a padded rectangle next to prompt and completion."""
    if logprobs is None:
        return None
    found = np.zeros(len(mask), dtype=np.float32)
    found[mask] = logprobs[row, : int(mask.sum())].numpy()
    return found
