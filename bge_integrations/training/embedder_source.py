"""The embedder that a training starts from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bge_integrations import catalog
from bge_integrations.errors import NotSupportedError
from bge_integrations.models.adapter import folder_with, locate_base
from bge_integrations.models.checkpoint import M3_HEADS
from bge_integrations.models.encoder_config import EncoderConfig
from bge_integrations.models.locating import locate
from bge_integrations.models.profile import EmbedderProfile, check_request, embedder_profile
from bge_integrations.training.source import ModelSource, read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from bge_integrations.catalog import Family
    from bge_integrations.training.embedder_settings import EmbedderSettings

_FAMILIES: tuple[Family, ...] = ("encoder", "m3", "decoder", "icl")


@dataclass(frozen=True)
class EmbedderSource(ModelSource):
    """The embedder to train.

    Attributes:
        profile: How it is run.
    """

    profile: EmbedderProfile

    @property
    def heads(self) -> Path:
        """The folder of bge-m3's heads."""
        return folder_with(M3_HEADS, self.folder, self.base)

    @property
    def is_decoder(self) -> bool:
        """Whether it is a decoder, which pads on the left and gets a LoRA adapter by default."""
        return catalog.FAMILIES[self.profile.family].backbone == "decoder"

    @property
    def longest(self) -> int:
        """Maximum number of tokens that the model takes."""
        positions = int(self.config["max_position_embeddings"])
        if not self.is_decoder:
            positions -= EncoderConfig.read(self.config).first_position
        return min(positions, self.profile.max_length or positions, self.tokenizer.max_length or positions)


def locate_source(model: str | os.PathLike[str], settings: EmbedderSettings) -> EmbedderSource:
    """Find the model and how it is run.

    Raises:
        NotSupportedError: Embedders of its family can't be trained.
    """
    check_request(model, "embedder", settings.family, settings.pooling)
    cache: dict[str, Any] = {"cache_folder": settings.cache_folder, "local_files_only": settings.local_files_only}
    name, folder = locate(model, "embedder", revision=settings.revision, **cache)
    base = locate_base(folder, "embedder", **cache)
    profile = embedder_profile(
        name,
        folder,
        base=base,
        family=settings.family,
        pooling=settings.pooling,
        query_instruction=settings.query_instruction,
        passage_instruction=settings.passage_instruction,
        task=settings.task,
    )
    if profile.family not in _FAMILIES:
        raise NotSupportedError(
            f"{name} is of the {profile.family} family, which can't be trained",
            advice=f"train one of the families {', '.join(_FAMILIES)}",
        )
    return EmbedderSource(name, folder, base, *read_checkpoint(base or folder), profile)
