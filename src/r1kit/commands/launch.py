"""Start a run on a cluster: files from templates that can be read, then the cluster's own program submits.

    slurm  an sbatch script: torchrun on every node (``runtime.kind: fsdp``), or a Ray cluster for this job
    ray    ``ray job submit`` to a cluster that runs, or one that ``ray up`` starts on hosts that are named
    k8s    a Job with an index for each node (fsdp), or a RayJob of the KubeRay operator

The templates are in launch_templates/. A file of the same name in the folder that ``--templates`` names is
taken in its place. Whatever comes from the recipe or the command line is quoted for the shell (``shell``) or
for YAML (``yaml``); what stands in a comment that Slurm reads cannot be quoted, so those values are checked.
"""

import getpass
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from r1kit.config import ConfigError, R1kitError, suggest
from r1kit.recipe.recipe import Recipe

Scheduler = Literal["slurm", "ray", "k8s"]
SCHEDULERS: tuple[Scheduler, ...] = ("slurm", "ray", "k8s")
TEMPLATES = Path(__file__).parent / "launch_templates"
_RUNTIMES = ("fsdp", "ray", "local")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_TIME = re.compile(r"\d+(-\d+(:\d+){0,2}|(:\d+){0,2})")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_LABEL = 48  # letters of a name: Kubernetes adds an index and a random part, at most 63 together
# Where each program comes from, for those who do not have it.
_PROGRAMS = {
    "sbatch": "it is part of Slurm: run this on the cluster's login node",
    "ray": "install it with: pip install 'r1kit[ray]'",
    "kubectl": "install it as https://kubernetes.io/docs/tasks/tools/ says, and choose the cluster's context",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """The command's options, by their names. ``gpus``: of one node."""

    nodes: int
    gpus: int = 8
    name: str = ""
    partition: str = ""
    account: str = ""
    time: str = "7-00:00:00"
    image: str = ""
    claim: str = ""
    namespace: str = "default"
    address: str = ""
    hosts: tuple[str, ...] = ()
    python: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Launch:
    """Rendered ``files`` by name, and the ``command`` that submits them from their folder."""

    files: Mapping[str, str]
    command: tuple[str, ...]


def render(
    recipe: Recipe, scheduler: str, cluster: Cluster, words: Sequence[str], templates: Path | None = None
) -> Launch:
    """Render the files for a recipe; ``words``: the recipe's file and the changes to it. Raises ConfigError
    where recipe and cluster do not fit together, and R1kitError for a template with a mistake."""
    if scheduler not in SCHEDULERS:
        raise ConfigError(f"launch {scheduler}: {suggest(scheduler, SCHEDULERS)}")
    kind = recipe.runtime.kind
    _check(recipe, scheduler, cluster)
    name = _label(cluster.name or recipe.name)
    command = ["r1kit", "run", *words]
    values: dict[str, Any] = {
        "name": name, "kind": kind, "nodes": cluster.nodes, "gpus": cluster.gpus, "time": cluster.time,
        "partition": cluster.partition, "account": cluster.account, "image": cluster.image,
        "claim": cluster.claim, "namespace": cluster.namespace, "address": cluster.address,
        "hosts": list(cluster.hosts), "user": getpass.getuser(), "words": command,
        "command": shlex.join(command),
        "python": cluster.python or ("python3" if scheduler == "k8s" else sys.executable),
        "folder": cluster.folder or str(Path.cwd()), "cluster_file": f"{name}-cluster.yaml",
    }  # fmt: skip
    if scheduler == "slurm":
        made = {f"{name}.sbatch": "slurm.sbatch.j2"}
        submit: tuple[str, ...] = ("sbatch", f"{name}.sbatch")
    elif scheduler == "ray":
        made = {f"{name}-cluster.yaml": "ray-cluster.yaml.j2"} if cluster.hosts else {}
        made[f"{name}-job.sh"] = "ray-job.sh.j2"
        submit = ("bash", f"{name}-job.sh")
        values["address"] = cluster.address or f"http://{cluster.hosts[0]}:8265"
    else:
        made = {f"{name}.yaml": "k8s-rayjob.yaml.j2" if kind == "ray" else "k8s-job.yaml.j2"}
        submit = ("kubectl", "apply", "-f", f"{name}.yaml")
    environment = _environment(templates)
    files = {file: _rendered(environment, template, file, values) for file, template in made.items()}
    return Launch(files, submit)


def submit(launch: Launch, folder: Path) -> None:
    """Write the files to ``folder`` and submit them from there. Raises R1kitError where the program is
    missing or fails."""
    needed = "ray" if launch.command[0] == "bash" else launch.command[0]
    if shutil.which(needed) is None:
        raise R1kitError(
            f"{needed} is not on this machine: {_PROGRAMS[needed]}; --dry-run shows the files without it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in launch.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    code = subprocess.run(launch.command, cwd=folder, check=False).returncode
    if code:
        raise R1kitError(
            f"{shlex.join(launch.command)} ended with exit code {code}; its own message is above. The files "
            f"are in {folder}: fix the cause, then launch again"
        )


def _environment(templates: Path | None) -> SandboxedEnvironment:
    if templates is not None and not templates.is_dir():
        raise ConfigError(f"--templates {templates}: no such folder; copy {TEMPLATES} and change the copy")
    folders = [FileSystemLoader(folder) for folder in (templates, TEMPLATES) if folder is not None]
    environment = SandboxedEnvironment(
        loader=ChoiceLoader(folders), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    environment.filters["yaml"] = lambda value: json.dumps(value, ensure_ascii=True)
    return environment


def _rendered(environment: SandboxedEnvironment, template: str, file: str, values: Mapping[str, Any]) -> str:
    try:
        return environment.get_template(template).render(values, file=file)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        place = f"{template}, line {line}" if line else template
        raise R1kitError(f"{place}: {error}; compare it with {TEMPLATES / template}") from None


def _label(name: str) -> str:
    """The name with lower-case letters, digits and dashes only, as Kubernetes wants it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LABEL].strip("-") or "r1kit"


def _check(recipe: Recipe, scheduler: str, cluster: Cluster) -> None:
    """Refuse what would fail on the cluster, or could not be quoted."""
    kind, processes = recipe.runtime.kind, cluster.nodes * cluster.gpus
    if kind not in _RUNTIMES:
        raise ConfigError(f"runtime.kind {kind}: only {', '.join(_RUNTIMES)} can be launched")
    if kind == "local" and cluster.nodes > 1:
        raise ConfigError(
            f"--nodes {cluster.nodes}: runtime.kind local runs on one node; write runtime.kind=fsdp or "
            "runtime.kind=ray, or --nodes 1"
        )
    if scheduler == "ray" and kind != "ray":
        raise ConfigError(f"launch ray: the recipe's runtime.kind is {kind}; write runtime.kind=ray")
    learners = getattr(recipe.runtime, "learners", processes)
    if kind == "fsdp" and learners != processes:
        raise ConfigError(
            f"runtime.learners is {learners}, and {cluster.nodes} nodes of {cluster.gpus} GPUs are "
            f"{processes} processes: add runtime.learners={processes}"
        )
    asked = learners + getattr(recipe.runtime, "engines", 0) if kind == "ray" else 0
    if asked > processes and str(getattr(recipe.runtime, "device", "cpu")) != "cpu":
        raise ConfigError(
            f"runtime: {asked} learners and engines need as many GPUs, and {cluster.nodes} nodes of "
            f"{cluster.gpus} GPUs have {processes}: write --nodes {-(-asked // cluster.gpus)}"
        )
    if scheduler == "ray" and not (cluster.address or cluster.hosts):
        raise ConfigError(
            "launch ray: name a cluster that runs (--address http://HEAD:8265) or hosts to start one on "
            "(--hosts HEAD,WORKER)"
        )
    if cluster.hosts and len(cluster.hosts) != cluster.nodes:
        raise ConfigError(f"--hosts names {len(cluster.hosts)} hosts, and --nodes is {cluster.nodes}")
    if scheduler == "k8s" and not (cluster.image and cluster.claim):
        raise ConfigError(
            "launch k8s: name the image that has r1kit (--image) and the claim of the volume that all nodes "
            "share (--claim)"
        )
    _check_words(cluster)


def _check_words(cluster: Cluster) -> None:
    allowed = [
        ("--partition", cluster.partition, _WORD, "letters, digits and . _ @ -"),
        ("--account", cluster.account, _WORD, "letters, digits and . _ @ -"),
        ("--namespace", cluster.namespace, _WORD, "letters, digits and . _ @ -"),
        ("--claim", cluster.claim, _WORD, "letters, digits and . _ @ -"),
        ("--time", cluster.time, _TIME, "days-hours:minutes:seconds"),
        ("--image", cluster.image, _IMAGE, "a registry's name of an image"),
        *(("--hosts", host, _HOST, "names of hosts with commas between") for host in cluster.hosts),
    ]
    for option, value, form, what in allowed:
        if value and form.fullmatch(value) is None:
            raise ConfigError(f"{option} {value!r}: write {what}")
