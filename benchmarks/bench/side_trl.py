"""TRL's GRPOTrainer: bf16 weights (float32 where that is quicker, as in side_hf.py), beta 0, one update per
rollout, no gradient checkpointing. One order is one training step."""

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from serving import Line, Order
from side_hf import Ends, kept_in
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

STEPS = 10_000  # more than are ever asked for
MICRO_ROWS = (
    8  # learned from at once, which is a tenth quicker than all 64; completions are sampled all at once
)


def reward(completions: list[str], **columns: object) -> list[float]:
    return [completion.count("7") / 100 for completion in completions]


class Ordered(TrainerCallback):
    """Wait for an order before every step, answer after it."""

    def __init__(self, line: Line, orders: Iterator[Order]) -> None:
        self.line, self.orders = line, orders
        self.lengths: list[int] = []

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.line.answer({"ready": True})

    def on_step_begin(self, *_: object, **__: object) -> None:
        order = next(self.orders, None)
        if order is None:
            raise SystemExit
        self.lengths = order["lengths"]
        torch.manual_seed(order["seed"])

    def on_step_end(self, *_: object, **__: object) -> None:
        self.line.answer({"tokens": sum(self.lengths)})


def main() -> None:
    line = Line()
    orders = line.orders()
    with line.reporting():
        train(next(orders), line, orders)


def train(spec: Order, line: Line, orders: Iterator[Order]) -> None:
    torch.set_num_threads(spec["cores"])
    model: Any = AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=kept_in(spec))
    ordered = Ordered(line, orders)
    generate, rows, prompt_tokens = (
        model.generate,
        len(spec["texts"]) * spec["group"],
        len(spec["prompts"][0]),
    )

    def ending(input_ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
        assert tuple(input_ids.shape) == (rows, prompt_tokens), input_ids.shape
        out = generate(
            input_ids,
            logits_processor=LogitsProcessorList([Ends(ordered.lengths, prompt_tokens, spec["eos"])]),
            **kwargs,
        )
        assert out.shape[1] - prompt_tokens == max(ordered.lengths), out.shape
        return out

    model.generate = ending
    config = GRPOConfig(
        output_dir=spec["scratch"], use_cpu=True, bf16=False, per_device_train_batch_size=MICRO_ROWS,
        num_generations=spec["group"], gradient_accumulation_steps=rows // MICRO_ROWS,
        steps_per_generation=rows // MICRO_ROWS, num_iterations=1, max_completion_length=spec["new_tokens"],
        beta=0.0, temperature=1.0, top_k=0, top_p=1.0, learning_rate=1e-6, max_grad_norm=1.0,
        lr_scheduler_type="constant", gradient_checkpointing=False, report_to="none", save_strategy="no",
        logging_steps=STEPS, max_steps=STEPS, disable_tqdm=True,
    )  # fmt: skip
    GRPOTrainer(
        model=model, reward_funcs=reward, args=config,
        train_dataset=Dataset.from_dict({"prompt": spec["texts"]}),
        processing_class=AutoTokenizer.from_pretrained(spec["folder"], padding_side="left"),
        callbacks=[ordered],
    ).train()  # fmt: skip


if __name__ == "__main__":
    main()
