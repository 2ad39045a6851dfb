"""Where the parts of a model are read from: one checkpoint folder, or a LoRA adapter's folder and its base's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bge_integrations.models.adapter import folder_with
from bge_integrations.models.checkpoint import M3_HEADS, TOKENIZER_FILES, read_config
from bge_integrations.models.lora import AdaptedWeights, LoraAdapter
from bge_integrations.models.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class ModelFiles:
    """The files of a model.

    Args:
        folder: A checkpoint, or a LoRA adapter.
        base: The checkpoint that the adapter is merged into; None if `folder` is a checkpoint.

    Attributes:
        adapter: The adapter; None if there is none.
        config: The content of config.json.
        tokenizer, heads: The folders of the tokenizer's files and of bge-m3's heads.

    Raises:
        CheckpointError: A file is missing or damaged.
    """

    def __init__(self, folder: Path, base: Path | None) -> None:
        self._weights = base or folder
        self.adapter = None if base is None else LoraAdapter(folder)
        config = read_config(folder_with(("config.json",), folder, base))
        self.config = config if self.adapter is None else self.adapter.adapt(config)
        self.tokenizer = folder_with(TOKENIZER_FILES, folder, base)
        self.heads = folder_with(M3_HEADS, folder, base)

    @contextmanager
    def weights(self) -> Iterator[Weights]:
        """Open the weights, merged with the adapter; at the end of the block, all its tensors must have been used.

        Raises:
            CheckpointError: The weights are missing or damaged, or the adapter does not fit the base.
        """
        if self.adapter is None:
            yield Weights(self._weights)
            return
        adapted = AdaptedWeights(self._weights, self.adapter)
        yield adapted
        adapted.check_all_used()
