"""Other stores beside M3Index: insertion into Chroma, hybrid search in LlamaIndex."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from index_common import CALL, TAGS, K, Report, add, exact_hybrid, latency, overlap, search, workspace
from prepared import Corpus, Prepared, exact_scores

from bge_integrations.index import M3Index


def insertion(options: argparse.Namespace) -> Report:
    """Insert the same dense vectors into Chroma and, together with sparse vectors, into M3Index, alternately."""
    import chromadb

    report, count = Report("insertion"), options.documents
    corpus = Corpus(count, with_multi_vectors=False)
    rates: dict[str, list[float]] = {}

    def into_chroma(folder: Path, size: int | None) -> float:
        client = chromadb.PersistentClient(str(folder), chromadb.Settings(anonymized_telemetry=False))
        with closing(client):
            documents = client.create_collection(
                "documents", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
            )
            spent = 0.0
            for begin in range(0, count, step := size or client.get_max_batch_size()):
                some = range(begin, min(begin + step, count))
                vectors = np.stack([corpus.document(i).dense for i in some])
                texts = [corpus.text(i) for i in some]
                start = time.perf_counter()
                documents.add(
                    ids=[str(i) for i in some],
                    embeddings=vectors,
                    documents=texts,
                    metadatas=[{"tag": str(i % TAGS)} for i in some],
                )
                spent += time.perf_counter() - start
        return spent

    def into_index(folder: Path) -> float:
        with M3Index.open(folder, Prepared(corpus), multi_vectors="recompute") as index:
            return add(index, corpus, range(count))

    ways: dict[str, Callable[[Path], float]] = {
        "Chroma, batches as large as it takes": lambda folder: into_chroma(folder, None),
        f"Chroma, {CALL} a call": lambda folder: into_chroma(folder, CALL),
        f"M3Index, dense and sparse, {CALL} a call": into_index,
    }
    for _ in range(options.rounds):
        for name, way in ways.items():
            with workspace() as folder:
                rates.setdefault(name, []).append(count / way(folder / "store"))
    for name, found in rates.items():
        report.note(
            name, {"documents/s": float(np.median(found)), "slowest round": min(found), "fastest round": max(found)}
        )
    return report


def peers(options: argparse.Namespace) -> Report:
    """Compare LlamaIndex's own BGEM3Index, M3Index, and M3Index over qdrant-client's local store, in hybrid search."""
    from qdrant_client import QdrantClient

    report, count = Report("peers"), options.peers_documents
    corpus, queries = Corpus(count), range(options.queries)
    prepared = Prepared(corpus)
    exact = exact_hybrid(exact_scores(corpus, range(count), queries), "hybrid of three")
    name = f"{count} documents"

    def note(who: str, asked: range, find: Callable[[int], list[str]]) -> None:
        found = [find(query) for query in asked]
        report.note(f"{name}, {who}", {**latency(find, asked), "overlap": overlap(found, exact[: len(asked)])})

    few = queries[: max(1, len(queries) // 10)]
    try:
        theirs = llama_index_m3(corpus, count)
    except ImportError as error:
        report.note(f"{name}, LlamaIndex's BGEM3Index", f"not measured: {error}")
    else:
        note("LlamaIndex's BGEM3Index", few, lambda i: [hit.node.node_id for hit in theirs.query(f"query {i}", K)])
        del theirs
    with workspace() as folder, M3Index.open(folder, prepared) as index:
        add(index, corpus, range(count))
        note("M3Index", queries, lambda i: [hit.id for hit in search(index, i, "hybrid of three")])
        index.optimize()
        note("M3Index, optimised", queries, lambda i: [hit.id for hit in search(index, i, "hybrid of three")])
    with closing(QdrantClient(":memory:")) as client, M3Index.open(client, prepared) as index:
        report.note(f"{name}, qdrant-client's local store", {"documents/s": count / add(index, corpus, range(count))})
        note(
            "M3Index over qdrant-client's local store",
            few,
            lambda i: [hit.id for hit in search(index, i, "hybrid of three")],
        )
    return report


def llama_index_m3(corpus: Corpus, count: int) -> Any:
    """Return LlamaIndex's unchanged index with a model that returns prepared vectors; FlagEmbedding scores them."""
    import FlagEmbedding
    from llama_index.core.schema import TextNode
    from llama_index.indices.managed.bge_m3 import BGEM3Index

    prepared = Prepared(corpus)

    class Model(FlagEmbedding.BGEM3FlagModel):  # type: ignore[misc]
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def encode(self, texts: str | list[str], **_: object) -> dict[str, Any]:
            alone = isinstance(texts, str)
            encoded = prepared.encode([texts] if isinstance(texts, str) else texts, sparse=True, multi_vector=True)
            assert encoded.sparse is not None
            lexical = [{str(token): weight for token, weight in row.items()} for row in encoded.sparse.to_dicts()]
            rows: dict[str, Any] = {
                "dense_vecs": encoded.dense,
                "lexical_weights": lexical,
                "colbert_vecs": list(encoded.multi_vector or ()),
            }
            return {name: row[0] for name, row in rows.items()} if alone else rows

        def stop_self_pool(self) -> None:
            pass

    with mock.patch.object(FlagEmbedding, "BGEM3FlagModel", Model):
        return BGEM3Index(nodes=[TextNode(text=corpus.text(i), id_=str(i)) for i in range(count)])
