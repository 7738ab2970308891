"""Launching: what is rendered is valid shell and YAML, whatever names a user has, and errors name the fix."""

import json
import os
import shlex
import subprocess
import sys
from typing import Any, Literal

import pytest
import recipe_fakes
import yaml
from typer.testing import CliRunner

from r1kit.commands.cli import app
from r1kit.commands.launch import TEMPLATES, Cluster, render
from r1kit.config import ConfigError, R1kitError
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.runtime import RUNTIMES

NASTY = "a b'c\"d$(touch x);`id` & #\\ \n-é"  # every character that a shell or YAML reads


class Sharded(recipe_fakes.FakeRuntime):
    kind: Literal["fsdp"] = "fsdp"  # type: ignore[assignment]
    learners: int = 64


class Clustered(recipe_fakes.FakeRuntime):
    kind: Literal["ray"] = "ray"  # type: ignore[assignment]
    learners: int = 8
    engines: int = 8
    address: str = "local"
    device: str = "cpu"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    for kind, name in (("local", "recipe_fakes:FakeRuntime"), ("fsdp", "test_launch:Sharded")):
        monkeypatch.setitem(RUNTIMES, kind, name)
    monkeypatch.setitem(RUNTIMES, "ray", "test_launch:Clustered")

    def make(kind: str, **runtime: Any):
        file = tmp_path / "r.yaml"
        content = {"name": "my_Run", "runtime": {"kind": kind, **runtime}, "stages": [{"stage": "write"}]}
        file.write_text(yaml.safe_dump(content))
        return build(read_layers(file, []), {"write": recipe_fakes.Write})

    return make


def words_of(script: str) -> list[list[str]]:
    """The commands of a script as bash splits them: each is run by a shell in which every program is one that
    prints its words."""
    # Some run at the same time: a line is one write, which an appended file takes whole. `print` makes two of
    # it where Python does not buffer (PYTHONUNBUFFERED).
    printing = "import json, os, sys; os.write(1, (json.dumps(sys.argv[1:]) + chr(10)).encode())"
    program = f"{shlex.quote(sys.executable)} -c {shlex.quote(printing)}"
    names = ("srun", "ray", "scontrol", "sleep", "cd", "hostname")
    fakes = "".join(f'{name}() {{ {program} {name} "$@" >> "$CALLS"; }}\n' for name in names)
    fakes += 'exec() { "$@"; }\n'
    # What follows a function's definition replaces the builtin of that name.
    calls = os.environ["CALLS"]
    done = subprocess.run(["bash"], input=fakes + script, text=True, capture_output=True, check=False)
    assert "syntax error" not in done.stderr, done.stderr
    with open(calls, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("kind", "cluster"), [("fsdp", Cluster(8)), ("ray", Cluster(2)), ("local", Cluster(1))]
)
def test_an_sbatch_script_hands_every_word_over_as_it_was(recipe, kind, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-8]")
    monkeypatch.chdir(tmp_path)
    given = Cluster(cluster.nodes, partition="gpu", folder=f"/srv/{NASTY}", python="/opt/py thon")
    launch = render(recipe(kind), "slurm", given, [NASTY, f"stages.write.init={NASTY}"])
    (script,) = launch.files.values()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    directives = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert f"#SBATCH --nodes={cluster.nodes}" in directives and "#SBATCH --partition=gpu" in directives
    assert "#SBATCH --job-name=my-run" in directives
    calls = words_of(script)
    assert ["cd", f"/srv/{NASTY}"] in calls
    (run,) = [words for words in calls if "run" in words and "r1kit" in words]
    command = run[run.index("r1kit") :]
    assert command[:4] == ["r1kit", "run", NASTY, f"stages.write.init={NASTY}"]
    assert "/opt/py thon" in run and not (tmp_path / "x").exists()
    assert ("--nproc-per-node=8" in run) == (kind == "fsdp")
    assert any(word.startswith("runtime.address=") for word in command) == (kind == "ray")
    assert launch.command == ("sbatch", "my-run.sbatch")


def test_a_job_of_kubernetes_has_an_index_for_each_node(recipe):
    cluster = Cluster(8, image="registry:5000/r1kit:1", claim="work", folder=NASTY)
    launch = render(recipe("fsdp"), "k8s", cluster, ["r.yaml", NASTY])
    service, job = yaml.safe_load_all(launch.files["my-run.yaml"])
    assert service["kind"] == "Service" and service["spec"]["clusterIP"] == "None"
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 8, 8)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["workingDir"] == NASTY and container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert container["command"][-4:] == ["r1kit", "run", "r.yaml", NASTY]
    # The name by which pods find the first one: its host name in the service's domain.
    assert (
        pod["subdomain"] == service["metadata"]["name"]
        and "--master-addr=my-run-0.my-run" in container["command"]
    )
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    (alone,) = yaml.safe_load_all(
        render(recipe("local"), "k8s", Cluster(1, image="i", claim="c"), ["r.yaml"]).files["my-run.yaml"]
    )
    assert alone["spec"]["template"]["spec"]["containers"][0]["command"] == [
        "python3", "-m", "r1kit", "run", "r.yaml"
    ]  # fmt: skip


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_ray_job_of_kubernetes_has_a_worker_for_every_further_node(recipe, nodes):
    cluster = Cluster(nodes, image="i", claim="c", folder="/work")
    job = yaml.safe_load(render(recipe("ray"), "k8s", cluster, ["r.yaml", NASTY]).files["my-run.yaml"])
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[-3:] == ["r.yaml", NASTY, "runtime.address=127.0.0.1:6379"]
    groups = job["spec"]["rayClusterSpec"].get("workerGroupSpecs", [])
    assert [group["replicas"] for group in groups] == ([nodes - 1] if nodes > 1 else [])
    pods = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *groups]
    for pod in pods:
        (container,) = pod["template"]["spec"]["containers"]
        assert container["image"] == "i" and container["volumeMounts"][0] == {
            "name": "work",
            "mountPath": "/work",
        }


def test_a_job_for_ray_runs_the_command_in_the_shared_folder(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    cluster = Cluster(2, hosts=("h1", "h2"), folder=NASTY, python="py thon")
    launch = render(recipe("ray"), "ray", cluster, ["r.yaml", NASTY])
    described = yaml.safe_load(launch.files["my-run-cluster.yaml"])
    assert described["provider"] == {"type": "local", "head_ip": "h1", "worker_ips": ["h2"]}
    start, submitted = words_of(launch.files["my-run-job.sh"])
    assert start == ["ray", "up", "--yes", "my-run-cluster.yaml"]
    assert submitted[:5] == ["ray", "job", "submit", "--address", "http://h1:8265"]
    inner = shlex.split(submitted[submitted.index("-c") + 1])
    assert inner[:2] == ["cd", NASTY] and inner[-2:] == [NASTY, "runtime.address=127.0.0.1:6379"]
    only = render(recipe("ray"), "ray", Cluster(1, address="http://h:1"), ["r.yaml"])
    assert list(only.files) == ["my-run-job.sh"] and "ray up" not in only.files["my-run-job.sh"]


@pytest.mark.parametrize(
    ("kind", "where", "cluster", "says"),
    [
        ("fsdp", "slum", Cluster(8), "did you mean 'slurm'"),
        ("local", "slurm", Cluster(2), "runtime.kind=fsdp"),
        ("fsdp", "slurm", Cluster(4), "add runtime.learners=32"),
        ("fsdp", "ray", Cluster(8), "write runtime.kind=ray"),
        ("ray", "ray", Cluster(2), "--address http"),
        ("ray", "ray", Cluster(2, hosts=("a",)), "names 1 hosts, and --nodes is 2"),
        ("fsdp", "k8s", Cluster(8, image="i"), "--claim"),
        ("fsdp", "slurm", Cluster(8, partition="a\n#SBATCH --uid=0"), "--partition"),
        ("fsdp", "slurm", Cluster(8, time="now; id"), "days-hours"),
        ("fsdp", "k8s", Cluster(8, image="i i", claim="c"), "--image"),
    ],
)  # fmt: skip
def test_what_would_fail_on_the_cluster_is_refused_with_the_fix(recipe, kind, where, cluster, says):
    with pytest.raises(ConfigError, match=says):
        render(recipe(kind), where, cluster, ["r.yaml"])


def test_more_processes_than_gpus_are_refused_where_they_need_one_each(recipe):
    with pytest.raises(ConfigError, match="write --nodes 2"):
        render(recipe("ray", device="cuda"), "slurm", Cluster(1), ["r.yaml"])
    assert render(recipe("ray"), "slurm", Cluster(1), ["r.yaml"]).files


def test_a_template_of_ones_own_replaces_one_and_its_mistakes_are_named(recipe, tmp_path):
    (tmp_path / "slurm.sbatch.j2").write_text("#!/bin/bash\nmodule load cuda\n{{ command }}\n")
    launch = render(recipe("fsdp"), "slurm", Cluster(8), ["r.yaml"], tmp_path)
    assert launch.files == {"my-run.sbatch": "#!/bin/bash\nmodule load cuda\nr1kit run r.yaml\n"}
    (tmp_path / "slurm.sbatch.j2").write_text("{{ comand }}")
    with pytest.raises(R1kitError, match=r"slurm.sbatch.j2: 'comand' is undefined"):
        render(recipe("fsdp"), "slurm", Cluster(8), ["r.yaml"], tmp_path)
    (tmp_path / "slurm.sbatch.j2").write_text("\n{% if %}")
    with pytest.raises(R1kitError, match=r"slurm.sbatch.j2, line 2"):
        render(recipe("fsdp"), "slurm", Cluster(8), ["r.yaml"], tmp_path)
    with pytest.raises(ConfigError, match="no such folder; copy"):
        render(recipe("fsdp"), "slurm", Cluster(8), ["r.yaml"], tmp_path / "none")
    assert {path.suffix for path in TEMPLATES.iterdir()} == {".j2"}


RUN = """\
name: launched
runtime: {kind: local}
stages:
  - {stage: sft, init: %s, data: [rows.jsonl], training: {batch_tokens: 64}}
"""


def test_the_command_checks_the_recipe_then_prints_or_submits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RUN % "nowhere")
    call = ["launch", "slurm", "r.yaml", "--dry-run"]
    result = CliRunner().invoke(app, call)
    assert isinstance(result.exception, ConfigError) and "nowhere" in str(result.exception)
    monkeypatch.setattr("r1kit.recipe.inputs.check_inputs", lambda *words, **options: None)
    result = CliRunner().invoke(app, [*call, "seed=3"])
    assert result.exit_code == 0, result.output
    assert "-m r1kit run r.yaml seed=3" in result.output and "sbatch launched.sbatch" in result.output
    assert not (tmp_path / "launch").exists()

    monkeypatch.setenv("PATH", "/nowhere")
    result = CliRunner().invoke(app, call[:-1])
    assert isinstance(result.exception, R1kitError) and "login node" in str(result.exception)
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\necho "$PWD $1" > /dev/null\ntest "$1" != refused.sbatch\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:/bin:/usr/bin")
    assert CliRunner().invoke(app, call[:-1]).exit_code == 0
    assert "r1kit run r.yaml" in (tmp_path / "launch/launched.sbatch").read_text()
    result = CliRunner().invoke(app, [*call[:-1], "--job-name", "refused"])
    assert isinstance(result.exception, R1kitError) and "exit code 1" in str(result.exception)
