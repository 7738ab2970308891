"""Where a model comes from: a Hugging Face folder, a GGUF file, or a model of the hub.

A recipe names a model by text. `resolve_model` gives its folder of config.json, safetensors and
tokenizer.json: a folder as it is, a GGUF file converted once, a model of the hub (``org/name`` or
``org/name@revision``) downloaded once. Code that a repository brings is never downloaded, and never run."""

import contextlib
import functools
import importlib.util
import io
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from r1kit.config import ConfigError, R1kitError
from r1kit.files import hash_file, hash_text, remove_tree, rename_whole
from r1kit.model.kernel_cache import cache_folder, folder_error, make_folder

Kind = Literal["folder", "gguf", "hub"]

# What a model needs, and nothing that could run.
HUB_FILES = (
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json",
    "tokenizer*.json", "special_tokens_map.json", "chat_template*", "chat_templates/*.jinja", "README.md",
    "LICENSE*", "NOTICE*", "r1kit.json", "value_head.safetensors",
)  # fmt: skip
CARD = "README.md"
# What has to be done with a model of this kind before it is a folder, for the terminal.
WORK: Mapping[str | None, str] = {
    "gguf": "converting it to a Hugging Face folder, once",
    "hub": "downloading it from the hub, once",
}
_HUB_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_HASH_DIGITS = 16


def kind_of(name: str) -> Kind | None:
    """What a text names; None where it names neither a file or folder that is there nor a model of the
    hub by its form. What is there wins over the hub's form, also a folder ``org`` here: ``models/qwen`` is
    then a folder that is missing."""
    path = Path(name).expanduser()
    if path.is_dir():
        return "gguf" if _lone_gguf(path) else "folder"
    if path.is_file():
        return "gguf" if path.suffix == ".gguf" else None
    is_hub = _HUB_NAME.fullmatch(name) and not name.endswith((".gguf", ".json", ".safetensors"))
    return "hub" if is_hub and not Path(name.partition("/")[0]).is_dir() else None


def resolve_model(name: str) -> Path:
    """The folder of the model that a recipe names, converted or downloaded first where it has to be.

    Raises ConfigError naming what is missing and both ways to get a model."""
    if (found := found_model(name)) is not None:
        return found
    kind = kind_of(name)
    if kind is None:
        raise ConfigError(missing_model(name))
    path = Path(name).expanduser()
    return _converted(_lone_gguf(path) or path) if kind == "gguf" else _downloaded(name)


def found_model(name: str) -> Path | None:
    """The model's folder if nothing has to be converted or downloaded for it, else None."""
    kind, path = kind_of(name), Path(name).expanduser()
    if kind == "folder":
        return path
    if kind == "gguf":
        folder = _conversion(_lone_gguf(path) or path)
        return folder if folder.is_dir() else None
    return _snapshot_here(name) if kind == "hub" else None


def model_hash(name: str) -> str | None:
    """The hash of what a text names as a model, for the record of a stage: of a GGUF file, or of the files of
    a model of the hub that is here. None for a folder of another kind, and for what is not here."""
    kind, path = kind_of(name), Path(name).expanduser()
    if kind == "gguf":
        return _hash_of(_lone_gguf(path) or path)
    found = _snapshot_here(name) if kind == "hub" else None
    return None if found is None else hash_folder(found)


def hash_folder(folder: Path) -> str:
    """One hash for the names and contents of all files of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hash_text("".join(f"{file.relative_to(folder)} {hash_file(file)}\n" for file in files))


def missing_model(name: str) -> str:
    """The message for a text that names no model."""
    return (
        f"{name}: no such folder (looked up from {Path.cwd()}); a model is a Hugging Face folder, a GGUF "
        "file, a model of the hub (org/name or org/name@revision), or @stage for one of this recipe"
    )


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the hub can be reached at all; its client would try again for half a minute. With a proxy this
    cannot be known, so the answer is yes."""
    from huggingface_hub import constants

    place = urllib.parse.urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies().get(place.scheme):
        return True
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((place.hostname or "", port), seconds).close()
    except OSError:
        return False
    return True


def models_folder() -> Path:
    """Where converted models are kept: ``$XDG_CACHE_HOME/r1kit/models``. Raises ConfigError for a user
    without a home folder, and for a folder that another user could change (see kernel_cache.py)."""
    cache = cache_folder()
    if cache is None:
        raise ConfigError("no folder for converted models: set XDG_CACHE_HOME to a folder of yours")
    try:
        reason = folder_error(cache / "models", os.getuid())
    except OSError as error:  # links that lead to each other, say
        reason = str(error)
    if reason:
        raise ConfigError(
            f"{reason}; converted models are not kept there: set XDG_CACHE_HOME to another folder"
        )
    return cache / "models"


def _lone_gguf(folder: Path) -> Path | None:
    """The only GGUF file of a folder without config.json. Raises ConfigError where there are several."""
    if not folder.is_dir() or (folder / "config.json").is_file():
        return None
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ConfigError(f"{folder}: holds several GGUF files ({names}); name the one that is meant")
    return found[0] if found else None


def _conversion(file: Path) -> Path:
    return models_folder() / f"{file.stem}-{_hash_of(file)[:_HASH_DIGITS]}"


def _hash_of(file: Path) -> str:
    """The hash of a file, read once as long as it keeps its size and time: a GGUF file may have gigabytes."""
    found = file.stat()
    return _hash_once(file, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash_once(file: Path, _size: int, _time: int) -> str:
    return hash_file(file)


def _converted(file: Path) -> Path:
    """The folder of a GGUF file's model, in float32: GGUF's block formats are expanded, which is exact. A
    folder is named by the file's hash, so another file never gets the model of this one."""
    folder = _conversion(file)
    if folder.is_dir():
        return folder
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    remove_tree(temporary)
    make_folder(temporary.parent.parent)
    make_folder(temporary.parent)
    temporary.mkdir(mode=0o700)
    try:
        fields = expand(file, temporary)
        (temporary / CARD).write_text(gguf_card(file, fields), encoding="utf-8")
        rename_whole(temporary, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        remove_tree(temporary)
    return folder


def expand(file: Path, folder: Path) -> dict[str, Any]:
    """Write a GGUF file's model, in float32, and its tokenizer as a Hugging Face folder; returns the file's
    ``general.*`` fields. Raises ConfigError for a broken file, and where a package is missing."""
    if needed := [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"{file}: a GGUF file is read with the packages {' and '.join(needed)}; install them: "
            "pip install 'r1kit[real]'"
        )
    import torch
    from gguf import GGUFReader  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        reader = GGUFReader(str(file))
        fields = {
            name: field.contents() for name, field in reader.fields.items() if name.startswith("general.")
        }
        where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        dequantize: Any = GgufConfig(dequantize=True)
        # transformers' bar of GGUF tensors cannot be switched off; what goes wrong is raised, not printed.
        with without_progress_bars(), contextlib.redirect_stderr(io.StringIO()):
            model: Any = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, quantization_config=dequantize
            )
            model.save_pretrained(folder)
        load: Callable[..., Any] = AutoTokenizer.from_pretrained
        load(**where).save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # a boundary: the libraries raise whatever the file's bytes lead them to
        raise ConfigError(
            f"{file}: cannot be read as a GGUF model: {type(error).__name__}: {error}; download it again, or "
            "use the model's Hugging Face folder"
        ) from error
    return fields


def gguf_card(file: Path, fields: Mapping[str, Any]) -> str:
    """The README.md of a converted model: its source and licence, in the hub's front matter."""
    licence = fields.get("general.license")
    source = fields.get("general.source.url") or fields.get("general.repo_url")
    front = [*([f"license: {licence}"] if licence else []), "library_name: transformers"]
    lines = ["---", *front, "---", "", f"# {fields.get('general.name', file.stem)}", ""]
    lines += [
        f"Converted by r1kit from `{file.name}` (SHA-256 `{_hash_of(file)}`); its blocks are expanded to"
    ]
    lines += ["float32. What the quantisation lost is not restored.", ""]
    lines += [f"- licence: {licence or 'not stated in the file'}"]
    lines += [f"- by: {fields['general.organization']}"] if fields.get("general.organization") else []
    lines += [f"- source: {source}"] if source else []
    return "\n".join(lines) + "\n"


def _downloaded(name: str) -> Path:
    """The folder of a model of the hub, in the hub's own cache."""
    try:
        folder = _snapshot(name)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        repository = name.partition("@")[0]
        command = f"hf download {repository} --local-dir models/{repository.partition('/')[2]}"
        raise ConfigError(
            f"{name}: neither a folder here nor to be had from the hub ({reason}). Either download it where "
            f"the hub can be reached ({command}) and name that folder, or name a GGUF file"
        ) from None
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise ConfigError(
            f"{name}: the repository has no config.json with model*.safetensors; r1kit never opens pickles: "
            "choose a repository with safetensors, or name a GGUF file"
        )
    return folder


def _snapshot_here(name: str) -> Path | None:
    """The snapshot of a model in the hub's own cache, with weights; found without the hub's library, which
    takes a while to import."""
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        return None
    model = hub_folder() / f"models--{match['repository'].replace('/', '--')}"
    revision = match["revision"] or "main"
    try:
        commit = (model / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision  # a commit names its snapshot itself
    folder = model / "snapshots" / commit
    return folder if (folder / "config.json").is_file() and any(folder.glob("model*.safetensors")) else None


def hub_folder() -> Path:
    """Where the hub's library keeps models, by the same variables."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    from transformers.utils import logging as theirs

    logging: Any = theirs
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _snapshot(name: str) -> Path:
    """Raises OSError or ValueError where the model cannot be had; the hub's own errors are of these kinds."""
    from huggingface_hub import snapshot_download

    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise R1kitError(f"{name!r} is no name of the hub")
    return Path(
        snapshot_download(
            match["repository"],
            revision=match["revision"],
            allow_patterns=list(HUB_FILES),
        )
    )
