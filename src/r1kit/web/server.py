"""Serve the pages with NiceGUI, which carries all its assets: nothing is loaded from elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi.responses import HTMLResponse
from nicegui import app, ui

from r1kit.web.board import board_page
from r1kit.web.label import label_page
from r1kit.web.label_write import write_page
from r1kit.web.library import Library
from r1kit.web.rollouts import rollouts_page
from r1kit.web.security import LARGEST_BODY, LOCAL, Gate
from r1kit.web.why import Replays

TITLE = "r1kit"
IMPORT_S = 60.0  # that the first visit of the playground may take

TalkPage = Callable[[Library, str], Awaitable[None]]


def add_pages(library: Library) -> None:
    """Register the pages of a library of runs."""
    replays = Replays()

    @ui.page("/", title=TITLE)
    def board(run: str = "", stage: str = "") -> None:
        board_page(library, run, stage)

    @ui.page("/rollouts", title=f"{TITLE}: rollouts")
    def rollouts(run: str = "", stage: str = "", step: str = "", problem: str = "", text: str = "") -> None:
        rollouts_page(library, run, stage, step, problem, text)

    @ui.page("/label", title=f"{TITLE}: label")
    def label(run: str = "", stage: str = "", annotator: str = "") -> None:
        label_page(library, run, stage, annotator)

    @ui.page("/write", title=f"{TITLE}: write an answer")
    def write(run: str = "", stage: str = "", annotator: str = "", pair: str = "") -> None:
        write_page(library, run, stage, annotator, pair)

    @app.get("/why")
    async def why(run: str = "", stage: str = "", step: str = "", problem: str = "") -> HTMLResponse:
        status, page = await replays.page(library.open(run).view.folder, stage, step, problem)
        return HTMLResponse(page, status)

    opened: list[TalkPage] = []

    @ui.page("/talk", title=f"{TITLE}: talk", response_timeout=IMPORT_S)
    async def talk(run: str = "") -> None:
        if not opened:
            found = await asyncio.to_thread(_talk_page)
            opened[:] = opened or [found]
        await opened[0](library, run)


def _talk_page() -> TalkPage:
    """The playground with its models. It is imported at its first visit: it needs PyTorch, which takes
    seconds and memory, and the other pages do not."""
    from r1kit.web.talk import talk_page
    from r1kit.web.talk_models import ModelPool

    pool = ModelPool()
    app.on_shutdown(pool.close)
    return lambda library, run: talk_page(library, pool, run)


def serve(library: Library, host: str, port: int, token: str | None, show: str | None) -> None:
    """Serve until the process is interrupted. ``show``: the address to open in a browser, None to open
    none."""
    add_pages(library)
    app.add_middleware(Gate, hosts=LOCAL if token is None else frozenset((host,)), token=token)
    with library.reading():
        ui.run(
            host=host,
            port=port,
            title=TITLE,
            dark=None,
            reload=False,
            show=False if show is None else show,
            show_welcome_message=False,
            uvicorn_logging_level="warning",
            ws_max_size=LARGEST_BODY,
        )
