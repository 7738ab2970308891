"""Unit tests written by a model (DeepSeek-R1, Nature version, supplement B.3.1: test cases for code without
them).

A model writes only the inputs for a problem. The expected output is the result of known solutions, or of
several independently sampled ones. There are two filters, as in the paper: an input is kept if the solutions
agree on its result, and a problem is kept if its tests reject every program known to be wrong."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from r1kit.config import InputError, R1kitError
from r1kit.jsonl import read_jsonl, write_jsonl
from r1kit.sandbox import results_of, run_programs
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, sampling_style
from r1kit.stages.results import report
from r1kit.stages.sampling import Endpoint, ask_endpoint, harvest
from r1kit.stages.stage import Context, Stage, file_errors
from r1kit.types import Problem, Sampling

REQUEST_INPUTS = (
    "Write inputs that test a solution of the problem below: usual, small, large and degenerate ones. "
    "Reply with one JSON list of "
    "argument lists and nothing else; [[1, 2], [3, 4]] are two calls of a function with two "
    "arguments.\n\nFunction: {name}\nProblem: {prompt}"
)
REQUEST_SOLUTION = (
    "Solve the problem below in Python. Reply with one code block that defines {name} and nothing "
    "else.\n\nProblem: {prompt}"
)
TOLERANCE = 1e-6  # of results with floats: right programs may round in another order

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
_PLACES_TRIED = 50  # brackets at which a reply's list may begin


class UnitTests(Stage):
    """Read ``problems`` (rows: prompt, entry_point, solutions?, wrong?), and write data.jsonl with ``tests``
    for those that passed both filters.

    The writer is the model of ``init``, or ``endpoint`` with ``model`` where one is named. ``agreement``: the
    share of the solutions that must give the same result (1.0 for solutions known to be right, 0.6 for
    sampled ones). For a row without solutions the writer samples ``sampled_solutions``, of which at least a
    majority must agree."""

    writes: ClassVar[tuple[str, ...]] = ("data.jsonl", "report.json")

    stage: Literal["unit_tests"] = "unit_tests"
    problems: str
    init: str = "@sft"
    endpoint: str = ""
    model: str = ""
    samples: int = Field(2, ge=1)  # replies of the writer for each problem
    sampled_solutions: int = Field(0, ge=0)
    agreement: float = Field(1.0, gt=0.5, le=1.0)
    least_tests: int = Field(3, ge=1)  # a problem with fewer is left out
    most_tests: int = Field(20, ge=1)  # that are kept of a problem
    time_limit_s: float = Field(2.0, gt=0)  # of each solution on each test
    temperature: float = 1.0
    max_tokens: int = 512
    talk: PromptStyle = PromptStyle()

    def input_errors(self) -> Iterator[InputError]:
        yield from file_errors(("problems",), self.problems, ("prompt", "entry_point"))

    def run(self, ctx: Context) -> None:
        """Write data.jsonl and report.json."""
        rows = self._rows(ctx.path(self.problems))
        inputs = self._replies(ctx, REQUEST_INPUTS, rows, self.samples)
        bare = [row for row in rows if not row.get("solutions")]
        sampled = (
            iter(self._replies(ctx, REQUEST_SOLUTION, bare, self.sampled_solutions))
            if bare and self.sampled_solutions
            else iter(())
        )
        kept = []
        for row, replies in zip(rows, inputs, strict=True):
            solutions = row.get("solutions") or [read_program(reply) for reply in next(sampled, ())]
            asked = [arguments for reply in replies for arguments in read_inputs(reply)]
            tests = agreed_tests(solutions, asked, row["entry_point"], self.agreement, self.time_limit_s)
            chosen = rejecting_tests(
                tests, row.get("wrong", []), row["entry_point"], self.most_tests, self.time_limit_s
            )
            if len(chosen) >= self.least_tests:
                kept.append({**row, "solutions": solutions, "tests": chosen})
        write_jsonl(ctx.out / "data.jsonl", kept)
        unopposed = sum(not row.get("wrong") for row in kept)
        ctx.log.info(
            f"{len(kept)} of {len(rows)} problems have tests that their solutions agree on and that "
            "wrong programs fail"
        )
        report(
            ctx,
            problems=len(rows),
            kept=len(kept),
            tests=sum(len(row["tests"]) for row in kept),
            without_wrong_programs=unopposed,
        )

    def _rows(self, file: Path) -> list[dict[str, Any]]:
        """The problems' rows. Raises R1kitError naming the line that lacks a column."""
        needed = {"prompt", "entry_point"} | (set() if self.sampled_solutions else {"solutions"})
        rows = []
        for number, row in read_jsonl(file):
            if missing := needed - row.keys():
                raise R1kitError(
                    f"{file}:{number}: no column {', '.join(sorted(missing))}; a row has prompt, "
                    "entry_point, solutions (or set sampled_solutions) and wrong"
                )
            rows.append(row)
        return rows

    def _replies(
        self, ctx: Context, request: str, rows: Sequence[Mapping[str, Any]], samples: int
    ) -> list[list[str]]:
        """``samples`` replies to the request about each row."""
        requests = [request.format(name=row["entry_point"], prompt=row["prompt"]) for row in rows]
        kind = "tests" if request is REQUEST_INPUTS else "solutions"
        if self.endpoint:
            endpoint = Endpoint(self.endpoint, self.model, self.temperature, self.max_tokens)
            questions = [(text, number) for text in requests for number in range(samples)]
            replies = ask_endpoint(ctx, kind, endpoint, questions)
            return [replies[place * samples : (place + 1) * samples] for place in range(len(requests))]
        model = ctx.model(self.init)
        engine = ctx.runtime.engine(model)
        problems = [
            Problem(f"{kind}-{number}", "unit_tests", text, None) for number, text in enumerate(requests)
        ]
        sampling = Sampling(samples, self.temperature, max_tokens=self.max_tokens)
        seed = derive_seed(ctx.seed, kind)
        chat = sampling_style(model, self.talk).chat(model)
        groups = harvest(ctx, kind, model, engine, chat, problems, sampling, seed)
        ctx.runtime.release(engine)
        return [[rollout.answer or "" for rollout in group] for group in groups]


def read_inputs(reply: str) -> list[list[Any]]:
    """The argument lists in a reply: its first JSON list that holds lists; none where it holds no such
    list."""
    place = -1
    for _ in range(_PLACES_TRIED):
        place = reply.find("[", place + 1)
        if place < 0:
            break
        try:
            inputs, _ = json.JSONDecoder(parse_constant=_refuse).raw_decode(reply, place)
        except (ValueError, RecursionError):
            continue
        if found := [arguments for arguments in inputs if isinstance(arguments, list)]:
            return found
    return []


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def read_program(reply: str) -> str:
    """The program in a reply: its last code block, or all of it where there is none."""
    blocks: list[str] = _BLOCK.findall(reply)
    return blocks[-1] if blocks else reply


def agreed_tests(
    solutions: Sequence[str],
    inputs: Sequence[Sequence[Any]],
    entry_point: str,
    agreement: float,
    time_limit_s: float = 2.0,
) -> list[dict[str, Any]]:
    """The first filter: inputs on which at least the share ``agreement`` of the solutions give the same plain
    result, as tests."""
    different = [json.loads(text) for text in dict.fromkeys(json.dumps(arguments) for arguments in inputs)]
    by_solution = [
        results_of(solution, different, entry_point, time_limit_s=time_limit_s) for solution in solutions
    ]
    tests = []
    for place, arguments in enumerate(different):
        votes = Counter(results[place] for results in by_solution)
        result, count = votes.most_common(1)[0] if votes else (None, 0)
        if result is None or count < agreement * len(solutions):
            continue
        try:
            expected = _as_json(json.loads(result))
        except ValueError:
            continue
        tests.append(
            {
                "args": arguments,
                "expected": expected,
                **({"tolerance": TOLERANCE} if _has_float(expected) else {}),
            }
        )
    return tests


def _as_json(data: Any) -> Any:
    """A result in the codec's form as the value that a data file can hold. Raises ValueError for others (a
    tuple, a set, nan)."""
    if isinstance(data, list):
        return [_as_json(item) for item in data]
    if not isinstance(data, dict):
        return data
    ((tag, content),) = data.items()
    if tag == "i":
        return int(content, 16)
    if tag == "d" and all(isinstance(key, str) for key, _ in content):
        return {key: _as_json(value) for key, value in content}
    raise ValueError(f"JSON has no {tag}")


def _has_float(value: Any) -> bool:
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return isinstance(value, float) or any(map(_has_float, inner))


def rejecting_tests(
    tests: Sequence[dict[str, Any]],
    wrong: Sequence[str],
    entry_point: str,
    most: int,
    time_limit_s: float = 2.0,
) -> list[dict[str, Any]]:
    """The second filter: at most ``most`` of the tests that together reject every program known to be wrong;
    none where they do not.

    Raises R1kitError if a program could not be judged."""
    if not tests:
        return []
    rejecting: dict[int, None] = {}
    for verdict in run_programs(
        [(program, tests) for program in wrong], entry_point=entry_point, time_limit_s=time_limit_s
    ):
        if verdict.outcome == "failed":
            raise R1kitError(f"a wrong program could not be judged ({verdict.reason}); see r1kit doctor")
        if verdict.outcome != "wrong":
            return []
        rejecting[max(0, len(verdict.tests) - 1)] = (
            None  # a program is stopped at the first test that it fails
        )
    if len(rejecting) > most:
        return []
    places = sorted(
        [
            *rejecting,
            *[place for place in range(len(tests)) if place not in rejecting][: most - len(rejecting)],
        ]
    )
    return [tests[place] for place in places]
