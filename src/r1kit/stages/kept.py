"""What a stage makes once and reads again when it resumes: a model to start from, a tokenizer, a first part.

A kill leaves it in the stage's folder. It is marked with the SHA-256 of its files and with its owner, so what
was damaged or exchanged in between is noticed: it is removed with a warning, and the stage makes it again."""

from pathlib import Path

from r1kit.config import Config
from r1kit.files import remove_tree, write_whole
from r1kit.marks import OWN_HASH, FileMark, files_below, mark_damages, mark_file
from r1kit.records import KEPT, DamageError, part_of, read_typed, sealed_text
from r1kit.stages.stage import Context


class _Kept(Config):
    """The marks of a kept folder: its name, the part of the run that it is in, the owner of the stage's
    work."""

    owner: str
    part: str
    name: str
    files: dict[str, FileMark]


def keep(ctx: Context, name: str, *files: str) -> None:
    """Mark the folder ``name`` of the stage as whole, together with ``files`` that were written with it."""
    paths = [*files_below(ctx.out / name).values(), *(ctx.out / file for file in files)]
    marks = {path.relative_to(ctx.out).as_posix(): mark_file(path).model_dump() for path in paths}
    owner = next(iter(ctx.identities), "")
    file = _file(ctx, name)
    file.parent.mkdir(exist_ok=True)
    write_whole(file, sealed_text({"owner": owner, "part": part_of(ctx.out), "name": name, "files": marks}))


def is_kept(ctx: Context, name: str) -> bool:
    """Whether the folder ``name`` is there as the stage left it. One that is not, or that is not marked, is
    removed; a warning says why."""
    folder = ctx.out / name
    if not folder.is_dir():
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
    there = (path.relative_to(ctx.out).as_posix() for path in files_below(folder).values())
    found += [f"{ctx.out / added}: not written by the stage" for added in there if added not in kept.files]
    return found[0] if found else None


def _file(ctx: Context, name: str) -> Path:
    return ctx.out / KEPT / f"{name}.json"
