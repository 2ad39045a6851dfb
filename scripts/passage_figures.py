"""Measure how a data set's documents are found when they are files that are split into passages.

    python scripts/passage_figures.py DATA --sizes 256,64,0 --sizes 256,1,32

DATA is a data set in BEIR's layout. Each of its documents becomes a Markdown file and a text file: the title, a blank
line and the text. A file's score is the score of its best passage. Prints nDCG@10, one line per suffix and sizes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from bge_integrations import Embedder, load_embedder
from bge_integrations.documents import Passage, read_passages
from bge_integrations.evaluation import Dataset, Run, measure_run
from bge_integrations.index import M3Index

DEPTH = 100
SHORT = 40


def chosen(data: Path, judged: set[str], number: int | None) -> list[dict[str, str]]:
    """Return the judged documents and the first others, as many as asked for; None means all."""
    rows = [json.loads(line) for line in (data / "corpus.jsonl").read_text("utf-8").splitlines()]
    return sorted(rows, key=lambda row: row["_id"] not in judged)[:number]


def write_files(rows: list[dict[str, str]], folder: Path, suffix: str) -> None:
    """Write each document as a file named by its id."""
    for row in rows:
        title = f"# {row['title']}" if suffix == ".md" else row["title"]
        (folder / f"{row['_id']}{suffix}").write_text(f"{title}\n\n{row['text']}\n", "utf-8")


def search(
    passages: list[Passage], embedder: Embedder, queries: list[str], is_hybrid: bool
) -> list[list[tuple[str, float]]]:
    """Return (file, score) for each query's best passages."""
    texts = [passage.text for passage in passages]
    if is_hybrid:
        with tempfile.TemporaryDirectory() as folder, M3Index.open(Path(folder) / "index", embedder) as index:
            index.add(texts, [p.id for p in passages], [p.metadata for p in passages])
            found = index.search_many(queries, DEPTH)
            return [[(str(hit.metadata["source"]), hit.score) for hit in hits] for hits in found]
    vectors = embedder.encode_dense(texts, kind="passage")
    scores = embedder.encode_dense(queries, kind="query") @ vectors.T
    best = np.argsort(-scores, axis=1)[:, :DEPTH]
    return [[(passages[i].source, float(row[i])) for i in ids] for row, ids in zip(scores, best, strict=True)]


def ranking(hits: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return each document once, with the score of its best passage."""
    best: dict[str, float] = {}
    for source, score in hits:
        best.setdefault(Path(source).stem, score)
    return list(best.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set in BEIR's layout")
    parser.add_argument("--model", default="pocket", help="embedding model: hub id, folder, or 'pocket'")
    parser.add_argument("--dense", action="store_true", help="use only dense vectors (default: hybrid if possible)")
    parser.add_argument("--documents", type=int, help="number of documents, the judged ones first (default: all)")
    parser.add_argument("--suffixes", nargs="*", default=[".md", ".txt"])
    parser.add_argument("--sizes", action="append", help="tokens: most, least, overlap (default: the defaults)")
    options = parser.parse_args()
    data = Dataset.read(options.data)
    queries = {key: data.queries[key] for key in data.qrels}
    judged = {document for grades in data.qrels.values() for document in grades}
    rows = chosen(options.data, judged, options.documents)
    with load_embedder(options.model) as embedder:
        is_hybrid = embedder.has_multi_vector and not options.dense
        for suffix in options.suffixes:
            with tempfile.TemporaryDirectory() as folder:
                write_files(rows, Path(folder), suffix)
                for sizes in options.sizes or [""]:
                    given: list[int | None] = [int(size) for size in sizes.split(",")] if sizes else [None] * 3
                    most, least, overlap = given
                    split = read_passages(
                        folder, embedder, passage_tokens=most, min_tokens=least, overlap_tokens=overlap
                    )
                    passages = list(split)
                    tokens = embedder.count_tokens([passage.text for passage in passages])
                    found = search(passages, embedder, list(queries.values()), is_hybrid)
                    run = Run("files", dict(zip(queries, map(ranking, found), strict=True)))
                    short = sum(count < SHORT for count in tokens)
                    ndcg = measure_run(data, run).means["nDCG@10"]
                    print(
                        f"{Path(options.model).name} {suffix} {sizes or 'defaults'}: {len(passages)} passages, "
                        f"{short} under {SHORT} tokens, mean {np.mean(tokens):.0f}, nDCG@10 {ndcg:.4f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
