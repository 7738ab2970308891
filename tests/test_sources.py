"""What users bring: rows of JSON Lines, with errors that name file and line."""

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest

from r1kit.config import R1kitError
from r1kit.data.sources import blend, pairs, read_jsonl, texts, write_jsonl

ROWS = [{"prompt": f"p{i}", "completion": f"c{i}", "text": f"t{i}", "n": i} for i in range(6)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_rows_are_read_with_their_line_numbers_blank_lines_left_out(file: Path) -> None:
    file.write_text("\n" + file.read_text().replace("\n", "\n\n"))
    assert list(read_jsonl(file)) == [(2 + 2 * i, row) for i, row in enumerate(ROWS)]
    assert pairs(file) == [(f"p{i}", f"c{i}") for i in range(6)]


def test_a_compressed_file_and_one_with_a_byte_order_mark_read_alike(file: Path, tmp_path: Path) -> None:
    compressed, marked = tmp_path / "rows.jsonl.gz", tmp_path / "marked.jsonl"
    compressed.write_bytes(gzip.compress(file.read_bytes()))
    marked.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert list(read_jsonl(compressed)) == list(read_jsonl(marked)) == list(read_jsonl(file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "a"', r"rows\.jsonl:7: not JSON .*correct or remove the line"),
        (b"[1, 2]", r"rows\.jsonl:7: a row must be an object .* not list"),
        (b'"text"', r"rows\.jsonl:7: a row must be an object .* not str"),
        (b'{"prompt": "\xff"}', r"rows\.jsonl:7: not UTF-8 .*convert the file"),
        (
            b'{"prompt": "a", "text": 1}',
            r"rows\.jsonl:7: column 'completion' is missing or not a text; the row has: prompt, text",
        ),
        (b'{"prompt": null, "completion": "a"}', r"rows\.jsonl:7: column 'prompt' is missing or not a text"),
        (b'{"prompt": true, "completion": "a"}', r"rows\.jsonl:7: column 'prompt' is missing or not a text"),
        (
            b'{"prompt": "\\ud800", "completion": "a"}',
            r"rows\.jsonl:7: column 'prompt' holds half a character",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(file: Path, line: bytes, message: str) -> None:
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(R1kitError, match=message):
        pairs(file)


def test_a_file_that_is_not_there_or_torn_is_an_error_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(R1kitError, match="no such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:40])
    with pytest.raises(R1kitError, match="not a whole gzip file"):
        list(read_jsonl(torn))


def test_documents_are_endless_epochs_of_all_rows_each_in_its_own_order(file: Path) -> None:
    stream = list(islice(texts([file, file], ["text", "n"], 3), 48))
    expected = sorted(f"t{i}\n{i}" for i in range(6)) * 2
    assert all(sorted(stream[start : start + 12]) == sorted(expected) for start in range(0, 48, 12))
    assert len({tuple(stream[start : start + 12]) for start in range(0, 48, 12)}) == 4
    assert (
        stream
        == list(islice(texts([file, file], ["text", "n"], 3), 48))
        != list(islice(texts([file, file], ["text", "n"], 4), 48))
    )
    empty = file.with_name("empty.jsonl")
    empty.write_text("\n")
    with pytest.raises(R1kitError, match=r"no rows in .*empty\.jsonl"):
        next(texts([empty], ["text"], 0))


def test_sources_are_blended_by_weight(file: Path) -> None:
    def forever(text: str):  # type: ignore[no-untyped-def]
        while True:
            yield text

    drawn = list(islice(blend([(3.0, forever("a")), (1.0, forever("b"))], 1), 2000))
    assert 0.71 < drawn.count("a") / 2000 < 0.79
    assert drawn == list(islice(blend([(3.0, forever("a")), (1.0, forever("b"))], 1), 2000))
    assert list(islice(blend([(1.0, iter("xyz"))], 1), 3)) == ["x", "y", "z"]


def test_what_is_written_is_read_back_and_replaces_the_file_whole(file: Path) -> None:
    rows = [{"prompt": "计算 \n \u2028", "completion": "\\boxed{1}"}]
    write_jsonl(file, rows)
    assert [row for _, row in read_jsonl(file)] == rows
    assert [entry.name for entry in file.parent.iterdir()] == ["rows.jsonl"]
