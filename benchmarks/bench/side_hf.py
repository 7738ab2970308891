"""transformers: ``generate`` in bf16 with its dynamic cache, and a plain training loop (AdamW, gradient
clipping, padded micro-batches).

A micro-batch is padded to its own longest row. Precision: "hf" trains float32 weights under bf16 autocast,
"hf_bf16" bf16 weights with a float32 master. Where the order says that the processor has no instructions for
bf16 (``half`` is false), float32 takes its place, which is several times as fast there."""

import random
from collections.abc import Callable

import torch
from serving import Order, serve
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

# The quickest of 2, 4, 8, 16 and 32: small micro-batches stay in the caches, and with few rows little of one
# is padding.
MICRO_ROWS = {"uniform": 8, "ragged": 4}


class Ends(LogitsProcessor):
    """Make each row end at its own number of new tokens."""

    def __init__(self, lengths: list[int], prompt_tokens: int, eos_id: int) -> None:
        self.last_B = torch.tensor(lengths) + prompt_tokens - 1
        self.eos_id = eos_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        done_B = self.last_B <= input_ids.shape[1]
        scores[done_B] = -torch.inf
        scores[done_B, self.eos_id] = 0.0
        scores[~done_B, self.eos_id] = -torch.inf
        return scores


def kept_in(spec: Order) -> torch.dtype:
    """The precision in which this processor is quickest."""
    return torch.bfloat16 if spec["half"] else torch.float32


def start_rollout(spec: Order) -> Callable[[Order], Order]:
    torch.set_num_threads(spec["cores"])
    model = AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=kept_in(spec)).eval()
    prompts = torch.tensor([prompt for prompt in spec["prompts"] for _ in range(spec["group"])])

    def run(order: Order) -> Order:
        torch.manual_seed(order["seed"])
        lengths = order["lengths"]
        ends = LogitsProcessorList([Ends(lengths, prompts.shape[1], spec["eos"])])
        out = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, max_new_tokens=max(lengths), eos_token_id=spec["eos"], pad_token_id=spec["pad"],
            logits_processor=ends,
        )  # fmt: skip
        assert out.shape[1] - prompts.shape[1] == max(lengths), (out.shape, max(lengths))
        return {"tokens": sum(lengths)}

    return run


def start_learner(spec: Order) -> Callable[[Order], Order]:
    torch.set_num_threads(spec["cores"])
    pure = spec["side"] == "hf_bf16"
    model = AutoModelForCausalLM.from_pretrained(
        spec["folder"], dtype=torch.bfloat16 if pure else torch.float32
    ).train()
    own = list(model.parameters())
    masters = [torch.nn.Parameter(p.detach().float()) for p in own] if pure else own
    optimizer = torch.optim.AdamW(masters, lr=1e-6, betas=(0.9, 0.95), fused=True)
    rows = spec["rows"]
    trained, micro_rows = sum(len(row) - 1 for row in rows), MICRO_ROWS[spec["lengths"]]

    def run(order: Order) -> Order:
        shuffled = random.Random(order["seed"]).sample(rows, len(rows))
        for start in range(0, len(shuffled), micro_rows):
            with torch.autocast("cpu", torch.bfloat16, enabled=spec["half"] and not pure):
                loss = model(
                    **batch(shuffled[start : start + micro_rows], spec["pad"]),
                    num_items_in_batch=torch.tensor(trained),
                ).loss
            loss.backward()
        if pure:
            for master, parameter in zip(masters, own, strict=True):
                master.grad = parameter.grad.float()
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(masters, own, strict=True):
                if pure:
                    parameter.copy_(master)
                master.grad = parameter.grad = None
        return {"tokens": trained}

    return run


def batch(rows: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Rows padded to the longest. Where none is shorter there is no mask, so that attention takes its
    quickest path."""
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": tokens, "labels": labels} | ({} if bool(mask.all()) else {"attention_mask": mask})


if __name__ == "__main__":
    serve(lambda spec: (start_rollout if spec["kind"] == "rollout" else start_learner)(spec))
