"""Whatever is passed to the public interface, the answer is a result or a documented error."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import CLIP, M3
from langchain_core.documents import Document

from bge_integrations import load_embedder, load_reranker, scoring
from bge_integrations.core import runtime
from bge_integrations.documents import read_file, read_passages
from bge_integrations.embeddings_view import view_matches, view_scores, view_weights
from bge_integrations.errors import BGEError
from bge_integrations.evaluation import Dataset, Run, evaluate
from bge_integrations.index import M3Index, filters
from bge_integrations.langchain import BGEEmbeddings, BGEReranker
from bge_integrations.llama_index import BGEEmbedding

NAN = float("nan")
#: Values of every type, of which each argument expects a few.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 10**30, -(2**63), 0.5, -1.5, NAN, float("inf"), 1j),
    *("", " ", "text", "\ud800", "\x00", "../x", "http://", "a/b/c", "🐼" * 3, b"bytes", bytearray(b"x")),
    *([], [None], [1], ["a", 1], ["\ud800"], [[]], [["a"]], [("a", "b")], [("a",)], [("a", 1)], [{}], [b"x"], [NAN]),
    *((), (1, 2), (1.0, NAN, 1.0), (0, 0, 0), (-1, 1, 1), {"a"}, frozenset(), range(3)),
    *({}, {"a": 1}, {1: 2}, {"$or": 5}, {"a": {"$gt": []}}, {"a": {"$x": 1}}, {"$ids": [1]}, {"$not": {"$not": {}}}),
    *(
        {"text": 1},
        {"image": 5},
        {"image": b"x"},
        {"a": object()},
        {"": {}},
        {"a": {"$in": {}}},
        {"a": {"$contains": 5}},
    ),
    *(
        np.float32(1),
        np.int64(3),
        np.bool_(True),
        np.str_("text"),
        np.array(5),
        np.zeros(0),
        np.zeros((2, 2)),
        object(),
    ),
    *(
        np.array(["a", "b"]),
        np.array([None]),
        np.full(64, NAN),
        len,
        int,
        iter(["a"]),
        (x for x in [1]),
        Exception("x"),
    ),
]

#: Without arrays, which have no truth value.
FLAGS = [value for value in VALUES if not isinstance(value, np.ndarray)]

Call = Callable[[Any], Any]


def outcome(call: Call, value: Any) -> str | None:
    """Return what is wrong with the outcome of a call; None if it is a result or a documented error."""
    try:
        call(value)
    except BGEError:
        return None
    except BaseException as error:
        return f"{value!r:.60}: {type(error).__name__}: {error!s:.200}"
    return None


@pytest.fixture
def check():
    """Return a function that passes all values to calls and asserts that each has a documented outcome."""

    def check(calls: dict[str, Call], values: list[Any] = VALUES) -> None:
        wrong = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, call in calls.items():
                for value in values:
                    if found := outcome(call, value):
                        wrong.append(f"{name} with {found}")
        assert not wrong, "\n".join(wrong)

    return check


def test_embedders(check, pocket):
    check(
        {
            "encode": lambda x: pocket.encode(x),
            "encode a list": lambda x: pocket.encode([x]),
            "kind": lambda x: pocket.encode(["a"], kind=x),
            "on_truncate": lambda x: pocket.encode(["a"], on_truncate=x),
            "encode_dense": lambda x: pocket.encode_dense(x),
            "count_tokens": lambda x: pocket.count_tokens(x),
            "count_tokens kind": lambda x: pocket.count_tokens(["a"], kind=x),
            "tokens": lambda x: pocket.tokens(x),
            "tokens kind": lambda x: pocket.tokens("a", kind=x),
            "decode": lambda x: pocket.decode(x),
            "for_task": lambda x: pocket.for_task(x),
        }
    )


def test_images(check):
    with load_embedder(CLIP) as clip:
        check(
            {
                "encode": clip.encode,
                "a list": lambda x: clip.encode([x]),
                "an image": lambda x: clip.encode([{"image": x}]),
            }
        )


def test_flags(check, pocket, pocket_reranker):
    check(
        {
            "outputs": lambda x: pocket.encode(["a"], dense=x, sparse=x, multi_vector=x),
            "normalize": lambda x: pocket_reranker.score([("q", "p")], normalize=x),
        },
        FLAGS,
    )


@pytest.mark.parametrize(
    "argument",
    [
        *("device", "dtype", "max_length", "query_instruction", "passage_instruction", "family", "pooling", "task"),
        *("examples", "truncate_dim", "image_urls", "cpu_kernels", "revision", "cache_folder", "api_key", "bogus"),
    ],
)
def test_loading(check, argument):
    load = lambda x: load_embedder(M3, local_files_only=True, **{argument: x}).close()  # noqa: E731
    check({argument: load})


def test_loading_models(check):
    check(
        {
            "load_embedder": lambda x: load_embedder(x, local_files_only=True),
            "load_reranker": lambda x: load_reranker(x, local_files_only=True),
            "prompt": lambda x: load_reranker("pocket", prompt=x).close(),
            "max_length": lambda x: load_reranker("pocket", max_length=x).close(),
        }
    )


def test_rerankers(check, pocket_reranker):
    check(
        {
            "score": lambda x: pocket_reranker.score(x),
            "score a list": lambda x: pocket_reranker.score([x]),
            "score a pair": lambda x: pocket_reranker.score([("q", x)]),
            "on_truncate": lambda x: pocket_reranker.score([("q", "p")], on_truncate=x),
        }
    )


def test_scores(check, pocket):
    found = pocket.encode(["a", "b"], sparse=True, multi_vector=True)
    check(
        {
            "lexical_scores": lambda x: scoring.lexical_scores(x, found.sparse),
            "max_sim": lambda x: scoring.max_sim(found.multi_vector, x),
            "hybrid_scores": lambda x: scoring.hybrid_scores(found, x),
            "weights": lambda x: scoring.hybrid_scores(found, found, weights=x),
            "representation_scores": lambda x: scoring.representation_scores(x, found, found),
            "select_best": lambda x: scoring.select_best([1.0, 2.0], top_n=x),
            "threshold": lambda x: scoring.select_best([1.0, 2.0], score_threshold=x),
            "view_weights": lambda x: view_weights(pocket, x),
            "view_matches": lambda x: view_matches(pocket, x, "a"),
            "view_scores": lambda x: view_scores(pocket, "a", x),
            "configure": lambda x: runtime.configure(when_full=x),
        }
    )


def test_an_index(check, pocket, tmp_path):
    with M3Index.open(tmp_path / "index", pocket) as index:
        index.add(["a panda", "a heron"], ["1", "2"], [{"n": 1}, {}])
        check(
            {
                "add": lambda x: index.add(x),
                "add a text": lambda x: index.add([x]),
                "ids": lambda x: index.add(["a"], ids=x),
                "an id": lambda x: index.add(["a"], ids=[x]),
                "metadatas": lambda x: index.add(["a"], metadatas=x),
                "a metadata": lambda x: index.add(["a"], metadatas=[x]),
                "a value": lambda x: index.add(["a"], metadatas=[{"key": x}]),
                "on_empty": lambda x: index.add(["a"], on_empty=x),
                "search": lambda x: index.search(x),
                "search_many": lambda x: index.search_many(x),
                "search_by_vector": lambda x: index.search_by_vector(x),
                "k": lambda x: index.search("a", x),
                **{
                    name: lambda x, name=name: index.search("a", **{name: x})
                    for name in ("mode", "weights", "fusion", "filter", "candidates")
                },
                "get": lambda x: index.get(x),
                "get an id": lambda x: index.get([x]),
                "dense_vectors": lambda x: index.dense_vectors(x),
                "delete": lambda x: index.delete(["no"] if x is None else x),
                "delete by filter": lambda x: index.delete(filter={"no": 1} if x is None else x),
                "scan": lambda x: list(index.scan(x)),
                "count": lambda x: index.count(x),
                "set_defaults": lambda x: index.set_defaults(mode=x, candidates=x),
                "copy_to": lambda x: index.copy_to("" if isinstance(x, str) else x),
                "parse": filters.parse,
                "nested": lambda x: filters.parse({"$and": [{"a": x}]}),
            }
        )


def test_opening_an_index(check, pocket, tmp_path):
    check(
        {
            "path": lambda x: M3Index.open(x, pocket, create=False).close(),
            "model": lambda x: M3Index.open(tmp_path / "no", x, create=False).close(),
            "multi_vectors": lambda x: M3Index.open(tmp_path / "no", pocket, create=False, multi_vectors=x).close(),
        }
    )


def test_files_and_evaluation(check, pocket):
    check(
        {
            "read_passages": lambda x: list(read_passages("no folder" if isinstance(x, str) else x, pocket)),
            "read_file": lambda x: read_file(x),
            "passage_tokens": lambda x: list(read_passages(__file__, pocket, passage_tokens=x)),
            "include": lambda x: list(read_passages(__file__, pocket, include=x)),
            "Dataset": lambda x: Dataset(queries=x, documents=x, qrels=x),
            "a judgement": lambda x: Dataset(queries={"q": "a"}, documents={"d": "b"}, qrels={"q": {"d": x}}),
            "Dataset.read": lambda x: Dataset.read(x),
            "Run": lambda x: Run("name", x),
            "a ranking": lambda x: Run("name", {"q": x}),
            "Run.read": lambda x: Run.read(x),
            "evaluate": lambda x: evaluate(x, pocket),
        }
    )


def test_adapters(check):
    """What reaches our code; the frameworks check some arguments themselves, with errors of their own."""
    embeddings, reranker = BGEEmbeddings(model="pocket"), BGEReranker(model="pocket")
    embedding = BGEEmbedding(model_name="pocket")
    check(
        {
            "embed_documents": embeddings.embed_documents,
            "embed_query": embeddings.embed_query,
            "compress_documents": lambda x: reranker.compress_documents(x, "a query"),
            "a query": lambda x: reranker.compress_documents([Document("a text")], x),
            "score": reranker.score,
            "get_query_embedding": embedding.get_query_embedding,
            "get_text_embedding": embedding.get_text_embedding,
        }
    )
