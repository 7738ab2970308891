"""Where the public data sets are, for tests that need them: the folder that the environment variable
R1KIT_DATA names, else data/ of the clone, else ../shared/data. A test without its file is skipped."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = (ROOT / "data", ROOT.parent / "shared" / "data")

named = os.environ.get("R1KIT_DATA")
DATA = Path(named) if named else next((p for p in PLACES if (p / "gsm8k_train.jsonl").is_file()), PLACES[-1])
