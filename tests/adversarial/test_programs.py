"""Programs that cheat, break out, exhaust and stay: none succeeds, in either tier, as root or as an ordinary
user.

By default every ninth program of the corpus is run; ``R1KIT_ADVERSARIAL=full`` runs all of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from r1kit.sandbox import pool, zygote_handle

pytestmark = pytest.mark.slow

EVERY = 1 if os.environ.get("R1KIT_ADVERSARIAL") == "full" else 9
ROOT = Path(__file__).parents[2]


def usable(tier: str) -> bool:
    try:
        zygote_handle.ZygoteHandle(tier).close()
    except (zygote_handle.SandboxError, OSError):
        return False
    return True


def run_corpus(tier: str, user: int | None, interpreter: str = sys.executable) -> dict:
    packages = os.pathsep.join(
        [str(ROOT / "src"), *(path for path in sys.path if path.endswith("site-packages"))]
    )
    finished = subprocess.run(
        [interpreter, "-B", str(Path(__file__).with_name("corpus.py")), tier, str(EVERY)], env={"PYTHONPATH": packages, "PATH": "/usr/bin:/bin"},
        cwd="/", user=user, group=user, extra_groups=None if user is None else [], capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout)


def assert_nothing_got_through(report: dict) -> None:
    assert report["jobs"] > 50
    for kind in ("hacks", "escapes", "attacks", "refused", "changed", "touched", "left"):
        assert report[kind] == [], f"{kind}: {report[kind]}"


@pytest.mark.parametrize("tier", pool.TIERS)
def test_nothing_gets_through(tier):
    if not usable(tier):
        pytest.skip(f"the tier {tier} cannot be used here")
    assert_nothing_got_through(run_corpus(tier, None))


@pytest.mark.parametrize("tier", pool.TIERS)
def test_nothing_gets_through_as_an_ordinary_user(tier):
    if os.geteuid() != 0:
        pytest.skip("this already is an ordinary user")
    if not usable(tier):
        pytest.skip(f"the tier {tier} cannot be used here")
    interpreter = next(
        (
            path
            for path in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")
            if nobody_can_run(path)
        ),
        None,
    )
    if interpreter is None:
        pytest.skip("no interpreter that an ordinary user may run")
    assert_nothing_got_through(run_corpus(tier, 65534, interpreter))


def nobody_can_run(path: str) -> bool:
    packages = os.pathsep.join(
        [str(ROOT / "src"), *(path for path in sys.path if path.endswith("site-packages"))]
    )
    try:
        done = subprocess.run(
            [path, "-B", "-c", "import r1kit.sandbox"], user=65534, group=65534, extra_groups=[], cwd="/", env={"PYTHONPATH": packages},
            capture_output=True, timeout=60,
        )  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0
