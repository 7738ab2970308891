"""A vLLM that is none, for tests of the process and the protocol: ``program`` writes an interpreter that has
it. A rollout of seed s samples s % 5 + 1 tokens: the first of its prompt, counted up, then 2 (the end).

The first token of a prompt may be a fault: 97 sleeps, 98 kills the process, 99 raises."""

import stat
import sys
from pathlib import Path

PACKAGE = {
    "__init__.py": """
import os, signal, time, types
from pathlib import Path

def marked(folder):
    names = sorted(path.name for path in Path(folder).glob("*.safetensors"))
    return len(names)

class SamplingParams:
    def __init__(self, **given):
        self.__dict__.update(given)

class Engine:
    def __init__(self):
        self.waiting = []
    def add_request(self, name, prompt, parameters):
        self.waiting.append((name, prompt["prompt_token_ids"], parameters))
    def has_unfinished_requests(self):
        return bool(self.waiting)
    def abort_request(self, names):
        self.waiting = []
    def step(self):
        name, prompt, parameters = self.waiting.pop(0)
        if prompt[0] == 97:
            time.sleep(600)
        if prompt[0] == 98:
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt[0] == 99:
            raise ValueError("a fault of the engine")
        count = parameters.seed % 5 + 1
        ids = ([prompt[0] + place for place in range(count)] + [2])[: parameters.max_tokens]
        chosen = [{token: types.SimpleNamespace(logprob=-float(token))} for token in ids]
        one = types.SimpleNamespace(
            token_ids=ids, logprobs=chosen, finish_reason="stop" if ids[-1] == 2 else "length"
        )
        return [types.SimpleNamespace(request_id=name + "-0a1b", finished=True, outputs=[one])]

class LLM:
    def __init__(self, model, **given):
        if (Path(model) / "unreadable").exists():
            raise RuntimeError("cannot read this model")
        self.llm_engine, self.given = Engine(), given
    def collective_rpc(self, name, kwargs):
        assert name == "reload_weights" and list(Path(kwargs["weights_path"]).glob("bucket-*.safetensors"))
    def reset_prefix_cache(self):
        return os.environ.get("VLLM_FAKE_CACHE") != "stays"
""",
    "sampling_params.py": "class RequestOutputKind:\n    FINAL_ONLY = 2\n",
    "platforms.py": "class current_platform:\n    device_type = 'cpu'\n",
}


def program(folder: Path) -> Path:
    """Write an interpreter in which ``import vllm`` finds the fake."""
    (folder / "fake/vllm").mkdir(parents=True)
    for name, text in PACKAGE.items():
        (folder / "fake/vllm" / name).write_text(text)
    start = f"import runpy, sys; sys.path.insert(0, {str(folder / 'fake')!r}); del sys.argv[:3]; "
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -c "{start}{run}" - "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script
