"""A recipe's stages on a machine: memory, tokens, operations, time and price of each phase.

A stage that has run in this folder with this configuration is reported as measured. ``Stage.plan()`` says
what any other stage does (stages/stage.py: StagePlan), at most; ``Assumptions`` say how long completions are
expected to be. What is not known is named, and not guessed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from r1kit.config import ConfigError
from r1kit.planning.learners import LearnerFacts, facts_of
from r1kit.planning.machines import GPUs, Learned, Machine, Sampled, ThisMachine
from r1kit.planning.memory import Memory
from r1kit.planning.operations import (
    decoding_operations,
    forward_operations,
    training_operations,
)
from r1kit.planning.products import Compiled
from r1kit.planning.rates import Fleet, fleet_here, machine_bytes
from r1kit.planning.rows import count_rows, counting
from r1kit.planning.shapes import Shape, shape_of_keys, shape_of_name
from r1kit.recipe.recipe import Recipe
from r1kit.records import stage_folder
from r1kit.runs.survey import survey
from r1kit.stages.stage import Phase, Purpose, SamplingPhase, Stage, StagePlan, TrainingPhase

LONG = 16_384  # max_tokens from which completions are expected to take a fifth of it, and half below
Kind = Literal["sampling", "learning"]
Basis = Literal["measured", "estimate", "unknown"]


@dataclass(frozen=True, slots=True)
class Assumptions:
    """``length``: a completion's mean length as a share of max_tokens (None: half, and a fifth where long
    completions may be had; DeepSeek-R1's supplement, table 5, has means of 5,355 tokens under a limit of
    32,768); ``lengths``: its mean in tokens, by
    stage, of a former run, and ``rows`` how many rows that trained on (former.py). ``prompt``: tokens of a
    prompt. ``price``: of an hour of one GPU, or of this machine."""

    length: float | None = None
    prompt: int = 128
    lengths: Mapping[str, float] = field(default_factory=dict)
    price: float | None = None
    rows: Mapping[str, float] = field(default_factory=dict)

    def mean(self, stage: str, most: float) -> float:
        share = (0.5 if most < LONG else 0.2) if self.length is None else self.length
        return min(most, self.lengths.get(stage, share * most))

    def trained(self, stage: str, part: str, most: float | None) -> float | None:
        """How many rows a stage trains on, of so many at most (None: not known)."""
        found = self.rows.get(f"{stage}/{part}" if part else stage)
        return most if found is None else found if most is None else min(most, found)


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """One phase's cost. ``memory`` is in bytes: of this machine, or of each GPU. ``times``: updates, or calls
    of the engine. Of learning: ``passes`` without gradient, ``positions`` of a micro-batch (on GPUs), and how
    the learner learns. ``shape``: of the model. ``purpose``: what sampling is for (stages/stage.py)."""

    kind: Kind
    model: str
    tokens: float
    operations: float
    seconds: float
    memory: Memory
    times: float = 1.0
    passes: float = 0.0
    positions: float = 0.0
    facts: LearnerFacts | None = None
    shape: Shape | None = None
    purpose: Purpose = "data"


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage's cost; None where it is not known, and then ``missing`` says what to name. ``basis`` says
    whether ``seconds`` are measured or estimated. ``fits``: whether the memory is there."""

    name: str
    parameters: float | None
    active_parameters: float | None
    tokens: float | None
    sampled_tokens: float | None
    steps: float | None
    memory_mb: float | None
    seconds: float | None
    basis: Basis
    operations: float | None = None
    gpu_hours: float | None = None
    price: float | None = None
    fits: bool | None = None
    phases: tuple[PhaseCost, ...] = ()
    missing: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Everything that was counted; the models' and learners' own numbers are the recipe's."""
        plain = tuple(replace(phase, facts=None, shape=None) for phase in self.phases)
        found = asdict(replace(self, phases=plain))
        for phase in found["phases"]:
            del phase["facts"], phase["shape"]
        return found


@dataclass(frozen=True, slots=True)
class Overrides:
    """Other values than the recipe's, to find out what fits (fit.py)."""

    max_tokens: int | None = None
    lines: int | None = None
    rank: int | None = None
    checkpointing: bool | None = None
    weights: float | None = None
    moment: float | None = None

    def facts(self, facts: LearnerFacts) -> LearnerFacts:
        found = {**asdict(facts)}
        for name in ("lines", "rank", "checkpointing", "weights", "moment"):
            value = getattr(self, name)
            found[name] = found[name] if value is None else value
        if self.max_tokens is not None:
            found["context"] = min(found["context"], max(256, 2 * self.max_tokens))
        return LearnerFacts(**found)

    def longest(self, most: float) -> float:
        return most if self.max_tokens is None else min(most, float(self.max_tokens))


def machine_of(recipe: Recipe, fleet: Fleet | None) -> Machine | None:
    """The GPUs that are named, else this machine with the recipe's processes, or its GPU where the recipe
    asks for one; None where there is none that the table knows."""
    runtime = recipe.runtime
    on_gpu = str(getattr(runtime, "device", "cpu")) != "cpu"
    fleet = fleet or (fleet_here() if on_gpu else None)
    if (
        fleet is not None
    ):  # r1kit's own engine runs on one GPU; for more an engine without its limit is assumed
        return GPUs(fleet, getattr(runtime, "batch_rows", None) if fleet.count == 1 else None)
    if on_gpu:
        return None
    return ThisMachine(
        runtime.resolved_processes(), machine_bytes(), getattr(runtime, "threads", 1),
        getattr(runtime, "batch_rows", 512), getattr(runtime, "engine_precision", "bfloat16"),
        engines=getattr(runtime, "engines", 0),
    )  # fmt: skip


def plan_recipe(
    recipe: Recipe,
    machine: Machine | None,
    assumed: Assumptions = Assumptions(),
    overrides: Overrides = Overrides(),
) -> list[StageCost]:
    """Plan every stage on ``machine`` (None: sizes and tokens only)."""
    planner = _Planner(recipe, machine, assumed, overrides)
    found: list[StageCost] = []
    kept = 0.0  # MB: a process may keep some of what earlier stages have freed (memory.py)
    for standing in survey(recipe):
        cost = planner.stage(standing.stage, done=standing.state == "done")
        if machine is not None and not machine.gpus and cost.basis == "estimate" and cost.memory_mb:
            kept = max(kept, cost.memory_mb)
            cost = replace(cost, memory_mb=kept, fits=kept * 1e6 <= machine.limit)
        found.append(cost)
    return found


def _tokens(phases: Sequence[PhaseCost], kind: Kind, otherwise: float | None) -> float | None:
    """Tokens of the data that a stage samples or learns; what it only looks at does not count."""
    return sum(p.tokens for p in phases if p.kind == kind and p.purpose == "data") or otherwise


class _Planner:
    """Plans one stage after another; a stage's model and data may be those of one before."""

    def __init__(
        self, recipe: Recipe, machine: Machine | None, assumed: Assumptions, overrides: Overrides
    ) -> None:
        self.recipe, self.machine, self.assumed, self.overrides = recipe, machine, assumed, overrides
        self.plans: dict[str, StagePlan] = {}
        self.shapes: dict[str, Shape | None] = {}
        self.sizes: dict[str, tuple[float | None, float | None]] = {}
        self.named: dict[str, tuple[Shape | None, str]] = {}
        self.compiled = Compiled()

    def stage(self, stage: Stage, done: bool) -> StageCost:
        planned = stage.plan()
        missing: list[str] = []
        self.plans[stage.name] = planned
        shape = self.shapes[stage.name] = self._own_shape(stage, planned, missing)
        self.sizes[stage.name] = size = self._size(stage, planned, shape)
        record = stage_folder(self.recipe.run_dir, stage.name).finished() if done else None
        phases = [] if record is not None else self._phases(stage, planned, shape, missing)
        cost = StageCost(
            stage.name, size[0], size[1], _tokens(phases, "learning", planned.tokens),
            _tokens(phases, "sampling", planned.sampled_tokens), planned.steps, None, None, "unknown",
        )  # fmt: skip
        if record is not None:
            peak, seconds = record.peak_rss_mb, record.seconds
            return replace(cost, memory_mb=peak, seconds=seconds, basis="measured", fits=True)
        complete = bool(phases) and len(phases) == len(planned.phases)
        besides = 0.0
        if complete and isinstance(self.machine, ThisMachine):
            models = {
                phase.model: phase.shape for phase in phases if phase.kind == "sampling" and phase.model
            }
            sampled = [shape for shape in models.values() if shape is not None]
            besides = self.machine.besides(sampled, planned.vocabulary is not None)
        cost = replace(cost, missing=tuple(dict.fromkeys(missing)))
        return self._cost(cost, phases, besides if complete else None)

    def _cost(self, cost: StageCost, phases: Sequence[PhaseCost], besides: float | None) -> StageCost:
        """The cost of a stage's phases; ``besides``: further seconds on a CPU, None where phases are
        missing."""
        machine = self.machine
        if machine is None or not phases:
            return cost
        memory = max(phase.memory.total for phase in phases)
        seconds = None
        if besides is not None:
            seconds = sum(phase.seconds for phase in phases) + (0.0 if machine.gpus else besides)
        hours = None if seconds is None else seconds / 3600 * max(1, machine.gpus)
        price = self.assumed.price
        return replace(
            cost,
            memory_mb=memory / 1e6,
            seconds=seconds,
            basis="unknown" if seconds is None else "estimate",
            operations=sum(phase.operations for phase in phases),
            gpu_hours=hours if machine.gpus else None,
            price=None if price is None or hours is None else hours * price,
            fits=memory <= machine.limit,
            phases=tuple(phases),
        )

    def _size(
        self, stage: Stage, planned: StagePlan, shape: Shape | None
    ) -> tuple[float | None, float | None]:
        if planned.parameters is not None:
            return planned.parameters, planned.active_parameters or planned.parameters
        if shape is not None:
            counted = shape.parameters
            if shape.config is not None and shape.config.mtp_depth:
                counted = shape.parameters - _prediction_layer(shape)
            return counted, shape.active
        known = (self.sizes[name] for name in stage.inputs() if name in self.sizes)
        return next((size for size in known if size[0] is not None), (None, None))

    def _own_shape(self, stage: Stage, planned: StagePlan, missing: list[str]) -> Shape | None:
        if planned.model is not None:
            known = (self.shapes.get(name) for name in stage.inputs())
            vocabulary = next((shape.vocabulary for shape in known if shape is not None), None)
            return shape_of_keys(planned.model, planned.vocabulary or vocabulary)
        names = [phase.model for phase in reversed(planned.phases) if phase.model]
        names += [f"@{name}" for name in stage.inputs()]
        return self._shape(names[0], missing) if names else None

    def _shape(self, name: str, missing: list[str]) -> Shape | None:
        """The numbers of the model that a reference or a text names."""
        if name.startswith("@"):
            return self.shapes.get(name[1:].partition("/")[0])
        if name not in self.named:
            self.named[name] = shape_of_name(name)
        shape, remark = self.named[name]
        if remark:
            missing.append(remark)
        return shape

    def _phases(
        self, stage: Stage, planned: StagePlan, own: Shape | None, missing: list[str]
    ) -> list[PhaseCost]:
        if not planned.phases:
            missing.append(f"how it works: {type(stage).__name__}.plan() gives no phases")
            return []
        if self.machine is None:
            missing.append("a GPU: the recipe's runtime.device is not cpu; name one, as in --gpu h100:1")
            return []
        found: list[PhaseCost] = []
        learner = next((facts_of(p.learner) for p in planned.phases if isinstance(p, TrainingPhase)), None)
        facts = None if learner is None else self.overrides.facts(learner)
        engine = Memory()
        for phase in planned.phases:
            shape = self._shape(phase.model, missing) if phase.model else own
            if shape is None:
                continue
            cost = self._phase(stage, phase, shape, facts, engine, missing)
            if cost is None:
                continue
            shared = isinstance(phase, SamplingPhase) and not phase.model
            engine = cost.memory if shared else Memory()
            found.append(self._with_all_held(cost, shape, facts, planned if shared else None))
        return found

    def _with_all_held(
        self, cost: PhaseCost, shape: Shape, facts: LearnerFacts | None, planned: StagePlan | None
    ) -> PhaseCost:
        """A phase's cost with the products that its processes have compiled so far, and, where it samples
        from what the stage ``planned`` trains, with its learners."""
        assert self.machine is not None
        memory = cost.memory
        if facts is not None:
            memory += Memory(program=self.machine.compiled_bytes(shape, facts, self.compiled))
        training = [p for p in planned.phases if isinstance(p, TrainingPhase)] if planned else []
        if training and facts is not None:
            memory += self.machine.held(shape, facts, self._frozen(training[0]), training[0].critics)
        return replace(cost, memory=memory)

    def _phase(
        self, stage: Stage, phase: Phase, shape: Shape, facts: LearnerFacts | None, engine: Memory,
        missing: list[str],
    ) -> PhaseCost | None:  # fmt: skip
        assert self.machine is not None
        try:
            if isinstance(phase, SamplingPhase):
                work = self._sampled(stage.name, phase)
                seconds, memory = self.machine.sampling(shape, facts, work)
                operations = decoding_operations(shape, work.tokens, work.prompt + work.mean / 2)
                return PhaseCost(
                    "sampling", phase.model, work.tokens, operations, seconds, memory, work.calls,
                    shape=shape, purpose=phase.purpose,
                )  # fmt: skip
            learned = self._learned(stage, phase, shape, missing)
            if learned is None or facts is None:
                return None
            seconds, memory = self.machine.learning(shape, facts, learned, engine)
            further, self.compiled = self.machine.compiling(shape, facts, learned, self.compiled)
        except ConfigError as error:
            missing.append(str(error))
            return None
        operations = training_operations(shape, learned.tokens, learned.length, facts.checkpointing)
        operations += learned.passes * forward_operations(shape, learned.tokens, learned.length)
        positions = self.machine.positions(facts, learned) if isinstance(self.machine, GPUs) else 0.0
        return PhaseCost(
            "learning", phase.model, learned.tokens, operations, seconds + further, memory, learned.updates,
            learned.passes, positions, facts, shape,
        )  # fmt: skip

    def _sampled(self, stage: str, phase: SamplingPhase) -> Sampled:
        longest = self.overrides.longest(float(phase.max_tokens))
        mean = min(longest, self.assumed.mean(stage, self._longest(stage, longest)))
        calls, completions = phase.completions / (phase.at_once or phase.completions), phase.completions
        group = phase.group
        if phase.enough is not None:  # a first round of one for each prompt, then as many as are missing
            prompts = completions / group
            group = min(group, math.ceil(phase.enough / (prompts * max(1.0, mean))))
            completions, calls = prompts * group, min(2.0, float(group))
        return Sampled(
            completions, max(1.0, calls), mean, longest, float(self.assumed.prompt), group,
            held=not phase.model, passes=float(phase.purpose == "gate"), most=phase.seconds,
        )  # fmt: skip

    def _longest(self, stage: str, otherwise: float) -> float:
        """The longest completions of a stage's data: what it only looks at may be cut shorter."""
        phases = (p for p in self.plans[stage].phases if isinstance(p, SamplingPhase) and p.purpose == "data")
        most = max((float(phase.max_tokens) for phase in phases), default=otherwise)
        return max(otherwise, self.overrides.longest(most))

    def _learned(
        self, stage: Stage, phase: TrainingPhase, shape: Shape, missing: list[str]
    ) -> Learned | None:
        context, prompt = float(phase.learner.context), float(self.assumed.prompt)
        tokens, length, longest, group = phase.tokens, context, context, 0.0
        most, rows = phase.rows, self.assumed.trained(stage.name, phase.part, phase.rows)
        updates = phase.updates
        if tokens is None and rows is not None and (most is not None or phase.row_tokens):
            longest = self.overrides.longest(float(phase.row_tokens or context))
            length = self.assumed.mean(stage.name, longest)
            shared = self._group(stage.name)
            tokens = rows * (length + prompt / shared) * phase.epochs
            group = shared * length + prompt if shared > 1 else 0.0
            if most and updates and phase.part:  # of a training that ends when its rows do
                updates = max(1.0, updates * rows / most)
        elif tokens is None:
            counted = self._data(stage, phase, shape, missing)
            if counted is None:
                return None
            counted_rows, length = counted
            rows = counted_rows if rows is None else rows
            tokens, longest = rows * length * phase.epochs, min(context, 2 * length)
        tokens = max(1.0, tokens)
        updates = updates or max(1.0, tokens / (phase.batch_tokens or tokens))
        rows = tokens / length if rows is None else rows * phase.epochs
        return Learned(
            tokens, updates, length, min(context, longest + prompt), phase.passes, self._frozen(phase),
            phase.critics, phase.saves, full=phase.tokens is not None, group=group, rows=rows,
            ahead=phase.ahead,
        )  # fmt: skip

    def _frozen(self, phase: TrainingPhase) -> int:
        """Models that a process holds and does not train; on GPUs judges take turns with what learns."""
        return phase.frozen + (phase.judges if isinstance(self.machine, ThisMachine) else 0)

    def _group(self, stage: str) -> int:
        """How many rows share a prompt while learning."""
        phases = (p for p in self.plans[stage].phases if isinstance(p, SamplingPhase))
        return next((p.group for p in phases if p.purpose == "data" and not p.model), 1)

    def _data(
        self, stage: Stage, phase: TrainingPhase, shape: Shape, missing: list[str]
    ) -> tuple[float, float] | None:
        """(Rows, mean tokens of a row) of a phase's files."""
        rows, tokens = 0.0, 0.0
        if not phase.data:
            missing.append(
                "how many rows it trains on, which only the run shows (max_pairs or a file says it)"
            )
            return None
        for name in phase.data:
            if name.startswith("@"):
                source = name[1:].partition("/")[0]
                planned = self.plans.get(source, StagePlan())
                if planned.rows is None or planned.row_tokens is None:
                    missing.append(f"the rows of {name}, which only the run shows")
                    return None
                mean = self.assumed.mean(source, planned.row_tokens) + self.assumed.prompt
                rows, tokens = rows + planned.rows, tokens + planned.rows * mean
                continue
            count = counting(stage, phase.model, self.recipe.stages, shape.vocabulary)
            counted = count_rows(Path(name).expanduser(), count)
            if counted is None:
                missing.append(f"{name}, which is not there")
                return None
            rows, tokens = rows + counted[0], tokens + counted[0] * counted[1]
        return rows, tokens / max(1.0, rows)


def _prediction_layer(shape: Shape) -> float:
    """Parameters of multi-token prediction, which config.json's users leave out when they count."""
    assert shape.config is not None
    without = shape_of_keys({"preset": "mini", **_plain(shape.config), "mtp_depth": 0}, None)
    return shape.parameters - without.parameters


def _plain(config: Any) -> dict[str, Any]:
    return dict(config.model_dump())
