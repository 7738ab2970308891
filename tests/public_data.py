"""Where the public data sets are, for tests that need them: the folder that the environment variable
R1KIT_DATA names, else data/ of the clone, else ../shared/data, the first that holds all of them. Without such
a folder the tests are skipped."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = (ROOT / "data", ROOT.parent / "shared" / "data")
FILES = (
    "gsm8k_train.jsonl", "gsm8k_test.jsonl", "math500_test.jsonl", "cmath_test.jsonl", "mbpp.jsonl",
)  # fmt: skip


def holds_all(folder: Path) -> bool:
    return all((folder / file).is_file() for file in FILES)


named = os.environ.get("R1KIT_DATA")
DATA = Path(named) if named else next(filter(holds_all, PLACES), PLACES[-1])
