"""Plain English: words that were a private dialect stay out of the source and of the pages listed here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/r1kit"

# Extended as packages are put into plain words, until it is all of the source.
PLAIN = sorted(
    [
        *(SOURCE / "commands").glob("*.py"),
        *(SOURCE / "recipe").glob("*.py"),
        *(SOURCE / "runs").glob("*.py"),
        *(
            SOURCE / f"{name}.py"
            for name in ("__init__", "config", "files", "interruption", "jsonl", "log", "records")
        ),
        *(SOURCE / f"{name}.py" for name in ("seeds", "user_code", "watchdog")),
    ]
)
WORDS = re.compile(
    r"\b(told|tells?|nobody|heed(s|ed)?|anew|mend(s|ed)?|players?|paid for|rooms?|doors?|house|whom"
    r"|shall|tak(es?|ing) up|took up|falls? back|fell back|beside|as ever|at fault)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("file", PLAIN, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_private_word(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if WORDS.search(line)]
    assert not found, "\n".join(found)


def test_the_list_finds_such_a_word() -> None:
    assert (
        WORDS.search("nobody is told")
        and WORDS.search("Mend the cause")
        and not WORDS.search("amended, besides")
    )
