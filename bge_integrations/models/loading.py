"""A checkpoint folder becomes the model of its family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_integrations.catalog import DECODER_FAMILIES
from bge_integrations.models.decoder_model import DecoderModel
from bge_integrations.models.model import EncoderModel

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from bge_integrations.catalog import Family

Model = EncoderModel | DecoderModel


def load_model(folder: Path, family: Family, device: torch.device, dtype: torch.dtype, layers: int | None) -> Model:
    """Read the weights of a checkpoint; of a decoder only the first `layers` layers, unless that is None.

    Raises:
        CheckpointError: A file or tensor is missing, cut short or of the wrong shape.
        NotSupportedError: config.json asks for something that is not done here.
        OutOfMemoryError: There is no room.
    """
    if family in DECODER_FAMILIES:
        return DecoderModel(folder, family, device, dtype, layers)
    return EncoderModel(folder, family, device, dtype)
