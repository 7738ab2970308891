"""Web addresses in a recipe: which ones may be an endpoint, and what of them may be shown or kept.

A request to an endpoint carries a key, so its address has to say plainly where the key goes: http or https, a
host in ASCII, a port, a path. A user name or a password in it is refused, and so is a query, in which keys
are often written: such an address would stand in the run's files. ``without_secrets`` cuts both from any text
that is shown or written."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from r1kit.config import ConfigError

EXAMPLE = "http://127.0.0.1:8000/v1"
CUT = "***"

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?\.?")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$'()*+,;=:@%-]*)*")
_SECRET_NAME = (
    r"(?:key|token|secret|password|passwd|pwd|pass|pass_?(?:phrase|word)|auth|authorization|sig|signature|"
    r"credentials?)"
)
# user:password@, also with a password in which "/", "?" or "#" was not escaped
_USER = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:[/\\]{2})(?:[^\s/?#\"'<>]*@|[^\s/@\"']*:(?!\d+(?:[/?#\s]|$))[^\s\"']*@)"
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[/\\]{2}[^\s\"'<>]+")
_ASSIGNED = re.compile(
    rf"(?i)(?P<name>(?:[?&;#]|%26|%3F)(?:[\w.-]*[_.-])?(?:api)?{_SECRET_NAME}(?:\[\w*\])?=)[^&;#\s\"'<>]*"
)
# in a mapping of YAML or JSON on a command line: ``{api_key: ...}``, ``{"Authorization": "Bearer ..."}``
_ENTRY = re.compile(
    rf"(?i)(?P<name>[{{,]\s*['\"]?(?:[\w.-]*[_.-])?(?:api)?{_SECRET_NAME}['\"]?\s*:\s*)[^,{{}}\[\]]+"
)
# A key that its form shows, wherever it stands: in a header, and those of widely used services.
_KEY = re.compile(
    r"(?P<name>\bBearer\s+)[^\s\"',;}]{4,}|\bsk-(?=[\w-]*\d)[\w-]{20,}|\b(?:hf_|gh[pousr]_)[A-Za-z0-9]{30,}"
    r"|\b(?:github_pat_|glpat-|xox[abprs]-)[\w-]{20,}"
)
# in an override on the command line: ``a.b.api_key=...``
_OVERRIDE = re.compile(rf"(?i)^(?P<name>(?:[\w.-]*[_.-])?(?:api)?{_SECRET_NAME})=.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint is. ``path`` begins with "/" or is empty."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: ``http://127.0.0.1:8000``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether it is this machine's loopback: "localhost" or a loopback address, as written. No name is
        looked up."""
        if self.host == "localhost":
            return True
        try:
            found = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None)
        return (mapped or found).is_loopback


def read_address(text: str) -> Address:
    """The parts of an endpoint's address. Raises ConfigError saying what an endpoint may not have; the text
    of the error has no secret in it."""
    if not text.isascii() or not text.isprintable() or set(" \\\"'<>^`{|}") & set(text):
        raise ConfigError(
            f"endpoint: an address has no spaces, control characters, backslashes or letters outside ASCII; "
            f"write it as {EXAMPLE}, a host in another script as xn--..."
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(f"endpoint: this is no address of an endpoint; write it as {EXAMPLE}") from None
    if parts.scheme not in ("http", "https"):
        named = f"{parts.scheme}: is not allowed" if parts.scheme else "it has no scheme"
        raise ConfigError(
            f"endpoint: this is no address of an endpoint: {named}, only http and https are; write it as "
            f"{EXAMPLE}"
        )
    if "@" in parts.netloc:
        raise ConfigError(
            f"endpoint: {without_secrets(text)} has a user name or password in it; put the key into an "
            "environment variable and name that: key_variable: MY_KEY"
        )
    if "?" in text or "#" in text:
        raise ConfigError(
            f"endpoint: {parts.scheme}://{parts.netloc}{parts.path} is followed by a query, which is not "
            "allowed; put a key into an environment variable and name that: key_variable: MY_KEY"
        )
    host = parts.hostname or ""
    if not _is_host(host, parts.netloc) or not _PATH.fullmatch(parts.path) or port == 0:
        raise ConfigError(f"endpoint: this is no address of an endpoint; write it as {EXAMPLE}")
    return Address(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.path)


def _is_host(host: str, netloc: str) -> bool:
    if not netloc.startswith("["):
        return _HOST.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host


def without_secrets(text: str) -> str:
    """The text without user names and passwords in addresses, without the values of keys, tokens and
    passwords in their queries, and without what has the form of a key of a widely used service."""

    def cut(match: re.Match[str]) -> str:
        return _ASSIGNED.sub(rf"\g<name>{CUT}", _USER.sub(rf"\g<scheme>{CUT}@", match[0]))

    # Passwords may have quotes and angle brackets in them, so users are cut from the whole text first.
    text = _ADDRESS.sub(cut, _USER.sub(rf"\g<scheme>{CUT}@", text))
    return _KEY.sub(lambda match: f"{match['name'] or ''}{CUT}", text)


def word_without_secrets(word: str) -> str:
    """As ``without_secrets``, for one word of a command line: also the value of an override whose key is a
    key, a token or a password, and such an entry of a mapping."""
    return _ENTRY.sub(rf"\g<name>{CUT}", _OVERRIDE.sub(rf"\g<name>={CUT}", without_secrets(word)))


def plain_without_secrets(value: Any) -> Any:
    """``without_secrets`` in every text of plain data (mappings, lists, texts), keys included."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {plain_without_secrets(key): plain_without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_without_secrets(inner) for inner in value)
    return value
