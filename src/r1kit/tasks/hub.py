"""Data sets of the Hugging Face hub as rows, streamed: the only file that imports ``datasets``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from r1kit.config import ConfigError, R1kitError


def hub_rows(
    name: str, config: str | None, split: str, start: int = 0, shard: int = 0, shards: int = 1
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of a split, without its first ``start`` rows; nothing is stored on the disk.
    Of ``shards`` shares the one of this number; rows are numbered within a share.

    ``name`` is an id of the hub, or a folder that ``datasets`` reads. Raises R1kitError with what the library
    says."""
    with _naming(name, f"split {split!r}") as datasets:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
        if shards > 1:
            rows = rows.filter(lambda row, index: index % shards == shard, with_indices=True)
        for number, row in enumerate(rows.skip(start) if start else rows, start + 1):
            yield number, dict(row)


def hub_configs(name: str) -> list[str]:
    """The configurations of a data set. Raises R1kitError as ``hub_rows``."""
    with _naming(name, "its configurations") as datasets:
        return list(datasets.get_dataset_config_names(name))


@contextmanager
def _naming(name: str, what: str) -> Iterator[Any]:
    """The library; its errors become one of r1kit that names the data set."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"{name}: data sets of the hub need: pip install 'r1kit[data]'") from None
    try:
        yield datasets
    except Exception as error:  # the library raises errors of many kinds, also its network client's
        raise R1kitError(
            f"{name}: {what} cannot be read: {type(error).__name__}: {' '.join(str(error).split()):.300}"
        ) from error
