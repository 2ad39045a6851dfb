"""Which architectures run, by the model_type in config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bge_integrations.errors import NotSupportedError
from bge_integrations.models.decoder_config import DECODER_TYPES
from bge_integrations.models.encoder_config import ENCODER_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Models of texts and images. Visualized-BGE has the model_type of its text encoder.
IMAGE_TYPES = ("clip",)


def check_architecture(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a model whose architecture can't be run, whatever else is missing.

    Raises:
        NotSupportedError: Its model_type is none of those that run; the message names them.
    """
    model_type = config.get("model_type")
    if model_type in (*ENCODER_TYPES, *DECODER_TYPES, *IMAGE_TYPES):
        return
    raise NotSupportedError(
        f"{name} is a model of type {model_type!r}, and this architecture is not supported",
        advice=f"supported are the encoders {', '.join(ENCODER_TYPES)} and the decoders {', '.join(DECODER_TYPES)}, "
        f"and {', '.join(IMAGE_TYPES)} for images; `bge models` lists the published models",
    )
