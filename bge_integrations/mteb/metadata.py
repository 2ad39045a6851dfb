"""The model metadata that mteb stores results under."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mteb.models import ModelMeta
from mteb.models.model_meta import ScoringFunction

from bge_integrations import catalog
from bge_integrations.catalog import POCKET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.core.session import Loaded
    from bge_integrations.scoring import Mode

#: mteb's model type for each mode.
_MODEL_TYPES = {"dense": "dense", "sparse": "sparse", "multi_vector": "late-interaction", "hybrid": "hybrid"}
#: mteb's scoring function for each mode. It has none for hybrid; its MAX_SIM sums, while bge-m3 takes the mean.
_SIMILARITIES = {
    "dense": ScoringFunction.COSINE,
    "sparse": ScoringFunction.DOT_PRODUCT,
    "multi_vector": ScoringFunction.MAX_SIM,
    "hybrid": None,
}
_LANGUAGES = {"en": ["eng-Latn"], "zh": ["zho-Hans"]}


def embedder_metadata(
    embedder: Embedder, mode: Mode, dimension: int | None, suffix: str = "", settings: Mapping[str, Any] | None = None
) -> ModelMeta:
    """Return the metadata of an embedder in one mode.

    Args:
        embedder: The embedder.
        mode: The representation, or "hybrid".
        dimension: Size of the vectors in this mode; None if it has no vectors.
        suffix: Appended to the name, to distinguish the modes of one checkpoint.
        settings: Other settings that the results depend on.
    """
    instructions = (embedder.query_instruction, embedder.passage_instruction)
    return _meta(
        embedder,
        {
            "pooling": embedder.pooling,
            "dimension": embedder.dimension,
            "query_instruction": embedder.vector_settings("query")["instruction"],  # with bge-en-icl's examples
            "passage_instruction": embedder.passage_instruction,
            **(settings or {}),
        },
        {
            "embed_dim": dimension,
            "model_type": [_MODEL_TYPES[mode]],
            "similarity_fn_name": _SIMILARITIES[mode],
            "use_instructions": any(instructions),
        },
        suffix,
    )


def reranker_metadata(reranker: Reranker) -> ModelMeta:
    """Return the metadata of a reranker."""
    settings: dict[str, Any] = {"query_max_length": reranker.query_max_length}
    if reranker.prompt:  # an LLM reranker
        settings["cutoff_layers"] = list(reranker.cutoff_layers)
        settings["compression"] = [list(pair) for pair in reranker.compression]
        settings["prompt"] = reranker.prompt
    return _meta(reranker, settings, {"model_type": ["cross-encoder"], "use_instructions": False})


def _meta(loaded: Loaded, settings: Mapping[str, Any], fields: Mapping[str, Any], suffix: str = "") -> ModelMeta:
    """Return the metadata of a model. mteb stores results by its name, revision and `experiment_kwargs`.

    Unknown fields stay None. The settings are always included, so that results never mix with published results of the
    same checkpoint, which were computed by other code.
    """
    row = catalog.find(loaded.name)
    if row:
        name = row.name
    elif loaded.name == POCKET:
        name = f"bge_integrations/pocket-{type(loaded).__name__.lower()}"
    elif loaded.revision:
        name = loaded.name
    else:
        name = f"local/{Path(loaded.name).absolute().name}"
    return ModelMeta.create_empty(
        {
            "name": f"{name}-{suffix}" if suffix else name,
            "revision": loaded.revision or loaded.weights_digest,
            "languages": _LANGUAGES.get(row.languages) if row else None,
            "max_tokens": loaded.max_length,
            "framework": ["PyTorch"],
            "reference": f"https://huggingface.co/{row.name}" if row else None,
            "experiment_kwargs": {
                "runtime": "bge_integrations",
                "dtype": loaded.dtype,
                "max_length": loaded.max_length,
                **settings,
            },
            **fields,
        }
    )
