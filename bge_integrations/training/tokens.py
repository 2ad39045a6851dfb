"""Count tokens with a model's tokenizer, without loading the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bge_integrations.models.locating import locate

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
    """

    def __init__(self, model: str | os.PathLike[str], kind: Kind = "embedder", max_length: int = 512) -> None:
        from transformers import AutoTokenizer

        _, folder = locate(model, kind)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.max_length = max_length

    def count_tokens(self, texts: Sequence[str], *, kind: TextKind | None = None) -> list[int]:
        """Return the number of tokens of each text with special tokens, but without any instruction."""
        lengths: list[int] = []
        for first in range(0, len(texts), _BATCH):
            batch = list(texts[first : first + _BATCH])
            lengths += map(len, self._tokenizer(batch, truncation=False, verbose=False)["input_ids"])
        return lengths
