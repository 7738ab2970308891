"""A recipe on a Ray cluster: the result of two local processes, also where a learner is killed; what listens,
what is left."""

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from copied_stages import copy_stage
from forked import Forked
from rich.console import Console
from waiting import wait_until

from r1kit.interruption import Interruption
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import run
from r1kit.runtime.ray_learner import RayLearner
from r1kit.runtime.ray_session import SESSION

ROOT = Path(__file__).parents[1]

# A nearly untrained model solves nothing, so this reward has a spread of its own.
REWARD = "def odd(completions, completion_ids):\n    return [float(sum(ids) % 2) for ids in completion_ids]\n"
RECIPE = """\
extends: {nano}
runtime: {{kind: local, processes: 2, engine_precision: float32}}
stages:
  pretrain: {{tokens: 8_000}}
  r1_zero:
    rewards: {{"{folder}/odd.py:odd": 1.0}}
    grpo: {{steps: 4, problems: 4, group: 4, max_tokens: 8}}
"""


def processes(folder: str = "") -> list[psutil.Process]:
    """The processes of Ray sessions of this test run (of one session, if its folder is given)."""
    found = []
    for process in psutil.process_iter():
        try:
            session = process.environ().get(SESSION, "")
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if alive and session and (not folder or session == folder):
            found.append(process)
    return found


def listening(folder: str) -> Iterator[str]:
    for process in processes(folder):
        try:
            yield from (
                one.laddr.ip
                for one in process.net_connections(kind="inet")
                if one.status == psutil.CONN_LISTEN
            )
        except psutil.Error:
            continue


class Watched:
    """Stands in for ``RayLearner.update``: at the second update it looks around, and ends a learner."""

    def __init__(self) -> None:
        self.updates, self.addresses, self.folder = 0, [""], ""
        self.handler: Any = None
        self.modes: list[int] = []
        self.original = RayLearner.update

    def __call__(self, learner: Any, *arguments: Any) -> Any:
        self.updates += 1
        if self.updates == 2:
            session = learner.group.cluster.session
            self.folder, self.handler = str(session.folder), signal.getsignal(signal.SIGTERM)
            self.addresses = list(listening(self.folder))
            self.modes = [stat.S_IMODE(path.stat().st_mode) for path in (session.folder, session.token)]
            os.kill(learner.group.pids[1], signal.SIGKILL)
        return self.original(learner, *arguments)


def train(folder: Path, out: Path, *changes: str) -> str:
    """Run pretraining and r1_zero in this process; return what was printed."""
    screen = folder / f"{out.name}.txt"
    recipe = build(read_layers(folder / "small.yaml", [f"out={json.dumps(str(out))}", *changes]))
    with screen.open("w") as file:
        run(recipe, console=Console(file=file, width=1000), show_rollouts=0)
    return screen.read_text()


def logged(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if not name.startswith("time")}
        for row in rows
        if row["stage"] == "r1_zero"
    ]


@pytest.mark.slow
def test_a_learner_that_is_killed_changes_no_byte_and_nothing_listens_or_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nano = ROOT / "recipes/nano.yaml"
    later = [stage.name for stage in build(read_layers(nano, [])).stages][2:]
    (tmp_path / "odd.py").write_text(REWARD)
    text = RECIPE.format(nano=nano, folder=tmp_path) + "".join(f"  {name}: null\n" for name in later)
    (tmp_path / "small.yaml").write_text(text)
    train(tmp_path, tmp_path / "local")
    copy_stage(tmp_path / "local", "pretrain", tmp_path / "ray")
    watched = Watched()
    monkeypatch.setattr(RayLearner, "update", lambda *arguments: watched(*arguments))
    kind = "runtime={kind: ray, learners: 2, engines: 2, engine_precision: float32}"
    printed = train(tmp_path, tmp_path / "ray", kind)
    assert "learner 1" in printed and "r1_zero continues from its last saved state" in printed
    assert watched.updates == 1 + 4  # the second one was done again, from the state after the first
    local, ray = (tmp_path / out / "stages/r1_zero/model/model.safetensors" for out in ("local", "ray"))
    assert local.read_bytes() == ray.read_bytes()
    assert local.read_bytes() != (tmp_path / "local/stages/pretrain/model/model.safetensors").read_bytes()
    assert logged(tmp_path / "local") == logged(tmp_path / "ray")
    assert len(watched.addresses) >= 6  # of the cluster's own processes, its workers and the learners' group
    assert set(watched.addresses) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert watched.modes == [0o700, 0o600]
    assert isinstance(getattr(watched.handler, "__self__", None), Interruption)
    assert not Path(watched.folder).exists() and not processes(watched.folder)


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_no_process_and_no_file(forked: Forked) -> None:
    code = (
        "import os, signal\nfrom r1kit.runtime.ray import RayConfig\n"
        "runtime = RayConfig().start()\n"
        "print(runtime.cluster.session.folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = forked.run("-c", code)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    folder = ended.stdout.strip().splitlines()[-1]
    assert "r1kit-ray-" in folder
    wait_until(lambda: not processes(folder) and not Path(folder).exists(), "the session is removed")


def test_a_process_that_imported_ray_with_other_settings_is_refused(forked: Forked) -> None:
    """In a process of its own, since what Ray was imported with stays."""
    code = (
        "import sys, types\nsys.modules['ray'] = types.ModuleType('ray')\n"
        "from r1kit.runtime.ray_session import prepare\nfrom pathlib import Path\n"
        "prepare(Path('/nowhere/token'))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = forked.run("-c", code, environment=environment)
    assert ended.returncode == 1
    assert "ray was imported before r1kit could have it listen on this machine alone" in ended.stderr
