"""llama.cpp through llama-cpp-python: one context, all rows in one batch a step, the prompt of a group
decoded once and shared by its rows, its own sampler at temperature 1, no text.

The weights are a GGUF file; the first order may name another precision, into which llama.cpp itself converts
them."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
from serving import Order, serve

TYPES = {"bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16, "f16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
         "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1}  # fmt: skip

WARNING = 3  # GGML_LOG_LEVEL_WARN of ggml.h


@llama_cpp.llama_log_callback
def quiet(level: int, text: bytes, data: object) -> None:
    """llama.cpp's own messages, of which only warnings and errors are printed."""
    if level >= WARNING:
        print(text.decode(errors="replace"), end="", flush=True)


def converted(file: Path, precision: str, scratch: Path) -> Path:
    """The file if it has this precision by its name, or one with the same weights in it."""
    if file.stem.lower().endswith(precision):
        return file
    target = scratch / f"{file.stem}-{precision}.gguf"
    if not target.is_file():
        scratch.mkdir(parents=True, exist_ok=True)
        wanted = llama_cpp.llama_model_quantize_default_params()
        wanted.ftype, wanted.allow_requantize, wanted.nthread = TYPES[precision], True, 1
        partial = target.with_suffix(".partial")
        if llama_cpp.llama_model_quantize(str(file).encode(), str(partial).encode(), ctypes.byref(wanted)):
            raise RuntimeError(f"llama.cpp cannot convert {file} to {precision}")
        partial.rename(target)
    return target


class Rows:
    """A context for so many rows, and one batch of tokens that is filled again for every step."""

    def __init__(self, file: Path, rows: int, positions: int, prompts: int, prompt_tokens: int) -> None:
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(file).encode(), llama_cpp.llama_model_default_params()
        )
        wanted = llama_cpp.llama_context_default_params()
        most = max(rows, prompts * prompt_tokens)
        wanted.n_ctx, wanted.n_seq_max, wanted.kv_unified = rows * positions, rows, True
        wanted.n_batch = wanted.n_ubatch = most
        wanted.n_threads = wanted.n_threads_batch = 1
        self.context = llama_cpp.llama_init_from_model(self.model, wanted)
        if not self.context:
            raise RuntimeError(f"llama.cpp makes no context for {rows} rows of {positions} positions")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(most, 0, 1)

    def decode(self, tokens: list[int], places: list[int], rows: list[int], wanted: list[bool]) -> None:
        """One pass over tokens at places of rows; ``wanted``: of which tokens the logits are needed."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for at, (token, place, row, logits) in enumerate(zip(tokens, places, rows, wanted, strict=True)):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, place, 1
            batch.seq_id[at][0], batch.logits[at] = row, logits
        if found := llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {found}")

    def read(self, prompts: list[list[int]], group: int) -> None:
        """Decode each prompt once, in the first row of its group, and share it with the others."""
        length = len(prompts[0])
        heads = [number * group for number in range(len(prompts))]
        self.decode(
            [token for prompt in prompts for token in prompt],
            [*range(length)] * len(prompts),
            [head for head in heads for _ in range(length)],
            [place == length - 1 for place in range(length)] * len(prompts),
        )
        for head in heads:
            for row in range(head + 1, head + group):
                llama_cpp.llama_memory_seq_cp(self.memory, head, row, -1, -1)


def start(spec: Order) -> Callable[[Order], Order]:
    llama_cpp.llama_log_set(quiet, None)
    file = converted(Path(spec["gguf"]), spec["precision"], Path(spec["scratch"]))
    prompts, group, new = spec["prompts"], spec["group"], spec["new_tokens"]
    count, length = len(prompts) * group, len(prompts[0])
    own = Rows(file, count, length + new, len(prompts), length)

    def run(order: Order) -> Order:
        lengths = order["lengths"]
        llama_cpp.llama_memory_clear(own.memory, True)
        samplers = [_sampler(order["seed"] * 1000 + row) for row in range(count)]
        own.read(prompts, group)
        live = [*range(count)]
        outputs = [(row // group + 1) * length - 1 for row in live]  # the logits after each row's prompt
        for step in range(max(lengths)):
            tokens = [
                llama_cpp.llama_sampler_sample(samplers[row], own.context, output)
                for row, output in zip(live, outputs, strict=True)
            ]
            left = [at for at, row in enumerate(live) if step + 1 < lengths[row]]
            live, tokens = [live[at] for at in left], [tokens[at] for at in left]
            if live:
                own.decode(tokens, [length + step] * len(live), live, [True] * len(live))
            outputs = [*range(len(live))]
        for sampler in samplers:
            llama_cpp.llama_sampler_free(sampler)
        return {"tokens": sum(lengths)}

    return run


def _sampler(seed: int) -> Any:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(seed % 2**32))
    return chain


if __name__ == "__main__":
    serve(start)
