"""vLLM's build for CPUs: bf16 (float32 where that is quicker, as in side_hf.py), its own compilation, prefix
caching, one request per completion, no text made of tokens."""

import os
from collections.abc import Callable

from serving import Order, serve


def start(spec: Order) -> Callable[[Order], Order]:
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    from vllm import LLM, SamplingParams

    length = len(spec["prompts"][0]) + spec["new_tokens"]
    engine = LLM(
        spec["folder"],
        dtype="bfloat16" if spec["half"] else "float32",
        max_model_len=length,
        max_num_seqs=len(spec["prompts"]) * spec["group"],
        seed=0,
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in spec["prompts"] for _ in range(spec["group"])]

    def run(order: Order) -> Order:
        asked = [
            SamplingParams(temperature=1.0, max_tokens=length, ignore_eos=True, detokenize=False)
            for length in order["lengths"]
        ]
        engine.reset_prefix_cache()  # weights change at every step of reinforcement learning
        outputs = engine.generate(prompts, asked, use_tqdm=False)
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        assert tokens == sum(order["lengths"]), tokens
        return {"tokens": tokens}

    return run


if __name__ == "__main__":
    serve(start)
