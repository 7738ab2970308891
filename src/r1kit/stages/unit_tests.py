"""Unit tests written by a model (DeepSeek-R1, Nature version, supplement B.3.1: test cases for code without them).

A model writes inputs for a problem. What the right output is, is never asked of it: known solutions (or several solutions that were
sampled independently) are run on the inputs. Two filters, as in the paper: an input is kept where the solutions agree on its
result, and a problem is kept where its tests reject every program that is known to be wrong.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from r1kit.config import R1kitError
from r1kit.jsonl import read_jsonl, write_jsonl
from r1kit.rewards import complete_chat
from r1kit.sandbox import results_of, run_programs
from r1kit.seeds import derive_seed
from r1kit.stages.policy import Talk, model_of, report, sample
from r1kit.stages.stage import Context, Stage
from r1kit.types import Problem, Sampling

REQUEST = (
    "Write inputs that test a solution of the problem below: usual, small, large and degenerate ones. Reply with one JSON list of "
    "argument lists and nothing else; [[1, 2], [3, 4]] are two calls of a function with two arguments.\n\nFunction: {name}\nProblem: {prompt}"
)


class UnitTests(Stage):
    """Read ``problems`` (rows: prompt, entry_point, solutions, wrong?), and write data.jsonl with ``tests`` for those that passed both filters.

    The writer is the model of ``init``, or ``endpoint`` with ``model`` where one is named. ``agreement``: the share of the
    solutions that must give the same result (1.0 for solutions known to be right, 0.6 for sampled ones).
    """

    stage: Literal["unit_tests"] = "unit_tests"
    problems: str
    init: str = "@sft"
    endpoint: str = ""
    model: str = ""
    samples: int = Field(2, ge=1)
    agreement: float = Field(1.0, gt=0.5, le=1.0)
    least_tests: int = Field(3, ge=1)
    most_tests: int = Field(20, ge=1)
    time_limit_s: float = Field(2.0, gt=0)
    temperature: float = 1.0
    max_tokens: int = 512
    talk: Talk = Talk()

    def run(self, ctx: Context) -> None:
        """Write data.jsonl and report.json."""
        rows = [row for _, row in read_jsonl(ctx.path(self.problems))]
        for number, row in enumerate(rows, start=1):
            missing = {"prompt", "entry_point", "solutions"} - row.keys()
            if missing:
                lacks = ", ".join(sorted(missing))
                raise R1kitError(f"{self.problems}: row {number} lacks {lacks}; a row holds prompt, entry_point, solutions and wrong")
        kept = []
        for row, replies in zip(rows, self._replies(ctx, rows), strict=True):
            inputs = [arguments for reply in replies for arguments in read_inputs(reply)]
            tests = agreed_tests(row["solutions"], inputs, row["entry_point"], self.agreement, self.time_limit_s)[: self.most_tests]
            if len(tests) >= self.least_tests and rejects_all(tests, row.get("wrong", []), row["entry_point"], self.time_limit_s):
                kept.append({**row, "tests": tests})
        write_jsonl(ctx.out / "data.jsonl", kept)
        ctx.log.info(f"{len(kept)} of {len(rows)} problems have tests that their solutions agree on and that wrong programs fail")
        report(ctx, problems=len(rows), kept=len(kept), tests=sum(len(row["tests"]) for row in kept))

    def _replies(self, ctx: Context, rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        requests = [REQUEST.format(name=row["entry_point"], prompt=row["prompt"]) for row in rows]
        if self.endpoint:
            return [[self._ask(request, number) for number in range(self.samples)] for request in requests]
        model = model_of(ctx.path(self.init))
        engine = ctx.runtime.engine(model)
        problems = [Problem(f"tests-{number}", "unit_tests", request, None) for number, request in enumerate(requests)]
        sampling = Sampling(self.samples, self.temperature, max_tokens=self.max_tokens)
        groups = sample(engine, self.talk.chat(model), problems, sampling, derive_seed(ctx.seed, "tests"))
        ctx.runtime.release(engine)
        return [[rollout.answer or "" for rollout in group] for group in groups]

    def _ask(self, request: str, number: int) -> str:
        messages = [{"role": "user", "content": request}]
        body = {"model": self.model, "messages": messages, "temperature": self.temperature, "max_tokens": self.max_tokens, "seed": number}
        return complete_chat(self.endpoint, body, "OPENAI_API_KEY", 120.0).rpartition("</think>")[2]


def read_inputs(reply: str) -> list[list[Any]]:
    """The argument lists in a reply: its outermost JSON list of lists; none where it holds no such list."""
    begin, end = reply.find("["), reply.rfind("]")
    try:
        inputs = json.loads(reply[begin : end + 1])
    except (ValueError, RecursionError):
        return []
    return [arguments for arguments in inputs if isinstance(arguments, list)] if isinstance(inputs, list) else []


def agreed_tests(
    solutions: Sequence[str], inputs: Sequence[Sequence[Any]], entry_point: str, agreement: float, time_limit_s: float = 2.0
) -> list[dict[str, Any]]:
    """The first filter: inputs on which at least the share ``agreement`` of the solutions give the same plain result, as tests."""
    different = [json.loads(text) for text in dict.fromkeys(json.dumps(arguments) for arguments in inputs)]
    # One input a run: an input that a solution fails on says nothing about the next.
    results = [[results_of(solution, [arguments], entry_point, time_limit_s=time_limit_s)[0] for solution in solutions] for arguments in different]
    tests = []
    for arguments, found in zip(different, results, strict=True):
        result, votes = Counter(found).most_common(1)[0] if found else (None, 0)
        # A value that JSON cannot hold (a tuple, a set) would not survive the data file.
        if result is not None and votes >= agreement * len(solutions) and b"{" not in result:
            tests.append({"args": arguments, "expected": json.loads(result)})
    return tests


def rejects_all(tests: Sequence[Mapping[str, Any]], wrong: Sequence[str], entry_point: str, time_limit_s: float = 2.0) -> bool:
    """The second filter: whether the tests reject every program that is known to be wrong."""
    verdicts = run_programs([(program, tests) for program in wrong], entry_point=entry_point, time_limit_s=time_limit_s)
    return all(verdict.outcome == "wrong" for verdict in verdicts)
