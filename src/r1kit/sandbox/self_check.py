"""Probe the sandbox in use: short programs that try what must not work, and one that must."""

import os

from r1kit.config import R1kitError
from r1kit.sandbox.jobs import Job
from r1kit.sandbox.pool import UNSAFE, current_tier
from r1kit.sandbox.programs import run_jobs

Probe = tuple[str, bool, str]

# Each defines f, which returns "reached" where the program reached what it must not reach.
_FORBIDDEN = {
    "network": "import socket\ndef f():\n    socket.create_connection(('127.0.0.1', 22), 0.2)\n    return "
    "'reached'",
    "name service": "import socket\ndef f():\n    socket.getaddrinfo('localhost', 80)\n    "
    "socket.socket()\n    "
    "return "
    "'reached'",
    "home folder": "import os, pathlib\ndef f():\n    return 'reached' if any(os.path.exists(p + "
    "'/.profile') "
    "for p "
    "in ('/root', HOME)) "
    "and os.listdir(HOME) else ''",
    "password file": "def f():\n    return 'reached' if open('/etc/passwd').read() else ''",
    "secrets in the environment": "import os\ndef f():\n    return 'reached' if any(k not in ALLOWED for k in "
    "os.environ) else "
    "''",
    "other processes": "import os\ndef f():\n    me = str(os.getpid())\n    others = [p for p in "
    "os.listdir('/proc') if "
    "p.isdigit() and p != me]"
    "\n    return 'reached' if others else ''",
    "new processes": "import os\ndef f():\n    if os.fork() == 0: os._exit(0)\n    return 'reached'",
    "nested namespaces": "import ctypes\ndef f():\n    return 'reached' if "
    "ctypes.CDLL(None).unshare(0x10000000) == 0 "
    "else "
    "''",
    "signals to others": "import os\ndef f():\n    os.kill(os.getppid() or 2, 0)\n    return 'reached'",
    "writing to libraries": "import os\ndef f():\n    open(os.path.dirname(os.__file__) + '/r1kit-probe', "
    "'w')\n    "
    "return "
    "'reached'",
    "leftovers": "def f():\n    open('/tmp/r1kit-probe', 'w').close()\n    return 'kept'",
}
_ALLOWED = ("PYTHONHASHSEED", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "LC_ALL", "HOME", "LC_CTYPE", "PWD")


def probe() -> list[Probe]:
    """Try the sandbox in use: (what, whether it holds, detail), one line each; a tier that cannot be used is
    one failed line.

    Where nothing is locked nothing is tried: the probes would do what they try.
    """
    try:
        tier = current_tier()
        if tier == UNSAFE:
            return [
                (
                    "sandbox tier",
                    False,
                    f"{tier}: programs written by a model can read, change and send whatever you can",
                )
            ]
        results: list[Probe] = [("sandbox tier", True, tier)]
        home = f"HOME = {os.path.expanduser('~')!r}\nALLOWED = {_ALLOWED!r}\n"
        tests = [{"args": [], "expected": "reached"}]
        jobs = [Job(home + text, tests, "function", "f", 2.0, 256) for text in _FORBIDDEN.values()]
        jobs.append(Job("def f(x): return x", [{"args": [1], "expected": 1}], "function", "f", 2.0, 256))
        verdicts = run_jobs(jobs)
    except R1kitError as error:
        return [("sandbox tier", False, str(error))]
    for name, verdict in zip(_FORBIDDEN, verdicts, strict=False):
        holds = verdict.outcome == "wrong" and not os.path.exists("/tmp/r1kit-probe")
        results.append((name, holds, "closed" if holds else f"OPEN ({verdict.outcome} {verdict.reason})"))
    results.append(("a harmless program", verdicts[-1].outcome == "correct", verdicts[-1].reason or "runs"))
    return results
