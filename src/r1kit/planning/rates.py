"""How fast a machine is: this one, measured in about half a minute and remembered, or GPUs of a table.

The measurement trains and samples a network of random weights with the model's own widths: all layers where
it has at most ``PROBED`` parameters, else as many as that, and the times of the others are added in
proportion to operations. Each of the run's processes measures at the same time, because they share the
memory's bandwidth. Results are kept in rates.json in r1kit's cache, under a hash of processor, versions,
r1kit's own code and everything that was measured."""

import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch

from r1kit.config import ConfigError, suggest
from r1kit.engine.native import NativeEngine
from r1kit.files import hash_text
from r1kit.memory import keep_memory, return_memory
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.products import linear
from r1kit.planning.kept import measured_once
from r1kit.planning.learners import FLOAT32, LearnerFacts
from r1kit.planning.operations import forward_operations
from r1kit.planning.shapes import Shape, shape_of
from r1kit.runtime.replica import LARGE
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.train.supervised import text_row, weighted
from r1kit.types import Row, Sampling

Found = TypeVar("Found")
PROBED = 1.5e8  # the most parameters of a network that is measured
PROBED_ROWS = (1, 16, 64)  # rows that are decoded at once
_OPERATIONS = 3e11  # of the longest measured update
_LONGEST = 256  # tokens of a measured row
_SHORTER, _TINY = 8, 16  # how many times shorter other rows are; tokens of the shortest
_DECODED = 18  # tokens sampled in each measurement
_WIDEST, _WIDTHS = 640, 24  # positions of the widest product that is compiled, and how many are
_DISK_BYTES = 1 << 26
_FEWEST_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of one process: ``update`` for each update (clipping, summing, the optimizer's step), ``batch``
    for each of its micro-batches, ``row`` for each row, ``trained`` and ``read`` for each token in a forward
    and backward, or a forward pass; ``call`` for a call of the engine, ``prompt`` for each token of a prompt,
    ``steps`` for one decoding step of so many rows; ``disk``: bytes per second that reach the disk,
    hashed."""

    update: float
    trained: float
    read: float
    steps: tuple[tuple[int, float], ...]
    disk: float
    batch: float = 0.0
    row: float = 0.0
    call: float = 0.0
    prompt: float = 0.0

    def step(self, rows: float) -> float:
        """Seconds of a decoding step of ``rows`` rows: a straight line between what was measured, and on from
        the last two."""
        points = self.steps
        for (low, early), (high, late) in itertools.pairwise(points):
            if rows <= high or high == points[-1][0]:
                slope = (late - early) / (high - low)
                return max(early, 1e-9) if rows <= low else early + slope * (rows - low)
        return points[-1][1]


@dataclass(frozen=True, slots=True)
class Product:
    """What a product of a new shape costs: bytes that its compiled code takes, and seconds to compile."""

    memory: float
    seconds: float


@dataclass(frozen=True, slots=True)
class GPU:
    """A kind of GPU by its data sheet: bytes of memory, dense bfloat16 operations and memory bytes per
    second."""

    memory: float
    operations: float
    bandwidth: float
    source: str


# Dense bfloat16 tensor operations (half of what a data sheet gives with sparsity), and memory bandwidth.
GPUS = {
    "h100": GPU(80e9, 989e12, 3.35e12, "NVIDIA H100 data sheet, SXM"),
    "h800": GPU(80e9, 989e12, 3.35e12, "as H100 SXM; its NVLink is slower, which is not counted"),
    "h200": GPU(141e9, 989e12, 4.8e12, "NVIDIA H200 data sheet, SXM"),
    "b200": GPU(180e9, 2250e12, 7.7e12, "NVIDIA DGX B200 data sheet, an eighth"),
    "a100": GPU(80e9, 312e12, 2.039e12, "NVIDIA A100 data sheet, 80 GB SXM"),
    "a100-40": GPU(40e9, 312e12, 1.555e12, "NVIDIA A100 data sheet, 40 GB SXM"),
    "l40s": GPU(48e9, 362e12, 0.864e12, "NVIDIA L40S data sheet"),
    "l4": GPU(24e9, 121e12, 0.3e12, "NVIDIA L4 data sheet"),
    "4090": GPU(24e9, 165e12, 1.008e12, "NVIDIA Ada architecture paper, float32 sums"),
    "3090": GPU(24e9, 71e12, 0.936e12, "NVIDIA Ampere GA102 paper, float32 sums"),
    "mi300x": GPU(192e9, 1307e12, 5.3e12, "AMD Instinct MI300X data sheet"),
}


@dataclass(frozen=True, slots=True)
class Links:
    """Bytes per second that one GPU can send and receive at once: to the others of its node, and to other
    nodes."""

    node: float
    network: float
    source: str


# Half of what a data sheet gives for both directions together; of the network, one card for each GPU.
LINKS = {
    "h100": Links(450e9, 50e9, "NVLink 4, 18 links; ConnectX-7, 400 Gbit/s"),
    "h800": Links(160e9, 50e9, "DeepSeek-V3, section 3.2: 160 GB/s NVLink, 50 GB/s InfiniBand"),
    "h200": Links(450e9, 50e9, "as H100"),
    "b200": Links(900e9, 50e9, "NVLink 5; ConnectX-7, 400 Gbit/s"),
    "a100": Links(300e9, 25e9, "NVLink 3; 200 Gbit/s"),
    "a100-40": Links(300e9, 25e9, "NVLink 3; 200 Gbit/s"),
    "mi300x": Links(448e9, 50e9, "seven Infinity Fabric links of 64 GB/s; 400 Gbit/s"),
}
# Cards without a link of their own: PCIe 4.0 with 16 lanes, and 100 Gbit/s.
PLAIN_LINKS = Links(32e9, 12.5e9, "PCIe 4.0 x16; 100 Gbit/s")
LINK_SHARE = 0.8  # of these bandwidths that large collective operations reach: an assumption
# Shares of a data sheet's speed. DeepSeek-V3's pretraining, 14.8T tokens in 2.664M H800 hours (its report,
# table 1), is 35 % of bfloat16's peak by the same count of operations. Decoding is limited by memory; engines
# reach about half to three quarters of the bandwidth.
COMPUTE_SHARE, BANDWIDTH_SHARE = 0.35, 0.6


@dataclass(frozen=True, slots=True)
class Fleet:
    """``count`` GPUs of one kind, with the shares of their data sheet's speed that are reached."""

    name: str
    gpu: GPU
    count: int
    compute_share: float = COMPUTE_SHARE
    bandwidth_share: float = BANDWIDTH_SHARE


def fleet_of(text: str, utilisation: float | None = None) -> Fleet:
    """The GPUs that ``--gpu`` names: ``h100`` or ``h100:8``. ``utilisation`` replaces both shares."""
    kind, _, count = text.lower().partition(":")
    if kind not in GPUS:
        raise ConfigError(f"--gpu {text}: no GPU {kind!r} in the table: {suggest(kind, GPUS)}")
    if not (count or "1").isdigit() or int(count or "1") < 1:
        raise ConfigError(f"--gpu {text}: write a number of GPUs after the colon, as in {kind}:8")
    shares = {} if utilisation is None else {"compute_share": utilisation, "bandwidth_share": utilisation}
    return Fleet(kind, GPUS[kind], int(count or "1"), **shares)


def fleet_here() -> Fleet | None:
    """This machine's own GPU, where the table knows it by its name."""
    if not torch.cuda.is_available():
        return None
    words = torch.cuda.get_device_name().lower().replace("-", " ").split()
    kind = next((kind for kind in GPUS if kind in words), None)
    return None if kind is None else Fleet(kind, GPUS[kind], 1)


def machine_bytes() -> float:
    """Bytes of memory that this machine, or the control group that this process is in, has."""
    limits = [float(psutil.virtual_memory().total)]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(float(Path(file).read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limits)


def measured_rates(
    shape: Shape, facts: LearnerFacts, processes: int, threads: int, engine_precision: str
) -> Rates:
    """The rates of each of ``processes`` processes on this machine, from the cache where it has them."""
    probed = _probed(shape)
    asked = {
        "shape": probed.model_dump(mode="json"),
        "learner": _measured_keys(facts),
        "run": [processes, threads, engine_precision],
    }
    work = (probed, _measured_keys(facts), threads, engine_precision)
    found = measured_once(
        asked, Path(__file__), lambda: _slowest(_everywhere(measure, work, processes)), asdict, _rates_of
    )
    return _scaled(found, shape, shape_of(probed))


def _rates_of(plain: dict[str, Any]) -> Rates:
    steps = tuple((int(rows), float(seconds)) for rows, seconds in plain["steps"])
    return Rates(**{**plain, "steps": steps})


def measured_product(shape: Shape, precision: str, threads: int) -> Product:
    """What compiling one of the model's products costs on this machine, from the cache where it is known."""
    asked = {"product": [shape.width, shape.hidden, precision, threads]}
    work = (shape.width, shape.hidden, precision, threads)
    return measured_once(
        asked, Path(__file__), lambda: _everywhere(measure_product, work, 1)[0], asdict,
        lambda plain: Product(**plain),
    )  # fmt: skip


def _measured_keys(facts: LearnerFacts) -> dict[str, Any]:
    """The learner's keys that its speed depends on, all but adapters and recomputed layers, whose share is
    counted."""
    small = facts.moment < FLOAT32
    halved = facts.weights < FLOAT32 and not facts.rank
    kind = {} if facts.optimizer == "adamw" else {"kind": facts.optimizer}
    return {
        "precision": facts.precision,
        "head": facts.head,
        "weights": "bfloat16" if halved else "float32",
        "optimizer": {"moments": "int8" if small else "float32", **kind},
    }


def _probed(shape: Shape) -> ModelConfig:
    """The network to measure: the model's own widths, and as many layers as ``PROBED`` parameters allow."""
    config = shape.config or ModelConfig(
        family="llama", vocab_size=shape.vocabulary, width=shape.width, layers=shape.layers,
        heads=shape.heads, kv_heads=shape.kv_heads, head_dim=shape.key, ffn_width=shape.hidden,
    )  # fmt: skip
    config = config.model_copy(update={"max_positions": max(config.max_positions, 2 * _LONGEST)})
    if shape.parameters <= PROBED:
        return config
    table = config.vocab_size * config.width
    layer = (shape.parameters - (1 if config.tie_embeddings else 2) * table) / config.layers
    layers = max(_FEWEST_LAYERS, min(config.layers, int((PROBED - 2 * table) // layer)))
    fewer = {"layers": layers, "dense_layers": min(config.dense_layers, 1), "mtp_depth": 0}
    if layers * layer > 4 * PROBED:
        raise ConfigError(
            f"a model of {shape.parameters / 1e9:.0f}B parameters is too wide to be measured here; "
            "name GPUs to plan for: --gpu h100:8"
        )
    return config.model_copy(update=fewer)


def _scaled(rates: Rates, shape: Shape, probed: Shape) -> Rates:
    """The rates of the whole model from those of fewer layers, by operations."""
    factor = forward_operations(shape, 1.0, _LONGEST) / forward_operations(probed, 1.0, _LONGEST)
    if factor == 1.0:
        return rates
    return replace(
        rates,
        update=rates.update * shape.parameters / probed.parameters,
        batch=rates.batch * shape.parameters / probed.parameters,
        trained=rates.trained * factor,
        read=rates.read * factor,
        call=rates.call * shape.parameters / probed.parameters,
        prompt=rates.prompt * factor,
        steps=tuple((rows, seconds * factor) for rows, seconds in rates.steps),
    )


def _slowest(found: Sequence[Rates]) -> Rates:
    """Every time is the longest of all processes: they wait for one another."""
    plain = ("update", "trained", "read", "batch", "row", "call", "prompt")
    longest = {name: max(getattr(rates, name) for rates in found) for name in plain}
    steps = tuple(max(points) for points in zip(*(rates.steps for rates in found), strict=True))
    return Rates(**longest, steps=steps, disk=min(rates.disk for rates in found))


def _everywhere(measuring: Callable[..., Found], work: tuple[Any, ...], processes: int) -> list[Found]:
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.starmap(measuring, [work] * processes, chunksize=1)


def measure(config: ModelConfig, learner_keys: dict[str, Any], threads: int, engine_precision: str) -> Rates:
    """Measure this process with a network of random weights, which a learner with these keys trains."""
    keep_memory()
    torch.set_num_threads(threads)
    model = LanguageModel(config, seed=0)
    operations = 3 * forward_operations(shape_of(config), 1.0, _LONGEST)
    rows = max(2, min(16, int(_OPERATIONS / operations / _LONGEST)))
    config_of = {"context": _LONGEST, "lines": 16, **learner_keys}
    learner = Learner(model, LearnerConfig.parse(config_of, "the measurement"))
    learned = _learning(learner, config.vocab_size, rows)
    precise: Any = engine_precision
    engine = NativeEngine(model, [-1], precision=precise, batch_rows=max(PROBED_ROWS))
    call, prompt = _calls(engine, config.vocab_size)
    steps = tuple((count, _step_seconds(engine, count)) for count in PROBED_ROWS)
    return Rates(**learned, steps=steps, disk=_disk_rate(), call=call, prompt=prompt)


def _learning(learner: Learner, vocabulary: int, rows: int) -> dict[str, float]:
    """Seconds of an update by its parts, from updates that differ in one of them: half as many rows, the same
    tokens in rows an eighth as long, and a pass of one short row. The first updates pay for allocations, so
    the larger kind comes first; of two each the shorter counts."""
    draw = np.random.default_rng(0)

    def made(count: int, length: int) -> list[Row]:
        return [text_row(draw.integers(0, vocabulary, length).astype(np.int32)) for _ in range(count)]

    large = sum(parameter.nbytes for parameter in learner.parameters) >= LARGE

    def update(chosen: list[Row]) -> None:
        if large:  # as in a run (runtime/replica.py)
            return_memory()
        learner.update(weighted(chosen), CrossEntropy(), 0.0)

    def seconds(chosen: list[Row]) -> float:
        return _seconds(lambda: update(chosen))

    whole, short, tiny = made(rows, _LONGEST), made(rows * _SHORTER, _LONGEST // _SHORTER), made(1, _TINY)
    seconds(whole)
    many = min(seconds(whole), seconds(whole))
    few = min(seconds(whole[: rows // 2]), seconds(whole[: rows // 2]))
    seconds(short)
    split = min(seconds(short), seconds(short))
    read = _seconds(lambda: learner.logprobs(whole)) / (rows * _LONGEST)
    each = max((many - few) / ((rows - rows // 2) * _LONGEST), read)
    batch = max(0.0, min(_pass_seconds(learner, tiny) for _ in range(3)) - each * _TINY)
    return {
        "update": max(0.0, many - each * rows * _LONGEST - batch), "trained": each, "read": read,
        "batch": batch, "row": max(0.0, split - many) / (rows * (_SHORTER - 1)),
    }  # fmt: skip


def _pass_seconds(learner: Learner, rows: list[Row]) -> float:
    """Seconds of a forward and backward pass of rows that are one batch."""

    def run() -> None:
        (batch,) = learner.batches(rows)
        loss, _ = learner.batch_loss(batch, CrossEntropy())
        loss.backward()  # type: ignore[no-untyped-call]

    seconds = _seconds(run)
    learner.placement.forget()
    return seconds


def _calls(engine: NativeEngine, vocabulary: int) -> tuple[float, float]:
    """(Seconds of a call with new weights besides its steps, seconds for each token of a prompt)."""
    draw = np.random.default_rng(1)
    long, brief = (draw.integers(0, vocabulary, count).astype(np.int32) for count in (_LONGEST, 8))
    first = Sampling(n=1, max_tokens=1)
    engine.generate([brief], first)
    with torch.no_grad():  # a write, so that they are packed again, as after an update
        for parameter in engine.model.parameters():
            parameter.mul_(1.0)
    call = _seconds(lambda: engine.generate([brief], first))
    short = min(_seconds(lambda: engine.generate([brief], first)) for _ in range(2))
    read = min(_seconds(lambda: engine.generate([long], first)) for _ in range(2))
    return call, max(0.0, read - short) / (_LONGEST - 8)


def _step_seconds(engine: NativeEngine, rows: int) -> float:
    prompt, most = [np.zeros(8, dtype=np.int32)], Sampling(n=rows, max_tokens=_DECODED)
    first = _seconds(lambda: engine.generate(prompt, Sampling(n=rows, max_tokens=2)))
    whole = _seconds(lambda: engine.generate(prompt, most))
    return max(whole - first, 0.1 * whole) / (_DECODED - 2)


def measure_product(width: int, hidden: int, precision: str, threads: int) -> Product:
    """Compile products of ``width`` and ``hidden`` with as many shapes as are enough to see what each takes.
    Batches become narrower, so that tensors fit where larger ones were."""
    keep_memory()
    torch.set_num_threads(threads)
    weight = torch.randn(hidden, width, requires_grad=True)
    dtype = {"bfloat16": torch.bfloat16}.get(precision)

    def work(rows: int) -> None:
        x = torch.randn(rows, width, requires_grad=True)
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            out = linear(x, weight)
        out.float().sum().backward()  # type: ignore[no-untyped-call]
        weight.grad = None

    def work_all() -> None:
        for place in range(1, _WIDTHS + 1):
            work(_WIDEST - 16 * place)

    def all_widths() -> float:
        return _seconds(work_all)

    for _ in range(2):
        work(_WIDEST)
    process = psutil.Process()
    before = process.memory_info().rss
    new = all_widths()
    taken = process.memory_info().rss - before
    known = min(all_widths(), all_widths())
    return Product(max(0.0, taken) / (3 * _WIDTHS), max(0.0, new - known) / (3 * _WIDTHS))


def _disk_rate() -> float:
    content = os.urandom(_DISK_BYTES)
    with tempfile.NamedTemporaryFile() as file:
        began = time.perf_counter()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        hash_text(content.hex()[:_DISK_BYTES])
        return _DISK_BYTES / (time.perf_counter() - began)


def _seconds(work: Any) -> float:
    """Seconds of the processor where this process has one thread, which other programs lengthen less; else of
    the clock."""
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = now()
    work()
    return now() - began
