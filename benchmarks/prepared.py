"""Synthetic documents and queries with bge-m3's three representations, for benchmarks of an index.

They are not pure noise: documents belong to topics, and a query is a noisy copy of a document in all representations.
Each is generated from its number alone, so nothing is stored, and every prefix of a corpus is a similar corpus.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bge_integrations import Embedder
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVector, SparseVectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOCABULARY = 250_002
WEIGHTS = 60
TOKENS = 64
QUERY_TOKENS = 16
TOPIC = 400  # documents
_TOPIC_WORDS = 200
_FILLER = " ".join(["All pandas of the northern province eat bamboo in the morning."] * 6)


class Vectors(NamedTuple):
    """The representations of one text."""

    dense: NDArray[np.float32]
    sparse: SparseVector
    multi_vector: NDArray[np.float32]


class Corpus:
    """A synthetic corpus. Document i belongs to topic i // 400: its vectors are the topic's plus noise of 0.6 to 1.4
    times their length.

    Some of its 60 tokens are the topic's, the others follow Zipf's law; rarer tokens weigh more. Query i copies the
    dense vector, 12 of the tokens and 16 of the multi-vectors of a document, and adds noise and 4 tokens.

    Args:
        documents: The queries are about the first N documents.
        dimension: Width of dense and multi-vectors.
        with_multi_vectors: If not set, texts have no multi-vectors, which saves most of the time.
        tokens, query_tokens: Number of multi-vectors of a document and of a query.
    """

    def __init__(
        self,
        documents: int,
        dimension: int = 1024,
        with_multi_vectors: bool = True,
        tokens: int = TOKENS,
        query_tokens: int = QUERY_TOKENS,
    ) -> None:
        self.documents = documents
        self.dimension = dimension
        self._tokens = tokens if with_multi_vectors else 0
        self._query_tokens = query_tokens
        self._topic = lru_cache(maxsize=8)(self._make_topic)
        self.query = lru_cache(maxsize=None)(self._make_query)

    def document(self, i: int) -> Vectors:
        topic = self._topic(i // TOPIC)
        rng = np.random.default_rng((1, i))
        spread = rng.uniform(0.6, 1.4)
        tokens = np.unique(
            np.concatenate((rng.choice(topic.sparse.indices, 25, replace=False), _zipf(rng, 2 * WEIGHTS)))
        )
        return Vectors(
            self._noisy(rng, topic.dense, spread),
            _weighted(rng, np.sort(rng.permutation(tokens)[:WEIGHTS])),
            self._noisy(rng, topic.multi_vector, spread),
        )

    def text(self, i: int) -> str:
        return f"document {i} {_FILLER}"

    def _make_query(self, i: int) -> Vectors:
        rng = np.random.default_rng((2, i))
        source = self.document(int(rng.integers(self.documents)))
        tokens = np.unique(np.concatenate((rng.choice(source.sparse.indices, 12, replace=False), _zipf(rng, 4))))
        rows = rng.permutation(self._tokens)[: self._query_tokens]
        return Vectors(
            self._noisy(rng, source.dense, 0.8),
            _weighted(rng, tokens),
            self._noisy(rng, source.multi_vector[rows], 0.8),
        )

    def _make_topic(self, i: int) -> Vectors:
        rng = np.random.default_rng((3, i))
        words = rng.permutation(np.unique(_zipf(rng, 2 * _TOPIC_WORDS)))[:_TOPIC_WORDS]
        zeros = np.zeros((1 + self._tokens, self.dimension), np.float32)
        vectors = self._noisy(rng, zeros, 1)
        return Vectors(vectors[0], SparseVector(words, np.ones(len(words), np.float32)), vectors[1:])

    def _noisy(self, rng: np.random.Generator, vectors: NDArray[np.float32], spread: float) -> NDArray[np.float32]:
        """Return the vectors plus noise of about the length `spread`, scaled to unit length."""
        noise = rng.standard_normal(vectors.shape, np.float32)
        noise *= np.float32(spread / self.dimension**0.5)
        noise += vectors
        noise /= np.linalg.norm(noise, axis=-1, keepdims=True)
        return noise


class Prepared(Embedder):
    """An embedder, which M3Index requires, that returns a corpus's vectors for its texts and for queries ("query 5").

    Attributes:
        seconds: The time spent here, to be subtracted from insertion times.
    """

    def __init__(self, corpus: Corpus) -> None:  # does not call Embedder.__init__, which needs a model
        self.name = "prepared"
        self.device, self.dtype = "cpu", "float32"
        self.max_length = 8192
        self.dimension = self.multi_vector_dimension = corpus.dimension
        self.vocabulary_size = VOCABULARY
        self.has_sparse = self.has_multi_vector = True
        self.takes_images = False
        self.seconds = 0.0
        self._corpus = corpus

    @property
    def source(self) -> str:
        return self.name

    @property
    def revision(self) -> None:
        return None

    def vector_settings(self, kind: object) -> dict[str, str | int]:
        return {
            "weights": "none",
            "instruction": "",
            "pooling": "cls",
            "max_length": self.max_length,
            "dimension": self.dimension,
            "dtype": self.dtype,
        }

    def encode(
        self,
        texts: Iterable[Any],
        *,
        dense: bool = True,
        sparse: bool = False,
        multi_vector: bool = False,
        **_: Any,
    ) -> Embeddings:
        start = time.perf_counter()
        rows = [self._vectors(text) for text in texts]
        encoded = Embeddings(
            np.stack([row.dense for row in rows]) if dense else None,
            SparseVectors.from_rows([row.sparse for row in rows], VOCABULARY) if sparse else None,
            MultiVectors.from_rows([row.multi_vector for row in rows], self.dimension) if multi_vector else None,
        )
        self.seconds += time.perf_counter() - start
        return encoded

    async def aencode(self, texts: Iterable[Any], **settings: Any) -> Embeddings:
        return self.encode(texts, **settings)

    def _vectors(self, text: str) -> Vectors:
        kind, number, *_ = text.split(maxsplit=2)
        return self._corpus.query(int(number)) if kind == "query" else self._corpus.document(int(number))


def exact_scores(corpus: Corpus, documents: Iterable[int], queries: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """Return the brute-force scores, (queries, documents), of each representation: what a search should find."""
    asked = [corpus.query(i) for i in queries]
    dense = np.stack([query.dense for query in asked])
    sparse = SparseVectors.from_rows([query.sparse for query in asked], VOCABULARY).to_scipy()
    multi = np.concatenate([query.multi_vector for query in asked])
    numbers = list(documents)
    scores = {name: np.zeros((len(asked), len(numbers)), np.float32) for name in ("dense", "sparse", "multi_vector")}
    for begin in range(0, len(numbers), 256):
        rows = [corpus.document(i) for i in numbers[begin : begin + 256]]
        place = np.s_[:, begin : begin + len(rows)]
        scores["dense"][place] = dense @ np.stack([row.dense for row in rows]).T
        theirs = SparseVectors.from_rows([row.sparse for row in rows], VOCABULARY).to_scipy()
        scores["sparse"][place] = (sparse @ theirs.T).toarray()
        if len(multi):
            similarities = multi @ np.concatenate([row.multi_vector for row in rows]).T
            best = similarities.reshape(len(asked), QUERY_TOKENS, len(rows), TOKENS).max(3)
            scores["multi_vector"][place] = best.mean(1)
    return scores


def _zipf(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    """Return random token ids; the r-th id has a frequency of about 1 / r."""
    return (VOCABULARY ** rng.random(count)).astype(np.int32)


def _weighted(rng: np.random.Generator, tokens: NDArray[np.int32]) -> SparseVector:
    weights = 0.3 * rng.uniform(0.5, 1, len(tokens)) * np.log(1 + tokens) / np.log(VOCABULARY)
    return SparseVector(tokens, weights.astype(np.float32))
