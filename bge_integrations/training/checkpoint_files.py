"""The files of a trained model that training does not change."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from bge_integrations.models.checkpoint import TOKENIZER_FILES

#: What a checkpoint has beside its weights: its tokenizer, how sentence-transformers runs it, and its own code, which
#: other libraries may need.
_SMALL = (
    *TOKENIZER_FILES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "[0-9]_*/config.json"),
    *("configuration_*.py", "modeling_*.py"),
)


def copy_small_files(source: Path, target: Path, also: Iterable[str] = ()) -> None:
    """Copy a checkpoint's small files, such as its tokenizer, as they are; files of the same names are replaced.

    Args:
        source: The checkpoint that was trained.
        target: The trained model's folder.
        also: Names of further files to copy.
    """
    for pattern in (*_SMALL, *also):
        for file in source.glob(pattern):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
