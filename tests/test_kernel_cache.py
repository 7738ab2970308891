"""Compiled kernels: only whole files of the user's own are loaded; others are compiled again, with a warning.

The kernels here are one small function. The compiler is a script that counts its calls, and calls the real
one once for each library that it has not made before."""

import contextlib
import hashlib
import os
import pickle
import pwd
import shutil
import signal
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from r1kit.model import compile_kernels, kernel_cache
from r1kit.model.compile_kernels import Kernels, KernelsUnavailableError, load
from r1kit.model.kernel_cache import UntrustedError, folder_error, read_kernels

REAL = shutil.which("g++")
CPU = Path("/proc/cpuinfo")
HAS_PROCESSOR = CPU.exists() and set(compile_kernels.NEEDED) <= set(CPU.read_text().split())
pytestmark = pytest.mark.skipif(not (REAL and HAS_PROCESSOR), reason="the kernels do not run on this machine")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return %d; }\n'
COMPILER = """\
#!/bin/sh
[ "$1" = --version ] && echo counted && exit
for last; do :; done
echo "$last" >> {folder}/calls
kept={folder}/$(basename "$last")
[ -f "$kept" ] || {real} "$@" -o "$kept" || exit 1
cp "$kept" "$last"
"""


@pytest.fixture(scope="module")
def compiler() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="r1kit-test-compiler-"))
    folder.chmod(0o777)
    script = folder / "g++"
    script.write_text(COMPILER.format(folder=folder, real=REAL))
    script.chmod(0o755)
    yield script
    shutil.rmtree(folder)


class World:
    """A source, a compiler that counts, and a cache."""

    def __init__(self, folder: Path, compiler: Path) -> None:
        self.folder, self.calls = folder, compiler.with_name("calls")
        self.source = folder / "source/tiny.cpp"
        self.source.parent.mkdir()
        self.source.write_text(SOURCE % 42)
        self.cache = folder / "cache/r1kit"
        self.calls.write_text("")
        self.calls.chmod(0o666)

    def compiled(self) -> int:
        return len(self.calls.read_text().splitlines())

    def file(self) -> Path:
        return next(self.cache.glob("tiny-*.so"))


@pytest.fixture
def world(tmp_path: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler))
    return World(tmp_path, compiler)


def answer(found: Kernels) -> int:
    return int(found.library.answer())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_kernels_are_kept_with_their_hash_and_compiled_once(world: World) -> None:
    first = load(world.source)
    assert answer(first) == 42 and first.kept and world.compiled() == 1
    digest = hashlib.sha256(world.file().read_bytes()).hexdigest()
    assert first.sha256 == digest
    assert kernel_cache.hash_name(world.file()).read_text() == f"{digest}  {first.name}.so\n"  # as sha256sum
    assert mode(world.cache) == 0o700 and {mode(path) for path in world.cache.iterdir()} == {0o600}
    again = load(world.source)
    assert answer(again) == 42 and again.sha256 == digest and world.compiled() == 1
    assert again.origin == f"as recorded; {world.file()} of {kernel_cache.owner_name(os.geteuid())}"
    world.source.write_text(SOURCE % 43)
    assert answer(load(world.source)) == 43  # another source has another name


def flip(file: Path, place: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def replace_by_another(world: World, named: str) -> None:
    """Put the library of another source, with its right hash under that name, in the file's place."""
    own, text = world.file(), world.source.read_text()
    world.source.write_text(SOURCE % 7)
    other = load(world.source)
    (world.cache / f"{other.name}.so").rename(own)
    name = own.name if named == "own" else f"{other.name}.so"
    kernel_cache.hash_name(own).write_text(f"{other.sha256}  {name}\n")
    world.source.write_text(text)


def link_elsewhere(file: Path) -> None:
    elsewhere = file.parents[2] / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def with_hash(action: Callable[[Path], object]) -> Callable[[World], object]:
    return lambda world: action(kernel_cache.hash_name(world.file()))


def with_file(action: Callable[[Path], object]) -> Callable[[World], object]:
    return lambda world: action(world.file())


DAMAGES: dict[str, tuple[Callable[[World], object], str]] = {
    "bit": (with_file(lambda file: flip(file, 2000, 4)), "{file} does not have the SHA-256 that"),
    "last bit": (with_file(lambda file: flip(file, -1)), "{file} does not have the SHA-256 that"),
    "truncated": (with_file(lambda file: os.truncate(file, 4096)), "{file} does not have the SHA-256 that"),
    "longer": (with_file(lambda file: file.write_bytes(file.read_bytes() + b"\0")), "{file} does not have"),
    "empty": (with_file(lambda file: os.truncate(file, 0)), "{file} has 0 bytes"),
    "huge": (with_file(lambda file: os.truncate(file, 1 << 40)), "{file} has 1099511627776 bytes"),
    "bit of the hash": (with_hash(lambda file: flip(file, 5, 5)), "{file} does not have the SHA-256 that"),
    "empty hash": (with_hash(lambda file: os.truncate(file, 0)), "{file}.sha256 has 0 bytes"),
    "no hash": (with_hash(lambda file: file.unlink()), "{file}.sha256 is missing"),
    "another with its hash": (lambda world: replace_by_another(world, "its"), "{file} does not have"),
    "another with a new hash": (
        lambda world: replace_by_another(world, "own"),
        "{file} was made under another name",
    ),
    "link": (with_file(link_elsewhere), "{file} is a link"),
    "link to the hash": (with_hash(link_elsewhere), "{file}.sha256 is a link"),
    "mode": (with_file(lambda file: file.chmod(0o666)), "{file} can be written by others (mode 0666)"),
    "mode of the hash": (
        with_hash(lambda file: file.chmod(0o620)),
        "{file}.sha256 can be written by others (mode 0620)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_or_foreign_is_compiled_again_with_one_warning(
    damage: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load(world.source)
    spoil, says = DAMAGES[damage]
    spoil(world)
    before, capsys_before = world.compiled(), capsys.readouterr().err
    elsewhere = world.folder / "elsewhere"
    content = elsewhere.read_bytes() if elsewhere.exists() else None
    found = load(world.source)
    assert answer(found) == 42 and found.sha256 == whole.sha256 and capsys_before == ""
    assert world.compiled() == before + 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("r1kit: warning: " + says.format(file=world.cache / f"{whole.name}.so"))
    assert line.endswith("; compiled again")
    assert content is None or elsewhere.read_bytes() == content  # nothing is written through a link
    assert answer(load(world.source)) == 42 and world.compiled() == before + 1  # it is right again
    assert capsys.readouterr().err == ""


def test_no_flipped_bit_of_file_or_hash_is_read(world: World) -> None:
    whole = load(world.source)
    file, user = world.file(), os.geteuid()
    for path, step in ((file, 499), (kernel_cache.hash_name(file), 1)):
        content = path.read_bytes()
        for place in range(0, len(content), step):
            for bit in range(8):
                flip(path, place, bit)
                with pytest.raises(UntrustedError, match=file.name):
                    read_kernels(file, user)
                path.write_bytes(content)
    assert read_kernels(file, user) == whole.content


def test_the_bytes_that_were_checked_run_whatever_happens_to_the_file(world: World) -> None:
    found = load(world.source)
    world.file().write_bytes(b"")
    assert answer(found) == 42


def test_a_folder_that_others_can_write_is_not_used(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    load(world.source)
    for place, bits in ((world.cache, 0o777), (world.cache, 0o770), (world.cache.parent, 0o777)):
        place.chmod(bits)
        before = {path: path.read_bytes() for path in world.cache.iterdir()}
        calls = world.compiled()
        found = load(world.source)
        assert answer(found) == 42 and not found.kept and world.compiled() == calls + 1
        why = f"{place} can be written by others (mode {bits:04o})"
        warning = f"r1kit: warning: {why}; kernels are compiled for this command only\n"
        assert capsys.readouterr().err == warning and found.origin == f"compiled now, since {why}"
        assert {path: path.read_bytes() for path in world.cache.iterdir()} == before
        place.chmod(0o700)


def test_ordinary_folders_are_used(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    load(world.source)
    world.cache.chmod(0o755)  # others may read
    world.cache.parent.chmod(0o1777)  # as /tmp: others cannot rename what is not theirs
    assert load(world.source).kept and world.compiled() == 1
    own = world.folder / "another disk"
    world.cache.rename(own)
    world.cache.symlink_to(own)  # the user's own link to the user's own folder
    assert load(world.source).kept and world.compiled() == 1 and capsys.readouterr().err == ""


def test_the_rule_of_ownership(tmp_path: Path) -> None:
    folder, me = tmp_path / "a/r1kit", os.geteuid()
    assert folder_error(folder, me) is None  # missing: it will be made
    folder.mkdir(parents=True, mode=0o700)
    assert folder_error(folder, me) is None
    stranger = folder_error(folder, 4321)
    if me == 0:
        assert stranger is None  # root's are everyone's to read
    else:
        assert (
            stranger is not None and f"belongs to {kernel_cache.owner_name(me)}, not to user 4321" in stranger
        )
    (tmp_path / "file").write_text("")
    assert folder_error(tmp_path / "file/r1kit", me) == f"{tmp_path / 'file'} is no folder"
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="too many links"):
        folder_error(tmp_path / "round", me)


@needs_root
@pytest.mark.parametrize("place", ["file", "hash", "folder", "parent", "link"])
def test_what_belongs_to_another_user_is_not_used(
    place: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    load(world.source)
    if place == "link":  # a folder of another user's behind an own link
        world.cache.rename(world.folder / "theirs")
        world.cache.symlink_to(world.folder / "theirs")
    places = {
        "file": world.file(), "hash": kernel_cache.hash_name(world.file()), "folder": world.cache,
        "parent": world.cache.parent, "link": world.folder / "theirs",
    }  # fmt: skip
    os.chown(places[place], 1234, 1234)
    found = load(world.source)
    assert answer(found) == 42 and found.kept == (place in ("file", "hash")) and world.compiled() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"r1kit: warning: {places[place]} belongs to user 1234, not to user root; ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_folder_kernels_are_compiled_for_this_command(
    home: str | None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/too")  # the standard: to be ignored
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    found = load(world.source)
    why = "this user has no home folder (set HOME or XDG_CACHE_HOME)"
    assert answer(found) == 42 and found.origin == f"compiled now, since {why}"
    monkeypatch.setenv("HOME", str(world.folder))
    assert load(world.source).kept and (world.folder / ".cache/r1kit").is_dir()


def in_child(work: Callable[[], None], user: int | None = None) -> str:
    """Run ``work`` in a forked process, as the user of that number; return its traceback ("": none)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            try:
                if user is not None:
                    os.setgroups([])
                    os.setgid(user)
                    os.setuid(user)
                work()
            except BaseException:
                os.write(writer, traceback.format_exc().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


@needs_root
def test_a_user_who_is_not_root(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a home of its own, with root's, with one that cannot be written, and with none."""
    with tempfile.TemporaryDirectory(prefix="r1kit-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        world = World(folder, compiler)
        for file in compiler.parent.glob("*.so"):
            file.chmod(0o644)
        monkeypatch.setenv("CXX", str(compiler))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        (folder / "mine").mkdir()
        os.chown(folder / "mine", 1234, 1234)
        (folder / "roots").mkdir()
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "roots"))
        load(world.source)
        monkeypatch.delenv("XDG_CACHE_HOME")
        says: dict[str | None, str] = {
            str(folder / "mine"): "compiled now; ",
            str(
                folder / "roots"
            ): f"since {folder / 'roots/.cache'}/r1kit cannot be made or read (Permission",
            None: "since this user has no home folder",
        }

        def work() -> None:
            for home, expected in says.items():
                os.environ.pop("HOME", None)
                if home is not None:
                    os.environ["HOME"] = home
                found = load(world.source)
                assert answer(found) == 42 and expected in found.origin, found.origin
            os.environ["HOME"] = str(folder / "mine")
            assert load(world.source).origin.startswith("as recorded; ")
            (folder / "mine/.cache/r1kit").chmod(0o500)
            assert load(world.source).kept  # a cache that can only be read is enough
            kernel_cache.hash_name(next((folder / "mine/.cache/r1kit").glob("*.so"))).chmod(0o666)
            found = load(world.source)
            assert answer(found) == 42 and "cannot be written (Permission denied)" in found.origin
            os.environ["XDG_CACHE_HOME"] = str(folder / "roots")  # of root, 0700
            assert answer(load(world.source)) == 42

        assert in_child(work, user=1234) == ""


def test_processes_that_compile_at_the_same_time(world: World) -> None:
    def work() -> None:
        assert answer(load(world.source)) == 42

    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    calls = world.compiled()
    assert load(world.source).origin.startswith("as recorded") and world.compiled() == calls
    assert len(list(world.cache.iterdir())) == 2


def test_killed_while_compiling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = world.folder / "slow"
    slow.write_text(f"#!/bin/sh\n[ $1 = --version ] && exit\necho > {world.folder}/begun\nexec sleep 100\n")
    slow.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(world.folder))
    with monkeypatch.context() as patch:
        patch.setenv("CXX", str(slow))
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                load(world.source)
            finally:
                os._exit(1)
    wait_until((world.folder / "begun").exists, "the compiler is started")
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(world.cache.iterdir()) == []
    assert answer(load(world.source)) == 42


@pytest.mark.parametrize("killed_at", ["--version", "-O3"])
def test_a_compiler_that_is_killed_is_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    name = load(world.source).name
    world.file().unlink()
    shaky = world.folder / "shaky"
    shaky.write_text(
        f'#!/bin/sh\ncase "$*" in *{killed_at}*) [ -f {world.folder}/killed ] || '
        f'{{ touch {world.folder}/killed; kill -9 $$; }};; esac\nexec {os.environ["CXX"]} "$@"\n'
    )
    shaky.chmod(0o755)
    monkeypatch.setenv("CXX", str(shaky))
    found = load(world.source)
    assert (world.folder / "killed").exists() and found.name == name and answer(found) == 42
    shaky.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(KernelsUnavailableError, match=r"shaky --version failed"):
        load(world.source)


def test_a_compiler_that_is_missing_or_fails_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(KernelsUnavailableError, match=r"cannot be compiled or loaded: .*no-such-compiler"):
        load(world.source)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(KernelsUnavailableError, match=r"false .* failed"):
        load(world.source)


def test_where_a_file_in_memory_cannot_be_loaded_a_private_folder_is_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "memfd_create", refused)
    monkeypatch.setattr(tempfile, "tempdir", str(world.folder))
    assert answer(load(world.source)) == 42
    assert not list(world.folder.glob("r1kit-*"))


def test_helpers_run_the_bytes_of_the_process_that_started_them(world: World) -> None:
    found = compile_kernels.kernels(world.source)
    given = pickle.loads(pickle.dumps(compile_kernels.shared()))
    world.file().write_bytes(b"another")

    def work() -> None:
        compile_kernels.adopt(given)
        adopted = compile_kernels.kernels(world.source)
        assert adopted.sha256 == found.sha256 and answer(adopted) == 42

    assert in_child(work) == ""


def test_the_state_in_words(world: World) -> None:
    state, words = compile_kernels.in_words(world.source)
    found = compile_kernels.kernels(world.source)
    owner = kernel_cache.owner_name(os.geteuid())
    assert state == "kept"
    assert words == f"{found.name}, SHA-256 {found.sha256[:12]}, compiled now; {world.file()} of {owner}"
