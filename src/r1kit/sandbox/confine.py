"""Two ways to confine a process, and what each job adds to them.

Tier ``namespaces``: a zygote lives in user, pid, mount, network, IPC and UTS namespaces of its own; its root
is a small read-only tree (the interpreter, the system's libraries, four device nodes). A job gets a pid
namespace, an empty /tmp of its own (64 MB) and its own /proc on top, then loses every capability.

Tier ``landlock``, for places where user namespaces are blocked (containers): no namespaces, but the kernel
refuses every file outside the interpreter, the libraries and a scratch folder of the job's own
(scratch.py), and every write outside that folder.

In both a job has resource limits and a seccomp filter that allows no new process, no network and no signal to
others. Tier ``unsafe-subprocess`` only sets limits: it stops accidents, not attacks.
"""

import os
import resource
import sys
from collections.abc import Sequence

from r1kit.sandbox import kernel

UNPRIVILEGED = 65534
SCRATCH_OPTIONS = "size=64m,nr_inodes=10000,mode=1777"
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LIBRARIES = ("/lib", "/lib64", "/lib32", "/libx32", "/bin")
_WRITTEN_FILES = 16 << 20


def visible_paths() -> list[str]:
    """The folders that a Python program needs to read: the interpreter and the libraries, nothing of the
    project."""
    packages = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    folders = ["/usr", *_LIBRARIES, sys.base_prefix, sys.prefix, *packages]
    existing = {os.path.realpath(folder) for folder in folders if os.path.isdir(folder)}
    existing |= {folder for folder in (sys.base_prefix, sys.prefix) if os.path.isdir(folder)}
    return sorted(
        path
        for path in existing
        if not any(path != other and path.startswith(other + "/") for other in existing)
    )


def scratch_folder(visible: Sequence[str]) -> str:
    """Where a job may write: /tmp, unless the interpreter is installed there."""
    return "/var/tmp" if any(path.startswith("/tmp/") for path in visible) else "/tmp"


def enter_namespaces(visible: Sequence[str]) -> int:
    """Confine this process to namespaces of its own; return, in the child that continues, a descriptor of its
    pid namespace.

    The calling process forks: the parent waits for the child and exits as it did. Raises OSError where the
    kernel refuses."""
    is_root = os.geteuid() == 0
    if is_root:
        kernel.unshare(kernel.CLONE_NEWNS)
        _build_root(visible)
        _drop_privileges()
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(
        kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
        | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
    )  # fmt: skip
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    if not is_root:
        _build_root(visible)
    _continue_in_child()
    own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    # The host's processes must not show where a job's own /proc cannot be mounted.
    kernel.mount(
        "proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_RDONLY
    )
    return own_namespace


def _build_root(visible: Sequence[str]) -> None:
    # Before the root changes: what a link points to is not where the link says below /old.
    real = {path: os.path.realpath(path) for path in visible}
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    os.mkdir("/tmp/new")
    os.mkdir("/tmp/old")
    kernel.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    kernel.mount("tmpfs", "/new", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    for path in visible:
        os.makedirs("/new" + path, exist_ok=True)
        kernel.bind_read_only("/old" + real[path], "/new" + path)
    for path in _LIBRARIES:
        if os.path.islink("/old" + path):
            os.symlink(os.readlink("/old" + path), "/new" + path)
    for folder in ("/tmp", "/var/tmp", "/proc", "/dev"):
        os.makedirs("/new" + folder, exist_ok=True)
    for device in _DEVICES:
        with open(f"/new/dev/{device}", "w"):
            pass
        kernel.bind_read_only(f"/old/dev/{device}", f"/new/dev/{device}", devices=True)
    for name, target in (("stdin", "0"), ("stdout", "1"), ("stderr", "2")):
        os.symlink(f"/proc/self/fd/{target}", f"/new/dev/{name}")
    os.symlink("/proc/self/fd", "/new/dev/fd")
    # The old /proc stays until the zygote has its own: mounting a new one needs a visible one, and the id
    # maps are written through it.
    kernel.mount("/old/proc", "/new/proc", None, kernel.MS_BIND | kernel.MS_REC)
    os.chdir("/new")
    kernel.pivot_root(".", "old" if os.path.isdir("old") else ".")
    kernel.unmount(".")
    os.chdir("/")
    kernel.mount(
        "none",
        "/",
        None,
        kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV,
    )


def _drop_privileges() -> None:
    """Change to an unprivileged user: limits and file modes do not bind root."""
    os.setgroups([])
    os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    kernel.set_dumpable(True)  # otherwise the id maps would belong to root


def _continue_in_child() -> None:
    child = os.fork()
    if child == 0:
        kernel.die_with_parent()
        return
    os.closerange(0, 256)
    _, status = os.waitpid(child, 0)
    os._exit(0 if status == 0 else 1)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def enter_landlock(visible: Sequence[str]) -> None:
    """Prepare a zygote of the tier ``landlock``. Raises OSError where the kernel has no such rules."""
    if kernel.landlock_version() < 3:
        raise OSError("this kernel has no Landlock of version 3 or later")
    kernel.set_dumpable(False)
    os.close(kernel.landlock_ruleset(visible))


def confine_in_namespaces(scratch: str) -> None:
    """Confine a new job, the first process of its pid namespace."""
    kernel.unshare(kernel.CLONE_NEWNS)
    nothing_special = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("tmpfs", scratch, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, SCRATCH_OPTIONS)
    kernel.mount("proc", "/proc", "proc", nothing_special | kernel.MS_RDONLY)
    os.chdir(scratch)
    kernel.drop_capabilities()


def confine_with_landlock(visible: Sequence[str], scratch: str) -> None:
    """Confine a new job of the tier ``landlock`` to its folder ``scratch``, where it may write."""
    os.chdir(scratch)
    kernel.drop_capabilities()
    ruleset = kernel.landlock_ruleset(visible, ("/dev/null",), (scratch,))
    kernel.landlock(ruleset)
    os.close(ruleset)


class Limits:
    """The resource limits of jobs; the zygote computes once what is the same for all of them.

    ``threads``: limit their number too, which counts per user: only if no one else has the job's user.
    """

    def __init__(self, threads: bool) -> None:
        with open("/proc/self/statm") as file:
            self.interpreter = int(file.read().split()[0]) * resource.getpagesize()
        self.hard = {kind: resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU)}
        amounts = {
            resource.RLIMIT_FSIZE: _WRITTEN_FILES,
            resource.RLIMIT_NOFILE: 64,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
        }
        amounts |= {resource.RLIMIT_NPROC: 128} if threads else {}
        self.common = [
            (kind, 2 * (_at_most(amount, resource.getrlimit(kind)[1]),)) for kind, amount in amounts.items()
        ]
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        self.common.append((resource.RLIMIT_STACK, (_at_most(64 << 20, hard), hard)))

    def impose(self, memory: int, seconds: int) -> None:
        """Limit this process: bytes of memory beyond the interpreter's, processor seconds (a backstop)."""
        for kind, bounds in self.common:
            resource.setrlimit(kind, bounds)
        space = _at_most(self.interpreter + memory, self.hard[resource.RLIMIT_AS])
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        last = self.hard[resource.RLIMIT_CPU]
        resource.setrlimit(
            resource.RLIMIT_CPU, (_at_most(seconds, last), _at_most(seconds + 1, last))
        )  # first a signal that gives the reason, then the kill


def _at_most(amount: int, hard: int) -> int:
    return amount if hard == resource.RLIM_INFINITY else min(amount, hard)
