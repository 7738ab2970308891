"""The engine processes of a Ray cluster, and an engine that all of them hold.

Prompts are dealt in whole groups, a few at a time, to whichever process is free, and the later the fewer. A
prompt's completions depend on its seed and the weights, not on the process that samples it or on its
neighbours. So a process that dies, stops or fails is replaced, and its prompts are sampled again: the same
bytes. No prompt is dropped because it takes long."""

import contextlib
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine import ALL, Done
from r1kit.engine.native import default_seeds
from r1kit.model.fingerprint import Fingerprint
from r1kit.runtime.ray_actors import Answer, EngineActor
from r1kit.runtime.ray_cluster import START_S, Cluster
from r1kit.runtime.ray_learner import RayLearner
from r1kit.types import Completion, Sampling

if TYPE_CHECKING:
    from r1kit.runtime.ray_settings import RaySettings

TRIES = 3  # of a prompt, each on another engine process


@dataclass(slots=True, eq=False)
class Member:
    """An engine process: its actor, and its number in the system once it is known (0: not yet)."""

    place: int
    actor: Any
    pid: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """What an engine is doing: the prompts at ``places``, or none while it starts. ``refs``: the answers that
    are waited for, the last one last."""

    member: Member
    places: list[int]
    refs: list[Any]
    limit: float
    began: float = field(default_factory=time.monotonic)

    @property
    def overdue(self) -> bool:
        return time.monotonic() - self.began > self.limit


class EnginePool:
    """The engine processes. Each holds the same engines, by handle, so any of them can take any prompt."""

    def __init__(self, cluster: Cluster, config: "RaySettings") -> None:
        self.cluster, self.config = cluster, config
        self._turn = threading.RLock()  # one call of ``sample`` has all of them
        self._made: dict[int, tuple[str, tuple[Any, ...]]] = {}  # how each engine was made
        self._loaded: dict[int, tuple[int, list[Any]]] = {}  # the version that each has, and its weights
        self._lost_in_a_row = 0
        self._aborted = False
        self._jobs: dict[Any, Job] = {}  # by the reference of the last answer that is waited for
        self.members = [self._start(place) for place in range(config.engines)]

    def make(self, handle: int, method: str, *arguments: Any) -> None:
        """Make an engine in every process. Where that fails there is none."""
        with self._turn:
            self._await_starts()
            self._made[handle] = (method, arguments)
            try:
                self._on_each(
                    lambda actor: actor.do.remote(method, handle, *arguments), self.config.deadline_s
                )
            except R1kitError:
                del self._made[handle]
                raise

    def load(self, handle: int, version: int, refs: Sequence[Any], limit_s: float) -> None:
        """Have every process load the weights that the references stand for, as ``version``."""
        with self._turn:
            self._await_starts()
            self._loaded[handle] = (version, list(refs))
            found = self._on_each(lambda actor: actor.load.remote(handle, version, *refs), limit_s)
            if wrong := sorted({loaded for loaded in found if loaded != version}):
                raise R1kitError(f"an engine has version {wrong[0]} of the weights after loading {version}")

    def drop(self, handle: int) -> None:
        with self._turn:
            self._await_starts()
            del self._made[handle]
            self._loaded.pop(handle, None)
            self._on_each(lambda actor: actor.do.remote("drop", handle), self.config.deadline_s)

    def ask(self, method: str, *arguments: Any, limit_s: float | None = None) -> list[Any]:
        """What every process answers to ``method``, those that had to be replaced left out."""
        with self._turn:
            return self._on_each(
                lambda actor: actor.do.remote(method, *arguments), limit_s or self.config.deadline_s
            )

    def abort(self) -> None:
        """End the ``sample`` of another thread; what was begun is dropped."""
        self._aborted = True

    def sample(
        self, handle: int, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int],
        done: Done | None,
    ) -> list[list[Completion]]:  # fmt: skip
        """The completions of every prompt. Engines that are lost are replaced, and their prompts are sampled
        again. Raises what an engine says is wrong with a prompt, and R1kitError where engines are lost again
        and again."""
        found: dict[int, list[Completion]] = {}
        waiting, tries = deque(range(len(prompts))), Counter[int]()

        def begin(member: Member) -> None:
            count = self._portion(len(waiting), sampling.n)
            places = [waiting.popleft() for _ in range(count)]
            tries.update(places)
            given = [prompts[place] for place in places], sampling, [seeds[place] for place in places]
            ref = member.actor.do.remote("sample", handle, *given)
            self._jobs[ref] = Job(member, places, [ref], self.config.deadline_s)

        with self._turn, self._finishing():
            self._aborted = False
            while len(found) < len(prompts):
                if self._aborted:
                    raise R1kitError("the sampling was aborted; the same command continues the run")
                busy = {job.member for job in self._jobs.values()}
                for member in self.members:
                    if waiting and member not in busy:
                        begin(member)
                for job, answer in self._ended():
                    if answer[0] == "error":
                        raise answer[1]
                    if answer[0] != "result":
                        waiting.extendleft(reversed(job.places))
                        self._replace(job, answer, max((tries[place] for place in job.places), default=0))
                    elif job.places:
                        self._lost_in_a_row = 0
                        completed = dict(zip(job.places, answer[1], strict=True))
                        found.update(completed)
                        if done is not None:
                            done(completed)
                if done is not None:
                    done({})
        return [found[place] for place in range(len(prompts))]

    def _portion(self, left: int, n: int) -> int:
        """How many prompts the next engine gets: half of its share of what is left, so that all end at about
        the same time, and no more than it samples at once."""
        at_once = max(1, self.config.batch_rows // n)
        return max(1, min(left, at_once, -(-left // (2 * len(self.members)))))

    def _ended(self) -> list[tuple[Job, Answer]]:
        """The jobs that have ended since the last call, waiting a moment for one, each with its last answer
        or with the first that is no result; those past their deadline are lost."""
        found: list[tuple[Job, Answer]] = []
        for ref in self.cluster.ready(list(self._jobs)):
            job = self._jobs.pop(ref)
            answers = [self.cluster.answer(one, START_S) for one in job.refs]
            if not job.places and answers[0][0] == "result":
                _, job.member.pid, _ = answers[0][1]
            found.append((job, next((one for one in answers if one[0] != "result"), answers[-1])))
        for ref, job in list(self._jobs.items()):
            if job.overdue:
                del self._jobs[ref]
                self.cluster.stacks(job.member.pid, f"engine {job.member.place}")
                found.append((job, ("lost", f"it has not answered for {job.limit:g} s (stacks above)")))
        return found

    @contextlib.contextmanager
    def _finishing(self) -> Iterator[None]:
        """After an exception, replace the engines that are still at work on what is no longer wanted."""
        try:
            yield
        except BaseException:
            for ref, job in list(self._jobs.items()):
                if job.places:
                    del self._jobs[ref]
                    self.cluster.end(job.member.actor, job.member.pid)
                    self.members[job.member.place] = self._start(job.member.place)
            raise

    def _on_each(self, call: Callable[[Any], Any], limit_s: float) -> list[Any]:
        """Call every engine and wait. One that is lost is replaced: the new one is made as ``_made`` and
        ``_loaded`` say, which the caller has brought up to date before."""
        self._await_starts()
        refs = [(member, call(member.actor)) for member in self.members]
        found, end = [], time.monotonic() + limit_s
        for member, ref in refs:
            kind, content = self.cluster.answer(ref, max(0.1, end - time.monotonic()))
            if kind == "error":
                raise content
            if kind == "result":
                found.append(content)
            else:
                self._replace(Job(member, [], [], limit_s), (kind, content))
        self._await_starts()
        return found

    def _await_starts(self) -> None:
        while self._jobs:
            for job, answer in self._ended():
                if answer[0] == "error":
                    raise answer[1]
                if answer[0] != "result":
                    self._replace(job, answer)

    def _replace(self, job: Job, answer: Answer, tries: int = 0) -> None:
        """Start another engine in the place of a lost one. Raises R1kitError where too many were lost without
        a completion in between, or one of its prompts was begun ``TRIES`` times."""
        member, (kind, why) = job.member, answer
        self._lost_in_a_row += 1
        self.cluster.end(member.actor, member.pid)
        what = f"engine {member.place} (process {member.pid or 'not known'}) was lost"
        if tries >= TRIES or self._lost_in_a_row > TRIES * len(self.members):
            cause = f"its prompts were begun {tries} times" if tries >= TRIES else "so were those before it"
            raise R1kitError(f"{what}, and {cause}, so it is not replaced: {why}")
        last = str(why).strip().splitlines()[-1] if kind == "broken" else why
        again = f", and its {len(job.places)} prompts are sampled again" if job.places else ""
        print(f"r1kit: warning: {what}: {last}. It is replaced{again}", file=sys.stderr, flush=True)
        self.members[member.place] = self._start(member.place)

    def _start(self, place: int) -> Member:
        """Begin to start an engine process with everything that the others hold."""
        member = Member(place, self.cluster.actor(EngineActor, self.config, self.config.deadline_s))
        do, load = member.actor.do, member.actor.load
        refs = [do.remote("facts")]
        refs += [do.remote(method, handle, *arguments) for handle, (method, arguments) in self._made.items()]
        refs += [load.remote(handle, version, *given) for handle, (version, given) in self._loaded.items()]
        self._jobs[refs[-1]] = Job(member, [], refs, START_S)
        return member

    def close(self) -> None:
        for member in self.members:
            self.cluster.end(member.actor, member.pid)


class RayEngine:
    """An engine that every process of the pool holds. ``learner``: whose weights it gets; None where it
    samples from a finished model. ``version`` is that of the last hand-over."""

    def __init__(self, pool: EnginePool, handle: int, learner: RayLearner | None) -> None:
        self.pool, self.handle, self.learner = pool, handle, learner
        self.version = 0
        self.can: frozenset[str] = frozenset.intersection(ALL, *pool.ask("can", handle))

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling,
        seeds: Sequence[int] | None = None, done: Done | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        seeds = list(seeds) if seeds is not None else default_seeds(sampling.seed, len(prompts))
        if len(seeds) != len(prompts):
            raise R1kitError(f"{len(prompts)} prompts came with {len(seeds)} seeds: give one seed per prompt")
        return self.pool.sample(self.handle, prompts, sampling, seeds, done)

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        """The tokens of one completion, once it is complete."""
        (group,) = self.generate([prompt], sampling, [seed])
        yield from group[0].token_ids.tolist()

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        raise R1kitError("an engine on Ray gets its weights by runtime.hand_over")

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        found = self.pool.ask("call", self.handle, "examine", token_ids, temperature)
        return [one for examinations in found for one in examinations]

    def health(self, timeout_s: float) -> str:
        """ "" where all processes answer; those that do not are replaced."""
        lost = self.pool.config.engines - len(self.pool.ask("facts", limit_s=timeout_s))
        return (
            f"{lost} engine processes did not answer within {timeout_s:g} s and were replaced" if lost else ""
        )

    def abort(self) -> None:
        self.pool.abort()

    def close(self) -> None:
        """Nothing: ``release`` of the runtime frees it."""
