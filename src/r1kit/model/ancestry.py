"""What a model inherits from the model that it is trained from: name, licence and the dtype of its weights.

A licence is read from the card (README.md's front matter, as the hub writes it), else recognised by the text
of a licence file. Licence files are copied from model to model, so that an exported folder has them."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]

from r1kit.config import R1kitError
from r1kit.files import read_object
from r1kit.marks import hash_tree
from r1kit.model.tensor_files import INDEX, LONGEST_HEADER, WEIGHTS
from r1kit.records import Ancestor, ModelNotes, is_of_a_run, read_notes, write_notes

CARD = "README.md"
LONGEST_CARD, LONGEST_LICENCE = 1_000_000, 200_000  # characters that are read
_LICENCE_FILE = re.compile(r"(?:LICEN[CS]E|COPYING|NOTICE|USE[_-]POLICY)(?:[-_.].*)?", re.IGNORECASE)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FOLDER = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")
# Words of a licence's text by the identifier that the hub has for it.
_LICENCES = {
    "apache-2.0": ("apache license", "version 2.0"),
    "mit": ("permission is hereby granted, free of charge",),
    "bsd-3-clause": ("redistribution and use in source and binary forms", "neither the name"),
    "gpl-3.0": ("gnu general public license", "version 3"),
    "cc-by-4.0": ("creative commons attribution 4.0",),
}
_TRAINABLE = {
    "F64": (torch.float64, 8),
    "F32": (torch.float32, 4),
    "BF16": (torch.bfloat16, 2),
    "F16": (torch.float16, 2),
}


def inherit(source: Path, to: Path) -> None:
    """Write into the new model's folder what it inherits from the folder that it was loaded from: the
    licence files, and the name and licence of the model from elsewhere that it began with (r1kit.json)."""
    for file in licence_files(source):
        shutil.copyfile(file, to / file.name)
    write_notes(to, origin_of(source))


def origin_of(source: Path) -> ModelNotes:
    """Name, licence and hash of the model from elsewhere in which the weights of this folder began."""
    known = read_notes(source)
    if known is not None:
        return ModelNotes(base_model=known.base_model, license=known.license, lineage=known.lineage)
    if is_of_a_run(source):  # trained from random weights, or by an r1kit that took no notes
        return ModelNotes()
    name, licence = name_of(source), licence_of(source)
    return ModelNotes(base_model=name, license=licence, lineage=(ancestor_of(source),))


def ancestor_of(source: Path) -> Ancestor:
    """A model from elsewhere as a link of a lineage: name, licence, and one hash of all its files."""
    name, licence = name_of(source), licence_of(source)
    return Ancestor(name=name, kind="model", sha256=hash_tree(source), license=licence)


def name_of(folder: Path) -> str:
    """The model's name: of a run's its run and stage; on the hub, where its folder in the hub's cache or its
    config.json gives that; else the folder's."""
    if is_of_a_run(folder):  # RUN/STAGE
        parts = folder.absolute().parts
        place = len(parts) - 1 - parts[::-1].index("stages")
        return f"{parts[place - 1]}/{parts[place + 1]}"
    for part in folder.absolute().parts:
        if match := _HUB_FOLDER.fullmatch(part):
            return f"{match['owner']}/{match['name']}"
    config = folder / "config.json"
    given = read_object(config).get("_name_or_path") if config.is_file() else None
    if isinstance(given, str) and _HUB_NAME.fullmatch(given) and not Path(given).exists():
        return given
    return folder.absolute().name


def licence_files(folder: Path) -> list[Path]:
    """The folder's licence and notice files."""
    return sorted(file for file in folder.glob("*") if file.is_file() and _LICENCE_FILE.fullmatch(file.name))


def licence_of(folder: Path) -> str | None:
    """The model's licence: what its card says, else the identifier of a licence file's text; None where
    neither is there. A licence that is not recognised is "other"."""
    front = front_matter(folder / CARD)
    for key in ("license", "license_name"):
        value = front.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str) and value.strip() and value != "other":
            return value.strip()
    texts = [text for file in licence_files(folder) if (text := _text(file, LONGEST_LICENCE))]
    for text in texts:
        words = " ".join(text.lower().split())
        for name, needed in _LICENCES.items():
            if all(word in words for word in needed):
                return name
    return "other" if texts or front.get("license") == "other" else None


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML between the first two lines of dashes of a card; empty where there is none, or none that can
    be read."""
    text = _text(card, LONGEST_CARD)
    match = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|\Z)", text, re.DOTALL)
    if match is None:
        return {}
    try:
        found = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(file: Path, longest: int) -> str:
    if not file.is_file():
        return ""
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(longest)


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder, without that of a scalar head."""
    if (folder / INDEX).is_file():
        places = read_object(folder / INDEX).get("weight_map")
        names = {str(name) for name in places.values()} if isinstance(places, dict) else set()
        return sorted(folder / Path(name).name for name in names)
    return [folder / WEIGHTS]


def dtype_of(folder: Path) -> torch.dtype:
    """The dtype in which most of a model's weights are stored, of those that can be trained (8-bit ones
    become bfloat16); the tensors themselves are not read."""
    sizes: dict[str, int] = {}
    for file in weights_files(folder):
        for kind, size in _tensors(file):
            sizes[kind] = sizes.get(kind, 0) + size // _TRAINABLE[kind][1]
    return _TRAINABLE[max(sizes, key=lambda kind: sizes[kind])][0] if sizes else torch.float32


def _tensors(file: Path) -> Iterator[tuple[str, int]]:
    """Type and bytes of each trainable tensor of a safetensors file."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, LONGEST_HEADER)))
        for name, tensor in header.items():
            if name != "__metadata__" and tensor["dtype"] in _TRAINABLE:
                first, last = tensor["data_offsets"]
                yield tensor["dtype"], last - first
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise R1kitError(
            f"{file}: its list of tensors cannot be read ({error}); copy the file again"
        ) from None
