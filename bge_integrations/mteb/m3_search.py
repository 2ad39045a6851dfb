"""Exact search with bge-m3's representations, for mteb."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from mteb._create_dataloaders import create_dataloader
from mteb.types import PromptType

from bge_integrations.errors import InvalidInputError
from bge_integrations.mteb.inputs import all_texts, check_show_progress, texts_of
from bge_integrations.mteb.metadata import embedder_metadata
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVectors
from bge_integrations.progress import progress_bar
from bge_integrations.scoring import (
    REPRESENTATIONS,
    Mode,
    TopK,
    Weights,
    representation_scores,
    weighted_mean,
    weights_by_name,
)
from bge_integrations.validation import check_choice, check_on_truncate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import (
        BatchedInput,
        CorpusDatasetType,
        EncodeKwargs,
        QueryDatasetType,
        RetrievalOutputType,
        TopRankedDocumentsType,
    )
    from numpy.typing import NDArray
    from torch.utils.data import DataLoader

    from bge_integrations.core.embedder import Embedder, TextKind
    from bge_integrations.core.request import OnTruncate

#: Maximum documents scored at a time, and their approximate characters. Their multi-vectors may take 2 GB.
_CHUNK_DOCUMENTS = 2048
_CHUNK_CHARACTERS = 1 << 19
#: Number of queries scored at a time. Each score matrix takes 8 MB.
_BLOCK_QUERIES = 1024


class BGEM3Search:
    """An mteb search model (`SearchProtocol`) for exact search with bge-m3. It runs retrieval and reranking tasks.

    Each document is encoded once per search, for all representations that the mode needs, and released once it has
    been scored against all queries. Memory holds the queries, one chunk of documents, and each query's `top_k` results.
    In reranking tasks, a document is scored only against the queries that it is a candidate for.

    Example:
        >>> import mteb
        >>> from bge_integrations import load_embedder
        >>> from bge_integrations.mteb import BGEM3Search
        >>> mteb.evaluate(BGEM3Search(load_embedder("BAAI/bge-m3")), mteb.get_tasks(tasks=["NFCorpus"]))

    Args:
        embedder: From `load_embedder`; the caller closes it. Modes other than "dense" need bge-m3.
        mode: The scores to rank documents by. "hybrid" is the weighted mean, `HybridScores.hybrid` in `scoring`.
        weights: Weights of dense, sparse and multi-vector scores in "hybrid"; None means (1, 1, 1). Scores with
            weight 0 are not computed.
        on_truncate: As in `Embedder.encode`; warnings are issued once per chunk of documents.

    Attributes:
        mteb_model_meta: The name, revision and settings that mteb stores results under; each mode and each set of
            weights has its own name.

    Raises:
        InvalidInputError: The model lacks a representation, or an argument has a value that is not allowed.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        mode: Mode = "hybrid",
        weights: Weights | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> None:
        check_on_truncate(on_truncate)
        check_choice(mode, "mode", get_args(Mode))
        if mode != "dense" and not embedder.has_sparse:
            raise InvalidInputError(
                f"{embedder.name} has dense vectors only",
                argument="mode",
                advice="use BGEEncoder or mode='dense', or load bge-m3 (or 'pocket')",
            )
        if mode != "hybrid" and weights is not None:
            raise InvalidInputError(
                f"mode={mode!r} has no weights", argument="weights", advice="leave them out, or use mode='hybrid'"
            )
        weights = (1.0, 1.0, 1.0) if weights is None else weights
        self._embedder = embedder
        self._weights = weights_by_name(weights) if mode == "hybrid" else {mode: 1.0}
        self._on_truncate = on_truncate
        self._corpus: CorpusDatasetType | None = None
        dimensions = {
            "dense": embedder.dimension,
            "sparse": embedder.vocabulary_size,
            "multi_vector": embedder.multi_vector_dimension,
        }
        settings = {"weights": [float(w) for w in weights]} if mode == "hybrid" else {}
        suffix = "-".join([mode, *(str(w).removesuffix(".0") for w in settings.get("weights", []))])
        self.mteb_model_meta = embedder_metadata(embedder, mode, dimensions.get(mode), suffix, settings)

    def index(
        self,
        corpus: CorpusDatasetType,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: EncodeKwargs,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Store the corpus for the next `search`, which encodes it."""
        self._corpus = corpus

    def search(
        self,
        queries: QueryDatasetType,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: EncodeKwargs,
        top_ranked: TopRankedDocumentsType | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> RetrievalOutputType:
        """Return the best documents for each query, and release the corpus.

        Arguments that are not listed are passed on to mteb's data loader.

        Args:
            queries: The queries, with columns id and text.
            top_k: Maximum number of documents per query; ties are broken by the order of the corpus.
            encode_kwargs: batch_size and show_progress_bar.
            top_ranked: The candidates of each query, by id; None searches the whole corpus. A query without candidates
                gets no results.

        Returns:
            {query id: {document id: score}}.

        Raises:
            InvalidInputError: Nothing was indexed, the inputs contain no text, a candidate is not in the corpus, or an
                encode_kwarg is not supported.
        """
        show_progress = check_show_progress(encode_kwargs)
        corpus, self._corpus = self._corpus, None
        if corpus is None:
            raise InvalidInputError("there is no corpus to search", advice="call index() before each search()")
        query_ids = list(queries["id"])
        queries_of = None if top_ranked is None else _queries_by_candidate(query_ids, top_ranked)
        if queries_of is not None:
            corpus = _candidates(corpus, queries_of)

        def loader(dataset: Any, prompt_type: PromptType) -> DataLoader[BatchedInput]:
            batch_size = encode_kwargs.get("batch_size", 32)
            return create_dataloader(
                dataset, task_metadata=task_metadata, prompt_type=prompt_type, batch_size=batch_size, num_proc=num_proc
            )

        encoded = self._encode(all_texts(loader(queries, PromptType.query)), "query")
        best = [TopK(top_k) for _ in query_ids]
        document_ids: list[str] = []
        blocks = [
            (first, _rows(encoded, range(first, min(first + _BLOCK_QUERIES, len(query_ids)))))
            for first in range(0, len(query_ids), _BLOCK_QUERIES)
        ]
        with progress_bar(len(corpus), "document", show_progress) as bar:
            for ids, texts in _chunks(loader(corpus, PromptType.document)):
                documents = self._encode(texts, "passage")
                positions = np.arange(len(document_ids), len(document_ids) + len(ids))
                document_ids += ids
                if queries_of is None:
                    for first, block in blocks:
                        for query, scores in enumerate(self._scores(block, documents), start=first):
                            best[query].add(positions, scores)
                else:
                    for query, rows in _rows_by_query(ids, queries_of).items():
                        scores = self._scores(_rows(encoded, [query]), _rows(documents, rows))[0]
                        best[query].add(positions[rows], scores)
                bar.update(len(ids))
        return {
            query_id: {
                document_ids[i]: score for i, score in zip(top.documents.tolist(), top.scores.tolist(), strict=True)
            }
            for query_id, top in zip(query_ids, best, strict=True)
        }

    def _encode(self, texts: Sequence[str], kind: TextKind) -> Embeddings:
        wanted = {name: name in self._weights for name in REPRESENTATIONS}
        return self._embedder.encode(texts, kind=kind, on_truncate=self._on_truncate, **wanted)

    def _scores(self, queries: Embeddings, documents: Embeddings) -> NDArray[np.float32]:
        """Return the scores, float32 (queries, documents)."""
        scores = {name: representation_scores(name, queries, documents) for name in self._weights}
        return weighted_mean(scores, self._weights)


def _rows(embeddings: Embeddings, rows: Sequence[int]) -> Embeddings:
    """Select the representations of some of the texts."""
    dense, sparse, vectors = embeddings.dense, embeddings.sparse, embeddings.multi_vector
    return Embeddings(
        None if dense is None else dense[list(rows)],
        None if sparse is None else SparseVectors.from_rows([sparse[i] for i in rows], sparse.size),
        None if vectors is None else MultiVectors.from_rows([vectors[i] for i in rows], vectors.vectors.shape[1]),
    )


def _queries_by_candidate(query_ids: Sequence[str], top_ranked: TopRankedDocumentsType) -> dict[str, list[int]]:
    """Return, for each candidate document, the rows of the queries that it is a candidate for."""
    queries_of: dict[str, list[int]] = defaultdict(list)
    for query, identifier in enumerate(query_ids):
        for document in dict.fromkeys(top_ranked.get(identifier, ())):
            queries_of[document].append(query)
    return dict(queries_of)


def _candidates(corpus: CorpusDatasetType, queries_of: Mapping[str, Sequence[int]]) -> CorpusDatasetType:
    """Return the documents of the corpus that are candidates for a query."""
    ids = list(corpus["id"])
    if missing := queries_of.keys() - set(ids):
        raise InvalidInputError(
            f"{len(missing)} candidates in top_ranked are not in the corpus, such as {min(missing)!r}",
            advice="correct the task's data",
        )
    return corpus.select([row for row, identifier in enumerate(ids) if identifier in queries_of])


def _rows_by_query(ids: Sequence[str], queries_of: Mapping[str, Sequence[int]]) -> dict[int, list[int]]:
    """Return the rows of each query's candidates among these documents, for queries that have any."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, identifier in enumerate(ids):
        for query in queries_of[identifier]:
            rows[query].append(row)
    return rows


def _chunks(loader: DataLoader[BatchedInput]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the ids and texts of the documents, one chunk at a time."""
    ids: list[str] = []
    texts: list[str] = []
    characters = 0
    for batch in loader:
        batch_texts = texts_of(batch)
        ids += cast("Mapping[str, list[str]]", batch)["id"]
        texts += batch_texts
        characters += sum(map(len, batch_texts))
        if len(texts) >= _CHUNK_DOCUMENTS or characters >= _CHUNK_CHARACTERS:
            yield ids, texts
            ids, texts, characters = [], [], 0
    if texts:
        yield ids, texts
