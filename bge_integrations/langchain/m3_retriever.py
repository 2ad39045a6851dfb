"""Three-way bge-m3 retrieval over documents held in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Self

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, PrivateAttr

from bge_integrations.core.checks import check_query, check_texts, path_as_text
from bge_integrations.core.embedder import Embedder, load_embedder
from bge_integrations.core.handle import Handle, HoldsModel
from bge_integrations.core.selection import best, check_k
from bge_integrations.errors import InvalidInputError
from bge_integrations.scoring import hybrid_scores

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.retrievers import LangSmithRetrieverParams

    from bge_integrations.core.outputs import Embeddings

#: Fields that the core takes by the same name.
_CORE_SETTINGS = {"model", "device", "dtype", "max_length", "cache_folder", "local_files_only", "revision"}


class BGEM3Retriever(HoldsModel, BaseRetriever):
    """Finds documents by the weighted sum of bge-m3's dense, sparse and multi-vector scores, all from one pass.

    Every document is scored exactly, so this suits collections up to some thousands: the vectors stay in memory, about
    4 kB per token of text.

    Example:
        >>> from bge_integrations.langchain import BGEM3Retriever
        >>> retriever = BGEM3Retriever.from_texts(["Pandas eat bamboo.", "Rome lies on the Tiber."], k=1)
        >>> retriever.invoke("What do pandas eat?")

    `invoke(query, k=3)` asks for another number of documents for that call.
    """

    documents: tuple[Document, ...] = Field(repr=False, frozen=True)
    """What is searched. They are encoded when the retriever is made; make another one for other documents."""
    k: int = Field(default=4, ge=1)
    """How many documents to return."""
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of the dense, sparse and multi-vector scores; (1, 0, 0) is dense retrieval alone."""
    model: Annotated[str, BeforeValidator(path_as_text)] = Field(
        default="BAAI/bge-m3", validation_alias=AliasChoices("model", "model_name"), min_length=1, frozen=True
    )
    """Hub id, checkpoint folder, or "pocket" (the small bundled demonstration model). `model_name=` works too."""
    device: str | None = Field(default=None, frozen=True)
    """"cpu", "cuda", "cuda:1"; None takes CUDA where there is one."""
    dtype: str | None = Field(default=None, frozen=True)
    """"float32", "bfloat16" or "float16"; None takes bfloat16 on CUDA and float32 on CPU."""
    max_length: int | None = Field(default=None, frozen=True)
    """Longest text in tokens; None takes what the model was made for. Longer texts are cut, with a warning."""
    cache_folder: str | None = Field(default=None, frozen=True)
    local_files_only: bool = Field(default=False, frozen=True)
    revision: str | None = Field(default=None, frozen=True)
    show_progress: bool = False
    """Show a bar while the documents are encoded."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        populate_by_name=True,
        validate_assignment=True,
    )

    _handle: Handle[Embedder] = PrivateAttr(default_factory=lambda: Handle(load_embedder))
    _passages: Embeddings = PrivateAttr()

    if not TYPE_CHECKING:  # which see the fields as keyword arguments, as pydantic declares them

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            texts = [document.page_content for document in self.documents]
            embedder = self._handle.get(self._settings())
            self._passages = embedder.encode(
                texts, kind="passage", sparse=True, multi_vector=True, show_progress=self.show_progress
            )

    @classmethod
    def from_documents(cls, documents: Iterable[Document], **settings: Any) -> Self:
        """A retriever over these documents; the settings are the fields."""
        return cls(documents=tuple(documents), **settings)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        ids: Iterable[str] | None = None,
        **settings: Any,
    ) -> Self:
        """A retriever over these texts, with their metadata and ids.

        Raises:
            InvalidInputError: Not as many metadatas or ids as texts.
        """
        texts = check_texts(texts, "texts")
        metadatas = None if metadatas is None else list(metadatas)
        ids = None if ids is None else list(ids)
        for name, values in (("metadatas", metadatas), ("ids", ids)):
            if values is not None and len(values) != len(texts):
                raise InvalidInputError(f"{len(texts)} texts, but {len(values)} {name}; give one for each text")
        return cls(
            documents=tuple(
                Document(
                    text, id=ids[i] if ids is not None else None, metadata=metadatas[i] if metadatas is not None else {}
                )
                for i, text in enumerate(texts)
            ),
            **settings,
        )

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        encoded = self._handle.get(self._settings()).encode(
            check_query(query), kind="query", sparse=True, multi_vector=True
        )
        return self._best(encoded, k)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        embedder = await self._handle.aget(self._settings())
        encoded = await embedder.aencode(check_query(query), kind="query", sparse=True, multi_vector=True)
        return await asyncio.to_thread(self._best, encoded, k)

    def _best(self, query: Embeddings, k: int | None) -> list[Document]:
        k = self.k if k is None else check_k(k)
        scores = hybrid_scores(query, self._passages, self.weights).hybrid[0]
        return [self.documents[place].model_copy(deep=True) for place in best(scores.tolist(), k, None)]

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_embedding_provider"] = "bge_integrations"
        params["ls_embedding_model"] = self.model
        return params

    def _settings(self) -> dict[str, Any]:
        return self.model_dump(include=_CORE_SETTINGS)
