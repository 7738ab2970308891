"""A few broken files of every kind: named errors, no traceback, no hang (benchmarks/broken_files.py has
hundreds of each)."""

import importlib.util
import random
import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "benchmarks" / "broken_files.py"
SPEC = importlib.util.spec_from_file_location("broken_files", FILE)
assert SPEC is not None and SPEC.loader is not None
BROKEN = importlib.util.module_from_spec(SPEC)
sys.modules["broken_files"] = BROKEN
SPEC.loader.exec_module(BROKEN)


def test_good_files_are_read_and_broken_ones_refused_by_name(tmp_path):
    BROKEN.good_folder(tmp_path)
    kinds = BROKEN.kinds()
    assert len(kinds) >= 10
    for kind in kinds:
        assert BROKEN.try_reader(kind, tmp_path / kind.name) == ("read", "")
        count = 2 if kind.name.endswith(".jinja") else 8
        counts, wrong = BROKEN.try_kind(kind, tmp_path, count, 1, 0)
        assert not wrong, "\n".join(wrong)
        assert counts["refused"] > 0 and counts["read"] + counts["refused"] == count


def test_the_same_seed_breaks_a_file_in_the_same_way():
    good = b'{"prompt": "a", "answer": "b"}\n' * 4
    one, same, other = (BROKEN.broken(good, "x.jsonl", random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != good and one != other


def test_a_reader_that_raises_something_else_is_counted_as_wrong(tmp_path):
    (tmp_path / "x").write_text("good")

    def careless(path):
        raise KeyError("sha256")

    kind = BROKEN.Kind("x", careless, lambda path: [])
    counts, wrong = BROKEN.try_kind(kind, tmp_path, 3, 0, 0)
    assert counts["unnamed"] == 3 and len(wrong) == 3 and "KeyError" in wrong[0]
