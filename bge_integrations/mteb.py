"""MTEB adapters: `mteb.evaluate` runs any BGE embedder, bge-m3's sparse, multi-vector and hybrid search, and rerankers.

Each adapter is one of mteb's own protocols: `BGEEncoder` an encoder, `BGEM3Search` a search model, `BGECrossEncoder` a
cross-encoder.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

try:
    from mteb._create_dataloaders import create_dataloader
    from mteb.models import ModelMeta
    from mteb.models.model_meta import ScoringFunction
    from mteb.similarity_functions import cos_sim, pairwise_cos_sim
    from mteb.types import PromptType
except ImportError as error:
    raise ImportError("bge_integrations.mteb needs MTEB: pip install 'mteb>=2.16'") from error

from bge_integrations import catalog
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.checkpoint import POCKET
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVectors
from bge_integrations.progress import progress_bar
from bge_integrations.scoring import (
    REPRESENTATIONS,
    Mode,
    Weights,
    representation_scores,
    weighted_mean,
    weights_by_name,
)
from bge_integrations.validation import check_on_truncate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import (
        Array,
        BatchedInput,
        CorpusDatasetType,
        EncodeKwargs,
        QueryDatasetType,
        RetrievalOutputType,
        TopRankedDocumentsType,
    )
    from numpy.typing import NDArray
    from torch.utils.data import DataLoader
    from typing_extensions import Unpack

    from bge_integrations.core.embedder import Embedder, TextKind
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.core.session import Loaded

#: mteb's name of a kind of model, and of its score: a hybrid has none, multi-vectors rank by the mean where it has the
#: sum.
_MODEL_TYPES = {"dense": "dense", "sparse": "sparse", "multi_vector": "late-interaction", "hybrid": "hybrid"}
_SIMILARITIES = {
    "dense": ScoringFunction.COSINE,
    "sparse": ScoringFunction.DOT_PRODUCT,
    "multi_vector": ScoringFunction.MAX_SIM,
    "hybrid": None,
}
_LANGUAGES = {"en": ["eng-Latn"], "zh": ["zho-Hans"]}

#: Documents scored at a time: no more than so many, nor (much) more text, whose multi-vectors may take 2 GB.
_CHUNK_DOCUMENTS = 2048
_CHUNK_CHARACTERS = 1 << 19
#: Queries scored at a time: 8 MB for each matrix of scores.
_BLOCK_QUERIES = 1024


class BGEEncoder:
    """Dense vectors of any BGE embedder, as mteb's `EncoderProtocol`: runs every kind of text task.

    Queries and documents of retrieval tasks get the instructions that the embedder puts before queries and passages.
    The texts of all other tasks (mteb gives them no side) get none, as BGE was published for these.

    Example:
        >>> import mteb
        >>> from bge_integrations import load_embedder
        >>> from bge_integrations.mteb import BGEEncoder
        >>> mteb.evaluate(BGEEncoder(load_embedder("BAAI/bge-m3")), mteb.get_tasks(tasks=["STS12", "NFCorpus"]))

    Args:
        embedder: From `load_embedder`; it stays the caller's to close.
        on_truncate: As in `Embedder.encode`.

    Attributes:
        mteb_model_meta: Name, revision and settings, under which mteb keeps the results.

    Raises:
        InvalidInputError: `on_truncate` is none of its choices.
    """

    def __init__(self, embedder: Embedder, *, on_truncate: OnTruncate = "warn") -> None:
        check_on_truncate(on_truncate)
        self._embedder = embedder
        self._on_truncate = on_truncate
        self.mteb_model_meta = _embedder_meta(embedder, "dense", embedder.dimension)

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Unpack[EncodeKwargs],
    ) -> Array:
        """Embed a task's texts.

        Returns:
            float32 (texts, dimension), unit rows.

        Raises:
            InvalidInputError: The inputs hold no text, or an encode_kwarg is not supported.
        """
        show_progress = _show_progress(kwargs)
        kind = None if prompt_type is None else _kind(prompt_type)
        dense = self._embedder.encode(
            _all_texts(inputs), kind=kind, on_truncate=self._on_truncate, show_progress=show_progress
        ).dense
        assert dense is not None
        return dense

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Cosine of each of the first with each of the second: float32 (first, second)."""
        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Cosine of each of the first with its counterpart: float32 (pairs,)."""
        return pairwise_cos_sim(embeddings1, embeddings2)


class BGEM3Search:
    """Exact search by bge-m3's representations, as mteb's `SearchProtocol`: runs retrieval and reranking tasks.

    Each document is encoded once per search, for all representations that the mode needs, and let go when it has been
    scored against all queries: memory holds the queries, one chunk of documents and the best `top_k` of each query.
    The documents of a reranking task are only scored against the queries that they are candidates of.

    Example:
        >>> import mteb
        >>> from bge_integrations import load_embedder
        >>> from bge_integrations.mteb import BGEM3Search
        >>> mteb.evaluate(BGEM3Search(load_embedder("BAAI/bge-m3")), mteb.get_tasks(tasks=["NFCorpus"]))

    Args:
        embedder: From `load_embedder`; it stays the caller's to close. Modes other than "dense" need bge-m3.
        mode: What documents are ranked by. "hybrid" is the weighted mean, `HybridScores.hybrid` in `scoring`.
        weights: Of dense, sparse and multi-vector scores in "hybrid"; None takes (1, 1, 1). What has weight 0 is not
            computed.
        on_truncate: As in `Embedder.encode`; warnings come once per chunk of documents.

    Attributes:
        mteb_model_meta: Name, revision and settings, under which mteb keeps the results; each mode and each set of
            weights has a name of its own.

    Raises:
        InvalidInputError: The model lacks a representation, or an argument is none of its choices.
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
        if mode not in get_args(Mode):
            raise InvalidInputError(f"mode={mode!r} is none of {', '.join(map(repr, get_args(Mode)))}")
        if mode != "dense" and not embedder.has_sparse:
            raise InvalidInputError(
                f"{embedder.name} has dense vectors only; use BGEEncoder or mode='dense', or load bge-m3 (or 'pocket')"
            )
        if mode != "hybrid" and weights is not None:
            raise InvalidInputError(f"mode={mode!r} has no weights; leave them out, or take mode='hybrid'")
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
        self.mteb_model_meta = _embedder_meta(embedder, mode, dimensions.get(mode), suffix, settings)

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
        """Keep the corpus for the next `search`, which encodes it."""
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
        """The best documents of each query, and let the corpus go.

        Args:
            queries: With columns id and text.
            top_k: At most so many documents per query; of equal ones, those that come first in the corpus.
            encode_kwargs: batch_size and show_progress_bar.
            top_ranked: The candidates of each query, by id; None searches the whole corpus. A query that has none
                finds nothing.

        The rest tells mteb's data loader what the texts are.

        Returns:
            {query id: {document id: score}}.

        Raises:
            InvalidInputError: Nothing was indexed, the inputs hold no text, a candidate is not in the corpus, or an
                encode_kwarg is not supported.
        """
        show_progress = _show_progress(encode_kwargs)
        corpus, self._corpus = self._corpus, None
        if corpus is None:
            raise InvalidInputError("nothing to search: call index() before each search()")
        query_ids = list(queries["id"])
        asking = None if top_ranked is None else _asking(query_ids, top_ranked)
        if asking is not None:
            corpus = _candidates(corpus, asking)

        def loader(dataset: Any, prompt_type: PromptType) -> DataLoader[BatchedInput]:
            batch_size = encode_kwargs.get("batch_size", 32)
            return create_dataloader(
                dataset, task_metadata=task_metadata, prompt_type=prompt_type, batch_size=batch_size, num_proc=num_proc
            )

        encoded = self._encode(_all_texts(loader(queries, PromptType.query)), "query")
        best = [_Best(top_k) for _ in query_ids]
        blocks = [
            (first, _rows(encoded, range(first, min(first + _BLOCK_QUERIES, len(query_ids)))))
            for first in range(0, len(query_ids), _BLOCK_QUERIES)
        ]
        with progress_bar(len(corpus), "document", show_progress) as bar:
            for ids, texts in _chunks(loader(corpus, PromptType.document)):
                documents = self._encode(texts, "passage")
                names = np.array(ids, dtype=object)
                if asking is None:
                    for first, block in blocks:
                        for query, scores in enumerate(self._scores(block, documents), start=first):
                            best[query].add(scores, names)
                else:
                    for query, places in _places(ids, asking).items():
                        scores = self._scores(_rows(encoded, [query]), _rows(documents, places))[0]
                        best[query].add(scores, names[places])
                bar.update(len(ids))
        return {identifier: found.scores() for identifier, found in zip(query_ids, best, strict=True)}

    def _encode(self, texts: Sequence[str], kind: TextKind) -> Embeddings:
        wanted = {name: name in self._weights for name in REPRESENTATIONS}
        return self._embedder.encode(texts, kind=kind, on_truncate=self._on_truncate, **wanted)

    def _scores(self, queries: Embeddings, documents: Embeddings) -> NDArray[np.float32]:
        """float32 (queries, documents)."""
        scores = {name: representation_scores(name, queries, documents) for name in self._weights}
        return weighted_mean(scores, self._weights)


class BGECrossEncoder:
    """Scores of any BGE reranker, as mteb's `CrossEncoderProtocol`: runs reranking tasks.

    Example:
        >>> import mteb
        >>> from bge_integrations import load_reranker
        >>> from bge_integrations.mteb import BGECrossEncoder
        >>> reranker = load_reranker("BAAI/bge-reranker-v2-m3")
        >>> mteb.evaluate(BGECrossEncoder(reranker), mteb.get_tasks(tasks=["SciDocsRR"]))

    Args:
        reranker: From `load_reranker`; it stays the caller's to close.
        on_truncate: As in `Reranker.score`.

    Attributes:
        mteb_model_meta: Name, revision and settings, under which mteb keeps the results.

    Raises:
        InvalidInputError: `on_truncate` is none of its choices, or the reranker has several cut-offs.
    """

    def __init__(self, reranker: Reranker, *, on_truncate: OnTruncate = "warn") -> None:
        check_on_truncate(on_truncate)
        if len(reranker.cutoff_layers) > 1:
            raise InvalidInputError(
                f"the reranker has a score for each of the cut-offs {', '.join(map(str, reranker.cutoff_layers))}, but "
                "mteb ranks by one; load it with one of them"
            )
        self._reranker = reranker
        self._on_truncate = on_truncate
        settings: dict[str, Any] = {"query_max_length": reranker.query_max_length}
        if reranker.prompt:  # an LLM reranker
            settings["cutoff_layers"] = list(reranker.cutoff_layers)
            settings["compression"] = [list(pair) for pair in reranker.compression]
            settings["prompt"] = reranker.prompt
        self.mteb_model_meta = _meta(reranker, settings, {"model_type": ["cross-encoder"], "use_instructions": False})

    def predict(
        self,
        inputs1: DataLoader[BatchedInput],
        inputs2: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Unpack[EncodeKwargs],
    ) -> Array:
        """How relevant each text of the second is to its counterpart in the first, the query.

        Returns:
            float32 (pairs,), logits.

        Raises:
            InvalidInputError: The inputs hold no text, or an encode_kwarg is not supported.
        """
        show_progress = _show_progress(kwargs)
        pairs = zip(_all_texts(inputs1), _all_texts(inputs2), strict=True)
        return self._reranker.score(pairs, on_truncate=self._on_truncate, show_progress=show_progress)


class _Best:
    """The best k documents among those added."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._scores = np.empty(0, np.float32)
        self._ids = np.empty(0, object)

    def add(self, scores: NDArray[np.float32], ids: NDArray[np.object_]) -> None:
        """Both have one entry per document."""
        if len(self._scores) == self._k:  # few are better than all of these, which makes sorting cheap
            better = scores > self._scores[-1]
            scores, ids = scores[better], ids[better]
        scores, ids = np.concatenate((self._scores, scores)), np.concatenate((self._ids, ids))
        order = np.argsort(-scores, kind="stable")[: self._k]
        self._scores, self._ids = scores[order], ids[order]

    def scores(self) -> dict[str, float]:
        """{document id: score}, best first."""
        return dict(zip(self._ids.tolist(), self._scores.tolist(), strict=True))


def _rows(embeddings: Embeddings, places: Sequence[int]) -> Embeddings:
    """The representations of the texts in these places."""
    dense, sparse, vectors = embeddings.dense, embeddings.sparse, embeddings.multi_vector
    return Embeddings(
        None if dense is None else dense[list(places)],
        None if sparse is None else SparseVectors.from_rows([sparse[i] for i in places], sparse.size),
        None if vectors is None else MultiVectors.from_rows([vectors[i] for i in places], vectors.vectors.shape[1]),
    )


def _asking(query_ids: Sequence[str], top_ranked: TopRankedDocumentsType) -> dict[str, list[int]]:
    """For each candidate, the places of the queries that it is a candidate of."""
    asking: dict[str, list[int]] = defaultdict(list)
    for query, identifier in enumerate(query_ids):
        for document in dict.fromkeys(top_ranked.get(identifier, ())):
            asking[document].append(query)
    return dict(asking)


def _candidates(corpus: CorpusDatasetType, asking: Mapping[str, Sequence[int]]) -> CorpusDatasetType:
    """The documents of the corpus that are candidates of a query."""
    ids = list(corpus["id"])
    if missing := asking.keys() - set(ids):
        raise InvalidInputError(
            f"{len(missing)} candidates in top_ranked are not in the corpus, such as {min(missing)!r}; "
            "correct the task's data"
        )
    return corpus.select([place for place, identifier in enumerate(ids) if identifier in asking])


def _places(ids: Sequence[str], asking: Mapping[str, Sequence[int]]) -> dict[int, list[int]]:
    """For each query with candidates among these documents, their places."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, identifier in enumerate(ids):
        for query in asking[identifier]:
            places[query].append(place)
    return places


def _chunks(loader: DataLoader[BatchedInput]) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and texts of the documents, a chunk at a time."""
    ids: list[str] = []
    texts: list[str] = []
    characters = 0
    for batch in loader:
        found = _texts(batch)
        ids += cast("Mapping[str, list[str]]", batch)["id"]
        texts += found
        characters += sum(map(len, found))
        if len(texts) >= _CHUNK_DOCUMENTS or characters >= _CHUNK_CHARACTERS:
            yield ids, texts
            ids, texts, characters = [], [], 0
    if texts:
        yield ids, texts


def _all_texts(inputs: Iterable[BatchedInput]) -> list[str]:
    return [text for batch in inputs for text in _texts(batch)]


def _texts(batch: BatchedInput) -> list[str]:
    """A batch's texts, as mteb joins them: title and body of a document, query and instruction of a query."""
    content = cast("Mapping[str, list[str]]", batch)
    if "text" not in content:
        raise InvalidInputError(
            f"this task's inputs hold {', '.join(sorted(content))} but no text; choose tasks whose modality is text"
        )
    return content["text"]


def _kind(prompt_type: PromptType) -> TextKind:
    return "query" if prompt_type == PromptType.query else "passage"


def _show_progress(encode_kwargs: EncodeKwargs) -> bool:
    """Whether to show a bar; mteb's own models do unless told otherwise."""
    if unknown := encode_kwargs.keys() - {"batch_size", "show_progress_bar"}:
        raise InvalidInputError(
            f"encode_kwargs {', '.join(sorted(unknown))} are not supported; set dtype, max_length, truncate_dim and "
            "instructions when you load the model"
        )
    return encode_kwargs.get("show_progress_bar", True)


def _embedder_meta(
    embedder: Embedder, mode: Mode, dimension: int | None, suffix: str = "", settings: Mapping[str, Any] | None = None
) -> ModelMeta:
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


def _meta(loaded: Loaded, settings: Mapping[str, Any], fields: Mapping[str, Any], suffix: str = "") -> ModelMeta:
    """What mteb says about the model, and files its results under: name, revision and `experiment_kwargs`.

    What nobody told us stays None, "unknown". The settings are always there, so that results never mix with published
    ones of the same checkpoint, which were computed by other code.
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
