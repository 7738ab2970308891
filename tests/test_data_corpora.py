"""Sources at any size: every format as the same rows, shards, continuation at any row, malformed input."""

import gzip
import json
from pathlib import Path

import pytest

from r1kit.config import ConfigError, R1kitError
from r1kit.data.corpora import Position, Source, SourceConfig, drawn_sources
from r1kit.jsonl import DENSE_BYTES

TEXTS = [f"text {i}" for i in range(2500)]


def write(path: Path, texts=TEXTS) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def source(path, **options) -> Source:
    given = [str(one) for one in path] if isinstance(path, list) else str(path)
    return Source("web", SourceConfig(path=given, **options))


def found_texts(records):
    return [record.columns["text"] for record in records]


def as_parquet(path: Path, texts=TEXTS) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=700)
    return path


def as_arrow(path: Path, stream: bool) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.ipc")
    table = pyarrow.table({"text": TEXTS})
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with path.open("wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=900)
    return path


FORMATS = {
    "jsonl": lambda folder: write(folder / "a.jsonl"),
    "gzip": lambda folder: packed(write(folder / "a.jsonl")),
    "parquet": lambda folder: as_parquet(folder / "a.parquet"),
    "arrow file": lambda folder: as_arrow(folder / "a.arrow", stream=False),
    "arrow stream": lambda folder: as_arrow(folder / "a.arrow", stream=True),
    "text": lambda folder: text_file(folder / "a.txt"),
}


def packed(path: Path) -> Path:
    path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    return path.with_suffix(".jsonl.gz")


def text_file(path: Path) -> Path:
    path.write_text("\n".join(TEXTS) + "\n")
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_rows_and_continues_at_any_row(tmp_path, kind):
    web = source(FORMATS[kind](tmp_path), pieces="lines")
    records = list(web.records())
    assert found_texts(records) == TEXTS
    assert [int(record.where.rpartition(":")[2]) for record in records] == list(range(1, 2501))
    for place in (0, 1, 698, 699, 700, 899, 900, 1023, 1024, 2498, 2499):
        assert found_texts(web.records(records[place].after)) == TEXTS[place + 1 :]


@pytest.mark.parametrize("kind", FORMATS)
def test_shards_have_every_row_once(tmp_path, kind):
    web = source(FORMATS[kind](tmp_path), pieces="lines")
    shards = [found_texts(web.records(shard=shard, shards=3)) for shard in range(3)]
    assert all(len(shard) > 800 for shard in shards)
    assert sorted(text for shard in shards for text in shard) == sorted(TEXTS)


def test_several_files_are_read_in_order_and_continue_across_files(tmp_path):
    for name, part in (("b", TEXTS[100:150]), ("a", TEXTS[:100]), ("c", TEXTS[150:200])):
        write(tmp_path / f"{name}.jsonl", part)
    web = source(tmp_path)
    records = list(web.records())
    assert found_texts(records) == TEXTS[:200]
    for place in (0, 98, 99, 100, 149, 198, 199):
        assert found_texts(web.records(records[place].after)) == TEXTS[place + 1 : 200]
    whole = [found_texts(web.records(shard=shard, shards=2)) for shard in range(2)]
    assert whole == [TEXTS[:100] + TEXTS[150:200], TEXTS[100:150]]  # whole files where there are enough
    pattern = source(tmp_path / "[ab].jsonl")
    assert found_texts(pattern.records()) == TEXTS[:150]


def test_the_limit_counts_the_rows_before_a_continuation(tmp_path):
    web = source(write(tmp_path / "a.jsonl"), limit=10)
    records = list(web.records())
    assert found_texts(records) == TEXTS[:10]
    assert found_texts(web.records(records[3].after)) == TEXTS[4:10]


def test_a_text_is_one_document_or_paragraphs_or_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\none\ntwo\n\n\nthree\n")
    assert found_texts(source(path).records()) == ["one\ntwo\n\n\nthree"]
    assert found_texts(source(path, pieces="paragraphs").records()) == ["one\ntwo", "three"]
    assert found_texts(source(path, pieces="lines").records()) == ["one", "two", "three"]


def test_what_a_file_is_taken_for_is_described_and_can_be_said(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "a", "output": "b", "text": "a b"}) + "\n")
    assert source(path).describe() == f"web: {path}, taken for alpaca (instruction, input, output)"
    said = source(path, schema_name="text")
    assert said.describe() == f"web: {path}, taken for text (text, content or raw_content)"
    joined = source(path, fields=["instruction", "output"])
    assert found_texts(joined.records()) == ["a\nb"]


GOOD = [json.dumps({"text": f"good {i}", "id": i}).encode() for i in range(60)]

# name, the bytes of a bad line, the line that is named, what is said
BAD_LINES = [
    ("broken JSON", b'{"text": "a"', r":31: not JSON"),
    ("wrong encoding", '{"text": "é"}'.encode("latin-1"), r":31: not UTF-8"),
    ("null", b'{"text": null}', r":31: column 'text' is missing or not a text"),
    ("nested", b'{"text": {"text": "a"}}', r":31: column 'text' is missing or not a text"),
    ("deeply nested", b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", r":31: not JSON that can be"),
    ("empty text", b'{"text": ""}', r":31: the text is empty"),
    ("no object", b"[1]", r":31: a row must be an object"),
    ("mixed schemas", b'{"question": "a", "answer": "b"}', r":31: the file was taken for text .* question"),
    ("half a character", b'{"text": "\\ud800"}', r":31: column 'text' holds half a character"),
    ("equal keys", b'{"text": "a", "text": "b"}', r":31: not JSON that can be read .*given twice"),
]


@pytest.mark.parametrize(("name", "line", "message"), BAD_LINES, ids=[case[0] for case in BAD_LINES])
def test_a_bad_row_is_refused_or_handed_on_with_its_place(tmp_path, name, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*GOOD[:30], line, *GOOD[30:]]) + b"\n")
    with pytest.raises(R1kitError, match=message):
        list(source(path).records())
    bad = []
    records = list(source(path, bad_rows="quarantine").records(note=bad.append))
    assert found_texts(records) == [f"good {i}" for i in range(60)]
    assert [(one.where, one.source) for one in bad] == [(f"{path}:31", "web")]
    assert len(bad[0].beginning) <= 200


def test_a_line_of_a_hundred_megabytes_is_read_past_without_keeping_it(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b"\n".join(GOOD[:30]) + b'\n{"text": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + b"\n".join(GOOD[30:]) + b"\n")
    bad = []
    records = list(source(path, bad_rows="quarantine").records(note=bad.append))
    assert len(records) == 60 and bad[0].where == f"{path}:31"
    assert "a row of more than 16 MB" in bad[0].fault
    assert found_texts(source(path, bad_rows="quarantine").records(records[35].after)) == [
        f"good {i}" for i in range(36, 60)
    ]


def test_rows_with_an_earlier_id_are_bad_also_after_a_continuation(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*GOOD, b'{"text": "again", "id": 3}']) + b"\n")
    assert len(list(source(path).records())) == 61  # ids are not compared unless the column is named
    with pytest.raises(R1kitError, match=r":61: the id '3' stands in an earlier row"):
        list(source(path, id="id").records())
    web, bad = source(path, id="id", bad_rows="quarantine"), []
    records = list(web.records(note=bad.append))
    assert len(records) == 60 and [one.where for one in bad] == [f"{path}:61"]
    assert len(list(web.records(records[50].after))) == 9


def test_byte_order_marks_are_left_out_and_utf_16_is_named(tmp_path):
    marked, wide = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + GOOD[0] + b"\n")
    assert found_texts(source(marked).records()) == ["good 0"]
    wide.write_bytes('{"text": "a"}\n'.encode("utf-16"))
    with pytest.raises(R1kitError, match=r"b\.jsonl:1: not UTF-8 .*looks like UTF-16"):
        list(source(wide).records())
    text = tmp_path / "c.txt"
    text.write_bytes(b"\xef\xbb\xbfone\n\xff\n")
    with pytest.raises(R1kitError, match=r"c\.txt:2: not UTF-8"):
        list(source(text, pieces="lines").records())


def test_files_that_are_not_whole_are_refused_also_with_quarantine(tmp_path):
    torn = tmp_path / "a.jsonl.gz"
    torn.write_bytes(gzip.compress(write(tmp_path / "a.jsonl").read_bytes())[:-200])
    with pytest.raises(R1kitError, match="not a whole gzip file"):
        list(source(torn, bad_rows="quarantine").records())
    whole = as_parquet(tmp_path / "a.parquet")
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(R1kitError, match="not a whole Parquet file"):
        list(source(whole, bad_rows="quarantine").records())
    stream = as_arrow(tmp_path / "a.arrow", stream=True)
    stream.write_bytes(stream.read_bytes()[: stream.stat().st_size // 2])
    with pytest.raises(R1kitError, match="not a whole Arrow file"):
        list(source(stream, bad_rows="quarantine").records())


def test_a_file_that_unpacks_without_end_is_refused(tmp_path):
    bomb = tmp_path / "a.jsonl.gz"
    with gzip.open(bomb, "wb") as file:
        for _ in range(DENSE_BYTES // 1_000_000 + 10):
            file.write(b" " * 999_999 + b"\n")
    with pytest.raises(R1kitError, match="unpacks to more than"):
        list(source(bomb).records())


def test_too_many_bad_rows_are_an_error_as_soon_as_they_are_seen(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*GOOD[:3], b"{"]) + b"\n")
    with pytest.raises(R1kitError, match=r"1 of 4 rows cannot be used, more than 5%; the first: .*:4"):
        list(source(path, bad_rows="quarantine").records())
    path.write_bytes(b"\n".join([*GOOD[:20], *[b"{"] * 10_000]) + b"\n")
    bad = []
    with pytest.raises(R1kitError, match=r"of 200 rows cannot be used"):
        list(source(path, bad_rows="quarantine").records(note=bad.append))
    assert len(bad) == 180


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.jsonl", "no such file, folder or pattern"),
        (lambda folder: folder, "no data files in it"),
        (lambda folder: touched(folder / "a.csv"), "the format is not known by its name; say it: format"),
    ],
)
def test_what_is_not_there_or_not_known_is_named(tmp_path, make, message):
    with pytest.raises(ConfigError, match=message):
        source(make(tmp_path))


def test_an_empty_file_has_no_rows(tmp_path):
    with pytest.raises(R1kitError, match="has no rows"):
        source(touched(tmp_path / "a.jsonl")).describe()


def touched(path: Path) -> Path:
    path.touch()
    return path


def test_sources_are_drawn_by_weight_as_a_function_of_the_number():
    drawn = drawn_sources([1.0, 3.0], seed=5, first=0, count=100_000)
    assert abs(drawn.mean() - 0.75) < 0.01
    assert (drawn_sources([1.0, 3.0], 5, 700, 300) == drawn[700:1000]).all()
    assert (drawn_sources([1.0, 3.0], 6, 0, 1000) != drawn[:1000]).any()


def test_every_shard_takes_the_schema_of_the_first_row_of_all(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"t {i}"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], {"prompt": "a"}, *rows[1:]]))
    web = [source(path, bad_rows="quarantine") for _ in range(2)]
    shards = [found_texts(web[i].records(shard=i, shards=2)) for i in range(2)]
    assert sorted(map(len, shards)) == [29, 31]  # all 60 texts


def test_a_position_is_plain_data():
    place = Position(1, 2, 3, 4)
    assert Position(**json.loads(json.dumps(place.as_json()))) == place


@pytest.mark.slow
def test_a_data_set_that_the_hubs_library_reads_is_streamed_and_continues(tmp_path):
    pytest.importorskip("datasets")
    write(tmp_path / "train.jsonl", TEXTS[:50])
    web = Source("web", SourceConfig(path=f"hub:{tmp_path}"))
    records = list(web.records())
    assert found_texts(records) == TEXTS[:50]
    assert found_texts(web.records(records[20].after)) == TEXTS[21:50]
    shards = [found_texts(web.records(shard=shard, shards=3)) for shard in range(3)]
    assert sorted(text for shard in shards for text in shard) == sorted(TEXTS[:50])
    missing = Source("web", SourceConfig(path=f"hub:{tmp_path}", split="test"))
    with pytest.raises(R1kitError, match=r"split 'test' cannot be read"):
        list(missing.records())
