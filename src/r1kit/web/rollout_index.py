"""Which rollouts a run has, and where each is: an index of samples/ for filters that would otherwise read
every file.

The index is a SQLite file in the user's cache ($XDG_CACHE_HOME/r1kit/ui), never in the run's folder. It holds
a line of numbers for each rollout (place, problem, task, group, reward, verdict, length), no text: texts are
read from samples/ when they are shown, and searched there. A file of samples/ is written at once and under
its final name, so its size and time say whether it is indexed; the newest step is indexed first. An index
that is lost, damaged or from another version is made again.

Only files named samples/STAGE/[PART/]step_N.jsonl are opened, and no links are followed."""

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1kit.jsonl import LONGEST_ROW_MB
from r1kit.log import STEP_FILE
from r1kit.log_files import SAMPLES
from r1kit.model.kernel_cache import cache_folder
from r1kit.web.kept_rollouts import VERDICTS, KeptRollout, read_kept

VERSION = 1
WHOLE_FILE = 64 << 20  # bytes; a larger file is searched line by line
_LONGEST = LONGEST_ROW_MB * 1_000_000

_TABLES = """
CREATE TABLE IF NOT EXISTS trainings (id INTEGER PRIMARY KEY, stage TEXT, part TEXT, UNIQUE (stage, part));
CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS files (training INT, step INT, size INT, changed INT, PRIMARY KEY (training, step))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollouts (training INT, step INT, line INT, place INT, size INT, problem INT,
    task INT, grp INT, idx INT, reward REAL, verdict INT, cut INT, length INT,
    PRIMARY KEY (training, step, line)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS of_problem ON rollouts (problem);
"""


@dataclass(frozen=True, slots=True)
class SampleFile:
    """A file of samples/: whose rollouts it has, and of which step."""

    stage: str
    part: str
    step: int
    path: Path

    @property
    def training(self) -> str:
        return f"{self.stage}/{self.part}" if self.part else self.stage


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rollouts are asked for; a field that is None or "" asks for nothing. ``text`` is searched in
    prompt, text and answer, whatever the case of its letters."""

    stage: str = ""
    part: str = ""
    first: int | None = None
    last: int | None = None
    task: str = ""
    problem: str = ""
    verdict: str = ""
    cut: bool | None = None
    lowest: float | None = None
    highest: float | None = None
    text: str = ""

    def has(self, file: SampleFile) -> bool:
        """Whether a file may have such rollouts."""
        return (
            (not self.stage or (file.stage, file.part) == (self.stage, self.part))
            and (self.first is None or file.step >= self.first)
            and (self.last is None or file.step <= self.last)
        )

    def fits(self, kept: KeptRollout) -> bool:
        """Whether a rollout of such a file is asked for."""
        if self.lowest is not None and (kept.reward is None or kept.reward < self.lowest):
            return False
        if self.highest is not None and (kept.reward is None or kept.reward > self.highest):
            return False
        needle = self.text.lower()
        return (
            (not self.task or kept.task == self.task)
            and (not self.problem or kept.problem == self.problem)
            and (not self.verdict or kept.verdict == self.verdict)
            and (self.cut is None or kept.cut == self.cut)
            and (
                not needle
                or any(needle in text.lower() for text in (kept.text, kept.prompt, kept.truth or ""))
            )
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the rollouts that are asked for, the newest step first. ``count`` is how many there are, None
    where that is not known; ``after`` is where the next page begins, None after the last one; ``share`` is
    how much of the run they were searched in."""

    rollouts: Sequence[KeptRollout]
    count: int | None
    after: int | None
    share: float


@dataclass(frozen=True, slots=True)
class ProblemStep:
    """The rollouts of one problem in one step: how many, how many were right, and their mean reward."""

    stage: str
    part: str
    step: int
    rollouts: int
    right: int
    reward: float | None


def cache_file(run_dir: Path) -> Path | None:
    """Where the index of a run is kept; None for a user without a home folder."""
    caches = cache_folder()
    if caches is None:
        return None
    key = hashlib.sha256(os.fsencode(run_dir.resolve())).hexdigest()[:24]
    return caches / "ui" / f"{key}-{VERSION}.sqlite"


class RolloutIndex:
    """The rollouts of one run. Methods may be called from several threads; ``refresh`` reads what is new, a
    few files at a time."""

    def __init__(self, run_dir: Path, cache: Path | None) -> None:
        self.run_dir = run_dir
        self.files: list[SampleFile] = []  # of the training that changed last first, its newest step first
        self._lock = threading.RLock()
        self._seen: dict[Path, int] = {}  # folder -> when it changed
        self._found: dict[Path, list[SampleFile]] = {}
        self._waiting: list[SampleFile] = []
        self._is_listed = False
        self._ids: dict[str, int] = {}
        self._base = self._open(cache)

    def close(self) -> None:
        with self._lock:
            self._base.close()

    @property
    def share(self) -> float:
        """How much of the run is indexed."""
        return 1.0 - len(self._waiting) / len(self.files) if self.files else 1.0

    def list_files(self) -> bool:
        """Look for new, changed and removed files; returns whether there are any to index."""
        with self._lock:
            changed = self._list_folders()
            if changed:
                self._compare()
            self._is_listed = True
            return bool(self._waiting)

    def list_first(self) -> bool:
        """List the files, if that was never done; returns whether there are any to index."""
        with self._lock:
            return bool(self._waiting) if self._is_listed else self.list_files()

    def refresh(self, seconds: float = 0.05) -> bool:
        """Index waiting files for about ``seconds``. Returns whether some are left."""
        with self._lock:
            end = time.monotonic() + seconds
            while self._waiting and time.monotonic() < end:
                self._index(self._waiting.pop())
            self._base.commit()
            return bool(self._waiting)

    def trainings(self) -> list[tuple[str, str, int]]:
        """(stage, part, files) of every training with rollouts, as its folders are named."""
        found: dict[tuple[str, str], int] = {}
        for file in self.files:
            found[file.stage, file.part] = found.get((file.stage, file.part), 0) + 1
        return [(*key, count) for key, count in sorted(found.items())]

    def steps(self, stage: str, part: str) -> list[int]:
        """The steps with rollouts of a training, the newest first."""
        return [file.step for file in self.files if (file.stage, file.part) == (stage, part)]

    def tasks(self) -> list[str]:
        """The tasks of the rollouts that are indexed so far."""
        with self._lock:
            rows = self._base.execute(
                "SELECT name FROM names WHERE id IN (SELECT DISTINCT task FROM rollouts) ORDER BY name"
            )
            return [name for (name,) in rows]

    def find(self, wanted: Wanted, after: int = 0, most: int = 50, seconds: float = 1.0) -> Page:
        """A page of the rollouts that are asked for, from place ``after`` on. A search for text ends after
        ``seconds`` with what it has found; the next page goes on."""
        if wanted.text:
            return self._search(wanted, after, most, seconds)
        where, values = self._conditions(wanted)
        with self._lock:
            counts = dict(
                self._base.execute(
                    f"SELECT training, count(*) FROM rollouts WHERE {where} GROUP BY training", values
                ).fetchall()
            )
            rows = list(self._places(where, values, counts, after, most))
        kept = [one for one in (self._read(*row) for row in rows) if one is not None]
        count = sum(counts.values())
        return Page(kept, count, after + most if after + most < count else None, self.share)

    def _places(
        self, where: str, values: Sequence[object], counts: dict[int, int], after: int, most: int
    ) -> Iterator[tuple[str, str, int, int, int, int]]:
        """Training by training, the one that changed last first: each comes in the order of the index."""
        order = {self._training(file.stage, file.part): file for file in self.files[::-1]}
        for training in list(order)[::-1]:
            here = counts.get(training, 0)
            if after < here and most > 0:
                file = order[training]
                for row in self._base.execute(
                    f"SELECT step, line, place, size FROM rollouts WHERE {where} AND training = ? "
                    "ORDER BY step DESC, line LIMIT ? OFFSET ?",
                    (*values, training, most, after),
                ):
                    yield file.stage, file.part, *row
                most -= min(most, here - after)
            after = max(0, after - here)

    def group_of(self, kept: KeptRollout) -> list[KeptRollout]:
        """The rollouts of the same group that were kept, this one included, in their order."""
        file = next(
            (
                file
                for file in self.files
                if (file.stage, file.part, file.step) == (kept.stage, kept.part, kept.step)
            ),
            None,
        )
        found = [] if file is None else [one for one in _rollouts(file) if one is not None]
        own = [one for one in found if (one.problem, one.group) == (kept.problem, kept.group)]
        return sorted(own, key=lambda one: one.index)

    def history_of(self, problem: str) -> list[ProblemStep]:
        """One problem in all steps and stages in which it was sampled."""
        with self._lock:
            rows = self._base.execute(
                "SELECT stage, part, step, count(*), sum(verdict = 0), avg(reward) FROM rollouts "
                "JOIN trainings ON trainings.id = training WHERE problem = "
                "(SELECT id FROM names WHERE name = ?) GROUP BY training, step ORDER BY training, step",
                (problem,),
            ).fetchall()
        return [ProblemStep(*row) for row in rows]

    def _open(self, cache: Path | None) -> sqlite3.Connection:
        """The index, a new one where it is damaged, and a temporary one where the cache cannot be written."""
        if cache is not None:
            for _ in range(2):
                try:
                    cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    return _connect(str(cache))
                except sqlite3.DatabaseError:
                    with contextlib.suppress(OSError):
                        cache.unlink()
                except OSError:
                    break
        return _connect("")

    def _list_folders(self) -> bool:
        """List the folders that have changed. Returns whether any has."""
        folders = dict(_folders(self.run_dir / SAMPLES))
        changed = False
        for gone in self._seen.keys() - folders.keys():
            del self._seen[gone], self._found[gone]
            changed = True
        for folder, (stage, part) in folders.items():
            try:
                when = folder.stat().st_mtime_ns
                if self._seen.get(folder) == when:
                    continue
                self._found[folder] = list(_files(folder, stage, part))
                self._seen[folder] = when
            except OSError:
                self._found[folder] = []
            changed = True
        return changed

    def _compare(self) -> None:
        """Note which files wait to be indexed, the newest last, and forget those that are gone."""
        newest = sorted(self._found, key=lambda folder: -self._seen.get(folder, 0))
        self.files = [file for folder in newest for file in self._found[folder]]
        known: dict[tuple[str, str, int], tuple[int, int]] = {
            (stage, part, step): (size, changed)
            for stage, part, step, size, changed in self._base.execute(
                "SELECT stage, part, step, size, changed FROM files JOIN trainings ON id = training"
            )
        }
        waiting = []
        for file in self.files:
            if known.pop((file.stage, file.part, file.step), None) != _state(file.path):
                waiting.append(file)
        for stage, part, step in known:
            self._forget(self._training(stage, part), step)
        self._base.commit()
        self._waiting = waiting[::-1]

    def _index(self, file: SampleFile) -> None:
        training = self._training(file.stage, file.part)
        state = _state(file.path)
        self._forget(training, file.step)
        if state is None:
            return
        rows = []
        for place, size, kept in _placed(file):
            if kept is None:
                continue
            rows.append(
                (
                    *(training, file.step, kept.place, place, size),
                    *(self._name(kept.problem), self._name(kept.task), kept.group, kept.index),
                    *(kept.reward, VERDICTS.index(kept.verdict), kept.cut, kept.length),
                )
            )
        self._base.executemany(f"INSERT INTO rollouts VALUES ({','.join('?' * 13)})", rows)
        self._base.execute("INSERT INTO files VALUES (?, ?, ?, ?)", (training, file.step, *state))

    def _forget(self, training: int, step: int) -> None:
        for table in ("rollouts", "files"):
            self._base.execute(f"DELETE FROM {table} WHERE training = ? AND step = ?", (training, step))

    def _training(self, stage: str, part: str) -> int:
        self._base.execute("INSERT OR IGNORE INTO trainings (stage, part) VALUES (?, ?)", (stage, part))
        row = self._base.execute("SELECT id FROM trainings WHERE stage = ? AND part = ?", (stage, part))
        return int(row.fetchone()[0])

    def _name(self, name: str) -> int:
        if name not in self._ids:
            if len(self._ids) > 50_000:  # a bound on memory: the base has them all
                self._ids.clear()
            self._base.execute("INSERT OR IGNORE INTO names (name) VALUES (?)", (name,))
            row = self._base.execute("SELECT id FROM names WHERE name = ?", (name,))
            self._ids[name] = int(row.fetchone()[0])
        return self._ids[name]

    def _conditions(self, wanted: Wanted) -> tuple[str, list[object]]:
        """What a row of the index has to be like, as SQL with its values."""
        named = "(SELECT id FROM names WHERE name = ?)"
        of_training = "training = (SELECT id FROM trainings WHERE stage = ? AND part = ?)"
        given: list[tuple[str, tuple[object, ...], bool]] = [
            (of_training, (wanted.stage, wanted.part), bool(wanted.stage)),
            ("step >= ?", (wanted.first,), wanted.first is not None),
            ("step <= ?", (wanted.last,), wanted.last is not None),
            (f"task = {named}", (wanted.task,), bool(wanted.task)),
            (f"problem = {named}", (wanted.problem,), bool(wanted.problem)),
            ("cut = ?", (wanted.cut,), wanted.cut is not None),
            ("reward >= ?", (wanted.lowest,), wanted.lowest is not None),
            ("reward <= ?", (wanted.highest,), wanted.highest is not None),
            ("verdict = ?", (_number_of(wanted.verdict),), bool(wanted.verdict)),
        ]
        asked = [(condition, values) for condition, values, is_asked in given if is_asked]
        where = " AND ".join(condition for condition, _ in asked) or "1"
        return where, [value for _, values in asked for value in values]

    def _search(self, wanted: Wanted, after: int, most: int, seconds: float) -> Page:
        """Rollouts with a text, file by file; ``after`` counts files. A file is searched to its end, so a
        page may have some more than ``most``."""
        end = time.monotonic() + seconds
        files = [file for file in self.files if wanted.has(file)]
        found: list[KeptRollout] = []
        for number in range(after, len(files)):
            if len(found) >= most or (number > after and time.monotonic() > end):
                return Page(found, None, number, number / len(files))
            if _may_contain(files[number].path, wanted.text):
                found += [kept for kept in _rollouts(files[number]) if kept is not None and wanted.fits(kept)]
        return Page(found, None, None, 1.0)

    def _read(self, stage: str, part: str, step: int, line: int, place: int, size: int) -> KeptRollout | None:
        """A rollout by its place; None where the file has changed since it was indexed."""
        path = self.run_dir / SAMPLES / stage / part / f"step_{step:06d}.jsonl"
        try:
            with _opened(path) as file:
                os.lseek(file, place, os.SEEK_SET)
                return read_kept(os.read(file, size), stage, part, step, line)
        except OSError:
            return None


def _number_of(verdict: str) -> int:
    return next((number for number, name in enumerate(VERDICTS) if name == verdict), -1)


def _connect(name: str) -> sqlite3.Connection:
    """Open an index. Raises sqlite3.DatabaseError."""
    base = sqlite3.connect(name, timeout=10.0, check_same_thread=False)
    try:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = OFF")  # a cache: it can be made again
        base.execute("PRAGMA cache_size = -16000")  # kilobytes
        base.executescript(_TABLES)
    except sqlite3.DatabaseError:
        base.close()
        raise
    return base


def _folders(samples: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """The folders that may have rollouts, with stage and part."""
    for stage in _plain_folders(samples):
        yield stage, (stage.name, "")
        for part in _plain_folders(stage):
            yield part, (stage.name, part.name)


def _plain_folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _files(folder: Path, stage: str, part: str) -> list[SampleFile]:
    """The files of one folder, the newest step first."""
    with os.scandir(folder) as entries:
        found = [
            SampleFile(stage, part, int(matched[1]), Path(entry.path))
            for entry in entries
            if (matched := STEP_FILE.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)
        ]
    return sorted(found, key=lambda file: -file.step)


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None where it is gone."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _placed(file: SampleFile) -> Iterator[tuple[int, int, KeptRollout | None]]:
    """Place in bytes, size and rollout of every line of a file; none where it cannot be read."""
    place = number = 0
    try:
        with _opened(file.path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as lines:
            while line := lines.readline(_LONGEST):
                yield place, len(line), read_kept(line, file.stage, file.part, file.step, number)
                place, number = place + len(line), number + 1
    except OSError:
        return


def _rollouts(file: SampleFile) -> Iterator[KeptRollout | None]:
    return (kept for _, _, kept in _placed(file))


def _may_contain(path: Path, text: str) -> bool:
    """Whether a file has the bytes of a text anywhere: quick, and right for files that do not have it."""
    needle = json.dumps(text, ensure_ascii=False)[1:-1]
    try:
        if path.lstat().st_size > WHOLE_FILE:
            return True
        with _opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read()
    except OSError:
        return False
    if needle.isascii():
        return needle.lower().encode() in content.lower()
    return needle.lower() in content.decode(errors="replace").lower()
