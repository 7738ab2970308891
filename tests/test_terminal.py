"""What leaves the program is printable: no text of a file, model or data set moves the cursor, hides a word
or looks like a line of the program's own."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked
from rich.text import Text

from r1kit.console import PrintableConsole
from r1kit.report.document import Document, Listing, Paragraph, Section, Table, html, markdown
from r1kit.terminal import GuardedStream, argument_error, message, one_line, print_lines, printable

EVIL = (
    "\x1b]0;PWNED\x07\x1b[2J\x9b31m\x7f\r\x00\x85\u2028\u2029\u202e\u202a\u2066\u2069\u200e\u200f\u200b\u200c"
    "\u2060\ufeff\ud800\udcff\U000e0041\u115f\u3164\x08"
)


def is_clean(text: str) -> bool:
    """By Unicode's classes, not by the code that is tested."""
    return all(character in "\n\t\u3000\u00a0\u202f" or character.isprintable() for character in text)


def test_what_has_no_glyph_is_written_as_its_escape():
    assert printable("\x1b[2J\x07\u202e\ud800") == "\\u001b[2J\\u0007\\u202e\\ud800"
    assert printable("\U000e0041") == "\\udb40\\udc41"  # as JSON writes it
    assert is_clean(printable(EVIL)) and is_clean(one_line(EVIL + "\n\t"))
    assert printable("a\ufe0f\u2764\ufe0f") == "a\ufe0f\u2764\ufe0f"  # the form of an emoji
    assert printable("a\ufe01\U000e0131b\u2800") == "a\\ufe01\\udb40\\udd31b\\u2800"
    assert "\u115f" not in printable(EVIL) and "\u3164" not in printable(EVIL)


@pytest.mark.parametrize(
    "text", ["é 四 😀 ﬁ", "a\tb\nc", "1\u00a0000\u202fkm\u3000x", "naïve — “quoted”", ""]
)
def test_ordinary_text_stays_as_it_is(text):
    assert printable(text) == text


def test_an_entry_of_a_list_stays_on_its_line(capsys):
    print_lines(["stages/a\nstages/b: whole", "second\tcolumn"])
    assert capsys.readouterr().out == "stages/a\\nstages/b: whole\nsecond\\tcolumn\n"


def test_json_stays_the_same_json():
    value = {"name": "\u202e\x9b" + "\U000e0041", "é": "\x1b"}
    stream = GuardedStream(io.StringIO())
    print(json.dumps(value, ensure_ascii=False), file=stream)
    written = stream.behind.getvalue()  # type: ignore[attr-defined]
    assert is_clean(written) and json.loads(written) == value


def test_no_text_in_a_message_looks_like_another_message():
    stream = GuardedStream(io.StringIO())
    print("r1kit: warning: x\nr1kit: all is well", file=stream)
    print("r1kit: second", file=stream)
    lines = stream.behind.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["r1kit: warning: x", "  r1kit: all is well", "r1kit: second"]
    assert message("one\ntwo") == "one\n  two"


def test_a_guarded_stream_is_no_terminal_and_passes_the_rest_on(tmp_path):
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        stream = GuardedStream(file)
        assert not stream.isatty() and stream.writable() and stream.fileno() == file.fileno()
        assert stream.encoding == "utf-8" and stream.buffer is file.buffer
        stream.write("\x1b")
        stream.flush()
        assert (tmp_path / "out").read_text(encoding="utf-8") == "\\u001b"


def test_rich_keeps_its_own_colours_and_cleans_texts():
    out = io.StringIO()
    PrintableConsole(file=out, force_terminal=True, color_system="standard", width=400).print(
        Text("dim \x1b[2J\u202e", style="bold"), Text("[b]四[/b]")
    )
    assert out.getvalue() == "\x1b[1mdim \\u001b[2J\\u202e\x1b[0m [b]四[/b]\n"


def test_pages_hold_no_control_character():
    table = Table(EVIL, [EVIL, "b"], [[EVIL, EVIL]], EVIL)
    blocks = [Paragraph(EVIL), table, Listing(EVIL, [(EVIL, f"<script>\n{EVIL}")])]
    page = Document(EVIL, EVIL, [EVIL], [Section(EVIL, blocks)])
    assert is_clean(printable(markdown(page))) and is_clean(printable(html(page)))


def test_arguments_have_to_be_utf_8():
    assert argument_error(["r1kit", "run", "四.yaml"]) is None
    assert argument_error(["r1kit", "runs/a\udcff"]) == (
        "the argument runs/a\\udcff is not UTF-8; rename the file or folder that it names"
    )


def r1kit(*words: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "r1kit", *words],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def test_no_command_prints_a_control_character(tmp_path: Path, forked: Forked):
    recipe = tmp_path / "evil\x1b[2J\nr1kit: done.yaml"
    recipe.write_text(f"name: x\n{json.dumps('k' + EVIL[:6])}: 1\nstages: []\n", encoding="utf-8")
    folder = tmp_path / "run\x1b]0;x\x07\nstages: whole"
    (folder / "stages" / "a\x1b[2J").mkdir(parents=True)
    (folder / "stages" / "a\x1b[2J" / "stage.json").write_text('{"\x1b": 1}')
    commands = [("run", recipe, "--dry-run"), ("show", recipe), ("plan", recipe), ("verify", folder)]
    commands += [("chat", folder), ("export", folder, "--to", tmp_path / "to")]
    for words in commands:
        done = forked.run("-m", "r1kit", *words, folder=tmp_path)
        shown = done.stdout + done.stderr
        assert done.returncode in (1, 2) and is_clean(shown) and "Traceback" not in shown and shown, shown
        assert not any(line.startswith(("r1kit: done.yaml", "stages: whole")) for line in shown.splitlines())


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_the_c_locale_opens_files_of_every_name(tmp_path: Path):
    recipe = tmp_path / "四é.yaml"
    recipe.write_text("name: été\nnonsense: 1\n", encoding="utf-8")
    done = r1kit("show", str(recipe).encode(), **C_LOCALE)
    assert done.returncode == 2 and "四é.yaml:2: unknown key 'nonsense'" in done.stderr.decode()


def test_where_utf_8_cannot_be_set_the_command_ends_before_it_begins(tmp_path: Path):
    command = [sys.executable, "-X", "utf8=0", "-m", "r1kit", "show", str(tmp_path / "x.yaml")]
    done = subprocess.run(
        command,
        capture_output=True,
        env={**os.environ, **C_LOCALE, "PYTHONUTF8": "1"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"r1kit: file names are written as ascii here (LC_ALL or LANG)")
