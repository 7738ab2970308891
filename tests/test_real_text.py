"""Pages of documentation as text (data/real_text.py), and the verdicts of benchmarks/data_choice.py."""

import gzip
import json
import math
import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "data"), str(ROOT / "benchmarks")]

import data_choice  # noqa: E402
import real_text  # noqa: E402

PAGE = """<html><head><title>no</title><style>p {}</style></head><body>
<nav>Home &gt; Guide</nav><div class="sphinxsidebar">Index</div>
<div role="main"><h1>Reading</h1><p>A <b>bold</b>
word.</p><pre>if x:
    y</pre><script>no()</script><ul><li>one<li>two</ul></div><footer>2026</footer></body></html>"""


def test_a_page_is_its_text_without_navigation():
    pytest.importorskip("lxml")
    assert real_text.page_text(PAGE.encode()) == "Reading\n\nA bold word.\n\nif x:\n    y\n\none\n\ntwo"
    assert real_text.page_text(b"") == ""
    deep = b"<div>" * 5000 + b"text" + b"</div>" * 5000
    assert real_text.page_text(deep) in ("", "text")


def test_a_long_text_is_cut_between_paragraphs():
    text = "\n\n".join("x" * 30_000 for _ in range(8))
    pieces = list(real_text.cut(text))
    assert [len(piece) for piece in pieces] == [90_004, 90_004, 60_002]
    assert "\n\n".join(pieces) == text
    assert list(real_text.cut("short")) == ["short"]


def test_pages_of_a_package_come_once_and_whole(tmp_path):
    folder = tmp_path / "usr/share/doc/p"
    folder.mkdir(parents=True)
    long = "A line of a guide that says something. " * 20
    (folder / "a.txt").write_text(long)
    (folder / "b.rst").write_text(long)  # the same text
    (folder / "c.txt.gz").write_bytes(gzip.compress((long + "more").encode()))
    (folder / "d.txt").write_text("too short")
    (folder / "e.txt").write_bytes(b"\xff\xfe" + long.encode("utf-16-le"))
    (folder / "f.txt.gz").write_bytes(gzip.compress(long.encode())[:-9])  # torn
    (folder / "copyright").write_text("License: GPL-2+\nLicense: Permission is hereby granted to all,\n")
    (folder / "changelog.txt").write_text(long + "changes")
    (folder / "link.txt").symlink_to(folder / "c.txt.gz")
    found = dict(real_text.pages(tmp_path))
    assert list(found) == ["usr/share/doc/p/a.txt", "usr/share/doc/p/c.txt.gz"]
    assert real_text.licences(tmp_path) == ["GPL-2+"]


def test_held_out_pages_are_in_a_file_of_their_own(tmp_path):
    rows = [{"text": str(n), "id": f"p/{n}", "package": "p"} for n in range(2000)]
    real_text.write_rows(tmp_path, "p", rows)
    parts = {
        part: [json.loads(line)["id"] for line in (tmp_path / part / "p.jsonl").read_text().splitlines()]
        for part in ("train", "held_out")
    }
    assert sorted(parts["train"] + parts["held_out"]) == sorted(row["id"] for row in rows)
    assert 10 < len(parts["held_out"]) < 60 and all(map(real_text.is_held_out, parts["held_out"]))


def test_a_difference_is_called_one_only_outside_its_interval():
    differences = [0.10, 0.12, 0.11]
    half = 4.303 * statistics.stdev(differences) / math.sqrt(3)
    assert data_choice.interval(differences) == pytest.approx(half, rel=1e-3)
    assert data_choice.verdict(differences, False).endswith(": better")
    assert data_choice.verdict(differences, True).endswith(": worse")
    assert data_choice.verdict([0.1, -0.1, 0.12], False).endswith("no effect that these seeds can show")
    assert data_choice.verdict([0.1], False) == "+0.100, one seed"


def test_a_page_is_filled_between_its_marks_only():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb"
    assert data_choice.fill(text, "x", ["new"]) == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    with pytest.raises(SystemExit, match="no part y"):
        data_choice.fill(text, "y", [])


def test_the_page_has_the_parts_that_the_scripts_fill():
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    for name in ("data-choice", "real-text", "real-text-sources"):
        assert f"<!-- {name} -->" in page and f"<!-- /{name} -->" in page
