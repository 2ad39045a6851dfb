"""Measure the pocket models with plain transformers: nDCG@10 of each representation, and of the reranked top 20.

    python scripts/evaluate_pocket.py --evaldata DIR

DIR holds one folder per data set in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/test.tsv). The bundled
demonstration questions are measured as well. Nothing here is seen by the training.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

PACKAGE = Path(__file__).resolve().parent.parent / "bge_integrations"
SPECIAL_IDS = 5
DEPTH = 20


@dataclass
class Dataset:
    """Queries, documents and for each query the grades of its relevant documents."""

    name: str
    queries: list[str]
    documents: list[str]
    relevant: list[dict[int, int]]


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def read_beir(folder: Path) -> Dataset:
    """A data set in BEIR's layout; queries without a judgement are left out."""
    documents = read_lines(folder / "corpus.jsonl")
    row = {document["_id"]: i for i, document in enumerate(documents)}
    judged: dict[str, dict[int, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0:
            judged.setdefault(query, {})[row[document]] = int(grade)
    queries = [query for query in read_lines(folder / "queries.jsonl") if query["_id"] in judged]
    texts = [f"{document.get('title', '')} {document['text']}".strip() for document in documents]
    return Dataset(folder.name, [query["text"] for query in queries], texts, [judged[q["_id"]] for q in queries])


def read_demo(folder: Path) -> Dataset:
    """The bundled documents and questions."""
    documents = read_lines(folder / "passages.jsonl")
    row = {document["id"]: i for i, document in enumerate(documents)}
    questions = read_lines(folder / "questions.jsonl")
    texts = [f"{document['title']} {document['text']}" for document in documents]
    relevant = [{row[answer]: 1 for answer in question["answer_ids"]} for question in questions]
    return Dataset("demo questions", [question["question"] for question in questions], texts, relevant)


def ndcg(ranking: np.ndarray, relevant: dict[int, int], depth: int = 10) -> float:
    """nDCG with linear gains, as BEIR's evaluation computes it."""
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    gains = np.array([relevant.get(int(document), 0) for document in ranking[:depth]], dtype=float)
    ideal = np.array(sorted(relevant.values(), reverse=True)[:depth], dtype=float)
    return float(gains @ discounts[: len(gains)]) / float(ideal @ discounts[: len(ideal)])


def mean_ndcg(rankings: list[np.ndarray], dataset: Dataset) -> float:
    return float(np.mean([ndcg(r, relevant) for r, relevant in zip(rankings, dataset.relevant, strict=True)]))


def ranked(scores: np.ndarray) -> list[np.ndarray]:
    """Document rows by falling score, one array per query."""
    return list(np.argsort(-scores, axis=1, kind="stable"))


class Embedder:
    """The folder's weights in float32, with the three outputs of BGE-M3."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.trunk = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.heads = {
            name: {k: v.float() for k, v in torch.load(folder / f"{name}.pt", weights_only=True).items()}
            for name in ("sparse_linear", "colbert_linear")
        }

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """dense (n, hidden), sparse (n, vocabulary) and a (tokens, d) array of vectors per text."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        dense: list[Any] = [None] * len(texts)
        vectors: list[Any] = [None] * len(texts)
        sparse = np.zeros((len(texts), self.trunk.config.vocab_size), dtype=np.float32)
        for start in track(range(0, len(texts), 32), description="encoding"):
            rows = order[start : start + 32]
            batch = self.tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=512, return_tensors="pt"
            )
            hidden = self.trunk(**batch).last_hidden_state
            weights = torch.relu(F.linear(hidden, **self.heads["sparse_linear"])).squeeze(-1).numpy()
            multi = F.normalize(F.linear(hidden[:, 1:], **self.heads["colbert_linear"]), dim=-1).numpy()
            cls = F.normalize(hidden[:, 0], dim=-1).numpy()
            lengths = batch["attention_mask"].sum(1).tolist()
            for k, i in enumerate(rows):
                ids = batch["input_ids"][k].numpy()
                kept = ids >= SPECIAL_IDS
                np.maximum.at(sparse[i], ids[kept], weights[k][kept])
                dense[i], vectors[i] = cls[k], multi[k, : lengths[k] - 1]
        return np.stack(dense), sparse, vectors


def max_sim(queries: list[np.ndarray], documents: list[np.ndarray]) -> np.ndarray:
    """(queries, documents): mean over query vectors of the best inner product."""
    flat = torch.from_numpy(np.concatenate(documents))
    starts = np.cumsum([0] + [len(document) for document in documents[:-1]])
    out = np.empty((len(queries), len(documents)), dtype=np.float32)
    for i, query in enumerate(track(queries, description="max-sim")):
        sims = (torch.from_numpy(query) @ flat.T).numpy()
        out[i] = np.maximum.reduceat(sims, starts, axis=1).mean(0)
    return out


def bm25_scores(dataset: Dataset) -> np.ndarray:
    """BM25 over lower-cased words, with bm25s' defaults and no stop words."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(dataset.documents, stopwords=None, show_progress=False), show_progress=False)
    tokenized = bm25s.tokenize(dataset.queries, stopwords=None, show_progress=False, return_ids=False)
    return np.stack([index.get_scores(words) for words in tokenized])


class Reranker:
    """The folder's weights in float32; scores are kept, since the rankings share many pairs."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def score(self, dataset: Dataset, pairs: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
        """Logit of each (query row, document row)."""
        scores: dict[tuple[int, int], float] = {}
        pairs = sorted(set(pairs), key=lambda pair: len(dataset.documents[pair[1]]))
        for start in track(range(0, len(pairs), 64), description="reranking"):
            rows = pairs[start : start + 64]
            batch = self.tokenizer(
                [dataset.queries[q] for q, _ in rows],
                [dataset.documents[d] for _, d in rows],
                padding=True, truncation="only_second", max_length=512, return_tensors="pt",
            )  # fmt: skip
            logits = self.model(**batch).logits[:, 0].tolist()
            scores.update(zip(rows, logits, strict=True))
        return scores


def evaluate(dataset: Dataset, embedder: Embedder, reranker: Reranker) -> dict[str, float]:
    """nDCG@10 by method; `random` is the top 20 in random order, what a useless reranker would give."""
    queries, documents = embedder(dataset.queries), embedder(dataset.documents)
    scores = {
        "dense": queries[0] @ documents[0].T,
        "sparse": queries[1] @ documents[1].T,
        "multi_vector": max_sim(queries[2], documents[2]),
    }
    scores["hybrid"] = (scores["dense"] + scores["sparse"] + scores["multi_vector"]) / 3
    rankings = {"BM25": ranked(bm25_scores(dataset))} | {name: ranked(score) for name, score in scores.items()}
    figures = {name: mean_ndcg(ranking, dataset) for name, ranking in rankings.items()}
    tops = {name: [ranking[:DEPTH] for ranking in rankings[name]] for name in ("dense", "hybrid")}
    pairs = [(q, int(d)) for top in tops.values() for q, rows in enumerate(top) for d in rows]
    logits = reranker.score(dataset, pairs)
    shuffled = np.random.default_rng(0)
    for name, top in tops.items():
        again = [rows[np.argsort([-logits[q, int(d)] for d in rows], kind="stable")] for q, rows in enumerate(top)]
        figures[f"{name}, top {DEPTH} reranked"] = mean_ndcg(again, dataset)
        figures[f"{name}, top {DEPTH} random"] = mean_ndcg([shuffled.permutation(rows) for rows in top], dataset)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaldata", type=Path, required=True, help="folder with data sets in BEIR's layout")
    parser.add_argument("--datasets", nargs="*", default=["scifact", "xquad-en"])
    parser.add_argument("--models", type=Path, default=PACKAGE / "pocket", help="folder with embedder/ and reranker/")
    arguments = parser.parse_args()
    embedder = Embedder(arguments.models / "embedder")
    reranker = Reranker(arguments.models / "reranker")
    datasets = [read_beir(arguments.evaldata / name) for name in arguments.datasets]
    datasets.append(read_demo(PACKAGE / "demo_documents"))
    columns = {dataset.name: evaluate(dataset, embedder, reranker) for dataset in datasets}
    table = Table("nDCG@10", *columns)
    for method in columns[datasets[0].name]:
        table.add_row(method, *(f"{figures[method]:.3f}" for figures in columns.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
