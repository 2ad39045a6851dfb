"""A check that the model that LangChain's Chroma class is used with made the vectors in the collection.

LangChain's class gives the texts to an embeddings object and the vectors to Chroma, so neither can notice that another
model of the same width made the stored vectors. From an embeddings object, the store can be found only on the call
stack. A few of its documents are embedded again, to compare the vectors.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from bge_integrations.errors import WrongModelError

if TYPE_CHECKING:
    from bge_integrations.adapter_kit import DenseView

_logger = logging.getLogger(__name__)

#: The modules of LangChain's Chroma classes.
_MODULES = ("langchain_chroma.vectorstores", "langchain_community.vectorstores.chroma")
#: Number of stored documents to choose the shortest ones from, and to compare.
_READ, _COMPARED = 20, 3
#: Vectors of the same text by the same model are more similar than this, in int8, too.
_LEAST_SIMILARITY = 0.95
_MAX_FRAMES = 12
_MAX_CHECKED = 256
#: The collections and models that were checked, latest last.
_checked: OrderedDict[tuple[Any, str], None] = OrderedDict()


def check_chroma(dense: DenseView) -> None:
    """Raise WrongModelError if LangChain's Chroma is calling, and another model made the vectors in its collection.

    A collection is checked once per process and model. Nothing is checked if it is empty or has no texts, or if looking
    it up fails: a call never fails for another reason.
    """
    if not any(module in sys.modules for module in _MODULES):
        return
    try:
        similarity, collection = _compare(dense)
    except Exception:
        _logger.debug("the vectors of a Chroma collection could not be checked", exc_info=True)
        return
    if similarity is not None and similarity < _LEAST_SIMILARITY:
        raise WrongModelError(
            f"the vectors in the Chroma collection {collection!r} were not made by {dense.embedder.name} with these "
            f"settings: its documents now have other vectors (cosine {similarity:.2f})",
            advice="use the model that made them, or create another collection",
        )


def _compare(dense: DenseView) -> tuple[float | None, str]:
    """Return the highest cosine of stored and new vectors of the same texts, and the collection's name.

    The cosine is None if there is nothing to compare, or if the collection was checked before.
    """
    collection = _calling_collection()
    if collection is None:
        return None, ""
    checked = collection.id, json.dumps(dense.embedder.vector_settings("passage"), sort_keys=True)
    if checked in _checked:
        return None, ""
    stored = collection.get(limit=_READ, include=["documents", "embeddings"])
    pairs = [(text, vector) for text, vector in zip(stored["documents"], stored["embeddings"], strict=True) if text]
    pairs = sorted(pairs, key=lambda pair: len(pair[0]))[:_COMPARED]
    if not pairs:
        return None, ""
    before = np.array([vector for _, vector in pairs], np.float32)
    now = dense.encode([text for text, _ in pairs], "passage")
    if before.shape != now.shape:
        return None, ""  # Chroma itself refuses vectors of another width
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(now, axis=1)
    similarity = float((np.sum(before * now, axis=1) / np.maximum(lengths, 1e-12)).max())
    if similarity >= _LEAST_SIMILARITY:
        _checked[checked] = None
        if len(_checked) > _MAX_CHECKED:
            _checked.popitem(last=False)
    return similarity, collection.name


def _calling_collection() -> Any:
    """Return the collection of the LangChain Chroma store that is embedding texts; None if there is none."""
    frame = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        if frame.f_globals.get("__name__") in _MODULES and (store := frame.f_locals.get("self")) is not None:
            return store._collection
    return None
