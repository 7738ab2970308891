"""What a stage makes once and reads again when it resumes: a model to start from, a tokenizer, a first part.

A kill leaves it in the stage's folder. It is marked with the SHA-256 of its files and with its owner, so what
was damaged or exchanged in between is noticed: it is removed with a warning, and the stage makes it again.

A model is marked too when it is written. What something else puts into its folder afterwards is no result of
the stage, and what changes it is damage."""

import os
import re
from pathlib import Path

from r1kit.config import Config
from r1kit.files import make_folder, remove_tree, write_whole
from r1kit.marks import OWN_HASH, FileMark, files_below, mark_damages, mark_file
from r1kit.records import (
    KEPT,
    LOG_MARKS,
    MOVED,
    SAMPLED,
    STATES,
    UPDATE_MARKS,
    WATCH_MARKS,
    DamageError,
    part_of,
    read_typed,
    sealed_text,
)
from r1kit.stages.stage import Context

# What an export writes: weights, tokenizer, templates, notes, and the papers of the model it began with.
MODEL_FILE = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|r1kit)\.json"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|value_head\.safetensors"
    r"|chat_template\.jinja|chat_templates/[^/]*\.jinja|(README|LICENSE|LICENCE|NOTICE|COPYING)[^/]*"
    r"|adapter/adapter_(config\.json|model\.safetensors)"
)


class _Kept(Config):
    """The marks of a kept folder: its name, the part of the run that it is in, the owner of the stage's
    work."""

    owner: str
    part: str
    name: str
    files: dict[str, FileMark]


def keep(ctx: Context, name: str, *files: str) -> None:
    """Mark the folder ``name`` of the stage as whole, together with ``files`` that were written with it."""
    ctx.log.check_place()
    paths = [*_results(ctx.out / name), *(ctx.out / file for file in files)]
    marks = {path.relative_to(ctx.out).as_posix(): mark_file(path).model_dump() for path in paths}
    owner = next(iter(ctx.identities), "")
    file = _file(ctx, name)
    make_folder(file.parent)
    write_whole(file, sealed_text({"owner": owner, "part": part_of(ctx.out), "name": name, "files": marks}))


def clear(ctx: Context, name: str) -> None:
    """Make place for a model that the stage is about to write into the folder ``name``: files there that no
    stage writes are moved aside, with a warning."""
    ctx.log.check_place()
    folder = ctx.out / name
    for inner in sorted(folder.rglob("*")):
        path = inner.relative_to(folder).as_posix()
        if (inner.is_symlink() or not inner.is_dir()) and MODEL_FILE.fullmatch(path) is None:
            aside = ctx.out / MOVED / name / path
            while os.path.lexists(aside):
                aside = aside.with_name(f"{aside.name}.other")
            make_folder(aside.parent)
            inner.rename(aside)
            ctx.log.info(f"warning: {inner}: not written by the stage; moved to {aside}")


def kept_marks(out: Path) -> dict[str, dict[str, FileMark]]:
    """The marks of all kept folders of a stage by the folder's path in ``out``, each with the marks of its
    files by their paths in ``out``."""
    found = {}
    for file in sorted(out.rglob(f"{KEPT}/*.json")):
        kept = (
            read_typed(_Kept, file, "Remove this file.")
            if file.name not in (LOG_MARKS, UPDATE_MARKS, WATCH_MARKS)
            else None
        )
        if kept is not None:
            place = file.parents[1].relative_to(out)
            files = {(place / name).as_posix(): mark for name, mark in kept.files.items()}
            found[(place / kept.name).as_posix()] = files
    return found


def is_kept(ctx: Context, name: str) -> bool:
    """Whether the folder ``name`` is there as the stage left it. One that is not, or that is not marked, is
    removed; a warning says why."""
    folder = ctx.out / name
    if not os.path.lexists(folder):
        return False
    if not folder.is_dir():  # a file, or a link to nothing
        ctx.log.info(f"warning: {folder}: this is no folder; it is removed, and made again")
        folder.unlink()
        return False
    if (damage := _damage(ctx, name)) is None:
        return True
    ctx.log.info(f"warning: {damage}; it is made again")
    remove_tree(folder)
    return False


def _damage(ctx: Context, name: str) -> str | None:
    folder, file = ctx.out / name, _file(ctx, name)
    try:
        kept = read_typed(_Kept, file, "Remove this file.", (OWN_HASH,))
    except DamageError as error:
        return str(error).splitlines()[0]
    if kept is None:
        return f"{folder}: an interruption may have left it unfinished"
    if (kept.name, kept.part) != (name, part_of(ctx.out)) or kept.owner not in (*ctx.identities, ""):
        return f"{folder}: it belongs to {kept.part}/{kept.name} of another run, stage or configuration"
    found = list(mark_damages(ctx.out, kept.files, "the stage"))
    there = (path.relative_to(ctx.out).as_posix() for path in _results(folder))
    found += [f"{ctx.out / added}: not written by the stage" for added in there if added not in kept.files]
    return found[0] if found else None


def _results(folder: Path) -> list[Path]:
    """The files of a folder without unfinished work, its marks, and what was moved aside."""
    passing = {STATES, SAMPLED, KEPT, MOVED}
    return [path for name, path in files_below(folder).items() if passing.isdisjoint(name.split("/"))]


def _file(ctx: Context, name: str) -> Path:
    return ctx.out / KEPT / f"{name}.json"
