"""The base class of the sparse adapters for Qdrant and Milvus."""

from __future__ import annotations

from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr

from bge_integrations.adapter_kit import HoldsModel, LazyModel, SparseView, arguments_of, load_sparse
from bge_integrations.adapter_kit.settings import ModelName, ModelNameAlias, QuerySettings


class SparseModel(ModelNameAlias, HoldsModel, QuerySettings):
    """The settings of a sparse adapter, and its model, which is loaded when the object is created.

    Pickles and copies contain the settings, never the weights.
    """

    model: ModelName = Field(default="BAAI/bge-m3", validation_alias=AliasChoices("model", "model_name"), min_length=1)
    """Hub id, checkpoint folder, the URL of a server, or "pocket" (the small bundled demonstration model).
    `model_name=` works too."""
    passage_instruction: str | None = None
    """Prepended to each document; None uses the catalogue's for this model (bge-m3 has none), "" disables it."""
    show_progress: bool = False
    """Show a progress bar while documents are embedded."""

    model_config = ConfigDict(populate_by_name=True)

    _arguments = arguments_of(QuerySettings, model="model", passage_instruction="passage_instruction")
    _model: LazyModel[SparseView] = PrivateAttr(default_factory=lambda: LazyModel(load_sparse))
