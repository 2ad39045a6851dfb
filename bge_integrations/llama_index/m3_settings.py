"""The settings of a `BGEM3Index`, under this package's names and the names of LlamaIndex's own class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from bge_integrations.errors import InvalidInputError
from bge_integrations.index.opening import EMBEDDER_SETTINGS
from bge_integrations.moved_arguments import advice_for

if TYPE_CHECKING:
    import os

    from qdrant_client import QdrantClient

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.index.manifest import MultiVectorStorage, Quantization
    from bge_integrations.scoring import Weights

#: Arguments of LlamaIndex's own BGEM3Index that have another name here.
_RENAMED = {"model_name": "model", "doc_maxlen": "max_length", "weights_for_different_modes": "weights"}
#: Arguments of LlamaIndex's own BGEM3Index that do not exist here, and what to do instead.
_REPLACED = {
    "use_fp16": "use dtype='float16' (CUDA only) or leave it out",
    "batch_size": "leave it out, batches are packed by the number of tokens",
    "query_maxlen": "use max_length, which applies to queries and documents",
    "pooling_method": "leave it out, bge-m3 has its own pooling",
    "normalize_embeddings": "leave it out, vectors are always normalized",
    "index_name": "leave it out, path identifies the index",
    "index_struct": "open a stored index with BGEM3Index.load(path)",
}


class M3Settings(TypedDict, total=False):
    """The settings of a `BGEM3Index`: `path`, `weights`, and the arguments of `M3Index.open`, which documents them.

    Any other keyword of `load_embedder` is accepted, too.
    """

    path: str | os.PathLike[str] | QdrantClient | None
    """A folder, or the URL or client of a Qdrant server. None uses a temporary folder."""
    model: str | os.PathLike[str] | Embedder | None
    model_name: str
    """Alias of `model`."""
    device: str | list[str] | None
    dtype: str | None
    max_length: int | None
    revision: str | None
    cache_folder: str | None
    local_files_only: bool
    multi_vectors: MultiVectorStorage | None
    quantization: Quantization | None
    collection: str
    api_key: str | None
    create: bool
    weights: Weights
    """Default weights of the dense, sparse and multi-vector scores; the index's own if not set."""
    weights_for_different_modes: Weights
    """Alias of `weights`."""


_KNOWN = {*M3Settings.__annotations__, *_RENAMED, *EMBEDDER_SETTINGS}


def own_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under this package's names.

    Raises:
        InvalidInputError: A setting is given twice, or exists only in LlamaIndex's own class.
    """
    named: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in _KNOWN and (advice := _REPLACED.get(name) or advice_for(name, _KNOWN)):
            raise InvalidInputError(f"BGEM3Index has no setting {name}", argument=name, advice=advice)
        own = _RENAMED.get(name, name)
        if own in named:
            raise InvalidInputError(f"{own} is given under two names", argument=own, advice=f"pass {own}= only")
        named[own] = value
    return named
