"""Write a learner's model as a folder in Hugging Face's layout, in the process that holds it."""

from pathlib import Path

from r1kit.config import R1kitError
from r1kit.files import remove_tree, rename_whole
from r1kit.model.ancestry import dtype_of, inherit
from r1kit.model.huggingface import save_pretrained
from r1kit.records import ADAPTER
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import Learner
from r1kit.train.lora import save_adapters


def export(learner: Learner, source: Path, directory: Path) -> None:
    """Write the learner's model with the tokenizer of ``source``, the folder that it was loaded from, in the
    dtype of that folder and with what it inherits from it. The directory is there whole or not at all."""
    temporary = directory.with_name(f".{directory.name}.tmp")
    tokenizer = Tokenizer.load(source)
    try:
        for stale in (temporary, directory):
            remove_tree(stale)
        save_pretrained(learner.model, temporary, dtype=dtype_of(source))
        if learner.config.lora is not None:
            save_adapters(learner.model, learner.config.lora, temporary / ADAPTER, str(source))
        tokenizer.save(temporary)
        inherit(source, temporary)
        rename_whole(temporary, directory)
    except Exception as error:  # a boundary: the libraries that write raise their own errors for a full disk
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise R1kitError(
            f"{directory}: the model could not be written: {why}; free space or repair the disk"
        ) from error
