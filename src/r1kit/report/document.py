"""A document of a few kinds of blocks, written as Markdown and as one self-contained HTML page that looks
like a paper.

Text may hold **bold** and `code`; everything else in it is escaped, and a ``Listing``, which is where a
model's own output goes, is shown letter for letter. The page loads nothing, runs nothing, and follows the
reader's light or dark setting."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text; the first column names the row. ``note`` stands below."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG element, and the same numbers as a table for Markdown and for readers who cannot see it."""

    svg: str
    caption: str
    numbers: Table


@dataclass(frozen=True, slots=True)
class Listing:
    """Texts side by side, each under its label, never interpreted."""

    caption: str
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Command:
    """What to type."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Link:
    """A sentence that ends in a link: ``text``, then ``label``, which leads to ``target``, a path from the
    document's folder; "" for a label without a link."""

    text: str
    label: str
    target: str = ""


Block = Paragraph | Table | Figure | Listing | Command | Link


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    subtitle: str
    abstract: Sequence[str]
    sections: Sequence[Section]


def markdown(document: Document) -> str:
    """Write the document as GitHub's Markdown."""
    parts = [f"# {_plain(document.title)}", f"*{_plain(document.subtitle)}*", *map(_plain, document.abstract)]
    for section in document.sections:
        parts.append(f"## {_plain(section.title)}")
        parts += [_markdown_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return _plain(text)
        case Table():
            return _markdown_table(block)
        case Figure(_, caption, numbers):
            return f"{_markdown_table(numbers)}\n\n{_plain(caption)}"
        case Listing(caption, entries):
            return "\n\n".join(
                [_plain(caption), *(f"{_plain(label)}:\n\n{_fenced(text)}" for label, text in entries)]
            )
        case Command(lines):
            return _fenced("\n".join(lines))
        case Link(text, label, target):
            named = f"[{_plain(label)}](<{quote(target)}>)" if target else _plain(label)
            return f"{_plain(text)} {named}."


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return (
            "| " + " | ".join(_plain(cell).replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"
        )

    rule = "|" + "|".join(["---", *["---:"] * (len(table.header) - 1)]) + "|"
    drawn = "\n".join([line(table.header), rule, *map(line, table.rows)])
    return "\n\n".join(part for part in (f"**{_plain(table.caption)}**", drawn, _plain(table.note)) if part)


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def html(document: Document) -> str:
    """Write the document as one HTML page: inline styles and charts, no script, nothing fetched."""
    abstract = "".join(f"<p>{_inline(text)}</p>" for text in document.abstract)
    sections = "".join(
        f"<section><h2>{number}. "
        f"{_inline(section.title)}</h2>{''.join(map(_html_block, section.blocks))}</section>"
        for number, section in enumerate(document.sections, 1)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src '
        "'unsafe-inline'\">"
        f"<title>{escape(document.title)}</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>{_inline(document.title)}</h1><p "
        f'class="subtitle">{_inline(document.subtitle)}</p></header>'
        f'<section class="abstract">{abstract}</section>{sections}</main></body></html>\n'
    )


def _html_block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Table():
            return _html_table(block)
        case Figure(svg, caption, numbers):
            table = f"<details><summary>the numbers</summary>{_html_table(numbers)}</details>"
            return f"<figure>{svg}<figcaption>{_inline(caption)}</figcaption>{table}</figure>"
        case Listing(caption, entries):
            cells = "".join(
                f"<div><dt>{_inline(label)}</dt><dd><pre>{escape(text)}</pre></dd></div>"
                for label, text in entries
            )
            return (
                "<figure "
                f'class="listing"><figcaption>{_inline(caption)}</figcaption><dl>{cells}</dl></figure>'
            )
        case Command(lines):
            return f'<pre class="command">{escape(chr(10).join(lines))}</pre>'
        case Link(text, label, target):
            named = f'<a href="{quote(target)}">{escape(label)}</a>' if target else escape(label)
            return f"<p>{_inline(text)} {named}.</p>"


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in table.header)
    rows = "".join(
        "<tr><th "
        f'scope="row">{_inline(row[0])}</th>{"".join(f"<td>{_inline(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    note = f'<p class="note">{_inline(table.note)}</p>' if table.note else ""
    caption = f"<figcaption>{_inline(table.caption)}</figcaption>"
    return (
        "<figure "
        f'class="table">{caption}<div><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}</figure>'
    )


def _inline(text: str) -> str:
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", marked)


STYLE = """
:root{color-scheme:light dark;--paper:#fffefb;--ink:#1c1d20;--soft:#5d6169;--rule:#dcdad3;--panel:#f5f3ec;
--c0:#1f5fa8;--c1:#c0562b;--c2:#2f7d4f;--c3:#7b4fa3;--c4:#8f6b14;--c5:#6b727c}
@media (prefers-color-scheme:dark){
:root{--paper:#15171b;--ink:#e4e3df;--soft:#a0a4ac;--rule:#353941;--panel:#1e2127;
--c0:#78aef0;--c1:#ee946a;--c2:#72c596;--c3:#bd97e2;--c4:#d9b45c;--c5:#989fa9}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:17px/1.55 Charter,"Bitstream Charter","Source Serif 4",Georgia,serif}
main{max-width:62rem;margin:0 auto;padding:3.5rem 1.25rem 5rem}
p,h1,h2,.abstract,.command{max-width:44rem;margin-left:auto;margin-right:auto}
header{text-align:center;margin-bottom:2rem}
h1{font-size:2.1rem;font-weight:600;line-height:1.2;margin-bottom:.4rem;text-wrap:balance}
.subtitle{color:var(--soft);margin-top:0}
h2{font-size:1.3rem;font-weight:600;margin-top:3rem;margin-bottom:.6rem}
.abstract{font-size:.96rem;padding:.2rem 1.4rem;border-left:3px solid var(--rule)}
a{color:var(--c0)}
code,pre,.command{
font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Noto Sans Mono CJK SC",monospace;font-size:.82em}
figure{margin:1.8rem 0}
figure>svg{display:block;width:100%;max-width:44rem;margin:0 auto;height:auto}
figcaption{font-size:.88rem;color:var(--soft);max-width:44rem;margin:.5rem auto}
.table>div{overflow-x:auto}
table{border-collapse:collapse;margin:0 auto;font-size:.86rem;line-height:1.35;
font-variant-numeric:tabular-nums lining-nums;
border-top:2px solid var(--ink);border-bottom:2px solid var(--ink)}
th,td{padding:.3rem .65rem;text-align:right;vertical-align:top;white-space:nowrap;font-weight:400}
td{white-space:pre-line}
th[scope=row],thead th:first-child{text-align:left}
thead th{border-bottom:1px solid var(--ink);font-weight:600;vertical-align:bottom}
tbody tr+tr>*{border-top:1px solid var(--rule)}
.note{font-size:.82rem;color:var(--soft);max-width:44rem;margin:.5rem auto}
details{max-width:44rem;margin:.3rem auto;font-size:.85rem;color:var(--soft)}
summary{cursor:pointer}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:.8rem;margin:.6rem 0}
dt{font-size:.8rem;font-weight:600;font-family:system-ui,sans-serif}
dd{margin:.2rem 0 0}
pre{background:var(--panel);padding:.6rem .8rem;margin:0;border-radius:4px;
white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4}
.command{border:1px solid var(--rule);padding:.8rem 1rem;margin-top:.8rem;margin-bottom:.8rem}
@media print{:root{color-scheme:light}main{padding:0}details{display:none}}
"""
