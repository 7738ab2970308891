"""The comparison with math-verify: who is right is what a label or a recorded decision says."""

import gzip
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
agreement = pytest.importorskip("agreement")

ALIKE = agreement.Case("number", "5", "\\boxed{5}", True)
DIFFERENT = ("10", "\\boxed{x+y=10}")  # math-verify takes the right side of the equation


@pytest.fixture
def compare(tmp_path, monkeypatch):
    def run(cases, judged=()):
        monkeypatch.setattr(agreement, "SETS", {"own": lambda data: iter(cases)})
        monkeypatch.setattr(agreement, "ROWS", tmp_path / "rows.jsonl.gz")
        monkeypatch.setattr(agreement, "JUDGED", tmp_path / "judged.jsonl")
        (tmp_path / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged))
        left = agreement.agreement(tmp_path)
        lines = gzip.decompress((tmp_path / "rows.jsonl.gz").read_bytes()).decode().splitlines()
        rows = [json.loads(line) for line in lines]
        return left, [row["right"] for row in rows]

    return run


def test_a_label_says_who_is_right(compare):
    assert compare([ALIKE]) == (0, [])
    assert compare([ALIKE, agreement.Case("equation", *DIFFERENT, False)]) == (0, ["r1kit"])
    assert compare([ALIKE, agreement.Case("equation", *DIFFERENT, True)]) == (1, ["math-verify"])


def test_without_a_label_a_recorded_decision_says_it_and_a_new_disagreement_is_not_yet_judged(compare):
    case = agreement.Case("equation", *DIFFERENT, None)
    row = {"gold": "10", "answer": "x+y=10", "why": "an equation in two unknowns is no number"}
    assert compare([case]) == (1, ["not yet judged"])
    assert compare([case], [{**row, "same": False}]) == (0, ["r1kit"])
    assert compare([case], [{**row, "same": True}]) == (1, ["math-verify"])
