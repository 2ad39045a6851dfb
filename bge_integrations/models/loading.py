"""A checkpoint folder becomes the model of its family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bge_integrations.catalog import DECODER_FAMILIES
from bge_integrations.errors import NotSupportedError
from bge_integrations.models.decoder_model import DecoderModel
from bge_integrations.models.model import EncoderModel

if TYPE_CHECKING:
    from pathlib import Path

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
    if dtype == torch.int8:
        raise NotSupportedError("dtype='int8' is for language models; use 'bfloat16' for a smaller encoder")
    return EncoderModel(folder, family, device, dtype)
