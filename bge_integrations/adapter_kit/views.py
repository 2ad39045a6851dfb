"""An adapter's views of an embedder: dense vectors only, or sparse vectors only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from bge_integrations.core import runtime
from bge_integrations.core.loading import load_embedder
from bge_integrations.errors import InvalidInputError
from bge_integrations.outputs import Embeddings, SparseVectors
from bge_integrations.validation import check_not_dict, check_takes_images, check_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Embedder, Input, TextKind
    from bge_integrations.core.shared_pass import Part, Plan

Rows = TypeVar("Rows", bound=Any)


def load_dense(model: str | os.PathLike[str], *, normalize: bool = True, **settings: Any) -> DenseView:
    """Load a model for its dense vectors.

    Args:
        model: As in `load_embedder`.
        normalize: Scale vectors to unit length.
        settings: Other arguments of `load_embedder`.
    """
    return DenseView(load_embedder(model, **settings), normalize)


def load_sparse(model: str | os.PathLike[str], **settings: Any) -> SparseView:
    """Load a model for its sparse vectors; the arguments are those of `load_embedder`.

    Raises:
        InvalidInputError: The model has no sparse head.
    """
    embedder = load_embedder(model, **settings)
    if not embedder.has_sparse:
        embedder.close()
        raise InvalidInputError(f"{embedder.name} has no sparse head; use BAAI/bge-m3 (or 'pocket') for sparse vectors")
    return SparseView(embedder)


def load_visual(model: str | os.PathLike[str], **settings: Any) -> DenseView:
    """Load a model that embeds texts and images; it takes the arguments of `load_dense`.

    Raises:
        InvalidInputError: The model takes no images.
    """
    dense = load_dense(model, **settings)
    try:
        check_takes_images(dense.embedder)
    except InvalidInputError:
        dense.embedder.close()
        raise
    return dense


class _View(Generic[Rows]):
    """The base of both views. If the other view of the same model and settings exists, one pass serves both.

    Any number of threads and tasks can share it. The errors are those of `Embedder.encode`.

    Attributes:
        embedder: The embedder that computes the vectors.
    """

    _part: Part

    def __init__(self, embedder: Embedder, normalize: bool = True) -> None:
        self.embedder = embedder
        self._normalize = normalize
        self._shared = embedder.shared_pass(normalize)
        self._shared.join(self, self._part)

    def encode(self, texts: Iterable[Input], kind: TextKind, show_progress: bool = False) -> Rows:
        """Return one row per text; the instruction for this kind is prepended to each text."""
        plan = self._plan(texts, kind)
        computed = self.embedder.encode(plan.missing, **self._arguments(plan, kind, show_progress))
        return self._finish(plan, kind, computed)

    async def aencode(self, texts: Iterable[Input], kind: TextKind, show_progress: bool = False) -> Rows:
        """Async version of `encode`; does not block the event loop."""
        plan = self._plan(texts, kind)
        computed = await self.embedder.aencode(plan.missing, **self._arguments(plan, kind, show_progress))
        if len(plan.texts) > runtime.policy.inline_texts:
            return await asyncio.to_thread(self._finish, plan, kind, computed)
        return self._finish(plan, kind, computed)

    def _plan(self, texts: Iterable[Input], kind: TextKind) -> Plan:
        check_not_dict(texts)
        return self._shared.plan(self._part, kind, check_texts(texts, "texts"))

    def _arguments(self, plan: Plan, kind: TextKind, show_progress: bool) -> dict[str, Any]:
        parts = {"dense": "dense" in plan.parts, "sparse": "sparse" in plan.parts}
        return {"kind": kind, "normalize": self._normalize, "show_progress": show_progress, **parts}

    def _finish(self, plan: Plan, kind: TextKind, computed: Embeddings) -> Rows:
        self._shared.keep_for_other(self._part, kind, plan, computed)
        return self._own_rows(plan, computed)

    def _own_rows(self, plan: Plan, computed: Embeddings) -> Rows:
        """Return the rows of this view's representation in the order of the call."""
        raise NotImplementedError


class DenseView(_View["NDArray[np.float32]"]):
    """Dense vectors of queries and passages, float32 (n, dimension). Returned by `load_dense`."""

    _part = "dense"

    def encode(self, texts: Iterable[Input], kind: TextKind, show_progress: bool = False) -> NDArray[np.float32]:
        """Return float32 (n, dimension); the instruction for this kind is prepended to each text."""
        if self._shared.is_shared:
            return super().encode(texts, kind, show_progress)
        return self.embedder.encode_dense(texts, kind=kind, normalize=self._normalize, show_progress=show_progress)

    async def aencode(self, texts: Iterable[Input], kind: TextKind, show_progress: bool = False) -> NDArray[np.float32]:
        """Async version of `encode`; does not block the event loop."""
        if self._shared.is_shared:
            return await super().aencode(texts, kind, show_progress)
        return await self.embedder.aencode_dense(
            texts, kind=kind, normalize=self._normalize, show_progress=show_progress
        )

    def _own_rows(self, plan: Plan, computed: Embeddings) -> NDArray[np.float32]:
        assert computed.dense is not None
        return np.stack(plan.in_order(computed.dense)) if plan.cached else computed.dense


class SparseView(_View[SparseVectors]):
    """Lexical weights of queries and passages. Returned by `load_sparse`."""

    _part = "sparse"

    def _own_rows(self, plan: Plan, computed: Embeddings) -> SparseVectors:
        assert computed.sparse is not None
        if not plan.cached:
            return computed.sparse
        return SparseVectors.from_rows(plan.in_order(computed.sparse), computed.sparse.size)
