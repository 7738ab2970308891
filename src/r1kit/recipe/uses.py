"""What a recipe uses from outside the run: the code that it imports, the files and models that it reads, and
the endpoints that it sends texts to.

All is found in the text of the recipe, and nothing is imported for it. A text that has the form of a name of
code is listed if such a file exists, because r1kit imports nothing else; code may import and read more, which
is not listed. An endpoint is what stands under a key ``endpoint``."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1kit.addresses import read_address, without_secrets
from r1kit.config import ConfigError, KeyPath
from r1kit.endpoints import DEFAULT_KEY, read_key
from r1kit.files import hash_file
from r1kit.recipe.inputs import input_kind, texts
from r1kit.recipe.layers import Layers, stage_name
from r1kit.recipe.recipe import endpoint_blocks
from r1kit.trackers import TrackConfig
from r1kit.user_code import code_file, is_name


@dataclass(frozen=True, slots=True)
class Imported:
    """Code that a recipe names: ``name`` as it is written, its file with its SHA-256."""

    name: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Read:
    """A file, model or folder that a recipe names, where, and whether it is there."""

    key: str
    name: str
    kind: str
    exists: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """An endpoint that a recipe sends texts to: where, for which model, and the name of the environment
    variable whose value is sent as the key, with whether it is set."""

    key: str
    endpoint: str
    model: str
    key_variable: str
    key_is_set: bool

    def in_words(self) -> str:
        key = (
            f"the key in ${self.key_variable}"
            if self.key_is_set
            else f"no key (${self.key_variable} is not set)"
        )
        return f"{self.key}: sends texts to {self.endpoint} (model {self.model or '?'}) with {key}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def warning(self) -> str:
        """Why the key is not safe on its way, empty where it is."""
        address = read_address(self.endpoint)
        if not self.key_is_set or address.scheme == "https" or address.is_local:
            return ""
        return (
            f"{self.key}: the key in ${self.key_variable} goes to {address.origin} without encryption; use "
            "https"
        )


@dataclass(frozen=True, slots=True)
class Uses:
    """What a recipe uses from outside the run."""

    imports: tuple[Imported, ...]
    reads: tuple[Read, ...]
    sends: tuple[Sent, ...]
    tracks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> list[str]:
        """A line for each entry."""
        lines = [code_in_words(one) for one in self.imports]
        for one in self.reads:
            lines.append(f"reads {one.kind} {one.name}{'' if one.exists else ' (not there)'}  [{one.key}]")
        for sent in self.sends:
            lines += [sent.in_words(), *([f"warning: {sent.warning()}"] if sent.warning() else [])]
        lines += self.tracks
        return lines or ["imports no code, reads no file, sends nothing"]


def uses_of(data: Mapping[str, Any], layers: Layers | None = None) -> Uses:
    """What a recipe uses; ``data`` is the recipe as plain data. With ``layers`` the recipe's own files are
    listed too. Raises ConfigError for an endpoint that cannot be one."""
    files = dict.fromkeys(place.source for place in layers.places.values() if place.line) if layers else {}
    reads = [
        Read("extends" if number else "recipe", file, "recipe", True) for number, file in enumerate(files)
    ]
    for index, stage in enumerate(data.get("stages") or ()):
        reads += _reads(stage, ("stages", stage_name(stage) or index))
    tracks = (TrackConfig.model_validate(track).in_words() for track in data.get("track") or ())
    return Uses(tuple(imports_of(data)), tuple(dict.fromkeys(reads)), tuple(sends_of(data)), tuple(tracks))


def imports_of(data: Mapping[str, Any]) -> list[Imported]:
    """The code that plain data of a recipe names, each once."""
    names = dict.fromkeys(text for _, text in texts(data, ()) if is_name(text))
    found = [(name, file) for name in names if (file := code_file(name)) is not None]
    return [Imported(name, str(file), hash_file(file)) for name, file in found]


def code_in_words(code: Imported) -> str:
    return f"imports {code.name}  ({code.file}, SHA-256 {code.sha256})"


def sends_of(data: Mapping[str, Any]) -> list[Sent]:
    """The endpoints that plain data of a recipe names. Raises ConfigError for an address that cannot be an
    endpoint, and for a key that cannot be sent."""
    found = {}
    for path, block in endpoint_blocks(data, ()):
        address, variable = str(block["endpoint"]), str(block.get("key_variable") or DEFAULT_KEY)
        try:
            read_address(address)
            is_set = bool(read_key(variable))
        except ConfigError as error:
            raise ConfigError(f"{_shown(path, data)}: {error}") from None
        key, model = _shown(path, data), str(block.get("model") or "")
        found[(address, model, variable)] = Sent(key, address, model, variable, is_set)
    return list(found.values())


def _reads(stage: Any, at: KeyPath) -> Iterator[Read]:
    for path, text in texts(stage, ()):
        kind = input_kind(path, text) if path else None
        if kind is not None and kind != "code":
            key = ".".join(str(part) for part in (*at, *(part for part in path if part != text)))
            yield Read(key, text, kind, Path(os.path.expanduser(text)).exists())
        elif "://" in text and path[-1] != "endpoint":
            yield Read(".".join(str(part) for part in (*at, *path)), without_secrets(text), "address", True)


def _shown(path: KeyPath, data: Mapping[str, Any]) -> str:
    names: Sequence[Any] = path
    if path[:1] == ("stages",) and len(path) > 1 and isinstance(path[1], int):
        names = ("stages", stage_name(data["stages"][path[1]]) or path[1], *path[2:])
    return ".".join(str(part) for part in names)
