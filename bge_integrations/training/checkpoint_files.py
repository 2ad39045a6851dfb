"""The files of a checkpoint that training and mixing do not change."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from bge_integrations.models.checkpoint import TOKENIZER_FILES

_TOKENIZER = (
    *TOKENIZER_FILES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)
#: How sentence-transformers runs a checkpoint, and the checkpoint's own code, which other libraries may need.
_HOW_TO_RUN = (
    *("modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "[0-9]_*/config.json"),
    *("configuration_*.py", "modeling_*.py", "tokenization_*.py"),
)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a checkpoint's tokenizer as it is, which training does not change."""
    _copy(source, target, _TOKENIZER)


def copy_small_files(source: Path, target: Path, also: Iterable[str] = ()) -> None:
    """Copy a checkpoint's tokenizer and the files that say how it is run; files of the same names are replaced.

    Args:
        source: The checkpoint that the new model was made from.
        target: The new model's folder.
        also: Names of further files to copy, or patterns of them.
    """
    _copy(source, target, (*_TOKENIZER, *_HOW_TO_RUN, *also))


def _copy(source: Path, target: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for file in source.glob(pattern):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
