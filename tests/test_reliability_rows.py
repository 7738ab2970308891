"""Rows that cannot be used: named by file and line; set aside, counted and bounded where the recipe says
so."""

import json
from pathlib import Path

import pytest

from r1kit.config import R1kitError
from r1kit.data.sources import pairs, texts

GOOD = b'{"prompt": "%d+1?", "completion": "2"}\n'
BAD = {
    b'{"prompt": "a", "completion": \n': "not JSON",
    b'{"prompt": "a"}\n': "column 'completion' is missing or not a text; the row has: prompt",
    b'{"prompt": "\xff", "completion": "b"}\n': "not UTF-8",
    b'["a", "b"]\n': "a row must be an object",
    b'{"prompt": "a", "completion": "\\ud800"}\n': "half a character",
    b'{"prompt": null, "completion": "b"}\n': "column 'prompt' is missing or not a text",
    b"[" * 100_000 + b"\n": "not JSON that can be read",
}


def file_with(tmp_path: Path, bad: list[bytes], good: int) -> Path:
    """Bad rows spread among good ones."""
    lines = [GOOD % number for number in range(good)]
    for number, line in enumerate(bad):
        lines.insert(1 + 3 * number, line)
    file = tmp_path / "own.jsonl"
    file.write_bytes(b"".join(lines))
    return file


@pytest.mark.parametrize("line", BAD, ids=BAD.values())
def test_the_first_bad_row_stops_and_is_named(line: bytes, tmp_path: Path) -> None:
    file = file_with(tmp_path, [line], 400)
    with pytest.raises(R1kitError) as error:
        pairs(file)
    assert (
        str(error.value).startswith(f"{file}:2: ")
        and BAD[line] in str(error.value)
        and "bad_rows: quarantine" in str(error.value)
    )
    assert list(tmp_path.iterdir()) == [file]


def test_bad_rows_are_set_aside_with_line_and_reason_and_the_rest_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file_with(tmp_path, list(BAD), 400)
    assert pairs(file, "quarantine") == [(f"{number}+1?", "2") for number in range(400)]
    aside = [json.loads(line) for line in (tmp_path / "own.jsonl.bad.jsonl").read_text().splitlines()]
    assert [row["line"] for row in aside] == [2 + 3 * number for number in range(len(BAD))]
    assert all(reason in row["error"] for row, reason in zip(aside, BAD.values(), strict=True))
    said = (
        f"warning: {file}: {len(BAD)} of {400 + len(BAD)} rows cannot be used and are left out; "
        "own.jsonl.bad.jsonl says why"
    )
    assert said in capsys.readouterr().err
    assert next(texts([file], ["prompt"], 0, "quarantine")).endswith("+1?")


@pytest.mark.parametrize(
    ("good", "bad", "stops"), [(95, 5, False), (94, 6, True), (1, 1, True), (0, 3, True)]
)
def test_more_than_a_twentieth_stops(good: int, bad: int, stops: bool, tmp_path: Path) -> None:
    file = file_with(tmp_path, [next(iter(BAD))] * bad, good)
    if not stops:
        assert len(pairs(file, "quarantine")) == good
        return
    with pytest.raises(
        R1kitError,
        match=rf"{bad} of {good + bad} rows cannot be used, more than 5%; the first: .*own\.jsonl:\d+: "
        r"not JSON",
    ):
        pairs(file, "quarantine")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("completion", ["", "  ", float("nan"), None])
def test_an_empty_completion_is_refused_with_file_and_row(tmp_path, completion):
    file = tmp_path / "sft.jsonl"
    rows = [{"prompt": "1+1?", "completion": "2"}, {"prompt": "2+2?", "completion": completion}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(R1kitError, match=r"sft\.jsonl:2: column 'completion'"):
        pairs(file)
