"""Get real text from Debian's documentation packages, as JSON Lines for the stage curate.

    python data/real_text.py OUT                    # packages below until 200 MB are there; none is got twice
    python data/real_text.py OUT --megabytes 400    # more of them
    python data/real_text.py OUT git-doc perl-doc   # some of them
    python data/real_text.py OUT --list             # what is there, with sizes and licences, as a table

Needs Debian's ``apt-get`` and ``dpkg-deb`` (run ``apt-get update`` first) and lxml, which comes with ``pip
install 'r1kit[data]'``. Nothing is installed. OUT/train/PACKAGE.jsonl and OUT/held_out/PACKAGE.jsonl have a
row {"text", "id", "package"} for each page of a manual, one page in HELD_OUT held out by a hash of its id;
OUT/sources.json has version, size and licences of each package, read from its copyright
file. data/README.md has the list."""

import argparse
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Manuals, guides, references and a dictionary: prose in English, under licences that allow copies.
PACKAGES = (
    "git-doc", "perl-doc", "python3.11-doc", "postgresql-doc-15", "debian-policy", "developers-reference",
    "debian-reference-en", "debian-handbook", "apache2-doc", "python-django-doc", "octave-doc", "r-doc-html",
    "gnome-user-docs", "gimp-help-en", "lilypond-doc-html", "libboost1.74-doc", "qtbase5-doc-html",
    "llvm-14-doc", "clang-14-doc", "cmake-doc", "nodejs-doc", "maxima-doc", "gap-doc", "sqlite3-doc",
    "erlang-doc", "racket-doc", "python-scipy-doc", "python-pandas-doc", "python-sklearn-doc", "dict-gcide",
    "fortunes", "jargon-text", "miscfiles", "libeigen3-doc", "linux-doc-6.1", "openjdk-17-doc", "ghc-doc",
    "rust-doc",
)  # fmt: skip
SUFFIXES = (".html", ".htm", ".xhtml", ".txt", ".rst", ".md", ".pod", ".dict.dz")
PASSED_OVER = re.compile(
    r"(^|/)(_sources|changelog|copyright|licenses?|search|genindex|src|_static)(/|\.|-|$)", re.I
)
SKIPPED_TAGS = frozenset(
    ("script", "style", "nav", "header", "footer", "svg", "button", "form", "head", "select")
)
SKIPPED_CLASSES = re.compile(
    r"\b(sphinxsidebar|related|navheader|navfooter|navigation|sidebar|toc|headerlink|breadcrumb)"
)
BLOCKS = frozenset(
    (
        "p", "div", "section", "article", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ul", "ol", "dl", "dt",
        "dd", "table", "tr", "td", "th", "pre", "blockquote", "br", "hr", "main", "body",
    )
)  # fmt: skip
SHORTEST, LONGEST = 300, 100_000  # characters of a page; longer ones are cut between paragraphs
LARGEST_FILE = 16_000_000
HELD_OUT = 64


class SourceError(Exception):
    """A package that cannot be had or read."""


def run(words: Sequence[str], folder: Path) -> str:
    """What a command prints. Raises SourceError with its last line where it fails."""
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SourceError(f"{words[0]}: {error.strerror}; this script needs Debian") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise SourceError(f"{' '.join(words)}: {lines[-1]}; run apt-get update first")
    return done.stdout


def page_text(content: bytes) -> str:
    """The text of an HTML page without navigation; a line for each block."""
    from lxml import etree, html  # comes with the extra data

    try:
        root = html.document_fromstring(content)
    except (etree.ParserError, ValueError):
        return ""
    bodies = root.xpath("//main | //*[@role='main']") or [root]
    pieces: list[str] = []
    try:
        _collect(bodies[0], pieces, False)
    except RecursionError:  # elements within elements, hundreds of them: no page that was written by hand
        return ""
    return tidy("".join(pieces))


def _collect(node: Any, pieces: list[str], verbatim: bool) -> None:
    """Append the text of an element and of those in it."""
    kind = node.tag if isinstance(node.tag, str) else ""
    if not kind or kind in SKIPPED_TAGS or SKIPPED_CLASSES.search(node.get("class") or ""):
        return
    verbatim = verbatim or kind == "pre"
    block = kind in BLOCKS
    if block:
        pieces.append("\n")
    pieces.append(_inline(node.text, verbatim))
    for inner in node:
        _collect(inner, pieces, verbatim)
        pieces.append(_inline(inner.tail, verbatim))
    if block:
        pieces.append("\n")


def _inline(text: str | None, verbatim: bool) -> str:
    return "" if not text else text if verbatim else re.sub(r"\s+", " ", text)


def tidy(text: str) -> str:
    """No spaces at the ends of lines, and one empty line at most between two paragraphs."""
    return re.sub(r"\n\s*\n+", "\n\n", re.sub(r"[ \t]+\n", "\n", text.replace("\u00a0", " "))).strip()


def read_text(path: Path, name: str) -> str:
    """A file of documentation as text; empty where it is none, or not UTF-8."""
    content = path.read_bytes()
    if name.endswith((".gz", ".dz")):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return ""
    if name.removesuffix(".gz").endswith((".html", ".htm", ".xhtml")):
        return page_text(content)
    try:
        return tidy(content.decode("utf-8"))
    except UnicodeDecodeError:
        return ""


def cut(text: str) -> Iterator[str]:
    """A text in pieces of at most about LONGEST characters, cut between paragraphs."""
    held: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        if size and size + len(paragraph) > LONGEST:
            yield "\n\n".join(held)
            held, size = [], 0
        held.append(paragraph)
        size += len(paragraph) + 2
    yield "\n\n".join(held)


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of each page below an unpacked package, each text once."""
    seen: set[str] = set()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        bare = name.removesuffix(".gz")
        wanted = bare.endswith(SUFFIXES) or ("/fortunes/" in name and "." not in path.name)
        if path.is_symlink() or not path.is_file() or not wanted or PASSED_OVER.search(bare):
            continue
        if path.stat().st_size > LARGEST_FILE and not name.endswith(".dz"):
            continue
        for place, piece in enumerate(cut(read_text(path, name))):
            digest = hashlib.sha256(piece.encode()).hexdigest()
            if len(piece) >= SHORTEST and digest not in seen:
                seen.add(digest)
                yield f"{name}#{place}" if place else name, piece


def licences(folder: Path) -> list[str]:
    """The short names in a package's copyright file; "see its copyright file" where it names none."""
    found: dict[str, None] = {}
    for path in sorted(folder.rglob("copyright")):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            named = re.findall(r"^License: *(\S[^\n]*)", text, re.M)
            found |= dict.fromkeys(name.strip() for name in named if is_short_name(name))
    return list(found)[:12] or ["see its copyright file"]


def is_short_name(name: str) -> bool:
    """Whether a line names a licence, and is no sentence of one."""
    return len(name) <= 40 and not name.strip().endswith((".", ",", ":")) and len(name.split()) <= 5


def is_held_out(name: str) -> bool:
    """Whether a page is one of those that are not trained on."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % HELD_OUT == 0


def write_rows(out: Path, package: str, rows: Sequence[dict[str, str]]) -> None:
    """Write a package's pages, those that are held out to a file of their own; the file in
    ``train`` is written last."""
    for part in ("held_out", "train"):
        own = [row for row in rows if is_held_out(row["id"]) == (part == "held_out")]
        (out / part).mkdir(exist_ok=True)
        partial = out / part / f".{package}.tmp"
        partial.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in own), encoding="utf-8"
        )
        partial.replace(out / part / f"{package}.jsonl")


def get(package: str, out: Path) -> dict[str, Any]:
    """Download a package, write its pages, and return what it is."""
    with tempfile.TemporaryDirectory(dir=out) as work:
        folder = Path(work)
        run(["apt-get", "download", package], folder)
        (archive,) = folder.glob("*.deb")
        unpacked = folder / "files"
        run(["dpkg-deb", "-x", archive.name, unpacked.name], folder)
        found = [
            {"text": text, "id": f"{package}/{name}", "package": package} for name, text in pages(unpacked)
        ]
        rows, size = len(found), sum(len(row["text"].encode()) for row in found)
        if not rows:
            raise SourceError(f"{package}: no text in it")
        about = {
            "version": archive.name.split("_")[1].replace("%3a", ":"),
            "pages": rows,
            "bytes": size,
            "licences": licences(unpacked),
        }
        write_rows(out, package, found)
    return about


def table(known: dict[str, Any]) -> Iterator[str]:
    """The sources as a table of Markdown."""
    yield "| package | version | pages | MB of text | licences |"
    yield "|---|---|---:|---:|---|"
    for name, about in known.items():
        size = f"{about['bytes'] / 1e6:.1f}"
        yield f"| {name} | {about['version']} | {about['pages']} | {size} | {', '.join(about['licences'])} |"
    pages_of_all, size = (sum(about[what] for about in known.values()) for what in ("pages", "bytes"))
    yield f"| all | | {pages_of_all} | {size / 1e6:.1f} | |"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Real text from Debian's documentation packages.")
    parser.add_argument("out", type=Path)
    parser.add_argument("packages", nargs="*")
    parser.add_argument("--megabytes", type=float, default=200.0, help="stop when so much text is there")
    parser.add_argument("--list", action="store_true", help="print a table of what is there")
    asked = parser.parse_args(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    index = asked.out / "sources.json"
    known: dict[str, Any] = json.loads(index.read_text()) if index.is_file() else {}
    if asked.list:
        print("\n".join(table(known)))
        return 0
    if shutil.which("dpkg-deb") is None:
        print("data/real_text.py: needs Debian's apt-get and dpkg-deb", file=sys.stderr)
        return 1
    failed = 0
    for package in asked.packages or PACKAGES:
        if not asked.packages and sum(about["bytes"] for about in known.values()) >= asked.megabytes * 1e6:
            break
        if package in known and (asked.out / "train" / f"{package}.jsonl").is_file():
            continue
        try:
            known[package] = get(package, asked.out)
        except SourceError as error:
            failed += 1
            print(f"data/real_text.py: {error}", file=sys.stderr)
            continue
        partial = index.with_name(".sources.json.tmp")
        partial.write_text(json.dumps(known, indent=1) + "\n")
        partial.replace(index)
        print(
            f"{package}: {known[package]['pages']} pages, {known[package]['bytes'] / 1e6:.1f} MB", flush=True
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
