"""Write a learner's model as a folder in Hugging Face's layout, whole or not at all."""

from collections.abc import Callable
from pathlib import Path

from r1kit.config import R1kitError
from r1kit.files import remove_tree, rename_whole
from r1kit.model.ancestry import inherit
from r1kit.tokenizer import Tokenizer


def export(source: Path, directory: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` write a model to a temporary folder, with the tokenizer of ``source``, the folder that
    it was loaded from, and with what it inherits from that. The folder then gets its name."""
    temporary = directory.with_name(f".{directory.name}.tmp")
    tokenizer = Tokenizer.load(source)
    try:
        for stale in (temporary, directory):
            remove_tree(stale)
        write(temporary)
        tokenizer.save(temporary)
        inherit(source, temporary)
        rename_whole(temporary, directory)
    except Exception as error:  # a boundary: the libraries that write raise their own errors for a full disk
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise R1kitError(
            f"{directory}: the model could not be written: {why}; free space or repair the disk"
        ) from error
