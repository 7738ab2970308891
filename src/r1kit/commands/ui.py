"""``r1kit ui``: check what is needed, choose address and token, and serve the pages of runs."""

import importlib.util
import socket
from collections.abc import Sequence
from pathlib import Path

from r1kit.config import ConfigError
from r1kit.terminal import one_line
from r1kit.web.library import library_of
from r1kit.web.security import is_local, new_token

MISSING = "r1kit ui needs its extra: pip install 'r1kit[ui]' (in this repository: make ui)"


def serve(runs: Sequence[Path], host: str, port: int, show: bool) -> None:
    """Serve the pages of these runs until the user stops it. Raises ConfigError for a folder
    that has no run, a port that is taken, and where the extra is missing."""
    if importlib.util.find_spec("nicegui") is None:
        raise ConfigError(MISSING)
    library = library_of(runs)
    port = _free_port(host, port)
    token = None if is_local(host) else new_token()
    page = f"http://{_shown_host(host)}:{port}/" + (f"?token={token}" if token else "")
    print(f"{one_line(', '.join(library.names[:5]))}: {page}  (Ctrl-C ends it)", flush=True)
    if token is not None:
        print("Whoever has this address sees the runs; it is not encrypted.", flush=True)
    from r1kit.web.server import serve as serve_pages  # NiceGUI takes a second to import

    serve_pages(library, host, port, token, page if show else None)


def _shown_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises ConfigError where it cannot be listened on."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port}: {reason}; choose another, or --port 0") from None
