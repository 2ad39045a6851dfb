"""LlamaIndex's promises about its components, as tests for any integration.

LlamaIndex has no conformance suite. These two classes have one test per promise; subclass them to test your own
class:

    class TestMyEmbedding(EmbeddingContract):
        def make(self, **fields):
            return MyEmbedding(**{"model_name": "my-model", **fields})

The tests take no fixtures, so they also run outside pytest, and they do not compare wall-clock times.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_instrumentation.event_handlers import BaseEventHandler

QUERY = "Where do pandas live?"
TEXTS = [
    "Pandas live in the bamboo forests of China.",
    "hi",
    "BM25 ranks documents by the words that they share with the query, weighted by how rare each word is.",
    "A dense retriever compares vectors.",
    "大熊猫生活在竹林里。",
    "Ein Panda frisst am Tag bis zu vierzig Kilogramm Bambus.",
    "12 + 30 = 42",
    "hi",
]
PASSAGES = [
    *TEXTS[:7],
    "The red panda is not a bear.",
    "panda panda panda",
    "Rerankers read the query and the passage together, which makes them slower and better than embedders. " * 3,
    "?",
    "Zoos outside China rent their pandas.",
]
SMALL_PICKLE = 20_000
LEAST_TICKS = 20
NO_QUERY = r"(?i)query"

_DOCUMENT_WAYS: list[Callable[[BaseEmbedding, str], Any]] = [
    lambda model, text: model.get_text_embedding(text),
    lambda model, text: _first(model.get_text_embedding_batch([text])),
    lambda model, text: model.aget_text_embedding(text),
    lambda model, text: _first(model.aget_text_embedding_batch([text])),
]
_QUERY_WAYS: list[Callable[[BaseEmbedding, str], Any]] = [
    lambda model, text: model.get_query_embedding(text),
    lambda model, text: model.aget_query_embedding(text),
]
_MODEL_METHODS = (
    "_get_query_embedding",
    "_aget_query_embedding",
    "_get_text_embedding",
    "_aget_text_embedding",
    "_get_text_embeddings",
    "_aget_text_embeddings",
)


class EmbeddingContract(ABC):
    """The promises of a `BaseEmbedding`."""

    changes: ClassVar[dict[str, Any]] = {}
    """Constructor arguments that change the vectors, each with a value unlike `make`'s."""
    with_query_instruction: ClassVar[dict[str, Any] | None] = None
    """Fields that make queries unlike documents; None where a model knows no instructions."""
    without_query_instruction: ClassVar[dict[str, Any] | None] = None
    """Fields that make queries the same as documents; None where a model knows no instructions."""

    @abstractmethod
    def make(self, **fields: Any) -> BaseEmbedding:
        """Return a new object; `fields` go to the constructor and override the defaults set here."""

    def make_cached(self, store: SimpleKVStore, **fields: Any) -> BaseEmbedding:
        """Return the same as `make`, with an embeddings_cache; override it only if the constructor takes none."""
        return self.make(embeddings_cache=store, **fields)

    # vectors

    def test_vectors_are_lists_of_python_floats(self):
        model = self.make()
        vectors = [model.get_query_embedding(QUERY), model.get_text_embedding(QUERY)]
        vectors += model.get_text_embedding_batch(TEXTS)
        for vector in vectors:
            assert type(vector) is list
            assert {type(value) for value in vector} == {float}
            assert np.isfinite(vector).all()

    def test_queries_and_texts_have_the_same_width(self):
        model = self.make()
        vectors = [model.get_query_embedding(QUERY), *model.get_text_embedding_batch(TEXTS)]
        assert len({len(vector) for vector in vectors}) == 1

    def test_different_texts_have_different_vectors(self):
        vectors = self.make().get_text_embedding_batch(TEXTS)
        assert _differ(vectors[0], vectors[2])
        _assert_same(vectors[1], vectors[7])

    def test_a_batch_equals_its_singles_in_order(self):
        model = self.make()
        _assert_same(model.get_text_embedding_batch(TEXTS), [model.get_text_embedding(text) for text in TEXTS])

    def test_more_texts_than_embed_batch_size_keep_their_order(self):
        small = self.make(embed_batch_size=3)
        assert small.embed_batch_size == 3
        _assert_same(small.get_text_embedding_batch(TEXTS), self.make().get_text_embedding_batch(TEXTS))

    async def test_async_equals_sync(self):
        model = self.make(embed_batch_size=3)
        _assert_same(await model.aget_query_embedding(QUERY), model.get_query_embedding(QUERY))
        _assert_same(await model.aget_text_embedding(QUERY), model.get_text_embedding(QUERY))
        _assert_same(await model.aget_text_embedding_batch(TEXTS), model.get_text_embedding_batch(TEXTS))

    async def test_async_with_num_workers_equals_sync(self):
        model = self.make(embed_batch_size=3, num_workers=2)
        _assert_same(await model.aget_text_embedding_batch(TEXTS), model.get_text_embedding_batch(TEXTS))

    async def test_no_texts_give_no_vectors(self):
        model = self.make()
        assert model.get_text_embedding_batch([]) == []
        assert await model.aget_text_embedding_batch([]) == []
        assert list(model([])) == []

    def test_a_query_instruction_sets_queries_apart(self):
        model = self.make(**_needed(self.with_query_instruction))
        assert _differ(model.get_query_embedding(QUERY), model.get_text_embedding(QUERY))

    def test_the_query_instruction_can_be_switched_off(self):
        model = self.make(**_needed(self.without_query_instruction))
        _assert_same(model.get_query_embedding(QUERY), model.get_text_embedding(QUERY))

    # settings and copies

    def test_an_unknown_argument_is_refused(self):
        with pytest.raises((TypeError, ValueError)):
            self.make(no_such_argument=1)

    def test_the_fields_of_base_embedding_are_arguments(self):
        given: dict[str, Any] = {
            "embed_batch_size": 7,
            "num_workers": 2,
            "callback_manager": CallbackManager([]),
            "rate_limiter": object(),
        }
        for field, value in given.items():
            if field in BaseEmbedding.model_fields:  # rate_limiter was added in 0.14.20
                assert getattr(self.make(**{field: value}), field) == value
        assert self.make(embeddings_cache=SimpleKVStore()).embeddings_cache is not None

    def test_class_name_is_its_own(self):
        _assert_own_class_name(self.make(), BaseEmbedding)

    def test_model_name_is_reported(self):
        model = self.make()
        assert model.model_name not in ("", BaseEmbedding.model_fields["model_name"].default)
        payload = model.to_payload() if hasattr(BaseEmbedding, "to_payload") else model.to_dict()
        assert payload["model_name"] == model.model_name
        assert payload["class_name"] == model.class_name()

    def test_dict_round_trip(self):
        self._assert_twin(lambda model: type(model).from_dict(model.to_dict()))

    def test_dict_round_trip_with_workers_and_batch_size(self):
        twin = self._assert_twin(
            lambda model: type(model).from_dict(model.to_dict()), num_workers=2, embed_batch_size=3
        )
        assert (twin.num_workers, twin.embed_batch_size) == (2, 3)

    def test_json_round_trip(self):
        self._assert_twin(lambda model: type(model).from_json(model.to_json()))

    def test_json_round_trip_with_an_embeddings_cache(self):
        model = self.make_cached(SimpleKVStore())
        twin = type(model).from_json(model.to_json())
        _assert_same(twin.get_text_embedding(QUERY), model.get_text_embedding(QUERY))

    def test_pickle_round_trip(self):
        self._assert_twin(lambda model: pickle.loads(pickle.dumps(model)))

    def test_a_pickle_holds_no_weights(self):
        model = self.make()
        model.get_text_embedding(QUERY)
        assert len(pickle.dumps(model)) < SMALL_PICKLE

    def _assert_twin(self, remake: Callable[[BaseEmbedding], BaseEmbedding], **fields: Any) -> BaseEmbedding:
        """Assert that the remade object has the same settings and returns the same vectors."""
        model = self.make(**fields)
        vectors = [model.get_query_embedding(QUERY), *model.get_text_embedding_batch(TEXTS)]
        twin = remake(model)
        assert type(twin) is type(model)
        assert twin.to_dict() == model.to_dict()
        _assert_same([twin.get_query_embedding(QUERY), *twin.get_text_embedding_batch(TEXTS)], vectors)
        return twin

    # the ingestion cache's key

    def test_equal_objects_have_equal_cache_keys(self):
        assert _key(self.make()) == _key(self.make())

    def test_a_dict_twin_has_the_same_cache_key(self):
        model = self.make()
        assert _key(type(model).from_dict(model.to_dict())) == _key(model)

    def test_use_does_not_change_the_cache_key(self):
        model = self.make()
        before = _key(model)
        model.get_text_embedding(QUERY)
        assert _key(model) == before

    def test_settings_hold_no_object_repr(self):
        assert " at 0x" not in str(self.make().to_dict())

    def test_settings_hold_no_object_repr_with_an_embeddings_cache(self):
        assert " at 0x" not in str(self.make_cached(SimpleKVStore()).to_dict())

    def test_a_change_of_the_vectors_changes_the_cache_key(self):
        before = _key(self.make())
        blind = [field for field, value in self.changes.items() if _key(self.make(**{field: value})) == before]
        assert not blind, f"the key does not depend on {blind}"

    # embeddings_cache

    async def test_cache_after_a_document_a_query_gets_its_own_vector(self):
        await self._assert_kept_apart(documents_first=True)

    async def test_cache_after_a_query_a_document_gets_its_own_vector(self):
        await self._assert_kept_apart(documents_first=False)

    async def _assert_kept_apart(self, documents_first: bool) -> None:
        fields = self.with_query_instruction or {}
        plain, cached = self.make(**fields), self.make_cached(SimpleKVStore(), **fields)
        for number, (document, query) in enumerate(product(_DOCUMENT_WAYS, _QUERY_WAYS)):
            text = f"text number {number}"
            calls = [(document, plain.get_text_embedding(text)), (query, plain.get_query_embedding(text))]
            for way, expected in calls if documents_first else calls[::-1]:
                _assert_same(await _answer(way(cached, text)), expected)

    def test_cache_set_later_keeps_queries_and_documents_apart(self):
        model = self.make(**(self.with_query_instruction or {}))
        document, query = model.get_text_embedding(QUERY), model.get_query_embedding(QUERY)
        model.embeddings_cache = SimpleKVStore()
        for _ in range(2):
            _assert_same(model.get_text_embedding(QUERY), document)
            _assert_same(model.get_query_embedding(QUERY), query)

    async def test_cache_spares_the_model_the_second_call(self):
        model = self.make_cached(SimpleKVStore())
        for number, way in enumerate(_DOCUMENT_WAYS + _QUERY_WAYS):
            text = f"text number {number}"
            first = await _answer(way(model, text))
            with _model_out_of_reach(model):
                _assert_same(await _answer(way(model, text)), first)

    async def test_cache_saved_as_json_answers_for_an_equal_object(self):
        """The saved vectors are negated to show that the answer comes from the cache."""
        ways = [*product(_DOCUMENT_WAYS, _DOCUMENT_WAYS), *product(_QUERY_WAYS, _QUERY_WAYS)]
        store = SimpleKVStore()
        model = self.make_cached(store)
        vectors = [await _answer(first(model, f"text {number}")) for number, (first, _) in enumerate(ways)]
        again = self.make_cached(SimpleKVStore(_negated(json.loads(json.dumps(store.to_dict())))))
        for number, (_, second) in enumerate(ways):
            _assert_same(await _answer(second(again, f"text {number}")), _negated(vectors[number]))

    async def test_cache_that_holds_some_of_a_batch(self):
        expected = self.make().get_text_embedding_batch(TEXTS)
        model = self.make_cached(SimpleKVStore(), embed_batch_size=3)
        model.get_text_embedding_batch(TEXTS[2:5])
        _assert_same(model.get_text_embedding_batch(TEXTS), expected)
        model = self.make_cached(SimpleKVStore(), embed_batch_size=3)
        await model.aget_text_embedding_batch(TEXTS[2:5])
        _assert_same(await model.aget_text_embedding_batch(TEXTS), expected)

    def test_cache_shared_by_different_settings(self):
        served = []
        for field, value in self.changes.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                plain, store = self.make(**{field: value}), SimpleKVStore()
                before, changed = self.make_cached(store), self.make_cached(store, **{field: value})
                for text in TEXTS[:3]:
                    before.get_text_embedding(text)
                    before.get_query_embedding(QUERY + text)
                    pairs = [
                        (changed.get_text_embedding(text), plain.get_text_embedding(text)),
                        (changed.get_query_embedding(QUERY + text), plain.get_query_embedding(QUERY + text)),
                    ]
                    served += [field for found, expected in pairs if _differ(found, expected)]
        assert not served, f"the cache serves vectors made with another {sorted(set(served))}"

    # events

    async def test_callbacks_start_and_end_with_texts_and_vectors(self):
        recorder = _Callbacks(CBEventType.EMBEDDING)
        model = self.make(embed_batch_size=3)
        model.callback_manager = CallbackManager([recorder])
        async for texts, vectors in _every_way(model):
            pairs = recorder.take()
            assert pairs
            for start, _ in pairs:
                assert start[EventPayload.SERIALIZED]["model_name"] == model.model_name
            assert [text for _, end in pairs for text in end[EventPayload.CHUNKS]] == texts
            _assert_same([vector for _, end in pairs for vector in end[EventPayload.EMBEDDINGS]], vectors)

    async def test_events_start_and_end_with_texts_and_vectors(self):
        model = self.make(embed_batch_size=3)
        with _recorded(EmbeddingStartEvent, EmbeddingEndEvent) as events:
            async for texts, vectors in _every_way(model):
                starts, ends = _in_pairs(events, EmbeddingStartEvent)
                assert starts
                for start in starts:
                    assert start.model_dict["model_name"] == model.model_name
                assert [text for end in ends for text in end.chunks] == texts
                _assert_same([vector for end in ends for vector in end.embeddings], vectors)
                events.clear()

    # async, bad input

    async def test_async_does_not_block_the_loop(self):
        model = self.make()

        def texts(size: int, call: int = 0) -> list[str]:
            return [f"{call} {number} " + "word " * 80 for number in range(size)]

        size = _busy_size(lambda size: model.get_text_embedding_batch(texts(size)))
        work = [texts(size, call) for call in range(4)]
        ticks, found = await _ticks_during(asyncio.gather(*map(model.aget_text_embedding_batch, work)))
        assert ticks >= LEAST_TICKS
        for vectors, given in zip(found, work, strict=True):
            _assert_same(vectors[-2:], model.get_text_embedding_batch(given[-2:]))

    async def test_none_is_refused_at_once(self):
        await self._assert_refused(None)

    async def test_a_number_is_refused_at_once(self):
        await self._assert_refused(3)

    async def test_a_lone_surrogate_is_refused_at_once(self):
        await self._assert_refused("half a character: \ud83d")

    async def _assert_refused(self, bad: Any) -> None:
        """Assert that every method raises, without waiting to retry."""
        model = self.make()
        with _recorded_waits() as waits:
            for way in _DOCUMENT_WAYS + _QUERY_WAYS:
                with pytest.raises((TypeError, ValueError)):
                    await _answer(way(model, bad))
            with pytest.raises((TypeError, ValueError)):
                model.get_text_embedding_batch(["fine", bad])
        assert not waits, f"waited {waits} s and tried again"

    # use in LlamaIndex

    async def test_ingestion_pipeline_embeds_nodes(self):
        model = self.make()
        expected = model.get_text_embedding_batch([node.get_content(MetadataMode.EMBED) for node in _text_nodes()])
        done = IngestionPipeline(transformations=[model]).run(nodes=_text_nodes())
        _assert_same([node.embedding for node in done], expected)
        done = await IngestionPipeline(transformations=[model]).arun(nodes=_text_nodes())
        _assert_same([node.embedding for node in done], expected)

    def test_ingestion_cache_answers_for_an_equal_object(self):
        first, second = self.make(), self.make()
        pipeline = IngestionPipeline(transformations=[first])
        expected = pipeline.run(nodes=_text_nodes())
        again = IngestionPipeline(transformations=[second], cache=pipeline.cache)
        with _model_out_of_reach(second):
            done = again.run(nodes=_text_nodes())
        _assert_same([node.embedding for node in done], [node.embedding for node in expected])

    async def test_vector_store_index_finds_nodes(self):
        model = self.make()
        query = np.array(model.get_query_embedding(QUERY))
        vectors = np.array(
            model.get_text_embedding_batch([node.get_content(MetadataMode.EMBED) for node in _text_nodes()])
        )
        cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        retriever = VectorStoreIndex(_text_nodes(), embed_model=model).as_retriever(similarity_top_k=4)
        for found in (retriever.retrieve(QUERY), await retriever.aretrieve(QUERY)):
            _assert_same([node.score for node in found], np.sort(cosines)[::-1][:4])


class NodePostprocessorContract(ABC):
    """The promises of a reranker, which is a `BaseNodePostprocessor` with a `top_n`."""

    @abstractmethod
    def make(self, **fields: Any) -> BaseNodePostprocessor:
        """Return a new object; `fields` go to the constructor and override the defaults set here."""

    def rerank(self, nodes: list[NodeWithScore], query: str = QUERY, **fields: Any) -> list[NodeWithScore]:
        """Rerank nodes with a new reranker, which keeps all of them unless `top_n` is given."""
        return self.make(**{"top_n": len(nodes), **fields}).postprocess_nodes(nodes, query_str=query)

    # order and scores

    def test_best_first(self):
        scores = [node.score for node in self.rerank(_scored_nodes())]
        assert len(set(scores)) > 1
        assert scores == sorted(scores, reverse=True)

    def test_scores_are_python_floats(self):
        assert {type(node.score) for node in self.rerank(_scored_nodes())} == {float}

    def test_every_node_comes_back_once_with_its_content(self):
        given = {node.node_id: node.get_content(MetadataMode.ALL) for node in _scored_nodes()}
        found = self.rerank(_scored_nodes())
        assert len(found) == len(given)
        assert {node.node_id: node.get_content(MetadataMode.ALL) for node in found} == given

    def test_top_n_keeps_the_best(self):
        for top_n in (1, 3):
            found = self.rerank(_scored_nodes(), top_n=top_n)
            assert _ids(found) == _ids(self.rerank(_scored_nodes()))[:top_n]

    def test_a_top_n_beyond_the_nodes_keeps_all(self):
        found = self.rerank(_scored_nodes(), top_n=100)
        assert _ids(found) == _ids(self.rerank(_scored_nodes()))

    def test_a_score_does_not_depend_on_the_other_nodes(self):
        reranker = self.make(top_n=1)
        alone = {node.node_id: reranker.postprocess_nodes([node], query_str=QUERY)[0].score for node in _scored_nodes()}
        found = self.rerank(_scored_nodes())
        _assert_same([node.score for node in found], [alone[node.node_id] for node in found])

    def test_nodes_without_a_retrieval_score(self):
        nodes = [NodeWithScore(node=node) for node in _text_nodes(PASSAGES)]
        _assert_same_ranking(self.rerank(nodes), self.rerank(_scored_nodes()))

    def test_nodes_of_other_kinds(self):
        texts = PASSAGES[:4]
        kinds: list[type] = [TextNode, ImageNode, IndexNode, Document]
        extra: list[dict[str, Any]] = [{}, {"image_url": "http://localhost/i.png"}, {"index_id": "elsewhere"}, {}]
        nodes = [
            NodeWithScore(node=kind(text=text, id_=str(number), **fields), score=0.5)
            for number, (kind, text, fields) in enumerate(zip(kinds, texts, extra, strict=True))
        ]
        found = self.rerank(nodes)
        _assert_same_ranking(found, self.rerank(_scored_nodes(texts, title=None)))
        assert [type(node.node) for node in found] == [kinds[int(node.node_id)] for node in found]

    # what goes into the text

    def test_metadata_of_the_embed_text_is_scored(self):
        given = NodeWithScore(node=TextNode(text=PASSAGES[0], metadata={"title": "Bears"}), score=0.5)
        plain = NodeWithScore(node=TextNode(text=given.get_content(MetadataMode.EMBED)), score=0.5)
        _assert_same(self.rerank([given])[0].score, self.rerank([plain])[0].score)

    def test_metadata_excluded_from_the_embed_text_is_not_scored(self):
        hidden = TextNode(text=PASSAGES[0], metadata={"title": "Bears"}, excluded_embed_metadata_keys=["title"])
        plain = TextNode(text=PASSAGES[0])
        found, expected = (self.rerank([NodeWithScore(node=node, score=0.5)])[0].score for node in (hidden, plain))
        _assert_same(found, expected)

    # the nodes passed in

    def test_nodes_passed_in_are_not_changed(self):
        self._assert_unchanged()

    def test_nodes_passed_in_are_not_changed_when_the_retrieval_score_is_kept(self):
        self._assert_unchanged(keep_retrieval_score=True)

    def _assert_unchanged(self, **fields: Any) -> None:
        nodes = _scored_nodes()
        objects, before = list(nodes), _snapshot(nodes)
        self.rerank(nodes, top_n=3, **fields)
        assert all(node is given for node, given in zip(nodes, objects, strict=True))
        assert _snapshot(nodes) == before

    def test_retrieval_score_is_kept(self):
        given = {node.node_id: node.score for node in _scored_nodes()}
        for node in self.rerank(_scored_nodes(), keep_retrieval_score=True):
            assert node.node.metadata["retrieval_score"] == given[node.node_id]

    def test_retrieval_score_stays_out_of_the_text(self):
        given = {node.node_id: node for node in _scored_nodes()}
        for node in self.rerank(_scored_nodes(), keep_retrieval_score=True):
            for mode in (MetadataMode.EMBED, MetadataMode.LLM):
                assert node.get_content(mode) == given[node.node_id].get_content(mode)

    def test_reranking_again_gives_the_same_scores(self):
        once = self.rerank(_scored_nodes(), keep_retrieval_score=True)
        first = [(node.node_id, node.score) for node in once]
        again = {node.node_id: node.score for node in self.rerank(once, keep_retrieval_score=True)}
        _assert_same([again[node_id] for node_id, _ in first], [score for _, score in first])

    # no nodes, no query

    async def test_no_nodes_give_no_nodes(self):
        reranker = self.make()
        assert reranker.postprocess_nodes([], query_str=QUERY) == []
        assert await reranker.apostprocess_nodes([], query_str=QUERY) == []

    def test_no_nodes_start_and_end_an_event(self):
        self._assert_events([])

    def test_no_nodes_start_and_end_a_callback(self):
        self._assert_callbacks([])

    async def test_no_query_is_an_error_that_says_so(self):
        reranker = self.make()
        with pytest.raises(ValueError, match=NO_QUERY):
            reranker.postprocess_nodes(_scored_nodes())
        with pytest.raises(ValueError, match=NO_QUERY):
            await reranker.apostprocess_nodes(_scored_nodes())

    def test_no_query_leaves_no_event_open(self):
        reranker, recorder = self.make(), _Callbacks(CBEventType.RERANKING)
        reranker.callback_manager = CallbackManager([recorder])
        with _recorded(ReRankStartEvent, ReRankEndEvent) as events:
            with pytest.raises(ValueError, match=NO_QUERY):
                reranker.postprocess_nodes(_scored_nodes())
            _in_pairs(events, ReRankStartEvent)
        recorder.take()

    def test_query_str_equals_query_bundle(self):
        reranker = self.make(top_n=len(PASSAGES))
        found = reranker.postprocess_nodes(_scored_nodes(), query_str=QUERY)
        _assert_same_ranking(found, reranker.postprocess_nodes(_scored_nodes(), QueryBundle(QUERY)))

    # events

    def test_events_start_and_end(self):
        self._assert_events(_scored_nodes())

    async def test_events_start_and_end_in_async_calls(self):
        reranker = self.make(top_n=3)
        with _recorded(ReRankStartEvent, ReRankEndEvent) as events:
            found = await reranker.apostprocess_nodes(_scored_nodes(), query_str=QUERY)
        (_,), (end,) = _in_pairs(events, ReRankStartEvent)
        assert _ids(end.nodes) == _ids(found)

    def _assert_events(self, nodes: list[NodeWithScore]) -> None:
        reranker = self.make(top_n=3)
        given = [(node.node_id, node.score) for node in nodes]
        with _recorded(ReRankStartEvent, ReRankEndEvent) as events:
            found = reranker.postprocess_nodes(nodes, QueryBundle(QUERY))
        (start,), (end,) = _in_pairs(events, ReRankStartEvent)
        query = start.query
        assert (query.query_str if isinstance(query, QueryBundle) else query) == QUERY
        assert start.top_n == 3
        assert start.model_name
        assert start.model_name in reranker.to_dict().values()
        assert [(node.node_id, node.score) for node in start.nodes] == given
        assert [(node.node_id, node.score) for node in end.nodes] == [(node.node_id, node.score) for node in found]

    def test_callbacks_start_and_end(self):
        self._assert_callbacks(_scored_nodes())

    def _assert_callbacks(self, nodes: list[NodeWithScore]) -> None:
        reranker, recorder = self.make(top_n=3), _Callbacks(CBEventType.RERANKING)
        reranker.callback_manager = CallbackManager([recorder])
        given = _ids(nodes)
        found = reranker.postprocess_nodes(nodes, QueryBundle(QUERY))
        ((start, end),) = recorder.take()
        assert start[EventPayload.QUERY_STR] == QUERY
        assert start[EventPayload.TOP_K] == 3
        assert start[EventPayload.MODEL_NAME] in reranker.to_dict().values()
        assert _ids(start[EventPayload.NODES]) == given
        assert _ids(end[EventPayload.NODES]) == _ids(found)

    # async

    async def test_async_equals_sync(self):
        reranker = self.make(top_n=len(PASSAGES))
        found = await reranker.apostprocess_nodes(_scored_nodes(), query_str=QUERY)
        _assert_same_ranking(found, reranker.postprocess_nodes(_scored_nodes(), query_str=QUERY))

    async def test_async_does_not_block_the_loop(self):
        reranker = self.make(top_n=2)

        def nodes(size: int, call: int = 0) -> list[NodeWithScore]:
            return _scored_nodes([f"{call} {number} " + "word " * 80 for number in range(size)])

        size = _busy_size(lambda size: reranker.postprocess_nodes(nodes(size), query_str=QUERY))
        work = [reranker.apostprocess_nodes(nodes(size, call), query_str=QUERY) for call in range(4)]
        ticks, found = await _ticks_during(asyncio.gather(*work))
        assert ticks >= LEAST_TICKS
        for call, best in enumerate(found):
            _assert_same_ranking(best, reranker.postprocess_nodes(nodes(size, call), query_str=QUERY))

    # settings and copies

    def test_an_unknown_argument_is_refused(self):
        with pytest.raises((TypeError, ValueError)):
            self.make(no_such_argument=1)

    def test_callback_manager_is_an_argument(self):
        manager = CallbackManager([])
        assert self.make(callback_manager=manager).callback_manager is manager

    def test_class_name_is_its_own(self):
        _assert_own_class_name(self.make(), BaseNodePostprocessor)

    def test_settings_hold_no_object_repr(self):
        assert " at 0x" not in str(self.make().to_dict())

    def test_dict_round_trip(self):
        self._assert_twin(lambda reranker: type(reranker).from_dict(reranker.to_dict()))

    def test_json_round_trip(self):
        self._assert_twin(lambda reranker: type(reranker).from_json(reranker.to_json()))

    def test_pickle_round_trip(self):
        self._assert_twin(lambda reranker: pickle.loads(pickle.dumps(reranker)))

    def test_a_pickle_holds_no_weights(self):
        reranker = self.make()
        reranker.postprocess_nodes(_scored_nodes(), query_str=QUERY)
        assert len(pickle.dumps(reranker)) < SMALL_PICKLE

    def _assert_twin(self, remake: Callable[[BaseNodePostprocessor], BaseNodePostprocessor]) -> None:
        """Assert that the remade object has the same settings and returns the same scores."""
        reranker = self.make(top_n=5)
        found = reranker.postprocess_nodes(_scored_nodes(), query_str=QUERY)
        twin = remake(reranker)
        assert type(twin) is type(reranker)
        assert twin.to_dict() == reranker.to_dict()
        _assert_same_ranking(twin.postprocess_nodes(_scored_nodes(), query_str=QUERY), found)

    # use in LlamaIndex

    async def test_query_engine_answers_from_the_best_nodes(self):
        retriever = _index().as_retriever(similarity_top_k=len(PASSAGES))
        reranker = self.make(top_n=3)
        engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM(), node_postprocessors=[reranker])
        expected = self.rerank(_scored_nodes(), top_n=3)
        _assert_same_ranking(engine.query(QUERY).source_nodes, expected)
        _assert_same_ranking((await engine.aquery(QUERY)).source_nodes, expected)

    def test_retrieved_nodes_can_be_reranked(self):
        found = _index().as_retriever(similarity_top_k=len(PASSAGES)).retrieve(QUERY)
        assert len(found) == len(PASSAGES)
        _assert_same_ranking(self.rerank(found), self.rerank(_scored_nodes()))


class _Callbacks(BaseCallbackHandler):
    """A callback handler that records one kind of event, from any thread."""

    def __init__(self, kind: CBEventType) -> None:
        super().__init__(event_starts_to_ignore=[], event_ends_to_ignore=[])
        self.kind = kind
        self.starts: dict[str, dict[Any, Any]] = {}
        self.ends: dict[str, dict[Any, Any]] = {}

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **kwargs):
        if event_type == self.kind:
            assert event_id not in self.starts
            self.starts[event_id] = dict(payload or {})
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **kwargs):
        if event_type == self.kind:
            assert event_id not in self.ends
            self.ends[event_id] = dict(payload or {})

    def start_trace(self, trace_id=None):
        pass

    def end_trace(self, trace_id=None, trace_map=None):
        pass

    def take(self) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
        """Return the start and end payloads of each event since the last call; an unfinished event is an error."""
        assert self.starts.keys() == self.ends.keys()
        pairs = [(start, self.ends[event_id]) for event_id, start in self.starts.items()]
        self.starts.clear()
        self.ends.clear()
        return pairs


class _EventHandler(BaseEventHandler):
    """An event handler that records instrumentation events."""

    kinds: tuple[type, ...]
    seen: list[Any]

    @classmethod
    def class_name(cls) -> str:
        return "ContractEventHandler"

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, self.kinds):
            self.seen.append(event)


@contextmanager
def _recorded(*kinds: type) -> Iterator[list[Any]]:
    """Record the events of these kinds, in order, while the block runs."""
    root, handler = get_dispatcher(), _EventHandler(kinds=kinds, seen=[])
    root.add_event_handler(handler)
    try:
        yield handler.seen
    finally:
        root.event_handlers = [other for other in root.event_handlers if other is not handler]


def _in_pairs(events: list[Any], start: type) -> tuple[list[Any], list[Any]]:
    """Return starts and ends; check that each start has an end and that no end comes first."""
    opened = 0
    for event in events:
        opened += 1 if isinstance(event, start) else -1
        assert opened >= 0, "an end without a start"
    assert opened == 0, "a start without an end"
    starts = [event for event in events if isinstance(event, start)]
    return starts, [event for event in events if not isinstance(event, start)]


@contextmanager
def _model_out_of_reach(model: BaseEmbedding) -> Iterator[None]:
    """Make every call of the model raise while the block runs."""
    with ExitStack() as stack:
        for method in _MODEL_METHODS:
            error = AssertionError(f"{method} was called")
            stack.enter_context(patch.object(type(model), method, side_effect=error))
        yield


@contextmanager
def _recorded_waits() -> Iterator[list[float]]:
    """Record the block's sleeps of 0.1 s or more, and skip them."""
    waits: list[float] = []
    sleep, asyncio_sleep = time.sleep, asyncio.sleep

    def recorded(seconds: float) -> None:
        if seconds < 0.1:
            sleep(seconds)
        else:
            waits.append(seconds)

    async def asyncio_recorded(seconds: float, result: Any = None) -> Any:
        if seconds < 0.1:
            return await asyncio_sleep(seconds, result)
        waits.append(seconds)
        return result

    with patch("time.sleep", recorded), patch("asyncio.sleep", asyncio_recorded):
        yield waits


async def _ticks_during(work: Awaitable[Any]) -> tuple[int, Any]:
    """Return how often a 1 ms timer ticked on the loop while `work` ran, and the result of `work`."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.ensure_future(tick())
    try:
        found = await work
    finally:
        ticker.cancel()
    return ticks, found


def _busy_size(run: Callable[[int], Any]) -> int:
    """Return a size of work that takes long enough for an unblocked loop to tick many times."""
    size = 32
    while size < 4096:
        size *= 2
        start = time.perf_counter()
        run(size)
        if time.perf_counter() - start > 0.2:
            break
    return size


async def _every_way(model: BaseEmbedding) -> AsyncIterator[tuple[list[str], list[Any]]]:
    """Yield texts and their vectors from each public method in turn."""
    yield [QUERY], [model.get_query_embedding(QUERY)]
    yield [QUERY], [model.get_text_embedding(QUERY)]
    yield TEXTS, model.get_text_embedding_batch(TEXTS)
    yield [QUERY], [await model.aget_query_embedding(QUERY)]
    yield [QUERY], [await model.aget_text_embedding(QUERY)]
    yield TEXTS, await model.aget_text_embedding_batch(TEXTS)


async def _answer(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


def _first(found: Any) -> Any:
    """Return the first item of a list, or of an awaitable's result."""
    if not inspect.isawaitable(found):
        return found[0]

    async def first() -> Any:
        return (await found)[0]

    return first()


def _needed(fields: dict[str, Any] | None) -> dict[str, Any]:
    if fields is None:
        pytest.skip("the model has no instructions")
    return fields


def _key(model: BaseEmbedding) -> str:
    return get_transformation_hash(_text_nodes(), model)


def _negated(value: Any) -> Any:
    """Return the same data with every number negated."""
    if isinstance(value, dict):
        return {key: _negated(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_negated(item) for item in value]
    return -value if isinstance(value, float) else value


def _text_nodes(texts: list[str] = TEXTS, title: str | None = "A title") -> list[TextNode]:
    metadata = {} if title is None else {"title": title}
    return [TextNode(text=text, id_=str(number), metadata=dict(metadata)) for number, text in enumerate(texts)]


def _scored_nodes(texts: list[str] = PASSAGES, title: str | None = "A title") -> list[NodeWithScore]:
    """Return nodes as a retriever does: best first, by its own score."""
    return [NodeWithScore(node=node, score=1 / (2 + i)) for i, node in enumerate(_text_nodes(texts, title))]


def _index() -> VectorStoreIndex:
    return VectorStoreIndex(_text_nodes(PASSAGES), embed_model=MockEmbedding(embed_dim=4))


def _ids(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node_id for node in nodes]


def _snapshot(nodes: list[NodeWithScore]) -> list[Any]:
    return [(copy.deepcopy(node.to_dict()), type(node.score), node.node.hash) for node in nodes]


def _distance(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest expected value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30))


def _differ(found: Any, expected: Any) -> bool:
    return _distance(found, expected) > 1e-3


def _assert_same(found: Any, expected: Any) -> None:
    distance = _distance(found, expected)
    assert distance <= 1e-5, f"relative difference {distance:.2e}"


def _assert_same_ranking(found: list[NodeWithScore], expected: list[NodeWithScore]) -> None:
    assert _ids(found) == _ids(expected)
    _assert_same([node.score for node in found], [node.score for node in expected])


def _assert_own_class_name(part: Any, base: type) -> None:
    """Assert that no unrelated class has the same class_name as `part`."""
    kind, classes = type(part), [base]
    for known in classes:
        classes += known.__subclasses__()
    others = {
        known.__name__ for known in classes if not issubclass(known, kind) and known.class_name() == kind.class_name()
    }
    assert not others, f"class_name {kind.class_name()!r} is that of {sorted(others)}"
