"""Programs shared out over machines: the verdicts of one machine, in order, also where a machine is lost."""

from collections.abc import Iterator, Sequence

import pytest

from r1kit.config import R1kitError
from r1kit.sandbox import Job, nodes, run_jobs
from r1kit.sandbox.nodes import Answer, shares
from r1kit.types import Verdict

TESTS = [{"args": [2], "expected": 4}]
PROGRAMS = [f"def f(x):\n    return x * {factor}" for factor in (2, 3, 2, 2, 5, 2, 7)]
JOBS = [Job(program, TESTS, "function", "f") for program in PROGRAMS]
OUTCOMES = ["correct", "wrong", "correct", "correct", "wrong", "correct", "wrong"]


class Machine:
    """A machine of another size that answers with marked verdicts, is lost, or fails."""

    def __init__(self, size: int, fate: str = "") -> None:
        self.size, self.fate = size, fate
        self.given: list[Job] = []

    def begin(self, jobs: Sequence[Job]) -> Answer:
        self.given += jobs

        def wait() -> list[Verdict] | None:
            if self.fate == "raise":
                raise R1kitError("no sandbox there")
            if self.fate == "lost":
                return None
            return [Verdict("failed", f"{self.size}: {job.program[-1]}") for job in jobs]

        return wait


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    found = [Machine(1000), Machine(3000)]
    nodes.register(found)
    yield found
    nodes.unregister(found)


@pytest.mark.parametrize(("count", "sizes"), [(7, [2, 1]), (0, [1, 2, 3]), (1, [1, 1]), (100, [3, 0, 5])])
def test_shares_are_all_jobs_once_in_order_and_in_proportion(count: int, sizes: list[int]) -> None:
    found = shares(count, sizes)
    assert [i for share in found for i in share] == list(range(count))
    for share, size in zip(found, sizes, strict=True):
        assert abs(len(share) - count * size / sum(sizes)) < 1


def test_verdicts_come_in_the_order_of_the_jobs_whoever_ran_them(machines: list[Machine]) -> None:
    jobs = [Job(f"{number}", TESTS, "function", "f") for number in range(9)]
    found = run_jobs(jobs)
    assert [verdict.reason for verdict in found] == [
        f"{machine.size}: {job.program[-1]}" for machine in machines for job in machine.given
    ]
    assert [job for machine in machines for job in machine.given] == jobs  # this one is too small for a share
    assert len(machines[1].given) > 2 * len(machines[0].given)


def test_the_share_of_a_machine_that_is_lost_is_run_here(machines: list[Machine]) -> None:
    machines[0].fate = machines[1].fate = "lost"
    assert [verdict.outcome for verdict in run_jobs(JOBS)] == OUTCOMES
    assert sum(len(machine.given) for machine in machines) == len(JOBS)
    machines[1].fate = "raise"
    with pytest.raises(R1kitError, match="no sandbox there"):
        run_jobs(JOBS)


def test_a_machine_that_is_no_longer_registered_gets_nothing(machines: list[Machine]) -> None:
    nodes.unregister(machines)
    assert nodes.registered() == []
    assert [verdict.outcome for verdict in run_jobs(JOBS)] == OUTCOMES
    assert not machines[0].given and not machines[1].given
