"""The execution-time reward for programs: the processor time of a right program, compared with others."""

from collections.abc import Mapping, Sequence

from r1kit.rewards.reward import CheckingTask, Failed, Reward, places_by_group, places_by_task
from r1kit.rewards.rules import check_all
from r1kit.types import Rollout, Verdict


def speed(tasks: Mapping[str, CheckingTask]) -> Reward:
    """Make the execution-time reward for programs: 0 for a wrong one, else reference time / its own time, at
    most 1.

    The reference is the problem's column ``reference_seconds`` where there is one, else the fastest right
    program of the group. The sandbox measures processor time from outside; times below a millisecond count
    as one. Every program is run once more for this."""

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        verdicts: dict[int, Verdict] = {}
        for name, places in places_by_task(rollouts).items():
            if name in tasks:
                verdicts |= dict(
                    zip(places, check_all(tasks[name], [rollouts[place] for place in places]), strict=True)
                )
        values: list[float | None] = [None] * len(rollouts)
        for places in places_by_group(rollouts).values():
            right = {
                place: max(verdicts[place].seconds, 1e-3)
                for place in places
                if place in verdicts and verdicts[place].outcome == "correct"
            }
            reference = rollouts[places[0]].problem.columns.get("reference_seconds") or min(
                right.values(), default=1.0
            )
            for place in places:
                outcome = verdicts[place].outcome if place in verdicts else "unverifiable"
                if outcome == "failed":
                    values[place] = Failed(verdicts[place].reason)
                elif outcome != "unverifiable":
                    values[place] = (
                        min(1.0, max(float(reference), 1e-3) / right[place]) if place in right else 0.0
                    )
        return values

    return reward
