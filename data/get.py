"""Put the public data files that recipes name into this folder, checked by rows and SHA-256.

    python data/get.py                              # what there is, and what is here already
    python data/get.py gsm8k_train.jsonl math500    # by file, or by the beginning of its name
    python data/get.py gsm8k --from /path/to/files  # from a folder of your own, without network

Needs Python alone; math_train.jsonl also needs `pip install 'r1kit[data]'`. data/README.md has sources and
licences.
"""

import argparse
import hashlib
import io
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RAW = "https://raw.githubusercontent.com"
GSM8K = f"{RAW}/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data"
QWEN = f"{RAW}/QwenLM/Qwen2.5-Math/a45202bd16f1ec06f433442dc1152d0074773465/evaluation/data"
SIMPLE_RL = f"{RAW}/hkust-nlp/simpleRL-reason/cf1c7858bfc145a27aa733e75d930d34f0d318a6/examples"
MBPP = f"{RAW}/google-research/google-research/master/mbpp"


@dataclass(frozen=True, slots=True)
class PublicFile:
    """A file of a public data set: where it is (``url``, or a data set's ``hub`` id with a split), its rows,
    and its SHA-256 (empty where it depends on the version of the package that writes it)."""

    rows: int
    sha256: str = ""
    url: str = ""
    hub: tuple[str, str] = ("", "")


FILES: dict[str, PublicFile] = {
    "gsm8k_train.jsonl": PublicFile(
        7473, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465", f"{GSM8K}/train.jsonl"
    ),
    "gsm8k_test.jsonl": PublicFile(
        1319, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14", f"{GSM8K}/test.jsonl"
    ),
    "math500_test.jsonl": PublicFile(
        500,
        "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
        f"{SIMPLE_RL}/simplelr_math_eval/data/math500/test.jsonl",
    ),
    "aime24_test.jsonl": PublicFile(
        30, "af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac", f"{QWEN}/aime24/test.jsonl"
    ),
    "amc23_test.jsonl": PublicFile(
        40, "43707e1ca784602d8479de24ee8ce36609dbebc46dd152b0b12a46611aa898a4", f"{QWEN}/amc23/test.jsonl"
    ),
    "cmath_test.jsonl": PublicFile(
        600, "e2ceabf05d10b37f207eaebbe8db24dbfc961e1a4f07337d2fc4db42a7f44fdb", f"{QWEN}/cmath/test.jsonl"
    ),
    "mbpp.jsonl": PublicFile(
        974, "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f", f"{MBPP}/mbpp.jsonl"
    ),
    "math_train.jsonl": PublicFile(7500, hub=("DigitalLearningGmbH/MATH-lighteval", "train")),
}

# What recipes name and only you can bring: DeepSeek did not publish its data.
YOURS: dict[str, str] = {
    "pretrain.jsonl": 'documents: {"text": ...}',
    "math.jsonl": 'problems: {"prompt": ..., "answer": ...}; math_train.jsonl is a public beginning',
    "stem.jsonl": 'questions with choices: {"prompt": "... (A) ... (B) ...", "answer": "B"}',
    "logic.jsonl": 'puzzles with an answer that a rule checks: {"prompt": ..., "answer": ...}',
    "general.jsonl": 'general prompts with a written answer: {"prompt": ..., "response": ...}',
    "pairs.jsonl": 'preferences: {"prompt": ..., "chosen": ..., "rejected": ...}',
    "safety.jsonl": 'labelled responses: {"prompt": ..., "response": ..., "safe": true}',
}


class DataError(Exception):
    """A file that cannot be had, or is another one than recipes mean."""


def chosen(names: Sequence[str]) -> list[str]:
    """The files of FILES that ``names`` mean. Raises DataError for a name that means none."""
    found: list[str] = []
    for name in names:
        matching = [file for file in FILES if file == name or file.startswith((f"{name}_", f"{name}."))]
        if not matching and name in YOURS:
            raise DataError(f"data/{name} is yours to bring: JSON Lines of {YOURS[name]}")
        if not matching:
            raise DataError(f"no public file {name!r}; there are: {', '.join(FILES)}")
        found += [file for file in matching if file not in found]
    return found


def check(name: str, content: bytes, files: Mapping[str, PublicFile] = FILES) -> None:
    """Raise DataError where the content has other rows or another SHA-256 than the file that recipes mean."""
    wanted = files[name]
    rows = sum(bool(line.strip()) for line in content.split(b"\n"))
    if rows != wanted.rows:
        raise DataError(f"{name}: {rows} rows instead of {wanted.rows}; it is another file or not complete")
    digest = hashlib.sha256(content).hexdigest()
    if wanted.sha256 and digest != wanted.sha256:
        raise DataError(f"{name}: SHA-256 {digest} instead of {wanted.sha256}; it is another version")


def download(name: str) -> bytes:
    """The file from its source. Raises DataError where it cannot be reached."""
    file = FILES[name]
    if file.url:
        try:
            with urllib.request.urlopen(file.url, timeout=60) as response:
                return bytes(response.read())
        except OSError as error:
            raise DataError(f"{file.url}: {error}; bring the file and use --from FOLDER") from None
    try:
        import datasets
    except ImportError:
        raise DataError(f"{name}: pip install 'r1kit[data]' first, or use --from FOLDER") from None
    identity, split = file.hub
    written = io.BytesIO()
    datasets.load_dataset(identity)[split].to_json(written)
    return written.getvalue()


def copy_from(folder: Path) -> Callable[[str], bytes]:
    """A source that reads the files of a folder."""

    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"{folder / name}: {error.strerror}") from None

    return read


def get(name: str, source: Callable[[str], bytes], folder: Path) -> str:
    """Bring a file into ``folder`` unless the right one is there; return a line about it."""
    target = folder / name
    if target.is_file():
        check(name, target.read_bytes())
        return f"{target}: here already, {FILES[name].rows} rows"
    content = source(name)
    check(name, content)
    partial = target.with_name(f".{name}.tmp")
    partial.write_bytes(content)
    partial.replace(target)
    return f"{target}: {FILES[name].rows} rows"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Put the public data files that recipes name into data/.")
    parser.add_argument("names", nargs="*", help="file names, or how they begin: gsm8k, math500_test.jsonl")
    parser.add_argument(
        "--from", dest="folder", type=Path, help="copy from this folder instead of the network"
    )
    asked = parser.parse_args(words)
    if not asked.names:
        for name, file in FILES.items():
            print(f"{name:20} {file.rows:6} rows  {'here' if (HERE / name).is_file() else 'not here'}")
        return 0
    try:
        for name in chosen(asked.names):
            print(get(name, copy_from(asked.folder) if asked.folder else download, HERE))
    except DataError as error:
        print(f"data/get.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
