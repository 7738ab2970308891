"""The figures of chaos.py on docs/reliability.md."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from chaos.runs import Tally

BEGIN, END = "<!-- chaos -->", "<!-- /chaos -->"


def table(tallies: Sequence[Tally], seconds: float, seed: int, day: date) -> str:
    """The counts as a table, a row for each tally, and what was measured when."""
    rows = [
        f"| {tally.where} | {tally.done} {tally.what} | {tally.identical} | {tally.recovered} | "
        f"{tally.refused} | {tally.wrong} |"
        for tally in tallies
    ]
    head = [
        "| | | identical | recovered with a warning | refused with a reason | wrong |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(
        [f"Measured {day.isoformat()}, seed {seed}, in {seconds / 60:.0f} minutes.", "", *head, *rows]
    )


def note(tallies: Sequence[Tally], seconds: float, seed: int, page: Path) -> None:
    """Write the figures between the marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(f"{BEGIN}\n")
    text = table(tallies, seconds, seed, date.today())
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
