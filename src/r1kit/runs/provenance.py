"""What a result depends on: the files it reads by content, the code, the environment.

A stage's record (r1kit.records) holds its *identity* (configuration, seed, the records of the stages it read,
the hash of every file of the user's that the configuration names), its *setting* (what else its bits depend
on: code, versions, machine, runtime, kernels), and after it has finished its *outputs* (size and SHA-256 of
each file). The record of an input is hashed into the identity, so records form a chain from the last model
back to the first file. ``r1kit verify`` follows it."""

import contextlib
import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from r1kit.addresses import without_secrets, word_without_secrets
from r1kit.config import ConfigError
from r1kit.files import hash_file, hash_text
from r1kit.model.sources import hash_folder, model_hash
from r1kit.records import Identity, StageRecord
from r1kit.runtime import RuntimeConfig
from r1kit.user_code import code_file

PACKAGES = ("r1kit", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "vllm", "ray")
NOT_READ = ("name", "seed_of")  # keys of a stage whose text is never a file's name
_ABSENT = object()
_PACKAGE = Path(__file__).parents[1]


def environment(command: str, sends: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What a reader needs to know to repeat the run. ``sends``: the recipe's endpoints, with the names
    of the variables that hold their keys."""
    return {
        "command": without_secrets(command),
        "arguments": [word_without_secrets(word) for word in sys.argv],
        "sandbox": os.environ.get("R1KIT_SANDBOX", "auto"),
        "versions": versions(),
        "git": git_revision(),
        "sends": list(sends),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "started": round(time.time(), 3),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a result depends on, without importing them."""
    installed = {package: version for package in PACKAGES if (version := _version(package)) is not None}
    return {"python": platform.python_version(), **installed}


@functools.cache
def _version(package: str) -> str | None:
    """The version of an installed package, when this process first asks: its metadata takes a millisecond to
    read, and every stage asks several times."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def setting(runtime: RuntimeConfig) -> dict[str, Any]:
    """What the bits of a result depend on in addition to its identity. ``runtime`` is the recipe's runtime
    configuration."""
    indifferent = runtime.indifferent()
    where = {key: value for key, value in runtime.model_dump(mode="json").items() if key not in indifferent}
    where["processes"] = runtime.resolved_processes()
    now = {"code": code_hash(), "versions": versions(), "processor": _processor(), "runtime": where}
    return {**now, "kernels": runtime.kernels()}


@functools.cache
def code_hash() -> str:
    """One hash for r1kit's own source, as it is on the disk when this process first asks."""
    return hash_text("".join(f"{file.relative_to(_PACKAGE)} {hash_file(file)}\n" for file in source_files()))


def source_files() -> list[Path]:
    """All of r1kit's own source: Python, and the kernels in C++."""
    return sorted(path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".h", ".cpp"))


def named_files(config: Any) -> dict[str, str]:
    """SHA-256 of every file and model folder of the user's that a configuration names: data, models, code
    (``my.py:reward``)."""
    return {name: digest for name in sorted(set(_names(config))) if (digest := _hash_named(name)) is not None}


def identity_differences(record: Identity, identity: Identity) -> Iterator[str]:
    """What has changed since the stage's record was written, one line each."""
    yield from _changes(record.config, identity.config)
    if record.seed != identity.seed:
        yield "the recipe's seed"
    for name, digest in identity.inputs.items():
        if name in record.inputs and record.inputs[name] != digest:
            yield f"its input @{name} was made again" if digest else f"its input @{name} is not there"
    for name, digest in identity.files.items():
        if name in record.files and record.files[name] != digest:
            yield f"{name}: its content has changed (SHA-256 {record.files[name][:12]} -> {digest[:12]})"


def setting_differences(record: StageRecord, now: dict[str, Any]) -> Iterator[str]:
    """How the setting of an unfinished stage differs from when it was begun."""
    old = record.setting
    if old.get("code") != now["code"]:
        yield f"r1kit's own code: {str(old.get('code'))[:12]} -> {now['code'][:12]}"
    for name in ("versions", "processor", "runtime", "kernels"):
        yield from _changes({name: old.get(name)}, {name: now.get(name)})


@functools.cache
def git_revision() -> str | None:
    """The commit that r1kit's own source is at when this process first asks, with "+" when it is changed;
    None outside a checkout."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(_PACKAGE), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()


def _names(value: Any) -> Iterator[str]:
    """Every text of a configuration that may name a file, keys of tables included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in NOT_READ:
                yield from _names(inner)
            if set("./:") & set(str(key)):  # of a table of files or rewards; a field's name is no file
                yield str(key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _names(inner)


def _hash_named(name: str) -> str | None:
    """The hash of the file that a text names (a file, a model's folder, a model of the hub that is here, or
    the file of ``my.py:name`` or ``module:name``); None if it names none."""
    if name.startswith("@") or not name or len(name) > 4096 or "\0" in name or "\n" in name:
        return None
    path = code_file(name) if ":" in name else Path(name).expanduser()
    if path is None:
        return None
    if path.is_file():
        return hash_file(path)
    if (path / "config.json").is_file():
        return hash_folder(path)
    with contextlib.suppress(ConfigError):  # a folder of several GGUF files names no model
        return model_hash(name)
    return None


def _changes(old: Any, new: Any) -> Iterator[str]:
    before, after = _flat(old), _flat(new)
    for key in [*before, *(key for key in after if key not in before)]:
        if before.get(key, _ABSENT) != after.get(key, _ABSENT):
            yield f"{key}: {_shown(before, key)} -> {_shown(after, key)}"


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "(absent)"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    return found


@functools.cache
def _processor() -> str:
    """The processor's name: libraries choose their kernels, and so their rounding, by it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
