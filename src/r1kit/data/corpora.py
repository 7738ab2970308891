"""Sources of data at any size: files of any format and data sets of the hub as a stream of rows in r1kit's
columns, which can be cut into shards and continued at any row.

A source is ``{path: FILE, FOLDER, "*.jsonl.gz" or hub:OWNER/NAME}`` in a recipe. Its schema is taken from its
first row, printed, and can be said (``schema_name``); rows of another schema are bad rows. Bad rows stop the
reading, or are handed on with file, row and reason (``bad_rows: quarantine``), up to 5 % of a file."""

import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from r1kit.chat import Prompt
from r1kit.config import Config, ConfigError, InputError, R1kitError
from r1kit.data.formats import BY_SUFFIX, Format, Found, Pieces, format_of, read_rows
from r1kit.data.preferences import preference_texts
from r1kit.data.schemas import Kind, Schema, recognise, schema_named, unrecognised
from r1kit.data.sources import read_pairs
from r1kit.files import hash_text
from r1kit.jsonl import BAD_ROWS_LIMIT, BadRows, column, columns_of, is_null_like
from r1kit.tasks.hub import hub_rows
from r1kit.tasks.turns import is_conversation, read_prompt

HUB = "hub:"
# The columns that hold what a row says, in the order of its document; others are tests and labels.
SAID = ("text", "prompt", "problem", "messages", "completion", "chosen", "rejected", "solution", "answer")
_FEW_ROWS = 200  # from here on the limit of bad rows is checked while a file is read


class SourceConfig(Config):
    """A source of rows.

    ``path``: a file, a folder, a pattern, or several; ``hub:OWNER/NAME`` is a data set of the hub, of which
    ``split`` and ``subset`` are read. ``format`` and ``schema_name`` are recognised where they are
    not given; ``fields`` are columns that make one text, joined by a newline. ``pieces``: what of a text
    file is one document. ``id``: a column whose values must differ.

    ``weight`` is the source's share of what is trained on, and ``epochs`` how often it is read at most."""

    path: str | list[str]
    format: Format | None = None
    schema_name: str | None = None
    fields: list[str] = []
    pieces: Pieces = "file"
    split: str = "train"
    subset: str | None = None
    id: str | None = None
    bad_rows: BadRows = "error"  # stop at a row that cannot be read, or leave it out
    limit: int | None = Field(None, ge=1)  # rows that are read at most
    weight: float = Field(1.0, gt=0)
    epochs: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _schema_is_known(self) -> Self:
        if self.schema_name is not None:
            schema_named(self.schema_name)
            if self.fields:
                raise ValueError("fields make a text, so they have no effect with schema_name; leave one out")
        return self


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a source: ``row`` rows of the file number ``file`` are read, which take ``offset`` bytes (0:
    not known), and ``taken`` rows in all."""

    file: int = 0
    row: int = 0
    offset: int = 0
    taken: int = 0

    def as_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: ``where`` it is (file:row), why, and its beginning."""

    source: str
    where: str
    fault: str
    beginning: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Record:
    """A usable row: its kind and columns (r1kit.data.schemas), where it is (file:row), and where the next one
    begins."""

    source: str
    where: str
    kind: Kind
    columns: Mapping[str, Any]
    after: Position

    @property
    def text(self) -> str:
        """All that the row says, as one text: what is curated, and trained on as a document."""
        return document_of(self.columns)


Note = Callable[[BadRow], None]


class Source:
    """The rows of one source; see SourceConfig. ``describe`` says what it takes the files for."""

    def __init__(self, name: str, config: SourceConfig) -> None:
        self.name = name
        self.config = config
        self.hub = _hub_name(config.path)
        self.files = [] if self.hub else _files(name, config)
        self._schema = schema_named(config.schema_name) if config.schema_name else None

    def stamps(self) -> list[tuple[str, int, int]]:
        """Path, size and time of each local file, which change with its content."""
        states = [(path, path.stat()) for path in self.files]
        return [(str(path), state.st_size, state.st_mtime_ns) for path, state in states]

    def describe(self) -> str:
        """One line: files, format and schema, as its first row shows. Raises R1kitError where no row can be
        used."""
        first = next(self.records(note=lambda bad: None), None)
        if first is None:
            raise R1kitError(f"{self.name}: {self._places()} has no rows")
        schema = self._schema
        if self.config.fields:
            what = f"text of {', '.join(self.config.fields)}"
        else:
            assert schema is not None
            what = f"{schema.name} ({schema.about})"
        return f"{self.name}: {self._places()}, taken for {what}"

    def records(
        self,
        start: Position = Position(),
        shard: int = 0,
        shards: int = 1,
        note: Note | None = None,
    ) -> Iterator[Record]:
        """The usable rows from ``start`` on; of ``shards`` shares the one of number ``shard``, which takes
        every so many-th row (whole files where there are enough). Bad rows go to ``note`` with "quarantine".

        Raises R1kitError naming file and row for what cannot be used."""
        if self._schema is None and not self.config.fields and (shards > 1 or start != Position()):
            next(self.records(note=lambda bad: None), None)  # the schema is that of the first row of all
        seen = set[int]() if self.config.id else None
        begin = Position() if seen is not None else start  # earlier ids have to be known
        by_file = self.hub is None and len(self.files) >= shards > 1
        taken = begin.taken
        for index in range(begin.file, max(1, len(self.files))):
            if by_file and index % shards != shard:
                continue
            here = begin if index == begin.file else Position(index)
            counts = _Counts(self._file_name(index))
            for found in self._found(index, here, shard, shards):
                if not by_file and self.hub is None and found.number % shards != shard:
                    continue
                counts.rows += 1
                record = self._usable(index, found, taken, seen, counts, note)
                if record is None:
                    continue
                taken += 1
                if (index, found.number) > (start.file, start.row):
                    yield record
                if self.config.limit is not None and taken >= self.config.limit:
                    return
            counts.check(at_end=True)

    def _found(self, index: int, here: Position, shard: int, shards: int) -> Iterator[Found]:
        config = self.config
        if self.hub is not None:
            for number, row in hub_rows(self.hub, config.subset, config.split, here.row, shard, shards):
                yield Found(number, 0, row)
            return
        path = self.files[index]
        kind = config.format or format_of(path)
        assert kind is not None  # _files
        yield from read_rows(path, kind, config.pieces, here.row, here.offset)

    def _usable(
        self,
        index: int,
        found: Found,
        taken: int,
        seen: set[int] | None,
        counts: "_Counts",
        note: Note | None,
    ) -> Record | None:
        """The row as a record; None for a bad one, which is counted and noted."""
        file = self._file_name(index)
        where = f"{file}:{found.number}"
        try:
            if found.row is None:
                raise R1kitError(found.fault)
            self._check_id(Path(file), found, seen)
            kind, columns = self._normal(Path(file), found)
            return Record(
                self.name, where, kind, columns, Position(index, found.number, found.after, taken + 1)
            )
        except R1kitError as error:
            counts.bad += 1
            counts.first = counts.first or str(error)
            if self.config.bad_rows == "error":
                raise R1kitError(
                    f"{error}\n({self.name}: bad_rows: quarantine writes such rows to another file and "
                    "continues)"
                ) from None
            if note is not None:
                said = json.dumps(found.row, ensure_ascii=False, default=str) if found.row else ""
                note(BadRow(self.name, where, str(error), found.beginning or said[:200]))
            counts.check()
            return None

    def _check_id(self, path: Path, found: Found, seen: set[int] | None) -> None:
        if seen is None or self.config.id is None or found.row is None:
            return
        value = column(path, found.number, found.row, self.config.id)
        key = int(hash_text(value)[:16], 16)
        if key in seen:
            raise R1kitError(
                f"{path}:{found.number}: the id {value[:80]!r} stands in an earlier row; remove one of them"
            )
        seen.add(key)

    def _normal(self, path: Path, found: Found) -> tuple[Kind, dict[str, Any]]:
        row = found.row or {}
        if self.config.fields:
            texts = [column(path, found.number, row, name) for name in self.config.fields]
            return "text", checked(path, found.number, "text", {"text": "\n".join(texts)})
        if self._schema is None:
            schema = recognise(row)
            if schema is None:
                raise R1kitError(f"{path}:{found.number}: {unrecognised(row)}")
            columns = normal(path, found.number, schema, row)
            self._schema = schema
            return schema.kind, columns
        return self._schema.kind, normal(path, found.number, self._schema, row)

    def _file_name(self, index: int) -> str:
        return self.hub or str(self.files[index])

    def _places(self) -> str:
        if self.hub is not None:
            return f"{self.hub} ({self.config.split})"
        return str(self.files[0]) if len(self.files) == 1 else f"{len(self.files)} files"


@dataclass(slots=True)
class _Counts:
    """Rows of a file and those that cannot be used; too many of them are an error."""

    file: str
    rows: int = 0
    bad: int = 0
    first: str = ""

    def check(self, at_end: bool = False) -> None:
        if self.bad > BAD_ROWS_LIMIT * self.rows and (at_end or self.rows >= _FEW_ROWS):
            raise R1kitError(
                f"{self.file}: {self.bad} of {self.rows} rows cannot be used, more than "
                f"{BAD_ROWS_LIMIT:.0%}; the first: {self.first}"
            )


def _hub_name(path: str | list[str]) -> str | None:
    """The id of a data set of the hub; None for files."""
    return path.removeprefix(HUB) if isinstance(path, str) and path.startswith(HUB) else None


def _files(name: str, config: SourceConfig) -> list[Path]:
    """The files of a source, in the order of their names. Raises ConfigError where one is missing or of a
    format that is not known."""
    found: list[Path] = []
    for given in [config.path] if isinstance(config.path, str) else config.path:
        path = Path(given).expanduser()
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.is_file())
            found += [file for file in below if config.format or format_of(file)]
        elif path.is_file():
            found.append(path)
        else:
            matching = sorted(Path(file) for file in glob.glob(str(path), recursive=True))
            found += [file for file in matching if file.is_file()]
            if not matching:
                raise ConfigError(
                    f"{name}: {given}: no such file, folder or pattern (looked up from {Path.cwd()}). A data "
                    f"set of the hub is {HUB}OWNER/NAME"
                )
    if not found:
        raise ConfigError(f"{name}: {config.path}: no data files in it; known: {', '.join(BY_SUFFIX)}")
    for file in found:
        if config.format is None and format_of(file) is None:
            raise ConfigError(
                f"{name}: {file}: the format is not known by its name; say it: format: jsonl, parquet, arrow "
                "or text"
            )
    return found


def normal(path: Path, number: int, schema: Schema, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's columns in r1kit's words. Raises R1kitError naming file, row and column where the row does not
    fit the schema, or a column cannot be used."""
    if not schema.fits(row):
        raise R1kitError(
            f"{path}:{number}: the file was taken for {schema.name} ({schema.about}), and this row has: "
            f"{columns_of(row)}; correct the row, or say what the file is (schema_name: NAME)"
        )
    return checked(path, number, schema.kind, schema.reshape(row))


def checked(path: Path, number: int, kind: Kind, columns: dict[str, Any]) -> dict[str, Any]:
    """The columns of a kind, as its readers take them. Raises R1kitError naming file, row and column."""
    if kind == "text":
        text = column(path, number, columns, "text")
        if not text.strip() or is_null_like(text):
            raise R1kitError(f"{path}:{number}: the text is empty; write it or remove the row")
    elif kind in ("pair", "conversation"):
        read_pairs(path, number, columns)
    elif kind == "preference":
        prompt, context, chosen, rejected = preference_texts(path, number, columns)
        asked: Prompt = [*context, {"role": "user", "content": prompt}] if context else prompt
        return {"prompt": asked, "chosen": chosen, "rejected": rejected}
    elif kind == "unpaired":
        read_pairs(path, number, {name: columns[name] for name in ("prompt", "completion")})
        label = "safe" if "safe" in columns else "label"
        if not isinstance(columns.get(label), bool):
            raise R1kitError(f"{path}:{number}: column {label!r} must be true or false")
    else:
        return _checked_problem(path, number, kind, columns)
    return columns


def _checked_problem(path: Path, number: int, kind: Kind, columns: dict[str, Any]) -> dict[str, Any]:
    name = "prompt" if kind == "prompt" else "problem"
    value = columns.get(name)
    asked = (
        read_prompt(path, number, name, value)[0]
        if is_conversation(value)
        else column(path, number, columns, name)
    )
    if not asked.strip() or is_null_like(asked):
        raise R1kitError(f"{path}:{number}: the {name} is empty; write it or remove the row")
    if kind == "problem":
        gold = column(path, number, columns, "answer")
        if not gold.strip() or is_null_like(gold):
            raise R1kitError(f"{path}:{number}: the answer is empty; write it or remove the row")
        columns = {**columns, "answer": gold}
    if kind == "program" and not set(columns) - {"problem", "solution"}:
        raise R1kitError(f"{path}:{number}: the problem has no tests; write them or remove the row")
    return columns


def document_of(columns: Mapping[str, Any]) -> str:
    """The texts of a row in their order, turns included, each once, as one document."""
    return "\n".join(text for name in SAID if name in columns for text in _texts_in(columns[name]))


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts_in(value.get("content", value.get("value")))
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts_in(inner)


def source_errors(sources: Mapping[str, SourceConfig]) -> Iterator[InputError]:
    """What is wrong with the local files of sources, as their first rows show, by source. The hub is not
    asked."""
    for name, config in sources.items():
        if _hub_name(config.path) or any(one.startswith("@") for one in _paths(config)):
            continue
        try:
            Source(name, config).describe()
        except R1kitError as error:
            yield (name, "path"), str(error)


def _paths(config: SourceConfig) -> list[str]:
    return [config.path] if isinstance(config.path, str) else config.path


def drawn_sources(weights: Sequence[float], seed: int, first: int, count: int) -> np.ndarray:
    """Which source each of ``count`` draws from number ``first`` on takes, [count] int64: by weight, as a
    function of seed and number."""
    bounds = np.cumsum(np.asarray(weights, dtype=np.float64)) / float(sum(weights))
    numbers = np.arange(first, first + count, dtype=np.uint64)
    return np.searchsorted(bounds, uniform(numbers, seed), side="right").clip(0, len(weights) - 1)


def uniform(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Numbers in [0, 1) that look random, one for each [N] uint64: splitmix64's finaliser."""
    with np.errstate(over="ignore"):
        mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed & (2**63 - 1))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53))
