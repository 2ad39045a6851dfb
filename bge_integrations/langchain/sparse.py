"""What the sparse adapters for Qdrant and Milvus have in common: settings, and a hold on the model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from bge_integrations.adapter_kit.lazy_model import Handle, HoldsModel
from bge_integrations.core.halves import SparseHalf, load_sparse
from bge_integrations.validation import path_as_text


class SparseModel(HoldsModel, BaseModel):
    """The settings of a model with a sparse head, which is loaded when the object is made.

    Copies and pickles carry the settings, never the weights.
    """

    model: Annotated[str, BeforeValidator(path_as_text)] = Field(
        default="BAAI/bge-m3", validation_alias=AliasChoices("model", "model_name"), min_length=1
    )
    """Hub id, checkpoint folder, or "pocket" (the small bundled demonstration model). `model_name=` works too."""
    device: str | list[str] | None = None
    """"cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA where there is one."""
    dtype: str | None = None
    """"float32", "bfloat16" or "float16"; None takes bfloat16 on CUDA and float32 on CPU."""
    query_instruction: str | None = None
    """Put before each query; None takes the catalogue's for this model (bge-m3 has none), "" none."""
    passage_instruction: str | None = None
    """Likewise before each document."""
    max_length: int | None = None
    """Longest text in tokens; None takes what the model was made for. Longer texts are cut, with a warning."""
    cache_folder: str | None = None
    """The hub's cache; None takes the usual one."""
    local_files_only: bool = False
    """Never touch the network."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    show_progress: bool = False
    """Show a bar while documents are embedded."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), populate_by_name=True
    )

    _handle: Handle[SparseHalf] = PrivateAttr(default_factory=lambda: Handle(load_sparse))

    def _sparse(self) -> SparseHalf:
        return self._handle.get(self._settings())

    async def _asparse(self) -> SparseHalf:
        return await self._handle.aget(self._settings())

    def _settings(self) -> dict[str, Any]:
        return self.model_dump(exclude={"show_progress"})
