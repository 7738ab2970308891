"""The record table: what counts as an entry, and the row that is written."""

import subprocess
from pathlib import Path

import pytest
import record
from record import Entry, RefusedError

ROOT = Path(__file__).parents[1]


def entry(pass_1: float, cpu_s: float = 590.4) -> Entry:
    return Entry(pass_1, 0.0123, cpu_s, "recipes/record.yaml", 0, "abc1234", "2 cores, X", "2026-11-27")


def test_a_row_has_what_the_table_has() -> None:
    assert entry(0.5).row() == (
        "| 0.500 ± 0.012 | 590 | `recipes/record.yaml` | 0 | abc1234 | 2 cores, X | 2026-11-27 |\n"
    )
    assert entry(0.5).row().count(" | ") == record.HEAD.splitlines()[0].count(" | ")


def test_entries_are_sorted_and_take_the_place_of_not_measured() -> None:
    before, _, rest = record.PAGE.read_text(encoding="utf-8").partition(record.BEGIN)
    page = f"{before}{record.BEGIN}\n{record.HEAD}{record.NONE}{record.END}{rest.partition(record.END)[2]}"
    assert "not measured yet" in page
    one = record.written(page, entry(0.4))
    assert "not measured yet" not in one
    two = record.written(record.written(one, entry(0.6)), entry(0.5))
    scores = [line.split()[1] for line in two.splitlines() if line.startswith("| 0.")]
    assert (
        scores == ["0.600", "0.500", "0.400"]
        and two.partition("## The rules")[2] == page.partition("## The rules")[2]
    )
    with pytest.raises(RefusedError, match="no <!-- entries"):
        record.written("# A page", entry(0.5))


def test_the_budget_counts_and_a_folder_has_to_be_new(tmp_path: Path) -> None:
    record.check(tmp_path, 600.0)
    with pytest.raises(RefusedError, match="601 CPU-seconds are more than the budget of 600"):
        record.check(tmp_path, 600.6)
    record.check(tmp_path / "new", None)
    with pytest.raises(RefusedError, match="there already"):
        record.check(tmp_path, None)


def test_processor_time_of_processes_below_is_counted() -> None:
    before = record.child_seconds()
    work = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(8_000_000))'])"
    subprocess.run(["python3", "-c", work], check=True)
    assert record.child_seconds() - before > 0.05  # processor time, not the clock's


def test_changes_that_are_not_committed_are_refused(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    assert len(record.commit_of(tmp_path, clean=True)) >= 7
    (tmp_path / "file").write_text("2")
    with pytest.raises(RefusedError, match="not committed"):
        record.commit_of(tmp_path, clean=True)
    assert record.commit_of(tmp_path, clean=False)


@pytest.mark.slow
def test_a_tiny_run_writes_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "record.md"
    page.write_text(record.PAGE.read_text(encoding="utf-8"))
    assert record.main(["--tiny", "--page", str(page), "--out", str(tmp_path / "run")]) == 0
    row = capsys.readouterr().out
    assert row in page.read_text() and "stages.pretrain.tokens=4000" in row and "| 0.000 ±" in row
    assert record.main(["--tiny", "--page", str(page), "--out", str(tmp_path / "run")]) == 1
    assert "there already" in capsys.readouterr().err


def test_a_tiny_run_is_no_entry() -> None:
    with pytest.raises(SystemExit):
        record.main(["--tiny"])
