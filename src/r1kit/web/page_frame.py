"""What every page has: the bar at the top, colours, keys, and texts that are only ever texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

from nicegui import ui

from r1kit.terminal import printable
from r1kit.web.library import Library

STYLE = """
body { font-size: 15px; }
.r1-text { white-space: pre-wrap; overflow-wrap: anywhere; }
.r1-mono { font-family: ui-monospace, monospace; font-size: 13px; }
.r1-soft { opacity: .72; font-size: 13px; }
.r1-card { border: 1px solid rgba(128,128,128,.28); border-radius: 8px; padding: 10px 12px; }
.r1-open { scroll-margin-top: 84px; }
.r1-grave { border-left: 4px solid #c0392b; }
.r1-mild { border-left: 4px solid #d59a1f; }
.r1-charts { display: grid; gap: 10px;
             grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.r1-stages { display: grid; gap: 8px;
             grid-template-columns: repeat(auto-fill, minmax(min(100%, 215px), 1fr)); }
.r1-group { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(min(76vw, 330px), 1fr);
            overflow-x: auto; gap: 10px; margin-top: 6px; padding: 2px 2px 8px; }
.r1-answers { display: grid; gap: 10px;
              grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.r1-question { background: rgba(59,111,181,.09); }
.r1-verdict { padding-left: 8px; }
.r1-models { min-width: min(100%, 280px); }
.r1-problem { width: min(100%, 420px); }
.r1-asking { position: sticky; bottom: 0; padding: 6px 0 10px; background: #fff; z-index: 5; }
.body--dark .r1-asking { background: var(--q-dark-page); }
.r1-chart { height: 230px; width: 100%; }
.r1-figure { width: 100%; overflow-x: auto; }
.r1-bar { flex-wrap: nowrap; gap: 12px; white-space: nowrap; }
.r1-run { min-width: 0; flex: 0 1 176px; }
.r1-bar .r1-name { min-width: 0; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
@media (max-width: 700px) { .r1-figure { display: none; } .r1-wide { display: none; } .r1-bar { gap: 9px; } }
.body--light { --q-primary: #2f66ad !important; } .body--dark { --q-primary: #4a80be !important; }
a.r1-link { color: inherit; text-decoration: underline; }
:focus-visible { outline: 2px solid #3b6fb5; outline-offset: 2px; }
"""
PAGES = (
    ("Board", "/", "b"),
    ("Rollouts", "/rollouts", "r"),
    ("Talk", "/talk", "t"),
    ("Label", "/label", "l"),
)


@contextmanager
def page_frame(library: Library, run: str, here: str) -> Iterator[None]:
    """The frame of a page; what is made within is its content. ``here`` is the page's path."""
    library.page_opens()
    ui.add_css(STYLE)
    dark = ui.dark_mode(None)
    bar = (
        ui.header(elevated=False).style("background: #27466d").classes("r1-bar items-center q-py-xs q-px-md")
    )
    with bar:
        ui.label("r1kit").classes("text-lg font-bold r1-wide")
        for title, path, key in PAGES:
            link = ui.link(title, address(path, run=run)).classes("text-white")
            link.tooltip(f"key {key}")
            if path == here:
                link.classes("font-bold")
        ui.space()
        if len(library.names) > 1:
            choice = ui.select(library.names, value=run, label="run", with_input=len(library.names) > 8)
            choice.props("dense dark options-dense borderless").classes("r1-run")
            choice.on_value_change(lambda event: ui.navigate.to(address(here, run=event.value)))
        else:
            text(run, "text-white r1-name")
        ui.button(icon="contrast", on_click=lambda: _next_mode(dark)).props(
            'flat dense round color=white aria-label="light or dark"'
        )
    ui.keyboard(
        lambda event: _follow_key(str(event.key), event.action.keydown and not event.action.repeat, run)
    )
    with ui.column().classes("w-full max-w-screen-2xl mx-auto gap-4 q-pa-sm"):
        yield


def text(content: str, classes: str = "") -> ui.label:
    """A text as a text: no part of it is HTML, and characters without a glyph are escaped."""
    return ui.label(printable(content)).classes(f"r1-text {classes}")


def address(path: str, **keys: object) -> str:
    """The address of a page with its keys."""
    given = {name: value for name, value in keys.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def _next_mode(dark: ui.dark_mode) -> None:
    dark.value = {None: True, True: False, False: None}[dark.value]


def _follow_key(key: str, pressed: bool, run: str) -> None:
    for _, path, own in PAGES:
        if pressed and key == own:
            ui.navigate.to(address(path, run=run))
