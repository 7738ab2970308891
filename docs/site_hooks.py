"""Hooks of the documentation site (mkdocs.yml): what lies outside of docs/ becomes part of the site.

The Markdown files link to each other and to source files as they do on disk, so that they can be read there.
The site holds docs/ only. So every file outside of it that a page links to is added: Markdown as a page,
Python and the like as text, and the links lead there. README.md is the first page, and a lesson
(docs/tutorial/*.py) is a page made from its cells. Nothing is loaded from the internet."""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTSIDE = "repository"  # where files from outside of docs/ are in the site
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the first page, the lessons, and all files outside of docs/ that pages link to."""
    from mkdocs.structure.files import File

    for name in reached([f"docs/{file.src_uri}" for file in files]):
        place = site_place(name)
        if name.startswith("docs/"):  # a lesson: its page takes its place
            files.remove(files.get_file_from_path(name.removeprefix("docs/")))
        if place.endswith(".md"):
            files.append(File.generated(config, place, content=markdown_of(name)))
        else:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def reached(pages: list[str]) -> list[str]:
    """The files of the repository that the site has to add to ``pages``, those of docs/: README.md, lessons,
    and what is linked from any page, again and again."""
    waiting = ["README.md", *pages]
    found: dict[str, None] = {}
    seen = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if not name.startswith("docs/") or is_lesson(name):
            found[name] = None
        if name.endswith(".md") or is_lesson(name):
            waiting += targets(markdown_of(name), name)
    return list(found)


def is_lesson(name: str) -> bool:
    """Whether a file is a lesson: docs/tutorial/04_r1_zero.py."""
    return re.match(r"docs/tutorial/\d+_\w+\.py$", name) is not None


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let the links of a page lead to where the site has their files; a listing with a file's name shows it
    as its title."""
    markdown = re.sub(r"^```(\w+) ([\w.-]+)$", r'```\1 title="\2"', markdown, flags=re.MULTILINE)
    place = page.file.src_uri
    return light_and_dark(rewritten(markdown, source_of(place), place), place)


def light_and_dark(text: str, place: str) -> str:
    """A text in which every picture NAME-light.png that has a NAME-dark.png is followed by it. The theme
    shows the one that fits (Material: #only-light, #only-dark). ``place`` is its page."""

    def both(match: re.Match[str]) -> str:
        picture, path = match.groups()
        dark = posixpath.normpath(posixpath.join(posixpath.dirname(place), f"{path}-dark.png"))
        if not (ROOT / "docs" / dark).is_file():
            return match[0]
        return f"{picture}({path}-light.png#only-light){picture}({path}-dark.png#only-dark)"

    return re.sub(r"(!\[[^\]]*\])\(([^)\s]+)-light\.png\)", both, text)


def markdown_of(name: str) -> str:
    """The Markdown of a file of the repository: of a lesson, its cells."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return lesson(text) if is_lesson(name) else text


def lesson(text: str) -> str:
    """A script in cells (# %%) as Markdown: text cells as text, code cells as code."""
    parts = []
    for cell in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            parts.append(formulas("\n".join(re.sub(r"^# ?", "", line) for line in body.splitlines()).strip()))
        elif body.strip():
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def formulas(text: str) -> str:
    """A text with its LaTeX ($a$ and $$a$$) as MathML, which browsers draw without further files."""
    from latex2mathml.converter import convert

    def drawn(match: re.Match[str]) -> str:
        block, inline = match.groups()
        return convert(block or inline, display="block" if block else "inline")

    pieces = re.split(r"(`[^`\n]+`)", text)
    return "".join(
        piece
        if piece.startswith("`")
        else re.sub(r"\$\$(.+?)\$\$|\$([^$\n]+(?:\n[^$\n]+)?)\$", drawn, piece, flags=re.DOTALL)
        for piece in pieces
    )


def site_place(name: str) -> str:
    """Where the site has a file of the repository."""
    if name == "README.md":
        return "index.md"
    if name.startswith("docs/"):
        inner = name.removeprefix("docs/")
        return inner.removesuffix(".py") + ".md" if is_lesson(name) else inner
    return f"{OUTSIDE}/{name}" if name.endswith((".md", ".gz")) else f"{OUTSIDE}/{name}.txt"


def source_of(place: str) -> str:
    """The file of the repository that a page of the site was made from; site_place the other way round."""
    if place == "index.md":
        return "README.md"
    if place.startswith(f"{OUTSIDE}/"):
        return place.removeprefix(f"{OUTSIDE}/")
    if re.match(r"tutorial/\d\d_", place) and not (ROOT / "docs" / place).exists():
        return f"docs/{place.removesuffix('.md')}.py"
    return f"docs/{place}"


def targets(text: str, name: str) -> list[str]:
    """The files of the repository that a text of the file ``name`` links to."""
    folder = posixpath.dirname(name)
    found = []
    for _, link, _ in LINK.findall(CODE.sub("", text)):
        if re.match(r"[a-z]+:|#", link):
            continue
        target = posixpath.normpath(posixpath.join(folder, link.partition("#")[0]))
        if (ROOT / target).is_file():
            found.append(target)
    return found


def rewritten(text: str, name: str, place: str) -> str:
    """A text with its links as the site has them; ``name`` is its file, ``place`` its page."""

    def moved(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        path, mark, anchor = link.partition("#")
        if not path or re.match(r"[a-z]+:", link):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        if (ROOT / target).is_dir():
            target = next(
                (
                    f"{target}/{one}"
                    for one in ("README.md", "__init__.py")
                    if (ROOT / target / one).is_file()
                ),
                target,
            )
        if not (ROOT / target).is_file():
            return match[0]
        inside = posixpath.relpath(site_place(target), posixpath.dirname(place) or ".")
        return f"{before}{inside}{mark}{anchor}{after}"

    kept: list[str] = []

    def keep(code: re.Match[str]) -> str:
        kept.append(code[0])
        return f"\0{len(kept) - 1}\0"

    linked = LINK.sub(moved, CODE.sub(keep, text))
    return re.sub(r"\0(\d+)\0", lambda place: kept[int(place[1])], linked)
