"""``r1kit serve``: a model behind the HTTP interface that OpenAI's clients speak (serve/)."""

import importlib.util
import os
import secrets
import sys
from pathlib import Path

from r1kit.config import ConfigError
from r1kit.engine.native import Precision
from r1kit.serve.guard import Access, is_loopback
from r1kit.serve.served import Limits, Served
from r1kit.stages.models import PromptStyle
from r1kit.terminal import one_line
from r1kit.types import Sampling

_SWITCH_SECONDS = 0.0005
_NEEDED = ("starlette", "uvicorn", "httptools", "prometheus_client")


def check_installed() -> None:
    """Raise ConfigError where the extra is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"r1kit serve needs {', '.join(missing)}: pip install 'r1kit[serve]'")


def access_for(host: str, token_variable: str | None) -> Access:
    """Who may ask: without a token only this machine. Raises ConfigError."""
    if token_variable is not None:
        token = os.environ.get(token_variable, "")
        if len(token) < 16:
            raise ConfigError(f"--token-variable {token_variable}: set it to at least 16 characters")
        return Access(host, token)
    return Access(host, "" if is_loopback(host) else secrets.token_urlsafe(32))


def name_of(folder: Path) -> str:
    """The name under which a model is served: run/stage, or that of its folder."""
    path = folder.absolute()
    stages = [parent for parent in path.parents if parent.parent.name == "stages"]
    if not stages:
        return path.name
    inner = path.relative_to(stages[0]).parts
    return "/".join(
        (stages[0].parent.parent.name, stages[0].name, *(part for part in inner if part != "model"))
    )


def serve(
    folder: Path,
    sampling: Sampling,
    limits: Limits,
    access: Access,
    port: int,
    name: str | None,
    style: PromptStyle | None,
    precision: Precision,
    token_variable: str | None = None,
) -> None:
    """Serve a model until the process is interrupted."""
    from r1kit.serve.app import log_to_stderr, make_server

    log_to_stderr(f"loading {one_line(str(folder))}")
    served = Served.load(folder, name or name_of(folder), sampling, limits, style, precision)
    host = f"[{access.host}]" if ":" in access.host else access.host
    log_to_stderr(
        f"{one_line(str(folder))}: {served.name!r} at http://{host}:{port}/v1, context {served.context} "
        f"tokens, {limits.rows} completions at a time; Ctrl-C ends"
    )
    if access.token and token_variable is None:
        log_to_stderr(f"token, which every request has to carry: {access.token}")
    elif access.token:
        log_to_stderr(f"every request has to carry the token in {token_variable}")
    # The decoding thread holds the interpreter's lock for short times between long calls of the kernels. With
    # Python's 5 ms it would wait for the other thread a large part of each call.
    sys.setswitchinterval(_SWITCH_SECONDS)
    make_server(served, access, port, log_to_stderr).run()
