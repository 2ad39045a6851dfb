"""Count tokens with a model's tokenizer, without loading the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bge_integrations.models.adapter import folder_with, locate_base
from bge_integrations.models.checkpoint import TOKENIZER_FILES
from bge_integrations.models.locating import locate
from bge_integrations.models.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from bge_integrations.catalog import Kind
    from bge_integrations.core.embedder import TextKind

#: Texts that are tokenized at a time.
_BATCH = 1000


class TokenCounter:
    """The tokenizer of a model, for passages and statistics.

    Args:
        model: Hub id, checkpoint folder, or "pocket".
        kind: "embedder" or "reranker".
        max_length: Maximum number of tokens of a passage.

    Raises:
        CheckpointError: The model has no tokenizer, or it is damaged.
    """

    def __init__(self, model: str | os.PathLike[str], kind: Kind = "embedder", max_length: int = 512) -> None:
        _, folder = locate(model, kind)
        self._tokenizer = TextTokenizer(folder_with(TOKENIZER_FILES, folder, locate_base(folder, kind)))
        self.max_length = max_length

    def count_tokens(self, texts: Sequence[str], *, kind: TextKind | None = None) -> list[int]:
        """Return the number of tokens of each text with special tokens, but without any instruction."""
        lengths: list[int] = []
        for first in range(0, len(texts), _BATCH):
            ids = self._tokenizer.ids(list(texts[first : first + _BATCH]))
            lengths += [len(each) + self._tokenizer.text.size for each in ids]
        return lengths
