"""Run the adversarial corpus through one tier and report what got through; also a command: ``python corpus.py
TIER [every]``.

A separate process, so that it can be run as another user, and so that what it leaves behind can be looked for
afterwards."""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import attacks
import escapes
import hacks
import solutions

from r1kit.sandbox import Job, pool, run_jobs
from r1kit.types import Verdict

SECRET = "CANARY-SECRET"
CANARY_SOCKET = f"r1kit-canary-{os.getpid()}"  # an abstract socket; names are the machine's
CANARY_TEXT = "the canary sings"
ASSERT_TEXTS = {
    "asserts": solutions.TEST_TEXT,
    "unittest": solutions.UNITTEST_TEXT,
    "check": solutions.CHECK_TEXT,
}


def hack_jobs(every: int = 1) -> dict[str, Job]:
    """Every wrong solution under every kind of test."""
    jobs = {}
    for name, text in list(hacks.HACKS.items())[::every]:
        jobs[f"{name} / function"] = Job(text, solutions.TESTS, "function", "f", 1.0, 256)
        if name in hacks.EQUAL_IN_PYTHON:
            continue
        for kind, tests in ASSERT_TEXTS.items():
            jobs[f"{name} / {kind}"] = Job(text, tests, "asserts", "f", 1.0, 256)
    for name, text in list(hacks.STDIO_HACKS.items())[::every]:
        jobs[f"{name} / stdio"] = Job(text, solutions.STDIO_TESTS, "stdio", None, 1.0, 256)
    return jobs


def solution_jobs(every: int = 1) -> dict[str, Job]:
    """Every true solution under every kind of test."""
    jobs = {}
    for name, text in list(solutions.SOLUTIONS.items())[::every]:
        jobs[f"{name} / function"] = Job(text, solutions.TESTS, "function", "f", 4.0, 512)
        for kind, tests in ASSERT_TEXTS.items():
            jobs[f"{name} / {kind}"] = Job(text, tests, "asserts", "f", 4.0, 512)
    for name, text in list(solutions.STDIO_SOLUTIONS.items())[::every]:
        jobs[f"{name} / stdio"] = Job(text, solutions.STDIO_TESTS, "stdio", None, 4.0, 512)
    return jobs


def escape_jobs(canary: Path, port: int, every: int = 1) -> dict[str, Job]:
    """Every escape; it passes (and the sandbox has failed) if the function returns "escaped"."""
    tests = [{"args": [1], "expected": "escaped"}]
    places = {
        "CANARY-SECRET": SECRET,
        "CANARY'": f"{canary}'",
        "CANARY.": f"{canary}.",
        "PORT": str(port),
        "PROJECT": __file__,
        "r1kit-canary": CANARY_SOCKET,
    }
    jobs = {}
    for name, text in list(escapes.ESCAPES.items())[::every]:
        for word, place in places.items():
            text = text.replace(word, place)
        jobs[name] = Job(text, tests, "function", "f", 2.0, 256)
    return jobs


def attack_jobs(every: int = 1) -> dict[str, Job]:
    """Every attack on resources."""
    return {
        name: Job(text, solutions.TESTS, "function", "f", 0.5, 128)
        for name, text in list(attacks.ATTACKS.items())[::every]
    }


def not_wrong(jobs: dict[str, Job], workers: pool.Pool) -> list[str]:
    """The jobs whose verdict is anything but wrong: a program must not pass for our fault either, or it could
    stop the run."""
    return [
        f"{name}: {v.outcome} {v.reason}".strip()
        for name, v in verdicts(jobs, workers).items()
        if v.outcome != "wrong"
    ]


def verdicts(jobs: dict[str, Job], workers: pool.Pool) -> dict[str, Verdict]:
    """Run jobs and keep their verdicts by name."""
    return dict(zip(jobs, run_jobs(list(jobs.values()), workers), strict=True))


def snapshot(folder: Path) -> dict[str, str]:
    """What a folder holds: names, sizes, times and modes."""
    return {
        str(path): f"{path.lstat().st_size} {path.lstat().st_mtime_ns} {path.lstat().st_mode}"
        for path in sorted(folder.rglob("*"))
    }


def descendants() -> list[str]:
    """Live processes below this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found, layer = [], {os.getpid()}
    while layer:
        layer = {pid for pid, parent in parents.items() if parent in layer}
        found += [str(pid) for pid in layer]
    return found


def _note(wait: Callable[[], object], name: str, touched: list[str]) -> None:
    wait()
    touched.append(name)


def listen(canary: Path, touched: list[str]) -> int:
    """Open sockets that no program may reach: TCP, UDP, a unix socket and an abstract one."""
    tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp.bind(("127.0.0.1", 0))
    port = tcp.getsockname()[1]
    udp.bind(("127.0.0.1", port))
    unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unix.bind(f"{canary}.sock")
    os.chmod(f"{canary}.sock", 0o777)
    abstract.bind(f"\0{CANARY_SOCKET}")
    for listener in (tcp, unix):
        listener.listen()
    for name, wait in (
        ("tcp", tcp.accept),
        ("unix", unix.accept),
        ("udp", lambda: udp.recv(10)),
        ("abstract", lambda: abstract.recv(10)),
    ):
        threading.Thread(target=_note, args=(wait, name, touched), daemon=True).start()
    return port


def run(tier: str, every: int = 1) -> dict[str, object]:
    """Run the whole corpus through a tier; all lists of the result are empty if nothing got through."""
    os.environ[SECRET] = SECRET
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        os.chmod(folder, 0o777)
        canary = folder / "canary"
        canary.write_text(CANARY_TEXT)
        os.chmod(canary, 0o666)
        touched: list[str] = []
        port = listen(canary, touched)
        before = snapshot(folder)
        workers = pool.Pool(tier, 2)
        report: dict[str, object] = {"hacks": not_wrong(hack_jobs(every), workers)}
        report["escapes"] = not_wrong(escape_jobs(canary, port, every), workers)
        exhausted = verdicts(attack_jobs(every), workers)
        report["attacks"] = [
            f"{name}: {verdict.reason}" for name, verdict in exhausted.items() if verdict.outcome != "wrong"
        ]
        solved = verdicts(solution_jobs(every), workers)
        report["refused"] = [
            f"{name}: {verdict.reason}" for name, verdict in solved.items() if verdict.outcome != "correct"
        ]
        workers.close()
        time.sleep(0.1)
        report["changed"] = [
            path
            for path in set(before) | set(snapshot(folder))
            if before.get(path) != snapshot(folder).get(path)
        ]
        report["touched"] = touched
        report["left"] = descendants()
        report["jobs"] = (
            len(hack_jobs(every)) + len(escape_jobs(canary, port, every)) + len(exhausted) + len(solved)
        )
    report["seconds"] = round(time.monotonic() - begun, 1)
    return report


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
