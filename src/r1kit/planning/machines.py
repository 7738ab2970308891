"""What a phase takes on a machine, in seconds and bytes: processes of this machine, or GPUs of a table.

On this machine the processes are replicas that share rows and prompts. They hold weights and moments once
where the learner allows it (train/shared_state.py), and everything else each for itself. On a Ray cluster of
this machine engines are processes with weights of their own, and learners share nothing. On several
GPUs the plan assumes what r1kit itself does not do yet: training state sharded over all of them, a row's
activations split over the 8 of a node, as many copies of the engine as fit, and each phase alone in memory,
with what the other needs moved out.

A call to the engine lasts until its longest completion has ended, which is taken to be ``max_tokens`` long.
With R rows for one engine, B rows at most at once, and a mean length m, it takes
max(max_tokens, R m / B + (max_tokens - m)) steps, with R m / steps rows on average."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from r1kit.planning.learners import BFLOAT16, FLOAT32, LearnerFacts
from r1kit.planning.memory import (
    Memory,
    activations,
    head_bytes,
    held_by_frozen,
    held_by_learner,
    in_only_update,
    layer_bytes,
    trained_parameters,
    while_learning,
    while_sampling,
    with_holes,
)
from r1kit.planning.operations import (
    bytes_per_step,
    cache_numbers,
    decoding_operations,
    forward_operations,
    training_operations,
)
from r1kit.planning.place import Place, measured_place
from r1kit.planning.products import Compiled, Met
from r1kit.planning.rates import Fleet, Product, Rates, measured_product, measured_rates
from r1kit.planning.shapes import Shape
from r1kit.runtime.replica import LARGE
from r1kit.stages.pretrain import TOKENIZER_DOCUMENTS
from r1kit.train.packing import LONGER

RAY = 680e6  # Ray 2.60.0's own nine processes on one machine
UNTIMED = Rates(0.0, 0.0, 0.0, ((1, 0.0), (2, 0.0)), 1e9)
NODE = 8  # GPUs that share a row's activations
ENGINE_SHARE = 0.9  # of a GPU's memory that an engine uses


@dataclass(frozen=True, slots=True)
class Sampled:
    """Completions of a phase: ``completions`` in ``calls`` calls, of ``mean`` tokens and at most ``longest``,
    after prompts of ``prompt`` tokens that ``group`` share. ``held``: the learner whose weights are sampled
    from is in memory too. ``passes``: of the learner over what is sampled. ``most``: seconds after which it
    ends (None: no such limit)."""

    completions: float
    calls: float
    mean: float
    longest: float
    prompt: float
    group: int
    held: bool
    passes: float = 0.0
    most: float | None = None

    @property
    def tokens(self) -> float:
        return self.completions * self.mean


@dataclass(frozen=True, slots=True)
class Learned:
    """Updates of a phase: ``tokens`` in all of ``updates``, in rows of ``length`` and at most ``longest``
    tokens; the rows of a ``group`` with their prompt have so many (0: rows share none). ``ahead``: the share
    of updates with multi-token prediction, which is one more layer and one more pass through the head."""

    tokens: float
    updates: float
    length: float
    longest: float
    passes: float
    frozen: int
    critics: int
    saves: float
    full: bool = False  # lines of the same width, as in pretraining
    group: float = 0.0
    rows: float = 0.0
    ahead: float = 0.0


class Machine(Protocol):
    """Where a recipe would run. ``devices`` of ``limit`` bytes each; ``gpus`` is 0 on a CPU."""

    @property
    def limit(self) -> float: ...

    @property
    def gpus(self) -> int: ...

    def sampling(self, shape: Shape, facts: LearnerFacts | None, work: Sampled) -> tuple[float, Memory]: ...

    def learning(
        self, shape: Shape, facts: LearnerFacts, work: Learned, sampled: Memory
    ) -> tuple[float, Memory]: ...

    def held(self, shape: Shape, facts: LearnerFacts, frozen: int, critics: int) -> Memory:
        """What learners hold while an engine samples: once for all processes where they share it."""
        ...

    def compiling(
        self, shape: Shape, facts: LearnerFacts, work: Learned, before: Compiled
    ) -> tuple[float, Compiled]:
        """Seconds in which products are compiled for a learning phase, and all that have been."""
        ...

    def compiled_bytes(self, shape: Shape, facts: LearnerFacts, compiled: Compiled) -> float:
        """Bytes of the products that have been compiled, in all processes."""
        ...


def decoding_steps(rows: float, at_once: float, mean: float, longest: float) -> float:
    """How many steps a call lasts: see on top."""
    return max(longest, rows * mean / at_once + (longest - mean))


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """``processes`` replicas of ``threads`` threads. ``engines``: processes that sample for them (Ray); 0:
    the replicas do. ``rates``, ``place`` and ``product``: given instead of measured, for tests and where time
    does not matter (fit.py)."""

    processes: int
    limit: float
    threads: int = 1
    batch_rows: int = 512
    engine_precision: str = "bfloat16"
    rates: Rates | None = None
    engines: int = 0
    product: Product | None = None
    place: Place | None = None

    @property
    def gpus(self) -> int:
        return 0

    @property
    def samplers(self) -> int:
        """How many processes sample."""
        return self.engines or self.processes

    def _rates(self, shape: Shape, facts: LearnerFacts | None, processes: int) -> Rates:
        facts = facts or LearnerFacts(context=1, lines=1)
        return self.rates or measured_rates(shape, facts, processes, self.threads, self.engine_precision)

    def _place(self) -> Place:
        if self.place is not None:
            return self.place
        return measured_place() if self.rates is None else Place()

    def besides(self, sampled: Sequence[Shape], new_tokenizer: bool) -> float:
        """Seconds of a stage besides its phases; ``sampled``: the models that it makes engines of."""
        place = self._place()
        engines = sum(place.engine + FLOAT32 * shape.parameters / place.read for shape in sampled)
        return place.stage + engines + (TOKENIZER_DOCUMENTS * place.document if new_tokenizer else 0.0)

    def _product(self, shape: Shape, facts: LearnerFacts) -> Product:
        return self.product or measured_product(shape, facts.precision, self.threads)

    def _program(self) -> Memory:
        helpers = self.processes + self.engines if self.engines else self.processes - 1
        cluster = RAY if self.engines else 0.0
        place = self._place()
        return Memory(program=place.program + place.helper * helpers + cluster)

    def untimed(self) -> "ThisMachine":
        """The same machine, with memory as it is and every time 0, so that nothing is measured again."""
        return replace(self, rates=UNTIMED, place=self._place())

    def compiled_bytes(self, shape: Shape, facts: LearnerFacts, compiled: Compiled) -> float:
        return compiled.count * self._product(shape, facts).memory * self.processes

    def compiling(
        self, shape: Shape, facts: LearnerFacts, work: Learned, before: Compiled
    ) -> tuple[float, Compiled]:
        after = before.after(shape, self._met(facts, work))
        return max(0.0, after.count - before.count) * self._product(shape, facts).seconds, after

    def _met(self, facts: LearnerFacts, work: Learned) -> Met:
        """The batches that a process computes in a phase: whole ones, and in each update, and in each pass
        without gradient, one of what is left over."""
        others = 0.0 if work.full else work.updates * (1.0 + bool(work.passes))
        return Met(work.updates, others, self._positions(facts, work))

    def held(self, shape: Shape, facts: LearnerFacts, frozen: int, critics: int) -> Memory:
        held = held_by_learner(shape, facts, critics) + held_by_frozen(shape, facts, frozen)
        return held.times(1 if facts.shared and not facts.rank and not self.engines else self.processes)

    def sampling(self, shape: Shape, facts: LearnerFacts | None, work: Sampled) -> tuple[float, Memory]:
        rates = self._rates(shape, facts, self.samplers)
        rows = max(1.0, work.completions / work.calls / self.samplers)
        steps = decoding_steps(rows, self.batch_rows, work.mean, work.longest)
        seconds = work.calls * (rates.call + steps * rates.step(rows * work.mean / steps))
        prompts = work.completions / work.group * work.prompt
        seconds += prompts * rates.prompt / self.samplers
        seconds += work.passes * (prompts + work.tokens) * rates.read / self.samplers
        seconds = seconds if work.most is None else min(seconds, work.most)
        number = FLOAT32 if self.engine_precision == "float32" else BFLOAT16
        live = min(rows, self.batch_rows)
        needs = while_sampling(shape, live, work.mean + work.prompt / work.group, number)
        if not work.held or self.engines:
            needs += Memory(weights=FLOAT32 * shape.parameters)
        return seconds, needs.times(self.samplers) + self._program()

    def learning(
        self, shape: Shape, facts: LearnerFacts, work: Learned, sampled: Memory
    ) -> tuple[float, Memory]:
        """``sampled``: what an engine on the same weights holds meanwhile."""
        rates = self._rates(shape, facts, self.processes)
        share = trained_parameters(shape, facts) / shape.parameters
        positions = self._positions(facts, work)
        models, batches = 1 + work.critics, work.updates * max(1.0, self._own(work) / positions)
        seconds = work.updates * rates.update * share * models
        seconds += batches * rates.batch * (models + work.passes / 3)  # a third of a pass is forward
        seconds += work.rows / self.processes * rates.row
        per_token = rates.trained * (models + work.ahead / shape.layers) + rates.read * (
            work.passes + (1 if facts.checkpointing else 0)
        )
        seconds += work.tokens / self.processes * per_token
        weights = shape.parameters * facts.weights
        moments = trained_parameters(shape, facts) * facts.moments * facts.moment
        seconds += (work.saves * (weights + moments) + weights) / rates.disk
        seconds += (models + work.frozen) * FLOAT32 * shape.parameters / self._place().read
        needs = while_learning(shape, facts, positions)
        if work.ahead:
            needs += Memory(activations=positions * layer_bytes(shape, facts), logits=needs.logits)
        if FLOAT32 * shape.parameters < LARGE:  # of larger models freed memory is returned before an update
            needs = with_holes(needs, self._met(facts, work).share)
        engines = Memory(copies=sampled.copies, weights=sampled.weights)
        held, needs = self.held(shape, facts, work.frozen, work.critics), needs.times(self.processes)
        if work.updates <= 1:
            held, needs = in_only_update(held, needs)
        return seconds, held + needs + engines + self._program()

    def _own(self, work: Learned) -> float:
        """Tokens of an update that are one process's."""
        return work.tokens / max(1.0, work.updates) / self.processes

    def _positions(self, facts: LearnerFacts, work: Learned) -> float:
        """Positions of a micro-batch: as many as an update has for a process, at most what the learner
        takes, or somewhat more for a whole group (train/packing.py: line_length)."""
        own, most = self._own(work), float(facts.context * facts.lines)
        if most < work.group <= LONGER * most:
            most = work.group
        return min(most, max(own, work.longest))


@dataclass(frozen=True, slots=True)
class GPUs:
    """GPUs at shares of their data sheet's speed. ``batch_rows``: the most rows of one engine (None: as many
    as fit)."""

    fleet: Fleet
    batch_rows: int | None = None

    @property
    def limit(self) -> float:
        return self.fleet.gpu.memory

    @property
    def gpus(self) -> int:
        return self.fleet.count

    def engine_size(self, shape: Shape) -> int:
        """How many GPUs hold one engine: the fewest, in whole nodes above one, whose memory is at most 70 %
        weights."""
        sizes: tuple[int, ...] = (1, 2, 4, *range(NODE, self.fleet.count + 1, NODE))
        for size in sizes:
            if BFLOAT16 * shape.parameters <= 0.7 * size * self.limit:
                return min(size, self.fleet.count)
        return self.fleet.count

    def sampling(self, shape: Shape, facts: LearnerFacts | None, work: Sampled) -> tuple[float, Memory]:
        size = self.engine_size(shape)
        engines = max(1, self.fleet.count // size)
        positions = work.prompt + work.mean
        free = ENGINE_SHARE * size * self.limit - BFLOAT16 * shape.parameters
        fitting = max(1.0, free / (BFLOAT16 * cache_numbers(shape, positions)))
        fitting = min(fitting, self.batch_rows or fitting)
        rows = max(1.0, work.completions / work.calls / engines)
        steps = decoding_steps(rows, fitting, work.mean, work.longest)
        live = max(1.0, rows * work.mean / steps)
        seconds = work.calls * steps * self.step_seconds(shape, live, work.prompt + work.mean / 2, size)
        prompts = work.completions / work.group * work.prompt
        read = (1 + work.passes) * forward_operations(shape, prompts, work.prompt)
        read += work.passes * forward_operations(shape, work.tokens, positions)
        seconds += read / self._operations(self.fleet.count)
        seconds = seconds if work.most is None else min(seconds, work.most)
        held = min(rows, fitting)
        return seconds, while_sampling(shape, held, positions, BFLOAT16).times(1 / size)

    def step_seconds(self, shape: Shape, rows: float, seen: float, size: int) -> float:
        """Seconds of a decoding step of ``rows`` rows that see ``seen`` positions, by an engine of ``size``
        GPUs."""
        read = bytes_per_step(shape, rows, seen, BFLOAT16)
        computed = decoding_operations(shape, rows, seen)
        bandwidth = size * self.fleet.gpu.bandwidth * self.fleet.bandwidth_share
        return max(read / bandwidth, computed / self._operations(size))

    def _operations(self, gpus: int) -> float:
        """Operations per second of so many GPUs."""
        return gpus * self.fleet.gpu.operations * self.fleet.compute_share

    def learning(
        self, shape: Shape, facts: LearnerFacts, work: Learned, sampled: Memory
    ) -> tuple[float, Memory]:
        operations = (1 + work.critics) * training_operations(
            shape, work.tokens, work.length, facts.checkpointing
        ) + work.passes * forward_operations(shape, work.tokens, work.length)
        count = self.fleet.count
        held = held_by_learner(shape, facts, work.critics) + held_by_frozen(shape, facts, work.frozen)
        trained = trained_parameters(shape, facts)
        positions = self.positions(facts, work)
        needs = Memory(
            gradients=facts.gradients * trained / count,
            copies=BFLOAT16 * shape.parameters / count,
            activations=activations(shape, facts, positions) / min(NODE, count),
            logits=head_bytes(shape, facts, positions / min(NODE, count)),
        )
        if count == 1:
            needs += Memory(copies=sampled.copies)
        return operations / self._operations(count), held.times(1 / count) + needs

    def held(self, shape: Shape, facts: LearnerFacts, frozen: int, critics: int) -> Memory:
        return Memory()  # phases take turns

    def compiling(
        self, shape: Shape, facts: LearnerFacts, work: Learned, before: Compiled
    ) -> tuple[float, Compiled]:
        return 0.0, before

    def compiled_bytes(self, shape: Shape, facts: LearnerFacts, compiled: Compiled) -> float:
        return 0.0

    def positions(self, facts: LearnerFacts, work: Learned) -> float:
        """Positions of a micro-batch, which the GPUs of a node share."""
        own = work.tokens / max(1.0, work.updates) / max(1, self.fleet.count // NODE)
        return min(float(facts.context * facts.lines), max(own, work.longest))
