"""What the sandbox uses of the Linux kernel, by system call: namespaces, mounts, capabilities, seccomp,
Landlock.

Only ctypes on the C library, so that the sandbox depends on no program and no package. Constants are those of
the kernel's user-space headers (linux/sched.h, mount.h, prctl.h, capability.h, seccomp.h,
landlock.h). Every wrapper raises OSError."""

import ctypes
import errno
import functools
import os
import platform
import struct
from collections.abc import Mapping, Sequence

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_THREAD = 0x10000000, 0x20000000, 0x40000000, 0x00010000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV, _AT_RECURSIVE, _AT_FDCWD = 1, 2, 4, 0x8000, -100
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = (
    1,
    4,
    24,
    38,
    22,
)
_CAPABILITY_VERSION_3 = 0x20080522

# (x86_64, aarch64); None where the architecture has no such call.
_SYSCALLS = {
    "pivot_root": (155, 41), "mount_setattr": (442, 442), "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446), "capset": (126, 91),
}  # fmt: skip
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH

_libc = ctypes.CDLL(None, use_errno=True)
_libc_under_gil = ctypes.PyDLL(None, use_errno=True)


@functools.cache
def _column() -> int:
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no system call table for {machine}")
    return MACHINES[machine][0]


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _syscall(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    number = _SYSCALLS[name][_column()]
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *converted), name)


def fork() -> int:
    """Fork without Python's own after-fork work, for a process that has one thread and holds no lock.

    That work (threading's, random's, logging's) is useless there. It writes to a third of the memory pages
    that a short job touches, and so costs as much as the job. The child's ``random`` continues from the
    parent's state."""
    return _checked(_libc_under_gil.fork(), "fork")


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags`` for new ones."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def join(namespace_fd: int, kind: int) -> None:
    """Enter the namespace that ``namespace_fd`` refers to (for a pid namespace: that of later children)."""
    _checked(_libc.setns(namespace_fd, ctypes.c_int(kind)), "setns")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """Mount ``source`` on ``target``."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _checked(result, f"mount {target}")


def bind_read_only(source: str, target: str, devices: bool = False) -> None:
    """Show the tree ``source`` at ``target``, read-only with everything mounted in it."""
    mount(source, target, None, MS_BIND | MS_REC)
    restrictions = _MOUNT_ATTR_NOSUID | (0 if devices else _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NODEV)
    attributes = struct.pack("QQQQ", restrictions, 0, 0, 0)
    _syscall("mount_setattr", _AT_FDCWD, target.encode(), _AT_RECURSIVE, attributes, len(attributes))


def unmount(target: str) -> None:
    """Detach what is mounted on ``target``."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make the mount ``new`` the root; the old root appears at ``old``."""
    _syscall("pivot_root", new.encode(), old.encode())


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def set_dumpable(dumpable: bool) -> None:
    """Allow or forbid other processes of this user to inspect this one."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def renounce_privileges() -> None:
    """Give up, for this process and its children, every way to gain a capability by executing a file."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) != 0:
            break


def drop_capabilities() -> None:
    """Give up every capability of this process; after ``renounce_privileges`` for good."""
    _syscall("capset", struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


# The calls that a Python program needs, (x86_64, aarch64); seccomp makes all others fail with EPERM.
ALLOWED_CALLS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None),
    "fstat": (5, 80), "lstat": (6, None), "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67), "pwrite64": (18, 68),
    "readv": (19, 65), "writev": (20, 66), "access": (21, None), "pipe": (22, None), "select": (23, None),
    "sched_yield": (24, 124), "mremap": (25, 216), "msync": (26, 227), "mincore": (27, 232),
    "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "pause": (34, None), "nanosleep": (35, 101),
    "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103), "getpid": (39, 172),
    "sendfile": (40, 71), "sendto": (44, 206), "recvfrom": (45, 207), "exit": (60, 93), "wait4": (61, 260),
    "uname": (63, 160), "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83), "truncate": (76, 45),
    "ftruncate": (77, 46), "getdents": (78, None), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "creat": (85, None), "link": (86, None),
    "unlink": (87, None), "symlink": (88, None), "readlink": (89, None), "umask": (95, 166),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175),
    "getegid": (108, 177), "getppid": (110, 173), "getpgrp": (111, None), "getgroups": (115, 158),
    "getresuid": (118, 148), "getresgid": (120, 150), "getpgid": (121, 155), "getsid": (124, 156),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "statfs": (137, 43), "fstatfs": (138, 44), "getpriority": (140, 141),
    "arch_prctl": (158, None), "setrlimit": (160, 164), "gettid": (186, 178), "time": (201, None),
    "futex": (202, 98), "sched_getaffinity": (204, 123), "getdents64": (217, 61),
    "set_tid_address": (218, 96), "restart_syscall": (219, 128), "fadvise64": (221, 223),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "exit_group": (231, 94), "epoll_wait": (232, None), "epoll_ctl": (233, 21), "waitid": (247, 95),
    "openat": (257, 56), "mkdirat": (258, 34), "newfstatat": (262, 79), "unlinkat": (263, 35),
    "renameat": (264, 38), "linkat": (265, 37), "symlinkat": (266, 36), "readlinkat": (267, 78),
    "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "splice": (275, 76), "epoll_pwait": (281, 22), "eventfd": (284, None),
    "fallocate": (285, 47), "eventfd2": (290, 19), "epoll_create1": (291, 20), "dup3": (292, 24),
    "pipe2": (293, 59), "preadv": (295, 69), "pwritev": (296, 70), "getcpu": (309, 168),
    "renameat2": (316, 276), "getrandom": (318, 278), "membarrier": (324, 283), "copy_file_range": (326, 285),
    "statx": (332, 291), "rseq": (334, 293), "close_range": (436, 436), "faccessat2": (439, 439),
}  # fmt: skip
CONDITIONAL_CALLS = {
    "clone": (56, 220), "clone3": (435, 435), "kill": (62, 129), "tgkill": (234, 131), "ioctl": (16, 29),
    "fcntl": (72, 25), "prlimit64": (302, 261), "socketpair": (53, 199),
}  # fmt: skip
_IOCTLS = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_FCNTLS_DENIED = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to others
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_OWN_PID = 0x0BADC0DE  # stands for the process's own id until the filter is installed

Instruction = tuple[int, int, int, int]
_ALLOW: Instruction = (_RETURN, 0, 0, 0x7FFF0000)
_DENY: Instruction = (_RETURN, 0, 0, 0x00050000 | errno.EPERM)


def _argument(index: int) -> int:
    return 16 + 8 * index  # the low half; both architectures are little-endian


def _block(number: int, body: Sequence[Instruction]) -> list[Instruction]:
    """Run ``body`` (which must return) where the system call is ``number``, else skip it."""
    return [(_JUMP_EQUAL, 0, len(body), number), *body]


def _error(code: int) -> Instruction:
    """Make the call fail with this errno."""
    return (_RETURN, 0, 0, 0x00050000 | code)


def seccomp_filter() -> bytes:
    """Assemble the filter as the kernel's BPF: allowed calls, calls allowed for some arguments, EPERM for the
    rest."""
    column, architecture = MACHINES[platform.machine()]
    numbers = {name: row[column] for name, row in CONDITIONAL_CALLS.items()}
    allowed = {number for row in ALLOWED_CALLS.values() if (number := row[column]) is not None}
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        _DENY,
        (_LOAD, 0, 0, _NUMBER),
        *_process_rules(numbers),
        *_descriptor_rules(numbers),
        *_search(_edges(allowed, _ALLOW, _DENY)),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _process_rules(numbers: Mapping[str, int]) -> list[Instruction]:
    """New threads, never new processes; signals to itself, except those that cannot be caught: only the
    supervisor kills and stops."""
    namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER
    flags = CLONE_THREAD | namespaces | CLONE_NEWPID | CLONE_NEWNET
    rules = _block(
        numbers["clone"],
        [(_LOAD, 0, 0, _argument(0)), (_AND, 0, 0, flags), (_JUMP_EQUAL, 0, 1, CLONE_THREAD), _ALLOW, _DENY],
    )
    rules += _block(numbers["clone3"], [_error(errno.ENOSYS)])
    for name, signal_index in (("kill", 1), ("tgkill", 2)):
        rules += _block(
            numbers[name],
            [
                (_LOAD, 0, 0, _argument(0)),
                (_JUMP_EQUAL, 1, 0, _OWN_PID),
                _DENY,
                (_LOAD, 0, 0, _argument(signal_index)),
                (_JUMP_EQUAL, 2, 0, 9),
                (_JUMP_EQUAL, 1, 0, 19),
                _ALLOW,
                _DENY,
            ],
        )
    return rules


def _descriptor_rules(numbers: Mapping[str, int]) -> list[Instruction]:
    """Harmless uses of ioctl, fcntl, prlimit64 and socketpair. asyncio wakes itself through a pair of
    connected streams; a datagram pair could send to other processes."""
    first, second = (_LOAD, 0, 0, _argument(0)), (_LOAD, 0, 0, _argument(1))
    return [
        *_block(numbers["ioctl"], [second, *_any_of(_IOCTLS, _ALLOW), _error(errno.ENOTTY)]),
        *_block(numbers["fcntl"], [second, *_any_of(_FCNTLS_DENIED, _DENY), _ALLOW]),
        *_block(numbers["prlimit64"], [first, (_JUMP_EQUAL, 0, 1, 0), _ALLOW, _DENY]),
        *_block(
            numbers["socketpair"],
            [
                first,
                (_JUMP_EQUAL, 1, 0, 1),
                _DENY,
                second,
                (_AND, 0, 0, 0xF),
                (_JUMP_EQUAL, 0, 1, 1),
                _ALLOW,
                _DENY,
            ],
        ),
    ]


def _edges(numbers: set[int], inside: Instruction, outside: Instruction) -> list[tuple[int, Instruction]]:
    """Where the verdict on a number changes, from 0 upwards: (first number, verdict)."""
    starts = [(number, inside) for number in numbers if number - 1 not in numbers]
    ends = [(number + 1, outside) for number in numbers if number + 1 not in numbers]
    return sorted([*starts, *ends, *([] if 0 in numbers else [(0, outside)])])


def _search(edges: Sequence[tuple[int, Instruction]]) -> list[Instruction]:
    """Find the loaded number by bisection. The kernel runs an installed filter on every system call, so a
    long list would cost each job."""
    if len(edges) == 1:
        return [edges[0][1]]
    middle = len(edges) // 2
    below, above = _search(edges[:middle]), _search(edges[middle:])
    return [(_JUMP_AT_LEAST, len(below), 0, edges[middle][0]), *below, *above]


def _any_of(values: Sequence[int], verdict: Instruction) -> list[Instruction]:
    return [step for value in values for step in ((_JUMP_EQUAL, 0, 1, value), verdict)]


class SeccompFilter:
    """The filter, ready to be installed by a child of this process."""

    def __init__(self) -> None:
        program = seccomp_filter()
        self.instructions = ctypes.create_string_buffer(program, len(program))
        self.header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(self.instructions))
        self.own_pids = [
            place
            for place in range(4, len(program), 8)
            if program[place : place + 4] == struct.pack("I", _OWN_PID)
        ]

    def install(self) -> None:
        """Put this process under the filter for good; call ``renounce_privileges`` before."""
        for place in self.own_pids:
            struct.pack_into("I", self.instructions, place, os.getpid())
        _checked(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), self.header, 0, 0), "seccomp")


_READ = 0b1101  # execute, read file, read directory
_READ_FILE, _WRITE_FILE, _TRUNCATE = 4, 2, 1 << 14
# Read and write files and folders; make, rename, link and remove files, folders and symbolic links. No
# devices, pipes or sockets.
_OWN_FOLDER = sum(1 << bit for bit in (1, 2, 3, 4, 5, 7, 8, 12, 13, 14))


def landlock_version() -> int:
    """The version of the kernel's Landlock ABI; 0 without Landlock."""
    try:
        return _syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def landlock_ruleset(
    readable: Sequence[str], writable_files: Sequence[str] = (), own_folders: Sequence[str] = ()
) -> int:
    """A descriptor for the rule: read beneath ``readable``, write to ``writable_files``, do anything with
    plain files beneath ``own_folders``; TCP, signals and sockets are forbidden too."""
    version = landlock_version()
    if version < 3:
        raise OSError(errno.ENOSYS, f"Landlock version {version}; 3 is needed")
    handled = (1 << (16 if version >= 5 else 15)) - 1
    attributes = struct.pack("QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = _syscall(
        "landlock_create_ruleset", attributes, 24 if version >= 6 else 16 if version >= 4 else 8, 0
    )
    try:
        for path in readable:
            _landlock_rule(ruleset, path, _READ if os.path.isdir(path) else _READ_FILE)
        for path in writable_files:
            _landlock_rule(ruleset, path, _READ_FILE | _WRITE_FILE | _TRUNCATE)
        for path in own_folders:
            _landlock_rule(ruleset, path, _OWN_FOLDER)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def landlock(ruleset: int) -> None:
    """Put this process under the rule for good; call ``renounce_privileges`` before."""
    _syscall("landlock_restrict_self", ruleset, 0)


def _landlock_rule(ruleset: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", access, place), 0)
    finally:
        os.close(place)
