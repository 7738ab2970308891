"""TRL's side of the race: GRPOTrainer on the same base model, the same problems in the same order and the
same rewards, computed by the same code. One order is a number of updates and a folder for the weights after
them. Runs in TRL's own environment, which also has what r1kit needs."""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bench.serving import Line, Order
from datasets import Dataset
from race_trl_rules import Rules
from race_work import STEPS, Setting, stage_of, stream_of
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from r1kit.chat import Chat
from r1kit.stages.r1_zero import R1Zero
from r1kit.types import Problem

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


class Ordered(TrainerCallback):
    """Wait for an order before its first update, save and answer after its last."""

    def __init__(self, line: Line, orders: Iterator[Order], rules: Rules, base: Path) -> None:
        self.line, self.orders, self.rules, self.base = line, orders, rules, base
        self.order: Order = {}
        self.left = 0

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.line.answer({"ready": True})

    def on_step_begin(self, *_: object, **__: object) -> None:
        if self.left == 0:
            order = next(self.orders, None)
            if order is None:
                raise SystemExit
            self.order, self.left = order, order["steps"]

    def on_step_end(self, arguments: Any, state: Any, control: Any, **found: Any) -> None:
        self.left -= 1
        if self.left:
            return
        cpu, wall = time.process_time(), time.perf_counter()
        folder = Path(self.order["folder"])
        found["model"].save_pretrained(folder)
        for name in TOKENIZER:
            if (self.base / name).exists():
                shutil.copyfile(self.base / name, folder / name)
        saving = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        rules = self.rules
        right = sum(rules.right) / max(1, len(rules.right))
        said = {"tokens": rules.tokens, "step": int(state.global_step), "saving": saving, "right": right}
        rules.right, rules.tokens = [], 0
        self.line.answer(said)


def texts_of(chat: Chat, problems: Sequence[Problem], tokenizer: Any) -> list[str]:
    """The prompts as text. Raises where TRL's tokenizer would make other ids of one."""
    texts = []
    for problem in problems:
        ids = chat.prompt_ids(problem)
        text = chat.tokenizer.decode(ids, special=True)
        if tokenizer(text=[text])["input_ids"][0] != ids.tolist():
            raise ValueError(f"TRL's tokenizer makes other ids of the prompt {text!r}")
        texts.append(text)
    return texts


def config_of(stage: R1Zero, setting: Setting, scratch: str, seed: int) -> GRPOConfig:
    """GRPOTrainer's configuration: the setting, and what the recipe says for the rest."""
    grpo, optimizer = stage.grpo, stage.learner.optimizer
    assert grpo is not None
    passes = setting.rows // setting.micro_rows
    return GRPOConfig(
        output_dir=scratch, seed=seed, use_cpu=True, bf16=setting.autocast, num_generations=setting.group,
        per_device_train_batch_size=setting.micro_rows, gradient_accumulation_steps=passes,
        steps_per_generation=passes, num_iterations=1, max_completion_length=grpo.max_tokens, beta=grpo.beta,
        epsilon=grpo.epsilon, epsilon_high=setting.epsilon_high, loss_type=setting.loss,
        scale_rewards=setting.scale_rewards, temperature=grpo.temperature, top_k=0, top_p=grpo.top_p,
        learning_rate=setting.learning_rate, adam_beta1=optimizer.beta1, adam_beta2=optimizer.beta2,
        weight_decay=optimizer.weight_decay, max_grad_norm=optimizer.grad_clip,
        lr_scheduler_type="constant_with_warmup" if setting.warmup else "constant",
        warmup_steps=setting.warmup,
        gradient_checkpointing=False, shuffle_dataset=False, report_to="none", save_strategy="no",
        logging_steps=STEPS, max_steps=STEPS, disable_tqdm=True,
        use_transformers_continuous_batching=setting.batching == "continuous",
    )  # fmt: skip


def main() -> None:
    line = Line()
    orders = line.orders()
    with line.reporting():
        train(next(orders), line, orders)


def train(spec: Order, line: Line, orders: Iterator[Order]) -> None:
    torch.set_num_threads(1)
    base, setting = Path(spec["base"]), Setting(**spec["setting"])
    stage = stage_of(base)
    chat, rewards, mixture = stream_of(stage, base, spec["seed"])
    problems = mixture.draw(setting.problems * STEPS)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    texts = texts_of(chat, problems, tokenizer)
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=getattr(torch, setting.dtype), experts_implementation=setting.experts
    )
    model.config.num_nextn_predict_layers = 0  # transformers leaves the layer out
    rules = Rules(chat, rewards, problems)
    GRPOTrainer(
        model=model, reward_funcs=rules, args=config_of(stage, setting, spec["scratch"], spec["seed"]),
        train_dataset=Dataset.from_dict({"prompt": texts, "place": list(range(len(texts)))}),
        processing_class=tokenizer, callbacks=[Ordered(line, orders, rules, base)],
    ).train()  # fmt: skip


if __name__ == "__main__":
    main()
