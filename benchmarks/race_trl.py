"""TRL's side of the race: GRPOTrainer on the same base model, the same problems in the same order and the
same rewards, computed by the same code. One order is a number of updates and a folder for the weights after
them. Where the first order has ``ways`` to compute, each does some updates, and the answer is the processor
seconds of its last one. Runs in TRL's own environment, which also has what r1kit needs."""

import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bench.serving import Line, Order
from datasets import Dataset
from race_trl_rules import Rules
from race_work import Setting, stage_of, stream_of
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


def config_of(stage: R1Zero, setting: Setting, scratch: str, seed: int, steps: int) -> GRPOConfig:
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
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(setting.schedule, setting.schedule),
        warmup_steps=setting.warmup,
        gradient_checkpointing=False, shuffle_dataset=False, report_to="none", save_strategy="no",
        logging_steps=steps, max_steps=steps, disable_tqdm=True,
        use_transformers_continuous_batching=setting.batching == "continuous",
    )  # fmt: skip


class Timed(TrainerCallback):
    """The processor seconds of the last update."""

    began = seconds = 0.0

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.began = time.process_time()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.seconds = time.process_time() - self.began


def main() -> None:
    line = Line()
    orders = line.orders()
    with line.reporting():
        torch.set_num_threads(1)
        spec = next(orders)
        if "ways" in spec:
            line.answer({"seconds": [seconds_of(spec, Setting(**way)) for way in spec["ways"]]})
            return
        base = Path(spec["base"])
        setting = Setting(**spec["setting"])
        trainer, rules = trainer_of(spec, setting, setting.steps)
        trainer.add_callback(Ordered(line, orders, rules, base))
        trainer.train()


def seconds_of(spec: Order, setting: Setting) -> float | None:
    """The processor seconds of the last of ``updates`` updates; None where TRL or transformers cannot do it
    in this way, which the log explains."""
    timed = Timed()
    try:
        trainer, _ = trainer_of(spec, setting, spec["updates"])
        trainer.add_callback(timed)
        trainer.train()
    except Exception:  # whatever the libraries raise
        traceback.print_exc()
        return None
    print(f"{setting}: {timed.seconds:.1f} CPU-s", flush=True)
    return timed.seconds


def trainer_of(spec: Order, setting: Setting, steps: int) -> tuple[GRPOTrainer, Rules]:
    base = Path(spec["base"])
    stage = stage_of(base, course=spec["course"])
    chat, rewards, mixture = stream_of(stage, base, spec["seed"])
    problems = mixture.draw(setting.problems * steps)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    texts = texts_of(chat, problems, tokenizer)
    experts = {"experts_implementation": setting.experts} if setting.experts else {}
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, setting.dtype), **experts)
    model.config.num_nextn_predict_layers = 0  # transformers leaves the layer out
    rules = Rules(chat, rewards, problems)
    trainer = GRPOTrainer(
        model=model, reward_funcs=rules, args=config_of(stage, setting, spec["scratch"], spec["seed"], steps),
        train_dataset=Dataset.from_dict({"prompt": texts, "place": list(range(len(texts)))}),
        processing_class=tokenizer,
    )  # fmt: skip
    return trainer, rules


if __name__ == "__main__":
    main()
