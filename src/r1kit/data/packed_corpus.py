"""Sources of documents as packed token shards (token_shards.py), made once and read at random.

A shard is the unit of work: it depends on the documents from its first on, the settings, the tokenizer and
the seed, and on nothing else. Killed at any time, the making continues after the last whole shard and gives
the same bytes.

Documents are encoded between begin and end tokens, cut into pieces of at most the context, and placed
best-fit into lines (best_fit.py). With ``document_masks`` each piece of a line is a row of its own, which
sees no other; without, a line is one row."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from r1kit.config import Config, R1kitError
from r1kit.data.best_fit import place
from r1kit.data.corpora import BadRow, Position, Record, Source, SourceConfig, drawn_sources
from r1kit.data.fim import FIM, FIMConfig
from r1kit.data.token_shards import Header, header_path, read_header, shard_headers, write_shard
from r1kit.files import hash_file, hash_text, remove_tree
from r1kit.tokenizer import Tokenizer

_CHUNK = 512  # documents that are encoded at a time
BAD_ROWS = "bad_rows.jsonl"


class PackedConfig(Config):
    """Documents of ``sources`` of any size, as token shards in the stage's folder, or the shards of another
    stage (``folder``: "@pretrain/tokens").

    ``document_masks``: the documents of a line do not see each other. ``fim``: fill in the middle
    (DeepSeek-V3: ``{rate: 0.1}``). ``shard_tokens``: of a shard, at least."""

    sources: dict[str, SourceConfig] = {}
    folder: str = ""
    document_masks: bool = True
    fim: FIMConfig | None = None
    shard_tokens: int = Field(16_000_000, ge=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.sources) == bool(self.folder):
            raise ValueError("packed: name either sources to read, or a folder of shards that are made")
        return self


@dataclass(frozen=True, slots=True)
class Recipe:
    """What shards are made of, in addition to their source: the settings, the tokenizer with the hash of its
    file, the longest row, and the seed."""

    config: PackedConfig
    tokenizer: Tokenizer
    context: int
    seed: int

    def mark(self, source: SourceConfig) -> str:
        """A hash of all that the bytes of a source's shards depend on: of its files, size and time."""
        stamps = Source("", source).stamps()
        backend = hash_text(self.tokenizer.backend.to_str())
        read = source.model_dump(exclude={"weight", "epochs"})
        packed = self.config.model_dump(exclude={"sources", "folder"})
        return hash_text(json.dumps([read, stamps, packed, backend, self.context, self.seed], sort_keys=True))


def pack_sources(folder: Path, recipe: Recipe, log: Callable[[str], None] = lambda text: None) -> None:
    """Make the shards of every source below ``folder``, or continue to. Raises R1kitError for a source that
    cannot be read, or has no documents."""
    for name, config in recipe.config.sources.items():
        source = Source(name, config)
        log(source.describe())
        headers = _pack(folder / name, source, recipe, log)
        lines, tokens, pieces = (
            sum(getattr(h, what) for h in headers) for what in ("lines", "tokens", "pieces")
        )
        if not lines:
            raise R1kitError(f"{name}: no documents in {config.path}")
        filled = (tokens - pieces) / (lines * recipe.context)  # a piece's last token is only predicted
        log(f"{name}: {tokens} tokens in {lines} lines of {recipe.context} ({filled:.1%} of them filled)")


def _pack(folder: Path, source: Source, recipe: Recipe, log: Callable[[str], None]) -> list[Header]:
    """The headers of a source's shards, those that are missing made."""
    mark = recipe.mark(source.config)
    done = _whole_shards(folder, mark, log)
    if done and done[-1].last:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    start = Position(**done[-1].after) if done else Position()
    number = done[-1].first_document + done[-1].documents if done else 0
    encoded = _encoded(source, recipe, start, number, folder / BAD_ROWS)
    waiting = next(encoded, None)
    while waiting is not None:
        documents = []
        tokens = 0
        while waiting is not None and tokens < recipe.config.shard_tokens:
            documents.append(waiting)
            tokens += len(waiting.ids)
            waiting = next(encoded, None)
        done.append(_write(folder, len(done), documents, waiting is None, mark, source.name, recipe))
        log(f"{source.name}: shard {len(done)}, {done[-1].documents} documents, {done[-1].tokens} tokens")
    return done


def _whole_shards(folder: Path, mark: str, log: Callable[[str], None]) -> list[Header]:
    """The headers of the shards that an interrupted making has left, up to the first that is not whole; all
    others are removed, and all of them where they were made of something else."""
    found: list[Header] = []
    for number in itertools.count():
        path = header_path(folder, number)
        if not path.is_file():
            break
        try:
            header = read_header(path)
            content = path.with_suffix(".bin")
            whole = content.is_file() and hash_file(content) == header.sha256
        except R1kitError:
            whole = False
        if not whole or header.made_of != mark:
            log(f"{path}: not a whole shard of these settings; it and those after it are made again")
            break
        found.append(header)
    if folder.is_dir():
        kept = {f"{number:05d}{suffix}" for number in range(len(found)) for suffix in (".json", ".bin")}
        if not found:
            remove_tree(folder)
        else:
            for path in folder.iterdir():
                if path.name not in (*kept, BAD_ROWS):
                    path.unlink()
    return found


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A document's ids [T] int32, how many characters it has, and where the source continues."""

    ids: np.ndarray
    characters: int
    after: Position


def _encoded(
    source: Source, recipe: Recipe, start: Position, number: int, bad_rows: Path
) -> Iterator[_Encoded]:
    """The documents of a source from a place on, which is document ``number``."""
    fim = FIM.of(recipe.config.fim, recipe.tokenizer, recipe.seed) if recipe.config.fim else None
    begin = recipe.tokenizer.start_ids
    end = np.asarray([recipe.tokenizer.eos_id], dtype=np.int32)
    records = source.records(start, note=_note_in(bad_rows))
    while chunk := list(itertools.islice(records, _CHUNK)):
        for record, ids in zip(chunk, _ids_of(chunk, number, recipe.tokenizer, fim), strict=True):
            yield _Encoded(np.concatenate([begin, ids, end]), len(record.text), record.after)
        number += len(chunk)


def _ids_of(
    records: Sequence[Record], number: int, tokenizer: Tokenizer, fim: FIM | None
) -> Iterator[np.ndarray]:
    """The ids of each document, its middle moved where ``fim`` says so."""
    texts: list[str] = []
    cuts = []
    for index, record in enumerate(records, number):
        text = record.text
        cut = fim.cuts(index, text) if fim else None
        cuts.append(cut)
        texts += [text] if cut is None else [cut.prefix, cut.middle, cut.suffix]
    encoded = iter(tokenizer.encode_batch(texts))
    for cut in cuts:
        if cut is None or fim is None:
            yield next(encoded)
        else:
            yield fim.join([next(encoded) for _ in range(3)], cut.suffix_first)


def _note_in(path: Path) -> Callable[[BadRow], None]:
    """A function that appends bad rows to a file; those that a killed making has noted stand there once
    more."""

    def note(bad: BadRow) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(bad.as_json(), ensure_ascii=False) + "\n")

    return note


def _write(
    folder: Path,
    number: int,
    documents: Sequence[_Encoded],
    last: bool,
    mark: str,
    name: str,
    recipe: Recipe,
) -> Header:
    before = read_header(header_path(folder, number - 1)) if number else None
    return write_shard(
        folder,
        number,
        packed_lines([one.ids for one in documents], recipe.context, recipe.config.document_masks),
        recipe.tokenizer.vocab_size,
        source=name,
        context=recipe.context,
        document_masks=recipe.config.document_masks,
        documents=len(documents),
        first_document=before.first_document + before.documents if before else 0,
        characters=sum(one.characters for one in documents),
        made_of=mark,
        after=documents[-1].after.as_json(),
        last=last,
    )


def packed_lines(
    documents: Sequence[np.ndarray], context: int, document_masks: bool
) -> list[list[np.ndarray]]:
    """Documents as lines of pieces. A piece of n tokens gives n - 1 inputs; with document masks the inputs of
    a line are at most ``context``, without, those of all its pieces as one row."""
    pieces = [
        ids[start : start + context + 1]
        for ids in documents
        for start in range(0, max(1, len(ids) - 1), context)
    ]
    own = 1 if document_masks else 0
    bins = place([len(piece) - own for piece in pieces], context + 1 - own)
    return [[pieces[index] for index in chosen] for chosen in bins]


def tokenizer_texts(sources: Mapping[str, SourceConfig], count: int, seed: int) -> list[str]:
    """The first documents of sources, drawn by weight, to learn a tokenizer from."""
    streams = [(Source(name, config).records(note=lambda bad: None)) for name, config in sources.items()]
    found = []
    weights = [config.weight for config in sources.values()]
    for chosen in drawn_sources(weights, seed, 0, count):
        record = next(streams[int(chosen)], None)
        if record is not None:
            found.append(record.text)
    return found


def check_shards(folder: Path, context: int) -> dict[str, list[Path]]:
    """The headers of the shards below ``folder`` by source. Raises R1kitError where there are none, or they
    were packed for a longer context."""
    found = {below.name: shard_headers(below) for below in sorted(folder.iterdir()) if below.is_dir()}
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise R1kitError(f"{folder}: no token shards (SOURCE/00000.json); name the folder tokens of a stage")
    for path in (path for paths in found.values() for path in paths):
        header = read_header(path)
        if header.context > context:
            raise R1kitError(
                f"{path}: packed for a context of {header.context}, longer than learner.context {context}; "
                "raise that, or pack again"
            )
        if not header.last and path == found[header.source][-1]:
            raise R1kitError(f"{path}: the shards end before their source does; finish the stage first")
    return found


def lines_in(paths: Sequence[Path]) -> int:
    return sum(read_header(path).lines for path in paths)


def facts_of(paths: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Documents, tokens and lines by source, for a report."""
    return {
        name: {
            what: sum(getattr(read_header(path), what) for path in headers)
            for what in ("documents", "characters", "tokens", "lines")
        }
        for name, headers in paths.items()
    }
