"""The model that a training starts from: whole weights, or a LoRA adapter and its base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.catalog import POCKET
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.adapter import adapted_digest
from bge_integrations.models.checkpoint import read_config, weights_digest
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.spelling import spelled

if TYPE_CHECKING:
    from bge_integrations.training.settings import TrainingSettings


@dataclass(frozen=True)
class ModelSource:
    """The model to train.

    Attributes:
        name: The hub id, or the folder as given.
        folder: Its folder.
        base: The folder of its base if it is an adapter, else None.
        config: The content of its config.json.
        tokenizer: Its tokenizer.
    """

    name: str
    folder: Path
    base: Path | None
    config: dict[str, Any]
    tokenizer: TextTokenizer

    @property
    def weights(self) -> Path:
        """The folder of the whole weights and the tokenizer."""
        return self.base or self.folder

    @property
    def digest(self) -> str:
        """A digest of the weights."""
        return weights_digest(self.folder) if self.base is None else adapted_digest(self.folder, self.base)

    @property
    def base_reference(self) -> str:
        """What an adapter of this model names as its base: the hub id, or the folder."""
        is_folder = self.base is not None or self.name == POCKET or Path(self.name).expanduser().is_dir()
        return str(self.weights.resolve()) if is_folder else self.name

    def uses_lora(self, settings: TrainingSettings, by_default: bool) -> bool:
        """Return whether an adapter is trained.

        Args:
            settings: Have the arguments `lora` and `merge_lora`.
            by_default: Whether one is trained if `lora` is None; adapters are always trained further.

        Raises:
            InvalidInputError: The settings don't fit the model.
        """
        lora = by_default or self.base is not None if settings.lora is None else settings.lora
        if self.base is not None and not lora:
            raise InvalidInputError(
                f"{self.name} is an adapter, and {spelled('lora', False)} trains whole models",
                argument="lora",
                advice=f"leave {spelled('lora', False)} out to train the adapter further, or merge it first",
            )
        if settings.merge_lora and not lora:
            raise InvalidInputError(
                f"{spelled('merge_lora', True)} needs an adapter, and all weights of {self.name} are trained",
                argument="merge_lora",
                advice=f"pass {spelled('lora', True)}, or leave {spelled('merge_lora', True)} out",
            )
        return lora


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], TextTokenizer]:
    """Return a checkpoint's config and its tokenizer.

    Raises:
        CheckpointError: A file is missing or damaged, or the tokenizer has more tokens than the model.
    """
    config = read_config(folder)
    size = int(config["vocab_size"])
    tokenizer = TextTokenizer(folder, size)
    tokenizer.check_fits(folder, size)
    return config, tokenizer
