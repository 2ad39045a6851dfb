"""The reranker that a training starts from."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError, NotSupportedError
from bge_integrations.models.adapter import locate_base
from bge_integrations.models.encoder_config import EncoderConfig
from bge_integrations.models.locating import locate
from bge_integrations.models.profile import RerankerProfile, check_request, reranker_profile
from bge_integrations.training.source import ModelSource, read_checkpoint

if TYPE_CHECKING:
    from bge_integrations.catalog import Family
    from bge_integrations.training.reranker_settings import RerankerSettings

_FAMILIES: tuple[Family, ...] = ("cross_encoder", "llm_reranker", "layerwise_reranker")


@dataclass(frozen=True)
class RerankerSource(ModelSource):
    """The reranker to train.

    Attributes:
        profile: How it is run.
    """

    profile: RerankerProfile

    @property
    def is_llm(self) -> bool:
        """Whether it is a language model that is asked with a prompt."""
        return bool(self.profile.prompt)

    @property
    def longest(self) -> int:
        """Maximum number of tokens that the model takes."""
        return (
            int(self.config["max_position_embeddings"]) if self.is_llm else EncoderConfig.read(self.config).max_length
        )


def locate_source(model: str | os.PathLike[str], settings: RerankerSettings) -> RerankerSource:
    """Find the model and how it is run.

    Raises:
        NotSupportedError: Rerankers of its family can't be trained.
        InvalidInputError: It takes no prompt, and the settings have one.
    """
    check_request(model, "reranker", settings.family)
    cache: dict[str, Any] = {"cache_folder": settings.cache_folder, "local_files_only": settings.local_files_only}
    name, folder = locate(model, "reranker", revision=settings.revision, **cache)
    base = locate_base(folder, "reranker", **cache)
    profile = reranker_profile(name, folder, settings.family, base=base)
    if profile.family not in _FAMILIES:
        raise NotSupportedError(
            f"{name} is a {profile.family.replace('_', ' ')}, which can't be trained",
            argument="model",
            advice="train a cross-encoder, bge-reranker-v2-gemma or bge-reranker-v2-minicpm-layerwise",
        )
    if settings.prompt is not None:
        if not profile.prompt:
            raise InvalidInputError(f"{name} takes no prompt", argument="prompt", advice="leave it out")
        profile = replace(profile, prompt=settings.prompt)
    return RerankerSource(name, folder, base, *read_checkpoint(base or folder), profile)
