"""Plain English: words that a reader has to decode stay out of names, docstrings, errors and recipes."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The files that are read. For all files: SCOPE = ("",).
SCOPE = ("",)

# Word -> what to write instead. Names are split at underscores and capitals, so ``tell_fault`` is found too.
WORDS = {
    "told": "reported, said, given",
    "tell": "report, say, return",
    "tells": "reports, says, shows",
    "telling": "reporting",
    "nobody": "no process, no user, unset",
    "heed": "on_poll, check",
    "heeds": "checks",
    "heeded": "checked",
    "anew": "again",
    "mend": "fix",
    "mends": "fixes",
    "mended": "fixed",
    "player": "policy",
    "players": "policies",
    "plays": "samples",
    "played": "sampled",
    "room": "space, budget, package",
    "rooms": "packages",
    "door": "extension point",
    "doors": "extension points",
    "house": "layout, package",
    "beside": "next to, with",
    "whom": "",
    "shall": "should, is to",
    "foretell": "predict",
    "beget": "make",
}
PHRASES = re.compile(
    r"\b(paid for|number was taken|(taken|takes) for right|by all signs|as ever|at fault"
    r"|(take|takes|taken|taking|took) up|(falls?|fell|falling) back)\b"
)

# Text that is data, not prose: sentences of the corpus, word problems, programs, adversarial inputs.
DATA = (
    "data/",
    "runs/",
    "src/r1kit/language.py",
    "src/r1kit/tasks/mathematics/phrases.py",
    "src/r1kit/tasks/miniature/",
    "tests/adversarial/",
    "tests/test_dataset.py",
    "tests/test_mathematics.py",
    "tests/test_plain_english.py",
)
SUFFIXES = (".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".h", ".cpp")


def files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    return [
        name
        for name in listed
        if name.startswith(SCOPE)
        and not name.startswith(DATA)
        and (name.endswith(SUFFIXES) or name == "Makefile" or name.startswith(".ci/"))
        and (ROOT / name).is_file()
    ]


def words_of(text: str) -> set[str]:
    """The lower-case words of a text; a name gives each of its parts."""
    return set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).replace("_", " ").lower()))


def found(text: str) -> list[str]:
    """The words and phrases of a line that are on the list, each word with what to write instead."""
    words = [
        f"{word} (write: {WORDS[word] or 'another sentence'})"
        for word in sorted(words_of(text) & WORDS.keys())
    ]
    return words + [match[0] for match in PHRASES.finditer(text.lower())]


@pytest.mark.parametrize("name", files())
def test_no_line_needs_decoding(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wrong = [f"{name}:{number}: {hits}" for number, line in enumerate(lines, 1) if (hits := found(line))]
    assert not wrong, "\n".join(wrong)


def test_a_word_is_found_in_names_and_sentences_and_only_there() -> None:
    assert found("def tell_fault(player):") == ["player (write: policy)", "tell (write: report, say, return)"]
    assert found("class BesideRoom: ...") == [
        "beside (write: next to, with)",
        "room (write: space, budget, package)",
    ]
    assert found("Mend the cause, what it is paid for") == ["mend (write: fix)", "paid for"]
    assert found("it Fell back as ever") == ["fell back", "as ever"]
    assert found("intelligent recommendation of a bedroom playground besides, tellurium") == []


def test_files_are_read() -> None:
    assert {"src/r1kit/train/grpo.py", "recipes/nano.yaml", "Makefile"} <= set(files())
