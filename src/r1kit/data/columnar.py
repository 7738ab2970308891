"""Parquet and Arrow files as rows, a part of a file at a time: the only file that imports pyarrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError, R1kitError

BATCH = 1024  # rows that are read at a time


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "Parquet and Arrow files need pyarrow: pip install 'r1kit[data]', or write the rows as JSON Lines"
        ) from None
    return pyarrow


def parquet_rows(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of a Parquet file without its first ``start`` rows, of which whole groups are
    not read. Raises R1kitError for a file that is not whole."""
    pyarrow = _pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
            before = 0
            groups: list[int] = []
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if not groups and before + size <= start:
                    before += size
                else:
                    groups.append(group)
            for batch in file.iter_batches(BATCH, row_groups=groups):
                yield from _numbered(batch, before, start)
                before += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken(path, "Parquet", error) from None


def arrow_rows(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of an Arrow file, in the file or the stream format (as ``datasets`` writes),
    without its first ``start`` rows. Raises R1kitError for a file that is not whole."""
    pyarrow = _pyarrow()
    try:
        with pyarrow.memory_map(str(path)) as source:
            before = 0
            for batch in _arrow_batches(pyarrow, source):
                if before + batch.num_rows > start:
                    for first in range(0, batch.num_rows, BATCH):
                        yield from _numbered(batch.slice(first, BATCH), before + first, start)
                before += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken(path, "Arrow", error) from None


def _arrow_batches(pyarrow: Any, source: Any) -> Iterator[Any]:
    if source.read(6) == b"ARROW1":
        file = pyarrow.ipc.open_file(source)
        for index in range(file.num_record_batches):
            yield file.get_batch(index)
        return
    source.seek(0)
    yield from pyarrow.ipc.open_stream(source)


def _numbered(batch: Any, before: int, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    first = max(0, start - before)
    yield from enumerate(batch.slice(first).to_pylist(), before + first + 1)


def _broken(path: Path, kind: str, error: Exception) -> R1kitError:
    return R1kitError(
        f"{path}: not a whole {kind} file ({' '.join(str(error).split()):.120}); copy or write it again"
    )
