"""What happens to freed memory: it is kept between equal calls, and returned where others follow."""

import subprocess
import sys

import numpy as np
import pytest

from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.runtime import replica as replicas
from r1kit.runtime.local import LocalConfig
from r1kit.runtime.replica import Replica
from r1kit.train.group import ALONE
from r1kit.types import Completion, Sampling

# Two pieces of 1.2 GB together, taken, written and freed: how many pages the system had to give the first
# time, the second time, and once more after memory was returned.
PROGRAM = """
import ctypes, resource, sys
from r1kit.memory import keep_memory, return_memory

libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [ctypes.c_void_p(libc.malloc(600 << 20)) for _ in range(2)]
    for piece in pieces:
        ctypes.memset(piece, 1, 600 << 20)
    for piece in pieces:
        libc.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_memory()
first, second = pages(), pages()
return_memory()
print(first, second, pages())
"""


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "glibc's own way"])
def test_freed_memory_is_kept_until_it_is_returned(kept: bool) -> None:
    """Pages have 4 KB, or 2 MB where the system gives large ones."""
    words = [sys.executable, "-c", PROGRAM, "keep" if kept else "not"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    first, second, third = map(int, done.stdout.split())
    assert first > 500 and third > 0.9 * first
    if kept:
        assert second < first / 100
    else:
        assert second > 0.9 * first


class Machine:
    """A learner and an engine of a model, which do nothing."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def update(self) -> None: ...

    def evaluate(self) -> None: ...

    def generate(
        self, prompts: list[np.ndarray], sampling: Sampling, seeds: list[int], done: object
    ) -> list[list[Completion]]:
        return []


@pytest.mark.parametrize("large", [True, False], ids=["a large model", "a small model"])
def test_memory_is_returned_where_another_kind_of_call_follows(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned: list[str] = []
    name = "nothing yet"
    monkeypatch.setattr(replicas, "return_memory", lambda: returned.append(name))
    monkeypatch.setattr(replicas, "LARGE", 1 if large else 1 << 40)
    replica = Replica(LocalConfig(processes=1), ALONE)
    config = ModelConfig(
        family="qwen3", vocab_size=8, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, ffn_width=8
    )
    model = LanguageModel(config)
    replica.things = {0: Machine(model), 1: Machine(model)}
    calls = {
        "first update": lambda: replica.call(0, "update"),
        "second update": lambda: replica.call(0, "update"),
        "sampling": lambda: replica.sample(1, [], Sampling(), []),
        "sampling again": lambda: replica.sample(1, [], Sampling(), []),
        "third update": lambda: replica.call(0, "update"),
        "what takes little": lambda: replica.call(0, "evaluate"),
        "fourth update": lambda: replica.call(0, "update"),
        "another learner's update": lambda: replica.call(1, "update"),
    }
    for called, call in calls.items():
        name = called
        call()
    assert returned == (
        ["first update", "sampling", "third update", "fourth update", "another learner's update"]
        if large
        else []
    )
